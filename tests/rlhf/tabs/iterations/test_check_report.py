"""The sentences and tables of the Iterations tab."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from annotation import translation
from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import CheckedAnswer
from annotation.store.stock_counts import AnswerCounts
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data.snapshots import SnapshotCounts
from rlhf.evaluation import gate_words
from rlhf.evaluation.decisions.gate_acts import THE_GATE
from rlhf.evaluation.gate import BOUNDS, LimitedFigure, Requirement, Rule, within_limits
from rlhf.evaluation.probes import ALL, ProbeFigures
from rlhf.evaluation.report import RULE_VERSION, AnswerFigures, CheckReport, ImplicitAccuracy, JudgeCalls
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs.job_spec import JobSpec
from rlhf.judges.verdicts import LetterShare, ScoreTemperature
from rlhf.loop.controller import THE_LOOP
from rlhf.models import decision_store
from rlhf.models.decision_store import Decision
from rlhf.tabs.iterations import check_report
from rlhf.tabs.jobs import job_cards
from tests.rlhf.tabs.jobs.test_job_cards import ADAPTER, ANSWER, AT, BASE, JOB

FIGURES = AnswerFigures(
    "base", mean_length=20.0, distinct_1=0.3, distinct_2=0.8, kl_to_anchor=0.1, nll_under_anchor=1.2, ended_share=0.9
)
REPORT = CheckReport(
    candidate=replace(FIGURES, revision="dpo-7"),
    against=FIGURES,
    anchor=FIGURES,
    prompts=60,
    implicit_accuracy=ImplicitAccuracy(0.66, 0.5, 0.8, 40),
    seconds=1.0,
)


def probed(knowledge: float) -> ProbeFigures:
    """The probes of a policy that knows so much, and adds and refuses like any other."""
    same = {"arithmetic": (0.8, 0.6, 0.7), "refusals": (1.0, 0.99, 1.0)}
    return ProbeFigures("a", "bf16", {"knowledge": (knowledge, knowledge + 0.01, knowledge - 0.01), **same})


def worse(**changed: Any) -> CheckReport:
    """The same check of a candidate that answers otherwise."""
    return replace(REPORT, candidate=replace(REPORT.candidate, **changed))


def test_few_held_out_judgements_are_said_to_tell_nothing() -> None:
    assert check_report.held_out_accuracy(REPORT) == "66% (50–80%, n = 40)"
    few = replace(REPORT, implicit_accuracy=ImplicitAccuracy(0.66, 0.35, 0.88, 12))
    assert "too few to tell" in check_report.held_out_accuracy(few)
    none = replace(REPORT, implicit_accuracy=None)
    for missing in (None, none, replace(REPORT, implicit_accuracy=ImplicitAccuracy(None, 0.0, 1.0, 0))):
        assert check_report.held_out_accuracy(missing) == "not measured"


def test_a_report_bears_missing_figures_and_names_each_policy_once() -> None:
    html = check_report.report_card(replace(REPORT, anchor=AnswerFigures(), candidate=AnswerFigures("dpo-7")), Rule())
    assert "not measured" in html
    assert html.count(">base<") == 1
    assert check_report.report_card(None, Rule()) == "", "why there is none, the rows say"
    three = check_report.report_card(replace(REPORT, against=replace(FIGURES, revision="dpo-3")), Rule())
    assert "dpo-3 (compared with)" in three


def test_a_report_says_by_which_rule_it_was_made_and_how_far_it_is_from_other_weights() -> None:
    said = {
        rule: check_report.report_card(replace(REPORT, rule=rule, kl_to_ground=0.012), Rule())
        for rule in (None, *range(2, RULE_VERSION + 1))
    }
    earlier = ("counted every comparison by itself" in said[None], "compared the likelihood whatever" in said[2])
    assert earlier == (True, True)
    assert "the end of a short answer" in said[3]
    assert "KL was over whole answers" in said[4]
    for rule in range(5, RULE_VERSION + 1):  # what has changed since is how people's say is counted, which is today's
        assert "Made for the earlier rule" not in said[rule]
    assert "adapter hangs on it has moved 0.012 nats a token" in said[RULE_VERSION]


def test_the_kl_that_the_limit_is_on_has_its_mark_and_that_of_whole_answers_has_none() -> None:
    report = replace(worse(kl_to_anchor=0.3), equal_length_kl=0.612)
    html = check_report.report_card(report, Rule(), within_limits(Rule(), report))
    at_equal_length, whole = (
        html[html.index(f">{name}<") :].partition("</tr>")[0]
        for name in ("KL per token, at equal length", "KL per token")
    )
    assert at_equal_length.count("0.61") == 2, "found, and of the candidate"
    assert "not met" in at_equal_length
    assert "0.300" in whole
    assert "0.100" in whole
    assert not any(chip.words in whole for chip in check_report.PASSED_CHIPS.values())
    earlier = check_report.report_card(worse(kl_to_anchor=0.3), Rule(), within_limits(Rule(), worse(kl_to_anchor=0.3)))
    assert "at equal length" not in earlier
    assert "met" in earlier[earlier.index("KL to its anchor, nats a token<") :].partition("</tr>")[0]
    said = [check_report.kl_words(one) for one in (report, worse(kl_to_anchor=0.3), worse(kl_to_anchor=None), None)]
    assert said == ["0.612", "0.300, of whole answers", "not measured", "not measured"]


def test_beside_what_is_asked_of_answers_cut_off_stands_how_many_of_each_policy_are() -> None:
    report = worse(ended_share=0.75)
    whole = check_report.report_card(report, Rule(), within_limits(Rule(), report))
    row = whole[whole.index(">Answers cut off") :].partition("</tr>")[0]
    assert [words in row for words in ("0.25", "0.10", "0.75", "0.90")] == [True, True, False, False]


def test_a_policy_that_loses_the_language_is_warned_of() -> None:
    assert check_report.warnings(REPORT, Rule()) == []
    surprise, repetition = check_report.warnings(worse(nll_under_anchor=1.5, distinct_2=0.6), Rule())
    assert surprise == (
        "Its answers surprise its anchor too much: they may be no proper language any more (Surprise at its answers, "
        "times that at its anchor's: 1.2, asked for: at most 1.15)."
    )
    assert "repeat themselves (Distinct-2, ratio: 0.75," in repetition


LOST: Mapping[str, Any] = {
    "kl_to_anchor": 0.7, "nll_under_anchor": 1.5, "distinct_2": 0.6, "ended_share": 0.7, "perplexity": 18.0,
    "probes": probed(0.5),
}  # fmt: skip


def test_all_that_is_lost_is_warned_of_whatever_it_was_lost_to_and_not_as_of_a_candidate() -> None:
    for name in ("base", "sft-1"):
        anchor = replace(FIGURES, revision=name, perplexity=12.0, probes=probed(0.9))
        said = check_report.warnings(replace(worse(**LOST), anchor=anchor), Rule())
        assert len(said) == len(LOST)
        assert said[0] == "It has moved too far (KL to its anchor, nats a token: 0.7, asked for: at most 0.5)."
        assert not any("promot" in sentence for sentence in said)


RULES = (
    *(Rule(), Rule(nll_ratio_most=1.3), Rule(distinct_ratio_least=0.7), Rule(kl_most=0.05)),
    *(Rule(perplexity_ratio_most=1.6), Rule(truncated_more_most=0.3), Rule(probes_fall_most=0.5)),
)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("figure", [None, *LOST])
def test_the_page_warns_of_what_the_projects_rule_rejects_and_of_nothing_else(rule: Rule, figure: str | None) -> None:
    """At another bound too: what one half of a page calls a bad sign, the other must not call met."""
    fixed = replace(REPORT, anchor=replace(FIGURES, perplexity=12.0, probes=probed(0.9)))
    lost = {} if figure is None else {figure: LOST[figure]}
    report = replace(fixed, candidate=replace(fixed.anchor, revision="dpo-7", **lost))
    failed = [one for one in within_limits(rule, report) if one.passed == "fail"]
    said = check_report.warnings(report, rule)
    for sentence, one in zip(said, map(gate_words.criterion_words, failed), strict=True):
        assert sentence.endswith(f"({one.name}: {one.value}, asked for: {one.threshold}).")


def test_probes_stand_beside_the_figures_by_family_with_what_was_lost() -> None:
    measured = replace(REPORT, candidate=replace(FIGURES, revision="dpo-7", probes=probed(0.5)))
    html = check_report.report_card(replace(measured, anchor=replace(FIGURES, probes=probed(0.9))), Rule())
    row = html[html.index("Probes: knowledge") :].partition("</tr>")[0]
    for words in ("0.500", "0.900", "+0.400 (+0.400 to +0.400)"):
        assert words in row
    assert "0.000 (" in html[html.index("Probes: arithmetic") :].partition("</tr>")[0]
    assert "not measured" in html[html.index("Probes: format") :].partition("</tr>")[0]
    alone = check_report.report_card(measured, Rule())
    assert "not measured" in alone[alone.index("Probes: knowledge") :].partition("</tr>")[0], "the base's are unknown"
    assert "Probes" not in check_report.report_card(REPORT, Rule()), "a check of an earlier version"


def test_the_table_says_nothing_twice_and_nothing_of_what_does_not_apply() -> None:
    """The figures of probes stand in their own rows; a criterion whose question does not arise has none."""
    anchor = replace(FIGURES, probes=probed(0.9))
    report = replace(REPORT, candidate=replace(FIGURES, revision="dpo-7", probes=probed(0.5)), anchor=anchor)
    before = Requirement(asks="weighed-before", passed="informs", found=0)
    hacking = Requirement(asks="no-reward-hacking", passed="inapplicable", found="no reward")
    criteria = [*within_limits(Rule(), report), before, hacking]
    html = check_report.report_card(report, Rule(), criteria)
    assert html.count(f"{probed(0.9).mean(ALL):.3f}") == 1, "the anchor's mean over all probes"
    assert "Weighed on these prompts before" not in html
    assert "No reward hacking" not in html
    assert "3 candidates" in check_report.report_card(report, Rule(), [replace(before, found=3)])


def test_every_figure_that_a_limit_may_be_on_has_its_row_and_its_words() -> None:
    figures, rows = set(get_args(LimitedFigure)), {row.key for row in check_report.FIGURES}
    assert set(BOUNDS) == set(gate_words.LIMITS) == figures
    assert {limit.of for limit in gate_words.LIMITS.values() if limit.of} <= rows, "that of probes is none of these"


def test_what_could_not_be_scored_is_warned_of_as_the_gate_rejects_it() -> None:
    (said,) = check_report.warnings(worse(nll_under_anchor=math.nan), Rule())
    assert said.startswith("Surprise at its answers, times that at its anchor's: not a number"), "whatever it speaks"


def test_history_is_newest_first_and_bears_a_policy_without_a_check() -> None:
    trained = replace(
        JOB, status="finished", result={"trained_on": 21, "final": {"loss": 0.6123}, "snapshot": "f" * 64}
    )
    html = check_report.history_table([BASE, ADAPTER], {7: trained})
    assert html.index(">dpo-7<") < html.index("<td>base</td>")
    for words in ("f" * 12, "21", "The weights under the adapter", "candidate"):
        assert words in html
    assert "f" * 13 not in html


def test_every_method_has_its_row() -> None:
    def row(spec: JobSpec, result: dict[str, Any], **changes: Any) -> tuple[str, ...]:
        trained = replace(JOB, kind=spec.kind, spec=spec, status="finished", result=result)
        policy = replace(ADAPTER, algorithm=spec.kind, **changes)
        return check_report.history_row(policy, {1: "base", 2: "dpo-7"}, trained)

    sft = row(SFTSpec(method="full"), {"train_items": 300, "final": {"loss": 0.5}})
    assert (sft[1], sft[2], sft[6], sft[7]) == ("SFT, full", "base", "300 demonstrations", "–")
    ppo = row(PPOSpec(method="qlora", reference="parent"), {"train_prompts": 40, "final": {"reward": 1.5}})
    assert (ppo[1], ppo[6], ppo[7]) == ("PPO, QLoRA", "40 prompts", "The parent")
    merged = row(MergeSpec(revision="dpo-7"), {}, parent_id=2, form="full")
    assert (merged[1], merged[2], merged[6]) == ("merged", "dpo-7", "–")
    gone = row(DPOSpec(), {"train_pairs": 21}, deleted=AT)
    assert (gone[3], gone[6]) == ("candidate, files deleted", "21 pairs")


def test_only_a_policy_whose_files_are_there_can_serve() -> None:
    assert check_report.can_serve(ADAPTER)
    assert check_report.can_serve(BASE), "to go back to"
    reward = replace(ADAPTER, kind="reward-model")
    for policy in (replace(ADAPTER, status="serving"), replace(ADAPTER, deleted=AT), reward):
        assert not check_report.can_serve(policy)


def test_candidates_come_first_and_promotion_is_called_what_it_is() -> None:
    serving = replace(ADAPTER, id=3, revision="dpo-9", status="serving")
    assert [policy.id for policy in check_report.policy_order([BASE, ADAPTER, serving])] == [2, 3, 1]
    assert check_report.promote_label(ADAPTER) == "Promote: let it serve"
    assert check_report.promote_label(BASE) == "Go back to this one"
    assert check_report.promote_label(serving) == "Serves now"


def test_answers_are_paired_by_prompt_and_seed_and_the_newest_count() -> None:
    def row(prompt_id: int, seed: int, text: str) -> CheckedAnswer:
        message = {"role": "user", "content": f"prompt {prompt_id}"}
        return replace(ANSWER, prompt_id=prompt_id, seed=seed, text=text, messages=(message,))

    left = [row(1, 10, "old"), row(1, 10, "new"), row(2, 11, "alone"), row(3, 12, "third")]
    pairs = check_report.answer_pairs(left, [row(1, 10, "base 1"), row(3, 12, "base 3"), row(3, 13, "other seed")])
    assert [(pair.prompt, pair.left.text, pair.right.text) for pair in pairs] == [
        ("prompt 1", "new", "base 1"),
        ("prompt 3", "third", "base 3"),
    ]
    assert check_report.page_label(len(pairs), 0, 10) == "Prompts 1 to 2 of 2"
    assert check_report.page_label(23, 2, 10) == "Prompts 21 to 23 of 23"
    assert check_report.page_label(0, 0, 10) == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [("running", "The answering worker runs."), ("queued", "starting"), ("failed", "does not run (failed)")],
)
def test_the_answering_workers_state(status: str, words: str) -> None:
    worker = replace(JOB, kind="answering", spec=AnsweringSpec(), status=status, created=AT)
    assert words in check_report.worker_sentence(worker, AT)
    for nobodys in (None, replace(worker, status="queued", created="2026-01-01T00:00:00+00:00")):
        assert "No model is writing answers here." in check_report.worker_sentence(nobodys, AT)


def test_what_is_compared_beside_the_reports_answers_may_be_to_the_same_prompts_and_wait_for_people() -> None:
    beside = "What people and judges compare are other answers, to {}, which are not shown."
    for count, said in ((0, None), (1, beside.format("1 prompt")), (60, beside.format("60 prompts"))):
        html = check_report.report_card(replace(REPORT, compared_apart=count), Rule())
        assert (said in html) if said else ("not shown" not in html)


def test_the_serving_card_counts_answers() -> None:
    card = check_report.serving_card(BASE, None, {"train": 20, "held-out": 4}, 9, AnswerCounts(200, 170, 3, 5), AT)
    for words in (
        *("20 for training, 4 held-out", "9 by other policies or imported"),
        *("85%", "200", "<dd>3</dd>", "<dd>5</dd>"),
    ):
        assert words in card
    new = check_report.serving_card(BASE, None, {"train": 0, "held-out": 0}, 0, AnswerCounts(0, 0, 0, 0), AT)
    for words in ("Also in stock", "Ended before", "Dropped"):
        assert words not in new, "nothing is said of none"


def test_what_rounds_to_nothing_has_no_sign() -> None:
    assert check_report.with_interval(Estimate(-0.0001, -0.0004, 0.0, 20)) == "0.000 (0.000 to 0.000)"
    assert check_report.with_interval(Estimate(0.0006, -0.01, 0.0004, 20)) == "+0.001 (-0.010 to 0.000)"


def test_what_a_judges_chances_rest_on_stands_in_one_line() -> None:
    judged = {
        "letters": JudgeCalls(4, chances=LetterShare(0.91, 0.6, 8)),
        "scores": JudgeCalls(4, chances=ScoreTemperature(1.7)),
        "unsure": JudgeCalls(4, chances=ScoreTemperature(None)),
        "far": JudgeCalls(4),
    }
    html = check_report.report_card(replace(REPORT, judged=judged), Rule())
    for words in (
        "letters: P(A) + P(B) of the next token: 91% on average, 60% at least.",
        "scores: Its chances are calibrated by the temperature 1.7",
        "unsure: Its temperature is unknown",
    ):
        assert html.count(words) == 1
    assert "far:" not in html


def test_what_acts_by_itself_and_gives_no_reason_is_named_in_the_readers_language(tmp_path: Path) -> None:
    said = {
        THE_GATE: "das Gate",
        THE_LOOP: "der Kreislauf",
        decision_store.NO_REASON: "ohne Grund",
        "promote": "übernehmen",
    }
    lines = [f'msgid "{english}"\nmsgstr "{german}"\n' for english, german in said.items()]
    (tmp_path / "de.po").write_text("\n".join(('msgid ""\nmsgstr "Language: de\\n"\n', *lines)), "utf-8")
    gate = Decision(
        id=1,
        created=AT,
        action="promote",
        revision="dpo-1",
        previous=None,
        decided_by=THE_GATE,
        reason=decision_store.NO_REASON,
    )
    people = replace(gate, id=2, decided_by="promote", reason="promote")
    with translation.speaking(translation.chosen(str(tmp_path / "de.po"))):
        card = check_report.decisions_card([gate, people], {})
        asked = job_cards.job_facts(replace(JOB, requested_by=THE_LOOP), SnapshotCounts())
    assert card.count("das Gate") == 2, "in the sentence and in the table"
    assert "ohne Grund" in card
    assert card.count(">promote<") == 2, "but people's names and words stay as they are"
    assert "der Kreislauf" in asked
