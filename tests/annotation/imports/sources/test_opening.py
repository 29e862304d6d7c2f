"""Files to raw rows: every format, every way in which a file can be wrong, and arbitrary bytes."""

from __future__ import annotations

import codecs
import io
import json
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.imports.sources.opening import open_path
from annotation.imports.sources.raw_rows import BadRow, SourceRow
from annotation.records import UserError
from tests.annotation.imports.sources.source_files import (
    PAIRS,
    as_csv,
    as_jsonl,
    packed,
    read,
    save_parquet,
    values,
    write,
)


# -------------------------------------------------------------------------------------------------------- good files
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


def test_what_says_one_thing_twice_is_read(tmp_path: Path) -> None:
    """One key of an object; or an end of a line, as Python writes it on Windows where it is told nothing of lines."""
    assert values(read(write(tmp_path, "a.jsonl", b'{"a": 1, "b": 2, "a": 1}\n'))) == [{"a": 1, "b": 2}]
    assert values(read(write(tmp_path, "a.csv", b"a,b\r\r\n1,2\r\r\n"))) == [{"a": "1", "b": "2"}]


def test_rows_are_numbered_as_people_look_them_up(tmp_path: Path) -> None:
    spreadsheet = read(write(tmp_path, "a.csv", b'prompt\n"one\nin two lines"\ntwo\n'))
    lines = read(write(tmp_path, "a.jsonl", b'{"a": 1}\n\n{"a": 2}\n'))
    elements = read(write(tmp_path, "a.json", b'[{"a": 1}, {"a": 2}]'))
    assert [[row.number for row in rows] for rows in (spreadsheet, lines, elements)] == [[2, 3], [1, 3], [1, 2]]


@pytest.mark.parametrize("lines", [1, 1000])
def test_a_nul_here_and_there_is_its_rows_business(tmp_path: Path, lines: int) -> None:
    """Such as an export of ours has, of an answer that a model wrote; only text with many is none."""
    plain = b"prompt,completion\n" + b"a plain question,a plain answer\n" * lines
    found = values(read(write(tmp_path, "a.csv", plain + b"q,a\x00b\n")))
    assert found[-1] == {"prompt": "q", "completion": "a\0b"}
    assert len(found) == lines + 1


# ------------------------------------------------------------------------------------------------ refused as a whole
def tarred() -> bytes:
    """A TAR archive with a file in it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("rows.jsonl"))
    return made.getvalue()


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
        ("a.csv", "prompt\nä\n".encode("utf-32"), "UTF-32: it begins with the bytes ff fe 00 00"),
        ("a.csv", codecs.BOM_UTF32_BE + "prompt\n".encode("utf-32-be"), "UTF-32: it begins with the bytes 00 00 fe ff"),
        ("a.csv", "prompt\nä\n".encode("utf-16-le"), "byte 1 is NUL"),
        ("a.xlsx", zipped(), "ZIP archive"),
        ("a.jsonl", zipped(), "ZIP archive"),
        ("a.csv.gz", packed(zipped()), "ZIP archive"),
        ("a.gz", packed(packed(b"a,b\n")), "packed twice"),
        ("a.jsonl.gz", packed(as_jsonl(PAIRS) * 9000)[:-40], "damaged after"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00nonsense", "damaged"),
        ("a.db", b"SQLite format 3\x00", "SQLite database"),
        ("a.tar", tarred(), "is a TAR archive. Unpack or convert it first"),
        ("a.tar.gz", packed(tarred()), "is a TAR archive"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "old Office file"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(500), "HDF5"),
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
        ("a.parquet", b"<html>not found</html>", "no readable Parquet"),
        *(
            (f"a.{ending}", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "git lfs pull")
            for ending in ("parquet", "jsonl", "csv", "arrow")
        ),
        ("raw.jsonl", b'{"format":"prefloop archive","version":1}\n', "annotation restore"),
        ("a.arrow.gz", packed(b"ARROW1\0\0" + b"x" * 100), "is packed twice"),
        ("raw.jsonl.gz", packed(b'{"format":"prefloop archive","version":1}\n'), "annotation restore"),
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


def test_names_are_shown_without_separators_and_control_characters(tmp_path: Path) -> None:
    source = open_path(write(tmp_path, "..\\..\x1b[2J\u202egnp.csv", b"prompt\nx\n"))
    assert source.name == "..\\..\ufffd[2J\ufffdgnp.csv"
    assert "/" not in open_path(tmp_path / "." / source_name(tmp_path)).name


def source_name(directory: Path) -> str:
    """The one file's name, with a detour."""
    return f"../{directory.name}/{next(directory.iterdir()).name}"


# --------------------------------------------------------------------------------------------------------- arbitrary
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
