"""Plots of lines along steps, which say their values where pointed at, and outlines of histograms. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import floor
from typing import Protocol

from annotation.translation import _, numeral
from annotation.ui import charts, stylesheet
from annotation.ui.charts import HEIGHT, Frame
from annotation.ui.formatting import percent, short_number, with_power
from annotation.ui.markup import escape

# The tokens --hue-0 … of the stylesheet, for what takes no variables.
HUES = tuple(re.findall(r"--hue-\d: (#[0-9a-f]{6});", stylesheet.TOKENS))
# A longer line is thinned, keeping the lowest and highest point of each stretch.
MOST_POINTS = 240
# Places along a plot that say the values there.
MOST_PLACES = 24
# Above and below a line, at least: `charts.nice_ticks` rounds to ten decimals.
LEAST_AIR = 1e-8
# Between two lines of what a place says, in pixels.
LEADING = 15
# The width of a small letter in a narrow plot, in percent of it.
LETTER = 2.4

Point = tuple[float, float]
Scale = Callable[[float], float]


class Axes(Protocol):
    """What a plot shows: its name in ids, its words, and the ends of its upright axis."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def axis(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def limits(self) -> tuple[float | None, float | None]: ...
    @property
    def reference(self) -> tuple[float, str] | None: ...


@dataclass(frozen=True)
class Line:
    """One line of a plot: its name and its points, (step, value), in order."""

    name: str
    points: Sequence[Point] = field(default_factory=tuple)


Hued = Sequence[tuple[int, Line]]


def plots(drawn: Sequence[str]) -> str:
    """Plots beside each other, as many as fit."""
    there = [one for one in drawn if one]
    return f'<div class="plots">{"".join(there)}</div>' if there else ""


def boxed(drawn: Sequence[str]) -> str:
    """Charts beside each other, as many as fit, each in a box of its own."""
    return plots([f"<div>{one}</div>" for one in drawn if one])


def plot(where: str, axes: Axes, lines: Sequence[Line], steps: int, across: str) -> str:
    """One plot with its caption and the last value of each line; nothing without data. `where` is part of its ids."""
    hued = [(number % len(HUES), line) for number, line in enumerate(lines) if line.points]
    if not hued:
        return ""
    ticks, top = upright([value for _, line in hued for _, value in line.points], axes)
    right = max([steps, *(step for _, line in hued for step, _ in line.points)]) or 1
    place, pixels = charts.scale(0, right), charts.scale_up(ticks[0], top)

    def height(value: float) -> float:
        return pixels(min(top, max(ticks[0], value)))

    parts = charts.rulers(list(zip(ticks, tick_words(ticks), strict=True)), height)
    parts += [path(line, hue, place, height) for hue, line in hued]
    parts += reference_line(axes, hued, place, height)
    parts += places(hued, across, place, height)
    for tick in charts.nice_ticks(0, right, 5):
        if tick == int(tick):
            at = place(tick)
            parts.append(charts.text(at, HEIGHT + 17, numeral(tick, ",.0f"), charts.tick_anchor(at), "small"))
    parts += [charts.text(0, -8, axes.axis, "start", "small"), charts.text(50, HEIGHT + 36, across, "middle", "small")]
    said = "; ".join(f"{line.name}: {span(line)}" for _, line in hued)
    frame = Frame(f"{where}-{axes.name}", axes.label, axes.caption)
    figure = charts.figure(frame, "".join(parts), HEIGHT + 42, f"{axes.axis}; {across}: {said}", "upright")
    last_values = legend([(hue, f"{line.name}: {short_number(line.points[-1][1])}") for hue, line in hued])
    return f"<div>{figure}{last_values}</div>"


# --------------------------------------------------------------------------------------------------- the upright axis
def upright(values: Sequence[float], axes: Axes) -> tuple[list[float], float]:
    """Round numbers from the foot of the upright axis on, and its top: the plot's ends, else its data's with air."""
    shown = [*values, *([] if axes.reference is None else [axes.reference[0]])]
    low, high = min(shown), max(shown)
    air = max(0.06 * (high - low) or 0.05 * abs(high) or 1.0, LEAST_AIR)
    foot, top = axes.limits
    if foot is None:
        foot = 0.0 if 0 <= low <= 0.3 * high else low - air
    if top is None:
        top = max(high, foot) + air
    first, second, *_ = charts.nice_ticks(foot, top, 5)
    step = second - first
    start, end = floor(foot / step + 1e-6), floor(top / step + 1e-6)
    return [step * number for number in range(start, end + 1)], top


def tick_words(ticks: Sequence[float]) -> list[str]:
    for digits in range(4, 10):
        words = [short_number(tick, digits) for tick in ticks]
        if len(set(words)) == len(words):
            break
    mixed = any("e" in word for word in words)
    return [with_power(tick, digits) for tick in ticks] if mixed else words


def reference_line(axes: Axes, hued: Hued, place: Scale, height: Scale) -> list[str]:
    """The dashed line at a plot's reference, and its name: above or below, right or left, where no curve is."""
    if axes.reference is None:
        return []
    value, name = axes.reference
    y, wide = height(value), min(100.0, LETTER * len(name))
    drawn = [(place(step), height(found)) for _, line in hued for step, found in line.points]

    def crossed(spot: tuple[float, float]) -> tuple[bool, int]:
        at, foot = spot
        left = at - wide if at else 0.0
        inside = [left <= x <= left + wide and foot - LEADING <= up <= foot + 3 for x, up in drawn]
        return not LEADING <= foot <= HEIGHT, sum(inside)

    at, foot = min(((at, y + off) for off in (-5, LEADING) for at in (100.0, 0.0)), key=crossed)
    return [charts.line(0, y, 100, y, "reference"), charts.text(at, foot, name, "end" if at else "start", "small")]


# ---------------------------------------------------------------------------------------------------------- the lines
def path(line: Line, hue: int, place: Scale, height: Scale) -> str:
    """A line as one shape, in a box of its own that is stretched to the plot's width; a lone point as a dot."""
    if len(line.points) == 1:
        ((step, value),) = line.points
        return f'<circle cx="{place(step):.2f}%" cy="{height(value):.1f}" r="3" class="hue{hue}"></circle>'
    points = " ".join(f"{10 * place(step):.1f},{height(value):.1f}" for step, value in thinned(line.points))
    return (
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 1000 {HEIGHT}" preserveAspectRatio="none">'
        f'<polyline points="{points}" class="curve hue{hue}"/></svg>'
    )


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about that many points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    stretch = -(-2 * len(points) // most)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        lowest, highest = min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])
        kept += sorted({lowest, highest})
    return kept


def places(hued: Hued, across: str, place: Scale, height: Scale) -> list[str]:
    """Upright stripes over the whole plot, each of which says the values of its step while it is pointed at."""
    steps = sorted({step for _, line in hued for step, _ in line.points})
    stride = -(-len(steps) // MOST_PLACES)
    chosen = list(reversed(steps[::-1][::stride]))  # the last one among them
    middles = [(one + other) / 2 for one, other in pairwise(map(place, chosen))]
    edges = [0.0, *middles, 100.0]
    known = [(hue, line.name, dict(line.points)) for hue, line in hued]
    return [
        f'<g class="place"><rect x="{left:.2f}%" y="0" width="{right - left:.2f}%" height="{HEIGHT}"/>'
        f'<g class="said">{values_at(step, across, known, place(step), height)}</g></g>'
        for step, (left, right) in zip(chosen, pairwise(edges), strict=True)
    ]


def values_at(
    step: float, across: str, known: Sequence[tuple[int, str, Mapping[float, float]]], x: float, height: Scale
) -> str:
    """An upright line at a step, the lines' points on it, and what they are worth."""
    there = [(hue, name, points[step]) for hue, name, points in known if step in points]
    words = [f"{across} {numeral(step, ',.0f')}", *(f"{name}: {short_number(value)}" for _, name, value in there)]
    # Beside the line, on the side where there is more room.
    anchor, beside = ("start", x + 2) if x < 50 else ("end", x - 2)
    marks = [
        f'<circle cx="{x:.2f}%" cy="{height(value):.1f}" r="4" class="hue{hue}"></circle>' for hue, _, value in there
    ]
    texts = [charts.text(beside, 12 + LEADING * row, line, anchor) for row, line in enumerate(words)]
    return "".join([charts.line(x, 0, x, HEIGHT, "at"), *marks, *texts])


def legend(entries: Sequence[tuple[int, str]]) -> str:
    shown = "".join(f'<span><i class="hue{hue}"></i>{escape(words)}</span>' for hue, words in entries)
    return f'<div class="legend">{shown}</div>'


def span(line: Line) -> str:
    """A line in words, for those who can't see it."""
    first, last = line.points[0][1], line.points[-1][1]
    return _("from {short_number} to {short_number_2} in {count} points").format(
        short_number=short_number(first), short_number_2=short_number(last), count=len(line.points)
    )


# --------------------------------------------------------------------------------------------------------- histograms
def histograms(frame: Frame, edges: Sequence[float], sides: Mapping[str, Sequence[float]], of: str, across: str) -> str:
    """The shares in each bin as outlines over each other, a hue a side; `of` says what is counted."""
    top = max(max(shares) for shares in sides.values())
    place, height = charts.scale(edges[0], edges[-1]), charts.scale_up(0.0, top)
    parts = charts.rulers([(tick, percent(tick)) for tick in charts.nice_ticks(0.0, top, 5)], height)
    for hue, (side, shares) in enumerate(sides.items()):
        parts.append(path(Line(side, outline(edges, shares)), hue, place, height))
    for tick in charts.nice_ticks(edges[0], edges[-1], 5):
        at = place(tick)
        parts.append(charts.text(at, HEIGHT + 17, numeral(tick, "g"), charts.tick_anchor(at), "small"))
    parts += [charts.text(0, -8, of, "start", "small"), charts.text(50, HEIGHT + 36, across, "middle", "small")]
    means = {side: mean_of(edges, shares) for side, shares in sides.items()}
    averages = "; ".join(
        _("{side}: about {mean} on average").format(side=side, mean=short_number(value))
        for side, value in means.items()
    )
    drawn = charts.figure(frame, "".join(parts), HEIGHT + 42, f"{of}; {across}: {averages}", "upright")
    return drawn + legend(list(enumerate(sides)))


def outline(edges: Sequence[float], shares: Sequence[float]) -> list[Point]:
    """A histogram as one line: up at a bin's lower edge, along it, and down to zero at the ends."""
    steps = [(x, value) for (low, high), value in zip(pairwise(edges), shares, strict=True) for x in (low, high)]
    return [(edges[0], 0.0), *steps, (edges[-1], 0.0)]


def mean_of(edges: Sequence[float], shares: Sequence[float]) -> float:
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return sum(middle * value for middle, value in zip(middles, shares, strict=True))
