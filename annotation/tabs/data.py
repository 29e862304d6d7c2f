"""The Data tab: all comparisons, their statistics, what comes in, and what goes out."""

from __future__ import annotations

import gradio as gr

from annotation.tabs import export_form, import_form
from annotation.tabs.comparisons import comparisons_tab
from annotation.tabs.guard import Context
from annotation.translation import _


def build(demo: gr.Blocks, context: Context) -> None:
    with gr.Tabs(elem_id="data-parts", overflow_behavior="wrap"):
        with gr.Tab(_("Comparisons"), id="comparisons"):
            comparisons_tab.build(context)
        with gr.Tab(_("Statistics"), id="statistics"):
            comparisons_tab.build_statistics(context)
        with gr.Tab(_("Import"), id="import"):
            import_form.build(demo, context)
        with gr.Tab(_("Export"), id="export"):
            export_form.build(demo, context)
