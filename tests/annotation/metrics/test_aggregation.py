"""What judgements say together: votes weighed by reliability, edits above all, and every reason for no pair."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import exp, log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.metrics.aggregation import REASONS, UNKNOWN_RELIABILITY, Pair, log_odds, pairs_of, usable
from tests.builders import judgement, stored_answer


def ids(pairs: list[Pair]) -> list[tuple[int, int]]:
    """(better, worse) answers of pairs."""
    return [(pair.better.id, pair.worse.id) for pair in pairs]


def test_one_annotators_ranking_gives_all_its_pairs_and_a_tie_none() -> None:
    pairs, reasons = pairs_of([judgement("ann", (2, 1, 2, 3))])
    assert sorted(ids(pairs)) == [(0, 3), (1, 0), (1, 2), (1, 3), (2, 3)]
    assert reasons == ["tie"]
    assert [pair.flip for pair in pairs] == pytest.approx([1 - UNKNOWN_RELIABILITY] * 5)
    assert {pair.agreement for pair in pairs} == {1.0}


def test_the_others_of_a_best_of_several_give_no_pair_among_themselves() -> None:
    pairs, reasons = pairs_of([judgement("ann", (2, 1, 2), kind="best")])
    assert sorted(ids(pairs)) == [(1, 0), (1, 2)]
    assert reasons == ["tie"]


def test_two_of_equal_weight_outvote_one_and_the_chance_of_error_is_that_of_their_difference() -> None:
    """Two for, one against, each right with 0.8: odds 4·4/4 = 4, so wrong with 1/5."""
    group = [
        judgement("ann", (1, 2), 1, strength=3),
        judgement("bob", (1, 2), 2, strength=1),
        judgement("eve", (2, 1), 3),
    ]
    (pair,), _ = pairs_of(group, dict.fromkeys(("ann", "bob", "eve"), 0.8))
    assert ids([pair]) == [(0, 1)]
    assert pair.flip == pytest.approx(0.2)
    assert (pair.judgements, pair.annotators, pair.strength) == ((1, 2), ("ann", "bob"), 2.0)
    assert pair.agreement == pytest.approx(2 / 3)


def test_a_reliable_annotator_outvotes_two_who_hardly_beat_a_coin() -> None:
    group = [judgement("ann", (1, 2), 1), judgement("bob", (2, 1), 2), judgement("eve", (2, 1), 3)]
    (pair,), _ = pairs_of(group, {"ann": 0.9, "bob": 0.6, "eve": 0.6})
    assert ids([pair]) == [(0, 1)]
    assert pair.flip == pytest.approx(1 / (1 + 9 / 1.5 / 1.5))


def test_an_even_split_gives_no_pair() -> None:
    pairs, reasons = pairs_of([judgement("ann", (1, 2), 1), judgement("bob", (2, 1), 2)])
    assert (pairs, reasons) == ([], ["disagreement"])


def test_the_word_of_someone_no_better_than_a_coin_alone_gives_no_pair() -> None:
    assert pairs_of([judgement("ann", (1, 2))], {"ann": 0.4}) == ([], ["unreliable"])
    assert "unreliable" in REASONS


def test_an_edit_is_better_than_what_it_mends_and_than_the_rest() -> None:
    edited = replace(stored_answer(9), origin="person", edited_from=1)
    pairs, _ = pairs_of([judgement("ann", (2, 1, 3), edited=edited)])
    assert ids(pairs) == [(9, 1), (9, 0), (9, 2), (1, 0), (0, 2), (1, 2)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"purpose": "gold"}, "gold"),
        ({"purpose": "re-ask"}, "re-ask"),
        ({"annotator": "troll"}, "excluded"),
        ({"early": True}, "early"),
        ({"flag": "harmful"}, "flagged"),
    ],
)
def test_what_does_not_count_says_why(changes: dict[str, Any], reason: str) -> None:
    counted, reasons = usable([replace(judgement("ann", (1, 2)), **changes)], {"troll"})
    assert (counted, reasons) == ([], [reason])
    assert reason in REASONS


def test_a_flag_takes_the_whole_comparison_out() -> None:
    counted, reasons = usable([judgement("ann", (1, 2), 1), judgement("bob", (1, 2), 2, flag="broken")])
    assert (counted, reasons) == ([], ["flagged", "flagged"])


@pytest.mark.parametrize("changes", [{"purpose": "re-ask"}, {"purpose": "gold"}, {"early": True}])
def test_a_flag_counts_even_where_its_judgement_does_not(changes: dict[str, Any]) -> None:
    flagging = replace(judgement("bob", (1, 2), 2, flag="personal-data"), **changes)
    counted, reasons = usable([judgement("ann", (1, 2), 1), flagging], {"troll"})
    assert counted == []
    assert "flagged" in reasons


def test_who_is_left_out_takes_no_comparison_out_by_flags() -> None:
    judged = judgement("ann", (1, 2), 1)
    assert usable([judged, judgement("troll", None, 2, outcome="skip", flag="broken")], {"troll"})[0] == [judged]


def test_an_admin_who_skips_settles_nothing() -> None:
    skipping = judgement("judge", None, 3, purpose="settle", outcome="skip")
    counted, _ = usable([judgement("ann", (1, 2), 1), judgement("bob", (1, 2), 2), skipping])
    assert ids(pairs_of(counted)[0]) == [(0, 1)]


def test_what_settles_a_comparison_stands_alone() -> None:
    settling = judgement("judge", (2, 1), 3, purpose="settle")
    counted, reasons = usable([judgement("ann", (1, 2), 1), judgement("bob", (1, 2), 2), settling])
    assert (counted, reasons) == ([settling], ["settled", "settled"])


def test_skips_and_all_bad_are_reasons_only_where_nobody_ranked() -> None:
    bad, skip = judgement("ann", None, 1, outcome="all-bad"), judgement("bob", None, 2, outcome="skip")
    assert pairs_of([bad, skip]) == ([], ["all-bad", "skip"])
    pairs, reasons = pairs_of([bad, judgement("eve", (1, 2), 3)])
    assert (ids(pairs), reasons) == ([(0, 1)], [])


@given(st.lists(st.lists(st.integers(1, 3), min_size=3, max_size=3), min_size=1, max_size=5), st.randoms())
def test_the_posterior_is_that_of_bayes_rule_written_out(rankings: list[list[int]], source: Any) -> None:
    """An independent slow version: multiply the likelihoods of each vote under both orders, from even odds."""
    group = [judgement(f"a{n}", tuple(ranking), n) for n, ranking in enumerate(rankings)]
    reliability = {row.annotator: source.uniform(0.55, 0.95) for row in group}
    found = {
        frozenset(entry): pair
        for entry, pair in zip(*(lambda p: (ids(p), p))(pairs_of(group, reliability)[0]), strict=True)
    }
    for first, second in combinations(range(3), 2):
        first_better, second_better = 1.0, 1.0
        for row in group:
            assert row.ranking is not None
            right = reliability[row.annotator]
            if row.ranking[first] < row.ranking[second]:
                first_better, second_better = first_better * right, second_better * (1 - right)
            elif row.ranking[first] > row.ranking[second]:
                first_better, second_better = first_better * (1 - right), second_better * right
        pair = found.get(frozenset((first, second)))
        if pair is None:
            assert first_better == pytest.approx(second_better)
        else:
            assert pair.flip == pytest.approx(min(first_better, second_better) / (first_better + second_better))
            if first_better != pytest.approx(second_better):  # else rounding decides
                assert (pair.better.id == first) == (first_better > second_better)


def test_nobody_is_certain_and_nobody_is_worse_than_a_coin() -> None:
    assert log_odds("ann", {"ann": 1.0}) == pytest.approx(log(99))
    assert log_odds("ann", {"ann": 0.1}) == 0
    assert log_odds("new", {}) == log_odds("new", None) == pytest.approx(log(0.73 / 0.27))
    assert 1 / (1 + exp(log_odds("new", None))) == pytest.approx(1 - UNKNOWN_RELIABILITY)
