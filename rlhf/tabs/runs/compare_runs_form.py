"""Comparing runs on the Runs page: the settings that differ, the curves overlaid, the figures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.tabs.components import Update, html_box, open_choice, row_number
from annotation.translation import _
from annotation.ui import line_plots
from annotation.ui.markup import Download
from rlhf.evaluation.finished_checks import newest_check
from rlhf.jobs import job_spec, job_store, run_labels
from rlhf.jobs.job_store import Job
from rlhf.models import registry
from rlhf.tabs import downloads, plot_zoom
from rlhf.tabs.jobs import job_words
from rlhf.tabs.plot_zoom import LookedAt
from rlhf.tabs.runs import compare_runs
from rlhf.tabs.runs.compare_runs import RunSummary

LISTED = 100
LOOK = "comparison"
# As many as there are hues to tell the curves apart.
MOST = len(line_plots.HUES)


def lay_out() -> dict[str, Any]:
    with gr.Accordion(_("Compare runs"), open=False, visible=False) as comparable:
        return {
            "comparable": comparable,
            "compared": open_choice(
                _("Runs to compare"),
                info=_("Two or more, up to {most}.").format(most=MOST),
                multiselect=True,
                max_choices=MOST,
                elem_id="compare-runs",
            ),
            "settings": html_box(),
            "overlaid": html_box(),
            **plot_zoom.lay_out(LOOK, _("Compare closely")),
            "figures": html_box(),
        }


def chosen_jobs(db: Database, chosen: Any) -> list[Job]:
    """The chosen runs, in the order in which they were chosen; what is no training run is passed over."""
    typed = map(row_number, chosen if isinstance(chosen, list) else [])
    numbers = [number for number in typed if number is not None]
    known = {job.id: job for job in job_store.with_ids(db, numbers[:MOST])}
    return [known[number] for number in numbers if number in known and known[number].kind in job_spec.trainings()]


def choice_parts(db: Database) -> dict[str, Update]:
    """The runs that there are to choose from; with fewer than two nothing is asked."""
    runs = job_store.recent(db, tuple(job_spec.trainings()), LISTED)
    known = run_labels.labels(db)
    choices = [(job_words.title(job, known.get(job.id, run_labels.NONE).name), str(job.id)) for job in runs]
    return {"compared": gr.update(choices=choices), "comparable": gr.update(visible=len(runs) > 1)}


def key_of(db: Database, chosen: Sequence[Job]) -> list[Any]:
    """Changes whenever the comparison may."""
    return [
        [job.id, job.status, job_store.newest_event(db, job.id), run_labels.label_of(db, job.id).name] for job in chosen
    ]


def parts_of(db: Database, chosen: Sequence[Job], look: Any = None) -> tuple[dict[str, Update], LookedAt]:
    """The comparison of the chosen runs, and what of it is looked at closely."""
    runs = [compared(db, job) for job in chosen]
    close, look = looks_at(runs, look)
    return {
        "settings": gr.update(value=compare_runs.settings_table(runs)),
        "overlaid": gr.update(value=compare_runs.overlaid(runs)),
        "figures": gr.update(value=compare_runs.figures_table(runs)),
        **close,
    }, look


def look_at(db: Database, chosen: Sequence[Job], look: Any, name: str) -> tuple[dict[str, Update], LookedAt]:
    """The plot of that name, of the chosen runs, closely."""
    return looks_at([compared(db, job) for job in chosen], look, name)


def looks_at(runs: Sequence[RunSummary], look: Any, name: str | None = None) -> tuple[dict[str, Update], LookedAt]:
    """One of the plots that runs share, closely, and where all their values are fetched."""
    files = [
        Download(downloads.metrics_address(run.job.id), _("All values of {name} (CSV)").format(name=run.name))
        for run in runs
    ]
    return plot_zoom.updates(LOOK, compare_runs.shared(runs), files, look, name)


def compared(db: Database, job: Job) -> RunSummary:
    """A run with its curves, and the newest check of the policy that it made."""
    made = registry.of_job(db, job.id)
    check = None if made is None else newest_check(db, made.revision)
    return RunSummary(
        job=job,
        metrics=job_store.metrics(db, job.id),
        made=None if made is None else made.revision,
        check=None if check is None else check.report,
        called=run_labels.label_of(db, job.id).name,
    )
