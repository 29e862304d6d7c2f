"""The one SQLite file: a connection per thread, one write transaction at a time, migrations applied, copies."""

from __future__ import annotations

import errno
import logging
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from annotation.records import UserError, explain_errors
from annotation.schema import migrations
from annotation.sqlite import IN_USE, PROBLEM, DatabaseErrors, OperationalErrors, sqlite3, sqlite_utils
from annotation.translation import _
from annotation.validation import shown

FILE_NAME = "prefloop.db"
# What people are told of the SQLite in use, and of what is wrong with it.
SQLITE_IN_USE: Final = IN_USE
SQLITE_PROBLEM: Final = PROBLEM
# By which migrations are known, and what SQLite notes of a file's contents.
BOOKKEEPING: Final = (
    "_sqlite_migrations", "idx__sqlite_migrations_migration_set_name", "sqlite_sequence",
    "sqlite_stat1", "sqlite_stat4")  # fmt: skip
OTHERS = 0o077
# More than there are: once its cache is full, pysqlite3 prepares every new statement again each time.
CACHED_STATEMENTS = 500
# How long one process waits for another's write. The last transaction of a large import takes as long as it takes, on a
# slow machine much longer, and neither a judgement nor a run of hours is to fail for it.
WAIT_SECONDS = 60.0
Params = Sequence[Any] | dict[str, Any]
logger = logging.getLogger(__name__)


class StorageError(UserError):
    """That the disk, or another program, keeps the database from being written: it names a path."""

    def for_annotators(self) -> UserError:
        """What is said to whoever can do nothing with a path; the log has it."""
        logger.error("%s", self)
        return UserError(_("The server can store nothing now. Tell whoever runs it."))


class Database:
    """A SQLite file shared by threads and processes.

    Each thread has a connection of its own. Writes go through `transaction()`: BEGIN IMMEDIATE under a lock of this
    process, because SQLite's own busy handler has a long tail with many writing threads; other processes are waited
    for up to a minute. What a `durable` one commits is on the disk then, with all that was committed before, and
    outlasts the machine's power; other commits are there when the system has got round to it.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path, self.durable = path, durable
        self._local = threading.local()
        self._write_lock = threading.RLock()
        self._watching: sqlite3.Connection | None = None
        self._watching_lock = threading.Lock()

    @property
    def connection(self) -> sqlite_utils.Database:
        """This thread's connection, opened on first use."""
        existing: sqlite_utils.Database | None = getattr(self._local, "database", None)
        if existing is not None:
            return existing
        raw = sqlite3.connect(
            self.path, timeout=WAIT_SECONDS, isolation_level=None, cached_statements=CACHED_STATEMENTS
        )
        write_ahead(raw)
        raw.execute(f"PRAGMA synchronous={'FULL' if self.durable else 'NORMAL'}")
        raw.execute(f"PRAGMA fullfsync={int(self.durable)}")  # only macOS heeds it: there fsync ends before the disk
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA secure_delete=ON")  # some builds of SQLite have it so; copies hold the file's free pages
        opened = sqlite_utils.Database(raw)
        self._local.database = opened
        return opened

    @contextmanager
    def transaction(self) -> Iterator[sqlite_utils.Database]:
        """All or nothing. Nested calls join the outer one. Raises StorageError when the disk refuses the write."""
        with self._write_lock, explain_disk_errors(self.path), explain_values():
            database = self.connection
            if database.conn.in_transaction:
                yield database
                return
            database.conn.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.conn.execute("COMMIT")
            except BaseException:
                database.rollback()
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite_utils.Database]:
        """Every query inside sees the database as it was at the first one, whatever others write meanwhile."""
        database = self.connection
        if database.conn.in_transaction:
            yield database
            return
        database.conn.execute("BEGIN")
        try:
            yield database
        finally:
            database.rollback()

    @contextmanager
    def attached(self, path: Path, name: str) -> Iterator[sqlite_utils.Database]:
        """This thread's connection with a scratch file under a name beside it, for INSERT … SELECT between the two."""
        database = self.connection
        database.conn.execute(f"ATTACH DATABASE ? AS [{name}]", (str(path),))
        try:
            database.conn.execute(f"PRAGMA [{name}].journal_mode=OFF")
            database.conn.execute(f"PRAGMA [{name}].synchronous=OFF")
            yield database
        finally:
            database.conn.execute(f"DETACH DATABASE [{name}]")

    def insert(self, table: str, row: Mapping[str, Any]) -> int:
        """Add a row, each value under its column's name; returns its id. Joins the caller's transaction."""
        # Not sqlite_utils' insert: it asks for the table's columns and keys and opens a savepoint each time.
        names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
        with self.transaction() as connection:
            added = connection.conn.execute(f"INSERT INTO {table} ({names}) VALUES ({values})", dict(row)).lastrowid
        assert added is not None
        return added

    def write(self, sql: str, params: Params = ()) -> int:
        """Run one statement that changes rows; returns how many it changed. Joins the caller's transaction."""
        with self.transaction() as connection:
            return int(connection.conn.execute(sql, params).rowcount)

    def rows(self, sql: str, params: Params = ()) -> list[dict[str, Any]]:
        """Every row of a query, as dictionaries."""
        # Not sqlite_utils' query: its savepoint around each would be two statements more.
        with explain_values():
            cursor = self.connection.conn.execute(sql, params)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def row(self, sql: str, params: Params = ()) -> dict[str, Any] | None:
        """The first row of a query, or None."""
        with explain_values():
            cursor = self.connection.conn.execute(sql, params)
        found = cursor.fetchone()
        return None if found is None else dict(zip((column[0] for column in cursor.description), found, strict=True))

    def one(self, sql: str, params: Params = ()) -> dict[str, Any]:
        """The first row of a query that always finds one."""
        found = self.row(sql, params)
        assert found is not None
        return found

    def value(self, sql: str, params: Params = ()) -> Any:
        """The first column of the first row, or None."""
        with explain_values():
            found = self.connection.execute(sql, params).fetchone()
        return None if found is None else found[0]

    def revision(self) -> int:
        """A number that is another after each commit, by whomever; it means nothing to another Database."""
        with self._watching_lock, explain_disk_errors(self.path):
            # SQLite counts the commits of other connections: this one commits nothing.
            if self._watching is None:
                self._watching = sqlite3.connect(self.path, timeout=5.0, check_same_thread=False)
            return int(self._watching.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close this thread's connection, if it has one, and the one that watches."""
        with self._watching_lock:
            if self._watching is not None:
                self._watching.close()
                self._watching = None
        existing: sqlite_utils.Database | None = getattr(self._local, "database", None)
        if existing is not None:
            existing.close()
            del self._local.database


def write_ahead(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work side by side. A new file is turned to that once: SQLite waits for nobody then."""
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except OperationalErrors as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.005)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's refusals that a person can mend into a sentence; anything else is a bug and passes."""
    try:
        yield
    except OperationalErrors as error:
        text = str(error)
        if "disk is full" in text:
            said = _("The disk that holds {path} is full. Nothing was saved; free some space and repeat.")
            raise StorageError(said.format(path=path)) from error
        if "locked" in text:
            said = _(
                "The database {path} was locked for too long. Nothing was saved; close what else has it open, such as "
                "a database browser, and repeat."
            )
            raise StorageError(said.format(path=path)) from error
        if "readonly" in text or "unable to open" in text or "disk I/O error" in text:
            said = _(
                "The database {path} can't be written ({text}). Give this user the right to write there, "
                "or choose another place with --data DIR."
            )
            raise StorageError(said.format(path=path, text=text)) from error
        raise


class explain_values:
    """Turn SQLite's refusal of a number or a text that somebody asked for into a sentence; anything else passes.

    A class, because it is around every query, and a generator costs three times as much.
    """

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OverflowError) and "SQLite" in str(error):
            raise UserError(_("There is no such number here: it is too large. Check it.")) from error
        if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
            raise UserError(_("A name or a text has characters that are none (half of a pair). Check it.")) from error


@contextmanager
def explain_bad_rows(what: str) -> Iterator[None]:
    """Turn SQLite's refusal of a value that came from outside into a sentence; `what` says where it stands."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError, UnicodeEncodeError) as error:
        said = _("{what} does not fit the database ({error}). Nothing was saved.")
        raise UserError(said.format(what=what, error=error)) from error


def open_database(data_dir: Path, durable: bool = False) -> Database:
    """Create or open the data directory's database and bring it up to date.

    `durable` is for what people do: it costs a wait for the disk at each commit. Raises UserError where the directory
    can't be written, the file is no database, or a newer Prefloop wrote it.
    """
    with explain_directory_errors(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_foreign(data_dir / FILE_NAME)
        restrict_data_directory(data_dir)
        with tempfile.TemporaryFile(dir=data_dir) as probe:
            probe.write(b"prefloop")
    database = Database(data_dir / FILE_NAME, durable)
    try:
        migrate(database)
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error) or "malformed" in str(error):
            raise unreadable(database.path, error) from error
        raise
    return database


def explain_directory_errors(data_dir: Path) -> AbstractContextManager[None]:
    """A data directory that can't be written becomes a sentence."""
    refused = _(
        "The data directory {data_dir} can't be written ({strerror}). Make it writable, free disk space, or choose "
        "another one with --data DIR."
    )
    return explain_errors(refused, data_dir=data_dir)


def unreadable(path: Path, error: Exception) -> UserError:
    """That a file is no database, or a damaged one."""
    said = _("{path} is not a readable SQLite database ({error}). Move it away or restore a copy; nothing was changed.")
    return UserError(said.format(path=path, error=error))


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a file that is no database, or a damaged one, into a sentence."""
    try:
        yield
    except DatabaseErrors as error:
        raise unreadable(path, error) from error


def restrict_data_directory(data_dir: Path) -> None:
    """Take other users' rights to the data directory and its database away; a warning where that can't be done.

    Files within are made for this user alone (environment.keep_private); those of earlier releases were not.
    """
    if os.name != "posix":
        return
    for path in (data_dir, *data_dir.glob(f"{FILE_NAME}*")):
        with suppress(FileNotFoundError):  # SQLite removes its log when the last connection is closed
            reason = restrict_to_owner(path)
            if reason:
                logger.warning("Other users can look into %s, and that can't be changed: %s.", path, reason)


def restrict_to_owner(path: Path) -> str:
    """Leave a path's rights to its owner alone. Returns why that can't be; empty where it is so now."""
    mode = path.stat().st_mode
    if not mode & OTHERS:
        return ""
    if mode & stat.S_ISVTX:
        return "the system has it for everybody's files"
    try:
        path.chmod(stat.S_IMODE(mode) & ~OTHERS)
    except OSError as error:
        return str(error.strerror)
    return "its file system keeps no rights" if path.stat().st_mode & OTHERS else ""


def has_database(data_dir: Path) -> bool:
    """Whether a database can be seen there: not where a name is too long, or others' rights are in the way."""
    try:
        return (data_dir / FILE_NAME).is_file()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EACCES):
            return False
        raise  # a drive that does not answer, say, may have one


def existing_database(data_dir: Path) -> Database:
    """The data directory's database, brought up to date. Raises UserError where there is none: none is made."""
    if not has_database(data_dir):
        said = _(
            "There is no database in {data_dir} yet. Start `python app.py` once, or name another directory "
            "with --data DIR."
        )
        raise UserError(said.format(data_dir=data_dir))
    return open_database(data_dir)


def read_only(path: Path, sql: str, params: Params = ()) -> Any:
    """The first column of the first row of a query on a database file, which is neither made, migrated nor written.

    None without such a file or row. Raises UserError where it can't be read.
    """
    if not path.is_file():
        return None
    address = f"{path.resolve().as_uri()}?mode=ro"
    with (
        explain_damage(path),
        explain_disk_errors(path),
        closing(sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS)) as found,
    ):
        row = found.execute(sql, params).fetchone()
    return None if row is None else row[0]


def hold_data_directory(data_dir: Path) -> FileLock:
    """Keep a second program with workers off this directory while the lock lives. Raises UserError."""
    lock = FileLock(data_dir / "prefloop.lock")
    with explain_directory_errors(data_dir):  # the file may be another user's
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            said = _(
                "Another Prefloop is at work in {data_dir}. Use that one, stop it, or choose another directory "
                "with --data DIR."
            )
            raise UserError(said.format(data_dir=data_dir)) from error
    return lock


def scratch_database(path: Path) -> Database:
    """A new file for rows on their way; it is thrown away after a crash, so nothing is spent on surviving one."""
    database = Database(path)
    with explain_disk_errors(path):
        database.connection.conn.execute("PRAGMA journal_mode=OFF")
        database.connection.conn.execute("PRAGMA synchronous=OFF")
    return database


def migrate(database: Database) -> None:
    """Apply the migrations that are missing. Raises UserError if the file knows one that this program does not."""
    known = known_steps()
    with explain_disk_errors(database.path):
        applied = {step.name for step in migrations.applied(database.connection)}
        refuse_newer(database.path, applied)
        if applied != known:
            apply_migrations(database)


def refuse_foreign(path: Path) -> None:
    """Raises UserError if a file is another program's database, which is only looked at."""
    tables: set[str] = set()
    if path.is_file():
        with (
            suppress(sqlite3.DatabaseError),  # said where it is opened
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as found,
        ):
            tables = {name for (name,) in found.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and "_sqlite_migrations" not in tables:
        said = _(
            "{path} is another program's database. Move it away, or choose another data directory with --data DIR."
        )
        raise UserError(said.format(path=path))


@cache
def known_steps() -> Set[str]:
    return {step.name for step in migrations.pending(sqlite_utils.Database(memory=True))}


def refuse_newer(path: Path, applied: Set[str]) -> None:
    """Raises UserError if a file has had migrations that this program does not know."""
    unknown = sorted(applied - known_steps())
    if unknown:
        said = _(
            "The database {path} was written by a newer Prefloop (step '{unknown}'). Update Prefloop, or "
            "choose another data directory with --data DIR. Nothing was changed."
        )
        raise UserError(said.format(path=path, unknown=unknown[-1]))


def apply_migrations(database: Database) -> None:
    """All missing steps in one transaction. Rebuilding a table that others refer to needs the references unguarded
    meanwhile (https://sqlite.org/lang_altertable.html, section 7), so they are checked as a whole before the commit."""
    raw = database.connection.conn
    raw.execute("PRAGMA foreign_keys=OFF")
    try:
        with database.transaction() as connection:
            migrations.apply(connection)
            broken = raw.execute("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise RuntimeError(f"A migration left references to rows that are not there: {broken[:3]}")
    finally:
        raw.execute("PRAGMA foreign_keys=ON")


def copy_database(database: Database, target: Path) -> None:
    """A consistent copy of the live file, made with SQLite's backup API while writers go on; on disk when it returns.

    Within `reading()` it is what is read there. Raises UserError when the disk refuses.
    """
    temporary = target.with_name(f"{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        with explain_disk_errors(target):
            copy = sqlite3.connect(temporary, isolation_level=None)
            try:
                database.connection.conn.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")  # one file: nothing of it waits in a second one
            finally:
                copy.close()
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)


def damage(path: Path) -> str:
    """What is wrong with a database file that nobody has open, as a sentence; empty if nothing.

    Nothing in it is asked before it is known to be ours: a view may have no end, and a trigger do anything. What
    somebody has put beside our tables does nothing. Raises UserError where a newer Prefloop wrote it.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        applied = applied_steps(connection)
        refuse_newer(path, applied)
        made, ours = schema_of(connection), schema_after(applied)
        if other := sorted(str(one[1]) for one in made ^ ours if one in ours or one[0] == "trigger"):
            return _("It is not made as a database of Prefloop is: {name} is amiss.").format(name=shown(other[0]))
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            return _("SQLite says: {found}.").format(found=found)
        if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
            return _("Rows refer to others that are not there.")
    except sqlite3.DatabaseError as error:
        return _("SQLite says: {found}.").format(found=error)
    finally:
        connection.close()
    return ""


def applied_steps(connection: sqlite3.Connection) -> frozenset[str]:
    """The migrations that a file has had, if what names them is a table."""
    kind = connection.execute("SELECT type FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    if kind is not None and kind[0] != "table":
        return frozenset()
    return frozenset(name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations"))


def schema_of(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    """(type, name, what it is) of all in a file but SQLite's own: of a table its columns, else how it was made."""
    made = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_*' OR sql NOT NULL"
    )
    return frozenset(
        (kind, name, columns_of(connection, name) if kind == "table" else sql)
        for kind, name, sql in made.fetchall()
        if name not in BOOKKEEPING or kind not in ("table", "index")
    )


def columns_of(connection: sqlite3.Connection, table: str) -> str:
    """The names of a table's columns, computed and hidden ones too."""
    found = connection.execute("SELECT name, hidden FROM pragma_table_xinfo(?) ORDER BY name", (table,)).fetchall()
    return repr(found)


@cache
def schema_after(applied: frozenset[str]) -> frozenset[tuple[str, str, str]]:
    """That of a file that has had these migrations, as far as they follow one another."""
    fresh = sqlite_utils.Database(memory=True)
    steps = [step.name for step in migrations.pending(fresh)]
    migrations.apply(fresh, stop_before=next((name for name in steps if name not in applied), None))
    return schema_of(fresh.conn)


def marks(values: Sequence[Any]) -> str:
    """So many placeholders, for what stands between the brackets of IN."""
    return ", ".join("?" * len(values))
