"""A bad line is one bad row, and lines stay lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from annotation.imports.sources.raw_rows import BadRow
from tests.annotation.imports.sources.source_files import as_jsonl, read, values, write


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "not JSON: expecting property name"),
        (b'{"a": "x", "b": {"good": true, "good": false}}', "the key 'good' stands twice in an object"),
        (b'{"a": "x', "not JSON: unterminated string at character 7"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"a": 1}]', "must be an object with columns; found: a list"),
        (b'{"a\\ud800": "x"}', "the name of the column 'a\ufffd' holds half of a surrogate pair"),
        (b"12", "must be an object with columns; found: a number"),
        (b"null", "must be an object with columns; found: empty (null)"),
        (b'{"a": "caf\xe9"}', "byte 0xE9 at offset 21 of the file is not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "byte 0xED at offset 18"),
    ],
)
def test_a_bad_line_is_one_bad_row(tmp_path: Path, line: bytes, reason: str) -> None:
    first, bad, last = read(write(tmp_path, "a.jsonl", b'{"x": "y"}\n' + line + b'\n{"a": "b"}\n'))
    assert values([first, last]) == [{"x": "y"}, {"a": "b"}]
    assert isinstance(bad, BadRow)
    assert bad.number == 2
    assert reason in bad.reason


def test_lines_that_begin_with_a_list_stay_lines(tmp_path: Path) -> None:
    bad, row = read(write(tmp_path, "a.jsonl", b'["x"]\n{"a": "b"}\n'))
    assert isinstance(bad, BadRow)
    assert values([row]) == [{"a": "b"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_what_is_no_number_is_nothing(tmp_path: Path, name: str) -> None:
    """As Python writes a cell that is empty."""
    rows = [{"a": "x", "b": math.nan, "c": [math.inf, -math.inf]}]
    content = as_jsonl(rows) if name.endswith("l") else json.dumps(rows).encode()
    assert values(read(write(tmp_path, name, content))) == [{"a": "x", "b": None, "c": [None, None]}]
