"""What the documentation points at is there: pages, headings, pictures, files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import MADE, README, WRITTEN, named, section_of, slugs, spans, text_of
from tests.docs.reference import ROOT

MOST_BYTES = 200_000
# What docs/adding-an-algorithm.md adds for example.
ADDED = "rlhf/algorithms/unpaired/"


def test_readme_shows_three_small_pictures() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text_of(README))
    assert len(pictures) == 3
    assert [name for name in pictures if (ROOT / name).stat().st_size >= MOST_BYTES] == []


@pytest.mark.parametrize("path", [*WRITTEN, *MADE], ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text_of(path)):
        place, _, anchor = target.partition("#")
        file = (path.parent / place).resolve() if place else path
        if not file.exists() or (anchor and anchor not in slugs(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", WRITTEN, ids=named)
def test_paths_exist(path: Path) -> None:
    """Those of the program's own files."""
    paths = {span for span in spans(path) if re.fullmatch(r"(annotation|rlhf|tests|benchmarks|docs)/[\w./]*", span)}
    assert {name for name in paths if not (ROOT / name).exists() and not name.startswith(ADDED)} == set()


def test_what_the_architecture_finds_stands_in_the_places_beside_it() -> None:
    """Each name of code in a row of a judgement's way and of "Where is …", in one of that row's modules or packages;
    `b.py` lies beside one."""
    page = ROOT / "docs" / "architecture.md"
    index = section_of(page, "the-way-of-one-judgement") + section_of(page, "where-is-")
    missing = []
    for row in re.findall(r"^\| .*`.*$", index, re.MULTILINE):
        places: list[Path] = []
        marked = re.findall(r"`([^`]+)`", row)
        for name in (name for name in marked if re.fullmatch(r"[\w/]+(\.py|\.js|/)", name)):
            beside = (known / name for known in (ROOT, *(place.parent for place in places)))
            places += [path for path in beside if path.exists()][:1]
        files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
        code = "\n".join(map(text_of, files))
        names = [name for name in marked if re.fullmatch(r"\w+(\.\w+)?", name) and not name.endswith((".py", ".js"))]
        missing += [name for name in names if not re.search(rf"\b{name.rpartition('.')[2]}\b", code)]
    assert missing == []


@pytest.mark.parametrize("part", ["annotation", "rlhf"])
def test_the_direction_of_imports_is_that_of_the_contract(part: str) -> None:
    """The page has the lowest layer first, import-linter the highest."""
    contracts = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == [part])
    told = " → ".join(layer.replace(" | ", ", ") for layer in reversed(layers))
    assert f"\n    {part}: {told}\n" in text_of(ROOT / "docs" / "architecture.md")
