"""The table of comparisons in a browser: filtered, changed many at once, taken back, one looked at; an invitation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.claims import changing, handing_out, judging
from annotation.database import Database, open_database
from annotation.web import access
from annotation.workbench import bulk_changes
from annotation.workbench.bulk_changes import BulkRequest
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_list import matching
from rlhf.models import registry
from tests.conftest import BASE_NAME, act, seed_comparisons
from tests.e2e.conftest import TWO_FRAMES, go, routed, running_app, sign_in, wait_for
from tests.e2e.test_addresses import unanswered

pytestmark = pytest.mark.browser


# A button of the table is there again a second after it was pressed: what does that is kept, until it is let go.
HOLD_BACK = """() => {
  const real = window.setTimeout;
  const due = [];
  window.setTimeout = (act, after, ...more) => after === 1000 ? due.push(act) : real(act, after, ...more);
  window.letGo = () => {
    window.setTimeout = real;
    due.forEach((act) => act());
  };
}"""


def test_comparisons_are_found_assigned_taken_back_and_looked_at(tmp_path: Path, browser: Any) -> None:
    data_dir = tmp_path / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    access.add_account(db, "mira", "annotator", "seven wooden bridges")
    ids = seed_comparisons(db, 60)
    troubles: list[str] = []
    with running_app(data_dir, "--no-workers") as (_address, link):
        context = browser.new_context()
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(link)
        page.wait_for_selector("text=owner · admin")
        go(page, "/data/comparisons?sort=oldest")
        page.wait_for_selector("text=60 comparisons")
        page.click(".pages >> text=Next")
        page.wait_for_selector("text=Page 2 of 2")
        assert page.url.endswith("sort=oldest&page=2")
        page.check(f"text=#{ids[55]} >> xpath=.. >> input")
        page.go_back()
        page.wait_for_selector("text=Page 1 of 2")
        page.check(f"text=#{ids[0]} >> xpath=.. >> input")
        assert page.locator("[data-scope] option").first.text_content() == "chosen (2)"
        page.keyboard.press("Tab")
        page.keyboard.press("Shift+Tab")
        focused = "(({ type }, { outlineStyle }) => [type, outlineStyle])"
        seen = f"{focused}(document.activeElement, getComputedStyle(document.activeElement))"
        assert page.evaluate(seen) == ["checkbox", "solid"], "who goes by keyboard sees where they are"
        page.click("th >> text=Number")
        page.wait_for_selector(f"tbody tr >> nth=0 >> text=#{ids[59]}")
        assert page.locator("[data-scope] option").first.text_content() == "chosen (2)"
        ticked = page.locator("tbody input:checked")
        assert ticked.evaluate_all("boxes => boxes.map((box) => box.value)") == [str(ids[55])], "rows, not their places"

        page.select_option("[data-whom]", "person:mira")
        page.evaluate(HOLD_BACK)
        page.click("text=Assign to")
        page.wait_for_selector("#comparisons-said [role=status]:focus:has-text('Assign 2 comparisons to mira?')")
        held: list[Any] = []
        with routed(page, "**/queue/join*", lambda route: held.append(route)):
            page.click("text=Assign (2)")
            wait_for(page, "the press", lambda: held)
            page.evaluate("letGo()")
            assert page.evaluate("document.activeElement === document.body"), "what was pressed before takes no focus"
            held.pop().continue_()
        page.wait_for_selector("#comparisons-said [role=status]:focus:has-text('Assigned: 2 comparisons, to mira.')")
        assert page.locator("[data-scope] option").first.text_content() == "chosen (0)", "not asked for once more"
        assert matching(db, ComparisonFilter(assigned=("mira",))) == {ids[0], ids[55]}
        page.wait_for_selector("[data-scope] option >> text=chosen (0)", state="attached")
        assert page.locator("tbody input:checked").count() == 0, "what was done is not done again"
        page.click("#comparisons-said >> text=Undo")
        page.wait_for_selector("text=Taken back. Assigned: 2 comparisons, to mira.")
        assert matching(db, ComparisonFilter(assigned=("mira",))) == set()

        page.fill("#comparisons-search input, #comparisons-search textarea", "number 7")
        page.wait_for_selector("text=1 comparison", strict=False)
        wait_for(page, "the search in the address", lambda: "q=number+7" in page.url, lambda: page.url)
        page.select_option("[data-scope]", "all")
        page.click("text=Withdraw >> nth=0")
        page.click("text=Withdraw (1)")
        page.wait_for_selector("text=Withdrawn: 1 comparison.")
        page.click(f"text=#{ids[7]}")
        page.wait_for_selector(f"text=Comparison {ids[7]}")
        page.wait_for_selector("text=What admins did")
        assert page.url.endswith(f"/data/comparisons/{ids[7]}")
        page.reload()
        page.wait_for_selector("text=How it was formed")
        page.go_back()
        page.wait_for_selector("text=1 comparison", strict=False)

        go(page, "/accounts")
        page.click("text=Invite someone")
        page.click("text=Make a link")
        page.wait_for_selector("#invitation-link >> text=It opens on this machine only.")
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as over plain HTTP
        page.click("#invitation-link button")
        page.wait_for_selector("#invitation-link >> text=Not copied: copy what is selected")
        assert page.evaluate("`${getSelection()}`") == page.locator("#invitation-link a").inner_text()
        first = page.locator("#invitation-link a").inner_text()
        page.click("text=Make a link")
        page.wait_for_function("first => document.querySelector('#invitation-link a').textContent !== first", arg=first)
        page.wait_for_selector("#invitation-link >> text=It opens on this machine only.")
        shown, invited = page.locator("#invitation-link a").evaluate("link => [link.textContent, link.href]")
        assert shown == invited, "a link made after another one is whole too"
        other = browser.new_context()
        joining = other.new_page()
        joining.goto(invited)
        joining.fill("#name", "nina")
        joining.fill("#password", "seven wooden bridges")
        joining.click("text=Make my account")
        joining.wait_for_selector("text=nina · annotator")
        other.close()
        context.close()
    assert troubles == []
    db.close()


# Each field of a filter, in as few addresses as have one kind of field beside another.
FILTERS = (
    *("person=kim&source=test&policy=base&since=2026-01-31", "assigned=kim&split=held-out", "q=thing&person=kim"),
    "said=tie&status=judged&until=2999-01-31",
)


def one_judged(db: Database) -> int:
    """Ten comparisons, of which kim has judged one and is to judge another; its number."""
    kim = access.authorise(db, "kim", "admin")
    seed_comparisons(db, 6)
    *_others, assigned = seed_comparisons(db, 4, "held-out")
    claim = handing_out.claim_next(db, kim.id)
    assert claim is not None
    judging.judge(db, kim.id, claim.nonce, act("tie"))
    bulk_changes.make(db, BulkRequest("assign", ComparisonFilter(ids=(assigned,)), "person:kim"), kim, 1)
    return claim.comparison_id


def drawn_from(page: Any, waiting: set[Any]) -> str:
    """The filter of the table that is there when the page has nothing more to ask."""
    page.wait_for_selector("#comparisons-box .workbench")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def is_drawn() -> bool:
        """Whether all is answered, and what is drawn of that asks nothing more."""
        if not waiting:
            page.evaluate(TWO_FRAMES)
        return not waiting

    wait_for(page, "that all is answered", is_drawn)
    return str(page.locator("#comparisons-box .workbench").get_attribute("data-filter"))


def test_an_address_is_drawn_as_it_filters_on_a_fresh_page(running: tuple[Database, str], browser: Any) -> None:
    db, address = running
    number = one_judged(db)
    context = browser.new_context()
    sign_in(context, db, address)
    page = context.new_page()
    waiting = unanswered(page)
    for query in FILTERS:
        waiting.clear()
        page.goto(f"{address}data/comparisons?{query}")
        drawn = drawn_from(page, waiting)
        at = page.url.partition("?")[2]
        assert [ComparisonFilter.of(one) for one in (drawn, at)] == [ComparisonFilter.of(query)] * 2
    page.goto(f"{address}data")
    page.wait_for_selector("text=kim · admin")
    go(page, "/data/comparisons?person=kim")
    page.wait_for_selector(f"text=#{number}")
    assert drawn_from(page, waiting) == "person=kim"
    page.goto(f"{address}data/comparisons?colour=red")
    page.wait_for_selector("text=There is no filter 'colour'.")
    assert not page.locator("#comparisons-box .workbench").count()
    go(page, f"/data/comparisons?split=held-out&person=kim&ids={number}")
    page.click("text=Split: held out ×")
    page.wait_for_selector(f"text=Comparisons: {number} ×")
    page.wait_for_selector("text=Split: held out ×", state="hidden")
    assert drawn_from(page, waiting) == f"ids={number}&person=kim"
    page.context.close()


# What stands in each filter.
EMPTY_FILTERS = """(boxes) => boxes.map((box) => getComputedStyle(box, "::before").content)"""


@pytest.mark.parametrize(("language", "said"), [("en", '"any"'), ("de", '"beliebig"')])
def test_a_filter_without_a_choice_says_that_any_will_do(
    running: tuple[Database, str], browser: Any, language: str, said: str
) -> None:
    db, address = running
    seed_comparisons(db, 1)
    access.add_account(db, f"reads-{language}", "admin", "a long enough password")
    access.set_language(db, f"reads-{language}", language)
    context = browser.new_context()
    sign_in(context, db, address, f"reads-{language}")
    page = context.new_page()
    waiting = unanswered(page)
    page.goto(f"{address}data/comparisons?status=open")
    drawn_from(page, waiting)
    boxes = page.locator(".filters .any .secondary-wrap")
    assert boxes.evaluate_all(EMPTY_FILTERS) == ["none", said, said], "the status is chosen"
    arrows = page.locator(".filters .any .icon-wrap:not(.token-remove *)")
    beside_choice, beside_word, _other = (arrows.nth(place).bounding_box()["width"] for place in range(3))
    assert beside_word > beside_choice / 2, "it takes no room from the arrow"
    context.close()


def test_a_comparison_that_is_in_view_is_looked_up_again(running: tuple[Database, str], browser: Any) -> None:
    from playwright.sync_api import expect

    db, address = running
    kim = access.authorise(db, "kim", "admin")
    seed_comparisons(db, 1)
    claim = handing_out.claim_next(db, kim.id)
    assert claim is not None
    context = browser.new_context()
    sign_in(context, db, address)
    page = context.new_page()
    page.goto(f"{address}data/comparisons/{claim.comparison_id}")
    page.wait_for_selector("text=Nobody has judged it yet.")
    page.wait_for_selector("text=/As of \\d\\d:\\d\\d UTC/")
    judging.judge(db, kim.id, claim.nonce, act("tie"))
    again = page.locator("#comparisons-box >> text=Refresh")
    again.click()
    page.wait_for_selector("text=Nobody has judged it yet.", state="hidden")
    page.wait_for_selector(f"text=Comparison {claim.comparison_id}")
    expect(again).to_be_focused()
    go(page, f"/data/statistics?ids={claim.comparison_id}")
    figures = page.locator(".figures").locator("visible=true")
    expect(figures).to_contain_text("Judgements 1", use_inner_text=True)
    changing.undo(db, kim.id, "")
    page.wait_for_selector("button:text('Refresh'):not([aria-disabled]) >> visible=true").press("Enter")
    expect(figures).to_contain_text("Judgements 0", use_inner_text=True)
    expect(page.locator("button:text('Refresh')").locator("visible=true")).to_be_focused()
    page.context.close()
