"""Charts: marks where the numbers are, words for screen readers, and nothing that runs or loads."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from annotation.metrics.intervals_and_bias import Estimate
from annotation.ui.charts import (
    HEIGHT,
    ChartMark,
    Frame,
    columns,
    interval_bar,
    intervals,
    nice_ticks,
    series,
    spread,
)

FRAME = Frame("name", "Title", "What there is to see.")
HOSTILE = '<img src=x onerror="window.ran=1">${window.ran=1}{{value}}</svg>'


def drawn(html: str) -> ElementTree.Element:
    """The chart as a tree: it must be well-formed."""
    return ElementTree.fromstring(html)


def attributes(html: str, tag: str, style: str, name: str) -> list[float]:
    found = [element for element in drawn(html).iter(tag) if element.get("class") == style]
    return [float(str(element.get(name)).rstrip("%")) for element in found]


def mark(label: str, value: float, low: float, high: float) -> ChartMark:
    return ChartMark(label=label, value=value, low=low, high=high, text=f"{value} ({low} to {high})")


def test_intervals_lie_where_their_numbers_are() -> None:
    chart = intervals(FRAME, [mark("ann", 0.8, 0.7, 0.9), mark("bob", 0.25, 0.0, 0.5)], "share", reference=0.5)
    assert attributes(chart, "circle", "dot", "cx") == [80, 25]
    assert attributes(chart, "line", "interval", "x1") == [70, 0]
    assert attributes(chart, "line", "interval", "x2") == [90, 50]
    assert attributes(chart, "line", "reference", "x1") == [50]
    words = [element.text for element in drawn(chart).iter("text")]
    assert {"ann", "bob", "share", "0%", "50%", "100%", "0.8 (0.7 to 0.9)"} <= set(words)


@pytest.mark.parametrize(
    ("value", "low", "high", "shade"),
    [
        (0.7, 0.6, 0.8, "good"),
        (0.3, 0.2, 0.4, "bad"),
        (0.6, 0.4, 0.8, "plain"),
        (0.4, 0.6, 0.9, "plain"),
        (0.6, 0.1, 0.4, "plain"),
    ],
)
def test_a_bar_has_its_colour_where_share_and_interval_agree(value: float, low: float, high: float, shade: str) -> None:
    assert interval_bar(Estimate(value, low, high, 20), "").startswith(f'<div class="evidence {shade}">')


def test_a_scale_of_its_own_keeps_marks_inside() -> None:
    marks = [mark("dpo-1", 1.0, 0.0, 2.0), mark("base", 0.0, 0.0, 0.0), mark("far", 9.0, 8.0, 11.0)]
    chart = intervals(FRAME, marks, "log-odds", 0.0, (-2.0, 2.0), lambda value: f"{value:g}")
    assert attributes(chart, "circle", "dot", "cx") == [75, 50, 100]


def test_columns_count_each_day_with_the_empty_ones_between() -> None:
    chart = columns(FRAME, [("2026-11-01", 4), ("2026-11-03", 2), ("2026-11-08", 8)], "judgements")
    heights = attributes(chart, "rect", "column", "height")
    assert heights == pytest.approx([HEIGHT / 2, 0, HEIGHT / 4, 0, 0, 0, 0, HEIGHT], abs=0.06)
    labels = [element.text for element in drawn(chart).iter("title")]
    assert "2026-11-03: 2" in labels
    assert "14 in all, 8 at most" in str(drawn(chart).find(".//desc").text)  # type: ignore[union-attr]


def test_a_long_time_is_counted_by_the_week() -> None:
    chart = columns(FRAME, [("2026-01-01", 1), ("2026-01-07", 1), ("2026-01-08", 5), ("2026-06-30", 1)], "judgements")
    assert "week from 2026-01-08: 5" in chart
    assert "week from 2026-01-01: 2" in chart
    assert len(attributes(chart, "rect", "column", "x")) == 26


def test_one_day_and_one_judgement_are_a_chart_too() -> None:
    assert attributes(columns(FRAME, [("2026-11-01", 1)], "judgements"), "rect", "column", "height") == [HEIGHT]


def test_a_series_runs_from_left_to_right() -> None:
    chart = series(FRAME, [mark(f"2026-11-0{n}", n / 4, 0.0, 1.0) for n in (1, 2, 3)], "share", "day")
    assert attributes(chart, "circle", "dot", "cx") == pytest.approx([100 / 6, 50, 500 / 6], abs=0.01)
    assert attributes(chart, "circle", "dot", "cy") == [HEIGHT * 0.75, HEIGHT * 0.5, HEIGHT * 0.25]
    assert len(attributes(chart, "line", "line", "x1")) == 2
    assert "1 Nov" in chart
    hours = series(FRAME, [mark(f"2026-11-01T0{n}:30", 0.5, 0.0, 1.0) for n in (1, 2, 3)], "share", "time")
    assert "01:30" in hours
    assert "1 Nov" not in hours


def test_long_words_stand_below_each_other_instead_of_on_each_other() -> None:
    short = intervals(FRAME, [mark("ann", 0.8, 0.7, 0.9)], "share")
    long = intervals(FRAME, [mark("ann", 0.8, 0.7, 0.9), mark("a policy of a very long name", 0.8, 0.7, 0.9)], "share")
    beside, below = ([t.get("y") for t in drawn(chart).iter("text")][:2] for chart in (short, long))
    assert beside[0] == beside[1]
    assert below[0] != below[1]


@pytest.mark.parametrize(
    "chart",
    [
        intervals(
            Frame("a", HOSTILE, HOSTILE),
            [ChartMark(label=HOSTILE, value=0.5, low=0.4, high=0.6, text=HOSTILE)],
            HOSTILE,
        ),
        series(
            Frame("b", HOSTILE, HOSTILE),
            [ChartMark(label="2026-11-01", value=0.5, low=0.4, high=0.6, text=HOSTILE)],
            HOSTILE,
            HOSTILE,
        ),
        columns(Frame("c", HOSTILE, HOSTILE), [("2026-11-01", 1)], HOSTILE),
    ],
)
def test_strangers_words_stay_words(chart: str) -> None:
    tree = drawn(chart)
    assert {element.tag for element in tree.iter()} <= {
        "figure", "figcaption", "details", "summary", "div", "svg", "title", "desc", "line", "circle", "rect", "text"
    }  # fmt: skip
    assert not any(name.startswith("on") or name in ("href", "style") for e in tree.iter() for name in e.attrib)
    assert "<img" not in chart


def test_charts_say_in_words_what_they_show() -> None:
    chart = intervals(FRAME, [mark("ann", 0.8, 0.7, 0.9)], "share")
    svg = drawn(chart).find(".//svg")
    assert svg is not None
    assert svg.get("role") == "img"
    described = [svg.find(f".//*[@id='{name}']") for name in str(svg.get("aria-labelledby")).split()]
    assert [element.text for element in described if element is not None] == ["Title", "share. ann: 0.8 (0.7 to 0.9)."]


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0, 1, 5, [0, 0.25, 0.5, 0.75, 1]),
        (0, 1, 4, [0, 0.5, 1]),
        (0, 28, 4, [0, 10, 20]),
        (0, 3, 4, [0, 1, 2, 3]),
        (-0.6, 1.2, 5, [-0.5, 0, 0.5, 1]),
        (0, 1234, 4, [0, 500, 1000]),
        (2, 2, 5, [2]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, most) == ticks


@pytest.mark.parametrize("most", [3, 4, 5, 6])
def test_there_are_never_too_many_ticks_or_too_few(most: int) -> None:
    for power in range(60):
        assert 2 <= len(nice_ticks(0, 0.001 * 1.4**power, most)) <= most


def test_places_are_spread_evenly() -> None:
    assert list(spread(1, 5)) == [0]
    assert list(spread(3, 5)) == [0, 1, 2]
    assert list(spread(6, 5)) == [0, 2, 4]
    assert list(spread(9, 5)) == [0, 2, 4, 6, 8]
    assert len(spread(100, 5)) == 4
