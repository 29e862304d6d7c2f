"""How a tab follows what changes: while it can be seen the page asks now and then whether anything has, else not.

At each event of Gradio's the browser walks the whole page. So a pulse asks a small endpoint whether what its handler
would say is still what it said last (`annotation.web.watches`), and has Gradio call the handler only where it is not.
The script in the head of the page, `polling.js`, asks for all that is in view with one request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import gradio as gr

from annotation.tabs.components import ANSWERS, QUIET
from annotation.tabs.guard import Context, Handler, answering, function_of, guarded_event, told_who_asks
from annotation.translation import spoken
from annotation.web.watches import mark_of

HEAD: Final = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
# `follow` says when: see polling.js.
PULSE: Final = """
const one = window.prefloop.follow({ element, seconds: props.seconds, ask: (key) => trigger("beat", { key }) });
watch("value", () => one.answered(props.value));
"""
# In place of a number of seconds: as often as the page asks by itself.
EVEN: Final = "-"


def head() -> str:
    """The script for the head of a page whose tabs follow what changes."""
    sentences = json.dumps(dict(spoken().script)).replace("<", "\\u003c")
    return f"<script>{HEAD.strip()}({sentences});</script>"


def pulse(seconds: float | None = None) -> gr.HTML:
    """Lay out what asks while the tab that is being laid out can be seen.

    At first every so many seconds; slower and slower while the answers stay the same. Without a number, the handlers
    that have the pulse among their outputs say when to ask again. No gr.Timer: that goes on after its tab was left.
    """
    return gr.HTML("", html_template="", js_on_load=PULSE, elem_classes=["pulse"], seconds=seconds)


def poll(
    beating: gr.HTML, context: Context, handler: Handler, inputs: Sequence[Any], outputs: Sequence[Any], **options: Any
) -> None:
    """Have a pulse ask a handler, as those of `guarded`, for a list of outputs. Only admins have tabs that follow.

    It must change nothing: it is called as well to see whether it would say something else by now.
    """
    says_when, called = beating in outputs, told_who_asks(handler)
    place = [*outputs].index(beating) if says_when else len(outputs)

    def found(annotator: Any, values: Sequence[Any]) -> tuple[list[Any], str, str]:
        """What the handler says, when to ask again, and a mark for both."""
        sent = list(called(annotator, *values))
        word = word_of(sent.pop(place)) if says_when else EVEN
        return sent, word, mark_of([sent, word])

    def look(annotator: Any, values: Sequence[Any]) -> str:
        with answering(annotator):
            return found(annotator, values)[2]

    def ask(annotator: Any, event: Any, *values: Any) -> list[Any]:
        sent, word, mark = found(annotator, values)
        if context.watches is not None:
            key = event.get("key") if isinstance(event, dict) else None
            context.watches.keep(annotator, key, lambda person: look(person, values), mark, live=says_when)
        return [*sent[:place], told(word, mark), *sent[place:]]

    ask.__name__ = function_of(handler).__name__
    listen: Callable[..., Any] = beating.beat
    every = outputs if says_when else [*outputs, beating]
    listen(guarded_event(context, "admin")(ask), [*inputs], [*every], **{**QUIET, **options})


def word_of(sent: Any) -> str:
    """When to ask again, in what a handler says for its pulse."""
    return str(sent["value"] if isinstance(sent, dict) else sent).split(" ")[1]


def again(seconds: float | None) -> str:
    """For a pulse among the outputs: ask again after so many seconds; None: not before a handler says so."""
    return told("Infinity" if seconds is None else str(seconds))


def told(word: str, mark: str = "") -> str:
    """A value for a pulse, numbered: so the browser notices every answer, and which of two came later."""
    return f"{next(ANSWERS)} {word} {mark}".strip()
