"""What is written to the terminal from elsewhere does nothing to it."""

from __future__ import annotations

import logging

import pytest

from annotation.ui.terminal import log_visibly


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
