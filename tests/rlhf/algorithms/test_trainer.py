"""Where what was trained is stored, and under which name; whose checkpoints are where."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from annotation.database import Database
from annotation.jobs import job_table
from annotation.jobs.attempt import Stopped
from annotation.records import Prompt, UserError
from rlhf.algorithms import trainer
from rlhf.algorithms.model_card import TrainedModel
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.algorithms.trainer import TrainingProgress, begin, record_samples, start_of, store_made
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import checkpoints_directory
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.self_test_results import SelfTestResult, keep_result
from rlhf.workers import worker
from tests.architectures import built
from tests.conftest import BASE_NAME
from tests.tiny_model import build_tokenizer


def test_what_is_trained_takes_neither_name_nor_files_of_a_model_that_was_restored_from_elsewhere(
    db: Database, data_dir: Path
) -> None:
    """An archive brings models without their jobs, so the jobs' numbers begin anew."""
    job = job_store.enqueue(db, SFTSpec(), "kim")
    restored = f"sft-{job}"
    (data_dir / "adapters" / restored).mkdir(parents=True)
    (data_dir / "adapters" / restored / "weights").write_bytes(b"restored")
    registry.add(
        db, revision=restored, algorithm="sft", base=BASE_NAME, parent_id=1, job_id=None,
        path=f"adapters/{restored}", sha256="0",
    )  # fmt: skip

    def save(directory: Path) -> dict[str, Any]:
        (directory / "weights").write_bytes(b"new")
        return {}

    assert job_store.claim(db, job, "w")
    run = Run(db, data_dir, job_store.get(db, job), "w")
    made, _ = store_made(run, TrainedModel(BASE_NAME, 1, "full", "nf4"), save)
    kept = {path.parent.name: path.read_bytes() for path in (data_dir / "adapters").glob("*/weights")}
    assert kept == {restored: b"restored", made.revision: b"new"}
    assert registry.free_name(db, "sft", job) == made.revision, "whoever resumes it finds it"


def test_who_was_asleep_while_a_model_was_written_stores_nothing_once_the_job_is_anothers(
    db: Database, data_dir: Path
) -> None:
    """The other one would find its name taken, and its files would be changed."""
    run = claimed(db, data_dir)

    def save(directory: Path) -> dict[str, Any]:
        (directory / "weights").write_bytes(b"late")
        db.write("UPDATE job SET worker = 'another'")
        return {}

    with pytest.raises(Stopped):
        store_made(run, TrainedModel(BASE_NAME, 1, "full", "nf4"), save)
    assert registry.of_job(db, run.job_id) is None
    assert not [*(data_dir / "adapters").iterdir()]


def claimed(db: Database, data_dir: Path) -> Run:
    """A run of a new job."""
    job = job_store.claim(db, job_store.enqueue(db, SFTSpec(samples=0), "kim"), "w")
    assert job is not None
    return Run(db, data_dir, job, "w")


def test_a_job_goes_on_from_none_but_its_own_checkpoints(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its number may be left of another database, however early its first attempt ends."""
    number = job_store.enqueue(db, SFTSpec(samples=0), "kim")
    left = checkpoints_directory(data_dir, number) / "checkpoint-4"
    left.mkdir(parents=True)
    for name in ("checkpoint.json", "weights.safetensors", "state.pt"):
        (left / name).write_text('{"format": 1}', "utf-8")
    runs: list[Run] = []
    monkeypatch.setattr(worker, "attend", lambda run, spec: runs.append(run) or 0)
    for attempt in (1, 2, 3):
        assert worker.work(db, data_dir, number, "w", threading.Event()) == 0
        kept = [path.name for path in checkpoints_directory(data_dir, number).glob("*")]
        assert kept == (["checkpoint-5"] if attempt == 3 else [])
        if attempt == 2:
            begin(runs[-1], SFTSpec())
            assert checkpoints_directory(data_dir, number).is_dir(), "from its beginning"
            progress_of(runs[-1]).save(5, 9)
        job_table.stop(db, number, "w", "lost", "")
        job_store.resume(db, number)


def test_prompt_tuning_is_refused_where_only_the_job_finds_that_the_base_can_not_take_it(
    db: Database, data_dir: Path, tiny_model: Path
) -> None:
    """A form asks for what a test has said before, and there may have been none."""
    keep_result(data_dir, tiny_model, SelfTestResult(packs=True, shares_prompts=True, virtual_tokens=False))
    run, spec = claimed(db, data_dir), SFTSpec(model=str(tiny_model), parent="base", method="prompt")
    with pytest.raises(UserError, match="does not take virtual tokens"):
        start_of(run, spec)
    assert start_of(run, replace(spec, method="lora")).tried is not None


@pytest.mark.parametrize(("happens", "kept"), [("cancelled", True), ("taken over", False)])
def test_who_was_cancelled_keeps_a_checkpoint_and_who_was_thought_dead_writes_none_beside_a_successor(
    db: Database, data_dir: Path, happens: str, kept: bool
) -> None:
    run = claimed(db, data_dir)
    progress = progress_of(run)
    if happens == "cancelled":
        job_store.cancel(db, run.job_id)
    else:
        job_table.release(db, run.job_id, "w")
        assert job_table.take_over(db, run.job_id, "another")
    assert progress.report(5, 9, {})
    assert (checkpoints_directory(data_dir, run.job_id) / "checkpoint-5").is_dir() is kept


def test_a_run_says_that_it_trains_only_while_it_does(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = claimed(db, data_dir)
    said: list[str] = []

    def look(*_of: Any) -> None:
        said.append(job_store.get(db, run.job_id).message)

    monkeypatch.setattr(trainer, "record_samples", look)
    monkeypatch.setattr(TrainingProgress, "save", look)
    progress = progress_of(run, samples=2)
    progress.begin(0, 2)
    look()
    progress.report(1, 2, {})  # a checkpoint is due
    progress.report(2, 2, {})
    samples = "It writes sample answers."
    assert said == [samples, "It trains.", "It trains.", samples, "It stores what it has learnt."]


def progress_of(run: Run, samples: int = 0) -> TrainingProgress:
    """The way of a run that trains one number."""
    layer = torch.nn.Linear(1, 1)
    learner = SimpleNamespace(
        model=layer,
        weights=lambda: dict(layer.named_parameters()),
        optimiser=torch.optim.SGD(layer.parameters()),
        further=dict,
        accelerator=SimpleNamespace(num_processes=1),
        policy=lambda: layer,
        tokenizer=None,
    )
    return TrainingProgress(run, SFTSpec(samples=samples), learner, [])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_sample_prompt_that_a_base_has_no_places_for_ends_no_training(family: str) -> None:
    tokenizer = build_tokenizer()
    model = built(family, vocab_size=len(tokenizer), max_position_embeddings=100)
    said: list[str] = []
    answered: list[Any] = []
    run = SimpleNamespace(log=said.append, sample=lambda step, answers: answered.extend(answers), stopped=False)
    prompts = [Prompt(({"role": "user", "content": text},), "train", "a test") for text in ("Sing.", "Sing. " * 40)]
    record_samples(run, model, tokenizer, prompts, 1, SimpleNamespace(autocast=nullcontext))  # type: ignore[arg-type]
    assert [answer.prompt for answer in answered] == ["Sing."]
    assert ["leaves no room for" in sentence for sentence in said] == [True]
