"""The resident worker and the supervisor as real processes: stock in 5:1, swaps in seconds, ends when it should."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from annotation import store
from annotation.records import Sampling, Split
from rlhf import jobs, policies
from rlhf.algorithms.generate import next_splits, seed_of
from rlhf.artifacts import directory_sha256
from rlhf.models import load_quantised
from rlhf.specs import EvaluateSpec, GenerateSpec
from rlhf.supervisor import Supervisor
from tests.machine_fixtures import QUICK_DPO, ROOT, WORKER_SECONDS, Machine, wait_until

RESIDENT = GenerateSpec(buffer=12, prompts_per_batch=4, sampling=Sampling(max_new_tokens=12))


@pytest.fixture
def stocked(machine: Machine) -> Machine:
    """A machine with prompts of both splits."""
    machine.add_prompts(train=12, held_out=4)
    return machine


def add_adapter(machine: Machine, revision: str) -> policies.Policy:
    """A candidate whose adapter does something."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_quantised(machine.model), config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    model.save_pretrained(machine.data_dir / "adapters" / revision)
    path = f"adapters/{revision}"
    with machine.db.transaction() as connection:
        connection.execute(
            """INSERT INTO model (revision, method, base, parent_id, path, sha256, status, created)
               VALUES (?, 'dpo', ?, 1, ?, ?, 'candidate', '')""",
            (revision, str(machine.model), path, directory_sha256(machine.data_dir / path)),
        )
    return policies.by_revision(machine.db, revision)


def stock(machine: Machine, revision: str = "base") -> dict[Split, int]:
    """Comparisons by a policy that wait for a judgement."""
    return store.buffer_sizes(machine.db, policies.by_revision(machine.db, revision).id)


def responses(machine: Machine, revision: str) -> list[dict[str, Any]]:
    """Every answer that a policy drew for comparisons."""
    return machine.db.rows(
        """SELECT r.*, p.split FROM response r JOIN prompt p ON p.id = r.prompt_id JOIN model m ON m.id = r.model_id
           WHERE r.purpose = 'compare' AND m.revision = ?""",
        (revision,),
    )


# ---------------------------------------------------------------------------------------------------- one process
@pytest.mark.parametrize(
    ("made", "count", "expected"),
    [
        ({"train": 0, "held-out": 0}, 12, {"train": 10, "held-out": 2}),
        ({"train": 5, "held-out": 0}, 1, {"train": 0, "held-out": 1}),
        ({"train": 10, "held-out": 9}, 3, {"train": 3, "held-out": 0}),
        ({"train": 3}, 4, {"train": 4}),
        ({"held-out": 3}, 4, {"held-out": 4}),
        ({}, 4, {}),
    ],
)
def test_one_comparison_in_six_is_held_out(made: dict[Split, int], count: int, expected: dict[Split, int]) -> None:
    """However the batches fall; a split without prompts gets none."""
    assert next_splits(made, count) == expected


def test_seeds_of_a_stream_never_meet(stocked: Machine) -> None:
    seeds = {seed_of(start, prompt, attempt) for start in (0, 1) for prompt in range(1, 60) for attempt in range(30)}
    assert len(seeds) == 2 * 59 * 30


def test_a_buffer_is_filled_once_and_topped_up_with_new_answers(stocked: Machine) -> None:
    """Comparisons of answers that differ, five to one by split, and no answer drawn twice."""
    once = replace(RESIDENT, until_full=True)
    job = stocked.perform(stocked.submit(once))
    assert job.result is not None
    assert (job.status, stock(stocked)) == ("finished", {"train": 10, "held-out": 2})
    assert job.result["comparisons"] == 12
    drawn = responses(stocked, "base")
    counts = store.answer_counts(stocked.db)
    assert counts.total == len(drawn) >= 36
    assert counts.ended == sum(row["finish_reason"] == "stop" for row in drawn) > 0
    assert len({(row["prompt_id"], row["seed"]) for row in drawn}) == len(drawn)
    for row in drawn:
        messages = stocked.db.value("SELECT messages FROM prompt WHERE id = ?", (row["prompt_id"],))
        assert row["rendered_prompt"] == stocked.render(json.loads(messages))
        assert row["prompt_tokens"] == stocked.count(row["rendered_prompt"])
        assert json.loads(row["sampling"]) == {"temperature": 1.0, "min_p": 0.1, "max_new_tokens": 12}

    judged = 3
    for _ in range(judged):
        claim = store.claim_next(stocked.db, stocked.annotator.id)
        assert claim is not None
        assert len({text.strip().casefold() for text in claim.texts}) == 2
        store.judge(stocked.db, stocked.annotator.id, claim.nonce, "tie")
    job = stocked.perform(stocked.submit(once))
    assert job.result is not None
    assert job.result["comparisons"] == judged
    drawn = responses(stocked, "base")
    assert len({(row["prompt_id"], row["seed"]) for row in drawn}) == len(drawn)


def test_a_damaged_serving_adapter_fails_the_worker_with_a_sentence(stocked: Machine) -> None:
    policy = add_adapter(stocked, "torn")
    policies.promote(stocked.db, "torn", "ann")
    (stocked.data_dir / (policy.path or "") / "adapter_config.json").write_text("{}")
    job = stocked.perform(stocked.submit(RESIDENT))
    assert job.status == "failed"
    assert "sha256 differs" in job.message


# ------------------------------------------------------------------------------------------------- a process of its own
def test_the_resident_worker_fills_swaps_and_ends_when_told(stocked: Machine) -> None:
    """From start to SIGTERM: the base's answers, a promotion, a rollback, each within seconds and without a restart."""
    job_id = stocked.submit(RESIDENT)
    with stocked.start_worker(job_id) as worker:
        try:
            wait_until("a full buffer", lambda: stock(stocked) == {"train": 10, "held-out": 2})
            assert {row["split"] for row in responses(stocked, "base")} == {"train", "held-out"}

            add_adapter(stocked, "next")
            assert responses(stocked, "next") == []
            policies.promote(stocked.db, "next", "ann")
            wait_until("an answer by the promoted policy", lambda: responses(stocked, "next"), seconds=10)
            wait_until("a buffer by it", lambda: stock(stocked, "next") == {"train": 10, "held-out": 2}, seconds=20)
            by_base = len(responses(stocked, "base"))

            policies.promote(stocked.db, "base", "ann")
            wait_until("the rollback", lambda: stocked.output(job_id).count("answering as base") == 2, seconds=10)
            assert [line[10:] for line in jobs.log_tail(stocked.db, job_id)] == [
                "answering as base",
                "answering as next",
                "answering as base",
            ]
            # The base's comparisons were still waiting, so nothing had to be drawn again.
            assert len(responses(stocked, "base")) == by_base
            assert jobs.get(stocked.db, job_id).status == "running"
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(15)
    job = jobs.get(stocked.db, job_id)
    assert (worker.returncode, job.status) == (0, "lost")
    assert "Prefloop was stopped" in job.message


def test_a_resident_worker_ends_when_the_program_that_started_it_is_gone(stocked: Machine) -> None:
    """Killed with SIGKILL, the program can tell nobody; the worker sees that it has another parent."""
    job_id = stocked.submit(RESIDENT)
    log = stocked.data_dir / "orphan.log"
    parent_code = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-m', 'rlhf.worker', '--data', sys.argv[1], '--job', sys.argv[2]],"
        " start_new_session=True); child.wait()"
    )
    with log.open("wb") as output:
        parent = subprocess.Popen(
            [sys.executable, "-c", parent_code, str(stocked.data_dir), str(job_id)],
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until("the first comparisons", lambda: sum(stock(stocked).values()) > 0)
        parent.kill()
        parent.wait(WORKER_SECONDS)
        wait_until("the orphan's end", lambda: jobs.get(stocked.db, job_id).status == "lost", seconds=20)
        assert "Prefloop was stopped" in jobs.get(stocked.db, job_id).message
    finally:
        if jobs.active(stocked.db, ("generate",)):
            jobs.cancel(stocked.db, job_id)  # a worker that did not notice must not outlive the test
        parent.kill()
        parent.wait(WORKER_SECONDS)


# --------------------------------------------------------------------------------------------------------- supervisor
def test_the_supervisor_runs_what_is_queued_checks_it_and_survives_killed_workers(stocked: Machine) -> None:
    """Resident, training and check as rows and processes; both kinds of worker are killed on the way."""
    stocked.judge("train", 12)
    stocked.judge("held-out", 4)
    db = stocked.db
    supervisor = Supervisor(db, stocked.data_dir, str(stocked.model))
    supervisor.start()

    def running(kind: str) -> int | None:
        return next((job.id for job in jobs.active(db, (kind,)) if job.status == "running"), None)

    try:
        resident = wait_until("the resident worker", lambda: running("generate"))
        training = stocked.submit(QUICK_DPO)
        wait_until("the training worker", lambda: running("dpo") == training)

        killed = time.monotonic()
        for job_id in (training, resident):
            supervisor.children[job_id].process.kill()
        for job_id in (training, resident):
            wait_until(f"job {job_id} marked lost", lambda job_id=job_id: jobs.get(db, job_id).status == "lost", 10)
            assert "The worker was killed" in jobs.get(db, job_id).message
        assert time.monotonic() - killed < 10, "the program that started a worker knows at once"

        jobs.resume(db, training)
        wait_until("the resumed training", lambda: jobs.get(db, training).status == "finished")
        check = wait_until("the check", lambda: jobs.recent(db, ("evaluate",), 1))[0]
        assert isinstance(check.spec, EvaluateSpec)
        assert (check.spec.candidate, check.requested_by) == (f"dpo-{training}", "the loop")
        again = wait_until("another resident worker", lambda: running("generate"))
        assert again != resident
        wait_until("the check's end", lambda: jobs.get(db, check.id).status == "finished")
        assert (stocked.data_dir / "logs" / f"job-{training}.log").stat().st_size > 0
        children = dict(supervisor.children)
    finally:
        supervisor.stop()
    assert children
    assert all(child.process.returncode is not None for child in supervisor.children.values())
    assert jobs.active(db, ("generate", "dpo", "evaluate")) == []


def test_a_resident_worker_that_fails_again_and_again_is_started_ever_more_rarely(
    machine: Machine, tmp_path: Path
) -> None:
    """The waiting times after failures, by the supervisor's own clock."""
    supervisor = Supervisor(machine.db, machine.data_dir, str(machine.model))
    waits = []
    for _ in range(8):
        supervisor.resident_ended(1)
        waits.append(supervisor._resident_not_before)
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
    supervisor.resident_ended(0)
    assert supervisor._resident_not_before == 0.0
    supervisor.resident_ended(1)
    assert supervisor._resident_not_before == 5.0
