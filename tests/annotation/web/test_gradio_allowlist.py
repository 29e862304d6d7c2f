"""The door before Gradio: what passes, as what, and what does not; with something in Gradio's place that listens."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from annotation.records import Annotator
from annotation.web.gradio_allowlist import (
    MAXIMUM_EVENT,
    MAXIMUM_STREAMS,
    AccountHoldings,
    Function,
    GradioGuard,
    Ownership,
)
from annotation.web.middleware import ANNOTATOR_KEY
from tests.annotation.web.conftest import Program

ANN, BOB = Annotator(1, "ann", "annotator"), Annotator(2, "bob", "annotator")
KIM, LEE = Annotator(3, "kim", "admin"), Annotator(4, "lee", "admin")
GREET, ADD = Function(0, "greet", "annotator"), Function(1, "account-add", "admin")
JSON = {"content-type": "application/json"}


@dataclass
class Listener:
    """In Gradio's place: keeps what reaches it, and answers with `answer`."""

    answer: bytes = b"{}"
    seen: list[tuple[Scope, bytes]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.seen.append((scope, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.answer})


@pytest.fixture
def gradio() -> Listener:
    return Listener()


@pytest.fixture
def door(gradio: Listener) -> GradioGuard:
    return GradioGuard(gradio, [GREET, ADD])


def ask(
    door: GradioGuard,
    who: Annotator | None,
    method: str,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    query: str = "",
) -> int:
    """The status of the answer to a request whose body comes in these parts."""
    parts = [body] if isinstance(body, bytes) else [*body]
    sent: list[Message] = []
    rest: list[Message] = [
        {"type": "http.request", "body": part, "more_body": place < len(parts) - 1} for place, part in enumerate(parts)
    ]

    async def receive() -> Message:
        return rest.pop(0) if rest else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: Scope = {
        **{"type": "http", "method": method, "path": path, "root_path": "", "query_string": query.encode()},
        **{"headers": raw, ANNOTATOR_KEY: who},
    }
    asyncio.run(door(scope, receive, send))
    return int(sent[0]["status"])


def call(door: GradioGuard, who: Annotator | None, way: str = "run/greet", **asked: Any) -> int:
    """The status of an event."""
    return ask(door, who, "POST", f"/gradio_api/{way}", json.dumps(asked).encode(), JSON)


def passed_on(gradio: Listener) -> Any:
    """The latest event that Gradio got."""
    return json.loads(gradio.seen[-1][1])


# ------------------------------------------------------------------------------------------------------------- paths
@pytest.mark.parametrize(
    "path",
    [
        *("//gradio_api/run/greet", "/gradio_api//run/greet", "/gradio_api/run/greet/", "/GRADIO_API/run/greet"),
        *("/gradio_api/run/greet%2f", "/gradio_api/run/../run/greet", "/gradio_api/run/greet\n", "/run/greet", ""),
        *("/gradio_api/call/greet", "/gradio_api/api/greet", "/gradio_api/component_server", "/gradio_api/upload"),
        *("/gradio_api/stream/x", "/gradio_api/vibe-edit", "/gradio_api/process_recording", "/gradio_api/cancel"),
    ],
)
def test_an_annotator_posts_events_to_two_paths_spelt_in_one_way(
    door: GradioGuard, gradio: Listener, path: str
) -> None:
    body = json.dumps({"data": [], "session_hash": "a"}).encode()
    assert ask(door, ANN, "POST", path, body, JSON) == 403
    assert gradio.seen == []


def test_a_stranger_gets_nowhere(door: GradioGuard, gradio: Listener) -> None:
    for path in ("/", "/config", "/gradio_api/run/greet", "/login", "/nothing"):
        assert ask(door, None, "GET", path) == ask(door, None, "POST", path, b"{}", JSON) == 401
    assert gradio.seen == []


def test_nothing_is_passed_on_below_another_path(door: GradioGuard, gradio: Listener) -> None:
    scope: Scope = {"type": "http", "method": "GET", "path": "/x/config", "root_path": "/x", "query_string": b""}
    statuses: list[int] = []

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    asyncio.run(door({**scope, "headers": [], ANNOTATOR_KEY: KIM}, receive, send))
    assert statuses[0] == 404
    assert gradio.seen == []


def test_what_is_read_comes_without_a_query(door: GradioGuard, gradio: Listener) -> None:
    assert ask(door, ANN, "GET", "/", query="page=x&deep_link=../x&__theme=dark") == 200
    assert gradio.seen[-1][0]["query_string"] == b""


# ------------------------------------------------------------------------------------------------------------ events
def test_a_name_that_no_file_can_have_is_not_looked_for(door: GradioGuard, gradio: Listener) -> None:
    """The system says of it that it is too long, which Gradio takes for an error of its own."""
    for path in (f"/assets/{'x' * 256}.js", f"/static{'/x' * 2_100}", f"/svelte/a/{'x' * 60_000}"):
        assert (ask(door, ANN, "GET", path), ask(door, KIM, "GET", path)) == (403, 404)
    assert gradio.seen == []


def test_an_annotator_reaches_only_functions_for_annotators(door: GradioGuard, gradio: Listener) -> None:
    assert call(door, ANN, data=[], session_hash="a") == 200
    assert call(door, ANN, "queue/join", data=[], session_hash="a", fn_index=0) == 200
    count = len(gradio.seen)
    for way in ("run/greet", "run/predict", "queue/join"):
        for number in (1, 2, -1, True, 0.0, "0", [0], {"0": 0}):
            assert call(door, ANN, way, data=[], session_hash="a", fn_index=number) in (403, 404), (way, number)
    assert call(door, ANN, "run/account-add", data=[]) == 403
    assert call(door, ANN, "queue/join", data=[], session_hash="a") == 404, "a function that has no name is none"
    assert len(gradio.seen) == count
    assert call(door, KIM, "run/account-add", data=[]) == 200


def test_gradio_reads_what_the_door_has_read(door: GradioGuard, gradio: Listener) -> None:
    twice = b'{"fn_index": 1, "data": ["\\ud800", NaN, 1e400], "data": [1], "fn_index": 0}'
    assert ask(door, ANN, "POST", "/gradio_api/run/greet", [twice[:9], twice[9:]], JSON) == 200
    scope, body = gradio.seen[-1]
    headers = dict(scope["headers"])
    assert headers[b"content-length"] == str(len(body)).encode()
    assert json.loads(body) == {"data": [1], "fn_index": 0}
    assert call(door, ANN, data=[], batched=True, oauth_token="x", event_id="x", request={}, simple_format=True) == 200
    assert passed_on(gradio) == {"data": []}
    for value in (float("inf"), -(2**63) + 1, "é"):
        assert call(door, ANN, data=[value]) == 200
        assert passed_on(gradio)["data"] == [value]
    assert call(door, ANN, data=["\ud83d", {"\ude00": "\ud83d\ude00"}]) == 200
    assert passed_on(gradio)["data"] == ["\ufffd", {"\ufffd": "😀"}], "nothing behind could store or send half of one"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"data": [}', 400),
        (b"\xff", 400),
        ('{"data": []}'.encode("utf-16"), 400),
        ('{"data": []}'.encode("utf-8-sig"), 400),
        (b"[" * 30_000, 400),
        (b'{"data":' * 7_000, 400),
        (b'{"data": [' + b"[" * 60 + b"]" * 60 + b"]}", 400),
        (b'{"data": [' + b"9" * 5_000 + b"]}", 400),
        (b'{"data": [[9223372036854775808]]}', 422),
        (b'{"data": [-9223372036854775808]}', 422),
        (b'{"data": ["' + b"x" * MAXIMUM_EVENT["annotator"] + b'"]}', 413),
    ],
)
def test_an_event_that_is_no_small_json_object_is_refused(
    door: GradioGuard, gradio: Listener, body: bytes, status: int
) -> None:
    assert ask(door, ANN, "POST", "/gradio_api/run/greet", body, JSON) == status
    assert gradio.seen == []


def test_an_admins_event_holds_up_others_no_longer_than_a_megabyte_takes(door: GradioGuard, gradio: Listener) -> None:
    lists = b'{"data": [' + b"[]," * 350_000 + b"[]]}"
    assert ask(door, KIM, "POST", "/gradio_api/run/greet", lists, JSON) == 413
    assert gradio.seen == []


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/b"])
def test_an_event_that_says_to_be_something_else_is_refused(door: GradioGuard, gradio: Listener, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    for who in (ANN, KIM):
        assert ask(door, who, "POST", "/gradio_api/run/greet", b'{"data": []}', headers) == 415
    assert ask(door, KIM, "POST", "/gradio_api/run/greet", b"", {**JSON, "content-encoding": "gzip"}) == 415
    assert gradio.seen == []
    odd = {"content-type": "Application/JSON ; charset=utf-16"}
    assert ask(door, ANN, "POST", "/gradio_api/run/greet", b'{"data": []}', odd) == 200
    assert dict(gradio.seen[-1][0]["headers"])[b"content-type"] == b"application/json"


# ------------------------------------------------------------------------------------------------------------- pages
def test_a_page_belongs_to_the_first_account_that_names_it(door: GradioGuard, gradio: Listener) -> None:
    assert ask(door, ANN, "GET", "/gradio_api/queue/data", query="session_hash=mine") == 404, "nobody has asked yet"
    assert ask(door, ANN, "GET", "/gradio_api/heartbeat/mine") == 200
    assert ask(door, ANN, "GET", "/gradio_api/queue/data", query="session_hash=mine&__theme=dark") == 200
    count = len(gradio.seen)
    for who in (BOB, KIM):
        assert ask(door, who, "GET", "/gradio_api/heartbeat/mine") == 403
        for query in ("session_hash=mine", "session_hash=x&session_hash=mine", "session%5Fhash=mine", "session_hash="):
            assert ask(door, who, "GET", "/gradio_api/queue/data", query=query) == 404
        for way in ("run/greet", "queue/join"):
            assert call(door, who, way, data=[], fn_index=0, session_hash="mine") == 403
    assert call(door, KIM, "call/greet", data=[], session_hash="mine") == 403
    assert call(door, KIM, "cancel", session_hash="mine", fn_index=0, event_id="x") == 403
    assert len(gradio.seen) == count
    for odd in ("", "x" * 65, "a/b", "é", "a b", 7, ["mine"], True):
        assert call(door, BOB, data=[], session_hash=odd) == 400
    assert len(gradio.seen) == count


def test_an_events_number_is_no_way_to_anothers_page(door: GradioGuard) -> None:
    page = "0" * 32
    assert call(door, LEE, data=[], session_hash=page) == 200
    assert ask(door, KIM, "GET", f"/gradio_api/call/greet/{page}") == 404
    assert ask(door, LEE, "GET", f"/gradio_api/call/greet/{page}") == 200
    assert ask(door, KIM, "GET", "/gradio_api/call/greet/mine") == 404


def test_belongings_are_bounded_and_an_account_forgets_only_its_own() -> None:
    kept = Ownership(each=3, accounts=2)
    assert kept.claim("ann's", 1)
    assert all(kept.claim(f"b{number}", 2) for number in range(50))
    assert not kept.claim("ann's", 2)
    assert [kept.has(2, f"b{number}") for number in (46, 47, 48, 49)] == [False, True, True, True]
    assert kept.claim("b47", 2), "what is used stays"
    assert kept.claim("b50", 2)
    assert kept.has(2, "b47")
    assert not kept.has(2, "b48")
    assert kept.claim("c", 3)
    assert not kept.has(1, "ann's"), "the account that came last before two others"
    assert len(kept._owner) == sum(map(len, kept._of.values())) == 4


def test_one_account_can_not_have_all_streams(door: GradioGuard, gradio: Listener) -> None:
    door.streams[ANN.id] = MAXIMUM_STREAMS
    assert ask(door, ANN, "GET", "/gradio_api/heartbeat/a") == 429
    assert ask(door, BOB, "GET", "/gradio_api/heartbeat/b") == 200
    door.streams[ANN.id] -= 1
    assert ask(door, ANN, "GET", "/gradio_api/heartbeat/a") == 200
    assert door.streams[ANN.id] == MAXIMUM_STREAMS - 1


def test_what_an_account_has_open_counts_in_all_languages_together(gradio: Listener) -> None:
    held = AccountHoldings()
    doors = [GradioGuard(gradio, [GREET, ADD], held) for _language in range(2)]
    doors[0].streams[ANN.id] = MAXIMUM_STREAMS
    assert ask(doors[1], ANN, "GET", "/gradio_api/heartbeat/page") == 429
    assert doors[0].pages.claim("ann's", ANN.id)
    assert not doors[1].pages.claim("ann's", ANN.id + 1)
    assert doors[0].uploads is doors[1].uploads


@pytest.mark.slow
def test_the_pages_of_all_languages_count_together(program: Program) -> None:
    other = program.asgi.state.pages.build().app.app  # type: ignore[attr-defined]  # as for another language
    assert other is not program.door
    assert other.streams is program.door.streams


# ------------------------------------------------------------------------------------------------------------- files
META = {"_type": "gradio.FileData"}


def upload(door: GradioGuard, gradio: Listener, who: Annotator, path: Path) -> int:
    """Upload a file that Gradio puts there."""
    gradio.answer = json.dumps([str(path)]).encode()
    headers = {"content-type": "multipart/form-data; boundary=x", "accept-encoding": "br"}
    return ask(door, who, "POST", "/gradio_api/upload", b"--x--", headers, "upload_id=1")


def test_a_file_in_an_event_is_an_own_upload_or_the_event_is_refused(
    door: GradioGuard, gradio: Listener, tmp_path: Path
) -> None:
    mine, other = tmp_path / "mine.csv", tmp_path / "other.csv"
    for path in (mine, other):
        path.write_text("a,b\n")
    assert upload(door, gradio, ANN, mine) == 403
    assert upload(door, gradio, KIM, mine) == upload(door, gradio, LEE, other) == 200
    assert b"accept-encoding" not in dict(gradio.seen[-1][0]["headers"])
    assert gradio.seen[-1][0]["query_string"] == b"upload_id=1"
    sent = {"path": str(mine), "url": "http://evil.test/x", "meta": META, "orig_name": "m.csv", "is_stream": True}
    assert call(door, KIM, "run/account-add", data=["text", [sent]], event_data=sent) == 200
    clean = {"path": str(mine), "size": 4, "meta": META, "orig_name": "m.csv"}
    assert passed_on(gradio) == {"data": ["text", [clean]], "event_data": clean}
    count = len(gradio.seen)
    for value in (
        {"path": str(other), "meta": META},
        {"path": str(other)},
        {"path": f"{mine}/../mine.csv", "meta": META},
        {"path": str(tmp_path), "meta": META},
        {"path": "/etc/passwd", "meta": META},
        {"path": "https://example.org/x", "meta": META},
        {"path": "data:text/plain,x", "meta": META},
        {"path": [str(mine)], "meta": META},
        {"path": None, "url": "http://evil.test/x"},
        {"url": "file:///etc/passwd"},
        {"orig_name": "x"},
        {"meta": META},
        {"meta": 1},
        META,
        {"a": [{"b": {"path": "/etc/passwd"}}]},
        {"value": {"path": "/dev/zero", "meta": META}, "__type__": "update"},
    ):
        for who in (ANN, KIM):
            assert call(door, who, "run/greet", data=[value]) == 403, value
            assert call(door, who, "run/greet", data=[], event_data=value) == 403, value
        assert call(door, KIM, "call/account-add", data=[value]) == 403
    assert len(gradio.seen) == count
    mine.unlink()
    mine.symlink_to("/etc/passwd")
    assert call(door, KIM, "run/account-add", data=[sent]) == 403
    mine.unlink()
    assert call(door, KIM, "run/account-add", data=[sent]) == 403


def test_only_who_uploaded_a_file_is_shown_it(door: GradioGuard, gradio: Listener, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("a")
    upload(door, gradio, KIM, mine)
    assert ask(door, KIM, "GET", f"/gradio_api/file={mine}") == 200
    for who, status in ((ANN, 403), (LEE, 403)):
        assert ask(door, who, "GET", f"/gradio_api/file={mine}") == status
    for path in (f"file={tmp_path}", "file=/etc/passwd", f"file/{mine}", f"file=http://x{mine}", f"proxy={mine}"):
        assert ask(door, KIM, "GET", f"/gradio_api/{path}") in (403, 404)


def test_a_file_is_fetched_whole(door: GradioGuard, gradio: Listener, tmp_path: Path) -> None:
    """Gradio fails on an odd range."""
    mine = tmp_path / "mine.csv"
    mine.write_text("a")
    upload(door, gradio, KIM, mine)
    headers = {"range": "bytes=0-0,1-1", "if-range": "x", "accept": "*/*"}
    assert ask(door, KIM, "GET", f"/gradio_api/file={mine}", headers=headers) == 200
    assert gradio.seen[-1][0]["headers"] == [(b"accept", b"*/*")]


@dataclass
class Breaking:
    """In Gradio's place: writes part of a file, answers as for an error of its own, and fails."""

    directory: Path
    error: Exception

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        (self.directory / "tmp1").write_text("the beginning")
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"), [(OSError(errno.ENOSPC, "No space left on device"), 507), (ClientDisconnect(), 400)]
)
def test_what_came_of_an_upload_that_the_disk_did_not_take_or_that_broke_off_goes(
    tmp_path: Path, error: Exception, status: int
) -> None:
    """It would keep the disk full, where no judgement could be stored, until the program ends."""
    (tmp_path / "in-use").touch()
    (tmp_path / "tmp-of-another").mkdir()
    door = GradioGuard(Breaking(tmp_path, error), [], directory=tmp_path)
    door.sending[LEE.id] += 1
    assert ask(door, KIM, "POST", "/gradio_api/upload") == status
    assert (tmp_path / "tmp1").exists(), "it may be what another sends"
    door.sending[LEE.id] -= 1
    assert ask(door, KIM, "POST", "/gradio_api/upload") == status
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in-use", "tmp-of-another"]


def test_uploads_are_kept_in_mind_up_to_a_bound(door: GradioGuard, gradio: Listener, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(130)]
    for path in paths:
        path.write_text("")
        upload(door, gradio, KIM, path)
    assert len(door.uploads[KIM.id]) == 100
    assert call(door, KIM, "run/account-add", data=[{"path": str(paths[-1]), "meta": META}]) == 200
    assert call(door, KIM, "run/account-add", data=[{"path": str(paths[0]), "meta": META}]) == 403
