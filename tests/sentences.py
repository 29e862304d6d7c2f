"""The sentences that are marked for translation, as Babel finds them, and a language made of them for tests."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir, extract_from_file, extract_python
from babel.messages.pofile import write_po

from rlhf.submission.form_fields import plain_words

ROOT = Path(__file__).parents[1]

Message = str | tuple[str, ...]

# Of a language with three forms for a count.
POLISH = (
    'msgid ""\nmsgstr ""\n"Language: pl\\n"\n"Content-Type: text/plain; charset=utf-8\\n"\n'
    '"Plural-Forms: nplurals=3; plural=(n==1 ? 0 : n%10>=2 && n%10<=4 && (n%100<12 || n%100>14) ? 1 : 2);\\n"\n\n'
    '#: annotation/tabs/annotate.js\nmsgid "{count} word"\nmsgid_plural "{count} words"\n'
    'msgstr[0] "{count} słowo"\nmsgstr[1] "{count} słowa"\nmsgstr[2] "{count} słów"\n'
)


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


def documented(file: BinaryIO, keywords: Any, tags: Any, options: Any) -> Iterator[tuple[int, str, str, list[str]]]:
    """For Babel: what is marked, and of each field of a class its name and its values in words and its docstring."""
    source = file.read()
    yield from extract_python(BytesIO(source), keywords, tags, options)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
            words = [one.value for one in ast.walk(node.slice) if isinstance(one, ast.Constant)]
            yield from ((node.lineno, "_", plain_words(word), []) for word in words if isinstance(word, str))
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Annotated":
            marks = [one.value for one in getattr(node.slice, "elts", ()) if isinstance(one, ast.Constant)]
            yield from ((node.lineno, "_", mark, []) for mark in marks if isinstance(mark, str))
        if isinstance(node, ast.ClassDef):
            yield from fields_of(node)


def fields_of(node: ast.ClassDef) -> Iterator[tuple[int, str, str, list[str]]]:
    """The fields of a class that say below themselves what they mean; not what is the class's own."""
    for field, below in pairwise(node.body):
        said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if not said or not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if not ast.unparse(field.annotation).startswith("ClassVar"):
            yield field.lineno, "_", plain_words(field.target.id), []
            yield field.lineno, "_", " ".join(str(ast.literal_eval(below.value)).split()), []


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
