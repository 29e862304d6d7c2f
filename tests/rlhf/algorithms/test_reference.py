"""What is kept of a reference, in files. That it is computed once for all runs: `test_dpo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf.algorithms.reference import KeptReference


def test_runs_that_keep_what_a_reference_says_at_the_same_moment_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two devices, from the same parent: one writes while the other does."""
    path = tmp_path / "references" / "reference.json"
    first, second = KeptReference(path), KeptReference(path)
    first.add([((1,), (2,))], [-1.0])
    second.add([((1,), (3,))], [-2.0])
    write, waiting = Path.write_text, [second]

    def write_beside(self: Path, *what: Any) -> int:
        written = write(self, *what)
        while waiting:
            waiting.pop().keep()
        return written

    monkeypatch.setattr(Path, "write_text", write_beside)
    first.keep()
    assert KeptReference(path).known == first.known
    assert list(path.parent.iterdir()) == [path]
