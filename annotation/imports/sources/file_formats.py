"""The types of file that can be imported, in one table: what each is called, how it is told, and what opens it."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from annotation.imports.sources.arrow_files import ARROW, arrow_file
from annotation.imports.sources.byte_stream import ending
from annotation.imports.sources.csv_files import csv_file
from annotation.imports.sources.json_lines import LINES_ENDINGS
from annotation.imports.sources.json_lists import json_file
from annotation.imports.sources.parquet_files import PARQUET, parquet_file
from annotation.imports.sources.raw_rows import ImportSource
from annotation.translation import _


@dataclass(frozen=True)
class FileFormat:
    name: str
    endings: tuple[str, ...]
    opened: Callable[[Path, str], ImportSource]
    """What opens a file, by its path and by its name as it is shown."""
    mark: bytes = b""
    """What a file of this format begins with, whatever it is called. A format without one is text, read also as .gz."""
    beginnings: tuple[bytes, ...] = ()
    """How a text of this format begins, for one whose name says nothing."""


FORMATS: tuple[FileFormat, ...] = (
    FileFormat("CSV", (".csv", ".tsv", ".tab"), csv_file),
    FileFormat("JSON lines", LINES_ENDINGS, json_file),
    FileFormat("JSON", (".json",), json_file, beginnings=(b"[", b"{")),
    FileFormat("Parquet", (".parquet",), parquet_file, mark=PARQUET),
    FileFormat("Arrow", (".arrow",), arrow_file, mark=ARROW),
)


def format_of(path: Path, head: bytes) -> FileFormat | None:
    """The format of a file that begins so: told by that or, of most texts, by its name."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    marked = [one for one in FORMATS if one.mark and head.startswith(one.mark)]
    named = [one for one in FORMATS if ending(path.name) in one.endings]
    begun = [one for one in FORMATS if text.startswith(one.beginnings)]
    texts = [one for one in named if not one.mark]
    return next(iter([*marked, *texts, *begun, *named]), None)


def data_endings() -> tuple[str, ...]:
    return tuple(one for known in FORMATS for one in known.endings)


def what_can_be_imported() -> str:
    known = ", ".join(f"{one.name} ({', '.join(one.endings)})" for one in FORMATS)
    return _("This can be imported: {formats}, or a directory of a dataset.").format(formats=known)
