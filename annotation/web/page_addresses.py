"""The addresses of the page: which there are, and what opens at them. No gradio."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotation.records import Annotator, Role
from annotation.translation import _
from annotation.web import sign_in_pages
from annotation.web.deferred_app import opens_page
from annotation.web.gradio_allowlist import ALLOWED_ROUTES
from annotation.web.middleware import ANNOTATOR_KEY

# A tab and up to three steps within it, as a server reads them: with their %-escapes taken for what they mean.
ADDRESS: Final = re.compile(r"/(?P<tab>[a-z][a-z-]{0,39})(?:/[^/\x00-\x1f\x7f]{1,200}){0,3}/?")
BASE: Final = b'<base href="./" />'
LANGUAGE: Final = re.compile(rb'<html\s+lang="en"')
BEFORE: Final = b"<script data-gradio-mode>"


@dataclass(frozen=True)
class PageAddresses:
    """Lets each address of the page open the page, and says what there is none of, or for whom."""

    app: ASGIApp
    tabs: Mapping[Role, Collection[str]]
    """What addresses of each role's page begin with."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = ADDRESS.fullmatch(scope["path"]) if scope["method"] in ("GET", "HEAD") else None
        annotator: Annotator | None = scope.get(ANNOTATOR_KEY)
        if found is None or annotator is None:
            await self.app(scope, receive, send)
        elif found["tab"] in self.tabs[annotator.role]:
            await self.app({**scope, "path": "/", "raw_path": b"/", "query_string": b""}, receive, send)
        elif opens_page(scope) and not any(one.path.fullmatch(scope["path"]) for one in ALLOWED_ROUTES):
            theirs = any(found["tab"] in tabs for tabs in self.tabs.values())
            await nothing_here(theirs)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def nothing_here(theirs: bool) -> HTMLResponse:
    """The page that stands where there is nothing for this person; `theirs`: for admins there is."""
    said = _("Only admins see this page.") if theirs else _("There is nothing at this address.")
    return HTMLResponse(sign_in_pages.dead_end(said), 403 if theirs else 404)


@dataclass(frozen=True)
class PageHead:
    """Puts something into the head of Gradio's page, and has its files found from any address. Behind what packs it."""

    app: ASGIApp
    inserted: str
    language: str
    """What the html element says of the page's language."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        start: Message = {}
        page = bytearray()

        async def send_changed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            page.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            whole = self.changed(bytes(page)) if start["status"] == 200 else bytes(page)
            MutableHeaders(scope=start)["content-length"] = str(len(whole))
            await send(start)
            await send({"type": "http.response.body", "body": whole})

        await self.app(scope, receive, send_changed)

    def changed(self, page: bytes) -> bytes:
        assert page.count(BASE) == page.count(BEFORE) == 1, "Gradio's page is another one"
        whole, found = LANGUAGE.subn(b"<html " + self.language.encode(), page)
        assert found == 1, "Gradio's page is another one"
        whole = whole.replace(BASE, b'<base href="/" />', 1)
        return whole.replace(BEFORE, self.inserted.encode() + BEFORE, 1)
