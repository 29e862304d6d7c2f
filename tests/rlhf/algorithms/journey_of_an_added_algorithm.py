"""What people do with an algorithm that was added: one run from its form to its end, and what came of it, to the end.

Run in a copy of the tree by `test_adding_an_algorithm`; there is no such algorithm here.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from annotation import hub_client
from annotation.records import UserError
from rlhf.algorithms import ALGORITHMS
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.finished_checks import newest_check
from rlhf.evaluation.gate import Rule
from rlhf.hub import job_bundle, push_model
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.submission import job_submission
from rlhf.tabs import download_endpoint, downloads
from rlhf.tabs.iterations import check_report
from rlhf.tabs.runs import compare_runs_form
from tests.fakes.hub_server import HubServer
from tests.machine_fixtures import Machine
from tests.rlhf.tabs.train.test_training_form import Session, filled, opened

KIND = "unpaired"
QUICK = {"method": "lora", "lora_r": 4, "epochs": 2, "batch_size": 4, "checkpoint_steps": 1, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Machine]:
    """A data directory with judged comparisons, through which the tests below go in their order."""
    machine = filled(tmp_path_factory.mktemp("added") / "data", tiny_model)
    yield machine
    machine.db.close()


@pytest.fixture(scope="module")
def form(place: Machine) -> Session:
    """Its form, filled in for a run of seconds."""
    session = opened(place, KIND)
    session.change(QUICK)
    return session


def first_run(place: Machine) -> job_store.Job:
    """The oldest run of its kind."""
    return job_store.recent(place.db, (KIND,))[-1]


def test_it_is_the_last_in_the_menus_and_its_form_makes_its_spec(form: Session) -> None:
    assert [*ALGORITHMS][-1] == KIND
    assert form.can_start, form.text("problems")
    spec = form.spec()
    assert spec.kind == KIND
    assert (spec.lora_r, spec.learning_rate) == (4, 5e-3)
    assert "lowering" in form.page.form.groups.get("Loss", []) or "lowering" in form.page.form.layout.main


def test_its_rows_are_shown_and_counted_before_it_starts(form: Session) -> None:
    assert "Pairs to train on" in form.text("data")
    row = form.call(f"show_{KIND}", "train", 1, *form.values.values())[1]
    for words in ("Preferred · ", "Other · ", "trained on: made likelier", "trained on: made less likely"):
        assert words in row
    assert "Tokens of the longest" in form.call(f"through_{KIND}", *form.values.values())


def test_its_memory_is_estimated(form: Session) -> None:
    assert "Trainable parameters" in form.text("cost")
    assert "Optimiser state" in form.text("cost")


def test_it_survives_a_kill_and_is_registered(place: Machine, form: Session) -> None:
    job = form.start()
    assert place.kill_worker(job.id, step=2).status == "lost"
    assert list((place.data_dir / "checkpoints" / f"job-{job.id}").glob("checkpoint-*"))
    job_store.resume(place.db, job.id)
    assert job_store.at_work(place.db) == []
    assert [one.id for one in job_store.queue(place.db)] == [job.id], "it waits as every training does"
    done = place.perform(job.id)
    assert done.status == "finished", done.message
    assert any("resuming from checkpoint-" in line for line in job_store.log_tail(place.db, job.id, 50))
    steps = [entry["step"] for entry in job_store.metrics(place.db, job.id)]
    assert steps == [*range(1, done.steps + 1)]
    made = registry.of_job(place.db, job.id)
    assert made is not None
    assert (made.algorithm, made.kind, made.status) == (KIND, "policy", "candidate")


def test_what_it_optimises_moved(place: Machine) -> None:
    metrics = job_store.metrics(place.db, first_run(place).id)
    apart = [entry["logps/preferred"] - entry["logps/other"] for entry in metrics]
    assert apart[-1] > apart[0]
    assert metrics[-1]["loss"] < metrics[0]["loss"]


def test_its_card_says_what_it_is(place: Machine) -> None:
    made = registry.of_job(place.db, first_run(place).id)
    assert made is not None
    card = (place.data_dir / str(made.path) / "README.md").read_text("utf-8")
    for words in ("raising preferred answers and lowering the others", "at the last step of training", f"- {KIND}"):
        assert words in card


def test_it_is_compared_with_another_run(place: Machine) -> None:
    job = first_run(place)
    other = place.perform(place.submit(replace(job.spec, learning_rate=1e-3, snapshot="")))
    assert other.status == "finished", other.message
    shown, _ = compare_runs_form.parts_of(place.db, [job, other])
    assert "0.005" in shown["settings"]["value"]
    assert "Likelihood of answers: preferred" in shown["overlaid"]["value"]


def test_it_is_checked(place: Machine) -> None:
    made = registry.of_job(place.db, first_run(place).id)
    assert made is not None
    done = place.perform(place.submit(CheckSpec(candidate=made.revision, prompts=2)))
    assert done.status == "finished", done.message
    check = newest_check(place.db, made.revision)
    assert check is not None
    assert made.revision in check_report.report_card(check.report, Rule())
    runs = {job.id: job for job in job_store.recent(place.db, (KIND,))}
    history = check_report.history_table(registry.all_policies(place.db), runs)
    assert "unpaired, LoRA" in history
    assert "12 pairs" in history


def test_it_is_exported(place: Machine) -> None:
    job = first_run(place)
    made = registry.of_job(place.db, job.id)
    assert made is not None
    directory = downloads.directory_of(place.db, place.data_dir, made.revision)
    packed = b"".join(download_endpoint.zip_chunks(made.revision, downloads.files_of(directory)))
    assert f"{made.revision}/adapter_model.safetensors" in zipfile.ZipFile(BytesIO(packed)).namelist()
    manifest = json.loads(job_bundle.pack(place.db, place.data_dir, job)[job_bundle.MANIFEST])
    assert manifest["spec"]["kind"] == KIND
    with HubServer() as hub:
        client = hub_client.connect("hf_write_ann", hub.url)
        pushed = push_model.publish(client, place.db, place.data_dir, made.revision, "ann/unpaired", licence="mit")
    assert pushed.tag == made.revision


def test_it_is_deleted(place: Machine) -> None:
    made = registry.of_job(place.db, first_run(place).id)
    assert made is not None
    waiting = place.submit(replace(first_run(place).spec, parent=made.revision, snapshot="", scope="all"))
    with pytest.raises(UserError, match=f"Job {waiting} needs {made.revision}"):
        job_submission.delete_policy(place.db, place.data_dir, made.revision, "kim")
    job_store.cancel(place.db, waiting)
    assert job_submission.delete_policy(place.db, place.data_dir, made.revision, "kim") > 0
    assert not (place.data_dir / str(made.path)).exists()
