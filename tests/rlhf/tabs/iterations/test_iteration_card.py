"""What the Iterations tab says of the loop: troubles, the running interval, and win rates by whoever was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from annotation.metrics.evidence import DecidedOutcome, JudgePanel, by_prompt, corrected
from annotation.metrics.intervals_and_bias import Estimate
from annotation.ui import line_plots
from annotation.ui.line_plots import Line
from rlhf.evaluation import gate_words
from rlhf.evaluation.gate import Mode, Rule, alphas, anytime_win_rate, decide
from rlhf.evaluation.report import RULE_VERSION, AnswerFigures, CheckReport, WinRate
from rlhf.tabs.iterations import check_report, iteration_card
from rlhf.tabs.iterations.iteration_card import CheckedPolicy
from rlhf.tabs.iterations.loop_status import LoopStatus
from tests.rlhf.evaluation.test_gate import ASKED, DECIDED, OPEN, found

SURE, UNSURE = Estimate(0.8, 0.7, 0.9, 60), Estimate(0.9, 0.4, 1.0, 5)


def checked(
    revision: str, people: Estimate | None = None, judges: Sequence[str] = (), judged: int = 20
) -> CheckedPolicy:
    """A policy that was checked by these judges."""
    rate = WinRate(0.61, 0.5, 0.7, 60, ties=3)
    own = AnswerFigures(revision, kl_to_anchor=0.05, mean_length=20.0)
    rates = {"base": dict.fromkeys(judges, rate)}
    base = AnswerFigures("base")
    return CheckedPolicy(
        revision,
        CheckReport(candidate=own, against=base, anchor=base, prompts=60, implicit_accuracy=None, win_rates=rates),
        people,
        judged,
    )


def test_what_went_wrong_is_shown_and_escaped() -> None:
    card = iteration_card.status_card(LoopStatus("collecting", "Now.", "Then.", ("Job 3 failed: <b>.",)))
    assert '<p class="warning">Job 3 failed: &lt;b&gt;.</p>' in card
    assert "warning" not in iteration_card.status_card(LoopStatus("collecting", "Now.", "Then."))
    assert "<p" not in iteration_card.status_card(LoopStatus("deciding", "", "")), "its verdict says all"


@pytest.mark.parametrize(
    ("rule", "both", "one"),
    [(Rule(), "90%", "95%"), (Rule(judge_may_decide=True), "95%", "97.5%"), (Rule(alpha=0.01), "98%", "99%")],
)
def test_the_running_interval_says_how_sure_it_is(rule: Rule, both: str, one: str) -> None:
    decided = [DecidedOutcome(prompt, outcome) for prompt, outcome in enumerate((1.0, 0.5, 1.0))]
    people = corrected(by_prompt(decided), JudgePanel())
    chart = iteration_card.running_chart(people, rule, alphas(rule, 1)[0], "dpo-3")
    assert "People on it against dpo-3" in chart
    assert f"hold together with {both}, the lower one by itself with {one}" in chart
    assert "(one-sided, alpha" in chart


def test_what_people_skipped_is_no_prompt_of_the_running_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    skips = [DecidedOutcome(prompt, 0.5, skipped=True) for prompt in (2, 3)]
    judged = [DecidedOutcome(prompt, 1.0) for prompt in (0, 1)]
    drawn: list[Sequence[Line]] = []

    def plot(_name: str, _curve: object, lines: Sequence[Line], *_rest: object) -> dict[str, object]:
        drawn.append(lines)
        return {}

    monkeypatch.setattr(line_plots, "plot", plot)
    monkeypatch.setattr(line_plots, "plots", lambda plots: "")
    found = [corrected(by_prompt(decided), JudgePanel()) for decided in (skips, judged, [*judged, *skips])]
    said = [iteration_card.running_chart(people, Rule(), 0.05, "dpo-3") for people in found]
    assert "No annotator has compared" in said[0]
    before, after = drawn
    assert [[place for place, _ in line.points] for line in after] == [[1.0, 2.0]] * 3
    assert [line.points[0] for line in after] == [line.points[0] for line in before]
    shown = anytime_win_rate(found[2], 0.1)
    assert shown is not None
    assert [line.points[-1][1] for line in after] == [shown.value, shown.low, shown.high], (
        "the end is what is decided on"
    )


def test_people_come_first_then_the_most_trusted_judge_and_the_table_has_all() -> None:
    rows = [
        checked("dpo-1", judges=("new", "best", "few")),
        checked("dpo-2", Estimate(0.75, 0.47, 0.91, 12), ("best",), 45),
    ]
    drawn = iteration_card.over_iterations(rows, {"best": SURE, "few": UNSURE, "new": None})
    assert drawn.index("against the base, by people") < drawn.index("against the base, by best")
    assert "The judge agrees with people in 80% (70–90%)" in drawn
    assert "against the base, by few" not in drawn
    heads = ("by people", "by best", "by few", "by new", "KL per token, at equal length")
    places = [drawn.index(f"{head}</th>") for head in heads]
    assert places == sorted(places)
    assert "75% (47–91%) of 12" in drawn
    assert drawn.count("61% (50–70%) of 60</td>") == 4
    assert "people&#x27;s holds however often one looks, a judge&#x27;s (Wilson) for a single look" in drawn
    assert '<td class="number">45</td>' in drawn


def test_what_win_rates_count_is_said_also_of_checks_by_an_earlier_rule() -> None:
    new, old = (checked("dpo-1", SURE, ("j",)), checked("dpo-2", SURE, ("j",)))
    new = replace(new, report=replace(new.report, rule=RULE_VERSION))
    earlier = "the judge's rates of checks by an earlier rule count each comparison".replace("'", "&#x27;")
    for rows, times in (([new, new], 0), ([new, old], 1), ([new, replace(old, report=replace(old.report, rule=4))], 1)):
        drawn = iteration_card.over_iterations(rows, {})
        assert (drawn.count("each prompt counts once"), drawn.count(earlier)) == (2, times)
        assert "comparisons won" not in drawn


def test_the_kl_over_iterations_is_the_one_that_the_gate_decides_by() -> None:
    one = checked("dpo-1")
    both = [one, replace(one, report=replace(one.report, equal_length_kl=0.31))]
    (kl,) = [curve for curve in iteration_card.over_curves(both) if curve.lines[0].points[0][1] == 0.05]
    assert [value for _place, value in kl.lines[0].points] == [0.05, 0.31]
    drawn = iteration_card.over_iterations(both, {})
    assert "0.050, of whole answers</td>" in drawn
    assert "0.310</td>" in drawn


def test_the_chart_by_people_says_why_it_ends() -> None:
    drawn = iteration_card.over_iterations([checked("dpo-1", SURE, ("j",)), checked("dpo-2")], {})
    assert drawn.count("only against what serves, so after the first promotion") == 1


def test_of_what_was_decided_on_nothing_is_advised() -> None:
    decision = DECIDED["promote"]
    (said,) = iteration_card.in_sentences(decision, "ask", "sft-1")
    assert said.startswith("It was decided on against sft-1")
    assert iteration_card.in_sentences(decision, "ask") == [f"The rule says: promote. {gate_words.sentence(decision)}"]
    assert iteration_card.in_sentences(DECIDED["not enough evidence"], "ask", missing="No KL.") == [
        "The rule says: not enough evidence. No KL."
    ]
    (never,) = iteration_card.in_sentences(decision, "never")
    assert "nobody is advised" in never


@pytest.mark.parametrize(("mode", "against"), [("never", ""), ("ask", "base")])
def test_which_limit_it_is_past_is_said_also_where_nothing_is_advised(mode: Mode, against: str) -> None:
    decision = decide(ASKED, found(OPEN, kl_per_token=5.0))
    said = iteration_card.in_sentences(decision, mode, against)[1:]
    assert said == [gate_words.failures(decision)]
    assert "5" in said[0]


def test_without_people_or_judges_there_is_no_chart_of_win_rates() -> None:
    assert "Nobody has compared these policies" in iteration_card.over_iterations([checked("dpo-1")] * 2, {})


def test_one_check_is_no_course() -> None:
    """Its figures stand in its own table: a chart of one point would say them once more."""
    for rows in ([], [checked("dpo-1", SURE, ("j",))]):
        assert iteration_card.over_iterations(rows, {}) == ""
        assert iteration_card.over_curves(rows) == []


def test_one_figure_has_one_name_on_the_page() -> None:
    (length,) = [row for row in check_report.FIGURES if row.key == "mean_length"]
    drawn = iteration_card.over_iterations([checked("dpo-1"), checked("dpo-2")], {})
    assert f"{length.label}</th>" in drawn
    assert "Accuracy on held-out judgements</th>" in drawn
