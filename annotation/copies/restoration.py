"""What a data directory goes on from when the program starts: what is here, or the newest valid safe copy."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from filelock import ReadWriteLock, Timeout

from annotation import database
from annotation.copies import copy_reasons, safe_copies, targets
from annotation.copies.targets import CopyManifest, CopyTarget, DamagedCopy
from annotation.database import FILE_NAME, Database
from annotation.records import UserError, now
from annotation.store import setting_store
from annotation.translation import N_, _, joined, ngettext
from annotation.ui import formatting
from annotation.validation import shown
from annotation.web import access

VARIABLE: Final = "PREFLOOP_RESTORE"
# A choice that begins so means what is in the data directory, be it nothing.
HERE: Final = "here"
ASIDE: Final = "set-aside"
FOLDER: Final = ".restore-"
# A database file, and what SQLite may keep beside it: what is left of another one would be replayed onto it.
PARTS: Final = ("", "-wal", "-shm")
# Of jobs of the database that is here; another one's jobs may have the same numbers.
OF_JOBS: Final = ("answers", "checkpoints")
LEFT_OUT: Final = N_(
    "The copy is without the files of {names}: these count as deleted, and can be neither promoted nor trained from."
)
DAMAGED: Final = N_(
    "What only a damaged copy has is not here; to try one again, start with {variable}=VERSION, which "
    "moves what is here aside."
)
CLOSED: Final = N_(
    "Accounts and passwords are those of then: look whether somebody who was shut out since is in again. Everybody has "
    "to sign in anew."
)
LOCK: Final = "prefloop.open.lock"
# A program that has just been told to end may still have the database open.
LOCK_SECONDS: Final = 1.5


def begin(target: CopyTarget, data_dir: Path, choice: str = "") -> str:
    """Bring the data directory to the newest state that is known, and record there what the next copy follows.

    Returns what to tell of it in the log. `choice` (PREFLOOP_RESTORE) is a version to go back to, or 'here…' to go on
    with what is in the directory. Each is carried out once: where the newest copy or this directory was made after it,
    it means nothing. Raises UserError where no copy can be used, where here and the place each have judgements that the
    other lacks, or where the place can't be read; nothing is changed then.
    """
    clear_leftovers(data_dir)
    target.prepare()
    head, versions = target.head(), target.versions()
    found = list(islice(targets.copies_in(target, versions), 1))
    local = existing(data_dir, choice)
    try:
        if choice and choice in choices_made(target, versions, local):
            choice = ""
        if choice.startswith(HERE) or not found:
            return continue_here(data_dir, target, head, choice)
        if choice:
            if local is not None:
                local.close()  # its file is about to give way
            return restore(target, data_dir, [choice], head, choice, None)
        return restore(target, data_dir, versions, head, "", local)
    finally:
        if local is not None:
            local.close()


def clear_leftovers(data_dir: Path) -> None:
    """Remove what copying and restoring left behind where they were killed, and undo what was half restored."""
    put_back(data_dir)
    for left in leftovers(data_dir):
        shutil.rmtree(left, ignore_errors=True)


def leftovers(data_dir: Path) -> Iterator[Path]:
    """The folders in which copies are made and unpacked, which nobody needs who is not at it."""
    return (left for prefix in (safe_copies.FOLDER, FOLDER) for left in data_dir.glob(f"{prefix}*"))


def existing(data_dir: Path, choice: str) -> Database | None:
    """The database that is here, brought up to date; None if there is none.

    Raises UserError for one that can't be opened, unless another version was chosen to take its place.
    """
    try:
        return database.open_database(data_dir) if database.has_database(data_dir) else None
    except UserError:
        if choice and not choice.startswith(HERE):
            return None
        raise


def choices_made(target: CopyTarget, versions: Iterable[str], local: Database | None) -> set[str]:
    """The choices that the newest copy whose manifest is whole and the directory here have carried out last."""
    newest = targets.newest_whole(target, versions)
    made = set() if newest is None else {newest[1].choice}
    return made if local is None else {*made, str(setting_store.setting(local, copy_reasons.CHOICE, ""))}


def continue_here(data_dir: Path, target: CopyTarget, head: str, choice: str) -> str:
    """Go on with what is here, because the place has nothing or because that was chosen."""
    with closing(database.open_database(data_dir)) as db:
        setting_store.set_setting(db, copy_reasons.CHOICE, choice)
        setting_store.set_setting(db, copy_reasons.BEGINNING, "")
        safe_copies.record_start(db, target.name, head, None)
    because = (
        _("Prefloop goes on with what is in {data_dir}: as {variable} says.")
        if choice
        else _("Prefloop goes on with what is in {data_dir}: there is no copy in {place} yet.")
    )
    return because.format(data_dir=data_dir, variable=VARIABLE, place=target.name)


def refuse_fork(target: CopyTarget, data_dir: Path, local: Database, version: str, manifest: CopyManifest) -> None:
    """Raises UserError where people have done something here that this place has never had, while it has others."""
    safe = safe_copies.last_safe(local, target.name)
    unsafe = safe_copies.judgements_after(local, safe.last_judgement_id if safe else 0)
    if unsafe or safe_copies.has_unsafe_work(local):
        has = (
            ngettext(
                "{data_dir} has {unsafe} judgement that no copy in {name} has.",
                "{data_dir} has {unsafe} judgements that no copy in {name} has.",
                unsafe,
            )
            if unsafe
            else _("{data_dir} has accounts, imports, settings, runs or decisions that no copy in {name} has.")
        ).format(data_dir=data_dir, unsafe=unsafe, name=target.name)
        forked = ngettext(
            "The newest copy there ({judgements} judgement, {created} UTC) was made by another running copy of this "
            "project. Nothing was changed. To go on with what is here, start with {variable}={here}; to take the "
            "copy, start with {variable}={version}, which moves what is here aside.",
            "The newest copy there ({judgements} judgements, {created} UTC) was made by another running copy of this "
            "project. Nothing was changed. To go on with what is here, start with {variable}={here}; to take the "
            "copy, start with {variable}={version}, which moves what is here aside.",
            manifest.judgements,
        ).format(
            judgements=manifest.judgements,
            created=formatting.moment(manifest.created),
            variable=VARIABLE,
            here=HERE,
            version=version,
        )
        raise UserError(joined(has, forked))


# ----------------------------------------------------------------------------------------------------- who has it open
def shared_lock(data_dir: Path) -> ReadWriteLock:
    """Keep others from moving the database away while this lock lives. Raises UserError while somebody does.

    Whoever moved it away and was killed is undone first, by one program alone.
    """
    if half_restored(data_dir):
        with closing(exclusive_lock(data_dir)):
            put_back(data_dir)
    return acquire_lock(data_dir, "read", _("A safe copy is being restored into {}. Start again when that is done."))


def exclusive_lock(data_dir: Path) -> ReadWriteLock:
    """Keep others from opening the database while this lock lives. Raises UserError while somebody has it open."""
    return acquire_lock(data_dir, "write", _("A Prefloop that runs has the database in {} open. Stop it first."))


def acquire_lock(data_dir: Path, how: Literal["read", "write"], refusal: str) -> ReadWriteLock:
    """The directory's lock, taken for one of many or for one alone. Raises UserError."""
    with database.explain_directory_errors(data_dir):
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            with database.explain_damage(data_dir / LOCK), database.explain_disk_errors(data_dir / LOCK):
                lock = ReadWriteLock(data_dir / LOCK, is_singleton=False)
                (lock.acquire_read if how == "read" else lock.acquire_write)(timeout=LOCK_SECONDS)
        except Timeout as error:
            raise UserError(refusal.format(data_dir)) from error
    return lock


# ---------------------------------------------------------------------------------------------------------- restoring
def restore(
    target: CopyTarget, data_dir: Path, versions: Sequence[str], head: str, choice: str, local: Database | None
) -> str:
    """Restore the first of these versions that is whole, and say which are not; or go on with `local`, which has it.

    Raises UserError if none is whole, or if `local` has judgements that would be left behind.
    """
    skipped: list[str] = []
    for version, manifest in targets.copies_in(target, versions):
        try:
            if isinstance(manifest, DamagedCopy):
                raise manifest
            if local is not None:
                if safe_copies.knows(local, target.name, version, manifest):
                    return continue_from(local, target, data_dir, head, manifest, skipped)
                refuse_fork(target, data_dir, local, version, manifest)
                local.close()  # its file is about to be moved
            newer = newer_than(target, manifest) if choice else []
            return Restoration(
                target=target, version=version, manifest=manifest, data_dir=data_dir, head=head, choice=choice,
                newer=newer, skipped=skipped,
            ).run()  # fmt: skip
        except DamagedCopy as error:
            skipped.append(str(error))
            if isinstance(manifest, CopyManifest):
                has = ngettext("It has {judgements} judgement.", "It has {judgements} judgements.", manifest.judgements)
                skipped.append(has.format(judgements=manifest.judgements))
    reasons = joined(*skipped) or _("{name} has no copy '{versions}'.").format(
        name=target.name, versions=", ".join(versions)
    )
    said = _(
        "No safe copy could be restored. {reasons} Nothing was changed. `python -m annotation copies list` "
        "shows what there is; the program starts with one of them if you set {variable}=VERSION, and with "
        "what is in {data_dir} if you set {variable}={here}."
    )
    raise UserError(said.format(reasons=reasons, variable=VARIABLE, data_dir=data_dir, here=HERE))


def continue_from(
    local: Database, target: CopyTarget, data_dir: Path, head: str, manifest: CopyManifest, skipped: Sequence[str]
) -> str:
    """Go on with what is here, which has all that a copy has. What admins should know stays until a copy is made."""
    safe = safe_copies.last_safe(local, target.name)
    kept = safe_copies.start_notice(local) if safe is not None and safe.state == "begun" else ""
    said = _("{data_dir} has all that the newest valid copy in {name} has.").format(data_dir=data_dir, name=target.name)
    message = joined(said, *skipped)
    if not kept:
        safe_copies.leave_notice(local, message if skipped else "")
    safe_copies.record_start(local, target.name, head, manifest)
    goes_on = _("Prefloop goes on with what is in {data_dir}.").format(data_dir=data_dir)
    return joined(goes_on, kept) if kept else message


def newer_than(target: CopyTarget, manifest: CopyManifest) -> list[str]:
    """What is said where an older copy is restored than the newest one that can be read."""
    newest = targets.newest_whole(target, target.versions())
    if newest is None or newest[1] == manifest:
        return []
    version, copy = newest
    return [
        ngettext(
            "A newer copy there has {judgements} judgement ({created} UTC): to take it, start with "
            "{variable}={version}, which moves what is here aside.",
            "A newer copy there has {judgements} judgements ({created} UTC): to take it, start with "
            "{variable}={version}, which moves what is here aside.",
            copy.judgements,
        ).format(
            judgements=copy.judgements, created=formatting.moment(copy.created), variable=VARIABLE, version=version
        )
    ]


@dataclass(frozen=True)
class Restoration:
    target: CopyTarget
    version: str
    manifest: CopyManifest
    data_dir: Path
    head: str
    choice: str
    newer: Sequence[str]
    """What is said of a newer copy, which somebody has passed over."""
    skipped: Sequence[str]
    """What is said of newer ones that are damaged."""

    @property
    def older(self) -> bool:
        """Whether it may not be the newest, so that what was ended or withdrawn since would be open again."""
        return bool(self.choice or self.skipped)

    def run(self) -> str:
        """Download it, check all of it, and only then put it in place of what is here, which is moved aside.

        Returns what is to be told of it. Raises DamagedCopy for a copy that is not whole, UserError where the disk is
        full or a newer Prefloop made it.
        """
        data_dir, manifest = self.data_dir, self.manifest
        with explained_disk(data_dir, manifest):
            data_dir.mkdir(parents=True, exist_ok=True)
            if manifest.size > shutil.disk_usage(data_dir).free:
                raise no_space(data_dir, manifest)
        with explained_disk(data_dir, manifest), tempfile.TemporaryDirectory(prefix=FOLDER, dir=data_dir) as staging:
            stage = Path(staging)
            self.fetch(stage)
            message, unknown = self.bring_up_to_date(stage)
            for path in manifest.files:
                with (stage / path).open("rb") as handle:
                    os.fsync(handle.fileno())
            # What is put in place as a whole beside the database: each model's directory, frozen data.
            units = sorted({"/".join(PurePosixPath(path).parts[:2]) for path in manifest.files if path != FILE_NAME})
            try:
                move_aside(data_dir, {*units, *OF_JOBS, *unknown})
                # The database is the last: until then what was there is put back, and can be restored again.
                for unit in [*units, FILE_NAME]:
                    (data_dir / unit).parent.mkdir(parents=True, exist_ok=True)
                    (stage / unit).replace(data_dir / unit)
            except BaseException:
                put_back(data_dir)
                raise
        return message

    def fetch(self, stage: Path) -> None:
        """Download it, and check all of it. Raises DamagedCopy for one that is not whole."""

        def damaged(sentence: str, **gaps: str) -> DamagedCopy:
            return DamagedCopy(
                sentence.format(version=self.version, name=self.target.name, file_name=FILE_NAME, **gaps)
            )

        for path, mark in self.manifest.files.items():
            destination = stage / path
            destination.parent.mkdir(parents=True, exist_ok=True)
            self.target.fetch(self.version, path, mark, destination)
            if targets.digest_of(destination) != mark:
                raise damaged(_("The copy {version} in {name} is damaged: {path} is not what it was."), path=path)
        if FILE_NAME not in self.manifest.files:
            raise damaged(_("The copy {version} in {name} is damaged: {file_name} is missing."))
        if found := database.damage(stage / FILE_NAME):
            raise damaged(_("The copy {version} in {name} is damaged, in {file_name}. {found}"), found=found)

    def bring_up_to_date(self, stage: Path) -> tuple[str, list[str]]:
        """Migrate its database before it is used, and record in it what it is and which files did not come along.

        Models that these are of are marked as deleted. Returns what is told of it, and the paths of models here that it
        has not.
        """
        gone = []
        with closing(database.open_database(stage)) as db:
            self.refuse_other_places(db)
            with db.transaction() as connection:
                made = db.rows("SELECT id, revision, path FROM model WHERE path IS NOT NULL AND deleted IS NULL")
                for row in made:
                    if not (stage / row["path"]).is_dir() and not (self.data_dir / row["path"]).is_dir():
                        gone.append(row["revision"])
                        connection.execute("UPDATE model SET deleted = ? WHERE id = ?", (now(), row["id"]))
                if self.older:
                    access.close_doors(db)
                setting_store.set_setting(db, copy_reasons.CHOICE, self.choice or self.manifest.choice)
                message = self.told(gone)
                safe_copies.leave_notice(db, message if gone or self.newer or self.skipped else "")
                safe_copies.record_start(db, self.target.name, self.head, self.manifest, safe_copies.RESTORED)
        for part in PARTS[1:]:
            (stage / f"{FILE_NAME}{part}").unlink(missing_ok=True)  # closing has emptied them
        here = {path.relative_to(self.data_dir).as_posix() for path in (self.data_dir / "adapters").glob("*")}
        return message, sorted(here - {row["path"] for row in made})

    def refuse_other_places(self, db: Database) -> None:
        """Raises DamagedCopy where a model or frozen data would lie elsewhere: it would be copied and deleted there."""
        paths = db.rows("SELECT path FROM model WHERE path IS NOT NULL UNION ALL SELECT path FROM snapshot")
        for row in paths:
            if not targets.is_place(row["path"]):
                said = _("The copy {version} in {name} is damaged: its database names {path}.")
                raise DamagedCopy(said.format(version=self.version, name=self.target.name, path=shown(row["path"])))

    def told(self, gone: Sequence[str]) -> str:
        """What to tell of it where it is restored without the files of some models."""
        judgements, created = self.manifest.judgements, formatting.moment(self.manifest.created)
        said = ngettext(
            "Restored {judgements} judgement from {name} as of {created} UTC.",
            "Restored {judgements} judgements from {name} as of {created} UTC.",
            judgements,
        ).format(judgements=judgements, name=self.target.name, created=created)
        doors = [_(CLOSED)] if self.older else []
        left = [_(LEFT_OUT).format(names=", ".join(gone))] if gone else []
        damaged = [_(DAMAGED).format(variable=VARIABLE)] if self.skipped else []
        return joined(said, *doors, *left, *self.newer, *self.skipped, *damaged)


def no_space(data_dir: Path, manifest: CopyManifest) -> UserError:
    free = shutil.disk_usage(data_dir).free
    return UserError(
        _(
            "The safe copy needs {size:,.1f} MB in {data_dir}, and {free:,.1f} MB are free or allowed there. "
            "Nothing was changed. Free disk space, or choose another directory with --data DIR."
        ).format(size=manifest.size / 1000000.0, data_dir=data_dir, free=free / 1000000.0)
    )


@contextmanager
def explained_disk(data_dir: Path, manifest: CopyManifest) -> Iterator[None]:
    """A disk that fills up while a copy is restored, or can't be written, as a sentence."""
    try:
        yield
    except (OSError, UserError) as error:
        cause = error.__cause__ if isinstance(error, UserError) else error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise no_space(data_dir, manifest) from error
        if isinstance(error, OSError):
            said = _(
                "{data_dir} can't be written ({strerror}). Nothing was changed. Make it writable, or "
                "choose another directory with --data DIR."
            )
            raise UserError(said.format(data_dir=data_dir, strerror=error.strerror or error)) from error
        raise


def move_aside(data_dir: Path, units: Iterable[str] = ()) -> None:
    """Keep the database that is here, and what is named, in a folder of their own; restoring deletes nothing.

    The database keeps its place, too, until another replaces it: where none is, a start would begin an empty one.
    """
    found = existing(data_dir, ASIDE)
    if found is not None:
        found.close()  # which writes into the file what lay beside it
    aside = data_dir / ASIDE / now().replace(":", "-")
    for path in (*(f"{FILE_NAME}{part}" for part in PARTS), *units):
        if (data_dir / path).exists():
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            if path == FILE_NAME:
                keep_twice(data_dir / path, aside / path)
            else:
                (data_dir / path).rename(aside / path)


def put_back(data_dir: Path) -> None:
    """Give back what was moved aside for a copy that never took its place: the database there is the one here still.

    Only where the disk knows links: a copy of the database does not tell. Raises UserError where it can't be.
    """
    with database.explain_directory_errors(data_dir):
        for aside in half_restored(data_dir):
            undo_move(data_dir, aside)


def half_restored(data_dir: Path) -> list[Path]:
    """The folders of what gave way to a copy that never took its place: they have the database that is here."""
    here = data_dir / FILE_NAME
    with database.explain_directory_errors(data_dir):
        kept = (data_dir / ASIDE).glob(f"*/{FILE_NAME}")
        return [path.parent for path in kept if here.is_file() and path.samefile(here)]


def undo_move(data_dir: Path, aside: Path) -> None:
    """Move what was put aside to where it was. Its link to the database goes last: until then it can be repeated."""
    whole = [path for path in aside.glob("*") if path.is_file() or path.name in OF_JOBS]
    parts = [path for path in aside.glob("*/*") if path.parent.name not in OF_JOBS]
    with tempfile.TemporaryDirectory(prefix=FOLDER, dir=data_dir) as given_up:
        for number, path in enumerate([*parts, *whole]):
            here = data_dir / path.relative_to(aside)
            if here.exists() and path in whole:  # the database, or of jobs since then
                continue
            if here.exists():  # the copy's, which has it still
                here.rename(Path(given_up) / str(number))
            here.parent.mkdir(parents=True, exist_ok=True)
            path.rename(here)
    (aside / FILE_NAME).unlink()
    for directory in sorted([aside, *aside.rglob("*")], reverse=True):
        with suppress(OSError):  # not empty
            directory.rmdir()


def keep_twice(path: Path, other: Path) -> None:
    """Give a file another name beside its own, be it that of a copy where a disk knows no links."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copy2(path, other)
