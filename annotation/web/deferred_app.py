"""An ASGI app that is built while the server answers already: its requests wait, and people see what they wait for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from annotation.translation import Language, _, give_up, of_server, spoken
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
        self._settled, self._ending = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
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

    def start(self) -> None:
        """Build the app, in the language that is spoken here, and keep it going."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the app; one that is still built is not waited for."""
        self._ending.set()
        if self._task is not None:
            if not self.ready:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            built = await in_thread_of_its_own(self.build)
            async with built.lifespan:
                self.open(built.app)
                await self._ending.wait()
        except Exception as error:
            self.failure = error
            self._settled.set()
            self.on_failure()


async def in_thread_of_its_own(work: Callable[[], BuiltApp]) -> BuiltApp:
    """What work gives, in the language that is spoken here; as with `asyncio.to_thread`, but no end waits for it."""
    done, here = Future[BuiltApp](), copy_context()
    done.set_running_or_notify_cancel()  # it can't be cancelled any more

    def run() -> None:
        try:
            done.set_result(here.run(work))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="pages", daemon=True).start()
    return await asyncio.wrap_future(done)


class AppOfEachLanguage:
    """An app for each language: the server's, built at the start, and others, built when somebody first wants them."""

    def __init__(self, build: Callable[[], BuiltApp]) -> None:
        self.build = build
        """Makes the app in the language that is spoken, in a thread beside that of the requests."""
        self.own = DeferredApp(self.build_alone)
        self.others: dict[str, DeferredApp] = {}
        self._building = threading.Lock()

    def build_alone(self) -> BuiltApp:
        """Gradio lays out one page at a time."""
        with self._building:
            return self.build()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app_of(spoken())(scope, receive, send)

    def app_of(self, language: Language) -> DeferredApp:
        """The app in this language, begun if nobody has asked for it before."""
        if language is of_server():
            return self.own
        app = self.others.get(language.code)
        if app is None:
            app = self.others[language.code] = DeferredApp(self.build_alone)
            app.on_failure = partial(self.do_without, language, app)
            app.start()
        return app

    def do_without(self, language: Language, app: DeferredApp) -> None:
        """Whoever has chosen a language in which the app can't be built gets the server's."""
        logging.getLogger(__name__).error("No pages in %s", language.code, exc_info=app.failure)
        self.others.pop(language.code, None)  # with another file it is tried again
        give_up(language.code)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the apps going until the block ends."""
        self.own.start()
        try:
            yield
        finally:
            await asyncio.gather(*(app.stop() for app in (self.own, *self.others.values())))


def opens_page(scope: Scope) -> bool:
    """Whether a person's browser is to show what the answer brings."""
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
