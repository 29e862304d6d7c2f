"""Datasets in directories: which files are read, and that none leads out."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import pytest

from annotation.imports.sources import directories
from annotation.imports.sources.opening import open_path
from annotation.records import UserError
from tests.annotation.imports.sources.source_files import PAIRS, as_jsonl, packed, read, save_parquet, values


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


def test_patterns_fit_what_they_say_and_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[str] = []

    def counted(word: str, pattern: str) -> bool:
        words.append(word)
        return fnmatchcase(word, pattern)

    monkeypatch.setattr(directories, "fnmatchcase", counted)
    for pattern in (list(found) for size in range(1, 5) for found in product(("**", "*", "a"), repeat=size)):
        parts = [{"**": "(?:[^/]+/)*", "*": "[^/]+/", "a": "a/"}[part] for part in pattern]
        last = "[^/]+/" if pattern[-1] == "**" else ""  # there is a file at the end of it
        known = re.compile("".join(parts) + last)
        for path in (found for size in range(1, 5) for found in product("ab", repeat=size)):
            fits = known.fullmatch("".join(f"{part}/" for part in path)) is not None
            assert directories.matches(path, pattern) == fits, (path, pattern)
    words.clear()
    assert not directories.matches(["a"] * 28, [*["**", "a"] * 8, "b"])
    assert len(words) < 1000


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
    below = directory(tmp_path / "8", {"x/x/a.jsonl": one, "x/y/b.jsonl": two, "x/c.jsonl": two}, named("*/*/*.jsonl"))
    assert values(read(below)) == PAIRS
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
    listed = directory(tmp_path / "8", {"a.jsonl": one}, "configs:\n- config_name: [a]\n  data_files: a.jsonl")
    with pytest.raises(UserError, match="has no configurations"):
        read(listed, config="['a']")


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
