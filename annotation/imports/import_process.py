"""Imports that the page starts: `python -m annotation import` in a process of its own, one at a time, told from memory.

A large or malicious file can then neither slow down nor bring down the web server. Datasets of the Hub come through
whoever holds the token, where somebody does: the web server and its processes have none.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final, Literal, Protocol

from annotation.database import Database
from annotation.environment import child_environment
from annotation.imports import importing
from annotation.imports.commit import latest_import
from annotation.imports.import_command import NOTHING_USABLE, PROGRAM
from annotation.records import UserError

ROOT: Final = Path(__file__).resolve().parent.parent.parent
REFUSED: Final = 2
"""The exit status of a command that a person can mend."""
LOG_BYTES: Final = 8_192
Kind = Literal["look", "check", "import"]
KIND_ARGUMENTS: Final[Mapping[Kind, tuple[str, ...]]] = {"look": ("--look",), "check": ("--dry-run",), "import": ()}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """How the latest run stands."""

    number: int = 0
    """Counts the runs since the program started; 0 before the first."""
    kind: Kind = "look"
    status: Literal["none", "running", "finished", "failed"] = "none"
    progress: Mapping[str, Any] = field(default_factory=dict)
    """What is being done, the rows read, and the share of the whole or None."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """Of a finished run: a look or an outcome, as the command prints it."""
    error: str = ""
    """Why a run failed, for the person who started it."""


class Run(Protocol):
    """The command at work."""

    def lines(self) -> Iterator[str]:
        """What it says, a line of JSON each, until it has ended."""

    def end(self) -> tuple[int, str]:
        """Once it has ended: its status, and what it printed for people."""

    def stop(self) -> None:
        """Ask it to end."""


Elsewhere = Callable[[Database, Sequence[str]], Run]
"""Has the command run where there is a token, with these arguments."""


class LocalRun:
    """The command in a process of this one."""

    def __init__(self, command: Sequence[str]) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=child_environment(),
        )

    def lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        yield from self.process.stdout

    def end(self) -> tuple[int, str]:
        """Its status and last words."""
        with self.process, self.errors as errors:
            status = self.process.wait()
            errors.seek(max(0, errors.seek(0, 2) - LOG_BYTES))
            return status, errors.read().decode("utf-8", "replace").strip()

    def stop(self) -> None:
        self.process.terminate()


class Importer:
    """Runs looks, checks and imports for the page, one at a time."""

    def __init__(self, db: Database, elsewhere: Elsewhere | None = None) -> None:
        self.db, self.elsewhere = db, elsewhere
        self.lock = threading.Lock()
        self.run: Run | None = None
        self.follower: threading.Thread | None = None
        self.latest = State()
        self.imports_before = 0

    @property
    def state(self) -> State:
        """How the latest run stands."""
        with self.lock:
            return self.latest

    def start(self, kind: Kind, source: Sequence[str], arguments: Sequence[str]) -> State:
        """Begin. `source` is what to import with what belongs to it. Raises UserError while another run is at work."""
        with self.lock:
            if self.latest.status == "running":
                raise UserError("An import is at work. Wait until it is done, or cancel it.")
            self.imports_before = latest_import(self.db)
            told = ["--json-progress", *KIND_ARGUMENTS[kind], *arguments, *source]
            if self.elsewhere is not None and is_on_hub(source):
                self.run = self.elsewhere(self.db, told)
            else:
                self.run = LocalRun(self.command(told))
            self.latest = State(self.latest.number + 1, kind, "running")
            self.follower = threading.Thread(target=self.follow, args=(self.run,), daemon=True)
            self.follower.start()
            return self.latest

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line. It is nice to the annotators' processes; what was typed can't be taken for an option."""
        nice = ["nice", "-n", "10"] if sys.platform != "win32" else []
        return [*nice, sys.executable, *PROGRAM, f"--data={self.db.path.parent}", *arguments]

    def cancel(self) -> None:
        """Ask the run to end; nothing of it stays. Raises UserError if none is at work."""
        with self.lock:
            if self.run is None or self.latest.status != "running":
                raise UserError("No import is at work.")
            self.run.stop()

    def follow(self, run: Run) -> None:
        """Read what the run says until it ends, in a thread of its own."""
        said: dict[str, Any] = {}
        for line in run.lines():
            said = json.loads(line)
            if "progress" in said:
                self.tell(progress=said["progress"])
        status, printed = run.end()
        result = said.get("look") or said.get("outcome")
        if status in (0, NOTHING_USABLE) and result is not None:
            self.tell(status="finished", result=result)
        elif status == REFUSED:
            self.tell(status="failed", error=printed.splitlines()[-1] if printed else "The import was refused.")
        else:
            self.clear_up(status, printed)

    def clear_up(self, status: int, printed: str) -> None:
        """A process that was cancelled or died has imported nothing; what it left is cleared away."""
        cancelled = status in (-15, 128 + 15)
        if not cancelled:
            log.error("An import ended with status %s: %s", status, printed)
        try:
            importing.clear_leftovers(self.db)
            written = latest_import(self.db) > self.imports_before
        finally:
            self.db.close()
        why = "was cancelled" if cancelled else f"ended unexpectedly (status {status}; the log has its last words)"
        what = "Just before, everything had been imported." if written else "Nothing was imported."
        self.tell(status="failed", error=f"The run {why}. {what}")

    def tell(self, **changes: Any) -> None:
        """Change the state for those who look."""
        with self.lock:
            self.latest = replace(self.latest, **changes)


def is_on_hub(source: Sequence[str]) -> bool:
    """Whether what is to be imported is a dataset on the Hub; what was typed stands behind the two dashes."""
    return "--hub" in source[: list(source).index("--")]
