"""Where safe copies lie: a private dataset on the Hub, or a directory such as a mounted bucket. Nothing is overwritten.

A copy is a manifest and the files that it names with their sha256. Each copy says which one it follows; one that
follows another than the newest is refused, so that two running copies of this program can't hide each other's work.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal, Protocol

from annotation import hub_client as hubs
from annotation.database import FILE_NAME
from annotation.hub_client import LONGEST_ANSWER, Conflict, Hub
from annotation.records import UserError, explain_errors
from annotation.translation import _
from annotation.validation import FromMapping, read, shown

MANIFEST: Final = "manifest.json"
FORMAT: Final = "prefloop copy"
# A directory keeps so many copies of each run, and the newest one of runs that have ended.
KEPT: Final = 20
# A file that no copy names (yet) may be on its way from another running copy.
YOUNG_SECONDS: Final = 3600.0
PIECE: Final = 2**20
# What a copy has beside its database.
FOLDERS: Final = ("adapters", "snapshots")
# How a file system says that it has no hard links.
NO_LINKS: Final = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)
ABOUT: Final = """---
license: other
pretty_name: Safe copies of a Prefloop project
---

Safe copies of a Prefloop project: its database, the models that are needed to go on, and what trainings were frozen
with. They hold accounts with their password hashes, so this repository must stay private. Each commit is a whole copy;
Prefloop restores the newest valid one when it starts. Please change nothing here by hand.
"""


class DamagedCopy(UserError):
    """A copy that can't be used: a file is missing or not what its manifest says."""


@dataclass(frozen=True)
class FileDigest:
    sha256: str
    size: int


@dataclass(frozen=True)
class CopyManifest:
    run: str
    """Which running program made it."""
    number: int
    """Its how-manieth it was."""
    created: str
    last_judgement_id: int
    judgements: int
    choice: str
    """The last PREFLOOP_RESTORE that its data directory has carried out."""
    files: dict[str, Annotated[FileDigest, FromMapping()]]
    """By path within the data directory."""

    def to_bytes(self) -> bytes:
        return json.dumps({"format": FORMAT, "version": 1, **asdict(self)}, indent=1, sort_keys=True).encode()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(mark.size for mark in self.files.values())


def read_manifest(content: bytes, what: str) -> CopyManifest:
    """A stored manifest. Raises DamagedCopy for what is none, UserError for one of a newer Prefloop."""
    try:
        told = json.loads(content)
        if told.pop("format") != FORMAT:
            raise ValueError("another format")
        version = told.pop("version")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = _("{what} is damaged: its manifest can't be read ({error}).")
        raise DamagedCopy(said.format(what=what, error=error)) from error
    if version != 1:
        said = _("{what} was made by a newer Prefloop. Update Prefloop; nothing was changed.")
        raise UserError(said.format(what=what))
    try:
        manifest = read(CopyManifest, told, _("The manifest"))
    except UserError as error:
        raise DamagedCopy(_("{what} is damaged. {error}").format(what=what, error=error)) from error
    for path, mark in manifest.files.items():
        if not (path == FILE_NAME or is_place(path)) or not re.fullmatch("[0-9a-f]{64}", mark.sha256):
            raise DamagedCopy(_("{what} is damaged: its manifest names {path}.").format(what=what, path=shown(path)))
    return manifest


def is_place(path: object) -> bool:
    """Whether it can be where a data directory has what a copy has beside its database: models and frozen data."""
    if not isinstance(path, str) or not path.isprintable():  # bytes, a null byte, half of a pair
        return False
    parts = PurePosixPath(path).parts
    return "/".join(parts) == path and len(parts) > 1 and parts[0] in FOLDERS and ".." not in parts


def digest_of(path: Path) -> FileDigest:
    with path.open("rb") as handle:
        return FileDigest(file_digest(handle, "sha256").hexdigest(), path.stat().st_size)


class CopyTarget(Protocol):
    """Where copies are put. All methods raise UserError when the place can't be reached or refuses."""

    @property
    def name(self) -> str:
        """How people write it."""

    def prepare(self) -> None:
        """Make it where it is not there. Raises UserError where others could see it."""

    def head(self) -> str:
        """The version that the next copy follows; empty where there is nothing yet."""

    def versions(self) -> list[str]:
        """All versions, the newest first; not each of them has to be a copy."""

    def manifest(self, version: str) -> CopyManifest | None:
        """What a version says of itself; None where it is no copy. Raises DamagedCopy."""

    def fetch(self, version: str, path: str, mark: FileDigest, target: Path) -> None:
        """Download a copy's file to `target`, unchecked. Raises DamagedCopy if it is gone."""

    def put(self, manifest: CopyManifest, files: Mapping[str, Path], parent: str, ours: bool = False) -> str:
        """Add a copy and return its version. Raises Conflict if the newest version is not `parent` (any more).

        Where that is one of `ours`, nobody has taken out what it names.
        """

    def aside(self, run: str) -> CopyTarget:
        """A place beside this one, for the copies of a run that lost a conflict."""


def target_of(text: str, hub: Hub) -> CopyTarget:
    """The place that people mean by OWNER/NAME, OWNER/NAME@BRANCH, or a directory's path. Raises UserError."""
    if text.startswith(("/", ".", "~")):
        return DirectoryTarget(Path(text).expanduser().absolute())
    repo, _, branch = text.partition("@")
    hubs.check_name(repo)
    return HubTarget(hub, repo, branch or "main")


def target_name(text: str) -> str:
    """The name of the place that people mean, without asking anybody; empty for none."""
    if text.startswith(("/", ".", "~")):
        return str(Path(text).expanduser().absolute())
    return text.removesuffix("@main")


def refuse_shared_fate(target: CopyTarget, data_dir: Path, on_space: bool) -> None:
    """Raises UserError for a directory that is lost with the data directory: within it, or on a Space's own disk."""
    if not isinstance(target, DirectoryTarget):
        return
    where, data = target.path.resolve(), data_dir.resolve()
    if where.is_relative_to(data):
        said = _(
            "The directory for safe copies {where} is inside the data directory {data} and would be lost with it. "
            "Set PREFLOOP_COPIES to a directory on another disk, or to a private dataset (OWNER/NAME-copies)."
        )
        raise UserError(said.format(where=where, data=data))
    if on_space and device_of(where) == device_of(data):
        said = _(
            "The directory for safe copies {where} is on the same disk as the data directory {data}, and a "
            "Space's disk is empty after each restart. Attach a bucket there in the Space's settings, or "
            "set PREFLOOP_COPIES to a private dataset (OWNER/NAME-copies)."
        )
        raise UserError(said.format(where=where, data=data))


def device_of(path: Path) -> int:
    """The disk that a path is on, or would be."""
    with explained_directory(path):
        return next(one for one in (path, *path.parents) if one.exists()).stat().st_dev


def aside_name(place: str, run: str) -> str:
    """The name of the place beside another for a run's copies."""
    return f"{place}/copy-{run}" if place.startswith("/") else f"{place.partition('@')[0]}@copy-{run}"


# ----------------------------------------------------------------------------------------------------------- directory
@dataclass(frozen=True)
class DirectoryTarget:
    """A directory: `copies/000007.json` are the manifests, `files/` has the files by their sha256.

    A manifest is created under the number after its parent's, which only one can do; on a mounted bucket, where that
    may not be guaranteed, two that create the same one at the same moment are noticed by the one that comes later.
    """

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def copies(self) -> Path:
        return self.path / "copies"

    @property
    def contents(self) -> Path:
        """Where the files are."""
        return self.path / "files"

    def prepare(self) -> None:
        """For this user only."""
        with explained_directory(self.path):
            for directory in (self.path, self.copies, self.contents):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def head(self) -> str:
        """The number of the newest manifest."""
        return next(iter(self.versions()), "")

    def versions(self) -> list[str]:
        with explained_directory(self.path):
            found = [path.stem for path in self.copies.glob("*.json")] if self.copies.is_dir() else []
        return sorted((name for name in found if name.isdigit()), key=int, reverse=True)

    def manifest(self, version: str) -> CopyManifest | None:
        with explained_directory(self.path):
            try:
                content = (self.copies / f"{version}.json").read_bytes()
            except FileNotFoundError:
                return None
        return read_manifest(content, _("The copy {version} in {path}").format(version=version, path=self.path))

    def fetch(self, version: str, path: str, mark: FileDigest, target: Path) -> None:
        source = self.contents / mark.sha256
        if not source.is_file():
            said = _("The copy {version} in {path} is damaged: {missing} is missing.")
            raise DamagedCopy(said.format(version=version, path=self.path, missing=path))
        with explained_directory(self.path):
            shutil.copyfile(source, target)

    def put(self, manifest: CopyManifest, files: Mapping[str, Path], parent: str, ours: bool = False) -> str:
        if self.head() != parent:
            raise conflict(self.path)
        version = f"{int(parent or 0) + 1:06d}"
        with explained_directory(self.path):
            self.prepare()
            for path, source in files.items():
                add_file(source, self.contents / manifest.files[path].sha256)
            try:
                create_whole(self.copies / f"{version}.json", manifest.to_bytes())
            except FileExistsError:
                raise conflict(self.path) from None
            if self.manifest(version) != manifest:
                raise conflict(self.path)
            self.remove_old()
        return version

    def aside(self, run: str) -> CopyTarget:
        return DirectoryTarget(Path(aside_name(self.name, run)))

    def remove_old(self) -> None:
        """Take out copies that many newer ones of the same run follow, and files that no copy names."""
        runs: list[str] = []
        named: set[str] = set()
        for version, manifest in copies_in(self, self.versions()):
            if isinstance(manifest, DamagedCopy):  # it stays for whoever wants to look into it
                continue
            runs.append(manifest.run)
            if runs.count(manifest.run) > (KEPT if manifest.run == runs[0] else 1):
                (self.copies / f"{version}.json").unlink(missing_ok=True)
            else:
                named.update(mark.sha256 for mark in manifest.files.values())
        for file in [*self.contents.iterdir(), *self.copies.glob("*.part")]:
            if file.name not in named and time.time() - file.stat().st_mtime > YOUNG_SECONDS:
                file.unlink(missing_ok=True)


def add_file(source: Path, target: Path) -> None:
    """Copy a file to a name that says what is in it; one that is there already is only touched."""
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        os.utime(target)
        return
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with source.open("rb") as reading, temporary.open("wb") as writing:
            shutil.copyfileobj(reading, writing, PIECE)
            writing.flush()
            os.fsync(writing.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def create_whole(target: Path, content: bytes) -> None:
    """Create a file that is there with all its content or not at all. Raises FileExistsError."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        write_through(temporary, "wb", content)
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            write_through(target, "xb", content)  # a mounted bucket, which creates a file when it is closed
    finally:
        temporary.unlink(missing_ok=True)


def write_through(path: Path, mode: Literal["wb", "xb"], content: bytes) -> None:
    with path.open(mode) as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def explained_directory(path: Path) -> AbstractContextManager[None]:
    """A directory that can't be read or written, as a sentence."""
    refused = _(
        "The directory for safe copies {path} can't be used ({strerror}). Make it writable, free disk "
        "space there, or name another place."
    )
    return explain_errors(refused, path=path)


def conflict(where: object) -> Conflict:
    """What is said where somebody else was quicker."""
    return Conflict(_("There is a newer copy in {where} than the one that this program builds on.").format(where=where))


# ----------------------------------------------------------------------------------------------------------------- hub
@dataclass(frozen=True)
class HubTarget:
    """A private dataset: each commit of a branch is a copy, with the files under their paths in the data directory."""

    hub: Hub
    repo: str
    branch: str = "main"

    @property
    def name(self) -> str:
        """OWNER/NAME, with the branch where it is not the main one."""
        return self.repo if self.branch == "main" else f"{self.repo}@{self.branch}"

    def prepare(self) -> None:
        """Create the repository; a branch beside the main one begins where that is."""
        hubs.ensure_repo(self.hub, self.repo, "dataset", private=True)
        if self.branch != "main":
            with hubs.explained(_("Making the branch {name} failed."), name=self.name):
                self.hub.api.create_branch(self.repo, branch=self.branch, repo_type="dataset", exist_ok=True)

    def head(self) -> str:
        with hubs.explained(_("Reading {name} failed."), name=self.name):
            return str(self.hub.api.repo_info(self.repo, repo_type="dataset", revision=self.branch).sha)

    def versions(self) -> list[str]:
        with hubs.explained(_("Reading {name} failed."), name=self.name):
            listed = self.hub.api.list_repo_commits(self.repo, repo_type="dataset", revision=self.branch)
        return [entry.commit_id for entry in listed]

    def manifest(self, version: str) -> CopyManifest | None:
        try:
            failed = hubs.explained(_("Reading {name} failed."), name=self.name)
            with failed, hubs.at_most(LONGEST_ANSWER):
                found = self.hub.api.hf_hub_download(self.repo, MANIFEST, repo_type="dataset", revision=version)
        except UserError as error:
            if hubs.is_missing_file(error):
                return None
            raise
        return read_manifest(
            Path(found).read_bytes(), _("The copy {version} in {name}").format(version=version, name=self.name)
        )

    def fetch(self, version: str, path: str, mark: FileDigest, target: Path) -> None:
        beside = target.with_name(f"{target.name}.download")
        try:
            with hubs.explained(_("Restoring {name} failed."), name=self.name), hubs.at_most(mark.size):
                found = self.hub.api.hf_hub_download(
                    self.repo, path, repo_type="dataset", revision=version, local_dir=beside
                )
                Path(found).replace(target)
        except UserError as error:
            if hubs.is_missing_file(error):
                said = _("The copy {version} in {name} is damaged: {path} is missing.")
                raise DamagedCopy(said.format(version=version, name=self.name, path=path)) from error
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def put(self, manifest: CopyManifest, files: Mapping[str, Path], parent: str, ours: bool = False) -> str:
        """One commit of what has changed. Its manifest differs from any other: a commit that changes nothing would not
        be checked."""
        there = self.named_in(parent) if ours else {}
        changed = {path: file for path, file in files.items() if there.get(path) != manifest.files[path]}
        told: dict[str, Path | bytes] = {MANIFEST: manifest.to_bytes(), "README.md": ABOUT.encode(), **changed}
        said = f"Safe copy {manifest.number} of run {manifest.run[:8]}, {manifest.judgements} judgements"
        return hubs.commit(self.hub, self.repo, "dataset", told, said, parent or None, branch=self.branch)

    def named_in(self, version: str) -> Mapping[str, FileDigest]:
        """The files that a version names; none where it can't be read, as after its history was squashed."""
        try:
            found = self.manifest(version)
        except UserError:
            return {}
        return {} if found is None else found.files

    def aside(self, run: str) -> CopyTarget:
        return HubTarget(self.hub, self.repo, f"copy-{run}")


def newest_whole(target: CopyTarget, versions: Iterable[str]) -> tuple[str, CopyManifest] | None:
    """The first of these versions whose manifest can be read; None where none can."""
    return next(((name, copy) for name, copy in copies_in(target, versions) if isinstance(copy, CopyManifest)), None)


def copies_in(target: CopyTarget, versions: Iterable[str]) -> Iterator[tuple[str, CopyManifest | DamagedCopy]]:
    """What these versions say of themselves, without those that are no copies."""
    for version in versions:
        try:
            manifest = target.manifest(version)
        except DamagedCopy as error:
            yield version, error
            continue
        if manifest is not None:
            yield version, manifest
