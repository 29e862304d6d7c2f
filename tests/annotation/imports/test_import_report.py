"""What an import's process tells the page comes back as the records that it was made of."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from annotation.database import Database
from annotation.imports.import_report import ImportReport, shortened
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
    told = json.loads(json.dumps({"look": asdict(shortened(found))}))
    read = ImportReport.from_json(told).look
    assert read == shortened(found)
    assert read.records[:3] == found.records[:3]
    assert len(read.rows[3].values["chosen"]) < 500 < len(found.rows[3].values["chosen"])


def test_an_outcome_comes_back_as_it_was(db: Database, path: Path) -> None:
    result = run_import(db, open_path(path), ImportRequest(), "kim", lambda *_: None)
    told = json.loads(json.dumps({"outcome": asdict(result)}))
    assert ImportReport.from_json(told) == ImportReport(outcome=result)
    told["outcome"]["of"] = "another version"
    assert ImportReport.from_json(told).outcome == result


def test_of_what_an_earlier_version_told_otherwise_nothing_is_shown(db: Database, path: Path) -> None:
    result = run_import(db, open_path(path), ImportRequest(), "kim", lambda *_: None)
    told = asdict(result)
    told["reasons"] = [["a", "is empty", 1]]
    assert ImportReport.from_json({"outcome": told}) == ImportReport()
