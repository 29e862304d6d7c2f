"""Exports on disk: JSON lines, Parquet, CSV and `datasets` directories, streamed, whole or not there at all."""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import IO, Any, Final, Protocol

from annotation.database import Database
from annotation.environment import remove_leftover
from annotation.exports import archive, formats
from annotation.exports.dataset_card import CardStatistics, Provenance, card
from annotation.exports.formats import FORMATS, ONE_FILE, SPLIT_NAMES, Column, ExportContext, ExportRequest, ExportRow
from annotation.metrics import quality
from annotation.records import UserError, explain_errors
from annotation.store import data_sources, judgement_store, project_store, training_data
from annotation.translation import _
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_list import matching, prepare

ROW_GROUP: Final = 1_000
REPORT_SECONDS: Final = 0.5
Report = Callable[[int, int], None]


# ------------------------------------------------------------------------------------------------------------- writers
class Writer(Protocol):
    """One file that rows go into; `close` has it on the disk."""

    def write(self, row: ExportRow) -> None:
        """Add a row."""

    def close(self) -> None:
        """Write what is left and make it last."""


class JsonLines:
    """A JSON object a line, in UTF-8."""

    def __init__(self, path: Path, columns: Mapping[str, Column]) -> None:
        self.file = path.open("w", encoding="utf-8", newline="\n")
        self.columns = list(columns)

    def write(self, row: ExportRow) -> None:
        self.file.write(json.dumps({name: row[name] for name in self.columns}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        finish(self.file)


class Csv:
    """Comma-separated, with a byte order mark (without it Excel takes UTF-8 for something else) and harmless cells."""

    def __init__(self, path: Path, columns: Mapping[str, Column]) -> None:
        self.file = path.open("w", encoding="utf-8-sig", newline="")
        self.columns = list(columns)
        self.writer = csv.writer(self.file)
        self.writer.writerow(self.columns)

    def write(self, row: ExportRow) -> None:
        """Add a row; what it has no value for is empty."""
        self.writer.writerow([cell(row.get(name)) for name in self.columns])

    def close(self) -> None:
        finish(self.file)


def cell(value: Any) -> str:
    """A value as a cell that no spreadsheet runs."""
    return formats.escape_cell(value) if isinstance(value, str) else "" if value is None else str(value)


class Parquet:
    """Parquet in row groups, so that no more than one is held in memory."""

    def __init__(self, path: Path, columns: Mapping[str, Column]) -> None:
        import pyarrow
        import pyarrow.parquet

        messages = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
        types = {
            "text": pyarrow.string(),
            "number": pyarrow.float64(),
            "whole": pyarrow.int64(),
            "truth": pyarrow.bool_(),
            "texts": pyarrow.list_(pyarrow.string()),
            "numbers": pyarrow.list_(pyarrow.float64()),
            "messages": messages,
        }
        self.schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
        self.file = path.open("wb")
        self.writer = pyarrow.parquet.ParquetWriter(self.file, self.schema)
        self.table = pyarrow.Table
        self.rows: list[ExportRow] = []

    def write(self, row: ExportRow) -> None:
        self.rows.append(row)
        if len(self.rows) == ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.writer.write_table(self.table.from_pylist(self.rows, schema=self.schema))
            self.rows = []

    def close(self) -> None:
        self.flush()
        self.writer.close()
        finish(self.file)


def finish(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


@dataclass(frozen=True)
class ContainerLayout:
    """Where a container keeps its splits."""

    writer: Callable[[Path, Mapping[str, Column]], Writer]
    path: str


CONTAINER_LAYOUTS: Final[Mapping[str, ContainerLayout]] = {
    "jsonl": ContainerLayout(JsonLines, "{split}.jsonl"),
    "parquet": ContainerLayout(Parquet, "{split}.parquet"),
    "dataset": ContainerLayout(Parquet, "data/{split}-00000-of-00001.parquet"),
}


class SplitWriters(ExitStack):
    """The files of an export, each opened when its first row comes: an empty split has no file."""

    def __init__(self, directory: Path, request: ExportRequest) -> None:
        super().__init__()
        self.directory, self.layout = directory, CONTAINER_LAYOUTS[request.container]
        self.columns = FORMATS[request.format].columns
        self.files: dict[str, str] = {}
        self.writers: dict[str, Writer] = {}

    def write(self, split: str, row: ExportRow) -> None:
        if split not in self.writers:
            self.files[split] = self.layout.path.format(split=split)
            path = self.directory / self.files[split]
            path.parent.mkdir(exist_ok=True)
            self.writers[split] = self.layout.writer(path, self.columns)
            self.callback(self.writers[split].close)
        self.writers[split].write(row)


# Where in the data directory those of the page lie.
DIRECTORY: Final = "exports"


def leftovers(data_dir: Path) -> Iterator[Path]:
    """What lies there hidden: exports that are being written, or were when they were killed."""
    return (data_dir / DIRECTORY).glob(".*")


# ------------------------------------------------------------------------------------------------------------ exporting
def export(
    db: Database, request: ExportRequest, target: Path, report: Report = lambda done, total: None
) -> CardStatistics:
    """Write an export to `target`, which must not be there yet; returns what is in it and what was left out.

    The target of the raw archive and of CSV is a file; that of other formats is a directory, or a zip of it if its
    name ends in '.zip'. Raises UserError if it can't be written, or if nothing would be in it; then nothing is there.
    """
    prepare(db, ComparisonFilter.of(request.filters.comparisons))
    with db.reading():
        known = what_is_known(db, request)
        formats.check_request(request, known)
        if request.format == "raw":
            figures = CardStatistics()
            with whole(target) as path:
                figures.rows.update(archive.write(db, path, report))
            return figures
        if request.format in ONE_FILE:
            with whole(target) as path:
                return write_csv(db, request, known, path, report)
        if target.suffix == ".zip":
            with whole(target) as path, tempfile.TemporaryDirectory(dir=target.parent, prefix=path.name) as directory:
                figures = write_directory(db, request, known, Path(directory), report)
                pack(Path(directory), path)
                return figures
        with whole(target, directory=True) as path:
            return write_directory(db, request, known, path, report)


def count(db: Database, request: ExportRequest, report: Report = lambda done, total: None) -> CardStatistics:
    """What an export would hold and leave out, without writing it. Raises UserError for what can't be had."""
    prepare(db, ComparisonFilter.of(request.filters.comparisons))
    with db.reading():
        known = what_is_known(db, request)
        formats.check_request(request, known)
        figures = CardStatistics()
        if request.format == "raw":
            figures.rows.update(archive.count(db))
            return figures
        for _ in rows(db, request, known, figures, report):
            pass
    return figures


def what_is_known(db: Database, request: ExportRequest) -> ExportContext:
    annotators = data_sources.annotators(db)
    names = {one.name: one.name for one in annotators} if request.names else formats.pseudonyms(annotators)
    estimated = {} if request.format == "raw" else quality.reliabilities(db)
    reliability = {name: measured.estimate for name, measured in estimated.items()}
    return ExportContext(
        formats.iterations_of(data_sources.models(db)),
        names,
        frozenset(judgement_store.excluded_annotators(db)),
        reliability,
    )


def rows(
    db: Database, request: ExportRequest, known: ExportContext, figures: CardStatistics, report: Report
) -> Iterator[tuple[str, ExportRow]]:
    """Every row with its split, counted in `figures`, comparison for comparison."""
    total, done, said = judgement_store.judged_count(db), 0, 0.0
    wanted = ComparisonFilter.of(request.filters.comparisons)
    only = matching(db, wanted) if wanted.text else None
    for group in judgement_store.judged_comparisons(db):
        if only is not None and group[0].comparison_id not in only:
            continue
        aggregated = formats.aggregate(group, request.filters, known)
        made = formats.export_rows(aggregated, request, known)
        split = SPLIT_NAMES[group[0].split]
        figures.see(split, aggregated, made)
        yield from ((split, row) for row in made.rows)
        done += len(group)
        if time.monotonic() - said > REPORT_SECONDS:
            said = time.monotonic()
            report(done, total)
    if request.format == "sft" and only is None:  # the others belong to no comparison
        yield from demonstrations(db, request, known, figures)
    report(total, total)


def demonstrations(
    db: Database, request: ExportRequest, known: ExportContext, figures: CardStatistics
) -> Iterator[tuple[str, ExportRow]]:
    """The demonstrations that were written or imported without a comparison, as rows to imitate."""
    for shown in training_data.demonstrations(db):
        split, made = SPLIT_NAMES[shown.split], formats.demonstration(shown, request.filters, known)
        if isinstance(made, str):
            figures.left_out[made] += 1
        else:
            figures.see_demonstration(shown, split)
            yield split, made


def write_directory(
    db: Database, request: ExportRequest, known: ExportContext, directory: Path, report: Report
) -> CardStatistics:
    figures = CardStatistics()
    with SplitWriters(directory, request) as splits:
        for split, row in rows(db, request, known, figures, report):
            splits.write(split, row)
    refuse_nothing(figures)
    files = {split: splits.files[split] for split in sorted(splits.files, reverse=True)}
    provenance = Provenance(
        project=project_store.project(db),
        models=data_sources.models(db),
        samplings=data_sources.samplings(db),
        guidelines=project_store.guidelines_versions(db),
        imports=data_sources.imports(db),
        names=known.names,
    )
    text = card(request, figures, provenance, files)
    with (directory / "README.md").open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        finish(file)
    return figures


def write_csv(db: Database, request: ExportRequest, known: ExportContext, path: Path, report: Report) -> CardStatistics:
    """One flat file. Columns for answers that no comparison has are left away."""
    size = max(judgement_store.largest_comparison(db), 2)
    columns = {
        name: kind
        for name, kind in FORMATS[request.format].columns.items()
        if not name.startswith("answer_") or int(name.removeprefix("answer_")) <= size
    }
    figures = CardStatistics()
    with closing(Csv(path, columns)) as writer:
        for _split, row in rows(db, request, known, figures, report):
            writer.write(row)
    refuse_nothing(figures)
    return figures


def refuse_nothing(figures: CardStatistics) -> None:
    """Raises UserError for an export without a row."""
    if not figures.total:
        if not figures.left_out:
            raise UserError(_("Nothing fits this format and these filters. Nothing was written."))
        said = _("Nothing is left to export ({reasons}). Nothing was written.")
        raise UserError(said.format(reasons=formats.reasons_of(figures.left_out)))


# -------------------------------------------------------------------------------------------------- whole or not at all
@contextmanager
def whole(target: Path, directory: bool = False) -> Iterator[Path]:
    """A path to write to, or a directory to fill, in a hidden place beside its own; it gets its name when it is whole.

    Raises UserError where something would be overwritten, and where the disk refuses.
    """
    refused = _("{target} can't be written ({strerror}). Free disk space or mend the rights, then repeat.")
    with explain_errors(refused, target=target):
        if target.exists():
            raise UserError(_("{target} is there already. Choose another name, or move it away.").format(target=target))
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = f".{target.name[:40]}."
        remove_leftover(target.parent.glob(f"{escape(hidden)}{'[0-9a-f]' * 12}*"))  # of an export that was killed
        temporary = target.with_name(f"{hidden}{secrets.token_hex(6)}")
        try:
            if directory:
                temporary.mkdir()
            yield temporary
            temporary.rename(target)
        finally:
            if directory:
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def pack(directory: Path, target: Path) -> None:
    """A directory as one zip file. What is compressed already is stored as it is."""
    with target.open("wb") as file:
        with zipfile.ZipFile(file, "w") as packed:
            for path in sorted(entry for entry in directory.rglob("*") if entry.is_file()):
                how = zipfile.ZIP_STORED if path.suffix == ".parquet" else zipfile.ZIP_DEFLATED
                packed.write(path, path.relative_to(directory), how)
        finish(file)
