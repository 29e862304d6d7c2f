"""Every tab of an admin's page: axe finds nothing, in both themes and at both sizes; headings stand in order; what is
touched on a phone is high enough."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import app
from annotation import project
from annotation.database import open_database
from annotation.jobs import job_table
from annotation.metrics.agreement import Dispute
from annotation.store import project_store
from annotation.tabs import quality_report
from annotation.tabs.guard import Context
from annotation.ui import stylesheet
from annotation.web import access
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_store
from rlhf.judges import judge_store, verdict_store
from rlhf.submission.form_fields import forms
from tests.e2e.axe import CONTRAST_ALONE, VIOLATIONS_ALONE, violations
from tests.e2e.conftest import go, running_app, sign_in, wait_for
from tests.machine_fixtures import make_machine
from tests.rlhf.tabs.iterations.test_iterations_tab import check_candidate, make_candidate
from tests.rlhf.tabs.judges.test_judges_tab import say

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# What axe is asked in each theme. Contrast is all that a theme changes; the rest is the same in both.
THEMES = {"light": VIOLATIONS_ALONE, "dark": CONTRAST_ALONE}
# Parts that fade in, or are worked out anew, are faint for a moment.
SETTLED = """() => !document.querySelector(".pending, .generating")
  && document.getAnimations().every((one) => one.playState !== "running")"""
# A handler's answer may come while axe looks, and begin another such moment.
LOOKS = 4
# All that can be unfolded, in one thing after the other, but for Gradio's own plots ("Look closer"), which cost seconds
# and name none of their marks: the values stand beside them as a table.
UNFOLD = """() => {
  const closed = [...document.querySelectorAll("details:not([open]), button.label-wrap:not(.open)")];
  const shown = closed.filter((one) => one.offsetParent && one.checkVisibility()
    && !one.matches("[id$=-box] > button"));
  for (const one of shown) one.matches("details") ? (one.open = true) : one.click();
  return shown.length;
}"""
# Within the Data tab.
PLACES = {
    "/data/comparisons/1": "How it was formed",
    "/data/statistics": "By status",
    "/data/import": "Upload a file",
    "/data/export": "Write the export",
}
# The forms of the Train tab beside the first, alike enough to be looked at in one size.
FORMS = {f"/train/{form.name}": form.layout.start for form in forms()[1:]}
HEADINGS = """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter((one) => one.offsetParent)
  .map((one) => Number(one.tagName[1]))"""
# What is touched, but for links within a text, and parts of a larger one that is touched as well.
TARGETS = "a, button, summary, select, input, textarea, [role=tab], label:has(> input)"
SMALL_TARGETS = """(targets) => [...document.querySelectorAll(targets)]
  .filter((one) => one.offsetParent && !one.disabled && one.checkVisibility({ visibilityProperty: true }))
  .filter((one) => !(one.matches("input") && one.closest("label")))
  .filter((one) => !(one.matches("a") && one.parentElement.textContent.trim() !== one.textContent.trim()))
  .map((one) => [one, one.getBoundingClientRect()])
  .filter(([one, box]) => box.width > 1 && box.height > 1 && box.height < 43.5)
  .filter(([one, box]) => box.right > 0 && box.left < innerWidth)
  .map(([one, box]) => `${Math.round(box.height)} px: ${one.outerHTML.slice(0, 160)}`)"""

# Words that a phone has no room for: a choice above the tabs cut off, a title that touches its box, a head of a table
# that is mostly empty since one of its columns has many lines.
CRAMPED = """() => {
  const cut = [...document.querySelectorAll(".masthead select")].filter((one) => {
    const { flex, width } = one.style, shown = one.offsetWidth;
    Object.assign(one.style, { flex: "none", width: "max-content" });
    const whole = one.offsetWidth;
    Object.assign(one.style, { flex, width });
    return shown < whole;
  }).map((one) => `cut off: ${one.name}`);
  const seen = (where) => [...document.querySelectorAll(where)]
    .filter((one) => one.offsetParent && one.checkVisibility());
  const touching = seen("button.label-wrap > span:first-child")
    .filter((one) => one.getBoundingClientRect().top - one.parentElement.getBoundingClientRect().top < 4)
    .map((one) => `touches its box: ${one.innerText}`);
  const tall = seen(".kit thead").filter((one) => one.offsetHeight > 64).map((one) => `tall: ${one.innerText}`);
  return [...cut, ...touching, ...tall];
}"""
# Choices that run under their arrow where they are long.
UNDER_ARROWS = """() => [...document.querySelectorAll("input[role=combobox]")]
  .filter((one) => one.offsetParent && one.checkVisibility())
  .map((one) => [one, one.parentElement.querySelector(".icon-wrap")?.getBoundingClientRect()])
  .filter(([one, arrow]) => arrow?.width > 0
    && one.getBoundingClientRect().right - parseFloat(getComputedStyle(one).paddingRight) > arrow.left)
  .map(([one]) => `under its arrow: ${one.ariaLabel}`)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[tuple[str, str, str]]:
    """The program on a project with judgements, a judge's too, a run that is over and a checked candidate.

    Its address, an admin's session, its cookie.
    """
    machine = make_machine(tmp_path_factory.mktemp("accessible") / "data", tiny_model)
    machine.add_prompts(train=12, held_out=6)
    machine.judge("train", 8)
    project_store.write_guidelines(machine.db, project.FIRST_GUIDELINES, "Prefloop")
    judge = judge_store.add(machine.db, "local", "local", {"model": "base"}, "owner")
    for comparison in verdict_store.to_judge(machine.db, judge, "judged", 4):
        say(machine.db, judge, comparison.id, ("first", "second"), 0.8)
    context = Context(machine.db, machine.data_dir, str(tiny_model))
    check_candidate(context, make_candidate(context), 6)
    job_id = job_store.enqueue(machine.db, SFTSpec(snapshot="0" * 64), "kim")
    assert job_store.claim(machine.db, job_id, "w") is not None
    for step in range(1, 6):
        job_table.report(machine.db, job_id, "w", step, 5, {"loss": 1 / step}, "Training")
    job_table.finish(machine.db, job_id, "w", {})
    admin = access.add_account(machine.db, "kim", "admin", "a long enough password")
    machine.db.close()
    with running_app(machine.data_dir, "--no-workers", "--model", str(tiny_model)) as (address, _):
        db = open_database(machine.data_dir)
        cookie = app.Settings(port=int(address.rstrip("/").rsplit(":", 1)[1])).cookie
        yield address, access.open_session(db, admin), cookie
        db.close()


def unfold(page: Any) -> None:
    """Open all that is folded, and what is folded in it; and ask for a promotion, which is not answered."""
    ask = page.locator("#promote:enabled >> visible=true")
    if ask.count() and not page.locator("#promote-really >> visible=true").count():
        ask.click()
        page.locator("#promote-really").wait_for()
    wait_for(page, "that all is unfolded", lambda: page.evaluate(SETTLED) and not page.evaluate(UNFOLD))


def turn(page: Any, name: str) -> None:
    """Turn to a tab, which comes into view then: on a phone the row of them scrolls."""
    page.get_by_role("tab", name=name, exact=True).locator("visible=true").click()
    chosen = page.locator(f"[role=tab][aria-selected=true]:text-is('{name}')")
    chosen.wait_for()
    box, width = chosen.bounding_box(), page.viewport_size["width"]
    assert box["x"] >= 0, box
    assert box["x"] + box["width"] <= width, box
    assert box["height"] >= 44 or width > 640, box


def broken(page: Any, options: dict[str, Any]) -> list[str]:
    """The rules that the page breaks whenever one looks, each with where."""
    said: list[str] = []
    for _look in range(LOOKS):
        wait_for(page, "that the page is still", lambda: page.evaluate(SETTLED))
        said = [str(one) for one in violations(page, options)]
        if not said:
            break
    return said


@pytest.fixture(scope="module")
def wrong(site: tuple[str, str, str], browser: Any) -> dict[str, dict[str, list[str]]]:
    """What is wrong with each tab at each size, by theme; what is no matter of a theme is with the light one's."""
    address, session, cookie = site
    context = browser.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    context.add_cookies([{"name": cookie, "value": session, "url": address}])
    page = context.new_page()
    load(page, address)
    names = [text.strip() for text in page.get_by_role("tab").locator("visible=true").all_inner_texts()]
    assert len(names) == 12
    found: dict[str, dict[str, list[str]]] = {theme: {} for theme in THEMES}
    for size in (WIDE, PHONE):  # what is unfolded on the phone stays open
        page.set_viewport_size(size)
        for name in names:
            turn(page, name)
            look(page, f"{name}, {size['width']}", found, unfolded=size is PHONE)
            levels = page.evaluate(HEADINGS)
            jumps = [f"h{a} h{b}" for a, b in pairwise(levels) if b > a + 1]
            small = page.evaluate(SMALL_TARGETS, TARGETS) + page.evaluate(CRAMPED) if size is PHONE else []
            small += page.evaluate(UNDER_ARROWS)
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            found["light"][f"{name}, {size['width']}"] += [*jumps, *small, *(["wider than the screen"] * (wide > 1))]
        for place, words in (PLACES | FORMS if size is PHONE else PLACES).items():
            go(page, place)
            page.locator(f"text={words}").locator("visible=true").first.wait_for()
            look(page, f"{place}, {size['width']}", found, unfolded=size is PHONE)
            if size is PHONE:
                found["light"][f"{place}, {size['width']}"] += page.evaluate(SMALL_TARGETS, TARGETS)
                found["light"][f"{place}, {size['width']}"] += page.evaluate(CRAMPED)
            found["light"][f"{place}, {size['width']}"] += page.evaluate(UNDER_ARROWS)
    context.close()
    return found


def load(page: Any, address: str) -> None:
    """The page from its beginning."""
    page.goto(address)
    page.wait_for_selector("text=kim · admin", state="attached")


def look(page: Any, where: str, found: dict[str, dict[str, list[str]]], unfolded: bool) -> None:
    """Note which rules what the page shows, perhaps all unfolded, breaks in each theme, first in the one it has."""
    if unfolded:
        unfold(page)
    has = "dark" if page.locator("body.dark").count() else "light"
    for theme in (has, *(THEMES.keys() - {has})):
        page.emulate_media(color_scheme=theme)
        page.wait_for_selector("body.dark" if theme == "dark" else "body:not(.dark)")
        found[theme][where] = broken(page, THEMES[theme])


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_on_any_tab_at_either_size(wrong: dict[str, dict[str, list[str]]], theme: str) -> None:
    assert len(wrong[theme]) == 2 * (12 + len(PLACES)) + len(FORMS)
    assert {where: found for where, found in wrong[theme].items() if found} == {}


def test_a_faint_text_among_those_of_its_class_is_found_again_and_again(browser: Any) -> None:
    """Of texts that are drawn alike axe looks at two; here one is drawn otherwise, in between or as what it stands in.

    What nothing was found of is not looked at again, until it is drawn otherwise.
    """
    context = browser.new_context()
    page = context.new_page()
    page.set_content("<p class=a>One</p><p class=a>Two</p><div><p class=a>Three</p></div><p class=a>Four</p>")
    assert violations(page, CONTRAST_ALONE) == []
    for change in ("color: #ccc", "opacity: 0.2", "background: #111"):
        for place in ("p:nth-of-type(2)", "div"):
            page.locator(place).evaluate("(one, change) => { one.style = change; }", change)
            for _look in range(2):
                assert [one.rule for one in violations(page, CONTRAST_ALONE)] == ["color-contrast"], (change, place)
            page.locator(place).evaluate("(one) => { one.style = ''; }")
    assert violations(page, CONTRAST_ALONE) == []
    context.close()


def test_what_is_to_be_settled_fits_a_phone(browser: Any) -> None:
    """All of its columns are in view, and no empty band stands above their heads."""
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    shown = quality_report.disputes_table([Dispute(3, 2, 1.0, 5), Dispute(1405, 2, 1.0, 3)])
    sizes = ":root { --text-sm: 12px; font-family: system-ui } body { margin: 0 16px }"
    page.set_content(f'<style>{stylesheet.FOR_GRADIO}{sizes}</style><div class="kit">{shown}</div>')
    box = page.locator(".captioned")
    assert box.evaluate("(one) => one.scrollWidth - one.clientWidth") == 0
    assert page.locator("thead").bounding_box()["height"] < 64
    context.close()


# The title of what a pointer meets that is over the middle of an element.
TITLE_UNDER = """(one) => {
  one.scrollIntoView();
  const { x, y, width, height } = one.getBoundingClientRect();
  return document.elementFromPoint(x + width / 2, y + height / 2).title;
}"""


def test_no_tooltip_says_how_the_program_calls_a_choice(running: Any, browser: Any) -> None:
    """Gradio gives each box of several the value that it stands for as its title."""
    db, address = running
    context = browser.new_context()
    sign_in(context, db, address)
    page = context.new_page()
    page.goto(f"{address}data/export?sources=human")
    box = page.get_by_label("judged by AI")
    assert box.evaluate(TITLE_UNDER) == ""
    page.get_by_text("judged by AI").click()
    assert box.is_checked()
    context.close()
