"""What does an open page cost while nobody touches it, and how fast is it when somebody does? Fresh, and used all day.

Starts the app without workers on a project with judgements and a run, beside what beats as the answering worker does,
and opens it in Chromium as the owner: once fresh, and once after every tab and tab within a tab was visited.

How to read it. `rest_percent` is the processor time of all the browser's processes, of one core, while the Annotate tab
is looked at and nothing is touched; `key_to_next_ms` the median from a key to the next comparison drawn; `load_ms` from
asking for the page until its tabs are drawn, in a new browser, and when it is loaded again. In the table, tab by tab,
`requests` are all that the browser sent meanwhile, `events` those of them that run a handler of Gradio's, `turn ms` how
long the press of the tab took until the browser drew it. Needs Playwright and Chromium, as the tests of the pages do
(tests/requirements.txt).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from annotation.database import FILE_NAME, Database, open_database
from annotation.imports.importing import starter_prompts
from annotation.jobs import job_table
from annotation.store import comparison_store, prompt_store
from benchmarks.harness import driver
from benchmarks.harness.driver import App, BenchmarkError, say
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.models.base.base_files import EMBEDDED_NAME

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
SECONDS = 40.0
# Until what the press of a tab began is over: half a minute later the browser collects what was left, for a second.
SETTLING = 30.0
STEPS = 300
TURN = """async (name) => {
  const tabs = [...document.querySelectorAll("[role=tab]")].filter((one) => one.offsetParent);
  const tab = tabs.find((one) => one.textContent.trim() === name);
  const began = performance.now();
  tab.click();
  await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  return performance.now() - began;
}"""


# Key presses that are timed, fresh and later: the comparisons are enough for both.
PRESSES = 12
COMPARISONS = 60
# As often as a worker says that it is there.
BEAT_SECONDS = 3.0
# Until the tabs of the page are drawn; milliseconds since the page was asked for.
DRAWN = """() => [...document.querySelectorAll("[role=tab]")].some((one) => one.dataset.tabId === "accounts")
  && document.querySelector("#comparison .judging:not([data-state=loading])") && performance.now()"""
# Presses a key and resolves when another comparison is drawn.
JUDGE = """() => new Promise((resolve) => {
  const prompt = () => document.querySelector("#comparison .comparison")?.innerText;
  const before = prompt(), began = performance.now();
  const drawn = () => requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - began)));
  const seen = new MutationObserver(() => {
    if (prompt() === before || !prompt()) return;
    seen.disconnect();
    drawn();
  });
  seen.observe(document.querySelector("#comparison"), { childList: true, subtree: true, characterData: true });
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "2", bubbles: true }));
})"""


@dataclass(frozen=True)
class Rest:
    """What a tab cost while it was looked at."""

    tab: str
    requests: int
    events: int
    percent: float
    turn_ms: float


@dataclass(frozen=True)
class Use:
    """What the page cost in one state: at rest, at a key, at loading."""

    rest_percent: float
    key_to_next_ms: float
    load_ms: float


def fill(db: Database) -> None:
    """Put a project's rows in: prompts, comparisons, a run with its curves that is over, an answering worker."""
    registry.ensure_base(db, EMBEDDED_NAME)
    prompt_store.add_prompts(db, starter_prompts())
    for prompt in prompt_store.prompts(db, "train")[:COMPARISONS]:
        comparison_store.add_comparison(db, [driver.answer(prompt, f"{word} {prompt.text}") for word in "ab"])
    job_id = job_store.enqueue(db, SFTSpec(snapshot="0" * 64), "owner")
    assert job_store.claim(db, job_id, "w") is not None
    for step in range(1, STEPS + 1):
        job_table.report(db, job_id, "w", step, STEPS, {"loss": 1 / step, "learning_rate": 1e-4}, "Training")
    job_table.finish(db, job_id, "w", {})


class AnsweringWorker(threading.Thread):
    """Says now and then that it is there, as the answering worker does all day, which commits."""

    def __init__(self, db_of: Callable[[], Database]) -> None:
        super().__init__(daemon=True)
        self.db_of, self.ended = db_of, threading.Event()

    def run(self) -> None:
        db = self.db_of()
        job_id = job_store.enqueue(db, AnsweringSpec(), "the program")
        job_store.claim(db, job_id, "a")
        while not self.ended.wait(BEAT_SECONDS):
            job_table.beat(db, job_id, "a")
        db.close()


class Looker:
    """The owner's browser, its requests and its processor time."""

    def __init__(self, browser: Any, app: App) -> None:
        self.system = browser.new_browser_cdp_session()
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(120_000)
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(app.owner_link, wait_until="commit")
        self.first_load = self.drawn()

    def drawn(self) -> float:
        """Wait until the page is there; milliseconds since it was asked for."""
        return float(self.page.wait_for_function(DRAWN).json_value())

    def load(self) -> float:
        """Load the page again."""
        self.page.reload(wait_until="commit")
        return self.drawn()

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
        self.page.wait_for_timeout(1000 * SETTLING)
        self.asked.clear()
        before = self.cpu()
        self.page.wait_for_timeout(1000 * seconds)
        percent = 100 * (self.cpu() - before) / seconds
        events = sum("/gradio_api/run/" in url or "/gradio_api/queue/join" in url for url in self.asked)
        return Rest(
            tab=tab, requests=len(self.asked), events=events, percent=round(percent, 2), turn_ms=round(turned, 1)
        )

    def judge(self) -> float:
        """The median of some keys, each pressed once a comparison has been there for a while."""
        found = []
        for _ in range(PRESSES):
            self.page.wait_for_timeout(600)
            found.append(float(self.page.evaluate(JUDGE)))
        return median(found)

    def use(self, seconds: float, load: Callable[[], float]) -> Use:
        """What the page costs as it is now, on the Annotate tab, and how long it loads."""
        rest = self.look("Annotate", seconds)
        say(str(rest))
        key = self.judge()
        say(f"from key to next comparison {key:.0f} ms")
        return Use(rest.percent, round(key, 1), round(load(), 1))


def measure(app: App, tabs: Sequence[str], seconds: float) -> tuple[Mapping[str, Use], list[Rest]]:
    """The page fresh and after all tabs were visited, and then each of these tabs."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        raise BenchmarkError("No Chromium here.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        looker = Looker(browser, app)
        uses = {"fresh": looker.use(seconds, lambda: looker.first_load)}
        looker.visit_all()
        uses["all_tabs"] = looker.use(seconds, looker.load)
        looker.visit_all()
        found = []
        for tab in tabs:
            found.append(looker.look(tab, seconds))
            say(str(found[-1]))
        browser.close()
    return uses, found


def report(uses: Mapping[str, Use], found: Sequence[Rest], machine: Mapping[str, Any]) -> str:
    """The table, and a line of JSON."""
    rows = [tuple(asdict(one).values()) for one in found]
    lines = [driver.table(("tab", "requests", "events", "% of a core", "turn ms"), rows)] if rows else []
    figures = {name: {state: asdict(use)[name] for state, use in uses.items()} for name in Use.__annotations__}
    said = json.dumps({**figures, "tabs": [asdict(one) for one in found], "machine": machine})
    return "\n".join([*lines, driver.describe_machine(machine), said])


@driver.benchmark
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each tab is looked at")
    tabs = ["Overview", "Annotate", "Train", "Runs", "Iterations", "AI judges", "Playground", "Data", "Hub"]
    parser.add_argument("--tabs", nargs="*", default=tabs, help="which (default: all that ask by themselves)")
    options = parser.parse_args(arguments)
    with driver.data_directory(None, False) as data_dir:
        db = open_database(data_dir)
        fill(db)
        db.close()
        with App(data_dir, workers=False) as app:
            worker = AnsweringWorker(lambda: Database(data_dir / FILE_NAME))
            worker.start()
            uses, found = measure(app, options.tabs, options.seconds)
            worker.ended.set()
            worker.join()
    print(report(uses, found, driver.machine()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
