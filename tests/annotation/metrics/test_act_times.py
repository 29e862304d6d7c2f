"""What kinds of acts take here, from real rows; and the table that says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from annotation.claims import handing_out, judging
from annotation.database import Database
from annotation.metrics.act_times import PAIRS_AN_ACT, ActTime, RicherAct, act_times, richer_act
from annotation.records import Kind, now
from annotation.store import comparison_store, project_store
from annotation.tabs.act_table import acts_table
from tests.conftest import make_response, seed_prompts

RANKED = {2: [1, 2], 4: [2, 1, 3, 3]}
BEST = [2, 2, 1, 2]


def judge(db: Database, annotator: int, seconds: float, said: dict[str, Any]) -> None:
    """Judge the next comparison as somebody does who was shown it so long ago."""
    claim = handing_out.claim_next(db, annotator)
    assert claim is not None
    shown = (datetime.fromisoformat(now()) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")
    db.connection.execute("UPDATE claim SET created = ? WHERE nonce = ?", (shown, claim.nonce))
    judging.judge(db, annotator, claim.nonce, said)


def judge_all(db: Database, kind: Kind, answers: int, seconds: Sequence[float], said: dict[str, Any]) -> None:
    """As many comparisons of a kind as there are times."""
    plain = {"gold_share": 0.0, "re_ask_share": 0.0, "candidate_share": 0.0}
    project_store.set_project(db, replace(project_store.project(db), kind=kind, answers=answers, **plain))
    for prompt, taken in zip(seed_prompts(db, len(seconds))[-len(seconds) :], seconds, strict=True):
        texts = [f"{kind} {place}" for place in range(answers)]
        assert comparison_store.add_comparison(db, [make_response(prompt, text) for text in texts], answers) is not None
        judge(db, annotator_of(db), taken, said)


def annotator_of(db: Database) -> int:
    """The person who judges."""
    found = db.value("SELECT id FROM annotator WHERE name = 'ann'")
    if found is None:
        db.insert("annotator", {"name": "ann", "role": "annotator", "created": now()})
        return annotator_of(db)
    return int(found)


def test_each_kind_has_its_quartiles_and_skips_do_not_count(db: Database) -> None:
    judge_all(db, "rank", 4, [20, 40, 30, 10, 50], {"outcome": "ranked", "ranks": RANKED[4]})
    judge_all(db, "rank", 4, [900], {"outcome": "skip"})
    judge_all(db, "best", 4, [12], {"outcome": "ranked", "ranks": BEST})
    judge_all(db, "pair", 2, [4, 8], {"outcome": "ranked", "ranks": RANKED[2], "strength": 2})
    pair, best, rank = act_times(db)
    assert [(one.kind, one.answers, one.judgements) for one in (pair, best, rank)] == [
        ("pair", 2, 2),
        ("best", 4, 1),
        ("rank", 4, 5),
    ]
    assert (rank.low, rank.median, rank.high) == pytest.approx((20, 30, 40), abs=0.5)
    assert (pair.low, pair.median, pair.high) == pytest.approx((5, 6, 7), abs=0.5)
    assert (best.low, best.median, best.high) == pytest.approx((12, 12, 12), abs=0.5)
    assert rank.pairs_a_minute == pytest.approx(2 * PAIRS_AN_ACT["rank"], rel=0.05)


def test_what_was_not_measured_is_not_guessed() -> None:
    of_eight = ActTime(kind="rank", answers=8, judgements=30, median=60.0, low=50.0, high=70.0)
    assert (of_eight.pairs_an_act, of_eight.pairs_a_minute) == (None, None)
    assert act_words(acts_table([of_eight]))[-1] == [
        *("Ranking of 8", "30", "60.0 s 50.0 to 70.0 s", "not measured", "not measured"),
    ]


def test_a_project_that_has_judged_nothing_is_told_what_an_act_teaches() -> None:
    assert "How long each way to judge takes, and how much it teaches</caption>" in acts_table([])
    shown = act_words(acts_table([]))
    assert [row[0] for row in shown] == ["Two answers", "Best of 4", "Ranking of 4"]
    assert {(row[1], row[2], row[4]) for row in shown} == {("0", "–", "–")}
    assert [float(row[3]) for row in shown] == list(PAIRS_AN_ACT.values())


def act_words(html: str) -> list[list[str]]:
    """The cells of the table's rows as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)[1:]
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


def timed(kind: Kind, answers: int, median: float, judgements: int = 20) -> ActTime:
    """What people took for a kind of act."""
    return ActTime(kind=kind, answers=answers, judgements=judgements, median=median, low=median, high=median)


def test_what_nobody_can_have_read_teaches_nothing_a_minute() -> None:
    """A script's judgements, with a median near nothing, would teach thousands of times as much."""
    hasty = timed("pair", 2, 0.03)
    assert hasty.pairs_a_minute is None
    assert "too fast to have been read" in acts_table([hasty])
    assert timed("pair", 2, 1.0).pairs_a_minute == 60


@pytest.mark.parametrize(
    ("times", "offered"),
    [
        ([], None),
        ([timed("pair", 2, 6.0, judgements=9)], None),
        ([timed("pair", 2, 0.2)], None),
        ([timed("pair", 2, 6.0)], RicherAct(4.1, "act")),
        ([timed("pair", 2, 6.0), timed("rank", 4, 30.0, judgements=9)], RicherAct(4.1, "act")),
        ([timed("pair", 2, 6.0), timed("rank", 4, 12.3)], RicherAct(2.0, "minute")),
        ([timed("pair", 2, 6.0), timed("rank", 4, 22.0)], None),
        ([timed("pair", 2, 6.0), timed("rank", 4, 0.2)], None),
    ],
)
def test_ranking_is_offered_where_a_minute_of_it_teaches_more_here(
    times: Sequence[ActTime], offered: RicherAct | None
) -> None:
    found = richer_act(times)
    assert (found is None) == (offered is None)
    if found and offered:
        assert (found.by, found.times) == (offered.by, pytest.approx(offered.times))
