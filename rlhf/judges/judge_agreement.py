"""The trust card of an AI judge: its agreement with people, calibration, position and length bias. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations, permutations
from math import log
from statistics import fmean
from typing import Any

import numpy as np

from annotation.metrics.agreement import RESAMPLES, SEED, percentiles
from annotation.metrics.intervals_and_bias import Array, Estimate, Ranking, share_of, sign, wilson_interval
from annotation.metrics.sequential_test import kappas
from annotation.records import Kind
from annotation.tabs.quality_report import COIN, FEW, some
from annotation.ui import charts
from annotation.ui.charts import Frame, Mark
from annotation.ui.formatting import NOTHING, moment, number_with_interval, percent, percent_with_interval
from annotation.ui.markup import escape, paragraph, table
from rlhf.evaluation import reward_model_quality
from rlhf.evaluation.reward_model_quality import Duel
from rlhf.judges.verdicts import Choice, combine
from rlhf.tabs.runs import curves

Pair = tuple[int, int]
# What a judgement may say of answers (a, b): b is better, they are tied, a is better.
ORDERS = (-1, 0, 1)
# 1 for the same order, 1/2 where one of two judgements is a tie, 0 for opposite orders.
CREDITS: Array = 1 - np.abs(np.subtract.outer(ORDERS, ORDERS)) / 2
# A chance of 0 or 1, which floating-point numbers make of what is very likely, has no finite log-odds.
SUREST = 1e-9


# --------------------------------------------------------------------------------------------------- what is compared
@dataclass(frozen=True)
class Opinion:
    """How a person ranked the answers, by position; of a 'best' judgement only its first is told from the others."""

    name: str
    ranking: Ranking
    kind: Kind = "rank"

    def order(self, pair: Pair) -> int | None:
        """1 if the first of two answers is better, -1 if the second, 0 for a tie; None where they were not compared."""
        found = order(self.ranking, pair)
        return None if self.kind == "best" and len(self.ranking) > 2 and found == 0 else found


@dataclass(frozen=True)
class Case:
    """A comparison that a judge and people have judged."""

    comparison_id: int
    judged: Ranking
    people: tuple[Opinion, ...]
    chances: Mapping[Pair, float]
    """The judge's probability that answer a is better than b, for a < b, both orders together; empty without any."""
    lengths: tuple[int, ...]
    """Of the answers, in characters."""
    picked: bool = False
    """Whether people were asked because judges contradicted themselves or each other or were unsure."""

    @property
    def pairs(self) -> list[Pair]:
        """Each two answers by position."""
        return list(combinations(range(len(self.judged)), 2))


@dataclass(frozen=True)
class Swapped:
    """What a judge said of two answers in both orders."""

    comparison_id: int
    forward: Choice
    backward: Choice


def order(ranking: Ranking, pair: Pair) -> int:
    """1 if the first of two answers is ranked better, -1 if the second is, 0 for a tie."""
    return sign(ranking[pair[1]] - ranking[pair[0]])


def both_orders(chances: Mapping[Pair, float | None]) -> dict[Pair, float]:
    """The probability that a is better than b, for a < b, from those of whichever was shown first."""
    found: dict[Pair, float] = {}
    for (a, b), forward in chances.items():
        backward = chances.get((b, a))
        if a < b and forward is not None and backward is not None:
            found[a, b] = (forward + 1 - backward) / 2
    return found


# ------------------------------------------------------------------------------------------------------------ figures
@dataclass(frozen=True)
class Agreement:
    """How far two sides agree on the order of two answers; n counts comparisons, each of which has one say."""

    share: Estimate
    """The mean credit: 1 for the same order, 1/2 where one of both is a tie, 0 for opposite orders."""
    kappa: Estimate | None
    """Cohen's kappa of first, tie and second; None where it is not defined or nothing tells its spread."""


@dataclass(frozen=True)
class Trust:
    """What is known of a judge; None for figures that nothing tells."""

    with_people: Agreement | None
    each_other: Agreement | None
    """People with each other, on those of these comparisons that several have judged."""
    calibration: Mapping[str, Any] | None
    """As `reward_model_quality.calibration` has it."""
    flips: Estimate | None
    """Share of pairs on which it contradicts itself when the answers change places."""
    first_place: Estimate | None
    """Share of its verdicts, ties apart, for the answer shown first."""
    longer: Estimate | None
    """Share of pairs in which it prefers the longer answer, where it and somebody prefer one and lengths differ."""
    longer_people: Estimate | None
    """The same of people, on the same pairs."""
    picked: int
    """Comparisons that people were asked about because judges could not settle them."""

    @property
    def lower(self) -> float | None:
        """The lower limit of its agreement with people, which the gate compares with its threshold."""
        return None if self.with_people is None else self.with_people.share.low


def trust(cases: Sequence[Case], verdicts: Iterable[Swapped] = ()) -> Trust:
    """How far a judge can be trusted, from what people have judged too, and from all its verdicts in both orders."""
    longer = [longer_chosen(case) for case in cases]
    flips, firsts = by_place(verdicts)
    return Trust(
        with_people=agreement(judge_trials(case) for case in cases),
        each_other=agreement(people_trials(case) for case in cases),
        calibration=calibration(cases),
        flips=one_say(flips),
        first_place=one_say(firsts),
        longer=one_say(judge for judge, _ in longer),
        longer_people=one_say(people for _, people in longer),
        picked=sum(case.picked for case in cases),
    )


def one_say(groups: Iterable[Sequence[float]]) -> Estimate | None:
    """The mean over comparisons of the mean of each, with Wilson's interval on their number; None without any.

    What lies between 0 and 1 varies at most as much as what is either, so the interval is not too short, however
    many pairs and people a comparison has. A bootstrap would end at 1 after three comparisons that all agree.
    """
    means = [fmean(group) for group in groups if group]
    return share_of(sum(means), len(means))


Trial = tuple[int, int]


def judge_trials(case: Case) -> list[Trial]:
    """(the judge's order, a person's) for each person and each two answers that the person compared."""
    return [
        (order(case.judged, pair), said)
        for pair in case.pairs
        for person in case.people
        if (said := person.order(pair)) is not None
    ]


def people_trials(case: Case) -> list[Trial]:
    """(a person's order, another's), counted both ways because neither of them comes first."""
    trials: list[Trial] = []
    for pair in case.pairs:
        said = [found for person in case.people if (found := person.order(pair)) is not None]
        trials += permutations(said, 2)
    return trials


def agreement(cases: Iterable[Sequence[Trial]]) -> Agreement | None:
    """Agreement over the trials of each comparison; None without any."""
    met = [contingency(trials) for trials in cases if trials]
    if not met:
        return None
    tables = np.stack(met)
    trials: Array = tables.sum(axis=(1, 2))
    share = share_of(float(((tables * CREDITS).sum(axis=(1, 2)) / trials).sum()), len(tables))
    assert share is not None
    return Agreement(share, kappa(tables / trials[:, None, None]))


def contingency(trials: Sequence[Trial]) -> Array:
    """How often each two orders met."""
    found: Array = np.zeros((len(ORDERS), len(ORDERS)))
    for one, other in trials:
        found[ORDERS.index(one), ORDERS.index(other)] += 1
    return found


def kappa(tables: Array) -> Estimate | None:
    """Cohen's kappa of comparisons' contingency tables together, with a percentile bootstrap over comparisons.

    Comparisons with the same table are drawn together as a multinomial, which is the same bootstrap, only faster.
    Where all agree, every resample does; there the lower end of Wilson's interval for their share takes its place.
    None where only one order was ever given, and where all tables are the same, which tells no spread.
    """
    count, whole = len(tables), tables.sum(axis=0)
    if np.count_nonzero(whole.sum(axis=0) + whole.sum(axis=1)) < 2:
        return None
    if not np.any(whole - np.diag(np.diag(whole))):
        return Estimate(1.0, wilson_interval(count, count)[0], 1.0, count)
    patterns, times = np.unique(tables.reshape(count, -1), axis=0, return_counts=True)
    if len(patterns) == 1:
        return None
    drawn = np.random.default_rng(SEED).multinomial(count, times / count, size=RESAMPLES)
    return Estimate(float(kappas(whole)), *percentiles(kappas((drawn @ patterns).reshape(-1, *whole.shape))), count)


def calibration(cases: Iterable[Case]) -> dict[str, Any] | None:
    """How often people prefer the answer that the judge finds likelier to be better, by that likelihood.

    Where a person prefers one of two answers; all such trials of a comparison weigh 1 together. None without chances.
    """
    duels: list[Duel] = []
    for case in cases:
        odds = [
            preferred * log_odds(case.chances[pair])
            for pair in case.pairs
            for person in case.people
            if pair in case.chances and (preferred := person.order(pair))
        ]
        duels += [Duel(score, 0.0, 1 / len(odds)) for score in odds]
    return reward_model_quality.calibration(duels) if duels else None


def log_odds(chance: float) -> float:
    """The difference of Bradley–Terry scores that gives this chance."""
    kept = min(max(chance, SUREST), 1 - SUREST)
    return log(kept / (1 - kept))


def by_place(verdicts: Iterable[Swapped]) -> tuple[list[list[float]], list[list[float]]]:
    """For each comparison: which of its pairs were flipped, and which of its single verdicts named the first shown."""
    flips: dict[int, list[float]] = defaultdict(list)
    firsts: dict[int, list[float]] = defaultdict(list)
    for said in verdicts:
        flips[said.comparison_id].append(float(combine(said.forward, said.backward).flipped))
        firsts[said.comparison_id] += [
            float(choice == "first") for choice in (said.forward, said.backward) if choice != "tie"
        ]
    return list(flips.values()), list(firsts.values())


def longer_chosen(case: Case) -> tuple[list[float], list[float]]:
    """Whether the judge, and on the same pairs people, preferred the longer answer; ties and equal lengths apart."""
    judge, people = [], []
    for pair in case.pairs:
        longer, judged = sign(case.lengths[pair[0]] - case.lengths[pair[1]]), order(case.judged, pair)
        said = [preferred for person in case.people if (preferred := person.order(pair))]
        if longer and judged and said:
            judge.append(float(judged == longer))
            people.append(fmean(preferred == longer for preferred in said))
    return judge, people


# --------------------------------------------------------------------------------------------------------------- card
@dataclass(frozen=True)
class Basis:
    """Which of a judge's verdicts its figures rest on."""

    version: int | None
    """Of the rubric that it goes by; None for a reward model, which goes by none."""
    left_out: int
    """Verdicts by other versions."""
    model: str = ""
    """The revision that judges, where it was trained here."""
    frozen: str = ""
    """When the last data were frozen that it was trained on."""
    seen: int = 0
    """Comparisons that do not count, because those data may hold them."""


def card(name: str, found: Trust, threshold: float, basis: Basis = Basis(None, 0), *, may_decide: bool = True) -> str:
    """How far a judge can be trusted, in words and plots; `rlhf.tabs.runs.job_cards.STYLE` has its style.

    `may_decide`: whether the gate's rule lets trusted judges decide.
    """
    own = "trust-" + sha256(name.encode()).hexdigest()[:8]
    said = f'<p class="headline"><b>Trust card of {escape(name)}.</b></p>'
    said += paragraph(verdict(name, found, threshold, may_decide, bool(basis.seen))) + basis_sentence(basis)
    if found.with_people is not None and found.picked:
        said += paragraph(picked_sentence(found.picked, found.with_people.share.n))
    drawn = [
        agreement_plot(own, found, threshold),
        reward_model_quality.calibration_plot(own, found.calibration) if found.calibration else "",
        position_plot(own, found),
        length_plot(own, found),
    ]
    return said + agreement_table(found) + curves.plots([f"<div>{one}</div>" for one in drawn if one])


def basis_sentence(basis: Basis) -> str:
    """By which version of the rubric the judge is measured, and what is left out."""
    said = []
    if basis.version is not None:
        said.append(f"These are its figures by version {basis.version} of the rubric.")
        if basis.left_out:
            said.append(
                f"Left out: {some(basis.left_out, 'verdict')} by earlier versions, with which it was another judge. "
                "Let it judge what people have judged, and it is measured anew."
            )
    if basis.model:
        said.append(
            f"Only what the model has not been trained on counts: of what people judged, comparisons on held-out "
            f"prompts and those first judged after the data of {basis.model} were frozen ({moment(basis.frozen)})."
        )
        if basis.seen:
            said.append(f"Left out: {some(basis.seen, 'comparison')} that it may have learnt from.")
    return paragraph(" ".join(said), "quiet") if said else ""


def verdict(name: str, found: Trust, threshold: float, may_decide: bool = True, seen: bool = False) -> str:
    """How far the judge agrees with people, whether that is what the gate asks for, and whether it goes by judges.

    `seen`: whether it was trained on some of what people have judged.
    """
    if found.with_people is None and seen:
        return (
            f"Nothing that counts has been judged both by {name} and by people, so nothing says how far it can be "
            "trusted, and the gate does not go by it. Let people judge more, then let it judge the same."
        )
    if found.with_people is None:
        return (
            f"No comparison has been judged both by {name} and by people, so nothing says how far it can be trusted, "
            "and the gate does not go by it. Let it judge what people have judged."
        )
    share = found.with_people.share
    said = f"{name} agrees with people in {percent_with_interval(share)} of {some(share.n, 'comparison')}."
    if found.each_other is not None:
        people = found.each_other.share
        where = "the one" if people.n == 1 else f"the {people.n:,}"
        said += f" On {where} that several people judged, they agree in {percent_with_interval(people)} themselves."
    asked = f"the {percent(threshold)} that the gate asks for"
    if share.low >= threshold and not may_decide:
        return f"{said} Even the lower end reaches {asked}, but by its rule judges inform and do not decide."
    if share.low >= threshold:
        return f"{said} Even the lower end reaches {asked}, so the gate may go by it."
    more = " With more comparisons the interval narrows." if share.value >= threshold else ""
    return f"{said} The lower end is below {asked}, so the gate does not go by it.{more}"


def picked_sentence(picked: int, count: int) -> str:
    """That the comparisons are harder than most, where people got what judges could not settle."""
    return (
        f"People were asked about {picked:,} of these {count:,} because judges contradicted themselves or each other, "
        "or were unsure. Those are harder than most, so over all comparisons it is likely to agree more often."
    )


def agreement_table(found: Trust) -> str:
    """Agreement and kappa, beside those of people with each other."""
    sides = (("With people", found.with_people), ("People with each other", found.each_other))
    rows = [
        (
            label,
            f"{side.share.n:,}" + (", few" if side.share.n < FEW else ""),
            percent_with_interval(side.share),
            NOTHING if side.kappa is None else number_with_interval(side.kappa),
        )
        for label, side in sides
        if side is not None
    ]
    if not rows:
        return ""
    note = paragraph(
        "Agreement on which of two answers is better: a tie against a preference counts half. Kappa (Cohen 1960) is 0 "
        "where they agree as often as chance would have it, 1 where always. Intervals: 95%.",
        "quiet",
    )
    return table(("Agreement", "Comparisons", "Same order", "Kappa"), rows, "", ("Comparisons",)) + note


def agreement_plot(own: str, found: Trust, threshold: float) -> str:
    """Agreement with people beside that of people with each other, which is as much as can be asked of a judge."""
    sides = (("With people", found.with_people), ("People with each other", found.each_other))
    marks = [mark(label, side.share) for label, side in sides if side is not None]
    sentence = (
        f"Dashed: the {percent(threshold)} that the gate asks for at the lower end; one half is a coin. People's "
        "agreement with each other is as much as can be asked of a judge."
    )
    frame = Frame(f"{own}-agreement", "Agreement", sentence)
    return charts.intervals(frame, marks, "share of comparisons", threshold) if marks else ""


def position_plot(own: str, found: Trust) -> str:
    """How often it names the answer shown first, and how often it contradicts itself."""
    if found.flips is None:
        return ""
    sentence = (
        f"Asked in both orders, it contradicted itself on {percent_with_interval(found.flips)} of pairs; these are "
        "taken for ties. Without a liking for a place it names the first answer as often as the second (dashed)."
    )
    frame = Frame(f"{own}-position", "Position", sentence)
    if found.first_place is None:
        return paragraph(f"Position: it has called everything a tie, over {some(found.flips.n, 'comparison')}.")
    return charts.intervals(frame, [mark("Chose the first shown", found.first_place)], "share of its verdicts", COIN)


def length_plot(own: str, found: Trust) -> str:
    """How often it prefers the longer answer, beside people on the same pairs."""
    if found.longer is None or found.longer_people is None:
        return ""
    sentence = (
        "Right of people it likes length for its own sake, left of them brevity. The dashed line is as often the "
        "longer as the shorter answer."
    )
    frame = Frame(f"{own}-length", "Length", sentence)
    marks = [mark("The judge", found.longer), mark("People, same pairs", found.longer_people)]
    return charts.intervals(frame, marks, "share of preferences for the longer answer", COIN)


def mark(label: str, share: Estimate) -> Mark:
    """A share with its interval, for a chart."""
    return Mark(label, share.value, share.low, share.high, percent_with_interval(share))
