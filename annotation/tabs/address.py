"""What is looked at in a tab, as its part of the page's address, so that reload, Back and a copied link lead there.

An address is a tab, a tab within it, and what is looked at there: /runs/12, /train/reward, /data?status=skipped. The
script in the head of the page, `address.js`, keeps tabs and address together. A tab in which something is chosen lays
out one `place_bar`, which takes the place of listening to the tab's opening:

    bar = place_bar()
    visits(bar, context, open_runs, [state], [box, state])   # open_runs(place, state) -> outputs

`open_runs` is called when the tab comes into view, at Back and Forward, and when a link within the page, such as
<a href="/runs/12">, leads to another place of it. A handler that changes what is looked at has the bar among its
outputs and answers `told(Place(("12",)))` for it: that is written into the address, and is a step to go Back from. In
place of a step, `told(place, step=False)` corrects the address, as fits what is typed letter by letter; `gr.skip()`
leaves it.
A handler that leads to another tab has the page's `guide` among its outputs and answers `leading("/runs/12")`.
Whatever an address says was typed by anybody: the handler checks it. What is typed into the tab's fields before the
answer to a visit comes stays as it is typed, but in those of the class `of-subject`, for what is said of one subject.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr

from annotation.tabs.components import ANSWERS, QUIET
from annotation.tabs.guard import Context, Handler, function_of, guarded_event, told_who_asks
from annotation.translation import spoken
from annotation.ui.tab_addresses import Place, place_in

HEAD: Final = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
BAR: Final = Path(__file__).with_name("place_bar.js").read_text(encoding="utf-8")
LANDING: Final = "annotate"


def place_bar() -> gr.HTML:
    """Lay out what speaks for the tab that is being laid out in the address; once in a tab. Shows nothing."""
    return gr.HTML("", html_template="", js_on_load=BAR, elem_classes=["pulse"], tabs=tabs_around())


def tabs_around() -> list[str]:
    """The names of the tabs that are being laid out, the outermost first."""
    block, names = gr.context.Context.block, []
    while block is not None:
        if isinstance(block, gr.Tab):
            names.append(str(block.id))
        block = block.parent
    return names[::-1]


def visits(
    bar: gr.HTML, context: Context, handler: Handler, inputs: Sequence[Any], outputs: Sequence[Any], **options: Any
) -> None:
    """Have `handler(place, *inputs)` show a place when its tab comes into view or the address leads there.

    It is a handler as those of `guarded`. Only admins have tabs with a bar.
    """
    called = told_who_asks(handler)

    def show(annotator: Any, event: Any, *values: Any) -> list[Any]:
        asked = event.get("part", "") if isinstance(event, dict) else ""
        place = place_in(asked)
        sent = list(called(annotator, place, *values))
        if bar not in outputs:
            return [*sent, answering_visit(told(place), asked)]
        at = [*outputs].index(bar)
        return [*sent[:at], answering_visit(sent[at], asked), *sent[at + 1 :]]

    show.__name__ = function_of(handler).__name__
    listen: Callable[..., Any] = bar.visit
    every = outputs if bar in outputs else [*outputs, bar]
    # A visit is asked for when the one before is answered, which Gradio has not noticed yet.
    terms = {**QUIET, "trigger_mode": "multiple", **options}
    listen(guarded_event(context, "admin")(show), [*inputs], [*every], **terms)


def told(place: Place, step: bool = True, shows: Place | None = None) -> str:
    """A value for a bar among the outputs: this is looked at now. Numbered, so the browser notices every answer.

    `shows`: the place that names what is in view, where the address leaves that open: a link to it leads nowhere.
    """
    return json.dumps([next(ANSWERS), "step" if step else "replace", place.part(), (shows or place).part()])


def told_view(place: Place, shows: Place) -> str:
    """A value for a bar that nobody asked for: what is in view, if the address still names this place."""
    return json.dumps([next(ANSWERS), "view", place.part(), shows.part()])


def answering_visit(value: str, asked: Any) -> str:
    """What a handler says for the bar, as the answer to a visit of the part `asked`: what was typed meanwhile stays."""
    number, _how, *parts = json.loads(value)
    return json.dumps([number, "visit", *parts, asked])


GUIDE: Final = """
watch("value", () => window.prefloop.address.go(JSON.parse(props.value)[1]));
"""


def guide() -> gr.HTML:
    """Lay out what leads to another place of the page when a handler says so. Shows nothing."""
    return gr.HTML("", html_template="", js_on_load=GUIDE, elem_classes=["pulse"])


def leading(address: str) -> str:
    """A value for the guide among the outputs: it leads to this address."""
    return json.dumps([next(ANSWERS), address])


@dataclass(frozen=True)
class TabName:
    """A tab as the address names it and the page shows it, with those within it."""

    id: str
    label: str
    within: TabList | None


@dataclass(frozen=True)
class TabList:
    """Tabs beside each other, and where Gradio draws them."""

    component: int
    element: str
    tabs: Sequence[TabName]


def tabs_of(block: Any) -> TabList | None:
    """The outermost tabs within a block of Gradio's, those within them included; None where there are none."""
    for child in getattr(block, "children", ()):
        if isinstance(child, gr.Tabs):
            assert child.elem_id  # by which the script finds them
            return TabList(
                child._id, child.elem_id, [name_of(tab) for tab in child.children if isinstance(tab, gr.Tab)]
            )
        if found := tabs_of(child):
            return found
    return None


def name_of(tab: gr.Tab) -> TabName:
    return TabName(str(tab.id), str(tab.label or ""), tabs_of(tab))


def head(page: Any) -> str:
    """The script for the head of a page; one without tabs is that of annotators."""
    tabs = tabs_of(page) or TabList(0, "", [TabName(LANDING, "", None)])
    told_tabs = json.dumps(asdict(tabs)).replace("<", "\\u003c")
    rest = f"{json.dumps([*ends(page)])}, {json.dumps(spoken().code)}"
    return f"<script>{HEAD.strip()}({told_tabs}, {rest});</script>"


def names(page: Any) -> Iterator[str]:
    """What the addresses of a page begin with."""
    tabs = tabs_of(page)
    yield from (tab.id for tab in tabs.tabs) if tabs else (LANDING,)


def ends(page: Any) -> Iterator[str]:
    """The addresses of tabs in which nothing is looked at, so that no address goes on from there: "data/import"."""
    boxes = (block.props or {} for block in page.blocks.values() if isinstance(block, gr.HTML))
    barred = {"/".join(props["tabs"]) for props in boxes if "tabs" in props}

    def walk(tabs: TabList, above: str) -> Iterator[str]:
        for tab in tabs.tabs:
            path = inner = f"{above}{tab.id}"
            if tab.within:
                yield from walk(tab.within, f"{path}/")
                inner = f"{path}/{tab.within.tabs[0].id}"  # which is shown there
            if inner not in barred and path != LANDING:
                yield path

    tabs = tabs_of(page)
    yield from walk(tabs, "") if tabs else ()
