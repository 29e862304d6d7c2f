"""Workers as forks of a server (`fork_server`), where one may be used: asking for one, hearing of its end. No torch."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rlhf.jobs.devices import PROCESSORS

LONGEST: Final = 1 << 16
"""Of a request or an answer, in bytes."""
DIED_UNHEARD: Final = 1
"""The exit code of a worker that nobody knows the true one of: the fork server died before it."""
# What is heard of a worker begins with one of these: its process number follows, or its exit code.
FORKED: Final = "forked "
ENDED_WITH: Final = "ended "


def can_fork(devices: Sequence[str]) -> bool:
    """Whether workers may be forks: a GPU's driver, once it is loaded, works in no fork."""
    return sys.platform == "linux" and set(devices) == {PROCESSORS}


class ForkedWorker:
    """A worker that a fork server starts, with the interface of subprocess.Popen."""

    def __init__(self, heard: socket.socket) -> None:
        self.heard, self.reading = heard, threading.Lock()
        self.pid: int | None = None
        """None until it is forked: the server may still import."""
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it is alive, or not yet forked. 0 where the server has died before it forked it."""
        with self.reading:
            while self.returncode is None and self.speaks(0):
                said = self.heard.recv(LONGEST).decode()
                if said.startswith(FORKED):
                    self.pid = int(said.removeprefix(FORKED))
                elif said:
                    self.returncode = int(said.removeprefix(ENDED_WITH))
                else:  # the server is gone, and the worker that held the other end as well
                    self.returncode = 0 if self.pid is None else DIED_UNHEARD
            if self.returncode is not None:
                self.heard.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            self.speaks(left)
        return code

    def speaks(self, seconds: float | None) -> bool:
        """Whether there is something to hear of it, at once or within so many seconds."""
        look = select.poll()  # not select.select, which takes no descriptor over 1,023
        look.register(self.heard, select.POLLIN)
        return bool(look.poll(None if seconds is None else 1000 * seconds))


class ForkServer:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.register_at_fork(after_in_child=self.connection.close)  # a fork of this process would keep the server alive
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rlhf.workers.fork_server"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what keeps it from importing is said by workers that are no forks
                cwd=Path(__file__).parents[2],
                env=environment,
                start_new_session=True,
            )

    def start(self, kind: str, arguments: Sequence[str], stdin: int, output: int) -> ForkedWorker | None:
        """Ask for a worker for a job of this kind; None where the server has ended."""
        heard, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps({"kind": kind, "arguments": arguments}).encode()
        with theirs:
            try:
                socket.send_fds(self.connection, [request], [stdin, output, theirs.fileno()])
            except OSError:
                self.process.poll()  # it is no zombie
                heard.close()
                return None
        return ForkedWorker(heard)

    def close(self) -> None:
        """End the server at once; its workers live on, and what it has not forked yet never begins."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
