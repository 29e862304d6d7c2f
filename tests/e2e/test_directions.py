"""Texts of people and models, in a real browser: each begins where its own script does."""

from __future__ import annotations

from typing import Any

import pytest

from annotation.ui import markdown, markup, stylesheet
from rlhf.tabs.jobs import job_cards
from rlhf.tabs.playground import playground_tab

pytestmark = pytest.mark.browser

HEBREW, ENGLISH = "שלום עולם!", "Hello world!"
# Whether a text stands at the right of the box that it is in.
AT_THE_RIGHT = """(words) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const begin = walker.currentNode.data.indexOf(words);
    if (begin < 0) continue;
    const range = document.createRange();
    range.setStart(walker.currentNode, begin);
    range.setEnd(walker.currentNode, begin + words.length);
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


ANSWERS = {
    "literal": lambda text: f'<div class="shown" dir="auto">{text}</div>',
    "rendered": lambda text: f'<div class="shown rendered" dir="auto">{markdown.to_html(text)}</div>',
}


@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("other", [HEBREW, ENGLISH])
def test_each_paragraph_of_an_answer_begins_where_its_script_does(browser: Any, how: str, other: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    texts = [f"{other}\n\n{HEBREW} 1\n\n{ENGLISH} 1", f"- {other}\n- {HEBREW} 2\n- {ENGLISH} 2"]
    page.set_content(
        f"<style>{stylesheet.FOR_GRADIO}</style>"
        f'<body style="width: 1000px"><div class="judging">{"".join(ANSWERS[how](text) for text in texts)}</div>'
    )
    assert page.evaluate(AT_THE_RIGHT, f"{HEBREW} 1")
    assert page.evaluate(AT_THE_RIGHT, f"{HEBREW} 2")
    assert not page.evaluate(AT_THE_RIGHT, f"{ENGLISH} 1")
    assert not page.evaluate(AT_THE_RIGHT, f"{ENGLISH} 2")
    context.close()


def test_code_is_read_from_the_left_within_any_script(browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    shown = ANSWERS["rendered"](f"{HEBREW} `(1,)`\n\n```python\ndef f(x):\n```")
    page.set_content(f'<style>{stylesheet.FOR_GRADIO}</style><div class="judging">{shown}</div>')
    for code in page.locator("code").all():
        assert code.evaluate("box => getComputedStyle(box).direction") == "ltr"
    assert page.locator("pre").evaluate("box => getComputedStyle(box).textAlign") == "start"
    context.close()
