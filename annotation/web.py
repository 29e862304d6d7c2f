"""The door of the web server: signing in and out, and the ASGI middleware that every request passes. No gradio."""

from __future__ import annotations

import asyncio
import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotation import access
from annotation.access import LoginThrottle
from annotation.database import Database
from annotation.records import Annotator, UserError

# Gradio's bundle compiles its templates (unsafe-eval) and writes its configuration into the page (unsafe-inline).
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'; object-src 'none'; worker-src 'self' blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
# A page is made of some eighty files that Gradio names after their content, and tells browsers nothing about.
UNCHANGING = re.compile(r"/assets/[\w.-]+-[\w-]{8,9}\.(?:js|css)")
KEEP = "private, max-age=31536000, immutable"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/healthz", "/login", "/logout", "/signin")
ANNOTATOR_KEY = "prefloop.annotator"
MAXIMUM_FORM_BYTES = 4096


# -------------------------------------------------------------------------------------------------------- middleware
class SecurityHeaders:
    """Adds the security headers to every answer, streams included, and lets browsers keep what never changes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if message["status"] == 200 and UNCHANGING.fullmatch(scope["path"]):
                    headers["Cache-Control"] = KEEP
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class KnownHost:
    """Refuses other host names than these: a foreign name that resolves to this machine is DNS rebinding."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname
            if host not in self.names:
                refusal = PlainTextResponse(f"Prefloop answers only to {', '.join(self.names)}.", 403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SameOrigin:
    """Refuses what another site's page sends: anything but GET and HEAD with an Origin that is not our own host."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                await PlainTextResponse("This request came from another site.", 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class SignedIn:
    """Lets only people with a session through, and says who they are under ANNOTATOR_KEY in the scope."""

    def __init__(self, app: ASGIApp, db: Database, cookie: str) -> None:
        self.app = app
        self.db = db
        self.cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN_PATHS):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        annotator = access.session_annotator(self.db, session_token(headers, self.cookie))
        if annotator is not None:
            await self.app({**scope, ANNOTATOR_KEY: annotator}, receive, send)
            return
        wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        refusal = RedirectResponse("/login", 303) if wants_page else JSONResponse({"error": "Sign in first."}, 401)
        await refusal(scope, receive, send)


class AdminUploads:
    """Lets only admins send files: Gradio takes them from everybody who is signed in, on several routes.

    It reads who asks from `SignedIn`, so it stands between that and the pages.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_multipart(Headers(scope=scope).get("content-type", "")):
            annotator: Annotator | None = scope.get(ANNOTATOR_KEY)
            if annotator is None or annotator.role != "admin":
                await JSONResponse({"error": "Only an admin may upload files."}, 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_multipart(content_type: str) -> bool:
    """Whether a request carries files; the type's name may come in any case and with spaces around."""
    return content_type.strip().casefold().startswith("multipart/")


def session_token(headers: Headers, cookie: str) -> str:
    """The session token that the browser sent; empty where it sent none."""
    return cookie_parser(headers.get("cookie", "")).get(cookie, "")


def signed_in_name(request: Request) -> str | None:
    """Gradio's `auth_dependency`: who `SignedIn` found."""
    annotator: Annotator | None = request.scope.get(ANNOTATOR_KEY)
    return None if annotator is None else annotator.name


# -------------------------------------------------------------------------------------------------------- signing in
@dataclass(frozen=True)
class SignIn:
    """The routes for signing in with a password or the owner's link, and for signing out."""

    db: Database
    cookie: str
    throttle: LoginThrottle = field(default_factory=LoginThrottle)
    # A password check takes 64 MiB: two at a time, whatever arrives.
    hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))

    def routes(self) -> list[Route]:
        """What the server adds beside the pages."""
        return [
            Route("/login", self.show_form, methods=["GET"]),
            Route("/login", self.sign_in, methods=["POST"]),
            Route("/logout", self.sign_out, methods=["GET", "POST"]),
            Route("/signin", self.follow_link, methods=["GET"]),
        ]

    async def show_form(self, request: Request) -> Response:
        """The sign-in page."""
        return login_page()

    async def sign_in(self, request: Request) -> Response:
        """Check a name and password; too many attempts have to wait."""
        form = await read_form(request)
        if form is None:
            return login_page("This form is too large.", 413)
        name, password = form.get("name", ""), form.get("password", "")
        address = request.client.host if request.client else ""
        wait = self.throttle.attempt(address, name)
        if wait:
            page = login_page(f"Too many attempts. Wait {math.ceil(wait / 60)} min and try again.", 429)
            page.headers["Retry-After"] = str(math.ceil(wait))
            return page
        async with self.hashing:
            annotator = await asyncio.to_thread(access.check_password, self.db, name, password)
        if annotator is None:
            return login_page("Name and password don't match.", 401)
        self.throttle.succeeded(address, name)
        return await self.welcome(request, annotator)

    async def follow_link(self, request: Request) -> Response:
        """Sign the owner in with the one-time link from the terminal."""
        token = request.query_params.get("token", "")
        try:
            annotator = await asyncio.to_thread(access.use_link, self.db, token)
        except UserError as error:
            return login_page(str(error), 401)
        return await self.welcome(request, annotator)

    async def sign_out(self, request: Request) -> Response:
        """End the session. A mere link must not: any page could hold one."""
        if request.method != "POST":
            return RedirectResponse("/", 303)
        await asyncio.to_thread(access.close_session, self.db, session_token(request.headers, self.cookie))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self.cookie, httponly=True, samesite="lax")
        return response

    async def welcome(self, request: Request, annotator: Annotator) -> Response:
        """Open a session and go to the pages."""
        token = await asyncio.to_thread(access.open_session, self.db, annotator)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self.cookie,
            token,
            max_age=access.SESSION_DAYS * 24 * 3600,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response


async def read_form(request: Request) -> dict[str, str] | None:
    """The fields of a small form; None if it is larger than a name and a password can be."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAXIMUM_FORM_BYTES:
            return None
    return {key: values[-1] for key, values in parse_qs(body.decode("utf-8", "replace")).items()}


def login_page(problem: str = "", status: int = 200) -> HTMLResponse:
    """The sign-in page: loads nothing, works without JavaScript."""
    alert = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
    return HTMLResponse(LOGIN_PAGE.replace("<!--problem-->", alert), status, {"Cache-Control": "no-store"})


LOGIN_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · Prefloop</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; display: grid; place-items: center; min-height: 100vh; }
main { width: min(21rem, 90vw); }
label { display: block; margin: 0.9rem 0 0.25rem; }
input, button { font: inherit; width: 100%; box-sizing: border-box; padding: 0.55rem 0.7rem; }
input, button { border-radius: 8px; border: 1px solid GrayText; }
button { margin-top: 1.4rem; border: 0; background: #1d4ed8; color: #fff; font-weight: 600; cursor: pointer; }
:is(input, button):focus-visible { outline: 3px solid #60a5fa; outline-offset: 2px; }
[role=alert] { padding: 0.6rem 0.8rem; border-radius: 8px; background: #b91c1c; color: #fff; }
.hint { color: GrayText; font-size: 0.9rem; margin-top: 1.4rem; }
</style>
</head>
<body>
<main>
<h1>Prefloop</h1>
<!--problem-->
<form method="post" action="/login">
<label for="name">Name</label>
<input id="name" name="name" autocomplete="username" required autofocus maxlength="40">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Sign in</button>
</form>
<p class="hint">Is this your own machine? Open the link that Prefloop printed in the terminal when it started.</p>
</main>
</body>
</html>
"""
