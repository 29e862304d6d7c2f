"""How a tab follows what changes: while it can be seen, its pulse asks a handler again and again; else nothing asks."""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from annotation.tabs.components import QUIET
from annotation.tabs.guard import Context, Handler, guarded
from annotation.translation import LANGUAGE

SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
# Greater than before also after a restart, which open pages outlive.
ANSWERS = itertools.count(time.time_ns() // 1_000_000)


def pulse(seconds: float | None = None) -> gr.HTML:
    """Lay out what beats while the tab that is being laid out can be seen.

    At first every so many seconds; slower and slower while the answers stay the same. Without a number, the handlers
    that have the pulse among their outputs say when to ask again. No gr.Timer: that goes on after its tab was left.
    """
    sentences = dict(LANGUAGE.script)
    return gr.HTML(
        "", html_template="", js_on_load=SCRIPT, elem_classes=["pulse"], seconds=seconds, sentences=sentences
    )


def poll(
    beating: gr.HTML,
    context: Context,
    handler: Handler,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    **options: Any,
) -> None:
    """Have a pulse ask `handler(annotator, *inputs)` for a list of outputs. Only admins have tabs that follow."""
    listen: Callable[..., Any] = beating.beat
    admin = guarded(context, "admin")
    if beating in outputs:
        listen(admin(handler), [*inputs], [*outputs], **{**QUIET, **options})
        return

    def ask(annotator: Any, *values: Any) -> list[Any]:
        sent = handler(annotator, *values)
        return [*sent, told(str(zlib.crc32(repr(sent).encode())))]

    ask.__name__ = handler.__name__
    listen(admin(ask), [*inputs], [*outputs, beating], **{**QUIET, **options})


def again(seconds: float | None) -> str:
    """For a pulse among the outputs: ask again after so many seconds; None: not before a handler says so."""
    return told("Infinity" if seconds is None else str(seconds))


def told(word: str) -> str:
    """A value for a pulse, numbered: so the browser notices every answer, and which of two came later."""
    return f"{next(ANSWERS)} {word}"
