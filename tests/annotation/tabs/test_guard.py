"""The guard lets an account in before a handler sees anything, and tells it who asks where it wants to know."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.database import Database
from annotation.records import Annotator
from annotation.tabs.guard import Context, guarded, guarded_event
from annotation.web import access
from tests.handlers import asked_by


@pytest.fixture
def context(db: Database, data_dir: Path) -> Context:
    access.add_account(db, "kim", "admin", "correct-horse-9")
    access.add_account(db, "ann", "annotator", "correct-horse-8")
    return Context(db, data_dir, "")


def told(annotator: Annotator, *values: Any) -> Any:
    return annotator.name, values


def untold(*values: Any) -> Any:
    return values


def given(first: str, annotator: Annotator, second: Any) -> Any:
    return first, annotator.name, second


# What looks like an account is an input like any other, whatever an input is called that does not come first.
SAID = {"name": "ann", "role": "admin"}


@pytest.mark.parametrize(
    ("handler", "inputs", "answer"),
    [
        (told, (SAID, 1), ("kim", (SAID, 1))),
        (untold, (SAID, 1), (SAID, 1)),
        (partial(given, "bound"), (SAID,), ("bound", "kim", SAID)),
        (lambda number, annotator: (number, annotator), (1, SAID), (1, SAID)),
        (lambda: "nothing", (), "nothing"),
    ],
)
def test_a_handler_is_told_who_asks_where_it_asks_for_it_first(
    context: Context, handler: Callable[..., Any], inputs: tuple[Any, ...], answer: Any
) -> None:
    checked = guarded(context, "admin")(handler)
    assert checked(*asked_by("kim", checked), *inputs) == answer


@pytest.mark.parametrize("handler", [told, untold])
def test_an_event_comes_before_the_inputs(context: Context, handler: Callable[..., Any]) -> None:
    checked = guarded_event(context, "admin")(handler)
    sent = checked(*asked_by("kim", checked, act="undo"), 1)
    assert (sent[-1] if handler is told else sent) == ({"act": "undo"}, 1)


@pytest.mark.parametrize("person", ["ann", "nobody", None])
@pytest.mark.parametrize("guard", [guarded, guarded_event])
def test_no_other_account_reaches_a_handler_that_does_not_ask_who_it_is(
    context: Context, guard: Callable[..., Any], person: str | None
) -> None:
    reached: list[Any] = []
    checked = guard(context, "admin")(lambda *values: reached.append(values))
    with pytest.raises(gr.Error):
        checked(*asked_by(person, checked), 1)
    assert reached == []
