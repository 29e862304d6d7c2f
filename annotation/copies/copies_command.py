"""`python -m annotation copies`: list the safe copies of a place, take one now, or restore one."""

from __future__ import annotations

import argparse
import os
import uuid
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

from annotation import hub_client
from annotation.copies import restoration, safe_copies
from annotation.copies.targets import CopyManifest, CopyTarget, DamagedCopy, copies_in, newest_whole, target_of
from annotation.database import FILE_NAME, existing_database, hold_data_directory, open_database
from annotation.records import UserError
from annotation.ui.invisible import visible

LISTED: Final = 50
Topics = Any
"""What `argparse.ArgumentParser.add_subparsers` returns."""


def add_parsers(topics: Topics, shared: argparse.ArgumentParser) -> None:
    """The three commands; `shared` brings --data."""
    copies = topics.add_parser("copies", help="safe copies of the database, models needed to go on and frozen data")
    verbs = copies.add_subparsers(dest="verb", required=True)
    placed = argparse.ArgumentParser(add_help=False, parents=[shared])
    placed.add_argument(
        "--place",
        default=os.environ.get("PREFLOOP_COPIES", ""),
        metavar="PLACE",
        help="OWNER/NAME of a private dataset on the Hub, with @BRANCH for the copies of a run that lost a conflict, "
        "or a directory's path (default: PREFLOOP_COPIES)",
    )
    verbs.add_parser("list", parents=[placed], help="the newest copies, with what they hold")
    verbs.add_parser("take", parents=[placed], help="make a copy now")
    restore = verbs.add_parser("restore", parents=[placed], help="put a copy into a data directory")
    restore.add_argument("version", nargs="?", help="as the list has it (default: the newest one that is whole)")
    restore.add_argument(
        "--aside", action="store_true", help=f"move the database that is there to {restoration.ASIDE}/ in its directory"
    )


def run(options: argparse.Namespace) -> None:
    """Do what the verb says and print what was done. Raises UserError."""
    if not options.place:
        raise UserError("Say where the copies are: --place OWNER/NAME or a directory, or set PREFLOOP_COPIES.")
    target = target_of(options.place, hub_client.connect(hub_client.token_here()))
    match options.verb:
        case "list":
            show(target)
        case "take":
            take(target, options.data)
        case "restore":
            restore(target, options.data, options.version, options.aside)


def show(target: CopyTarget) -> None:
    found = list(islice(copies_in(target, target.versions()), LISTED))
    if not found:
        print(f"There is no copy in {target.name}.")
    for version, copy in found:
        print(visible(f"{version}  {copy if isinstance(copy, DamagedCopy) else in_short(copy)}"))


def in_short(copy: CopyManifest) -> str:
    size = f"{copy.size / 1e6:,.1f} MB"
    return f"{copy.created[:19]} UTC  {copy.judgements:>7} judgements  {size:>10}  run {copy.run[:8]}"


def take(target: CopyTarget, data_dir: Path) -> None:
    db = existing_database(data_dir)
    version = safe_copies.make_copy(db, data_dir, target, uuid.uuid4().hex)
    print(f"Copied {safe_copies.judged(db)[1]} judgements to {target.name} as {version}.")


def restore(target: CopyTarget, data_dir: Path, version: str | None, aside: bool) -> None:
    """Put a copy into a data directory. Raises UserError where something is there, or the copy is damaged."""
    with hold_data_directory(data_dir), closing(restoration.exclusive_lock(data_dir)):
        restoration.clear_leftovers(data_dir)
        versions = [version] if version else target.versions()
        if (data_dir / FILE_NAME).exists() and not aside:
            refuse_to_replace(target, data_dir, versions)
        print(visible(restoration.restore(target, data_dir, versions, target.head(), version or "", None)))


def refuse_to_replace(target: CopyTarget, data_dir: Path, versions: list[str]) -> None:
    """Raises UserError: a database is there. Says how many judgements it and the copy have."""
    wanted = newest_whole(target, versions)
    with closing(open_database(data_dir)) as db:
        there = safe_copies.judged(db)[1]
    copied = "none" if wanted is None else str(wanted[1].judgements)
    older = "The copy is older. " if wanted is not None and wanted[1].judgements < there else ""
    raise UserError(
        f"{data_dir} has a database with {there} judgement{'' if there == 1 else 's'}, and the copy has {copied}. "
        f"{older}Nothing was changed. Restore it into another directory with --data DIR, or add --aside to move what "
        f"is there to {data_dir / restoration.ASIDE} first."
    )
