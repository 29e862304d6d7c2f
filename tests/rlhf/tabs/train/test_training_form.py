"""The Train tab's forms through their registered handlers: what is shown before a run is what is run."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from html import escape, unescape
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.exports.frozen_rows import PreferenceRow
from annotation.jobs import job_table
from annotation.records import Prompt, UserError, now
from annotation.store import prompt_store, setting_store
from annotation.tabs import address
from annotation.tabs.guard import Context
from annotation.ui.formatting import short_number
from annotation.workbench import exclusions
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.hub import hub_requests
from rlhf.hub.token_launcher import HELD
from rlhf.jobs import job_store, rental_store
from rlhf.jobs.job_spec import TrainingSpec, from_json
from rlhf.models import decision_store, registry
from rlhf.models.memory import machines
from rlhf.models.registry import Policy, PolicyForm
from rlhf.models.tokenise import tokenise_comparisons
from rlhf.submission import job_submission, preflight
from rlhf.submission.form_fields import forms
from rlhf.tabs.train import automatic_training, train_and_runs
from rlhf.tabs.train.training_form import TrainingFormPage
from tests.demonstrations import demonstrate
from tests.handlers import asked_by
from tests.machine_fixtures import Machine, make_machine

pytestmark = pytest.mark.slow

OWNER = "kim"
NO_GPU = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
FORMS = {form.name: form for form in forms()}
# What makes each form's job a run of seconds on the tiny model, that can be started; of those that need more, by name.
QUICK: dict[str, dict[str, Any]] = {name: {"method": "lora", "lora_r": 4, "epochs": 1} for name in FORMS} | {
    "dpo": {"method": "lora", "dora": True, "lora_r": 4, "epochs": 1},
    "sft": {"method": "prompt", "virtual_tokens": 6, "epochs": 1},
    "full": {"epochs": 1},
    "reward_model": {"method": "lora", "lora_r": 4, "lora_targets": "attention", "epochs": 1},
    "ppo": {
        **{"method": "lora", "lora_r": 4, "steps": 2, "rollouts": 4, "batch_size": 2, "max_length": 256},
        "sampling.max_new_tokens": 12,
    },
}
EVERY_FORM = pytest.mark.parametrize("name", FORMS)


# --------------------------------------------------------------------------------------------------------- the browser
@dataclass
class Session:
    """One browser session on one form: what is in its fields, and what each part of it shows now."""

    context: Context
    demo: gr.Blocks
    page: TrainingFormPage
    values: dict[str, Any]
    ticked: bool = False
    seen: Any = None
    shown: dict[str, dict[str, Any]] = field(default_factory=dict)

    def call(self, name: str, *inputs: Any, person: str = OWNER) -> Any:
        """Call a registered handler."""
        block = next(one for one in self.demo.fns.values() if handler_of(one).__name__ == name)
        assert len(inputs) == len(block.inputs)
        sent = handler_of(block)(*asked_by(person, handler_of(block)), *inputs)
        assert len(block.outputs) == 1 or len(sent) == len(block.outputs)
        return sent

    @property
    def asked(self) -> list[Any]:
        """What the form's handlers are sent."""
        return [self.ticked, self.seen, *self.values.values()]

    def take(self, sent: Any) -> dict[str, Any]:
        """Show what was sent; returns the parts that were."""
        changed = {name: update for name, update in zip(self.page.parts, sent, strict=False) if update != gr.skip()}
        self.seen = sent[len(self.page.parts)]
        for name, update in changed.items():
            self.shown[name] = {**self.shown.get(name, {}), **update}
            if name in self.values and "value" in update:
                self.values[name] = update["value"]
        self.ticked = changed.get("accept", {}).get("value", self.ticked)
        return changed

    def open(self) -> Session:
        """Open the form's tab."""
        *sent, said = self.call(f"open_{self.page.form.name}", "", *self.asked)
        assert said == gr.skip(), "which a button may have said meanwhile"
        self.take([*sent, said])
        return self

    def change(self, values: dict[str, Any] | None = None, ticked: bool | None = None) -> dict[str, Any]:
        """Change fields, or the confirmation; returns the parts that were sent."""
        self.values |= values or {}
        self.ticked = self.ticked if ticked is None else ticked
        return self.take(self.call(f"view_{self.page.form.name}", *self.asked))

    def start(self) -> job_store.Job:
        """Press the button that starts; returns the queued job."""
        name = self.page.form.name
        self.call(f"start_{name}", *self.asked)
        return job_store.queue(self.context.db)[-1]

    def text(self, part: str) -> str:
        """What a part shows."""
        return str(self.shown[part].get("value") or "")

    def spec(self) -> Any:
        """The spec that is shown to be copied."""
        return from_json(self.text("spec"))

    @property
    def can_start(self) -> bool:
        """Whether the button can be pressed."""
        return bool(self.shown["start"]["interactive"])

    def there(self, part: str) -> bool:
        """Whether a part is visible."""
        return bool(self.shown[part]["visible"])


def handler_of(block: Any) -> Any:
    """A registered function, as Gradio calls it."""
    return block.fn


@lru_cache(maxsize=2)
def built(context: Context) -> tuple[gr.Blocks, Sequence[TrainingFormPage]]:
    """The application, which is built once and holds nothing of whoever looks at it."""
    with gr.Blocks() as demo:
        guide = address.guide()
        with gr.Tabs():
            pages = train_and_runs.build(demo, context, guide)
    return demo, pages


def sessions_of(context: Context) -> dict[str, Session]:
    """A person's session on each form of a page that was just loaded."""
    demo, pages = built(context)
    first = {page.form.name: {name: page.form.described[name][0] for name in page.form.names} for page in pages}
    return {page.form.name: Session(context, demo, page, first[page.form.name]) for page in pages}


def opened(machine: Machine, name: str) -> Session:
    """A person at a form."""
    return sessions_of(machine_context(machine))[name].open()


def machine_context(machine: Machine) -> Context:
    """What its pages are built with."""
    return Context(machine.db, machine.data_dir, str(machine.model))


@pytest.fixture(scope="module", autouse=True)
def same_machine() -> Iterator[None]:
    """No count of data takes long, and as much memory stays free: what is shown changes with what is asked only."""
    machine = machines.this_machine()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(preflight, "QUICK_SECONDS", math.inf)
        patched.setattr(machines, "this_machine", lambda: machine)
        yield


# ------------------------------------------------------------------------------------------------------------- the data
def filled(data_dir: Path, model: Path) -> Machine:
    """Judged comparisons of both splits, some of which give no pair, demonstrations, and an admin."""
    machine = make_machine(data_dir, model)
    machine.db.write("INSERT INTO annotator (name, role, created) VALUES (?, 'admin', ?)", (OWNER, now()))
    demonstrate(machine, train=16, held_out=6)
    machine.judge("train", 12)
    machine.judge("train", 2, "tie")
    machine.judge("held-out", 4)
    return machine


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Machine]:
    """What the others are copies of."""
    made = filled(tmp_path_factory.mktemp("forms") / "data", tiny_model)
    yield made
    made.db.close()


@pytest.fixture
def machine(tmp_path: Path, untouched: Machine) -> Iterator[Machine]:
    """A data directory that a test may change."""
    made = untouched.copied(tmp_path / "data")
    yield made
    made.db.close()


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, untouched: Machine) -> Iterator[Machine]:
    """A data directory in which tests only queue jobs, and into which a reward model without held-out figures goes."""
    made = untouched.copied(tmp_path_factory.mktemp("ready") / "data")
    assert add_reward(made, None)
    yield made
    made.db.close()


def add_reward(machine: Machine, accuracy: float | None, method: str = "lora") -> Policy:
    """A reward model that is right so often on held-out comparisons; it has no files."""
    health = {
        "accuracy": {"value": accuracy, "low": 0.4, "high": 0.7, "n": 0 if accuracy is None else 40},
        "train_accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40},
    }
    spec = replace(RewardModelSpec(), method="qlora" if method == "qlora" else "lora", lora_r=4)
    job_id = machine.submit(spec)
    assert job_store.claim(machine.db, job_id, "w") is not None
    assert job_table.finish(machine.db, job_id, "w", {"health": health})
    return registry.add(
        machine.db,
        revision=f"reward-model-{job_id}",
        algorithm="reward_model",
        base=str(machine.model),
        parent_id=1,
        job_id=job_id,
        path=f"adapters/reward-model-{job_id}",
        sha256="0" * 64,
        kind="reward-model",
        precision="nf4" if method == "qlora" else "bf16",
    )


# ------------------------------------------------------------------------------------------------------ what is shown
@EVERY_FORM
def test_an_opened_form_says_what_it_would_learn_from_and_take(ready: Machine, name: str) -> None:
    session = opened(ready, name)
    session.change(QUICK[name], ticked=True)
    assert session.can_start
    assert session.text("problems") == ""
    count = 12 if FORMS[name].spec_type.unit == "pairs" else 16
    assert f"<dd>{count}</dd>" in session.text("data")
    for words in ("Trainable parameters", "Activations", "Together", "has not been measured yet"):
        assert words in session.text("cost")
    assert f"learning rate is {short_number(session.spec().learning_rate)}" in session.text("rate")
    assert session.spec().parent == "base"
    assert str(ready.data_dir) in session.text("command")


def test_only_what_changed_is_sent_again(ready: Machine) -> None:
    session = opened(ready, "dpo")
    assert session.change() == {}
    assert session.change({"beta": 0.2}).keys() == {"spec", "command", "rate"}, "it had the the loss's default"
    assert session.change({"beta": 0.3}).keys() == {"spec", "command"}
    assert session.change({"epochs": 4}).keys() == {"spec", "command", "cost", "summary"}
    changed = session.change({"scope": "all"})
    assert changed.keys() == {"spec", "command", "row", "rows_found"}, "the same number of pairs is counted"


def test_a_session_that_the_server_has_forgotten_is_sent_everything(ready: Machine) -> None:
    session = opened(ready, "sft")
    session.seen = None
    assert {"problems", "data", "cost", "spec", "start", "parent"} <= session.change().keys()


def test_fields_without_meaning_are_not_there(ready: Machine) -> None:
    session = opened(ready, "dpo")
    assert session.there("lora_r")
    assert session.there("LoRA")
    assert not session.there("virtual_tokens")
    assert not session.there("Prompt tuning")
    assert not session.there("flip_rate")
    several = preflight.Preflight(ready.db, ready.data_dir, str(ready.model)).shares_steps()
    assert session.there("processes") == several
    changed = session.change({"method": "prompt", "loss": "robust"})
    assert [changed[name]["visible"] for name in ("virtual_tokens", "Prompt tuning", "flip_rate")] == [True] * 3
    assert not session.there("LoRA")
    assert "virtual_tokens" not in session.text("problems")
    session.change({"virtual_tokens": 9})
    assert session.spec() == replace(
        DPOSpec(method="prompt", loss="robust", virtual_tokens=9), model=str(ready.model), parent="base",
        learning_rate=3e-3, beta=0.1,
    )  # fmt: skip


def test_the_preview_follows_judgements_and_who_is_left_out(machine: Machine) -> None:
    session = opened(machine, "dpo")
    assert "<dd>12</dd>" in session.text("data")
    assert "labelled wrong is not known" in session.text("data")
    assert "<td>tie</td>" in session.text("data")
    machine.judge("train", 3)
    assert "data" in session.change()
    assert "<dd>15</dd>" in session.text("data")
    exclusions.leave_out(machine.db, "ann", "a test", OWNER)
    session.change()
    assert "<td>annotator left out</td>" in session.text("data")
    assert not session.can_start
    assert "Pairs to train on: 0. It takes at least 8" in session.text("problems")


def test_what_a_parent_has_seen_is_not_new_to_it(machine: Machine) -> None:
    job = machine.perform(machine.submit(DPOSpec(**{**QUICK["dpo"], "check": False, "samples": 0})))
    assert job.status == "finished", job.message
    revision = str((job.result or {})["revision"])
    session = opened(machine, "dpo")
    assert revision in [value for _, value in session.shown["parent"]["choices"]]
    session.change({**QUICK["dpo"], "parent": revision})
    assert "already trained on" in session.text("data")
    assert not session.can_start
    session.change({"scope": "all"})
    assert "already trained on" not in session.text("data")
    assert session.can_start


# ------------------------------------------------------------------------------------------------------------ the start
@EVERY_FORM
def test_what_is_started_is_the_spec_that_was_shown(ready: Machine, name: str) -> None:
    session = opened(ready, name)
    session.change({**QUICK[name], "seed": 5}, ticked=True)
    shown = session.spec()
    job = session.start()
    assert isinstance(job.spec, TrainingSpec)
    assert job.spec.snapshot
    assert replace(job.spec, snapshot="") == shown
    assert (job.kind, job.requested_by, shown.seed) == (session.page.form.spec_type.kind, OWNER, 5)


def test_after_the_start_the_runs_are_looked_at(ready: Machine) -> None:
    session = opened(ready, "dpo")
    said, leads = session.call("start_dpo", *session.asked)
    job_id = job_store.queue(ready.db)[-1].id
    assert said == "", "who comes back to the form finds it ended, perhaps"
    assert json.loads(leads)[1] == f"/runs/{job_id}"


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("dpo", {"loss": "ipo", "annotator_noise": "smooth"}, "a form of the sigmoid loss"),
        ("dpo", {"lora_init": "pissa", "method": "lora"}, "PiSSA changes the base weights"),
        ("dpo", {"epochs": None}, "“Epochs” must be a whole number."),
        ("dpo", {"beta": -0.1}, "“Beta” must not be negative, not -0.1."),
        ("dpo", {"parent": "dpo-99"}, "There is no policy 'dpo-99'"),
        ("sft", {"lora_init": "pissa", "method": "qlora"}, "4-bit weights can't be changed"),
        ("sft", {"source": "example:poems"}, "example"),
        pytest.param("full", {"optimiser": "adamw-8bit"}, "needs a GPU", marks=NO_GPU),
        ("reward_model", {"processes": 999}, "999 processes are more than this machine has"),
        ("ppo", {"method": "qlora"}, "was trained on bf16 weights: use the method lora"),
        ("ppo", {"rollouts": 5}, "must divide evenly into 2 minibatches"),
    ],
)
def test_what_cannot_work_is_said_and_the_start_is_off(
    ready: Machine, name: str, values: dict[str, Any], reason: str
) -> None:
    session = opened(ready, name)
    session.change(QUICK[name] | values, ticked=True)
    assert reason in unescape(session.text("problems"))
    assert not session.can_start
    assert not session.shown["measure"]["interactive"]
    before = job_store.recent(ready.db, job_store.waiting_kinds())
    for press in (session.start, lambda: session.call(f"measure_{name}", *session.asked)):
        with pytest.raises(gr.Error):
            press()
    assert job_store.recent(ready.db, job_store.waiting_kinds()) == before
    session.change({name: session.page.form.described[name][0] for name in values} | QUICK[name])
    assert session.can_start, "mended, it can be started"


def test_a_run_that_leaves_the_precision_of_its_parent_says_so_and_has_it_measured(ready: Machine) -> None:
    session = opened(ready, "dpo")
    assert "Automatic means QLoRA here" in session.text("rate")
    assert (session.text("crossing"), session.there("apart")) == ("", False)
    session.change({"method": "lora", "precision": "fp32"})
    assert "another policy before the first step" in session.text("crossing")
    assert session.there("apart")
    assert session.can_start
    assert "was queued" in session.call("compare_dpo", *session.asked)
    session.change()
    assert not session.there("apart")
    job = job_store.queue(ready.db)[-1]
    assert (job.kind, job.requested_by) == ("precisions", OWNER)
    assert ready.perform(job.id).status == "finished"
    session.change()
    assert "nats a token apart" in session.text("crossing")
    assert not session.there("apart")


def test_a_form_that_makes_no_spec_shows_none_to_copy(ready: Machine) -> None:
    session = opened(ready, "sft")
    session.change({"batch_size": None})
    assert session.text("spec") == session.text("command") == ""


def test_a_reward_model_grows_on_whole_weights_only(machine: Machine) -> None:
    job = machine.perform(machine.submit(DPOSpec(**{**QUICK["dpo"], "check": False, "samples": 0})))
    adapter = str((job.result or {})["revision"])
    session = opened(machine, "reward_model")
    assert [revision for _, revision in session.shown["parent"]["choices"]] == ["serving", "base"]
    session.change({"parent": adapter})
    assert "Merge it into 16-bit weights" in session.text("problems")


# ------------------------------------------------------------------------------------------------------------------ ppo
def test_ppo_without_a_reward_model_waits_for_one(machine: Machine) -> None:
    session = opened(machine, "ppo")
    assert "train one first" in session.text("problems")
    assert not session.can_start
    assert not session.there("accept")
    good = add_reward(machine, 0.71)
    session.change()
    assert session.values["reward_model"] == good.revision, "the only one is chosen"
    session.change({"method": "lora"})
    assert session.can_start
    assert "71.0% of 40 held-out comparisons" in session.text("judged")
    assert not session.there("accept")


def test_a_doubtful_reward_model_needs_a_confirmation_that_names_its_accuracy(machine: Machine) -> None:
    bad, worse = add_reward(machine, 0.553), add_reward(machine, 0.421)
    session = opened(machine, "ppo")
    assert session.values["reward_model"] == worse.revision, "the newest"
    session.change({"method": "lora", "reward_model": bad.revision})
    assert session.there("accept")
    assert "only 55.3%" in session.shown["accept"]["label"]
    assert "is right on 55.3% of held-out comparisons" in session.text("problems")
    assert "55.3% of 40 held-out comparisons" in session.text("judged")
    assert not session.can_start
    assert "tick “Run it although …”, or give accepted_accuracy 0.553 in the spec" in session.text("problems")
    with pytest.raises(gr.Error, match="accepted_accuracy"):
        session.start()
    session.change(ticked=True)
    assert session.can_start
    assert session.spec().accepted_accuracy == pytest.approx(0.553)

    session.change({"reward_model": worse.revision})
    assert not session.ticked, "a word holds for the model that it was given for"
    assert "only 42.1%" in session.shown["accept"]["label"]
    assert not session.can_start
    session.change(ticked=True)
    started = session.start().spec
    assert isinstance(started, PPOSpec)
    assert (started.reward_model, started.accepted_accuracy) == (worse.revision, pytest.approx(0.421))
    session.change(ticked=False)
    assert not session.can_start


def test_what_the_button_refuses_calls_settings_as_the_form_does(machine: Machine) -> None:
    session = opened(machine, "sft")
    session.change({"method": "lora", "lora_targets": "named", "lora_layers": "no_such_layer"})
    said = "“LoRA targets” 'named' needs layers named no_such_layer"
    assert escape(said) in session.text("problems")
    with pytest.raises(gr.Error, match=said):
        session.start()
    with pytest.raises(gr.Error, match=said):
        session.call("measure_sft", *session.asked)


def test_the_confirmation_is_there_with_the_method_that_is_left_to_the_weights(machine: Machine) -> None:
    bad = add_reward(machine, 0.553, "qlora")
    session = opened(machine, "ppo")
    assert (session.values["method"], session.values["reward_model"]) == ("auto", bad.revision)
    assert session.there("accept")
    assert not session.can_start
    session.change(ticked=True)
    assert session.can_start
    started = session.start().spec
    assert isinstance(started, PPOSpec)
    assert (started.method, started.accepted_accuracy) == ("qlora", pytest.approx(0.553))


def test_a_word_given_for_another_reward_model_does_not_count_at_the_start(machine: Machine) -> None:
    """As if the button was pressed before the page had answered the other choice."""
    bad, worse = add_reward(machine, 0.553), add_reward(machine, 0.421)
    session = opened(machine, "ppo")
    session.change({"method": "lora", "reward_model": bad.revision})
    session.change(ticked=True)
    session.values["reward_model"] = worse.revision
    with pytest.raises(gr.Error, match=r"42\.1%"):
        session.start()
    assert job_store.queue(machine.db) == []


# ----------------------------------------------------------------------------------------------------------------- rows
def test_a_row_is_shown_as_the_worker_is_fed_it(ready: Machine) -> None:
    session = opened(ready, "dpo")
    rows = [
        row
        for row in job_submission.rows_of(ready.db, DPOSpec())
        if isinstance(row, PreferenceRow) and row.split == "held-out"
    ]
    items, _ = tokenise_comparisons(ready.tokenizer, rows, 512)
    number, html = session.call("show_dpo", "held-out", 2, *session.values.values())
    assert number == 2
    ((better, worse, *_),), answers = items[1]["pairs"], items[1]["answers"]
    assert html.count('<span class="raised"') == len(ready.tokenizer.convert_ids_to_tokens(answers[better]))
    assert html.count('<span class="lowered"') == len(answers[worse])
    assert html.count('<span class="context"') == 2 * len(items[1]["prompt_ids"])
    assert "&lt;|im_end|&gt;</span></pre>" in html
    assert session.call("show_dpo", "held-out", 99, *session.values.values())[0] == 4
    assert session.call("show_dpo", "train", None, *session.values.values())[0] == 1


def test_a_row_that_other_settings_would_change_is_not_left_standing(machine: Machine) -> None:
    session = opened(machine, "dpo")
    assert {"row", "rows_found"}.isdisjoint(session.change({"epochs": 5, "beta": 0.4}))
    for values in ({"max_length": 300}, {"method": "prompt"}, {"virtual_tokens": 5}):
        changed = session.change(values)
        assert (changed["row"]["value"], changed["rows_found"]["value"]) == ("", "")
    assert {"row", "rows_found"}.isdisjoint(session.change())


def test_previous_and_next_turn_to_other_rows(ready: Machine) -> None:
    session = opened(ready, "sft")
    places = [session.call(f"{turn}_sft", "train", 3, *session.values.values())[0] for turn in ("previous", "next")]
    assert places == [2, 4]


def test_a_rows_text_can_do_nothing_to_the_page(machine: Machine) -> None:
    hostile = "<script>alert(1)</script> <img src=x onerror=alert(1)>"
    prompt_store.add_prompts(machine.db, [Prompt(({"role": "user", "content": hostile},), "train", "test")])
    session = opened(machine, "ppo")
    last = len(prompt_store.prompts(machine.db, "train"))
    html = session.call("show_ppo", "train", last, *session.values.values())[1]
    assert "<script" not in html
    assert "<img" not in html


def test_all_rows_are_looked_through_and_the_longest_is_estimated_with(machine: Machine) -> None:
    session = opened(machine, "dpo")
    assert "as long as “Max length” allows" in session.text("cost")
    found = session.call("through_dpo", *session.values.values())
    assert "<td>tie</td>" in found
    assert "Comparison 13" in found
    assert "cost" in session.change()
    assert "the longest, which has" in session.text("cost")


# -------------------------------------------------------------------------------------------------------------- measure
@EVERY_FORM
def test_a_measured_step_has_the_parameters_that_were_estimated_and_gives_the_time(machine: Machine, name: str) -> None:
    if "reward-model" in FORMS[name].spec_type.lists.values():
        judge = machine.perform(machine.submit(RewardModelSpec(method="lora", lora_r=4, epochs=1)))
        assert judge.status == "finished", judge.message
    session = opened(machine, name)
    session.change(QUICK[name])
    session.change(ticked=session.there("accept"))
    said = session.call(f"measure_{name}", *session.asked)
    job = job_store.queue(machine.db)[-1]
    assert f"Job {job.id} was queued" in said
    assert isinstance(job.spec, MeasureSpec)
    measured = from_json(job.spec.training)
    assert isinstance(measured, TrainingSpec)
    assert replace(measured, snapshot="") == session.spec()
    done = machine.perform(job.id)
    assert done.status == "finished", done.message
    result = done.result or {}
    built.cache_clear()  # what is known of finished jobs is kept for some seconds
    fresh = opened(machine, name)
    fresh.change(QUICK[name])
    fresh.change(ticked=fresh.there("accept"))
    assert f"{result['trainable']:,} ({result['trainable_percent']:.3g}% of" in fresh.text("cost")
    assert f"by job {job.id})" in fresh.text("cost")
    assert "Peak of memory, measured" in fresh.text("cost")


# ---------------------------------------------------------------------------------------- a new run from what was made
def test_a_new_run_from_an_adapter_fills_in_its_parent_and_shape(machine: Machine) -> None:
    spec = SFTSpec(method="lora", lora_r=4, lora_targets="attention", epochs=1, samples=0)
    job = machine.perform(machine.submit(spec))
    revision = str((job.result or {})["revision"])
    sessions = sessions_of(machine_context(machine))
    session = sessions["sft"]
    leads, *updates = session.call("start_from", {"job": job.id, "revision": revision})
    assert json.loads(leads)[1] == "/train/sft"
    fields = [(page.page.form.name, name) for page in sessions.values() for name in page.values]
    filled = {key: update["value"] for key, update in zip(fields, updates, strict=True) if update != gr.skip()}
    assert {form for form, _ in filled} == {"sft"}
    session.values |= {name: value for (_, name), value in filled.items()}
    session.open()
    assert session.can_start, session.text("problems")
    assert (session.spec().parent, session.spec().lora_r, session.spec().lora_targets) == (revision, 4, "attention")
    with pytest.raises(gr.Error, match="could be used"):
        session.call("start_from", {"job": job.id, "revision": None})


def test_a_chosen_parent_fills_in_its_adapter_and_another_its_own(machine: Machine) -> None:
    low = add_adapter(machine, SFTSpec(method="lora", lora_r=4, lora_alpha=8, lora_targets="attention"), "lora")
    tuned = add_adapter(machine, SFTSpec(method="prompt", virtual_tokens=7), "prompt")
    session = opened(machine, "dpo")
    session.change({"parent": low})
    assert [session.values[name] for name in ("lora_r", "lora_alpha", "lora_targets")] == [4, 8, "attention"]
    assert session.can_start, session.text("problems")
    session.change()
    assert session.change() == {}, "and then nothing is sent any more"
    session.change({"lora_r": 6})
    assert session.values["lora_r"] == 6, "what a person types stays"
    assert "has “LoRA rank (lora_r)” 4. Use the same to continue it" in session.text("problems")
    session.change({"lora_r": 4})
    session.change({"parent": tuned})
    assert (session.values["method"], session.values["virtual_tokens"]) == ("prompt", 7)
    assert session.can_start, session.text("problems")
    session.change({"parent": "base"})
    assert [session.values[name] for name in ("method", "lora_r", "lora_targets")] == ["auto", 16, "all-linear"]
    session.change({"parent": low})
    job = session.start()
    assert isinstance(job.spec, DPOSpec)
    assert (job.spec.parent, job.spec.method, job.spec.lora_r, job.spec.lora_alpha) == (low, "lora", 4, 8)


def add_adapter(machine: Machine, spec: SFTSpec, form: PolicyForm) -> str:
    """What a training has made, without files; its revision."""
    job_id = machine.submit(spec)
    assert job_store.claim(machine.db, job_id, "w") is not None
    assert job_table.finish(machine.db, job_id, "w", {})
    return registry.add(
        machine.db,
        revision=f"sft-{job_id}",
        algorithm="sft",
        base=str(machine.model),
        parent_id=1,
        job_id=job_id,
        path=f"adapters/sft-{job_id}",
        sha256="0" * 64,
        form=form,
        precision="bf16",
    ).revision


# ----------------------------------------------------------------------------------------------------------- the rest
def test_the_automatic_training_is_stored(machine: Machine) -> None:
    automatic_training.store(machine.db, True, 30, "dpo")
    assert setting_store.setting(machine.db, "auto_train", None) == {"on": True, "every": 30, "algorithm": "dpo"}
    for wrong in (None, 0, 2.5):
        with pytest.raises(UserError, match="whole number"):
            automatic_training.store(machine.db, True, wrong, "dpo")
    session = opened(machine, "dpo")
    sent, on, every, algorithm, said = session.call("open_auto_train")
    assert (on, every, algorithm) == (True, 30, "dpo")
    with pytest.raises(UserError, match="Choose how to train"):
        automatic_training.store(machine.db, True, 30, "luck")
    assert "after every 30" in said
    assert "Off" in session.call("save_auto_train", sent, False, 30, "ppo")[-1]


def test_automatic_training_that_can_not_start_says_why(machine: Machine) -> None:
    automatic_training.store(machine.db, True, 30, "dpo")
    assert "At the moment none can start" not in opened(machine, "dpo").call("open_auto_train")[-1]
    job_id = machine.submit(SFTSpec(method="lora", lora_init="pissa"))
    made = registry.add(
        machine.db,
        revision="sft-1",
        algorithm="sft",
        base=str(machine.model),
        parent_id=1,
        job_id=job_id,
        path="adapters/sft-1",
        sha256="0",
        precision="bf16",
    )
    decision_store.promote(machine.db, made.revision, OWNER)
    said = opened(machine, "dpo").call("open_auto_train")[-1]
    assert "At the moment none can start" in said
    assert "The parent sft-1 began with PiSSA" in said
    assert "none can start" not in opened(machine, "dpo").call("save_auto_train", {}, False, 30, "dpo")[-1]


def test_automatic_training_is_not_put_back_by_an_admin_who_saw_it_before(machine: Machine) -> None:
    automatic_training.store(machine.db, True, 30, "dpo")
    session = opened(machine, "dpo")
    sent = session.call("open_auto_train")[0]
    automatic_training.store(machine.db, False, 40, "dpo")
    *_, said = session.call("save_auto_train", sent, True, 30, "ppo")
    assert "stays: Train automatically, After so many new judgements." in said
    assert setting_store.setting(machine.db, "auto_train", None) == {"on": False, "every": 40, "algorithm": "ppo"}
    sent, *_, said = session.call("save_auto_train", sent, True, 50, "ppo")
    assert "Not saved: somebody has changed this meanwhile (After so many new judgements)" in said
    assert setting_store.setting(machine.db, "auto_train", None) == {"on": False, "every": 40, "algorithm": "ppo"}
    assert "stays: Train automatically." in session.call("save_auto_train", sent, True, 50, "ppo")[-1]
    assert setting_store.setting(machine.db, "auto_train", None) == {"on": False, "every": 50, "algorithm": "ppo"}


def test_hardware_is_rented_only_on_terms_that_were_shown(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(machine, "sft")
    with pytest.raises(gr.Error, match="Nobody has a token for the Hub here"):
        session.call("ask_to_rent_sft", "t4-small", 0.4, 2, "")
    monkeypatch.setenv(HELD, "1")
    failed = hub_requests.REQUESTS.enqueue(machine.db, hub_requests.AskPrices(), "kim")
    assert "open the list again" in session.call("list_sft")[1]
    hub_requests.REQUESTS.claim_next(machine.db, "w")
    job_table.stop(machine.db, failed, "w", "failed", "The Hub has trouble of its own.")
    said = session.call("list_sft")[1]
    assert "The Hub has told no prices. The Hub has trouble of its own." in said
    assert "open the list again" not in said
    asked = hub_requests.REQUESTS.enqueue(machine.db, hub_requests.AskPrices(), "kim")
    flavor = {"name": "t4-small", "label": "Nvidia T4 - small", "price_per_hour": 0.4}
    hub_requests.REQUESTS.claim_next(machine.db, "w")
    job_table.finish(machine.db, asked, "w", {"flavors": [flavor]})
    listed, said = session.call("list_sft")
    assert listed["choices"] == [("Nvidia T4 - small (t4-small): $0.40 an hour", "t4-small")]
    assert said == ""
    machine.db.write("UPDATE job SET finished = '2026-01-02T10:00:00.000000+00:00' WHERE id = ?", (asked,))
    failed = hub_requests.REQUESTS.enqueue(machine.db, hub_requests.AskPrices(), "kim")
    hub_requests.REQUESTS.claim_next(machine.db, "w")
    job_table.stop(machine.db, failed, "w", "failed", "The Hub is down.")
    assert "These prices are of 2026-01-02 10:00 UTC. The Hub is down." in session.call("list_sft")[1]
    written = {handler_of(one).__name__: one.outputs for one in session.demo.fns.values()}
    for list_or_ask in ("list_sft", "ask_prices_sft"):
        assert written["rent_sft"][4] not in written[list_or_ask], "what became of renting is still to be read"
    assert session.call("price_sft", "t4-small")[0] == 0.4
    for wrong in (float("nan"), -1, None, "1"):
        with pytest.raises(gr.Error, match="The price must be in dollars an hour"):
            session.call("ask_to_rent_sft", "t4-small", wrong, 2, "")
    question, answers, spend, agreed, _ = session.call("ask_to_rent_sft", "t4-small", 0.4, 2, "acme")
    assert "up to $0.80: t4-small at $0.40 an hour, ended after 2 hours at the latest, paid by acme" in question
    assert (answers["visible"], spend["value"]) == (True, "Spend up to $0.80")
    with pytest.raises(gr.Error, match="Nothing was agreed to yet"):
        session.call("rent_sft", None, *session.asked)
    assert not job_store.rented_jobs(machine.db)
    cleared = session.call("rent_sft", agreed, *session.asked)
    (job,) = job_store.rented_jobs(machine.db)
    assert (cleared[1]["visible"], cleared[3], json.loads(cleared[-1])[1]) == (False, None, f"/runs/{job.id}")
    assert (job.flavor, job.kind, job_store.queue(machine.db)) == ("t4-small", "sft", [])
    rental = rental_store.get(machine.db, job.id)
    assert (rental.price_per_hour, rental.hours, rental.namespace) == (0.4, 2.0, "acme")
    # Nothing here waits for it.
    here = session.start()
    assert job_store.jobs_ahead(machine.db, here) == []


def test_annotators_are_refused_and_the_page_they_are_sent_tells_nothing(ready: Machine) -> None:
    session = opened(ready, "dpo")
    before = job_store.recent(ready.db, job_store.waiting_kinds())
    for block in session.demo.fns.values():
        with pytest.raises(gr.Error, match="Only an admin"):
            handler_of(block)(*asked_by("ann", handler_of(block)), *(None for _ in block.inputs))
    assert job_store.recent(ready.db, job_store.waiting_kinds()) == before
    sent = str(session.demo.get_config_file())
    judge = preflight.models_of(ready.db, "reward-model")[0][1]
    for secret in (judge, str(ready.data_dir), str(ready.model), OWNER):
        assert secret not in sent


def test_whatever_an_admins_browser_sends_is_answered(ready: Machine) -> None:
    """A handler is an address that anyone who is signed in can call with anything; a bug would be an error of ours."""
    session = opened(ready, "dpo")
    everything: list[Any] = [None, [], {}, "x", -1, True, 1e300]
    for junk in everything:
        values = [junk for _ in session.values]
        sent = session.call("view_dpo", junk, junk, *values)
        assert len(sent) == len(session.page.parts) + 1
