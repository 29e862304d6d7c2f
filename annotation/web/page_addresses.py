"""The addresses of the page: which there are, what opens at them, and what of Gradio's is changed there. No gradio."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

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
SCRIPTS: Final = re.compile(r"/assets/(?:Blocks|core|Index)-[\w-]+\.js")
# In Gradio 6.31: what is built already is not built again at once, but when its program has changed; what was folded is
# only told that it is seen; an early return; a table by component, kept for as long as the listeners are the same; and
# the way to each component, gone again where it still leads there. And the cross at something chosen is called
# by what it removes, not by its number.
QUICKER: Final[Mapping[bytes, bytes]] = {
    b"le(()=>{v(),oe(()=>{O.reload(": b"let built;le(()=>{if(v(),!built){built=!0;return}oe(()=>{O.reload(",
    b"requestAnimationFrame(e));for(let e of n)this.#p(e)}": (
        b"requestAnimationFrame(e));for(let e of n)this.#c.get(e.id)?.({visible:e.props.shared_props.visible??!0})}"
    ),
    b"async set_event_args(e,t){": b"async set_event_args(e,t){if(!Object.keys(t).length)return()=>{};",
    (
        b"find_attached_events(e,t){let n=t.filter(t=>t.targets.find(([t])=>t===e.id)).map(t=>{"
        b"let n=t.targets.find(([t])=>t===e.id);return n?n[1]:null}).filter(Boolean);"
    ): (
        b"find_attached_events(e,t){if(this.listeners!==t){this.listeners=t;this.attached=new Map;"
        b"for(let n of t){let r=new Map;for(let[e,t]of n.targets)r.has(e)||r.set(e,t);"
        b"for(let[e,t]of r)t&&this.attached.set(e,[...this.attached.get(e)??[],t])}}"
        b"let n=this.attached.get(e.id)??[];"
    ),
    (
        b"function Z(e,t){if(e.id===t)return e;"
        b"if(e.children)for(let n of e.children){let e=Z(n,t);if(e)return e}return null}"
    ): (
        b"function Z(e,t){let n=Z.ways??=new Map,r=n.get(t)?.reduce((e,t)=>e?.children?.[t],e);if(r?.id===t)return r;"
        b"let i=[],a=e=>{if(e.id===t)return e;let n=0;"
        b"for(let t of e.children??[]){i.push(n++);let e=a(t);if(e)return e;i.pop()}return null};"
        b"return r=a(e),r&&n.set(t,i),r}"
    ),
    b"h.i18n(`common.remove`)+` `+g(n)": b"h.i18n(`common.remove`)+` `+(typeof g(n)==`number`?g(j)[g(n)]:g(n))",
}


@dataclass(frozen=True)
class PageAddresses:
    """Lets each address of the page open the page, and says what there is none of, or for whom."""

    app: ASGIApp
    tabs: Mapping[Role, Collection[str]]
    """What addresses of each role's page begin with."""
    ends: Collection[str] = ()
    """Addresses that no other goes on from, such as data/import."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = ADDRESS.fullmatch(scope["path"]) if scope["method"] in ("GET", "HEAD") else None
        annotator: Annotator | None = scope.get(ANNOTATOR_KEY)
        if found is None or annotator is None:
            await self.app(scope, receive, send)
        elif found["tab"] in self.tabs[annotator.role] and not self.ended(scope["path"]):
            await self.app({**scope, "path": "/", "raw_path": b"/", "query_string": b""}, receive, send)
        elif opens_page(scope) and not any(one.path.fullmatch(scope["path"]) for one in ALLOWED_ROUTES):
            known = found["tab"] in self.tabs[annotator.role]
            theirs = not known and any(found["tab"] in tabs for tabs in self.tabs.values())
            await nothing_here(theirs)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def ended(self, path: str) -> bool:
        """Whether an address goes on where there is nothing more."""
        whole = path.strip("/")
        return whole not in self.ends and any(whole.startswith(f"{one}/") for one in self.ends)


def nothing_here(theirs: bool) -> HTMLResponse:
    """The page that stands where there is nothing for this person; `theirs`: for admins there is."""
    said = _("Only admins see this page.") if theirs else _("There is nothing at this address.")
    return HTMLResponse(sign_in_pages.dead_end(said), 403 if theirs else 404)


@dataclass(frozen=True)
class Rewriting:
    """Changes what Gradio answers at some `paths`, whole, as `changed` does. To be put behind what packs it."""

    app: ASGIApp
    paths: ClassVar[re.Pattern[str]]
    changed: ClassVar[Callable[[Any, bytes], bytes]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not self.paths.fullmatch(scope["path"]):
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


@dataclass(frozen=True)
class PageHead(Rewriting):
    """Puts something into the head of Gradio's page, and has its files found from any address."""

    inserted: str
    language: str
    """What the html element says of the page's language."""

    paths = re.compile("/")

    def changed(self, whole: bytes) -> bytes:
        assert whole.count(BASE) == whole.count(BEFORE) == 1, "Gradio's page is another one"
        told, found = LANGUAGE.subn(b"<html " + self.language.encode(), whole)
        assert found == 1, "Gradio's page is another one"
        based = told.replace(BASE, b'<base href="/" />', 1)
        return based.replace(BEFORE, self.inserted.encode() + BEFORE, 1)


@dataclass(frozen=True)
class QuickerScripts(Rewriting):
    """Spares the browser half of what Gradio computes while a page is loaded that has many components and listeners.

    Once it has built all of the page it builds all of it again, as for a program that has changed. What comes into view
    is told a moment later what it was made with, which takes back what was typed there meanwhile.
    It looks each listener's component up in the whole tree although there is nothing to be set there, and each
    component's listeners among all of them; and at each event, in the whole tree, every component that any event has
    ever answered to. What another version of Gradio has in place of that stays as it is.
    """

    paths = SCRIPTS

    def changed(self, whole: bytes) -> bytes:
        for slow, quick in QUICKER.items():
            whole = whole.replace(slow, quick)
        return whole
