"""Files, saved datasets and Hub datasets as raw rows: streamed, bounded in memory, every bad row with its reason."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

from annotation import hub_client
from annotation.exports.formats import unescape_cell, unflattened
from annotation.imports import directories
from annotation.imports.printable import display_name
from annotation.records import UserError
from annotation.translation import N_, _, joined, ngettext

MEGABYTE = 1024 * 1024
# One line, one CSV field and one element of a JSON list may be this long; what is longer is never loaded.
MAXIMUM_LINE = 16 * MEGABYTE
MAXIMUM_FIELD = 1_000_000
# What a file may come to once it is unpacked: a bomb of zeros ends here.
MAXIMUM_BYTES = 8 * 1024 * MEGABYTE
MAXIMUM_ROW_GROUP = 1024 * MEGABYTE
MAXIMUM_COLUMNS = 1_000
BATCH_ROWS = 200
CHUNK = MEGABYTE
LARGEST_NUMBER = 1e300

FORMATS = N_(
    "This can be imported: CSV (.csv, .tsv), JSON lines (.jsonl), JSON (.json), Parquet (.parquet), or a directory of "
    "a dataset."
)
# A CSV file with these columns is an export of ours, in which `formats.escape_cell` has defused formulas.
OUR_CSV = {"judgement_id", "comparison_id", "prompt_id", "shown_order", "guidelines_version"}
GZIP = b"\x1f\x8b"
ARROW = b"ARROW1"
ARCHIVE = b'{"format":"prefloop archive"'
UNPACKABLE = {
    b"PK\x03\x04": N_("{name} is a ZIP archive (an .xlsx workbook is one, too)."),
    b"PK\x05\x06": N_("{name} is an empty ZIP archive."),
    b"\xfd7zXZ\x00": N_("{name} is an XZ archive."),
    b"BZh": N_("{name} is a BZIP2 archive."),
    b"\x28\xb5\x2f\xfd": N_("{name} is a Zstandard archive."),
    b"7z\xbc\xaf\x27\x1c": N_("{name} is a 7z archive."),
    b"Rar!": N_("{name} is a RAR archive."),
    b"SQLite format 3": N_("{name} is an SQLite database."),
    b"%PDF": N_("{name} is a PDF document."),
}
# Keys by which the objects in a list are told to be rows rather than turns of a conversation or answers to a prompt.
ROW_KEYS = {"prompt", "messages", "conversations", "chosen", "question", "instruction"}
PICTURES = ("image", "images", "video", "videos", "audio", "audios")


@dataclass(frozen=True)
class SourceRow:
    """One raw row: column names to whatever the file holds there."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that can't be read or used, and why."""

    number: int
    reason: str
    column: str = ""


RawRow = SourceRow | BadRow


@dataclass(frozen=True)
class Unread:
    """What a row holds where its column is of a type that is not read, so that nobody takes the column for absent."""

    kind: str

    def __str__(self) -> str:
        return f"({self.kind})"


@dataclass
class ImportSource:
    """Something to import: `rows()` streams it, `share()` says how much of it has been read, where that is known."""

    name: str
    format: str
    counted: str
    """How rows are numbered, for people who look one up."""
    rows: Callable[[], Iterator[RawRow]]
    share: Callable[[], float | None] = field(default=lambda: None)
    checksum: Callable[[], str] | None = None
    """The sha256 of what is on disk; None where nothing is."""
    unread: tuple[str, ...] = ()
    """Data files of a directory that are not read."""


# ---------------------------------------------------------------------------------------------------------- opening
def open_path(path: Path, split: str | None = None, config: str | None = None) -> ImportSource:
    """What a file or a directory holds. Raises UserError where it is nothing that can be imported."""
    name = display_name(path.name or str(path))
    try:
        if path.is_dir():
            return dataset_directory(path, name, split, config)
        if not path.exists():
            raise UserError(
                _("There is no file {display_name}. Check the path.").format(display_name=display_name(str(path)))
            )
        if not path.is_file():
            refused = _("{name} is no ordinary file (a device or a pipe). Import a file.").format(name=name)
            raise UserError(joined(refused, _(FORMATS)))
        with path.open("rb") as file:
            head = file.read(4 * 1024)
    except OSError as error:
        raise UserError(
            _("{name} can't be read ({strerror}). Check the file and its permissions.").format(
                name=name, strerror=error.strerror
            )
        ) from error
    if not head:
        raise UserError(_("{name} is empty: 0 bytes. Nothing was imported.").format(name=name))
    if head.startswith(b"PAR1"):
        return parquet_file(path, name)
    if head.startswith(ARROW) or path.suffix.lower() == ".arrow":
        return arrow_file(path, name)
    if head.startswith(ARCHIVE):
        raise UserError(
            _(
                "{name} is an archive of a whole Prefloop. It goes into a fresh data directory, on the command "
                "line: `python -m annotation restore FILE --data DIR`. Nothing was imported."
            ).format(name=name)
        )
    if head.startswith(GZIP):
        with Stream(path, name) as stream:
            head = stream.read(4 * 1024)
        if head.startswith((GZIP, b"PAR1")):
            raise UserError(
                _("{name} is packed twice. Unpack it first; only text is read from a .gz file.").format(name=name)
            )
    refuse_other_formats(name, head)
    return text_file(path, name, head)


def refuse_other_formats(name: str, head: bytes) -> None:
    """Raises UserError for what is known not to be importable, by its first bytes."""
    for magic, description in UNPACKABLE.items():
        if head.startswith(magic):
            refused = _(description).format(name=name)
            raise UserError(joined(refused, _("Unpack or convert it first."), _(FORMATS)))
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        refused = _("{name} is UTF-16: it begins with the bytes {hex}.").format(name=name, hex=head[:2].hex(" "))
        raise UserError(joined(refused, _("Save the file as UTF-8; no other encoding is guessed.")))
    if b"\x00" in head:
        refused = _("{name} is no text: byte {at:,} is NUL.").format(name=name, at=head.index(b"\x00"))
        raise UserError(joined(refused, _(FORMATS)))


def text_file(path: Path, name: str, head: bytes) -> ImportSource:
    """CSV, JSON lines or JSON, by the first character and, for CSV, by the name."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((suffix for suffix in reversed(suffixes) if suffix not in (".gz", ".gzip")), "")
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if kind in (".csv", ".tsv", ".tab"):
        parse = partial(csv_rows, likely=",;\t" if kind == ".csv" else "\t,;")
        return from_stream(path, name, "CSV", _("rows, the header is row 1, as a spreadsheet counts"), parse)
    if kind in (".jsonl", ".ndjson") and (start != b"[" or holds_json_lines(path, name)):
        return from_stream(path, name, "JSON lines", "lines", jsonl_rows)
    if start == b"[":
        return from_stream(path, name, "JSON", _("elements of the list, from 1"), json_rows)
    if start == b"{":
        if holds_json_lines(path, name):
            return from_stream(path, name, "JSON lines", "lines", jsonl_rows)
        return from_stream(path, name, "JSON", _("elements of the list, from 1"), json_rows)
    if kind == ".json":
        raise UserError(
            _("{name} is no JSON list and no JSON lines: it begins with neither '[' nor '{{'.").format(name=name)
        )
    refused = _("{name} is of no known format. Name it after its format.").format(name=name)
    raise UserError(joined(refused, _(FORMATS)))


def from_stream(
    path: Path, name: str, kind: str, counted: str, parse: Callable[[Stream], Iterator[RawRow]]
) -> ImportSource:
    """A text format as a source; rows() may be called again and begins anew."""
    latest: list[Stream] = []

    def rows() -> Iterator[RawRow]:
        with Stream(path, name) as stream:
            latest[:] = [stream]
            yield from parse(stream)

    return ImportSource(
        name=name,
        format=kind,
        counted=counted,
        rows=rows,
        share=lambda: latest[0].share() if latest else 0.0,
        checksum=lambda: file_sha256(path, name),
    )


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


def file_sha256(path: Path, name: str) -> str:
    """The checksum of a file, read in pieces."""
    digest = sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise UserError(
            _("{name} can't be read any more ({strerror}). Nothing was imported.").format(
                name=name, strerror=error.strerror
            )
        ) from error
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------- bytes
class Stream:
    """The bytes of a text file, unpacked if it is gzip; lines and chunks of bounded size, and how far it has got."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.given = 0
        try:
            self.file = path.open("rb")
            self.size = os.fstat(self.file.fileno()).st_size
            packed = self.file.peek(2)[:2] == GZIP
        except OSError as error:
            raise UserError(
                _("{name} can't be read ({strerror}).").format(name=name, strerror=error.strerror)
            ) from error
        self.bytes: IO[bytes] = gzip.GzipFile(fileobj=self.file) if packed else self.file  # type: ignore[assignment]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def share(self) -> float:
        """How much of the file has been read, from 0 to 1."""
        return 1.0 if self.file.closed else min(1.0, self.file.tell() / max(self.size, 1))

    def read(self, size: int) -> bytes:
        """Up to so many bytes. Raises UserError for a damaged file or one that unpacks to too much."""
        return self.counted(lambda: self.bytes.read(size))

    def counted(self, read: Callable[[], bytes]) -> bytes:
        """Read, and keep count of what came out."""
        try:
            chunk = read()
        except (EOFError, zlib.error, OSError) as error:
            raise UserError(
                _("{name} is damaged after {given:,} bytes ({error}). Nothing was imported.").format(
                    name=self.name, given=self.given, error=error
                )
            ) from error
        self.given += len(chunk)
        if self.given > MAXIMUM_BYTES:
            limit = MAXIMUM_BYTES // (1024 * MEGABYTE)
            raise UserError(
                _("{name} holds more than {limit} GB of text. Split it into smaller files.").format(
                    name=self.name, limit=limit
                )
            )
        return chunk

    def lines(self) -> Iterator[tuple[int, bytes, bool]]:
        """Each line with the offset where it starts, and whether it is whole: of one too long only a piece is given."""
        while True:
            start = self.given
            line = self.counted(lambda: self.bytes.readline(MAXIMUM_LINE))
            if not line:
                return
            whole = line.endswith(b"\n") or len(line) < MAXIMUM_LINE
            if not whole:
                rest = line
                while rest and not rest.endswith(b"\n"):
                    rest = self.counted(lambda: self.bytes.readline(CHUNK))
                line = line[:100]
            yield start, line, whole


def wrong_byte(error: UnicodeDecodeError, start: int = 0) -> str:
    """Which byte is not UTF-8, counted from the start of the file, and what helps."""
    return _(
        "byte 0x{byte:02X} at offset {start:,} of the file is not UTF-8. Save the file as UTF-8; no other encoding is "
        "guessed."
    ).format(byte=error.object[error.start], start=start + error.start)


# ---------------------------------------------------------------------------------------------------------- JSON
def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. One that says two things under one key says neither."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next((key for key, value in pairs if value != found[key]), None)
        if twice is not None:
            raise ValueError(_("the key '{key}' stands twice in an object").format(key=display_name(twice)))
    return found


# NaN and Infinity are Python's, not JSON's, and stand where there is nothing.
DECODER = json.JSONDecoder(parse_constant=lambda _: None, object_pairs_hook=unique_keys)


class NotJson(UserError):
    """A line that is no JSON, or nested too deeply; `why` is what the parser says of it, in English."""

    def __init__(self, sentence: str, error: Exception) -> None:
        super().__init__(sentence)
        self.why = str(error).split(";")[0]


def parse_json(text: str) -> Any:
    """A JSON value. Raises NotJson."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        said = _("the line is not JSON: {msg} at character {pos:,}").format(msg=in_words(error), pos=error.pos + 1)
        raise NotJson(said, error) from error
    except RecursionError as error:
        raise NotJson(_("the line is nested too deeply"), error) from error
    except ValueError as error:  # a key that says two things, or an integer of thousands of digits
        raise NotJson(_("the line is not JSON: {msg}").format(msg=str(error).split(";")[0]), error) from error


def in_words(error: json.JSONDecodeError) -> str:
    """What the parser says, without the beginning of a place that it gives elsewhere."""
    return error.msg.lower().removesuffix(" at").removesuffix(" starting")


def as_row(number: int, value: Any) -> RawRow:
    """An object is a row; a mere text is one with the column 'text'."""
    if isinstance(value, dict):
        return SourceRow(number, value)
    if isinstance(value, str):
        return SourceRow(number, {"text": value})
    return BadRow(number, _("the row must be an object with columns; found: {kind_of}").format(kind_of=kind_of(value)))


def kind_of(value: Any) -> str:
    """What a value is, as it stands alone behind a colon."""
    if value is None:
        return _("empty (null)")
    if isinstance(value, bool):
        return _("true or false")
    if isinstance(value, (int, float)):
        return _("a number") if finite(value) else _("a number that is not finite")
    if isinstance(value, Unread):
        return _("a value of type {type}").format(type=value.kind)
    names: dict[type, str] = {str: _("text"), list: _("a list"), dict: _("an object")}
    return names.get(type(value)) or _("a value of type {type}").format(type=type(value).__name__)


def jsonl_rows(stream: Stream) -> Iterator[RawRow]:
    """A JSON object on each line; a bad line is one bad row."""
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


@dataclass(frozen=True)
class Refusals:
    """What is said of a value that can't be read, by where it stands."""

    wrong: str
    deep: str
    large: str


IN_LIST: Final = Refusals(
    wrong=N_("{name} is not JSON at element {number:,}: {msg}."),
    deep=N_("{name} is nested too deeply at element {number:,}."),
    large=N_("{name} is not JSON at element {number:,}, or goes on there for more than {limit} MB."),
)
BESIDE_LIST: Final = Refusals(
    wrong=N_("{name} is not JSON beside its list of rows: {msg}."),
    deep=N_("{name} is nested too deeply beside its list of rows."),
    large=N_("{name} is not JSON beside its list of rows, or goes on there for more than {limit} MB."),
)


class Document:
    """A JSON text read in pieces, one value at a time."""

    # Not ijson: its memory grows with the square of the nesting (16 kB of "[" take 600 MB), it bounds no element's
    # size, and its errors do not say at which element they are.

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.decode = codecs.getincrementaldecoder("utf-8")()
        self.text = ""
        self.at = 0
        self.ended = False

    def fill(self, size: int = CHUNK) -> None:
        """Read on, and let go of what has been parsed."""
        start = self.stream.given - len(self.decode.getstate()[0])
        chunk = self.stream.read(size)
        self.ended = len(chunk) == 0
        try:
            text = self.decode.decode(chunk, final=self.ended)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.stream.name}: {wrong_byte(error, start)}") from error
        if start == 0:
            text = text.removeprefix("\ufeff")
        self.text = self.text[self.at :] + text
        self.at = 0

    def next(self) -> str:
        """The next character that is no white space, not yet taken; empty at the end."""
        while True:
            found = re.compile(r"[ \t\r\n]*").match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.fill()

    def take(self, wanted: str, refusal: str, **gaps: object) -> str:
        """Take one of the wanted characters. Raises UserError, which says `refusal`, if there is another."""
        found = self.next()
        if not found or found not in wanted:
            either = _("'{one}' or '{other}'") if wanted[1:] else "'{one}'"
            expected = either.format(one=wanted[0], other=wanted[1:])
            said = refusal if found else _("{name} is not JSON: it ends where {expected} belongs.")
            raise UserError(said.format(name=self.stream.name, seen=display_name(found), expected=expected, **gaps))
        self.at += 1
        return found

    def value(self, number: int | None = None) -> Any:
        """The next value: an element of the list by its number, or one beside the list.

        Raises UserError if it is no JSON, or too large to be one row.
        """
        said = BESIDE_LIST if number is None else IN_LIST
        self.next()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or self.ended:  # else a number might go on
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                if self.ended:
                    raise self.refused(said.wrong, number=number, msg=in_words(error)) from error
            except RecursionError as error:
                raise self.refused(said.deep, number=number) from error
            except ValueError as error:
                raise self.refused(said.wrong, number=number, msg=str(error).split(";")[0]) from error
            waiting = len(self.text) - self.at
            if waiting > MAXIMUM_LINE:
                raise self.refused(said.large, number=number, limit=MAXIMUM_LINE // MEGABYTE)
            self.fill(max(CHUNK, waiting))

    def refused(self, sentence: str, **gaps: object) -> UserError:
        """The error of what can't be read here."""
        return UserError(_(sentence).format(name=self.stream.name, **gaps))

    def elements(self) -> Iterator[Any]:
        """The elements of the list that begins here."""
        self.take("[", _("{name} is not JSON: '{seen}' at the start, where {expected} belongs."))
        if self.next() == "]":
            self.at += 1
            return
        for number in range(1, 2**62):
            yield self.value(number)
            after = _("{name} is not JSON: '{seen}' after element {number:,}, where {expected} belongs.")
            if self.take(",]", after, number=number) == "]":
                return


def json_rows(stream: Stream) -> Iterator[RawRow]:
    """The elements of a JSON list, or of the one list in a JSON object."""
    document = Document(stream)
    if document.next() == "[":
        yield from (as_row(number, element) for number, element in enumerate(document.elements(), 1))
    else:
        yield from rows_of_object(document)
    if document.next():
        raise UserError(
            _("{name} goes on after the end of its list. If each line is an object, name it .jsonl.").format(
                name=stream.name
            )
        )


def rows_of_object(document: Document) -> Iterator[RawRow]:
    """The elements of the one list that a JSON object holds."""
    name = document.stream.name
    document.take("{", _("{name} is not JSON: '{seen}' at the start, where {expected} belongs."))
    list_at: str | None = None
    while document.next() != "}":
        key = document.value()
        if not isinstance(key, str):
            raise UserError(
                _("{name} is not JSON: a key must be text. Found: {kind_of}.").format(name=name, kind_of=kind_of(key))
            )
        after_key = _("{name} is not JSON: '{seen}' after the key '{key}', where {expected} belongs.")
        document.take(":", after_key, key=display_name(key))
        if document.next() != "[":
            document.value()
        elif list_at is None:
            list_at = key
            yield from (as_row(number, element) for number, element in enumerate(document.elements(), 1))
        else:
            raise UserError(
                _(
                    "{name} holds several lists ('{first}' and '{second}'), so it is unclear "
                    "what its rows are. Keep one, or write one object a line (.jsonl)."
                ).format(name=name, first=display_name(list_at), second=display_name(key))
            )
        after = _("{name} is not JSON: '{seen}' after the value of '{key}', where {expected} belongs.")
        if document.take(",}", after, key=display_name(key)) == "}":
            break
    else:
        document.at += 1  # the brace
    if list_at is None:
        raise UserError(
            _("{name} is one JSON object and holds no list of rows. Write one object a line (.jsonl).").format(
                name=name
            )
        )


# ---------------------------------------------------------------------------------------------------------- CSV
class CsvLines:
    """The lines of a CSV file as text for `csv.reader`, remembering bytes that are not UTF-8 and where a row began."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.wrong = ""

    def __iter__(self) -> Iterator[str]:
        for start, line, whole in self.stream.lines():
            if not whole:
                limit = MAXIMUM_LINE // MEGABYTE
                raise UserError(
                    _(
                        "{name} has a line of more than {limit} MB at offset {start:,}. It is no CSV, or a "
                        "quote is not closed. Nothing was imported."
                    ).format(name=self.stream.name, limit=limit, start=start)
                )
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
    csv.field_size_limit(MAXIMUM_FIELD)
    lines = CsvLines(stream)
    source = iter(lines)
    first = next((line for line in source if line.strip()), "")
    told = re.fullmatch(r"sep=(.)", first.strip("\r\n"))  # how Excel is told what separates the fields
    if told:
        first = next((line for line in source if line.strip()), "")
    if re.search(r"\r[^\r\n]", first):
        raise UserError(
            _("{name} ends its lines as old Macs do, with CR alone. Save it with LF or CRLF.").format(name=stream.name)
        )
    delimiter = told[1] if told else delimiter_of(first, likely)
    reader = csv.reader(chain_first(first, source), delimiter=delimiter, strict=True)
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
        elif len(cells) == len(header):
            values = dict(zip(header, cells, strict=True))
            yield our_row(number, values) if ours else SourceRow(number, values)
        elif cells:
            fields = ngettext(
                "the row has {count} field, but the header has {heads}",
                "the row has {count} fields, but the header has {heads}",
                len(cells),
            )
            yield BadRow(number, fields.format(count=len(cells), heads=len(header)))


def our_row(number: int, cells: Mapping[str, str]) -> RawRow:
    """A row of our own export."""
    try:
        return SourceRow(number, unflattened({name: unescape_cell(text) for name, text in cells.items()}))
    except (ValueError, KeyError, TypeError, RecursionError):
        return BadRow(
            number, _("the row was changed since Prefloop exported it: a conversation, ranking or order is damaged")
        )


def chain_first(first: str, rest: Iterable[str]) -> Iterator[str]:
    """A line that has been looked at, and those after it."""
    if first:
        yield first
    yield from rest


def delimiter_of(header: str, likely: str) -> str:
    """What separates the fields: of the likely ones that which the header has most of; a tab, if likeliest, any of."""
    unquoted = re.sub(r'"[^"]*"', "", header)
    return "\t" if likely[0] == "\t" and "\t" in unquoted else max(likely, key=unquoted.count)


def read_header(name: str, reader: Iterator[list[str]], lines: CsvLines) -> list[str]:
    """The column names. Raises UserError for a header that can't be one."""
    try:
        header = [cell.strip() or f"column {place}" for place, cell in enumerate(next(reader, []), 1)]
    except csv.Error as error:
        raise UserError(
            _("The header of {name} can't be read as CSV: {error}.").format(name=name, error=error)
        ) from error
    wrong = lines.wrong_byte()
    if wrong:
        raise UserError(f"{name}: {wrong}")
    if not header:
        raise UserError(_("{name} is empty: there is no header and no row. Nothing was imported.").format(name=name))
    refuse_columns(header, name)
    return header


def refuse_columns(columns: Sequence[str], name: str) -> None:
    """Raises UserError for more columns than are read, and for two of one name."""
    if len(columns) > MAXIMUM_COLUMNS:
        raise UserError(
            _("{name} has {count:,} columns; more than {maximum_columns:,} are not read.").format(
                name=name, count=len(columns), maximum_columns=MAXIMUM_COLUMNS
            )
        )
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise UserError(
            _("{name} has two columns named '{display_name}'. Rename one.").format(
                name=name, display_name=display_name(twice)
            )
        )


# ---------------------------------------------------------------------------------------------------------- Parquet
def parquet_file(path: Path, name: str) -> ImportSource:
    """A Parquet file. Raises UserError for a damaged one, or one that unpacks to more than can be meant."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = [0, 1]

    def open_file() -> Any:
        # A small buffer and no pre-buffering: a column chunk is read piece by piece, not as a whole.
        return pq.ParquetFile(str(path), pre_buffer=False, buffer_size=CHUNK)

    try:
        file = open_file()
        metadata, schema = file.metadata, file.schema_arrow
        sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
        file.close()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            _("{name} is no readable Parquet file ({first_line}).").format(name=name, first_line=first_line(error))
        ) from error
    refuse_unpacked(sizes, name)
    types = column_types(schema, name)

    def rows() -> Iterator[RawRow]:
        done[:] = [0, max(metadata.num_rows, 1)]
        try:
            file = open_file()
            columns = [*types.read, *(leaf_of(file.metadata, column) for column in types.pictures)]
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                yield from arrow_rows(batch, types, done[0])
                done[0] += batch.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                _("{name} is damaged after row {done:,} ({first_line}). Nothing was imported.").format(
                    name=name, done=done[0], first_line=first_line(error)
                )
            ) from error

    return ImportSource(
        name=name,
        format="Parquet",
        counted=_("rows from 1"),
        rows=rows,
        share=lambda: done[0] / done[1],
        checksum=lambda: file_sha256(path, name),
    )


def leaf_of(metadata: Any, column: str) -> str:
    """The smallest part of a column that is read as bytes; each part tells as well in which rows there is something."""
    leaves = [
        (metadata.row_group(0).column(place).total_compressed_size, metadata.schema.column(place).path)
        for place in range(metadata.num_columns if metadata.num_row_groups else 0)
        if f"{metadata.schema.column(place).path}.".startswith(f"{column}.")
    ]
    return min(leaves, default=(0, column))[1]


def refuse_unpacked(sizes: Sequence[int], name: str) -> None:
    """Raises UserError for a Parquet file whose row groups unpack to more bytes than can be meant."""
    if any(size < 0 or size > MAXIMUM_ROW_GROUP for size in sizes) or sum(sizes) > MAXIMUM_BYTES:
        raise UserError(
            _(
                "{name} unpacks to {sizes:,.0f} MB in one row group and {total:,.0f} MB in all; up to "
                "{maximum_row_group:,} and {maximum_bytes:,} MB are read."
            ).format(
                name=name,
                sizes=max(sizes) / MEGABYTE,
                total=sum(sizes) / MEGABYTE,
                maximum_row_group=MAXIMUM_ROW_GROUP // MEGABYTE,
                maximum_bytes=MAXIMUM_BYTES // MEGABYTE,
            )
        )


@dataclass(frozen=True)
class ColumnTypes:
    """The columns of an Arrow table: the types as which they are read, and what stands for those that are not."""

    read: Mapping[str, Any]
    unread: Mapping[str, Unread]
    labelled: Mapping[str, Any]
    """What `datasets` says of the columns in which numbers stand for words."""

    @property
    def pictures(self) -> list[str]:
        """Those of the unread columns of which it counts in which rows they hold something."""
        return [column for column in self.unread if column.strip().casefold() in PICTURES]


def column_types(schema: Any, name: str) -> ColumnTypes:
    """How the columns of a table are read. Raises UserError for columns that can't be told apart, or none to read."""
    refuse_columns(schema.names, name)
    types = {entry.name: plain_type(entry.type) for entry in schema}
    read = {column: kind for column, kind in types.items() if kind is not None}
    if not read:
        raise UserError(_("{name} has no column of text, numbers or lists. Nothing was imported.").format(name=name))
    left = {entry.name: Unread(display_name(str(entry.type)[:80])) for entry in schema if entry.name not in read}
    return ColumnTypes(read, left, {column: told for column, told in labelled_in(schema).items() if column in read})


def labelled_in(schema: Any) -> Mapping[str, Any]:
    """What `datasets` notes of a table's columns with words for numbers; nothing where it did not write it."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {column: told for column, told in features.items() if has_labels(told)}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}


def has_labels(feature: Any) -> bool:
    """Whether numbers stand for words in a column, or somewhere within."""
    if isinstance(feature, dict):
        return feature.get("_type") == "ClassLabel" or any(map(has_labels, feature.values()))
    return isinstance(feature, list) and any(map(has_labels, feature))


def with_words(value: Any, feature: Any) -> Any:
    """A value with the words for which numbers stand in it; -1 stands for none."""
    if isinstance(feature, list):  # as earlier versions note a list
        feature = {"_type": "List", "feature": next(iter(feature), None)}
    if not isinstance(feature, dict):
        return value
    kind, names = feature.get("_type"), feature.get("names")
    if kind == "ClassLabel" and isinstance(names, list) and isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None if value == -1 else value
    within = feature.get("feature", feature) if isinstance(kind, str) else feature
    if isinstance(value, list):
        return [with_words(one, within) for one in value]
    if isinstance(value, dict) and isinstance(within, dict):  # also one of lists: so a sequence of objects was kept
        return {key: with_words(one, within.get(key)) for key, one in value.items()}
    return value


def arrow_rows(table: Any, types: ColumnTypes, before: int) -> Iterator[RawRow]:
    """The rows of an Arrow batch; where a text is not UTF-8, only its row is bad."""
    import pyarrow as pa

    plain = [table.column(column).cast(kind) for column, kind in types.read.items()]
    # A column whose name goes on from another's with a dot may have been read in its place.
    held = {column: places_held(table.column(column)) for column in types.pictures if column in table.schema.names}
    table = pa.Table.from_arrays(plain, names=list(types.read))

    def row(place: int, value: dict[str, Any]) -> SourceRow:
        words = {column: with_words(value[column], told) for column, told in types.labelled.items()}
        empty = {column: None for column, places in held.items() if place not in places}
        return SourceRow(before + place + 1, {**value, **words, **types.unread, **empty})

    try:
        values = table.to_pylist()
    except UnicodeDecodeError:
        for place in range(table.num_rows):
            try:
                yield row(place, table.slice(place, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                yield BadRow(
                    before + place + 1, _("a text holds the byte 0x{byte:02X}, which is not UTF-8").format(byte=byte)
                )
        return
    yield from (row(place, value) for place, value in enumerate(values))


def places_held(column: Any) -> set[int]:
    """The places at which a column holds something, in lists at any depth something that is not null."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not (types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)):
        return set(pc.indices_nonzero(column.is_valid()).to_pylist())
    within, parents = places_held(pc.list_flatten(column)), pc.list_parent_indices(column).to_pylist()
    return {parents[place] for place in within}


def plain_type(kind: Any) -> Any:
    """The type that JSON could hold as which values of an Arrow type are read; None for bytes and the like.

    Decimals become floating numbers, dates and times the whole numbers that they are kept as.
    """
    import pyarrow as pa
    from pyarrow import types

    if isinstance(kind, pa.JsonType):  # text that stands for something else
        return None
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_dictionary(kind):
        return kind if plain_type(kind.value_type) == kind.value_type else None
    if types.is_map(kind):
        kind = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
    if types.is_struct(kind):
        parts = [(kind.field(place).name, plain_type(kind.field(place).type)) for place in range(kind.num_fields)]
        return None if any(part is None for _, part in parts) else pa.struct(parts)
    for is_such, list_of in (
        (types.is_list, pa.list_),
        (types.is_fixed_size_list, pa.list_),
        (types.is_large_list, pa.large_list),
    ):
        if is_such(kind):
            within = plain_type(kind.value_type)
            return None if within is None else list_of(within)
    if types.is_list_view(kind) or types.is_large_list_view(kind):  # these can't be cast to others
        return kind if plain_type(kind.value_type) == kind.value_type else None
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_decimal(kind):
        return pa.float64()
    if types.is_temporal(kind) and not types.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    simple = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return kind if types.is_null(kind) or any(check(kind) for check in simple) else None


def first_line(error: BaseException) -> str:
    """The first line of what a library says, bounded."""
    return display_name(str(error).strip().split("\n")[0][:200]) or type(error).__name__


# ------------------------------------------------------------------------------------- directories of datasets, Hub
def dataset_directory(path: Path, name: str, split: str | None, config: str | None) -> ImportSource:
    """A directory of `save_to_disk`, or one with data files as `load_dataset` has it (our own exports are such).

    The files are found and read here, never by `datasets`, which would follow all that a card names.
    Raises UserError if it is none, or has several splits and none is chosen.
    """
    saved = directories.saved_splits(path)
    if saved is not None:
        files = saved[""] if "" in saved else saved[choose_split(name, list(saved), split)]
        return in_turn(name, "saved dataset", path, files, [arrow_file(file, name) for file in files])
    found = directories.find_splits(path, config)
    files = list(found.files[choose_split(name, list(found.files), split)])
    source = in_turn(name, "dataset directory", path, files, [open_path(file) for file in files])
    return replace(source, unread=tuple(found.unread))


def in_turn(
    name: str, kind: str, directory: Path, files: Sequence[Path], parts: Sequence[ImportSource]
) -> ImportSource:
    """The rows of several files, one after the other, as one source."""
    done = [0]

    def rows() -> Iterator[RawRow]:
        number = 0
        for done[0], part in enumerate(parts):
            for row in part.rows():
                number += 1
                yield replace(row, number=number)
        done[0] = len(parts)

    def share() -> float | None:
        within = parts[done[0]].share() if done[0] < len(parts) else 0.0
        return (done[0] + (within or 0.0)) / len(parts)

    def checksum() -> str:
        digest = sha256()
        for file in files:
            digest.update(f"{file.relative_to(directory).as_posix()} {file_sha256(file, name)}\n".encode())
        return digest.hexdigest()

    counted = parts[0].counted if len(parts) == 1 else _("rows from 1")
    return ImportSource(
        name=name,
        format=kind,
        counted=counted,
        rows=parts[0].rows if len(parts) == 1 else rows,
        share=share,
        checksum=checksum,
    )


def arrow_file(path: Path, name: str) -> ImportSource:
    """A file of Arrow's streaming or file format, as `datasets` writes them. Raises UserError for a damaged one."""
    import pyarrow as pa

    def rows() -> Iterator[RawRow]:
        number = 0
        try:
            with pa.memory_map(str(path)) as file:
                for batch in batches(file):
                    types = column_types(batch.schema, name)
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        part = batch.slice(start, BATCH_ROWS)
                        yield from arrow_rows(part, types, number)
                        number += part.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                _("{name} is damaged after row {number:,} ({first_line}). Nothing was imported.").format(
                    name=name, number=number, first_line=first_line(error)
                )
            ) from error

    return ImportSource(name, "Arrow", _("rows from 1"), rows, checksum=lambda: file_sha256(path, name))


def batches(file: Any) -> Iterator[Any]:
    """The record batches of an Arrow file, whichever of the two formats it has."""
    import pyarrow as pa

    if file.read(len(ARROW)) == ARROW:
        reader = pa.ipc.open_file(file)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        file.seek(0)
        yield from pa.ipc.open_stream(file)


def choose_split(name: str, known: list[str], wanted: str | None) -> str:
    """The split to read. Raises UserError where it has to be chosen."""
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted not in known:
        listed = ", ".join(f"'{display_name(split)}'" for split in known)
        problem = (
            _("{name} has several splits.").format(name=name)
            if wanted is None
            else _("{name} has no split '{split}'.").format(name=name, split=display_name(wanted))
        )
        choose = _("Choose one of {listed} under “Split to read”.").format(listed=listed)
        raise UserError(joined(problem, choose))
    return wanted


def hub_dataset(repository: str, config: str | None = None, split: str | None = None) -> ImportSource:
    """A dataset on the Hub, streamed: OWNER/NAME, or OWNER/NAME@REVISION for what it was at a commit, tag or branch.

    Whichever commit that is now is the one that is read to the end, and the one that the source's name says. Raises
    UserError without a network, or where there is no such dataset.
    """
    name, _at, revision = repository.partition("@")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.+/-]+)?", repository):
        raise UserError(
            _(
                "'{display_name}' is no name of a dataset on the Hub. Names look like owner/name, or "
                "owner/name@revision."
            ).format(display_name=display_name(repository))
        )

    def explain(error: BaseException) -> str:
        return explain_hub_error(repository, error)

    commit = commit_of(name, revision or None, explain)
    pinned = f"{name}@{commit}"
    return ImportSource(
        pinned, "Hub dataset", _("rows from 1"), streamed_rows(pinned, name, config, split, explain, commit)
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
            raise UserError(
                _("Reading ended after row {number:,}. {explain} Nothing was imported.").format(
                    number=number, explain=explain(error)
                )
            ) from error

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


def finite(value: Any) -> bool:
    """Whether a value is a number that one can compare: no truth value, no NaN, no infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < LARGEST_NUMBER  # an integer of 400 digits is too large for math.isfinite
