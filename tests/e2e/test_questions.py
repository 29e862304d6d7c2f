"""What a button asks before it does something, in a real browser: whoever does not see the page is led to it."""

from __future__ import annotations

from typing import Any

import pytest

from annotation.database import Database
from annotation.web import access
from tests.e2e.conftest import go, sign_in

pytestmark = pytest.mark.browser


@pytest.fixture
def page(running: tuple[Database, str], browser: Any) -> Any:
    """The page of an admin beside whom there is another."""
    db, address = running
    access.find(db, "lee") or access.add_account(db, "lee", "annotator", "a long enough password")
    context = browser.new_context()
    sign_in(context, db, address)
    opened = context.new_page()
    opened.goto(address)
    opened.wait_for_selector("text=kim · admin")
    yield opened
    context.close()


def test_the_focus_goes_to_what_is_asked_each_time(page: Any) -> None:
    go(page, "/accounts/lee")
    button = page.get_by_role("button", name="Deactivate", exact=True)
    page.wait_for_selector("button:not([disabled]):text-is('Deactivate')")
    for _time in range(2):
        button.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=status]:focus:has-text('lee')")
        page.get_by_role("button", name="No", exact=True).locator("visible=true").click()
        page.wait_for_selector("[role=status]:has-text('lee')", state="detached")


def test_an_empty_field_for_a_number_shows_what_empty_means_and_not_a_nought(page: Any) -> None:
    go(page, "/accounts")
    page.get_by_role("button", name="Invite someone").click()
    field = page.get_by_label("Judgements each")
    assert (field.input_value(), field.get_attribute("placeholder")) == ("", "no end")
    page.get_by_role("button", name="Make a link").click()
    page.wait_for_selector("#invitation-link a[data-path]")
    assert field.input_value() == ""
    field.fill("12")
    page.get_by_role("button", name="Make a link").click()
    page.wait_for_selector("#invitations td:text-is('12')")
