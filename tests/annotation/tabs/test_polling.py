"""What listens on the pages: nothing asks by itself but pulses, and no event makes the browser walk the whole page."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from annotation.database import Database
from annotation.tabs.guard import Context
from annotation.tabs.polling import again, poll, pulse
from rlhf.models import registry
from rlhf.tabs.pages import build_pages
from tests.conftest import BASE_NAME, new_database
from tests.handlers import asked_by
from tests.machine_fixtures import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    """All tabs, as the program serves them."""
    data_dir = tmp_path_factory.mktemp("pages") / "data"
    db = new_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    yield build_pages(Context(db, data_dir, BASE_NAME))
    db.close()


def test_nothing_but_pulses_asks_by_itself(pages: gr.Blocks) -> None:
    """A gr.Timer, and `every=`, which makes one, would go on after its tab was left."""
    sources = [ROOT / "app.py", *(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py")]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            timer = isinstance(node, ast.Attribute) and ast.unparse(node) == "gr.Timer"
            assert not timer, f"{path}, line {getattr(node, 'lineno', 0)}"
    assert not [block for block in pages.blocks.values() if isinstance(block, gr.Timer)]
    targets = {event for function in pages.fns.values() for _, event in function.targets}
    assert "tick" not in targets
    assert "beat" in targets


def test_each_pulse_stands_on_a_tab_and_is_for_admins(pages: gr.Blocks) -> None:
    beats = [function for function in pages.fns.values() if function.targets[:1] and function.targets[0][1] == "beat"]
    assert len(beats) >= 12
    for function in beats:
        assert getattr(function.fn, "required_role", None) == "admin"
        block = pages.blocks[function.targets[0][0]]
        while block is not None and not isinstance(block, gr.Tab):
            block = block.parent
        assert block is not None


def test_no_event_shows_progress_on_what_it_changes(pages: gr.Blocks) -> None:
    """Each component that has progress to show, and all that is in it, is walked at each event of any tab."""
    shown = [function.api_name for function in pages.fns.values() if function.show_progress_on != []]
    assert shown == []


def test_an_answer_that_says_the_same_is_marked_the_same_and_each_answer_is_another(
    db: Database, data_dir: Path
) -> None:
    with gr.Blocks() as demo:
        box, beating = gr.Textbox(), pulse(2)
        poll(beating, Context(db, data_dir, BASE_NAME), lambda text: [text], [box], [box])
    (function,) = demo.fns.values()
    db.write("INSERT INTO annotator (name, role, created) VALUES ('owner', 'admin', '2026-01-01')")
    sent = [function.fn(*asked_by("owner", function.fn), text) for text in ("a", "a", "b")]
    assert [text for text, _ in sent] == ["a", "a", "b"]
    marks = [value.split()[2] for _, value in sent]
    assert marks[0] == marks[1] != marks[2]
    assert len({value for _, value in sent}) == 3


@pytest.mark.parametrize(("seconds", "word"), [(0.25, "0.25"), (15, "15"), (None, "Infinity")])
def test_a_handler_can_say_when_to_ask_again(seconds: float | None, word: str) -> None:
    assert again(seconds).split()[1] == word


def test_what_waits_for_presses_looks_seldom_while_there_are_none(
    pages: gr.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself Gradio would look a thousand times a second, which is work for one processor in fifteen."""
    queue, slept = pages._queue, []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        queue.stopped = True

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for looking in (queue.start_processing, queue.start_progress_updates):
        queue.stopped = False
        asyncio.run(looking())
    assert slept == [0.05, 0.05], "Gradio's queue no longer asks what rlhf/tabs/pages.py sets of it: find what it asks"
