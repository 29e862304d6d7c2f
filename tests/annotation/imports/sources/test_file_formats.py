"""The table of formats: one that is made up here, a function and an entry, is taken wherever files are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from annotation.__main__ import main
from annotation.imports.import_process import PROGRAM
from annotation.imports.import_report import ImportReport
from annotation.imports.sources import file_formats
from annotation.imports.sources.byte_stream import Stream, from_stream
from annotation.imports.sources.file_formats import FileFormat
from annotation.imports.sources.opening import open_path
from annotation.imports.sources.raw_rows import ImportSource, RawRow, SourceRow
from annotation.records import UserError
from annotation.tabs import import_form
from tests.annotation.imports.sources.source_files import packed, read, values, write

ROWS = [{"prompt": "Why is the sky blue?"}, {"prompt": "What is a tide?"}]
CARDS = b"prompt: Why is the sky blue?\n---\nprompt: What is a tide?\n"


def card_rows(stream: Stream) -> Iterator[RawRow]:
    for number, card in enumerate(stream.read(1000).decode().split("---\n"), 1):
        column, _colon, text = card.strip().partition(": ")
        yield SourceRow(number, {column: text})


def card_file(path: Path, name: str) -> ImportSource:
    return from_stream(path, name, "Cards", "cards, from 1", card_rows)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Another type of file, and one of it."""
    added = FileFormat("Cards", (".cards", ".crd"), card_file)
    monkeypatch.setattr(file_formats, "FORMATS", (*file_formats.FORMATS, added))
    return write(tmp_path, "a.cards", CARDS)


@pytest.mark.parametrize("name", ["a.cards", "a.CRD", "a.crd.gz"])
@pytest.mark.usefixtures("cards")
def test_an_added_format_is_read(tmp_path: Path, name: str) -> None:
    source = open_path(write(tmp_path, name, packed(CARDS) if name.endswith(".gz") else CARDS))
    assert (source.format, values(list(source.rows()))) == ("Cards", ROWS)


def test_an_added_format_is_data_of_a_directory(tmp_path: Path, cards: Path) -> None:
    (tmp_path / "set").mkdir()
    cards.rename(tmp_path / "set" / "train.cards")
    assert values(read(tmp_path / "set")) == ROWS


def test_an_added_format_is_taken_as_an_upload_and_by_the_command(
    tmp_path: Path, cards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, elsewhere = PROGRAM[2], ["--data", str(tmp_path / "data")]
    upload = import_form.source_of(import_form.UPLOAD, str(cards), "", "", "", "")
    assert main([command, *elsewhere, "--json-progress", "--look", *upload]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    look = ImportReport.from_json(told[-1]).look
    assert look is not None
    assert (look.format, [dict(row.values) for row in look.rows]) == ("Cards", ROWS)
    assert main([command, *elsewhere, str(cards)]) == 0
    assert "2 rows read. Imported: 2 new prompts." in capsys.readouterr().out


def test_an_added_format_is_named_wherever_formats_are(
    tmp_path: Path, cards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "CSV, JSON lines, JSON, Cards (also as .gz), Parquet, Arrow, or" in import_form.explanation()
    with pytest.raises(SystemExit):
        main([PROGRAM[2], "--help"])
    assert ".cards, .crd; text also as .gz" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match=r"no known format.*Cards \(\.cards, \.crd\), or a directory of a dataset"):
        open_path(write(tmp_path, "a.txt", b"just words"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"\.arrow, \.cards, \.crd; text also packed as \.gz"):
        open_path(tmp_path / "empty")


def test_no_two_formats_have_the_same_ending() -> None:
    endings = file_formats.data_endings()
    assert len(set(endings)) == len(endings)


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.tab", b"prompt\tnote\nx\ty\n", "CSV"),
        ("a.parquet", b'{"prompt": "x"}\n{"prompt": "y"}\n', "JSON lines"),
        ("a.txt", b'\xef\xbb\xbf [{"prompt": "x"}]', "JSON"),
    ],
)
def test_a_text_is_told_by_its_name_or_by_how_it_begins(tmp_path: Path, name: str, content: bytes, format: str) -> None:
    assert open_path(write(tmp_path, name, content)).format == format


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_an_archive_is_one_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="ZIP archive"):
        open_path(write(tmp_path, name, b"PK\x03\x04" + bytes(100)))
