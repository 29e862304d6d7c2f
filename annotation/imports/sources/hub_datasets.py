"""Datasets on the Hub: streamed without a copy on the disk, at the commit that they are at now."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from annotation import hub_client
from annotation.imports.printable import display_name, first_line
from annotation.imports.sources.arrow_tables import BATCH_ROWS, arrow_rows, column_types
from annotation.imports.sources.directories import choose_split
from annotation.imports.sources.raw_rows import ImportSource, RawRow, SourceRow
from annotation.records import UserError
from annotation.translation import N_, _


def hub_dataset(repository: str, config: str | None = None, split: str | None = None) -> ImportSource:
    """A dataset on the Hub, streamed: OWNER/NAME, or OWNER/NAME@REVISION for what it was at a commit, tag or branch.

    Whichever commit that is now is the one that is read to the end, and the one that the source's name says. Raises
    UserError without a network, or where there is no such dataset.
    """
    name, _at, revision = repository.partition("@")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.+/-]+)?", repository):
        said = _(
            "'{display_name}' is no name of a dataset on the Hub. Names look like owner/name, or owner/name@revision."
        )
        raise UserError(said.format(display_name=display_name(repository)))

    if Path(name).is_dir():  # which `datasets` would read in its place
        said = _(
            "{name} is a directory here ({path}). Import it by its path or, for the dataset on the Hub, from another "
            "working directory."
        )
        raise UserError(said.format(name=name, path=Path(name).absolute()))

    def explain(error: BaseException) -> str:
        return explain_hub_error(repository, error)

    commit = commit_of(name, revision or None, explain)
    pinned = f"{name}@{commit}"
    return ImportSource(
        pinned, N_("Hub dataset"), _("rows from 1"), streamed_rows(pinned, name, config, split, explain, commit)
    )


def commit_of(name: str, revision: str | None, explain: Callable[[BaseException], str]) -> str:
    """The commit that a dataset's revision is now. Raises UserError."""
    try:
        with hub_client.explained(_("Reading the dataset {name} failed."), name=name):
            return str(hub_client.connect(hub_client.token_here()).api.dataset_info(name, revision=revision).sha)
    except UserError as error:
        cause = error.__cause__
        if cause is not None and hub_client.is_connection(cause):
            raise UserError(explain(cause)) from error
        raise


def streamed_rows(
    name: str,
    path: str,
    config: str | None,
    split: str | None,
    explain: Callable[[BaseException], str],
    revision: str | None = None,
) -> Callable[[], Iterator[RawRow]]:
    """The rows of what `datasets.load_dataset` reads, without a copy on the disk. Raises UserError."""
    import datasets

    try:
        loaded = datasets.load_dataset(path, config, revision=revision, streaming=True)
        part = loaded[choose_split(name, list(loaded), split)]
        types = None if part.features is None else column_types(part.features.arrow_schema, name)
        if types is not None:
            part = part.select_columns([*types.read, *types.pictures])
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever a library makes of somebody's card and files
        raise UserError(explain(error)) from error

    def rows() -> Iterator[RawRow]:
        number = 0
        try:
            if types is None:  # pieces may differ in their types
                for number, values in enumerate(part, 1):
                    yield SourceRow(number, values)
                return
            for table in part.with_format("arrow").iter(batch_size=BATCH_ROWS):
                yield from arrow_rows(table, types, number)
                number += table.num_rows
        except (UserError, MemoryError):
            raise
        except Exception as error:
            said = _("Reading ended after row {number:,}. {explain} Nothing was imported.")
            raise UserError(said.format(number=number, explain=explain(error))) from error

    return rows


def explain_hub_error(repository: str, error: BaseException) -> str:
    """Why a dataset can't be had, and what to do."""
    if hub_client.is_connection(error):
        return _(
            "The Hub can't be reached to read {repository}. Check the network, or download the dataset "
            "elsewhere and import its files."
        ).format(repository=repository)
    if type(error).__name__ == "DatasetNotFoundError":
        return _(
            "There is no dataset {repository} on the Hub, or it is private. Check the name and the token (HF_TOKEN)."
        ).format(repository=repository)
    return _("The dataset {repository} can't be read from the Hub ({first_line}).").format(
        repository=repository, first_line=first_line(error)
    )
