"""Rows that are streamed, and names of no dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from annotation.imports.sources import hub_datasets
from annotation.imports.sources.raw_rows import Unread
from annotation.records import UserError
from tests.annotation.imports.sources.source_files import values, write


def test_streamed_rows_without_known_types_may_differ_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Part(list[Any]):
        features = None

    rows = [{"a": None}, {"a": "x"}, {"a": 1}]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: {"train": Part(rows)})
    found = hub_datasets.streamed_rows("a set", "somewhere", None, "train", str)
    assert values(list(found())) == rows


def test_streamed_pictures_are_only_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"prompt": datasets.Value("string"), "image": datasets.Image()})
    saved = datasets.Dataset.from_dict({"prompt": ["p", "q"], "image": [None, {"bytes": b"x", "path": None}]}, features)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: {"train": saved.to_iterable_dataset()})
    rows = values(list(hub_datasets.streamed_rows("a set", "somewhere", None, "train", str)()))
    assert [type(row["image"]) is Unread for row in rows] == [False, True]


def test_a_directory_of_that_name_is_not_taken_for_the_hubs_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` would read it, and the import would call its rows those of a commit on the Hub."""
    (tmp_path / "ann/set").mkdir(parents=True)
    write(tmp_path / "ann/set", "data.jsonl", b'{"prompt": "mine"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub_datasets, "commit_of", lambda *_: "0" * 40)
    with pytest.raises(UserError, match=r"ann/set is a directory here \(.*\)\. Import it by its path"):
        hub_datasets.hub_dataset("ann/set@main")


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "-x/y", "https://x/y", "a b", "x\n"])
def test_a_name_that_no_dataset_has_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(UserError, match="no name of a dataset"):
        hub_datasets.hub_dataset(name)
