"""Whatever is sent in any field of any endpoint is answered or refused in words: never an error of the program."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from annotation.api import AnnotationApi, RequestBody
from annotation.web.gradio_allowlist import FieldKind
from rlhf.tabs.pages import kind_of
from tests.annotation.web.conftest import Program
from tests.annotation.web.test_files_in_events import post
from tests.machine_fixtures import ROOT
from tests.syntax_trees import nodes_of

pytestmark = pytest.mark.slow
HOLDING = [[], [None], [[]], {"a": 1}]
ODD = [None, True, 7, 2**70, -1.5, "x", "\0", *HOLDING]


def answers(program: Program, bodies: list[tuple[str, Any]]) -> list[tuple[int, str]]:
    async def ask() -> list[tuple[int, str]]:
        return [answer async for answer in post(program, "kim", bodies)]

    return asyncio.run(ask())


@pytest.mark.parametrize("odd", ODD, ids=json.dumps)
def test_one_odd_value_in_all_fields_of_a_function_is_no_error(
    program: Program, odd: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def ways(inputs: list[Any]) -> Iterator[list[Any]]:
        everywhere, past_the_door = [odd] * len(inputs), [given(block, odd) for block in inputs]
        yield everywhere
        if odd not in HOLDING and repr(past_the_door) != repr(everywhere):  # those that hold values get past no door
            yield past_the_door

    bodies = [
        ("/gradio_api/run/predict", {"fn_index": one["id"], "session_hash": "odd", "event_data": odd, "data": data})
        for one in program.functions
        for data in ways(one["inputs"])
    ]
    for (_path, body), (status, said) in zip(bodies, answers(program, bodies), strict=True):
        name = program.functions[body["fn_index"]]["api_name"]
        assert status == 200 or (status == 422 and json.loads(said)["error"]), (name, body["data"], status, said)
    assert "Traceback" not in capsys.readouterr().err


def given(block: Any, odd: Any) -> Any:
    """The odd value where it gets past the door, in whatever form does; else what the field holds at first."""
    forms: dict[str, Any] = {"several": [odd], "some": [odd], "number": -1, "one": odd, "file": None, "any": None}
    value = forms[kind_of(block)]
    holds = isinstance(odd, list | dict) or (odd is None and isinstance(value, list))
    return (block.value if not callable(block.value) else None) if holds else value


def test_what_is_no_file_is_refused_in_each_field_that_takes_one(program: Program) -> None:
    bodies = [body for odd in ODD if odd is not None for body in in_each_field(program, odd, "file")]
    assert len(bodies) > 10
    assert {status for status, _said in answers(program, bodies)} == {422}


@pytest.mark.parametrize("odd", HOLDING, ids=json.dumps)
def test_what_holds_values_is_refused_in_each_field_that_takes_one(program: Program, odd: Any) -> None:
    bodies = in_each_field(program, odd, "one", "number")
    assert len(bodies) > 500
    assert {status for status, _said in answers(program, bodies)} == {422}


def in_each_field(program: Program, odd: Any, *kinds: FieldKind) -> list[tuple[str, Any]]:
    """An odd value in one field alone, for each that is of these kinds."""
    bodies = []
    for one in program.functions:
        data = [given(block, None) for block in one["inputs"]]
        for place, block in enumerate(one["inputs"]):
            if kind_of(block) in kinds:
                sent = [*data[:place], odd, *data[place + 1 :]]
                bodies.append(("/gradio_api/run/predict", {"fn_index": one["id"], "session_hash": "odd", "data": sent}))
    return bodies


@pytest.mark.parametrize("key", [*RequestBody.__dataclass_fields__, "unknown"])
def test_any_type_in_any_field_of_an_annotators_request_is_no_error(program: Program, key: str) -> None:
    names = [route.path for route in AnnotationApi(program.db).routes()]
    kinds = [*ODD, {"outcome": [], "ranks": {}, "edit": 7, "tags": "x", "note": None, "flag": {}, "strength": "x"}]
    bodies = [(name, {key: odd}) for name in names for odd in kinds]
    bodies += [(name, {"id": 1, "nonce": "x", "act": {"outcome": "ranked", part: odd}}) for name in names
               for part in ("outcome", "ranks", "strength", "tags", "note", "flag", "edit") for odd in ODD]  # fmt: skip
    for (name, body), (status, said) in zip(bodies, answers(program, bodies), strict=True):
        assert status == 200 or (400 <= status < 500 and json.loads(said)["error"]), (name, body, status, said)


def test_the_benchmarks_send_as_many_values_as_a_function_takes(program: Program) -> None:
    takes = {one["api_name"]: len(one["inputs"]) for one in program.functions}
    written = [
        (node.args[0].value, len(node.args) - 1)
        for path in (ROOT / "benchmarks").rglob("*.py")
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "call"
        and isinstance(node.args[0], ast.Constant) and not any(isinstance(one, ast.Starred) for one in node.args)
    ]  # fmt: skip
    assert written
    assert [(name, count) for name, count in written if takes.get(name) != count] == []
