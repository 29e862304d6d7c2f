"""The closer look: what is sent when the data grow, what begins the plot anew, and what a browser may say of a part."""

from __future__ import annotations

from typing import Any

import pytest
from gradio.routes import ORJSONResponse

from annotation.translation import _
from annotation.ui.line_plots import HUES, Line
from annotation.ui.markup import Download
from rlhf.jobs.descriptions import Curve
from rlhf.tabs import plot_zoom
from rlhf.tabs.plot_zoom import CurveData

LOSS = Curve(name="loss", label="Loss", axis="nats a token", series={"loss": "loss"}, caption="It should fall.")
SHARE = Curve(
    name="share",
    label="Share",
    axis="share",
    series={"a": "a", "b": "b"},
    caption="It should rise.",
    limits=(0.0, 1.0),
    reference=(0.5, "even"),
)
FILES = [Download("metrics/1.csv", "All values")]


def data(points: int = 3, curve: Curve = LOSS, names: tuple[str, ...] = ("loss",)) -> CurveData:
    """Lines that fall along the steps."""
    steps = [(float(step), 1 / step) for step in range(1, points + 1)]
    return CurveData(curve, [Line(name, steps) for name in names], "optimiser step")


def test_what_the_plot_is_about_is_sent_once_and_then_only_what_it_shows() -> None:
    """The browser begins a plot anew with its frame, so that what somebody has drawn out would be gone."""
    first, look = plot_zoom.updates("look", [data(3), data(3, SHARE, ("a", "b"))], FILES, None)
    assert first["look_frame"]["x_lim"] == [None, None]
    assert first["look_frame"]["y_title"] == "nats a token"
    assert first["look_choice"]["choices"] == [("Loss", "loss"), ("Share", "share")]
    grown, again = plot_zoom.updates("look", [data(4), data(4, SHARE, ("a", "b"))], FILES, look)
    assert again == look
    assert "look_choice" not in grown
    assert set(grown["look_plot"]) == {"value", "__type__"}
    assert len(grown["look_plot"]["value"]["data"]) == 4


@pytest.mark.parametrize(
    ("curves", "files"),
    [
        ([data(3, names=("loss", "held-out loss"))], FILES),
        ([data(3)], [Download("metrics/2.csv", "All values")]),
        ([data(3), data(3, SHARE, ("a", "b"))], FILES),
    ],
    ids=["another line", "another run", "another curve to choose"],
)
def test_another_thing_begins_anew_with_all_of_it_in_view(curves: list[CurveData], files: list[Download]) -> None:
    _, look = plot_zoom.updates("look", [data(3)], FILES, None)
    changed, now = plot_zoom.updates("look", curves, files, look)
    assert now != look
    assert changed["look_frame"]["x_lim"] == [None, None]
    assert changed["look_choice"]["value"] == "loss"


def test_what_was_chosen_stays_chosen_also_of_another_run() -> None:
    both = [data(3), data(3, SHARE, ("a", "b"))]
    _, look = plot_zoom.updates("look", both, FILES, None, "share")
    changed, _ = plot_zoom.updates("look", both, [Download("metrics/2.csv", "All values")], look)
    assert changed["look_choice"]["value"] == "share"
    assert plot_zoom.updates("look", both, FILES, look, "no such curve")[0]["look_choice"]["value"] == "loss"


def test_ends_that_are_known_and_the_value_to_compare_with_are_in_the_plot() -> None:
    sent = plot_zoom.updates("look", [data(3, SHARE, ("a", "b"))], FILES, None)[0]
    plot, frame = sent["look_plot"], sent["look_frame"]
    assert frame["y_lim"] == [0.0, 1.0]
    assert frame["color_map"] == {"a": HUES[0], "b": HUES[1], "even": HUES[-1]}
    assert [row for row in plot["value"]["data"] if row[2] == "even"] == [[1.0, 0.5, "even"], [3.0, 0.5, "even"]]


def test_names_that_are_said_in_the_readers_language_can_be_sent() -> None:
    """As Gradio sends them, whose JSON takes plain texts as keys only."""
    said = _("Job {id}").format(id=1)
    sent = plot_zoom.updates("look", [data(3, SHARE, (said, "b"))], FILES, None)[0]
    assert b'"Job 1"' in ORJSONResponse._render(sent)


def test_a_long_run_is_thinned_and_no_spike_is_lost() -> None:
    points = [(float(step), 1.0) for step in range(20_000)]
    points[7777] = (7777.0, 9.0)
    shown = plot_zoom.data_of(CurveData(LOSS, [Line("loss", points)], "step"))["data"]
    assert len(shown) <= plot_zoom.MOST_POINTS + 2
    assert [7777.0, 9.0, "loss"] in shown


def test_the_values_stand_in_a_table_the_last_one_always() -> None:
    html = plot_zoom.values_table(data(1000, LOSS, ("loss", "<b>")))
    assert html.count("<tr>") <= plot_zoom.MOST_ROWS + 1
    assert ">1,000<" in html
    assert "<b>" not in html


def test_without_a_curve_there_is_nothing_to_look_at() -> None:
    assert plot_zoom.updates("look", [], FILES, ["loss"]) == (
        {"look_box": {"visible": False, "__type__": "update"}},
        [],
    )


@pytest.mark.parametrize(
    "event",
    [
        *(None, 7, "x", [], {}, {"index": None}, {"index": [1]}, {"index": ["1", "2"]}, {"index": [2, 1]}),
        *({"index": [True, 5]}, {"index": [float("nan"), 2]}, {"index": [0, 10**30]}, {"index": [1, float("inf")]}),
    ],
)
def test_what_is_no_part_of_a_plot_changes_nothing(event: Any) -> None:
    assert plot_zoom.limits_in(event) is None


def test_a_part_has_two_ends() -> None:
    assert plot_zoom.limits_in({"index": [3.5, 9], "value": "other", "selected": True}) == [3.5, 9]
