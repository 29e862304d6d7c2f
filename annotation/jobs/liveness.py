"""Whether a worker lives: it holds a lock on a file named by its id, which the system frees at its death.

So nobody needs a clock to know, nor patience where a machine has slept or is slow. The files lie beside the database,
whose own locks need as much of the file system.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from annotation.database import Database, explain_directory_errors
from annotation.environment import LEFTOVER_SECONDS

DIRECTORY: Final = "workers"
# What may be a file's name: rows of an archive from elsewhere can say anything.
WORKER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
held: Final[dict[Path, FileLock]] = {}
"""The locks of the workers that are in this process; a fork of it has none of them (filelock sees to that)."""


def begin(db: Database, worker: str) -> bool:
    """Let a worker of this process be known to live, until its `end` or that of the process; False if it was already.

    Raises UserError where the directory can't be written.
    """
    assert WORKER.fullmatch(worker), f"{worker!r} is no worker's id"
    path = lock_file(db, worker)
    if path in held:
        return False
    lock = FileLock(path, timeout=0, thread_local=False)
    with explain_directory_errors(db.path.parent):
        path.parent.mkdir(exist_ok=True)
        lock.acquire()
    held[path] = lock
    return True


def end(db: Database, worker: str) -> None:
    """Say that a worker of this process is at nothing any more, if that was not said before."""
    lock = held.pop(lock_file(db, worker), None)
    if lock is not None:
        remove(lock)


def lives(db: Database, worker: str) -> bool:
    """Whether the process that a job's worker is in lives."""
    return not remove_dead(db, worker)


def remove_dead(db: Database, worker: str) -> bool:
    """Remove what a worker has left if it is dead; whether it is."""
    path = lock_file(db, worker)
    if not WORKER.fullmatch(worker) or not path.exists():
        return True
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return False
    remove(lock)
    return True


def clear_leftovers(db: Database) -> None:
    """Remove what workers left that were killed while they had no job yet, or no more."""
    for path in (db.path.parent / DIRECTORY).glob("*"):
        with suppress(FileNotFoundError):  # it has ended by itself
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:  # a younger one may be about to be locked
                remove_dead(db, path.name)


def remove(lock: FileLock) -> None:
    with suppress(PermissionError):  # Windows removes no open file; there filelock does once it is released
        Path(lock.lock_file).unlink(missing_ok=True)  # before that: nobody can lock it in between
    lock.release()


def lock_file(db: Database, worker: str) -> Path:
    return db.path.parent / DIRECTORY / worker
