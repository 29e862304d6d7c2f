"""What files of Python say, each read once for all tests that look through the source."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path


@cache
def tree_of(path: Path) -> ast.Module:
    """A file."""
    with nothing_goes():
        return ast.parse(path.read_text("utf-8"))


@cache
def nodes_of(path: Path) -> Sequence[ast.AST]:
    """All that a file says, in the order of ast.walk."""
    tree = tree_of(path)
    with nothing_goes():
        return list(ast.walk(tree))


@contextmanager
def nothing_goes() -> Iterator[None]:
    """All of it stays: looking for garbage meanwhile is most of what it costs to read them all."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
