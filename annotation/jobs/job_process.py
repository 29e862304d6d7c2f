"""A job in a process of its own: a command that prints JSON lines, is followed to its end, and ends with this program.

So a large or malicious file can neither slow down nor bring down the process that serves people.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

from annotation.jobs.attempt import Attempt
from annotation.translation import N_, _, retold_within

ROOT: Final = Path(__file__).resolve().parents[2]
LOOK_SECONDS: Final = 0.25
LOG_BYTES: Final = 8_192
REFUSED: Final = 2
"""The exit status of a command that a person can mend."""
KILLED: Final = N_("The process was killed, often because memory ran out.")
TIED: Final = "--tied"
"""The option by which a command ends with the program that started it."""


@dataclass(frozen=True)
class CommandResult:
    """How a command has ended: its exit status, its last line, and the end of what it printed for people."""

    status: int
    said: Mapping[str, Any]
    words: str

    @property
    def told_to_end(self) -> bool:
        """Whether it ended because it was asked to: by this program, or by the system, which then ends them all."""
        return self.status in (-signal.SIGTERM, 128 + signal.SIGTERM)

    @property
    def last_word(self) -> str:
        """The last line for people, empty where there is none; of one that was killed, what may have killed it."""
        if self.status == -signal.SIGKILL:
            return _(KILLED)
        return self.words.splitlines()[-1] if self.words else ""

    @property
    def refusal(self) -> str:
        """Why it was refused, as a person can mend it; empty where nothing was said."""
        return str(self.said.get("refused", self.last_word))


def run_command(
    attempt: Attempt,
    command: Sequence[str],
    environment: Mapping[str, str],
    progress: Callable[[Any], tuple[int, int, str]],
) -> CommandResult:
    """Run a command to its end, or have it end where the job is to stop.

    Its lines with the key `progress` go to the job's row as `progress` reads them: step, steps and message. It has to
    take the option `--tied`, and is nice to what people wait for.
    """
    with (
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            niced(command),
            cwd=ROOT,
            stdin=life_line(),
            stdout=printed,
            stderr=errors,
            env=environment,
            start_new_session=True,  # Ctrl+C is for the program, which then says what is to become of it
        ) as process,
    ):
        try:
            follow(attempt, process, printed, progress)
        except BaseException:
            process.terminate()  # it is waited for
            raise
        return CommandResult(process.returncode, last_said(printed), last_words(errors))


def follow(
    attempt: Attempt,
    process: subprocess.Popen[bytes],
    printed: IO[bytes],
    progress: Callable[[Any], tuple[int, int, str]],
) -> None:
    """Report what a command says until it has ended, and have it end where the job is to stop."""
    said: Mapping[str, Any] = {}
    while not has_ended(process):
        attempt.look()
        if attempt.stopped:
            process.terminate()
        following = last_said(printed)
        if following != said and "progress" in following:
            step, steps, message = progress(following["progress"])
            attempt.report(step, steps, {}, message)
        said = following


def niced(command: Sequence[str]) -> list[str]:
    """A command that lets the machine's other work go first."""
    return [*(["nice", "-n", "10"] if sys.platform != "win32" else []), *command]


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def last_said(printed: IO[bytes]) -> Mapping[str, Any]:
    # Not by seeking, which would move the other process's place as well.
    lines = os.pread(printed.fileno(), os.fstat(printed.fileno()).st_size, 0).split(b"\n")[:-1]
    found: Mapping[str, Any] = retold_within(json.loads(lines[-1])) if lines else {}
    return found


def last_words(errors: IO[bytes]) -> str:
    size = os.fstat(errors.fileno()).st_size
    return os.pread(errors.fileno(), LOG_BYTES, max(0, size - LOG_BYTES)).decode("utf-8", "replace").strip()


@cache
def life_line() -> int:
    """The end to read from of a pipe that nobody writes to and that no other process holds open for writing."""
    reading, writing = os.pipe()
    os.register_at_fork(after_in_child=lambda: os.close(writing))
    return reading


def end_with_starter() -> None:
    """Have this process told to end when whoever started it is gone and standard input, its life line, with it."""
    threading.Thread(target=await_end, name="life line", daemon=True).start()


def await_end() -> None:
    os.read(0, 1)  # nothing is ever written; not a buffered reader, whose lock would be held when Python ends
    os.kill(os.getpid(), signal.SIGTERM)
