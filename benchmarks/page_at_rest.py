"""What does an open page cost while nobody touches it? Requests and processor seconds of the browser, tab by tab.

Starts the app without workers on a project with judgements and a run, opens it in Chromium as the owner, visits every
tab and tab within a tab, and then looks at each of some tabs for a while without touching anything.

How to read it. `requests` are all that the browser sent meanwhile, `events` those of them that run a handler of
Gradio's, `CPU s` the processor time of all the browser's processes, `turn ms` how long the press of the tab took until
the browser drew it. Needs Playwright and Chromium, as the tests of the pages do (tests/requirements.txt).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from annotation import store
from annotation.database import Database, open_database
from annotation.imports.importing import starter_prompts
from annotation.jobs import job_table
from annotation.records import Response, Sampling, UserError
from benchmarks import driver
from benchmarks.driver import App, BenchmarkError, say
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.models.base_model import EMBEDDED_NAME

SECONDS = 20.0
STEPS = 300
TURN = """async (name) => {
  const tabs = [...document.querySelectorAll("[role=tab]")].filter((one) => one.offsetParent);
  const tab = tabs.find((one) => one.textContent.trim() === name);
  const began = performance.now();
  tab.click();
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  return performance.now() - began;
}"""


@dataclass(frozen=True)
class Rest:
    """What a tab cost while it was looked at."""

    tab: str
    requests: int
    events: int
    cpu_seconds: float
    turn_ms: float


def fill(db: Database) -> None:
    """Put a project's rows in: prompts, comparisons, and a run with its curves that is over."""
    registry.ensure_base(db, EMBEDDED_NAME)
    store.add_prompts(db, starter_prompts())
    for prompt in store.prompts(db, "train")[:60]:
        answers = [
            Response(prompt.id, 1, f"{word} {prompt.text}", Sampling(), 0, prompt.text, 9, 9, "stop") for word in "ab"
        ]
        store.add_comparison(db, answers)
    job_id = job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "owner")
    assert job_store.claim(db, job_id, "w") is not None
    for step in range(1, STEPS + 1):
        job_table.report(db, job_id, "w", step, STEPS, {"loss": 1 / step, "learning_rate": 1e-4}, "Training")
    job_table.finish(db, job_id, "w", {})


class Looker:
    """The owner's browser, its requests and its processor time."""

    def __init__(self, browser: Any, app: App) -> None:
        self.system = browser.new_browser_cdp_session()
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        began = time.monotonic()
        self.page.goto(app.owner_link)
        self.page.get_by_role("tab", name="Accounts").wait_for(timeout=120_000)
        say(f"an admin's tabs are there {time.monotonic() - began:.1f} s after the page was asked for")

    def turn(self, tab: str) -> float:
        """Turn to a tab; returns the milliseconds until it was drawn."""
        return float(self.page.evaluate(TURN, tab))

    def visit_all(self) -> None:
        """Turn to every tab, and to every tab within it."""
        tabs = self.tabs()
        for name in tabs:
            self.turn(name)
            self.page.wait_for_timeout(1500)
            for within in [one for one in self.tabs() if one not in tabs]:
                self.turn(within)
                self.page.wait_for_timeout(700)

    def tabs(self) -> list[str]:
        """The names of the tabs that can be pressed now."""
        found = self.page.locator("[role=tab]").filter(visible=True).all_inner_texts()
        return [name.strip() for name in found]

    def cpu(self) -> float:
        """Processor seconds of all the browser's processes so far."""
        return float(sum(one["cpuTime"] for one in self.system.send("SystemInfo.getProcessInfo")["processInfo"]))

    def look(self, tab: str, seconds: float) -> Rest:
        """Turn to a tab and do nothing for a while, once it has settled."""
        turned = self.turn(tab)
        self.page.wait_for_timeout(3000)
        self.asked.clear()
        before = self.cpu()
        self.page.wait_for_timeout(1000 * seconds)
        spent = self.cpu() - before
        events = sum("/gradio_api/run/" in url or "/gradio_api/queue/join" in url for url in self.asked)
        return Rest(tab, len(self.asked), events, round(spent, 2), round(turned, 1))


def measure(app: App, tabs: Sequence[str], seconds: float) -> list[Rest]:
    """Look at each of these tabs, after all have been visited."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise BenchmarkError("No Chromium here.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        looker = Looker(browser, app)
        say("visiting all tabs")
        began = time.monotonic()
        looker.visit_all()
        say(f"visited after {time.monotonic() - began:.1f} s")
        found = []
        for tab in tabs:
            found.append(looker.look(tab, seconds))
            say(str(found[-1]))
        browser.close()
    return found


def report(found: Sequence[Rest], machine: Mapping[str, Any]) -> str:
    """The table, and a line of JSON."""
    rows = [tuple(asdict(one).values()) for one in found]
    lines = [driver.table(("tab", "requests", "events", "CPU s", "turn ms"), rows), driver.describe_machine(machine)]
    return "\n".join([*lines, json.dumps({"tabs": [asdict(one) for one in found], "machine": machine})])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page_at_rest", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each tab is looked at")
    tabs = ["Overview", "Annotate", "Train", "Runs", "Iterations", "AI judges", "Playground", "Data", "Hub"]
    parser.add_argument("--tabs", nargs="+", default=tabs, help="which (default: all that ask by themselves)")
    options = parser.parse_args(arguments)
    driver.end_on_sigterm()
    try:
        with driver.data_directory(None, False) as data_dir:
            db = open_database(data_dir)
            fill(db)
            db.close()
            with App(data_dir, workers=False) as app:
                found = measure(app, options.tabs, options.seconds)
    except (BenchmarkError, UserError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report(found, driver.machine()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
