"""Who was found better, prompt by prompt, by people with the help of AI judges: what the gate bets on. Pure.

**The unit is the prompt.** Answers to one prompt with other seeds are much alike, and who won once on it tends to win
again. Counted as independent they let up to a quarter of all candidates pass that are no better. So each prompt counts
once: what is claimed holds for prompts like these, and more evidence takes more prompts.

**Judges help, and the claim is about people.** Where a check gives only a random part of its prompts to people, with a
recorded probability, judges see all of them. A prompt that people have compared enters as

    P - w (J - mean of J over prompts that were left to judges)

with P what people say and J what the judges do. Both kinds of prompts were drawn alike, so the second part is 0 in
expectation whatever the judges are worth, and what enters has the mean of P: prediction-powered inference
(Angelopoulos et al. 2023) as a bet (Csillag et al. 2025, "Prediction-powered e-values", arXiv 2502.04294). A good judge
takes most of the chance out of P, so the same evidence takes fewer people. The weight w is learnt from prompts that
people compared before (as in R-AutoEval+, Park et al. 2025, arXiv 2505.18659): a useless or hostile judge gets none.

Departures from these papers: each prompt has its own prompts to correct it by, none twice, instead of 1 / probability
as a factor of what people say. It comes to the same variance, keeps outcomes within w of [0, 1], and lets prompts enter
in the order in which people decided them. And w follows the moments seen so far instead of being shared out among fixed
weights: a share for "no judge" would cost every candidate what it holds back, this costs nothing where w is 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from statistics import fmean

from annotation.metrics.intervals_and_bias import Estimate


# ------------------------------------------------------------------------------------------------------------ prompts
@dataclass(frozen=True)
class DecidedOutcome:
    """What came of one comparison of a candidate with what serves."""

    prompt_id: int
    outcome: float
    """1 the candidate won, 0 it lost, 1/2 a tie; of several annotators their mean."""
    by: str | None = None
    """The AI judge that says so; None for people."""
    probability: float | None = None
    """The chance with which this prompt's comparison was given to people; None where nobody recorded it."""
    at: int = 0
    """Its place among all judgements; 0 where nobody had to judge."""


@dataclass(frozen=True)
class PromptOutcome:
    """What came of all comparisons on one prompt."""

    prompt_id: int
    entered: float
    """What it came to when it was first decided. That is bet on, and never again: were the bet changed by what comes
    later, the same prompt would be looked at twice, and the capital would be no martingale."""
    outcomes: tuple[float, ...]
    """Everything that came, which the win rate shows."""
    probability: float | None = None
    at: int = 0

    @property
    def mean(self) -> float:
        """The win rate on this prompt."""
        return fmean(self.outcomes)

    @property
    def tied(self) -> bool:
        """Whether neither was better, whenever it was compared."""
        return set(self.outcomes) == {0.5}


def by_prompt(decided: Iterable[DecidedOutcome]) -> tuple[PromptOutcome, ...]:
    """Outcomes in the order in which they were decided, as prompts in the order in which they first were."""
    found: dict[int, PromptOutcome] = {}
    for one in decided:
        seen = found.get(one.prompt_id)
        if seen is None:
            found[one.prompt_id] = PromptOutcome(
                prompt_id=one.prompt_id,
                entered=one.outcome,
                outcomes=(one.outcome,),
                probability=one.probability,
                at=one.at,
            )
        else:
            found[one.prompt_id] = replace(seen, outcomes=(*seen.outcomes, one.outcome))
    return tuple(found.values())


def win_rate(prompts: Sequence[PromptOutcome]) -> float | None:
    """The mean over prompts of the win rate on each; None without any."""
    return fmean(one.mean for one in prompts) if prompts else None


# -------------------------------------------------------------------------------------------------------- predictions
# Variance of an outcome about 1/2 of which nothing is known; a fifth of ties leaves a little less than this.
USUAL_VARIANCE = 0.2
# Prompts that what is known of a judge beforehand counts for.
KNOWN_BEFOREHAND = 10.0
# Of the distance between judges and people that a disagreement means on average, squared: a tie is half as far away.
DISTANCE = 0.85


@dataclass(frozen=True)
class JudgePanel:
    """What judges say of a candidate's prompts, together, and what was known of each before it was made."""

    outcomes: tuple[DecidedOutcome, ...] = ()
    """Of all judges, each prompt's first by each."""
    trust: Mapping[str, Estimate] = field(default_factory=dict)
    """Agreement of a judge with people on comparisons that are older than the candidate's: none of its own count, or
    the bets would know what is to come."""
    left: tuple[int, ...] = ()
    """Prompts that were left to judges, in an order that says nothing about them."""

    @property
    def covariance(self) -> float:
        """Of people's outcomes with the judges', as far as trust in the best of them tells."""
        known = [covariance_of(one) for one in self.trust.values()]
        return max(known, default=0.0)

    def weight_of(self, judge: str) -> float:
        """A judge's part in what they say together: by its trust, alike where nothing is known of any."""
        if not any(covariance_of(one) for one in self.trust.values()):
            return 1.0
        return covariance_of(self.trust[judge]) if judge in self.trust else 0.0


def covariance_of(trust: Estimate) -> float:
    """Of people's outcomes with a judge's that agrees with them so often; ties count half, and 0 is the least.

    A few comparisons on which they agreed promise little.
    """
    surely = 0.5 + (trust.value - 0.5) * trust.n / (trust.n + KNOWN_BEFOREHAND)
    return max(0.0, USUAL_VARIANCE - (1 - surely) * DISTANCE / 2)


class Predictions:
    """What the judges of a panel had said together of a prompt by a given time."""

    def __init__(self, panel: JudgePanel) -> None:
        self.said: dict[int, dict[str, DecidedOutcome]] = {}
        self.weights: dict[str, float] = {}
        for one in panel.outcomes:
            assert one.by is not None
            self.said.setdefault(one.prompt_id, {}).setdefault(one.by, one)
            self.weights[one.by] = panel.weight_of(one.by)

    def of(self, prompt_id: int, before: int) -> float | None:
        """Their mean, weighted; None where none of any weight had judged the prompt before that time."""
        known = [one for one in self.said.get(prompt_id, {}).values() if one.at < before]
        total = sum(self.weights[one.by or ""] for one in known)
        return sum(self.weights[one.by or ""] * one.outcome for one in known) / total if total > 0 else None


# --------------------------------------------------------------------------------------------------------- correction
@dataclass(frozen=True)
class CorrectedOutcome:
    """What a prompt that people have compared enters with."""

    value: float
    weight: float
    """w of the correction: how far the value can lie outside of [0, 1]."""
    spread: float
    """The variance expected of it, as a part of what it would be without judges."""


# A spread that a few lucky prompts promise is not believed below this: the bet would be too large.
LEAST_SPREAD = 0.3
# Above this spread judges' verdicts change next to nothing, and prompts left to them are kept for people. So a judge
# whose card flatters it costs no more than what it takes to see that.
WORTH_SPENDING = 0.9


@dataclass
class Moments:
    """Second moments of people's outcomes P and judges' J about 1/2, with those known beforehand."""

    count: float
    both: float
    people: float
    judges: float

    @classmethod
    def of(cls, panel: JudgePanel) -> Moments:
        """Before anybody has judged the candidate."""
        usual = KNOWN_BEFOREHAND * USUAL_VARIANCE
        return cls(KNOWN_BEFOREHAND, KNOWN_BEFOREHAND * panel.covariance, usual, usual)

    def note(self, people: float, judges: float) -> None:
        """One more prompt that both have judged."""
        self.count += 1
        self.both += (people - 0.5) * (judges - 0.5)
        self.people += (people - 0.5) ** 2
        self.judges += (judges - 0.5) ** 2

    def best_weight(self, others: int) -> float:
        """The w of the least variance, with so many other prompts for the mean of J: within [0, 1]."""
        return min(max(self.both, 0.0) / (self.judges * (1 + 1 / others)), 1.0)

    def spread(self, weight: float, others: int) -> float:
        """The variance with this w, as a part of that of P."""
        saved = 2 * weight * max(self.both, 0.0) - weight**2 * self.judges * (1 + 1 / others)
        return min(max(1 - saved / self.people, LEAST_SPREAD), 1.0)

    def worth_spending(self, others: int) -> bool:
        """Whether so many other prompts would correct one by enough: spent on it, they count no more by people."""
        return others > 0 and self.spread(self.best_weight(others), others) <= WORTH_SPENDING

    @property
    def explained(self) -> float:
        """The part of the variance of P that J explains, 0 to 1."""
        return min(max(self.both, 0.0) ** 2 / (self.people * self.judges), 1.0)


@dataclass(frozen=True)
class CorrectedPrompts:
    """All prompts that people have compared, corrected, and what they teach of the judges."""

    outcomes: tuple[CorrectedOutcome, ...]
    prompts: tuple[PromptOutcome, ...]
    """Those that count; not those that had served before as one that was left to judges."""
    explained: float
    """The part of the variance of people's outcomes that the judges explain, as far as is known by now."""
    spent: frozenset[int]
    """Prompts left to judges that corrected some: what people say of them later counts no more."""

    @property
    def helped(self) -> int:
        """How many those are."""
        return len(self.spent)

    @property
    def win_rate(self) -> float | None:
        """The win rate on these prompts, corrected as what entered was; None without any."""
        found, pairs = win_rate(self.prompts), zip(self.outcomes, self.prompts, strict=True)
        return None if found is None else found + fmean(one.value - prompt.entered for one, prompt in pairs)


def corrected(prompts: Sequence[PromptOutcome], panel: JudgePanel) -> CorrectedPrompts:
    """What each prompt enters with, from what was known before people had compared it.

    A prompt that was given to people with probability p is corrected by the next (1 - p) / p of those left to judges:
    all of them are used once by the time that people have compared theirs. So the probability has to be the same for
    all prompts of a check; where nobody recorded it, or it was 1, people's outcomes enter as they are. So they do where
    what is known of the judges by then promises too little: the prompts left to them are not spent.
    """
    predictions, moments = Predictions(panel), Moments.of(panel)
    waiting = WaitingPrompts(panel.left, predictions, {one.prompt_id: one.at for one in prompts})
    entered: list[CorrectedOutcome] = []
    counted: list[PromptOutcome] = []
    due = 0.0
    for one in prompts:
        if one.prompt_id in waiting.spent:
            continue
        due += (1 / one.probability - 1) if one.probability else 0.0
        guess = predictions.of(one.prompt_id, one.at)
        worth = guess is not None and moments.worth_spending(int(due))
        others = waiting.next(int(due), one) if worth else []
        due = due - len(others) if worth or guess is None else 0.0
        entered.append(correct(one.entered, guess, others, moments))
        counted.append(one)
        if guess is not None:
            moments.note(one.entered, guess)
    return CorrectedPrompts(tuple(entered), tuple(counted), moments.explained, frozenset(waiting.spent))


class WaitingPrompts:
    """Prompts that were left to judges and have corrected none yet."""

    def __init__(self, left: Iterable[int], predictions: Predictions, compared: Mapping[int, int]) -> None:
        self.left, self.predictions, self.compared = deque(left), predictions, compared
        self.spent: set[int] = set()

    def next(self, number: int, wanted_by: PromptOutcome) -> list[float]:
        """What judges had said of up to so many, before people compared this one; each is used once.

        One that people were asked about later and had compared by then is no use any more: it counts by itself.
        """
        found, passed = list[float](), list[int]()
        while self.left and len(found) < number:
            other = self.left.popleft()
            if other == wanted_by.prompt_id or self.compared.get(other, wanted_by.at) < wanted_by.at:
                continue
            said = self.predictions.of(other, wanted_by.at)
            if said is None:
                passed.append(other)
            else:
                found.append(said)
                self.spent.add(other)
        self.left.extendleft(reversed(passed))
        return found


def correct(people: float, judges: float | None, others: Sequence[float], moments: Moments) -> CorrectedOutcome:
    """One prompt's outcome, corrected by what judges say of it and of others; as it is where they say nothing."""
    if judges is None or not others:
        return CorrectedOutcome(people, 0.0, 1.0)
    weight = moments.best_weight(len(others))
    value = people - weight * (judges - fmean(others))
    return CorrectedOutcome(value, weight, moments.spread(weight, len(others)))


# ------------------------------------------------------------------------------------------------- how many people get
# What a candidate worth waiting for is ahead of a half, and the least part of a check that people get.
WORTH_WAITING = 0.12
LEAST_SHARE = 0.25
# Below this part of the variance explained, prompts left to judges are mostly lost.
WORTH_ASKING = 0.4


def share_for_people(log_capital: float, alpha: float, explained: float, prompts_left: int) -> float:
    """The part of the next check's prompts that people are to get, the others being left to judges.

    The smallest with which the prompts that are left can still be expected to show a candidate that wins 62 of 100:
    few where judges explain much of what people say and prompts are plenty, all where they explain nothing. From what
    is known before the check only, so that the bets stay fair.
    """
    needed = max(-log(alpha) - log_capital, 0.2)
    # Kelly: the capital grows by (ahead² / 2 variance) a prompt, with the variance (V + (1 / share - 1) unexplained).
    allowed = WORTH_WAITING**2 / 2 * max(prompts_left, 1) / needed
    room = (allowed - USUAL_VARIANCE) / max(USUAL_VARIANCE * (1 - explained), 0.01)
    share = 1 / (1 + room) if room > 0 else 1.0
    return min(max(share, 1 - explained / WORTH_ASKING, LEAST_SHARE), 1.0)
