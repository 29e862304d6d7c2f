"""A file or an address in an event: in every spelling, to every function, by every way, from everybody. In process."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from annotation.web import access
from annotation.web.middleware import ANNOTATOR_KEY
from rlhf.web_server import IN_USE
from tests.annotation.web.conftest import Program
from tests.attack.target import META, SECRET, spellings, ways_in

pytestmark = pytest.mark.slow


async def post(program: Program, name: str | None, bodies: Iterable[tuple[str, Any]]) -> AsyncIterator[tuple[int, str]]:
    """Status and text of each request by this person, without a client: of thousands it would be most of the work."""
    cookie = next(iter(program.client(name).build_request("POST", "/").headers.get_list("cookie")), "")
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    for path, body in bodies:
        content = json.dumps(body).encode()
        told = {"host": "localhost", "content-type": "application/json", "content-length": len(content)}
        headers = {**told, "cookie": cookie} if cookie else told
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(key.encode(), str(value).encode()) for key, value in headers.items()],
            "client": ("127.0.0.1", 123),
            "server": ("localhost", 80),
        }
        come = iter([{"type": "http.request", "body": content, "more_body": False}])

        async def receive(come: Iterator[Message] = come) -> Message:
            return next(come, {"type": "http.disconnect"})

        sent.clear()
        await program.asgi(scope, receive, send)
        yield sent[0]["status"], b"".join(message.get("body", b"") for message in sent).decode()


def everything_named(program: Program) -> list[Any]:
    """Each spelling of a file of the server, and some files that are none."""
    names = (str(program.secret), str(program.db.path), "/proc/self/environ", "/dev/zero")
    first, *others = (spellings(name, "http://127.0.0.1:9/x") for name in names)
    return [*first, *(spelt[0] for spelt in others)]


def test_nobody_names_a_file_or_an_address_to_any_function(program: Program, capfd: pytest.CaptureFixture[str]) -> None:
    """Every function with every spelling, and every function by every way."""
    values = everything_named(program)
    assert len(program.functions) > 100

    async def attack(name: str | None, allowed: tuple[int, ...]) -> int:
        asked = []
        for function in program.functions:
            for step, value in enumerate(values):
                ways = ways_in(function, [value for _ in function["inputs"]] or [value])
                asked.append(ways[step % len(ways)])
        count = 0
        async for status, text in post(program, name, asked):
            assert status in allowed, (name, asked[count], text)
            assert SECRET not in text
            count += 1
        return count

    assert asyncio.run(attack(None, (401,))) == len(values) * len(program.functions)
    asyncio.run(attack("ann", (403,)))
    asyncio.run(attack("kim", (403, 404)))  # 404: /call/v2 is a way for nobody
    assert [path.name for path in program.uploads.iterdir()] == [IN_USE]
    assert capfd.readouterr().err == ""


def test_an_admin_works_with_the_own_upload_only(program: Program) -> None:
    looked = next(function for function in program.functions if function["api_name"] == "import-uploaded")

    async def call(client: httpx.AsyncClient, path: str) -> httpx.Response:
        data = ["upload", {"path": path, "meta": META, "orig_name": "x.csv"}, "", "", "", ""]
        return await client.post("/gradio_api/run/import-uploaded", json={"data": data[: len(looked["inputs"])]})

    async def work() -> None:
        async with program.client("kim") as kim, program.client("lee") as lee:
            sent = await kim.post("/gradio_api/upload", files={"files": ("x.csv", b"prompt\nhello\n")})
            (path,) = sent.json()
            assert Path(path).is_relative_to(program.uploads)
            assert (await call(kim, path)).status_code == 200
            assert (await call(lee, path)).status_code == 403
            assert (await kim.get(f"/gradio_api/file={path}")).text == "prompt\nhello\n"
            for other in (lee, program.client("ann"), program.client(None)):
                assert (await other.get(f"/gradio_api/file={path}")).status_code in (401, 403)
            await kim.post("/gradio_api/run/import-cancel", json={"data": []})

    asyncio.run(work())
    assert program.uploads.stat().st_mode & 0o777 == 0o700


def test_gradio_itself_takes_no_file_that_was_not_uploaded(program: Program) -> None:
    """The wall behind the door: the same request with the door left out copies nothing."""
    admin = access.authorise(program.db, "kim", "admin")

    async def without_door(scope: Scope, receive: Receive, send: Send) -> None:
        await program.door.app({**scope, ANNOTATOR_KEY: admin}, receive, send)

    def files() -> set[Path]:
        return {path for path in program.uploads.rglob("*") if path.is_file() and SECRET in path.read_text("utf-8")}

    async def attack() -> int:
        count = 0
        transport = httpx.ASGITransport(without_door)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for function in program.functions:
                if function["inputs"] and isinstance(function["inputs"][0], gr.Radio | gr.Dropdown | gr.File):
                    data = [{"path": str(program.secret), "meta": META}, *(None for _ in function["inputs"][1:])]
                    body = {"data": data, "fn_index": function["id"], "session_hash": "x"}
                    answer = await client.post("/gradio_api/run/predict", json=body)
                    assert answer.status_code == 500
                    count += 1
        return count

    assert asyncio.run(attack()) > 10
    assert files() == set()


API = "/gradio_api/"
OPEN = {
    *("GET /", "HEAD /", *(f"GET /{name}/x.js" for name in ("assets", "static", "svelte"))),
    *(f"GET /{name}" for name in ("config", "theme.css", "favicon.ico", "robots.txt", "manifest.json")),
    *(f"GET {API}{name}" for name in ("theme.css", "startup-events", "heartbeat/PAGE", "queue/data")),
    *(f"POST {API}{name}" for name in ("run/greet", "queue/join")),
}
FOR_ADMINS = {
    *(f"POST {API}{name}" for name in ("api/greet", "call/greet", "cancel", "reset", "upload")),
    *(f"GET {API}{name}" for name in (f"call/greet/{'0' * 32}", "upload_progress")),
}


@pytest.mark.parametrize(("name", "expected"), [("ann", OPEN), ("kim", OPEN | FOR_ADMINS)])
def test_of_gradios_own_routes_only_those_that_pages_need_are_open(
    program: Program, monkeypatch: pytest.MonkeyPatch, name: str, expected: set[str]
) -> None:
    """A newer Gradio's routes stay closed, and each of today's is looked at here."""
    # FastAPI keeps the routes of a router that was included in there.
    routes: list[Any] = []
    for route in program.door.app.apps["admin"].routes:  # type: ignore[attr-defined]
        routes += route.original_router.routes if hasattr(route, "original_router") else [route]
    page = f"page-of-{name}"
    parts = {"session_hash": page, "api_name": "greet", "event_id": "0" * 32, "path_or_url": "/x", "path": "x.js"}
    greet = next(function["id"] for function in program.functions if function["api_name"] == "greet")
    reached: set[str] = set()

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        reached.add(f"{scope['method']} {scope['path'].replace(page, 'PAGE')}")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def ask_for_each() -> None:
        async with program.client(name) as client:
            for route in routes:
                path = re.sub(r"{(\w+)(?::path)?}", lambda part: parts.get(part[1], "1"), route.path)
                for method in route.methods:
                    body = {"data": [], "session_hash": page, "fn_index": greet, "event_id": "x"}
                    await client.request(method, path, json=body, params={"session_hash": page})

    monkeypatch.setattr(program.door, "app", listen)
    asyncio.run(ask_for_each())
    assert len(routes) > 60
    assert reached == expected
