"""Rows that do not fit, and what stands between fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from annotation.imports.sources.raw_rows import BadRow, SourceRow
from tests.annotation.imports.sources.source_files import packed, read, values, write


def test_a_csv_row_that_does_not_fit_is_a_bad_row(tmp_path: Path) -> None:
    content = b'prompt,answer\na,b\nonly\nx,y,z\n\n"a"b,c\n"caf\xe9","d\ne"\nlast,one\n'
    rows = read(write(tmp_path, "a.csv", content))
    assert [(row.number, row.reason) for row in rows if isinstance(row, BadRow)] == [
        (3, "the row has 1 field, but the header has 2"),
        (4, "the row has 3 fields, but the header has 2"),
        (6, "the row is not CSV: ',' expected after '\"'"),
        (
            7,
            f"byte 0xE9 at offset {content.index(0xE9)} of the file is not UTF-8. Save the file as UTF-8; "
            "no other encoding is guessed.",
        ),
    ]
    assert values([row for row in rows if isinstance(row, SourceRow)]) == [
        {"prompt": "a", "answer": "b"},
        {"prompt": "last", "answer": "one"},
    ]


def test_rows_of_empty_cells_are_passed_over_as_empty_lines_are(tmp_path: Path) -> None:
    """Spreadsheets write them below a table of which rows were cleared."""
    rows = read(write(tmp_path, "a.csv", b"prompt,answer,\na,b,\n,,\n\n , ,\n,\nc,,\n,,\n"))
    assert [(row.number, *row.values.values()) for row in rows if isinstance(row, SourceRow)] == [
        (2, "a", "b", ""),
        (7, "c", "", ""),
    ]
    assert len(rows) == 2


@pytest.mark.parametrize("name", ["a.tsv", "a.tab", "a.TSV.gz"])
def test_a_file_named_after_tabs_has_nothing_else_between_its_fields(tmp_path: Path, name: str) -> None:
    content = b"prompt\nHello, world; and more\n"
    path = write(tmp_path, name, packed(content) if name.endswith(".gz") else content)
    assert values(read(path)) == [{"prompt": "Hello, world; and more"}]


def test_a_file_named_after_tabs_may_have_commas_all_the_same(tmp_path: Path) -> None:
    assert values(read(write(tmp_path, "a.tsv", b'prompt,"a\tb"\nq,x\n'))) == [{"prompt": "q", "a\tb": "x"}]
    assert values(read(write(tmp_path, "b.tsv", b"prompt\ta, b, c\nq\tx\n"))) == [{"prompt": "q", "a, b, c": "x"}]
