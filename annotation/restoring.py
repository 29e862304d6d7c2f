"""What a data directory goes on from when the program starts: what is here, or the newest valid safe copy."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from annotation import safekeeping, store
from annotation.database import FILE_NAME, Database, damage, open_database
from annotation.places import Damaged, Manifest, Place, copies_in, mark_of
from annotation.records import UserError, now

VARIABLE: Final = "PREFLOOP_RESTORE"
# A choice that begins so means what is in the data directory, be it nothing.
HERE: Final = "here"
ASIDE: Final = "set-aside"
FOLDER: Final = ".restore-"
# What SQLite may keep beside a database file.
PARTS: Final = ("", "-wal", "-shm")


@dataclass(frozen=True)
class Begun:
    """What the data directory goes on from."""

    message: str
    """For the log and the admins."""
    manifest: Manifest | None = None
    """The copy that was restored, if one was."""


def begin(place: Place, data_dir: Path, choice: str = "") -> Begun:
    """Bring the data directory to the newest state that is known, and record there what the next copy follows.

    `choice` (PREFLOOP_RESTORE) is a version to go back to, or 'here…' to go on with what is in the directory. Each is
    carried out once: where the newest copy or this directory was made after it, it means nothing. Raises UserError
    where no copy can be used, where here and the place each have judgements that the other lacks, or where the place
    can't be read; nothing is changed then.
    """
    clear_leftovers(data_dir)
    place.prepare()
    head, versions = place.head(), place.versions()
    found = list(islice(copies_in(place, versions), 1))
    local = existing(data_dir, choice)
    try:
        if choice and choice in choices_made([entry for _, entry in found], local):
            choice = ""
        if choice.startswith(HERE) or not found:
            return go_on(data_dir, place, head, choice)
        if choice:
            return restore(place, data_dir, [choice], head, choice, None)
        return restore(place, data_dir, versions, head, "", local)
    finally:
        if local is not None:
            local.close()


def clear_leftovers(data_dir: Path) -> None:
    """Remove what copying and restoring left behind where they were killed."""
    for prefix in (safekeeping.FOLDER, FOLDER):
        for left in data_dir.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)


def existing(data_dir: Path, choice: str) -> Database | None:
    """The database that is here, brought up to date; None if there is none.

    Raises UserError for one that can't be opened, unless another version was chosen to take its place.
    """
    try:
        return open_database(data_dir) if (data_dir / FILE_NAME).is_file() else None
    except UserError:
        if choice and not choice.startswith(HERE):
            return None
        raise


def choices_made(copies: Iterable[Manifest | Damaged], local: Database | None) -> set[str]:
    """The choices that these copies' data directory and the one here have carried out last."""
    made = {copy.choice for copy in copies if isinstance(copy, Manifest)}
    return made if local is None else {*made, str(store.setting(local, safekeeping.CHOICE, ""))}


def go_on(data_dir: Path, place: Place, head: str, choice: str) -> Begun:
    """Go on with what is here, because the place has nothing or because that was chosen."""
    db = open_database(data_dir)
    try:
        store.set_setting(db, safekeeping.CHOICE, choice)
        safekeeping.begin_from(db, place.name, head, None)
    finally:
        db.close()
    said = f"as {VARIABLE} says" if choice else f"there is no copy in {place.name} yet"
    return Begun(f"Prefloop goes on with what is in {data_dir}: {said}.")


def refuse_fork(place: Place, data_dir: Path, local: Database, version: str, manifest: Manifest) -> None:
    """Raises UserError where judgements are here that this place has never had, while it has others."""
    safe = safekeeping.last_safe(local, place.name)
    unsafe = safekeeping.judgements_after(local, safe.last_judgement_id if safe else 0)
    if unsafe:
        raise UserError(
            f"{data_dir} has {unsafe} judgements that no copy in {place.name} has, and the newest copy there "
            f"({manifest.judgements} judgements, {manifest.created[:16]} UTC) was made by another running copy of this "
            f"project. Nothing was changed. To go on with what is here, start with {VARIABLE}={HERE}; to take the "
            f"copy, start with {VARIABLE}={version}, which moves what is here aside."
        )


# ---------------------------------------------------------------------------------------------------------- restoring
def restore(
    place: Place, data_dir: Path, versions: Sequence[str], head: str, choice: str, local: Database | None
) -> Begun:
    """Restore the first of these versions that is whole, and say which are not; or go on with `local`, which has it.

    Raises UserError if none is whole, or if `local` has judgements that would be left behind.
    """
    skipped: list[str] = []
    for version, manifest in copies_in(place, versions):
        try:
            if isinstance(manifest, Damaged):
                raise manifest
            if local is not None:
                if safekeeping.knows(local, version, manifest):
                    safekeeping.begin_from(local, place.name, head, manifest)
                    said = f"{data_dir} has all that the newest valid copy in {place.name} has."
                    return Begun(" ".join([said, *skipped]))
                refuse_fork(place, data_dir, local, version, manifest)
                local.close()  # its file is about to be moved
            restore_version(place, version, manifest, data_dir, head, choice)
        except Damaged as error:
            skipped.append(str(error))
            continue
        said = f"Restored {manifest.judgements} judgements from {place.name} as of {manifest.created[:16]} UTC."
        return Begun(" ".join([said, *skipped]), manifest)
    reasons = " ".join(skipped) or f"{place.name} has no copy '{', '.join(versions)}'."
    raise UserError(
        f"No safe copy could be restored. {reasons} Nothing was changed. `python -m annotation copies list` shows what "
        f"there is; the program starts with one of them if you set {VARIABLE}=VERSION, and with what is in {data_dir} "
        f"if you set {VARIABLE}={HERE}."
    )


def restore_version(
    place: Place, version: str, manifest: Manifest, data_dir: Path, head: str, choice: str = ""
) -> None:
    """Download a copy, check all of it, and only then put it in place of what is here, which is moved aside.

    Raises Damaged for a copy that is not whole, UserError where the disk is full or a newer Prefloop made it.
    """
    with explained_disk(data_dir, manifest):
        check_space(data_dir, manifest)
    with explained_disk(data_dir, manifest), tempfile.TemporaryDirectory(prefix=FOLDER, dir=data_dir) as staging:
        stage = Path(staging)
        for path, mark in manifest.files.items():
            target = stage / path
            target.parent.mkdir(parents=True, exist_ok=True)
            place.fetch(version, path, mark, target)
            if mark_of(target) != mark:
                raise Damaged(f"The copy {version} in {place.name} is damaged: {path} is not what it was.")
        found = damage(stage / FILE_NAME) if FILE_NAME in manifest.files else "it is missing"
        if found:
            raise Damaged(f"The copy {version} in {place.name} is damaged: in {FILE_NAME}, {found}.")
        bring_up_to_date(stage, data_dir, place, head, manifest, choice or manifest.choice)
        move_aside(data_dir)
        # The database is the last: without it the next start begins anew.
        for path in sorted(manifest.files, key=lambda path: path == FILE_NAME):
            (data_dir / path).parent.mkdir(parents=True, exist_ok=True)
            with (stage / path).open("rb") as handle:
                os.fsync(handle.fileno())
            (stage / path).replace(data_dir / path)


def check_space(data_dir: Path, manifest: Manifest) -> None:
    """Raises UserError where the disk has no room for a copy."""
    data_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(data_dir).free
    if manifest.size > free:
        raise no_space(data_dir, manifest)


def no_space(data_dir: Path, manifest: Manifest) -> UserError:
    """What is said where a copy finds no room."""
    free = shutil.disk_usage(data_dir).free
    return UserError(
        f"The safe copy needs {manifest.size / 1e6:,.1f} MB in {data_dir}, and {free / 1e6:,.1f} MB are free or "
        "allowed there. Nothing was changed. Free disk space, or choose another directory with --data DIR."
    )


@contextmanager
def explained_disk(data_dir: Path, manifest: Manifest) -> Iterator[None]:
    """A disk that fills up while a copy is restored, or can't be written, as a sentence."""
    try:
        yield
    except (OSError, UserError) as error:
        cause = error.__cause__ if isinstance(error, UserError) else error
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise no_space(data_dir, manifest) from error
        if isinstance(error, OSError):
            raise UserError(
                f"{data_dir} can't be written ({error.strerror or error}). Nothing was changed. Make it writable, or "
                "choose another directory with --data DIR."
            ) from error
        raise


def bring_up_to_date(stage: Path, data_dir: Path, place: Place, head: str, manifest: Manifest, choice: str) -> None:
    """Migrate a restored database before it is used, and record in it what it is and which files did not come along."""
    db = open_database(stage)
    try:
        with db.transaction() as connection:
            for row in db.rows("SELECT id, path FROM model WHERE path IS NOT NULL AND deleted IS NULL"):
                if not (stage / row["path"]).is_dir() and not (data_dir / row["path"]).is_dir():
                    connection.execute("UPDATE model SET deleted = ? WHERE id = ?", (now(), row["id"]))
            store.set_setting(db, safekeeping.CHOICE, choice)
            safekeeping.begin_from(db, place.name, head, manifest, safekeeping.RESTORED)
    finally:
        db.close()
    for part in PARTS[1:]:
        (stage / f"{FILE_NAME}{part}").unlink(missing_ok=True)  # closing has emptied them


def move_aside(data_dir: Path) -> None:
    """Keep the database that is here under another name; restoring deletes nothing."""
    if not (data_dir / FILE_NAME).exists():
        return
    aside = data_dir / ASIDE / now().replace(":", "-")
    aside.mkdir(parents=True)
    for part in PARTS:
        with suppress(FileNotFoundError):
            (data_dir / f"{FILE_NAME}{part}").rename(aside / f"{FILE_NAME}{part}")
