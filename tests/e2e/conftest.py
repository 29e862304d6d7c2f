"""A real browser and the real program for the tests of the pages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import app
from annotation.database import Database, open_database
from annotation.web import access
from rlhf.models import registry
from tests.conftest import BASE_NAME
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, wait_until

# The first is Chromium without a browser around its pages, which takes a third less of a processor.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FOUND = next((path for path in map(shutil.which, BROWSERS) if path), None)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    # One process for all pages: they find each other's compiled scripts.
    *("--disable-component-update", "--disable-sync", "--renderer-process-limit=1"),
)

# After these, what was told to the page before is drawn.
TWO_FRAMES = "new Promise((come) => requestAnimationFrame(() => requestAnimationFrame(come)))"

# From now on the page's time is so many milliseconds ahead; what it does at intervals comes no sooner.
PUT_FORWARD = """(ms) => {
  const now = performance.now.bind(performance);
  const { get } = Object.getOwnPropertyDescriptor(Event.prototype, "timeStamp");
  performance.now = () => now() + ms;
  Object.defineProperty(Event.prototype, "timeStamp", { get() { return get.call(this) + ms; }, configurable: true });
}"""

WIDE = {"width": 1280, "height": 900}
# What a kept context can take on: a page is told these when it is opened.
OF_PAGES = {"viewport", "color_scheme", "reduced_motion"}
# All that pages leave behind, but for what spares the next ones work: files and compiled scripts.
LEFT_BEHIND = "cookies,local_storage,indexeddb,cache_storage,service_workers,file_systems,storage_buckets"


class KeptContext:
    """A context that one test after the other has to itself, and gives back empty by closing it.

    Half of what it costs to load a page is to read and compile its scripts. Chromium keeps them, but on a disk only,
    which other contexts don't use.
    """

    def __init__(self, launch: Callable[[], Any]) -> None:
        self.launch, self.context, self.options, self.lent = launch, None, {}, False

    def lend(self, options: dict[str, Any]) -> Any:
        """The context, empty; its pages have these options."""
        if self.context is None:
            self.context = self.launch()
            self.make_page, self.shut = self.context.new_page, self.context.close
            self.devtools = self.context.new_cdp_session(self.context.pages[0])
            self.context.new_page, self.context.close = self.new_page, self.give_back
        self.options, self.lent = options, True
        return self.context

    def new_page(self) -> Any:
        page = self.make_page()
        page.set_viewport_size(self.options["viewport"])
        page.emulate_media(**{name: value for name, value in self.options.items() if name != "viewport"})
        return page

    def give_back(self) -> None:
        """Leave nothing of a test in it but its first page, which is blank."""
        for page in self.context.pages[1:]:
            page.close()
        self.devtools.send("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": LEFT_BEHIND})
        self.context.clear_permissions()
        self.lent = False

    def close(self) -> None:
        if self.context is not None:
            self.shut()


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, started once for these tests; each opens a context of its own.

    With `clock=True` its pages have a clock that can be put forward. What is put on a context itself, as a route, a
    script or a listener, would stay: put it on a page.

    Not for the session: Playwright keeps an event loop running in this thread, and other tests run loops of their own.
    """
    if FOUND is None:
        pytest.skip("no Chromium here: apt-get install chromium-headless-shell")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * PATIENCE_SECONDS)
    how = {"executable_path": FOUND, "args": list(FLAGS), "timeout": 1000 * PATIENCE_SECONDS}
    with sync_playwright() as playwright, playwright.chromium.launch(**how) as launched:

        def launch() -> Any:
            folder = tmp_path_factory.mktemp("browser")
            return playwright.chromium.launch_persistent_context(folder, viewport=WIDE, **how)

        kept = {clock: KeptContext(launch) for clock in (False, True)}  # a clock can be set anew, but not taken away
        new = launched.new_context

        def new_context(clock: bool = False, **options: Any) -> Any:
            """A context in which everything may take its time: no test says how long."""
            options = {"viewport": WIDE, **options}
            fits = options.keys() <= OF_PAGES and not kept[clock].lent
            context = kept[clock].lend(options) if fits else new(**options)
            if clock:
                context.clock.resume()
                context.clock.install()
            context.set_default_timeout(1000 * PATIENCE_SECONDS)
            return context

        launched.new_context = new_context
        yield launched
        for one in kept.values():
            one.close()


def wait_for(page: Any, what: str, condition: Callable[[], Any], otherwise: Callable[[], Any] = str) -> Any:
    """As `wait_until`, while the page goes on and its requests are answered."""
    return wait_until(what, condition, otherwise=otherwise, sleep=lambda seconds: page.wait_for_timeout(1000 * seconds))


def sign_in(context: Any, db: Database, address: str, name: str = "kim") -> None:
    """Let a browser be signed in, without the form."""
    person = access.read_annotator(db.rows("SELECT * FROM annotator WHERE name = ?", (name,))[0])
    cookie = app.Settings(port=int(address.rstrip("/").rsplit(":", 1)[1])).cookie
    context.add_cookies([{"name": cookie, "value": access.open_session(db, person), "url": address}])


def go(page: Any, place: str) -> None:
    """Follow a link of the page to one of its addresses, for which nothing is loaded anew."""
    page.evaluate("place => window.prefloop.address.go(place)", place)


def put_forward(page: Any) -> None:
    """Let more time pass for the Annotate tab than it lets pass before a press counts, or before it asks again."""
    page.evaluate(PUT_FORWARD, 2500)


def read_comparison(page: Any) -> None:
    """Wait for a comparison in the Annotate tab, and be past the time in which it takes no press."""
    page.wait_for_selector(".judging[data-state=comparing]:not([aria-busy])")
    page.wait_for_selector(".guidelines:is([hidden], [data-name])", state="attached")
    page.evaluate(TWO_FRAMES)  # in which what guidelines have moved comes to rest
    put_forward(page)


def stop_clock(page: Any) -> None:
    """Let a page's time go on only as a test says, from a minute later: until it stands still it runs on."""
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 60)


@contextmanager
def routed(page: Any, addresses: str, answer: Callable[[Any], object]) -> Iterator[None]:
    """Answer these requests of a page here; others as ever.

    A browser says that it hands requests over before the page's next one is handed over. So one is asked for until it
    comes here; its route stays, as what lets requests through is that the last route goes and the first comes.
    """
    page.route("**/is-routed", lambda route: route.fulfill(status=204))
    page.route(addresses, answer)
    asks = "fetch('is-routed').then((answer) => answer.status === 204)"
    wait_for(page, "the browser to hand its requests over", lambda: page.evaluate(asks))
    try:
        yield
    finally:
        page.unroute(addresses)


@contextmanager
def running_app(data_dir: Path, *flags: str) -> Iterator[tuple[str, str]]:
    """The program on a free port: its address and the owner's link. It is stopped on the way out."""
    command = [sys.executable, "app.py", "--no-browser", "--port", "0", "--data", str(data_dir), *flags]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().removeprefix("Prefloop runs at ").strip()
            yield address, process.stdout.readline().split("): ")[1].strip()
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[tuple[Database, str]]:
    """The database of the program without workers, with the admin kim, and its address."""
    data_dir = tmp_path_factory.mktemp("running") / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    access.add_account(db, "kim", "admin", "a long enough password")
    with running_app(data_dir, "--no-workers") as (address, _):
        yield db, address
    db.close()
