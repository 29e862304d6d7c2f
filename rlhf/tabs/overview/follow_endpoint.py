"""The endpoint by which pages learn what of what they show has changed.

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

from annotation.database import Database
from annotation.records import Annotator
from annotation.translation import _, spoken
from annotation.web.middleware import ANNOTATOR_KEY, by_admin
from annotation.web.watches import TRUSTED_SECONDS, Watches, mark_of
from rlhf.tabs.overview.overview_status import strip_of

ADDRESS: Final = "follow"
STRIP: Final = "strip"
# As many as a page can have in view at once, generously.
MOST_ASKED: Final = 20


@dataclass
class FollowEndpoint:
    """The route by which an admin's page, and nobody else's, asks what has changed."""

    db: Database
    watches: Watches
    kept: dict[tuple[int, str], tuple[int, float, dict[str, Any]]] = field(default_factory=dict)
    """By admin and language the strip, and at which revision of the database and when it was read."""

    def routes(self) -> Sequence[Route]:
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
