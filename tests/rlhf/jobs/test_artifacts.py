"""Files of the data directory: how they are named by what is in them."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from annotation.records import UserError
from rlhf.jobs import artifacts
from rlhf.jobs.artifacts import clear_half_written, directory_sha256, new_directory, verify_directory


def test_the_sum_of_a_directory_is_made_of_names_and_contents_and_no_file_is_in_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are larger than what the web server, or a worker beside its model, has left."""
    contents = {"adapter/weights": b"one" * 1_000_000, "card": b"two"}
    (tmp_path / "adapter").mkdir()
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    expected = sha256(b"".join(name.encode() + b"\0" + sha256(content).digest() for name, content in contents.items()))

    def refuse(self: Path) -> bytes:
        raise MemoryError(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert directory_sha256(tmp_path) == expected.hexdigest()


def test_what_is_deleted_while_it_is_read_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a policy, whose chat somebody waits for: the worker answers others as well."""
    place = tmp_path / "adapter"
    place.mkdir()
    for name in ("card", "weights"):
        (place / name).write_bytes(b"")
    whole = directory_sha256(place)
    verify_directory(place, whole, "the policy")

    def delete(path: Path) -> str:
        shutil.rmtree(path.parent, ignore_errors=True)
        return read(path)

    read = artifacts.file_sha256
    monkeypatch.setattr(artifacts, "file_sha256", delete)
    with pytest.raises(UserError, match="The files of the policy are gone"):
        verify_directory(place, whole, "the policy")


def test_what_is_half_written_beside_a_directory_is_another_ones(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("m.v2.0123456789abcdef.part", "m.v2.before.part", "m.before.part.txt")]
    for other in others:
        other.mkdir()
    with new_directory(tmp_path / "m"):
        pass
    assert all(other.is_dir() for other in others)


def test_a_directory_is_there_all_the_while_it_gives_way_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while gigabytes are removed must not leave neither."""
    target, remove = tmp_path / "checkpoint-4", shutil.rmtree
    target.mkdir()

    def remove_while_looked_at(path: Path, **how: Any) -> None:
        remove(path, **how)
        assert target.is_dir()

    monkeypatch.setattr(shutil, "rmtree", remove_while_looked_at)
    with new_directory(target) as directory:
        (directory / "weights").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "checkpoint-4", "checkpoint-4/weights"
    ]  # fmt: skip


def test_who_writes_a_directory_once_more_is_not_mixed_with_one_who_is_at_it_still(tmp_path: Path) -> None:
    """As a process that a killed program has left, or one that was asleep: its files would be taken for the other's."""
    target = tmp_path / "model"
    left, next_one = new_directory(target), new_directory(target)
    (left.__enter__() / "weights").write_text("left", "utf-8")
    directory = next_one.__enter__()
    (directory / "weights").write_text("whole", "utf-8")
    with pytest.raises(UserError, match="can't be written"):
        left.__exit__(None, None, None)
    assert not target.exists()
    (directory / "config").touch()
    next_one.__exit__(None, None, None)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "model", "model/config", "model/weights"
    ]  # fmt: skip
    assert (target / "weights").read_text("utf-8") == "whole"


def test_one_who_comes_late_leaves_the_directory_that_is_there(tmp_path: Path) -> None:
    target = tmp_path / "model[1]"
    late = new_directory(target)
    late.__enter__()
    with new_directory(target) as directory:
        (directory / "weights").touch()
    with pytest.raises(UserError, match="can't be written"):
        late.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["model[1]"]


@contextmanager
def row_refused() -> Iterator[None]:
    yield
    raise UserError("The disk is full.")


def test_a_directory_loses_its_name_where_the_row_that_names_it_can_not_be_written(tmp_path: Path) -> None:
    """As on a disk that is full by then: no row would ever say what lies there."""
    for there in ([], ["before"]):
        for name in there:
            (tmp_path / "model").mkdir()
            (tmp_path / "model" / name).touch()
        with pytest.raises(UserError, match="disk is full"), new_directory(tmp_path / "model", row_refused()) as made:
            (made / "weights").touch()
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == there
        assert [path.name for path in tmp_path.iterdir()] == ["model"] * len(there)


def test_what_can_not_be_given_back_at_once_does_not_hide_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if path.name.endswith(".before.part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    adapters = tmp_path / "adapters"
    (adapters / "model").mkdir(parents=True)
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match="disk is full"), new_directory(adapters / "model", row_refused()):
        pass
    monkeypatch.undo()
    clear_half_written(tmp_path)
    assert [path.name for path in adapters.iterdir()] == ["model"]


def test_what_was_to_give_way_comes_back_where_a_kill_left_nothing_in_its_place(tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    for name in ("dpo-1.before.part", "dpo-1.part", "dpo-2.before.part", "dpo-2"):
        (adapters / name).mkdir(parents=True)
        (adapters / name / "weights").write_text(name, "utf-8")
    clear_half_written(tmp_path)
    kept = {path.name: (path / "weights").read_text("utf-8") for path in adapters.iterdir() if path.suffix != ".part"}
    assert kept == {"dpo-1": "dpo-1.before.part", "dpo-2": "dpo-2"}
