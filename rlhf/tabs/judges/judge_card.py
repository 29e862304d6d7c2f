"""The trust card of an AI judge: how far it agrees with people, in words and plots. Pure."""

from __future__ import annotations

from hashlib import sha256

from annotation.metrics.intervals_and_bias import Estimate
from annotation.tabs.quality_report import COIN, FEW, some
from annotation.ui import charts
from annotation.ui.charts import ChartMark, Frame
from annotation.ui.formatting import NOTHING, moment, number_with_interval, percent, percent_with_interval
from annotation.ui.markup import escape, paragraph, table
from rlhf.judges.judge_agreement import Basis, Trust
from rlhf.tabs.runs import curves, reward_model_card

NO_RUBRIC = Basis(None, 0)


def card(name: str, found: Trust, threshold: float, basis: Basis = NO_RUBRIC, *, may_decide: bool = True) -> str:
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
        reward_model_card.calibration_plot(own, found.calibration) if found.calibration else "",
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


def mark(label: str, share: Estimate) -> ChartMark:
    """A share with its interval, for a chart."""
    return ChartMark(label, share.value, share.low, share.high, percent_with_interval(share))
