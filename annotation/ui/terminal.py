"""Questions in the terminal; where nobody is there to answer, nothing is agreed to and a sentence says what to do.

And how a command ends there, and the log, which does nothing to it.
"""

from __future__ import annotations

import getpass
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, Final

from annotation.records import UserError, explain_errors
from annotation.translation import _
from annotation.ui.invisible import visible

UNREAD: Final = 141
"""The exit status for output that nobody reads any more: 128 and SIGPIPE, as a shell has it."""


class VisibleFormatter(logging.Formatter):
    """A log's lines with what can't be seen spelt out: what they quote, a dataset or the Hub say, may be anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def log_visibly() -> None:
    """Write this process's log to the terminal so that it moves no cursor, changes no title and hides no line."""
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])


class UnreadOutput(io.FileIO):
    """Output that may have lost its reader, a terminal that was closed or a pipe's other end: nothing ends for that."""

    def write(self, text: Any) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)


def outlast_readers() -> None:
    """From now on this process can print whether or not somebody reads it."""
    for name in ("stdout", "stderr"):
        before = getattr(sys, name)
        with suppress(AttributeError, io.UnsupportedOperation):  # there is none, or it is no file, as in a notebook
            raw = io.BufferedWriter(UnreadOutput(before.fileno(), "w", closefd=False))
            made = io.TextIOWrapper(raw, before.encoding, before.errors, line_buffering=True)
            setattr(sys, name, made)


def status_of(command: Callable[[], int]) -> int:
    """Run a command; returns its exit status. A mistake that a person can mend is a sentence on stderr, and 2.

    Ctrl+C ends the process by its signal, for which a shell's loop ends too; a reader that has seen enough, as `head`,
    ends it as SIGPIPE would have. Both without a word.
    """
    try:
        status = command()
        print(end="", flush=True)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with suppress(OSError):
            print(end="", flush=True)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise
    except BrokenPipeError:
        if not is_unread(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left at its end
        return UNREAD
    return status


def is_unread(output: IO[str]) -> bool:
    """Whether whoever read this is gone: it says so itself, a pipe by POLLERR and a socket by POLLHUP."""
    poll = select.poll()
    poll.register(output, 0)
    return bool(poll.poll(0))


def somebody_is_there() -> bool:
    """Whether what is read from standard input is typed by somebody."""
    return sys.stdin is not None and sys.stdin.isatty()


def new_password(asked: str) -> str:
    """A password: asked for twice, or a line of what is piped in. Raises UserError where there is none."""
    if not somebody_is_there():
        return piped_line()
    try:
        password = getpass.getpass(asked)
        again = getpass.getpass("Once more: ")
    except EOFError as error:
        raise UserError(_("No password was given. Nothing was changed.")) from error
    if again != password:
        raise UserError(_("The two passwords differ. Nothing was changed."))
    return password


def piped_line() -> str:
    """The first line of standard input. Raises UserError where there is none, or it is no text."""
    unread = _("The password on standard input can't be read ({error}). Nothing was changed.")
    with explain_errors(unread, UnicodeDecodeError):
        line = "" if sys.stdin is None else sys.stdin.readline()
    if not line:
        raise UserError(
            _("There is no terminal to ask for a password. Pipe it in as a line, or have one made with --generate.")
        )
    return line.rstrip("\r\n")


def agreed(question: str) -> bool:
    if sys.stdin is None:
        return False
    try:
        return input(f"{question} [y/N] ").strip().casefold() in ("y", "yes")
    except (EOFError, UnicodeDecodeError):
        return False
