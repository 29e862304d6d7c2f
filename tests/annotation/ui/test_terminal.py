"""What is written to the terminal from elsewhere does nothing to it, and commands end there without a traceback."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from annotation.database import Database
from annotation.ui.terminal import is_unread, log_visibly, status_of
from annotation.web import access
from tests.machine_fixtures import ROOT


def test_a_log_spells_out_what_would_do_something_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    log_visibly()
    try:
        raise ValueError("\x1b]0;title\x07 of a row")
    except ValueError:
        logging.getLogger("prefloop").exception("An import ended:\n\x1b[2J\u202egnp.exe")
    said = capsys.readouterr().err
    assert said.startswith("An import ended:\n⟨U+001B⟩[2J⟨U+202E⟩gnp.exe\nTraceback")
    assert said.endswith("ValueError: ⟨U+001B⟩]0;title⟨U+0007⟩ of a row\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", [["annotation", "accounts", "list"], ["rlhf", "policies"]])
def test_a_command_whose_reader_has_seen_enough_ends_without_a_word(
    db: Database, data_dir: Path, command: list[str]
) -> None:
    access.add_account(db, "ann", "annotator", "a long enough password")
    reading, writing = os.pipe()
    os.close(reading)
    called = [sys.executable, "-m", *command, "--data", str(data_dir)]
    done = subprocess.run(called, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, ""), "not 1, which says that no row of an import can be used"


def test_another_pipe_than_the_output_that_breaks_is_no_reader_that_has_seen_enough() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "w") as read, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", read)
        with pytest.raises(BrokenPipeError):
            status_of(Mock(side_effect=BrokenPipeError))


def test_a_socket_says_too_that_nobody_reads_it() -> None:
    reading, writing = socket.socketpair()
    with writing, writing.makefile("w") as output:
        assert not is_unread(output)
        reading.close()
        assert is_unread(output), "as commands have it whom somebody calls through ssh"


def test_ctrl_c_ends_a_command_by_the_signal_and_without_a_word() -> None:
    script = """if True:
        from annotation.ui.terminal import status_of
        def command():
            print("a row")
            raise KeyboardInterrupt
        raise SystemExit(status_of(command))"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "a row\n", ""), "a shell's loop ends too"
