"""The Annotate tab: two answers side by side, blind, judged with the mouse or wholly by keyboard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from annotation import store
from annotation.records import Annotator, Claim, UserError, now
from annotation.tabs.guard import Context, guarded

Card = dict[str, Any]

# (word for Verdict.parse, label, key): the key is part of the button's id, which is how the script finds it.
BUTTONS: tuple[tuple[str, str, str], ...] = (
    ("left-better", "Left is better", "1"),
    ("left-slightly", "Left slightly", "2"),
    ("tie", "Tie", "3"),
    ("right-slightly", "Right slightly", "4"),
    ("right-better", "Right is better", "5"),
    ("all-bad", "Both bad", "0"),
    ("skip", "Skip", "S"),
)

# Only a skeleton: the script fills in what a model wrote as text nodes. Gradio evaluates a template with its values
# as a JavaScript template literal, so that an answer with a dollar sign and braces in it would run as code.
SKELETON = """
<div class="judging" data-state="loading">
  <section class="conversation" aria-label="Prompt"></section>
  <div class="answers">
    <section class="answer" aria-label="Left answer">
      <h2>Left</h2><div class="text" dir="auto" tabindex="0"></div>
    </section>
    <section class="answer" aria-label="Right answer">
      <h2>Right</h2><div class="text" dir="auto" tabindex="0"></div>
    </section>
  </div>
  <p class="waiting">The model is writing the next answers. They appear here by themselves.</p>
  <p class="loading">Loading …</p>
  <p class="status" role="status" aria-live="polite"></p>
</div>
"""
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay out the tab inside the caller's `with gr.Tab(...)`.

    One component carries everything that changes. It is the input, too: the browser sends back the nonce of the
    comparison that the person saw, so that a late or repeated press can't count for another one.
    """
    gr.Markdown("Which answer is better? Judge by your own taste; who wrote them stays hidden.", elem_id="question")
    card: Any = gr.HTML(html_template=SKELETON, js_on_load=SCRIPT, apply_default_css=False, elem_id="comparison")
    guard = guarded(context, "annotator")
    common: dict[str, Any] = {
        "inputs": card,
        "outputs": card,
        "queue": False,
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    with gr.Row(elem_id="verdicts"):
        buttons = {word: verdict_button(label, key) for word, label, key in BUTTONS}
        undo = gr.Button("Undo (U)", elem_id="key-u")
    for word, button in buttons.items():
        button.click(guard(judging(context, word)), api_name=f"judge-{word}", **common)
    undo.click(guard(undoing(context)), api_name="undo", **common)
    card.poll(guard(showing(context)), api_name="poll", **common)
    demo.load(guard(showing(context)), api_name="show", **common)


def verdict_button(label: str, key: str) -> gr.Button:
    """A button that shows its key."""
    return gr.Button(f"{label} ({key})", elem_id=f"key-{key.lower()}", elem_classes="verdict")


def judging(context: Context, word: str) -> Callable[[Annotator, Any], Card]:
    """The handler of one verdict's button."""

    def judge(annotator: Annotator, shown: Any) -> Card:
        """Record the judgement of what was shown and give the next comparison."""
        nonce = shown_nonce(shown)
        if not nonce:
            return card_for(context, annotator)
        try:
            store.judge(context.db, annotator.id, nonce, word)
        except UserError as error:
            return card_for(context, annotator, notice=str(error))
        return card_for(context, annotator)

    return judge


def undoing(context: Context) -> Callable[[Annotator, Any], Card]:
    """The handler of the Undo button."""

    def undo(annotator: Annotator, shown: Any) -> Card:
        """Take back the latest judgement and show its comparison again."""
        try:
            store.undo(context.db, annotator.id, shown_nonce(shown))
        except UserError as error:
            return card_for(context, annotator, notice=str(error))
        return card_for(context, annotator, notice="Undone. Judge it again.")

    return undo


def showing(context: Context) -> Callable[[Annotator, Any], Card]:
    """The handler of a page that opens, or waits for a comparison."""

    def show(annotator: Annotator, shown: Any) -> Card:
        """Give the comparison in this annotator's hands, or the next one."""
        return card_for(context, annotator)

    return show


def shown_nonce(shown: Any) -> str:
    """The nonce of the card that the browser showed; empty where it showed none."""
    nonce = shown.get("nonce") if isinstance(shown, dict) else None
    return nonce if isinstance(nonce, str) else ""


def card_for(context: Context, annotator: Annotator, notice: str = "") -> Card:
    """All that the browser gets: texts in the order shown and the nonce; nothing of ids, policies or splits.

    The time makes each answer differ from the one before, so that the page notices that it was answered.
    """
    judged = store.judgement_count(context.db, annotator)
    claim = store.claim_next(context.db, annotator.id)
    shown = comparison_part(claim) if claim else {"nonce": ""}
    if claim is None:
        notice = notice or context.trouble()
    return {"notice": notice, "judged": judged, "answered": now(), **shown}


def comparison_part(claim: Claim) -> Card:
    """What is shown of a claim."""
    return {
        "nonce": claim.nonce,
        "messages": [{"role": message["role"], "content": message["content"]} for message in claim.messages],
        "answers": list(claim.shown_texts),
    }
