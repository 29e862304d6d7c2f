"""Other users of the machine can read nothing of what the program keeps or makes, whatever was there before."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from annotation.claims import handing_out, judging
from annotation.database import FILE_NAME, Database, open_database
from annotation.web import access
from tests.conftest import act, seed_comparisons
from tests.machine_fixtures import ROOT

OTHERS = 0o077
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="rights of files are POSIX's")]


def open_to_others(directory: Path) -> list[str]:
    """What other users have any right to, the directory included."""
    return [str(path) for path in [directory, *directory.rglob("*")] if path.lstat().st_mode & OTHERS]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """A command as somebody types it whose shell makes files that all can read."""
    return subprocess.run([sys.executable, *words], cwd=ROOT, umask=0o022, capture_output=True, text=True, check=False)


@pytest.fixture
def wide(db: Database, data_dir: Path) -> Path:
    """A data directory as an earlier release left it: judged, and readable by everybody."""
    seed_comparisons(db, 1)
    ann = access.add_account(db, "ann", "annotator", "a long enough password")
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("left-much"))
    db.close()
    for path in (data_dir, data_dir / FILE_NAME):
        path.chmod(0o755)
    return data_dir


def test_a_new_data_directory_is_its_users_alone(data_dir: Path) -> None:
    done = command("-m", "annotation", "accounts", "add", "kim", "--generate", "--data", str(data_dir))
    assert done.returncode == 0, done.stderr
    assert open_to_others(data_dir) == []


def test_one_that_others_could_read_is_shut_and_so_is_what_goes_elsewhere(wide: Path, tmp_path: Path) -> None:
    to, copies = tmp_path / "elsewhere" / "export", tmp_path / "copies"
    done = command("-m", "annotation", "export", "--to", str(to), "--data", str(wide))
    assert done.returncode == 0, done.stderr
    assert "can look into" not in done.stderr
    assert open_to_others(wide) == []
    assert to.is_dir()
    assert open_to_others(to.parent) == []
    done = command("-m", "annotation", "copies", "take", "--place", str(copies), "--data", str(wide))
    assert done.returncode == 0, done.stderr
    assert open_to_others(copies) == []


@pytest.mark.own_start
def test_the_running_program_makes_nothing_that_others_can_read(wide: Path) -> None:
    words = ["app.py", "--no-workers", "--no-browser", "--port", "0", "--data", str(wide)]
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "PREFLOOP_COPIES")}
    with subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, umask=0o022, env=environment, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline().startswith("Prefloop runs at ")
            made = {path.name for path in wide.iterdir()}
            assert {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", "prefloop.open.lock"} <= made
            assert open_to_others(wide) == []
        finally:
            program.terminate()


def test_a_directory_for_everybody_is_left_as_it_is_and_said_to_be_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    open_database(shared).close()
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    assert "can look into" in caplog.text
    assert str(shared) in caplog.text


def test_where_rights_can_not_be_changed_the_program_goes_on_and_says_so(
    wide: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with_database = open_database(wide)
    assert with_database.value("SELECT count(*) FROM judgement") == 1
    with_database.close()
    assert "Operation not permitted" in caplog.text
