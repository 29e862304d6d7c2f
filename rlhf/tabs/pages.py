"""All tabs as one page of Gradio's, mounted behind its allow-list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from starlette.routing import Mount

from annotation.records import Annotator
from annotation.tabs import accounts, annotate, data, quality
from annotation.tabs.components import QUIET, in_template
from annotation.tabs.guard import Context, guarded
from annotation.tabs.import_form import MAXIMUM_UPLOAD
from annotation.translation import _
from annotation.ui import stylesheet
from annotation.web import middleware
from annotation.web.deferred_app import BuiltApp
from annotation.web.gradio_allowlist import Function, GradioGuard
from annotation.web.settings import Settings
from annotation.web.space import Space
from rlhf.tabs import project_tab
from rlhf.tabs.hub import hub_tab
from rlhf.tabs.iterations import iterations_tab
from rlhf.tabs.judges import judges_tab
from rlhf.tabs.playground import playground_tab
from rlhf.tabs.train import train_tab

ADMIN_TABS: dict[str, ModuleType] = {
    _("Train"): train_tab,
    _("Iterations"): iterations_tab,
    _("AI judges"): judges_tab,
    _("Playground"): playground_tab,
    _("Project"): project_tab,
    _("Quality"): quality,
    _("Data"): data,
    _("Hub"): hub_tab,
    _("Accounts"): accounts,
}
MASTHEAD = """
<header class="masthead"><h1>Prefloop</h1>
<form method="post" action="/logout"><!--notice--><span>{{value}}</span>
<button type="submit"><!--out--></button></form></header>
"""


def build_pages(context: Context, here: Space | None = None) -> gr.Blocks:
    """All tabs. What only admins may see is hidden here, filled by guarded handlers alone, and guarded there."""
    pages = gr.Blocks(title="Prefloop", analytics_enabled=False, delete_cache=(3600, 86400))
    with pages:
        # A name has no characters that Gradio's template could take for code: access.NAME.
        name = gr.HTML(
            html_template=masthead(noticed=here is not None),
            js_on_load=None,
            apply_default_css=False,
            elem_id="masthead",
        )
        admin_parts: list[Any] = []
        if here is not None and here.zero_gpu:
            # Not at the top: off ZeroGPU the package that lends GPUs is not to be loaded, which would load torch.
            from rlhf.tabs.playground import zero_gpu_notice

            with gr.Column(visible=False) as lent:
                zero_gpu_notice.build(context)
            admin_parts.append(lent)
        with gr.Tabs():
            with gr.Tab(_("Annotate")):
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


def masthead(noticed: bool) -> str:
    """What stands above the tabs, as Gradio's template: the name that the page fills in, and the way out."""
    recorded = in_template(_("What is recorded"))
    link = f'<a href="/recorded">{recorded}</a> ' if noticed else ""
    return MASTHEAD.replace("<!--notice-->", link).replace("<!--out-->", in_template(_("Sign out")))


def greeting(admin_parts: int) -> Callable[[Annotator], tuple[Any, ...]]:
    """The handler of a page that has been loaded; so many parts of it are for admins."""

    def greet(annotator: Annotator) -> tuple[Any, ...]:
        """Say who is signed in, and show an admin what is for admins."""
        shown = gr.update(visible=annotator.role == "admin")
        roles = {"admin": _("admin"), "annotator": _("annotator")}
        return (f"{annotator.name} · {roles[annotator.role]}", *[shown] * admin_parts)

    return greet


def theme() -> gr.themes.Base:
    """Gradio's default with the system's fonts (its own lack letters) and small print dark enough to read."""
    readable = {"block_info_text_color": "*neutral_600", "block_info_text_color_dark": "*neutral_300"}
    fonts = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return fonts.set(**readable)


def build(context: Context, settings: Settings, uploads: Path) -> BuiltApp:
    """The pages behind their door, with everything off that would call out, keep inputs in browsers or show errors'
    insides."""
    pages = build_pages(context, settings.space)
    # It is not served: Gradio leaves its own start and end with it, and sees by its middleware that CORS is seen to.
    host = FastAPI(openapi_url=None, middleware=[Middleware(CORSMiddleware)])
    gr.mount_gradio_app(
        host,
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
    route = host.routes[-1]
    assert isinstance(route, Mount), "Gradio was mounted last"
    return BuiltApp(GradioGuard(route.app, functions_of(pages)), host.router.lifespan_context(host))


def functions_of(pages: gr.Blocks) -> list[Function]:
    """Every function that the pages call, with the role that its guard asks for; all are guarded."""
    return [
        Function(
            number,
            block.api_name if isinstance(block.api_name, str) else "",
            block.fn.required_role,  # type: ignore[union-attr]
        )
        for number, block in pages.fns.items()
    ]
