"""The README's pictures, taken of a data directory: `python -m tests.docs.pictures DIR`.

It needs open comparisons, a finished training and a checked candidate that people have compared: `make run` and
README's first three steps leave them, as does `python -m benchmarks.loop --data DIR`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.docs.reference import ROOT
from tests.e2e.conftest import FLAGS, FOUND, running_app
from tests.machine_fixtures import PATIENCE_SECONDS

WIDTH = 1280


@dataclass(frozen=True)
class Picture:
    """What to open, what is there once the page is filled, and what part of it is taken."""

    tabs: tuple[str, ...]
    filled: str
    height: int
    top: str = ""
    """What stands at its top; empty for the page's own."""
    choice: tuple[str, str] | None = None
    """The label of a choice, and words of what is chosen."""


PICTURES: Mapping[str, Picture] = {
    "annotate": Picture(("Annotate",), ".judging[data-state=comparing] >> visible=true", 860),
    "run": Picture(
        tabs=("Runs",),
        filled="svg[preserveAspectRatio=none] >> visible=true",
        height=1140,
        top="figure >> visible=true",
        choice=("Job", "training"),
    ),
    "iteration": Picture(("Iterations",), ".verdict >> visible=true", 610),
}


def take(page: Any, name: str) -> None:
    """Open a page, wait until its charts and cards stand there, and take it."""
    picture = PICTURES[name]
    for tab in picture.tabs:
        page.get_by_role("tab", name=tab, exact=True).click()
    if picture.choice is not None:
        label, words = picture.choice
        page.get_by_label(label, exact=True).locator("visible=true").click()
        page.get_by_role("option").filter(has_text=words).first.click()
    page.wait_for_selector(picture.filled)
    page.wait_for_timeout(3000)  # what lies below it comes with the same timer
    page.set_viewport_size({"width": WIDTH, "height": picture.height})
    if picture.top:
        first = page.locator(picture.top).first
        first.evaluate("it => window.scrollTo(0, it.getBoundingClientRect().top + window.scrollY - 12)")
    page.mouse.move(0, 0)  # or a chart says what is under it
    page.screenshot(path=ROOT / "docs" / f"{name}.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Take all of them, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs.pictures", description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", type=Path, metavar="DIR", help="a data directory that no program uses")
    parser.add_argument("--only", action="append", choices=PICTURES, help="this one; may be given several times")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        _, link = stack.enter_context(running_app(options.data, "--no-workers"))
        playwright = stack.enter_context(sync_playwright())
        browser = stack.enter_context(playwright.chromium.launch(executable_path=FOUND, args=list(FLAGS)))
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        page.goto(link)
        for name in options.only or PICTURES:
            take(page, name)


if __name__ == "__main__":
    main()
