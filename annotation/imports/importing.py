"""An import from beginning to end: look at it, check it without writing, or bring it in as a whole or not at all."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from annotation.database import Database, explain_disk_errors
from annotation.imports.commit import ImportCommit, clear_unfinished
from annotation.imports.mapping import mapped_rows, planning, row_readers, unclear_columns
from annotation.imports.mapping.columns import (
    ROLES,
    ColumnUsage,
    columns_of,
    columns_within,
    filled_columns,
    propose,
    with_paths,
)
from annotation.imports.mapping.import_plan import ImportPlan, Target, VerdictUse
from annotation.imports.mapping.labels import Columns, UnusableRow
from annotation.imports.mapping.mapped_rows import MappedRow, RowReader
from annotation.imports.printable import listed
from annotation.imports.sources.raw_rows import BadRow, ImportSource, RawRow, SourceRow, refuse_columns
from annotation.imports.staging import Counts, Skipped, Staging
from annotation.records import Prompt, Split, UserError, explain_errors
from annotation.translation import _, joined, ngettext, numeral

STARTER_FILE = Path(__file__).parent.parent / "starter_prompts.jsonl"
LOOKED_AT = 100
KEPT_SKIPPED = 1_000
REPORT_SECONDS = 0.25
SCRATCH = "import-"
# Of the prompts of an import, so many are held out unless somebody says otherwise: without any, nothing can be checked.
HELD_OUT_SHARE = 0.1

# Called now and then with what is being done, the rows read so far, and the share of the whole where it is known.
Progress = Callable[[str, int, float | None], None]


def starter_prompts() -> list[Prompt]:
    with STARTER_FILE.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [Prompt(({"role": "user", "content": row["prompt"]},), row["split"], "starter") for row in rows]


# ------------------------------------------------------------------------------------------------------ before writing
@dataclass(frozen=True)
class ImportRequest:
    target: Target | Literal["auto"] = "auto"
    """What is made of the rows; 'auto' goes by the columns."""
    columns: Columns = field(default_factory=dict)
    """Columns by role where the proposed ones are not right; '' leaves a role out."""
    verdict: VerdictUse = "judged"
    """What becomes of verdicts: judgements, the answers of gold comparisons, or nothing: people are to judge."""
    split: Split | float = HELD_OUT_SHARE
    """The split of new prompts, or the share of them that is held out."""
    first: int = 1
    last: int | None = None
    good_from: float | None = None
    """The rating from which on an answer is good."""

    def check(self) -> None:
        """Raises UserError for what can't be meant."""
        if not isinstance(self.split, str) and not 0 <= self.split <= 1:
            said = _("The share of held-out prompts is a number from 0 to 1, not {split}.")
            raise UserError(said.format(split=self.split))
        if self.good_from is not None and not math.isfinite(self.good_from):
            raise UserError(_("An answer is good from a number on, not from {number}.").format(number=self.good_from))
        if self.first < 1 or (self.last is not None and self.last < self.first):
            raise UserError(
                _("A range of rows goes from a first row to a last one that is not before it, as 1-100000.")
            )


@dataclass(frozen=True)
class ImportPreview:
    """The beginning of a source: what its columns are taken for, and what its first rows say."""

    name: str
    format: str
    counted: str
    columns: tuple[str, ...]
    offered: tuple[str, ...]
    """The columns, and the paths to what lies within those that hold objects."""
    proposed: Columns
    target: Target | None
    problem: str
    """Why nothing can be imported without choosing columns; empty where something can."""
    asked: tuple[str, ...]
    """The roles by which that can be mended."""
    rows: tuple[SourceRow, ...]
    records: tuple[MappedRow | str, ...]
    """What becomes of the rows, or the reason why nothing does."""
    bad: tuple[BadRow, ...]
    usable: bool
    """Whether something can be made of any of the first rows."""
    notes: tuple[str, ...]
    """What of the source is not used."""


def proposed_for(rows: Sequence[SourceRow], columns: Collection[str], order: ImportRequest) -> dict[str, str]:
    """The column of each role, as said or as likely, where the file has it or what a path leads to."""
    said = {role: column for role, column in order.columns.items() if role in ROLES}
    read_into = [with_paths(row.values, filter(None, said.values())) for row in rows]
    named = propose([SourceRow(row.number, values) for row, values in zip(rows, read_into, strict=True)], said)
    return {
        role: column
        for role, column in named.items()
        if column in columns or any(values.get(column) is not None for values in read_into)
    }


def preview(source: ImportSource, order: ImportRequest, shown: int = 5) -> ImportPreview:
    """Read the beginning only. Raises UserError where there is nothing to read."""
    order.check()
    rows, bad = beginning(source)
    columns = tuple(columns_of(rows))
    proposed = proposed_for(rows, columns, order)
    target: Target | None = None
    problem, asked = "", tuple[str, ...]()
    records: list[MappedRow | str] = []
    notes: tuple[str, ...] = ()
    try:
        plan = planning.make_plan(rows, order.target, order.columns, order.verdict, order.good_from)
        proposed, target = dict(plan.columns), plan.target
        read = row_readers.reader_of(plan)
        records = [read_or_reason(read, row) for row in rows]
        notes = tuple(notes_on(source, plan, rows))
    except UserError as error:
        problem, asked = str(error), planning.roles_asked(error)
    for role in unclear_columns.unsaid(proposed, rows, order.columns):
        del proposed[role]
    return ImportPreview(
        name=source.name,
        format=source.format,
        counted=source.counted,
        columns=columns,
        offered=tuple(dict.fromkeys((*columns, *columns_within(rows)))),
        proposed=proposed,
        target=target,
        problem=problem,
        asked=asked,
        rows=tuple(rows[:shown]),
        records=tuple(records[:shown]),
        bad=tuple(bad[:shown]),
        usable=any(isinstance(record, MappedRow) for record in records),
        notes=notes,
    )


def notes_on(
    source: ImportSource, plan: ImportPlan, rows: Iterable[SourceRow], met: ColumnUsage | None = None
) -> Iterator[str]:
    """What of a source is not used, in sentences: columns by what was met of them, and files of a directory."""
    met = met or ColumnUsage()
    for row in rows:
        met.see(row.values)
    telling, others = met.unused(plan.used)
    if telling:
        yield _("Not used, though it may change what the rows mean: {columns}.").format(columns=listed(telling))
    if others:
        yield _("Not used: {columns}.").format(columns=listed(others))
    if source.unread:
        yield _("Files that are not read: {files}.").format(files=listed(source.unread))


def beginning(source: ImportSource) -> tuple[list[SourceRow], list[BadRow]]:
    """The good and the bad ones of the first rows. Raises UserError if there are none, or only bad ones."""
    raw = list(islice(source.rows(), LOOKED_AT))
    rows, bad = [row for row in raw if isinstance(row, SourceRow)], [row for row in raw if isinstance(row, BadRow)]
    if not raw:
        raise UserError(_("{name} holds no rows. Nothing was imported.").format(name=source.name))
    if not rows:
        none = ngettext(
            "The first row of {name} can't be read as {format}, and there is no other. Row {number}: {reason}.",
            "None of the first {count} rows of {name} can be read as {format}. Row {number}: {reason}.",
            len(bad),
        )
        reason = bad[0].reason  # which is cut only where it has to be: then it is told in no other language
        raise UserError(
            none.format(
                count=len(bad),
                name=source.name,
                format=_(source.format),
                number=bad[0].number,
                reason=reason.removesuffix(".") if reason.endswith(".") else reason,
            )
        )
    refuse_columns(columns_of(rows), source.name)
    if len(raw) == 1 and holds_columns(rows[0]):
        said = _(
            "{name} has a column in each object, its rows numbered, as pandas writes JSON unless told otherwise. Write "
            "an object for each row, as by to_json(NAME, orient='records', lines=True). Nothing was imported."
        )
        raise UserError(said.format(name=source.name))
    return rows, bad


def holds_columns(row: SourceRow) -> bool:
    """Whether what looks like a row is a table: each value an object with the same numbers as keys."""
    numbers = {tuple(value) if isinstance(value, dict) else () for value in row.values.values()}
    return len(numbers) == 1 and all(map(str.isdecimal, next(iter(numbers)))) and numbers != {()}


def read_or_reason(read: RowReader, row: SourceRow) -> MappedRow | str:
    try:
        return read(row.values)
    except UnusableRow as error:
        return str(error)


# ------------------------------------------------------------------------------------------------------------ running
@dataclass(frozen=True)
class ImportResult:
    name: str
    format: str
    counted: str
    target: Target
    columns: Columns
    counts: Counts
    reasons: Sequence[tuple[str, int]]
    """Reason and number of rows that are not imported, most frequent first."""
    skipped: Sequence[Skipped]
    import_id: int | None
    """None where nothing was written: a check, or nothing new."""
    seconds: float
    locked_seconds: float
    """How long others could not write, at the longest."""
    dry_run: bool
    """Whether it was only said what would be imported."""
    notes: Sequence[str] = ()
    """What of the source is not used."""

    @property
    def nothing_usable(self) -> bool:
        return self.counts.skipped == self.counts.rows


def run_import(
    db: Database,
    source: ImportSource,
    order: ImportRequest,
    requested_by: str,
    progress: Progress,
    dry_run: bool = False,
) -> ImportResult:
    """Import a source, or with `dry_run` only say what would be imported.

    Raises UserError when nothing was imported: nothing usable in it, a damaged file, or another import at work.
    """
    order.check()
    began = time.monotonic()
    rows, _bad = beginning(source)
    plan = planning.make_plan(rows, order.target, order.columns, order.verdict, order.good_from)
    met = ColumnUsage()
    with only_import(db) as directory:
        staging = Staging(directory, plan.target, plan.verdict, order.split)
        try:
            read_rows(source, order, plan, staging, met, progress)
            unclear_columns.refuse_unread(plan, order.columns, met.late(filled_columns(rows)))
            checksum = "" if dry_run else (source.checksum or staging.checksum)()
            progress(_("comparing with what is there"), staging.counts.rows, None)
            staging.finish(db, KEPT_SKIPPED)
            import_id, locked = None, 0.0
            if staging.counts.new and not dry_run:
                about = {"name": source.name, "format": source.format, "requested_by": requested_by}
                move = ImportCommit(
                    db, staging, {**about, "sha256": checksum}, partial(progress, _("writing"), staging.counts.rows)
                )
                move.run()
                import_id, locked = move.import_id, move.longest_lock
        finally:
            staging.database.close()
    return ImportResult(
        name=source.name,
        format=source.format,
        counted=source.counted,
        target=plan.target,
        columns=plan.columns,
        counts=staging.counts,
        reasons=staging.reasons,
        skipped=staging.skipped,
        import_id=import_id,
        seconds=time.monotonic() - began,
        locked_seconds=locked,
        dry_run=dry_run,
        notes=[*notes_on(source, plan, (), met)],
    )


def read_rows(
    source: ImportSource, order: ImportRequest, plan: ImportPlan, staging: Staging, met: ColumnUsage, progress: Progress
) -> None:
    read = row_readers.reader_of(plan)
    reported = time.monotonic()
    with explain_disk_errors(staging.path):
        for row in rows_of(source, order):
            staging.counts.rows += 1
            if isinstance(row, BadRow):
                staging.skip(row.number, row.column, row.reason)
            else:
                met.see(row.values)
                try:
                    staging.add(row.number, read(row.values))
                except UnusableRow as error:
                    staging.skip(row.number, error.column, str(error))
            if staging.counts.rows % 100 == 0 and time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                progress(_("reading"), staging.counts.rows, source.share())


def rows_of(source: ImportSource, order: ImportRequest) -> Iterator[RawRow]:
    for row in source.rows():
        if order.last is not None and row.number > order.last:
            return
        if row.number >= order.first:
            yield row


@contextmanager
def only_import(db: Database) -> Iterator[Path]:
    """Keep others from importing, and give a directory beside the database that is gone afterwards.

    What a killed import has left is cleared away. Raises UserError while another import is at work, or where the disk
    takes nothing.
    """
    data_dir = db.path.parent
    lock = FileLock(data_dir / "import.lock")
    refused = _("{data_dir} can't be written ({strerror}). Nothing was imported.")
    with explain_errors(refused, data_dir=data_dir):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(_("Another import is at work in this data directory. Wait until it is done.")) from error
    try:
        for left in data_dir.glob(f"{SCRATCH}*/"):
            shutil.rmtree(left, ignore_errors=True)
        clear_unfinished(db)
        with explain_errors(refused, data_dir=data_dir):
            directory = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=data_dir))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        lock.release()


def clear_leftovers(db: Database) -> None:
    """Clear away what a killed import has left, unless one is at work that will do so itself."""
    try:
        with only_import(db):
            pass
    except UserError:
        return


# ------------------------------------------------------------------------------------------------------- in sentences
def made(counts: Counts) -> list[str]:
    judged, people, shown = counts.judged, counts.open, counts.demonstrations
    found = {
        ngettext("{count:,} new prompt", "{count:,} new prompts", counts.prompts): counts.prompts,
        ngettext("{count:,} comparison with a verdict", "{count:,} comparisons with their verdicts", judged): judged,
        ngettext("{count:,} gold comparison", "{count:,} gold comparisons", counts.gold): counts.gold,
        ngettext(
            "{count:,} comparison to be judged by people", "{count:,} comparisons to be judged by people", people
        ): people,
        ngettext("{count:,} demonstration", "{count:,} demonstrations", shown): shown,
    }
    return [said.format(count=count) for said, count in found.items() if count]


def not_made(counts: Counts) -> list[str]:
    """Which rows an import makes nothing of, in sentences."""
    again, bad = counts.repeated, counts.skipped
    found = {
        ngettext("{count:,} row repeats an earlier one.", "{count:,} rows repeat earlier ones.", again): again,
        ngettext("{count:,} is known already.", "{count:,} are known already.", counts.known): counts.known,
        ngettext("{count:,} row can't be used.", "{count:,} rows can't be used.", bad): bad,
    }
    return [said.format(count=count) for said, count in found.items() if count]


def summary(outcome: ImportResult, held_out_by: str) -> list[str]:
    """What an import did or would do, in sentences; `held_out_by` says what can still change how much is held out."""
    counts = outcome.counts
    read = ngettext("{count:,} row read.", "{count:,} rows read.", counts.rows).format(count=counts.rows)
    new = ", ".join(made(counts))
    if new:
        first = _("Imported: {new}.") if outcome.import_id is not None else _("To import: {new}.")
    else:
        first = _("None of them can be used.") if outcome.nothing_usable else _("Nothing new in them.")
    rest = joined(*not_made(counts))
    remarks = [f"{numeral(count)} × {mapped_rows.remark_words(remark)}." for remark, count in counts.remarks.items()]
    held_out = [joined(held_out_sentence(counts), held_out_by)] if counts.prompts else []
    return [f"{read} {first.format(new=new)}", *([rest] if rest else []), *held_out, *remarks, *outcome.notes]


def held_out_sentence(counts: Counts) -> str:
    if not counts.held_out:
        return _("No new prompt is held out, to check with.")
    return ngettext(
        "{count:,} new prompt is held out, to check with.",
        "{count:,} new prompts are held out, to check with.",
        counts.held_out,
    ).format(count=counts.held_out)
