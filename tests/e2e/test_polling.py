"""What asks by itself in a real browser: only the tab in view, once, live again when it is opened again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from annotation import access
from annotation.database import Database, open_database
from rlhf import jobs, policies
from rlhf.specs import SFTSpec
from tests.conftest import BASE_NAME
from tests.e2e.conftest import running_app

pytestmark = pytest.mark.browser
PATIENCE_MS = 180_000
# More than any pulse waits between two beats, and than it waits for an answer.
LONG_MS = 20_000
WITHIN = ("SFT", "Reward model", "PPO", "Runs")
PASSWORD = "correct horse battery"


@dataclass
class Looker:
    """A person's browser page whose clock can be put forward, and the events of Gradio's that it has asked for."""

    page: Any
    asked: list[str] = field(default_factory=list)
    """Of each request of an event: "beat" for a pulse's, else the event's name."""
    own: list[str] = field(default_factory=list)
    """The requests of the Annotate tab."""

    def watch(self) -> None:
        """Note each request from now on."""
        config = self.page.evaluate("window.gradio_config")
        names = {one["id"]: one["targets"][0][1] for one in config["dependencies"] if one["targets"]}

        def note(request: Any) -> None:
            if "/gradio_api/run/" in request.url or "/gradio_api/queue/join" in request.url:
                self.asked.append(names[request.post_data_json["fn_index"]])
            elif "/annotate/" in request.url:
                self.own.append(request.url.rsplit("/", 1)[1])

        self.page.on("request", note)

    def turn(self, *names: str) -> None:
        """Turn to a tab, and to one within it."""
        for name in names:
            self.page.get_by_role("tab", name=name, exact=True).click()

    def until(self, true: Callable[[], Any]) -> None:
        """Wait until something was asked for."""
        waited = 0
        while not true():
            assert waited < PATIENCE_MS, (self.asked, self.own)
            self.page.wait_for_timeout(50)
            waited += 50

    def put_forward(self) -> None:
        """Let all that waits for time to pass happen, once."""
        self.page.clock.fast_forward(LONG_MS)

    def rest_on_annotate(self, times: int = 3) -> None:
        """Put the clock forward, each time until the Annotate tab has asked what it asks now and then."""
        for _ in range(times):
            before = self.own.count("safety")
            self.put_forward()
            self.until(lambda before=before: self.own.count("safety") > before)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Database]]:
    """The program with an admin and an annotator, who sign in with a password."""
    data_dir = tmp_path_factory.mktemp("polling") / "data"
    db = open_database(data_dir)
    policies.ensure_base(db, BASE_NAME)
    access.add_account(db, "kim", "admin", PASSWORD)
    access.add_account(db, "ann", "annotator", PASSWORD)
    with running_app(data_dir, "--no-workers") as (address, _):
        yield address, db
    db.close()


@pytest.fixture
def sign_in(site: tuple[str, Database], browser: Any) -> Iterator[Callable[[str], Looker]]:
    """Signs a person in, in a browser of their own."""
    contexts: list[Any] = []

    def signed_in(name: str) -> Looker:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.clock.install()
        page.goto(f"{site[0]}login")
        page.fill("input[name=name]", name)
        page.fill("input[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector(f"text={name} · ", timeout=PATIENCE_MS)
        looker = Looker(page)
        looker.watch()
        return looker

    yield signed_in
    for context in contexts:
        context.close()


@pytest.fixture
def admin(sign_in: Callable[[str], Looker]) -> Looker:
    """An admin before the Annotate tab."""
    return sign_in("kim")


def make_run(db: Database) -> int:
    """A run of which nothing is known yet."""
    job_id = jobs.enqueue(db, SFTSpec(snapshot="0" * 64), "owner")
    assert jobs.claim(db, job_id, "w") is not None
    return job_id


def test_after_all_tabs_were_visited_nothing_asks_but_the_tab_in_view(admin: Looker) -> None:
    tabs = admin.page.get_by_role("tab").all_inner_texts()
    assert len(tabs) == 10
    for name in tabs:
        admin.turn(name)
        for within in WITHIN if name == "Train" else ():
            admin.turn(within)
        admin.page.wait_for_load_state("networkidle")
    admin.turn("Iterations")
    admin.until(lambda: "beat" in admin.asked)
    admin.turn("Annotate")
    admin.page.wait_for_load_state("networkidle")
    admin.asked.clear()
    admin.rest_on_annotate()
    assert admin.asked == []
