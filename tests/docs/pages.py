"""The pages of the documentation as the tests read them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.reference import PAGES, ROOT, page

README = ROOT / "README.md"
MADE = [page(name) for name in PAGES]
WRITTEN = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def text_of(path: Path) -> str:
    return path.read_text("utf-8")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """A page without its code blocks, on one line."""
    return " ".join(re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL).split())


def spans(path: Path) -> list[str]:
    """What stands in `code` within the text."""
    return re.findall(r"`([^`]+)`", prose(path))


def slug_of(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text_of(path), flags=re.DOTALL), re.MULTILINE)
    return {slug_of(heading) for heading in headings}


def section_of(path: Path, anchor: str) -> str:
    """What stands below a heading of the second rank."""
    sections = re.split(r"^## ", text_of(path), flags=re.MULTILINE)
    return next(section for section in sections if slug_of(section.splitlines()[0]) == anchor)
