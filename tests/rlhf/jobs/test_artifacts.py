"""Files of the data directory: how they are named by what is in them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from rlhf.jobs.artifacts import directory_sha256


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
