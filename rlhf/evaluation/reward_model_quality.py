"""The health card of a reward model: how it does on held-out comparisons, before a policy learns to please it. Pure."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotation.metrics.intervals_and_bias import Estimate, wilson_interval
from annotation.ui import charts
from annotation.ui.charts import HEIGHT, Frame, Mark
from annotation.ui.formatting import percent, percent_with_interval
from annotation.ui.markup import paragraph
from rlhf.models.registry import REWARD_THRESHOLD
from rlhf.tabs.runs import curves
from rlhf.tabs.runs.curves import Line, short_number

Figures = Mapping[str, Any]
Array = NDArray[np.float64]
# With fewer held-out comparisons even a model that is right on all of them has an interval that reaches below the
# threshold of 60%: 6 / (6 + 1.96²) = 0.61, 5 / (5 + 1.96²) = 0.57.
FEWEST = 6
# Lower ends of the calibration's bins: the chance that the model gives to the answer that it favours.
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9)
SCORE_BINS = 12
# Which correlations are called weak and strong, and which accuracies are called close.
WEAK, STRONG, CLOSE = 0.2, 0.5, 0.05


# ------------------------------------------------------------------------------------------------------------ figures
@dataclass(frozen=True)
class Scored:
    """A comparison under a reward model: each answer's score and length in tokens, and its (better, worse) pairs."""

    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Duel:
    """A pair by what its better answer has more than its worse one; all pairs of a comparison weigh 1 together."""

    score: float
    length: float
    weight: float


def measure(train: Sequence[Scored], held_out: Sequence[Scored]) -> dict[str, Any]:
    """What a job's result says of its reward model; figures of fewer than FEWEST held-out comparisons are None.

    Held-out comparisons are taken to be independent; pairs of one comparison are not, and have one say together.
    """
    duels = duels_of(held_out) if len(held_out) >= FEWEST else []
    unknown = {"value": None, "low": None, "high": None, "n": len(held_out)}
    return {
        "accuracy": share([(credit(duel.score), duel.weight) for duel in duels]) if duels else unknown,
        "train_accuracy": share([(credit(duel.score), duel.weight) for duel in duels_of(train)]),
        "calibration": calibration(duels) if duels else None,
        "length": length_figures(held_out, duels) if duels else None,
        "scores": distributions(held_out) if duels else None,
    }


def duels_of(comparisons: Iterable[Scored]) -> list[Duel]:
    """Every pair of some comparisons."""
    return [
        Duel(one.scores[better] - one.scores[worse], one.lengths[better] - one.lengths[worse], 1 / len(one.pairs))
        for one in comparisons
        for better, worse in one.pairs
    ]


def credit(difference: float) -> float:
    """1 for a pair that is told rightly, 0 for the other way round, and a half for no difference."""
    return 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0


def share(credits: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The mean of (credit, weight) with Wilson's 95% interval; the sum of weights is the number of trials.

    A comparison of several pairs is one trial, whose credit may lie between 0 and 1. That varies at most as much as a
    trial that is right or wrong, so the interval is not too short.
    """
    trials = sum(weight for _, weight in credits)
    right = sum(value * weight for value, weight in credits)
    low, high = wilson_interval(min(right, trials), trials)
    return {"value": right / trials if trials else None, "low": low, "high": high, "n": round(trials)}


def calibration(duels: Sequence[Duel]) -> dict[str, Any]:
    """How often the answer that the model favours is the one that people prefer, by the chance that it gives to it.

    That chance is sigmoid(|difference of scores|) (Bradley and Terry 1952), from 1/2 on. `error` is the expected
    calibration error (Naeini et al. 2015): the mean distance of both over the bins, by their weight; `surplus` is by
    how much the model is surer than it is right.
    """
    total = sum(duel.weight for duel in duels)
    bins, error, surplus = [], 0.0, 0.0
    for number, (low, members) in enumerate(zip(CONFIDENCES, by_confidence(duels), strict=True)):
        if not members:
            continue
        weight = sum(duel.weight for duel in members)
        predicted = sum(confidence(duel) * duel.weight for duel in members) / weight
        observed = share([(credit(duel.score), duel.weight) for duel in members])
        high = (*CONFIDENCES, 1.0)[number + 1]
        bins.append({"from": low, "to": high, "predicted": predicted, "pairs": len(members), **observed})
        error += abs(observed["value"] - predicted) * weight / total
        surplus += (predicted - observed["value"]) * weight / total
    return {"bins": bins, "error": error, "surplus": surplus}


def confidence(duel: Duel) -> float:
    """The chance that the model gives to the answer that it favours."""
    return 1 / (1 + exp(-min(abs(duel.score), 700.0)))


def by_confidence(duels: Iterable[Duel]) -> list[list[Duel]]:
    """The pairs in each of the calibration's bins."""
    bins: list[list[Duel]] = [[] for _ in CONFIDENCES]
    for duel in duels:
        bins[bisect_right(CONFIDENCES, confidence(duel)) - 1].append(duel)
    return bins


def length_figures(comparisons: Sequence[Scored], duels: Sequence[Duel]) -> dict[str, Any]:
    """How scores go with length over all answers, and how often the longer of two answers is the preferred one."""
    scores = np.array([score for one in comparisons for score in one.scores])
    lengths = np.array([float(length) for one in comparisons for length in one.lengths])
    differ = any(duel.length for duel in duels)
    return {
        "spearman": correlation(ranks(scores), ranks(lengths)),
        "pearson": correlation(scores, lengths),
        "answers": len(scores),
        # Where no two answers differ in length, the rule was never put to use.
        "longer_wins": share([(credit(duel.length), duel.weight) for duel in duels] if differ else []),
    }


def correlation(one: Array, other: Array) -> float | None:
    """Pearson's correlation; None where either is the same throughout."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def ranks(values: Array) -> Array:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Array = (ends - (counts - 1) / 2)[places]
    return means


def distributions(comparisons: Sequence[Scored]) -> dict[str, Any]:
    """Histograms of the scores of chosen and of rejected answers, as shares; each comparison weighs the same."""
    sides: dict[str, list[float]] = {"chosen": [], "rejected": []}
    weights: list[float] = []
    for one in comparisons:
        for better, worse in one.pairs:
            sides["chosen"].append(one.scores[better])
            sides["rejected"].append(one.scores[worse])
            weights.append(1 / len(one.pairs) / len(comparisons))
    every = [score for one in comparisons for score in one.scores]
    edges = np.histogram_bin_edges(every, SCORE_BINS)
    counted = {name: np.histogram(values, edges, weights=weights)[0].tolist() for name, values in sides.items()}
    return {"edges": edges.tolist(), "mean": float(np.mean(every)), "std": float(np.std(every)), **counted}


# --------------------------------------------------------------------------------------------------------------- card
def card(health: Figures) -> str:
    """Whether a reward model can be trusted, in words and plots; `rlhf.tabs.runs.job_cards.STYLE` has its style."""
    name = "health-" + sha256(json.dumps(health, sort_keys=True).encode()).hexdigest()[:8]
    drawn = [accuracy_plot(name, health)]
    if health.get("calibration"):
        drawn.append(calibration_plot(name, health["calibration"]))
    if health.get("scores"):
        drawn.append(scores_plot(name, health["scores"]))
    said = f'<p class="headline"><b>Health of the reward model.</b></p>{paragraph(verdict(health))}'
    if health.get("length"):
        said += paragraph(length_sentence(health["length"], health["accuracy"]["value"]))
    return said + curves.plots([f"<div>{one}</div>" for one in drawn if one])


def verdict(health: Figures) -> str:
    """How often it is right on comparisons that it was not trained on, and whether that is enough for PPO."""
    accuracy, threshold = health["accuracy"], percent(REWARD_THRESHOLD)
    value, number = accuracy["value"], accuracy["n"]
    if value is None:
        return f"{unmeasured(number)} Judge more held-out comparisons and train it again to know how good it is."
    interval = f"{percent(accuracy['low'])} to {percent(accuracy['high'])}"
    said = f"It is right on {value:.1%} of {number} held-out comparisons (95% interval: {interval})"
    if value < REWARD_THRESHOLD:
        coin = " It may be no better than a coin." if accuracy["low"] <= 0.5 else ""
        return (
            f"{said}, below the {threshold} from which PPO runs without asking.{coin} PPO would mostly learn its "
            "mistakes: collect more judgements first."
        )
    unsure = " The interval reaches below it, so that is not certain." if accuracy["low"] < REWARD_THRESHOLD else ""
    return f"{said}, above the {threshold} from which PPO runs without asking.{unsure}"


def unmeasured(number: int) -> str:
    """Why there is no accuracy."""
    if number == 0:
        return "No held-out comparison was there to check it with."
    there = (
        "There was only one held-out comparison" if number == 1 else f"There were only {number} held-out comparisons"
    )
    return (
        f"{there} to check it with. With fewer than {FEWEST}, even being right on all would not tell it from "
        f"{percent(REWARD_THRESHOLD)}."
    )


def length_sentence(length: Figures, accuracy: float) -> str:
    """How far scores follow length, and how far the rule that length alone decides would come."""
    rule, spearman = length["longer_wins"]["value"], length["spearman"] or 0.0
    if rule is None:
        return f"{correlation_sentence(length)} No two answers that people compared differ in length."
    favourite, best = ("longer", rule) if rule >= 0.5 else ("shorter", 1 - rule)
    said = (
        f"{correlation_sentence(length)} It is right on {accuracy:.1%}, the rule “the {favourite} answer wins” alone "
        f"on {best:.1%}."
    )
    if abs(spearman) >= STRONG and accuracy < best + CLOSE:
        return f"{said} It may have learnt little but length."
    return f"{said} Length alone tells more." if accuracy <= best else said


def correlation_sentence(length: Figures) -> str:
    """The correlations of score and length in words."""
    spearman, pearson = length["spearman"], length["pearson"]
    if spearman is None or pearson is None:
        return "Scores can't be compared with length: one of them is the same for every held-out answer."
    size = "hardly" if abs(spearman) < WEAK else "somewhat" if abs(spearman) < STRONG else "strongly"
    way = "rise" if spearman >= 0 else "fall"
    return (
        f"Its scores {size} {way} with an answer's length: rank correlation {spearman:.2f} (Spearman), linear "
        f"{pearson:.2f} (Pearson), over {length['answers']} held-out answers."
    )


def accuracy_plot(name: str, health: Figures) -> str:
    """Held-out accuracy beside that of rules which need no model, and that on the training data."""
    marks = []
    if health["accuracy"]["value"] is not None:
        marks.append(mark("On held-out comparisons", health["accuracy"]))
    if health.get("length"):
        longer = health["length"]["longer_wins"]
        if longer["value"] is not None:
            low, high = 1 - longer["high"], 1 - longer["low"]
            shorter = {"value": 1 - longer["value"], "low": low, "high": high, "n": longer["n"]}
            marks += [mark("Rule: the longer wins", longer), mark("Rule: the shorter wins", shorter)]
    if (health.get("train_accuracy") or {}).get("value") is not None:
        marks.append(mark("On its training data", health["train_accuracy"]))
    if not marks:
        return ""
    sentence = (
        f"How often the answer that people prefer gets the higher score, with 95% intervals. Dashed: the "
        f"{percent(REWARD_THRESHOLD)} that PPO asks for; one half is a coin. Far more on its training data than on "
        "held-out comparisons means that it has learnt them by heart."
    )
    frame = Frame(f"{name}-accuracy", "Accuracy", sentence)
    return charts.intervals(frame, marks, "share of comparisons", reference=REWARD_THRESHOLD)


def mark(label: str, found: Figures) -> Mark:
    """A share with its interval, for a chart."""
    estimate = Estimate(found["value"], found["low"], found["high"], found["n"])
    return Mark(label, estimate.value, estimate.low, estimate.high, percent_with_interval(estimate))


def calibration_plot(name: str, found: Figures) -> str:
    """How often it is right, by how sure it is."""
    place, height = charts.scale(CONFIDENCES[0], 1.0), charts.scale_up(0.0, 1.0)
    parts = charts.rulers([(tick / 4, percent(tick / 4)) for tick in range(5)], height)
    parts.append(charts.line(0, height(CONFIDENCES[0]), 100, height(1.0), "reference"))
    for tick in (*CONFIDENCES, 1.0):
        at = place(tick)
        parts.append(charts.text(at, HEIGHT + 17, percent(tick), charts.tick_anchor(at), "small"))
    said = []
    for entry in found["bins"]:
        x = place(entry["predicted"])
        pairs = "1 pair" if entry["pairs"] == 1 else f"{entry['pairs']} pairs"
        words = f"sure to {percent(entry['predicted'])}, right on {percent(entry['value'])} of {pairs}"
        parts.append(charts.line(x, height(entry["low"]), x, height(entry["high"]), "interval"))
        parts.append(charts.dot(x, height(entry["value"]), words))
        middle = place((entry["from"] + entry["to"]) / 2)
        parts.append(charts.text(middle, HEIGHT + 34, str(entry["pairs"]), "middle", "small"))
        said.append(words)
    axis, across = "how often it is right", "how sure it is"
    under = f"{across}; number of pairs"
    parts += [charts.text(0, -8, axis, "start", "small"), charts.text(50, HEIGHT + 54, under, "middle", "small")]
    frame = Frame(f"{name}-calibration", "Calibration", calibration_sentence(found))
    return charts.figure(frame, "".join(parts), HEIGHT + 60, f"{axis} by {across}: {'; '.join(said)}.", "upright")


def calibration_sentence(found: Figures) -> str:
    """What to see in the calibration plot."""
    surplus, pairs = found["surplus"], sum(entry["pairs"] for entry in found["bins"])
    way = (
        f"{pairs} {'pair is' if pairs == 1 else 'pairs are'} too few to tell whether it is as sure as it should be."
        if pairs < FEWEST
        else "On the whole it is about as sure as it should be."
        if abs(surplus) < CLOSE
        else "On the whole it is surer than it should be."
        if surplus > 0
        else "On the whole it is less sure than it should be."
    )
    return (
        "The chance that it gives to the answer it favours, against how often people prefer that one, with 95% "
        f"intervals. On the dashed line its chances are true; below it, it is too sure. {way} Expected calibration "
        f"error: {found['error']:.2f}."
    )


SIDES = ("chosen", "rejected")


def scores_plot(name: str, found: Figures) -> str:
    """The scores of chosen and of rejected answers."""
    edges, top = found["edges"], max(max(found[side]) for side in SIDES)
    place, height = charts.scale(edges[0], edges[-1]), charts.scale_up(0.0, top)
    parts = charts.rulers([(tick, percent(tick)) for tick in charts.nice_ticks(0.0, top, 5)], height)
    for hue, side in enumerate(SIDES):
        parts.append(curves.path(Line(side, outline(edges, found[side])), hue, place, height))
    for tick in charts.nice_ticks(edges[0], edges[-1], 5):
        at = place(tick)
        parts.append(charts.text(at, HEIGHT + 17, f"{tick:g}", charts.tick_anchor(at), "small"))
    axis, across = "share of answers", "score"
    parts += [charts.text(0, -8, axis, "start", "small"), charts.text(50, HEIGHT + 36, across, "middle", "small")]
    sentence = (
        "Scores of held-out answers that people preferred in a pair, and of those they did not. The further the two "
        "lie apart, the better; where they cover each other it can't tell them apart. Only differences count: zero "
        f"means nothing. Mean {short_number(found['mean'])}, standard deviation {short_number(found['std'])}."
    )
    means = {side: mean_of(edges, found[side]) for side in SIDES}
    described = f"{axis} by {across}. " + "; ".join(
        f"{side}: about {short_number(value)} on average" for side, value in means.items()
    )
    legend = "".join(f'<span><i class="hue{hue}"></i>{side}</span>' for hue, side in enumerate(SIDES))
    frame = Frame(f"{name}-scores", "Scores", sentence)
    return (
        charts.figure(frame, "".join(parts), HEIGHT + 42, f"{described}.", "upright")
        + f'<div class="legend">{legend}</div>'
    )


def outline(edges: Sequence[float], shares: Sequence[float]) -> list[tuple[float, float]]:
    """A histogram as one line: up at a bin's lower edge, along it, and down to zero at the ends."""
    steps = [(x, value) for (low, high), value in zip(pairwise(edges), shares, strict=True) for x in (low, high)]
    return [(edges[0], 0.0), *steps, (edges[-1], 0.0)]


def mean_of(edges: Sequence[float], shares: Sequence[float]) -> float:
    """The mean of a histogram, each bin taken at its middle."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return sum(middle * value for middle, value in zip(middles, shares, strict=True))
