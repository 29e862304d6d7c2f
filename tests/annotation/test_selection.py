"""How comparisons are handed out: orders equally often, gold and re-asks in their shares, prompts evenly."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations

import pytest

from annotation.records import Project
from annotation.selection import (
    Shown,
    chances,
    choose_answers,
    draw_order,
    draw_purpose,
    kind_of,
    pick,
)


def test_every_order_comes_equally_often() -> None:
    """6,000 draws of the 6 orders of 3: each within five standard deviations of 1,000."""
    source = random.Random(7)
    counts = Counter(draw_order(3, source) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 5 * 29 for count in counts.values())


def test_an_order_names_every_position_once() -> None:
    assert sorted(draw_order(8, random.Random(1))) == list(range(8))


ALL: tuple[Shown, ...] = ("own", "gold", "re-ask", "candidate")
MEASURING = Project(gold_share=0.1, re_ask_share=0.2, candidate_share=0.3)


@pytest.mark.parametrize(
    ("project", "offered", "expected"),
    [
        (MEASURING, ALL, {"gold": 0.1, "re-ask": 0.2, "candidate": 0.3, "own": 0.4}),
        (MEASURING, ("own", "candidate"), {"candidate": 0.3, "own": 0.7}),
        (MEASURING, ("gold", "candidate"), {"gold": 0.1, "candidate": 0.9}),
        (MEASURING, ("gold", "re-ask"), {}),
        (MEASURING, (), {}),
        (Project(gold_share=0, re_ask_share=0, candidate_share=0), ALL, {"own": 1.0}),
        (Project(gold_share=0, re_ask_share=0, candidate_share=0), ("candidate",), {}),
        (Project(gold_share=0.5, re_ask_share=0.5, candidate_share=0.5), ALL, {"gold": 0.5, "re-ask": 0.5}),
    ],
)
def test_gold_re_asks_and_candidates_have_the_projects_shares_and_the_pool_the_rest(
    project: Project, offered: tuple[Shown, ...], expected: dict[Shown, float]
) -> None:
    """Whoever has nothing else to do measures a candidate, unless no such share is wanted, and is not measured."""
    assert chances(project, offered) == pytest.approx(expected)


def test_purposes_are_drawn_by_their_chances() -> None:
    """10,000 draws: each count within five standard deviations."""
    source = random.Random(5)
    shares: dict[Shown, float] = {"gold": 0.1, "re-ask": 0.2, "candidate": 0.3, "own": 0.4}
    counts = Counter(draw_purpose(shares, source) for _ in range(10_000))
    for purpose, count, deviation in (
        ("gold", 1000, 30),
        ("re-ask", 2000, 40),
        ("candidate", 3000, 46),
        ("own", 4000, 49),
    ):
        assert abs(counts[purpose] - count) < 5 * deviation  # type: ignore[index]
    assert {draw_purpose({"own": 1.0}, source) for _ in range(1000)} == {"own"}
    assert draw_purpose({}, source) is None


def test_the_least_judged_prompt_comes_first_and_then_the_oldest_comparison() -> None:
    assert pick([(4, 2), (7, 0), (9, 0), (1, 5)]) == 7


def test_a_comparison_is_asked_about_by_its_size_in_a_project_of_another_kind() -> None:
    assert kind_of(Project(kind="pair"), 2) == "pair"
    assert kind_of(Project(kind="pair"), 4) == "rank"
    assert kind_of(Project(kind="best", answers=4), 4) == "best"
    assert kind_of(Project(kind="best", answers=4), 2) == "best"
    assert kind_of(Project(kind="rank", answers=4), 2) == "pair"


# --------------------------------------------------------------------------------------------- which answers to compare
@pytest.mark.parametrize(
    ("votes", "number"),
    [
        ((5, 0, 2, 0, 1, 0, 0, 0), 2),
        ((5, 0, 2, 0, 1, 0, 0, 0), 4),  # fewer favourites than answers wanted
        ((1, 1, 1, 1, 1, 1, 2, 0), 4),
        ((0, 0, 8, 0), 2),
        ((0, 0, 0), 2),  # nobody votes
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_chance_of_the_chosen_answers_is_how_often_they_come(
    votes: tuple[int, ...], number: int, share: float
) -> None:
    """20,000 draws: each set of answers within five standard deviations of its chance, and all chances make 1."""
    source, draws = random.Random(11), 20_000
    found = [choose_answers(votes, number, share, source) for _ in range(draws)]
    counts = Counter(frozenset(one.places) for one in found)
    chance = {frozenset(one.places): one.chance for one in found}
    assert all(len(places) == number for places in counts)
    for places, expected in chance.items():
        assert abs(counts[places] - draws * expected) <= 5 * (draws * expected) ** 0.5 + 1
    assert sum(chance.values()) == pytest.approx(1, abs=0.005), "what never came is nearly nothing"
    if share == 0:
        assert len(chance) == len(list(combinations(votes, number)))
    assert sum(one.by == "heads" for one in found) == pytest.approx(share * draws, abs=5 * draws**0.5)


def test_heads_that_agree_choose_their_favourite_and_the_rest_is_drawn() -> None:
    chosen = [choose_answers((0, 8, 0, 0), 2, 1.0, random.Random(seed)) for seed in range(30)]
    assert {one.places[0] for one in chosen} == {1}
    assert {one.places[1] for one in chosen} == {0, 2, 3}
    assert {one.chance for one in chosen} == {1 / 3}
