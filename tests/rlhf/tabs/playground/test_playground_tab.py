"""The Playground tab on a real database: what it asks, shows and refuses, with the answers put in as a worker would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.database import Database
from annotation.jobs import job_table
from annotation.records import Feedback, Sampling, now
from annotation.store import project_store, prompt_store
from annotation.tabs.guard import Context
from rlhf.generation import playground_store, prompt_sets
from rlhf.generation.playground_store import FinishedAnswer
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.jobs import job_store
from rlhf.models import decision_store
from rlhf.tabs.playground import playground_tab, prompt_set_form
from rlhf.tabs.playground.playground_tab import FORM
from tests.conftest import BASE_NAME, dump, seed_prompts
from tests.handlers import asked_by

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror='window.ran = 1'> **bold** <think>why</think> ![x](http://example.org/x.png)"
TROUBLE = "No model is writing answers at the moment."


@pytest.fixture
def context(db: Database, data_dir: Path) -> Context:
    """Two admins, an annotator, and policies base, dpo-1, dpo-2 and a reward model."""
    with db.transaction() as connection:
        for name, role in (("owner", "admin"), ("kim", "admin"), ("ann", "annotator")):
            connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))
        for number, kind in ((1, "policy"), (2, "policy"), (3, "reward-model")):
            connection["model"].insert(
                {"revision": f"dpo-{number}", "algorithm": "dpo", "base": BASE_NAME, "status": "candidate",
                 "kind": kind, "path": f"adapters/dpo-{number}", "created": ""}
            )  # fmt: skip
    return Context(db, data_dir, BASE_NAME, lambda: TROUBLE)


@pytest.fixture
def pages(context: Context) -> gr.Blocks:
    """The tab, built as the app builds it."""
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Playground"):
        playground_tab.build(demo, context)
    return demo


class Admin:
    """An admin's open page: the form as the browser keeps it, the states as the server does, and the buttons."""

    def __init__(self, pages: gr.Blocks, name: str = "owner") -> None:
        self.functions = {block.api_name: block.fn for block in pages.fns.values()}
        self.request = gr.Request(username=name)
        self.form: dict[str, Any] = {
            "models": None, "system": "", "temperature": 1.0, "min_p": 0.1, "tokens": 256, "seed": 0, "fresh": True
        }  # fmt: skip
        self.asked: dict[str, Any] = {"revision": None, "split": "held-out", "source": None, "each": 1}
        self.parts: dict[str, Any] = {}
        self.talk: Any = {}
        self.seen: Any = {}
        self.mode = "Literal text"
        self.message, self.said = "", ""

    def call(self, name: str, *inputs: Any) -> Any:
        function = self.functions[name]
        return function(*asked_by(self.request.username, function), *inputs)

    def take(self, updates: list[Any]) -> None:
        """What the browser does with the parts that were sent."""
        *parts, self.seen = updates
        for name, update in zip(playground_tab.FOLLOWED, parts, strict=True):
            sent = {"value": update} if isinstance(update, str) else update
            fresh = {key: value for key, value in sent.items() if key != "__type__"}
            self.parts[name] = {**self.parts.get(name, {}), **fresh}
            if name == "models":
                self.form[name] = fresh.get("value", self.form[name])

    def open(self) -> None:
        self.talk, *rest, _place = self.call("playground-open", self.talk, self.mode)
        form, (sources, *followed) = rest[: len(FORM) - 1], rest[len(FORM) - 1 :]
        for name, update in zip(FORM[1:], form, strict=True):
            self.form[name] = update.get("value", self.form[name])
        self.sources = sources["choices"]
        self.take(followed)

    def poll(self) -> None:
        self.take(self.call("playground-poll", self.talk, self.mode, self.seen))

    def send(self, message: str) -> None:
        self.talk, self.message, self.form["seed"], self.said, *rest = self.call(
            "playground-send", self.talk, self.mode, self.seen, message, *self.form.values()
        )
        self.take(rest)

    def stop(self) -> None:
        self.take(self.call("playground-stop", self.talk, self.mode, self.seen))

    def new(self) -> None:
        self.talk, self.said, *rest = self.call("playground-new", self.talk, self.mode, self.seen)
        self.take(rest)

    def start_answers(self) -> str:
        drawn = (self.form[name] for name in prompt_set_form.ASKED[len(self.asked) :])
        return str(self.call("answers-start", *self.asked.values(), *drawn))

    @property
    def shown(self) -> str:
        return str(self.parts["columns"]["value"])

    @property
    def asks_again_after(self) -> float:
        return float(self.parts["pulse"]["value"].split()[1])


@pytest.fixture
def admin(pages: gr.Blocks) -> Admin:
    opened = Admin(pages)
    opened.open()
    return opened


def answer(context: Context, texts: dict[str, str], reason: playground_store.FinishReason = "stop") -> None:
    """Let the policies of these revisions answer what waits for them."""
    while waiting := playground_store.next_asked(context.db):
        for chat in waiting:
            playground_store.begin(context.db, [chat.id])
            answered = FinishedAnswer(
                text=texts[chat.revision], rendered_prompt="<user> …", prompt_tokens=9, tokens=5, finish_reason=reason
            )
            playground_store.finish(context.db, chat.id, answered)


# -------------------------------------------------------------------------------------------------------------- choice
def test_what_is_typed_and_is_no_model_goes_again(admin: Admin) -> None:
    models, said = admin.call("playground-unknown", ["base", "dpo", "dpo-1"])
    assert models["value"] == ["base", "dpo-1"]
    assert "There is no model &#x27;dpo&#x27;." in said
    assert admin.call("playground-unknown", ["base"]) == [gr.skip()] * 2


# -------------------------------------------------------------------------------------------------------------- guard
def test_every_listener_is_for_admins_only(pages: gr.Blocks, context: Context) -> None:
    before = dump(context.db)
    assert len(pages.fns) == 11
    for block in pages.fns.values():
        assert block.fn.required_role == "admin"
        with pytest.raises(gr.Error, match="Only an admin"):
            block.fn(*asked_by("ann", block.fn), *(None for _ in block.inputs))
    assert dump(context.db) == before


def test_the_page_that_everyone_is_sent_holds_no_rows(context: Context) -> None:
    seed_prompts(context.db, 1)
    playground_store.ask(context.db, {1: [{"role": "user", "content": "giraffe"}]}, Sampling(), 4321432143214, "owner")
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Playground"):
        playground_tab.build(demo, context)
    sent = str(demo.get_config_file())
    assert [word for word in ("giraffe", "4321432143214", "dpo-1", "owner", "'test'") if word in sent] == []


# --------------------------------------------------------------------------------------------------------------- chats
def test_a_fresh_page_offers_the_policies_and_has_the_serving_one_chosen(admin: Admin) -> None:
    assert [revision for _, revision in admin.parts["models"]["choices"]] == ["dpo-2", "dpo-1", "base"]
    assert admin.form["models"] == ["base"]
    assert "Choose one or more policies" in admin.shown
    assert admin.parts["send"]["interactive"]
    assert not admin.parts["stop"]["interactive"]
    assert not admin.parts["compare"]["interactive"]


def test_an_open_page_says_which_policy_serves_once_another_does_and_keeps_what_is_chosen(
    context: Context, admin: Admin
) -> None:
    """What is asked is what is chosen: it must not be called the one that serves any more."""
    admin.open()
    decision_store.promote(context.db, "dpo-1", "kim")
    admin.poll()
    for name in ("models", "revision"):
        offered = {revision: words for words, revision in admin.parts[name]["choices"]}
        assert (offered["base"], offered["dpo-1"]) == ("base · retired", "dpo-1 · serving")
    assert admin.form["models"] == ["base"]
    admin.send("Why?")
    assert [chat.revision for chat in playground_store.with_ids(context.db, admin.talk["chats"])] == ["base"]


def test_all_columns_are_asked_the_same_with_the_same_seed(context: Context, admin: Admin) -> None:
    admin.form |= {"models": ["dpo-1", "base"], "system": "Be brief.", "temperature": 0.7, "min_p": 0, "tokens": 33}
    admin.send("Why?")
    first, second = playground_store.with_ids(context.db, admin.talk["chats"])
    assert (first.revision, second.revision) == ("dpo-1", "base")
    assert first.seed == second.seed == admin.form["seed"]
    assert first.sampling == second.sampling == Sampling(0.7, 0.0, 33)
    assert [message["content"] for message in first.messages] == ["Be brief.", "Why?"]
    assert first.requested_by == "owner"
    assert admin.message == ""
    assert admin.asks_again_after == playground_tab.WRITING_SECONDS
    assert not admin.parts["send"]["interactive"]
    answer(context, {"base": "b", "dpo-1": "d"})
    seed = admin.form["seed"]
    admin.send("And?")
    assert admin.form["seed"] != seed, "a new seed each time"
    answer(context, {"base": "b", "dpo-1": "d"})
    admin.form |= {"fresh": False, "seed": 77}
    admin.send("Really?")
    assert {chat.seed for chat in playground_store.with_ids(context.db, admin.talk["chats"])} == {77}
    turns = [message["content"] for message in playground_store.with_ids(context.db, admin.talk["chats"])[0].messages]
    assert turns == ["Be brief.", "Why?", "d", "And?", "d", "Really?"]


def test_an_answer_is_seen_to_grow_and_how_it_ended(context: Context, admin: Admin) -> None:
    admin.send("Why?")
    (number,) = admin.talk["chats"]
    assert "Waits for its turn" in admin.shown
    playground_store.begin(context.db, [number])
    admin.poll()
    assert "Reads the conversation" in admin.shown
    playground_store.show(context.db, {number: "It sc"})
    admin.poll()
    assert "It sc</pre>" in admin.shown
    assert "Writes … · first token after 0." in admin.shown
    playground_store.finish(
        context.db,
        number,
        FinishedAnswer(
            text="It scatters.", rendered_prompt="<user> …", prompt_tokens=9, tokens=5, finish_reason="length"
        ),
    )
    admin.poll()
    assert "It scatters.</pre>" in admin.shown
    assert "5 tokens · first token after 0." in admin.shown
    assert "cut off at the limit" in admin.shown
    assert admin.asks_again_after == playground_tab.RESTING_SECONDS
    assert admin.parts["send"]["interactive"]
    before = dict(admin.parts)
    sent = admin.call("playground-poll", admin.talk, admin.mode, admin.seen)
    *followed, _pulse, _seen = sent
    assert [update for update in followed if "value" in update or "interactive" in update] == [], "nothing has changed"
    assert admin.parts == before


def test_what_a_model_writes_is_shown_and_does_nothing(context: Context, admin: Admin) -> None:
    admin.send("Why?")
    answer(context, {"base": HOSTILE})
    admin.poll()
    assert "&lt;img src=x onerror='window.ran = 1'&gt; **bold** &lt;think&gt;why&lt;/think&gt;" in admin.shown
    admin.mode = "Rendered Markdown"
    admin.poll()
    assert "<strong>bold</strong>" in admin.shown
    assert "&lt;think&gt;why&lt;/think&gt;" in admin.shown
    assert "<img" not in admin.shown
    assert "example.org/x.png" in admin.shown, "told, not loaded"


def test_a_refusal_is_shown_in_its_column(context: Context, admin: Admin) -> None:
    admin.send("Why?")
    playground_store.begin(context.db, admin.talk["chats"])
    playground_store.fail(context.db, admin.talk["chats"], "The model's chat template refuses <it>.")
    admin.poll()
    assert "refuses &lt;it&gt;." in admin.shown
    admin.send("Then this?")
    (chat,) = playground_store.with_ids(context.db, admin.talk["chats"])
    assert [message["content"] for message in chat.messages] == ["Then this?"]


def test_whoever_waits_long_is_told_why(context: Context, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground_tab, "PATIENCE_SECONDS", 3600.0)
    admin.send("Why?")
    assert TROUBLE not in admin.shown
    monkeypatch.setattr(playground_tab, "PATIENCE_SECONDS", 0.0)
    admin.poll()
    assert TROUBLE in admin.shown


def test_stopping_leaves_what_was_seen(context: Context, admin: Admin) -> None:
    admin.form["models"] = ["base", "dpo-1"]
    admin.send("Why?")
    first, second = admin.talk["chats"]
    playground_store.begin(context.db, [first])
    playground_store.show(context.db, {first: "It sc"})
    admin.stop()
    assert playground_store.states(context.db, [first, second]) == {first: "stopping", second: "done"}
    assert "Stopping …" in admin.shown
    playground_store.finish(
        context.db,
        first,
        FinishedAnswer(text="It sc", rendered_prompt="<user> …", prompt_tokens=9, tokens=2, finish_reason="stopped"),
    )
    admin.poll()
    assert "2 tokens" in admin.shown
    assert admin.shown.count("stopped</p>") == 2


def test_of_an_answer_without_tokens_no_first_one_is_told(context: Context, admin: Admin) -> None:
    admin.send("Why?")
    (number,) = admin.talk["chats"]
    playground_store.begin(context.db, [number])
    playground_store.show(context.db, {number: ""})  # the first piece of a character
    admin.stop()
    nothing = FinishedAnswer(text="", rendered_prompt="<user> …", prompt_tokens=9, tokens=0, finish_reason="stopped")
    playground_store.finish(context.db, number, nothing)
    admin.poll()
    assert "0 tokens · stopped</p>" in admin.shown


def test_a_new_conversation_begins_with_nothing_and_stops_the_old_one(context: Context, admin: Admin) -> None:
    admin.send("Why?")
    asked = admin.talk["chats"]
    admin.new()
    assert playground_store.states(context.db, asked) == {asked[0]: "done"}
    assert "Choose one or more policies" in admin.shown
    admin.open()
    assert "Choose one or more policies" in admin.shown, "turning to another tab and back changes nothing"
    admin.send("What?")
    (chat,) = playground_store.with_ids(context.db, admin.talk["chats"])
    assert [message["content"] for message in chat.messages] == ["What?"]


def test_a_late_poll_does_not_bring_an_earlier_conversation_back(context: Context, admin: Admin) -> None:
    admin.send("Why?")
    talk, seen = admin.talk, admin.seen
    admin.new()
    late = admin.call("playground-poll", talk, admin.mode, seen)
    admin.take(late)
    admin.poll()
    assert "Why?" not in admin.shown
    assert admin.talk == {"chats": []}


def test_a_reloaded_page_shows_the_conversation_and_its_settings_again(
    context: Context, admin: Admin, pages: gr.Blocks
) -> None:
    admin.form |= {"models": ["dpo-2", "base"], "system": "Sing.", "temperature": 0.5, "tokens": 12}
    admin.send("Why?")
    answer(context, {"base": "La.", "dpo-2": "Lo."})
    reloaded = Admin(pages)
    reloaded.open()
    assert "Lo.</pre>" in reloaded.shown
    assert {**reloaded.form, "fresh": True} == admin.form
    other = Admin(pages, "kim")
    other.open()
    assert "Why?" not in other.shown, "another admin has a conversation of their own"


def test_a_server_that_has_forgotten_the_page_goes_on_with_the_conversation(context: Context, admin: Admin) -> None:
    admin.send("Why?")
    answer(context, {"base": "So."})
    admin.talk, admin.seen = {}, {}
    admin.send("And?")
    (chat,) = playground_store.with_ids(context.db, admin.talk["chats"])
    assert [message["content"] for message in chat.messages] == ["Why?", "So.", "And?"]


def test_answers_on_screen_are_sent_to_annotation(context: Context, admin: Admin) -> None:
    admin.form["models"] = ["base", "dpo-1"]
    admin.send("Why?")
    with pytest.raises(gr.Error, match="Wait until every answer"):
        admin.call("playground-compare", admin.talk)
    answer(context, {"base": "So.", "dpo-1": "Thus."})
    admin.poll()
    assert admin.parts["compare"]["interactive"]
    said = admin.call("playground-compare", admin.talk)
    assert "Comparison 1 was made of these 2 answers, shown blind. It is in the annotators&#x27; queue." in said
    assert [prompt.text for prompt in prompt_store.prompts(context.db, "train")] == ["Why?"]
    with pytest.raises(gr.Error, match="already"):
        admin.call("playground-compare", admin.talk)


@pytest.mark.parametrize(
    ("mode", "words"),
    [("ai", "AI judges judge it, and people do not."), ("mixed", "AI judges judge it first, and people where")],
)
def test_the_page_says_who_judges_what_is_sent_to_annotation(
    context: Context, admin: Admin, mode: Any, words: str
) -> None:
    project_store.set_feedback(context.db, Feedback(mode=mode))
    admin.form["models"] = ["base", "dpo-1"]
    admin.send("Why?")
    answer(context, {"base": "So.", "dpo-1": "Thus."})
    said = admin.call("playground-compare", admin.talk)
    assert words in said
    assert "queue" not in said
    assert context.db.value("SELECT asks FROM comparison") == "judges"


@pytest.mark.parametrize(
    ("form", "message", "sentence"),
    [
        ({}, "  ", "Write a message"),
        ({"models": []}, "Why?", "Choose one to 4 policies"),
        ({"models": None}, "Why?", "Choose one to 4 policies"),
        ({"models": ["nothing"]}, "Why?", "no policy 'nothing'"),
        ({"models": ["dpo-3"]}, "Why?", "is a reward model"),
        ({"temperature": 0}, "Why?", "Temperature must be a number from 0.01 to 10"),
        ({"temperature": None}, "Why?", "Temperature"),
        ({"min_p": 1}, "Why?", "min_p must be"),
        ({"tokens": 5000}, "Why?", "Tokens at most must be a number from 1 to 2,048"),
        ({"fresh": False, "seed": -1}, "Why?", "Seed must be"),
        ({"fresh": False, "seed": 10**400}, "Why?", "Seed must be"),
        ({"system": "x" * 20_001}, "Why?", "system prompt has"),
    ],
)
def test_a_refused_form_asks_nothing(
    context: Context, admin: Admin, form: dict[str, Any], message: str, sentence: str
) -> None:
    admin.form |= form
    with pytest.raises(gr.Error, match=sentence):
        admin.send(message)
    assert context.db.value("SELECT count(*) FROM chat") == 0


def test_nothing_is_asked_while_answers_are_written(context: Context, admin: Admin) -> None:
    admin.send("Why?")
    with pytest.raises(gr.Error, match="Wait until the answers are written"):
        admin.send("And?")
    assert context.db.value("SELECT count(*) FROM chat") == 1


# --------------------------------------------------------------------------------------------------------- a prompt set
def test_a_set_of_prompts_is_answered_as_a_job_and_its_file_can_be_fetched(context: Context, admin: Admin) -> None:
    seed_prompts(context.db, 3, "held-out")
    admin.open()
    assert ("test (3)", "test") in admin.sources
    assert admin.parts["files"]["value"] == ""
    admin.form |= {"temperature": 0.5, "tokens": 12, "seed": 9}
    admin.asked |= {"revision": "base", "each": 2, "source": "test"}
    assert "Job 1 was queued" in admin.start_answers()
    spec = job_store.get(context.db, 1).spec
    wanted = PromptSetSpec(
        model=BASE_NAME,
        revision="base",
        split="held-out",
        source="test",
        each=2,
        seed=9,
        sampling=Sampling(0.5, 0.1, 12),
    )
    assert spec == wanted
    job_store.claim(context.db, 1, "w")
    admin.poll()
    assert admin.parts["files"]["value"] == ""
    prompt_sets.add_to_draft(prompt_sets.draft_of(context.data_dir, 1), [])
    prompt_sets.publish(context.data_dir, 1, [])
    job_table.finish(context.db, 1, "w", {"prompts": 3, "answers": 6})
    admin.poll()
    assert '<a href="answers/job-1.jsonl" download>job-1.jsonl</a>' in admin.parts["files"]["value"]
    assert "3 · held-out prompts from &#x27;test&#x27;" in admin.parts["files"]["value"]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"each": 0}, "Answers to each must be"),
        ({"split": "none"}, "Choose which prompts"),
        ({"revision": "dpo-3"}, "is a reward model"),
        ({"source": "nowhere"}, "no such prompts"),
    ],
)
def test_a_refused_set_queues_nothing(context: Context, admin: Admin, asked: dict[str, Any], sentence: str) -> None:
    seed_prompts(context.db, 3, "held-out")
    admin.asked |= asked
    with pytest.raises(gr.Error, match=sentence):
        admin.start_answers()
    assert job_store.queue(context.db) == []


def test_every_choice_is_named_for_those_who_hear_the_page(pages: gr.Blocks) -> None:
    """Gradio reads out the name of the component where a choice has none, shown or not."""
    assert [block for block in pages.blocks.values() if isinstance(block, gr.Radio) and not block.label] == []
