"""Safe copies of the database, the models needed to go on and frozen data: when one is due, making it, how it stands.

The numbers that people are told come from copies that their place has confirmed. So whatever happens to this machine
loses at most what the page said was not yet safe.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from annotation.copies.copy_reasons import BEGINNING, CHOICE, SAFE_WORK, TRAINING, work
from annotation.copies.targets import CopyManifest, CopyTarget, DamagedCopy, FileDigest, aside_name, digest_of
from annotation.database import FILE_NAME, Database, copy_database
from annotation.hub_client import Conflict, without_tokens
from annotation.jobs.attempt import repeating
from annotation.records import Role, UserError, explain_errors, now, seconds_between
from annotation.store import setting_store
from annotation.translation import N_, _, joined, kept, ngettext, retold
from annotation.ui import formatting

NOT_COPIED: Final = N_(
    "Judgements are lost when this Space restarts: no place for safe copies is set (PREFLOOP_COPIES in its settings)."
)
KEPT_ROWS: Final = 50
RESTORED: Final = "Restored."
FOLDER: Final = ".copy-"
# An attempt says so often that it goes on, which may take hours; one that was silent for so long was cut off.
BEAT_SECONDS: Final = 60.0
UNFINISHED_SECONDS: Final = 1800.0
UNFINISHED: Final = N_("The latest attempt was cut off before it was finished. The log says why.")


# ------------------------------------------------------------------------------------------------------- when it is due
@dataclass(frozen=True)
class Schedule:
    every: float = 300.0
    """Seconds until what has changed is copied. (PREFLOOP_COPIES_EVERY)"""
    after: int = 10
    """So many judgements don't wait that long. (PREFLOOP_COPIES_AFTER)"""
    apart: float = 60.0
    """But so many seconds lie between two copies. (PREFLOOP_COPIES_APART)"""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Schedule:
        """As the variables say. Raises UserError for what is no number above zero."""
        values = {}
        for name in ("every", "after", "apart"):
            variable = f"PREFLOOP_COPIES_{name.upper()}"
            text = environment.get(variable, "").strip()
            try:
                values[name] = float(text) if text else getattr(cls, name)
            except ValueError:
                values[name] = -1.0
            if not 0 <= values[name] < float("inf"):
                said = _("{variable} is '{text}', and must be a number, 0 or more.")
                raise UserError(said.format(variable=variable, text=text))
        return cls(values["every"], int(values["after"]), values["apart"])


@dataclass(frozen=True)
class PendingCopy:
    """What a copy now would add, and how the latest attempt went."""

    changed: bool
    judgements: int
    seconds_since_attempt: float | None
    """None before this program's first attempt."""
    failures: int
    """Attempts in a row that came to nothing."""


def due(pending: PendingCopy, schedule: Schedule) -> bool:
    """Whether it is time for a copy: at the start, when enough has been judged, or when a change is old enough.

    After failures it is tried again later and later, but never later than on schedule.
    """
    if not pending.changed:
        return False
    if pending.seconds_since_attempt is None:
        return True
    enough = pending.judgements >= schedule.after > 0
    if not (enough or pending.failures):
        return pending.seconds_since_attempt >= schedule.every
    wait = schedule.apart * 2**pending.failures if pending.failures else schedule.apart
    return pending.seconds_since_attempt >= min(wait, max(schedule.every, schedule.apart))


def has_unsafe_work(db: Database) -> bool:
    """Whether people have done something beside judging since this database began or was last copied."""
    return work(db) != str(setting_store.setting(db, SAFE_WORK, ""))


# ---------------------------------------------------------------------------------------------------------- the record
@dataclass(frozen=True)
class CopyRecord:
    id: int
    place: str
    version: str
    run: str
    number: int
    last_judgement_id: int
    judgements: int
    state: str
    message: str
    created: str


def latest(db: Database, where: str, *values: object) -> CopyRecord | None:
    """The newest row that fits."""
    found = db.row(f"SELECT * FROM safe_copy WHERE {where} ORDER BY id DESC LIMIT 1", values)
    return None if found is None else CopyRecord(**found)


def last_safe(db: Database, place: str) -> CopyRecord | None:
    """The newest copy that a place has, or what this database began from there."""
    return latest(db, "state IN ('safe', 'begun') AND place = ?", place)


def knows(db: Database, place: str, version: str, manifest: CopyManifest | None) -> bool:
    """Whether this database has all that a copy in a place has.

    It made the copy, or began from it, or was told to go on from it. The row is there before the copy is
    made, so an answer of the place that never arrived makes no difference.
    """
    run, number = ("", -1) if manifest is None else (manifest.run, manifest.number)
    ours = "(place = ? AND version != '' AND version = ?) OR (run = ? AND number = ?)"
    return latest(db, ours, place, version, run, number) is not None


# What a row says of a copy as its manifest does.
RECORDED: Final = ("run", "number", "last_judgement_id", "judgements", "created")


def record_start(db: Database, place: str, version: str, manifest: CopyManifest | None, message: str = "") -> None:
    """Record what this database goes on from, which the next copy follows. Without a manifest nothing is safe yet."""
    begun: dict[str, Any] = {"place": place, "version": version, "state": "begun", "message": message}
    if manifest is None:
        begun |= {"run": "", **dict.fromkeys(("number", "last_judgement_id", "judgements"), 0), "created": now()}
    else:
        begun |= {name: getattr(manifest, name) for name in RECORDED}
    with db.transaction():
        db.insert("safe_copy", begun)
        if message == RESTORED or manifest is None:
            setting_store.set_setting(db, SAFE_WORK, work(db) if manifest else "")


def start_notice(db: Database) -> str:
    """What admins should know of how this database began: a damaged copy was passed over, or an older one restored.

    Empty for nothing. It stays until the program starts again after a copy.
    """
    stored = setting_store.setting(db, BEGINNING, "")
    return retold(str(stored["said"] if isinstance(stored, dict) else stored))


def noticed(db: Database) -> str | None:
    """When the program began as `start_notice` says; None where an earlier version did not note it."""
    stored = setting_store.setting(db, BEGINNING, "")
    return str(stored["when"]) if isinstance(stored, dict) else None


def leave_notice(db: Database, message: str) -> None:
    """Keep for the admins what they should know of how this database begins; nothing where it is empty."""
    setting_store.set_setting(db, BEGINNING, {"said": kept(message), "when": now()} if message else "")


def is_as_restored(db: Database) -> bool:
    newest = latest(db, "1")
    if newest is None or newest.message != RESTORED:
        return False
    return not judgements_after(db, newest.last_judgement_id) and not has_unsafe_work(db)


def conflict_of(db: Database, place: str) -> CopyRecord | None:
    """The conflict that keeps this database's copies aside from a place, if there is one since it began there."""
    begun = latest(db, "state = 'begun' AND place = ?", place)
    return latest(db, "state = 'conflict' AND place = ? AND id > ?", place, begun.id if begun else 0)


# ------------------------------------------------------------------------------------------------------- making a copy
@dataclass(frozen=True)
class SafeCopy:
    """A copy on this disk: what it says of itself, where its files are, and what people had done beside judging."""

    manifest: CopyManifest
    files: Mapping[str, Path]
    work: str


def take(db: Database, data_dir: Path, run: str, number: int, folder: Path) -> SafeCopy:
    """Copy the database into a folder, and name the files of the models that are needed with it. Raises UserError."""
    with db.reading():
        last, judgements = judged(db)
        # All frozen data: a check reads what its candidate, and all that it grew from, was trained on.
        frozen = [row["path"] for row in db.rows("SELECT path FROM snapshot ORDER BY path")]
        done, paths = work(db), [*model_paths(db), *frozen]
        choice = setting_store.setting(db, CHOICE, "")
        copy_database(db, folder / FILE_NAME)
    files = {FILE_NAME: folder / FILE_NAME}
    for path in paths:
        files |= {file.relative_to(data_dir).as_posix(): file for file in files_below(data_dir / path)}
    marks = {path: digest_of(file) if path == FILE_NAME else digest_once(file) for path, file in files.items()}
    manifest = CopyManifest(
        run=run, number=number, created=now(), last_judgement_id=last, judgements=judgements, choice=choice, files=marks
    )
    return SafeCopy(manifest, files, done)


def digest_once(file: Path) -> FileDigest:
    """The digest of a file that hardly ever changes: read by this program only while its size or time is another."""
    status = file.stat()
    return digest_as_of(file, status.st_size, status.st_mtime_ns)


@lru_cache(10_000)
def digest_as_of(file: Path, size: int, time_ns: int) -> FileDigest:
    return digest_of(file)


def judged(db: Database) -> tuple[int, int]:
    """The newest judgement's id, and how many there are, superseded ones too."""
    row = db.one("SELECT coalesce(max(id), 0) AS last, count(*) AS number FROM judgement")
    return row["last"], row["number"]


def model_paths(db: Database) -> list[str]:
    """Directories of the models that are needed to go on, and of what these lie on.

    These are the policy that serves and the one before it, candidates, the newest reward model, those that judge, and
    those that runs name which wait or are at work.
    """
    rows = db.rows(
        f"""WITH RECURSIVE needed(id) AS (
               SELECT id FROM model WHERE kind = 'policy' AND status IN ('serving', 'candidate')
               UNION SELECT max(id) FROM model WHERE kind = 'reward-model' AND deleted IS NULL
               UNION SELECT previous_id FROM decision WHERE id = (
                   SELECT max(id) FROM decision WHERE action IN ('promote', 'go-back'))
               UNION SELECT m.id FROM judge j, json_each(j.settings) told JOIN model m ON m.revision = told.value
                   WHERE j.active
               UNION SELECT m.id FROM job j, json_each(j.spec) told JOIN model m ON m.revision = told.value
                   WHERE j.status IN ('queued', 'running', 'cancelling') AND {TRAINING}
               UNION SELECT m.ground_id FROM model m JOIN needed ON m.id = needed.id WHERE m.ground_id IS NOT NULL)
           SELECT path FROM model WHERE id IN (SELECT id FROM needed) AND path IS NOT NULL AND deleted IS NULL
           ORDER BY id"""
    )
    return [row["path"] for row in rows]


def files_below(path: Path) -> Iterator[Path]:
    """A directory's files, or the file itself; none where it is gone, which the pages say."""
    return (file for file in [path, *sorted(path.rglob("*"))] if file.is_file())


# ----------------------------------------------------------------------------------------------------- putting it away
def make_copy(db: Database, data_dir: Path, target: CopyTarget, run: str, alone: bool = False) -> str:
    """Make a safe copy and record how it went; returns its version. `alone`: nobody else can write to this place.

    Raises Conflict where another running copy of this program was there first, UserError where the place refuses.
    """
    row_id, number = add_row(db, target.name, run)
    refused = _("The safe copy could not be made in {data_dir} ({strerror}). Free disk space there.")

    def say_it_goes_on() -> None:
        db.write("UPDATE safe_copy SET created = ? WHERE id = ?", (now(), row_id))

    try:
        with (
            explain_errors(refused, data_dir=data_dir),
            repeating(say_it_goes_on, BEAT_SECONDS),
            tempfile.TemporaryDirectory(prefix=FOLDER, dir=data_dir) as folder,
        ):
            copy = take(db, data_dir, run, number, Path(folder))
            version = put(db, target, copy, alone)
    except UserError as error:
        record_failure(db, row_id, "conflict" if isinstance(error, Conflict) else "failed", str(error))
        raise
    except Exception as error:
        said = without_tokens(f"{type(error).__name__}: {error}")
        ended = _("An error of Prefloop's own ended it ({error}). The log has more.").format(error=said)
        record_failure(db, row_id, "failed", ended)
        raise
    record_safe(db, row_id, version, copy)
    return version


def put(db: Database, target: CopyTarget, copy: SafeCopy, alone: bool) -> str:
    """Add a copy to a place on top of the one that this database builds on. Raises Conflict, UserError."""
    before = last_safe(db, target.name)
    if before is None:
        target.prepare()
    elif not alone:
        with suppress(Conflict):
            return target.put(copy.manifest, copy.files, before.version, ours=before.state == "safe")
        # Perhaps only the answer to an earlier copy was lost, or somebody changed a page beside the copies.
    return target.put(copy.manifest, copy.files, target.head() if alone else known_head(db, target))


def known_head(db: Database, target: CopyTarget) -> str:
    """The version that the next copy may follow. Raises Conflict where the place has a copy that is none of ours."""
    head = target.head()
    try:
        newest = target.manifest(head) if head else None
    except DamagedCopy:
        newest = None
        ours = knows(db, target.name, head, None)
    else:
        ours = newest is None or knows(db, target.name, head, newest)
    if not ours:
        if newest is None:
            damaged = _(
                "Another running copy of this project has put a safe copy into {name}, which is damaged. Stop one of "
                "the two."
            )
            raise Conflict(damaged.format(name=target.name))
        whole = ngettext(
            "Another running copy of this project has put a safe copy into {name} ({judgements} judgement, "
            "{created} UTC). Stop one of the two.",
            "Another running copy of this project has put a safe copy into {name} ({judgements} judgements, "
            "{created} UTC). Stop one of the two.",
            newest.judgements,
        )
        raise Conflict(
            whole.format(name=target.name, judgements=newest.judgements, created=formatting.moment(newest.created))
        )
    return head


def add_row(db: Database, place: str, run: str) -> tuple[int, int]:
    """Record that a copy is begun; its row's id and its number in this run."""
    with db.transaction():
        number = int(db.value("SELECT coalesce(max(number), 0) + 1 FROM safe_copy WHERE run = ?", (run,)))
        row = {"place": place, "run": run, "number": number, "state": "taken", "created": now()}
        return db.insert("safe_copy", {**row, "last_judgement_id": 0, "judgements": 0}), number


def record_failure(db: Database, row_id: int, state: str, message: str) -> None:
    db.write("UPDATE safe_copy SET state = ?, message = ? WHERE id = ?", (state, kept(message), row_id))


def record_safe(db: Database, row_id: int, version: str, copy: SafeCopy) -> None:
    """Say that a place has confirmed a copy, and forget rows that nothing depends on any more."""
    manifest = copy.manifest
    with db.transaction() as connection:
        setting_store.set_setting(db, SAFE_WORK, copy.work)
        connection.execute(
            """UPDATE safe_copy SET state = 'safe', version = :version, created = :created,
                   last_judgement_id = :last_judgement_id, judgements = :judgements WHERE id = :id""",
            {"id": row_id, "version": version, **{name: getattr(manifest, name) for name in RECORDED}},
        )
        connection.execute(
            "DELETE FROM safe_copy WHERE id < ? AND state NOT IN ('begun', 'conflict')", (row_id - KEPT_ROWS,)
        )


# ------------------------------------------------------------------------------------------------------- how it stands
@dataclass(frozen=True)
class CopyStatus:
    copied: str | None
    """When the newest safe copy was made; None if there is none."""
    judgements_since: int
    problem: str = ""
    """Why the latest attempt came to nothing; empty if it did not."""
    conflict: bool = False
    """Whether copies go to a place aside because two programs run."""


def status(db: Database, place: str) -> CopyStatus | None:
    """How the safe copies of this database in a place, or aside from it, stand; None where none were begun there."""
    clash = conflict_of(db, place)
    places = [place] if clash is None else [place, aside_name(place, clash.run)]
    within = f"place IN ({', '.join('?' * len(places))})"
    newest = latest(db, within, *places)
    if newest is None:
        return None
    safe = latest(db, f"state IN ('safe', 'begun') AND {within}", *places)
    since = judged(db)[1] if safe is None else judgements_after(db, safe.last_judgement_id)
    copied = safe.created if safe is not None and safe.number else None
    if clash is not None:
        return CopyStatus(copied, since, retold(clash.message), True)
    return CopyStatus(copied, since, last_failure(db, place))


def last_failure(db: Database, place: str) -> str:
    """Why the latest attempt to copy to a place came to nothing; empty if it did not, or is only just under way."""
    ended = latest(db, "state != 'taken' AND place = ?", place)
    begun = db.rows(
        "SELECT created FROM safe_copy WHERE state = 'taken' AND place = ? AND id > ? ORDER BY id",
        (place, ended.id if ended else 0),
    )
    # A later attempt takes the place of one that was cut off.
    if len(begun) > 1 or (begun and seconds_between(begun[0]["created"], now()) > UNFINISHED_SECONDS):
        return _(UNFINISHED)
    return retold(ended.message) if ended is not None and ended.state == "failed" else ""


def judgements_after(db: Database, judgement_id: int) -> int:
    return int(db.value("SELECT count(*) FROM judgement WHERE id > ?", (judgement_id,)))


def sentence(status: CopyStatus, moment: str, role: Role) -> str:
    """What the page says; the reason of a trouble names places, which are the admins' business."""
    count = status.judgements_since
    if status.copied is None:
        said = ngettext(
            "No safe copy yet, {count} judgement so far.", "No safe copy yet, {count} judgements so far.", count
        ).format(count=count)
    else:
        said = ngettext(
            "Last safe copy: {ago}, {count} judgement since.", "Last safe copy: {ago}, {count} judgements since.", count
        ).format(ago=ago(seconds_between(status.copied, moment)), count=count)
    if not status.problem:
        return said
    failed = _("The latest attempt failed and is repeated.")
    sentences = [said, _("Two copies of this project run.") if status.conflict else failed]
    return joined(*sentences, status.problem if role == "admin" else "")


def ago(seconds: float) -> str:
    """A time span as people say it."""
    span = timedelta(seconds=max(seconds, 0))
    if days := span // timedelta(days=1):
        return ngettext("{number} day ago", "{number} days ago", days).format(number=days)
    if hours := span // timedelta(hours=1):
        return ngettext("{number} hour ago", "{number} hours ago", hours).format(number=hours)
    if minutes := span // timedelta(minutes=1):
        return ngettext("{number} minute ago", "{number} minutes ago", minutes).format(number=minutes)
    return _("a moment ago")
