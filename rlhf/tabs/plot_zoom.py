"""One plot looked at closely: Gradio's own line plot says values, zooms and becomes a picture; beside it the values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from annotation.tabs.components import QUIET, Update, button, html_box, open_choice
from annotation.tabs.guard import Context, guarded, guarded_event
from annotation.translation import _, numeral
from annotation.ui.formatting import NOTHING, short_number
from annotation.ui.line_plots import HUES, Axes, Line, thinned
from annotation.ui.markup import Download, links, paragraph, table, unfold

# What is looked at: the name and the label of a plot, whose values they are, and its lines.
LookedAt = list[str]
# Points of a line that the browser gets, so that a part of a long run still shows what is in it.
MOST_POINTS = 1000
# Rows of the table of values; the file has all.
MOST_ROWS = 200
STEP, VALUE, LINE = "step", "value", "line"
KINDS = {STEP: "quantitative", VALUE: "quantitative", LINE: "nominal"}
# No run has so many steps.
MOST = 1e12
# The ends of an axis that follows its data. Of None, Gradio would tell the browser nothing.
ALL = [None, None]
REFERENCE_HUE = HUES[-1]
# Steps are whole: of a few, the plot would write 1.0, 1.5, 2.0, and Gradio lets nobody say where numbers stand.
WHOLE = """
const box = element.closest("[id$='-box']");
new MutationObserver(() => {
  for (const text of box.querySelectorAll(".role-axis[aria-label^=X] .role-axis-label text")) {
    if (text.textContent.includes(".")) text.textContent = "";
  }
}).observe(box, { childList: true, characterData: true, subtree: true });
"""


@dataclass(frozen=True)
class CurveData:
    axes: Axes
    lines: Sequence[Line]
    """In the order of their hues; some may have no points."""
    across: str


def names(name: str) -> list[str]:
    return [f"{name}_{part}" for part in ("box", "choice", "whole", "plot", "frame", "values")]


def lay_out(name: str, label: str) -> dict[str, Any]:
    with gr.Accordion(label, open=False, visible=False, elem_id=f"{name}-box") as box:
        with gr.Row():
            choice = open_choice(
                _("Curve"),
                info=_("Point at it for its values; draw across it to see a part of it."),
                elem_id=f"{name}-choice",
            )
            whole = button(_("Show all of it"), f"{name}-whole")
        plot = gr.LinePlot(
            x=STEP,
            y=VALUE,
            color=LINE,
            color_title="",
            x_axis_format=",~f",
            y_axis_format="~g",
            tooltip="axis",
            height=360,
            buttons=["export", "fullscreen"],
            elem_id=f"{name}-plot",
        )
        values = html_box(js_on_load=WHOLE)
    # Twice: Gradio 6.31 draws a frame with the colours of the lines that it has, so those come first.
    return dict(zip(names(name), (box, choice, whole, plot, plot, values), strict=True))


def updates(
    name: str, curves: Sequence[CurveData], files: Sequence[Download], look: Any, chosen: str | None = None
) -> tuple[dict[str, Update], LookedAt]:
    """What follows the data, and what is looked at now. A part that somebody has drawn out stays.

    `look` is what this browser session was sent before: what the plot is about is sent only if it is another thing
    now, because the browser begins the plot anew with it. `chosen` is what somebody has chosen just now; `files` have
    all values.
    """
    if not curves:
        return nothing(name)
    wanted = chosen if chosen is not None else look[0] if look else ""
    curve = next((one for one in curves if one.axes.name == wanted), curves[0])
    choices = [(one.axes.label, one.axes.name) for one in curves]
    lines = [line.name for line in curve.lines if line.points]
    now = [curve.axes.name, curve.axes.label, *(file.address for file in files), *lines, *map(str, choices)]
    chosen_now = {} if look == now else {f"{name}_choice": gr.update(choices=choices, value=curve.axes.name)}
    return {
        f"{name}_box": gr.update(visible=True),
        **chosen_now,
        f"{name}_plot": gr.update(value=data_of(curve)),
        **({f"{name}_frame": gr.update(**frame_of(curve))} if look != now else {}),
        f"{name}_values": gr.update(value=paragraph(curve.axes.caption) + links(files) + values_table(curve)),
    }, now


def nothing(name: str) -> tuple[dict[str, Update], LookedAt]:
    """The same where there is no plot."""
    return {f"{name}_box": gr.update(visible=False)}, []


def frame_of(curve: CurveData) -> dict[str, Any]:
    """What the plot is about, with all of it in view."""
    # Gradio's JSON takes as keys no texts that know what they were said with.
    colours = {str.__str__(line.name): HUES[number % len(HUES)] for number, line in enumerate(curve.lines)}
    if curve.axes.reference is not None:
        colours[str.__str__(curve.axes.reference[1])] = REFERENCE_HUE
    low, high = curve.axes.limits
    return {
        "color_map": colours,
        "x_title": curve.across,
        "y_title": curve.axes.axis,
        "x_lim": ALL,
        "y_lim": [low, high],
    }


def data_of(curve: CurveData) -> dict[str, Any]:
    """The points as the browser takes them."""
    points: list[list[Any]] = [
        [step, value, line.name] for line in curve.lines for step, value in thinned(line.points, MOST_POINTS)
    ]
    if curve.axes.reference is not None:
        value, name = curve.axes.reference
        steps = [step for step, *_ in points]
        points += [[step, value, name] for step in (min(steps), max(steps))]
    return {"columns": [STEP, VALUE, LINE], "data": points, "datatypes": KINDS, "mark": "line"}


def values_table(curve: CurveData) -> str:
    """The values for those who can't see the plot, or want to read them off."""
    known = [dict(line.points) for line in curve.lines]
    steps = sorted({step for points in known for step in points})
    stride = -(-len(steps) // MOST_ROWS)
    rows = [
        (numeral(step, ",.0f"), *(short_number(points[step]) if step in points else NOTHING for points in known))
        for step in reversed(steps[::-1][::stride])
    ]
    headers = (curve.across, *(line.name for line in curve.lines))
    caption = f"{curve.axes.label}: {curve.axes.axis}"
    return unfold(_("The values as a table"), table(headers, rows, "", headers, caption=caption))


def wire(name: str, context: Context, components: Any) -> None:
    """Show the part that somebody draws out, and all of it again at a double click or by the button."""
    plot, whole = components[f"{name}_plot"], components[f"{name}_whole"]

    @guarded_event(context, "admin")
    def show_part(event: Any) -> Update:
        limits = limits_in(event)
        return gr.skip() if limits is None else gr.update(x_lim=limits)

    @guarded(context, "admin")
    def show_all() -> Update:
        return gr.update(x_lim=ALL)

    plot.select(show_part, None, plot, **QUIET)
    plot.double_click(show_all, None, plot, **QUIET)
    whole.click(show_all, None, plot, **QUIET)


def limits_in(event: Any) -> list[float] | None:
    """The ends of the part that was drawn out; None where the browser sent no two numbers in order."""
    drawn = event.get("index") if isinstance(event, dict) else None
    if not isinstance(drawn, list) or len(drawn) != 2:
        return None
    low, high = drawn
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in drawn)
    return [low, high] if numbers and -MOST < low < high < MOST else None
