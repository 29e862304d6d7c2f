"""What an act teaches: its simulated people, its learner on states that are the rule, and how figures come of cells."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import fmean

import pytest
import torch

from benchmarks.acts import RULES, Cell, Data, Method, Person, Sizes, acts_needed, figures, sequence
from benchmarks.harness import acts_pool

WORTHS = [(2.0,), (5.0,), (5.0,), (1.0,)]


def person(flip: float = 0.0) -> Person:
    """Somebody whose looks are wrong so often."""
    return Person(RULES["length"], flip, random.Random(3))


def test_without_flips_people_say_what_the_rule_does() -> None:
    assert person().pair(WORTHS[:2]) == {(1, 0)}
    assert person().pair(WORTHS[1:3]) == set()
    assert person().best(WORTHS) == {(1, 0), (1, 2), (1, 3)}
    assert person().best(WORTHS[1:3]) == set()
    assert person().rank(WORTHS) == {(1, 0), (2, 0), (0, 3), (1, 3), (2, 3)}


def test_so_many_looks_are_wrong_and_a_ranking_of_wrong_looks_is_still_one() -> None:
    judge = person(0.2)
    wrong = fmean((0, 1) in judge.pair(WORTHS[:2]) for _ in range(4000))
    assert wrong == pytest.approx(0.2, abs=0.02)
    for _ in range(50):
        said = judge.rank(WORTHS)
        assert not any((worse, better) in said for better, worse in said)


def test_rules_tell_what_they_name() -> None:
    assert RULES["length"]("Yes.") > RULES["length"]("Yes, of course it is.")
    assert RULES["wording"]("I am so glad.") > RULES["wording"]("Extraordinarily satisfying circumstances.")
    assert RULES["content"]("Salt it, because water boils off.") > RULES["content"]("Salt the water.")


def test_acts_needed_worked_out_by_hand() -> None:
    budgets = (15, 30, 60, 120)
    assert acts_needed((0.5, 0.6, 0.7, 0.8), 0.65, budgets) == pytest.approx(30 * 2**0.5)
    assert acts_needed((0.7, 0.6, 0.7, 0.8), 0.65, budgets) == 15
    assert acts_needed((0.5, 0.5, 0.5, 0.6), 0.65, budgets) == 240


def test_the_learner_learns_what_its_states_show() -> None:
    """Answers whose first state is their worth: a few rankings are enough."""
    source = torch.Generator().manual_seed(1)
    states = torch.randn(60, 8, 6, generator=source)
    rows = [([(float(one[0]),) for one in state], state) for state in states]
    sizes = Sizes(budgets=(1, 60), ridge=0.1)
    few, many = sequence(Data(rows[:30], rows[30:]), Method("rank", 4), person(), sizes)
    assert many > 0.9
    assert many > few


def test_figures_are_medians_and_means_over_rules_and_seeds() -> None:
    budgets = (30, 60, 120)
    curves = {"pairs": (0.5, 0.55, 0.6), "rank 4": (0.6, 0.65, 0.7)}
    cells = [
        Cell(
            method=name,
            rule=rule,
            flip=flip,
            seed=1,
            curve=tuple(value - (0.2 if (name, flip) == ("rank 4", 0.2) else 0) for value in curve),
        )
        for name, curve in curves.items()
        for rule in ("length", "content")
        for flip in (0.0, 0.2)
    ]
    found = figures(cells, Sizes(budgets=budgets))
    assert found["acts_ratio"] == 4
    assert found["acts_ratios"]["rank 4, 20% flips"] == 0.5
    assert found["worse_than_random_at_20"] is True
    gains = {(one["flip"], one["acts"]): one["gain"] for one in found["gains"]}
    assert gains[0.0, 30] == pytest.approx(0.1)
    assert gains[0.2, 120] == pytest.approx(-0.1)


def test_answers_are_kept_for_the_very_run_that_drew_them(tmp_path: Path) -> None:
    asked = [("small", (1, 1), 2), ("small", (2, 1), 2), ("small", (1, 1), 3), ("other", (1, 1), 2)]
    assert len({acts_pool.kept_in(tmp_path, *one) for one in asked}) == 4
    stored = [
        {"split": split, "prompt": "Why?", "texts": ["a", "b"], "states": torch.zeros(2, 3)}
        for split in ("train", "held-out")
    ]
    torch.save(stored, acts_pool.kept_in(tmp_path, *asked[0]))
    assert [one.texts for one in acts_pool.pool(tmp_path, *asked[0])] == [("a", "b")] * 2
