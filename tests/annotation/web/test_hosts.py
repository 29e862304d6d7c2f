"""What requests say of where they were sent to and came from: odd hosts and origins are refused, claims forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annotation.web.middleware import SECURITY_HEADERS, KnownHost, SameOrigin, SecurityHeaders
from annotation.web.space import LOOPBACK_NAMES, Space

SPACE = Space("ann/prefloop", ("ann-prefloop.hf.space", "judge.example.org"), "ann", "")
Pairs = Sequence[tuple[str, str]]


class Inner:
    """What is behind: keeps the scope that reaches it."""

    seen: Scope | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen = scope
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def asked(app: ASGIApp, headers: Pairs, method: str = "GET") -> list[Message]:
    """The answer to a request with these headers."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    asyncio.run(app({"type": "http", "method": method, "path": "/x", "headers": raw, "scheme": "http"}, receive, send))
    return sent


def status(app: ASGIApp, headers: Pairs, method: str = "GET") -> int:
    """The status of the answer."""
    return int(asked(app, headers, method)[0]["status"])


ODD_HOSTS = (
    *("[", "]", "[]", "[::1", "::1]", "[::1]x", "[g]", "a b", "a@b", "a/b", "a?b", "a#b", "a\\b", "a,b", "a:b", "a:"),
    *(
        "a:99999",
        "a:-1",
        "a:1:2",
        "http://a",
        "é",
        "a\x00",
        "%61",
        "",
        " ",
        "a" * 256,
        "localhost:65536",
        "127.0.0.1:²",
    ),
)


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_what_is_no_host_is_refused(host: str) -> None:
    assert status(KnownHost(Inner()), [("host", host)]) == 400
    assert status(KnownHost(Inner(), LOOPBACK_NAMES), [("host", host)]) == 403
    assert status(KnownHost(Inner(), space=SPACE), [("host", host)]) == 400


def test_one_host_is_taken_and_on_this_machine_only_ours() -> None:
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:7860", "[::1]:7860", "[::1]"):
        assert status(KnownHost(Inner(), LOOPBACK_NAMES), [("host", host)]) == 200
    for pairs in ([("host", "localhost"), ("host", "localhost")], [("host", "evil.test")], []):
        assert status(KnownHost(Inner(), LOOPBACK_NAMES), pairs) == 403
    for host in ("annotate.example.org", "10.0.0.1:80", "a_b"):
        assert status(KnownHost(Inner()), [("host", host)]) == 200
    assert status(KnownHost(Inner()), []) == 200, "HTTP/1.0"


CLAIMS: Pairs = [
    *(("x-forwarded-host", "evil.test"), ("x-forwarded-proto", "https"), ("x-forwarded-prefix", "/evil")),
    *(("x-forwarded-port", "1"), ("x-gradio-server", "http://evil.test"), ("forwarded", "host=evil.test")),
]


def test_what_headers_claim_is_not_seen_behind() -> None:
    inner = Inner()
    assert status(KnownHost(inner), [("host", "a.test"), ("accept", "x"), *CLAIMS]) == 200
    assert inner.seen is not None
    assert Headers(scope=inner.seen).items() == [("host", "a.test"), ("accept", "x")]
    assert inner.seen["scheme"] == "http"


@pytest.mark.parametrize(
    ("host", "forwarded", "seen"),
    [
        ("10.1.2.3:7860", None, SPACE.hosts[0]),
        ("10.1.2.3:7860", SPACE.hosts[1], SPACE.hosts[1]),
        (SPACE.hosts[1], None, SPACE.hosts[1]),
        (SPACE.hosts[1], "evil.test", SPACE.hosts[1]),
        ("10.1.2.3:7860", f"evil.test, {SPACE.hosts[1]}", SPACE.hosts[0]),
        ("10.1.2.3:7860", f"{SPACE.hosts[1]}, evil.test", SPACE.hosts[1]),
        ("evil.test", "[", SPACE.hosts[0]),
    ],
)
def test_on_a_space_the_host_is_one_of_its_own(host: str, forwarded: str | None, seen: str) -> None:
    inner = Inner()
    headers = [("host", host)] + ([] if forwarded is None else [("x-forwarded-host", forwarded)])
    assert status(KnownHost(inner, space=SPACE), headers) == 200
    assert inner.seen is not None
    assert Headers(scope=inner.seen).getlist("host") == [seen]
    assert inner.seen["scheme"] == "https"


@pytest.mark.parametrize(
    "odd", ["http://[", "http://a.test:99999", "a.test", "null", "", "ws://a.test", "http://é", "["]
)
def test_an_odd_origin_is_another_site(odd: str) -> None:
    for own in ("a.test", odd):
        assert status(SameOrigin(Inner()), [("host", own), ("origin", odd)], "POST") == 403
    both = [("host", "a.test"), ("origin", "http://a.test"), ("origin", odd)]
    assert status(SameOrigin(Inner()), both, "POST") == 403
    assert status(SameOrigin(Inner()), both[:2], "POST") == 200


def test_an_answer_to_what_failed_has_the_headers_and_says_nothing_of_it() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret words")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    with pytest.raises(RuntimeError):  # for the log
        asyncio.run(SecurityHeaders(fail)({"type": "http", "path": "/x", "headers": []}, receive, send))
    headers: Any = Headers(raw=sent[0]["headers"])
    assert sent[0]["status"] == 500
    assert {name: headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert headers["cache-control"] == "no-store"
    assert b"secret" not in sent[1]["body"]
