"""The card of an AI judge: how far it agrees with people, in words and plots. Pure."""

from __future__ import annotations

from hashlib import sha256

from annotation.tabs.quality_report import COIN, FEW
from annotation.translation import _, joined, ngettext, numeral
from annotation.ui import charts, line_plots
from annotation.ui.charts import Frame
from annotation.ui.formatting import NOTHING, moment, number_with_interval, percent, percent_with_interval
from annotation.ui.markup import card_title, paragraph, table, unfold
from rlhf.judges.judge_agreement import Trust, TrustBasis
from rlhf.tabs.jobs import reward_model_card

NO_RUBRIC = TrustBasis(None, 0)


def card(name: str, found: Trust, threshold: float, basis: TrustBasis = NO_RUBRIC, *, may_decide: bool = True) -> str:
    """How far a judge can be trusted, in words and plots.

    `may_decide`: whether the gate's rule lets trusted judges decide.
    """
    own = "trust-" + sha256(name.encode()).hexdigest()[:8]
    said = card_title(verdict(name, found, threshold, may_decide, bool(basis.seen))) + basis_sentence(basis)
    if found.with_people is not None and found.picked:
        said += paragraph(picked_sentence(found.picked, found.drawn, found.with_people.share.n))
    drawn = [
        reward_model_card.calibration_plot(own, found.calibration) if found.calibration else "",
        position_plot(own, found),
        length_plot(own, found),
    ]
    plotted = line_plots.boxed(drawn)
    return said + agreement_table(found) + (unfold(_("Charts"), plotted) if plotted else "")


def basis_sentence(basis: TrustBasis) -> str:
    """What is left out of a judge's figures."""
    said = []
    if basis.left_out:
        left_out = ngettext(
            "Left out: {count:,} verdict by another rubric than now, or on other weights under the base's name. Let "
            "it judge what people have judged, and it is measured anew.",
            "Left out: {count:,} verdicts by another rubric than now, or on other weights under the base's name. Let "
            "it judge what people have judged, and it is measured anew.",
            basis.left_out,
        )
        said.append(left_out.format(count=basis.left_out))
    if basis.model:
        said.append(
            _(
                "Only what the model has not been trained on counts: of what people judged, comparisons on "
                "held-out prompts and those first judged after the data of {model} were frozen ({frozen})."
            ).format(model=basis.model, frozen=moment(basis.frozen))
        )
        if basis.version is None:
            said.append(
                _("Its calibration leaves out all that was judged before: its temperature may be fitted on that.")
            )
        if basis.seen:
            seen = ngettext(
                "Left out: {count:,} comparison that it may have learnt from.",
                "Left out: {count:,} comparisons that it may have learnt from.",
                basis.seen,
            )
            said.append(seen.format(count=basis.seen))
    return paragraph(joined(*said), "quiet") if said else ""


def verdict(name: str, found: Trust, threshold: float, may_decide: bool = True, seen: bool = False) -> str:
    """How far the judge agrees with people, whether that is what the gate asks for, and whether it goes by judges.

    `seen`: whether it was trained on some of what people have judged.
    """
    if found.with_people is None and seen:
        return _(
            "The gate does not go by {name}: nothing that counts has been judged both by it and by people. Let people "
            "judge more, then let it judge the same."
        ).format(name=name)
    if found.with_people is None:
        return _(
            "The gate does not go by {name}: no comparison has been judged both by it and by people. Let it judge "
            "what people have judged."
        ).format(name=name)
    share = found.with_people.share
    if share.low < threshold:
        below = _("The gate does not go by {name}: its agreement with people does not surely reach {threshold}.")
        more = _("More comparisons narrow the interval.")
        said = below.format(name=name, threshold=percent(threshold))
        return f"{said} {more}" if share.value >= threshold else said
    reached = (
        _("The gate may go by {name}: its agreement with people surely reaches {threshold}.")
        if may_decide
        else _(
            "The agreement of {name} with people surely reaches {threshold}, but by the gate's rule judges inform "
            "and do not decide."
        )
    )
    return reached.format(name=name, threshold=percent(threshold))


def picked_sentence(picked: int, drawn: int, count: int) -> str:
    """That people got what judges could not label, and whether anything that was drawn makes up for it."""
    if drawn:
        return _(
            "People were asked about {picked:,} of these {count:,} because judges contradicted themselves or each "
            "other, or were unsure. Drawn by lot with a known chance: {drawn:,}; in what compares it with people each "
            "of these counts for those that were not drawn too."
        ).format(picked=picked, drawn=drawn, count=count)
    return _(
        "People were asked about {picked:,} of these {count:,} because judges contradicted themselves or each "
        "other, or were unsure. Over all comparisons, most of them easier, it is likely to agree more often."
    ).format(picked=picked, count=count)


def agreement_table(found: Trust) -> str:
    sides = ((_("With people"), found.with_people), (_("People with each other"), found.each_other))
    rows = [
        (
            label,
            _("{count:,}, few").format(count=side.share.n) if side.share.n < FEW else numeral(side.share.n),
            percent_with_interval(side.share),
            # A bootstrap over few ends where the figure itself is.
            NOTHING if side.kappa is None or side.share.n < FEW else number_with_interval(side.kappa),
        )
        for label, side in sides
        if side is not None
    ]
    if not rows:
        return ""
    note = _(
        "Agreement on which of two answers is better; a tie against a preference counts half. People's with each other "
        "is as much as can be asked of a judge. Kappa (Cohen 1960): 0 is as by chance, 1 always. A comparison that "
        "people got by lot counts 1 over its chance, once where that is not known. Intervals: 95%."
    )
    shown = table((_("Agreement"), _("Comparisons"), _("Same order"), _("Kappa")), rows, "", (_("Comparisons"),))
    return shown + unfold(_("How agreement is measured"), paragraph(note))


def position_plot(own: str, found: Trust) -> str:
    """How often it names the answer shown first, and how often it contradicts itself."""
    if found.flips is None:
        return ""
    sentence = _(
        "Asked in both orders, it contradicted itself on {flips} of pairs; these are taken for ties. "
        "Without a liking for a place it names the first answer as often as the second (dashed)."
    ).format(flips=percent_with_interval(found.flips))
    frame = Frame(f"{own}-position", _("Position"), sentence)
    if found.first_place is None:
        tied = ngettext(
            "Position: it has called everything a tie, over {count:,} comparison.",
            "Position: it has called everything a tie, over {count:,} comparisons.",
            found.flips.n,
        )
        return paragraph(tied.format(count=found.flips.n))
    mark = charts.share_mark(_("Chose the first shown"), found.first_place)
    return charts.intervals(frame, [mark], _("share of its verdicts"), COIN)


def length_plot(own: str, found: Trust) -> str:
    """How often it prefers the longer answer, beside people on the same pairs."""
    if found.longer is None or found.longer_people is None:
        return ""
    sentence = _(
        "Right of people it likes length for its own sake, left of them brevity. The dashed line is as "
        "often the longer as the shorter answer."
    )
    frame = Frame(f"{own}-length", _("Length"), sentence)
    marks = [
        charts.share_mark(_("The judge"), found.longer),
        charts.share_mark(_("People, same pairs"), found.longer_people),
    ]
    return charts.intervals(frame, marks, _("share of preferences for the longer answer"), COIN)
