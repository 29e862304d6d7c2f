"""The card of a reward model's quality: whether it can be trusted, in words and plots. Pure."""

from __future__ import annotations

import json
from hashlib import sha256

from annotation.metrics.calibration import Calibration
from annotation.metrics.intervals_and_bias import Estimate
from annotation.translation import N_, _, joined, ngettext
from annotation.ui import charts, line_plots
from annotation.ui.charts import Frame
from annotation.ui.formatting import percent, percent_span, short_number
from annotation.ui.markup import card_title, paragraph
from rlhf.models.reward_model_quality import FEWEST, REWARD_THRESHOLD, LengthFigures, RewardModelQuality, ScoreHistogram

# Which correlations are called weak and strong, and which accuracies are called close.
WEAK, STRONG, CLOSE = 0.2, 0.5, 0.05


def card(quality: RewardModelQuality) -> str:
    """Whether a reward model can be trusted, in words and plots."""
    name = "quality-" + sha256(json.dumps(quality.to_json(), sort_keys=True).encode()).hexdigest()[:8]
    drawn = [accuracy_plot(name, quality)]
    if quality.calibration is not None:
        drawn.append(calibration_plot(name, quality.calibration))
    if quality.scores is not None:
        drawn.append(scores_plot(name, quality.scores))
    said = card_title(_("Quality of the reward model.")) + paragraph(verdict(quality))
    if quality.length is not None and quality.accuracy.value is not None:
        said += paragraph(length_sentence(quality.length, quality.accuracy.value))
    said += paragraph(temperature_sentence(quality.temperature))
    said += paragraph(judges_sentence(quality)) if quality.by_judges else ""
    return said + line_plots.boxed(drawn)


def verdict(quality: RewardModelQuality) -> str:
    """How often it is right on comparisons that it was not trained on, and whether that is enough to train by it."""
    found, threshold = quality.accuracy.estimate, percent(REWARD_THRESHOLD)
    if found is None:
        why = unmeasured(quality.accuracy.n)
        return _("{why} Judge more held-out comparisons and train it again to know how good it is.").format(why=why)
    interval = percent_span(found.low, found.high)
    below, above = (
        _(
            "It is right on {value:.1%} of {count} held-out comparisons (95% interval: {interval}), below the "
            "{threshold} from which a policy is trained against it without asking."
        ),
        _(
            "It is right on {value:.1%} of {count} held-out comparisons (95% interval: {interval}), above the "
            "{threshold} from which a policy is trained against it without asking."
        ),
    )
    known = {"value": found.value, "count": found.n, "interval": interval, "threshold": threshold}
    if found.value < REWARD_THRESHOLD:
        sentences = [
            below.format(**known),
            _("It may be no better than guessing.") if found.low <= 0.5 else "",
            _("A policy trained against it would mostly learn its mistakes: collect more judgements first."),
        ]
        return joined(*sentences)
    unsure = _("The interval reaches below it, so that is not certain.")
    return f"{above.format(**known)} {unsure}" if found.low < REWARD_THRESHOLD else above.format(**known)


def unmeasured(number: int) -> str:
    """Why there is no accuracy."""
    if number == 0:
        return _("No held-out comparison was there to check it with.")
    there = ngettext(
        "There was only {number} held-out comparison to check it with.",
        "There were only {number} held-out comparisons to check it with.",
        number,
    ).format(number=number)
    too_few = _("With fewer than {fewest}, even being right on all would not tell it from {reward_threshold}.")
    return joined(there, too_few.format(fewest=FEWEST, reward_threshold=percent(REWARD_THRESHOLD)))


def length_sentence(length: LengthFigures, accuracy: float) -> str:
    """How far scores follow length, and how far the rule that length alone decides would come."""
    rule, spearman = length.longer_wins.value, length.spearman or 0.0
    if rule is None:
        return _("{correlation_sentence} No two answers that were compared differ in length.").format(
            correlation_sentence=correlation_sentence(length)
        )
    best = max(rule, 1 - rule)
    said = _(
        "{correlation_sentence} It is right on {accuracy:.1%}, the rule “the longer answer wins” alone on {best:.1%}."
    )
    if rule < 0.5:
        said = _(
            "{correlation_sentence} It is right on {accuracy:.1%}, the rule “the shorter answer wins” alone on "
            "{best:.1%}."
        )
    said = said.format(correlation_sentence=correlation_sentence(length), accuracy=accuracy, best=best)
    if abs(spearman) >= STRONG and accuracy < best + CLOSE:
        return _("{said} It may have learnt little but length.").format(said=said)
    return _("{said} Length alone tells more.").format(said=said) if accuracy <= best else said


def judges_sentence(quality: RewardModelQuality) -> str:
    """Whose word the figures rest on where it is not people's alone."""
    said = _(
        "AI judges alone have judged held-out comparisons ({number} of {count}): all this says how often it agrees "
        "with them, not with people."
    )
    if quality.by_judges == quality.accuracy.n:
        said = _(
            "AI judges alone have judged what was held out: all this says how often it agrees with them, not with "
            "people."
        )
    return said.format(number=quality.by_judges, count=quality.accuracy.n)


def temperature_sentence(temperature: float | None) -> str:
    if temperature is None:
        return _("As a judge its temperature is unknown, and taken as 1: its chances are as sure as its scores.")
    return _("As a judge it divides differences of scores by the temperature {temperature}, fitted here.").format(
        temperature=short_number(temperature)
    )


RISES = (
    N_("Its scores hardly rise with an answer's length."),
    N_("Its scores somewhat rise with an answer's length."),
    N_("Its scores strongly rise with an answer's length."),
)
FALLS = (
    N_("Its scores hardly fall with an answer's length."),
    N_("Its scores somewhat fall with an answer's length."),
    N_("Its scores strongly fall with an answer's length."),
)


def correlation_sentence(length: LengthFigures) -> str:
    spearman, pearson = length.spearman, length.pearson
    if spearman is None or pearson is None:
        return _("Scores can't be compared with length: one of them is the same for every held-out answer.")
    hardly, somewhat, strongly = RISES if spearman >= 0 else FALLS
    trend = hardly if abs(spearman) < WEAK else somewhat if abs(spearman) < STRONG else strongly
    measured = _(
        "Rank correlation {spearman:.2f} (Spearman), linear {pearson:.2f} (Pearson), over {answers} held-out answers."
    ).format(spearman=spearman, pearson=pearson, answers=length.answers)
    return f"{_(trend)} {measured}"


def accuracy_plot(name: str, quality: RewardModelQuality) -> str:
    """Held-out accuracy beside that of rules which need no model, and that on the training data."""
    longer = None if quality.length is None else quality.length.longer_wins.estimate
    shorter = None if longer is None else Estimate(1 - longer.value, 1 - longer.high, 1 - longer.low, longer.n)
    known = (
        (_("On held-out comparisons"), quality.accuracy.estimate),
        (_("Rule: the longer wins"), longer),
        (_("Rule: the shorter wins"), shorter),
        (_("On its training data"), None if quality.train_accuracy is None else quality.train_accuracy.estimate),
    )
    marks = [charts.share_mark(label, found) for label, found in known if found is not None]
    if not marks:
        return ""
    sentence = _(
        "How often the answer that was preferred scores higher, with 95% intervals. Dashed: the "
        "{reward_threshold} that training a policy against it asks for; one half is guessing. Far more on "
        "training data than on held-out comparisons: it has learnt them by heart."
    ).format(reward_threshold=percent(REWARD_THRESHOLD))
    frame = Frame(f"{name}-accuracy", _("Accuracy"), sentence)
    return charts.intervals(frame, marks, _("share of comparisons"), reference=REWARD_THRESHOLD)


def calibration_plot(name: str, found: Calibration) -> str:
    frame = Frame(f"{name}-calibration", _("Calibration"), calibration_sentence(found))
    return charts.calibration(frame, found, _("how often it is right"), _("how sure it is"))


def calibration_sentence(found: Calibration) -> str:
    surplus, pairs = found.surplus, found.pairs
    way = (
        ngettext(
            "{count} pair is too few to tell whether it is as sure as it should be.",
            "{count} pairs are too few to tell whether it is as sure as it should be.",
            pairs,
        ).format(count=pairs)
        if pairs < FEWEST
        else _("On the whole it is about as sure as it should be.")
        if abs(surplus) < CLOSE
        else _("On the whole it is surer than it should be.")
        if surplus > 0
        else _("On the whole it is less sure than it should be.")
    )
    return _(
        "The chance that it gives to the answer it favours, against how often that one is preferred, with "
        "95% intervals. On the dashed line its chances are true; below it, it is too sure. {way} Expected "
        "calibration error: {error:.2f}."
    ).format(way=way, error=found.error)


def scores_plot(name: str, found: ScoreHistogram) -> str:
    sentence = _(
        "Scores of held-out answers that were preferred in a pair, and of the others: the further apart, "
        "the better it can tell them. Below zero, an answer is worse than none if some were judged all bad; "
        "otherwise only differences count. Mean {mean}, standard deviation {deviation}."
    ).format(mean=short_number(found.mean), deviation=short_number(found.std))
    frame = Frame(f"{name}-scores", _("Scores"), sentence)
    sides = {_("chosen answers"): found.chosen, _("rejected answers"): found.rejected}
    return line_plots.histograms(frame, found.edges, sides, _("share of answers"), _("score"))
