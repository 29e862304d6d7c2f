"""docs/adding-an-algorithm.md, followed to the letter in a copy of the tree; there people use what was added, and the
repository's own checks find nothing against it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine_fixtures import PATIENCE_SECONDS, ROOT

PAGE = ROOT / "docs" / "adding-an-algorithm.md"
# What the program, its documentation and its tests consist of, beside the files at the top.
COPIED = ("annotation", "benchmarks", "docs", "rlhf", "tests")
pytestmark = pytest.mark.slow
JOURNEY = "tests/rlhf/algorithms/journey_of_an_added_algorithm.py"
CHECKS = (
    *("tests/test_sentences.py", "tests/test_architecture.py", "tests/docs/test_pages.py"),
    *("tests/rlhf/jobs/test_job_spec.py", "tests/rlhf/submission/test_form_fields.py"),
)
# Of these, what is asked of its files, of the page and of names, and neither starts a process nor loads torch. In a
# process of their own: beside what the journey has loaded they would take half as long again.
ASKED = (
    "unpaired or adding-an-algorithm or kind_of_training_has_a_form or (test_architecture and not (load or process or "
    "worker or kinds_of_job or decides or sqlite or columns or every_spec))"
)
# What is asked of each algorithm on the pages, beside the journey.
ON_PAGES = (
    "tests/rlhf/tabs/train/test_training_form.py",
    *("tests/rlhf/tabs/runs/test_runs_tab.py", "tests/rlhf/tabs/runs/test_curves.py"),
)
PYTEST = ("pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist")


def follow(page: str, root: Path) -> list[str]:
    """Do what the page says in this tree: its files, and its line; returns what was written and changed."""
    files = re.findall(r"^`(rlhf/[^`]+)`:\n\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (package,) = {Path(name).parent for name, _ in files}
    (root / package).mkdir()
    for name, text in files:
        (root / name).write_text(text, "utf-8")
    ((tuple_name, registry, line),) = re.findall(
        r"^In `(\w+)` of `(rlhf/[^`]+)`.*?```\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL
    )
    before = (root / registry).read_text("utf-8")
    after = re.sub(rf"(^{tuple_name} = \(\n.*?)(^\)$)", rf"\g<1>{line}\n\g<2>", before, flags=re.MULTILINE | re.DOTALL)
    assert after.count("\n") == before.count("\n") + 1
    (root / registry).write_text(after, "utf-8")
    return [*(name for name, _ in files), registry]


def test_two_files_a_docstring_and_one_line_add_an_algorithm(tmp_path: Path) -> None:
    for source in ROOT.iterdir():
        if source.name in COPIED:
            shutil.copytree(source, tmp_path / source.name)  # and what is compiled, which is half of all work here
        elif source.is_file():
            shutil.copy(source, tmp_path / source.name)
    page = PAGE.read_text("utf-8")
    added = follow(page, tmp_path)
    assert len(added) == 4
    assert "`make docs`" in page
    python(tmp_path, "tests.docs.reference")
    python(tmp_path, "ruff", "check", *added)
    python(tmp_path, "ruff", "format", "--check", *added)
    python(tmp_path, *PYTEST, *CHECKS, "-k", ASKED)
    python(tmp_path, *PYTEST, JOURNEY, *ON_PAGES, "-k", "journey or unpaired")


def python(root: Path, *arguments: str) -> None:
    """Run a module in the copy."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
