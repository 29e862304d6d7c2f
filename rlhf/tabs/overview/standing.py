"""Where things stand, read from the rows; and the endpoint by which pages learn what of what they show has changed.

At each event of Gradio's the browser walks the whole page, and it is open all day: so it asks here first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from annotation import claims, store
from annotation.database import Database
from annotation.metrics.act_times import act_times, richer_act
from annotation.records import Annotator, now
from annotation.translation import _, spoken
from annotation.web.middleware import ANNOTATOR_KEY
from annotation.web.watches import TRUSTED_SECONDS, Watches, mark_of
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.loop import controller
from rlhf.models import registry
from rlhf.tabs.downloads import by_admin
from rlhf.tabs.overview import overview_card
from rlhf.tabs.overview.next_steps import next_steps, richer_offer
from rlhf.tabs.overview.overview_card import Standing
from rlhf.tabs.runs import job_cards

ADDRESS: Final = "follow"
STRIP: Final = "strip"
# As many as a page can have in view at once, generously.
MOST_ASKED: Final = 20
ENDED_JOBS: Final = 10


def open_jobs(db: Database) -> list[Job]:
    """What runs, here and elsewhere, then what waits, the next one first."""
    return [*job_store.at_work(db), *job_store.rented_jobs(db), *job_store.queue(db)]


def standing_of(db: Database, annotator_id: int) -> Standing:
    """Where things stand now, for this annotator."""
    state, at = controller.state_of(db), now()
    running = next(iter(open_jobs(db)), None)
    serving, project = registry.serving(db), store.project(db)
    by_people = store.feedback(db).mode != "ai" and store.has_prompts(db, "train")
    more = by_people and not claims.quota_reached(db, annotator_id)
    richer = richer_act(act_times(db)) if project.kind == "pair" else None
    return Standing(
        serves=serving.revision,
        judged=state.towards_next,
        wanted=state.auto_train.wanted,
        running=running,
        left=None if running is None else job_cards.seconds_left(job_store.step_times(db, running), running, at),
        steps=tuple(next_steps(state, claims.waiting_for(db, annotator_id), more, job_store.answers_come(db))),
        offer=richer_offer(project, richer, sum(store.stock_sizes(db, serving.id).values())),
    )


def strip_of(db: Database, annotator_id: int) -> dict[str, Any]:
    """The strip as it is now for this annotator, and what the title of the page says: what runs, or has ended."""
    found = standing_of(db, annotator_id)
    ended = job_store.ended(db, job_store.waiting_kinds(), ENDED_JOBS)
    return {
        "html": overview_card.strip(found),
        "open": [job.id for job in open_jobs(db)],
        "said": overview_card.title_of(found.running),
        "over": {str(job.id): overview_card.ended_words(job) for job in ended},
    }


@dataclass
class FollowEndpoint:
    """The route by which an admin's page, and nobody else's, asks what has changed."""

    db: Database
    watches: Watches
    kept: dict[tuple[int, str], tuple[int, float, dict[str, Any]]] = field(default_factory=dict)
    """By admin and language the strip, and at which revision of the database and when it was read."""

    def routes(self) -> Sequence[Route]:
        """What the server adds beside the pages."""
        return [Route(f"/{ADDRESS}", self.follow, methods=["GET"])]

    async def follow(self, request: Request) -> Response:
        """Of each thing that is asked for null where it is as it was; else the strip, or true. Who asks comes from the
        session, as everywhere.
        """
        if not by_admin(request):
            return PlainTextResponse(_("Only an admin may look at this."), 403)
        asked = [tuple(one.rpartition(" ")[::2]) for one in request.query_params.getlist("of")[:MOST_ASKED]]
        found = await asyncio.to_thread(self.changes, request.scope[ANNOTATOR_KEY], asked)
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    def changes(self, annotator: Annotator, asked: Sequence[tuple[str, ...]]) -> Mapping[str, Any]:
        """What has changed of the things asked for, each a key and the mark of what the page shows of it."""
        found: dict[str, Any] = {}
        for key, mark in asked:
            if key == STRIP:
                strip = self.strip(annotator)
                found[key] = None if strip["mark"] == mark else strip
            else:
                found[key] = True if self.watches.changed(annotator, key, mark) else None
        return found

    def strip(self, annotator: Annotator) -> dict[str, Any]:
        """An admin's strip with its mark, read again after a commit or some seconds."""
        revision, at, reader = self.db.revision(), time.monotonic(), (annotator.id, spoken().code)
        kept = self.kept.get(reader)
        if kept is None or kept[0] != revision or at - kept[1] > TRUSTED_SECONDS:
            read = strip_of(self.db, annotator.id)
            kept = self.kept[reader] = (revision, at, {**read, "mark": mark_of(read)})
        return kept[2]
