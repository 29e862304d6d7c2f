"""The Train tab, a form for each kind of training, and the Runs tab (`runs_tab`), wired to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from annotation.records import Annotator
from annotation.tabs.address import leading
from annotation.tabs.components import QUEUED, opening_of
from annotation.tabs.guard import Context, guarded
from annotation.translation import _
from annotation.ui.tab_addresses import Place, link
from rlhf.jobs.rental_store import Terms
from rlhf.submission import preflight
from rlhf.submission.form_fields import forms
from rlhf.submission.preflight import Preflight
from rlhf.tabs.runs import runs_tab
from rlhf.tabs.runs.runs_tab import RunsPage, shown_revision
from rlhf.tabs.train import automatic_training, rental_form, training_form
from rlhf.tabs.train.training_form import TrainingFormPage

TRAIN, RUNS = "train", "runs"


def build(demo: gr.Blocks, context: Context, guide: gr.HTML) -> list[TrainingFormPage]:
    """Lay both tabs out inside the caller's `with gr.Tabs()` and wire them; every value comes from a guarded handler.
    Returns the forms.
    """
    known = Preflight(context.db, context.data_dir, context.model)
    pages: list[TrainingFormPage] = []
    openings: list[Any] = []
    with gr.Tab(_("Train"), id=TRAIN), gr.Tabs(elem_id="trainings", overflow_behavior="wrap"):
        for form in forms():
            with gr.Tab(_(form.layout.label), id=form.name):
                openings.append(opening_of(demo))
                pages.append(training_form.lay_out(form))
                if form is forms()[0]:
                    automatic_training.build(context, opening_of(demo))
    with gr.Tab(_("Runs"), id=RUNS):
        runs_page = runs_tab.build(context)
    for page, opening in zip(pages, openings, strict=True):
        training_form.wire(page, context, known, opening)
        wire_start(page, context, known, guide)
    wire_runs(pages, context, guide, runs_page)
    return pages


def wire_start(page: TrainingFormPage, context: Context, known: Preflight, guide: gr.HTML) -> None:
    def start(annotator: Annotator, *asked: Any) -> list[Any]:
        job_id = training_form.queued(known, page.spec(known, *asked), annotator.name)
        return ["", leading(link(RUNS, Place((str(job_id),))))]

    start.__name__ = f"start_{page.form.name}"
    page.parts["start"].click(guarded(context, "admin")(start), page.asked, [page.said, guide], **QUEUED)

    def rent(by: str, terms: Terms, *asked: Any) -> tuple[int, list[Any]]:
        job_id = training_form.queued(known, page.spec(known, *asked), by, terms)
        return job_id, [leading(link(RUNS, Place((str(job_id),))))]

    rental_form.wire(page.rented, page.form.name, context, page.asked, rent, [guide])


def wire_runs(pages: Sequence[TrainingFormPage], context: Context, guide: gr.HTML, runs_page: RunsPage) -> None:
    @guarded(context, "admin")
    def start_from(seen: Any) -> list[Any]:
        form, filled = preflight.continuing(context.db, shown_revision(seen))
        updates = [
            gr.update(value=filled[name]) if page.form is form and name in filled else gr.skip()
            for page in pages
            for name in page.inputs
        ]
        return [leading(link(TRAIN, Place((form.name,)))), *updates]

    inputs = [component for page in pages for component in page.inputs.values()]
    runs_page.new_run.click(start_from, runs_page.seen, [guide, *inputs], **QUEUED)
