"""How comparisons are handed out: orders equally often, gold and re-asks in their shares, prompts evenly."""

from __future__ import annotations

import random
from collections import Counter

from annotation.records import Project
from annotation.selection import draw_order, draw_purpose, kind_of, pick


def test_every_order_comes_equally_often() -> None:
    """6,000 draws of the 6 orders of 3: each within five standard deviations of 1,000."""
    source = random.Random(7)
    counts = Counter(draw_order(3, source) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 5 * 29 for count in counts.values())


def test_an_order_names_every_position_once() -> None:
    assert sorted(draw_order(8, random.Random(1))) == list(range(8))


def test_gold_and_re_asks_come_in_the_projects_shares() -> None:
    """10,000 draws: each count within five standard deviations."""
    source = random.Random(5)
    project = Project(gold_share=0.1, re_ask_share=0.2, candidate_share=0.3)
    counts = Counter(draw_purpose(project, source) for _ in range(10_000))
    assert abs(counts["gold"] - 1000) < 5 * 30
    assert abs(counts["re-ask"] - 2000) < 5 * 40
    assert abs(counts["candidate"] - 3000) < 5 * 46
    assert {draw_purpose(Project(gold_share=0, re_ask_share=0, candidate_share=0), source) for _ in range(1000)} == {
        "own"
    }


def test_the_least_judged_prompt_comes_first_and_then_the_oldest_comparison() -> None:
    assert pick([(4, 2), (7, 0), (9, 0), (1, 5)]) == 7


def test_a_comparison_is_asked_about_by_its_size_in_a_project_of_another_kind() -> None:
    assert kind_of(Project(kind="pair"), 2) == "pair"
    assert kind_of(Project(kind="pair"), 4) == "rank"
    assert kind_of(Project(kind="best", answers=4), 4) == "best"
    assert kind_of(Project(kind="best", answers=4), 2) == "best"
    assert kind_of(Project(kind="rank", answers=4), 2) == "pair"
