"""Files under the data directory: written under a temporary name, fsynced, renamed, and named by their sha256."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from glob import escape
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

from annotation.environment import remove_leftover
from annotation.records import UserError, explain_errors
from annotation.translation import _

# How the name of a directory begins into which files are fetched from the Hub.
FETCHED: Final = ".fetched-"
# How the name of a directory ends that gives way to another.
BEFORE: Final = ".before.part"
# Where files are half written for a while.
HALF_WRITTEN_IN: Final = ("adapters", "models", "snapshots", "references", "self-tests")


def write_lines(directory: Path, lines: Iterable[bytes], ending: str) -> str:
    """Write lines to a file of this directory that is named by their sha256, whole or not at all; returns the name.

    Raises UserError when the disk refuses.
    """
    digest = sha256()
    temporary = directory / f".{secrets.token_hex(8)}.part"
    with explain_write_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as handle:
                for line in lines:
                    digest.update(line)
                    handle.write(line)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.rename(directory / f"{digest.hexdigest()}{ending}")
        finally:
            temporary.unlink(missing_ok=True)
    return digest.hexdigest()


def write_small(path: Path, text: str) -> None:
    """Write a file that is kept to spare work, whole or not at all, though other jobs may write it at the same moment.

    Raises UserError when the disk refuses.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, "utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def clear_half_written(data_dir: Path) -> None:
    """Remove what processes have left that were killed while they wrote it, or fetched it."""
    for name in HALF_WRITTEN_IN:
        put_back(data_dir / name)
        found = (data_dir / name).glob("*")
        remove_leftover(path for path in found if path.name.endswith(".part") or path.name.startswith(FETCHED))


def put_back(directory: Path) -> None:
    """Give directories their name again that were to give way to another, which a kill kept from taking it."""
    for before in directory.glob(f"*{BEFORE}"):
        path = before.with_name(before.name.removesuffix(BEFORE))
        if not path.exists():
            before.rename(path)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def bytes_within(directory: Path) -> int:
    """The size of all files in a directory; 0 where there is none, or while it goes."""
    try:
        return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    except FileNotFoundError:
        return 0


@contextmanager
def new_directory(path: Path, named: AbstractContextManager[object] | None = None) -> Iterator[Path]:
    """Fill the directory that is handed out; it gets its name when everything in it is on disk, and else goes.

    It gets it within `named`, which may refuse, and loses it where that fails. Of several who write the same one the
    last to begin does: what a killed program has left running, or a worker that was asleep, may be at it still.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    before = path.with_name(path.name + BEFORE)
    has_name = False
    try:
        with explain_write_errors(path):
            for left in path.parent.glob(f"{escape(path.name)}.{'[0-9a-f]' * 16}.part"):
                shutil.rmtree(left, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            with named or nullcontext():
                temporary.stat()  # or what is there would give way to nothing
                shutil.rmtree(before, ignore_errors=True)
                with suppress(FileNotFoundError):
                    path.rename(before)  # removing it takes a while, in which neither would be there
                temporary.rename(path)
                has_name = True
            has_name = False  # for good, that is
            shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if has_name:  # but no row
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):  # the next start puts back what is there
                before.rename(path)
        raise


def explain_write_errors(path: Path) -> AbstractContextManager[None]:
    """A full or read-only disk becomes a sentence; what was there before stays."""
    sentence = _("{path} can't be written ({strerror}). Free disk space or mend the rights, then repeat.")
    return explain_errors(sentence, path=path)


def directory_sha256(path: Path) -> str:
    """One hash over the names and contents of a directory's files, in name order."""
    digest = sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(file_sha256(file)))
    return digest.hexdigest()


def verify_directory(path: Path, expected: str, what: str) -> None:
    """Raises UserError if the directory is gone, or goes meanwhile, or its content is not what was recorded."""
    try:
        found = directory_sha256(path) if path.is_dir() else None
    except FileNotFoundError:
        found = None
    if found is None:
        said = _("The files of {what} are gone from {path}. Restore them, or go back to another policy.")
        raise UserError(said.format(what=what, path=path))
    if found != expected:
        said = _(
            "The files of {what} in {path} are damaged (their sha256 differs from the record). Restore "
            "them from a copy, or go back to another policy; nothing else is lost."
        )
        raise UserError(said.format(what=what, path=path))


def checkpoints_directory(data_dir: Path, job_id: int) -> Path:
    """Where a run's checkpoints lie until what it makes is stored."""
    return data_dir / "checkpoints" / f"job-{job_id}"
