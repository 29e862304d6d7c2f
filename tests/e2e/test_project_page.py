"""The Project tab in a real browser: guidelines that would run as code, and a form that is refused and mended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from annotation.database import Database
from annotation.records import Project, Tag
from annotation.store import project_store
from tests.annotation.tabs.test_project import HOSTILE
from tests.e2e.conftest import TWO_FRAMES, go, sign_in, wait_for

pytestmark = pytest.mark.browser

# The picture that the guidelines name fails to load once more, after the one that would run their code has failed.
AS_LATE_AS_IT_WOULD_RUN = """new Promise((failed) => {
  const picture = new Image();
  picture.onerror = failed;
  picture.src = "x";
})"""
# What is asked for when the tab is opened, and how many such questions there are.
OPENED = '"event_data":{"value":"Project"'
FILLING = """() => {
  const { components, dependencies } = window.gradio_config;
  const tab = components.find((one) => one.type === "tabitem" && one.props.label === "Project");
  return dependencies.filter((one) => one.backend_fn && one.targets.some(([id]) => id === tab.id)).length;
}"""


@pytest.fixture(scope="module")
def db(running: tuple[Database, str]) -> Database:
    """The program's database, with a project as at the beginning."""
    project_store.set_project(running[0], Project())
    return running[0]


@pytest.fixture(scope="module")
def opened(db: Database, running: tuple[Database, str], browser: Any) -> Iterator[Any]:
    """An admin's page."""
    address = running[1]
    context = browser.new_context()
    sign_in(context, db, address)
    page = context.new_page()
    page.goto(f"{address}project")
    page.wait_for_function("document.querySelector('#project-tags textarea')?.value.includes('accurate')")
    page.wait_for_function("document.querySelector('#guidelines-text textarea')?.value")  # which comes a moment later
    page.evaluate(TWO_FRAMES)  # Gradio fills in once more what it has just drawn
    yield page
    context.close()


@pytest.fixture
def page(opened: Any) -> Any:
    """That page at the Project tab."""
    opened.get_by_role("tab", name="Project").click()
    return opened


def test_hostile_guidelines_are_shown_and_do_not_run(db: Database, page: Any) -> None:
    page.fill("#guidelines-text textarea", HOSTILE)
    page.click("#guidelines-preview")
    page.wait_for_selector(".guidelines-preview em")
    page.click("#guidelines-save")
    page.wait_for_selector("text=Version 2 of")  # the first is the program's
    page.evaluate(AS_LATE_AS_IT_WOULD_RUN)
    assert page.evaluate("window.ran") is None
    assert page.locator(".guidelines-preview :is(script, form, img)").count() == 0
    assert "${window.ran = 1}" in page.inner_text(".guidelines-preview")
    assert project_store.guidelines(db).text == HOSTILE


def test_a_refusal_is_shown_and_mended(db: Database, page: Any) -> None:
    page.check("input[type=radio][value=rank]")
    answers = page.get_by_label("Number of answers")
    page.wait_for_function("element => element.value === '4' && !element.disabled", arg=answers.element_handle())
    page.fill("#project-tags textarea", "s: sound")
    page.click("#project-save")
    page.wait_for_selector("text=is taken by the page (skip)")
    page.fill("#project-tags textarea", "sound")
    page.click("#project-save")
    page.wait_for_selector("text=Saved. It holds")
    asked = project_store.project(db)
    assert (asked.kind, asked.answers, asked.tags) == ("rank", 4, (Tag("o", "sound"),))


def test_a_draft_survives_another_tab_where_a_password_goes_with_its_account(page: Any) -> None:
    page.fill("#guidelines-text textarea", "A draft.")
    page.get_by_role("tab", name="Accounts").click()
    page.get_by_label("Name", exact=True).locator("visible=true").fill("zoe")
    page.click("#account-add")
    page.wait_for_selector("text=Password of zoe, shown once")
    go(page, "/accounts/zoe")
    page.get_by_role("button", name="Save groups and judgements").click()
    page.wait_for_selector("text=Saved for zoe.")
    page.get_by_role("button", name="Deactivate", exact=True).click()
    assert page.is_visible("#new-password")
    page.click("#account-really")
    page.wait_for_selector("#new-password", state="hidden")
    answers: list[Any] = []
    page.on("requestfinished", lambda asked: answers.append(asked) if OPENED in (asked.post_data or "") else None)
    page.get_by_role("tab", name="Project").click()
    asked = page.evaluate(FILLING)
    assert asked
    wait_for(page, "all that fills the tab", lambda: len(answers) == asked)
    page.evaluate(TWO_FRAMES)
    assert page.input_value("#guidelines-text textarea") == "A draft."
