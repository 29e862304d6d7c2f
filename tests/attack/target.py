"""The program that is attacked: started on loopback with people and comparisons, its log, and what strangers try."""

from __future__ import annotations

import re
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from annotation.database import open_database
from tests.annotation.web.test_middleware import Call, Site, command, describe, seed
from tests.machine_fixtures import ROOT

PEOPLE = (None, "ann", "kim")
"""A stranger, an annotator, an admin."""
META = {"_type": "gradio.FileData"}
SECRET = "what only the server may read"
REFUSED = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429)


@dataclass(frozen=True)
class Target:
    """The program, and how hard it is attacked."""

    site: Site
    data_dir: Path
    log: Path
    secret: Path
    """A file outside the data directory that nobody may read by way of the server."""
    long: bool

    def client(self, name: str | None) -> httpx.Client:
        """A browser of this person, or of a stranger."""
        return self.site.client(name)

    def some(self, found: list[Any], each: int) -> list[Any]:
        """All of them in the long form; one of so many in the short."""
        return found if self.long else found[::each]

    def admins(self) -> list[Call]:
        """Functions that only admins may call."""
        return [function for function in self.site.functions if function["role"] == "admin"]

    def logged(self) -> str:
        """What the program has written to its log."""
        return self.log.read_text("utf-8", "replace")


@contextmanager
def target(long: bool) -> Iterator[Target]:
    """Start the program, and stop it on the way out."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir, log, secret = (Path(folder) / name for name in ("data", "log", "secret.txt"))
        secret.write_text(SECRET, "utf-8")
        db = open_database(data_dir)
        seed(db)
        with (
            log.open("wb") as written,
            subprocess.Popen(command(data_dir), cwd=ROOT, stdout=subprocess.PIPE, stderr=written, text=True) as process,
        ):
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("Prefloop runs at ").strip().rstrip("/")
            try:
                bare = Site(url, f"prefloop-{url.rsplit(':', 1)[1]}", db, [])
                yield Target(site=describe(bare, data_dir), data_dir=data_dir, log=log, secret=secret, long=long)
            finally:
                process.terminate()
                process.wait()
        db.close()


def spellings(path: str, trap: str) -> list[Any]:
    """The ways to name a file or an address in an event; `trap` is an address that counts who comes."""
    whole = {"path": path, "url": None, "size": 1, "orig_name": "x", "mime_type": "text/plain", "is_stream": False}
    return [
        {"path": path, "meta": META},
        {**whole, "meta": META},
        {"path": path},
        {"path": path, "url": f"/gradio_api/file={path}", "meta": META},
        {"path": f"file://{path}", "meta": META},
        {"path": trap, "meta": META},
        {"path": trap, "url": trap, "orig_name": "x", "meta": META},
        {"path": "x", "url": trap, "meta": META, "is_stream": True},
        {"path": "data:text/plain;base64,eA==", "meta": META},
        {"path": "/dev/zero", "meta": META},
        {"path": f"/tmp/../{path}", "meta": META},
        [{"path": path, "meta": META}],
        {"value": {"path": path, "meta": META}},
        {"headers": ["a"], "data": [[{"path": path, "meta": META}]], "metadata": None},
        {"text": "x", "files": [{"path": path, "meta": META}]},
        {"__type__": "update", "value": [[{"path": path, "meta": META}]]},
        {"path": path, "meta": 1},
        {"meta": META, "path": {"path": path}},
    ]


def ways_in(function: Call, data: list[Any]) -> list[tuple[str, Call]]:
    """Every way to call a function with these inputs: (path, body)."""
    page = secrets.token_hex(6)
    body = {"data": data, "fn_index": function["id"], "session_hash": page, "trigger_id": None, "event_data": None}
    name = function["api_name"]
    return [
        ("/gradio_api/queue/join", body),
        (f"/gradio_api/run/{name}", {"data": data, "session_hash": page}),
        (f"/gradio_api/call/{name}", {"data": data}),
        (f"/gradio_api/api/{name}", {"data": data}),
        ("/gradio_api/run/predict", body),
        (f"/gradio_api/call/v2/{name}", {f"param_{place}": value for place, value in enumerate(data)}),
        ("/gradio_api/run/predict", {**body, "data": [], "event_data": data}),
    ]


def attempt(act: Callable[[], httpx.Response]) -> httpx.Response | None:
    """The answer; None where the connection ended without one, or httpx would not send such a thing."""
    try:
        return act()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, UnicodeError):
        return None


def leaks(target: Target, text: str) -> bool:
    """Whether a text has something of the server that it must not have."""
    return SECRET in text or "root:x:0" in text or str(target.data_dir) in text or bool(re.search("Traceback", text))
