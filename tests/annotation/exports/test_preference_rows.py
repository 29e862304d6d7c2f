"""Judgements to preference rows: what gives no pair is counted with its reason; the same rows have the same name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from annotation.exports.frozen_rows import PreferenceRow, line_of, read_rows
from annotation.exports.preference_rows import PreferenceRows
from annotation.metrics.aggregation import REASONS
from annotation.records import JudgedAnswer, Judgement, UserError
from rlhf.jobs.artifacts import write_lines
from tests.builders import judgement as judgement_of
from tests.frozen_in_memory import freeze


def answer(number: int, text: str, tokens: int | None = 5, prompt_tokens: int | None = 10) -> JudgedAnswer:
    """An answer as the store gives it."""
    drawn = tokens is not None
    return JudgedAnswer(
        id=number,
        text=text,
        origin="policy" if drawn else "import",
        model_id=1 if drawn else None,
        revision="base" if drawn else None,
        finish_reason="stop" if drawn else None,
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        rendered_prompt="<user>Why?<assistant>" if drawn else None,
    )


def judged(
    number: int = 1,
    ranking: tuple[int, ...] | None = (2, 1),
    answers: Sequence[JudgedAnswer] = (answer(1, "first"), answer(2, "second")),
    **changes: Any,
) -> Judgement:
    """A judgement on a comparison of its own that prefers the second answer, unless told otherwise."""
    made = judgement_of("ann", ranking, number, comparison_id=100 + number, responses=tuple(answers), strength=2)
    return replace(made, **changes)


def sides(judgement: Judgement) -> list[tuple[str, str]]:
    """(chosen, rejected) texts of a judgement's pairs."""
    return [(row.chosen.text, row.rejected.text) for row in freeze([judgement], 100).rows]


# ------------------------------------------------------------------------------------------------------------- pairs
def test_the_answer_of_the_better_rank_is_chosen_wherever_it_stands() -> None:
    assert sides(judged(ranking=(2, 1))) == [("second", "first")]
    assert sides(judged(ranking=(1, 2))) == [("first", "second")]


def test_a_row_carries_what_training_and_tracing_need() -> None:
    frozen = freeze([judged(number=4)], 100, reliability={"ann": 0.9})
    assert frozen.left_out == {}
    assert json.loads(line_of(frozen.rows[0])) == {
        "comparison": 104,
        "prompt_id": 7,
        "split": "train",
        "judgements": [4],
        "annotators": ["ann"],
        "messages": [{"role": "user", "content": "Why?"}],
        "rendered_prompt": "<user>Why?<assistant>",
        "chosen": {"id": 2, "origin": "policy", "model_id": 1, "text": "second", "finish_reason": "stop", "tokens": 5},
        "rejected": {"id": 1, "origin": "policy", "model_id": 1, "text": "first", "finish_reason": "stop", "tokens": 5},
        "strength": 2,
        "agreement": 1.0,
        "flip": 0.1,
    }


def test_answers_that_nobody_drew_have_no_length_to_be_too_long_by() -> None:
    imported = [answer(1, "first", None, None), answer(2, "second", None, None)]
    (row,) = freeze([judged(answers=imported)], 10).rows
    assert row.rendered_prompt is None


def test_the_pairs_of_a_comparison_stay_together() -> None:
    """Two annotators of two comparisons, judged in turn."""
    rows = [
        replace(
            judged(number, answers=[answer(n, f"{number % 2} {n}") for n in range(3)], ranking=(1, 2, 3)),
            comparison_id=number % 2,
            annotator=f"a{number}",
        )
        for number in range(4)
    ]
    frozen = freeze(rows, 100)
    assert [row.comparison for row in frozen.rows] == [0, 0, 0, 1, 1, 1]
    assert frozen.rows[0].judgements == (0, 2)


def test_annotators_who_are_left_out_give_no_pairs() -> None:
    frozen = freeze([judged(1), judged(2, annotator="troll")], 100, excluded=["troll"])
    assert (len(frozen.rows), frozen.left_out) == (1, {"excluded": 1})


def test_a_ranking_of_three_gives_its_three_pairs_and_ties_among_them_give_none() -> None:
    three = [answer(1, "worst"), answer(2, "best"), answer(3, "middle")]
    strict = judged(ranking=(3, 1, 2), answers=three)
    assert sorted(sides(strict)) == [("best", "middle"), ("best", "worst"), ("middle", "worst")]
    tied = judged(ranking=(2, 1, 2), answers=three)
    assert sorted(sides(tied)) == [("best", "middle"), ("best", "worst")]
    assert freeze([tied], 100).left_out == {"tie": 1}


def test_answers_that_are_all_bad_are_each_worse_than_none() -> None:
    """Unless somebody ranked them; two who say so are wrong together less often, and a row comes back as it was."""
    bad = judged(ranking=None, outcome="all-bad")
    rows = freeze([bad], 100).rows
    assert [(row.chosen.outside, row.chosen.text, row.rejected.text) for row in rows] == [
        (True, "", response.text) for response in bad.responses
    ]
    assert [row.flip for row in rows] == [0.27, 0.27]
    assert [PreferenceRow.from_json(row.to_json()) for row in rows] == list(rows)
    both = PreferenceRows([[bad, replace(bad, id=2, annotator="bob")]], 100)
    assert {row.flip for row in both} == {round(0.27**2 / (0.27**2 + 0.73**2), 6)}
    ranked = PreferenceRows([[bad, judged(2, annotator="bob")]], 100)
    assert [row.chosen.outside for row in ranked] == [False]
    coin = PreferenceRows([[bad]], 100, reliability={bad.annotator: 0.5})
    assert list(coin) == []
    assert coin.left_out == {"all-bad": 1}


# ----------------------------------------------------------------------------------------------------------- left out
LEFT_OUT = {
    "tie": judged(ranking=(1, 1), strength=0),
    "all-bad": judged(ranking=None, outcome="all-bad", split="held-out"),
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
        assert freeze([judged(answers=pair)], 100).counts["train"] == 1
        assert freeze([judged(answers=pair)], 99).left_out == {"too-long": 1}


def test_what_the_parent_has_seen_is_left_out_of_training_but_never_of_the_held_out_pairs() -> None:
    judgements = [judged(1), judged(2), judged(3), judged(5, split="held-out"), judged(6, split="held-out")]
    frozen = freeze(judgements, 100, trained_until=2)
    assert [(row.judgements, row.split) for row in frozen.rows] == [
        ((3,), "train"),
        ((5,), "held-out"),
        ((6,), "held-out"),
    ]
    assert frozen.left_out == {"earlier": 2}
    assert frozen.last_judgement_id == 6


def test_every_judgement_is_a_row_or_a_count() -> None:
    judgements = [judged(1)]
    for number, entry in enumerate([*LEFT_OUT.values(), judged(), LEFT_OUT["tie"]], 2):
        judgements.append(replace(entry, id=number, comparison_id=number))
    frozen = freeze(judgements, 100)
    assert len(frozen.rows) + sum(frozen.left_out.values()) == len(judgements)
    assert frozen.left_out == {"tie": 2, "all-bad": 1, "skip": 1, "identical": 1, "too-long": 1}


def test_no_judgements_freeze_to_empty_data() -> None:
    frozen = freeze([], 100)
    assert (frozen.rows, frozen.left_out, frozen.last_judgement_id) == ((), {}, 0)
    assert frozen.content == b""


# --------------------------------------------------------------------------------------------------------- the name
def test_the_name_is_the_sha256_of_the_file_and_rows_survive_the_file(tmp_path: Path) -> None:
    frozen = freeze([judged(1), judged(2, answers=[answer(1, "ä\u2028\n</s>"), answer(2, '"\\')])], 100)
    name = write_lines(tmp_path, map(line_of, frozen.rows), ".jsonl")
    content = (tmp_path / f"{name}.jsonl").read_bytes()
    assert (name, content) == (sha256(frozen.content).hexdigest(), frozen.content)
    assert tuple(read_rows(content, PreferenceRow)) == frozen.rows
    assert all(json.loads(line) for line in content.decode().split("\n") if line)


def test_what_fails_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    def lines() -> Iterator[bytes]:
        yield b"{}\n"
        raise UserError("too few")

    with pytest.raises(UserError, match="too few"):
        write_lines(tmp_path, lines(), ".jsonl")
    assert list(tmp_path.iterdir()) == []


def test_the_same_rows_have_the_same_bytes_and_any_change_others() -> None:
    def shuffled_keys(entry: JudgedAnswer) -> JudgedAnswer:
        return JudgedAnswer.from_json(dict(reversed(asdict(entry).items())))

    frozen = freeze([judged(1)], 100)
    again = freeze([judged(1, answers=[shuffled_keys(answer(1, "first")), shuffled_keys(answer(2, "second"))])], 100)
    assert again.content == frozen.content
    # What was left out is no part of the data.
    assert freeze([judged(1), replace(LEFT_OUT["tie"], comparison_id=5)], 100).content == frozen.content
    others = [judged(1, ranking=(1, 2)), judged(2), judged(1, split="held-out"), judged(1, annotator="bob")]
    assert len({freeze([other], 100).content for other in others} | {frozen.content}) == 5
