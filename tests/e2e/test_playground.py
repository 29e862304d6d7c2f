"""The Playground tab in a real browser: talk to two policies, watch them write, stop them, send them to annotation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlhf.generation import playground_store
from rlhf.generation.playground_store import Chat, FinishedAnswer
from tests.e2e.conftest import TWO_FRAMES, running_app, wait_for
from tests.machine_fixtures import Machine, make_machine, wait_until
from tests.rlhf.generation.test_playground import register
from tests.rlhf.tabs.playground.test_playground_tab import HOSTILE
from tests.tiny_model import build

pytestmark = pytest.mark.browser


# Unfolds something and, as soon as a field of it is there, types into that.
UNFOLD_AND_TYPE = """async ([name, label, typed]) => {
  const found = (all, words) => [...document.querySelectorAll(all)].find(
    (one) => one.offsetParent && one.innerText.startsWith(words));
  found("button.label-wrap", name).click();
  while (!found("label", label)) await new Promise((come) => setTimeout(come));
  const field = found("label", label).querySelector("input");
  field.value = typed;
  for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
}"""


@dataclass
class Talk:
    """The owner before the Playground tab."""

    machine: Machine
    page: Any
    errors: list[str]

    def send(self, text: str) -> None:
        """Write a message and press Enter."""
        self.page.fill("#chat-message textarea", text)
        self.page.press("#chat-message textarea", "Enter")

    def choose(self, label: str) -> None:
        """Choose one more model."""
        self.page.click("#chat-models input")
        self.page.get_by_role("option", name=label).click()
        self.page.keyboard.press("Escape")

    def wait(self, state: str, columns: int) -> None:
        """Wait until so many columns are in this state."""
        self.page.wait_for_function(f"document.querySelectorAll('.talk[data-state={state}]').length === {columns}")

    @property
    def asked(self) -> list[Chat]:
        """What the owner asked last."""
        return playground_store.latest(self.machine.db, "owner")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, browser: Any) -> Iterator[Talk]:
    """Without workers, which tests stand in for; and an adapter."""
    machine = make_machine(tmp_path_factory.mktemp("playground") / "data", tiny_model)
    register(machine, "dpo-7", "lora")
    with opened(machine, browser, "--no-workers") as before:
        yield before
    machine.db.close()


@contextmanager
def opened(machine: Machine, browser: Any, *flags: str) -> Iterator[Talk]:
    """The owner on the Playground tab of the running program."""
    with running_app(machine.data_dir, *flags) as (_, link):
        context = browser.new_context()
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(link)
        page.get_by_role("tab", name="Playground").click()
        page.wait_for_selector("text=Choose one or more policies")
        page.wait_for_selector("#chat-models .token")  # the form is as it is sent: a field filled before is set back
        yield Talk(machine, page, errors)
        context.close()


@pytest.fixture
def talk(tmp_path: Path, browser: Any) -> Iterator[Talk]:
    """With workers, a base that answers up to the limit, and an adapter."""
    model = build(tmp_path / "model", end_bias=-60.0)
    machine = make_machine(tmp_path / "data", model)
    machine.add_prompts(train=6, held_out=2)
    register(machine, "dpo-7", "lora")
    with opened(machine, browser, "--model", str(model)) as before:
        yield before
    machine.db.close()


def test_two_policies_answer_side_by_side_and_go_to_annotation(talk: Talk) -> None:
    page = talk.page
    talk.choose("dpo-7 · candidate")
    talk.send("What is a riddle?")
    talk.wait("done", 2)
    assert page.input_value("#chat-message textarea") == ""
    first, second = talk.asked
    assert (first.revision, second.revision, first.seed) == ("base", "dpo-7", second.seed)
    for chat in (first, second):
        column = page.locator(".talk", has=page.get_by_role("heading", name=chat.revision))
        assert chat.text.split()[-1] in column.inner_text()
        assert "256 tokens · first token after" in column.inner_text()
    boxes = [page.locator(".talk").nth(place).bounding_box() for place in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"], "side by side"

    page.click("#chat-compare")
    page.wait_for_selector("text=was made of these 2 answers")
    comparison = talk.machine.db.row("SELECT * FROM comparison WHERE model_id IS NULL")
    assert comparison is not None

    talk.send("Another one?")
    page.wait_for_selector("text=Another one?")
    talk.wait("done", 2)
    assert [message["role"] for message in talk.asked[0].messages] == ["user", "assistant", "user"]
    page.click("#chat-compare")
    page.wait_for_selector("text=no answers to the same prompt")
    assert talk.errors == []


def test_an_answer_is_watched_and_stopped_and_the_page_found_again(alone: Talk) -> None:
    """The rows say what a worker would write, when it is time."""
    talk, machine = alone, alone.machine
    page = talk.page
    tokens = page.get_by_label("Tokens at most")

    page.evaluate(UNFOLD_AND_TYPE, ["System prompt, sampling and seed", "Tokens at most", "900"])
    page.evaluate(TWO_FRAMES)
    assert tokens.input_value() == "900", "what is typed at once stays"
    talk.send("Sing a very long song.")
    (chat,) = wait_for(page, "the question", lambda: talk.asked)
    assert chat.sampling.max_new_tokens == 900
    playground_store.begin(machine.db, [chat.id])
    for text in ("La la", "La la, and so on"):
        playground_store.show(machine.db, {chat.id: text})
        page.wait_for_selector(f".talk .turn.assistant >> text={text}")
    page.fill("#chat-message textarea", "a draft")
    page.click("#chat-stop:not([disabled])")
    wait_for(page, "that it is to stop", lambda: talk.asked[0].state == "stopping")
    playground_store.finish(
        machine.db,
        chat.id,
        FinishedAnswer(text="La la, and so on", rendered_prompt="", prompt_tokens=1, tokens=5, finish_reason="stopped"),
    )
    talk.wait("done", 1)
    assert page.input_value("#chat-message textarea") == "a draft", "what is being typed stays"
    page.reload()
    page.get_by_role("tab", name="Playground").click()
    page.wait_for_selector("text=Sing a very long song.")
    page.click("#chat-new")
    page.wait_for_selector("text=Choose one or more policies")
    page.wait_for_selector("#chat-models .token")  # the form is as it is sent: a field filled before is set back
    assert talk.errors == []


def test_on_a_phone_columns_stack_and_hostile_answers_do_nothing(alone: Talk) -> None:
    talk, machine = alone, alone.machine
    page = talk.page
    page.set_viewport_size({"width": 390, "height": 800})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    talk.choose("dpo-7 · candidate")
    talk.send("Why?")
    wait_until("the question", lambda: len(talk.asked) == 2)
    for chat in talk.asked:
        playground_store.begin(machine.db, [chat.id])
        hostile = f"{HOSTILE} ${{window.ran = 1}} {{{{value}}}} `${{window.ran = 1}}`"
        playground_store.finish(
            machine.db,
            chat.id,
            FinishedAnswer(text=hostile, rendered_prompt="", prompt_tokens=1, tokens=3, finish_reason="stop"),
        )
    talk.wait("done", 2)
    boxes = [page.locator(".talk").nth(place).bounding_box() for place in range(2)]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"], "stacked"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "${window.ran = 1}" in page.inner_text(".talk")
    page.get_by_label("Rendered Markdown").check()
    page.wait_for_selector(".talk strong")
    assert page.locator(".talk :is(img, script, form, iframe)").count() == 0
    assert page.evaluate("window.ran") is None
    assert "<think>why</think>" in page.inner_text(".talk")
    assert [url for url in requests if "example.org" in url] == []
    assert talk.errors == []


def test_below_a_long_answer_the_next_message_is_in_reach_and_code_is_copied(alone: Talk) -> None:
    talk, machine = alone, alone.machine
    page = talk.page
    page.set_viewport_size({"width": 1280, "height": 800})
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    talk.send("How?")
    wait_for(page, "the question", lambda: [chat for chat in talk.asked if chat.state == "asked"])
    text = f"{'So.' * 20}\n\n```python\na < b\n```\n\n" + "A line.\n\n" * 200
    for chat in talk.asked:
        playground_store.begin(machine.db, [chat.id])
        ended = FinishedAnswer(text=text, rendered_prompt="", prompt_tokens=1, tokens=3, finish_reason="stop")
        playground_store.finish(machine.db, chat.id, ended)
    page.get_by_label("Rendered Markdown").check()
    page.wait_for_selector(".talk[data-state=done] pre")
    page.locator(".talk .copy").first.click()
    page.wait_for_selector(".talk .copy:text('Copied')")
    assert page.evaluate("navigator.clipboard.readText()") == "a < b\n"
    page.evaluate("scrollTo(0, 300)")
    page.evaluate(TWO_FRAMES)
    for what in ("#chat-message textarea", "#chat-stop"):
        box = page.locator(what).bounding_box()
        assert 0 < box["y"] < 800 - box["height"], f"{what} is in the window"
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate(TWO_FRAMES)
    assert page.locator("#chat-bar").bounding_box()["height"] < 844 / 3, "it leaves a phone room for answers"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert talk.errors == []
