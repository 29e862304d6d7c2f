"""The Data tab: what comes in, and what goes out."""

from __future__ import annotations

import gradio as gr

from annotation.tabs import exporting, importing
from annotation.tabs.guard import Context


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay out the tab inside the caller's `with gr.Tab(...)`."""
    importing.build(demo, context)
    gr.HTML("<hr>")
    exporting.build(demo, context)
