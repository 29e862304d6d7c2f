"""The whole program in process, built once for the tests of what passes its doors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from starlette.types import ASGIApp

import app
from annotation.database import Database, open_database
from annotation.web import access
from annotation.web.gradio_allowlist import GradioGuard
from rlhf import web_server
from rlhf.models import registry
from tests.attack.target import SECRET
from tests.conftest import BASE_NAME

PASSWORD = "a long enough password"


@dataclass(frozen=True)
class Program:
    """The program without a server around it."""

    asgi: ASGIApp
    door: GradioGuard
    cookie: str
    db: Database
    functions: list[dict[str, Any]]
    uploads: Path
    secret: Path

    def client(self, name: str | None) -> httpx.AsyncClient:
        """A browser of this person, or of a stranger."""
        client = httpx.AsyncClient(transport=httpx.ASGITransport(self.asgi), base_url="http://localhost")
        if name is not None:
            token = access.open_session(self.db, access.authorise(self.db, name, "annotator"))
            client.cookies.set(self.cookie, token)
        return client


@pytest.fixture(scope="package")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("files")
    db = open_database(folder / "data")
    registry.ensure_base(db, BASE_NAME)
    for name, role in (("ann", "annotator"), ("kim", "admin"), ("lee", "admin")):
        access.add_account(db, name, role, PASSWORD)
    secret = folder / "secret.txt"
    secret.write_text(SECRET, "utf-8")
    settings = app.Settings(data_dir=folder / "data", workers=False)
    asgi = web_server.build_app(settings)
    built = asgi.state.pages.build().app
    door = built.app
    assert isinstance(door, GradioGuard)
    asgi.state.pages.open(built)
    pages: gr.Blocks = door.app.apps["admin"].get_blocks()  # type: ignore[attr-defined]
    functions = [
        {"id": number, "api_name": block.api_name, "inputs": block.inputs} for number, block in pages.fns.items()
    ]
    yield Program(
        asgi=asgi,
        door=door,
        cookie=settings.cookie,
        db=db,
        functions=functions,
        uploads=Path(os.environ["GRADIO_TEMP_DIR"]),
        secret=secret,
    )
    db.close()
