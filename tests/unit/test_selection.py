"""Which comparison comes next, and in which order its answers are shown."""

from __future__ import annotations

import random
from collections import Counter
from typing import get_args

from annotation.records import Split
from annotation.selection import HELD_OUT_SHARE, Candidate, choose, draw_order

TRAIN, HELD_OUT = get_args(Split)


def test_an_empty_pool_gives_nothing() -> None:
    assert choose([], {}) is None


def test_fresh_comes_before_stale_and_old_before_new() -> None:
    pool = [Candidate(3, TRAIN, True), Candidate(1, TRAIN, False), Candidate(2, TRAIN, True)]
    assert choose(pool, {}) == Candidate(2, TRAIN, True)


def test_held_out_prompts_get_their_share_and_no_more() -> None:
    pool = [Candidate(number, split, True) for number in range(300) for split in (TRAIN, HELD_OUT)]
    judged: Counter[str] = Counter()
    for _ in range(120):
        chosen = choose(pool, judged)
        assert chosen is not None
        pool.remove(chosen)
        judged[chosen.split] += 1
        assert judged[HELD_OUT] <= HELD_OUT_SHARE * judged.total()
    assert judged[HELD_OUT] == 20


def test_the_other_split_is_offered_rather_than_let_a_person_wait() -> None:
    assert choose([Candidate(1, HELD_OUT, False)], {TRAIN: 0}) == Candidate(1, HELD_OUT, False)
    assert choose([Candidate(1, TRAIN, False)], {TRAIN: 100}) == Candidate(1, TRAIN, False)


def test_orders_are_permutations_and_even() -> None:
    source = random.Random(7)
    drawn = Counter(draw_order(2, source) for _ in range(2000))
    assert set(drawn) == {(0, 1), (1, 0)}
    assert 900 < drawn[(0, 1)] < 1100
    assert sorted(draw_order(5, source)) == [0, 1, 2, 3, 4]
