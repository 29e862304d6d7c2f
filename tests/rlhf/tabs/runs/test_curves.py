"""The plots of a run: which there are, what is drawn, and what is left out."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from annotation.ui import line_plots
from annotation.ui.line_plots import Line
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs.descriptions import Curve
from rlhf.tabs.runs import curves
from rlhf.tabs.runs.curves import plots_of

PLAIN = Curve(name="loss", label="Loss", axis="nats a token", series={"loss": "loss"}, caption="It should fall.")


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
    assert [name for name in ("Loss", "Token accuracy", "Learning rate") if f"<figcaption>{name}<" not in html] == []
    assert "Gradient norm" not in html
    assert ">optimiser step<" in html
    assert ">nats a token<" in html
    assert curves.run_plots(SFTSpec(), [], 9) == ""
    assert curves.run_plots(CheckSpec(), metrics(3, loss=0.5), 3) == ""
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


def test_the_kl_target_and_the_start_of_the_plain_loss_are_drawn() -> None:
    def reference(spec: Any, name: str) -> Any:
        return next(curve.reference for curve in curves.curves_of(spec) if curve.name == name)

    assert reference(PPOSpec(kl_target=4.5), "kl") == (4.5, "target 4.5")
    assert reference(PPOSpec(kl_control="fixed"), "kl") is None
    assert reference(DPOSpec(sft_weight=0.0), "loss") == (0.693, "0.69: no preference")
    assert reference(DPOSpec(), "loss") is None
    assert reference(DPOSpec(stop_kl=0.15), "drift") == (0.15, "0.15: the end, if words get less likely")
    assert reference(DPOSpec(stop_kl=0.0), "drift") is None
    html = curves.run_plots(PPOSpec(kl_target=4.5), metrics(2, kl=1.0), 2)
    assert 'class="reference"' in html
    assert ">target 4.5<" in html
    (points,) = points_of(html)
    assert all(y > 0 for _, y in points), "the target is on the axis, above the line"
