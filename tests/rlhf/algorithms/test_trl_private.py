"""TRL and transformers still ask the private methods that our trainers put in the place of theirs."""

from __future__ import annotations

import ast
import inspect
import textwrap
from importlib.metadata import version

import pytest

from rlhf.algorithms.trl_private import RELIED_ON, PrivateDependency, WithoutPreparation


def calls_in(function: object) -> set[str]:
    """The methods of its own object that a function's source calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        found.attr
        for found in called
        if isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name) and found.value.id == "self"
    }


@pytest.mark.parametrize("dependency", RELIED_ON, ids=lambda one: f"{one.owner.__name__}.{one.method}")
def test_the_libraries_still_ask_what_we_have_put_in_place_of_theirs(dependency: PrivateDependency) -> None:
    library = dependency.owner.__module__.partition(".")[0]
    asked = f"{dependency.owner.__name__}.{dependency.caller} asks self.{dependency.method}"
    assert dependency.method in calls_in(getattr(dependency.owner, dependency.caller)), (
        f"{library} {version(library)} is not the version that rlhf/algorithms/trl_private.py was written for: there "
        f"{asked}. Where it does not, {dependency.otherwise}. Find what it asks now, put that in its place there, and "
        "change RELIED_ON; until then hold requirements.txt to the version before."
    )


def test_nothing_is_put_in_place_that_the_table_does_not_name() -> None:
    assert {name for name in vars(WithoutPreparation) if not name.startswith("__")} == {one.method for one in RELIED_ON}
