"""What an admin is shown on ZeroGPU: what can't work there, and a button that writes answers on the lent GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from annotation.records import Annotator
from annotation.tabs.components import QUEUED, button
from annotation.tabs.guard import Context, guarded
from annotation.translation import _, ngettext
from annotation.validation import stored
from annotation.web.space import ZERO_GPU_NOTICE
from rlhf.generation.answering_spec import AnsweringResult
from rlhf.loop import zero_gpu


def build(context: Context) -> None:
    gr.Markdown(_(ZERO_GPU_NOTICE), elem_id="zero-gpu")
    with gr.Row():
        write = button(_("Write answers"))
        outcome: Any = gr.Textbox(label=_("What was written"), interactive=False)
    # A GPU is lent to events that go through the queue.
    write.click(
        guarded(context, "admin")(partial(write_answers, context)), outputs=outcome, api_name="write-answers", **QUEUED
    )


def write_answers(context: Context, annotator: Annotator) -> str:
    """Fill the stock of comparisons on the lent GPU."""
    job = zero_gpu.write_answers(context.db, context.data_dir, annotator.name)
    if job.status == "finished" and job.result is not None:
        made = stored(AnsweringResult, job.result)
        return ngettext(
            "{comparisons} comparison in {seconds:.0f} s.",
            "{comparisons} comparisons in {seconds:.0f} s.",
            made.comparisons,
        ).format(comparisons=made.comparisons, seconds=made.seconds)
    return _(job.message) or _("The answers were not all written. The Runs tab has job {id}.").format(id=job.id)
