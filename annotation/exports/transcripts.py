"""Conversations as one text, in the form of the HH data (Bai et al. 2022): written, and read back. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from annotation.records import Message

NAMES: Final = {"user": "Human", "assistant": "Assistant", "system": "System"}
ROLES: Final = {name: role for role, name in NAMES.items()}
TURN: Final = re.compile(r"\A\s*(System|Human):|\n\n(Human|Assistant):")
BEGINNING: Final = re.compile(r"\s*(Human:|System:.*?\n\nHuman:)", re.DOTALL)


def transcript(messages: Sequence[Message]) -> str:
    turns = [f"\n\n{NAMES.get(turn['role'], turn['role'].capitalize())}: {turn['content']}" for turn in messages]
    return "".join([*turns, "\n\nAssistant:"])


def is_transcript(text: str) -> bool:
    return BEGINNING.match(text) is not None and "\n\nAssistant:" in text


def turns_of(text: str) -> list[Message]:
    """The turns of a transcript: of one that ends where an answer belongs exactly, of a whole one without edges."""
    found = list(TURN.finditer(text))
    ends = [*(turn.start() for turn in found[1:]), len(text)]
    turns = [
        {"role": ROLES[turn[1] or turn[2]], "content": text[turn.end() : end].removeprefix(" ")}
        for turn, end in zip(found, ends, strict=True)
    ]
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        return list(turns[:-1])
    return [{**turn, "content": turn["content"].strip()} for turn in turns]


def can_be_told(messages: Sequence[Message]) -> bool:
    """Whether a conversation's transcript reads back as it was: no text holds what would be taken for a turn's mark."""
    text = transcript(messages)
    return is_transcript(text) and turns_of(text) == [dict(turn) for turn in messages]
