"""Plots of lines: ends and numbers of axes, what a place says, spikes that are kept, words that stay words."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from annotation.translation import language_of, speaking
from annotation.ui import line_plots, stylesheet
from annotation.ui.formatting import figure, short_number
from annotation.ui.line_plots import Line
from rlhf.jobs.descriptions import Curve
from tests.rlhf.tabs.runs.test_curves import points_of

PLAIN = Curve(name="loss", label="Loss", axis="nats a token", series={"loss": "loss"}, caption="It should fall.")


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


def test_of_a_run_that_ended_after_one_step_the_point_is_seen() -> None:
    html = line_plots.plot("run", PLAIN, [Line("loss", [(1.0, 4.0)])], 4, "step")
    assert re.findall(r'<circle cx="([\d.]+)%" cy="[\d.]+" r="3" class="hue0">', html) == ["25.00"]


@pytest.mark.parametrize(
    ("points", "at", "below"),
    [
        ([(0.0, 0.5), (100.0, 0.5)], "end", False),
        ([(0.0, 0.0), (50.0, 0.5), (100.0, 1.04)], "start", False),
        ([(0.0, 1.04), (50.0, 1.5), (100.0, 1.04)], "end", True),
    ],
)
def test_the_name_of_a_reference_stands_where_no_curve_is(points: list[Any], at: str, below: bool) -> None:
    curve = replace(PLAIN, limits=(0.0, 2.0), reference=(1.0, "target 1"))
    html = line_plots.plot("run", curve, [Line("loss", points)], 100, "step")
    ((foot, anchor),) = re.findall(r'y="([\d.]+)" text-anchor="(\w+)" class="small">target 1<', html)
    assert (anchor, float(foot) > 75) == (at, below)


def test_where_curves_are_everywhere_the_name_of_a_reference_covers_them() -> None:
    """As it has to where the line is crossed and its name is long; what is drawn later lies above."""
    curve = replace(PLAIN, reference=(1.0, "target 1"))
    drawn = line_plots.plot("run", curve, [Line("a", [(0, 0.0), (10, 2.0)])], 10, "step")
    assert drawn.index("<polyline") < drawn.index("target 1")


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
        (1234.56, "1,235"),
        (2.5e-10, "2.5e-10"),
        (5e29, "5e29"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short_number(value) == text


def test_thousands_are_parted_as_in_sentences() -> None:
    assert (figure(1114.786), figure(12.5)) == ("1,114.79", "12.50")
    html = line_plots.plot("spent", PLAIN, [Line("spent", [(0.0, 1080.0), (2000.0, 1180.0)])], 2000, "step")
    assert all(f">{words}<" in html for words in ("1,100", "2,000"))
    with speaking(language_of("de")):
        assert figure(1114.786) == "1.114,79"


def test_there_is_a_hue_for_every_line() -> None:
    """More lines than hues begin again, which the comparison does not let happen."""
    lines = [Line(str(number), [(1.0, 1.0)]) for number in range(len(line_plots.HUES))]
    html = line_plots.plot("compare", PLAIN, lines, 2, "step")
    for number in range(len(line_plots.HUES)):
        assert f'<i class="hue{number}"></i>' in html
        assert f".hue{number} {{ --hue: var(--hue-{number})" in stylesheet.SHEET
    assert len(line_plots.HUES) == stylesheet.SHEET.count("{ --hue: var(--hue-")
