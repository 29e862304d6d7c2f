"""Columns of every type, and the words for which numbers stand."""

from __future__ import annotations

import struct
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from annotation.imports.sources import arrow_tables, hub_datasets
from annotation.imports.sources.raw_rows import BadRow, Unread
from annotation.records import UserError
from tests.annotation.imports.sources.source_files import read, values


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
    streamed = hub_datasets.streamed_rows("a", str(tmp_path / "files"), None, None, str)
    for found in (values(read(tmp_path / "files")), values(read(tmp_path / "saved")), values(list(streamed()))):
        assert found == expected
    objects = {"_type": "Sequence", "feature": {"text": {}, "label": {"_type": "ClassLabel", "names": ["good", "bad"]}}}
    kept = {"text": ["x"], "label": [1]}
    assert arrow_tables.with_words(kept, objects) == {"text": ["x"], "label": ["bad"]}, "as earlier versions kept them"


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


def test_a_number_that_is_none_stands_where_there_is_nothing_as_in_json(tmp_path: Path) -> None:
    """pandas writes NaN where a score is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = [1.5, None, float("nan"), float("inf")]
    kinds = {"half": pa.float16(), "single": pa.float32(), "double": pa.float64()}
    columns = {name: pa.array(numbers, kind) for name, kind in kinds.items()}
    pq.write_table(pa.table({**columns, "whole": [1, 2, None, 4]}), tmp_path / "a.parquet")
    found = values(read(tmp_path / "a.parquet"))
    assert [row["whole"] for row in found] == [1, 2, None, 4]
    for name in kinds:
        assert [row[name] for row in found] == [1.5, None, None, None], name


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
    assert arrow_tables.column_types(pa.schema([("prompt", pa.string())], metadata), "a").labelled == {}


def test_what_datasets_keeps_as_json_is_read_as_what_it_says(tmp_path: Path) -> None:
    """Texts and lists in one column, at any depth, as where some messages have parts."""
    import datasets

    kinds = {"role": datasets.Value("string"), "content": datasets.Json()}
    features = {"messages": datasets.List(kinds), "winner": datasets.Json(), "many": datasets.List(datasets.Json())}
    rows: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": 'Say "hi"'}], "winner": 1, "many": [{"a": 1}, None, "x"]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}], "winner": "a", "many": None},
    ]
    saved = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    saved.to_parquet(tmp_path / "a.parquet")
    saved.save_to_disk(tmp_path / "saved")
    for name in ("a.parquet", "saved"):
        assert values(read(tmp_path / name)) == rows


def test_json_is_read_beside_lists_that_have_a_type_of_their_own(tmp_path: Path) -> None:
    import datasets

    features = {"one": {"told": datasets.Json(), "table": datasets.Array2D((1, 2), "int32")}}
    rows = [{"one": {"told": {"a": 1}, "table": [[1, 2]]}}]
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).save_to_disk(tmp_path / "saved")
    assert values(read(tmp_path / "saved")) == rows


def test_an_arrow_file_whose_texts_end_before_they_begin_is_damaged(tmp_path: Path) -> None:
    """Such places in a file are read as they are: the process could be killed by it."""
    import pyarrow as pa

    table = pa.table({"prompt": ["Say A.", "Say B."]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    whole = (tmp_path / "a.arrow").read_bytes()
    begins, lies = struct.pack("<3i", 0, 6, 12), struct.pack("<3i", 0, 12, 6)
    assert whole.count(begins) == 1
    (tmp_path / "a.arrow").write_bytes(whole.replace(begins, lies))
    with pytest.raises(UserError, match=r"a\.arrow is damaged after row 0 \(.*offset"):
        read(tmp_path / "a.arrow")
    (tmp_path / "a.arrow").write_bytes(whole.replace(b"Say B.", b"Say \xff."))
    good, bad = read(tmp_path / "a.arrow")
    assert values([good]) == [{"prompt": "Say A."}]
    assert isinstance(bad, BadRow)
    assert "is not UTF-8" in bad.reason


def test_a_value_of_json_that_is_none_is_a_bad_row(tmp_path: Path) -> None:
    import pyarrow as pa

    kind = pa.map_(pa.string(), pa.json_())
    told = pa.array([[("a", '"x"')], [("a", "{")], [("a", "[" * 100_000)]], pa.map_(pa.string(), pa.string()))
    table = pa.table({"answers": told.cast(kind)})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    good, *bad = read(tmp_path / "a.arrow")
    assert values([good]) == [{"answers": [{"key": "a", "value": "x"}]}]
    assert [row.number for row in bad if isinstance(row, BadRow) and "the line is" in row.reason] == [2, 3]


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


def test_a_text_that_is_not_utf8_in_parquet_is_one_bad_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"fine", b"caf\xe9", b"good"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": texts}), str(tmp_path / "a.parquet"))
    first, bad, last = read(tmp_path / "a.parquet")
    assert values([first, last]) == [{"prompt": "fine"}, {"prompt": "good"}]
    assert bad == BadRow(2, "a text holds the byte 0xE9, which is not UTF-8")
