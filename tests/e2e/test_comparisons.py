"""The table of comparisons in a browser: filtered, changed many at once, taken back, one looked at; an invitation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.database import open_database
from annotation.web import access
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_list import matching
from rlhf.models import registry
from tests.conftest import BASE_NAME, seed_comparisons
from tests.e2e.conftest import go, running_app, wait_for

pytestmark = pytest.mark.browser


def test_comparisons_are_found_assigned_taken_back_and_looked_at(tmp_path: Path, browser: Any) -> None:
    data_dir = tmp_path / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    access.add_account(db, "mira", "annotator", "seven wooden bridges")
    ids = seed_comparisons(db, 60)
    troubles: list[str] = []
    with running_app(data_dir, "--no-workers") as (address, link):
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

        page.select_option("[data-whom]", "person:mira")
        page.click("text=Assign to")
        page.wait_for_selector("#comparisons-said [role=status]:focus:has-text('Assign 2 comparisons to mira?')")
        page.click("text=Assign (2)")
        page.wait_for_selector("#comparisons-said [role=status]:focus:has-text('Assigned: 2 comparisons, to mira.')")
        assert matching(db, ComparisonFilter(assigned=("mira",))) == {ids[0], ids[55]}
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
        page.click("text=Make a link")
        page.wait_for_selector("#invitation-link >> text=It opens on this machine only.")
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as over plain HTTP
        page.click("#invitation-link button")
        page.wait_for_selector("#invitation-link >> text=Not copied: copy what is selected")
        assert page.evaluate("`${getSelection()}`") == page.locator("#invitation-link a").inner_text()
        invited = page.locator("#invitation-link a").get_attribute("href")
        assert invited is not None
        other = browser.new_context()
        joining = other.new_page()
        joining.goto(f"{address}{invited.lstrip('/')}")
        joining.fill("#name", "nina")
        joining.fill("#password", "seven wooden bridges")
        joining.click("text=Make my account")
        joining.wait_for_selector("text=nina · annotator")
        other.close()
        context.close()
    assert troubles == []
    db.close()
