"""`python -m annotation export` and `restore`: the arguments, what they mean, and what is printed."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from annotation.database import Database
from annotation.exports import archive, writing
from annotation.exports.dataset_card import CardStatistics
from annotation.exports.formats import (
    CONTAINERS,
    FORMATS,
    LEFT_OUT,
    LICENCES,
    ONE_FILE,
    SOURCES,
    ExportRequest,
    Filters,
)
from annotation.jobs.job_process import TIED, end_with_starter
from annotation.records import UserError

PROGRAM: Final = ("-m", "annotation", "export")
LICENCE_HELP: Final = f"as the Hub names it: {', '.join(LICENCES)}, … (default: none, which the card says)"
Topics = Any
"""What `argparse.ArgumentParser.add_subparsers` returns."""


# ----------------------------------------------------------------------------------------------------------- arguments
def add_parsers(topics: Topics, shared: argparse.ArgumentParser) -> None:
    """The two commands; `shared` brings --data."""
    export = topics.add_parser("export", parents=[shared], help="judgements as a data set to train on, or an archive")
    export.set_defaults(act=run_export)
    add_format(export)
    containers = ", ".join(f"{name} ({title})" for name, title in CONTAINERS.items())
    export.add_argument(
        "--as", dest="container", default="dataset", help=f"{containers} (default: %(default)s); csv and raw are files"
    )
    export.add_argument(
        "--to",
        type=Path,
        metavar="PATH",
        help="directory to make, or file if PATH ends in .zip or the format is a file",
    )
    add_choice(export)
    export.add_argument("--count", action="store_true", help="only count what would be exported, as a line of JSON")
    export.add_argument("--json-progress", action="store_true", help="print progress and outcome as JSON lines")
    export.add_argument(TIED, action="store_true", help=argparse.SUPPRESS)
    restore = topics.add_parser("restore", parents=[shared], help="fill a fresh data directory from a raw archive")
    restore.set_defaults(act=run_restore)
    restore.add_argument("archive", type=Path, metavar="ARCHIVE", help="file made with `export --format raw`")


def add_format(export: argparse.ArgumentParser) -> None:
    titles = ", ".join(f"{name} ({entry.title})" for name, entry in FORMATS.items())
    export.add_argument(
        "--format",
        default="preference",
        help=f"{titles}, raw (every judgement and what it refers to, with names) (default: %(default)s)",
    )


def add_choice(export: argparse.ArgumentParser) -> None:
    wanted = export.add_argument_group("only what is wanted (each can be given several times)")
    wanted.add_argument(
        "--iteration",
        type=int,
        action="append",
        default=[],
        help="how many trainings lie behind the policy that answered; 0 for the base model",
    )
    wanted.add_argument("--policy", action="append", default=[], help="revision of the policy that answered")
    wanted.add_argument("--annotator", action="append", default=[], help="name of who judged")
    wanted.add_argument("--source", action="append", default=[], help=f"{', '.join(SOURCES)} (default: all)")
    wanted.add_argument("--since", default="", metavar="DAY", help="first day, as 2026-01-31 (UTC)")
    wanted.add_argument("--until", default="", metavar="DAY", help="last day")
    wanted.add_argument(
        "--min-agreement", type=float, default=0.0, metavar="SHARE", help="least share of annotators who agree, 0 to 1"
    )
    wanted.add_argument(
        "--comparisons", default="", metavar="FILTER", help="as the address of a list on the Data tab: 'status=judged'"
    )
    export.add_argument("--names", action="store_true", help="name annotators instead of giving them pseudonyms")
    export.add_argument("--licence", default="", metavar="NAME", help=LICENCE_HELP)


def request_of(options: argparse.Namespace) -> ExportRequest:
    """The export that the arguments describe; `formats.check_request` says whether it can be had."""
    filters = Filters(
        iterations=tuple(options.iteration),
        policies=tuple(options.policy),
        annotators=tuple(options.annotator),
        since=options.since,
        until=options.until,
        agreement=options.min_agreement,
        sources=tuple(dict.fromkeys(options.source)) or SOURCES,
        comparisons=options.comparisons,
    )
    return ExportRequest(
        format=options.format,
        container=options.container,
        filters=filters,
        names=options.names,
        licence=options.licence,
    )


def arguments_of(request: ExportRequest) -> list[str]:
    """The arguments that describe an export: `request_of` of them gives it back."""
    filters = request.filters
    arguments = [f"--format={request.format}"]
    if request.format not in ONE_FILE:
        arguments.append(f"--as={request.container}")
    arguments += [f"--iteration={number}" for number in filters.iterations]
    arguments += [f"--policy={revision}" for revision in filters.policies]
    arguments += [f"--annotator={name}" for name in filters.annotators]
    if filters.sources != SOURCES:
        arguments += [f"--source={source}" for source in filters.sources]
    arguments += [f"--since={filters.since}"] if filters.since else []
    arguments += [f"--until={filters.until}"] if filters.until else []
    arguments += [f"--min-agreement={filters.agreement}"] if filters.agreement else []
    arguments += [f"--comparisons={filters.comparisons}"] if filters.comparisons else []
    arguments += [f"--licence={request.licence}"] if request.licence else []
    return [*arguments, "--names"] if request.names else arguments


def shell_command(request: ExportRequest, data_dir: Path) -> str:
    """The same export to copy into a terminal."""
    target = {"csv": "judgements.csv", "raw": "archive.jsonl"}.get(request.format, f"{request.format}-export")
    words = ["python", *PROGRAM, *arguments_of(request), f"--data={data_dir}", f"--to={target}"]
    return shlex.join(words)


# ------------------------------------------------------------------------------------------------------------- running
def run_export(options: argparse.Namespace, db: Database) -> None:
    """Count or write an export. Raises UserError for what can't be had."""
    request = request_of(options)
    if options.count:
        print(json.dumps(counted(writing.count(db, request))))
        return
    if options.to is None:
        raise UserError("Say where the export goes: --to PATH, a directory or file that is not there yet.")
    if options.tied:
        end_with_starter()
    say = partial(say_json if options.json_progress else say_line, "rows" if request.format == "raw" else "judgements")
    figures = writing.export(db, request, options.to, at_times(say))
    if options.json_progress:
        print(json.dumps({"outcome": counted(figures)}), flush=True)
    else:
        print(f"Wrote {options.to}: {sentence(figures)}")


def run_restore(options: argparse.Namespace, db: Database) -> None:
    """Fill a fresh data directory from an archive. Raises UserError where that can't be."""
    counts = archive.restore(db, options.archive)
    rows = ", ".join(f"{name} {number:,}" for name, number in counts.items() if number)
    print(
        f"Restored {rows}. Nobody has a password yet: set one with `python -m annotation accounts password NAME`. "
        "Adapters' weights are not part of an archive: copy the directory 'adapters' as well to use them."
    )
    if counts["judge"]:
        print(
            "All AI judges are switched off: switch them on on the AI judges tab, once you have looked at where each "
            "sends prompts and with which key."
        )


def counted(figures: CardStatistics) -> dict[str, Any]:
    """Rows by split (of the raw archive: by table) and what is left out, by reason."""
    return {"rows": dict(figures.rows), "left_out": dict(figures.left_out)}


def sentence(figures: CardStatistics) -> str:
    rows = ", ".join(f"{name} {number:,}" for name, number in figures.rows.items() if number)
    text = f"{figures.total:,} rows ({rows})."
    if not figures.left_out:
        return text
    reasons = ", ".join(f"{LEFT_OUT[reason]} {number:,}" for reason, number in figures.left_out.most_common())
    return f"{text} Left out: {reasons}."


def say_line(unit: str, done: int, total: int) -> None:
    print(f"{done:,} of {total:,} {unit}", file=sys.stderr, flush=True)


def say_json(unit: str, done: int, total: int) -> None:
    print(json.dumps({"progress": {"done": done, "total": total, "unit": unit}}), flush=True)


def at_times(say: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Say how far it is, at most twice a second."""
    said = 0.0

    def report(done: int, total: int) -> None:
        nonlocal said
        if done == total or time.monotonic() - said > writing.REPORT_SECONDS:
            said = time.monotonic()
            say(done, total)

    return report
