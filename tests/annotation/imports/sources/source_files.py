"""Files of every format with the same rows, and what is read from them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

from annotation.imports.sources.opening import open_path
from annotation.imports.sources.raw_rows import RawRow, SourceRow

PAIRS = [
    {"prompt": "Why is the sky blue?", "chosen": "Rayleigh.", "rejected": "Paint."},
    {"prompt": "Wie geht’s?", "chosen": "Gut 😀", "rejected": "Nö"},
    {"prompt": "=cmd|'/c calc'!A0", "chosen": 'two\nlines, and a "quote"', "rejected": "<script>alert(1)</script>"},
]


def write(directory: Path, name: str, content: bytes) -> Path:
    """A file with this content."""
    path = directory / name
    path.write_bytes(content)
    return path


def read(path: Path, **more: Any) -> list[RawRow]:
    """All rows of a file."""
    return list(open_path(path, **more).rows())


def values(rows: list[RawRow]) -> list[Any]:
    """What good rows hold; a bad one fails the test."""
    assert all(isinstance(row, SourceRow) for row in rows), rows
    return [dict(row.values) for row in rows if isinstance(row, SourceRow)]


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> bytes:
    """Rows as a spreadsheet saves them."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_jsonl(rows: list[Any]) -> bytes:
    """A value a line."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def packed(content: bytes) -> bytes:
    """As gzip packs it, without the time: cases are named by their content, in each process that runs tests alike."""
    return gzip.compress(content, mtime=0)


def save_parquet(path: Path) -> Path:
    """The pairs as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(PAIRS), str(path), row_group_size=2)
    return path
