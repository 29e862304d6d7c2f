"""What one request, one account and one place may take of the server: a body in time, and so much at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from annotation.database import Database
from annotation.web import access, middleware
from annotation.web.middleware import MAXIMUM_AT_ONCE, SignedIn
from tests.annotation.web.conftest import Program

pytestmark = pytest.mark.slow

COOKIE = "session"
PASSWORD = "a long enough password"
JSON = (b"content-type", b"application/json")
BODIES = ("/login", "/join", "/language", "/annotate/card", "/annotate/judge")


def asked(path: str, token: str = "", address: str = "203.0.113.7", cookie: str = COOKIE) -> Scope:
    """A request by whoever has this token."""
    headers = [(b"host", b"localhost"), JSON, (b"content-length", b"10000")]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
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
    left, sent = list(parts), list[Message]()

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


FIRST: Message = {"type": "http.request", "body": b"{", "more_body": True}


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


class Slow:
    """Answers when a test lets it."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def at_once(db: Database, many: Scope, others: Sequence[Scope]) -> tuple[list[int], list[int]]:
    """What so many requests of one get, one more than there may be; and those of others meanwhile."""
    slow = Slow()
    door = SignedIn(slow, db, COOKIE)
    own = [asyncio.create_task(status(door, many)) for _ in range(MAXIMUM_AT_ONCE + 1)]
    others_own = [asyncio.create_task(status(door, one)) for one in others]
    for _ in range(100):
        await asyncio.sleep(0)
    slow.go_on.set()
    found = await asyncio.gather(*own), await asyncio.gather(*others_own)
    assert await status(door, many) == 200
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
