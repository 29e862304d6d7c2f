"""Two answers and the prompt of both: beside them, in their conversations, or what both begin with. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from annotation.exports.transcripts import is_transcript
from annotation.imports.mapping.conversations import (
    as_turns,
    checked,
    earlier_turns,
    message_of,
    refuse_beginning_mark,
    refuse_turns_within,
    text_lists,
    text_of,
)
from annotation.imports.mapping.labels import Columns, UnusableRow
from annotation.imports.mapping.prompt_and_answers import cell, context_of, under_system, with_system, without_system
from annotation.imports.printable import display_name
from annotation.records import Message
from annotation.translation import _

# Where a prompt can end that stands before its answer in one text.
ENDS: Final = re.compile(r"""\n|[.?!:…]["'”’)\]]*\s|[。？！]""")


def two_answers(
    values: Mapping[str, Any], columns: Columns, first: str, second: str, prompt_within: bool
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """The prompt and two answers to it. Raises UnusableRow, also if the answers are the same."""
    values = without_lists_of_turns(values, columns, first, second)
    one, other = answer_turns(values, columns, first), answer_turns(values, columns, second)
    if (one is None) != (other is None):
        unlike = (
            _("column '{column}' is plain text, unlike '{first}'")
            if other is None
            else _("column '{column}' is a conversation, unlike '{first}'")
        )
        raise UnusableRow(second, unlike, first=display_name(first))
    if one is None or other is None:
        messages, answers = plain_answers(values, columns, first, second, prompt_within)
    else:
        messages, answers = answers_of_conversations(values, columns, (one, first), (other, second))
    for answer, column in zip(answers, (first, second), strict=True):
        refuse_beginning_mark(answer, column)
    if answers[0].strip() == answers[1].strip():
        raise UnusableRow(
            second, _("column '{column}' says the same as '{display_name}'"), display_name=display_name(first)
        )
    return messages, answers


def without_lists_of_turns(values: Mapping[str, Any], columns: Columns, first: str, second: str) -> Mapping[str, Any]:
    """The row with messages for what are lists of texts in JSON, a turn each: of the prompt and of both answers."""
    prompt = columns.get("prompt", "")
    lists = text_lists([values.get(prompt), values.get(first), values.get(second)])
    if lists is None:
        return values
    asked, *answers = lists
    both = [
        [
            {"role": role, "content": text}
            for turn in zip(asked, answer, strict=True)
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        for answer in answers
    ]
    return {**values, prompt: None, first: both[0], second: both[1]}


def answer_turns(values: Mapping[str, Any], columns: Columns, column: str) -> list[Message] | None:
    """The turns of an answer; None for plain text, as is one that goes on after a blank where a transcript ends."""
    value, prompt = values.get(column), cell(values, columns, "prompt")
    if isinstance(value, str) and value.startswith(" ") and isinstance(prompt, str) and is_transcript(prompt):
        text_of(value, column)
        return None
    if isinstance(value, dict) and not value.keys().isdisjoint(("role", "from")):
        return [message_of(value, column)]
    return as_turns(value, column)


def plain_answers(
    values: Mapping[str, Any], columns: Columns, first: str, second: str, prompt_within: bool
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """Two texts. Without a prompt beside them it is what both begin with, up to the end of a line or sentence.

    Where somebody has said that it is there, and no line or sentence is, up to the last blank, as TRL takes it.
    """
    one, other = str(values[first]), str(values[second])
    if "prompt" in columns or "messages" in columns:
        prompt_value = cell(values, columns, "prompt")
        if isinstance(prompt_value, str) and is_transcript(prompt_value):
            one, other = one.removeprefix(" "), other.removeprefix(" ")  # the space after "Assistant:"
        return context_of(values, columns), (one, other)
    refuse_turns_within(one, first)  # before they are cut
    shared = shared_prompt(one, other, prompt_within)
    if not shared:
        raise UnusableRow(first, _("column '{column}' has no prompt beside it, and the two answers don't begin alike"))
    prompt: list[Message] = [{"role": "user", "content": shared}]
    rest = text_of(one[len(shared) :].strip(), first), text_of(other[len(shared) :].strip(), second)
    return checked(with_system(prompt, values, columns), first), rest


def answers_of_conversations(
    values: Mapping[str, Any], columns: Columns, one: tuple[list[Message], str], other: tuple[list[Message], str]
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """Two conversations: only an answer each, after the prompt beside them, or whole ones that share all but that."""
    for turns, column in (one, other):
        if turns[-1]["role"] != "assistant":
            raise UnusableRow(column, _("column '{column}' does not end with the assistant's turn"))
    answers = one[0][-1]["content"], other[0][-1]["content"]
    before, other_before = one[0][:-1], other[0][:-1]
    if before != other_before:
        raise UnusableRow(
            other[1],
            _("column '{column}' parts from '{display_name}' before the last answer"),
            display_name=display_name(one[1]),
        )
    if not before:
        return context_of(values, columns), answers
    return checked(with_system(with_prompt(before, one[1], values, columns), values, columns), one[1]), answers


def with_prompt(turns: list[Message], column: str, values: Mapping[str, Any], columns: Columns) -> list[Message]:
    """A whole conversation, under the system message of the prompt beside it. Raises UnusableRow for another's prompt.

    Its own is the same turns, or one of the user's; what belongs to the prompt stands in the conversation, too.
    """
    prompt = cell(values, columns, "prompt")
    asked = None if prompt in (None, "") else as_turns(prompt, columns["prompt"], asked=True)
    said = [turn["content"].strip() for turn in turns if turn["role"] == "user"]
    found = {"prompt": prompt in (None, "") or str(prompt).strip() in said}
    if asked is not None:
        system = asked[0]["content"] if asked[0]["role"] == "system" else ""
        turns = under_system(turns, system, columns["prompt"])
        found["prompt"] = without_system(asked) == without_system(turns) and system in ("", turns[0]["content"])
    earlier = earlier_turns(cell(values, columns, "history"), columns.get("history", ""))
    found["history"] = all(turn in turns for turn in earlier)
    context = cell(values, columns, "context")
    found["context"] = context in (None, "") or any(text_of(context, columns["context"]).strip() in one for one in said)
    missing = next((role for role, is_there in found.items() if not is_there), None)
    if missing is not None:
        raise UnusableRow(
            columns[missing],
            _("column '{column}' is not the question in '{display_name}'")
            if missing == "prompt"
            else _("column '{column}' is not part of the conversation in '{display_name}'"),
            display_name=display_name(column),
        )
    return turns


def shared_prompt(one: str, other: str, words: bool = False) -> str:
    """The lines and sentences that two texts begin with alike, or else, if these count, the words; empty for none."""
    pairs = enumerate(zip(one, other, strict=False))
    shared = one[: next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))]
    ends = [found.end() for found in ENDS.finditer(shared)]
    return shared[: max(ends, default=shared.rfind(" ") + 1 if words else 0)].rstrip()
