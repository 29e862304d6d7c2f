"""What is read in pieces is what is read at once."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.imports.sources import byte_stream, json_lists
from tests.annotation.imports.sources.source_files import values, write

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(VALUES.map(lambda value: {"x": value, "y": "é" * 3}), max_size=5), st.integers(3, 60), st.booleans())
@settings(max_examples=50)
def test_json_read_in_pieces_is_what_json_loads_reads_at_once(rows: list[Any], chunk: int, wrapped: bool) -> None:
    content: Any = {"first": [] if not rows else "no list", "data": rows} if wrapped else rows
    if wrapped and not rows:
        content = {"first": {"deep": [1]}, "data": rows}
    text = json.dumps(content, ensure_ascii=False, indent=chunk % 3 or None).encode()
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, "CHUNK", chunk)
        path = write(Path(directory), "a.json", text)
        source = byte_stream.from_stream(path, "a", "JSON", "", json_lists.json_rows)
        assert values(list(source.rows())) == rows
