"""What AI judges said: a reply's verdict, both orders put together, and the ranking of several answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from annotation.translation import _
from annotation.ui.formatting import percent, short_number

Choice = Literal["first", "second", "tie"]
ResponsePair = tuple[int, int]
MAXIMUM_REPLY = 500
CHOICES: Mapping[str, Choice] = {"a": "first", "b": "second", "tie": "tie"}
SWAPPED: Mapping[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
# Anywhere in a line, bare or in Markdown's bold or code. Only ASCII counts: what looks like an A need not be one.
VERDICT = re.compile(r"(?i:verdict)[ *_`]*:[ *_`]*(A|B|(?i:tie))(?![A-Za-z0-9])", re.ASCII)
LAST_LINE = re.compile(rf"[ *_`]*{VERDICT.pattern}[ *_`.]*", re.ASCII)
# Where thoughts begin and end, as models write it.
THINKING = re.compile(
    r"<(?:think|thinking|thought|reasoning|seed:think)>|\[THINK\]|◁think▷|<\|channel\|>(?:analysis|commentary)", re.I
)
THOUGHT = re.compile(
    r"</(?:think|thinking|thought|reasoning|seed:think)>|\[/THINK\]|◁/think▷|<\|channel\|>final(?:<\|message\|>)?", re.I
)


@dataclass(frozen=True)
class Verdict:
    """What a judge said of two answers in one order."""

    choice: Choice
    chance: float | None
    """Probability that the answer shown first is the better one; None from endpoints, which give no probabilities."""
    reply: str
    """The judge's own words, shortened; empty where none were asked for."""
    prompt_tokens: int
    """0 where nobody counts, as some endpoints do not."""
    completion_tokens: int
    seconds: float

    @classmethod
    def of_chance(cls, chance: float, seconds: float, prompt_tokens: int = 0, completion_tokens: int = 0) -> Verdict:
        """For the likelier side, by whoever writes nothing."""
        choice: Choice = "tie" if chance == 0.5 else "first" if chance > 0.5 else "second"
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        return cls(choice=choice, chance=chance, reply="", seconds=seconds, **counts)


@dataclass(frozen=True)
class LetterShare:
    """P(A) + P(B) of a local judge's next token, of which its chances are shares."""

    mean: float
    least: float
    n: int
    """Prompts that were read."""

    def sentence(self) -> str:
        return _("P(A) + P(B) of the next token: {mean} on average, {least} at least.").format(
            mean=percent(self.mean), least=percent(self.least)
        )


@dataclass(frozen=True)
class ScoreTemperature:
    """By which a reward model's chances are calibrated."""

    value: float | None
    """None where none was fitted: it is taken as 1."""

    def sentence(self) -> str:
        if self.value is None:
            return _(
                "Its temperature is unknown, so it is taken as 1 and its chances may be too sure: there were too few "
                "held-out comparisons when the reward model was trained."
            )
        return _("Its chances are calibrated by the temperature {temperature}, fitted on held-out comparisons.").format(
            temperature=short_number(self.value)
        )


ChanceBasis = LetterShare | ScoreTemperature


def parse_verdict(reply: str) -> Choice | None:
    """The verdict in a reply's last line; None unless there is exactly one in the reply, and it stands there alone.

    What a reasoning model thinks aloud does not count; a reply that ends in its thoughts has none.
    """
    said = after_thinking(reply)
    lines = said.splitlines()
    if not lines or len(VERDICT.findall(said)) != 1:
        return None
    found = LAST_LINE.fullmatch(lines[-1])
    return CHOICES[found[1].lower()] if found else None


def after_thinking(reply: str) -> str:
    """What a reply says after its thoughts, also where a template has begun them; nothing where they do not end."""
    said = THOUGHT.split(reply)[-1].strip()
    return "" if THINKING.search(said) else said


def shortened(reply: str) -> str:
    """A reply as it is kept: its beginning and its end, where the verdict stands."""
    half = MAXIMUM_REPLY // 2
    return reply if len(reply) <= MAXIMUM_REPLY else f"{reply[: half - 1]}…{reply[-half:]}"


@dataclass(frozen=True)
class CombinedVerdict:
    """What both orders together say of two answers."""

    choice: Choice
    flipped: bool
    """Whether the judge named the same place twice, and so contradicted itself."""


def combine(forward: Choice, backward: Choice) -> CombinedVerdict:
    """The outcome for answers (a, b) from the verdicts on them as (a, b) and as (b, a).

    Only a preference that survives the swap counts. A tie in one order alone is a tie, but no flip: the judge was
    unsure, and did not contradict itself.
    """
    again = SWAPPED[backward]
    if forward == again:
        return CombinedVerdict(forward, flipped=False)
    return CombinedVerdict("tie", flipped="tie" not in (forward, again))


def both_orders(chances: Mapping[ResponsePair, float | None]) -> dict[ResponsePair, float]:
    """The probability that a is better than b, for a < b, from those of whichever was shown first."""
    found: dict[ResponsePair, float] = {}
    for (a, b), forward in chances.items():
        backward = chances.get((b, a))
        if a < b and forward is not None and backward is not None:
            found[a, b] = (forward + 1 - backward) / 2
    return found


def ranking_of(size: int, outcomes: Mapping[ResponsePair, CombinedVerdict]) -> tuple[int, ...]:
    """Dense ranks of `size` answers, 1 the best, from the outcomes of all pairs (i, j) with i < j.

    By Copeland's score: a win counts 1, a tie 1/2. Answers that beat each other in a circle are tied.
    """
    halves = [0] * size
    for pair in combinations(range(size), 2):
        choice = outcomes[pair].choice
        for place, wins in zip(pair, ("first", "second"), strict=True):
            halves[place] += 2 if choice == wins else choice == "tie"
    levels = sorted(set(halves), reverse=True)
    return tuple(levels.index(score) + 1 for score in halves)
