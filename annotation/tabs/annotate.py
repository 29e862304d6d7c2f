"""The Annotate tab: a comparison, blind, judged with the mouse, by touch or wholly by keyboard."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from annotation.tabs.components import in_template
from annotation.tabs.guard import Context
from annotation.translation import _, spoken

# Only a skeleton, the same for everybody: the script asks `annotation.api` for what goes into it and sets it as
# text nodes, or as HTML that `annotation.ui.markdown` made safe. Gradio evaluates a template with its values as a
# JavaScript template literal, so that an answer with a dollar sign and braces in it would run as code.
SKELETON = """
<div class="judging" data-state="loading">
  <div class="bar">
    <div class="progress"><p class="said"></p><progress aria-label="{today}" hidden></progress></div>
    <div class="tools"></div>
  </div>
  <section class="keys panel" aria-labelledby="keys-title" hidden>
    <h2 id="keys-title" tabindex="-1">{keys}</h2><ul></ul>
    <p><input type="checkbox" id="single-keys"> <label for="single-keys">{single}</label></p>
  </section>
  <details class="guidelines panel" hidden>
    <summary>
      <span class="name">{guidelines}</span>
      <kbd aria-hidden="true">G</kbd> <span class="news"></span>
    </summary>
    <div class="shown rendered" dir="auto" role="group" aria-label="{guidelines}"></div>
  </details>
  <section class="mine panel" aria-labelledby="mine-title" hidden>
    <h2 id="mine-title" tabindex="-1">{mine}</h2><p class="alike"></p><ol></ol>
  </section>
  <div class="revising" hidden></div>
  <p class="next" role="status" aria-live="polite"></p>
  <div class="comparison"></div>
  <p class="waiting" role="status" tabindex="-1"></p>
  <p class="loading">{loading}</p>
  <div class="verdict-bar"><div class="verdicts"></div><p class="status" role="status" aria-live="polite"></p></div>
  <p class="safety" hidden></p>
  <details class="ask panel" hidden>
    <summary>{ask}</summary>
    <label for="own-prompt">{prompt}</label>
    <textarea id="own-prompt" rows="3" maxlength="4000"></textarea>
  </details>
</div>
"""
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay out the tab inside the caller's `with gr.Tab(...)`; it has no listeners of Gradio's."""
    gr.HTML(
        html_template=SKELETON.format(
            today=in_template(_("Judged today")),
            keys=in_template(_("Keys")),
            single=in_template(_("Single keys judge, without Ctrl or Alt")),
            guidelines=in_template(_("Guidelines")),
            mine=in_template(_("My judgements")),
            loading=in_template(_("Loading …")),
            ask=in_template(_("Write a prompt of your own")),
            prompt=in_template(_("Prompt")),
        ),
        js_on_load=SCRIPT,
        apply_default_css=False,
        elem_id="comparison",
        sentences=dict(spoken().script),
        plurals=list(spoken().plurals),
        language=spoken().code,
    )
