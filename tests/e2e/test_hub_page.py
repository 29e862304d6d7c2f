"""The Hub tab in a real browser, beside a Hub on loopback: a Space is checked, agreed to, made and updated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database
from tests.e2e.conftest import go, running_app
from tests.fakes.hub_sign_in import CHAT_MODEL, SpaceHub

pytestmark = pytest.mark.browser
MODEL = "models/small"


def test_a_space_is_checked_agreed_to_made_and_brought_up_to_date(
    browser: Any, db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    with SpaceHub() as hub:
        hub.add_repo("model", MODEL, CHAT_MODEL)
        for name, value in hub.environment("hf_write_ann").items():
            monkeypatch.setenv(name, value)
        with running_app(data_dir, "--no-workers") as (_, link), browser.new_context() as context:
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(link)
            page.wait_for_selector("text=owner · admin")
            go(page, "/hub")
            page.click("#hub-space button")
            space = page.locator("#hub-space")

            def checked(hardware: str) -> Any:
                """What is to be agreed to of the Space of the form, once it is checked."""
                page.fill("#hub-space-hardware textarea", hardware)
                page.click("#hub-space-check")
                page.wait_for_selector("#hub-space >> text=Nothing would fail.")
                agreed = page.locator("#hub-space-agreed")
                agreed.filter(has_text="cpu-upgrade costs $0.03 an hour while it runs.").wait_for()
                return agreed.locator("input")

            def make(said: str) -> None:
                page.click("#hub-space-make")
                page.wait_for_selector(f"#hub-space >> text={said}")

            page.fill("#hub-space-repo textarea", "ann/loop")
            space.get_by_label("Base model").fill(MODEL)
            agreed = checked("cpu-upgrade")
            page.click("#hub-space-make")
            page.wait_for_selector("text=Tick that you agree to what the check has found first.")
            assert ("space", "ann/loop") not in hub.repos
            agreed.check()
            make("ann/loop is made at")
            made = hub.repos["space", "ann/loop"]
            assert (made.private, made.settings["hardware"]) == (True, "cpu-upgrade")
            assert made.variables["PREFLOOP_MODEL"] == MODEL
            assert not page.is_visible("#hub-space-agreed"), "what was agreed to is done"
            checked("").check()  # as the Space has it
            make("ann/loop is up to date at")
            assert (made.settings["hardware"], made.variables["PREFLOOP_MODEL"]) == ("cpu-upgrade", MODEL)
            page.reload()
            page.wait_for_selector("text=ann/loop is up to date at")
    assert errors == []
