"""The plots of a run: which there are, what is drawn, and what is left out."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from annotation.ui import formatting, line_plots, stylesheet
from annotation.ui.line_plots import Line
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import EvaluateSpec
from rlhf.jobs.descriptions import Curve
from rlhf.tabs.runs import curves
from rlhf.tabs.runs.curves import plots_of

PLAIN = Curve("loss", "Loss", "nats a token", {"loss": "loss"}, "It should fall.")


def metrics(steps: int, **values: Any) -> list[dict[str, Any]]:
    """The same values at every step."""
    return [{"step": step, **values} for step in range(1, steps + 1)]


def points_of(html: str) -> list[list[tuple[float, float]]]:
    """The corners of each line, x in thousandths of the width and y in pixels from the top."""
    return [
        [(float(x), float(y)) for x, y in (point.split(",") for point in found.split())]
        for found in re.findall(r'<polyline points="([^"]*)"', html)
    ]


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_plot_says_what_it_measures_and_what_to_see(kind: str) -> None:
    names = [curve.name for curve in plots_of(ALGORITHMS[kind])]
    assert len(set(names)) == len(names), "they are parts of ids"
    for curve in plots_of(ALGORITHMS[kind]):
        assert curve.axis
        assert curve.caption.endswith((".", ")."))
        assert curve.series
    metrics_of_kind = {metric for curve in plots_of(ALGORITHMS[kind]) for metric in curve.series.values()}
    assert {"learning_rate", "grad_norm", "memory_gb"} < metrics_of_kind


def test_a_run_has_the_plots_that_it_has_data_for() -> None:
    html = curves.run_plots(SFTSpec(), metrics(3, loss=0.5, token_accuracy=0.4, learning_rate=1e-4), 9)
    assert [name for name in ("Loss", "Token accuracy", "Learning rate") if f"<b>{name}</b>" not in html] == []
    assert "Gradient norm" not in html
    assert ">optimiser step<" in html
    assert ">nats a token<" in html
    assert curves.run_plots(SFTSpec(), [], 9) == ""
    assert curves.run_plots(EvaluateSpec(), metrics(3, loss=0.5), 3) == ""
    assert ">round of answering and learning<" in curves.run_plots(PPOSpec(), metrics(2, kl=1.0), 2)


def test_a_line_goes_from_its_first_to_its_last_step_on_an_axis_of_the_whole_run() -> None:
    line = curves.line_of("loss", [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.0}], "loss")
    (points,) = points_of(line_plots.plot("run", replace(PLAIN, limits=(0.0, 1.0)), [line], 8, "optimiser step"))
    assert points == [(250.0, 0.0), (500.0, 150.0)]


def test_steps_without_the_metric_and_values_that_are_no_numbers_are_left_out() -> None:
    reported: list[dict[str, Any]] = [
        *({"step": 1, "loss": 0.7}, {"step": 2, "grad_norm": 0.1}, {"step": 3, "loss": float("nan")}),
        *({"step": 4, "loss": float("inf")}, {"step": 5, "loss": None}, {"step": 6, "loss": 0.5}),
    ]
    assert curves.line_of("loss", reported, "loss").points == [(1.0, 0.7), (6.0, 0.5)]
    assert line_plots.plot("run", PLAIN, [Line("loss")], 8, "optimiser step") == ""


def test_what_lies_beyond_known_limits_is_drawn_at_the_edge() -> None:
    explained = next(curve for curve in PPOSpec.curves if curve.name == "explained")
    line = Line("explained", [(0.0, -5000.0), (1.0, 0.0), (2.0, 1.0)])
    (points,) = points_of(line_plots.plot("run", explained, [line], 2, "round"))
    assert [y for _, y in points] == [150.0, 75.0, 0.0]


@pytest.mark.parametrize("value", [0.0, 1e-6, -3.5, 1e12])
def test_a_line_that_stays_the_same_lies_within_the_plot(value: float) -> None:
    html = line_plots.plot("run", PLAIN, [Line("loss", [(1.0, value), (2.0, value)])], 2, "step")
    (points,) = points_of(html)
    assert all(0 <= y <= 150 for _, y in points)
    words = re.findall(r'text-anchor="end" class="small">([^<]*)</text>', html)
    assert len(set(words)) == len(words) >= 2


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 1.0),
        (2.9, 4.61),
        (-0.4, 0.31),
        (1.6005, 1.6013),
        (1e-7, 2e-5),
        (0.0, 5e29),
        (-700.0, -3.0),
        (1e-13, 3e-12),
    ],
)
@pytest.mark.parametrize("limits", [(None, None), (0.0, None), (0.0, 1.0)])
def test_an_axis_begins_at_a_round_number_below_its_data(low: float, high: float, limits: Any) -> None:
    ticks, top = line_plots.upright([low, high], replace(PLAIN, limits=limits))
    assert 2 <= len(ticks) <= 6
    assert ticks == sorted(ticks)
    assert limits[0] is not None or ticks[0] <= low
    assert limits[1] is not None or top >= high
    assert ticks[-1] <= top * (1 + 1e-9)
    assert ticks[-1] + (ticks[1] - ticks[0]) * 1.001 >= top, "the whole axis has numbers"
    words = line_plots.tick_words(ticks)
    assert len(set(words)) == len(words)
    assert max(map(len, words)) <= 8


def test_numbers_on_an_axis_are_written_alike() -> None:
    assert line_plots.tick_words([0.0, 5e-5, 1e-4, 1.5e-4, 2e-4]) == ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]
    assert line_plots.tick_words([0.0, 0.5, 1.0]) == ["0", "0.5", "1"]
    assert line_plots.tick_words([5e5, 1e6]) == ["5e5", "1e6"]


def test_a_long_curve_is_thinned_and_no_spike_is_lost() -> None:
    points = [(float(step), 1.0) for step in range(5000)]
    points[3210], points[77] = (3210.0, 9.0), (77.0, -4.0)
    kept = line_plots.thinned(points)
    assert len(kept) <= line_plots.MOST_POINTS + 2
    assert {(3210.0, 9.0), (77.0, -4.0)} <= set(kept)
    assert kept == sorted(kept)
    assert line_plots.thinned(points[:50]) == points[:50]


def test_some_points_tell_their_figure_and_the_last_one_always_does() -> None:
    line = Line("loss", [(float(step), step / 100) for step in range(1, 101)])
    html = line_plots.plot("run", PLAIN, [line], 100, "step")
    assert html.count("<circle") <= line_plots.MOST_PLACES
    assert html.count('class="place"') <= line_plots.MOST_PLACES
    said = html.split('<g class="said">')[-1]
    assert ">step 100<" in said
    assert ">loss: 1<" in said
    assert '<i class="hue0"></i>loss: 1<' in html, "the legend has the last value"
    assert "loss: from 0.01 to 1 in 100 points" in html, "and those who can't see it are told"


def test_the_kl_target_and_the_start_of_the_plain_loss_are_drawn() -> None:
    def reference(spec: Any, name: str) -> Any:
        return next(curve.reference for curve in curves.curves_of(spec) if curve.name == name)

    assert reference(PPOSpec(kl_target=4.5), "kl") == (4.5, "target 4.5")
    assert reference(PPOSpec(kl_control="fixed"), "kl") is None
    assert reference(DPOSpec(sft_weight=0.0), "loss") == (0.693, "0.69: no preference")
    assert reference(DPOSpec(), "loss") is None
    html = curves.run_plots(PPOSpec(kl_target=4.5), metrics(2, kl=1.0), 2)
    assert 'class="reference"' in html
    assert ">target 4.5<" in html
    (points,) = points_of(html)
    assert all(y > 0 for _, y in points), "the target is on the axis, above the line"


def test_names_are_shown_literally() -> None:
    line = Line("<b>&7</b>", [(1.0, 1.0), (2.0, 2.0)])
    html = line_plots.plot("compare", PLAIN, [line], 2, "step")
    assert "<b>&7" not in html
    assert html.count("&lt;b&gt;&amp;7&lt;/b&gt;") == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (12.3, "12.3"),
        (7e-5, "7e-5"),
        (0, "0"),
        (1234.56, "1235"),
        (2.5e-10, "2.5e-10"),
        (5e29, "5e29"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert formatting.short_number(value) == text


def test_there_is_a_hue_for_every_line() -> None:
    """More lines than hues begin again, which the comparison does not let happen."""
    lines = [Line(str(number), [(1.0, 1.0)]) for number in range(len(line_plots.HUES))]
    html = line_plots.plot("compare", PLAIN, lines, 2, "step")
    for number in range(len(line_plots.HUES)):
        assert f'<i class="hue{number}"></i>' in html
        assert f".hue{number} {{ --hue: var(--hue-{number})" in stylesheet.SHEET
        assert f"--hue-{number}: {line_plots.HUES[number]};" in stylesheet.TOKENS
