"""Rows that are streamed, and names of no dataset."""

from __future__ import annotations

from typing import Any

import pytest

from annotation.imports.sources import hub_datasets
from annotation.imports.sources.raw_rows import Unread
from annotation.records import UserError
from tests.annotation.imports.sources.source_files import values


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


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "-x/y", "https://x/y", "a b", "x\n"])
def test_a_name_that_no_dataset_has_is_refused_without_asking_the_hub(name: str) -> None:
    with pytest.raises(UserError, match="no name of a dataset"):
        hub_datasets.hub_dataset(name)
