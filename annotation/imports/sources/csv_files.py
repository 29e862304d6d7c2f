"""CSV files: rows under a header, whatever stands between the fields; and our own exports."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from annotation.exports.formats import unescape_cell, unflattened
from annotation.imports.sources.byte_stream import MAXIMUM_LINE, MEGABYTE, Stream, ending, from_stream, wrong_byte
from annotation.imports.sources.raw_rows import BadRow, ImportSource, RawRow, SourceRow, refuse_columns
from annotation.records import UserError
from annotation.translation import _, joined, ngettext

# One field may have so many characters; what is longer is never loaded.
MAXIMUM_FIELD = 1_000_000

# A CSV file with these columns is an export of ours, in which `formats.escape_cell` has defused formulas.
OUR_CSV = {"judgement_id", "comparison_id", "prompt_id", "shown_order", "guidelines_version"}


def csv_file(path: Path, name: str) -> ImportSource:
    """A CSV file; one that is called otherwise has likely tabs between its fields."""
    parse = partial(csv_rows, likely=",;\t" if ending(path.name) == ".csv" else "\t,;")
    return from_stream(path, name, "CSV", _("rows, the header is row 1, as a spreadsheet counts"), parse)


class CsvLines:
    """The lines of a CSV file as text for `csv.reader`, remembering bytes that are not UTF-8 and where a row began."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.wrong = ""

    def __iter__(self) -> Iterator[str]:
        for start, line, whole in self.stream.lines():
            if not whole:
                limit = MAXIMUM_LINE // MEGABYTE
                said = _(
                    "{name} has a line of more than {limit} MB at offset {start:,}. It is no CSV, or a "
                    "quote is not closed. Nothing was imported."
                )
                raise UserError(said.format(name=self.stream.name, limit=limit, start=start))
            if start == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                self.wrong = self.wrong or wrong_byte(error, start)
                yield line.decode("utf-8", "replace")

    def wrong_byte(self) -> str:
        """The first wrong byte since the last call, in words; empty if there was none."""
        wrong, self.wrong = self.wrong, ""
        return wrong


def csv_rows(stream: Stream, likely: str = ",;\t") -> Iterator[RawRow]:
    """The rows of a CSV file under its header, which tells what is between the fields, `likely` ones first.

    A row that does not fit the header is a bad row.
    """
    lines = CsvLines(stream)
    reader = csv_reader(stream.name, iter(lines), likely)
    header = read_header(stream.name, reader, lines)
    ours = OUR_CSV.issubset(header)
    number = 1
    while True:
        number += 1
        before = reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > before + 1 or "end of data" in str(error):
                raise UserError(
                    _(
                        "{name}: a quote that opens in row {number:,} (line {before:,}) is not closed, or its "
                        "field is longer than {maximum_field:,} characters. Nothing was imported."
                    ).format(name=stream.name, number=number, before=before + 1, maximum_field=MAXIMUM_FIELD)
                ) from error
            lines.wrong_byte()
            yield BadRow(number, _("the row is not CSV: {error}").format(error=error))
            continue
        wrong = lines.wrong_byte()
        if wrong:
            yield BadRow(number, wrong)
        elif not any(cell.strip() for cell in cells):
            continue
        elif len(cells) == len(header):
            values = dict(zip(header, cells, strict=True))
            yield our_row(number, values) if ours else SourceRow(number, values)
        else:
            yield BadRow(number, other_width(len(cells), len(header)))


def other_width(cells: int, heads: int) -> str:
    """Why a row does not fit its header."""
    said = ngettext(
        "the row has {count} field, but the header has {heads}",
        "the row has {count} fields, but the header has {heads}",
        cells,
    )
    return said.format(count=cells, heads=heads)


def csv_reader(name: str, lines: Iterator[str], likely: str) -> Any:
    """What reads fields, from the header on. Raises UserError for lines that end as none do today."""
    csv.field_size_limit(MAXIMUM_FIELD)
    first = next((line for line in lines if line.strip()), "")
    told = re.fullmatch(r"sep=(.)", first.strip("\r\n"))  # how Excel is told what separates the fields
    if told:
        first = next((line for line in lines if line.strip()), "")
    if re.search(r"\r[^\r\n]", first):
        said = _("{name} ends its lines as old Macs do, with CR alone. Save it with LF or CRLF.")
        raise UserError(said.format(name=name))
    delimiter = told[1] if told else delimiter_of(first, likely)
    return csv.reader(chain([first] if first else [], lines), delimiter=delimiter, strict=True)


def our_row(number: int, cells: Mapping[str, str]) -> RawRow:
    try:
        return SourceRow(number, unflattened({name: unescape_cell(text) for name, text in cells.items()}))
    except (ValueError, KeyError, TypeError, RecursionError):
        return BadRow(
            number, _("the row was changed since Prefloop exported it: a conversation, ranking or order is damaged")
        )


def delimiter_of(header: str, likely: str) -> str:
    """What separates the fields: of the likely ones that which the header has most of; a tab, if likeliest, any of."""
    unquoted = re.sub(r'"[^"]*"', "", header)
    return "\t" if likely[0] == "\t" and "\t" in unquoted else max(likely, key=unquoted.count)


def read_header(name: str, reader: Iterator[list[str]], lines: CsvLines) -> list[str]:
    """The column names. Raises UserError for a header that can't be one."""
    try:
        header = [cell.strip() or f"column {place}" for place, cell in enumerate(next(reader, []), 1)]
    except csv.Error as error:
        said = _("The header of {name} can't be read as CSV: {error}.")
        raise UserError(said.format(name=name, error=error)) from error
    wrong = lines.wrong_byte()
    if wrong:
        raise UserError(joined(f"{name}:", wrong))
    if not header:
        raise UserError(_("{name} is empty: there is no header and no row. Nothing was imported.").format(name=name))
    refuse_columns(header, name)
    return header
