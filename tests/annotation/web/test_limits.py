"""What one request, one account and one place may take of the server: a body in time, and so much at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from annotation.database import Database
from annotation.web import access, middleware
from annotation.web.middleware import MAXIMUM_AT_ONCE, SignedIn
from tests.annotation.web.conftest import Program
from tests.machine_fixtures import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

COOKIE = "session"
PASSWORD = "a long enough password"
JSON = (b"content-type", b"application/json")
BODIES = ("/login", "/join", "/language", "/annotate/card", "/annotate/judge")


def asked(
    path: str, token: str = "", address: str = "203.0.113.7", cookie: str = COOKIE, method: str = "POST"
) -> Scope:
    """A request by whoever has this token."""
    headers = [(b"host", b"localhost"), JSON, (b"content-length", b"10000")]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [*headers, (b"cookie", f"{cookie}={token}".encode())],
        "client": (address, 1),
        "server": ("localhost", 80),
    }


async def status(app: Any, scope: Scope, *parts: Message) -> int:
    """The status of the answer to a request of which these parts come, and then nothing more."""
    left = list(parts)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return await status_of(app, scope, receive)


async def status_of(app: Any, scope: Scope, receive: Receive) -> int:
    """The status of the answer to a request of which this receives the parts."""
    sent = list[Message]()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


FIRST: Message = {"type": "http.request", "body": b"{", "more_body": True}
WHOLE: Message = {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_never_comes_to_an_end_is_given_up(
    program: Program, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.05)
    token = access.open_session(program.db, access.authorise(program.db, "ann", "annotator"))
    assert asyncio.run(status(program.asgi, asked(path, token, cookie=program.cookie), FIRST)) == 408


@pytest.mark.parametrize("path", BODIES)
def test_a_request_that_is_broken_off_is_no_error_of_the_program(program: Program, path: str) -> None:
    token = access.open_session(program.db, access.authorise(program.db, "ann", "annotator"))
    scope = asked(path, token, cookie=program.cookie)
    assert asyncio.run(status(program.asgi, scope, FIRST, {"type": "http.disconnect"})) == 400


UPLOAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\na'


@pytest.mark.parametrize("path", [*BODIES[2:], "/gradio_api/run/greet", "/gradio_api/upload"])
def test_who_is_shut_out_while_a_request_comes_does_nothing_with_it(program: Program, path: str) -> None:
    token = access.open_session(program.db, access.authorise(program.db, "kim", "admin"))
    scope = asked(path, token, cookie=program.cookie)
    left: list[Message] = [FIRST, {**WHOLE, "body": b"}"}]
    if path == "/gradio_api/upload":
        scope["headers"][1] = (b"content-type", b"multipart/form-data; boundary=x")
        left = [{**FIRST, "body": UPLOAD}, {**WHOLE, "body": b"\r\n--x--\r\n"}]

    async def receive() -> Message:
        if len(left) == 1:
            access.close_session(program.db, token)
        return left.pop(0)

    assert asyncio.run(status_of(program.asgi, scope, receive)) == 401
    assert not left


class Slow:
    """Answers when a test lets it; what has a body that comes is read before."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.there = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.there += 1
        if scope["path"] == "/join":
            await receive()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def at_once(db: Database, many: Scope, others: Sequence[Scope]) -> tuple[list[int], list[int]]:
    """What so many requests of one get, one more than there may be; and those of others meanwhile."""
    slow = Slow()
    door = SignedIn(slow, db, COOKIE)
    own = [asyncio.create_task(status(door, many, WHOLE)) for _ in range(MAXIMUM_AT_ONCE + 1)]
    others_own = [asyncio.create_task(status(door, one, WHOLE)) for one in others]
    tasks = [*own, *others_own]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while slow.there + sum(task.done() for task in tasks) < len(tasks):
            await asyncio.sleep(0.001)
    slow.go_on.set()
    found = await asyncio.gather(*own), await asyncio.gather(*others_own)
    assert await status(door, many, WHOLE) == 200
    assert not door.under_way
    return found


def test_one_account_can_not_have_all_connections(db: Database) -> None:
    tokens = []
    for name in ("ann", "bob"):
        access.add_account(db, name, "annotator", PASSWORD)
        tokens.append(access.open_session(db, access.authorise(db, name, "annotator")))
    scopes = [asked("/annotate/card", token) for token in tokens]
    own, others = asyncio.run(at_once(db, scopes[0], [scopes[1], asked("/login")]))
    assert own == [*[200] * MAXIMUM_AT_ONCE, 429]
    assert others == [200, 200]


def test_one_place_can_not_have_all_connections_without_a_session(db: Database) -> None:
    others = [asked("/login", address=address) for address in ("2001:db8:0:1::1", "2001:db8::ffff")]
    own, elsewhere = asyncio.run(at_once(db, asked("/login", address="2001:db8::1"), others))
    assert own == [*[200] * MAXIMUM_AT_ONCE, 429]
    assert elsewhere == [200, 429], "the second is in the same network"


def test_a_place_takes_nothing_up_once_its_forms_have_come(db: Database) -> None:
    own, others = asyncio.run(at_once(db, asked("/join"), [asked("/join")]))
    assert own == [200] * (MAXIMUM_AT_ONCE + 1)
    assert others == [200]


def test_unfinished_forms_of_a_place_keep_only_forms_of_unknown_browsers_out(db: Database) -> None:
    access.add_account(db, "ann", "annotator", PASSWORD)
    mark = access.browser_mark(db, "ann")
    known, made_up = (asked("/login", value, cookie=f"{COOKIE}-browser") for value in (mark, f"{mark}0"))
    reads = [asked(path, method="GET") for path in ("/healthz", "/login", "/join", "/signin")]
    own, others = asyncio.run(at_once(db, asked("/login"), [known, made_up, asked("/logout"), *reads]))
    assert own == [*[200] * MAXIMUM_AT_ONCE, 429]
    assert others == [200, 429, 200, 200, 200, 200, 200]


def test_a_known_browser_counts_for_its_account(db: Database) -> None:
    access.add_account(db, "ann", "annotator", PASSWORD)
    door = SignedIn(Slow(), db, COOKIE)
    scope = asked("/login", access.browser_mark(db, "ann"), cookie=f"{COOKIE}-browser")
    door.under_way["203.0.113.7"] = door.under_way[access.authorise(db, "ann", "annotator").id] = MAXIMUM_AT_ONCE
    assert asyncio.run(status(door, scope)) == 429


@pytest.mark.parametrize("accepted", ["text/html", "*/*"])
def test_who_can_not_be_signed_out_is_told_and_may_try_again(
    program: Program, monkeypatch: pytest.MonkeyPatch, accepted: str
) -> None:
    async def sign_out(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/logout", headers={"accept": accepted})

    monkeypatch.setattr("annotation.database.WAIT_SECONDS", 0.0)
    client = program.client("ann")
    with closing(Database(program.db.path)) as other, other.transaction():
        answer = asyncio.run(sign_out(client))
    assert (answer.status_code, answer.headers["cache-control"]) == (503, "no-store")
    assert "The server can store nothing now. Tell whoever runs it." in answer.text
    assert "set-cookie" not in answer.headers
    assert access.session_annotator(program.db, client.cookies[program.cookie]) is not None


@pytest.mark.parametrize("path", ["/login", "/runs"])
def test_cookies_come_without_what_takes_their_reader_seconds(db: Database, path: str) -> None:
    """Until Python 3.11.10 unquoting took time by the square of the backslashes, with everybody else waiting."""
    read: list[str] = []

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        read.append(Request(scope).cookies["more"])
        await Response()(scope, receive, send)

    access.add_account(db, "ann", "annotator", PASSWORD)
    token = access.open_session(db, access.authorise(db, "ann", "annotator"))
    scope = asked(path, f'{token}; more="{chr(92) * 30_001}x"', method="GET")
    assert asyncio.run(status(SignedIn(reads, db, COOKIE), scope)) == 200
    assert read == ["x"]


@pytest.mark.parametrize("path", ["/login", "/runs"])
def test_people_read_on_a_page_that_too_much_is_under_way(program: Program, path: str) -> None:
    async def answer(door: SignedIn) -> httpx.Response:
        transport = httpx.ASGITransport(door, client=("203.0.113.7", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            client.cookies.set(COOKIE, token)
            return await client.post(path, headers={"accept": "text/html,*/*"})

    ann = access.authorise(program.db, "ann", "annotator")
    token = access.open_session(program.db, ann)
    door = SignedIn(Slow(), program.db, COOKIE)
    door.under_way["203.0.113.7"] = door.under_way[ann.id] = MAXIMUM_AT_ONCE
    page = asyncio.run(answer(door))
    assert (page.status_code, page.headers["retry-after"], page.headers["cache-control"]) == (429, "1", "no-store")
    assert page.headers["content-type"].startswith("text/html")
    assert "Too much is asked for at once." in page.text
