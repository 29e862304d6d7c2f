"""Parquet files: which part of a column is read, and bombs."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotation.imports.sources import parquet_files
from annotation.imports.sources.opening import open_path
from annotation.imports.sources.raw_rows import Unread
from annotation.records import UserError
from tests.annotation.imports.sources.source_files import read, values


def test_names_with_dots_hide_no_pictures(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": pa.array([{"bytes": b"x" * 999}]), "image.name": ["a"]})
    pq.write_table(table, str(tmp_path / "a.parquet"))
    (row,) = values(read(tmp_path / "a.parquet"))
    assert (type(row["image"]), row["image.name"]) == (Unread, "a")


def test_a_parquet_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["x" * 2**20] * 40}), str(path), use_dictionary=False, compression="zstd")
    monkeypatch.setattr(parquet_files, "MAXIMUM_ROW_GROUP", 30 * 2**20)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="unpacks to 40 MB in one row group"):
        open_path(path)
