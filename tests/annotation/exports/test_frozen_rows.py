"""Frozen rows as records: the bytes that data is named by stay, and rows of every version are read."""

from __future__ import annotations

from annotation.exports.frozen_rows import (
    DemonstrationRow,
    FrozenAnswer,
    FrozenRow,
    PreferenceRow,
    PromptRow,
    line_of,
    read_rows,
)

ASKED = ({"role": "user", "content": "Why?"},)
PREFERENCE = PreferenceRow(
    split="train",
    messages=ASKED,
    comparison=3,
    prompt_id=7,
    chosen=FrozenAnswer(id=1, text="So.", finish_reason="stop", tokens=2, model_id=5),
    rejected=FrozenAnswer(2, "Nö."),
    rendered_prompt="<user>Why?",
    judgements=(4,),
    annotators=("ann",),
    strength=2.0,
    agreement=1.0,
    flip=0.1,
)
SIDES = (
    '"chosen": {"finish_reason": "stop", "id": 1, "model_id": 5, "origin": "policy", "text": "So.", "tokens": 2}',
    '"rejected": {"finish_reason": null, "id": 2, "model_id": null, "origin": "policy", "text": "Nö.", "tokens": null}',
)


def test_lines_are_byte_for_byte_those_that_earlier_versions_froze() -> None:
    """Data is named by the sha256 of its file: another order or a further key would freeze the same data twice."""
    messages = '"messages": [{"content": "Why?", "role": "user"}]'
    assert line_of(PREFERENCE).decode() == (
        f'{{"agreement": 1.0, "annotators": ["ann"], {SIDES[0]}, "comparison": 3, "flip": 0.1, "judgements": [4], '
        f'{messages}, "prompt_id": 7, {SIDES[1]}, "rendered_prompt": "<user>Why?", "split": "train", '
        '"strength": 2.0}\n'
    )
    shown = DemonstrationRow("held-out", ASKED, "So.", "example")
    assert line_of(shown).decode() == f'{{{messages}, "origin": "example", "split": "held-out", "text": "So."}}\n'
    known = DemonstrationRow(split="train", messages=ASKED, text="So.", origin="import", response=9, label="1")
    assert line_of(known).decode() == (
        f'{{"label": "1", {messages}, "origin": "import", "response": 9, "split": "train", "text": "So."}}\n'
    )
    assert line_of(PromptRow("train", ASKED, 7)).decode() == f'{{{messages}, "prompt_id": 7, "split": "train"}}\n'


def test_what_every_row_says_is_read_of_any_and_each_as_it_was() -> None:
    rows = (
        PREFERENCE,
        DemonstrationRow(split="train", messages=ASKED, text="So.", origin="import", response=9, label="1"),
        PromptRow("held-out", ASKED, 7),
    )
    for row in rows:
        content = line_of(row)
        assert read_rows(content, type(row)) == [row]
        assert read_rows(content, FrozenRow) == [FrozenRow(row.split, ASKED)]
    assert [row.rendered_prompt for row in rows] == ["<user>Why?", None, None]


def test_rows_of_the_first_versions_lack_what_came_later() -> None:
    """One judgement and one annotator each, answers of policies alone; then neither reliability nor AI judges."""
    first = {
        **{"split": "train", "messages": list(ASKED), "comparison": 3, "prompt_id": 7, "rendered_prompt": "<user>"},
        **{"judgement": 4, "annotator": "ann", "strength": 2},
        "chosen": {"id": 1, "model_id": 5, "text": "So.", "finish_reason": "stop", "tokens": 2},
        "rejected": {"id": 2, "model_id": 5, "text": "No.", "finish_reason": "length", "tokens": 9},
    }
    found = PreferenceRow.from_json(first)
    assert (found.judgements, found.annotators, found.strength) == ((4,), ("ann",), 2)
    assert found.flip is found.agreement is None
    assert (found.ai, [answer.origin for answer in found.sides]) == (False, ["policy", "policy"])
