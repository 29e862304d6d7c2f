"""Files of the data directory: how they are named by what is in them."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rlhf.jobs.artifacts import directory_sha256, new_directory


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
