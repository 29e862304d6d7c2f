"""`python -m annotation import`: the arguments, what they mean, and what is printed, for people or as JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal

from annotation.database import Database
from annotation.imports import importing
from annotation.imports.import_report import SHOWN_TEXT, shortened
from annotation.imports.importing import ImportPreview, ImportRequest, ImportResult
from annotation.imports.mapping import mapped_rows
from annotation.imports.mapping.columns import ROLES
from annotation.imports.mapping.import_plan import TARGETS, VerdictUse
from annotation.imports.mapping.mapped_rows import MappedRow
from annotation.imports.mapping.planning import roles_asked
from annotation.imports.printable import display_name, listed
from annotation.imports.sources import file_formats, hub_datasets, opening
from annotation.jobs.job_process import TIED, end_with_starter
from annotation.records import Split, UserError
from annotation.translation import N_, _, kept_within
from annotation.ui.invisible import visible

PROGRAM: Final = ("-m", "annotation", "import")
# A last resort: whatever a file unpacks to inside a library, this process ends before the machine is short of memory.
MEMORY_BYTES: Final = 4 * 2**30
NOTHING_USABLE: Final = 1
"""The exit status where something was read, and nothing could be made of any row."""
BAR: Final = 30
NO_COLUMN: Final = "no column that is known"
# The fields of the page's form that sentences name, and the option that stands for each here.
COLUMNS: Final = N_("“Columns”")
OPTIONS: Final = {
    COLUMNS: "--map ROLE=COLUMN, --map ROLE= for none",
    N_("“Good from”"): "--good-from N",
    N_("“Import as”"): f"--as {{{','.join(TARGETS)}}}",
    N_("“Rows”"): "--rows FIRST-LAST",
    N_("“Split to read”"): "--source-split NAME",
    N_("“Configuration”"): "--config NAME",
}
Topics = Any
"""What `argparse.ArgumentParser.add_subparsers` returns."""


# ----------------------------------------------------------------------------------------------------------- arguments
def add_parser(topics: Topics, shared: argparse.ArgumentParser) -> None:
    """The command; `shared` brings --data."""
    roles = "; ".join(f"{role}: {meaning}" for role, (meaning, _) in ROLES.items())
    command = topics.add_parser(
        "import",
        parents=[shared],
        help="prompts, demonstrations and preference data",
        epilog=f"Roles of --map: {roles}.",
    )
    command.set_defaults(act=run)
    known = ", ".join(file_formats.data_endings())
    source = f"a file ({known}; text also as .gz) or a dataset's directory, with --hub a dataset's name on the Hub"
    command.add_argument("source", metavar="SOURCE", help=source)
    command.add_argument("--hub", action="store_true", help="SOURCE is a dataset on the Hugging Face Hub")
    command.add_argument("--config", metavar="NAME", help="configuration of a dataset")
    command.add_argument("--source-split", metavar="NAME", help="split of a dataset to read")
    command.add_argument(
        "--as", dest="target", default="auto", choices=("auto", *TARGETS), help="what to make of rows (default: auto)"
    )
    command.add_argument(
        "--map",
        dest="columns",
        action="append",
        default=[],
        metavar="ROLE=COLUMN",
        help="the column for a role, where the proposed one is wrong; ROLE= leaves a role out",
    )
    command.add_argument(
        "--split",
        default=str(importing.HELD_OUT_SHARE),
        metavar="SPLIT",
        help="of new prompts: train, held-out, or the share that is held out (default: %(default)s)",
    )
    command.add_argument(
        "--good-from", type=float, metavar="N", help="with a rating: answers of at least N are good, the others bad"
    )
    verdicts = command.add_mutually_exclusive_group()
    verdicts.add_argument("--gold", action="store_true", help="gold comparisons, to measure annotators")
    verdicts.add_argument("--open", action="store_true", help="leave verdicts out: people are to judge the comparisons")
    command.add_argument("--rows", metavar="FIRST-LAST", help="only these rows, as 1-100000")
    only = command.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="say what would be imported and what not; write nothing")
    only.add_argument("--look", action="store_true", help="show the first rows and what their columns are taken for")
    command.add_argument("--show", type=int, default=20, metavar="N", help="bad rows to print (default: %(default)s)")
    command.add_argument("--json-progress", action="store_true", help="print progress and outcome as JSON lines")
    command.add_argument(TIED, action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--by", default="command line", metavar="NAME", help=argparse.SUPPRESS)


def order_of(options: argparse.Namespace) -> ImportRequest:
    """The order that the arguments describe. Raises UserError for what can't be read."""
    columns = {}
    for entry in options.columns:
        role, equals, column = entry.partition("=")
        if not equals:
            said = _("'{display_name}' names no column. Write it as --map prompt=question.")
            raise UserError(said.format(display_name=display_name(entry)))
        columns[role.strip()] = column
    verdict: VerdictUse = "gold" if options.gold else "open" if options.open else "judged"
    first, last = rows_of(options.rows)
    return ImportRequest(
        target=options.target,
        columns=columns,
        verdict=verdict,
        split=split_of(options.split),
        first=first,
        last=last,
        good_from=options.good_from,
    )


def split_of(text: str) -> Split | float:
    """'train', 'held-out', or the share that is held out. Raises UserError for anything else."""
    named: dict[str, Literal["train", "held-out"]] = {"train": "train", "held-out": "held-out"}
    if text in named:
        return named[text]
    try:
        return float(text)
    except ValueError as error:
        said = _("'{display_name}' is no split. Use train, held-out, or the held-out share, as 0.1.")
        raise UserError(said.format(display_name=display_name(text))) from error


def rows_of(text: str | None) -> tuple[int, int | None]:
    """The first and last row of a range as '1-1000', '1000-' or '7'. Raises UserError."""
    if not text:
        return 1, None
    first, dash, last = text.replace(" ", "").partition("-")
    numbers = [first or "1", last or "0"] if dash else [first, first]
    if not all(number.isascii() and number.isdigit() and len(number) < 16 for number in numbers):
        said = _("'{display_name}' is no range of rows. Write it as 1-100000.")
        raise UserError(said.format(display_name=display_name(text)))
    return int(numbers[0]), int(numbers[1]) or None


def arguments_of(order: ImportRequest) -> list[str]:
    """The arguments that describe an order: `order_of` of them gives it back."""
    arguments = [f"--as={order.target}", f"--split={order.split}"]
    arguments += [f"--map={role}={column}" for role, column in order.columns.items()]
    if order.verdict != "judged":
        arguments.append(f"--{order.verdict}")
    if order.first != 1 or order.last is not None:
        arguments.append(f"--rows={order.first}-{order.last or ''}")
    if order.good_from is not None:
        arguments.append(f"--good-from={order.good_from}")
    return arguments


# ------------------------------------------------------------------------------------------------------------ running
def run(options: argparse.Namespace, db: Database) -> int:
    """As `run_to_end`; what is said of the page's fields is said of options to whoever has none."""
    try:
        return run_to_end(options, db)
    except UserError as error:
        if options.json_progress:
            raise
        raise UserError(with_options(str(error), roles_asked(error))) from error


def run_to_end(options: argparse.Namespace, db: Database) -> int:
    """Look, check or import, and print what came of it; 1 where no row can be used. Raises UserError on refusal."""
    order = order_of(options)
    order.check()
    if not options.source.strip():  # an empty path would be the directory that one is in
        raise UserError(_("Say what to import: a file, a directory, or with --hub the name of a dataset."))
    if options.tied:
        end_with_starter()
    printer: Printer = JsonPrinter() if options.json_progress else Printer(options.show)
    with bounded():
        try:
            if options.hub:
                printer.progress(_("asking the Hub"), 0, None)
                source = hub_datasets.hub_dataset(options.source, options.config, options.source_split)
            else:
                source = opening.open_path(Path(options.source), options.source_split, options.config)
            if options.look:
                found = importing.preview(source, order)
                printer.look(found)
                return 0 if found.usable else NOTHING_USABLE
            outcome = importing.run_import(db, source, order, options.by, printer.progress, options.dry_run)
            printer.outcome(outcome)
            return NOTHING_USABLE if outcome.nothing_usable else 0
        except MemoryError as error:
            raise UserError(
                _(
                    "{display_name} needs more than {memory_bytes} GB of memory to be read. It is damaged, or "
                    "has far too large rows. Nothing was imported."
                ).format(display_name=display_name(options.source), memory_bytes=MEMORY_BYTES // 2**30)
            ) from error


@contextmanager
def bounded() -> Iterator[None]:
    """Meanwhile memory is limited, where the system sees to that, and SIGTERM leaves no staging file behind."""
    before = signal.signal(signal.SIGTERM, leave)
    try:
        if sys.platform == "win32":
            yield
            return
        import resource

        present, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = data_bytes() + MEMORY_BYTES
        if most != resource.RLIM_INFINITY:
            wanted = min(most, wanted)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (present, most))
    finally:
        signal.signal(signal.SIGTERM, before)


def data_bytes() -> int:
    """What counts already against a limit of data, where the system tells.

    Without it a process that has more than the limit has nothing left, and a thread whose first allocation fails is
    waited for without end (`threading.Thread.start`).
    """
    try:
        pages = Path("/proc/self/statm").read_text().split()[5]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def leave(signal_number: int, frame: FrameType | None) -> None:
    """End as if by an exception, so that the staging files go."""
    raise SystemExit(128 + signal_number)


# ----------------------------------------------------------------------------------------------------------- printing
class Printer:
    """Prints for people: a bar that moves on a terminal, then sentences."""

    def __init__(self, shown: int) -> None:
        self.shown = max(0, shown)
        self.bar = sys.stderr.isatty()

    def progress(self, what: str, rows: int, share: float | None) -> None:
        if self.bar:
            done = "" if share is None else f"[{'#' * round(BAR * share):<{BAR}}] {share:4.0%} "
            print(f"\r\x1b[K{done}{what}, {rows:,} rows", end="", file=sys.stderr, flush=True)

    def end_bar(self) -> None:
        if self.bar:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def look(self, found: ImportPreview) -> None:
        self.end_bar()
        print(f"{found.name}: {found.format}")
        print(f"Columns: {listed(found.columns)}")
        print(f"Taken for: {columns_line(found.proposed) or NO_COLUMN}")
        print(with_options(found.problem, found.asked) or f"To be imported as {found.target}.")
        for note in found.notes:
            print(note)
        for row, record in zip(found.rows, found.records, strict=False):
            print(f"\nRow {row.number}:")
            print("  not usable: " + record if isinstance(record, str) else indented(record))
        for bad in found.bad:
            print(f"\nRow {bad.number} can't be read: {bad.reason}")

    def outcome(self, outcome: ImportResult) -> None:
        self.end_bar()
        columns = columns_line(outcome.columns) or NO_COLUMN
        print(f"{outcome.name}: {outcome.format}, as {outcome.target}, with {columns}")
        print("\n".join(importing.summary(outcome, "--split says how many.")))
        for reason, count in outcome.reasons:
            print(f"  {count:,} × {with_options(reason)}")
        if outcome.skipped and self.shown:
            print(f"First of them ({outcome.counted}):")
        for entry in outcome.skipped[: self.shown]:
            print(f"  {outcome.name}, row {entry.row}: {entry.reason}")
        if outcome.dry_run:
            print("Nothing was written.")
        elif outcome.import_id is not None:
            waited = f"; others waited up to {outcome.locked_seconds:.1f} s to write" * (outcome.locked_seconds >= 0.1)
            print(f"Import {outcome.import_id} took {outcome.seconds:.1f} s{waited}.")


class JsonPrinter(Printer):
    """Prints for the page: an object a line, with one key that says what it is."""

    def __init__(self) -> None:
        super().__init__(0)

    def say(self, kind: str, value: Any) -> None:
        print(json.dumps({kind: kept_within(value)}), flush=True)

    def progress(self, what: str, rows: int, share: float | None) -> None:
        self.say("progress", {"what": what, "rows": rows, "share": share})

    def look(self, found: ImportPreview) -> None:
        self.say("look", asdict(shortened(found)))

    def outcome(self, outcome: ImportResult) -> None:
        self.say("outcome", asdict(outcome))


def with_options(said: str, asked: Sequence[str] = ()) -> str:
    """What is said to somebody who has a command line and not the page: with the options for the fields it names.

    Where it asks for columns, in some `asked` roles, their field is named whether or not the sentence does.
    """
    named = [
        f"{_(field)}: {option}" for field, option in OPTIONS.items() if _(field) in said or (asked and field == COLUMNS)
    ]
    return f"{said} ({'; '.join(named)})" if named else said


def columns_line(columns: Mapping[str, str]) -> str:
    """Roles and their columns, as a list; empty without any."""
    return ", ".join(f"{role} = '{display_name(column)}'" for role, column in columns.items())


def indented(record: MappedRow) -> str:
    """A record to look at; control characters can't move a terminal's cursor."""
    short = mapped_rows.with_texts(record, SHOWN_TEXT)
    lines = [f"{turn['role']}: {turn['content']}" for turn in short.messages]
    ranks = short.ranking or (None,) * len(short.answers)
    for rank, answer in zip(ranks, short.answers, strict=True):
        lines.append(f"answer{'' if rank is None else f' ranked {rank}'}: {answer}")
    if short.label is not None:
        lines.append(f"labelled {'good' if short.label else 'bad'}")
    if short.remark:
        lines.append(f"remark: {mapped_rows.remark_words(short.remark)}")
    clean = [" ".join(visible(part) for part in line.split("\n")) for line in lines]
    return os.linesep.join(f"  {line}" for line in clean)
