"""Rendering in processes of their own: what takes too long is shown plainer, and delays nobody else."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from annotation import api
from annotation.database import Database
from annotation.records import Prompt
from annotation.store import comparison_store, prompt_store
from annotation.ui import markdown, markdown_process
from annotation.ui.markdown_process import RenderPool
from annotation.web import access
from annotation.web.middleware import SignedIn
from tests.conftest import act, make_response, measure_nobody, seed_comparisons
from tests.machine_fixtures import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.slow

# Each takes several times as long on any machine.
SLOW_CODE = "*so*\n\n```c\n" + "\n" * 3_900 + "```\nend"
SLOW_TABLE = "|a" * 500 + "|\n" + "|-" * 500 + "|\n" + ("|" * 500 + "\n") * 50


@contextmanager
def opened(seconds: float = 30.0, patience: float = 60.0) -> Iterator[RenderPool]:
    made = RenderPool(seconds, patience)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    "text", ["*one* `two`", "```python\ndef f(): pass\n```", "$x^2$", "", "a\u202eb\ud800\n\r\x00"]
)
def test_it_gives_what_rendering_gives(text: str) -> None:
    with opened() as tested:
        assert tested.to_html(text) == markdown.to_html(text)
        assert tested.to_html(text) == markdown.to_html(text), "also from what it has kept"


def test_code_that_takes_too_long_loses_its_colours_only_and_what_still_does_is_shown_letter_for_letter() -> None:
    markdown.to_html(SLOW_CODE, coloured=False)
    began = time.process_time()
    plain = markdown.to_html(SLOW_CODE, coloured=False)
    short = 10 * (time.process_time() - began)  # a tenth of what each of the slow ones takes
    quick = (f"```python\nreturn {number}\n```" for number in count())
    with opened(short) as tested:

        def coloured_in_time() -> bool:
            text = next(quick)
            return tested.to_html(text) == markdown.to_html(text)

        wait_until("a process that has loaded what colours Python", coloured_in_time)
        page = tested.to_html(SLOW_CODE)
        assert page == plain
        assert "<em>so</em>" in page
        assert tested.to_html(SLOW_TABLE) == markdown.literal(SLOW_TABLE)
        wait_until("one that has its own time", coloured_in_time)


def test_a_process_that_hangs_or_was_killed_is_replaced() -> None:
    with opened(patience=0.01) as tested:
        for child in list(tested._idle.queue):
            child.command = ["sleep", "infinity"]
        assert tested.to_html("*a*") == '<pre class="literal">*a*</pre>'
    with opened() as tested:
        tested.to_html("*a*")
        (process,) = [child.process for child in list(tested._idle.queue) if child.process is not None]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert tested.to_html("*b*") == "<p><em>b</em></p>\n", "which was no fault of that text's"


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown_process, "CACHED", 100)
    with opened() as tested:
        for number in range(9):
            tested.to_html(f"text {number}")
        assert 0 < sum(len(text) + len(made) for text, made in tested._kept.items()) <= 100
        assert tested.known("text 8") is not None
        assert tested.known("text 0") is None


def test_the_process_ends_with_the_one_that_asks(tmp_path: Path) -> None:
    script = "from annotation.ui import markdown_process as r; r.to_html('a')"
    script += "; print(r.shared._idle.queue[-1].process.pid)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{script}; import sys; sys.stdout.flush(); import time; time.sleep(600)"],
        stdout=subprocess.PIPE,
        text=True,
    ) as asking:
        assert asking.stdout is not None
        child = int(asking.stdout.readline())
        watched = os.pidfd_open(child)
        asking.kill()
    assert select.select([watched], [], [], PATIENCE_SECONDS)[0], "it goes on"
    os.close(watched)


def test_judging_goes_on_while_a_text_is_rendered(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rendering of one page is held up until another annotator has judged."""
    measure_nobody(db)
    slow = Prompt(({"role": "user", "content": "slow"},), "train", "test")
    prompt_store.add_prompts(db, [slow])
    comparison_store.add_comparison(db, [make_response(prompt_store.prompts(db, "train")[-1], place) for place in "AB"])
    seed_comparisons(db, 5)
    begun, judged = threading.Event(), threading.Event()

    def held_up(text: str) -> str:
        begun.set()
        assert judged.wait(PATIENCE_SECONDS)
        return f"<p>{text}</p>"

    monkeypatch.setattr(markdown_process, "to_html", held_up)
    app = Starlette(routes=list(api.AnnotationApi(db).routes()))
    app.add_middleware(SignedIn, db=db, cookie="session")
    with TestClient(app) as client:

        def ask(name: str, endpoint: str, **body: object) -> dict[str, object]:
            headers = {"cookie": f"session={tokens[name]}", "content-type": "application/json"}
            return dict(client.post(f"/annotate/{endpoint}", content=json.dumps(body), headers=headers).json())

        people = {name: access.add_account(db, name, "annotator", "a long enough password") for name in ("ann", "bob")}
        tokens = {name: access.open_session(db, person) for name, person in people.items()}
        pages: list[dict[str, object]] = []
        reading = threading.Thread(target=lambda: pages.append(ask("ann", "card", rendered=True)))
        reading.start()
        assert begun.wait(PATIENCE_SECONDS)
        assert ask("bob", "judge", nonce=ask("bob", "card")["nonce"], act=act("tie"))["saved"] is True
        assert pages == []
        judged.set()
        reading.join(PATIENCE_SECONDS)
        assert "<p>slow</p>" in str(pages[0])
