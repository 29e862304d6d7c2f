"""The vocabulary of the annotation side: frozen records, parsed once at the edge, and the error people are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Split = Literal["train", "held-out"]
Role = Literal["annotator", "admin"]
Outcome = Literal["ranked", "all-bad", "skip", "undone"]
Message = Mapping[str, str]

ROLES: tuple[Role, ...] = ("annotator", "admin")

# What an annotator can say of two answers, as seen on the screen; `Verdict.parse` turns it into a ranking.
VERDICTS: tuple[str, ...] = (
    "left-better",
    "left-slightly",
    "tie",
    "right-slightly",
    "right-better",
    "all-bad",
    "skip",
)


class UserError(Exception):
    """Something a person can mend. The message says what is wrong, where, and what to do about it."""


def now() -> str:
    """The current time as ISO 8601 text in UTC; fixed width, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def seconds_between(earlier: str, later: str) -> float:
    """Seconds from one `now()` text to another."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with the user's turn. A prompt stays in its split for ever."""

    messages: tuple[Message, ...]
    split: Split
    source: str
    id: int = 0

    @property
    def text(self) -> str:
        """The last turn: what a person reads as the question."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Sampling:
    """How an answer was drawn. `min_p` keeps tokens of at least that share of the likeliest (Nguyen et al., 2024)."""

    temperature: float = 1.0
    min_p: float = 0.1
    max_new_tokens: int = 96


@dataclass(frozen=True)
class Response:
    """One answer with everything needed to draw it again: policy, sampling, seed and the exact text it was fed."""

    prompt_id: int
    model_id: int
    text: str
    sampling: Sampling
    seed: int
    rendered_prompt: str
    prompt_tokens: int
    tokens: int
    finish_reason: Literal["stop", "length"]
    id: int = 0


@dataclass(frozen=True)
class Annotator:
    """A person (later also an AI judge) with a role."""

    id: int
    name: str
    role: Role


@dataclass(frozen=True)
class Claim:
    """A comparison in one annotator's hands: `shown_order[i]` is the position of the answer shown in place i."""

    nonce: str
    comparison_id: int
    annotator_id: int
    shown_order: tuple[int, ...]
    messages: tuple[Message, ...]
    texts: tuple[str, ...]

    @property
    def shown_texts(self) -> tuple[str, ...]:
        """The answers in the order in which they are shown."""
        return tuple(self.texts[position] for position in self.shown_order)


@dataclass(frozen=True)
class Verdict:
    """A judgement free of the order shown: `ranking[p]` ranks the answer at position p (1 is best, ties equal)."""

    outcome: Outcome
    ranking: tuple[int, ...] | None = None
    strength: int | None = None

    @staticmethod
    def parse(word: str, shown_order: tuple[int, ...]) -> Verdict:
        """What was pressed on the screen, with the order shown undone. Strength: 2 better, 1 slightly, 0 tie.

        Raises UserError for a word that is not one of VERDICTS.
        """
        if word not in VERDICTS:
            raise UserError(f"'{word}' is not a judgement. Choose one of: {', '.join(VERDICTS)}.")
        if word in ("all-bad", "skip"):
            return Verdict("all-bad" if word == "all-bad" else "skip")
        if word == "tie":
            return Verdict("ranked", tuple(1 for _ in shown_order), 0)
        side, degree = word.split("-")
        best_place = 0 if side == "left" else 1
        ranking = [2] * len(shown_order)
        ranking[shown_order[best_place]] = 1
        return Verdict("ranked", tuple(ranking), 2 if degree == "better" else 1)


@dataclass(frozen=True)
class JudgedComparison:
    """A current judgement with what was judged: the raw material of training data."""

    judgement_id: int
    comparison_id: int
    prompt_id: int
    split: Split
    messages: tuple[Message, ...]
    annotator: str
    outcome: Outcome
    ranking: tuple[int, ...] | None
    strength: int | None
    responses: tuple[Mapping[str, Any], ...]
