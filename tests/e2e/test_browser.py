"""The whole path in a real browser: sign in, judge by keyboard, train, see the curves, promote, judge again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from annotation import importing, store
from annotation.database import Database, open_database
from rlhf import jobs, policies
from tests.machine_fixtures import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FOUND = next((path for path in map(shutil.which, BROWSERS) if path), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = (
    "<think>hidden?</think> ${window.ran = 1} <img src=x onerror='window.ran = 1'> "
    "<form action=/logout><button>Sign out</button></form><script>window.ran = 1</script> {{value}}"
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(FOUND is None, reason="no Chromium here: apt-get install chromium"),
]


@dataclass
class Site:
    """A running app with its owner's link and a look at its rows."""

    link: str
    db: Database
    page: Any

    def wait_until(self, true: Callable[[], Any], what: str, seconds: float = 240.0) -> None:
        """Wait for the rows to say something; fails with what was waited for and the jobs as they stand."""
        end = time.monotonic() + seconds
        while not true():
            states = [
                (job.kind, job.status, job.message) for job in jobs.recent(self.db, ("dpo", "evaluate", "generate"))
            ]
            assert time.monotonic() < end, f"no {what} within {seconds:.0f} s: {states}"
            self.page.wait_for_timeout(200)

    def judged(self) -> int:
        """Judgements that count."""
        return store.judgement_count(self.db)

    def judge(self, key: str) -> None:
        """Press a key when a comparison is on the page, and wait for the row."""
        self.page.wait_for_selector(".judging[data-state=comparing]", timeout=120_000)
        self.page.wait_for_timeout(400)  # a comparison that has only just appeared takes no press
        before = self.judged()
        self.page.keyboard.press(key)
        self.wait_until(lambda: self.judged() == before + 1, f"judgement from key {key}", 30)


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path) -> Iterator[Site]:
    from playwright.sync_api import sync_playwright

    data_dir = tmp_path / "data"
    db = open_database(data_dir)
    starter = importing.starter_prompts()
    store.add_prompts(db, [p for p in starter if p.split == "train"][:20])
    store.add_prompts(db, [p for p in starter if p.split == "held-out"][:4])
    command = [
        sys.executable,
        "app.py",
        "--no-browser",
        "--port",
        "0",
        "--data",
        str(data_dir),
        "--model",
        str(tiny_model),
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=FOUND, args=FLAGS) as browser,
    ):
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            yield Site(lines[1].split("): ")[1].strip(), db, page)
        finally:
            process.terminate()
            process.wait(60)
    db.close()


def test_from_first_judgement_to_the_next_policy(site: Site) -> None:
    """A person needs nothing but the page; every step is in the rows, and the page shows what the rows say."""
    page = site.page
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site.link)
    page.wait_for_selector("text=owner · admin")

    keys = "1524" * 3
    for key in keys:
        site.judge(key)
    page.wait_for_selector(f"text={len(keys)} judged by you.")
    page.wait_for_selector(".judging[data-state=comparing]")
    page.wait_for_timeout(600)
    page.keyboard.press("u")
    site.wait_until(lambda: site.judged() == len(keys) - 1, "undone judgement", 30)
    page.wait_for_selector("text=Undone.")
    site.judge("5")

    page.get_by_role("tab", name="Train").click()
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("epochs").fill("2")
    page.click("#train-start")
    site.wait_until(lambda: policies.everything(site.db)[1:], "trained adapter")
    page.wait_for_selector("text=Reward margin", timeout=60_000)
    page.locator("svg.marks, canvas.marks").first.wait_for(timeout=60_000)
    site.wait_until(
        lambda: any(job.status == "finished" for job in jobs.recent(site.db, ("evaluate",))), "finished check"
    )

    page.get_by_role("tab", name="Iterations").click()
    page.wait_for_selector("#promote:not([disabled])", timeout=60_000)
    page.wait_for_selector("text=KL per token")
    page.click("#promote")
    page.wait_for_selector("text=serves now")
    adapter = policies.serving(site.db)
    assert adapter.method == "dpo"

    page.get_by_role("tab", name="Annotate").click()
    site.wait_until(lambda: sum(store.buffer_sizes(site.db, adapter.id).values()), "comparison by the new policy")
    site.judge("1")
    assert errors == []


def test_what_a_model_wrote_is_shown_whole_and_does_nothing(site: Site) -> None:
    """Hostile answers appear to the letter, run nothing, load nothing, and add no control to the page."""
    page = site.page
    outside: list[str] = []
    page.on("request", lambda request: None if "//127.0.0.1" in request.url else outside.append(request.url))
    page.goto(site.link)
    page.wait_for_selector(".judging[data-state=comparing]", timeout=120_000)
    held = site.db.value("SELECT comparison_id FROM claim WHERE state = 'held'")
    with site.db.transaction() as connection:
        connection.execute(
            "UPDATE response SET text = ? WHERE id IN "
            "(SELECT response_id FROM comparison_response WHERE comparison_id = ?)",
            (HOSTILE, held),
        )
    page.reload()
    page.wait_for_selector(".judging[data-state=comparing]")
    texts = page.locator(".answer .text").all_text_contents()
    assert texts == [HOSTILE, HOSTILE]
    page.wait_for_timeout(500)
    assert page.evaluate("window.ran") is None
    assert page.locator(".judging form, .judging img, .judging script, .judging button").count() == 0
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []


def test_a_double_click_judges_once(site: Site) -> None:
    """Two fast clicks, and a second tab that still shows the same comparison, leave one judgement."""
    page = site.page
    page.goto(site.link)
    page.wait_for_selector(".judging[data-state=comparing]", timeout=120_000)
    second = page.context.new_page()
    second.goto(page.url)
    second.wait_for_selector(".judging[data-state=comparing]")
    assert second.locator(".answer .text").all_text_contents() == page.locator(".answer .text").all_text_contents()
    page.wait_for_timeout(400)
    page.dblclick("#key-1")
    site.wait_until(lambda: site.judged() == 1, "judgement", 30)
    second.wait_for_timeout(400)
    second.click("#key-5")
    second.wait_for_timeout(1500)
    rows = site.db.rows("SELECT comparison_id, count(*) AS n FROM judgement GROUP BY comparison_id")
    assert [row["n"] for row in rows] == [1]
