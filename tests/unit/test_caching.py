"""What browsers may keep: the files that are named after their content, and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from annotation.web import SECURITY_HEADERS, SecurityHeaders


def headers_of(path: str, status: int = 200) -> Headers:
    """The headers that reach the browser with an answer of this status."""
    sent: list[Message] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def keep(message: Message) -> None:
        sent.append(message)

    async def nothing() -> Message:
        raise AssertionError("nothing is read")

    asyncio.run(SecurityHeaders(answer)({"type": "http", "path": path}, nothing, keep))
    return Headers(raw=sent[0]["headers"])


@pytest.mark.parametrize("name", ["index-DphvyggB.js", "Index-Akn07EZk2.js", "Canvas3D-w_smXOmb.js", "a-xHah75_-.css"])
def test_a_file_named_after_its_content_is_kept_by_its_reader_alone(name: str) -> None:
    assert headers_of(f"/assets/{name}")["cache-control"] == "private, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config",
        "/theme.css",
        "/assets/svelte.js",
        "/assets/index.css",
        "/login",
        "/gradio_api/file=/assets/a-12345678.js",
    ],
)
def test_nothing_else_is(path: str) -> None:
    assert "cache-control" not in headers_of(path)


@pytest.mark.parametrize("status", [206, 303, 401, 404, 500])
def test_an_answer_that_is_not_the_file_is_not_kept(status: int) -> None:
    assert "cache-control" not in headers_of("/assets/index-DphvyggB.js", status)


def test_the_security_headers_are_on_both() -> None:
    for path in ("/assets/index-DphvyggB.js", "/"):
        found = headers_of(path)
        assert {name: found[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
