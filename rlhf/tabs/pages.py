"""The pages of annotators and of admins, each one page of Gradio's, mounted behind the allow-list."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType

import gradio as gr
from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from annotation.records import Annotator, Role
from annotation.tabs import accounts, address, annotate, data, polling, quality
from annotation.tabs.components import QUIET, in_template
from annotation.tabs.guard import Context, guarded
from annotation.tabs.import_form import MAXIMUM_UPLOAD
from annotation.translation import N_, _, codes, spoken
from annotation.ui import icons, stylesheet
from annotation.web import middleware
from annotation.web.deferred_app import BuiltApp
from annotation.web.gradio_allowlist import AccountHoldings, FieldKind, Function, GradioGuard
from annotation.web.page_addresses import PageAddresses, PageHead, QuickerScripts
from annotation.web.settings import Settings
from annotation.web.space import Space
from rlhf.tabs import project_tab
from rlhf.tabs.hub import hub_tab
from rlhf.tabs.iterations import iterations_tab
from rlhf.tabs.judges import judges_tab
from rlhf.tabs.overview import overview_tab
from rlhf.tabs.playground import playground_tab
from rlhf.tabs.train import train_and_runs

# The tabs of admins behind those that need the others, in the order of the page: name and label.
TABS: dict[str, tuple[str, ModuleType]] = {
    "iterations": (N_("Iterations"), iterations_tab),
    "quality": (N_("Quality"), quality),
    "judges": (N_("AI judges"), judges_tab),
    "playground": (N_("Playground"), playground_tab),
    "project": (N_("Project"), project_tab),
    "hub": (N_("Hub"), hub_tab),
    "accounts": (N_("Accounts"), accounts),
}
MASTHEAD = """
<header class="masthead"><h1><!--logo-->Prefloop</h1>
<form method="post" action="/language" id="languages"><button type="button" data-theme></button></form>
<form method="post" action="/logout"><!--notice--><span>{{value}}</span>
<select name="language" form="languages" aria-label="<!--language-->"><!--codes--></select>
<button type="submit"><!--out--></button></form></header>
"""
# Of the theme that is chosen, so that the button takes little room.
THEMES = {
    "": ("◐", N_("Colours: as the system has them")),
    "light": ("○", N_("Colours: light")),
    "dark": ("●", N_("Colours: dark")),
}
# Browsers know what each language is called by those who speak it. Gradio has said in the meantime that the page is in
# the browser's own.
SWITCHES = """
const { theme, nextTheme } = window.prefloop.theme;
const named = (chosen) => {
  const button = element.querySelector("[data-theme]");
  const [sign, words] = props.themes[chosen];
  if (button.title === words) return;
  Object.assign(button, { textContent: sign, title: words, ariaLabel: words });
};
const name = () => {
  for (const option of element.querySelectorAll("option")) {
    const called = new Intl.DisplayNames([option.value], { type: "language" }).of(option.value);
    if (option.textContent !== called) option.textContent = called;
  }
  named(theme());
};
element.addEventListener("change", (event) => event.target.form.submit());
element.addEventListener("click", (event) => event.target.closest("[data-theme]") && named(nextTheme()));
new MutationObserver(name).observe(element, { childList: true, subtree: true });
name();
Object.assign(document.documentElement, props.language);
"""


def build_pages(context: Context, here: Space | None = None, role: Role = "admin") -> gr.Blocks:
    """All tabs that this role has. What is on those of admins is filled by guarded handlers alone."""
    # Annotators' pages have no files.
    cache = (3600, 86400) if role == "admin" else None
    pages = gr.Blocks(title="Prefloop", analytics_enabled=False, delete_cache=cache)
    with pages:
        # A name has no characters that Gradio's template could take for code: access.NAME.
        name = gr.HTML(
            html_template=masthead(noticed=here is not None),
            js_on_load=SWITCHES,
            apply_default_css=False,
            elem_id="masthead",
            language={"lang": spoken().code, "dir": spoken().direction},
            themes={name: [sign, _(words)] for name, (sign, words) in THEMES.items()},
        )
        # The first listener, so that it has the same number on the pages of both roles.
        pages.load(guarded(context, "annotator")(greet), outputs=name, api_name="greet", **QUIET)
        if role == "admin":
            build_tabs(pages, context, here)
        else:
            annotate.build(pages, context)
    # A session (each load of the page) keeps about half a megabyte; what a forgotten one loses is a draft on an admin's
    # tab, since judging needs none.
    pages.state_session_capacity = 150
    pages.max_threads = 40
    pages.queue(default_concurrency_limit=8, max_size=200)
    # Else Gradio looks a thousand times a second, all day, whether a button was pressed.
    pages._queue.sleep_when_free = pages._queue.progress_update_sleep_when_free = 0.05
    return pages


def build_tabs(pages: gr.Blocks, context: Context, here: Space | None) -> None:
    if here is not None and here.zero_gpu:
        # Not at the top: off ZeroGPU the package that lends GPUs is not to be loaded, which would load torch.
        from rlhf.tabs.playground import zero_gpu_notice

        zero_gpu_notice.build(context)
    overview_tab.build_strip()
    guide = address.guide()
    # In the order of the loop. The page opens where there is something to do at once, whoever comes for the first time.
    with gr.Tabs(selected="annotate", elem_id="pages", overflow_behavior="wrap"):
        with gr.Tab(_("Overview"), id="overview"):
            overview_tab.build(pages, context)
        with gr.Tab(_("Annotate"), id="annotate"):
            annotate.build(pages, context)
        with gr.Tab(_("Data"), id="data"):
            data.build(pages, context)
        train_and_runs.build(pages, context, guide)
        for name, (label, module) in TABS.items():
            with gr.Tab(_(label), id=name):
                module.build(pages, context)


def masthead(noticed: bool) -> str:
    """What stands above the tabs, as Gradio's template: the name that the page fills in, and the way out."""
    recorded = in_template(_("What is recorded"))
    link = f'<a href="/recorded">{recorded}</a> ' if noticed else ""
    # In the page it takes the colour of the theme.
    logo = stylesheet.LOGO.read_text(encoding="utf-8").strip().replace(' color="royalblue"', "")
    return (
        MASTHEAD.replace("<!--logo-->", logo)
        .replace("<!--notice-->", link)
        .replace("<!--language-->", in_template(_("Language")))
        .replace("<!--codes-->", "".join(map(language_option, codes())))
        .replace("<!--out-->", in_template(_("Sign out")))
    )


def language_option(code: str) -> str:
    """A language to choose, whose name a script fills in."""
    chosen = " selected" if code == spoken().code else ""
    return f'<option value="{code}" lang="{code}"{chosen}>{code}</option>'


def greet(annotator: Annotator) -> str:
    roles = {"admin": _("admin"), "annotator": _("annotator")}
    return f"{annotator.name} · {roles[annotator.role]}"


def theme() -> gr.themes.Base:
    """Gradio's default in colours of our own, with the system's fonts (its own lack letters) and small print dark
    enough to read. Words on what is coloured have a contrast of 4.5 at least, in both themes.
    """
    base = gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return base.set(
        button_large_padding="*button_medium_padding",
        button_large_text_size="*button_medium_text_size",
        button_small_padding="*button_medium_padding",
        button_small_text_size="*button_medium_text_size",
        button_small_text_weight="*button_medium_text_weight",
        button_primary_background_fill="*primary_600",
        button_primary_border_color="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        color_accent="*primary_600",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )


class ByRole:
    """Gradio's apps for annotators and for admins: whoever asks gets their own, whatever they ask for.

    Annotators' browsers so load a tenth of the components, and what only admins do is not there to be called.
    """

    def __init__(self, apps: Mapping[Role, ASGIApp]) -> None:
        self.apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        annotator: Annotator = scope[middleware.ANNOTATOR_KEY]  # `GradioGuard` lets nobody else through
        await self.apps[annotator.role](scope, receive, send)


def build(context: Context, settings: Settings, uploads: Path, holdings: AccountHoldings) -> BuiltApp:
    pages: dict[Role, gr.Blocks] = {role: build_pages(context, settings.space, role) for role in ("annotator", "admin")}
    hosts = {role: hosted(blocks, settings, uploads) for role, blocks in pages.items()}

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for host in hosts.values():
                await stack.enter_async_context(host.router.lifespan_context(host))
            yield

    apps: dict[Role, ASGIApp] = {}
    for role, host in hosts.items():
        mount = host.routes[-1]
        assert isinstance(mount, Mount), "Gradio was mounted last"
        assert isinstance(mount.app, FastAPI)
        # Last, so that what Gradio packs goes through it before.
        inserted = (
            said_language() + icons.head() + address.head(pages[role]) + (polling.head() if role == "admin" else "")
        )
        head = Middleware(PageHead, inserted=inserted, language=spoken().attributes)
        mount.app.user_middleware += [head, Middleware(QuickerScripts)]
        apps[role] = mount.app
    guard = GradioGuard(ByRole(apps), functions_of(pages["admin"]), holdings, uploads)
    return BuiltApp(
        PageAddresses(
            guard, {role: [*address.names(blocks)] for role, blocks in pages.items()}, [*address.ends(pages["admin"])]
        ),
        lifespan(),
    )


def said_language() -> str:
    """The script by which Gradio's own words are in the language of the page, too: it goes by the browser's."""
    code = json.dumps(spoken().code.replace("_", "-"))
    return f'<script>Object.defineProperty(navigator, "language", {{ value: {code} }});</script>'


def words_of_style() -> str:
    """What the stylesheet writes on the page, in the language of the page."""
    said = json.dumps(_("any"), ensure_ascii=False)
    return f":root {{ --any: {said}; }}\n"


def hosted(pages: gr.Blocks, settings: Settings, uploads: Path) -> FastAPI:
    """Where Gradio is mounted, with everything off that would call out, keep inputs in browsers or show errors'
    insides.
    """
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
        css=words_of_style() + stylesheet.FOR_GRADIO,
        favicon_path=str(stylesheet.LOGO),
        # What is blocked is so wherever it lies: in a data directory around that of the uploads, these as well.
        blocked_paths=[] if uploads.is_relative_to(settings.data_dir) else [str(settings.data_dir)],
        max_file_size=MAXIMUM_UPLOAD,  # and only from admins: gradio_allowlist.ALLOWED_ROUTES
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
    return host


def functions_of(pages: gr.Blocks) -> list[Function]:
    """Every function that the pages call, with the role that its guard asks for; all are guarded."""
    return [
        Function(
            number,
            block.api_name if isinstance(block.api_name, str) else "",
            block.fn.required_role,  # type: ignore[union-attr]
            tuple(map(kind_of, block.inputs)),
        )
        for number, block in pages.fns.items()
    ]


def kind_of(component: object) -> FieldKind:
    if isinstance(component, gr.State):
        return "any"
    if isinstance(component, gr.File):
        return "file"
    if isinstance(component, gr.CheckboxGroup):
        return "several"
    if isinstance(component, gr.Dropdown) and component.multiselect:
        return "some"
    return "number" if isinstance(component, gr.Slider) else "one"
