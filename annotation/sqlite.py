"""Which SQLite this program uses: Python's own, or pysqlite3's where Python's may lose what was committed."""

from __future__ import annotations

import importlib
import sqlite3 as pythons
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Final

from annotation.translation import _

# Before these, two connections that checkpoint and reset the log of a file in WAL mode at the same moment can lose
# commits or damage the file (https://sqlite.org/wal.html, "The WAL-Reset Bug"): the newest, and two older branches.
FIXED_IN: Final = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
OTHER: Final = "pysqlite3"


def is_fixed(version: tuple[int, ...]) -> bool:
    """Whether this version of SQLite resets the log safely."""
    newest, *branches = FIXED_IN
    return version >= newest or any(version[:2] == fixed[:2] and version >= fixed for fixed in branches)


def importable(name: str) -> ModuleType | None:
    """A module, if it is installed and can be loaded."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def choose(own: ModuleType, other: ModuleType | None) -> ModuleType:
    """Python's own unless only the other one is fixed."""
    better = other is not None and is_fixed(other.sqlite_version_info)
    return other if other is not None and better and not is_fixed(own.sqlite_version_info) else own


if TYPE_CHECKING:
    import sqlite3 as sqlite3
else:
    sqlite3 = choose(pythons, importable(OTHER))
    if sqlite3 is pythons:
        # sqlite-utils takes pysqlite3 wherever it finds it. It must not: it would not recognise this one's exceptions,
        # and two SQLites in one process undo each other's locks.
        sys.modules[OTHER] = None

# Nor is it to load pandas wherever it finds that, which takes longer than all else that a process loads before it
# works. Nobody stores a value of pandas.
left_out = sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]

import sqlite_utils as sqlite_utils  # noqa: E402 - it chooses its SQLite when it is imported
from sqlite_utils.migrations import Migrations as Migrations  # noqa: E402

if left_out is None:
    del sys.modules["pandas"]

# The lock by which several programs share a data directory is a file of Python's own SQLite (filelock's).
OperationalErrors: Final = (sqlite3.OperationalError, pythons.OperationalError)
DatabaseErrors: Final = (sqlite3.DatabaseError, pythons.DatabaseError)


def name_of(module: ModuleType) -> str:
    return f"{module.sqlite_version} ({'Python' if module is pythons else module.__name__})"


def problem_with(module: ModuleType) -> str:
    """What is to be done about a SQLite that may lose what was committed; empty for one that is fixed."""
    if is_fixed(module.sqlite_version_info):
        return ""
    return _(
        "SQLite {version} can lose judgements or damage the database when two processes write at the same moment. "
        "Install {other} (python -m pip install {other}) or a Python whose SQLite is {fixed} or newer, and start "
        "again. Keep safe copies until then."
    ).format(version=name_of(module), other=OTHER, fixed=".".join(map(str, FIXED_IN[0])))


IN_USE: Final = name_of(sqlite3)
PROBLEM: Final = problem_with(sqlite3)
