"""The README's pictures, taken of a data directory: `python -m tests.docs.pictures DIR`.

It needs open comparisons, a finished training and a checked candidate; `python -m benchmarks.loop --data DIR`
leaves them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.docs.reference import ROOT
from tests.e2e.conftest import FLAGS, FOUND, running_app

WIDTH, HEIGHT = 1280, 760
# Of each picture: the tabs to open, what is there once the page is filled, and the heading at its top.
PICTURES: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "annotate": (("Annotate",), "text=Which answer is better", ""),
    "run": (("Train", "Runs"), "svg[preserveAspectRatio=none] >> visible=true", "One run"),
    "iteration": (("Iterations",), "text=Held-out prompts >> visible=true", "Check of one policy"),
}


def take(page: Any, name: str) -> None:
    """Open a page, wait until its charts and cards stand there, and take it from the heading on."""
    tabs, filled, top = PICTURES[name]
    for tab in tabs:
        page.get_by_role("tab", name=tab, exact=True).click()
    page.wait_for_selector(filled)
    page.wait_for_timeout(3000)  # what lies below it comes with the same timer
    if top:
        heading = page.get_by_role("heading", name=top, exact=True)
        heading.evaluate("it => window.scrollTo(0, it.getBoundingClientRect().top + window.scrollY - 12)")
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
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(0)  # however busy the machine is
        page.goto(link)
        for name in options.only or PICTURES:
            take(page, name)


if __name__ == "__main__":
    main()
