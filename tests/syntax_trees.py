"""What files of Python say, each read once for all tests that look through the source."""

from __future__ import annotations

import ast
import gc
from collections.abc import Sequence
from functools import cache
from pathlib import Path


@cache
def tree_of(path: Path) -> ast.Module:
    """A file. Nothing of it goes: looking for garbage meanwhile is most of what it costs to read them all."""
    gc.disable()
    try:
        return ast.parse(path.read_text("utf-8"))
    finally:
        gc.enable()


@cache
def nodes_of(path: Path) -> Sequence[ast.AST]:
    """All that a file says, in the order of ast.walk."""
    return list(ast.walk(tree_of(path)))
