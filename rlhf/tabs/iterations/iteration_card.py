"""What the Iterations tab says of the loop: where it stands, the gate's criteria, and figures over iterations. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from annotation.metrics.evidence import CorrectedPrompts, without_skipped
from annotation.metrics.intervals_and_bias import Estimate
from annotation.metrics.sequential_testing import running_interval
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui import charts, line_plots
from annotation.ui.charts import Frame
from annotation.ui.formatting import NOTHING, figure, percent_with_interval
from annotation.ui.line_plots import Line
from annotation.ui.markup import escape, paragraph, table
from rlhf.evaluation import gate_words
from rlhf.evaluation.gate import GateDecision, Mode, Rule, stakes_of
from rlhf.evaluation.report import CheckReport
from rlhf.jobs.descriptions import Curve
from rlhf.tabs.iterations.check_report import AT_EQUAL_LENGTH, held_out_accuracy, kl_words
from rlhf.tabs.iterations.loop_status import LoopStatus, Stage
from rlhf.tabs.plot_zoom import CurveData

STAGES: Mapping[Stage, str] = {
    "collecting": N_("Collecting judgements"),
    "training": N_("Training"),
    "checking": N_("Check"),
    "deciding": N_("Decision"),
}


CURRENT = ' aria-current="step"'


def status_card(status: LoopStatus) -> str:
    """The stages of an iteration with the one it is in, what went wrong, what happens now, and what comes next."""
    stages = "".join(
        f"<li{CURRENT if stage == status.stage else ''}>{escape(_(name))}</li>" for stage, name in STAGES.items()
    )
    problems = "".join(paragraph(sentence, "warning") for sentence in status.problems)
    now = paragraph(status.now) if status.now else ""
    then = paragraph(status.then, "quiet") if status.then else ""
    return f'<ol class="stages">{stages}</ol>{problems}{now}{then}'


# --------------------------------------------------------------------------------------------------------------- gate
AS_IT_STANDS = N_("It was decided on against {}; this is as the rule and the comparisons stand now.")


def in_sentences(decision: GateDecision, mode: Mode, decided_against: str = "", missing: str = "") -> list[str]:
    """What the rule makes of a candidate, in sentences.

    Of a policy that was decided on, `decided_against` another, only that and the limits that it is past; nothing is
    advised where the mode is 'never'. `missing` says what the rule could not look at.
    """
    if decided_against or mode == "never":
        undecided = _("Whether it serves is your decision: nobody is advised.")
        said = _(AS_IT_STANDS).format(decided_against) if decided_against else undecided
        return [one for one in (said, gate_words.failures(decision)) if one]
    why = gate_words.sentence(decision) if decision.says != "not enough evidence" else missing
    return [f"{_(gate_words.RULE_SAYS[decision.says])} {why}".strip()]


def checking_line(sentence: str) -> str:
    """How the check of a policy stands, where there is something to say."""
    return paragraph(sentence) if sentence else ""


RUNNING = Curve(
    name="people",
    label=N_("People on it against {}"),
    axis=N_("share won, ties as half"),
    series={},
    caption=N_(
        "The running share of people's blind comparisons that the candidate has won, each prompt counted once, by "
        "what was said of it first. The interval holds at every moment at once (a confidence sequence by betting, "
        "Waudby-Smith and Ramdas 2024), so looking early is no cheating."
    ),
    limits=(0.0, 1.0),
    reference=(0.5, N_("even")),
)


def level_sentence(alpha: float) -> str:
    """How sure the running interval is, and what of it decides."""
    return _(
        "Both limits hold together with {both:.4g}%, the lower one by itself with {lower:.4g}%: once that is above "
        "one half the candidate has passed the rule's test (one-sided, alpha {alpha:g}), if by all that was said it "
        "has won more than half too."
    ).format(both=100 * (1 - 2 * alpha), lower=100 * (1 - alpha), alpha=alpha)


def running_chart(people: CorrectedPrompts, rule: Rule, alpha: float, against: str) -> str:
    """People's running win rate `against` another policy, with the interval of their part `alpha`; or a sentence."""
    if not people.judged:
        return paragraph(
            _("No annotator has compared its answers with those of {against}.").format(against=against), "quiet"
        )
    entered = [one.value for one in people.outcomes]
    ends = running_interval(stakes_of(people), 2 * alpha).tolist()
    shares = [sum(entered[: count + 1]) / (count + 1) for count in range(len(entered))]
    counts = accumulate(not one.skipped for one in people.prompts)
    last = {count: place for place, count in enumerate(counts, 1) if count}  # what is skipped moves the last point
    lines = [
        Line(name, [(float(count), without_skipped(values[place - 1], place, count)) for count, place in last.items()])
        for name, values in (
            (_("won so far"), shares),
            (_("lower limit"), [low for low, _ in ends]),
            (_("upper limit"), [high for _, high in ends]),
        )
    ]
    running = RUNNING.translated()
    label = running.label.format(against)
    curve = replace(running, label=label, caption=f"{running.caption} {level_sentence(alpha)}")
    return line_plots.plots(
        [line_plots.plot("gate", curve, lines, max(people.judged, rule.people_least), _("prompt compared by people"))]
    )


def unknown_chances(count: int) -> str:
    """That so many of people's comparisons came about in a way that nobody noted; nothing where it was of all."""
    if not count:
        return ""
    said = ngettext(
        "With what chance people got {count} of these comparisons is unknown: an earlier version made it.",
        "With what chance people got {count} of these comparisons is unknown: an earlier version made them.",
        count,
    )
    return paragraph(said.format(count=count), "quiet")


# ----------------------------------------------------------------------------------------------------- over iterations
@dataclass(frozen=True)
class CheckedPolicy:
    revision: str
    report: CheckReport
    people: Estimate | None
    """How often people preferred it to the base."""
    judged: int
    """Comparisons judged up to its training."""

    @property
    def rates(self) -> Mapping[str, Estimate]:
        rates = self.report.rates_against("base")
        return {judge: rate.estimate for judge, rate in rates.items() if rate.estimate is not None and rate.n}


# One check's figures stand in its own table.
LEAST_COMPARED = 2
OVER = (
    Curve(
        name="kl",
        label=AT_EQUAL_LENGTH,
        axis=N_("nats a token"),
        series={},
        caption=N_(
            "How far each policy has moved from its anchor; of a check by an earlier version over whole answers, "
            "whatever their lengths."
        ),
    ),
    Curve(
        name="length",
        label=N_("Length"),
        axis=N_("words in an answer"),
        series={},
        caption=N_("Growing answers may please a judge without being better."),
    ),
    Curve(
        name="judgements",
        label=N_("Judgements spent"),
        axis=N_("comparisons, in all"),
        series={},
        caption=N_(
            "What people or judges had judged up to each policy, each comparison once: a step that costs much "
            "and gains little is a reason to stop."
        ),
    ),
)


def over_iterations(checked: Sequence[CheckedPolicy], trust: Mapping[str, Estimate | None]) -> str:
    """Charts over the policies that were checked, oldest first; `trust` is each judge's agreement with people."""
    if len(checked) < LEAST_COMPARED:
        return ""
    panel = most_trusted_first(checked, trust)
    drawn = [line_plots.plot("over", one.axes, one.lines, len(checked), one.across) for one in over_curves(checked)]
    return win_rate_plots(checked, panel, trust) + line_plots.plots(drawn) + over_table(checked, panel)


def over_curves(checked: Sequence[CheckedPolicy]) -> list[CurveData]:
    """The figures over the policies that were checked, oldest first, as far as they are known."""
    if len(checked) < LEAST_COMPARED:
        return []
    values: Mapping[str, Sequence[float | None]] = {
        "kl": [one.report.kl_per_token for one in checked],
        "length": [one.report.candidate.mean_length for one in checked],
        "judgements": [one.judged for one in checked],
    }
    found = []
    for curve in (one.translated() for one in OVER):
        points = [
            (float(place), float(value)) for place, value in enumerate(values[curve.name], 1) if value is not None
        ]
        if points:
            found.append(CurveData(curve, [Line(curve.label, points)], _("checked policy")))
    return found


def most_trusted_first(checked: Sequence[CheckedPolicy], trust: Mapping[str, Estimate | None]) -> list[str]:
    """The judges that were asked, first the one that surely agrees with people most; unknown ones last."""

    def surely(judge: str) -> float:
        found = trust.get(judge)
        return -1.0 if found is None else found.low

    return sorted(dict.fromkeys(judge for one in checked for judge in one.rates), key=surely, reverse=True)


NO_RATES = N_(
    "Nobody has compared these policies with the base, so there is no win rate to show. AI judges can compare them too."
)
BY_PEOPLE = N_(
    "Blind comparisons: people are asked about a candidate only against what serves, so after the first "
    "promotion this goes on only where “Let people compare” puts the serving policy beside the base."
)
INTERVALS = N_(
    "Ties count half, and each prompt counts once. 95% intervals: people's holds however often one looks, a judge's "
    "(Wilson) for a single look. One that crosses the dashed line can't be told from the base."
)


def win_rate_plots(checked: Sequence[CheckedPolicy], panel: Sequence[str], trust: Mapping[str, Estimate | None]) -> str:
    """Win rates against the base: people's first, then those of the most trusted judge; the table has the others'."""
    by_people = [(one.revision, one.people) for one in checked]
    sentence = f"{_(BY_PEOPLE)} {_(INTERVALS)}"
    drawn = rates_chart("people", _("Win rate against the base, by people"), sentence, by_people)
    if panel:
        best, agreement = panel[0], trust.get(panel[0])
        sentence = _("The judge was not compared with people; on the held-out prompts.")
        if agreement is not None:
            sentence = _("The judge agrees with people in {agreement}; on the held-out prompts.").format(
                agreement=percent_with_interval(agreement)
            )
        if len(panel) > 1:
            others = _("The table has the other judges.")
            sentence = f"{sentence} {others}"
        sentence = f"{sentence} {_(INTERVALS)}"
        if any(best in one.rates and one.report.counted_in == "comparisons" for one in checked):
            earlier = _("But the judge's rates of checks by an earlier rule count each comparison.")
            sentence = f"{sentence} {earlier}"
        title = _("Win rate against the base, by {judge}").format(judge=best)
        drawn += rates_chart("judge", title, sentence, [(one.revision, one.rates.get(best)) for one in checked])
    return drawn or paragraph(_(NO_RATES), "quiet")


def rates_chart(name: str, title: str, sentence: str, rates: Sequence[tuple[str, Estimate | None]]) -> str:
    marks = [charts.mark_of(revision, rate, rate_text(rate)) for revision, rate in rates if rate is not None]
    frame = Frame(f"iterations-{name}", title, sentence)
    return charts.intervals(frame, marks, _("win rate"), 0.5) if marks else ""


def over_table(checked: Sequence[CheckedPolicy], panel: Sequence[str]) -> str:
    """The same figures as a table, which names the policies that the charts number, with every judge's win rate."""
    figures = (_("Accuracy on held-out judgements"), _(AT_EQUAL_LENGTH), _("Mean words"), _("Comparisons judged"))
    rows = [
        (
            *(str(place), one.revision),
            *(rate_text(rate) for rate in (one.people, *(one.rates.get(judge) for judge in panel))),
            *(held_out_accuracy(one.report), kl_words(one.report), figure(one.report.candidate.mean_length, 1)),
            numeral(one.judged) if one.judged else NOTHING,
        )
        for place, one in enumerate(checked, 1)
    ]
    judged = (_("by {judge}").format(judge=judge) for judge in panel)
    headers = ("#", _("Policy"), _("Won against the base, by people"), *judged, *figures)
    return table(headers, rows, "", ("#", *figures[1:]))


def rate_text(rate: Estimate | None) -> str:
    return NOTHING if rate is None else _("{rate} of {n}").format(rate=percent_with_interval(rate), n=rate.n)
