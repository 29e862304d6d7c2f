"""How comparisons are handed out: orders equally often, gold and re-asks in their shares, prompts evenly."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from annotation.records import Project
from annotation.selection import Shown, chances, draw_order, draw_purpose, kind_of, pick


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
        (MEASURING, ("gold", "re-ask"), {"gold": 0.1, "re-ask": 0.2}),
        (MEASURING, (), {}),
        (Project(gold_share=0, re_ask_share=0, candidate_share=0), ALL, {"own": 1.0}),
        (Project(gold_share=0, re_ask_share=0, candidate_share=0), ("candidate",), {}),
        (Project(gold_share=0.5, re_ask_share=0.5, candidate_share=0.5), ALL, {"gold": 0.5, "re-ask": 0.5}),
    ],
)
def test_gold_re_asks_and_candidates_have_the_projects_shares_and_the_pool_the_rest(
    project: Project, offered: tuple[Shown, ...], expected: dict[Shown, float]
) -> None:
    """Whoever has nothing else to do measures a candidate, unless no such share is wanted."""
    assert chances(project, offered) == pytest.approx(expected)


def test_purposes_are_drawn_by_their_chances() -> None:
    """10,000 draws: each count within five standard deviations."""
    source = random.Random(5)
    counts = Counter(draw_purpose({"gold": 0.1, "re-ask": 0.2, "candidate": 0.3}, source) for _ in range(10_000))
    for purpose, count, deviation in (
        ("gold", 1000, 30),
        ("re-ask", 2000, 40),
        ("candidate", 3000, 46),
        (None, 4000, 49),
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
