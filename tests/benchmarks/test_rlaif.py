"""The benchmark of AI feedback: who labels what at which cost, on rows and without a training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from annotation.records import Judgement
from annotation.store import comparison_store, prompt_store
from benchmarks import rlaif
from benchmarks.harness.gold import gold
from benchmarks.harness.laboratory import Laboratory
from benchmarks.rlaif import Condition, Sizes
from rlhf.judges import judge_store, verdict_store
from tests.conftest import make_response
from tests.frozen_in_memory import current_judgements

SIZES = Sizes(budget=20.0, price=0.2)
GOOD, BAD = "The sun is warm and the day is long. We sat by the river and ate our bread.", "Nonsense nonsense"


@pytest.fixture
def lab(tmp_path: Path, tiny_model: Path) -> Iterator[Laboratory]:
    made = Laboratory(tmp_path / "lab", str(tiny_model), {}, {})
    yield made
    made.db.close()


def draw(lab: Laboratory, count: int) -> None:
    """Comparisons of a good and a bad answer by the gold rule, in both orders."""
    assert gold(GOOD) > gold(BAD)
    for number, prompt in enumerate(prompt_store.prompts(lab.db, "train")[:count]):
        texts = [f"{GOOD} {number}.", f"{BAD} {number}"][:: 1 if number % 2 else -1]
        comparison_store.add_comparison(lab.db, [make_response(prompt, text) for text in texts])


def test_every_condition_spends_the_same() -> None:
    for condition in rlaif.conditions(quick=False):
        by_judge = 0 if condition.mode == "people" else SIZES.comparisons(condition.mode)
        left = SIZES.budget - by_judge * SIZES.price
        spent = by_judge * SIZES.price + (left if condition.mode != "ai" else 0)
        assert spent == pytest.approx(SIZES.budget)
    assert [SIZES.comparisons(mode) for mode in ("people", "ai", "mixed")] == [20, 100, 50]
    assert len(rlaif.conditions(quick=False)) == 7


def test_people_alone_are_right_and_stop_at_the_budget(lab: Laboratory) -> None:
    condition = Condition("people")
    rlaif.prepared(lab, condition)
    draw(lab, 30)
    assert rlaif.label(lab, condition, SIZES, 1, 1) == {"people": 20, "judge": 0}
    judged = list(current_judgements(lab.db))
    assert all(better(one) == "good" for one in judged)


def better(judgement: Judgement) -> str:
    """Which answer a judgement prefers."""
    assert judgement.ranking is not None
    if judgement.ranking[0] == judgement.ranking[1]:
        return "tie"
    return "good" if judgement.responses[judgement.ranking.index(1)].text.startswith(GOOD) else "bad"


def test_a_judges_verdicts_are_as_often_right_as_it_is_said_to_agree(lab: Laboratory) -> None:
    """Of 200 verdicts with a chance of 0.75: 150, give or take four standard deviations of 6.1. Those that contradict
    each other are ties, 2 · 0.75 · 0.25 of the comparisons; of the others 0.75² / (0.75² + 0.25²) are right."""
    condition = Condition("ai", "0.75")
    rlaif.prepared(lab, condition)
    draw(lab, 100)
    assert rlaif.label(lab, condition, SIZES, 1, 1) == {"people": 0, "judge": 100}
    rows = lab.db.rows("SELECT choice, first, comparison_id FROM verdict")
    good_at = {
        row["comparison_id"]: row["position"]
        for row in lab.db.rows(
            """SELECT cr.comparison_id, cr.position FROM comparison_response cr JOIN response r ON r.id = cr.response_id
               WHERE r.text LIKE ?""",
            (f"{GOOD}%",),
        )
    }
    right = sum((row["choice"] == "first") == (good_at[row["comparison_id"]] == row["first"]) for row in rows)
    assert len(rows) == 200
    assert 126 <= right <= 174
    found = [better(one) for one in current_judgements(lab.db)]
    assert 20 <= found.count("tie") <= 55
    assert found.count("good") > 4 * found.count("bad")


def test_mixed_people_get_what_the_judge_contradicts_itself_on(lab: Laboratory) -> None:
    condition = Condition("mixed", "0.75")
    rlaif.prepared(lab, condition)
    draw(lab, 50)
    spent = rlaif.label(lab, condition, SIZES, 1, 1)
    assert spent["judge"] == 50
    assert 0 < spent["people"] <= 10
    judge = judge_store.by_name(lab.db, "judge")
    for one in current_judgements(lab.db):
        if one.annotator == "gold":
            said = verdict_store.outcomes_of(verdict_store.verdicts_on(lab.db, judge, one.comparison_id))
            why = lab.db.value("SELECT asks_why FROM comparison WHERE id = ?", (one.comparison_id,))
            assert said[0, 1].flipped == (why == "flip")
            assert better(one) == "good"
