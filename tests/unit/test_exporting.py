"""Judgements to preference rows: what gives no pair is counted with its reason; the same rows have the same name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from annotation.exporting import REASONS, freeze, preference_pairs, read_rows
from annotation.records import JudgedComparison


def answer(number: int, text: str, tokens: int = 5, prompt_tokens: int = 10) -> dict[str, Any]:
    """An answer as the store gives it."""
    return {
        "id": number,
        "model_id": 1,
        "text": text,
        "finish_reason": "stop",
        "tokens": tokens,
        "prompt_tokens": prompt_tokens,
        "rendered_prompt": "<user>Why?<assistant>",
    }


def judged(
    number: int = 1,
    ranking: tuple[int, ...] | None = (2, 1),
    answers: Sequence[dict[str, Any]] = (answer(1, "first"), answer(2, "second")),
    **changes: Any,
) -> JudgedComparison:
    """A judgement that prefers the second answer, unless told otherwise."""
    comparison = JudgedComparison(
        judgement_id=number,
        comparison_id=100 + number,
        prompt_id=7,
        split="train",
        messages=({"role": "user", "content": "Why?"},),
        annotator="ann",
        outcome="ranked",
        ranking=ranking,
        strength=2,
        responses=tuple(answers),
    )
    return replace(comparison, **changes)


def sides(comparison: JudgedComparison) -> list[tuple[str, str]]:
    """(chosen, rejected) texts of a judgement's pairs."""
    return [(row["chosen"]["text"], row["rejected"]["text"]) for row in preference_pairs(comparison, 100)[0]]


# ------------------------------------------------------------------------------------------------------------- pairs
def test_the_answer_of_the_better_rank_is_chosen_wherever_it_stands() -> None:
    assert sides(judged(ranking=(2, 1))) == [("second", "first")]
    assert sides(judged(ranking=(1, 2))) == [("first", "second")]


def test_a_row_carries_what_training_and_tracing_need() -> None:
    (row,), reasons = preference_pairs(judged(number=4), 100)
    assert reasons == []
    assert row == {
        "judgement": 4,
        "comparison": 104,
        "prompt_id": 7,
        "split": "train",
        "annotator": "ann",
        "messages": [{"role": "user", "content": "Why?"}],
        "rendered_prompt": "<user>Why?<assistant>",
        "chosen": {"id": 2, "model_id": 1, "text": "second", "finish_reason": "stop", "tokens": 5},
        "rejected": {"id": 1, "model_id": 1, "text": "first", "finish_reason": "stop", "tokens": 5},
        "strength": 2,
    }


def test_a_ranking_of_three_gives_its_three_pairs_and_ties_among_them_give_none() -> None:
    three = [answer(1, "worst"), answer(2, "best"), answer(3, "middle")]
    strict = judged(ranking=(3, 1, 2), answers=three)
    assert sorted(sides(strict)) == [("best", "middle"), ("best", "worst"), ("middle", "worst")]
    tied = judged(ranking=(2, 1, 2), answers=three)
    assert sorted(sides(tied)) == [("best", "middle"), ("best", "worst")]
    assert preference_pairs(tied, 100)[1] == ["tie"]


# ----------------------------------------------------------------------------------------------------------- left out
LEFT_OUT = {
    "tie": judged(ranking=(1, 1), strength=0),
    "all-bad": judged(ranking=None, outcome="all-bad"),
    "skip": judged(ranking=None, outcome="skip"),
    "identical": judged(answers=[answer(1, "the same"), answer(2, " the same\n")]),
    "too-long": judged(answers=[answer(1, "short"), answer(2, "long", tokens=91)]),
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_each_judgement_without_a_pair_is_counted_with_its_reason(reason: str) -> None:
    frozen = freeze([LEFT_OUT[reason]], 100)
    assert frozen.rows == ()
    assert frozen.left_out == {reason: 1}
    assert reason in REASONS


def test_a_length_of_exactly_the_limit_fits_whichever_answer_is_the_long_one() -> None:
    for tokens in ((90, 5), (5, 90)):
        pair = [answer(number, str(number), tokens=count) for number, count in enumerate(tokens)]
        assert freeze([judged(answers=pair)], 100).count("train") == 1
        assert freeze([judged(answers=pair)], 99).left_out == {"too-long": 1}


def test_what_the_parent_has_seen_is_left_out_of_training_but_never_of_the_held_out_pairs() -> None:
    judgements = [judged(1), judged(2), judged(3), judged(1, split="held-out"), judged(4, split="held-out")]
    frozen = freeze(judgements, 100, trained_until=2)
    assert [(row["judgement"], row["split"]) for row in frozen.rows] == [(3, "train"), (1, "held-out"), (4, "held-out")]
    assert frozen.left_out == {"earlier": 2}
    assert frozen.last_judgement_id == 4


def test_every_judgement_is_a_row_or_a_count() -> None:
    judgements = [judged(1), *LEFT_OUT.values(), judged(9), LEFT_OUT["tie"]]
    frozen = freeze(judgements, 100)
    assert len(frozen.rows) + sum(frozen.left_out.values()) == len(judgements)
    assert frozen.left_out == {"tie": 2, "all-bad": 1, "skip": 1, "identical": 1, "too-long": 1}


def test_no_judgements_freeze_to_empty_data() -> None:
    frozen = freeze([], 100)
    assert (frozen.rows, frozen.left_out, frozen.last_judgement_id) == ((), {}, 0)
    assert frozen.sha256 == sha256(b"").hexdigest()


# --------------------------------------------------------------------------------------------------------- the name
def test_the_name_is_the_sha256_of_the_file_and_rows_survive_the_file() -> None:
    frozen = freeze([judged(1), judged(2, answers=[answer(1, "ä\u2028\n</s>"), answer(2, '"\\')])], 100)
    assert frozen.sha256 == sha256(frozen.content).hexdigest()
    assert tuple(read_rows(frozen.content)) == frozen.rows
    assert all(json.loads(line) for line in frozen.content.decode().split("\n") if line)


def test_the_same_rows_have_the_same_name_and_any_change_another() -> None:
    def shuffled_keys(entry: dict[str, Any]) -> dict[str, Any]:
        return dict(reversed(entry.items()))

    frozen = freeze([judged(1)], 100)
    again = freeze([judged(1, answers=[shuffled_keys(answer(1, "first")), shuffled_keys(answer(2, "second"))])], 100)
    assert again.sha256 == frozen.sha256
    # What was left out is no part of the data.
    assert freeze([judged(1), LEFT_OUT["tie"]], 100).sha256 == frozen.sha256
    others = [judged(1, ranking=(1, 2)), judged(2), judged(1, split="held-out"), judged(1, annotator="bob")]
    assert len({freeze([other], 100).sha256 for other in others} | {frozen.sha256}) == 5
