"""Charts as inline SVG that keep their text readable at any width and follow the theme; all text is escaped. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from math import ceil, floor, log10

from annotation.metrics.calibration import CONFIDENCES, Calibration
from annotation.metrics.intervals_and_bias import Estimate
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui.formatting import percent, percent_with_interval
from annotation.ui.markup import Explained, escape, explained

Write = Callable[[float], str]


@dataclass(frozen=True)
class ChartMark:
    """A figure with its interval; without an interval `low` and `high` are the value."""

    label: str
    value: float
    low: float
    high: float
    text: str
    """The figure in words, as it stands beside the mark."""


def mark_of(label: str, figure: Estimate, text: str) -> ChartMark:
    return ChartMark(label=label, value=figure.value, low=figure.low, high=figure.high, text=text)


def share_mark(label: str, share: Estimate) -> ChartMark:
    return mark_of(label, share, percent_with_interval(share))


@dataclass(frozen=True)
class Frame:
    """What a chart says around its marks. `name` makes its ids its own on the page."""

    name: str
    title: str
    sentence: str
    """What there is to see, for who asks."""


def figure(frame: Frame, body: str, height: float, described: str, shape: str) -> str:
    """A chart with its heading, for eyes and for screen readers."""
    name = escape(frame.name)
    return (
        f'<figure class="chart"><figcaption>{explained(Explained(frame.title, frame.sentence))}</figcaption>'
        f'<div class="{shape}"><svg role="img" height="{height:.0f}" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(frame.title)}</title><desc id="{name}-desc">{escape(described)}</desc>'
        f"{body}</svg></div></figure>"
    )


def interval_bar(share: Estimate, words: str, ends: Sequence[str] = ()) -> str:
    """A share with its interval on a line from 0% to 100%, whose middle is marked; `words` say it to who can't see.

    In its colour where the share and its whole interval are on one side. `ends`: what stands below the line.
    """
    low, high, value = 100 * share.low, 100 * share.high, 100 * share.value
    marks = (
        '<rect class="ground" x="0" y="11" width="100%" height="6" rx="3"/>'
        f'<rect class="reach" x="{low:.1f}%" y="9" width="{max(high - low, 0.5):.1f}%" height="10" rx="5"/>'
        '<line class="even" x1="50%" x2="50%" y1="0" y2="28"/>'
        f'<circle class="point" cx="{value:.1f}%" cy="14" r="8"/>'
    )
    shade = "good" if min(low, value) > 50 else "bad" if max(high, value) < 50 else "plain"
    below = "".join(f"<span>{escape(end)}</span>" for end in ends)
    return (
        f'<div class="evidence {shade}"><svg class="span" role="img" aria-label="{escape(words)}">{marks}</svg>'
        + (f'<p class="ends" aria-hidden="true">{below}</p>' if below else "")
        + "</div>"
    )


def text(x: float, y: float, words: str, anchor: str = "middle", style: str = "") -> str:
    """Words at x percent of the width and y pixels."""
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.2f}%" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.2f}%" y1="{y1:.1f}" x2="{x2:.2f}%" y2="{y2:.1f}" class="{style}"/>'


def dot(x: float, y: float, words: str) -> str:
    """A point that says its figure when pointed at."""
    return f'<circle cx="{x:.2f}%" cy="{y:.1f}" r="5" class="dot"><title>{escape(words)}</title></circle>'


# -------------------------------------------------------------------------------------------------------- intervals
ROW, LINE, TOP = 46, 16, 18
# Characters that stand beside each other on a phone.
NARROW = 40


def intervals(
    frame: Frame,
    marks: Sequence[ChartMark],
    axis: str,
    reference: float | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    write: Write = percent,
) -> str:
    """Figures below each other, each with its label, its text and its interval on one common scale.

    `reference` is the dashed line to compare with; `axis` says what the scale measures and in what unit.
    """
    low, high = limits
    place = scale(low, high)
    folded = any(len(mark.label) + len(mark.text) > NARROW for mark in marks)
    row, top = ROW + LINE * folded, TOP + LINE * folded
    bottom = row * len(marks) + 4
    ticks = nice_ticks(low, high, 5)
    parts = [line(place(tick), top, place(tick), bottom, "grid") for tick in ticks]
    parts.append(line(0, bottom, 100, bottom, "axis"))
    if reference is not None:
        parts.append(line(place(reference), top, place(reference), bottom, "reference"))
    for number, mark in enumerate(marks):
        y = row * number
        track = y + row - 17
        parts.append(text(0, y + 12, mark.label, "start"))
        parts.append(text(0, y + 12 + LINE, mark.text, "start") if folded else text(100, y + 12, mark.text, "end"))
        parts.append(line(place(mark.low), track, place(mark.high), track, "interval"))
        parts.append(dot(place(mark.value), track, f"{mark.label}: {mark.text}"))
    parts += [text(place(tick), bottom + 16, write(tick), tick_anchor(place(tick)), "small") for tick in ticks]
    parts.append(text(50, bottom + 36, axis, "middle", "small"))
    described = "; ".join(f"{mark.label}: {mark.text}" for mark in marks)
    return figure(frame, "".join(parts), bottom + 42, f"{axis}. {described}.", "across")


def scale(low: float, high: float) -> Callable[[float], float]:
    """From a value to percent of the width, kept within the chart."""

    def place(value: float) -> float:
        return min(100.0, max(0.0, 100 * (value - low) / (high - low)))

    return place


def tick_anchor(place: float) -> str:
    """Where a tick's words are held, so that those at the ends stay inside."""
    return "start" if place < 2 else "end" if place > 98 else "middle"


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers from low to high, evenly spaced (steps of 1, 2, 2.5 or 5 times a power of ten)."""
    if high <= low:
        return [low]
    rough = (high - low) / (most - 1)
    power = 10.0 ** floor(log10(rough))
    for step in (power, 2 * power, 2.5 * power, 5 * power, 10 * power, 20 * power):
        first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [round(number * step, 10) for number in range(first, last + 1)]
    raise AssertionError("a step of twice the next power of ten is always large enough")


# -------------------------------------------------------------------------------------------------------- calibration
def calibration(frame: Frame, found: Calibration, axis: str, across: str) -> str:
    """How often something was right, by the chance that was given to it; dashed where the chances are true."""
    place, height = scale(CONFIDENCES[0], 1.0), scale_up(0.0, 1.0)
    parts = rulers([(tick / 4, percent(tick / 4)) for tick in range(5)], height)
    parts.append(line(0, height(CONFIDENCES[0]), 100, height(1.0), "reference"))
    for tick in (*CONFIDENCES, 1.0):
        at = place(tick)
        parts.append(text(at, HEIGHT + 17, percent(tick), tick_anchor(at), "small"))
    said = []
    for one in found.bins:
        x = place(one.predicted)
        words = ngettext(
            "sure to {sure}, right on {right} of {pairs:,} pair",
            "sure to {sure}, right on {right} of {pairs:,} pairs",
            one.pairs,
        ).format(sure=percent(one.predicted), right=percent(one.value), pairs=one.pairs)
        parts.append(line(x, height(one.low), x, height(one.high), "interval"))
        parts.append(dot(x, height(one.value), words))
        middle = place((one.start + one.end) / 2)
        parts.append(text(middle, HEIGHT + 34, str(one.pairs), "middle", "small"))
        said.append(words)
    under = _("{across}; number of pairs").format(across=across)
    parts += [text(0, -8, axis, "start", "small"), text(50, HEIGHT + 54, under, "middle", "small")]
    return figure(
        frame,
        "".join(parts),
        HEIGHT + 60,
        f"{axis}; {across}: {'; '.join(said)}",
        "upright",
    )


# ---------------------------------------------------------------------------------------------------- over the days
HEIGHT = 150
LONGEST, WEEK = 62, 7


def columns(frame: Frame, counts: Sequence[tuple[str, int]], axis: str) -> str:
    """A column for each day ('2026-11-24', count), days without any included; for each week if the time is long."""
    by_day = {date.fromisoformat(day): count for day, count in counts}
    first, last = min(by_day), max(by_day)
    days = 1 if (last - first).days < LONGEST else WEEK
    bins = (last - first).days // days + 1
    totals = [0] * bins
    for day, count in by_day.items():
        totals[(day - first).days // days] += count
    top = max(totals)
    ticks = [tick for tick in nice_ticks(0, top, 4) if tick == int(tick)]
    height = scale_up(0.0, max(ticks[-1], top))
    parts = rulers([(tick, numeral(tick, ",.0f")) for tick in ticks], height)
    width = 100 / max(bins, 7)  # a single day is no wall
    starts = [first + timedelta(days=days * number) for number in range(bins)]
    for number, (start, total) in enumerate(zip(starts, totals, strict=True)):
        y = height(total)
        label = (
            f"{start.isoformat()}: {numeral(total)}"
            if days == 1
            else _("week from {isoformat}: {total:,}").format(isoformat=start.isoformat(), total=total)
        )
        parts.append(
            f'<rect x="{width * number + width * 0.12:.2f}%" y="{y:.1f}" width="{width * 0.76:.2f}%" '
            f'height="{HEIGHT - y:.1f}" class="column"><title>{escape(label)}</title></rect>'
        )
    for number in spread(bins, 5):
        parts.append(text(width * (number + 0.5), HEIGHT + 17, short(starts[number]), "middle", "small"))
    per = _("each day (UTC)") if days == 1 else _("each week (UTC)")
    parts += [text(0, -8, axis, "start", "small"), text(50, HEIGHT + 38, per, "middle", "small")]
    described = _("{axis}, {per}, from {first} to {last}: {total:,} in all, {top:,} at most.").format(
        axis=axis, per=per, first=first, last=last, total=sum(totals), top=top
    )
    return figure(frame, "".join(parts), HEIGHT + 44, described, "upright")


def series(frame: Frame, marks: Sequence[ChartMark], axis: str, along: str) -> str:
    """Shares (0% to 100%) in order of time with their intervals, joined by a line; labels are ISO times.

    The axis tells days, or hours where all is of one day.
    """
    height = scale_up(0.0, 1.0)
    parts = rulers([(tick / 4, percent(tick / 4)) for tick in range(5)], height)
    step = 100 / len(marks)
    places = [step * (number + 0.5) for number in range(len(marks))]
    for (x1, one), (x2, other) in pairwise(zip(places, marks, strict=True)):
        parts.append(line(x1, height(one.value), x2, height(other.value), "line"))
    for x, mark in zip(places, marks, strict=True):
        parts.append(line(x, height(mark.low), x, height(mark.high), "interval"))
        parts.append(dot(x, height(mark.value), f"{mark.label}: {mark.text}"))
    moments = [datetime.fromisoformat(mark.label) for mark in marks]
    one_day = moments[0].date() == moments[-1].date()
    for number in spread(len(marks), 5):
        moment = f"{moments[number]:%H:%M}" if one_day else short(moments[number].date())
        parts.append(text(places[number], HEIGHT + 17, moment, "middle", "small"))
    parts += [text(0, -8, axis, "start", "small"), text(50, HEIGHT + 38, along, "middle", "small")]
    described = "; ".join(f"{mark.label}: {mark.text}" for mark in marks)
    return figure(frame, "".join(parts), HEIGHT + 44, f"{axis}. {described}.", "upright")


def scale_up(low: float, high: float) -> Callable[[float], float]:
    return lambda value: HEIGHT * (1 - (value - low) / (high - low or 1))


def rulers(ticks: Sequence[tuple[float, str]], height: Callable[[float], float]) -> list[str]:
    """Lines across at the ticks of an upright axis, and their words left of it."""
    parts = []
    for number, (tick, words) in enumerate(ticks):
        y = height(tick)
        parts.append(line(0, y, 100, y, "grid" if number else "axis"))
        parts.append(f'<text x="-8" y="{y + 4:.1f}" text-anchor="end" class="small">{escape(words)}</text>')
    return parts


def spread(count: int, most: int) -> range:
    return range(0, count, max(1, ceil((count - 1) / max(1, most - 1))))


def short(day: date) -> str:
    """A day as people write it on an axis: '24 Nov'."""
    return _("{day} {month}").format(day=day.day, month=_(MONTHS[day.month - 1]))


MONTHS = (
    *(N_("Jan"), N_("Feb"), N_("Mar"), N_("Apr"), N_("May"), N_("Jun")),
    *(N_("Jul"), N_("Aug"), N_("Sep"), N_("Oct"), N_("Nov"), N_("Dec")),
)
