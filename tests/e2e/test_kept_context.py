"""Contexts that are kept: one that was given back is to the next test what a new one would be."""

from __future__ import annotations

from typing import Any

import pytest

from annotation.database import Database
from tests.e2e.conftest import WIDE

pytestmark = pytest.mark.browser

LEAVE = """() => {
  localStorage.left = sessionStorage.left = "1";
  document.cookie = "left=1; max-age=9999";
  return new Promise((done) => { indexedDB.open("left").onsuccess = () => done(); });
}"""
FIND = """() => indexedDB.databases().then((databases) => [
  localStorage.length, sessionStorage.length, document.cookie, databases.length,
  matchMedia("(prefers-color-scheme: dark)").matches, innerWidth, innerHeight,
])"""
NOTHING = [0, 0, "", 0, False, *WIDE.values()]


def test_what_a_test_leaves_in_a_context_is_gone(running: tuple[Database, str], browser: Any) -> None:
    address = running[1]
    first = browser.new_context(clock=True, color_scheme="dark", viewport={"width": 390, "height": 844})
    page = first.new_page()
    page.goto(f"{address}login")
    page.evaluate(LEAVE)
    tomorrow = page.evaluate("Date.now() / 1000") + 24 * 3600
    page.clock.pause_at(tomorrow)
    assert page.evaluate(FIND) == [1, 1, "left=1", 1, True, 390, 844]
    with browser.new_context(clock=True) as another:
        assert another is not first, "it is lent to one at a time"
    first.close()
    with browser.new_context(clock=True) as second:
        assert second is first
        page = second.new_page()
        page.goto(f"{address}login")
        assert page.evaluate(FIND) == NOTHING
        assert page.evaluate("tomorrow => Date.now() / 1000 < tomorrow", tomorrow)
        page.evaluate("new Promise((come) => setTimeout(come, 10))")  # its clock goes
        assert len(second.pages) == 2
