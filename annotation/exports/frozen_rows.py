"""The lines of frozen data as records: a preference, a demonstration, a prompt. Pure.

A file of them is named by its sha256, so a row always gives the same bytes, and one that was frozen by an earlier
version is read as what it was: what came later has its default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeVar

from annotation.metrics.aggregation import OUTSIDE
from annotation.records import JudgedAnswer, Message, Split, TokenIds
from annotation.validation import known


@dataclass(frozen=True)
class FrozenRow:
    """What every line says: a conversation, and whether it is trained on or held out."""

    split: Split
    messages: tuple[Message, ...]

    @property
    def number(self) -> int | None:
        """What people know it by; None where that is its place among the others."""
        return None

    @property
    def rendered_prompt(self) -> str | None:
        """The conversation as a policy was fed it; None where no policy was, or it was not kept."""
        return None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return known(cls, {**values, "messages": tuple(values["messages"])})


@dataclass(frozen=True)
class FrozenAnswer:
    """One of the two answers of a preference. What no policy drew has no finish reason and no count of tokens."""

    id: int
    text: str
    finish_reason: str | None = None
    tokens: int | None = None
    model_id: int | None = None
    origin: str = "policy"
    token_ids: TokenIds | None = None
    """Of what a policy drew here; None in data from before they were kept."""

    @property
    def outside(self) -> bool:
        """Whether it is no answer, but what people would rather have than answers that are all bad."""
        return self.origin == OUTSIDE

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        if self.token_ids is None:
            del values["token_ids"]
        return values

    @classmethod
    def of(cls, answer: JudgedAnswer) -> FrozenAnswer:
        return cls(**{name: getattr(answer, name) for name in cls.__dataclass_fields__})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FrozenAnswer:
        drawn = values.get("token_ids")
        return known(cls, {**values, "token_ids": None if drawn is None else TokenIds.from_json(drawn)})


@dataclass(frozen=True)
class PreferenceRow(FrozenRow):
    comparison: int
    prompt_id: int
    chosen: FrozenAnswer
    rejected: FrozenAnswer
    rendered_prompt: str | None = None
    """The prompt as a policy was fed it; None where no policy was."""
    judgements: tuple[int, ...] = ()
    annotators: tuple[str, ...] = ()
    """Who prefers it, beside their `judgements`."""
    strength: float | None = None
    """Mean strength, 1 to 3, of those who gave one."""
    agreement: float | None = None
    """Share of those who preferred one of the two that prefer this one."""
    flip: float | None = None
    """Estimated chance of being the wrong way round; None in data from before annotators were measured."""
    ai: bool = False
    """Whether AI judges alone say so."""

    @property
    def sides(self) -> tuple[FrozenAnswer, FrozenAnswer]:
        """Both answers, the better one first."""
        return self.chosen, self.rejected

    def to_json(self) -> dict[str, Any]:
        values = {**super().to_json(), "chosen": self.chosen.to_json(), "rejected": self.rejected.to_json()}
        if self.flip is None:
            del values["flip"]
        if not self.ai:
            del values["ai"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """A stored row; the first version had one judgement in each."""
        judgements = values.get("judgements") or [values[name] for name in ("judgement",) if name in values]
        annotators = values.get("annotators") or [values[name] for name in ("annotator",) if name in values]
        sides = {side: FrozenAnswer.from_json(values[side]) for side in ("chosen", "rejected")}
        by = {"judgements": tuple(judgements), "annotators": tuple(annotators)}
        return super().from_json({**values, **sides, **by})


@dataclass(frozen=True)
class DemonstrationRow(FrozenRow):
    text: str
    origin: str = ""
    """Who wrote it: 'person', 'import', 'policy', or 'example' for one of an example set."""
    response: int | None = None
    label: str | None = None
    """What an example set says of it."""

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_json().items() if value is not None}


@dataclass(frozen=True)
class PromptRow(FrozenRow):
    prompt_id: int

    @property
    def number(self) -> int:
        return self.prompt_id


AnyRow = TypeVar("AnyRow", bound=FrozenRow)


def line_of(row: FrozenRow) -> bytes:
    """A row as a line of a file; the same row always gives the same bytes."""
    return json.dumps(row.to_json(), sort_keys=True, ensure_ascii=False).encode() + b"\n"


def read_rows(content: bytes, kind: type[AnyRow]) -> list[AnyRow]:
    return [kind.from_json(json.loads(line)) for line in content.splitlines()]
