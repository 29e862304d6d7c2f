"""A base that can think is told not to: in answers, judges, training alike. An earlier directory keeps what it did."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.records import now
from annotation.store import stock_counts
from rlhf.data import snapshots
from rlhf.generation.answering_job import AnsweringWorker
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.judges.backends import LocalModel
from rlhf.judges.judge_settings import LocalSettings
from rlhf.judges.rubrics import DEFAULT
from rlhf.kinds import KINDS
from rlhf.models import registry
from rlhf.models.base import base_template
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.template_process import conversation
from rlhf.models.tokenise import render
from rlhf.submission.preflight import Preflight
from tests.machine_fixtures import Machine, make_machine
from tests.rlhf.tabs.test_project_tab import functions

pytestmark = pytest.mark.slow

ASKED = [{"role": "user", "content": "Why?"}]
THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory, tiny_judge: Path) -> Iterator[Machine]:
    """A data directory whose base has a template like Qwen3's."""
    model = tmp_path_factory.mktemp("thinker") / "model"
    shutil.copytree(tiny_judge, model)
    template = (model / "chat_template.jinja").read_text("utf-8")
    told = "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}" + THOUGHT
    (model / "chat_template.jinja").write_text(template + told + "{% endif %}", "utf-8")
    made = make_machine(model.parent / "data", model)
    made.add_prompts(train=4, held_out=1)
    yield made
    made.db.close()


@pytest.fixture(params=["off", "template", None])
def told(thinker: Machine, request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the base is told not to think; it is in a new directory, and not where nobody has said."""
    assert registry.ensure_base(thinker.db, str(thinker.model)).thinking == "off"
    registry.set_thinking(thinker.db, request.param)
    yield request.param == "off"
    registry.set_thinking(thinker.db, "off")


def test_every_side_is_fed_the_same_text(thinker: Machine, told: bool) -> None:
    """The worker that answers, what is frozen, the page's previews; judges by a letter are told in any case."""
    db, data_dir = thinker.db, thinker.data_dir
    expected = thinker.render(ASKED) + (THOUGHT if told else "")
    assert LoadedPolicies(db, data_dir, thinker.model).feed(ASKED, 1) == expected
    chat = snapshots.chat_of(db, data_dir)
    assert chat is not None
    assert conversation(chat, ASKED, begins=True) == expected
    assert render(Preflight(db, data_dir, str(thinker.model)).tokenizer(), ASKED) == expected
    bench = LocalModel(RunOf(thinker), "letters", LocalSettings("base"), DEFAULT, thinker.model, 1)
    assert bench.models.feed(ASKED, 1) == thinker.render(ASKED) + THOUGHT


class RunOf:
    """What is seen of a job before it begins to work."""

    def __init__(self, machine: Machine) -> None:
        self.db, self.data_dir, self.stopped = machine.db, machine.data_dir, False

    def log(self, message: str) -> None:
        """Nobody reads it."""


class TokenizerAsked(Exception):
    """A training has asked for its tokenizer."""


@pytest.mark.parametrize("kind", ["sft", "reward_model", "dpo", "ppo"])
def test_every_training_is_told(thinker: Machine, told: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = importlib.import_module(f"rlhf.algorithms.{kind}.train")

    def asked(path: Path, no_thinking: bool) -> None:
        assert (path, no_thinking) == (thinker.model, told)
        raise TokenizerAsked

    monkeypatch.setattr(module, "load_tokenizer", asked)
    with pytest.raises(TokenizerAsked):
        module.run(RunOf(thinker), KINDS[kind](model=str(thinker.model), parent="base"))


def test_answers_say_what_they_were_fed(thinker: Machine) -> None:
    spec = AnsweringSpec(model=str(thinker.model), stock=1, prompts_per_batch=1, until_full=True)
    job = thinker.perform(thinker.submit(spec))
    assert job.status == "finished", job.message
    fed = {row["rendered_prompt"] for row in thinker.db.rows("SELECT rendered_prompt FROM response")}
    assert fed
    assert all(text.endswith(f"<|im_start|>assistant\n{THOUGHT}") for text in fed)
    assert stock_counts.answer_counts(thinker.db).total


def test_the_worker_that_answers_follows_a_change(thinker: Machine) -> None:
    worker = AnsweringWorker(RunOf(thinker), AnsweringSpec(model=str(thinker.model)))
    assert not worker.outdated()
    for wish, ends in (("template", "assistant\n"), ("off", THOUGHT)):
        registry.set_thinking(thinker.db, wish)
        assert worker.outdated()
        worker.follow_promotion()
        assert not worker.outdated()
        assert worker.models.feed(ASKED, 1).endswith(ends)


def test_an_admin_sees_and_changes_it_on_the_page(thinker: Machine) -> None:
    pages = functions(thinker.db)
    owner, ann = (gr.Request(username=name) for name in ("owner", "ann"))
    for name, role in (("owner", "admin"), ("ann", "annotator")):
        if not thinker.db.value("SELECT 1 FROM annotator WHERE name = ?", (name,)):
            thinker.db.insert("annotator", {"name": name, "role": role, "created": now()})
    shown, choice, _said = pages["thinking-open"](owner)
    assert (shown["visible"], choice["value"]) == (True, "off")
    assert "Saved" in pages["thinking-save"](owner, "template")
    assert "Nothing was changed" in pages["thinking-save"](owner, "template")
    assert not registry.no_thinking(thinker.db)
    assert pages["thinking-open"](owner)[1]["value"] == "template"
    for wrong in (None, "on", ["off"]):
        with pytest.raises(gr.Error, match="Choose whether"):
            pages["thinking-save"](owner, wrong)
    for name, inputs in (("thinking-open", []), ("thinking-save", ["off"])):
        with pytest.raises(gr.Error, match="Only an admin"):
            pages[name](ann, *inputs)
    assert not registry.no_thinking(thinker.db)
    registry.set_thinking(thinker.db, "off")


def test_the_command_line_says_and_changes_it(
    thinker: Machine, tiny_judge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf.__main__ import main

    command = ["--data", str(thinker.data_dir), "thinking"]
    for wish, words in ((None, "is told not to"), ("template", "may think before"), ("off", "is told not to")):
        assert main([*command, *([wish] if wish else [])]) == 0
        assert words in capsys.readouterr().out
    assert registry.no_thinking(thinker.db)
    assert not base_template.can_be_told(thinker.data_dir, str(tiny_judge))


def test_a_base_that_can_not_be_told_is_told_nothing(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers as before, so what waits to be judged goes on waiting."""
    from rlhf.__main__ import main

    machine = make_machine(tmp_path / "data", tiny_model)
    assert main(["--data", str(machine.data_dir), "thinking", "template"]) == 0
    assert "can't be told whether to think" in capsys.readouterr().out
    assert registry.no_thinking(machine.db)
    machine.db.close()
