"""Files to raw rows: every format, every way in which a file can be wrong, and arbitrary bytes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import random
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.imports import reading
from annotation.imports.reading import BadRow, RawRow, SourceRow, Unread, open_path
from annotation.records import UserError

PAIRS = [
    {"prompt": "Why is the sky blue?", "chosen": "Rayleigh.", "rejected": "Paint."},
    {"prompt": "Wie geht’s?", "chosen": "Gut 😀", "rejected": "Nö"},
    {"prompt": "=cmd|'/c calc'!A0", "chosen": 'two\nlines, and a "quote"', "rejected": "<script>alert(1)</script>"},
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


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


# ------------------------------------------------------------------------------------------------------- good files
@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv", as_csv(PAIRS), "CSV"),
        ("a.CSV", b"\xef\xbb\xbf" + as_csv(PAIRS), "CSV"),
        ("a.csv", as_csv(PAIRS, ";"), "CSV"),
        ("a.csv", b"\xef\xbb\xbfsep=|\r\n" + as_csv(PAIRS, "|"), "CSV"),
        ("a.tsv", as_csv(PAIRS, "\t"), "CSV"),
        ("a.csv.gz", packed(as_csv(PAIRS)), "CSV"),
        ("a.jsonl", as_jsonl(PAIRS), "JSON lines"),
        ("a.ndjson", b"\xef\xbb\xbf\n" + as_jsonl(PAIRS).replace(b"\n", b"\r\n\n"), "JSON lines"),
        ("a.jsonl.gz", packed(as_jsonl(PAIRS)), "JSON lines"),
        ("a.json", as_jsonl(PAIRS), "JSON lines"),
        ("data", as_jsonl(PAIRS), "JSON lines"),
        ("a.jsonl", json.dumps(PAIRS).encode(), "JSON"),
        ("a.jsonl", b"\xef\xbb\xbf\n" + json.dumps(PAIRS, indent=1).encode(), "JSON"),
        ("a.ndjson.gz", packed(json.dumps(PAIRS, indent=0).encode() + b"\n\n"), "JSON"),
        ("a.json", json.dumps(PAIRS, indent=2).encode(), "JSON"),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(PAIRS, ensure_ascii=False).encode(), "JSON"),
        ("a.json", json.dumps({"version": 2, "data": PAIRS, "more": {"x": []}}).encode(), "JSON"),
        ("a.json", json.dumps({"data": PAIRS}, indent=1).encode(), "JSON"),
        ("a.json.gz", packed(json.dumps(PAIRS).encode()), "JSON"),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    source = open_path(write(tmp_path, name, content))
    assert (source.format, source.name) == (kind, name)
    assert values(list(source.rows())) == PAIRS
    assert values(list(source.rows())) == PAIRS, "rows can be read again"
    assert source.share() == 1.0


def test_parquet_and_saved_datasets_give_the_same_rows(tmp_path: Path) -> None:
    import datasets

    assert values(read(save_parquet(tmp_path / "a.parquet"))) == PAIRS
    one = datasets.Dataset.from_list(PAIRS)
    one.save_to_disk(str(tmp_path / "one"))
    both = datasets.DatasetDict({"train": one, "test": one.select([1])})
    both.save_to_disk(str(tmp_path / "both"))
    assert values(read(tmp_path / "one")) == PAIRS
    assert values(read(tmp_path / "both", split="test")) == PAIRS[1:2]
    with pytest.raises(UserError, match=r"several splits\. Choose one of 'train', 'test'"):
        read(tmp_path / "both")
    with pytest.raises(UserError, match="no split 'dev'"):
        read(tmp_path / "both", split="dev")


def test_a_filtered_dataset_is_read_as_it_was_saved(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(PAIRS).select([2, 0]).save_to_disk(str(tmp_path / "some"))
    assert values(read(tmp_path / "some")) == [PAIRS[2], PAIRS[0]]


def test_numbers_that_stand_for_words_are_read_as_these(tmp_path: Path) -> None:
    """A label whose 0 is 'good' must not be taken for a bad answer's."""
    import datasets

    label = datasets.ClassLabel(names=["good", "bad"])
    inner = {"text": datasets.Value("string"), "label": label}
    features = {"prompt": datasets.Value("string"), "label": label, "votes": datasets.List(label), "one": inner}
    features["many"] = datasets.List(inner)
    told = [
        {"prompt": "p", "label": 0, "votes": [1, 0], "one": {"text": "x", "label": 1}},
        {"prompt": "q", "label": -1, "votes": None, "one": None},
    ]
    more = {"many": [{"text": "x", "label": 0}]}
    saved = datasets.Dataset.from_list([{**row, **more} for row in told], features=datasets.Features(features))
    saved.to_parquet(str(tmp_path / "files" / "a.parquet"))
    saved.save_to_disk(str(tmp_path / "saved"))
    rest = {"many": [{"text": "x", "label": "good"}]}
    expected = [
        {"prompt": "p", "label": "good", "votes": ["bad", "good"], "one": {"text": "x", "label": "bad"}, **rest},
        {"prompt": "q", "label": None, "votes": None, "one": None, **rest},
    ]
    streamed = reading.streamed_rows("a", str(tmp_path / "files"), None, None, str)
    for found in (values(read(tmp_path / "files")), values(read(tmp_path / "saved")), values(list(streamed()))):
        assert found == expected
    objects = {"_type": "Sequence", "feature": {"text": {}, "label": {"_type": "ClassLabel", "names": ["good", "bad"]}}}
    kept = {"text": ["x"], "label": [1]}
    assert reading.with_words(kept, objects) == {"text": ["x"], "label": ["bad"]}, "as earlier versions kept them"


def test_every_column_of_parquet_is_read_or_said_to_be_unread(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "when": pa.array([0], pa.timestamp("ns", "No/Where")),
            "raw": pa.array([b"\xff"]),
            "rating": pa.array([Decimal("4.50")]),
            "turns": pa.array([[{"role": "user", "content": "x", "when": datetime(1970, 1, 1), "cost": Decimal(1)}]]),
            "kind": pa.array(["a"]).dictionary_encode(),
            "extra": pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())),
            "picture": pa.array([[{"bytes": b"x"}]]),
        }
    )
    pq.write_table(table, str(tmp_path / "a.parquet"))
    assert values(read(tmp_path / "a.parquet")) == [
        {
            "when": 0,
            "raw": Unread("binary"),
            "rating": 4.5,
            "turns": [{"role": "user", "content": "x", "when": 0, "cost": 1.0}],
            "kind": "a",
            "extra": [{"key": "k", "value": "v"}],
            "picture": Unread("list<element: struct<bytes: binary>>"),
        }
    ]


@pytest.mark.parametrize("in_lists", [True, False])
def test_pictures_are_only_where_there_are_some(tmp_path: Path, in_lists: bool) -> None:
    """Of what is not read, the rows in which there is nothing come in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    held = [None, [], [None], [{"bytes": b"x", "path": None}], None, [{"bytes": None, "path": "a.png"}]]
    kind, name = (pa.list_(picture), "images") if in_lists else (picture, "image")
    array = pa.array(held if in_lists else [one[0] if one else None for one in held], kind)
    table = pa.table({"prompt": ["p"] * len(held), name: array, "views": pa.array([[b"x"]] * len(held))})
    pq.write_table(table, str(tmp_path / "a.parquet"), row_group_size=4)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    for file_name in ("a.parquet", "a.arrow"):
        rows = values(read(tmp_path / file_name))
        assert [type(row[name]) is Unread for row in rows] == [False, False, False, True, False, True]
        assert all(type(row["views"]) is Unread for row in rows)


def test_texts_as_polars_writes_them_are_read(tmp_path: Path) -> None:
    import pyarrow as pa

    texts = pa.array(["one", None, "three"], pa.string_view())
    table = pa.table({"prompt": texts, "turns": pa.array([["a"], [], ["b"]], pa.list_view(pa.string()))})
    sort = pa.DictionaryArray.from_arrays(pa.array([0, 0, 0], pa.uint8()), pa.array(["a"], pa.string_view()))
    whole = table.append_column("sort", sort).append_column("views", pa.array([["a"]] * 3, pa.list_view(texts.type)))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, whole.schema) as writer:
        writer.write_table(whole)
    left = {name: Unread(str(whole.schema.field(name).type)) for name in ("sort", "views")}
    assert values(read(tmp_path / "a.arrow")) == [{**row, **left} for row in table.to_pylist()]


@pytest.mark.parametrize("depth", [500, 5_000])
@pytest.mark.parametrize("told", ['{"prompt": %s}', "[%s]"])
def test_notes_of_any_depth_on_a_table_are_passed_over(depth: int, told: str) -> None:
    import pyarrow as pa

    notes = told % ('{"a":' * depth + "1" + "}" * depth)
    metadata = {b"huggingface": f'{{"info": {{"features": {notes}}}}}'.encode()}
    assert reading.column_types(pa.schema([("prompt", pa.string())], metadata), "a").labelled == {}


def test_what_stands_in_a_column_as_json_is_not_taken_for_its_text(tmp_path: Path) -> None:
    import pyarrow as pa

    told = pa.array(['"Say \\"hi\\""'], pa.json_())
    table = pa.table({"prompt": ["x"], "answer": told})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    (row,) = values(read(tmp_path / "a.arrow"))
    assert (row["prompt"], type(row["answer"])) == ("x", Unread)


def test_streamed_rows_without_known_types_may_differ_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Part(list[Any]):
        features = None

    rows = [{"a": None}, {"a": "x"}, {"a": 1}]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: {"train": Part(rows)})
    found = reading.streamed_rows("a set", "somewhere", None, "train", str)
    assert values(list(found())) == rows


def test_names_with_dots_hide_no_pictures(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": pa.array([{"bytes": b"x" * 999}]), "image.name": ["a"]})
    pq.write_table(table, str(tmp_path / "a.parquet"))
    (row,) = values(read(tmp_path / "a.parquet"))
    assert (type(row["image"]), row["image.name"]) == (Unread, "a")


def test_streamed_pictures_are_only_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"prompt": datasets.Value("string"), "image": datasets.Image()})
    saved = datasets.Dataset.from_dict({"prompt": ["p", "q"], "image": [None, {"bytes": b"x", "path": None}]}, features)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: {"train": saved.to_iterable_dataset()})
    rows = values(list(reading.streamed_rows("a set", "somewhere", None, "train", str)()))
    assert [type(row["image"]) is Unread for row in rows] == [False, True]


@pytest.mark.parametrize("names", [["prompt", "chosen", "rejected", "chosen"], [str(n) for n in range(1001)]])
def test_columns_that_cannot_be_told_apart_or_counted_are_refused(tmp_path: Path, names: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([pa.array(["x"])] * len(names), names=names)
    pq.write_table(table, str(tmp_path / "a.parquet"))
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        with pytest.raises(UserError, match=r"two columns named 'chosen'|1,001 columns; more than 1,000"):
            read(tmp_path / name)


def test_what_says_one_thing_twice_is_read(tmp_path: Path) -> None:
    """One key of an object; or an end of a line, as Python writes it on Windows where it is told nothing of lines."""
    assert values(read(write(tmp_path, "a.jsonl", b'{"a": 1, "b": 2, "a": 1}\n'))) == [{"a": 1, "b": 2}]
    assert values(read(write(tmp_path, "a.csv", b"a,b\r\r\n1,2\r\r\n"))) == [{"a": "1", "b": "2"}]


def test_rows_are_numbered_as_people_look_them_up(tmp_path: Path) -> None:
    spreadsheet = read(write(tmp_path, "a.csv", b'prompt\n"one\nin two lines"\ntwo\n'))
    lines = read(write(tmp_path, "a.jsonl", b'{"a": 1}\n\n{"a": 2}\n'))
    elements = read(write(tmp_path, "a.json", b'[{"a": 1}, {"a": 2}]'))
    assert [[row.number for row in rows] for rows in (spreadsheet, lines, elements)] == [[2, 3], [1, 3], [1, 2]]


@given(st.lists(VALUES.map(lambda value: {"x": value, "y": "é" * 3}), max_size=5), st.integers(3, 60), st.booleans())
@settings(max_examples=50)
def test_json_read_in_pieces_is_what_json_loads_reads_at_once(rows: list[Any], chunk: int, wrapped: bool) -> None:
    content: Any = {"first": [] if not rows else "no list", "data": rows} if wrapped else rows
    if wrapped and not rows:
        content = {"first": {"deep": [1]}, "data": rows}
    text = json.dumps(content, ensure_ascii=False, indent=chunk % 3 or None).encode()
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "CHUNK", chunk)
        path = write(Path(directory), "a.json", text)
        source = reading.from_stream(path, "a", "JSON", "", reading.json_rows)
        assert values(list(source.rows())) == rows


# -------------------------------------------------------------------------------------------------------- bad rows
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "not JSON: expecting property name"),
        (b'{"a": "x", "b": {"good": true, "good": false}}', "the key 'good' stands twice in an object"),
        (b'{"a": "x', "not JSON: unterminated string at character 7"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"a": 1}]', "must be an object with columns; found: a list"),
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


def test_a_text_that_is_not_utf8_in_parquet_is_one_bad_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"fine", b"caf\xe9", b"good"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": texts}), str(tmp_path / "a.parquet"))
    first, bad, last = read(tmp_path / "a.parquet")
    assert values([first, last]) == [{"prompt": "fine"}, {"prompt": "good"}]
    assert bad == BadRow(2, "a text holds the byte 0xE9, which is not UTF-8")


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
    assert peak < 3 * reading.MAXIMUM_LINE


# --------------------------------------------------------------------------------------------------- refused as a whole
def zipped() -> bytes:
    """A ZIP archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("../../etc/passwd"), "x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty: 0 bytes"),
        ("a.csv", b"\n\n", "there is no header"),
        ("a.csv", b"\xef\xbb\xbf", "there is no header"),
        ("a.csv", b"a,b,a\n1,2,3\n", "two columns named 'a'"),
        ("a.csv", b"a,b\r1,2\r3,4\r", "ends its lines as old Macs do, with CR alone"),
        ("a.json", b'[{"a": "x"}, {"a": "y", "a": "z"}]', "at element 2: the key 'a' stands twice in an object"),
        ("a.csv", b"caf\xe9,b\n1,2\n", "byte 0xE9 at offset 3"),
        ("a.csv", b'a,b\n1,2\n"open,3\n4,5\n', r"a quote that opens in row 3 \(line 3\) is not closed"),
        ("a.csv", b'a\n"' + b"x\n" * 600_000, "longer than 1,000,000 characters"),
        ("a.csv", "prompt\nä\n".encode("utf-16"), "UTF-16: it begins with the bytes ff fe"),
        ("a.csv", "prompt\nä\n".encode("utf-16-le"), "byte 1 is NUL"),
        ("a.xlsx", zipped(), "ZIP archive"),
        ("a.jsonl", zipped(), "ZIP archive"),
        ("a.csv.gz", packed(zipped()), "ZIP archive"),
        ("a.gz", packed(packed(b"a,b\n")), "packed twice"),
        ("a.jsonl.gz", packed(as_jsonl(PAIRS * 9000))[:-40], "damaged after"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00nonsense", "damaged"),
        ("a.db", b"SQLite format 3\x00", "SQLite database"),
        ("a.txt", b"just words", "no known format. Name it after its format"),
        ("a.json", b"just words", "begins with neither"),
        ("a.json", b'[{"a": 1}, {"b": }]', "not JSON at element 2: expecting value"),
        ("a.json", b'[{"a": 1} {"b": 2}]', r"'\{' after element 1, where ',' or '\]' belongs"),
        ("a.json", b'[{"a": 1},', "not JSON at element 2"),
        ("a.json", b'[{"a": 1}', r"ends where ',' or '\]' belongs"),
        ("a.json", b'{\n"a" 1}', "'1' after the key 'a', where ':' belongs"),
        ("a.json", b'{\n"a": 1 "b": 2}', "'\"' after the value of 'a', where ',' or '}' belongs"),
        ("a.json", b'{\n"a": }', "not JSON beside its list of rows: expecting value"),
        ("a.json", b'[{"a": 1}] trailing', "goes on after the end"),
        ("a.json", b"[" + b"[" * 100_000, "nested too deeply at element 1"),
        ("a.json", b'[{"a": "caf\xe9"}]', "byte 0xE9 at offset 11"),
        ("a.json", b'{\n"a": [1],\n"b": [2]}', "several lists"),
        ("a.json", b'{\n"a": 1}', "no list of rows"),
        ("a.json", b'{\n1: 2}', "a key must be text. Found: a number"),
        ("a.parquet", b"PAR1" + b"x" * 100, "no readable Parquet"),
        ("raw.jsonl", b'{"format":"prefloop archive","version":1}\n', "annotation restore"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_refused_in_a_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, name, content))


def test_paths_that_lead_to_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "none.csv", "no file"),
        (tmp_path / "empty", "holds no dataset"),
        (Path("/dev/null"), "no ordinary file"),
    ):
        with pytest.raises(UserError, match=message):
            open_path(path)


@pytest.mark.parametrize("name", ["a.tsv", "a.tab", "a.TSV.gz"])
def test_a_file_named_after_tabs_has_nothing_else_between_its_fields(tmp_path: Path, name: str) -> None:
    content = b"prompt\nHello, world; and more\n"
    path = write(tmp_path, name, packed(content) if name.endswith(".gz") else content)
    assert values(read(path)) == [{"prompt": "Hello, world; and more"}]


def test_a_file_named_after_tabs_may_have_commas_all_the_same(tmp_path: Path) -> None:
    assert values(read(write(tmp_path, "a.tsv", b'prompt,"a\tb"\nq,x\n'))) == [{"prompt": "q", "a\tb": "x"}]
    assert values(read(write(tmp_path, "b.tsv", b"prompt\ta, b, c\nq\tx\n"))) == [{"prompt": "q", "a, b, c": "x"}]


def test_names_are_shown_without_separators_and_control_characters(tmp_path: Path) -> None:
    source = open_path(write(tmp_path, "..\\..\x1b[2J\u202egnp.csv", b"prompt\nx\n"))
    assert source.name == "..\\..\ufffd[2J\ufffdgnp.csv"
    assert "/" not in open_path(tmp_path / "." / source_name(tmp_path)).name


def source_name(directory: Path) -> str:
    """The one file's name, with a detour."""
    return f"../{directory.name}/{next(directory.iterdir()).name}"


def test_a_bomb_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAXIMUM_BYTES", 50 * 2**20)
    path = write(tmp_path, "a.jsonl.gz", packed(b'{"a": "' + b"x" * (60 * 2**20)))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(UserError, match=r"of text\. Split it"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 3 * reading.MAXIMUM_LINE
    tracemalloc.stop()


def test_a_parquet_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["x" * 2**20] * 40}), str(path), use_dictionary=False, compression="zstd")
    monkeypatch.setattr(reading, "MAXIMUM_ROW_GROUP", 30 * 2**20)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="unpacks to 40 MB in one row group"):
        open_path(path)


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "-x/y", "https://x/y", "a b", "x\n"])
def test_a_name_that_no_dataset_has_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(UserError, match="no name of a dataset"):
        reading.hub_dataset(name)


# -------------------------------------------------------------------------------------------------------- arbitrary
def never_more_than_a_user_error(name: str, content: bytes) -> None:
    """Read what may be anything: rows, or the one error that people are shown."""
    with tempfile.TemporaryDirectory() as directory:
        path = write(Path(directory), name, content)
        with suppress(UserError):
            rows = read(path)
            assert all(isinstance(row, (SourceRow, BadRow)) for row in rows)


NAMES = st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a", "a.csv.gz", "a.jsonl.gz", "a.parquet", "a.gz"])
PIECES = (
    *(b'{"a": 1}', b"[", b"]", b"{", b"}", b",", b":", b'"', b"\n", b"\r", b"\x00", b"a,b", b"null", b"1e999", b"\\u"),
    *(b"\\ud800", b"\xff", b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80", b"PAR1", b"\x1f\x8b", b"\t", b";", b"'", b"NaN", b"-"),
)
SNIPPETS = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


@given(NAMES, st.binary(max_size=300) | SNIPPETS)
@settings(max_examples=400)
def test_arbitrary_bytes_give_rows_or_the_error_for_people(name: str, content: bytes) -> None:
    never_more_than_a_user_error(name, content)
    never_more_than_a_user_error(name, packed(content))


@pytest.fixture(scope="module")
def good_files() -> dict[str, bytes]:
    """A sound file of each format, to be damaged."""
    with tempfile.TemporaryDirectory() as directory:
        parquet = save_parquet(Path(directory) / "a.parquet").read_bytes()
    return {
        "a.csv": as_csv(PAIRS),
        "a.jsonl": as_jsonl(PAIRS),
        "a.json": json.dumps(PAIRS).encode(),
        "a.jsonl.gz": packed(as_jsonl(PAIRS)),
        "a.parquet": parquet,
    }


MUTATIONS: tuple[Callable[[random.Random, bytearray, int], None], ...] = (
    lambda source, content, at: content.__setitem__(at, source.randrange(256)),
    lambda source, content, at: content.__delitem__(slice(at, None)),
    lambda source, content, at: content.__setitem__(slice(at, at), source.randbytes(source.randrange(1, 9))),
)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"])
def test_damaged_files_give_rows_or_the_error_for_people(good_files: dict[str, bytes], name: str) -> None:
    source = random.Random(name)
    for _ in range(150):
        content = bytearray(good_files[name])
        for _ in range(source.randint(1, 3)):
            source.choice(MUTATIONS)(source, content, source.randrange(len(content) or 1))
            content = content or bytearray(b"x")
        never_more_than_a_user_error(name, bytes(content))


# --------------------------------------------------------------------------------------------------------- directories
def directory(tmp_path: Path, files: dict[str, bytes | str], card: str = "") -> Path:
    """A dataset directory beside a file that is nobody's business."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "secret.jsonl").write_bytes(as_jsonl([{"prompt": "secret"}]))
    for name, content in {**files, **({"README.md": f"---\n{card}\n---\n# Mine\n"} if card else {})}.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / "mine"


INSIDE = as_jsonl(PAIRS)


def named(pattern: str, key: str = "data_files") -> str:
    """A card with one configuration."""
    return f"configs:\n- config_name: default\n  {key}: {json.dumps(pattern)}"


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "{outside}",
            "{outside}*",
            "../secret.jsonl",
            "data/../../secret.jsonl",
            "./../secret.jsonl",
            "~/secret.jsonl",
        ),
        *(
            "file://{outside}",
            "reference://x.txt::{mine}/refs.json",
            "zip://x::{outside}",
            "http://127.0.0.1:9/x.jsonl",
        ),
        *("https://127.0.0.1:9/x", "hf://datasets/a/b", "local://{outside}", "simplecache::file://{outside}", "C:\\x"),
        *("..\\secret.jsonl", "..", "/", "train.jsonl::{outside}", "link.jsonl", "gone.jsonl", "linked/secret.jsonl"),
        *("none*.jsonl", "README.md", ".hidden.jsonl"),
    ],
)
@pytest.mark.parametrize("key", ["data_files", "data_dir", "paths", "standalone"])
def test_no_card_leads_out_of_its_directory(tmp_path: Path, pattern: str, key: str) -> None:
    path = directory(
        tmp_path, {"train.jsonl": INSIDE, "refs.json": '{"version": 1, "refs": {"x.txt": ["/etc/passwd"]}}'}
    )
    (path / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    (path / "linked").symlink_to(tmp_path)
    told = pattern.format(outside=tmp_path / "secret.jsonl", mine=path)
    card = named(told, "data_dir" if key == "data_dir" else "data_files")
    if key == "paths":
        card = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: [{json.dumps(told)}]"
    (path / ".huggingface.yaml" if key == "standalone" else path / "README.md").write_text(
        card if key == "standalone" else f"---\n{card}\n---\n"
    )
    with pytest.raises(UserError) as refusal:
        read(path)
    assert 'secret"' not in str(refusal.value)


@pytest.mark.parametrize("state", ["state.json", "dataset_dict.json", "README.md"])
def test_a_description_that_is_a_link_is_not_followed(tmp_path: Path, state: str) -> None:
    path = directory(tmp_path, {"train.jsonl": INSIDE})
    (tmp_path / "elsewhere").write_text('{"splits": ["x"], "_data_files": []}')
    (path / state).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="link that leads out"):
        read(path)


def test_saved_datasets_name_no_files_outside(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"prompt": "secret"}]).save_to_disk(str(tmp_path / "other"))
    outside = next((tmp_path / "other").glob("*.arrow"))
    for name in (str(outside), f"../other/{outside.name}", "link.arrow", "x://y", "..", "", None, 7):
        path = directory(
            tmp_path / f"file {name!r}".replace("/", "_"),
            {"state.json": json.dumps({"_data_files": [{"filename": name}]})},
        )
        (path / "link.arrow").symlink_to(outside)
        with pytest.raises(UserError):
            read(path)
    for splits in (["../../other"], [str(tmp_path / "other")], "x", [1], [".."], None, ["linked"]):
        path = directory(
            tmp_path / f"splits {splits!r}".replace("/", "_"), {"dataset_dict.json": json.dumps({"splits": splits})}
        )
        (path / "linked").symlink_to(tmp_path / "other")
        with pytest.raises(UserError):
            read(path, split=splits[0] if isinstance(splits, list) and isinstance(splits[0], str) else None)


def test_directories_are_read_as_load_dataset_lays_them_out(tmp_path: Path) -> None:
    one, two = as_jsonl(PAIRS[:1]), as_jsonl(PAIRS[1:])
    plain = directory(
        tmp_path / "1", {"a.jsonl": one, "sub/b.jsonl": two, "notes.txt": "x", "dataset_infos.json": "{}"}
    )
    assert values(read(plain)) == PAIRS
    named_by_file = directory(tmp_path / "2", {"train.jsonl": one, "my_test.jsonl": two, "validation/x.jsonl": one})
    assert values(read(named_by_file, split="test")) == PAIRS[1:]
    with pytest.raises(UserError, match="Choose one of 'test', 'train', 'validation'"):
        read(named_by_file)
    shards = directory(tmp_path / "3", {"data/odd-00000-of-00002.jsonl": one, "data/odd-00001-of-00002.jsonl": two})
    assert values(read(shards)) == PAIRS
    assert [row.number for row in read(shards)] == [1, 2, 3]
    told = directory(
        tmp_path / "4", {"x/a.jsonl": one, "x/b.jsonl.gz": packed(two), "c.jsonl": one}, named("x/*.jsonl*")
    )
    assert values(read(told)) == PAIRS
    assert open_path(told).unread == ("c.jsonl",)
    inside = directory(tmp_path / "5", {"x/a.jsonl": one, "c.jsonl": two}, named("x", "data_dir"))
    assert values(read(inside)) == PAIRS[:1]
    several = "configs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n  data_files: '**/b.jsonl'"
    both = directory(tmp_path / "6", {"a.jsonl": one, "deep/er/b.jsonl": two, "b.jsonl": b""}, several)
    assert values(read(both, config="a")) == PAIRS[:1]
    with pytest.raises(UserError, match="Choose one of 'a', 'b' under “Configuration”"):
        read(both)
    with pytest.raises(UserError, match="has no configuration 'c'"):
        read(both, config="c")
    with pytest.raises(UserError, match="has no configurations; leave “Configuration” empty"):
        read(directory(tmp_path / "7", {"a.jsonl": one}), config="c")


def test_files_in_a_snapshot_of_the_hubs_cache_are_links_to_its_blobs(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "datasets--a--b" / "blobs", tmp_path / "datasets--a--b" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "abc").write_bytes(INSIDE)
    (snapshot / "train.jsonl").symlink_to("../../blobs/abc")
    assert values(read(snapshot)) == PAIRS


@pytest.mark.parametrize(
    "card",
    ["configs: 7", "configs: [7]", "configs:\n- config_name: default\n  data_files: {a: b}", "a: [", "d: 2026-99-99"],
)
def test_a_card_that_nobody_understands_gives_rows_or_a_sentence(tmp_path: Path, card: str) -> None:
    with suppress(UserError):
        assert values(read(directory(tmp_path, {"train.jsonl": INSIDE}, card))) == PAIRS


def test_a_directory_of_devices_ends_in_a_sentence(tmp_path: Path) -> None:
    path = directory(tmp_path, {"x.jsonl": INSIDE})
    os.mkfifo(path / "a.jsonl")
    with pytest.raises(UserError, match="no ordinary file"):
        read(path)
    (path / "a.jsonl").unlink()
    (path / "a.jsonl").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="leads out of the directory"):
        read(path)
