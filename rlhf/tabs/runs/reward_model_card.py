"""The card of a reward model's quality: whether it can be trusted, in words and plots. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise

from annotation.metrics.calibration import CONFIDENCES, Calibration
from annotation.metrics.intervals_and_bias import Estimate
from annotation.ui import charts
from annotation.ui.charts import HEIGHT, ChartMark, Frame
from annotation.ui.formatting import percent, percent_with_interval
from annotation.ui.markup import paragraph
from rlhf.models.reward_model_quality import (
    FEWEST,
    REWARD_THRESHOLD,
    LengthFigures,
    RewardModelQuality,
    ScoreHistogram,
)
from rlhf.tabs.runs import curves
from rlhf.tabs.runs.curves import Line, short_number

# Which correlations are called weak and strong, and which accuracies are called close.
WEAK, STRONG, CLOSE = 0.2, 0.5, 0.05


def card(quality: RewardModelQuality) -> str:
    """Whether a reward model can be trusted, in words and plots; `rlhf.tabs.runs.job_cards.STYLE` has its style."""
    name = "health-" + sha256(json.dumps(quality.to_json(), sort_keys=True).encode()).hexdigest()[:8]
    drawn = [accuracy_plot(name, quality)]
    if quality.calibration is not None:
        drawn.append(calibration_plot(name, quality.calibration))
    if quality.scores is not None:
        drawn.append(scores_plot(name, quality.scores))
    said = f'<p class="headline"><b>Health of the reward model.</b></p>{paragraph(verdict(quality))}'
    if quality.length is not None and quality.accuracy.value is not None:
        said += paragraph(length_sentence(quality.length, quality.accuracy.value))
    return said + curves.plots([f"<div>{one}</div>" for one in drawn if one])


def verdict(quality: RewardModelQuality) -> str:
    """How often it is right on comparisons that it was not trained on, and whether that is enough for PPO."""
    found, threshold = quality.accuracy.estimate, percent(REWARD_THRESHOLD)
    if found is None:
        why = unmeasured(quality.accuracy.n)
        return f"{why} Judge more held-out comparisons and train it again to know how good it is."
    interval = f"{percent(found.low)} to {percent(found.high)}"
    said = f"It is right on {found.value:.1%} of {found.n} held-out comparisons (95% interval: {interval})"
    if found.value < REWARD_THRESHOLD:
        coin = " It may be no better than a coin." if found.low <= 0.5 else ""
        return (
            f"{said}, below the {threshold} from which PPO runs without asking.{coin} PPO would mostly learn its "
            "mistakes: collect more judgements first."
        )
    unsure = " The interval reaches below it, so that is not certain." if found.low < REWARD_THRESHOLD else ""
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


def length_sentence(length: LengthFigures, accuracy: float) -> str:
    """How far scores follow length, and how far the rule that length alone decides would come."""
    rule, spearman = length.longer_wins.value, length.spearman or 0.0
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


def correlation_sentence(length: LengthFigures) -> str:
    """The correlations of score and length in words."""
    spearman, pearson = length.spearman, length.pearson
    if spearman is None or pearson is None:
        return "Scores can't be compared with length: one of them is the same for every held-out answer."
    size = "hardly" if abs(spearman) < WEAK else "somewhat" if abs(spearman) < STRONG else "strongly"
    way = "rise" if spearman >= 0 else "fall"
    return (
        f"Its scores {size} {way} with an answer's length: rank correlation {spearman:.2f} (Spearman), linear "
        f"{pearson:.2f} (Pearson), over {length.answers} held-out answers."
    )


def accuracy_plot(name: str, quality: RewardModelQuality) -> str:
    """Held-out accuracy beside that of rules which need no model, and that on the training data."""
    longer = None if quality.length is None else quality.length.longer_wins.estimate
    shorter = None if longer is None else Estimate(1 - longer.value, 1 - longer.high, 1 - longer.low, longer.n)
    known = (
        ("On held-out comparisons", quality.accuracy.estimate),
        ("Rule: the longer wins", longer),
        ("Rule: the shorter wins", shorter),
        ("On its training data", None if quality.train_accuracy is None else quality.train_accuracy.estimate),
    )
    marks = [mark(label, found) for label, found in known if found is not None]
    if not marks:
        return ""
    sentence = (
        f"How often the answer that people prefer gets the higher score, with 95% intervals. Dashed: the "
        f"{percent(REWARD_THRESHOLD)} that PPO asks for; one half is a coin. Far more on its training data than on "
        "held-out comparisons means that it has learnt them by heart."
    )
    frame = Frame(f"{name}-accuracy", "Accuracy", sentence)
    return charts.intervals(frame, marks, "share of comparisons", reference=REWARD_THRESHOLD)


def mark(label: str, found: Estimate) -> ChartMark:
    """A share with its interval, for a chart."""
    return ChartMark(label, found.value, found.low, found.high, percent_with_interval(found))


def calibration_plot(name: str, found: Calibration) -> str:
    """How often it is right, by how sure it is."""
    place, height = charts.scale(CONFIDENCES[0], 1.0), charts.scale_up(0.0, 1.0)
    parts = charts.rulers([(tick / 4, percent(tick / 4)) for tick in range(5)], height)
    parts.append(charts.line(0, height(CONFIDENCES[0]), 100, height(1.0), "reference"))
    for tick in (*CONFIDENCES, 1.0):
        at = place(tick)
        parts.append(charts.text(at, HEIGHT + 17, percent(tick), charts.tick_anchor(at), "small"))
    said = []
    for one in found.bins:
        x, observed = place(one.predicted), one.observed
        pairs = "1 pair" if one.pairs == 1 else f"{one.pairs} pairs"
        words = f"sure to {percent(one.predicted)}, right on {percent(observed.value)} of {pairs}"
        parts.append(charts.line(x, height(observed.low), x, height(observed.high), "interval"))
        parts.append(charts.dot(x, height(observed.value), words))
        middle = place((one.start + one.end) / 2)
        parts.append(charts.text(middle, HEIGHT + 34, str(one.pairs), "middle", "small"))
        said.append(words)
    axis, across = "how often it is right", "how sure it is"
    under = f"{across}; number of pairs"
    parts += [charts.text(0, -8, axis, "start", "small"), charts.text(50, HEIGHT + 54, under, "middle", "small")]
    frame = Frame(f"{name}-calibration", "Calibration", calibration_sentence(found))
    return charts.figure(frame, "".join(parts), HEIGHT + 60, f"{axis} by {across}: {'; '.join(said)}.", "upright")


def calibration_sentence(found: Calibration) -> str:
    """What to see in the calibration plot."""
    surplus, pairs = found.surplus, found.pairs
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
        f"error: {found.error:.2f}."
    )


def scores_plot(name: str, found: ScoreHistogram) -> str:
    """The scores of chosen and of rejected answers."""
    edges, sides = found.edges, {"chosen": found.chosen, "rejected": found.rejected}
    top = max(max(shares) for shares in sides.values())
    place, height = charts.scale(edges[0], edges[-1]), charts.scale_up(0.0, top)
    parts = charts.rulers([(tick, percent(tick)) for tick in charts.nice_ticks(0.0, top, 5)], height)
    for hue, (side, shares) in enumerate(sides.items()):
        parts.append(curves.path(Line(side, outline(edges, shares)), hue, place, height))
    for tick in charts.nice_ticks(edges[0], edges[-1], 5):
        at = place(tick)
        parts.append(charts.text(at, HEIGHT + 17, f"{tick:g}", charts.tick_anchor(at), "small"))
    axis, across = "share of answers", "score"
    parts += [charts.text(0, -8, axis, "start", "small"), charts.text(50, HEIGHT + 36, across, "middle", "small")]
    sentence = (
        "Scores of held-out answers that people preferred in a pair, and of those they did not. The further the two "
        "lie apart, the better; where they cover each other it can't tell them apart. Only differences count: zero "
        f"means nothing. Mean {short_number(found.mean)}, standard deviation {short_number(found.std)}."
    )
    means = {side: mean_of(edges, shares) for side, shares in sides.items()}
    described = f"{axis} by {across}. " + "; ".join(
        f"{side}: about {short_number(value)} on average" for side, value in means.items()
    )
    legend = "".join(f'<span><i class="hue{hue}"></i>{side}</span>' for hue, side in enumerate(sides))
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
