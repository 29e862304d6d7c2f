"""What an import's process tells the page comes back as the records that it was made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from annotation.database import Database
from annotation.imports.import_report import ImportOutcome, look_read, look_told, outcome_read, outcome_told
from annotation.imports.importing import ImportRequest, preview, run_import
from annotation.imports.sources.opening import open_path

ROWS = [
    {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "Hello", "rejected": "Go"},
    {"prompt": "How?", "chosen": "", "rejected": "x"},
    {"prompt": "Again?", "chosen": "yes " * 300, "rejected": "no"},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{\n", "utf-8")
    return file


def test_a_look_comes_back_with_long_texts_cut(path: Path) -> None:
    found = preview(open_path(path), ImportRequest())
    read = look_read(json.loads(json.dumps(look_told(found))))
    assert read.records[:3] == found.records[:3]
    assert (read.columns, read.proposed, read.target, read.bad) == (
        *(found.columns, found.proposed, found.target, found.bad),
    )
    assert read.rows[0] == found.rows[0]
    assert len(read.rows[3].values["chosen"]) < 500 < len(found.rows[3].values["chosen"])
    assert look_told(read) == look_told(found)


def test_an_outcome_comes_back_as_it_was(db: Database, path: Path) -> None:
    result = run_import(db, open_path(path), ImportRequest(), "kim", lambda *_: None)
    told = json.loads(json.dumps(outcome_told(ImportOutcome(result, False))))
    read = outcome_read(told)
    assert read.result.counts == result.counts
    assert [*read.result.skipped] == [*result.skipped]
    assert read.result.reasons == [*result.reasons]
    assert json.loads(json.dumps(outcome_told(read))) == told
    assert outcome_read({**told, "of": "another version"}) == read


def test_of_an_earlier_version_the_column_is_joined_to_what_was_said_of_it(db: Database, path: Path) -> None:
    result = run_import(db, open_path(path), ImportRequest(), "kim", lambda *_: None)
    told = outcome_told(ImportOutcome(result, False))
    skipped = [{"row": 3, "column": "a", "reason": "is empty"}, {"row": 4, "column": "", "reason": "is cut off"}]
    read = outcome_read({**told, "reasons": [["a", "is empty", 1], ["", "is cut off", 1]], "skipped": skipped})
    assert read.result.reasons == [("a is empty", 1), ("is cut off", 1)]
    assert [one.reason for one in read.result.skipped] == ["a is empty", "is cut off"]
