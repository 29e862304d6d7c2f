"""Who was found better, prompt by prompt, by people with the help of AI judges: what the gate bets on. Pure.

**The unit is the prompt.** Answers to one prompt with other seeds are much alike, and who won once on it tends to win
again. Counted as independent they let up to a quarter of all candidates pass that are no better. So each prompt counts
once: what is claimed holds for prompts like these, and more evidence takes more prompts.

**Judges help, and the claim is about people.** Where a check gives only a random part of its prompts to people, with a
recorded probability, judges see all of them. A prompt that people have compared enters as

    P - w (J - mean of J over prompts that were left to judges)

with P what people say and J what the judges do. Both kinds of prompts were drawn alike, so the second part is 0 in
expectation whatever the judges are worth, as long as all that was drawn for people enters: what they skip as a tie, for
they may skip what judges like. So what enters has the mean of P: prediction-powered inference (Angelopoulos et al.
2023) as a bet (Csillag et al. 2025, "Prediction-powered e-values", arXiv 2502.04294). A good judge takes most of the
chance out of P, so the same evidence takes fewer people. The weight w is learnt from prompts that people compared
before (as in R-AutoEval+, Park et al. 2025, arXiv 2505.18659): a useless or hostile judge gets none.

Judges fail on some prompts or come late to them, and these may be other prompts than the rest. So which prompts
correct which follows from lots, places and the times of people's comparisons alone (`corrected`); J and its mean are of
the very same judges; and how much is bet is fixed before it is looked at who has judged the prompt itself.

Departures from these papers: each prompt has its own prompts to correct it by, none twice, instead of 1 / probability
as a factor of what people say. It comes to the same variance, keeps outcomes within w of [0, 1], and lets prompts enter
in the order in which people decided them. And w follows the moments seen so far instead of being shared out among fixed
weights: a share for "no judge" would cost every candidate what it holds back, this costs nothing where w is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import log
from statistics import fmean

from annotation.metrics.intervals_and_bias import Estimate


# ------------------------------------------------------------------------------------------------------------ prompts
@dataclass(frozen=True)
class DecidedOutcome:
    """What came of one comparison of a candidate with what serves."""

    prompt_id: int
    outcome: float
    """1 the candidate won, 0 it lost, 1/2 a tie: what was said of it first."""
    by: str | None = None
    """The AI judge that says so; None for people."""
    probability: float | None = None
    """The chance with which this prompt's comparison was given to people; None where nobody recorded it."""
    at: int = 0
    """Its place among all judgements; 0 where nobody had to judge."""
    since: int = -1
    """The last judgement before its check was made: prompts of other checks do not correct it."""
    shown: float | None = None
    """What it has come to by now, of several annotators; None: the same."""
    skipped: bool = False
    """Whether people have only skipped it: that is bet on, and is no verdict."""
    asked: bool = True
    """Whether somebody had to compare the answers: one beats none, and the same text ties."""


@dataclass(frozen=True)
class LeftPrompt:
    """A prompt that a draw left to judges; its times are places among all judgements."""

    since: int = -1
    """The last before it was left, which all prompts of a check have in common."""
    given: int | None = None
    """The last before people were given it all the same; None where they were not, or nobody noted it."""


@dataclass(frozen=True)
class PromptOutcome:
    prompt_id: int
    entered: float
    """What it came to when it was first decided. That is bet on, and never again: were the bet changed by what comes
    later, the same prompt would be looked at twice, and the capital would be no martingale."""
    outcomes: tuple[float, ...]
    """Everything that was said, which the win rate shows; nothing where people have only skipped it."""
    probability: float | None = None
    at: int = 0
    since: int = -1
    asked: bool = True
    """Whether somebody had to compare any of its answers."""

    @property
    def skipped(self) -> bool:
        return not self.outcomes

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
        seen, shown = found.get(one.prompt_id), one.outcome if one.shown is None else one.shown
        said = () if one.skipped else (shown,)
        if seen is None:
            found[one.prompt_id] = PromptOutcome(
                prompt_id=one.prompt_id,
                entered=one.outcome,
                outcomes=said,
                probability=one.probability,
                at=one.at,
                since=one.since,
                asked=one.asked,
            )
        else:
            found[one.prompt_id] = replace(seen, outcomes=(*seen.outcomes, *said), asked=seen.asked or one.asked)
    return tuple(found.values())


def win_rate(prompts: Sequence[PromptOutcome]) -> float | None:
    """The mean over prompts of the win rate on each; None where nobody has judged any."""
    means = [one.mean for one in prompts if not one.skipped]
    return fmean(means) if means else None


# -------------------------------------------------------------------------------------------------------- predictions
# Variance of an outcome about 1/2 of which nothing is known; a fifth of ties leaves a little less than this.
USUAL_VARIANCE = 0.2
# Prompts that what is known of a judge beforehand counts for.
KNOWN_BEFOREHAND = 10.0
# Of the distance between judges and people that a disagreement means on average, squared: a tie is half as far away.
DISTANCE = 0.85


@dataclass(frozen=True)
class JudgePanel:
    """What judges say of a candidate's prompts, and what was known of each before people compared any of these."""

    outcomes: tuple[DecidedOutcome, ...] = ()
    """Of all judges."""
    trust: Mapping[str, Estimate] = field(default_factory=dict)
    """Agreement of a judge with people, as it was when people first compared the candidate: did what was said later
    count, the bets would know what is to come."""
    left: Mapping[int, LeftPrompt] = field(default_factory=dict)
    """Prompts that were left to judges, in an order that says nothing about them. From when people were given one,
    where that was noted, it corrects no other, and counts by people."""

    @property
    def covariances(self) -> dict[str, float]:
        """Of people's outcomes with each judge's, as far as trust in it tells."""
        return {judge: covariance_of(trust) for judge, trust in self.trust.items()}


def covariance_of(trust: Estimate) -> float:
    """Of people's outcomes with a judge's that agrees with them so often; ties count half, and 0 is the least.

    A few comparisons on which they agreed promise little; of those that a draw weighs differently, n is what they are
    worth (Kish).
    """
    surely = 0.5 + (trust.value - 0.5) * trust.n / (trust.n + KNOWN_BEFOREHAND)
    return max(0.0, USUAL_VARIANCE - (1 - surely) * DISTANCE / 2)


@dataclass(frozen=True)
class Prediction:
    """What judges had said together of a prompt."""

    by: frozenset[str]
    value: float
    """Their mean, weighted by what their cards promise; alike where these promise nothing."""


class Predictions:
    """What the judges of a panel had said of a prompt by a given time."""

    def __init__(self, panel: JudgePanel) -> None:
        self.said: dict[int, dict[str, DecidedOutcome]] = {}
        self.weights = panel.covariances
        for one in sorted(panel.outcomes, key=lambda said: said.at):  # of one prompt, what a judge said first
            assert one.by is not None
            self.said.setdefault(one.prompt_id, {}).setdefault(one.by, one)
            self.weights.setdefault(one.by, 0.0)

    def most_promised(self, judges: Iterable[str]) -> float:
        """The most that the card of any of these promises."""
        return max((self.weights[name] for name in judges), default=0.0)

    def of(self, prompt_id: int, before: int) -> Prediction | None:
        """By the judges that tell something of those that had judged it before that time; None where none had."""
        said = {name: one.outcome for name, one in self.said.get(prompt_id, {}).items() if one.at < before}
        if not said:
            return None
        weights = {name: self.weights[name] for name in said if self.weights[name]} or dict.fromkeys(said, 1.0)
        value = sum(weight * said[name] for name, weight in weights.items()) / sum(weights.values())
        return Prediction(frozenset(weights), value)


# --------------------------------------------------------------------------------------------------------- correction
@dataclass(frozen=True)
class CorrectedOutcome:
    """What a prompt that people have compared enters with."""

    value: float
    weight: float
    """How far the value could have lain outside of [0, 1]: the w that was intended for it."""
    spread: float
    """The variance expected of it, as a part of what it would be without judges."""


# A spread that a few lucky prompts promise is not believed below this: the bet would be too large.
LEAST_SPREAD = 0.3
# Above this spread judges' verdicts change next to nothing, and prompts left to them are kept for people. So a judge
# whose card flatters it costs no more than what it takes to see that.
WORTH_SPENDING = 0.9


# So often in a row prompts of a check are spent without correcting anything; then people may get the others.
TRIES = 3


@dataclass
class Moments:
    """Second moments of people's outcomes P and judges' J about 1/2, beginning with those of prompts imagined."""

    both: float = 0.0
    people: float = KNOWN_BEFOREHAND * USUAL_VARIANCE
    judges: float = KNOWN_BEFOREHAND * USUAL_VARIANCE

    def believing(self, covariance: float) -> Moments:
        """The same, with what cards promise of the judges of whom these are to be."""
        return replace(self, both=self.both + KNOWN_BEFOREHAND * covariance)

    def note(self, people: float, judges: float) -> None:
        """One more prompt that both have judged."""
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
    """Prompts left to judges that corrected some, or were looked at for that: what people say of them later counts no
    more."""
    helped: int
    """How many corrected some."""

    @property
    def judged(self) -> int:
        return sum(not one.skipped for one in self.prompts)

    @property
    def win_rate(self) -> float | None:
        """The win rate on those, corrected as what entered was; None without any."""
        found, pairs = win_rate(self.prompts), zip(self.outcomes, self.prompts, strict=True)
        return None if found is None else found + sum(one.value - prompt.entered for one, prompt in pairs) / self.judged


def without_skipped(mean: float, prompts: int, judged: int) -> float:
    """A mean over prompts on which what was skipped is a tie, as one over those judged; it stays on its side of 1/2."""
    return mean if judged == prompts else min(max(0.5 + (mean - 0.5) * prompts / judged, 0.0), 1.0)


def corrected(prompts: Sequence[PromptOutcome], panel: JudgePanel) -> CorrectedPrompts:
    """What each prompt enters with, from what was known before people had compared it.

    A prompt that was given to people with probability p is corrected by the next (1 - p) / p of those that its check
    left to judges: all of them are used once by the time that people have compared theirs. So the probability has to be
    the same for all prompts of a check; where nobody recorded it, or it was 1, people's outcomes enter as they are. So
    do those of prompts that had been left to judges, and all where what is known of the judges by then promises too
    little, they have not come to this check or fail on most of it: the prompts left to them are not spent, and people
    may get them.

    **Why the correction is 0 in expectation, given all that was looked at before.** A check draws by lot who gets which
    prompt, so a prompt that people get and those that correct it are alike in what people and judges find and in when
    judges come to it, reckoned from the check. Which these are, and at what time they are looked at, depends on lots,
    places and when people compare; on no verdict and on nobody's having judged. All of them are looked at once, at that
    one time: nothing was known of any, and whether one is used, nothing is asked of it again. So of those that the same
    judges had judged by then, J has the same mean. Were those kept that judges had not come to, or of a check before,
    they would have had longer for them, and J be of other prompts where judges are slower by what they find. Weight and
    stake follow from what was looked at before, and from those that correct it, and not from the prompt itself.
    """
    predictions, moments = Predictions(panel), Moments()
    waiting = WaitingPrompts(panel, predictions, prompts)
    entered: list[CorrectedOutcome] = []
    counted: list[PromptOutcome] = []
    due = 0.0
    for one in prompts:
        if one.prompt_id in waiting.looked_at:
            continue
        due += 1 / one.probability - 1 if one.probability and one.prompt_id not in panel.left else 0.0
        others = waiting.first(int(due), one)
        due %= 1
        come = waiting.hoped_for(one)
        hoped = moments.believing(predictions.most_promised(come))
        coming = waiting.spend(others, one) if come and hoped.worth_spending(len(others)) else []
        known = moments.believing(predictions.most_promised(name for said in coming for name in said.by))
        worth = known.worth_spending(len(coming))
        guess = predictions.of(one.prompt_id, one.at)
        same = [said.value for said in coming if guess and said.by == guess.by]
        entered.append(correct(one.entered, guess, same, known, len(coming) if worth else 0))
        counted.append(one)
        waiting.note(one, [*coming, *([guess] if guess else [])], len(same) if worth else 0)
        if guess is not None or worth:  # judges of whom nothing came that was to come told nothing
            moments.note(one.entered, guess.value if guess and (same or not worth) else 0.5)
    explained = moments.believing(max(panel.covariances.values(), default=0.0)).explained
    return CorrectedPrompts(
        outcomes=tuple(entered),
        prompts=tuple(counted),
        explained=explained,
        spent=frozenset(waiting.looked_at),
        helped=waiting.helped,
    )


class WaitingPrompts:
    """Prompts that were left to judges, by check, of which nothing was looked at yet."""

    def __init__(self, panel: JudgePanel, predictions: Predictions, compared: Iterable[PromptOutcome]) -> None:
        self.predictions = predictions
        self.lines: dict[int, list[int]] = {}
        for prompt, one in panel.left.items():
            self.lines.setdefault(one.since, []).append(prompt)
        given = {prompt: one.given for prompt, one in panel.left.items() if one.given is not None}
        self.taken = {one.prompt_id: one.at for one in compared} | given
        self.looked_at: set[int] = set()
        self.come: dict[int, set[str]] = {}
        """The judges that had come to a check, as far as what was looked at tells; nothing before anything was."""
        self.in_vain = Counter[int]()
        """How often in a row what a check left was looked at and corrected nothing."""
        self.helped = 0

    def hoped_for(self, wanted_by: PromptOutcome) -> Collection[str]:
        """The judges that may have something to say of what its check left; none where that was tried in vain."""
        check = wanted_by.since
        return self.come.get(check, self.predictions.weights.keys()) if self.in_vain[check] < TRIES else ()

    def first(self, number: int, wanted_by: PromptOutcome) -> list[int]:
        """The first so many of its check that were not given to people by then, whoever has judged them."""
        at, line = wanted_by.at, self.lines.get(wanted_by.since, ())
        return list(islice((other for other in line if at <= self.taken.get(other, at)), number))

    def spend(self, others: Sequence[int], wanted_by: PromptOutcome) -> list[Prediction]:
        """What judges had said of these. People are given none, for which had been judged says what they are."""
        self.looked_at.update(others)
        self.in_vain[wanted_by.since] += 1
        self.lines[wanted_by.since] = [one for one in self.lines[wanted_by.since] if one not in self.looked_at]
        found = (self.predictions.of(other, wanted_by.at) for other in others)
        return [said for said in found if said]

    def note(self, wanted_by: PromptOutcome, seen: Iterable[Prediction], used: int) -> None:
        """What was looked at for a prompt, and how many corrected it."""
        self.come.setdefault(wanted_by.since, set()).update(name for said in seen for name in said.by)
        self.helped += used
        if used:
            self.in_vain[wanted_by.since] = 0


def correct(
    people: float, judges: Prediction | None, others: Sequence[float], moments: Moments, intended: int
) -> CorrectedOutcome:
    """One prompt's outcome, corrected by what judges say of it and of others, of which so many were intended.

    Weight and spread are those intended, whatever came of it: nothing of the prompt itself was known yet.
    """
    if not intended:
        return CorrectedOutcome(people, 0.0, 1.0)
    weight = moments.best_weight(intended)
    value = people
    if judges is not None and others:
        value -= moments.best_weight(len(others)) * (judges.value - fmean(others))
    return CorrectedOutcome(value, weight, moments.spread(weight, intended))


# ------------------------------------------------------------------------------------------------- how many people get
# What a candidate worth waiting for is ahead of a half, and the least part of a check that people get.
WORTH_WAITING = 0.12
LEAST_SHARE = 0.25
# Below this part of the variance explained, prompts left to judges are mostly lost.
WORTH_ASKING = 0.4


def telling_share(log_capital: float, alpha: float, explained: float, prompts_left: int) -> float:
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
