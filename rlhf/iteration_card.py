"""What the Iterations tab says of the loop: where it stands, the gate's criteria, and figures over iterations. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from annotation.markup import paragraph, table
from annotation.measuring import charts
from annotation.measuring.charts import Frame, Mark
from annotation.measuring.evidence import running_interval
from annotation.wording import NOTHING, percent
from rlhf import curves
from rlhf.curves import Curve, Line
from rlhf.gate import Decision, Rule
from rlhf.iteration import Stage, Standing
from rlhf.presenting import figure

STAGES: Mapping[Stage, str] = {
    "collecting": "Collecting judgements",
    "training": "Training",
    "checking": "Checking",
    "deciding": "Decision",
}
STYLE = """
.stages { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; list-style: none; padding: 0; margin: 0 0 0.5rem; }
.stages li { color: var(--body-text-color-subdued); padding-bottom: 2px; margin: 0; }
.stages li[aria-current] { color: var(--body-text-color); font-weight: 600;
  border-bottom: 2px solid var(--color-accent); }
.verdict-pass { color: #12914a; } .verdict-fail { color: #d9542b; }
"""


CURRENT = ' aria-current="step"'


def standing_card(standing: Standing) -> str:
    """The stages of an iteration with the one it is in, what happens now, and what comes next."""
    stages = "".join(
        f"<li{CURRENT if stage == standing.stage else ''}>{escape(name)}</li>" for stage, name in STAGES.items()
    )
    return f'<ol class="stages">{stages}</ol>{paragraph(standing.now)}{paragraph(standing.then, "quiet")}'


# --------------------------------------------------------------------------------------------------------------- gate
VERDICTS = {"pass": "met", "fail": "not met", "open": "not enough yet", "missing": "not measured"}
HEADINGS = {
    "promote": "The rule says: promote.",
    "reject": "The rule says: reject.",
    "not enough evidence": "The rule says: not enough evidence yet.",
}


def decision_card(decision: Decision) -> str:
    """What the rule makes of a candidate, with each criterion's number, threshold and verdict."""
    rows = [(one.name, one.value, one.threshold, VERDICTS[one.verdict], one.why) for one in decision.criteria]
    headers = ("Criterion", "Found", "Asked for", "Verdict", "Why")
    return f"<p><b>{HEADINGS[decision.verdict]}</b> {escape(decision.sentence)}</p>{table(headers, rows)}"


RUNNING = Curve(
    "people",
    "People on candidate against serving",
    "share won, ties as half",
    {},
    "The running share that the candidate has won of people's blind comparisons, and an interval that holds at every "
    "moment at once (a confidence sequence by betting, Waudby-Smith and Ramdas 2024), so that looking early is no "
    "cheating: once the lower line is above one half, it stays a good reason to promote.",
    (0.0, 1.0),
    (0.5, "even"),
)


def running_chart(people: Sequence[float], rule: Rule, alpha: float) -> str:
    """People's running win rate with its interval; a sentence where there is nothing yet."""
    if not people:
        return paragraph("No annotator has compared its answers with those of the serving policy yet.", "quiet")
    ends = running_interval(people, 2 * alpha).tolist()
    shares = [sum(people[: count + 1]) / (count + 1) for count in range(len(people))]
    lines = [
        Line(name, [(float(place), value) for place, value in enumerate(values, 1)])
        for name, values in (
            ("won so far", shares),
            ("lower limit", [low for low, _ in ends]),
            ("upper limit", [high for _, high in ends]),
        )
    ]
    return curves.plots(
        [curves.plot("gate", RUNNING, lines, max(len(people), rule.people_least), "comparison by people")]
    )


# ----------------------------------------------------------------------------------------------------- over iterations
OVER = (
    Curve("kl", "KL to the base", "nats a token", {}, "How far each policy has moved from the base model."),
    Curve("length", "Length", "words in an answer", {}, "Growing answers may please a judge without being better."),
    Curve(
        "judgements",
        "Judgements spent",
        "pairs trained on, in all",
        {},
        "What was judged up to each policy: a step that costs much and gains little is a reason to stop.",
    ),
)


def over_iterations(checked: Sequence[Mapping[str, Any]]) -> str:
    """Charts over the policies that were checked, oldest first.

    Each has `revision`, `result` (of its check) and `pairs` (trained on, of itself and all that it grew from).
    """
    if not checked:
        return paragraph("No policy has been checked yet: after the first check this shows how they compare.", "quiet")
    marks = [mark for one in checked if (mark := against_base(one)) is not None]
    drawn = []
    for curve, key in zip(OVER, ("kl_to_base", "mean_length", "pairs"), strict=True):
        values = [one["pairs"] if key == "pairs" else one["result"]["candidate"].get(key) for one in checked]
        points = [(float(place), float(value)) for place, value in enumerate(values, 1) if value is not None]
        drawn.append(curves.plot("over", curve, [Line(curve.label, points)], len(checked), "checked policy"))
    rates = win_rates_chart(marks) if marks else paragraph(NO_RATES, "quiet")
    return rates + curves.plots(drawn) + over_table(checked)


NO_RATES = (
    "No judge has compared these policies with the base, so there is no win rate to show: the AI judges tab has them."
)


def win_rates_chart(marks: Sequence[Mark]) -> str:
    """Win rates against the base, with intervals."""
    frame = Frame(
        "iterations",
        "Win rate against the base",
        "By AI judges on the held-out prompts, ties as half, with 95% intervals. An interval that crosses the dashed "
        "line can't be told from the base.",
    )
    return charts.intervals(frame, marks, "share of held-out prompts won", 0.5)


def against_base(one: Mapping[str, Any]) -> Mark | None:
    """A policy's win rate against the base by the first judge that was asked; None without any."""
    rates = one["result"].get("win_rates", {}).get("base", {})
    for judge, rate in rates.items():
        if rate["value"] is not None and rate["n"]:
            text = (
                f"{percent(rate['value'])} of {rate['n']} ({percent(rate['low'])} to {percent(rate['high'])}), {judge}"
            )
            return Mark(one["revision"], rate["value"], rate["low"], rate["high"], text)
    return None


def over_table(checked: Sequence[Mapping[str, Any]]) -> str:
    """The same figures as a table, which names the policies that the charts number."""
    headers = ("", "Policy", "Against the base", "KL per token", "Mean words", "Pairs spent")
    rows = []
    for place, one in enumerate(checked, 1):
        mark, candidate = against_base(one), one["result"]["candidate"]
        measured = (figure(candidate.get("kl_to_base"), 3), figure(candidate.get("mean_length"), 1))
        rows.append(
            (str(place), one["revision"], mark.text if mark else NOTHING, *measured, str(one["pairs"] or NOTHING))
        )
    return table(headers, rows, "", ("", "KL per token", "Mean words", "Pairs spent"))
