"""What browsers may keep: the files that are named after their content, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from annotation.web.middleware import SECURITY_HEADERS, SecurityHeaders


def headers_of(
    path: str, status: int = 200, own: Sequence[tuple[bytes, bytes]] = (), frames: Sequence[str] = ()
) -> Headers:
    """The headers that reach the browser with an answer of this status, which has some of its own."""
    sent: list[Message] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [*own]})

    async def keep(message: Message) -> None:
        sent.append(message)

    async def nothing() -> Message:
        raise AssertionError("nothing is read")

    asyncio.run(SecurityHeaders(answer, frames)({"type": "http", "path": path}, nothing, keep))
    return Headers(raw=sent[0]["headers"])


@pytest.mark.parametrize("name", ["index-DphvyggB.js", "Index-Akn07EZk2.js", "Canvas3D-w_smXOmb.js", "a-xHah75_-.css"])
def test_a_file_named_after_its_content_is_kept_by_its_reader_alone(name: str) -> None:
    assert headers_of(f"/assets/{name}")["cache-control"] == "private, max-age=31536000, immutable"


@pytest.mark.parametrize("path", ["/theme.css", "/assets/svelte.js", "/assets/index.css", "/static/img/api-logo.svg"])
def test_other_files_of_the_package_are_kept_as_browsers_see_fit(path: str) -> None:
    assert "cache-control" not in headers_of(path)


@pytest.mark.parametrize(
    "path", ["/", "/config", "/login", "/annotate/latest", "/gradio_api/file=/assets/a-12345678.js", "/assets", "/x"]
)
def test_nothing_else_is_kept_where_others_may_look(path: str) -> None:
    assert headers_of(path)["cache-control"] == "no-store"


def test_what_an_answer_says_of_itself_stays() -> None:
    assert headers_of("/exports/x.jsonl", own=[(b"cache-control", b"no-cache")])["cache-control"] == "no-cache"


@pytest.mark.parametrize("status", [206, 303, 401, 404, 500])
def test_an_answer_that_is_not_the_file_is_not_kept(status: int) -> None:
    assert headers_of("/assets/index-DphvyggB.js", status)["cache-control"] == "no-store"


def test_the_security_headers_are_on_both() -> None:
    for path in ("/assets/index-DphvyggB.js", "/"):
        found = headers_of(path)
        assert {name: found[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert found["cross-origin-opener-policy"] == "same-origin"


def test_a_page_that_another_site_frames_keeps_its_window_open_to_it() -> None:
    found = headers_of("/", frames=("https://huggingface.co",))
    assert "frame-ancestors 'self' https://huggingface.co;" in found["content-security-policy"]
    assert "cross-origin-opener-policy" not in found
