"""Which addresses open the page, for whom, and what stands in its head."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import Message

from annotation.records import Annotator, Role
from annotation.web.middleware import ANNOTATOR_KEY
from annotation.web.page_addresses import QUICKER, SCRIPTS, PageAddresses, PageHead, QuickerScripts

TABS: dict[Role, list[str]] = {"annotator": ["annotate"], "admin": ["annotate", "runs", "train"]}


def answer_of(app: Any, path: str, role: Role | None = "admin", method: str = "GET", accept: str = "text/html") -> Any:
    """The status of an answer, and its body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"a=b", "headers": []}
    scope["headers"] = [(b"accept", accept.encode())]
    scope[ANNOTATOR_KEY] = None if role is None else Annotator(1, "kim", role)
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """In Gradio's place: says which path it was asked for."""
    await PlainTextResponse(f"{scope['path']} {scope['query_string'].decode()}".strip())(scope, receive, send)


@pytest.mark.parametrize("path", ["/runs", "/runs/", "/runs/12", "/train/dpo/x", "/annotate", "/runs/a b"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_address_of_a_tab_opens_the_page(path: str, method: str) -> None:
    assert answer_of(PageAddresses(behind, TABS), path, method=method) == (200, "/")


def test_what_is_no_address_is_left_to_gradio() -> None:
    page = PageAddresses(behind, TABS)
    for path in ("/", "/assets/index-12345678.js", "/config", "/gradio_api/run/greet", "/runs//x", "/Runs"):
        assert answer_of(page, path) == (200, f"{path} a=b")
    assert answer_of(page, "/runs", method="POST") == (200, "/runs a=b")
    assert answer_of(page, "/nothing", accept="*/*") == (200, "/nothing a=b")
    assert answer_of(page, "/runs", role=None) == (200, "/runs a=b")


def test_a_person_reads_why_there_is_nothing_for_them() -> None:
    page = PageAddresses(behind, TABS)
    status, said = answer_of(page, "/runs/12", role="annotator")
    assert status == 403
    assert "Only admins see this page." in said
    for role in ("annotator", "admin"):
        status, said = answer_of(page, "/nothing", role)
        assert status == 404
        assert "There is nothing at this address." in said


def test_an_address_that_goes_on_where_nothing_is_looked_at_leads_nowhere() -> None:
    page = PageAddresses(behind, TABS, ["train", "train/dpo"])
    assert [answer_of(page, path)[0] for path in ("/train/zzz", "/train/dpo/z/z")] == [404, 404]
    for path in ("/train", "/train/dpo", "/train/dpo/", "/runs/12"):
        assert answer_of(page, path) == (200, "/")


def test_the_head_of_the_page_has_the_script_before_anything_is_drawn_and_finds_its_files_from_any_address() -> None:
    page = '<html\n\tlang="en"><base href="./" /><script>window.gradio_config = {};</script>'
    page += "<script data-gradio-mode>…</script>"
    head = {"inserted": "<script>ours</script>", "language": 'lang="ar" dir="rtl"'}
    status, changed = answer_of(PageHead(HTMLResponse(page), **head), "/")
    assert status == 200
    ours = "<script>ours</script><script data-gradio-mode>…</script>"
    assert changed == f'<html lang="ar" dir="rtl"><base href="/" /><script>window.gradio_config = {{}};</script>{ours}'
    assert answer_of(PageHead(HTMLResponse("x"), **head), "/config") == (200, "x")
    assert answer_of(PageHead(HTMLResponse("x", 404), **head), "/") == (404, "x")


def test_gradios_scripts_look_nothing_up_that_is_not_needed_and_otherwise_stay_as_they_are() -> None:
    """What is replaced is there once: a new Gradio that has something else in its place is noticed here."""
    frontend = Path(str(files("gradio"))) / "templates" / "frontend" / "assets"
    found = {
        path: path.read_text("utf-8") for path in frontend.glob("*.js") if SCRIPTS.fullmatch(f"/assets/{path.name}")
    }
    assert [sum(script.count(slow.decode()) for script in found.values()) for slow in QUICKER] == [1] * len(QUICKER)
    for path, script in found.items():
        expected = script
        for slow, quick in QUICKER.items():
            expected = expected.replace(slow.decode(), quick.decode())
        served = QuickerScripts(PlainTextResponse(script))
        assert answer_of(served, f"/assets/{path.name}") == (200, expected)
        assert answer_of(served, "/assets/index.js") == (200, script)
