"""Which SQLite is used, what is said of it, and that whatever is chosen is what everything in the process uses."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from annotation import sqlite
from tests.machine_fixtures import ROOT


def release(name: str, version: str) -> ModuleType:
    """A module like sqlite3, of this version of SQLite."""
    module: Any = ModuleType(name)
    module.sqlite_version = version
    module.sqlite_version_info = tuple(map(int, version.split(".")))
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ("3.7.0", False), ("3.34.1", False), ("3.40.1", False), ("3.43.2", False), ("3.44.0", False),
        ("3.44.5", False), ("3.44.6", True), ("3.44.7", True), ("3.45.0", False), ("3.45.6", False),
        ("3.46.1", False), ("3.49.9", False), ("3.50.6", False), ("3.50.7", True), ("3.50.12", True),
        ("3.51.0", False), ("3.51.2", False), ("3.51.3", True), ("3.51.10", True), ("3.52.0", True),
        ("3.53.4", True), ("3.100.0", True), ("4.0.0", True),
    ],
)  # fmt: skip
def test_versions_that_reset_the_log_safely(version: str, fixed: bool) -> None:
    assert sqlite.is_fixed(release("sqlite3", version).sqlite_version_info) is fixed


@pytest.mark.parametrize(
    ("own", "other", "chosen"),
    [
        ("3.40.1", "3.53.4", "pysqlite3"),
        ("3.51.3", "3.53.4", "sqlite3"),
        ("3.50.7", "3.40.1", "sqlite3"),
        ("3.40.1", "3.46.1", "sqlite3"),
        ("3.40.1", None, "sqlite3"),
        ("3.53.0", None, "sqlite3"),
    ],
)
def test_the_other_sqlite_is_taken_only_where_it_is_fixed_and_pythons_is_not(
    own: str, other: str | None, chosen: str
) -> None:
    found = sqlite.choose(release("sqlite3", own), release("pysqlite3", other) if other else None)
    assert found.__name__ == chosen


def test_what_is_used_is_named_and_one_that_loses_commits_is_a_trouble_with_a_way_out() -> None:
    assert sqlite.name_of(release("pysqlite3", "3.53.4")) == "3.53.4 (pysqlite3)"
    assert sqlite.problem_with(release("pysqlite3", "3.53.4")) == ""
    said = sqlite.problem_with(release("sqlite3", "3.40.1"))
    assert "SQLite 3.40.1" in said
    assert "pip install pysqlite3" in said
    assert "3.51.3" in said


# What a process finds installed is decided before it begins; so each of these is one.
STAND_IN = "import sqlite3, sys, types; from sqlite3 import dbapi2"
FIXED_PYTHON = f"{STAND_IN}; sqlite3.sqlite_version_info = (3, 53, 0); sqlite3.sqlite_version = '3.53.0'"
CLAIM = """
import tempfile
from pathlib import Path
from annotation import sqlite
from annotation.database import open_database
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store
with tempfile.TemporaryDirectory() as directory:
    db = open_database(Path(directory))
    claimed = job_store.claim(db, job_store.enqueue(db, AnsweringSpec(), "a test"), "worker")
    import sqlite_utils.utils
    print(sqlite.IN_USE, "|", sqlite.PROBLEM[:10], "|", claimed.status, "|", sqlite_utils.utils.sqlite3.__name__)
    db.close()
"""


def told(first: str) -> list[str]:
    """What a process says of its SQLite after it has claimed a job, which sqlite-utils helps with."""
    done = subprocess.run(
        [sys.executable, "-c", f"{first}\n{CLAIM}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [part.strip() for part in done.stdout.split("|")]


def test_where_pythons_own_is_fixed_everything_uses_that_although_pysqlite3_is_installed() -> None:
    # Anything that can be imported under the name will do: sqlite-utils looks no further.
    other = "other = types.ModuleType('pysqlite3'); other.sqlite_version_info = (3, 53, 4); other.dbapi2 = dbapi2"
    hide = "sys.modules.update({'pysqlite3': other, 'pysqlite3.dbapi2': dbapi2})"
    assert told(f"{FIXED_PYTHON}; {other}; {hide}") == ["3.53.0 (Python)", "", "running", "sqlite3"]


def test_where_pysqlite3_is_missing_pythons_own_is_used_and_said_to_be_a_trouble() -> None:
    old = "sqlite3.sqlite_version_info = (3, 40, 1); sqlite3.sqlite_version = '3.40.1'"
    missing = "sys.modules['pysqlite3'] = None"
    assert told(f"{STAND_IN}; {old}; {missing}") == ["3.40.1 (Python)", "SQLite 3.4", "running", "sqlite3"]


def test_where_only_pysqlite3_is_fixed_everything_uses_that() -> None:
    pytest.importorskip("pysqlite3", reason="there is no wheel of pysqlite3 for this platform")
    old = "sqlite3.sqlite_version_info = (3, 40, 1); sqlite3.sqlite_version = '3.40.1'"
    used, trouble, status, helper = told(f"{STAND_IN}; {old}")
    assert used.endswith("(pysqlite3)")
    assert (trouble, status, helper) == ("", "running", "pysqlite3")


def test_this_process_uses_one_sqlite() -> None:
    import sqlite_utils.utils  # after the choice, as everywhere

    assert sqlite_utils.utils.sqlite3 is sqlite.sqlite3
    assert sqlite.sqlite3.sqlite_version in sqlite.IN_USE
