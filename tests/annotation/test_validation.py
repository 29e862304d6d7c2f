"""What checks values from outside, and where its parts run."""

import gc
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from annotation.claims.sent_acts import SentAct
from annotation.project import Project
from annotation.records import UserError
from annotation.validation import adapter, describe, read, sentences_in
from rlhf.kinds import KINDS


def test_what_checks_values_reads_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a first judgement waits for this, and threads that parse at once fail")

    monkeypatch.setattr(inspect, "getsourcelines", refuse)
    for kind in (SentAct, Project, *KINDS.values()):
        adapter.__wrapped__(kind)


@pytest.fixture
def other_threads_go_on_within_a_collection() -> Iterator[None]:
    def rest(*_: object) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(rest)
    gc.set_threshold(50)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(rest)


@pytest.mark.usefixtures("other_threads_go_on_within_a_collection")
def test_fields_are_described_in_several_threads_at_once() -> None:
    def described(_: int) -> list[object]:
        sentences_in.cache_clear()
        return [describe(kind) for kind in (Project, *KINDS.values())]

    with ThreadPoolExecutor(4) as threads:
        first, *others = threads.map(described, range(8))
    assert all(one == first for one in others)


@dataclass(frozen=True)
class Holding:
    several: Sequence[int | str] = ()
    named: Mapping[str, int] | None = None


@pytest.mark.parametrize(
    ("values", "place"),
    [({"several": ["a", 1.5]}, "several.1"), ({"several": [[1]]}, "several.0"), ({"named": {"a": "b"}}, "named.a")],
)
def test_what_is_wrong_within_any_kind_of_collection_is_a_sentence(values: dict[str, Any], place: str) -> None:
    with pytest.raises(UserError, match=rf"^This's '{place}"):
        read(Holding, values, "This")
