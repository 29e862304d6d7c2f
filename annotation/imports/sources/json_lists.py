"""JSON files: a list, or one within an object, read in pieces, an element a row; or of JSON lines all the same."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from annotation.imports.printable import display_name
from annotation.imports.sources import byte_stream
from annotation.imports.sources.byte_stream import CHUNK, MAXIMUM_LINE, MEGABYTE, Stream
from annotation.imports.sources.json_lines import LINES_ENDINGS, holds_json_lines, jsonl_rows
from annotation.imports.sources.json_values import DECODER, parser_words
from annotation.imports.sources.raw_rows import ImportSource, RawRow, as_row, kind_of
from annotation.records import UserError
from annotation.translation import N_, _, joined


def json_file(path: Path, name: str) -> ImportSource:
    """A list of rows or JSON lines, whichever its first lines are; what its name says counts where they may be both.

    Raises UserError for what is neither.
    """
    with Stream(path, name) as stream:
        first = stream.read(4 * 1024).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    lines = byte_stream.ending(path.name) in LINES_ENDINGS
    if first not in (b"[", b"{") and not lines:
        said = _("{name} is no JSON list and no JSON lines: it begins with neither '[' nor '{{'.")
        raise UserError(said.format(name=name))
    if (lines and first != b"[") or ((lines or first == b"{") and holds_json_lines(path, name)):
        return byte_stream.from_stream(path, name, "JSON lines", _("lines"), jsonl_rows)
    return byte_stream.from_stream(path, name, "JSON", _("elements of the list, from 1"), json_rows)


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
            raise UserError(joined(f"{self.stream.name}:", byte_stream.wrong_byte(error, start))) from error
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
                    raise self.refused(said.wrong, number=number, msg=parser_words(error)) from error
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
        said = _("{name} goes on after the end of its list. If each line is an object, name it .jsonl.")
        raise UserError(said.format(name=stream.name))


def rows_of_object(document: Document) -> Iterator[RawRow]:
    """The elements of the one list that a JSON object holds."""
    name = document.stream.name
    document.take("{", _("{name} is not JSON: '{seen}' at the start, where {expected} belongs."))
    list_at: str | None = None
    while document.next() != "}":
        key = document.value()
        if not isinstance(key, str):
            said = _("{name} is not JSON: a key must be text. Found: {kind_of}.")
            raise UserError(said.format(name=name, kind_of=kind_of(key)))
        after_key = _("{name} is not JSON: '{seen}' after the key '{key}', where {expected} belongs.")
        document.take(":", after_key, key=display_name(key))
        if document.next() != "[":
            document.value()
        elif list_at is None:
            list_at = key
            yield from (as_row(number, element) for number, element in enumerate(document.elements(), 1))
        else:
            said = _(
                "{name} holds several lists ('{first}' and '{second}'), so it is unclear "
                "what its rows are. Keep one, or write one object a line (.jsonl)."
            )
            raise UserError(said.format(name=name, first=display_name(list_at), second=display_name(key)))
        after = _("{name} is not JSON: '{seen}' after the value of '{key}', where {expected} belongs.")
        if document.take(",}", after, key=display_name(key)) == "}":
            break
    else:
        document.at += 1  # the brace
    if list_at is None:
        said = _("{name} is one JSON object and holds no list of rows. Write one object a line (.jsonl).")
        raise UserError(said.format(name=name))
