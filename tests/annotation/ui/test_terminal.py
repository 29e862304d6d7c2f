"""What is written to the terminal from elsewhere does nothing to it, and commands end there without a traceback."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from annotation.database import Database
from annotation.ui.terminal import log_visibly, status_of
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
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_ends_a_command_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(Mock(side_effect=KeyboardInterrupt)) == 1
    assert capsys.readouterr() == ("", "")
