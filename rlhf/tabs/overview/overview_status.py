"""Where things stand, read from the rows: what serves, runs and waits, and what is to be done next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from annotation.claims import backlog, judged_counts
from annotation.database import Database
from annotation.jobs import job_table
from annotation.metrics.act_times import act_times, richer_act
from annotation.records import now
from annotation.store import project_store, prompt_store, stock_counts
from annotation.translation import N_, _
from rlhf.data.snapshots import MIN_PAIRS
from rlhf.generation import answering_spec
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.loop import controller
from rlhf.models import registry
from rlhf.tabs.jobs import job_cards
from rlhf.tabs.overview import overview_card
from rlhf.tabs.overview.next_steps import Supply, next_steps, richer_offer
from rlhf.tabs.overview.overview_card import OverviewStatus

ENDED_JOBS: Final = 10
# What is done outside the devices' queue, by the kind of its job. What only asks the Hub takes seconds.
ELSEWHERE: Final[Mapping[str, str]] = {
    "import": N_("An import is at work"),
    "export": N_("An export is at work"),
    "pull": N_("A model is fetched from the Hub"),
    **dict.fromkeys(("publish", "push-data", "make-space"), N_("An upload to the Hub is at work")),
}


def open_jobs(db: Database) -> list[Job]:
    """What runs, here and elsewhere, then what waits, the next one first."""
    return [*job_store.at_work(db), *job_store.rented_jobs(db), *job_store.queue(db)]


def overview_status(db: Database, annotator_id: int) -> OverviewStatus:
    state, at = controller.state_of(db), now()
    running = next(iter(open_jobs(db)), None)
    serving, project = registry.serving(db), project_store.project(db)
    richer = richer_act(act_times(db)) if project.kind == "pair" else None
    others = [ELSEWHERE[kind] for kind in job_table.kinds_at_work(db, "web", "hub") if kind in ELSEWHERE]
    hindered = controller.due(state) and bool(controller.automatic_problems(db))
    steps = next_steps(state, backlog.waiting_for(db, annotator_id), supply_for(db, annotator_id), hindered)
    return OverviewStatus(
        serves=serving.revision,
        judged=state.towards_next,
        wanted=state.auto_train.wanted,
        running=running,
        left=None if running is None else job_cards.seconds_left(job_store.step_times(db, running), running, at),
        steps=tuple(steps),
        offer=richer_offer(project, richer, sum(stock_counts.stock_sizes(db, serving.id).values())),
        least=0 if registry.any_trained(db) or controller.newest_training(db) else MIN_PAIRS,
        elsewhere=_(others[0]) if others else "",
    )


def supply_for(db: Database, annotator_id: int) -> Supply:
    """Whether the model's next answers come to this annotator."""
    if not prompt_store.has_prompts(db, "train"):
        return "lacking"
    if project_store.feedback(db).mode == "ai" or judged_counts.quota_reached(db, annotator_id):
        return "elsewhere"
    return "coming" if answering_spec.answers_come(db) else "unwritten"


def strip_of(db: Database, annotator_id: int) -> dict[str, Any]:
    """The strip as it is now for this annotator, and what the title of the page says: what runs, or has ended."""
    found = overview_status(db, annotator_id)
    ended = job_store.ended(db, job_store.waiting_kinds(), ENDED_JOBS)
    return {
        "html": overview_card.strip(found),
        "open": [job.id for job in open_jobs(db)],
        "said": overview_card.title_of(found.running),
        "over": {str(job.id): overview_card.ended_words(job) for job in ended},
    }
