"""The Runs page through its registered handlers: the queue, real tiny runs live and done, runs compared, deletion."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.database import Database
from annotation.jobs import job_table, liveness
from annotation.records import UserError, now
from annotation.store import prompt_store
from annotation.tabs.guard import Context
from annotation.ui import line_plots
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.evaluation import rule_store
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import peoples_decisions
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store, rental_store, run_labels
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import SampleAnswer
from rlhf.jobs.run import Run, perform
from rlhf.jobs.run_labels import RunLabel
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy
from rlhf.tabs.runs import compare_runs_form, run_list, runs_tab
from rlhf.tabs.runs.curves import plots_of
from rlhf.tabs.runs.runs_tab import RunsPage
from tests.conftest import BASE_NAME
from tests.handlers import asked_by
from tests.machine_fixtures import QUICK_DPO, Machine, make_machine
from tests.run_fixtures import QUICK_SFT, demonstrations, finished_run

pytestmark = pytest.mark.slow

OWNER = "kim"
QUICK_REWARD = RewardModelSpec(
    method="lora", precision="fp32", epochs=2, batch_size=4, learning_rate=5e-3, lora_r=4, lora_alpha=8
)
QUICK_PPO = PPOSpec(
    method="lora",
    precision="fp32",
    steps=2,
    rollouts=4,
    batch_size=2,
    lora_r=4,
    lora_alpha=8,
    max_length=256,
    samples=2,
    sampling=replace(PPOSpec().sampling, max_new_tokens=12),
)
# Runs of seconds of each kind of training, oldest first: a second supervised one with another seed and step size.
ADAPTER: dict[str, Any] = {"method": "lora", "epochs": 2, "batch_size": 4, "lora_r": 4, "lora_alpha": 8}
QUICK: dict[str, Sequence[TrainingSpec]] = {kind: (spec_type(**ADAPTER),) for kind, spec_type in ALGORITHMS.items()} | {
    "sft": (QUICK_SFT, replace(QUICK_SFT, seed=4, learning_rate=1e-3)),
    "dpo": (replace(QUICK_DPO, stop_kl=100.0),),
    "reward_model": (QUICK_REWARD,),
    "ppo": (QUICK_PPO,),
}


def handler_of(block: Any) -> Any:
    """A registered function, as Gradio calls it."""
    return block.fn


CHOSEN = {"selector": "latest", "queued": None, "compared": None, "search": "", "order": "newest"}
TYPED = ("name", "tags", "notes")


@dataclass
class Browser:
    """One browser session on the Runs page: what it chose, and what each part of the page shows now."""

    demo: gr.Blocks
    page: RunsPage
    chosen: dict[str, Any] = field(default_factory=lambda: dict(CHOSEN) | dict.fromkeys(TYPED, ""))
    shown: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: Any = None
    address: str = ""

    def do(self, name: str, person: str = OWNER) -> dict[str, Any]:
        """Call a registered handler with what this session has chosen; returns the parts that were sent."""
        block = next(block for block in self.demo.fns.values() if handler_of(block).__name__ == name)
        inputs = [*self.chosen.values(), self.seen][: len(block.inputs)]
        number = "" if self.chosen["selector"] == "latest" else f"/{self.chosen['selector']}"
        compared = self.chosen["compared"] if isinstance(self.chosen["compared"], list) else []
        part = f"{number}?compare={','.join(map(str, compared))}"
        sent = handler_of(block)(*asked_by(person, handler_of(block), part=part), *inputs)
        assert len(sent) == len(block.outputs)
        parts = dict(zip(self.page.parts, sent, strict=False))
        if (seen := sent[len(self.page.parts)]) != gr.skip():
            self.seen = seen
        if len(sent) > len(self.page.parts) + 1 and sent[-1] != gr.skip():
            self.address = json.loads(sent[-1])[2]
        changed: dict[str, Any] = {}
        for part, update in parts.items():
            if update != gr.skip():
                changed[part] = {"value": update} if isinstance(update, str) else update
            if part in RunsPage.notices and part in changed and self.is_late(part, changed[part]["value"]):
                del changed[part]
            self.shown[part] = self.shown.get(part, {}) | changed.get(part, {})
        for choice in ("queued", "selector", *TYPED):
            if changed.get(choice, {}).get("value") is not None:
                self.chosen[choice] = changed[choice]["value"]
        return changed

    def open(self) -> Browser:
        """Open the page, as a reload does."""
        self.shown, self.seen = {}, None
        self.do("open_runs")
        return self

    def look_at(self, job_id: int) -> Browser:
        """Choose a job."""
        self.chosen["selector"] = str(job_id)
        self.do("choose_run")
        return self

    def is_late(self, part: str, value: str) -> bool:
        """Whether the page shows what has looked later than this."""
        return self.number(value) < self.number(self.text(part, told=False))

    @staticmethod
    def number(value: str) -> float:
        found = re.match(r"<!--([\d.]+)-->", value)
        return float(found[1]) if found else 0

    def text(self, part: str, told: bool = True) -> str:
        """What a part of the page shows; else what it was sent, numbered."""
        value = str(self.shown.get(part, {}).get("value") or "")
        return re.sub(r"^<!--[\d.]+-->", "", value) if told else value

    def can(self, button: str) -> bool:
        """Whether a button is there and can be pressed."""
        return bool(self.shown[button].get("visible", True)) and bool(self.shown[button].get("interactive"))


def browser_of(place: Context) -> Browser:
    """A session on a page of its own over this data directory."""
    with gr.Blocks() as demo, gr.Tab("Runs"):
        page = runs_tab.build(place)
    return Browser(demo, page)


def people(db: Database) -> None:
    """An admin and an annotator, who need no password here."""
    with db.transaction() as connection:
        for name, role in ((OWNER, "admin"), ("bob", "annotator")):
            connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))


def context_of(machine: Machine) -> Context:
    """What the pages over a machine's data directory share."""
    return Context(machine.db, machine.data_dir, str(machine.model))


@pytest.fixture
def place(db: Database, data_dir: Path) -> Context:
    """An empty data directory, in which nothing can really run."""
    people(db)
    return Context(db, data_dir, BASE_NAME)


@pytest.fixture
def browser(place: Context) -> Browser:
    """The page of an empty data directory."""
    return browser_of(place)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Machine]:
    """Judged comparisons, on which `newest` trains each kind when it is first asked for. Runs are only looked at."""
    machine = make_machine(tmp_path_factory.mktemp("trained") / "data", tiny_model)
    people(machine.db)
    machine.add_prompts(train=8, held_out=2)
    machine.judge("train", 8)
    machine.judge("held-out", 8)
    yield machine
    machine.db.close()


def newest(machine: Machine, kind: str) -> job_store.Job:
    """The last job of a kind, trained if there is none."""
    if not job_store.recent(machine.db, (kind,), 1):
        for spec in QUICK[kind]:
            train(machine, spec)
    return job_store.recent(machine.db, (kind,), 1)[0]


def train(machine: Machine, spec: TrainingSpec) -> None:
    """Run a training to its end, with the newest of each model that it names, whatever a person has to confirm."""
    makers = {name: next(one for one in ALGORITHMS.values() if one.makes == made) for name, made in spec.lists.items()}
    named = {name: (newest(machine, maker.kind).result or {})["revision"] for name, maker in makers.items()}
    if spec.unit == "demonstrations":
        named["snapshot"] = demonstrations(machine)
    spec = replace(spec, **named)
    confirmation = spec.confirmation(machine.db)
    job = machine.perform(machine.submit(replace(spec, **(confirmation.settings if confirmation else {}))))
    assert job.status == "finished", job.message


def begin(place: Context, spec: Any = QUICK_SFT, steps: int = 0, total: int = 20) -> int:
    """A job that another process runs and that has reported some steps."""
    job_id = job_store.enqueue(place.db, spec, OWNER)
    assert job_store.claim(place.db, job_id, "w") is not None
    for step in range(1, steps + 1):
        assert job_table.report(place.db, job_id, "w", step, total, {"loss": 1 / step, "grad_norm": 0.5}, "training")
    return job_id


def make_policy(place: Context, spec: Any = QUICK_SFT, **changes: Any) -> Policy:
    """What a finished job made, with a file of 1,500 bytes."""
    job_id = begin(place, spec, 20)
    revision = f"{spec.kind.replace('_', '-')}-{job_id}"
    directory = place.data_dir / "adapters" / revision
    directory.mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(b"w" * 1500)
    made = registry.add(
        place.db,
        revision=revision,
        algorithm=spec.kind,
        base=place.model,
        parent_id=1,
        job_id=job_id,
        path=f"adapters/{revision}",
        **{"sha256": "0", **changes},
    )
    assert job_table.finish(place.db, job_id, "w", {"checkpoint_bytes": 1500})
    return made


# -------------------------------------------------------------------------------------------------------------- guard
def test_every_listener_is_for_admins_only(browser: Browser, place: Context) -> None:
    made = make_policy(place)
    names = {handler_of(block).__name__ for block in browser.demo.fns.values()}
    assert {"queue_up", "queue_take_out", "run_cancel", "run_merge", "delete_run", "open_runs"} < names
    for block in browser.demo.fns.values():
        handler = handler_of(block)
        assert handler.required_role == "admin"
        for person in ("bob", None, "nobody"):
            with pytest.raises(gr.Error, match=r"Only an admin|Sign in"):
                handler(*asked_by(person, handler), *(None for _ in block.inputs))
    assert (place.data_dir / str(made.path)).is_dir()
    assert job_store.active(place.db, job_store.waiting_kinds()) == []


def test_the_page_that_everyone_is_sent_holds_no_rows(trained: Machine) -> None:
    sent = str(browser_of(context_of(trained)).demo.get_config_file())
    for secret in (newest(trained, "dpo").result["revision"], "odd or even", OWNER):  # type: ignore[index]
        assert secret not in sent


def test_whatever_a_browser_sends_is_answered_in_words(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=2)
    selected: Any
    for selected in (
        None,
        "",
        "x",
        "9" * 30,
        ["1"],
        {},
        str(job_store.recent(place.db, job_store.waiting_kinds())[0].id),
    ):
        browser.chosen = dict.fromkeys(CHOSEN, selected)
        browser.open()
        assert f"Job {job_id}" in browser.text("card")
    browser.chosen["compared"] = [None, "x", "9" * 30, str(job_id)]
    browser.open()
    assert "Choose two or more runs" in browser.text("settings")
    browser.seen = None
    with pytest.raises(gr.Error, match="No job is shown"):
        browser.do("run_cancel")


def test_the_answering_workers_job_is_none_of_this_page(browser: Browser, place: Context) -> None:
    answering = job_store.enqueue(place.db, AnsweringSpec(), "the program")
    browser.chosen["selector"] = str(answering)
    browser.open()
    assert "Nothing has been run yet" in browser.text("card")
    assert not browser.can("cancel")


# --------------------------------------------------------------------------------------------------------- real runs
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_a_real_run_of_every_kind_shows_each_of_its_plots(trained: Machine, kind: str) -> None:
    """The names of the metrics are those that the algorithms report."""
    job = newest(trained, kind)
    browser = browser_of(context_of(trained)).open().look_at(job.id)
    plots = browser.text("plots")
    drawn = re.findall(r"<figcaption>([^<]*)<", plots)
    assert drawn == [curve.label for curve in plots_of(ALGORITHMS[kind])]
    lines = sum(len(curve.series) for curve in plots_of(ALGORITHMS[kind]))
    assert plots.count("<polyline") == plots.count('<i class="hue') == lines
    assert [line for line in job_store.log_tail(trained.db, job.id, 100) if line.endswith(" ")] == []
    assert len(job_store.metrics(trained.db, job.id)) == job.steps
    assert f"Job {job.id}, " in browser.text("card")
    assert "Finished in " in browser.text("card")
    assert "Trainable parameters" in browser.text("outcome")
    assert "Download " in browser.text("download")


@pytest.mark.parametrize("kind", ["sft", "dpo", "ppo"])
def test_samples_of_a_real_run_stand_side_by_side_over_its_steps(trained: Machine, kind: str) -> None:
    job = newest(trained, kind)
    html = browser_of(context_of(trained)).open().look_at(job.id).text("samples")
    prompts = [prompt.text for prompt in prompt_store.prompts(trained.db, "held-out")]
    if kind == "sft":  # the task is in its own data
        prompts = ["Is 12 odd or even?", "Is 13 odd or even?", "Is 14 odd or even?"]
    assert re.findall('<pre class="prompt">([^<]*)<', html) == [escape(prompt) for prompt in prompts]
    assert html.count("before training · ") == len(prompts)
    assert html.count(f"step {job.steps} · ") == len(prompts)


def test_a_supervised_run_shows_held_out_figures_its_data_and_its_seed(trained: Machine) -> None:
    job = newest(trained, "sft")
    browser = browser_of(context_of(trained)).open().look_at(job.id)
    assert "Held-out demonstrations: 4" in browser.text("outcome")
    assert "Perplexity" in browser.text("outcome")
    facts = browser.text("facts")
    snapshot = job.spec.snapshot  # type: ignore[union-attr]
    for words in ("<dd>4</dd>", "12 to train, 4 held-out", f"<dd>{snapshot[:12]}</dd>", f"&quot;{snapshot}&quot;"):
        assert words in facts
    assert "12 demonstrations" in browser.text("log")
    assert browser.text("quality") == ""
    assert browser.text("report").count("It has not been checked yet.") == 1


def test_a_reward_model_shows_its_quality_and_can_not_serve(trained: Machine) -> None:
    browser = browser_of(context_of(trained)).open().look_at(newest(trained, "reward_model").id)
    assert "Quality of the reward model." in browser.text("quality")
    assert '<a class="button" href="/train/ppo">Train a policy against it: PPO</a>' in browser.text("objection")
    assert "of 8 held-out comparisons" in browser.text("quality")
    assert browser.text("report") == ""
    assert {name: browser.can(name) for name in ("promote", "check", "merge", "delete", "new_run")} == {
        "promote": False,
        "check": False,
        "merge": False,
        "delete": True,
        "new_run": True,
    }


def test_comparing_two_real_runs_lists_exactly_the_settings_that_differ(trained: Machine) -> None:
    newest(trained, "sft")
    second, first = job_store.recent(trained.db, ("sft",), 2)
    browser = browser_of(context_of(trained))
    browser.chosen["compared"] = [str(first.id), str(second.id)]
    browser.open()
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in browser.text("settings").split("<tr>")[1:]]
    names = [f"{job.id} · {job.result['revision']}" for job in (first, second) if job.result]
    settings = [["Seed", "0", "4"], ["Learning rate", "0.005", "0.001"]]
    assert rows == [["Setting", *names], *settings]
    run_labels.set_label(trained.db, first.id, RunLabel("Fast"), "kim")
    browser.do("poll_runs")
    assert f"{first.id} · Fast: " in browser.text("overlaid")
    assert f"{first.id} · Fast</th>" in browser.text("settings")
    assert any(words.startswith(f"Fast · {first.id} · ") for words, _value in browser.shown["compared"]["choices"])
    run_labels.set_label(trained.db, first.id, RunLabel(), "kim")
    browser.do("poll_runs")
    overlaid = browser.text("overlaid")
    assert overlaid.count("<polyline") == 2 * overlaid.count("<figure")
    for label in ("Loss", "Token accuracy", "Gradient norm", "Memory"):
        assert f"<figcaption>{label}<" in overlaid
    for figure in ("Held-out perplexity", "Loss, at the end", "Peak memory", "Size on disk"):
        assert f"<td>{figure}</td>" in browser.text("figures")


def test_runs_of_every_kind_can_be_compared_at_once(trained: Machine) -> None:
    browser = browser_of(context_of(trained))
    for kind in ALGORITHMS:
        newest(trained, kind)
    runs = job_store.recent(trained.db, tuple(ALGORITHMS))
    browser.chosen["compared"] = [str(job.id) for job in runs]
    browser.open()
    kinds = "".join(f"<td>{job.spec.title}</td>" for job in runs)
    assert f"<td>Kind</td>{kinds}" in browser.text("settings")
    assert browser.text("overlaid").count("<figure") >= 5
    assert "Held-out accuracy of the reward model" in browser.text("figures")


def test_a_run_that_diverged_says_so_and_what_to_do(machine: Machine) -> None:
    """A real one: its step size is absurd."""
    people(machine.db)
    place = context_of(machine)
    browser = browser_of(place)
    spec = replace(QUICK_SFT, learning_rate=1e30, samples=0, snapshot=demonstrations(machine))
    job = machine.perform(machine.submit(spec))
    assert job.status == "failed"
    card = browser.open().text("card")
    for words in ("Failed. ", "became not a number", "lower “Learning rate”"):
        assert words in card
    assert (browser.can("resume"), browser.can("cancel")) == (True, False)
    assert [name for name in ("promote", "check", "new_run", "merge") if browser.can(name)] == [], "it made nothing"
    assert browser.shown["delete"]["value"] == "Delete its checkpoints"


# ------------------------------------------------------------------------------------------------------------- live
def test_before_the_first_run_the_page_says_where_to_start_one(browser: Browser, place: Context) -> None:
    browser.open()
    assert "Nothing has been run yet" in browser.text("card")
    assert browser.text("queue") == ""
    assert not any(browser.can(name) for name in ("cancel", "resume"))
    empty = ("actions", "all", "comparable", "labels", "record", "selector")
    assert [name for name in empty if browser.shown[name]["visible"]] == [], "one sentence is enough"
    begin(place, steps=1)
    browser.do("poll_runs")
    assert [name for name in empty if browser.shown[name]["visible"]] == ["all", "labels", "record", "selector"]


def test_the_list_says_that_there_are_more_runs_than_it_shows(
    browser: Browser, place: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list, "LISTED", 2)
    for more in (False, True):
        begin(place, steps=1)
        browser.open()
        assert "There are more" not in browser.text("jobs")
        begin(place, steps=1)
        browser.open()
        assert ("There are more: search for them." in browser.text("jobs")) is more
        monkeypatch.setattr(run_list, "LISTED", 3)


def test_a_run_that_there_is_not_is_said_to_be_none(browser: Browser, place: Context) -> None:
    """By an address, or typed; also before there is any."""
    browser.chosen |= {"selector": "99", "compared": ["998", "999"]}
    browser.open()
    assert "There is no job 99. There is no training 998, 999 to compare." in browser.text("said")
    assert (browser.address, browser.text("selector"), browser.shown["compared"]["value"]) == ("", "latest", [])
    first, second = begin(place), begin(place)
    browser.chosen |= {"selector": "of mine", "compared": None}
    browser.do("choose_run")
    assert "There is no job of mine; this is what runs now, or ran last." in browser.text("said")
    assert browser.text("selector") == "latest"
    browser.chosen |= {"selector": str(first), "compared": [str(second), "best"]}
    browser.do("list_runs")
    assert "There is no training best to compare." in browser.text("said")
    assert browser.shown["compared"]["value"] == [str(second)]
    assert browser.address == f"/{first}?compare={second}"


def test_only_what_changed_is_sent_again(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=3)
    browser.open()
    assert browser.text("plots").count("<figure") == 2
    again = browser.do("poll_runs")
    assert {"plots", "samples", "log", "facts", "selector", "cancel", "outcome", "settings"}.isdisjoint(again)
    job_table.report(place.db, job_id, "w", 4, 20, {"loss": 0.2})
    changed = browser.do("poll_runs")
    assert {"plots", "card"} <= set(changed)
    assert {"facts", "selector", "outcome", "queued", "settings"}.isdisjoint(changed)
    assert "step 4 of 20" in browser.text("card")


def test_a_closed_page_finds_everything_again_from_another_browser_too(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=3)
    job_store.sample(place.db, job_id, 0, [SampleAnswer("Why?", "So.", "stop", 2)])
    job_table.log(place.db, job_id, "a <b>line</b>")
    browser.open()
    other = browser_of(place).open()
    other.do("poll_runs")
    assert {name: other.text(name) for name in ("plots", "samples", "log", "facts")} == {
        name: browser.text(name) for name in ("plots", "samples", "log", "facts")
    }
    assert "So." in other.text("samples")
    assert "a &lt;b&gt;line&lt;/b&gt;" in other.text("log")
    assert other.can("cancel")


def test_a_rented_run_is_resumed_until_what_was_sent_is_no_use_any_more(browser: Browser, place: Context) -> None:
    job_id = rental_store.enqueue(place.db, QUICK_SFT, OWNER, rental_store.Terms("cpu-basic", 0.02))
    assert job_store.claim(place.db, job_id, "w") is not None
    rental_store.started(place.db, job_id, "there", "https://huggingface.co/jobs/ann/there")
    job_table.stop(place.db, job_id, "w", "failed", "It arrived damaged.")
    browser.open()
    browser.look_at(job_id)
    assert browser.can("resume")
    assert "follows the job on the Hub" in browser.text("resume_note")
    for record in (rental_store.to_be_cleared, rental_store.cleared):
        record(place.db, job_id)
        browser.do("poll_runs")
        assert not browser.can("resume")
        assert browser.text("resume_note") == ""


def test_cancel_and_resume_act_on_the_job_that_was_shown(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=2)
    browser.open()
    assert (browser.can("cancel"), browser.can("resume")) == (True, False)
    waiting, before = job_store.enqueue(place.db, QUICK_SFT, OWNER), browser.seen
    browser.do("run_cancel")
    browser.seen = before
    browser.do("poll_runs")
    assert f"Job {job_id} was asked to stop" in browser.text("said"), "though a poll that was asked for before is late"
    assert [job_store.get(place.db, number).status for number in (job_id, waiting)] == ["cancelling", "queued"]
    job_table.stop(place.db, job_id, "w", "cancelled", "Resume goes on from the last checkpoint.")
    browser.do("poll_runs")
    assert browser.text("said") == "", "it is not so any more"
    browser.look_at(job_id)
    assert (browser.can("cancel"), browser.can("resume")) == (False, True)
    browser.do("run_resume")
    browser.do("poll_runs")
    assert f"Job {job_id} is queued again" in browser.text("said"), "it is still so"
    assert job_store.get(place.db, job_id).status == "queued"
    assert [job.id for job in job_store.queue(place.db)] == [waiting, job_id]
    with pytest.raises(gr.Error, match="can't be resumed"):
        browser.do("run_resume")
    browser.chosen["queued"] = str(job_id)
    browser.do("queue_take_out")
    assert browser.text("said") == "", "so that the same is news when it is said again"


@pytest.mark.parametrize("first", ["poll", "press"])
def test_what_a_press_says_stays_where_a_poll_that_was_asked_for_before_comes_after_it(
    browser: Browser, place: Context, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Whichever of the two has looked first."""
    look_now = runs_tab.live

    def poll_and_press(name: str) -> None:
        def look(*asked: Any) -> Any:
            monkeypatch.setattr(runs_tab, "live", look_now)
            found = look_now(*asked) if first == "poll" else None
            browser.do(name)
            return found or look_now(*asked)

        monkeypatch.setattr(runs_tab, "live", look)
        browser.do("poll_runs")

    job_id = job_store.enqueue(place.db, QUICK_SFT, OWNER)
    browser.open().do("run_cancel")
    poll_and_press("run_resume")
    assert f"Job {job_id} is queued again" in browser.text("said")
    browser.do("poll_runs")
    poll_and_press("queue_take_out")
    assert f"Job {job_id} is out of the queue" in browser.text("queue_said")
    browser.do("run_resume")
    assert job_store.claim(place.db, job_id, "w") is not None
    poll_and_press("run_cancel")
    assert f"Job {job_id} was asked to stop" in browser.text("said")
    assert job_table.stop(place.db, job_id, "w", "cancelled", "Resume goes on from the last checkpoint.")
    browser.do("poll_runs")
    assert browser.text("said") == "", "it is not so any more"


def test_going_on_and_starting_anew_are_two_buttons(browser: Browser) -> None:
    assert browser.page.new_run is not browser.page.parts["resume"]
    assert browser.page.new_run.value == "Start a new run from this policy"
    assert browser.page.parts["resume"].value == "Resume this run"
    listened = {target[0] for block in browser.demo.fns.values() for target in block.targets}
    assert browser.page.new_run._id not in listened, "the forms listen to it"


def test_a_real_run_is_cancelled_and_resumed_from_the_page(machine: Machine) -> None:
    people(machine.db)
    place = context_of(machine)
    browser = browser_of(place)
    job_id = machine.submit(replace(QUICK_SFT, snapshot=demonstrations(machine), samples=0))

    class Watched(Run):
        """Presses Cancel in the page when the second step is reported."""

        def report(self, step: int, steps: int, metrics: Any, message: str = "") -> None:
            super().report(step, steps, metrics, message)
            if step == 2 and metrics:
                browser.open().do("run_cancel")

    job = job_store.claim(machine.db, job_id, "w")
    assert job is not None
    perform(Watched(machine.db, machine.data_dir, job, "w"), job.spec)
    browser.do("poll_runs")
    assert "Cancelled.</p>" in browser.text("card")
    reached = job_store.get(machine.db, job_id).step
    assert 2 <= reached < 6
    browser.do("run_resume")
    assert machine.perform(job_id).status == "finished"
    browser.do("poll_runs")
    assert "It made the policy" in browser.text("card")
    assert [entry["step"] for entry in job_store.metrics(machine.db, job_id)] == [1, 2, 3, 4, 5, 6]
    assert any("resuming from checkpoint-" in line for line in job_store.log_tail(machine.db, job_id))


def test_time_left_counts_only_this_attempt(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=4)
    liveness.end(place.db, "w")
    job_store.mark_lost(place.db)
    assert "Lost. The worker stopped without a word" in browser.open().text("card")
    job_store.resume(place.db, job_id)
    assert job_store.claim(place.db, job_id, "w2") is not None
    assert job_store.step_times(place.db, job_store.get(place.db, job_id)) == []
    job_table.report(place.db, job_id, "w2", 5, 10**6, {"loss": 0.5})
    browser.do("poll_runs")
    assert " left" not in browser.text("card")
    job_table.report(place.db, job_id, "w2", 6, 10**6, {"loss": 0.5})
    browser.do("poll_runs")
    assert re.search(r"about .+ left", browser.text("card"))


def test_a_job_that_memory_did_not_suffice_for_says_what_was_lowered(browser: Browser, place: Context) -> None:
    spec = replace(QUICK_SFT, batch_size=4, halve_batch=True)
    job_id = begin(place, spec, steps=2)
    assert job_store.requeue_smaller(place.db, job_id, "w", "out-of-memory")
    assert job_store.claim(place.db, job_id, "w2") is not None
    browser.open()
    assert "Queued again with a smaller batch: “Batch size” 4 → 2, “Accumulation” 1 → 2." in browser.text("card")
    assert "&quot;batch_size&quot;: 2" in browser.text("facts")


def test_a_job_that_ended_for_memory_goes_on_with_half_the_batch_at_a_button(browser: Browser, place: Context) -> None:
    job_id = begin(place, replace(QUICK_SFT, batch_size=4), steps=2)
    assert browser.open().can("half") is False
    job_table.stop(place.db, job_id, "w", "failed", "Close other programs.", "out-of-memory")
    browser.do("poll_runs")
    assert (browser.can("resume"), browser.can("half")) == (True, True)
    assert "half as many items in a forward pass" in browser.text("resume_why")
    with pytest.raises(gr.Error, match="Only an admin"):
        browser.do("run_half", person="bob")
    browser.do("run_half")
    job = job_store.get(place.db, job_id)
    assert (job.status, job.spec) == ("queued", replace(QUICK_SFT, batch_size=2, accumulation=2))
    assert f"Job {job_id} is queued again" in browser.text("said")
    assert "“Batch size” 4 → 2, “Accumulation” 1 → 2" in browser.text("said")
    browser.do("poll_runs")
    assert browser.can("half") is False
    with pytest.raises(gr.Error, match="can't be resumed"):
        browser.do("run_half")
    job_store.claim(place.db, job_id, "w2")
    job_table.stop(place.db, job_id, "w2", "failed", "The disk is full.")
    browser.do("poll_runs")
    assert (browser.can("resume"), browser.can("half")) == (True, False), "half the batch would not help"


def test_a_run_that_diverged_says_that_it_would_go_on_more_slowly(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=2)
    job_table.stop(place.db, job_id, "w", "failed", "The run was stopped.", "not-a-number")
    assert "goes on with half the learning rate" in browser.open().text("resume_note")
    browser.do("run_resume")
    assert "“Learning rate” 0.005 → 0.0025" in browser.text("said")
    assert job_store.claim(place.db, job_id, "w2") is not None
    browser.do("poll_runs")
    assert "“Learning rate” 0.005 → 0.0025" in browser.text("card"), "it is still told while it runs"


def test_without_leave_to_retry_it_says_what_to_lower(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    people(machine.db)
    place = context_of(machine)
    browser = browser_of(place)

    def allocate(run: Any, spec: Any) -> None:
        raise MemoryError("can't allocate memory")

    monkeypatch.setattr("rlhf.jobs.run.run_algorithm", allocate)
    machine.perform(job_store.enqueue(machine.db, QUICK_SFT, OWNER))
    card = browser.open().text("card")
    for words in ("Failed. Memory ran out.", "Set “Batch size” below 4", "Set “Max length” below 128"):
        assert words in card


def test_a_check_shows_the_curves_of_the_run_that_made_its_candidate(browser: Browser, place: Context) -> None:
    made = make_policy(place)
    check = begin(place, CheckSpec(candidate=made.revision))
    browser.open()
    assert browser.seen["job"] == check
    assert f"Curves and samples of job {made.job_id}" in browser.text("heading")
    assert browser.text("plots").count("<figure") == 2
    figures = {
        "mean_length": 20.0,
        "distinct_1": 0.3,
        "distinct_2": 0.8,
        "kl_to_anchor": 0.0712,
        "nll_under_anchor": 1.2,
    }
    result = {
        "candidate": {"revision": made.revision, **figures},
        "anchor": {"revision": "base", **figures},
        "implicit_accuracy": {"value": 0.75, "low": 0.6, "high": 0.86, "n": 40},
        "prompts": 2,
    }
    assert job_table.finish(place.db, check, "w", result)
    browser.do("poll_runs")
    assert "75% (60–86%, n = 40)" in browser.text("report")
    browser.look_at(int(made.job_id or 0))
    assert "75% (60–86%, n = 40)" in browser.text("report"), "the run shows the check of what it made"
    assert browser.text("heading") == ""


# -------------------------------------------------------------------------------------------------------------- queue
def test_a_waiting_job_is_moved_and_taken_out(browser: Browser, place: Context) -> None:
    running = begin(place, steps=1)
    first, second, third = (job_store.enqueue(place.db, QUICK_SFT, OWNER) for _ in range(3))
    browser.open()
    assert browser.chosen["queued"] == str(first)
    assert re.findall(r"<tr><td>(\w+)</td><td>(\d+)</td>", browser.text("queue")) == [
        ("now", str(running)),
        *((str(place), str(job)) for place, job in enumerate((first, second, third), 1)),
    ]
    assert (browser.can("up"), browser.can("down"), browser.can("take_out")) == (False, True, True)
    browser.chosen["queued"] = str(third)
    browser.do("queue_up")
    assert f"Job {third} is number 2 in the queue." in browser.text("queue_said")
    browser.do("queue_up")
    assert [job.id for job in job_store.queue(place.db)] == [third, first, second]
    assert (browser.can("up"), browser.can("down")) == (False, True)
    browser.do("queue_down")
    assert [job.id for job in job_store.queue(place.db)] == [first, third, second]
    browser.do("queue_take_out")
    assert [job.id for job in job_store.queue(place.db)] == [first, second]
    assert job_store.get(place.db, third).status == "cancelled"
    assert "is out of the queue" in browser.text("queue_said")
    job_store.cancel(place.db, second)
    browser.do("poll_runs")
    assert browser.text("queue_said") == "", "what was said of an order that is no more"
    assert browser.chosen["queued"] == str(first), "another one is chosen"


def test_a_job_that_has_begun_meanwhile_can_not_be_moved(browser: Browser, place: Context) -> None:
    job_id = job_store.enqueue(place.db, QUICK_SFT, OWNER)
    browser.open()
    assert job_store.claim(place.db, job_id, "w") is not None
    for name in ("queue_up", "queue_down", "queue_take_out"):
        with pytest.raises(gr.Error, match="Choose a job that waits"):
            browser.do(name)
    assert job_store.get(place.db, job_id).status == "running"
    browser.do("poll_runs")
    assert browser.shown["queue_choice"]["visible"] is False


# ----------------------------------------------------------------------------------------------- what can be done after
def test_deleting_asks_names_the_size_and_deletes_the_files(browser: Browser, place: Context) -> None:
    made, other = make_policy(place), make_policy(place)
    directory = place.data_dir / str(made.path)
    browser.open().look_at(int(made.job_id or 0))
    with pytest.raises(gr.Error, match="Press “Delete with its files” first"):
        browser.do("delete_run")
    browser.do("ask_deletion")
    assert browser.shown["confirm"]["visible"] is True
    assert f"Delete {made.revision} with its files (1.5 kB)?" in browser.text("question")
    browser.do("poll_runs")
    assert browser.shown["confirm"]["visible"] is True, "the question stays"
    browser.do("keep_run")
    assert browser.shown["confirm"]["visible"] is False
    with pytest.raises(gr.Error, match="first"):
        browser.do("delete_run")
    browser.do("ask_deletion")
    browser.look_at(int(other.job_id or 0))
    assert browser.shown["confirm"]["visible"] is False
    with pytest.raises(gr.Error, match="first"):
        browser.do("delete_run")
    assert directory.is_dir()
    browser.look_at(int(made.job_id or 0)).do("ask_deletion")
    browser.do("delete_run")
    assert not directory.exists()
    assert (place.data_dir / str(other.path)).is_dir()
    assert f"The files of {made.revision} are deleted; 1.5 kB are free again." in browser.text("acted")
    assert "whose files were deleted" in browser.text("card")
    assert browser.text("download") == ""
    assert [name for name in ("promote", "check", "new_run", "merge", "delete") if browser.can(name)] == []
    assert browser.text("plots"), "its curves stay"
    with pytest.raises(gr.Error, match="left no files"):
        browser.do("ask_deletion")
    assert [(row.action, row.decided_by) for row in decision_store.decisions(place.db)] == [("delete", OWNER)]


def test_a_question_outlasts_a_poll_that_was_asked_for_before(
    browser: Browser, place: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be no question any more for the server, and stay on the page whatever is pressed."""
    made = make_policy(place)
    browser.look_at(made.job_id or 0)
    look_now = runs_tab.live

    def look(*asked: Any) -> Any:
        monkeypatch.setattr(runs_tab, "live", look_now)
        found = look_now(*asked)
        browser.do("ask_deletion")
        return found

    monkeypatch.setattr(runs_tab, "live", look)
    browser.do("poll_runs")
    assert browser.shown["confirm"]["visible"]
    browser.do("keep_run")
    assert not browser.shown["confirm"]["visible"]
    monkeypatch.setattr(runs_tab, "live", look)
    browser.do("poll_runs")
    browser.do("delete_run")
    assert registry.by_revision(place.db, made.revision).deleted
    assert not browser.shown["confirm"]["visible"]


def test_what_serves_or_is_needed_is_not_deleted_and_the_reason_is_told(browser: Browser, place: Context) -> None:
    serving = make_policy(place)
    decision_store.promote(place.db, serving.revision, OWNER)
    ground = make_policy(place, replace(QUICK_SFT, method="full"), form="full", precision="bf16")
    grown = make_policy(place, ground_id=ground.id)
    parent = make_policy(place)
    needing = job_store.enqueue(place.db, replace(QUICK_SFT, parent=parent.revision), OWNER)
    browser.open()
    for policy, reason in (
        (serving, "serves now: promote another policy first"),
        (ground, f"{grown.revision} lies on the weights of {ground.revision}"),
        (parent, f"Job {needing} needs {parent.revision}"),
    ):
        browser.look_at(int(policy.job_id or 0))
        with pytest.raises(gr.Error, match=re.escape(reason)):
            browser.do("ask_deletion")
        assert browser.shown["confirm"]["visible"] is False
        assert (place.data_dir / str(policy.path)).is_dir()


def test_the_checkpoints_of_a_run_that_ended_early_are_deleted_when_asked(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=2)
    directory = place.data_dir / "checkpoints" / f"job-{job_id}" / "checkpoint-2"
    directory.mkdir(parents=True)
    (directory / "optimizer.pt").write_bytes(b"o" * 2500)
    browser.open()
    assert browser.shown["actions"]["visible"] is False, "it needs them"
    job_table.stop(place.db, job_id, "w", "cancelled", "Cancelled.")
    browser.do("poll_runs")
    assert browser.shown["actions"]["visible"] is True
    assert "goes on from what it has saved" in browser.text("resume_why")
    assert [name for name in ("promote", "check", "new_run", "merge", "delete") if browser.can(name)] == ["delete"]
    assert browser.shown["delete"]["value"] == "Delete its checkpoints"
    browser.do("ask_deletion")
    assert f"Delete the checkpoints of job {job_id} (2.5 kB)?" in browser.text("question")
    job_store.resume(place.db, job_id)
    with pytest.raises(gr.Error, match="needs its checkpoints"):
        browser.do("delete_run")
    assert directory.is_dir()
    job_store.cancel(place.db, job_id)
    browser.do("ask_deletion")
    browser.do("delete_run")
    assert not directory.parent.exists()
    assert "2.5 kB are free again" in browser.text("acted")
    assert browser.shown["actions"]["visible"] is False
    assert browser.can("resume")
    assert "Nothing of it is saved: “Resume this run” begins it anew" in browser.text("resume_note")
    browser.do("run_resume")
    assert "begins anew: nothing of it was saved" in browser.text("said")
    browser.do("run_cancel")
    assert "is cancelled: it had not gone on." in browser.text("said")


def test_a_run_that_was_killed_when_its_model_was_stored_does_not_begin_anew(browser: Browser, place: Context) -> None:
    made = make_policy(place)
    place.db.connection.execute("UPDATE job SET status = 'lost' WHERE id = ?", (made.job_id,))
    browser.open().look_at(int(made.job_id or 0))
    assert browser.text("resume_note") == ""
    assert "goes on from what it has saved" in browser.text("resume_why")
    browser.do("run_resume")
    assert "begins anew" not in browser.text("said")


def test_one_that_came_to_serve_after_the_question_is_not_deleted(browser: Browser, place: Context) -> None:
    made = make_policy(place)
    browser.open().look_at(int(made.job_id or 0)).do("ask_deletion")
    decision_store.promote(place.db, made.revision, OWNER)
    with pytest.raises(gr.Error, match="serves now"):
        browser.do("delete_run")
    assert (place.data_dir / str(made.path)).is_dir()


def test_a_policy_is_put_to_use_checked_and_merged(machine: Machine) -> None:
    people(machine.db)
    place = context_of(machine)
    browser = browser_of(place)
    machine.add_prompts(train=2, held_out=2)
    job = finished_run(machine)
    made = registry.of_job(machine.db, job.id)
    assert made is not None
    browser.open()
    assert [name for name in ("check", "new_run", "merge", "delete") if not browser.can(name)] == []
    assert browser.shown["new_run"]["value"] == "Start a new run from this policy"
    assert browser.seen["revision"] == made.revision
    assert browser.shown["check"]["variant"] == "primary", "what is to be done next"
    browser.do("run_check")
    browser.look_at(job.id).do("run_merge")
    check, merge = job_store.queue(machine.db)
    assert isinstance(check.spec, CheckSpec)
    assert (check.spec.candidate, check.spec.against, check.requested_by) == (made.revision, "base", OWNER)
    assert isinstance(merge.spec, MergeSpec)
    assert (merge.spec.revision, merge.requested_by) == (made.revision, OWNER)
    assert f"Job {merge.id} is to merge {made.revision}" in browser.text("acted")
    assert [browser.can(name) for name in ("check", "merge")] == [False, False], "one of each is enough"
    assert "It waits for its check" in browser.text("report")
    assert not browser.shown["promote"]["visible"], "against the rule it takes a reason, on the Iterations tab"
    assert "The rule says: not enough evidence." in browser.text("objection")
    assert browser.shown["check"]["variant"] == "secondary", "it is under way"
    assert "See why" not in browser.text("objection"), "it says why"
    with pytest.raises(gr.Error, match=r"The rule says: not enough evidence.*Say why on the Iterations tab"):
        browser.do("run_promote")
    assert registry.serving(machine.db).revision == "base"
    rule_store.set_rule(machine.db, {"mode": "never"})
    browser.open()
    assert browser.can("promote")
    browser.do("run_promote")
    assert registry.serving(machine.db).revision == made.revision
    assert "serves now." in browser.text("acted")
    assert f'href="/iterations/{made.revision}">Undo it' in browser.text("acted")
    assert browser.text("objection") == ""
    assert browser.shown["promote"]["value"] == "Serves now"
    assert not browser.can("promote")
    with pytest.raises(gr.Error, match="serves already"):
        browser.do("run_promote")
    whole = make_policy(place, replace(QUICK_SFT, method="full"), form="full", precision="bf16")
    browser.look_at(int(whole.job_id or 0))
    assert browser.shown["new_run"]["value"] == "Start a new run from this policy"
    assert browser.shown["merge"]["visible"] is False


def test_a_damaged_adapter_is_not_put_to_use(browser: Browser, place: Context) -> None:
    make_policy(place, sha256="of something else")
    browser.open()
    with pytest.raises(gr.Error, match="adapter"):
        browser.do("run_promote")
    assert registry.serving(place.db).revision == "base"


def test_the_functions_behind_the_buttons_name_what_is_missing(place: Context) -> None:
    for seen in (None, {}, {"job": "1"}, {"job": None, "revision": None}):
        with pytest.raises(UserError, match="No job is shown"):
            runs_tab.cancel_shown(place.db, seen)
        with pytest.raises(UserError, match="made nothing"):
            runs_tab.shown_revision(seen)


def test_there_is_a_hue_for_every_run_that_can_be_compared(place: Context) -> None:
    made = [job_store.enqueue(place.db, QUICK_SFT, OWNER) for _ in range(compare_runs_form.MOST + 3)]
    chosen = compare_runs_form.chosen_jobs(place.db, [str(number) for number in made])
    assert [job.id for job in chosen] == made[: len(line_plots.HUES)]
    check = job_store.enqueue(place.db, CheckSpec(candidate="x"), OWNER)
    assert [job.id for job in compare_runs_form.chosen_jobs(place.db, [str(check), str(made[1])])] == [made[1]]


# ---------------------------------------------------------------------------------------------------- the closer look
def handler_named(browser: Browser, name: str) -> Any:
    """A registered handler of the page."""
    return next(handler_of(block) for block in browser.demo.fns.values() if handler_of(block).__name__ == name)


def test_the_curve_that_is_looked_at_closely_grows_and_what_is_in_view_of_it_stays(
    browser: Browser, place: Context
) -> None:
    job_id = begin(place, steps=3)
    browser.open()
    assert browser.shown["closer_choice"]["value"] == "loss"
    assert f"metrics/{job_id}.csv" in browser.text("closer_values")
    request = gr.Request(username=OWNER)
    *_, browser.seen = handler_named(browser, "choose_plot")(request, "norm", browser.seen)
    assert job_table.report(place.db, job_id, "w", 4, 20, {"loss": 0.1, "grad_norm": 0.7}, "training")
    sent = browser.do("poll_runs")
    assert set(sent["closer_plot"]) == {"value", "__type__"}, "the frame would begin the plot anew"
    assert sent["closer_plot"]["value"]["data"][-1] == [4.0, 0.7, "norm"]
    begin(place, steps=2)
    assert browser.do("poll_runs").get("closer_plot") is None, "the run that is shown is the same"


def test_only_an_admin_draws_out_a_part(browser: Browser) -> None:
    show_part, drawn = handler_named(browser, "show_part"), gr.EventData(None, {"index": [1, 3]})
    assert show_part(gr.Request(username=OWNER), drawn)["x_lim"] == [1, 3]
    with pytest.raises(gr.Error, match="Only an admin"):
        show_part(gr.Request(username="bob"), drawn)


# ------------------------------------------------------------------------------------------------- two tabs, two people
def test_what_a_press_said_goes_when_it_was_undone_elsewhere(
    browser: Browser, place: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "verify", lambda *_: None)
    made = make_policy(place)
    browser.look_at(made.job_id or 0)
    rule_store.set_rule(place.db, {"mode": "never"})
    browser.do("run_promote")
    assert "serves now" in browser.text("acted")
    browser.do("poll_runs")
    assert "serves now" in browser.text("acted")
    peoples_decisions.promote(place.db, place.data_dir, "base", "another", "Back.")
    browser.do("poll_runs")
    assert browser.text("acted") == ""


def test_when_a_merge_has_ended_its_adapter_leads_to_what_it_became(browser: Browser, place: Context) -> None:
    made = make_policy(place)
    browser.look_at(made.job_id or 0).do("run_merge")
    merge = job_store.queue(place.db)[0].id
    browser.do("poll_runs")
    assert f"Job {merge} is to merge {made.revision}" in browser.text("acted")
    assert "Merged" not in browser.text("objection")
    assert job_store.claim(place.db, merge, "w") is not None
    registry.add(
        place.db,
        revision="whole",
        algorithm=MergeSpec.kind,
        base=place.model,
        parent_id=made.id,
        job_id=merge,
        path="adapters/whole",
        sha256="0",
        form="full",
    )
    job_table.finish(place.db, merge, "w", {"revision": "whole"})
    browser.do("poll_runs")
    assert browser.text("acted") == "", "it is to do nothing any more"
    assert f'href="/runs/{merge}">Merged weights: whole</a>' in browser.text("objection")
    decision_store.mark_deleted(place.db, registry.by_revision(place.db, "whole"), OWNER)
    browser.do("poll_runs")
    assert "Merged" not in browser.text("objection")


def test_a_run_that_had_not_begun_is_cancelled_and_not_asked_to_stop(browser: Browser, place: Context) -> None:
    queued, running = job_store.enqueue(place.db, QUICK_SFT, OWNER), begin(place, steps=2)
    browser.look_at(queued).do("run_cancel")
    assert f"Job {queued} is cancelled: it had not begun." in browser.text("said")
    browser.look_at(running).do("run_cancel")
    assert "was asked to stop." in browser.text("said")
    assert "checkpoint" not in browser.text("card"), "there is none yet"


def test_notes_that_two_people_write_are_not_lost(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=2)
    other = browser_of(place).open().look_at(job_id)
    browser.look_at(job_id)

    def save(person: Browser, notes: str) -> None:
        person.chosen["notes"] = notes
        person.do("save_label")

    save(browser, "Mine.")
    save(browser, "Mine, more.")
    other.chosen["name"] = "Theirs"
    save(other, "Their note.")
    assert "Not saved: somebody has changed this meanwhile (Notes)." in other.text("labelled")
    assert "Mine, more." in other.text("labelled")
    assert run_labels.label_of(place.db, job_id) == RunLabel("", (), "Mine, more.")
    save(other, "Both.")
    assert run_labels.label_of(place.db, job_id) == RunLabel("Theirs", (), "Both.")


def test_what_others_write_of_a_run_is_shown_where_nothing_is_typed(browser: Browser, place: Context) -> None:
    job_id = begin(place, steps=2)
    browser.open()
    browser.chosen["tags"] = "mine"
    run_labels.set_label(place.db, job_id, RunLabel("Theirs", ("theirs",), "A note."), "lee")
    browser.do("poll_runs")
    assert [browser.chosen[name] for name in TYPED] == ["Theirs", "mine", "A note."]
    assert "Theirs" in browser.text("card")
    browser.do("save_label")
    assert "(Tags, with commas between)" in browser.text("labelled")
    browser.chosen["tags"] = "theirs, mine"
    browser.do("save_label")
    assert run_labels.label_of(place.db, job_id) == RunLabel("Theirs", ("theirs", "mine"), "A note.")
    for words in ("Theirs", "theirs, mine", "A note."):
        assert words in browser.text("card")


def test_what_is_typed_of_a_run_stays_with_it_when_another_one_begins(browser: Browser, place: Context) -> None:
    first = begin(place, steps=2)
    browser.open()
    browser.chosen["notes"] = "It learns"
    assert job_table.finish(place.db, first, "w", {})
    second = begin(place, steps=1)
    changed = browser.do("poll_runs")
    assert [name for name in TYPED if name in changed] == []
    assert browser.chosen["selector"] == str(first)
    assert f"Job {first}, " in browser.text("card")
    browser.chosen["notes"] = "It learns fast."
    browser.do("save_label")
    notes = [run_labels.label_of(place.db, number).notes for number in (first, second)]
    assert notes == ["It learns fast.", ""]
    assert f"Job {first}, " in browser.text("card")
    assert f"Saved for job {first}." in browser.text("labelled")
    browser.look_at(second)
    assert browser.text("labelled") == "", "it was said of another"


def test_a_run_is_chosen_whatever_is_typed_of_another_and_the_address_says_what_is_shown(
    browser: Browser, place: Context
) -> None:
    first = begin(place, steps=2)
    browser.open()
    assert browser.address == ""
    browser.chosen["notes"] = "It learns"
    assert job_table.finish(place.db, first, "w", {})
    second = begin(place, steps=1)
    browser.chosen["order"] = "name"
    browser.do("list_runs")
    assert f"Job {first}, " in browser.text("card"), "the order of the list is no choice of a run"
    assert browser.address == f"/{first}?sort=name"
    browser.chosen |= {"selector": "latest", "order": "newest"}
    browser.do("choose_run")
    assert f"Job {second}, " in browser.text("card")
    assert (browser.chosen["selector"], browser.address, browser.chosen["notes"]) == ("latest", "", "")


def test_a_page_that_has_not_been_answered_yet_stays_at_the_run_that_its_address_names(
    browser: Browser, place: Context
) -> None:
    first = begin(place, steps=1)
    assert job_table.finish(place.db, first, "w", {})
    second = begin(place, steps=1)
    browser.address = f"/{first}"
    browser.do("poll_runs")
    assert f"Job {second}, " in browser.text("card")
    assert browser.address == f"/{first}", "the answer to the visit is on its way"


def test_where_nothing_is_typed_the_page_follows_what_runs(browser: Browser, place: Context) -> None:
    first = begin(place, steps=2)
    run_labels.set_label(place.db, first, RunLabel("Mine", ("one", "two"), "Notes."), "kim")
    browser.open()
    assert browser.chosen["tags"] == "one, two"
    assert job_table.finish(place.db, first, "w", {})
    second = begin(place, steps=1)
    browser.do("poll_runs")
    assert f"Job {second}, " in browser.text("card")
    assert [browser.chosen[name] for name in TYPED] == ["", "", ""]
