"""What a comparison's judgements say together, as preference pairs with the chance that each is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, log
from statistics import fmean
from typing import Final, Protocol, TypeVar

from annotation.records import JudgedAnswer, Judgement, Outcome, Purpose
from annotation.translation import N_

# An annotator of whom nothing is known: 73% is how often InstructGPT's labellers agreed (Ouyang et al. 2022, 3.4).
UNKNOWN_RELIABILITY = 0.73
# Nobody is believed to be certain, or worse than a coin.
RELIABILITY_RANGE = (0.5, 0.99)

# Where an answer comes from that is none: what is better than answers that are all bad.
OUTSIDE: Final = "outside"
NO_ANSWER: Final = JudgedAnswer(0, "", OUTSIDE)

# Why judgements give no preference pair, in the words of the page.
REASONS = {
    "tie": N_("tie"),
    "all-bad": N_("all bad"),
    "skip": N_("skipped"),
    "identical": N_("identical answers"),
    "too-long": N_("too long"),
    "earlier": N_("already trained on"),
    "gold": N_("gold (known answer)"),
    "re-ask": N_("asked again"),
    "excluded": N_("annotator left out"),
    "flagged": N_("flagged"),
    "early": N_("judged before the answers ended"),
    "disagreement": N_("annotators disagree evenly"),
    "unreliable": N_("annotator no better than guessing"),
    "settled": N_("settled by an admin"),
    "judge": N_("by an AI judge, beside people"),
    "judge-alone": N_("by an AI judge alone"),
    "template": N_("refused by the model's chat template"),
}


@dataclass(frozen=True)
class Pair:
    """A preference between two answers of one comparison, with who says so and how sure they are together."""

    better: JudgedAnswer
    worse: JudgedAnswer
    judgements: tuple[int, ...]
    annotators: tuple[str, ...]
    strength: float | None
    """Mean strength (1 slightly, 2 clearly, 3 much) of those who gave one for this preference."""
    agreement: float
    """Share of those who preferred one of the two that prefer this one."""
    flip: float
    """Estimated chance that the preference is the wrong way round, by the reliability of those who judged."""
    ai: bool = False
    """Whether AI judges alone say so."""

    @property
    def identical(self) -> bool:
        """Whether both answers say the same, so that there is nothing to prefer."""
        return self.better.text.strip() == self.worse.text.strip()


def people_first(group: Sequence[Judgement], judges_too: bool = True) -> tuple[list[Judgement], list[str]]:
    """The judgements of one comparison, and a reason for each left out: AI judges', where people have judged it too.

    Without `judges_too` all of AI judges'.
    """
    by_people = [judgement for judgement in group if judgement.annotator_kind != "ai" and judgement.outcome != "skip"]
    if judges_too and not by_people:
        return list(group), []
    kept = [judgement for judgement in group if judgement.annotator_kind != "ai"]
    return kept, ["judge" if by_people else "judge-alone"] * (len(group) - len(kept))


def usable(group: Sequence[Judgement], excluded: Iterable[str] = ()) -> tuple[list[Judgement], list[str]]:
    """The judgements of one comparison that count, and the reasons why others don't.

    What settles a comparison (`settling`) stands alone. A flag by anyone who is not left out, in
    whatever role, takes the comparison out.
    """
    left_out = set(excluded)
    reasons: list[str] = []
    counted: list[Judgement] = []
    for judgement in group:
        reason = (
            judgement.purpose if judgement.purpose in ("gold", "re-ask")
            else "excluded" if judgement.annotator in left_out
            else "early" if judgement.early
            else None
        )  # fmt: skip
        if reason is None:
            counted.append(judgement)
        else:
            reasons.append(reason)
    if any(judgement.flag and judgement.annotator not in left_out for judgement in group):
        return [], [*reasons, *("flagged" for _ in counted)]
    if settled := settling(counted):
        return [settled], [*reasons, *("settled" for _ in range(len(counted) - 1))]
    return counted, reasons


class SaidOfComparison(Protocol):
    @property
    def purpose(self) -> Purpose: ...
    @property
    def outcome(self) -> Outcome: ...


Counted = TypeVar("Counted", bound=SaidOfComparison)


def settling(counted: Sequence[Counted]) -> Counted | None:
    """What settles a comparison, of the judgements of it that count: the last that was to, and was not skipped."""
    return next((one for one in reversed(counted) if one.purpose == "settle" and one.outcome != "skip"), None)


def pairs_of(
    counted: Sequence[Judgement], reliability: Mapping[str, float] | None = None
) -> tuple[list[Pair], list[str]]:
    """The preference pairs of one comparison, edits first, and a reason for each pair of answers that gives none.

    Each annotator votes on each pair of answers with the log-odds of their reliability; the sign decides and the sum
    gives the chance of error (independent votes of one-coin annotators, Dawid and Skene 1979).
    """
    voting = [judgement for judgement in counted if judgement.ranking is not None]
    if not voting:
        return [], [judgement.outcome for judgement in counted]
    pairs = [pair for judgement in voting for pair in edit_pairs(judgement, reliability)]
    reasons: list[str] = []
    for first, second in combinations(range(len(voting[0].responses)), 2):
        found = decide(voting, first, second, reliability)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            reasons.append(found)
    return pairs, reasons


def outside_pairs(counted: Sequence[Judgement], reliability: Mapping[str, float] | None = None) -> list[Pair]:
    """That no answer is better than each of a comparison's, where everybody who counts found all of them bad.

    None where somebody ranked them: then that is learnt. The chance of error is that all of these people are wrong.
    """
    bad = [judgement for judgement in counted if judgement.outcome == "all-bad"]
    score = sum(log_odds(judgement.annotator, reliability) for judgement in bad)
    if score <= 0 or any(judgement.ranking is not None for judgement in counted):
        return []
    return [
        Pair(
            better=NO_ANSWER,
            worse=response,
            judgements=tuple(judgement.id for judgement in bad),
            annotators=tuple(judgement.annotator for judgement in bad),
            strength=None,
            agreement=1.0,
            flip=1 / (1 + exp(score)),
            ai=all(judgement.annotator_kind == "ai" for judgement in bad),
        )
        for response in bad[0].responses
    ]


def decide(voting: Sequence[Judgement], first: int, second: int, reliability: Mapping[str, float] | None) -> Pair | str:
    """The preference between the answers at two positions, or the reason why there is none."""
    votes = [(judgement, vote(judgement, first, second)) for judgement in voting]
    score = sum(sign * log_odds(judgement.annotator, reliability) for judgement, sign in votes)
    if score == 0:
        weighty = any(sign and log_odds(judgement.annotator, reliability) for judgement, sign in votes)
        return "disagreement" if weighty else "unreliable" if any(sign for _, sign in votes) else "tie"
    direction = 1 if score > 0 else -1
    agreeing = [judgement for judgement, sign in votes if sign == direction]
    decisive = sum(1 for _, sign in votes if sign)
    strengths = [judgement.strength for judgement in agreeing if judgement.strength is not None]
    responses = voting[0].responses
    better, worse = (first, second) if direction > 0 else (second, first)
    return Pair(
        better=responses[better],
        worse=responses[worse],
        judgements=tuple(judgement.id for judgement in agreeing),
        annotators=tuple(judgement.annotator for judgement in agreeing),
        strength=fmean(strengths) if strengths else None,
        agreement=len(agreeing) / decisive,
        flip=1 / (1 + exp(abs(score))),
        ai=all(judgement.annotator_kind == "ai" for judgement in agreeing),
    )


def vote(judgement: Judgement, first: int, second: int) -> int:
    """1 if the answer at position `first` is ranked above that at `second`, -1 if below, 0 if tied or not compared."""
    assert judgement.ranking is not None
    difference = judgement.ranking[second] - judgement.ranking[first]
    return (difference > 0) - (difference < 0)


def edit_pairs(judgement: Judgement, reliability: Mapping[str, float] | None) -> list[Pair]:
    """An edited answer is better than its original, and than all the others."""
    if judgement.edited is None:
        return []
    original = judgement.edited.edited_from
    flip = 1 / (1 + exp(log_odds(judgement.annotator, reliability)))
    others = sorted(judgement.responses, key=lambda response: response.id != original)
    return [
        Pair(
            better=judgement.edited,
            worse=response,
            judgements=(judgement.id,),
            annotators=(judgement.annotator,),
            strength=None,
            agreement=1.0,
            flip=flip,
        )
        for response in others
    ]


def log_odds(annotator: str, reliability: Mapping[str, float] | None) -> float:
    """The weight of an annotator's vote; without estimates everybody's is that of an unknown annotator."""
    known = UNKNOWN_RELIABILITY if reliability is None else reliability.get(annotator, UNKNOWN_RELIABILITY)
    low, high = RELIABILITY_RANGE
    bounded = min(max(known, low), high)
    return log(bounded / (1 - bounded))
