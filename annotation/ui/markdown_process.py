"""`markdown.to_html` in processes of their own: a text made to be slow delays only the page that shows it.

A thread would not do: it can't be ended, and it would keep the interpreter's lock from the thread that judgements wait
for. What takes longer than its share of processor time is shown plainer: code without colours, then letter for letter.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import LifoQueue
from types import FrameType
from typing import IO, Any

from annotation.environment import child_environment, keep_private
from annotation.ui import markdown
from annotation.ui.invisible import visible

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 2
SECONDS = 0.5
"""Of processor time, for each of the two attempts at a text. Texts as people and models write them take 1 to 50 ms."""
PATIENCE = 120.0
"""Seconds until a process that does not answer at all is ended: it may get no processor, or lie on a slow disk."""
MEMORY = 1 << 30
CACHED = 8_000_000
"""Characters of texts and their HTML that are kept."""


class RenderPool:
    """Processes that render, started when they are needed, and what they made last."""

    def __init__(self, seconds: float = SECONDS, patience: float = PATIENCE) -> None:
        self._idle: LifoQueue[RenderProcess] = LifoQueue()
        for _ in range(PROCESSES):
            self._idle.put(RenderProcess(seconds, patience))
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def to_html(self, text: str) -> str:
        """A stranger's text as safe HTML, from any thread; it waits while all processes are busy."""
        known = self.known(text)
        if known is not None:
            return known
        child = self._idle.get()
        try:
            made = self.known(text)  # somebody else may have waited for the same
            return made if made is not None else self.keep(text, child.ask(text))
        finally:
            self._idle.put(child)

    def known(self, text: str) -> str | None:
        with self._lock:
            if text in self._kept:
                self._kept.move_to_end(text)
            return self._kept.get(text)

    def keep(self, text: str, made: str) -> str:
        """Keep what was made of a text; the oldest goes."""
        with self._lock:
            if text not in self._kept:
                self._kept[text] = made
                self._size += len(text) + len(made)
            while self._size > CACHED:
                oldest, gone = self._kept.popitem(last=False)
                self._size -= len(oldest) + len(gone)
        return made

    def close(self) -> None:
        for child in [self._idle.get() for _ in range(PROCESSES)]:
            child.end()
            self._idle.put(child)


class RenderProcess:
    """A process that renders one text after the other; it is started anew where it has ended."""

    def __init__(self, seconds: float, patience: float) -> None:
        self.command = [sys.executable, "-m", __name__, str(seconds)]
        self.patience = patience
        self.process: subprocess.Popen[str] | None = None

    def ask(self, text: str) -> str:
        """A text's HTML; letter for letter where the process came to an end over it, and the next one, too.

        The first can have been killed for what is no fault of the text's.
        """
        for _ in range(2):
            process = self.process or self.start()
            assert process.stdin is not None
            assert process.stdout is not None
            watch = threading.Timer(self.patience, process.kill)
            watch.start()
            try:
                process.stdin.write(json.dumps(text) + "\n")
                process.stdin.flush()
                return str(json.loads(process.stdout.readline()))
            except (OSError, ValueError):
                self.end()
            finally:
                watch.cancel()
        return markdown.literal(visible(text))

    def start(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment()
        )
        return self.process

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


class RenderTimeout(BaseException):
    """A text has had its share of processor time. No `Exception`: what it interrupts must not swallow it."""


def serve(requests: IO[str], answers: IO[str], seconds: float) -> None:
    """Render line by line until the other side closes its end."""
    limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C in a terminal is for the program, which then closes its end
    try:
        for line in requests:
            answers.write(json.dumps(render(json.loads(line), seconds)) + "\n")
            answers.flush()
    except BrokenPipeError:
        os._exit(0)  # a way out in order would try to write again


def render(text: str, seconds: float) -> str:
    """A text as HTML, as richly as the time allows."""
    for coloured in (True, False):
        try:
            return within(seconds, partial(markdown.to_html, text, coloured))
        except (RenderTimeout, MemoryError, RecursionError):
            continue
    return markdown.literal(visible(text))


def within(seconds: float, work: Callable[[], str]) -> str:
    """What `work` returns. Raises RenderTimeout after so many seconds of processor time, where the system can tell."""
    if sys.platform == "win32":
        return work()

    def stop(number: int, frame: FrameType | None) -> Any:
        raise RenderTimeout

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def limit_memory() -> None:
    """A text that would grow without end ends only this."""
    if sys.platform != "win32":
        import resource

        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = MEMORY if most == resource.RLIM_INFINITY else min(most, MEMORY)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))


if __name__ == "__main__":
    keep_private()
    serve(sys.stdin, sys.stdout, float(sys.argv[1]))
else:
    shared = RenderPool()
    to_html = shared.to_html
    atexit.register(shared.close)
