"""What Gradio gives a guarded handler before its inputs."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import gradio as gr


def asked_by(person: str | None, handler: Callable[..., Any], **said: Any) -> list[Any]:
    """The request of whoever is signed in and, for a handler that listens to it, what the browser says of an event."""
    listens = "event" in signature(handler).parameters
    return [gr.Request(username=person), *([gr.EventData(None, said)] if listens else [])]
