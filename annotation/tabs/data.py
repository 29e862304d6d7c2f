"""The Data tab: what comes in, and what goes out."""

from __future__ import annotations

import gradio as gr

from annotation.tabs import export_form, import_form
from annotation.tabs.guard import Context


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay out the tab inside the caller's `with gr.Tab(...)`."""
    import_form.build(demo, context)
    gr.HTML("<hr>")
    export_form.build(demo, context)
