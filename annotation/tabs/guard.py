"""The one guard that every Gradio handler goes through: each listener is a public HTTP endpoint, hidden or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.blocks import Block

from annotation.api import no_problem
from annotation.database import Database
from annotation.records import Annotator, Role, UserError
from annotation.translation import _, language_of, speaking
from annotation.ui.markup import escape
from annotation.web import access
from annotation.web.watches import Watches

Handler = Callable[..., Any]


@dataclass(frozen=True)
class Context:
    """What the tabs share."""

    db: Database
    data_dir: Path
    model: str
    problem: Callable[[], str] = no_problem
    """Says what keeps new answers from coming, empty while nothing does."""
    token_held: bool = False
    """Whether a process beside this one has a token for the Hub, and does the jobs of the Hub's lane."""
    watches: Watches | None = None
    """What open pages follow; without it each of their questions goes through Gradio."""


def guarded(context: Context, role: Role) -> Callable[[Handler], Handler]:
    """Decorate `handler(*inputs)`, or `handler(annotator, *inputs)`: only an active account of this role gets to it.

    The name comes from the session, never from the browser's inputs. A UserError is shown to the person as it is.
    """

    def decorate(handler: Handler) -> Handler:
        called = told_who_asks(handler)

        # No functools.wraps: Gradio would read the handler's signature and not inject the request.
        def checked(request: gr.Request, *inputs: Any) -> Any:
            return let_in(context, role, request, called, *inputs)

        return named_after(handler, checked, role)

    return decorate


def guarded_steps(context: Context, role: Role, *steps: Handler) -> Handler:
    """A handler that answers several times, as each of `steps` does, `guarded` like any other."""

    called = [told_who_asks(step) for step in steps]

    def checked(request: gr.Request, *inputs: Any) -> Iterator[Any]:
        # Each by itself: Gradio may run what lies between two answers in different threads.
        for step in called:
            yield let_in(context, role, request, step, *inputs)

    return named_after(steps[-1], checked, role)


def guarded_event(context: Context, role: Role) -> Callable[[Handler], Handler]:
    """As `guarded`, for handlers whose inputs begin with an `event`: what the browser says of it, unchecked."""

    def decorate(handler: Handler) -> Handler:
        called = told_who_asks(handler)

        def checked(request: gr.Request, event: gr.EventData, *inputs: Any) -> Any:
            return let_in(context, role, request, called, event._data, *inputs)

        return named_after(handler, checked, role)

    return decorate


def told_who_asks(handler: Handler) -> Handler:
    """The handler as one that is told the account first: many do without, and have no `annotator` as their first."""
    if next(iter(signature(handler).parameters), None) == "annotator":
        return handler
    return lambda annotator, *inputs: handler(*inputs)


def let_in(context: Context, role: Role, request: gr.Request, handler: Handler, *inputs: Any) -> Any:
    """What `handler(annotator, *inputs)` says to an active account of this role."""
    title = _("Error")
    try:
        annotator = access.authorise(context.db, request.username, role)
        with answering(annotator):
            title = _("Error")  # in their language
            return handler(annotator, *inputs)
    except UserError as error:
        # The message is shown as HTML and may quote what someone typed.
        raise gr.Error(escape(str(error), quote=False), title=title) from error


@contextmanager
def answering(annotator: Annotator) -> Iterator[None]:
    """Have a handler speak this person's language, and what components it makes stay out of all pages.

    Gradio would add them to the page that another thread lays out at the same time, in another language.
    """
    token = ANSWERING.set(True)
    try:
        with speaking(language_of(annotator.language)):
            yield
    finally:
        ANSWERING.reset(token)


ANSWERING: Final = ContextVar("answering", default=False)
added_to_page: Callable[[Block], Block] = Block.render


def render(block: Block) -> Block:
    """As Gradio's, for components of a page that is laid out."""
    return block if ANSWERING.get() else added_to_page(block)


Block.render = render  # type: ignore[method-assign]


def named_after(handler: Handler, checked: Handler, role: Role) -> Handler:
    """The guarded handler with the name of its own, and the role that it asks for."""
    checked.__name__ = function_of(handler).__name__
    checked.__doc__ = function_of(handler).__doc__
    checked.required_role = role  # type: ignore[attr-defined]
    return checked


def function_of(handler: Handler) -> Handler:
    """The function that a handler is, with or without some of its arguments given."""
    return handler.func if isinstance(handler, partial) else handler
