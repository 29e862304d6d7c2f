"""What a source gives: raw rows, bad ones with their reason, and what their values are called. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from annotation.imports.printable import display_name
from annotation.records import UserError, storable
from annotation.translation import _

LARGEST_NUMBER = 1e300

MAXIMUM_COLUMNS = 1_000

PICTURES = ("image", "images", "video", "videos", "audio", "audios")


@dataclass(frozen=True)
class SourceRow:
    """One raw row: column names to whatever the file holds there."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class BadRow:
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


def as_row(number: int, value: Any) -> RawRow:
    """An object is a row; a mere text is one with the column 'text'."""
    if isinstance(value, dict):
        unnamed = next((column for column in value if not column.isascii() and storable(column) != column), None)
        if unnamed is not None:  # a page that has it among its choices could not be sent
            said = _("the name of the column '{name}' holds half of a surrogate pair, which is no text")
            return BadRow(number, said.format(name=display_name(unnamed)))
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


def finite(value: Any) -> bool:
    """Whether a value is a number that one can compare: no truth value, no NaN, no infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < LARGEST_NUMBER  # an integer of 400 digits is too large for math.isfinite


def refuse_columns(columns: Sequence[str], name: str) -> None:
    """Raises UserError for more columns than are read, and for two of one name."""
    if len(columns) > MAXIMUM_COLUMNS:
        said = _("{name} has {count:,} columns; more than {maximum_columns:,} are not read.")
        raise UserError(said.format(name=name, count=len(columns), maximum_columns=MAXIMUM_COLUMNS))
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        said = _("{name} has two columns named '{display_name}'. Rename one.")
        raise UserError(said.format(name=name, display_name=display_name(twice)))
