"""Fixtures of the machine side: a tiny real model, and a data directory in which jobs can run on it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from annotation import access, claims, store
from annotation.database import Database, open_database
from annotation.incoming.importing import starter_prompts
from annotation.records import Annotator, Message, Prompt, Response, Sampling, Split
from annotation.snapshots import Freezing
from rlhf import freezing, jobs, loop, policies
from rlhf.specs import DPOSpec, Spec
from tests.conftest import act, measure_nobody

# As in rlhf.worker.prepare_process; it must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).parent.parent
# A worker needs about ten seconds for its imports on two busy cores; a hanging one must not hang the suite.
WORKER_SECONDS = 120.0
WORDS = ("sun", "rain", "stone", "river", "light", "bread", "quiet", "green", "morning", "window", "paper", "music")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny model."""
    from tests.tiny_model import build

    return build(tmp_path_factory.mktemp("tiny-model"))


@dataclass
class Machine:
    """A data directory with a database whose base policy is the tiny model, and the ways to put work into it."""

    data_dir: Path
    db: Database
    model: Path
    tokenizer: Any
    annotator: Annotator

    def add_prompts(self, train: int, held_out: int) -> None:
        """Take prompts of both splits from the starter set."""
        wanted: dict[Split, int] = {"train": train, "held-out": held_out}
        starter = starter_prompts()
        for split, count in wanted.items():
            store.add_prompts(self.db, [prompt for prompt in starter if prompt.split == split][:count])

    def judge(
        self, split: Split, count: int, word: str = "shorter", answers: Sequence[str] = (), by: str = "ann"
    ) -> None:
        """Compare and judge `count` prompts of a split, through the claims that people go through.

        `word` is a verdict of the page, 'shorter' to prefer the shorter answer, or 'longer'. Without `answers`, a short
        and a long one are made up. `by` names the annotator.
        """
        annotator = self.annotator_named(by)
        prompts = store.prompts(self.db, split)
        for number in range(count):
            prompt = prompts[number % len(prompts)]
            source = random.Random(f"{split} {number} {store.judgement_count(self.db)}")
            texts = answers or (
                " ".join(source.choices(WORDS, k=3)),
                " ".join(source.choices(WORDS, k=source.randint(8, 12))),
            )
            made = store.add_comparison(self.db, [self.response(prompt, text) for text in texts])
            assert made is not None
            claim = claims.claim_next(self.db, annotator.id)
            assert claim is not None
            left, right = claim.shown_texts
            shorter, longer = ("left-clearly", "right-clearly")[:: 1 if len(left) < len(right) else -1]
            claims.judge(
                self.db, annotator.id, claim.nonce, act({"shorter": shorter, "longer": longer}.get(word, word))
            )

    def annotator_named(self, name: str) -> Annotator:
        """The annotator of this name; an account is made where there is none."""
        row = access.find(self.db, name)
        if row is None:
            return access.add_account(self.db, name, "annotator", f"{name}'s password")
        return access.read_annotator(row)

    def freeze(self, reliability: Mapping[str, float]) -> str:
        """Freeze the judgements with known reliabilities of their annotators; returns the data's name."""
        judged = store.judged_comparisons(self.db)
        return freezing.store_snapshot(self.db, self.data_dir, Freezing(judged, DPOSpec().max_length, 0, reliability))

    def response(self, prompt: Prompt, text: str, model_id: int | None = None) -> Response:
        """An answer as a worker would have recorded it, by the serving policy unless told otherwise."""
        rendered = self.render(prompt.messages)
        return Response(
            prompt_id=prompt.id,
            model_id=model_id or policies.serving(self.db).id,
            text=text,
            sampling=Sampling(),
            seed=0,
            rendered_prompt=rendered,
            prompt_tokens=self.count(rendered),
            tokens=self.count(text) + 1,
            finish_reason="stop",
        )

    def render(self, messages: Sequence[Message]) -> str:
        """The text that the policy is fed."""
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    def count(self, text: str) -> int:
        """A text's length in tokens."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def start(self, parent: str = "base") -> Any:
        """Where a run from this parent starts."""
        from rlhf.base_model import BaseModel
        from rlhf.models import ground_path, verified
        from rlhf.training import Start

        policy = policies.by_revision(self.db, parent)
        ground_id = policy.id if policy.form == "full" else policy.ground_id
        ground = ground_path(self.db, self.data_dir, self.model, ground_id)
        adapter = verified(self.data_dir, policy) if policy.form in ("lora", "prompt") else None
        return Start(BaseModel(str(self.model), self.model), policy, ground, ground_id, adapter)

    def submit(self, spec: Spec) -> int:
        """Freeze and queue a job."""
        return loop.submit(self.db, self.data_dir, spec, "a test")

    def perform(self, job_id: int) -> jobs.Job:
        """Run a queued job in this process, as a worker does, and return its row."""
        from rlhf.worker import Run, perform

        worker = uuid.uuid4().hex
        job = jobs.claim(self.db, job_id, worker)
        assert job is not None
        perform(Run(self.db, self.data_dir, job, worker), job.spec)
        return jobs.get(self.db, job_id)

    def start_worker(self, job_id: int) -> subprocess.Popen[bytes]:
        """Start a worker process for a queued job; its output goes to a file beside the database."""
        command = [sys.executable, "-m", "rlhf.worker", "--data", str(self.data_dir), "--job", str(job_id)]
        with (self.data_dir / f"worker-{job_id}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def run_worker(self, job_id: int) -> jobs.Job:
        """Run a queued job in a worker process to its end and return its row."""
        with self.start_worker(job_id) as worker:
            try:
                worker.wait(WORKER_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                raise
        return jobs.get(self.db, job_id)

    def output(self, job_id: int) -> str:
        """What the worker of a job printed."""
        return (self.data_dir / f"worker-{job_id}.log").read_text("utf-8", errors="replace")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m rlhf` on this data directory."""
        return rlhf_command("--data", str(self.data_dir), *arguments)

    def adapter(self, revision: str) -> dict[str, Any]:
        """The weights of a stored adapter, by name."""
        from safetensors.torch import load_file

        path = policies.by_revision(self.db, revision).path
        assert path is not None
        return dict(load_file(self.data_dir / path / "adapter_model.safetensors"))


@pytest.fixture
def machine(tmp_path: Path, tiny_model: Path) -> Iterator[Machine]:
    """A fresh data directory without prompts or judgements."""
    made = make_machine(tmp_path / "data", tiny_model)
    yield made
    made.db.close()


def make_machine(data_dir: Path, model: Path) -> Machine:
    """A data directory whose base policy is the model in this directory."""
    from rlhf.models import load_tokenizer

    db = open_database(data_dir)
    policies.ensure_base(db, str(model))
    measure_nobody(db)
    annotator = access.add_account(db, "ann", "annotator", "ann's password")
    return Machine(data_dir, db, model, load_tokenizer(model), annotator)


def rlhf_command(
    *arguments: str, timeout: float = WORKER_SECONDS, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m rlhf` in a process of its own, with further variables."""
    return subprocess.run(
        [sys.executable, "-m", "rlhf", *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def write_spec(path: Path, spec: dict[str, Any]) -> Path:
    """A spec file for the command line."""
    path.write_text(json.dumps(spec), "utf-8")
    return path


def wait_until(what: str, condition: Callable[[], Any], seconds: float = WORKER_SECONDS, every: float = 0.05) -> Any:
    """Poll until the condition holds and return its value; fails, saying what was awaited, after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every)
    raise AssertionError(f"After {seconds:.0f} s still waiting for: {what}")


# Small enough for seconds on the tiny model, with every part of the recipe in use.
QUICK_DPO = DPOSpec(
    epochs=2, batch_size=2, accumulation=2, learning_rate=5e-3, beta=0.1, lora_r=4, lora_alpha=8, checkpoint_steps=1
)
