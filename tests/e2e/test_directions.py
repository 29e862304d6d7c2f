"""Texts of people and models, in a real browser: each begins where its own script does."""

from __future__ import annotations

from typing import Any

import pytest

from annotation.ui import markup, stylesheet
from rlhf.tabs.jobs import job_cards
from rlhf.tabs.playground import playground_tab

pytestmark = pytest.mark.browser

HEBREW, ENGLISH = "שלום עולם!", "Hello world!"
# Whether a text stands at the right of the box that it is in.
AT_THE_RIGHT = """(words) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    if (!walker.currentNode.data.includes(words)) continue;
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    const [text, box] = [range.getBoundingClientRect(), walker.currentNode.parentElement.getBoundingClientRect()];
    return text.left - box.left > box.right - text.right + 100;
  }
}"""
SHOWN = {
    "a table": lambda text: markup.table(("Prompt", "n"), [(text, "1")]),
    "an answer": lambda text: job_cards.answer_box("dpo-1", text, 3, "stop"),
    "a turn": lambda text: playground_tab.turn("assistant", text, False),
}


@pytest.mark.parametrize("what", SHOWN)
def test_a_text_begins_where_its_script_does(browser: Any, what: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    shown = "".join(SHOWN[what](text) for text in (HEBREW, ENGLISH))
    page.set_content(
        f'<style>{stylesheet.FOR_GRADIO}</style><body style="width: 1000px"><div class="kit">{shown}</div>'
    )
    assert page.evaluate(AT_THE_RIGHT, HEBREW)
    assert not page.evaluate(AT_THE_RIGHT, ENGLISH)
    context.close()
