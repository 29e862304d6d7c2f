"""Loads Gradio without what nobody here needs of it: two thirds of what it takes to load it and to make its pages."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any


def load() -> None:
    """Load Gradio, if it is not loaded yet, before anything else does."""
    if "gradio" not in sys.modules:
        sys.meta_path.insert(0, WithoutStubs)
    build_no_needless_applications()
    look_at_components_once()
    describe_no_components_for_links()
    copy_pages_in_a_third_of_the_time()
    log_no_refusals()


class WithoutStubs:
    """Keeps Gradio from reading and writing its components' type stubs, which are in its package anyway."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As a finder of modules: that of one is found here, of which a function is made to do nothing."""
        spec = PathFinder.find_spec(name, path, target) if name == "gradio.component_meta" else None
        if spec is not None and spec.loader is not None:
            load_module = spec.loader.exec_module

            def load_without(module: ModuleType) -> None:
                load_module(module)
                vars(module)["create_or_modify_pyi"] = lambda *_: None

            spec.loader.exec_module = load_without  # type: ignore[method-assign]
        return spec


def build_no_needless_applications() -> None:
    """Pages get no FastAPI application that is not served, which would cost more than the page.

    Gradio makes three with each gr.Blocks, and a fourth, with arguments, where they are mounted.
    """
    from gradio.routes import App

    made = App.create_app

    def create_app(blocks: Any, **more: Any) -> Any:
        return made(blocks, **more) if more != {"mcp_server": False} else None

    App.create_app = staticmethod(create_app)  # type: ignore[method-assign,assignment]


def look_at_components_once() -> None:
    """Gradio takes classes and functions apart for each component that it makes or sends: half of what a page costs."""
    from gradio import blocks, component_meta, utils
    from gradio.components import base

    kept: Any = SimpleNamespace(**vars(inspect))
    for name in ("signature", "getfullargspec", "getfile"):
        setattr(kept, name, lru_cache(1024)(getattr(inspect, name)))
    vars(blocks)["inspect"] = vars(component_meta)["inspect"] = kept

    @cache
    def servers(component: type) -> list[str]:
        """What of it a page calls on the server."""
        return [name for name in dir(component) if getattr(getattr(component, name, None), "_is_server_fn", False)]

    vars(base)["dir"] = servers
    # Five times in a row when a function is put on a page.
    vars(utils)["get_type_hints"] = lru_cache(16)(utils.get_type_hints)


def describe_no_components_for_links() -> None:
    """A page that is opened gets no description of each of its components, of which Gradio makes links to its state.

    Here nobody can make such links, and it takes a tenth of a second of a processor.
    """
    from gradio.state_holder import SessionState

    begin: Any = SessionState.__init__

    def begin_without(state: SessionState, pages: Any) -> None:
        begin(state, SimpleNamespace(**{**vars(pages), "blocks": {}}))

    SessionState.__init__ = begin_without  # type: ignore[method-assign,assignment]


def copy_pages_in_a_third_of_the_time() -> None:
    """Of a page that is opened Gradio copies the whole description, as if each of its words could be changed."""
    from gradio import utils

    copy_anything = utils.safe_deepcopy
    unchanging = (str, int, float, type(None), FunctionType)

    def copy(value: Any) -> Any:
        if type(value) is dict:
            return {name: copy(one) for name, one in value.items()}
        if type(value) is list:
            return [copy(one) for one in value]
        return value if isinstance(value, unchanging) else copy_anything(value)

    vars(utils)["safe_deepcopy"] = copy


def log_no_refusals() -> None:
    """What is refused in words that a person is shown, such as a choice that there is not, is no failure to log."""
    from gradio.exceptions import Error

    *others, _print_exception = Error.__init__.__defaults__ or ()
    Error.__init__.__defaults__ = (*others, False)
