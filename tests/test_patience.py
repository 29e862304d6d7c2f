"""No test says how fast the machine has to be: nothing in this directory waits for, or asserts, a number of seconds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WAITS = ("acquire", "communicate", "join", "result", "set_default_timeout", "wait", "wait_for")
CLOCKS = (
    *("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "time", "time_ns"),
    *("process_time", "process_time_ns", "thread_time", "thread_time_ns"),
)


def named(call: ast.Call) -> str:
    """The last word of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def is_number(node: ast.expr) -> bool:
    """Whether a number stands there, or a sum of numbers."""
    names = (ast.Name, ast.Attribute, ast.Call, ast.Lambda)
    found = list(ast.walk(node))
    return not any(isinstance(one, names) for one in found) and any(
        isinstance(one, ast.Constant) and isinstance(one.value, int | float) for one in found
    )


def own_limits(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, what) of each limit that is a number of the test's own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            limits = [word.value for word in node.keywords if word.arg == "timeout"]
            limits += node.args[:1] if named(node) in WAITS else []
            if any(is_number(limit) for limit in limits):
                yield node.lineno, "waits for so long: give PATIENCE_SECONDS, or nothing where there is a default"
        if isinstance(node, ast.Assert):
            asked = [one for one in ast.walk(node.test) if isinstance(one, ast.Call) and named(one) in CLOCKS]
            if any(isinstance(one.func, ast.Attribute) for one in asked):
                yield node.lineno, "asserts how long something takes: wait for the event, or hand the time in"


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_has_a_time_of_its_own(path: Path) -> None:
    assert list(own_limits(ast.parse(path.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "process.wait(30)",
        "thread.join(2 * 5)",
        "run(x, timeout=60)",
        "page.click('#a', timeout=60_000)",
        "assert time.monotonic() - begun < 5",
        "assert time.thread_time() - begun < 5",
    ],
)
def test_such_a_limit_is_found(line: str) -> None:
    assert len(list(own_limits(ast.parse(line)))) == 1


@pytest.mark.parametrize(
    "line", ["process.wait()", "', '.join(names)", "x.wait(PATIENCE_SECONDS)", "talk.wait('done', 2)"]
)
def test_other_calls_are_not(line: str) -> None:
    assert not list(own_limits(ast.parse(line)))
