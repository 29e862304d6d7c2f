"""What a file or a directory is, told by its first bytes or its name, and opened as that."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from annotation.imports.printable import display_name
from annotation.imports.sources import directories
from annotation.imports.sources.arrow_files import arrow_file
from annotation.imports.sources.byte_stream import GZIP, Stream, file_sha256
from annotation.imports.sources.directories import choose_split
from annotation.imports.sources.file_formats import format_of, what_can_be_imported
from annotation.imports.sources.raw_rows import ImportSource, RawRow
from annotation.records import UserError, explain_errors
from annotation.translation import N_, _, joined

ARCHIVE = b'{"format":"prefloop archive"'
# What has more than one NUL in so many bytes is no text: UTF-16 has one in two.
MOST_NUL = 16
# Where the first header of an archive has it, behind a name that is filled up with NUL.
TAR, TAR_AT = b"ustar", 257
# Encodings by how their texts begin; the mark of one begins with another's.
MARKED = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
UNPACKABLE = {
    b"PK\x03\x04": N_("{name} is a ZIP archive (an .xlsx workbook is one, too)."),
    b"PK\x05\x06": N_("{name} is an empty ZIP archive."),
    b"\xfd7zXZ\x00": N_("{name} is an XZ archive."),
    b"BZh": N_("{name} is a BZIP2 archive."),
    b"\x28\xb5\x2f\xfd": N_("{name} is a Zstandard archive."),
    b"7z\xbc\xaf\x27\x1c": N_("{name} is a 7z archive."),
    b"\x04\x22\x4d\x18": N_("{name} is an LZ4 archive."),
    b"Rar!": N_("{name} is a RAR archive."),
    b"SQLite format 3": N_("{name} is an SQLite database."),
    b"%PDF": N_("{name} is a PDF document."),
    b"\xd0\xcf\x11\xe0": N_("{name} is an old Office file, such as an .xls workbook."),
    b"\x89HDF": N_("{name} is an HDF5 file."),
    b"Obj\x01": N_("{name} is an Avro file."),
}


def open_path(path: Path, split: str | None = None, config: str | None = None) -> ImportSource:
    """What a file or a directory holds. Raises UserError where it is nothing that can be imported."""
    name = display_name(path.name or str(path))
    with explain_errors(_("{name} can't be read ({strerror}). Check the file and its permissions."), name=name):
        if path.is_dir():
            return dataset_directory(path, name, split, config)
        if not path.exists():
            said = _("There is no file {display_name}. Check the path.")
            raise UserError(said.format(display_name=display_name(str(path))))
        if not path.is_file():
            refused = _("{name} is no ordinary file (a device or a pipe). Import a file.").format(name=name)
            raise UserError(joined(refused, what_can_be_imported()))
        with path.open("rb") as file:
            head = file.read(4 * 1024)
    if not head:
        raise UserError(_("{name} is empty: 0 bytes. Nothing was imported.").format(name=name))
    packed = head.startswith(GZIP)
    if packed:
        with Stream(path, name) as stream:
            head = stream.read(4 * 1024)
    refuse_misplaced(name, head)
    known = format_of(path, head)
    if head.startswith(GZIP) or (packed and known is not None and known.mark):
        said = _("{name} is packed twice. Unpack it first; only text is read from a .gz file.")
        raise UserError(said.format(name=name))
    refuse_archives(name, head)
    if known is None or not known.mark:
        refuse_other_texts(name, head)
    if known is None:
        refused = _("{name} is of no known format. Name it after its format.").format(name=name)
        raise UserError(joined(refused, what_can_be_imported()))
    return known.opened(path, name)


def refuse_misplaced(name: str, head: bytes) -> None:
    """Raises UserError for what only stands for a file, and for an archive of our own, by its first bytes."""
    if head.startswith(LFS_POINTER):
        said = _(
            "{name} is only a pointer of Git LFS; the file itself was not fetched. Run `git lfs pull` where it "
            "lies, or download it from its page. Nothing was imported."
        )
        raise UserError(said.format(name=name))
    if head.startswith(ARCHIVE):
        said = _(
            "{name} is an archive of a whole Prefloop. It goes into a fresh data directory, on the command "
            "line: `python -m annotation restore FILE --data DIR`. Nothing was imported."
        )
        raise UserError(said.format(name=name))


def refuse_archives(name: str, head: bytes) -> None:
    """Raises UserError for what is known not to be importable, by its first bytes."""
    description = next((said for magic, said in UNPACKABLE.items() if head.startswith(magic)), "")
    if head.startswith(TAR, TAR_AT) and b"\x00" in head[:TAR_AT]:
        description = N_("{name} is a TAR archive.")
    if description:
        refused = _(description).format(name=name)
        raise UserError(joined(refused, _("Unpack or convert it first."), what_can_be_imported()))


def refuse_other_texts(name: str, head: bytes) -> None:
    """Raises UserError for what is no text, or none in UTF-8, by its first bytes."""
    mark = next((mark for mark in MARKED if head.startswith(mark)), None)
    if mark is not None:
        refused = _("{name} is {encoding}: it begins with the bytes {hex}.")
        refused = refused.format(name=name, encoding=MARKED[mark], hex=mark.hex(" "))
        raise UserError(joined(refused, _("Save the file as UTF-8; no other encoding is guessed.")))
    if head.count(b"\x00") * MOST_NUL > len(head):
        refused = _("{name} is no text: byte {at:,} is NUL.").format(name=name, at=head.index(b"\x00"))
        raise UserError(joined(refused, what_can_be_imported()))


def dataset_directory(path: Path, name: str, split: str | None, config: str | None) -> ImportSource:
    """A directory of `save_to_disk`, or one with data files as `load_dataset` has it (our own exports are such).

    The files are found and read here, never by `datasets`, which would follow all that a card names.
    Raises UserError if it is none, or has several splits and none is chosen.
    """
    saved = directories.saved_splits(path)
    if saved is not None:
        files = saved[""] if "" in saved else saved[choose_split(name, list(saved), split)]
        return in_turn(name, N_("saved dataset"), path, files, [arrow_file(file, name) for file in files])
    found = directories.find_splits(path, config)
    files = list(found.files[choose_split(name, list(found.files), split)])
    source = in_turn(name, N_("dataset directory"), path, files, [open_path(file) for file in files])
    return replace(source, unread=tuple(found.unread))


def in_turn(
    name: str, kind: str, directory: Path, files: Sequence[Path], parts: Sequence[ImportSource]
) -> ImportSource:
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
