"""The Data tab: what comes in, and what goes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from annotation.exports import export_files
from annotation.imports import import_process
from annotation.jobs.lane_runner import LaneRunner
from annotation.tabs import export_form, import_form
from annotation.tabs.guard import Context


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay out the tab inside the caller's `with gr.Tab(...)`."""
    import_form.build(demo, context)
    gr.HTML("<hr>")
    export_form.build(demo, context)


def runners(data_dir: Path) -> list[LaneRunner[Any]]:
    """What does the jobs of the web server's lane; neither waits for the other."""
    return [
        LaneRunner(data_dir, export_files.EXPORTS, export_files.perform),
        LaneRunner(data_dir, import_process.HERE, import_process.perform),
    ]
