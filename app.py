"""The program: settings → database → base model → pages behind sign-in → workers → web server. No torch in here."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import socket
import sys
import tempfile
import weakref
import webbrowser
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from annotation import api, sqlite, store
from annotation.backup import restoration, safe_copies, targets
from annotation.database import FILE_NAME, Database, explain_disk_errors, hold_data_directory, open_database
from annotation.environment import keep_private
from annotation.exports import export_files
from annotation.imports import importing
from annotation.records import Annotator, UserError, now, seconds_between
from annotation.tabs import accounts, annotate, data, project, quality
from annotation.tabs.components import QUIET
from annotation.tabs.guard import Context, guarded
from annotation.tabs.import_form import MAXIMUM_UPLOAD
from annotation.ui import stylesheet
from annotation.ui.invisible import visible
from annotation.web import access, connections, middleware, oauth
from annotation.web.gradio_allowlist import Function, GradioGuard
from annotation.web.space import LOOPBACK_NAMES, PROXIES, SPACE_MODEL, Space
from rlhf.hub import hub_requests, token_launcher
from rlhf.jobs import job_store
from rlhf.jobs.devices import VISIBLE
from rlhf.loop.supervisor import Supervisor
from rlhf.models import base_model, registry
from rlhf.models.base_model import BaseModel
from rlhf.tabs import downloads
from rlhf.tabs.hub import hub_tab
from rlhf.tabs.iterations import iterations_tab
from rlhf.tabs.judges import judges_tab
from rlhf.tabs.playground import playground_tab
from rlhf.tabs.train import train_tab

DEFAULT_DATA_DIR = Path(__file__).resolve().parent / "data"
ADMIN_TABS: dict[str, ModuleType] = {
    "Train": train_tab,
    "Iterations": iterations_tab,
    "AI judges": judges_tab,
    "Playground": playground_tab,
    "Project": project,
    "Quality": quality,
    "Data": data,
    "Hub": hub_tab,
    "Accounts": accounts,
}
MASTHEAD = """
<header class="masthead"><h1>Prefloop</h1>
<form method="post" action="/logout"><!--notice--><span>{{value}}</span>
<button type="submit">Sign out</button></form></header>
"""
NOTICE_LINK = '<a href="/recorded">What is recorded</a> '


@dataclass(frozen=True)
class Settings:
    """What can be set when the program starts; each has a flag and an environment variable."""

    data_dir: Path = DEFAULT_DATA_DIR
    """Everything that is kept: the database, adapters, snapshots. (--data, PREFLOOP_DATA)"""
    host: str = "127.0.0.1"
    """Address to listen on; another than loopback needs accounts. (--host, PREFLOOP_HOST)"""
    port: int = 7860
    """Port to listen on; 0 takes a free one. (--port, PREFLOOP_PORT)"""
    model: str = base_model.EMBEDDED
    """The base model: 'embedded', a directory, or a name on the Hub. (--model, PREFLOOP_MODEL)"""
    open_browser: bool = True
    """Open the owner's link where there is a display. (--no-browser)"""
    workers: bool = True
    """Start the workers that answer and train; without them the pages only serve what is there. (--no-workers)"""
    space: Space | None = None

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.space is None and self.host in LOOPBACK_NAMES

    @property
    def cookie(self) -> str:
        """The session cookie's name; browsers share cookies between ports, so each port has its own."""
        return f"prefloop-{self.port}"


def read_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Settings from flags, else from the environment, else the defaults, which on a Space are those it needs.

    There GRADIO_SERVER_NAME and GRADIO_SERVER_PORT hold too, where none of ours are set. Raises UserError for variables
    of a Space that mean nothing.
    """
    here = Space.from_environment(os.environ)
    usual = Settings() if here is None else Settings(host="0.0.0.0", model=SPACE_MODEL, open_browser=False)
    parser = argparse.ArgumentParser(prog="python app.py", description=__doc__)
    environment = os.environ.get
    gradio = environment if here is not None else {}.get
    host, port = gradio("GRADIO_SERVER_NAME") or usual.host, gradio("GRADIO_SERVER_PORT") or str(usual.port)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=Path(environment("PREFLOOP_DATA", Settings.data_dir)),
        help="data directory (default: %(default)s)",
    )
    parser.add_argument("--host", default=environment("PREFLOOP_HOST", host), help="(default: %(default)s)")
    parser.add_argument(
        "--port", type=port_number, default=environment("PREFLOOP_PORT", port), help="(default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        metavar="NAME_OR_DIR",
        default=environment("PREFLOOP_MODEL", usual.model),
        help="base model: 'embedded', a directory, or a chat model's name on the Hub (default: %(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="don't open a browser")
    parser.add_argument("--no-workers", action="store_true", help="serve the pages only: answer nothing, train nothing")
    options = parser.parse_args(arguments)
    return Settings(
        options.data.expanduser().resolve(),
        options.host,
        options.port,
        options.model,
        usual.open_browser and not options.no_browser,
        not options.no_workers,
        here,
    )


def port_number(text: str) -> int:
    """A port to listen on. Beyond the last one the system would take the rest of a division, and so another port."""
    if not 0 <= (port := int(text)) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{port} is no port: choose one up to 65535, or 0 for a free one")
    return port


# ------------------------------------------------------------------------------------------------------------- pages
def build_pages(context: Context, here: Space | None = None) -> gr.Blocks:
    """All tabs. What only admins may see is hidden here, filled by guarded handlers alone, and guarded there."""
    pages = gr.Blocks(title="Prefloop", analytics_enabled=False, delete_cache=(3600, 86400))
    with pages:
        # A name has no characters that Gradio's template could take for code: access.NAME.
        masthead = MASTHEAD.replace("<!--notice-->", "" if here is None else NOTICE_LINK)
        name = gr.HTML(html_template=masthead, js_on_load=None, apply_default_css=False, elem_id="masthead")
        admin_parts: list[Any] = []
        if here is not None and here.zero_gpu:
            # Not at the top: off ZeroGPU the package that lends GPUs is not to be loaded, which would load torch.
            from rlhf.tabs.playground import zero_gpu_notice

            with gr.Column(visible=False) as lent:
                zero_gpu_notice.build(context)
            admin_parts.append(lent)
        with gr.Tabs():
            with gr.Tab("Annotate"):
                annotate.build(pages, context)
            for label, module in ADMIN_TABS.items():
                with gr.Tab(label, visible=False) as tab:
                    module.build(pages, context)
                admin_parts.append(tab)
        pages.load(
            guarded(context, "annotator")(greeting(len(admin_parts))),
            outputs=[name, *admin_parts],
            api_name="greet",
            **QUIET,
        )
    # A session (each load of the page) keeps about half a megabyte; what a forgotten one loses is a draft on an admin's
    # tab, since judging needs none.
    pages.state_session_capacity = 150
    pages.max_threads = 40
    pages.queue(default_concurrency_limit=8, max_size=200)
    return pages


def greeting(admin_parts: int) -> Callable[[Annotator], tuple[Any, ...]]:
    """The handler of a page that has been loaded; so many parts of it are for admins."""

    def greet(annotator: Annotator) -> tuple[Any, ...]:
        """Say who is signed in, and show an admin what is for admins."""
        shown = gr.update(visible=annotator.role == "admin")
        return (f"{annotator.name} · {annotator.role}", *[shown] * admin_parts)

    return greet


def theme() -> gr.themes.Base:
    """Gradio's default with the system's fonts (its own lack letters) and small print dark enough to read."""
    readable = {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300"}
    fonts = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return fonts.set(**readable)


def mount_pages(app: FastAPI, pages: gr.Blocks, settings: Settings, uploads: Path) -> FastAPI:
    """Gradio at the root behind its door, with everything off that would call out, keep inputs in browsers or show
    errors' insides."""
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        pages,
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        auth_dependency=middleware.signed_in_name,
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
        theme=theme(),
        css=stylesheet.FOR_GRADIO,
        # What is blocked is so wherever it lies: in a data directory around that of the uploads, these as well.
        blocked_paths=[] if uploads.is_relative_to(settings.data_dir) else [str(settings.data_dir)],
        max_file_size=MAXIMUM_UPLOAD,  # and only from admins: gradio_door.WAYS
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
    # Only launch() says so, and Gradio takes files from anywhere on this machine until it is said.
    pages.has_launched = True
    route = mounted.routes[-1]
    assert isinstance(route, Mount), "Gradio was mounted last"
    route.app = GradioGuard(route.app, functions_of(pages))
    return mounted


def functions_of(pages: gr.Blocks) -> list[Function]:
    """Every function that the pages call, with the role that its guard asks for; all are guarded."""
    return [
        Function(number, block.api_name if isinstance(block.api_name, str) else "", block.fn.required_role)
        for number, block in pages.fns.items()
    ]


# --------------------------------------------------------------------------------------------------------------- app
def build_app(settings: Settings) -> FastAPI:
    """The whole program behind one ASGI app. Raises UserError for what a person has to mend first."""
    fresh = not (settings.data_dir / FILE_NAME).is_file()
    if fresh and not settings.workers:
        find_model(settings)  # or nothing is begun
    in_use = restoration.shared_lock(settings.data_dir)
    lock = hold_data_directory(settings.data_dir) if settings.workers else None
    if fresh and settings.workers:
        find_model(settings)
    db, here = open_database(settings.data_dir), settings.space
    provider = None if here is None else oauth.Provider.from_environment(os.environ, here)
    if provider is None:
        refuse_open_door(settings, db)
    if here is not None:
        access.follow_rules(db, here.rules)
    importing.clear_leftovers(db)
    context = Context(
        db,
        settings.data_dir,
        prepare_model(settings, db, known=fresh),
        lambda: answering_problem(db),
        hub_requests.ImportRun.start if token_launcher.HELD in os.environ else None,
    )
    if not store.prompts(db, "train") and not store.prompts(db, "held-out"):
        store.add_prompts(db, importing.starter_prompts())
    lent_gpu = here is not None and here.zero_gpu
    if lent_gpu:
        os.environ[VISIBLE] = ""  # workers must not look for the GPU that the driver knows of
    # With a lent GPU nothing keeps answers in stock: the page has a button for that.
    supervisor = Supervisor(db, settings.data_dir, context.model, resident=not lent_gpu) if settings.workers else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if supervisor is not None:
            supervisor.start()
        yield
        if supervisor is not None:
            await asyncio.to_thread(supervisor.stop)
        clear_uploads()

    # Gradio's own directory is one for all programs and users of the machine; only this user can look into this one.
    uploads = Path(tempfile.mkdtemp(prefix="prefloop-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    sign_in = middleware.SignIn(db, settings.cookie, here, provider is not None)
    from_hub = [] if here is None or provider is None else oauth.HubSignIn(db, here, provider, sign_in).routes()
    copies = targets.target_name(os.environ.get(token_launcher.PLACE, "").strip())
    annotation_api = api.AnnotationApi(db, context.problem, "" if here is None else safe_copies.NOT_COPIED, copies)
    app = FastAPI(
        openapi_url=None,
        lifespan=lifespan,
        routes=[
            Route("/healthz", health_route(settings, db)),
            *sign_in.routes(),
            *from_hub,
            *annotation_api.routes(),
            *export_files.Downloads(settings.data_dir).routes(),
            *downloads.ModelDownloads(db, settings.data_dir).routes(),
        ],
    )
    clear_uploads = weakref.finalize(app, shutil.rmtree, uploads, ignore_errors=True)
    app.state.db, app.state.lock, app.state.in_use = db, lock, in_use
    # Each call wraps the ones before it: the last is the first that a request meets.
    open_paths = (*middleware.OPEN_PATHS, *(route.path for route in from_hub))
    app.add_middleware(middleware.SignedIn, db=db, cookie=settings.cookie, open_paths=open_paths)
    app.add_middleware(CORSMiddleware)
    app.add_middleware(middleware.SameOrigin, hosts=() if here is None else here.hosts)
    if here is not None:
        app.add_middleware(middleware.OutOfFrames, address=here.address)
    app.add_middleware(middleware.KnownHost, names=LOOPBACK_NAMES if settings.on_loopback else (), space=here)
    app.add_middleware(middleware.SecurityHeaders, frames=() if here is None else (here.framed_by,))
    return mount_pages(app, build_pages(context, here), settings, uploads)


def answering_problem(db: Database) -> str:
    """What keeps the answering worker from answering, for people who wait for it; empty while nothing does."""
    latest = latest_answering_job(db)
    if latest and latest[0].status in ("failed", "lost"):
        # Not the reason itself: it may name a policy or a path, which annotators are not to see.
        return (
            "The model can't answer at the moment; it is tried again by itself. Admins find the reason in Iterations."
        )
    if latest and latest[0].message.startswith(job_store.TOO_FEW_ANSWERS):
        return (
            "The model gives fewer different answers than a comparison needs; it is tried again by itself. "
            "Admins can ask for fewer on the Project tab."
        )
    beat = latest[0].heartbeat if latest and latest[0].status in ("running", "cancelling") else None
    if beat is None or seconds_between(beat, now()) > job_store.LOST_AFTER_SECONDS:
        return "No model is writing answers at the moment. When one does, they appear here by themselves."
    return ""


def refuse_open_door(settings: Settings, db: Database) -> None:
    """Raises UserError where others could reach the server and nobody can sign in with a password."""
    if settings.on_loopback or access.has_password_accounts(db):
        return
    if settings.space is not None:
        raise UserError(
            f"Nobody could sign in to the Space {settings.space.id}: sign-in with Hugging Face is off. "
            "Put `hf_oauth: true` between the lines `---` at the top of its README.md."
        )
    raise UserError(
        f"Others can reach {settings.host}, and there is no account with a password yet. Make one first: "
        f"python -m annotation accounts add NAME --role admin --data {settings.data_dir}"
    )


def prepare_model(settings: Settings, db: Database, known: bool) -> str:
    """Get the base model ready and return its name; a server without workers takes the one that is recorded."""
    recorded = bool(registry.all_policies(db))
    if not settings.workers and recorded:
        return registry.by_revision(db, "base").base
    base = find_model(settings, known or recorded)
    if base.remark:
        print(f"{base.name}:{base.remark}", flush=True)
    return registry.ensure_base(db, base.name).base


def find_model(settings: Settings, known: bool = False) -> BaseModel:
    """The base model; without workers only one that is ready. Raises UserError where there is none that can be used."""
    if settings.workers:
        return base_model.prepare(settings.data_dir, settings.model, known)
    return base_model.present(settings.data_dir, settings.model)


def health_route(settings: Settings, db: Database) -> Callable[[Request], Awaitable[Response]]:
    """`/healthz`: 200 while the database answers and the answering worker, once it runs, is heard of."""

    async def health(request: Request) -> Response:
        try:
            latest = await asyncio.to_thread(latest_answering_job, db)
        except UserError as error:
            logging.getLogger(__name__).error("%s", error)  # it names a path, which strangers need not know
            return JSONResponse({"ok": False, "database": "can't be read"}, 503)
        beat = latest[0].heartbeat if latest and latest[0].status == "running" else None
        silent = None if beat is None else round(seconds_between(beat, now()), 1)
        failed = bool(latest) and latest[0].status in ("failed", "lost")
        fresh = not failed and (silent is None or silent < job_store.LOST_AFTER_SECONDS)
        ok = not settings.workers or fresh
        told = {"ok": ok, "database": "ok", "sqlite": sqlite.IN_USE, "worker_silent_seconds": silent}
        return JSONResponse(told, 200 if ok else 503)

    return health


def latest_answering_job(db: Database) -> list[job_store.Job]:
    """The job of the answering worker, if there ever was one. Raises UserError where the database can't be read."""
    with explain_disk_errors(db.path):
        return job_store.recent(db, ("generate",), 1)


# -------------------------------------------------------------------------------------------------------------- main
def listen(settings: Settings) -> socket.socket:
    """The server's socket, bound before anything slow begins. Raises UserError if the address can't be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # from here on a browser that follows the printed link waits instead of being refused
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Can't listen on {settings.host} port {settings.port} ({error}). "
            "Stop what runs there, or choose another with --port."
        ) from error
    return listener


def announce(settings: Settings, db: Database) -> None:
    """Print where the program runs, and by which SQLite; on loopback open the owner's link where there is a display."""
    shown_host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{shown_host}:{settings.port}/"
    print(f"Prefloop runs at {address}", flush=True)
    if settings.space is not None:
        print(f"People open {settings.space.address}", flush=True)
    link = f"{address}signin?token={access.owner_link_token(db)}" if settings.on_loopback else ""
    if link:
        print(f"Sign in as the owner (this link works once): {link}", flush=True)
    print(f"SQLite {sqlite.IN_USE}", flush=True)
    if sqlite.PROBLEM:
        print(sqlite.PROBLEM, file=sys.stderr, flush=True)
    has_display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if link and settings.open_browser and has_display:
        webbrowser.open(link)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the program and serve until it is told to stop."""
    keep_private()
    try:
        settings = read_settings(arguments)
        if arguments is None:
            token_launcher.launch_where_needed(settings.data_dir, settings.model, sys.argv[1:])
        with listen(settings) as listener:
            settings = replace(settings, port=listener.getsockname()[1])
            serve(build_app(settings), settings, listener)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Prefloop has stopped.")
    return 0


def not_an_open_page(record: logging.LogRecord) -> bool:
    """Keeps the end of open pages' streams out of the log: it is no error that people have a page open at shutdown."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "timeout graceful shutdown exceeded" not in record.getMessage()


def serve(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serve on the bound socket. Open pages keep a stream alive, so shutting down waits for them only so long."""
    config = uvicorn.Config(
        app,
        workers=1,
        timeout_graceful_shutdown=3,
        http=connections.PunctualProtocol,
        limit_concurrency=connections.MAXIMUM,
        log_level="warning",
        access_log=False,
        # Without a proxy in front anybody could claim another address, and so dodge the throttle of the login.
        proxy_headers=not settings.on_loopback,
        forwarded_allow_ips=None if settings.space is None else list(PROXIES),
    )
    logging.getLogger("uvicorn.error").addFilter(not_an_open_page)
    if settings.space is not None and settings.space.zero_gpu:
        from rlhf.loop import zero_gpu

        zero_gpu.start_up()
    announce(settings, app.state.db)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
