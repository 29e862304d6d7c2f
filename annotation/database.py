"""The one SQLite file: a connection per thread, one write transaction at a time, append-only migrations, snapshots."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlite_utils
from sqlite_utils.migrations import Migrations

from annotation.records import UserError

FILE_NAME = "prefloop.db"
Params = Sequence[Any] | dict[str, Any]

migrations = Migrations("prefloop")


class Database:
    """A SQLite file shared by threads and processes.

    Each thread has a connection of its own. Writes go through `transaction()`: BEGIN IMMEDIATE under a lock of this
    process, because SQLite's own busy handler has a long tail with many writing threads; other processes are waited
    for up to 5 s.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._write_lock = threading.RLock()

    @property
    def connection(self) -> sqlite_utils.Database:
        """This thread's connection, opened on first use."""
        existing: sqlite_utils.Database | None = getattr(self._local, "database", None)
        if existing is not None:
            return existing
        raw = sqlite3.connect(self.path, timeout=5.0, isolation_level=None)
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=NORMAL")
        raw.execute("PRAGMA foreign_keys=ON")
        opened = sqlite_utils.Database(raw)
        self._local.database = opened
        return opened

    @contextmanager
    def transaction(self) -> Iterator[sqlite_utils.Database]:
        """All or nothing. Nested calls join the outer transaction. Raises UserError when the disk refuses the write."""
        with self._write_lock, explain_disk_errors(self.path):
            database = self.connection
            if database.conn.in_transaction:
                yield database
                return
            database.conn.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.rollback()
                raise
            database.conn.execute("COMMIT")

    def rows(self, sql: str, params: Params = ()) -> list[dict[str, Any]]:
        """Every row of a query, as dictionaries."""
        return list(self.connection.query(sql, params))

    def row(self, sql: str, params: Params = ()) -> dict[str, Any] | None:
        """The first row of a query, or None."""
        return next(iter(self.connection.query(sql, params)), None)

    def value(self, sql: str, params: Params = ()) -> Any:
        """The first column of the first row, or None."""
        found = self.connection.execute(sql, params).fetchone()
        return None if found is None else found[0]

    def close(self) -> None:
        """Close this thread's connection, if it has one."""
        existing: sqlite_utils.Database | None = getattr(self._local, "database", None)
        if existing is not None:
            existing.close()
            del self._local.database


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's refusals that a person can mend into a sentence; anything else is a bug and passes."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "disk is full" in text:
            raise UserError(
                f"The disk that holds {path} is full. Nothing was saved; free some space and repeat."
            ) from error
        if "readonly" in text or "unable to open" in text or "disk I/O error" in text:
            raise UserError(
                f"The database {path} can't be written ({text}). Give this user the right to write there, "
                "or choose another place with --data DIR."
            ) from error
        raise


def open_database(data_dir: Path) -> Database:
    """Create or open the data directory's database and bring it up to date.

    Raises UserError where the directory can't be written, the file is no database, or a newer Prefloop wrote it.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir) as probe:
            probe.write(b"prefloop")
    except OSError as error:
        raise UserError(
            f"The data directory {data_dir} can't be written ({error.strerror}). "
            "Make it writable, free disk space, or choose another one with --data DIR."
        ) from error
    database = Database(data_dir / FILE_NAME)
    try:
        migrate(database)
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error) or "malformed" in str(error):
            raise UserError(
                f"{database.path} is not a readable SQLite database ({error}). "
                "Move it away or restore a copy; nothing was changed."
            ) from error
        raise
    return database


def migrate(database: Database) -> None:
    """Apply the migrations that are missing. Raises UserError if the file knows one that this program does not."""
    known = {step.name for step in migrations._migrations}
    with explain_disk_errors(database.path):
        applied = {step.name for step in migrations.applied(database.connection)}
        unknown = sorted(applied - known)
        if unknown:
            raise UserError(
                f"The database {database.path} was written by a newer Prefloop (step '{unknown[-1]}'). "
                "Update Prefloop, or choose another data directory with --data DIR. Nothing was changed."
            )
        if applied != known:
            with database.transaction() as connection:
                migrations.apply(connection)


def copy_database(database: Database, target: Path) -> None:
    """A consistent copy of the live file, made with SQLite's backup API while writers go on."""
    with sqlite3.connect(target) as copy:
        database.connection.conn.backup(copy)
    copy.close()


@migrations()
def m001_first_schema(db: sqlite_utils.Database) -> None:
    """Prompts, answers, comparisons, claims, judgements, accounts, models, jobs, snapshots, scores, settings."""
    for statement in FIRST_SCHEMA:
        db.execute(statement)


@migrations()
def m002_index_comparisons(db: sqlite_utils.Database) -> None:
    """Finding a policy's or a prompt's comparisons must not slow down as they grow."""
    db.execute("CREATE INDEX comparison_by_prompt ON comparison (prompt_id)")
    db.execute("CREATE INDEX comparison_by_model ON comparison (model_id, id)")
    db.execute("CREATE INDEX claim_by_comparison ON claim (comparison_id, state)")
    db.execute("CREATE INDEX job_by_status ON job (status, kind)")


FIRST_SCHEMA = (
    """CREATE TABLE prompt (
        id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, messages TEXT NOT NULL, source TEXT NOT NULL,
        split TEXT NOT NULL CHECK (split IN ('train', 'held-out')), created TEXT NOT NULL)""",
    """CREATE TABLE annotator (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE COLLATE NOCASE,
        role TEXT NOT NULL CHECK (role IN ('annotator', 'admin')),
        password_hash TEXT, active INTEGER NOT NULL DEFAULT 1, created TEXT NOT NULL)""",
    """CREATE TABLE session (
        token_sha256 TEXT PRIMARY KEY, annotator_id INTEGER NOT NULL REFERENCES annotator,
        created TEXT NOT NULL, expires TEXT NOT NULL)""",
    """CREATE TABLE sign_in_link (
        token_sha256 TEXT PRIMARY KEY, annotator_id INTEGER NOT NULL REFERENCES annotator,
        expires TEXT NOT NULL, used TEXT)""",
    """CREATE TABLE job (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, spec TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN
            ('queued', 'running', 'cancelling', 'cancelled', 'finished', 'failed', 'lost')),
        attempt INTEGER NOT NULL DEFAULT 0, worker TEXT, requested_by TEXT NOT NULL, created TEXT NOT NULL,
        started TEXT, heartbeat TEXT, finished TEXT, step INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0,
        message TEXT NOT NULL DEFAULT '', result TEXT)""",
    """CREATE TABLE event (
        id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES job, kind TEXT NOT NULL
            CHECK (kind IN ('metric', 'log')), step INTEGER NOT NULL, data TEXT NOT NULL, created TEXT NOT NULL)""",
    "CREATE INDEX event_by_job ON event (job_id, kind, id)",
    """CREATE TABLE model (
        id INTEGER PRIMARY KEY, revision TEXT NOT NULL UNIQUE, method TEXT NOT NULL, base TEXT NOT NULL,
        parent_id INTEGER REFERENCES model, job_id INTEGER REFERENCES job, path TEXT, sha256 TEXT,
        status TEXT NOT NULL CHECK (status IN ('candidate', 'serving', 'retired', 'rejected')),
        created TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX one_serving_model ON model (status) WHERE status = 'serving'",
    """CREATE TABLE promotion (
        id INTEGER PRIMARY KEY, model_id INTEGER NOT NULL REFERENCES model, previous_id INTEGER REFERENCES model,
        action TEXT NOT NULL CHECK (action IN ('promote', 'reject', 'rollback')), decided_by TEXT NOT NULL,
        created TEXT NOT NULL)""",
    """CREATE TABLE response (
        id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompt,
        model_id INTEGER NOT NULL REFERENCES model,
        purpose TEXT NOT NULL CHECK (purpose IN ('compare', 'evaluate')), text TEXT NOT NULL, sampling TEXT NOT NULL,
        seed INTEGER NOT NULL, rendered_prompt TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, tokens INTEGER NOT NULL,
        finish_reason TEXT NOT NULL CHECK (finish_reason IN ('stop', 'length')),
        dropped TEXT CHECK (dropped IN ('empty', 'duplicate')), created TEXT NOT NULL)""",
    "CREATE INDEX response_by_prompt ON response (prompt_id, model_id, purpose)",
    """CREATE TABLE comparison (
        id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompt,
        model_id INTEGER NOT NULL REFERENCES model, purpose TEXT NOT NULL CHECK (purpose IN ('preference')),
        created TEXT NOT NULL)""",
    """CREATE TABLE comparison_response (
        comparison_id INTEGER NOT NULL REFERENCES comparison, position INTEGER NOT NULL,
        response_id INTEGER NOT NULL REFERENCES response, PRIMARY KEY (comparison_id, position))""",
    """CREATE TABLE claim (
        id INTEGER PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, comparison_id INTEGER NOT NULL REFERENCES comparison,
        annotator_id INTEGER NOT NULL REFERENCES annotator, slot INTEGER NOT NULL, shown_order TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('held', 'judged', 'skipped', 'released')),
        created TEXT NOT NULL, expires TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX claim_one_per_slot ON claim (comparison_id, slot) WHERE state IN ('held', 'judged')",
    "CREATE UNIQUE INDEX claim_one_in_hand ON claim (annotator_id) WHERE state = 'held'",
    """CREATE TABLE judgement (
        id INTEGER PRIMARY KEY, claim_id INTEGER NOT NULL REFERENCES claim,
        comparison_id INTEGER NOT NULL REFERENCES comparison, annotator_id INTEGER NOT NULL REFERENCES annotator,
        outcome TEXT NOT NULL CHECK (outcome IN ('ranked', 'all-bad', 'skip', 'undone')), ranking TEXT,
        strength INTEGER, shown_order TEXT NOT NULL, seconds REAL NOT NULL,
        supersedes INTEGER UNIQUE REFERENCES judgement, created TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX judgement_one_per_claim ON judgement (claim_id) WHERE supersedes IS NULL",
    "CREATE INDEX judgement_by_comparison ON judgement (comparison_id)",
    "CREATE INDEX judgement_by_annotator ON judgement (annotator_id, id)",
    """CREATE TRIGGER judgement_no_update BEFORE UPDATE ON judgement
        BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END""",
    """CREATE TRIGGER judgement_no_delete BEFORE DELETE ON judgement
        BEGIN SELECT RAISE(ABORT, 'judgements are append-only'); END""",
    """CREATE VIEW current_judgement AS SELECT * FROM judgement j WHERE outcome != 'undone'
        AND NOT EXISTS (SELECT 1 FROM judgement later WHERE later.supersedes = j.id)""",
    """CREATE TABLE snapshot (
        sha256 TEXT PRIMARY KEY, path TEXT NOT NULL, rows INTEGER NOT NULL, counts TEXT NOT NULL,
        last_judgement_id INTEGER NOT NULL, created TEXT NOT NULL)""",
    """CREATE TABLE score (
        response_id INTEGER NOT NULL REFERENCES response, scorer TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (response_id, scorer))""",
    "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
