"""That a worker lives exactly as long as its process, whoever asks, and that its file is gone with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from annotation.database import Database
from annotation.environment import LEFTOVER_SECONDS
from annotation.jobs import liveness
from annotation.records import UserError
from tests.machine_fixtures import ROOT

# A worker whose fork, such as one that loads data, outlives it.
PROGRAM = """
import os, sys, time
from pathlib import Path
from annotation.database import Database
from annotation.jobs import liveness
liveness.begin(Database(Path(sys.argv[1])), "w")
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(3600)
"""


def files(db: Database) -> list[str]:
    return sorted(path.name for path in (db.path.parent / liveness.DIRECTORY).iterdir())


def test_a_worker_lives_from_its_beginning_to_its_end_for_whoever_asks_in_its_process(db: Database) -> None:
    assert not liveness.lives(db, "w")
    assert liveness.begin(db, "w")
    assert not liveness.begin(db, "w")
    assert liveness.lives(db, "w")
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(liveness.lives(Database(db.path), "w")))
    asking.start()
    asking.join()
    assert answers == [True]
    liveness.end(db, "w")
    assert not liveness.lives(db, "w")
    assert files(db) == []
    liveness.end(db, "w")


@pytest.mark.skipif(sys.platform == "win32", reason="kills and forks")
def test_a_worker_that_is_killed_is_gone_at_once_also_where_its_fork_lives_on(db: Database) -> None:
    command = [sys.executable, "-c", PROGRAM, str(db.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        fork = int(worker.stdout.readline())
        try:
            assert liveness.lives(db, "w")
            worker.kill()
            worker.wait()
            os.kill(fork, 0)
            assert not liveness.lives(db, "w")
        finally:
            os.kill(fork, signal.SIGKILL)
    assert files(db) == []


def test_no_file_but_a_workers_is_looked_at_or_removed(db: Database) -> None:
    """An archive from elsewhere may name anything as a worker."""
    (db.path.parent / liveness.DIRECTORY).mkdir()
    assert not liveness.lives(db, f"../{db.path.name}")
    assert not liveness.lives(db, "")
    assert db.path.is_file()


def test_what_workers_left_that_had_no_job_is_removed_a_day_later(db: Database) -> None:
    liveness.begin(db, "alive")
    directory = db.path.parent / liveness.DIRECTORY
    for name in ("young", "old"):
        (directory / name).touch()
    for name in ("alive", "old"):
        age(directory / name)
    liveness.clear_leftovers(db)
    assert files(db) == ["alive", "young"]


def test_a_worker_of_another_program_may_end_while_one_begins(db: Database) -> None:
    directory = db.path.parent / liveness.DIRECTORY
    directory.mkdir()
    (directory / "ended").symlink_to("nowhere")  # as if it went between the list and the look
    liveness.clear_leftovers(db)


def age(path: Path) -> None:
    then = path.stat().st_mtime - LEFTOVER_SECONDS - 1
    os.utime(path, (then, then))


def test_a_directory_that_can_not_be_written_is_said_to_be(db: Database) -> None:
    (db.path.parent / liveness.DIRECTORY).touch()
    with pytest.raises(UserError, match="can't be written"):
        liveness.begin(db, "w")
