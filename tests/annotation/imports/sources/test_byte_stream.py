"""What is read of a file stays within bounds, whatever it holds."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from annotation.imports.sources import byte_stream
from annotation.imports.sources.raw_rows import BadRow, SourceRow
from annotation.records import UserError
from tests.annotation.imports.sources.source_files import packed, read, write


def test_a_line_of_a_quarter_of_a_gigabyte_is_skipped_without_being_loaded(tmp_path: Path) -> None:
    """The file is sparse: zeros that take no place on the disk, five times as many as may be in memory."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "one"}\n{"prompt": "' + b"x" * 10_000)
        file.truncate(2**28)
        file.seek(0, os.SEEK_END)
        file.write(b'"}\n{"prompt": "two"}\n')
    tracemalloc.start()
    rows = read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == [
        SourceRow(1, {"prompt": "one"}),
        BadRow(2, "the line is longer than 16 MB"),
        SourceRow(3, {"prompt": "two"}),
    ]
    assert peak < 3 * byte_stream.MAXIMUM_LINE


def test_a_bomb_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_stream, "MAXIMUM_BYTES", 50 * 2**20)
    path = write(tmp_path, "a.jsonl.gz", packed(b'{"a": "' + b"x" * (60 * 2**20)))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(UserError, match=r"of text\. Split it"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * byte_stream.MAXIMUM_LINE
    tracemalloc.stop()
