"""The bytes of a file: unpacked, in lines and chunks of bounded size, and never more than can be meant."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import IO, Final

from annotation.imports.sources.raw_rows import ImportSource, RawRow
from annotation.records import UserError, explain_errors
from annotation.translation import _

MEGABYTE = 1024 * 1024
# One line and one element of a JSON list may be this long; what is longer is never loaded.
MAXIMUM_LINE = 16 * MEGABYTE

# What a file may come to once it is unpacked: a bomb of zeros ends here.
MAXIMUM_BYTES = 8 * 1024 * MEGABYTE

CHUNK = MEGABYTE

GZIP = b"\x1f\x8b"
PACKED_ENDINGS: Final = (".gz", ".gzip")


def ending(path: str) -> str:
    """The ending that says a file's format, without that of its packing."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in PACKED_ENDINGS), "")


class Stream:
    """The bytes of a text file, unpacked if it is gzip; lines and chunks of bounded size, and how far it has got."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.given = 0
        with explain_errors(_("{name} can't be read ({strerror})."), name=name):
            self.file = path.open("rb")
            self.size = os.fstat(self.file.fileno()).st_size
            packed = self.file.peek(2)[:2] == GZIP
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
            said = _("{name} is damaged after {given:,} bytes ({error}). Nothing was imported.")
            raise UserError(said.format(name=self.name, given=self.given, error=error)) from error
        self.given += len(chunk)
        if self.given > MAXIMUM_BYTES:
            limit = MAXIMUM_BYTES // (1024 * MEGABYTE)
            said = _("{name} holds more than {limit} GB of text. Split it into smaller files.")
            raise UserError(said.format(name=self.name, limit=limit))
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


def wrong_byte(error: UnicodeDecodeError, start: int = 0) -> str:
    """Which byte is not UTF-8, counted from the start of the file, and what helps."""
    return _(
        "byte 0x{byte:02X} at offset {start:,} of the file is not UTF-8. Save the file as UTF-8; no other encoding is "
        "guessed."
    ).format(byte=error.object[error.start], start=start + error.start)


def file_sha256(path: Path, name: str) -> str:
    sentence = _("{name} can't be read any more ({strerror}). Nothing was imported.")
    with explain_errors(sentence, name=name), path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
