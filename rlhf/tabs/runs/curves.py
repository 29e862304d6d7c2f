"""The curves of a run: which plots each kind of training has, what to see in them, and drawing them as SVG. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor, isfinite
from typing import Any

from annotation.translation import _
from annotation.ui import charts
from annotation.ui.charts import HEIGHT, Frame
from annotation.ui.markup import escape
from rlhf.jobs.descriptions import Curve
from rlhf.jobs.job_spec import JobSpec, TrainingSpec

# The hues can be told apart on white and on the dark theme's background, each with a contrast of at least 3 to 1.
# Captions, plots and legends of neighbours share rows (subgrid), so that plots stand in line whatever their captions.
HUES = ("#2f7de1", "#d9542b", "#12914a", "#a855f7", "#b4660b", "#d6307f", "#0d9488", "#6b7280")
# Goes through Gradio's template engine: no backtick, no backslash, no double brace.
STYLE = (
    charts.STYLE
    + """
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 0 28px; }
.plots > div { display: grid; grid-row: span 3; grid-template: subgrid / minmax(0, 1fr); row-gap: 0;
  min-width: 0; margin: 6px 0 16px; }
.plots figure.chart { display: grid; grid-row: span 2; grid-template: subgrid / minmax(0, 1fr); margin: 0; }
.plots figure.chart figcaption { font-size: var(--text-sm); margin-bottom: 0.6rem; }
.plots figcaption b { font-size: var(--text-md); }
.plots .curve { fill: none; stroke-width: 1.75px; vector-effect: non-scaling-stroke; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: var(--text-sm); padding-left: 3.25rem; }
.legend span { overflow-wrap: anywhere; }
.legend i { display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align: middle; }
"""
    + "".join(
        f".legend i.hue{number} {{ background: {hue}; }} .plots .hue{number} {{ stroke: {hue}; }}"
        f" .plots circle.hue{number} {{ fill: {hue}; stroke: none; }}\n"
        for number, hue in enumerate(HUES)
    )
)
# A longer curve is thinned, keeping the lowest and highest point of each stretch.
MOST_POINTS = 240
# Points that say their figure when pointed at.
MOST_DOTS = 24
# Above and below a curve, at least: `charts.nice_ticks` rounds to ten decimals.
LEAST_AIR = 1e-8


# ----------------------------------------------------------------------------------------------- what each kind shows
RATE = Curve(
    "rate",
    _("Learning rate"),
    _("step size"),
    {_("learning rate"): "learning_rate"},
    _("The schedule: up during the warm-up, then down to zero. A loss that jumps at the peak asks for a lower one."),
    (0.0, None),
)
NORM = Curve(
    "norm",
    _("Gradient norm"),
    _("norm before clipping"),
    {_("norm"): "grad_norm"},
    _(
        "How hard each step pulls. A level that stays about the same is healthy; a growing one, or spikes far "
        "above the rest, ask for a lower learning rate."
    ),
    (0.0, None),
)
MEMORY = Curve(
    "memory",
    _("Memory"),
    "GB",
    {_("memory"): "memory_gb"},
    _("What the worker holds. It should be flat after the first steps; a steady climb ends in a killed run."),
    (0.0, None),
)
COMMON = (RATE, NORM, MEMORY)


def curves_of(spec: JobSpec) -> tuple[Curve, ...]:
    """The plots of a run; values to compare with are drawn where they are known."""
    training = spec.trains()
    references = {} if training is None else training.references()
    return tuple(with_reference(curve, references.get(curve.name)) for curve in plots_of(type(spec)))


def plots_of(kind: type[JobSpec]) -> tuple[Curve, ...]:
    """The plots of a kind of job: its own, then those of every training."""
    return (*kind.curves, *COMMON) if kind.curves else ()


def with_reference(curve: Curve, reference: tuple[float, str] | None) -> Curve:
    """The same plot with a value to compare with."""
    return curve if reference is None else replace(curve, reference=reference)


def along(spec: JobSpec) -> str:
    """What a run's steps are."""
    training = spec.trains()
    return TrainingSpec.step_word if training is None else training.step_word


# ------------------------------------------------------------------------------------------------------------ drawing
@dataclass(frozen=True)
class Line:
    """One line of a plot: its name and its points, (step, value), in order."""

    name: str
    points: Sequence[tuple[float, float]] = field(default_factory=tuple)


def line_of(name: str, metrics: Sequence[Mapping[str, Any]], metric: str) -> Line:
    """A run's metric as a line; steps that lack it, and values that are no numbers, are left out."""
    points = [
        (float(entry["step"]), float(entry[metric]))
        for entry in metrics
        if entry.get(metric) is not None and isfinite(entry[metric])
    ]
    return Line(name, points)


def run_plots(spec: JobSpec, metrics: Sequence[Mapping[str, Any]], steps: int) -> str:
    """Every plot of a run that has data, on an axis as long as the whole run; nothing before the first step."""
    drawn = []
    for curve in curves_of(spec):
        lines = [line_of(name, metrics, metric) for name, metric in curve.series.items()]
        drawn.append(plot("run", curve, lines, steps, along(spec)))
    return plots(drawn)


def plots(drawn: Sequence[str]) -> str:
    """Plots beside each other, as many as fit."""
    there = [one for one in drawn if one]
    return f'<div class="plots">{"".join(there)}</div>' if there else ""


def plot(where: str, curve: Curve, lines: Sequence[Line], steps: int, across: str) -> str:
    """One plot with its caption and the last value of each line; nothing without data. `where` is part of its ids."""
    hued = [(number % len(HUES), line) for number, line in enumerate(lines) if line.points]
    if not hued:
        return ""
    ticks, top = upright([value for _, line in hued for _, value in line.points], curve)
    right = max([steps, *(step for _, line in hued for step, _ in line.points)]) or 1
    place, pixels = charts.scale(0, right), charts.scale_up(ticks[0], top)

    def height(value: float) -> float:
        return pixels(min(top, max(ticks[0], value)))

    parts = charts.rulers(list(zip(ticks, tick_words(ticks), strict=True)), height)
    parts += reference_line(curve, height)
    parts += [path(line, hue, place, height) for hue, line in hued]
    parts += [dots(line, hue, place, height) for hue, line in hued]
    for tick in charts.nice_ticks(0, right, 5):
        if tick == int(tick):
            at = place(tick)
            parts.append(charts.text(at, HEIGHT + 17, f"{tick:.0f}", charts.tick_anchor(at), "small"))
    parts += [charts.text(0, -8, curve.axis, "start", "small"), charts.text(50, HEIGHT + 36, across, "middle", "small")]
    said = "; ".join(f"{line.name}: {span(line)}" for _, line in hued)
    frame = Frame(f"{where}-{curve.name}", curve.label, curve.caption)
    described = _("{axis} along the {across}. {said}.").format(axis=curve.axis, across=across, said=said)
    return f"<div>{charts.figure(frame, ''.join(parts), HEIGHT + 42, described, 'upright')}{legend(hued)}</div>"


def upright(values: Sequence[float], curve: Curve) -> tuple[list[float], float]:
    """Round numbers from the foot of the upright axis on, and its top: the plot's ends, else its data's with air."""
    shown = [*values, *([] if curve.reference is None else [curve.reference[0]])]
    low, high = min(shown), max(shown)
    air = max(0.06 * (high - low) or 0.05 * abs(high) or 1.0, LEAST_AIR)
    foot, top = curve.limits
    if foot is None:
        foot = 0.0 if 0 <= low <= 0.3 * high else low - air
    if top is None:
        top = max(high, foot) + air
    first, second, *_ = charts.nice_ticks(foot, top, 5)
    step = second - first
    start, end = floor(foot / step + 1e-6), floor(top / step + 1e-6)
    return [step * number for number in range(start, end + 1)], top


def tick_words(ticks: Sequence[float]) -> list[str]:
    """The numbers beside an axis, with as many digits as tell them apart."""
    for digits in range(4, 10):
        words = [short_number(tick, digits) for tick in ticks]
        if len(set(words)) == len(words):
            break
    mixed = any("e" in word for word in words)
    return [with_power(tick, digits) for tick in ticks] if mixed else words


def reference_line(curve: Curve, height: Callable[[float], float]) -> list[str]:
    """The dashed line at a plot's reference, and its name."""
    if curve.reference is None:
        return []
    value, name = curve.reference
    y = height(value)
    return [charts.line(0, y, 100, y, "reference"), charts.text(100, y - 5, name, "end", "small")]


def path(line: Line, hue: int, place: Callable[[float], float], height: Callable[[float], float]) -> str:
    """A line as one shape, in a box of its own that is stretched to the plot's width."""
    points = " ".join(f"{10 * place(step):.1f},{height(value):.1f}" for step, value in thinned(line.points))
    return (
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none">'
        f'<polyline points="{points}" class="curve hue{hue}"/></svg>'
    )


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about MOST_POINTS points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= MOST_POINTS:
        return list(points)
    stretch = -(-2 * len(points) // MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        lowest, highest = min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])
        kept += sorted({lowest, highest})
    return kept


def dots(line: Line, hue: int, place: Callable[[float], float], height: Callable[[float], float]) -> str:
    """Some of a line's points, the last one among them, each of which says its figure when pointed at."""
    stride = -(-len(line.points) // MOST_DOTS)
    shown = list(reversed(line.points[::-1][::stride]))
    return "".join(
        f'<circle cx="{place(step):.2f}%" cy="{height(value):.1f}" r="3" class="hue{hue}">'
        f"<title>{escape(line.name)}, {step:.0f}: {short_number(value)}</title></circle>"
        for step, value in shown
    )


def legend(hued: Sequence[tuple[int, Line]]) -> str:
    """Each line's colour, name and last value."""
    entries = "".join(
        f'<span><i class="hue{hue}"></i>{escape(line.name)}: {short_number(line.points[-1][1])}</span>'
        for hue, line in hued
    )
    return f'<div class="legend">{entries}</div>'


def span(line: Line) -> str:
    """A line in words, for those who can't see it."""
    first, last = line.points[0][1], line.points[-1][1]
    return _("from {short_number} to {short_number_2} in {count} points").format(
        short_number=short_number(first), short_number_2=short_number(last), count=len(line.points)
    )


def with_power(value: float, digits: int) -> str:
    """A number with its power of ten: '1.5e-4'; 0 as it is."""
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}" if value else "0"


def short_number(value: float, digits: int = 4) -> str:
    """A number in a few digits: '0.1234', '12.3', '1235', '7e-5', '5e29'."""
    text = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.{digits}g}"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
