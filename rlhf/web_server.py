"""The web process: database → base model → endpoints and pages behind sign-in → workers → web server. No torch."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sys
import tempfile
import weakref
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from filelock import FileLock
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Lifespan

from annotation import api, database, project
from annotation.copies import restoration, safe_copies, targets
from annotation.database import SQLITE_IN_USE, SQLITE_PROBLEM, Database
from annotation.environment import remove_leftover
from annotation.exports import export_files, writing
from annotation.imports import import_process, importing
from annotation.jobs import liveness
from annotation.jobs.lane_runner import LaneRunner
from annotation.records import UserError, explain_errors, now, seconds_between
from annotation.store import project_store, prompt_store
from annotation.translation import _, of_server, spoken
from annotation.ui.terminal import log_visibly
from annotation.web import access, connections, invitations, languages, middleware, oauth
from annotation.web.deferred_app import AppOfEachLanguage, BuiltApp, DeferredApp
from annotation.web.gradio_allowlist import AccountHoldings
from annotation.web.settings import Settings
from annotation.web.space import LOOPBACK_NAMES, PROXIES
from annotation.web.watches import Watches
from rlhf.generation.answering_spec import AnsweringSpec, answers_come
from rlhf.hub import token_launcher
from rlhf.jobs import job_store
from rlhf.jobs.devices import VISIBLE
from rlhf.jobs.job_spec import kinds
from rlhf.loop.supervisor import Supervisor
from rlhf.models import registry
from rlhf.models.base import base_identity, base_model
from rlhf.models.base.base_files import BaseModel
from rlhf.models.base.base_template import thinking_sentence
from rlhf.tabs.download_endpoint import DownloadEndpoint
from rlhf.tabs.overview.follow_endpoint import FollowEndpoint

# For an import or export that is at work when the program ends, to be told and leave; another program does it again.
LEAVE_SECONDS = 5.0
# In a directory for uploads: locked while a program uses it.
IN_USE = "in-use.lock"


@dataclass(frozen=True)
class DataDirectory:
    db: Database
    model: str
    held: tuple[object, ...]
    """Locks, for as long as the program runs."""


def build_app(settings: Settings) -> Starlette:
    """The whole program behind one ASGI app. Raises UserError for what a person has to mend first."""
    kinds()  # loads them: while the pages' thread loads modules, nothing that serves has to
    opened, here = open_data(settings), settings.space
    db = opened.db
    lent_gpu = here is not None and here.zero_gpu
    if lent_gpu:
        os.environ[VISIBLE] = ""  # workers must not look for the GPU that the driver knows of
    # With a lent GPU nothing keeps answers in stock: the page has a button for that.
    supervisor = (
        Supervisor(db, settings.data_dir, opened.model, answering=not lent_gpu, forks=True)
        if settings.workers
        else None
    )
    uploads, lock = hold_uploads()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    watches = Watches(db)
    pages = AppOfEachLanguage(partial(build_pages, opened, settings, uploads, watches, AccountHoldings()))
    # Neither waits for the other.
    runners: list[LaneRunner[Any]] = [export_files.runner(settings.data_dir), import_process.runner(settings.data_dir)]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if supervisor is not None:
            supervisor.start()
        for runner in runners:
            runner.start()
        async with pages.running():
            yield
        try:
            for runner in runners:
                await asyncio.to_thread(runner.stop, LEAVE_SECONDS)
        finally:
            if supervisor is not None:
                await asyncio.to_thread(supervisor.stop)
        clear_uploads()

    app = guarded_app(db, settings, pages, watches, lifespan)
    clear_uploads = weakref.finalize(app, remove_uploads, uploads, lock)
    app.state.db, app.state.held, app.state.pages, app.state.supervisor = db, opened.held, pages.own, supervisor
    return app


def open_data(settings: Settings) -> DataDirectory:
    """Take the data directory and get ready what is in it. Raises UserError for what a person has to mend first."""
    fresh = not database.has_database(settings.data_dir)
    if fresh:
        refuse_open_door(settings, None)  # before a model is fetched
    if fresh and not settings.workers:
        find_model(settings)  # or nothing is begun
    in_use = restoration.shared_lock(settings.data_dir)
    lock = database.hold_data_directory(settings.data_dir) if settings.workers else None
    remove_leftover([*restoration.leftovers(settings.data_dir), *writing.leftovers(settings.data_dir)])
    if fresh and settings.workers:
        find_model(settings)
    db, here = database.open_database(settings.data_dir, durable=True), settings.space
    refuse_open_door(settings, db)
    if here is not None:
        access.follow_rules(db, here.rules)
    importing.clear_leftovers(db)
    registry.clear_leftovers(db, settings.data_dir)
    liveness.clear_leftovers(db)
    model = prepare_model(settings, db, known=fresh)
    if not prompt_store.prompts(db, "train") and not prompt_store.prompts(db, "held-out"):
        with db.transaction():  # the next start adds neither where one is there
            prompt_store.add_prompts(db, importing.starter_prompts())
            if not project_store.guidelines(db).version:
                project_store.write_guidelines(db, project.FIRST_GUIDELINES, "Prefloop")
    return DataDirectory(db, model, (in_use, lock))


def hold_uploads() -> tuple[Path, FileLock]:
    """A new directory for uploads, and the lock by which others know that it is in use; those of killed programs go.

    Gradio's own directory is one for all programs and users of the machine; only this user can look into this one.
    Raises UserError where the system has no place for it.
    """
    refused = _(
        "Temporary files can't be written ({strerror}). Free disk space, or name a directory for them in TMPDIR."
    )
    with explain_errors(refused):
        uploads = Path(tempfile.mkdtemp(prefix="prefloop-")).resolve()
    for left in uploads.parent.glob(f"prefloop-*/{IN_USE}"):
        with suppress(OSError):  # Timeout is one: it is in use; or it is another user's
            # Others can put links here, which may lead anywhere.
            if not left.parent.is_symlink() and left.parent.stat().st_uid == uploads.stat().st_uid:
                remove_uploads(left.parent, FileLock(left, timeout=0, thread_local=False))
    lock = FileLock(uploads / IN_USE, thread_local=False)
    lock.acquire()
    return uploads, lock


def remove_uploads(uploads: Path, lock: FileLock) -> None:
    """Remove a directory for uploads. Raises Timeout where another program has it in use."""
    lock.acquire()
    shutil.rmtree(uploads, ignore_errors=True)
    lock.release(force=True)


def build_pages(
    opened: DataDirectory, settings: Settings, uploads: Path, watches: Watches, holdings: AccountHoldings
) -> BuiltApp:
    """What admins and annotators see, made while judgements are taken already."""
    # Not at the top: Gradio takes seconds to load, and whoever judges does not need it.
    from annotation.tabs import gradio_loading

    gradio_loading.load()
    from annotation.tabs.guard import Context
    from rlhf.tabs import pages

    db, has_token = opened.db, token_launcher.HELD in os.environ
    context = Context(
        db=db,
        data_dir=settings.data_dir,
        model=opened.model,
        problem=lambda: answering_problem(db),
        token_held=has_token,
        watches=watches,
    )
    built = pages.build(context, settings, uploads, holdings)
    if settings.space is not None and settings.space.zero_gpu and spoken() is of_server():  # once
        from rlhf.loop import zero_gpu

        zero_gpu.start_up()
    return built


def guarded_app(
    db: Database, settings: Settings, pages: AppOfEachLanguage, watches: Watches, lifespan: Lifespan[Starlette]
) -> Starlette:
    """The endpoints, and the pages behind them, with all around them that a request passes."""
    here, provider = settings.space, provider_of(settings)
    sign_in = middleware.SignIn(db, settings.cookie, here, hub=provider is not None, owners_link=settings.on_loopback)
    from_hub = [] if here is None or provider is None else oauth.HubSignIn(db, here, provider, sign_in).routes()
    copies = targets.target_name(os.environ.get(token_launcher.PLACE, "").strip())
    annotation_api = api.AnnotationApi(
        db, lambda: answering_problem(db), "" if here is None else safe_copies.NOT_COPIED, copies
    )
    app = Starlette(
        lifespan=lifespan,
        exception_handlers={UserError: middleware.not_done},
        routes=[
            Route("/healthz", health_route(settings, db, pages.own)),
            *sign_in.routes(),
            *invitations.JoinPages(db, sign_in).routes(),
            *from_hub,
            *annotation_api.routes(),
            export_files.download_route(settings.data_dir),
            *DownloadEndpoint(db, settings.data_dir).routes(),
            *FollowEndpoint(db, watches).routes(),
            Mount("/", pages),
        ],
    )
    # Each call wraps the ones before it: the last is the first that a request meets.
    open_paths = (*middleware.OPEN_PATHS, *(route.path for route in from_hub))
    app.add_middleware(middleware.SignedIn, db=db, cookie=settings.cookie, open_paths=open_paths)
    app.add_middleware(CORSMiddleware)
    app.add_middleware(middleware.SameOrigin, hosts=() if here is None else here.hosts)
    if here is not None:
        app.add_middleware(middleware.OutOfFrames, address=here.address)
    app.add_middleware(middleware.KnownHost, names=LOOPBACK_NAMES if settings.on_loopback else (), space=here)
    app.add_middleware(languages.AskedLanguage)
    app.add_middleware(middleware.SecurityHeaders, frames=() if here is None else (here.framed_by,))
    return app


def provider_of(settings: Settings) -> oauth.Provider | None:
    """Where people sign in with their account on the Hub; None where they can't."""
    return None if settings.space is None else oauth.Provider.from_environment(os.environ, settings.space)


def answering_problem(db: Database) -> str:
    """What keeps the answering worker from answering, for people who wait for it; empty while nothing does."""
    latest = latest_answering_job(db)
    if latest and latest[0].status in ("failed", "lost"):
        # Not the reason itself: it may name a policy or a path, which annotators are not to see.
        return _(
            "The model can't answer at the moment; it is tried again by itself. Admins find the reason in Iterations."
        )
    if latest and latest[0].reason == "too-few-answers":
        return _(
            "The model gives fewer different answers than a comparison needs; it is tried again by itself. "
            "Admins can ask for fewer on the Project tab."
        )
    if not answers_come(db):
        return _("No model is writing answers at the moment. When one does, they appear here by themselves.")
    return ""


def refuse_open_door(settings: Settings, db: Database | None) -> None:
    """Raises UserError where others could reach the server and nobody can sign in; without a database nobody can yet.

    With Hugging Face anybody can whom the rules let in.
    """
    has_accounts = db is not None and access.has_password_accounts(db)
    if settings.on_loopback or provider_of(settings) is not None or has_accounts:
        return
    if settings.space is not None:
        said = _(
            "Nobody could sign in to the Space {space}: sign-in with Hugging Face is off. Put `hf_oauth: true` "
            "between the lines `---` at the top of its README.md."
        )
        raise UserError(said.format(space=settings.space.id))
    said = _(
        "Others can reach {host}, and there is no account with a password yet. Make one first: "
        "python -m annotation accounts add NAME --role admin --data {directory}"
    )
    raise UserError(said.format(host=settings.host, directory=settings.data_dir))


def prepare_model(settings: Settings, db: Database, known: bool) -> str:
    """Get the base model ready and return its name; a server without workers takes the one that is recorded."""
    recorded = bool(registry.all_policies(db))
    if not settings.workers and recorded:
        return registry.by_revision(db, "base").base
    base_model.refuse_another(db, settings.model)
    base = find_model(settings, known or recorded)
    job_store.mark_lost(db)  # a check that a killed program has left would stand in the way of a changed base
    policy = base_identity.register(db, base)
    for said in filter(None, (base.remark.strip(), thinking_sentence(settings.data_dir, policy))):
        print(f"{base.name}: {said}", flush=True)
    return policy.base


def find_model(settings: Settings, known: bool = False) -> BaseModel:
    """The base model; without workers only one that is ready. Raises UserError where there is none that can be used."""
    if settings.workers:
        return base_model.prepare(settings.data_dir, settings.model, known)
    return base_model.present(settings.data_dir, settings.model)


def health_route(settings: Settings, db: Database, pages: DeferredApp) -> Callable[[Request], Awaitable[Response]]:
    """`/healthz`: 200 while the database answers and the answering worker has not failed, died or hung.

    How long it has been silent is told, and decides nothing: after a sleep of the machine it is hours.
    """

    async def health(request: Request) -> Response:
        try:
            latest = await asyncio.to_thread(latest_answering_job, db)
        except UserError as error:
            logging.getLogger(__name__).error("%s", error)  # it names a path, which strangers need not know
            return JSONResponse({"ok": False, "database": "can't be read"}, 503)
        beat = latest[0].heartbeat if latest and latest[0].status == "running" else None
        silent = None if beat is None else round(max(0.0, seconds_between(beat, now())), 1)
        failed = bool(latest) and latest[0].status in ("failed", "lost")
        ok = not (settings.workers and failed)
        told = {"ok": ok, "database": "ok", "sqlite": SQLITE_IN_USE, "worker_silent_seconds": silent}
        told["pages"] = "ready" if pages.ready else "starting"  # which keeps nobody from judging
        return JSONResponse(told, 200 if ok else 503)

    return health


def latest_answering_job(db: Database) -> list[job_store.Job]:
    """The job of the answering worker, if there ever was one. Raises UserError where the database can't be read."""
    with database.explain_disk_errors(db.path):
        return job_store.recent(db, (AnsweringSpec.kind,), 1)


# ------------------------------------------------------------------------------------------------------------- serving
def announce(settings: Settings, db: Database) -> None:
    """Print where the program runs, and by which SQLite; on loopback open the owner's link where there is a display."""
    shown_host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{shown_host}:{settings.port}/"
    print(_("Prefloop runs at {address}").format(address=address), flush=True)
    if settings.space is not None:
        print(_("People open {address}").format(address=settings.space.address), flush=True)
    elif settings.host in ("0.0.0.0", "::"):
        print(_("People open it at a name or address of this machine, with port {port}.").format(port=settings.port))
    link = f"{address}signin?token={access.owner_link_token(db)}" if settings.on_loopback else ""
    if link:
        print(_("Sign in as the owner (this link works once): {link}").format(link=link), flush=True)
    print(f"SQLite {SQLITE_IN_USE}", flush=True)
    if SQLITE_PROBLEM:
        print(SQLITE_PROBLEM, file=sys.stderr, flush=True)
    has_display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if link and settings.open_browser and has_display:
        webbrowser.open(link)


def not_an_open_page(record: logging.LogRecord) -> bool:
    """Keeps the end of open pages' streams out of the log: it is no error that people have a page open at shutdown."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "timeout graceful shutdown exceeded" not in record.getMessage()


def serve(app: Starlette, settings: Settings, listener: socket.socket) -> None:
    """Serve on the bound socket. Open pages keep a stream alive, so shutting down waits for them only so long."""
    config = uvicorn.Config(
        app,
        workers=1,
        timeout_graceful_shutdown=3,
        http=connections.TimeoutProtocol,
        limit_concurrency=connections.MAXIMUM,
        backlog=connections.BACKLOG,
        log_level="warning",
        log_config=None,  # its lines go where all lines go: see `log_visibly`
        access_log=False,
        # Without a proxy in front anybody could claim another address, and so dodge the throttle of the login.
        proxy_headers=not settings.on_loopback,
        forwarded_allow_ips=None if settings.space is None else list(PROXIES),
    )
    log_visibly()
    logging.getLogger("uvicorn.error").addFilter(not_an_open_page)
    announce(settings, app.state.db)
    server, pages = uvicorn.Server(config), app.state.pages
    pages.on_failure = lambda: setattr(server, "should_exit", True)
    if app.state.supervisor is not None:
        app.state.supervisor.hurried = lambda: server.force_exit  # by a second Ctrl+C
    server.run(sockets=[listener])
    if pages.failure is not None:
        raise pages.failure
