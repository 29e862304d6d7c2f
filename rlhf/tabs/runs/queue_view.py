"""The queue on the Runs page: who waits for what, and buttons to move a waiting job or take it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import UserError
from annotation.tabs.components import Update, acting_box, button, html_box, open_choice
from annotation.translation import _
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.tabs.jobs import job_cards, job_words

BUTTONS = ("up", "down", "take_out")


def lay_out() -> dict[str, Any]:
    parts: dict[str, Any] = {"queue": html_box()}
    with gr.Column(visible=False) as choice:
        parts["queued"] = open_choice(_("A waiting job"), elem_id="queue-job")
        with gr.Row():
            parts["up"] = button(_("Move up"), "queue-up")
            parts["down"] = button(_("Move down"), "queue-down")
            parts["take_out"] = button(_("Take it out"), "queue-take-out")
    parts["queue_choice"] = choice
    parts["queue_said"] = acting_box(speaks=True, elem_id="queue-said")
    return parts


def parts_of(db: Database, chosen: Any, at: str) -> dict[str, Update]:
    """The queue as it stands, and what can be done with the chosen job."""
    waiting = job_store.queue(db)
    place = place_of(waiting, chosen)
    choices = [(job_words.title(job), str(job.id)) for job in waiting]
    if place is None:
        choice, place = gr.update(choices=choices, value=str(waiting[0].id) if waiting else None), 0
    else:
        choice = gr.update(choices=choices)
    return {
        "queue": gr.update(value=job_cards.queue_table(job_store.at_work(db), waiting, at, job_store.rented_jobs(db))),
        "queue_choice": gr.update(visible=bool(waiting)),
        "queued": choice,
        "up": gr.update(interactive=place > 0),
        "down": gr.update(interactive=place < len(waiting) - 1),
        "take_out": gr.update(interactive=bool(waiting)),
    }


def order_of(db: Database) -> list[list[int]]:
    """The jobs that are at work, and those that wait, in order."""
    return [
        [job.id for job in found] for found in (job_store.at_work(db), job_store.queue(db), job_store.rented_jobs(db))
    ]


def place_of(waiting: Sequence[Job], chosen: Any) -> int | None:
    """The place of the chosen job in the queue; None if it is not there (any more)."""
    return next((place for place, job in enumerate(waiting) if str(job.id) == str(chosen)), None)


def change(db: Database, chosen: Any, action: str) -> str:
    """Move the chosen job or take it out, and say so. Raises UserError where it does not wait any more."""
    job = next((job for job in job_store.queue(db) if str(job.id) == str(chosen)), None)
    if job is None:
        raise UserError(_("Choose a job that waits; this one has begun or is gone."))
    if action == "take_out":
        job_store.cancel(db, job.id)
        if job_store.get(db, job.id).status != "cancelled":  # it has begun since the queue was read
            return _("Job {job_id} was asked to stop.").format(job_id=job.id)
        return _("Job {id} is out of the queue. Resume puts it back.").format(id=job.id)
    job_store.move(db, job.id, up=action == "up")
    place = place_of(job_store.queue(db), job.id)
    if place is None:
        return _("Job {id} has begun.").format(id=job.id)
    return _("Job {id} is number {place} in the queue.").format(id=job.id, place=place + 1)
