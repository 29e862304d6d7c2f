"""The sentences that are marked for translation, as Babel finds them, and a language made of them for tests."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir, extract_from_file
from babel.messages.pofile import write_po

from tests.machine_fixtures import ROOT

Message = str | tuple[str, ...]


@cache
def found() -> Sequence[tuple[str, Message]]:
    """Every marked sentence with the file it stands in, as `make messages` finds it."""
    mappings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["babel"]["mappings"]
    methods = [(one["pattern"], one["method"]) for one in mappings]
    options = {
        one["pattern"]: {key: str(value) for key, value in one.items() if key not in ("method", "pattern")}
        for one in mappings
    }
    app = [("app.py", message) for _, message, _, _ in extract_from_file("python", ROOT / "app.py")]
    return [
        *app,
        *(
            (f"{package}/{name}", message)
            for package in ("annotation", "rlhf")
            for name, _, message, _, _ in extract_from_dir(ROOT / package, methods, options)
        ),
    ]


def extracted() -> set[Message]:
    return {message for _, message in found()}


def write_marked(path: Path) -> None:
    """A language in which each sentence is the English one between brackets, so that what is not marked is seen."""
    catalog = Catalog(locale="de", fuzzy=False)
    for name, message in found():
        forms = (message,) if isinstance(message, str) else message
        brackets = tuple(f"⟦{form}⟧" for form in forms)
        catalog.add(message, brackets if len(brackets) > 1 else brackets[0], locations=[(name, 1)])
    with path.open("wb") as file:
        write_po(file, catalog)
