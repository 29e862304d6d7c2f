"""What becomes of a row: a prompt, and maybe answers with a verdict or a label. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from annotation.records import Message
from annotation.translation import _
from annotation.ui.formatting import cut


@dataclass(frozen=True)
class MappedRow:
    """What a row says: a prompt, and maybe answers, a verdict on them by position, or a good/bad label of the one."""

    messages: tuple[Message, ...]
    answers: tuple[str, ...] = ()
    outcome: Literal["ranked", "all-bad"] | None = None
    ranking: tuple[int, ...] | None = None
    strength: int | None = None
    label: bool | None = None
    remark: str = ""
    """As the code has it, whatever language is spoken: it is kept. `remark_words` tells it."""
    formed_chance: float | None = None
    """The chances of `annotation.selection` that came with a verdict; None is unknown."""
    people_chance: float | None = None
    shown_chance: float | None = None


# Between several remarks on a row.
BETWEEN: Final = "; "
RowReader = Callable[[Mapping[str, Any]], MappedRow]


def remarked(record: MappedRow, remark: str) -> MappedRow:
    return replace(record, remark=BETWEEN.join(filter(None, (record.remark, remark))))


def remark_words(remark: str) -> str:
    return BETWEEN.join(_(one) for one in remark.split(BETWEEN))


def with_texts(record: MappedRow, shorten: int) -> MappedRow:
    """A record to look at: long texts cut."""
    messages = tuple({"role": turn["role"], "content": cut(turn["content"], shorten)} for turn in record.messages)
    return replace(record, messages=messages, answers=tuple(cut(answer, shorten) for answer in record.answers))
