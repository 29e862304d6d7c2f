"""The door before Gradio: which of its routes a person reaches, and what of a request Gradio gets to see. No gradio.

Gradio works on a request before any handler of ours: it copies files that an event names, downloads addresses, and
keeps a page's results for whoever says the page's number. So each route that the pages need is named in
`ALLOWED_ROUTES`, with who may use it, and everything else is closed. What an event brings is read here, and passed on
as it was understood.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotation.records import ONLY_ADMINS, Annotator, Role, storable
from annotation.translation import _
from annotation.web.middleware import ANNOTATOR_KEY, read_body

MAXIMUM_EVENT: Final = {"annotator": 64 * 1024, "admin": 1024 * 1024}
"""Bytes that an event's body may have."""
MAXIMUM_DEPTH: Final = 40
# What Gradio can send back.
LARGEST_INTEGER: Final = 2**63 - 1
MAXIMUM_UPLOADS: Final = 100
# A page has two or three, and a browser opens no more than six connections to a server that speaks HTTP/1.1. Fewer
# than an account may have under way altogether.
MAXIMUM_STREAMS: Final = 60
# Random texts of eleven characters in a browser; a program may choose its own.
SESSION: Final = re.compile(r"[\w-]{1,64}", re.ASCII)
# A dict with one of these is a file to one part of Gradio or another; nothing else that a page sends has them.
FILE_KEYS: Final = frozenset(("path", "url", "meta", "orig_name", "mime_type", "is_stream", "_type"))


# What a function is given at a place: one value or none, a number, several values, those or none, a file or none, or
# anything.
FieldKind = Literal["one", "number", "several", "some", "file", "any"]


@dataclass(frozen=True)
class Function:
    """A function that the pages call, as Gradio knows it."""

    number: int
    name: str
    role: Role
    takes: tuple[FieldKind, ...] | None = None
    """What is in an event for it; None for whatever comes."""

    def fits(self, data: Any) -> bool:
        """Whether this is something for each of its fields; what it says, the handler checks."""
        if self.takes is None:
            return True
        return isinstance(data, list) and len(data) == len(self.takes) and all(map(fits, data, self.takes))


def fits(value: Any, kind: FieldKind) -> bool:
    """Whether a value is of a kind that Gradio's component takes, else it fails on it before any handler sees it."""
    match kind:
        case "one":
            return not isinstance(value, list | dict)
        case "number":
            return isinstance(value, int | float)
        case "some" | "file" if value is None:
            return True
        case "file":
            return isinstance(value, dict) and "path" in value
        case "several" | "some":
            return isinstance(value, list) and all(isinstance(one, str | int | float) for one in value)
    return True


RequestKind = Literal["read", "beat", "results", "result", "event", "note", "send", "follow", "fetch"]


@dataclass(frozen=True)
class AllowedRoute:
    """One of Gradio's routes: methods, the whole path, who may use it, and what is done with a request."""

    methods: tuple[str, ...]
    path: re.Pattern[str]
    role: Role
    kind: RequestKind
    keys: tuple[str, ...] = ()
    """What of an event's body is passed on."""


def allowed_route(methods: str, path: str, role: Role, kind: RequestKind, keys: str = "") -> AllowedRoute:
    return AllowedRoute(
        methods=tuple(methods.split()), path=re.compile(path, re.ASCII), role=role, kind=kind, keys=tuple(keys.split())
    )


EVENT_KEYS: Final = "session_hash data fn_index trigger_id event_data"
NAME: Final = r"(?P<name>[\w-]{1,100})"
EVENT: Final = r"(?P<event>[0-9a-f]{32})"
ALLOWED_ROUTES: Final = (
    allowed_route("GET HEAD", r"/", "annotator", "read"),
    allowed_route("GET", r"/config|/manifest\.json|/robots\.txt|/gradio_api/startup-events", "annotator", "read"),
    allowed_route("GET HEAD", r"(/gradio_api)?/theme\.css|/favicon\.ico", "annotator", "read"),
    allowed_route("GET HEAD", r"/(assets|static|svelte)(/(?!\.)[\w.@+-]{1,200}){1,9}", "annotator", "read"),
    allowed_route("GET", r"/gradio_api/heartbeat/(?P<session>[\w-]+)", "annotator", "beat"),
    allowed_route("GET", r"/gradio_api/queue/data", "annotator", "results"),
    allowed_route("POST", rf"/gradio_api/run/{NAME}", "annotator", "event", EVENT_KEYS),
    allowed_route("POST", r"/gradio_api/queue/join", "annotator", "event", EVENT_KEYS),
    allowed_route("POST", rf"/gradio_api/api/{NAME}", "admin", "event", EVENT_KEYS),
    allowed_route("POST", rf"/gradio_api/call/{NAME}", "admin", "event", "session_hash data"),
    allowed_route("GET", rf"/gradio_api/call/{NAME}/{EVENT}", "admin", "result"),
    allowed_route("POST", r"/gradio_api/cancel", "admin", "note", "session_hash fn_index event_id"),
    allowed_route("POST", r"/gradio_api/reset", "admin", "note", "event_id"),
    allowed_route("POST", r"/gradio_api/upload", "admin", "send"),
    allowed_route("GET", r"/gradio_api/upload_progress", "admin", "follow"),
    allowed_route("GET HEAD", r"/gradio_api/file=(?P<file>.+)", "admin", "fetch"),
)


class RequestRefused(Exception):
    """A request that Gradio does not get to see: the status and the sentence of the answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


@dataclass
class Ownership:
    """Which account texts belong to, such as the numbers of pages: the first that comes with one. Bounded memory.

    The oldest of an account's own make room for its newer ones, so nobody can have another's forgotten, unless with as
    many accounts as are remembered.
    """

    each: int
    """Texts of one account."""
    accounts: int = 1_000
    _owner: dict[str, int] = field(default_factory=dict)
    _of: OrderedDict[int, OrderedDict[str, None]] = field(default_factory=OrderedDict)

    def claim(self, text: str, account: int) -> bool:
        """Whether it belongs to this account, which it does from now on if it belonged to nobody."""
        if self._owner.get(text, account) != account:
            return False
        own = self._of.setdefault(account, OrderedDict())
        self._owner[text] = account
        own[text] = None
        own.move_to_end(text)
        self._of.move_to_end(account)
        if len(own) > self.each:
            del self._owner[own.popitem(last=False)[0]]
        if len(self._of) > self.accounts:
            for forgotten in self._of.popitem(last=False)[1]:
                del self._owner[forgotten]
        return True

    def has(self, account: int, text: str) -> bool:
        return self._owner.get(text) == account

    def is_anothers(self, account: int, text: str) -> bool:
        return self._owner.get(text, account) != account


@dataclass(frozen=True)
class AccountHoldings:
    """What each account has of what there is only so much of, in the pages of all languages together."""

    pages: Ownership = field(default_factory=lambda: Ownership(100))
    uploads: dict[int, OrderedDict[str, None]] = field(default_factory=dict)
    """Paths by account. Two who send the same file share its path, so one doesn't belong to the first alone."""
    streams: Counter[int] = field(default_factory=Counter)
    sending: Counter[int] = field(default_factory=Counter)
    """Uploads on their way."""


class GradioGuard:
    """Stands around the mounted Gradio, behind `SignedIn`, which says who asks."""

    def __init__(
        self,
        app: ASGIApp,
        functions: Iterable[Function],
        holdings: AccountHoldings | None = None,
        directory: Path | None = None,
    ) -> None:
        self.app = app
        self.directory = directory
        """Where Gradio puts uploads."""
        self.functions = {function.number: function for function in functions}
        held = holdings or AccountHoldings()
        self.pages, self.uploads, self.streams, self.sending = held.pages, held.uploads, held.streams, held.sending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "SignedIn lets nothing else through"
        try:
            annotator: Annotator | None = scope.get(ANNOTATOR_KEY)
            if annotator is None:
                raise RequestRefused(401, _("Sign in first."))
            taken, found = find_route(scope, annotator)
            await GuardedRequest(
                door=self, annotator=annotator, way=taken, parts=found, scope=scope, receive=receive, send=send
            ).go()
        except RequestRefused as refused:
            await JSONResponse({"error": refused.sentence}, refused.status)(scope, receive, send)

    def clear_unfinished(self) -> None:
        """Remove what Gradio leaves of uploads that came to no end: what has filled a disk would keep it full."""
        if self.directory is not None and not self.sending.total():
            for path in self.directory.glob("tmp*"):
                if path.is_file():
                    path.unlink(missing_ok=True)

    def function(self, number: Any, name: str | None) -> Function:
        """The function that Gradio would call. Raises RequestRefused where there is none."""
        if number is None:
            found = next((one for one in self.functions.values() if one.name == name), None)
        else:
            found = self.functions.get(number) if type(number) is int else None
        if found is None:
            raise RequestRefused(404, _("There is no such function. Reload the page."))
        return found


def find_route(scope: Scope, annotator: Annotator) -> tuple[AllowedRoute, Mapping[str, str | None]]:
    """The way that a request takes, and the parts of its path. Raises RequestRefused where it may take none.

    The path is taken as Gradio's router takes it, with %-escapes read; in any other spelling it is no path of ours.
    """
    closed = RequestRefused(403, _(ONLY_ADMINS)) if annotator.role != "admin" else RequestRefused(404, _("Not found."))
    if scope.get("root_path"):
        raise closed
    for one in ALLOWED_ROUTES:
        found = one.path.fullmatch(scope["path"])
        if found and scope["method"] in one.methods and annotator.role in (one.role, "admin"):
            return one, found.groupdict()
    raise closed


def refusing(send: Send) -> Send:
    """Gradio answers a refusal in words as it does an error of the program, with 500: it is one of 422."""
    start: Message = {}

    async def send_with_status(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start" and message["status"] == 500:
            start = message
            return
        if start:
            refused = b'"title"' in message.get("body", b"")
            await send({**start, "status": 422 if refused else 500})
            start = {}
        await send(message)

    return send_with_status


@dataclass(frozen=True)
class GuardedRequest:
    door: GradioGuard
    annotator: Annotator
    way: AllowedRoute
    parts: Mapping[str, str | None]
    scope: Scope
    receive: Receive
    send: Send

    async def go(self) -> None:
        """Pass the request on to Gradio, if it may. Raises RequestRefused."""
        match self.way.kind:
            case "read":
                await self.door.app({**self.scope, "query_string": b""}, self.receive, self.send)
            case "beat":
                self.own_page(self.parts["session"])
                await self.stream({**self.scope, "query_string": b""})
            case "results":
                self.known_page(QueryParams(self.scope["query_string"]).getlist("session_hash"))
                await self.stream(self.scope)
            case "result":
                # Gradio takes an event that it does not know for the number of a page.
                if self.door.pages.is_anothers(self.annotator.id, self.parts["event"] or ""):
                    raise RequestRefused(404, _("Not found."))
                await self.stream({**self.scope, "query_string": b""})
            case "event" | "note":
                await self.event()
            case "send":
                await self.upload()
            case "follow":
                await self.stream(self.scope)
            case "fetch":
                self.own_file({"path": self.parts["file"]})
                # Gradio fails on a range that is an odd one.
                headers = [pair for pair in self.scope["headers"] if pair[0] not in (b"range", b"if-range")]
                await self.door.app({**self.scope, "query_string": b"", "headers": headers}, self.receive, self.send)

    # ---------------------------------------------------------------------------------------------------------- pages
    def own_page(self, session: Any) -> None:
        """Raises RequestRefused unless the page's number is this account's; a new one is from now on."""
        if not isinstance(session, str) or not SESSION.fullmatch(session):
            raise RequestRefused(400, _("This is no number of a page. Reload the page."))
        if not self.door.pages.claim(session, self.annotator.id):
            raise RequestRefused(403, _("This page was opened by another account. Reload it."))

    def known_page(self, sessions: Sequence[str]) -> None:
        """Raises RequestRefused unless one page of this account is asked for that has called something."""
        if len(sessions) != 1 or not self.door.pages.has(self.annotator.id, sessions[0]):
            raise RequestRefused(404, _("This page has asked for nothing. Reload it."))

    async def stream(self, scope: Scope) -> None:
        """Pass on what stays open. One account can't have all connections."""
        open_ones, account = self.door.streams, self.annotator.id
        if open_ones[account] >= MAXIMUM_STREAMS:
            raise RequestRefused(429, _("Too many pages are open. Close some."))
        open_ones[account] += 1
        try:
            await self.door.app(scope, self.receive, self.send)
        finally:
            open_ones[account] -= 1

    # --------------------------------------------------------------------------------------------------------- events
    async def event(self) -> None:
        """Pass an event on as it was read, with nothing in it that this account may not ask for."""
        asked = {key: value for key, value in (await self.body()).items() if key in self.way.keys}
        if asked.get("session_hash") is not None:
            self.own_page(asked["session_hash"])
        if self.way.kind == "event":
            function = self.door.function(asked.get("fn_index"), self.parts.get("name"))
            if function.role == "admin" and self.annotator.role != "admin":
                raise RequestRefused(403, _(ONLY_ADMINS))
        event = self.cleaned(asked)
        if self.way.kind == "event" and not function.fits(event.get("data")):
            raise RequestRefused(422, _("A field holds what it can't hold. Reload the page."))
        await self.pass_on(event)

    async def body(self) -> dict[str, Any]:
        """The event's JSON object. Raises RequestRefused where it is none, or too large."""
        headers = Headers(scope=self.scope)
        kind = headers.get("content-type", "").split(";")[0].strip().casefold()
        if kind != "application/json" or "content-encoding" in headers:
            raise RequestRefused(415, _("An event is JSON."))
        try:
            asked = json.loads((await self.read(MAXIMUM_EVENT[self.annotator.role])).decode())
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            raise RequestRefused(400, _("An event is a JSON object."))
        return asked

    async def read(self, limit: int) -> bytes:
        """The request's body. Raises RequestRefused where it is too large or does not arrive."""
        try:
            body = await read_body(Request(self.scope, self.receive), limit)
        except HTTPException as error:
            raise RequestRefused(error.status_code, error.detail) from None
        if body is None:
            raise RequestRefused(413, _("An event has at most {limit:,} bytes.").format(limit=limit))
        return body

    async def pass_on(self, asked: Any) -> None:
        """Hand Gradio the event in our spelling, so that it can't read another one than we did."""
        body = json.dumps(asked).encode()
        scope = {**self.scope, "query_string": b"", "headers": list(self.scope["headers"])}
        headers = MutableHeaders(scope=scope)
        for name in ("content-type", "content-length", "transfer-encoding"):
            del headers[name]
        headers["content-type"], headers["content-length"] = "application/json", str(len(body))
        rest: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return rest.pop() if rest else await self.receive()

        await self.door.app(scope, replay, refusing(self.send))

    def cleaned(self, value: Any, depth: int = 0) -> Any:
        """A part of an event in which each file is an own upload and each text is whole. Raises RequestRefused."""
        if depth > MAXIMUM_DEPTH:
            raise RequestRefused(400, _("This event is nested too deeply."))
        if isinstance(value, list):
            return [self.cleaned(item, depth + 1) for item in value]
        if isinstance(value, str):
            return storable(value)
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise RequestRefused(422, _("A field holds what it can't hold. Reload the page."))
        if not isinstance(value, dict):
            return value
        if FILE_KEYS.isdisjoint(value):
            return {storable(key): self.cleaned(item, depth + 1) for key, item in value.items()}
        return self.own_file(value)

    # ---------------------------------------------------------------------------------------------------------- files
    def own_file(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """A file as Gradio describes it. Raises RequestRefused unless it is this account's upload and still there."""
        path, name = value.get("path"), value.get("orig_name")
        if not isinstance(path, str) or path not in self.door.uploads.get(self.annotator.id, ()):
            raise RequestRefused(403, _("This file is no upload of yours. Upload it again."))
        if os.path.islink(path) or not os.path.isfile(path):
            raise RequestRefused(403, _("This file is no longer here. Upload it again."))
        known = {"path": path, "size": os.path.getsize(path), "meta": {"_type": "gradio.FileData"}}
        return {**known, "orig_name": name if isinstance(name, str) else os.path.basename(path)}

    async def upload(self) -> None:
        """Pass an upload on, and keep in mind where Gradio put it before the browser is told.

        Raises RequestRefused where it does not come whole, or the disk does not take it.
        """
        answer = bytearray()
        status = 0

        async def listen(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if status == 200 and message["type"] == "http.response.body":
                answer.extend(message.get("body", b""))
                if not message.get("more_body"):
                    self.remember(json.loads(answer))
            if status != 500:
                await self.send(message)

        # Gradio packs what it sends for those who can unpack it; this is a short list, and read here.
        scope = {**self.scope, "headers": [pair for pair in self.scope["headers"] if pair[0] != b"accept-encoding"]}
        self.door.sending[self.annotator.id] += 1
        try:
            await self.door.app(scope, self.receive, listen)
        except ClientDisconnect:
            raise RequestRefused(400, _("The request ended early.")) from None
        except OSError as error:
            said = _("The file can't be kept ({strerror}). Free disk space on the server, then upload it again.")
            raise RequestRefused(507, said.format(strerror=error.strerror or error)) from error
        finally:
            self.door.sending[self.annotator.id] -= 1
            if status != 200:
                self.door.clear_unfinished()
        if status == 500:
            raise RequestRefused(500, _("Something went wrong in Prefloop. Its log says what."))

    def remember(self, paths: Sequence[str]) -> None:
        """These files are this account's; the oldest are forgotten."""
        own = self.door.uploads.setdefault(self.annotator.id, OrderedDict())
        own.update(dict.fromkeys(paths))
        while len(own) > MAXIMUM_UPLOADS:
            own.popitem(last=False)
