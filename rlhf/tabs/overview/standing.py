"""Where things stand, read from the rows; and the endpoint by which the strip follows that, outside Gradio.

At each event of Gradio's the browser walks the whole page, and the strip is in view all day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from annotation import claims, store
from annotation.database import Database
from annotation.metrics.act_times import act_times, richer_act
from annotation.records import now
from annotation.translation import _
from rlhf.jobs import job_store
from rlhf.loop import controller
from rlhf.models import registry
from rlhf.tabs.downloads import by_admin
from rlhf.tabs.overview import overview_card
from rlhf.tabs.overview.next_steps import next_steps, richer_offer
from rlhf.tabs.overview.overview_card import Standing
from rlhf.tabs.runs import job_cards

ADDRESS: Final = "overview/strip"


def standing_of(db: Database) -> Standing:
    """Where things stand now."""
    state, at = controller.state_of(db), now()
    running = next(iter([*job_store.at_work(db), *job_store.rented_jobs(db)]), None)
    serving, project = registry.serving(db), store.project(db)
    richer = richer_act(act_times(db)) if project.kind == "pair" else None
    return Standing(
        serves=serving.revision,
        judged=state.new,
        wanted=state.auto_train.wanted,
        running=running,
        left=None if running is None else job_cards.seconds_left(job_store.step_times(db, running), running, at),
        steps=tuple(next_steps(state, sum(claims.open_comparisons(db).values()))),
        offer=richer_offer(project, richer, sum(store.stock_sizes(db, serving.id).values())),
    )


def strip_of(db: Database) -> str:
    """The strip as it is now."""
    return overview_card.strip(standing_of(db))


@dataclass(frozen=True)
class StripEndpoint:
    """The route by which an admin's page, and nobody else, asks for the strip."""

    db: Database

    def routes(self) -> Sequence[Route]:
        """What the server adds beside the pages."""
        return [Route(f"/{ADDRESS}", self.strip, methods=["GET"])]

    async def strip(self, request: Request) -> Response:
        """The strip as HTML. Who asks comes from the session, as everywhere."""
        if not by_admin(request):
            return PlainTextResponse(_("Only an admin may look at this."), 403)
        return HTMLResponse(await asyncio.to_thread(strip_of, self.db), headers={"Cache-Control": "no-store"})
