"""The prompt of a row and the answers to it, in whatever columns they stand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from annotation.imports.mapping.conversations import (
    as_turns,
    checked,
    earlier_turns,
    refuse_beginning_mark,
    refuse_turns_within,
    text_in_parts,
    text_lists,
    text_of,
)
from annotation.imports.mapping.labels import Columns, UnusableRow
from annotation.records import Message
from annotation.translation import N_, _

TEXT_KEYS = (
    *("text", "response", "content", "answer", "completion", "output", "generated_text", "value", "generation"),
)
SYSTEM_KEY: Final = "custom_system_prompt"
OTHER_SYSTEMS: Final = N_("answers given under different system messages, which are left out")


def cell(values: Mapping[str, Any], columns: Columns, role: str) -> Any:
    """What a row holds for a role; None where no column has it."""
    return values.get(columns[role]) if role in columns else None


def until_user(turns: Sequence[Message], columns: Columns) -> tuple[Message, ...]:
    ends = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    return checked(ends, columns["messages"])


def turns_of(values: Mapping[str, Any], columns: Columns) -> list[Message]:
    turns = as_turns(values.get(columns["messages"]), columns["messages"])
    if turns is None:
        raise UnusableRow(columns["messages"], _("column '{column}' is plain text, not a conversation"))
    return turns


def prompt_of(values: Mapping[str, Any], columns: Columns) -> tuple[Message, ...]:
    """The prompt of a row: what its column says, with the context below and the system message above."""
    column = columns["prompt"]
    turns = as_turns(values.get(column), column, asked=True)
    if turns is None:
        text = str(values[column])
        if text_lists([text]) is not None:
            raise UnusableRow(
                column,
                _("column '{column}' is a list of texts in JSON, maybe several turns: it is unclear who says them"),
            )
        refuse_turns_within(text, column)
        extra = values.get(columns["context"]) if "context" in columns else None
        if extra not in (None, ""):
            text = text_of(f"{text}\n\n{text_of(extra, columns['context'])}", column, asked=True)
        turns = [{"role": "user", "content": text}]
    if "history" in columns:
        turns = [*earlier_turns(values.get(columns["history"]), columns["history"]), *turns]
    return checked(with_system(turns, values, columns), column)


def with_system(turns: Sequence[Message], values: Mapping[str, Any], columns: Columns) -> list[Message]:
    """A conversation under the system message of its row, if there is one and it has none of its own."""
    return under_system(turns, cell(values, columns, "system"), columns.get("system", ""))


def under_system(turns: Sequence[Message], system: Any, column: str) -> list[Message]:
    """A conversation under a system message, if there is one and it has none of its own."""
    empty = system is None or (isinstance(system, str) and not system.strip())
    if empty or turns[0]["role"] == "system":
        return list(turns)
    return [{"role": "system", "content": text_of(text_in_parts(system, column), column)}, *turns]


def context_of(values: Mapping[str, Any], columns: Columns) -> tuple[Message, ...]:
    """The prompt of a row from the column 'prompt' or 'messages'. Raises UserError if there is neither."""
    if "prompt" in columns:
        return prompt_of(values, columns)
    if "messages" in columns:
        return checked(with_system(turns_of(values, columns), values, columns), columns["messages"])
    raise UnusableRow("", _("there is no column with the prompt"))


def last_answer(values: Mapping[str, Any], columns: Columns) -> tuple[tuple[Message, ...], str]:
    """A conversation up to its last answer, and that. Raises UnusableRow if it ends with the user."""
    column = columns["messages"]
    turns = with_system(turns_of(values, columns), values, columns)
    if turns[-1]["role"] != "assistant":
        raise UnusableRow(column, _("column '{column}' does not end with the assistant's turn"))
    refuse_beginning_mark(turns[-1]["content"], column)
    return checked(turns[:-1], column), turns[-1]["content"]


def with_answers(
    values: Mapping[str, Any], columns: Columns, role: str, entries: Sequence[Any]
) -> tuple[tuple[Message, ...], tuple[str, ...], str]:
    """The prompt of a row and the answers to it, under the system message that all were given under.

    A remark where that is not one. Raises UnusableRow, also for conversations that go on from something else.
    """
    messages, column = context_of(values, columns), columns[role]
    told = [told_answer(entry, column) for entry in entries]
    if any(len(turns) > 1 and turns[:-1] != without_system(messages) for _, turns in told):
        raise UnusableRow(column, _("column '{column}' does not go on from the prompt"))
    answers = tuple(turns[-1]["content"] for _, turns in told)
    for answer in answers:
        refuse_beginning_mark(answer, column)
    systems = {system for system, _ in told}
    if messages[0]["role"] == "system":
        systems = {messages[0]["content"], *(systems - {""})}
    if len(systems) > 1:
        return messages, answers, OTHER_SYSTEMS
    return tuple(under_system(messages, systems.pop(), column)), answers, ""


def told_answer(value: Any, column: str) -> tuple[str, list[Message]]:
    """The system message that came with an answer, or '', and the turns that it ends: often itself alone.

    An answer is text, an object with text, or messages that end with it, maybe after the whole prompt.
    """
    system: Any = ""
    if isinstance(value, dict):
        key = next((key for key in TEXT_KEYS if key in value), None)
        if key is None:
            raise UnusableRow(
                column,
                _("column '{column}' holds an object without a text ({text_keys})"),
                text_keys=", ".join(TEXT_KEYS),
            )
        system, value = value.get(SYSTEM_KEY) or "", value[key]
    turns = as_turns(value, column)
    if turns is None:
        turns = [{"role": "assistant", "content": str(value)}]
    if turns[-1]["role"] != "assistant":
        raise UnusableRow(column, _("column '{column}' does not end with the assistant's turn"))
    if turns[0]["role"] == "system":
        system = turns[0]["content"]
    return (text_of(system, SYSTEM_KEY) if system else ""), without_system(turns)


def without_system(turns: Sequence[Message]) -> list[Message]:
    return [turn for turn in turns if turn["role"] != "system"]
