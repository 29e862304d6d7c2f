"""Verdicts read from replies, both orders put together, rankings and biases, by hand-worked numbers."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest

from rlhf.judges.verdicts import (
    MAXIMUM_REPLY,
    Choice,
    CombinedVerdict,
    Verdict,
    both_orders,
    combine,
    parse_verdict,
    ranking_of,
    shortened,
)


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("Verdict: A", "first"),
        ("Verdict: B", "second"),
        ("Verdict: tie", "tie"),
        ("A is whole, B is cut off.\nVerdict: A", "first"),
        ("Both say the same.\n\n**Verdict: Tie**\n", "tie"),
        ("**Verdict:** B", "second"),
        ("`Verdict: A`.", "first"),
        ("__Verdict__: A", "first"),
        ("verdict:B  \n \n", "second"),
        ("I find A's verdict on the film the better one.\nVerdict: A", "first"),
        ("Windows line ends.\r\nVerdict: B\r\n", "second"),
        ("<think>Verdict: A? No, it is wrong.\nVerdict: A</think>\nB is right.\nVerdict: B", "second"),
        ("Some templates open the thought themselves. Verdict: A\n</think>\n\nVerdict: B", "second"),
        ("<thinking>\nVerdict: A\n</thinking>\nVerdict: B", "second"),
        ("[THINK]Verdict: A[/THINK]Verdict: tie", "tie"),
        ("<|channel|>analysis<|message|>Verdict: A<|end|><|channel|>final<|message|>Verdict: B", "second"),
        ("<think>one</think> <think>two, Verdict: A</think>\nVerdict: B", "second"),
    ],
)
def test_a_verdict_alone_on_the_last_line_is_read(reply: str, choice: Choice) -> None:
    assert parse_verdict(reply) == choice


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " \n\t\n",
        "A",
        "Answer A is better.",
        "Verdict: C",
        "Verdict: A or B",
        "Verdict: A/B",
        "Verdict: both",
        "Verdict: Answer A",
        "Verdict: a better answer is hard to find",
        "Verdict: AB",
        "Verdict A",
        "Verdict:\nA",
        "My verdict: A",
        "Verdict: A\nI hope this helps!",
        "Verdict: A\nVerdict: B",
        "Verdict: A\nVerdict: A",
        "Verdict: A would be unfair.\nVerdict: B",
        '{"verdict": "A"}',
        '"Verdict: A"',
        "[Verdict: A]",
        "> Verdict: A",
        "Verdict: A<|im_end|>",
        "Verdict: А",  # Cyrillic A
        "Verdict: Α",  # Greek Alpha
        "Vеrdict: A",  # Cyrillic e
        "Verdıct: A",  # Turkish dotless i, which folds to i outside of ASCII
        "Ｖｅｒｄｉｃｔ: Ａ",
        "Verdict：A",
        "Ver\u200bdict: A",
        "Verdict: A\u200b",
        "Verdict (quoted): A",
        "Urteil: A",
        "判定：A",
        "<!DOCTYPE html>\n<html><body>Verdict: A</body>\n</html>",
        "<think>A is longer. Verdict: A",
        "</think><think>Verdict: A",
        "[THINK]A is longer.\nVerdict: A",
        "Verdict: A\n<thinking>But is it?",
        "<think>All in thought.\nVerdict: A</think>",
        "Verdict: B</think>",
    ],
)
def test_anything_else_has_no_verdict(reply: str) -> None:
    assert parse_verdict(reply) is None


def test_a_reply_cut_off_before_its_end_has_no_verdict() -> None:
    """At each of its letters but the last: a judge whose tokens ran out has not decided."""
    reply = "B is right, and A is not.\nVerdict: tie"
    assert parse_verdict(reply) == "tie"
    assert {parse_verdict(reply[:end]) for end in range(len(reply))} == {None}


def test_a_long_reply_is_kept_with_its_end() -> None:
    assert shortened("Verdict: A") == "Verdict: A"
    assert shortened("x" * MAXIMUM_REPLY) == "x" * MAXIMUM_REPLY
    kept = shortened("Reason: " + "x" * 10_000 + "\nVerdict: B")
    assert len(kept) == MAXIMUM_REPLY
    assert kept.startswith("Reason: x")
    assert parse_verdict(kept) == "second"


# ------------------------------------------------------------------------------------------------------ both orders
@pytest.mark.parametrize(
    ("forward", "backward", "choice", "flipped"),
    [
        # Answers (a, b) forward, (b, a) backward: first then second is a both times.
        ("first", "second", "first", False),
        ("second", "first", "second", False),
        ("tie", "tie", "tie", False),
        ("first", "first", "tie", True),
        ("second", "second", "tie", True),
        ("first", "tie", "tie", False),
        ("tie", "first", "tie", False),
        ("second", "tie", "tie", False),
        ("tie", "second", "tie", False),
    ],
)
def test_only_a_preference_that_survives_the_swap_counts(
    forward: Choice, backward: Choice, choice: Choice, flipped: bool
) -> None:
    assert combine(forward, backward) == CombinedVerdict(choice, flipped)


def test_both_orders_make_one_chance() -> None:
    """0.9 for a shown first, and 0.6 for b shown first: (0.9 + 0.4) / 2. One order alone tells nothing."""
    chances = {(0, 1): 0.9, (1, 0): 0.6, (0, 2): 0.8, (1, 2): 0.5, (2, 1): None}
    assert both_orders(chances) == {(0, 1): pytest.approx(0.65)}


def outcomes(size: int, winners: dict[tuple[int, int], int]) -> dict[tuple[int, int], CombinedVerdict]:
    """Outcomes of all pairs; those without a winner are tied."""
    choices: dict[tuple[int, int], Choice] = {
        pair: "first" if winner == pair[0] else "second" for pair, winner in winners.items()
    }
    return {pair: CombinedVerdict(choices.get(pair, "tie"), False) for pair in combinations(range(size), 2)}


@pytest.mark.parametrize(
    ("size", "winners", "ranking"),
    [
        (2, {(0, 1): 1}, (2, 1)),
        (2, {}, (1, 1)),
        # Condorcet's circle: everybody wins once.
        (3, {(0, 1): 0, (1, 2): 1, (0, 2): 2}, (1, 1, 1)),
        # 2 beats both, 0 and 1 tie: 1/2, 1/2, 2.
        (3, {(0, 2): 2, (1, 2): 2}, (2, 2, 1)),
        # 0 beats 1, ties elsewhere: 1.5, 0.5, 1.
        (3, {(0, 1): 0}, (1, 3, 2)),
        # A circle of 0, 1, 2 above 3: 2, 2, 2, 0.
        (4, {(0, 1): 0, (1, 2): 1, (0, 2): 2, (0, 3): 0, (1, 3): 1, (2, 3): 2}, (1, 1, 1, 2)),
    ],
)
def test_several_answers_are_ranked_by_wins_and_half_ties(
    size: int, winners: dict[tuple[int, int], int], ranking: tuple[int, ...]
) -> None:
    assert ranking_of(size, outcomes(size, winners)) == ranking


def test_a_consistent_judge_of_any_taste_is_reproduced() -> None:
    for order in permutations(range(4)):
        winners = {pair: min(pair, key=order.index) for pair in combinations(range(4), 2)}
        assert ranking_of(4, outcomes(4, winners)) == tuple(order.index(place) + 1 for place in range(4))


def test_a_missing_pair_is_a_bug() -> None:
    with pytest.raises(KeyError):
        ranking_of(3, {(0, 1): CombinedVerdict("first", False)})


@pytest.mark.parametrize(("chance", "choice"), [(0.5, "tie"), (0.51, "first"), (0.49, "second")])
def test_a_chance_decides_for_the_likelier_side(chance: float, choice: Choice) -> None:
    verdict = Verdict.of_chance(chance, 0.2, 7)
    assert (verdict.choice, verdict.chance, verdict.reply) == (choice, chance, "")
    assert (verdict.prompt_tokens, verdict.completion_tokens, verdict.seconds) == (7, 0, 0.2)
