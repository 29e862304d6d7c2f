"""An ASGI app that is built while the server answers already: its requests wait, and people see what they wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from annotation.translation import _
from annotation.web.sign_in_pages import starting_page

RETRY_SECONDS: Final = 2


@dataclass(frozen=True)
class BuiltApp:
    """An app, and what has to be entered before its first request and left after its last."""

    app: ASGIApp
    lifespan: AbstractAsyncContextManager[object]


class DeferredApp:
    """Stands where an app is to be that takes seconds to build, with whatever guards it around it already.

    Until then a browser that opens a page gets one that says so and goes on by itself; every other request waits.
    """

    def __init__(self, build: Callable[[], BuiltApp]) -> None:
        self.build = build
        """Makes the app, in a thread beside that of the requests."""
        self.failure: Exception | None = None
        """Why there is no app and will be none."""
        self.on_failure: Callable[[], object] = lambda: None
        self._app: ASGIApp | None = None
        self._settled = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether requests reach the app."""
        return self._app is not None

    def open(self, app: ASGIApp) -> None:
        """Let those that wait, and all others from now on, through to the app."""
        self._app = app
        self._settled.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._settled.is_set() and opens_page(scope):
            headers = {"Retry-After": str(RETRY_SECONDS), "Cache-Control": "no-store"}
            await HTMLResponse(starting_page(), 503, headers)(scope, receive, send)
            return
        await self._settled.wait()
        app = self._app or PlainTextResponse(_("Prefloop could not start. Its log says why."), 503)
        await app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Build the app and keep it going until the block ends, which does not wait for one that is still built."""
        ending = asyncio.Event()
        task = asyncio.create_task(self._run(ending))
        try:
            yield
        finally:
            ending.set()
            if not self.ready:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, ending: asyncio.Event) -> None:
        try:
            built = await asyncio.to_thread(self.build)
            async with built.lifespan:
                self.open(built.app)
                await ending.wait()
        except Exception as error:
            self.failure = error
            self._settled.set()
            self.on_failure()


def opens_page(scope: Scope) -> bool:
    """Whether a person's browser is to show what the answer brings."""
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
