"""JSON lines: an object on each, and whether a file is of such lines."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from annotation.imports.sources.byte_stream import MAXIMUM_LINE, MEGABYTE, Stream, wrong_byte
from annotation.imports.sources.json_values import parse_json
from annotation.imports.sources.raw_rows import BadRow, RawRow, as_row
from annotation.records import UserError
from annotation.translation import _

LINES_ENDINGS: Final = (".jsonl", ".ndjson")
# Keys by which the objects in a list are told to be rows rather than turns of a conversation or answers to a prompt.
ROW_KEYS = {"prompt", "messages", "conversations", "chosen", "question", "instruction"}


def jsonl_rows(stream: Stream) -> Iterator[RawRow]:
    for number, (start, line, whole) in enumerate(stream.lines(), 1):
        if not whole:
            yield BadRow(
                number, _("the line is longer than {maximum_line} MB").format(maximum_line=MAXIMUM_LINE // MEGABYTE)
            )
            continue
        if start == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield as_row(number, parse_json(line.decode().strip()))
        except UnicodeDecodeError as error:
            yield BadRow(number, wrong_byte(error, start))
        except UserError as error:
            yield BadRow(number, str(error))


def holds_json_lines(path: Path, name: str) -> bool:
    """Whether a file has a whole object or list on its first line, and isn't one list, or one object with a list."""
    with Stream(path, name) as stream:
        first: Any = None
        number_of_lines = 0
        for _, line, whole in stream.lines():
            if not line.strip():
                continue
            number_of_lines += 1
            if number_of_lines == 2:
                return True
            try:
                first = parse_json(line.decode("utf-8-sig")) if whole else None
            except (UnicodeDecodeError, UserError):
                return False
            if not isinstance(first, dict | list):
                return False
    if not isinstance(first, dict):
        return False
    lists = [value for value in first.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return len(lists) != 1 or ROW_KEYS.isdisjoint(lists[0][0])
