"""The door of the web server: signing in and out, and the ASGI middleware that every request passes. No gradio."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs
from weakref import WeakValueDictionary

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotation.database import Database, StorageError
from annotation.records import Annotator, UserError
from annotation.translation import Language, _, speaking
from annotation.web import access, sign_in_pages
from annotation.web.access import LoginThrottle
from annotation.web.destinations import BEGINNING, NEXT, destination, sign_in_address, with_destination
from annotation.web.languages import heard, preferred
from annotation.web.space import Space

# Gradio's bundle compiles its templates (unsafe-eval) and writes its configuration into the page (unsafe-inline).
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'; object-src 'none'; worker-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
# Where no other site frames the pages, none has to hold their window either.
ALONE = {"Cross-Origin-Opener-Policy": "same-origin"}
# A page is made of some eighty files that Gradio names after their content, and tells browsers nothing about.
UNCHANGING = re.compile(r"/assets/[\w.-]+-[\w-]{8,9}\.(?:js|css)")
KEEP = "private, max-age=31536000, immutable"
# Files of Gradio's package, the same for everybody; all else says something about somebody.
PACKAGED = re.compile(r"/(?:assets|static|svelte)/.+|(?:/gradio_api)?/theme\.css|/favicon\.ico")
HOST = re.compile(r"(?P<name>[\w.-]{1,255}|\[[0-9a-f:.]{2,45}\])(?::(?P<port>\d{1,5}))?", re.ASCII | re.IGNORECASE)
# What proxies say of where a request was sent to, and anybody else can.
CLAIMED = re.compile(rb"forwarded$|x-gradio-server$|x-forwarded-")
OPEN_PATHS = ("/healthz", "/login", "/logout", "/signin", "/join")
FRAMES = ("iframe", "frame", "embed", "object")
NOT_STORED = {"Cache-Control": "no-store"}
# Days until somebody has to sign in again; on a Space soon, because the rules about who may are asked then.
SPACE_SESSION_DAYS = 1
ANNOTATOR_KEY = "prefloop.annotator"
# A name and the longest password, each of whose characters may take twelve bytes in a form.
MAXIMUM_FORM_BYTES = 16_384
# For the whole body of a request, however often a part of it comes.
BODY_SECONDS = 60.0
# Requests under way of one account, or forms on their way from one place where nobody is signed in: a page is made of
# some eighty files, which a proxy that speaks HTTP/2 asks for at once and browsers not again, and each open tab has
# streams besides.
MAXIMUM_AT_ONCE = 250
# For how long a browser is known to be that of somebody who has signed in.
BROWSER_DAYS = 180


# -------------------------------------------------------------------------------------------------------- middleware
class SecurityHeaders:
    """Adds the security headers to every answer, streams and failures included, and says what browsers may keep.

    Pages of the origins in `frames` may show these in a frame. Behind nothing that could fail, so that the answer
    to a request that fails anywhere has the headers as well.
    """

    def __init__(self, app: ASGIApp, frames: Sequence[str] = ()) -> None:
        self.app = app
        policy = SECURITY_HEADERS["Content-Security-Policy"]
        framing = " ".join(("frame-ancestors 'self'", *frames))
        self.headers = {
            **SECURITY_HEADERS,
            **({} if frames else ALONE),
            "Content-Security-Policy": policy.replace("frame-ancestors 'self'", framing),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.update(self.headers)
                if message["status"] == 200 and UNCHANGING.fullmatch(scope["path"]):
                    headers["Cache-Control"] = KEEP
                elif message["status"] != 200 or not PACKAGED.fullmatch(scope["path"]):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            if not started:
                answer = PlainTextResponse(_("Something went wrong in Prefloop. Its log says what."), 500)
                await answer(scope, receive, send_with_headers)
            raise  # into the log


@dataclass(frozen=True)
class KnownHost:
    """Makes `Host` the one thing that says where browsers reach the program, and refuses what is no host or not ours.

    Only `names` are ours, where there are any: a foreign name that resolves to this machine is DNS rebinding. The proxy
    of a Space may pass on another name: the request then has the one that the proxy says, if it is one of the Space's,
    else the Space's first. What is said of it in other headers nobody behind this sees.
    """

    app: ASGIApp
    names: Sequence[str] = ()
    space: Space | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            hosts = headers.getlist("host")
            # A request of HTTP/1.0 may have none.
            name = host_name(hosts[0]) if len(hosts) == 1 else "" if not hosts else None
            if name is None or (self.names and name not in self.names):
                ours = _("Prefloop answers only to {names}. For other names start it with --host.")
                sentence = ours.format(names=", ".join(self.names)) if self.names else _("This is no host.")
                await PlainTextResponse(sentence, 403 if self.names else 400)(scope, receive, send)
                return
            scope = {**scope, "headers": [pair for pair in scope["headers"] if not CLAIMED.match(pair[0])]}
            if self.space is not None:
                said = (headers.get("x-forwarded-host", "").split(",")[0].strip(), *hosts)
                host = next((one for one in said if one in self.space.hosts), self.space.hosts[0])
                MutableHeaders(scope=scope)["host"] = host
                scope["scheme"] = "https" if self.space.secure else "http"
        await self.app(scope, receive, send)


def host_name(host: str) -> str | None:
    """The name in a `Host` header, without a port; None where it is none."""
    found = HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > 65535:
        return None
    return found["name"].strip("[]").lower()


@dataclass(frozen=True)
class SameOrigin:
    """Refuses what another site's page sends: anything but GET and HEAD with an Origin that is not our own host.

    Our own host is one of `hosts`, where a proxy may have changed the request's; else what the request says.
    """

    app: ASGIApp
    hosts: Sequence[str] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            headers = Headers(scope=scope)
            own = self.hosts or (headers.get("host"),)
            if any((host_of(origin) or "no host") not in own for origin in headers.getlist("origin")):
                await PlainTextResponse(_("This request came from another site."), 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def host_of(origin: str) -> str:
    """The host and port in an `Origin` header; empty where it is none of a web page."""
    scheme, _, host = origin.partition("://")
    return host if scheme in ("http", "https") and host_name(host) else ""


@dataclass(frozen=True)
class OutOfFrames:
    """Shows a link to the direct address where another site's page frames this one.

    Browsers keep a session's cookie out of such frames, so nobody could sign in there.
    """

    app: ASGIApp
    address: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and Headers(scope=scope).get("sec-fetch-dest") in FRAMES:
            await HTMLResponse(sign_in_pages.frame_page(self.address), 200, NOT_STORED)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class SignedIn:
    """Lets only people with a session through, says who they are under ANNOTATOR_KEY in the scope, and speaks their
    language. No account, and no place with forms that never come to an end, can have all connections.
    """

    def __init__(self, app: ASGIApp, db: Database, cookie: str, open_paths: Sequence[str] = OPEN_PATHS) -> None:
        self.app = app
        self.db = db
        self.cookie = cookie
        self.open_paths = open_paths
        self.under_way: Counter[int | str] = Counter()
        """Requests by account, forms on their way by place."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        scope = {**scope, "headers": [as_cookies_are(*pair) for pair in scope["headers"]]}
        if scope["type"] == "http" and scope["path"] in self.open_paths:
            await self.pass_on(self.stranger(scope), scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        token = session_token(headers, self.cookie)
        annotator = access.session_annotator(self.db, token)
        if annotator is not None:
            with speaking(await heard(annotator.language)) as language:
                scope = {**scope, ANNOTATOR_KEY: annotator}
                heeded = receive if scope["method"] in ("GET", "HEAD") else self.while_signed_in(token, receive)
                await self.pass_on(annotator.id, scope, heeded, naming(language, send))
            return
        await refusal(scope, headers)(scope, receive, send)

    def while_signed_in(self, token: str, receive: Receive) -> Receive:
        """Receives what a request brings, and raises HTTPException where its session has ended before all had come.

        That may take a minute, and much longer for a file: who was shut out meanwhile does nothing any more.
        """

        async def receive_heeded() -> Message:
            message = await receive()
            whole = message["type"] == "http.request" and not message.get("more_body")
            if whole and access.session_annotator(self.db, token) is None:
                raise HTTPException(401, _("Sign in first."))
            return message

        return receive_heeded

    def stranger(self, scope: Scope) -> int | str | None:
        """Whose a request without a session is: nobody's where no form is read, else that of its place.

        A place may be all that is behind one proxy: what others leave unfinished there keeps nobody out whose browser
        is known. It counts for its account.
        """
        if scope["method"] != "POST" or scope["path"] == "/logout":
            return None
        place = access.network_of(scope["client"][0] if scope.get("client") else "")
        if self.under_way[place] < MAXIMUM_AT_ONCE:
            return place
        mark = session_token(Headers(scope=scope), browser_cookie(self.cookie))
        return access.account_of_mark(self.db, mark) or place

    async def pass_on(self, asker: int | str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, unless too many of whoever asks are under way; a form is until it has come."""
        if asker is None:
            await self.app(scope, receive, send)
            return
        if self.under_way[asker] >= MAXIMUM_AT_ONCE:
            said = _("Too much is asked for at once. Try again in a moment.")
            await end_of_way(Headers(scope=scope), said, 429, {"Retry-After": "1"})(scope, receive, send)
            return
        with ExitStack() as counted:
            self.under_way[asker] += 1
            counted.callback(self.leave, asker)

            async def receive_counted() -> Message:
                message = await receive()
                if ANNOTATOR_KEY not in scope and not message.get("more_body"):
                    counted.close()
                return message

            await self.app(scope, receive_counted, send)

    def leave(self, asker: int | str) -> None:
        self.under_way[asker] -= 1
        if not self.under_way[asker]:
            del self.under_way[asker]


def end_of_way(headers: Headers, sentence: str, status: int, more: Mapping[str, str] = {}) -> Response:
    """What whoever gets no further is told: where a browser shows it, a page."""
    if "text/html" in headers.get("accept", ""):
        return HTMLResponse(sign_in_pages.dead_end(sentence), status, {**NOT_STORED, **more})
    return JSONResponse({"error": sentence}, status, more)


async def not_done(request: Request, error: Exception) -> Response:
    """What is said where something that a route has no words of its own for could not be done, as on a full disk."""
    return end_of_way(request.headers, str(error), 503)


def refusal(scope: Scope, headers: Headers) -> Response:
    """What somebody without a session gets: where a browser shows it, the sign-in, which leads back to the page."""
    if "text/html" in headers.get("accept", ""):
        if scope["method"] == "GET":
            return RedirectResponse(sign_in_address(scope), 303)
        if scope["method"] == "POST":  # a form, whose session has ended since its page was opened
            return RedirectResponse(with_destination("/login", page_before(headers)), 303)
    return JSONResponse({"error": _("Sign in first.")}, 401)


def page_before(headers: Headers) -> str:
    """The page of ours that a form was sent from; where all begin if it is none."""
    return destination(f"/{headers.get('referer', '').partition('//')[2].partition('/')[2]}")


def naming(language: Language, send: Send) -> Send:
    """Says in the head of an answer which language it is in: a page that is in another one is out of date."""

    async def send_with_language(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Content-Language"] = language.code
        await send(message)

    return send_with_language


def as_cookies_are(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A header; one of cookies without backslashes, which none of ours has.

    What reads cookies takes them for quoting, and until Python 3.11.10 seconds for some ten thousand (CVE-2024-7592).
    """
    return name, value.replace(b"\\", b"") if name == b"cookie" else value


def browser_cookie(cookie: str) -> str:
    """The name of the cookie by which a browser is known, for signing in only, beside that of the session."""
    return f"{cookie}-browser"


def session_token(headers: Headers, cookie: str) -> str:
    """The session token, or what else of this name, that the browser sent; empty where it sent none."""
    return cookie_parser(headers.get("cookie", "")).get(cookie, "")


def signed_in_name(request: Request) -> str | None:
    """Gradio's `auth_dependency`: who `SignedIn` found."""
    annotator: Annotator | None = request.scope.get(ANNOTATOR_KEY)
    return None if annotator is None else annotator.name


def by_admin(request: Request) -> bool:
    annotator: Annotator | None = request.scope.get(ANNOTATOR_KEY)
    return annotator is not None and annotator.role == "admin"


def admins_route(where: str, find: Callable[[str], Response]) -> Route:
    """The route of files that admins save, and nobody else; `find` raises UserError for a name that none has."""

    async def fetch(request: Request) -> Response:
        if not by_admin(request):
            return PlainTextResponse(_("Only an admin may fetch this."), 403)
        try:
            found = await asyncio.to_thread(find, request.path_params["name"])
        except UserError as error:
            return PlainTextResponse(str(error), 404)
        found.headers.update(NOT_STORED)
        return found

    return Route(f"/{where}/{{name}}", fetch, methods=["GET"])


# -------------------------------------------------------------------------------------------------------- signing in
Returned = TypeVar("Returned")
# What waits here for another's write keeps none of the threads of those who only read.
WRITING_THREADS = ThreadPoolExecutor(4, thread_name_prefix="sign-in")


async def waiting_write(write: Callable[..., Returned], *values: Any) -> Returned:
    """What a function returns that writes to the database, and speaks as this request does, for whoever asks."""
    loop, run = asyncio.get_running_loop(), copy_context().run
    try:
        return await loop.run_in_executor(WRITING_THREADS, run, write, *values)
    except StorageError as error:
        raise error.for_annotators() from error


def wanted_by(request: Request) -> str:
    """Where a sign-in leads, by what the browser says of it."""
    return destination(request.query_params.get(NEXT, BEGINNING))


def waiting_said(wait: float) -> str:
    if wait > 60:
        return _("Too many attempts. Wait {minutes} min and try again.").format(minutes=math.ceil(wait / 60))
    return _("Too many attempts. Wait {seconds} s and try again.").format(seconds=math.ceil(wait))


def after_waiting(page: HTMLResponse, wait: float) -> HTMLResponse:
    """A page that says to a browser too how many seconds to wait."""
    page.headers["Retry-After"] = str(math.ceil(wait))
    return page


@dataclass(frozen=True)
class SignIn:
    """The routes for signing in with a password or the owner's link, for choosing a language, and for signing out."""

    db: Database
    cookie: str
    space: Space | None = None
    hub: bool = False
    """Whether people can sign in with Hugging Face; a password is then asked for only where somebody has one."""
    owners_link: bool = False
    """Whether the terminal has a link for the owner."""
    throttle: LoginThrottle = field(default_factory=LoginThrottle)
    # A password check takes 64 MiB: two at a time, whatever arrives, and one for each place.
    hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def routes(self) -> list[Route]:
        routes = [
            Route("/login", self.show_form, methods=["GET"]),
            Route("/login", self.sign_in, methods=["POST"]),
            Route("/logout", self.sign_out, methods=["GET", "POST"]),
            Route("/signin", self.follow_link, methods=["GET"]),
            Route("/language", self.choose_language, methods=["POST"]),
        ]
        return routes if self.space is None else [*routes, Route("/recorded", self.show_notice, methods=["GET"])]

    def page(self, problem: str = "", status: int = 200, wanted: str = BEGINNING, given: str = "") -> HTMLResponse:
        author = None if self.space is None else self.space.author
        passwords = not self.hub or access.has_password_accounts(self.db)
        html = sign_in_pages.login_page(problem, author, self.hub, passwords, wanted, given, self.owners_link)
        return HTMLResponse(html, status, NOT_STORED)

    async def show_form(self, request: Request) -> Response:
        return self.page(wanted=wanted_by(request))

    async def show_notice(self, request: Request) -> Response:
        assert self.space is not None
        return HTMLResponse(sign_in_pages.notice_page(self.space.author))

    async def sign_in(self, request: Request) -> Response:
        """Check a name and password; too many attempts have to wait."""
        form, wanted = await read_form(request), wanted_by(request)
        if form is None:
            return self.page(_("This form is too large."), 413, wanted)
        name, password = form.get("name", ""), form.get("password", "")
        address = request.client.host if request.client else ""
        browser = access.known_browser(self.db, name, request.cookies.get(browser_cookie(self.cookie), ""))
        wait = self.throttle.attempt(address, name, browser)
        if wait:
            return after_waiting(self.page(waiting_said(wait), 429, wanted, name), wait)
        try:
            async with self.turn(browser or access.network_of(address)):
                checked_by = access.password_hash(self.db, name)
                annotator = await asyncio.to_thread(access.check_password, self.db, name, password)
            if annotator is None:
                raise UserError(_(access.NO_MATCH))
            response = await self.welcome(request, annotator, wanted, checked_by)
        except UserError as error:
            return self.page(str(error), 401, wanted, name)
        self.throttle.succeeded(address, name, browser)
        mark = access.browser_mark(self.db, name)
        self.set_cookie(request, response, browser_cookie(self.cookie), mark, BROWSER_DAYS, "/login")
        return response

    @asynccontextmanager
    async def turn(self, whose: str) -> AsyncIterator[None]:
        """One's turn at a password check. Raises UserError where the program is ended meanwhile, as for a restart."""
        try:
            async with self.turns.setdefault(whose, asyncio.Lock()), self.hashing:
                yield
        except asyncio.CancelledError:
            said = _("Prefloop was ended before your turn came. Once it runs again, press the button again.")
            raise UserError(said) from None

    async def follow_link(self, request: Request) -> Response:
        """Sign the owner in with the one-time link from the terminal."""
        if request.method != "GET":  # a HEAD, by which programs look at a link, spends nothing
            return Response(status_code=405, headers={"Allow": "GET"})
        token = request.query_params.get("token", "")
        try:
            annotator = await waiting_write(access.use_link, self.db, token)
        except UserError as error:
            return self.page(str(error), 401)
        return await self.welcome(request, annotator)

    async def sign_out(self, request: Request) -> Response:
        """End the session. A mere link must not: any page could hold one."""
        if request.method != "POST":
            return RedirectResponse("/", 303)
        token = session_token(request.headers, self.cookie)
        annotator = access.session_annotator(self.db, token)
        await waiting_write(access.close_session, self.db, token)
        response: Response = RedirectResponse("/login", 303)
        if annotator is not None:
            response = HTMLResponse(sign_in_pages.signed_out_page(annotator.name), 200, NOT_STORED)
        response.delete_cookie(self.cookie, httponly=True, samesite="lax")
        return response

    async def choose_language(self, request: Request) -> Response:
        """Answer whoever is signed in in another language from now on, and open the page anew that they came from."""
        annotator: Annotator = request.scope[ANNOTATOR_KEY]
        form = await read_form(request) or {}
        try:
            await waiting_write(access.set_language, self.db, annotator.name, form.get("language", ""))
        except UserError as error:
            return HTMLResponse(sign_in_pages.dead_end(str(error)), 400, NOT_STORED)
        return RedirectResponse(page_before(request.headers), 303)

    async def welcome(
        self, request: Request, annotator: Annotator, wanted: str = BEGINNING, checked_by: str | None = None
    ) -> Response:
        """Open a session and go to the wanted page; an account without a language gets the one its browser asks for.

        Raises UserError as `access.open_session` does.
        """
        asked = preferred(request.headers.get("accept-language", ""))
        if annotator.language is None and asked is not None:
            await waiting_write(access.set_language, self.db, annotator.name, asked)
        days = access.SESSION_DAYS if self.space is None else SPACE_SESSION_DAYS
        token = await waiting_write(access.open_session, self.db, annotator, days, checked_by)
        response = RedirectResponse(wanted, 303)
        self.set_cookie(request, response, self.cookie, token, days)
        return response

    def set_cookie(
        self, request: Request, response: Response, name: str, value: str, days: int, path: str = "/"
    ) -> None:
        """Have the browser keep something that no script and no other site gets."""
        response.set_cookie(
            name,
            value,
            max_age=days * 24 * 3600,
            path=path,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https" if self.space is None else self.space.secure,
        )


async def read_body(request: Request, limit: int) -> bytes | None:
    """All that a request brings; None if it is more than that. Raises HTTPException where it does not arrive."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    return None
    except TimeoutError:
        raise HTTPException(408, _("The request did not arrive."), {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, _("The request ended early.")) from None
    return bytes(body)


async def read_form(request: Request) -> dict[str, str] | None:
    """The fields of a small form; None if it is larger than a name and a password can be."""
    body = await read_body(request, MAXIMUM_FORM_BYTES)
    if body is None:
        return None
    return {key: values[-1] for key, values in parse_qs(body.decode("utf-8", "replace")).items()}
