"""Arrow files, as `datasets` saves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotation.imports.printable import first_line
from annotation.imports.sources.arrow_tables import BATCH_ROWS, arrow_rows, column_types
from annotation.imports.sources.byte_stream import file_sha256
from annotation.imports.sources.raw_rows import ImportSource, RawRow
from annotation.records import UserError
from annotation.translation import _

ARROW = b"ARROW1"


def arrow_file(path: Path, name: str) -> ImportSource:
    """A file of Arrow's streaming or file format, as `datasets` writes them. Raises UserError for a damaged one."""
    import pyarrow as pa

    def rows() -> Iterator[RawRow]:
        number = 0
        try:
            with pa.memory_map(str(path)) as file:
                for batch in batches(file):
                    refuse_lies(batch)
                    types = column_types(batch.schema, name)
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        part = batch.slice(start, BATCH_ROWS)
                        yield from arrow_rows(part, types, number)
                        number += part.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            said = _("{name} is damaged after row {number:,} ({first_line}). Nothing was imported.")
            raise UserError(said.format(name=name, number=number, first_line=first_line(error))) from error

    return ImportSource(name, "Arrow", _("rows from 1"), rows, checksum=lambda: file_sha256(path, name))


def refuse_lies(batch: Any) -> None:
    """Raises ArrowInvalid where places in a batch lie outside of it: what is there is read as it is, or kills.

    Whether a text is UTF-8 is a matter of its row.
    """
    import pyarrow as pa

    as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    for column in batch.columns:
        kind = as_bytes.get(column.type)
        (column if kind is None else column.view(kind)).validate(full=True)


def batches(file: Any) -> Iterator[Any]:
    """The record batches of an Arrow file, whichever of the two formats it has."""
    import pyarrow as pa

    if file.read(len(ARROW)) == ARROW:
        reader = pa.ipc.open_file(file)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        file.seek(0)
        yield from pa.ipc.open_stream(file)
