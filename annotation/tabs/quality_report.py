"""What the Quality tab says, as pure functions: sentences, tables and charts from figures; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import exp

from annotation.metrics.agreement import Agreement, Dispute, Period
from annotation.metrics.bradley_terry import Strengths
from annotation.metrics.intervals_and_bias import AnnotatorFigures, Bias, Estimate
from annotation.metrics.quality import AdminDecision, DecisionKind, FlaggedCase, Gold, QualityReport
from annotation.metrics.reliability import Reliability
from annotation.records import Project
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui import charts
from annotation.ui.charts import ChartMark, Frame
from annotation.ui.formatting import (
    NOTHING,
    cut,
    moment,
    number_with_interval,
    percent,
    percent_span,
    percent_with_interval,
)
from annotation.ui.markup import (
    Row,
    Way,
    beside,
    conversation,
    escape,
    facts,
    paragraph,
    points,
    sides,
    table,
    telling,
    text_box,
    unfold,
)
from annotation.ui.tab_addresses import Place, link
from annotation.workbench.gold import ComparisonReview

FLAG_NAMES: Mapping[str, str] = {"harmful": N_("harmful"), "personal-data": N_("personal data"), "broken": N_("broken")}
PURPOSES: Mapping[str, str] = {
    "own": N_("to learn from"),
    "gold": N_("gold"),
    "re-ask": N_("asked again"),
    "settle": N_("to settle"),
    "import": N_("imported"),
    "judge": N_("AI judge"),
}
# By what two judgements are held against each other.
LEVELS: Mapping[str, str] = {"nominal": N_("the same or not"), "ordinal": N_("how far apart")}
OUTCOME_NAMES: Mapping[str, str] = {
    "ranked": N_("ranked"),
    "all-bad": N_("all bad"),
    "skip": N_("skipped"),
    "undone": N_("undone"),
}
DEGREES: Mapping[int, str] = {1: N_("slightly"), 2: N_("clearly"), 3: N_("much")}
NO_JUDGEMENTS = N_("Nobody has judged anything yet. Figures appear here with the first judgements.")
# Below so many comparisons an interval over them says little, and the page says so.
FEW = 10
COIN = 0.5


# ------------------------------------------------------------------------------------------------------------- pieces
def in_hand(comparison_id: int) -> str:
    """Says that a comparison waits to be judged; the link leads there without loading the page anew."""
    said = _("Comparison {number} is in your hands, to settle.").format(number=comparison_id)
    link = _("Judge it on the Annotate tab.")
    return f'<p role="status">{escape(said)} <a href="/annotate">{escape(link)}</a></p>'


def comparison_way(comparison_id: int) -> Way:
    """The number of a comparison, which leads to its page."""
    return Way(link("data/comparisons", Place((str(comparison_id),))), f"#{comparison_id}")


# ----------------------------------------------------------------------------------------------------------- standing
def status_sentence(figures: QualityReport, project: Project) -> str:
    """How the labels stand: what their agreement means, figures, and what calls for attention."""
    if not figures.annotators:
        return paragraph(_(NO_JUDGEMENTS), "headline")
    agreed = measured_agreement(figures)
    shown = [
        (_("Judgements that train the model"), numeral(figures.judgements)),
        (_("Comparisons"), numeral(figures.comparisons)),
    ]
    if agreed is not None:
        shown.append((_("Say the same"), percent_with_interval(agreed.percent)))
    if agreed is not None and agreed.alpha is not None:
        shown.append((_("Krippendorff's alpha"), number_with_interval(agreed.alpha)))
    found = facts(shown) + points([*to_look_at(figures, project)])
    return paragraph(agreement_sentence(figures), "headline") + found


def measured_agreement(figures: QualityReport) -> Agreement | None:
    """How far annotators agree on which answer is better, where enough comparisons tell."""
    verdicts = [found for found in figures.agreement if found.level == "nominal" and found.comparisons >= FEW]
    return max(verdicts, key=lambda found: found.comparisons, default=None)


def agreement_sentence(figures: QualityReport) -> str:
    if not figures.agreement:
        return (
            _("How far annotators agree is not known: what several have judged was chosen by doubt.")
            if figures.shared
            else _("How far annotators agree is not known: no comparison has two independent judgements.")
        )
    agreed = measured_agreement(figures)
    if agreed is None:
        several = max(found.comparisons for found in figures.agreement if found.level == "nominal")
        return ngettext(
            "Several have judged only {count} comparison so far: too few to say how far they agree.",
            "Several have judged only {count} comparisons so far: too few to say how far they agree.",
            several,
        ).format(count=several)
    if agreed.alpha is None:
        return _("Annotators have only ever given one verdict; that they agree says little.")
    return meaning(agreed.alpha.value)


def meaning(alpha: float) -> str:
    """What an alpha is good for: the thresholds of Krippendorff 2004, and below them what preferences usually give."""
    if alpha >= 0.8:
        return _("Annotators agree as well as careful measuring can ask.")
    if alpha >= 0.667:
        return _("Annotators agree well for judgements of taste.")
    if alpha >= 0.3:
        return _("Annotators agree as is usual where taste decides; more annotators for each comparison help.")
    if alpha >= 0.1:
        return _("Annotators agree little; clearer guidelines help, and more annotators for each comparison.")
    return _(
        "Annotators hardly agree more than by chance: look at the guidelines and at each annotator before you train."
    )


def to_look_at(figures: QualityReport, project: Project) -> Iterator[str]:
    """What an admin should look at, most pressing first."""
    counted = [one for one in figures.annotators if one.name not in figures.excluded]
    coins = [one.name for one in counted if figures.reliabilities[one.name].high < 0.6]
    hasty = [one.name for one in counted if one.judgements and one.hasty > 0.05 * one.judgements]
    wrong = [gold for gold in figures.golds if not gold.retired and gold.right and gold.right.high < 0.6]
    biased = [  # the interval lies at least three percentage points off what would be even
        bias
        for bias in (*figures.position, *figures.length)
        if bias.share.low > bias.fair + 0.03 or bias.share.high < bias.fair - 0.03
    ]
    if coins:
        yield _(
            "{coins}: hardly better than guessing. Look at their judgements; you can leave them out of training below."
        ).format(coins=", ".join(coins))
    if figures.disputes:
        yield ngettext(
            "{count:,} comparison waits to be settled.",
            "{count:,} comparisons wait to be settled.",
            len(figures.disputes),
        ).format(count=len(figures.disputes))
    for bias in biased:
        yield _("{name}: {share}, where {fair} would be even.").format(
            name=_(bias.name), share=percent_with_interval(bias.share), fair=percent(bias.fair)
        )
    if hasty:
        said = _("{hasty}: more than one judgement in twenty was far too fast to have read the answers.")
        yield said.format(hasty=", ".join(hasty))
    if wrong:
        yield ngettext(
            "{count:,} gold comparison is judged wrong by most. Is the known answer right?",
            "{count:,} gold comparisons are judged wrong by most. Are the known answers right?",
            len(wrong),
        ).format(count=len(wrong))
    if figures.flags:
        yield ngettext(
            "{count:,} judgement carries a flag; its comparison is not trained on.",
            "{count:,} judgements carry a flag; their comparisons are not trained on.",
            figures.flags,
        ).format(count=figures.flags)
    if project.overlap == 1 and len(counted) > 1 and not figures.shared:
        yield _(
            "Each comparison is judged by one annotator, so agreement can't be measured. Set two or three on "
            "the Project tab to learn how far the labels can be trusted."
        )
    if project.gold_share > 0 and all(gold.retired for gold in figures.golds):
        yield _(
            "{gold_share} of what annotators see is meant to be gold, but no gold comparison is handed out. Make some "
            "below."
        ).format(gold_share=percent(project.gold_share))


# --------------------------------------------------------------------------------------------------------- annotators
ANNOTATOR_HEADERS = (
    *(N_("Annotator"), N_("Reliability"), N_("Judgements"), N_("Right on gold"), N_("Same when asked again")),
    N_("Agrees with others"),
    *(N_("Chose left or first"), N_("Ties, all bad"), N_("Median time"), N_("Far too fast"), N_("Training")),
)


def annotators_table(figures: QualityReport) -> str:
    rows = [
        annotator_row(one, figures.reliabilities[one.name], figures.excluded.get(one.name))
        for one in figures.annotators
    ]
    headers, told = telling([*map(_, ANNOTATOR_HEADERS)], rows)
    return table(headers, told, _(NO_JUDGEMENTS), caption=_("Annotators, with 95% intervals"))


def annotator_row(one: AnnotatorFigures, reliability: Reliability, left_out: str | None) -> Row:
    first_place = counted_share(one.first_place)
    if one.first_place and one.fair != COIN:
        first_place = _("{share}, even {fair}").format(share=first_place, fair=percent(one.fair))
    interval = _("not measured")
    if reliability.evidence:
        interval = f"{percent(reliability.estimate)}\n{percent_span(reliability.low, reliability.high)}"
    return (
        one.name,
        f"{interval}\n{evidence_text(reliability)}",
        numeral(one.judgements),
        counted_share(one.gold),
        counted_share(one.consistency),
        counted_share(one.agreement),
        first_place,
        counted_share(one.undecided),
        NOTHING if one.seconds is None else f"{numeral(one.seconds, '.1f')} s",
        numeral(one.hasty),
        NOTHING if left_out is None else _("left out\n{left_out}").format(left_out=left_out),
    )


def counted_share(figure: Estimate | None) -> str:
    """A share, and below it its interval and of how many."""
    if figure is None:
        return NOTHING
    return _("{value}\n{span} of {count:,}").format(
        value=percent(figure.value), span=percent_span(figure.low, figure.high), count=figure.n
    )


def evidence_text(reliability: Reliability) -> str:
    if not reliability.evidence:
        return _("no evidence yet")
    parts = (
        (reliability.overlap, _("{count:,} shared")),
        (reliability.known, _("{count:,} gold")),
        (reliability.repeats, _("{count:,} again")),
    )
    return ", ".join(part.format(count=count) for count, part in parts if count)


DISPUTES_SHOWN = 10
TABLE_EXPLANATION = N_(
    "Right on gold: a tie with the known answer in it counts half. Same when asked again: one of their own "
    "earlier comparisons, in the opposite order; a tie once and a preference once counts half. Agrees with others: "
    "names the same best answer, or a tie as they do. Far too fast: by more than 3.5 robust standard "
    "deviations of log seconds below both their own median and everybody's (Iglewicz and Hoaglin 1993)."
)
RELIABILITY_EXPLANATION = (
    N_(
        "The chance that this annotator picks the better of two answers, estimated from comparisons that "
        "others judged too (the one-coin model of Dawid and Skene 1979), gold ones, and their own asked again: "
        "whoever often contradicts themself can't be right often; consistency alone says little."
    ),
    N_(
        "Without evidence no number is shown, and training assumes 73%, as often as InstructGPT's labellers agreed "
        "with each other; evidence moves it from there. Ties and “all bad” do not count. It measures agreement with "
        "what most reliable people here prefer, so a taste of one's own lowers it, without being careless."
    ),
    N_(
        "Each vote weighs as much as its annotator is reliable, and each preference carries the chance that it is the "
        "wrong way round: 27% after one annotator of whom nothing is known, far less after three who agree. What "
        "training does with it is set on the Train tab: nothing (Ignore), a smaller weight (Weight), or a loss that "
        "expects errors (Smooth). Nobody counts as worse than guessing or better than 99%."
    ),
)


def reliability_explained() -> str:
    words = "".join(paragraph(_(sentence)) for sentence in (*RELIABILITY_EXPLANATION, TABLE_EXPLANATION))
    return unfold(_("What these figures mean"), words)


NO_EVIDENCE = N_(
    "How reliable each annotator is appears here once there are comparisons that several have judged, gold "
    "ones, or ones asked again."
)


def reliability_chart(figures: QualityReport) -> str:
    """On one scale the reliability of everybody of whom anything is known; what is only assumed is no figure."""
    if not figures.annotators:
        return ""
    measured = [entry for entry in figures.reliabilities.items() if entry[1].evidence]
    if not measured:
        return paragraph(_(NO_EVIDENCE), "quiet")
    order = sorted(measured, key=lambda entry: -entry[1].estimate)
    marks = [
        ChartMark(
            label=_("{name} (left out)").format(name=name) if name in figures.excluded else name,
            value=r.estimate,
            low=r.low,
            high=r.high,
            text=f"{percent(r.estimate)} ({percent_span(r.low, r.high)})",
        )
        for name, r in order
    ]
    frame = Frame(
        "reliability", _("Reliability of each annotator"), _("Further right is better. Dashed: guessing (50%).")
    )
    return charts.intervals(frame, marks, _("chance to choose the better of two answers"), COIN)


# ---------------------------------------------------------------------------------------------------------- agreement
NO_OVERLAP = N_(
    "No two annotators have judged the same comparison yet. Set two or three annotators for each "
    "comparison on the Project tab; then this shows how far they agree."
)


def agreement_table(found: Sequence[Agreement]) -> str:
    rows = [
        (
            one.asked(),
            _("{comparisons:,}\nwith {judgements:,} judgements").format(
                comparisons=one.comparisons, judgements=one.judgements
            ),
            percent_with_interval(one.percent)
            + (_("\nfew comparisons: hardly to be relied on") if one.comparisons < FEW else ""),
            number_with_interval(one.alpha) if one.alpha else _("not defined\nonly one answer was ever given"),
            _(LEVELS[one.level]),
        )
        for one in found
    ]
    headers = (_("Question"), _("Comparisons"), _("Say the same"), _("Krippendorff's alpha"), _("What counts"))
    note = paragraph(
        _(
            "Alpha: 1 where all agree, 0 as by chance. Intervals: 95%, over resampled comparisons. Left out: "
            "gold, asked again, settled, “all bad”, judged before the answers were complete, answers chosen by "
            "doubt, and annotators who are left out."
        ),
        "quiet",
    )
    shown = table(headers, rows, _(NO_OVERLAP), label=_("Agreement between annotators"))
    return shown + (unfold(_("What alpha is"), note) if rows else "")


def over_time(periods: Sequence[Period], per_day: Sequence[tuple[str, int]]) -> str:
    return beside([agreement_chart(periods), days_chart(per_day)])


def agreement_chart(periods: Sequence[Period]) -> str:
    if len(periods) < 2:
        return paragraph(
            _("Agreement over time appears here once several annotators have judged the same 20 comparisons."), "quiet"
        )
    marks = [
        charts.mark_of(
            period.last[:16],
            period.percent,
            ngettext("{one} of {n:,} comparison", "{one} of {n:,} comparisons", period.percent.n).format(
                one=percent_with_interval(period.percent), n=period.percent.n
            ),
        )
        for period in periods
    ]
    frame = Frame(
        "agreement",
        _("Agreement over time"),
        _(
            "Each point is an equal number of comparisons. A fall means that the task became harder or less "
            "clear, or that people tire."
        ),
    )
    return charts.series(frame, marks, _("judgements that say the same"), _("time of a group's last judgement (UTC)"))


# -------------------------------------------------------------------------------------------------------------- biases
def bias_meters(position: Sequence[Bias], length: Sequence[Bias]) -> str:
    if not position and not length:
        return paragraph(_("Biases appear here once somebody has preferred an answer."), "quiet")
    by_place = _(
        "Places are drawn by lot, so a choice should fall on each equally often (dashed). Off the line, people "
        "choose by place."
    )
    by_length = _(
        "Choices of the longer answer, in characters; equal lengths are left out. Right of the line the model "
        "learns to write more: it may be better answers, or just longer ones."
    )
    position_meter = meter("position", _("Position bias"), position, by_place)
    return beside([position_meter, meter("length", _("Length bias"), length, by_length)])


def meter(name: str, title: str, biases: Sequence[Bias], sentence: str) -> str:
    """A chart for each bias, so that the dashed line is true for all its marks."""
    if not biases:
        nothing = _("{title}: nothing to tell it by.").format(title=title)
        return f"<div>{paragraph(f'{nothing} {sentence}', 'quiet')}</div>"
    return "".join(
        charts.intervals(
            Frame(f"{name}-{number}", title, sentence),
            [charts.share_mark(_(bias.name), bias.share)],
            _("share of decisive choices, {n:,} in all (even: {fair})").format(n=bias.share.n, fair=percent(bias.fair)),
            bias.fair,
        )
        for number, bias in enumerate(biases)
    )


# ------------------------------------------------------------------------------------------------------------ policies
def policies_chart(policies: Strengths) -> str:
    if not policies.placed:
        return paragraph(no_strengths(policies), "quiet")
    ends = [end for placed in policies.placed for end in (placed.estimate.low, placed.estimate.high)]
    margin = 0.05 * (max(ends) - min(ends))
    limits = (min(*ends, -0.5) - margin, max(*ends, 0.5) + margin)
    marks = [
        charts.mark_of(
            placed.policy,
            placed.estimate,
            _("the zero of the scale") if placed.policy == policies.reference else strength_text(placed.estimate),
        )
        for placed in policies.placed
    ]
    unplaced = (
        paragraph(
            _(
                "Not placed, because they have only won or only lost against these, or never met them: {unplaced}."
            ).format(unplaced=", ".join(policies.unplaced)),
            "quiet",
        )
        if policies.unplaced
        else ""
    )
    frame = Frame(
        "policies",
        _("Strength of the policies (Bradley–Terry)"),
        ngettext(
            "From {count:,} comparison of answers by different policies, a tie being half a win. "
            "Right of the dashed line a policy beats {reference} more often than not.",
            "From {count:,} comparisons of answers by different policies, a tie being half a win. "
            "Right of the dashed line a policy beats {reference} more often than not.",
            policies.comparisons,
        ).format(count=policies.comparisons, reference=policies.reference),
    )
    axis = _("strength in log-odds; {reference} is 0").format(reference=policies.reference)
    return charts.intervals(frame, marks, axis, 0.0, limits, lambda value: numeral(value, "g")) + unplaced


def strength_text(strength: Estimate) -> str:
    return _("{value:+.2f} ({low:+.2f} to {high:+.2f}), {won} wins").format(
        value=strength.value, low=strength.low, high=strength.high, won=percent(1 / (1 + exp(-strength.value)))
    )


def no_strengths(policies: Strengths) -> str:
    return ngettext(
        "{count} comparison of answers by different policies ({policies}) so far: not enough. "
        "It takes ten in which each policy has won and lost.",
        "{count} comparisons of answers by different policies ({policies}) so far: not enough. "
        "It takes ten in which each policy has won and lost.",
        policies.comparisons,
    ).format(count=policies.comparisons, policies=", ".join(policies.unplaced))


# ------------------------------------------------------------------------------------------------------------ per day
def days_chart(per_day: Sequence[tuple[str, int]]) -> str:
    if not per_day:
        return ""
    total = sum(count for _, count in per_day)
    frame = Frame(
        "days",
        _("Judgements over time"),
        ngettext(
            "{count:,} judgement on {days:,} days; skips don't count.",
            "{count:,} judgements on {days:,} days; skips don't count.",
            total,
        ).format(count=total, days=len(per_day))
        if len(per_day) > 1
        else ngettext(
            "{count:,} judgement on one day; skips don't count.",
            "{count:,} judgements on one day; skips don't count.",
            total,
        ).format(count=total),
    )
    return charts.columns(frame, per_day, _("judgements"))


# ------------------------------------------------------------------------------------------- settling, gold and flags
def disputes_table(disputes: Sequence[Dispute]) -> str:
    rows = [
        (
            comparison_way(dispute.comparison_id),
            numeral(dispute.annotators),
            percent(dispute.disagreement),
            str(dispute.spread) if dispute.spread else NOTHING,
        )
        for dispute in disputes[:DISPUTES_SHOWN]
    ]
    headers = (_("Comparison"), _("Annotators"), _("Disagreement"), _("Strength gap (of 6)"))
    more = len(disputes) - len(rows)
    others = ngettext("And {count:,} more comparison.", "And {count:,} more comparisons.", more).format(count=more)
    note = paragraph(others, "quiet") if more > 0 else ""
    empty = _("Nothing to settle: no two annotators contradict each other.")
    named = _("Comparisons to settle, the most disagreement first")
    return table(headers, rows, empty, numbers=headers[1:], label=named) + note


def gold_table(golds: Sequence[Gold], accuracy: Estimate | None) -> str:
    rows = [
        (
            comparison_way(gold.comparison_id),
            known_answer(gold),
            NOTHING
            if gold.right is None
            else _("{share}\nof {count:,}").format(share=percent_with_interval(gold.right), count=gold.right.n),
            _("retired") if gold.retired else _("handed out"),
            f"{gold.made_by}\n{moment(gold.made)} UTC",
        )
        for gold in golds
    ]
    headers = (_("Comparison"), _("Known answer"), _("Judged right"), _("State"), _("Made gold by"))
    empty = _(
        "No gold comparison yet. Choose a clear one below and make it gold: annotators who have not seen "
        "it get it now and then without knowing, and the table above shows who is right."
    )
    shown = table(headers, rows, empty, label=_("Gold comparisons"))
    if accuracy is None:
        return shown
    return facts([(_("Gold comparisons judged right"), percent_with_interval(accuracy))]) + shown


def known_answer(gold: Gold) -> str:
    """Which answers a gold comparison counts as right, by their numbers."""
    numbers = [str(position + 1) for position in gold.best]
    return ngettext("Answer {numbers}", "One of the answers {numbers}", len(numbers)).format(numbers=", ".join(numbers))


def flagged_table(cases: Sequence[FlaggedCase], flags: int) -> str:
    """The latest of so many flags."""
    rows = [
        (
            comparison_way(one.comparison_id),
            _(FLAG_NAMES[one.flag]),
            one.note or NOTHING,
            cut(one.prompt, 200),
            one.annotator,
            moment(one.created),
        )
        for one in cases
    ]
    headers = (_("Comparison"), _("Flagged as"), _("Note"), _("Prompt"), _("By"), _("When (UTC)"))
    more = flags - len(rows)
    earlier = ngettext("And {count:,} earlier flag.", "And {count:,} earlier flags.", more).format(count=more)
    shown = table(headers, rows, _("Nobody has flagged anything."), label=_("Flagged"))
    return shown + (paragraph(earlier, "quiet") if more > 0 else "")


DECIDED: Mapping[DecisionKind, str] = {
    "leave-out": N_("left out of training"),
    "take-back": N_("taken back in"),
    "make": N_("made gold"),
    "retire": N_("gold no longer handed out"),
    "reinstate": N_("gold handed out again"),
    "release": N_("no longer gold"),
}


def decisions_table(decisions: Sequence[AdminDecision]) -> str:
    rows = [
        (
            one.annotator or _("comparison {number}").format(number=one.comparison_id),
            *(_(DECIDED[one.what]), one.reason or NOTHING, one.decided_by, moment(one.created)),
        )
        for one in decisions
    ]
    headers = (_("About"), _("Decision"), _("Reason"), _("By"), _("When (UTC)"))
    return table(headers, rows, _("No decision about annotators or gold comparisons yet."), label=_("Latest decisions"))


def case_view(case: ComparisonReview) -> str:
    answers = [
        text_box(answer_title(case, number), escape(answer), scrolls=True)
        for number, answer in enumerate(case.answers, 1)
    ]
    rows = [
        (one.annotator, verdict(one.outcome, one.ranking, one.strength), _(PURPOSES[one.purpose]))
        for one in case.opinions
    ]
    said_of_it = table(
        (_("Annotator"), _("Judgement"), _("Purpose")),
        rows,
        _("Nobody has judged it yet."),
        caption=_("Judgements on comparison {comparison_id}").format(comparison_id=case.comparison_id),
    )
    return conversation(case.messages) + sides(answers) + said_of_it


def answer_title(case: ComparisonReview, number: int) -> str:
    agreed = case.consensus == number - 1
    title = _("Answer {number} · what the annotators agree on") if agreed else _("Answer {number}")
    return title.format(number=number)


def verdict(outcome: str, ranking: Sequence[int] | None, strength: int | None) -> str:
    """A judgement in words, by the answers' numbers: '1 > 2, clearly', '1 = 2', 'all bad'."""
    if ranking is None:
        return _(OUTCOME_NAMES[outcome])
    levels: dict[int, list[str]] = {rank: [] for rank in sorted(set(ranking))}
    for number, rank in enumerate(ranking, 1):
        levels[rank].append(str(number))
    order = " > ".join(" = ".join(level) for level in levels.values())
    return f"{order}, {_(DEGREES[strength])}" if strength else order
