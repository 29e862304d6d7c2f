"""The whole path in a real browser: sign in, judge by keyboard, train, see the curves, promote, judge again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from annotation.database import Database, open_database
from annotation.imports import importing
from annotation.store import prompt_store, stock_counts
from rlhf.jobs import job_store
from rlhf.models import registry
from tests.conftest import judgement_count, measure_nobody
from tests.e2e.conftest import read_comparison, running_app, wait_for

pytestmark = pytest.mark.browser


@dataclass
class Site:
    """A running app with its owner's link and a look at its rows."""

    link: str
    db: Database
    page: Any

    def wait_until(self, true: Callable[[], Any], what: str) -> None:
        """Wait for the rows to say something; fails with what was waited for and the jobs as they stand."""
        wait_for(self.page, what, true, lambda: job_store.recent(self.db, ("dpo", "check", "answering")))

    def judged(self) -> int:
        """Judgements that count."""
        return judgement_count(self.db)

    def judge(self, key: str) -> None:
        """Press a key when a comparison is on the page, again where the page asks for it, and wait for the row.

        Before its answers are written to their ends a judgement is one that nothing is trained on.
        """
        read_comparison(self.page)
        self.page.locator(".judging .early:empty").wait_for(state="attached")
        before = self.judged()
        self.page.keyboard.press(key)

        def stored() -> bool:
            if self.page.locator(".judging .status:has-text('ot saved')").count():  # as it does when that takes long
                self.page.keyboard.press(key)
            return self.judged() == before + 1

        self.wait_until(stored, f"judgement from key {key}")


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path, browser: Any) -> Iterator[Site]:
    data_dir = tmp_path / "data"
    db = open_database(data_dir)
    measure_nobody(db)  # a re-ask would be judged and not counted
    starter = importing.starter_prompts()
    prompt_store.add_prompts(db, [p for p in starter if p.split == "train"][:20])
    prompt_store.add_prompts(db, [p for p in starter if p.split == "held-out"][:4])
    with running_app(data_dir, "--model", str(tiny_model)) as (_, link):
        context = browser.new_context()
        yield Site(link, db, context.new_page())
        context.close()
    db.close()


def test_from_first_judgement_to_the_next_policy(site: Site) -> None:
    """A person needs nothing but the page; every step is in the rows, and the page shows what the rows say."""
    page = site.page
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site.link)
    page.wait_for_selector("text=owner · admin")

    keys = "2635" * 3
    for key in keys:
        site.judge(key)
    page.wait_for_selector(f"text=· {len(keys)} by you in all")
    read_comparison(page)
    page.keyboard.press("u")
    site.wait_until(lambda: site.judged() == len(keys) - 1, "undone judgement")
    page.wait_for_selector("text=Undone.")
    site.judge("6")

    page.get_by_role("tab", name="Train").click()
    page.click("#dpo-settings > button")
    page.get_by_label("Epochs").first.fill("2")
    page.click("#dpo-start")
    site.wait_until(lambda: registry.all_policies(site.db)[1:], "trained adapter")
    page.wait_for_selector("text=Reward margin")
    page.locator(".plots polyline").first.wait_for(state="attached")
    site.wait_until(
        lambda: any(job.status == "finished" for job in job_store.recent(site.db, ("check",))), "finished check"
    )

    page.get_by_role("tab", name="Iterations").click()
    page.wait_for_selector("#promote:not([disabled])")
    page.wait_for_selector("#promote:has-text('Promote against the rule')")
    page.click("#promote")
    for _press in range(2):
        page.click("#promote-really")
        page.wait_for_selector("[role=status]:focus:has-text('Against the rule it takes a reason')")
    page.fill("#why textarea", "It reads better")
    page.click("#promote-really")
    page.wait_for_selector("text=serves now, against the rule")
    adapter = registry.serving(site.db)
    assert adapter.algorithm == "dpo"

    page.get_by_role("tab", name="Annotate").click()
    site.wait_until(lambda: sum(stock_counts.stock_sizes(site.db, adapter.id).values()), "comparison by the new policy")
    site.judge("2")
    assert errors == []
