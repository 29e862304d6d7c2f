"""The curves of a run: which plots each kind of training has, what to see in them, and the lines in them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from annotation.translation import N_, _
from annotation.ui.line_plots import Line, plot, plots
from rlhf.jobs.descriptions import Curve
from rlhf.jobs.job_spec import JobSpec, TrainingSpec
from rlhf.tabs.plot_zoom import CurveData

RATE = Curve(
    name="rate",
    label=N_("Learning rate"),
    axis=N_("step size"),
    series={N_("learning rate"): "learning_rate"},
    caption=N_(
        "The schedule: up during the warm-up, then down to zero. A loss that jumps at the peak asks for a lower one."
    ),
    limits=(0.0, None),
)
NORM = Curve(
    name="norm",
    label=N_("Gradient norm"),
    axis=N_("norm before clipping"),
    series={N_("norm"): "grad_norm"},
    caption=N_(
        "How hard each step pulls. A level that stays about the same is healthy; a growing one, or spikes far "
        "above the rest, ask for a lower learning rate."
    ),
    limits=(0.0, None),
)
MEMORY = Curve(
    name="memory",
    label=N_("Memory"),
    axis="GB",
    series={N_("memory"): "memory_gb"},
    caption=N_("What the worker holds. It should be flat after the first steps; a steady climb ends in a killed run."),
    limits=(0.0, None),
)
COMMON = (RATE, NORM, MEMORY)


def curves_of(spec: JobSpec) -> tuple[Curve, ...]:
    """The plots of a run; values to compare with are drawn where they are known."""
    training = spec.trains()
    references = {} if training is None else training.references()
    return tuple(replace(curve, reference=references.get(curve.name)) for curve in plots_of(type(spec)))


def plots_of(kind: type[JobSpec]) -> tuple[Curve, ...]:
    """The plots of a kind of job: its own, then those of every training."""
    return tuple(curve.translated() for curve in (*kind.curves, *COMMON)) if kind.curves else ()


def along(spec: JobSpec) -> str:
    training = spec.trains()
    return _(TrainingSpec.step_word if training is None else training.step_word)


def line_of(name: str, metrics: Sequence[Mapping[str, Any]], metric: str) -> Line:
    """A run's metric as a line; steps that lack it, and values that are no numbers, are left out."""
    points = [
        (float(entry["step"]), float(entry[metric]))
        for entry in metrics
        if entry.get(metric) is not None and isfinite(entry[metric])
    ]
    return Line(name, points)


def lines_of(curve: Curve, metrics: Sequence[Mapping[str, Any]]) -> list[Line]:
    return [line_of(name, metrics, metric) for name, metric in curve.series.items()]


def curve_data_of(spec: JobSpec, metrics: Sequence[Mapping[str, Any]]) -> list[CurveData]:
    drawn = [(curve, [line for line in lines_of(curve, metrics) if line.points]) for curve in curves_of(spec)]
    return [CurveData(curve, lines, along(spec)) for curve, lines in drawn if lines]


def run_plots(spec: JobSpec, metrics: Sequence[Mapping[str, Any]], steps: int) -> str:
    """Every plot of a run that has data, on an axis as long as the whole run; nothing before the first step."""
    return plots([plot("run", curve, lines_of(curve, metrics), steps, along(spec)) for curve in curves_of(spec)])
