"""The program as a Space has it: from the files that would be uploaded, with a Space's variables, in a real browser."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from annotation.database import Database, open_database
from rlhf.models import registry
from tests.conftest import judgement_count, measure_nobody, seed_comparisons
from tests.e2e.conftest import read_comparison, wait_for
from tests.fakes.hub_sign_in import SECRET, SpaceHub, uploaded
from tests.machine_fixtures import PATIENCE_SECONDS, free_port, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.own_start]
SEEDED = 5
TOKEN = "hf_write_ann"


@dataclass
class Running:
    """A Space that runs, its Hub, its folder and a look at its rows."""

    address: str
    hub: SpaceHub
    folder: Path
    db: Database
    process: psutil.Process


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Running]:
    """What `space create` would upload, in a folder of its own, started as a Space starts it."""
    folder = uploaded(tmp_path_factory.mktemp("space") / "app")
    db = open_database(folder / "data")
    measure_nobody(db)
    registry.ensure_base(db, str(tiny_model.resolve()))
    seed_comparisons(db, SEEDED)
    with SpaceHub() as hub, started(hub, folder, tiny_model) as (address, process):
        hub.framed = address
        yield Running(address=address, hub=hub, folder=folder, db=db, process=process)
    db.close()


@contextmanager
def started(hub: SpaceHub, folder: Path, model: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`python app.py` in a Space's folder, with a Space's variables and nothing of this project's directory."""
    here = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
    words = [sys.executable, "app.py"]
    with free_port() as port:
        environment = {**here, **hub.environment(TOKEN), **hub.space_environment(port), "PREFLOOP_MODEL": str(model)}
        with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert process.stdout is not None
                lines = iter(process.stdout.readline, "")
                said = next(line for line in lines if line.startswith("People open "))
                yield said.removeprefix("People open ").strip(), psutil.Process(process.pid)
            finally:
                process.terminate()
                process.wait(PATIENCE_SECONDS)


def judge(running: Running, page: Any, key: str) -> None:
    """Press a key when a comparison is on the page, and wait for the row."""
    read_comparison(page)
    before = judgement_count(running.db)
    page.keyboard.press(key)
    wait_for(page, f"judgement from key {key}", lambda: judgement_count(running.db) == before + 1)


def test_from_the_spaces_page_to_a_judgement(running: Running, browser: Any) -> None:
    """The frame links to the direct address; there a person signs in, is told what is recorded, judges and leaves."""
    hub, context = running.hub, browser.new_context()
    errors: list[str] = []
    outer = context.new_page()
    outer.goto(f"{hub.url}/spaces/ann/loop")
    frame = outer.frame_locator("iframe")
    frame.get_by_text("It opens in a tab of its own").wait_for()
    with context.expect_page() as opened:
        frame.get_by_role("link", name="Open Prefloop").click()
    page = opened.value
    page.on("pageerror", lambda error: errors.append(str(error)))

    hub.signing_in = "cem"
    page.wait_for_selector("text=What is recorded")
    page.wait_for_selector("text=ann runs this Space")
    page.get_by_role("link", name="Sign in with Hugging Face").click()
    page.wait_for_selector("text=cem · annotator")
    assert not page.get_by_role("tab", name="Accounts").is_visible()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "wider than a phone"
    page.set_viewport_size({"width": 1280, "height": 900})
    for key in "263":
        judge(running, page, key)
    page.get_by_role("link", name="What is recorded").click()
    page.wait_for_selector("text=Your judgements train language models")
    page.get_by_role("link", name="Back to the program").click()
    page.wait_for_selector("text=cem · annotator")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_selector("text=Sign in with Hugging Face")

    hub.signing_in = "ann"
    page.get_by_role("link", name="Sign in with Hugging Face").click()
    page.wait_for_selector("text=ann · admin")
    page.get_by_role("tab", name="Accounts").click()
    page.wait_for_selector("text=Hugging Face >> visible=true")
    page.get_by_role("tab", name="Hub").click()
    page.get_by_role("button", name="Check the token").click()
    page.wait_for_selector("text=The token is ann's. It may write to repositories of: ann.")
    assert errors == []
    context.close()
    names = running.db.rows("SELECT a.name FROM judgement j JOIN annotator a ON a.id = j.annotator_id")
    assert {row["name"] for row in names} == {"cem"}
    said = b"".join(path.read_bytes() for path in (running.folder / "data").rglob("*") if path.is_file())
    assert not [word for word in (SECRET.encode(), TOKEN.encode(), b"hf_oauth_") if word in said]


def test_a_worker_is_started_in_the_same_folder(running: Running) -> None:
    """That it can answer there is a test of its own, without a browser: tests/rlhf/hub/test_space_upload.py."""

    def worker() -> bool:
        for child in running.process.children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if child.cwd() == str(running.folder) and "rlhf.workers.fork_server" in child.cmdline():
                    return True
        return False

    wait_until("worker", worker)


def test_another_site_may_not_frame_the_space(running: Running, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"{running.hub.url.replace('127.0.0.1', 'localhost')}/spaces/ann/loop")  # to a browser another site
    wait_for(page, "the refusal", lambda: any("frame-ancestors" in text for text in said), lambda: said)
    context.close()
