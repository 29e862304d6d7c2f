"""Checks as records: which is a policy's newest, and reports of every version."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from annotation.database import Database
from annotation.jobs import job_table
from annotation.metrics.intervals_and_bias import Estimate
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.finished_checks import finished_checks, newest_check, newest_checks
from rlhf.evaluation.probes import ProbeFigures
from rlhf.evaluation.report import AnswerFigures, CheckReport, ImplicitAccuracy, JudgeCalls, RewardChange, WinRate
from rlhf.jobs import job_store
from rlhf.judges.verdicts import LetterShare, ScoreTemperature

OWN = AnswerFigures(
    revision="dpo-7",
    mean_length=20.0,
    distinct_1=0.3,
    distinct_2=0.8,
    kl_to_anchor=0.1,
    nll_under_anchor=1.5,
    ended_share=0.7,
    repetition=0.02,
    perplexity=12.0,
)
BASE = AnswerFigures(
    revision="base",
    mean_length=25.0,
    distinct_1=0.4,
    distinct_2=1.0,
    kl_to_anchor=0.0,
    nll_under_anchor=1.2,
    ended_share=0.9,
    repetition=0.01,
    perplexity=10.0,
)
REPORT = CheckReport(
    candidate=OWN,
    against=BASE,
    anchor=BASE,
    prompts=60,
    implicit_accuracy=ImplicitAccuracy(value=0.66, low=0.5, high=0.8, n=40, left_out={"too-long": 2}),
    win_rates={"base": {"j": WinRate(0.6, 0.5, 0.7, 60, ties=3, length_controlled=Estimate(0.55, 0.4, 0.7, 50))}},
    judged={
        "j": JudgeCalls(50, 2, {"timeout": 2}, "It is gone."),
        "letters": JudgeCalls(50, chances=LetterShare(0.9, 0.6, 100)),
        "scores": JudgeCalls(50, chances=ScoreTemperature(1.7)),
        "scores of unknown temperature": JudgeCalls(50, chances=ScoreTemperature(None)),
    },
    same_answers=3,
    reward=RewardChange(0.5, None),
    seconds=12.5,
)


def test_the_newest_check_is_the_last_to_end_also_where_an_earlier_one_was_resumed(db: Database) -> None:
    first, second, other = (job_store.enqueue(db, CheckSpec(candidate=name), "ann") for name in ("x", "x", "y"))
    assert newest_check(db, "x") is None
    for number in (first, second, other):
        job_store.claim(db, number, "w")
    for number in (second, first, other):
        assert newest_check(db, "y") is None
        job_table.finish(db, number, "w", REPORT.to_json())
    assert [check.job_id for check in finished_checks(db, "x")] == [first, second]
    found = newest_check(db, "x")
    assert found is not None
    assert (found.job_id, found.report) == (first, REPORT)
    assert {name: check.job_id for name, check in newest_checks(db).items()} == {"x": first, "y": other}


def test_a_report_is_stored_and_read_as_it_was() -> None:
    for report in (REPORT, replace(REPORT, reward=None), replace(REPORT, implicit_accuracy=None, win_rates={})):
        stored = json.loads(json.dumps(report.to_json(), allow_nan=False))
        assert CheckReport.from_json(stored) == report


SIDE = {"revision": "base", "mean_length": 25.0, "distinct_1": 0.4, "distinct_2": 1.0, "kl_to_base": 0.0,
        "nll_under_base": 1.2, "ended_share": 0.9}  # fmt: skip
OLD = {"candidate": {**SIDE, "revision": "dpo-7"}, "against": SIDE, "base": SIDE, "prompts": 60, "seconds": 1.0}


@pytest.mark.parametrize(
    ("accuracy", "left_out"),
    [
        ({"value": 0.5, "low": 0.2, "high": 0.8, "n": 9, "too_long": 2}, {"too-long": 2}),
        ({"value": None, "low": 0.0, "high": 1.0, "n": 0, "too_long": 0}, {}),
        ({"value": 0.5, "low": 0.2, "high": 0.8, "n": 9, "left_out": {"template": 1}}, {"template": 1}),
    ],
)
def test_reports_of_earlier_versions_are_read_and_lack_what_came_later(
    accuracy: dict[str, Any], left_out: dict[str, int]
) -> None:
    """The first version asked no judges, and looked neither at rewards nor at plain text."""
    found = CheckReport.from_json({**OLD, "implicit_accuracy": accuracy})
    assert found.implicit_accuracy is not None
    assert (found.implicit_accuracy.value, found.implicit_accuracy.left_out) == (accuracy["value"], left_out)
    assert (found.candidate.revision, found.candidate.perplexity, found.nll_ratio) == ("dpo-7", None, 1.0)
    assert (found.kl_per_token, found.anchor.revision, found.anchor.nll_under_anchor) == (0.0, "base", 1.2)
    assert found.win_rates is found.same_answers is found.identical is found.perplexity_ratio is None
    assert (found.judged, found.reward, found.reward_known) == ({}, None, False)


def test_a_report_that_called_the_precision_weights_is_read() -> None:
    probes = {"asked": "a", "weights": "bf16", "chances": {"x": [0.9]}}
    found = CheckReport.from_json({**OLD, "candidate": {**SIDE, "weights": "bf16", "probes": probes}})
    assert found.candidate.precision == "bf16"
    assert found.candidate.probes == ProbeFigures("a", "bf16", {"x": (0.9,)})
    assert CheckReport.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_report_that_judged_reward_hacking_by_itself_is_read() -> None:
    found = CheckReport.from_json({**OLD, "reward_hacking": {"rise": 0.5, "flagged": True, "length": 0.1}})
    assert found.reward == RewardChange(0.5, 0.1)
    assert CheckReport.from_json({**OLD, "reward_hacking": None}).reward_known


def test_judges_counts_from_before_their_chances_rest_was_kept_are_read() -> None:
    calls = {"judged": 50, "left_open": 2, "failed": {"timeout": 2}, "gave_up": ""}
    assert CheckReport.from_json({**OLD, "judged": {"j": calls}}).judged == {"j": JudgeCalls(50, 2, {"timeout": 2})}


def test_a_figure_of_a_broken_policy_that_is_no_number_is_read_as_none() -> None:
    found = CheckReport.from_json(json.loads(json.dumps({**OLD, "candidate": {**SIDE, "kl_to_base": math.nan}})))
    assert found.kl_per_token is not None
    assert math.isnan(found.kl_per_token)
    assert found.candidate.revision == "base"
