"""Chat templates run in a process of their own, with limits of time and memory: each is a stranger's program."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from annotation.environment import keep_private
from annotation.records import UserError, storable
from annotation.translation import N_, _
from annotation.ui.invisible import visible

ROOT = Path(__file__).parents[2]
# What one conversation may take. A template needs milliseconds and a few megabytes; this is for slow machines.
SECONDS = 5.0
"""Of the processor."""
MEMORY = 1 << 29
LONGEST = 1 << 20
"""Characters of the text that it makes: a page's process turns them into tokens, at up to 200 bytes each."""
# A process that gets no processor, or was halted, is given up; what a template takes is bounded by SECONDS.
PATIENCE_SECONDS = 600.0
LONGEST_REASON = 300
STOPPED_KEPT = 16
# A token is nobody's business but the token process's; the names are what Python and the clock need.
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
# Why there is no text, beside what the template says itself. The process names them; it knows no language.
FAULTS: Final[Mapping[str, str]] = {
    "death": N_("it ends the process that runs it."),
    "patience": N_("it did not end within {limit:.0f} minutes."),
    "time": N_("it did not end within {limit:g} seconds of processor time."),
    "memory": N_("it needs more than {limit} MB of memory."),
    "length": N_("it makes over {limit:,} characters."),
    "half": N_("it writes half a character."),
    "syntax": N_("it is no valid template: {error} (line {line})."),
}
WORDLESS: Final = N_("without a word")
# After these the process is ended, and the template never run again by ours.
STOPPING: Final = ("death", "patience", "time", "memory")


class TemplateRefused(UserError):
    """A template does not write a conversation. `reason` is what it says of that, or what is wrong with it."""

    def __init__(self, reason: str) -> None:
        super().__init__(_("The model's chat template refuses a conversation: {reason}").format(reason=reason))
        self.reason = reason


def ended(sentence: str) -> str:
    """A sentence with its full stop: strangers' have none, as a rule."""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def conversation(tokenizer: Any, messages: Sequence[Mapping[str, str]], begins: bool = False) -> str:
    """A conversation as a model's template writes it, as transformers would; `begins` adds how an answer begins.

    The tokenizer is ours or transformers'; its `template_options`, if it has some, are what the template is told beside
    the conversation. Raises TemplateRefused.
    """
    values = {
        "messages": [dict(message) for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": begins,
        **tokenizer.special_tokens_map,
        **getattr(tokenizer, "template_options", {}),
    }
    return renderer().render(tokenizer.get_chat_template(), values)


# ---------------------------------------------------------------------------------------------------------- on our side
class TemplateRenderer:
    """The process that renders, started when it is first needed, and again after a template that it had to stop.

    For several threads, one after the other. A template that was stopped is not run again by this one.
    """

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self.seconds, self.memory = seconds, memory
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection[bytes, bytes] | None = None
        self._stopped: dict[str, str] = {}
        self._lock, self._owner = Lock(), os.getpid()
        atexit.register(self.close)

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """The text that a template makes of these values, which are JSON. Raises TemplateRefused."""
        request = json.dumps({"template": template, "values": values}).encode()
        with self._lock:
            if template in self._stopped:
                raise TemplateRefused(self._stopped[template])
            # Once more: a process can have been killed for what is no fault of the template's.
            answer = self._ask(request) or self._ask(request) or {"fault": "death"}
            if answer.get("fault") in STOPPING:
                self.close()
                self._remember(template, reason_of(answer))
        if "text" in answer:
            return str(answer["text"])
        raise TemplateRefused(reason_of(answer))

    def _remember(self, template: str, reason: str) -> None:
        """Never run this template again."""
        if len(self._stopped) >= STOPPED_KEPT:
            self._stopped.pop(next(iter(self._stopped)))
        self._stopped[template] = reason

    def _ask(self, request: bytes) -> dict[str, Any] | None:
        connection = self.connection or self._start()
        try:
            connection.send_bytes(request)
            if not connection.poll(PATIENCE_SECONDS):
                return {"fault": "patience", "limit": PATIENCE_SECONDS / 60}
            answer: dict[str, Any] = json.loads(connection.recv_bytes(8 * LONGEST))
            return answer
        except (EOFError, OSError):
            if self.close() == -signal.SIGPROF:
                return {"fault": "time", "limit": self.seconds}
            return None

    def _start(self) -> Connection[bytes, bytes]:
        """Start the process. Raises OSError where the system does not let us."""
        self.connection, theirs = Pipe()
        with theirs:
            limits = (str(theirs.fileno()), str(self.seconds), str(self.memory))
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rlhf.models.template_process", *limits],
                cwd=ROOT,
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        return self.connection

    def close(self) -> int | None:
        """End the process; returns its status. A process that was forked off leaves its parent's alone."""
        if self.process is None or self._owner != os.getpid():
            return None
        if self.connection is not None:
            self.connection.close()
        self.process.kill()
        status = self.process.wait()
        self.process = self.connection = None
        return status


def reason_of(answer: Mapping[str, Any]) -> str:
    """Why there is no text: what the template says, or a sentence of ours."""
    return _(FAULTS[answer["fault"]]).format(**answer) if "fault" in answer else answer["refused"] or _(WORDLESS)


def renderer() -> TemplateRenderer:
    """This process's; one that was forked off does not share its parent's."""
    return renderer_of(os.getpid())


@lru_cache(maxsize=1)
def renderer_of(process: int) -> TemplateRenderer:
    return TemplateRenderer()


# ------------------------------------------------------------------------------------------------------- in the process
class Generation(Extension):
    """Lets `{% generation %}` stand in a template: it marks what the model has said, and changes no text."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Macro) -> str:
        return str(caller())


def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def strftime_now(pattern: str) -> str:
    """Today's date, for templates that tell the model."""
    return datetime.now().strftime(pattern)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=8)
def compiled(text: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment.from_string(text)


def reply_to(asked: Mapping[str, Any], memory: int) -> bytes:
    """What comes of a request, as JSON: a `text`, what the template says against it, or a `fault` with its figures."""
    too_much = {"fault": "memory", "limit": memory >> 20}
    answer: dict[str, Any]
    try:
        text = compiled(asked["template"]).render(asked["values"])
        if len(text) > LONGEST:
            answer = {"fault": "length", "limit": LONGEST}
        elif storable(text) != text:
            answer = {"fault": "half"}
        else:
            answer = {"text": text}
    except MemoryError:
        answer = too_much
    except jinja2.TemplateSyntaxError as error:
        answer = {"fault": "syntax", "error": one_line(error.message), "line": error.lineno}
    except jinja2.TemplateError as error:
        answer = {"refused": one_line(error)}
    except Exception as error:  # whatever a stranger's program raises
        answer = {"refused": ": ".join(filter(None, (type(error).__name__, one_line(error))))}
    return json.dumps(answer, ensure_ascii=False).encode()


def one_line(error: object) -> str:
    """An error's text in one line that is not too long; empty where it has none."""
    try:
        return visible(" ".join(str(error)[:LONGEST_REASON].split()))
    except Exception:  # it is a stranger's object, or too much memory was asked for
        return ""


def main(descriptor: str, seconds: str, memory: str) -> None:
    """Answer the requests that come, until nobody is there who could send one."""
    import resource

    connection: Connection[bytes, bytes] = Connection(int(descriptor))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    for number in (signal.SIGINT, signal.SIGTERM):  # who is told to end may need a conversation to save what it has
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # it ends the process, whatever that is busy with
    with suppress(EOFError, OSError):
        while True:
            request = connection.recv_bytes()
            signal.setitimer(signal.ITIMER_PROF, float(seconds))
            answer = reply_to(json.loads(request), int(memory))
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(answer)


if __name__ == "__main__":
    keep_private()
    main(*sys.argv[1:])
