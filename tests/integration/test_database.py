"""The database file: migrations, refusals in one sentence, and what a person's disk can do to it."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlite_utils

from annotation import store
from annotation.database import FILE_NAME, Database, copy_database, migrate, open_database
from annotation.records import Prompt, UserError
from tests.conftest import seed_comparisons


def prompt(text: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},), "train", "test")


def schema(db: Database) -> list[str]:
    return [row["sql"] for row in db.rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")]


def test_wal_is_on_and_the_command_line_of_sqlite_utils_reads_the_file(db: Database, data_dir: Path) -> None:
    assert db.value("PRAGMA journal_mode") == "wal"
    assert db.value("PRAGMA foreign_keys") == 1
    assert {"prompt", "judgement", "job", "model"} <= set(sqlite_utils.Database(data_dir / FILE_NAME).table_names())


def test_migrating_again_changes_nothing(data_dir: Path) -> None:
    first = open_database(data_dir)
    before = schema(first)
    store.add_prompts(first, [prompt("kept?")])
    again = open_database(data_dir)
    migrate(again)
    assert schema(again) == before
    assert [entry.text for entry in store.prompts(again, "train")] == ["kept?"]
    assert again.value("PRAGMA integrity_check") == "ok"


def test_two_processes_may_create_the_file_at_once(data_dir: Path) -> None:
    failures: list[BaseException] = []

    def create() -> None:
        try:
            open_database(data_dir)
        except BaseException as error:  # reported by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_newer_database_is_refused_and_left_alone(db: Database, data_dir: Path) -> None:
    with db.transaction() as connection:
        connection["_sqlite_migrations"].insert(
            {"migration_set": "prefloop", "name": "m999_from_the_future", "applied_at": "2030-01-01"}
        )
    before = schema(db)
    with pytest.raises(UserError, match=r"newer Prefloop.*m999_from_the_future"):
        open_database(data_dir)
    assert schema(db) == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / FILE_NAME).write_bytes(b"my only copy of something else" * 100)
    with pytest.raises(UserError, match="not a readable SQLite database"):
        open_database(data_dir)
    assert (data_dir / FILE_NAME).read_bytes() == b"my only copy of something else" * 100


def test_a_directory_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UserError, match=r"can't be written.*--data DIR"):
        open_database(tmp_path / "file" / "data")


def test_a_full_disk_saves_nothing_of_the_transaction_and_says_so(db: Database) -> None:
    seed_comparisons(db, 2)
    before = db.value("SELECT count(*) FROM prompt")
    db.connection.execute(f"PRAGMA max_page_count = {db.value('PRAGMA page_count')}")
    with pytest.raises(UserError, match=r"disk .* is full\. Nothing was saved"):
        store.add_prompts(db, [prompt(f"{number} " + "x" * 3000) for number in range(200)])
    db.connection.execute("PRAGMA max_page_count = 1000000")
    assert db.value("SELECT count(*) FROM prompt") == before
    assert store.add_prompts(db, [prompt("after the disk was cleared")]) == 1


def test_a_transaction_is_all_or_nothing_and_nests(db: Database) -> None:
    def fail_half_way() -> None:
        with db.transaction():
            store.add_prompts(db, [prompt("half done")])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail_half_way()
    assert store.prompts(db, "train") == []


def test_a_copy_of_the_live_file_is_whole(db: Database, tmp_path: Path) -> None:
    seed_comparisons(db, 3)
    copy_database(db, tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert copy.execute("SELECT count(*) FROM comparison").fetchone() == (3,)
    copy.close()
