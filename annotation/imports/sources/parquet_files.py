"""Parquet files: read in small pieces, refused where they unpack to more than can be meant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from annotation.imports.printable import first_line
from annotation.imports.sources.arrow_tables import BATCH_ROWS, arrow_rows, column_types
from annotation.imports.sources.byte_stream import CHUNK, MAXIMUM_BYTES, MEGABYTE, file_sha256
from annotation.imports.sources.raw_rows import ImportSource, RawRow
from annotation.records import UserError
from annotation.translation import _

PARQUET = b"PAR1"
MAXIMUM_ROW_GROUP = 1024 * MEGABYTE


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
        said = _("{name} is no readable Parquet file ({first_line}).")
        raise UserError(said.format(name=name, first_line=first_line(error))) from error
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
            said = _("{name} is damaged after row {done:,} ({first_line}). Nothing was imported.")
            raise UserError(said.format(name=name, done=done[0], first_line=first_line(error))) from error

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
