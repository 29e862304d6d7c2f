"""The card of a reward model's quality: whether it can be trusted, in words and plots. Pure."""

from __future__ import annotations

import json
from hashlib import sha256

from annotation.metrics.calibration import Calibration
from annotation.metrics.intervals_and_bias import Estimate
from annotation.ui import charts, line_plots
from annotation.ui.charts import Frame
from annotation.ui.formatting import percent, short_number
from annotation.ui.markup import card_title, paragraph
from rlhf.models.reward_model_quality import FEWEST, REWARD_THRESHOLD, LengthFigures, RewardModelQuality, ScoreHistogram

# Which correlations are called weak and strong, and which accuracies are called close.
WEAK, STRONG, CLOSE = 0.2, 0.5, 0.05


def card(quality: RewardModelQuality) -> str:
    """Whether a reward model can be trusted, in words and plots."""
    name = "health-" + sha256(json.dumps(quality.to_json(), sort_keys=True).encode()).hexdigest()[:8]
    drawn = [accuracy_plot(name, quality)]
    if quality.calibration is not None:
        drawn.append(calibration_plot(name, quality.calibration))
    if quality.scores is not None:
        drawn.append(scores_plot(name, quality.scores))
    said = card_title("Health of the reward model.") + paragraph(verdict(quality))
    if quality.length is not None and quality.accuracy.value is not None:
        said += paragraph(length_sentence(quality.length, quality.accuracy.value))
    return said + line_plots.plots([f"<div>{one}</div>" for one in drawn if one])


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
    marks = [charts.share_mark(label, found) for label, found in known if found is not None]
    if not marks:
        return ""
    sentence = (
        f"How often the answer that people prefer gets the higher score, with 95% intervals. Dashed: the "
        f"{percent(REWARD_THRESHOLD)} that PPO asks for; one half is a coin. Far more on its training data than on "
        "held-out comparisons means that it has learnt them by heart."
    )
    frame = Frame(f"{name}-accuracy", "Accuracy", sentence)
    return charts.intervals(frame, marks, "share of comparisons", reference=REWARD_THRESHOLD)


def calibration_plot(name: str, found: Calibration) -> str:
    """How often it is right, by how sure it is."""
    frame = Frame(f"{name}-calibration", "Calibration", calibration_sentence(found))
    return charts.calibration(frame, found, "how often it is right", "how sure it is")


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
    sentence = (
        "Scores of held-out answers that people preferred in a pair, and of those they did not. The further the two "
        "lie apart, the better; where they cover each other it can't tell them apart. Only differences count: zero "
        f"means nothing. Mean {short_number(found.mean)}, standard deviation {short_number(found.std)}."
    )
    frame = Frame(f"{name}-scores", "Scores", sentence)
    sides = {"chosen": found.chosen, "rejected": found.rejected}
    return line_plots.histograms(frame, found.edges, sides, "share of answers", "score")
