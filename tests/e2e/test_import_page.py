"""Importing in a real browser: upload, look, change a column, check, import; strangers' text stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from annotation.database import open_database
from annotation.imports import importing
from annotation.store import prompt_store
from rlhf.models import registry
from tests.conftest import BASE_NAME
from tests.e2e.conftest import go, running_app
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)> ${alert(2)} <script>alert(3)</script>"


def test_a_file_is_uploaded_checked_and_imported(tmp_path: Path, browser: Any) -> None:
    data_dir = tmp_path / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    prompt_store.add_prompts(db, importing.starter_prompts()[:3])
    rows = [
        {"prompt": f"{n} {EVIL}", "title": f"title {n}", "chosen": f"good {EVIL}", "rejected": "bad"} for n in range(9)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"prompt": "x", "chosen": null, "rejected": "b"}\n')
    troubles: list[str] = []
    with running_app(data_dir, "--no-workers") as (_, link):
        context = browser.new_context()
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.goto(link)
        page.wait_for_selector("text=owner · admin")
        go(page, "/data/import")
        page.set_input_files("#import-file input[type=file]", path)
        page.wait_for_selector("text=Read as preferences, with prompt = 'prompt'")
        page.click("#import-columns button")
        page.wait_for_function("document.querySelector('#import-column-prompt input')?.value === 'prompt'")
        assert page.locator("#import-columns input").count() == len(("prompt", "chosen", "rejected"))
        page.click("#import-more")
        page.wait_for_selector("#import-column-strength input")
        assert not page.is_visible("#import-more")
        page.fill("#import-column-prompt input", "title")
        page.keyboard.press("Enter")
        page.click("#import-again")
        page.wait_for_selector("text=Read as preferences, with prompt = 'title'")
        page.get_by_label("Gold comparisons, to measure annotators").check()
        page.wait_for_selector("text=Read the first rows again to see what they become now.")
        assert not page.is_visible("text=Read as preferences, with prompt = 'title'"), "said of judgements"
        page.get_by_label("Judgements, to train on").check()
        page.click("#import-check")
        page.wait_for_selector("text=10 rows read. To import: 9 new prompts")
        assert page.is_visible("text=column 'chosen' must be text or messages; found: empty (null)")
        assert db.value("SELECT count(*) FROM judgement") == 0
        page.click("#import-import")
        page.wait_for_selector("text=Imported: 9 new prompts")
        page.reload()
        page.wait_for_selector("text=Imported: 9 new prompts")
        context.close()
    assert troubles == []
    judged = [(j.messages[0]["content"], j.responses[0].text) for j in current_judgements(db)]
    assert judged == [(row["title"], row["chosen"]) for row in rows]
    db.close()
