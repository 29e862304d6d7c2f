"""Fixtures of the machine side: a tiny real model, and a data directory in which jobs can run on it."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from annotation.claims import handing_out, judging
from annotation.database import FILE_NAME, Database, copy_database, open_database
from annotation.exports.preference_rows import PreferenceRows
from annotation.imports.importing import starter_prompts
from annotation.jobs import liveness
from annotation.jobs.attempt import Attempt, beating
from annotation.records import Annotator, Message, Prompt, Response, Sampling, Split
from annotation.store import comparison_store, judgement_store, project_store, prompt_store
from annotation.web import access
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.data import snapshots
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec
from rlhf.models import registry
from rlhf.models.self_test_results import SelfTestResult, keep_result
from rlhf.submission import job_submission
from tests.conftest import act, judgement_count, measure_nobody, new_database, shown_texts

ROOT = Path(__file__).parent.parent
# After this a test takes what it waits for for hanging. No test has a time of its own: how long things take says
# nothing but how fast the machine is.
PATIENCE_SECONDS = 600.0
WORDS = ("sun", "rain", "stone", "river", "light", "bread", "quiet", "green", "morning", "window", "paper", "music")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny model."""
    from tests.tiny_model import build

    return build(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def strict_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with a template that refuses system messages."""
    directory = tmp_path / "strict"
    shutil.copytree(tiny_model, directory)
    template = directory / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template.write_text(refusal + template.read_text("utf-8"), "utf-8")
    return directory


@pytest.fixture(scope="session")
def tiny_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny model that judges by a letter; the tiny model would rather say something else."""
    from tests.tiny_model import LETTER_BIAS, build

    return build(tmp_path_factory.mktemp("tiny-judge"), letter_bias=LETTER_BIAS)


# Run in a worker beforehand. From outside the moment would depend on how fast the machine is.
KILLED_AT = """
import os, signal
from rlhf.jobs.run import Run

report = Run.report

def report_and_die(self, step, *rest, **named):
    report(self, step, *rest, **named)
    if step >= {step}:
        os.kill(os.getpid(), signal.SIGKILL)

Run.report = report_and_die
"""


@dataclass
class Machine:
    """A data directory with a database whose base policy is the tiny model, and the ways to put work into it."""

    data_dir: Path
    db: Database
    model: Path
    tokenizer: Any
    annotator: Annotator

    def copied(self, data_dir: Path) -> Machine:
        """One whose data directory is a copy of this one's as it is now."""
        shutil.copytree(self.data_dir, data_dir, ignore=shutil.ignore_patterns(f"{FILE_NAME}*"))
        copy_database(self.db, data_dir / FILE_NAME)
        return replace(self, data_dir=data_dir, db=open_database(data_dir))

    def add_prompts(self, train: int, held_out: int) -> None:
        """Take prompts of both splits from the starter set."""
        wanted: dict[Split, int] = {"train": train, "held-out": held_out}
        starter = starter_prompts()
        for split, count in wanted.items():
            prompt_store.add_prompts(self.db, [prompt for prompt in starter if prompt.split == split][:count])

    def judge(
        self, split: Split, count: int, word: str = "shorter", answers: Sequence[str] = (), by: str = "ann"
    ) -> None:
        """Compare and judge `count` prompts of a split, through the claims that people go through.

        `word` is a verdict of the page, 'shorter' to prefer the shorter answer, or 'longer'. Without `answers`, a short
        and a long one are made up. `by` names the annotator.
        """
        annotator = self.annotator_named(by)
        prompts = prompt_store.prompts(self.db, split)
        for number in range(count):
            prompt = prompts[number % len(prompts)]
            source = random.Random(f"{split} {number} {judgement_count(self.db)}")
            texts = answers or (
                " ".join(source.choices(WORDS, k=3)),
                " ".join(source.choices(WORDS, k=source.randint(8, 12))),
            )
            made = comparison_store.add_comparison(self.db, [self.response(prompt, text) for text in texts])
            assert made is not None
            claim = handing_out.claim_next(self.db, annotator.id)
            assert claim is not None
            left, right = shown_texts(claim)
            shorter, longer = ("left-clearly", "right-clearly")[:: 1 if len(left) < len(right) else -1]
            judging.judge(
                self.db, annotator.id, claim.nonce, act({"shorter": shorter, "longer": longer}.get(word, word))
            )

    def rank(self, count: int) -> None:
        """Rank four answers to each of `count` train prompts, the shortest first; the two longest are tied."""
        project_store.set_project(self.db, replace(project_store.project(self.db), kind="rank", answers=4))
        for number, prompt in enumerate(prompt_store.prompts(self.db, "train")[:count]):
            texts = [" ".join(WORDS[(number + place) % 12] for place in range(words)) for words in (2, 4, 6, 8)]
            assert (
                comparison_store.add_comparison(self.db, [self.response(prompt, text) for text in texts], 4) is not None
            )
            claim = handing_out.claim_next(self.db, self.annotator.id)
            assert claim is not None
            ranks = [min(len(text.split()) // 2, 3) for text in shown_texts(claim)]
            judging.judge(self.db, self.annotator.id, claim.nonce, {"outcome": "ranked", "ranks": ranks})

    def annotator_named(self, name: str) -> Annotator:
        """The annotator of this name; an account is made where there is none."""
        known = access.find(self.db, name)
        return (
            access.add_account(self.db, name, "annotator", f"{name}'s password") if known is None else known.annotator
        )

    def freeze(self, reliability: Mapping[str, float]) -> str:
        """Freeze the judgements with known reliabilities of their annotators; returns the data's name."""
        judged = judgement_store.judged_comparisons(self.db)
        return snapshots.store_snapshot(
            self.db, self.data_dir, PreferenceRows(judged, DPOSpec().max_length, 0, reliability)
        )

    def response(self, prompt: Prompt, text: str, model_id: int | None = None) -> Response:
        """An answer as a worker would have recorded it, by the serving policy unless told otherwise."""
        rendered = self.render(prompt.messages)
        return Response(
            prompt_id=prompt.id,
            model_id=model_id or registry.serving(self.db).id,
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
        from rlhf.algorithms.trainer import Start
        from rlhf.models.base.base_files import BaseModel
        from rlhf.models.loading.loaded_policies import ground_path, verified

        policy = registry.by_revision(self.db, parent)
        ground = ground_path(self.db, self.data_dir, self.model, policy.lies_on)
        adapter = verified(self.data_dir, policy) if policy.form in ("lora", "prompt") else None
        return Start(
            base=BaseModel(str(self.model), self.model),
            parent=policy,
            ground=ground,
            ground_id=policy.lies_on,
            adapter=adapter,
        )

    def submit(self, spec: JobSpec) -> int:
        """Freeze and queue a job."""
        return job_submission.submit(self.db, self.data_dir, spec, "a test")

    def perform(self, job_id: int) -> job_store.Job:
        """Run a queued job in this process, as a worker does, and return its row."""
        from rlhf.jobs.run import Run, perform

        worker = uuid.uuid4().hex
        job = job_store.claim(self.db, job_id, worker)
        assert job is not None
        try:
            perform(Run(self.db, self.data_dir, job, worker), job.spec)
        finally:
            liveness.end(self.db, worker)
        return job_store.get(self.db, job_id)

    def start_worker(self, job_id: int, beforehand: str = "") -> subprocess.Popen[bytes]:
        """Start a worker process for a queued job; its output goes to a file beside the database.

        `beforehand` is Python that it runs first, as to kill itself at a certain point.
        """
        program = worker_program(self.data_dir / f"worker-{job_id}.py", beforehand)
        command = [sys.executable, str(program), "--data", str(self.data_dir), "--job", str(job_id)]
        with (self.data_dir / f"worker-{job_id}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def run_worker(self, job_id: int, beforehand: str = "", status: int = 0) -> job_store.Job:
        """Run a queued job in a worker process to its end, which must have this exit status, and return its row."""
        with self.start_worker(job_id, beforehand) as worker:
            try:
                worker.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                raise
        assert worker.returncode == status, self.output(job_id)
        return job_store.get(self.db, job_id)

    def kill_worker(self, job_id: int, step: int) -> job_store.Job:
        """Run a queued job until it has reported this step, where SIGKILL ends it; return its row, marked lost."""
        self.run_worker(job_id, KILLED_AT.format(step=step), -signal.SIGKILL)
        assert job_store.get(self.db, job_id).status == "running"
        assert job_store.mark_lost(self.db) == [job_id]
        return job_store.get(self.db, job_id)

    def output(self, job_id: int) -> str:
        """What the worker of a job printed."""
        return (self.data_dir / f"worker-{job_id}.log").read_text("utf-8", errors="replace")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m rlhf` on this data directory."""
        return rlhf_command("--data", str(self.data_dir), *arguments)

    def adapter(self, revision: str) -> dict[str, Any]:
        """The weights of a stored adapter, by name."""
        from safetensors.torch import load_file

        path = registry.by_revision(self.db, revision).path
        assert path is not None
        return dict(load_file(self.data_dir / path / "adapter_model.safetensors"))


def worker_program(path: Path, beforehand: str) -> Path:
    """Write a program that is a worker once it has run this Python; returns its path."""
    worker = "from rlhf.workers import worker\nsys.exit(worker.main())"
    path.write_text(f"import os, sys\nsys.path.insert(0, os.getcwd())\n{beforehand}\n{worker}\n", "utf-8")
    return path


@pytest.fixture
def machine(tmp_path: Path, tiny_model: Path) -> Iterator[Machine]:
    """A fresh data directory without prompts or judgements."""
    made = make_machine(tmp_path / "data", tiny_model)
    yield made
    made.db.close()


def make_machine(data_dir: Path, model: Path) -> Machine:
    """A data directory whose base policy is the model in this directory."""
    db = new_database(data_dir)
    registry.ensure_base(db, str(model))
    keep_result(data_dir, model, SelfTestResult(packs=True, shares_prompts=True))  # or each first job would try it
    measure_nobody(db)
    annotator = access.add_account(db, "ann", "annotator", "ann's password")
    return Machine(data_dir=data_dir, db=db, model=model, tokenizer=tokenizer_of(model), annotator=annotator)


@cache
def tokenizer_of(model: Path) -> Any:
    """A model's tokenizer; the same one each time, so leave it as it is."""
    from rlhf.models.loading.tokenizer_loading import load_tokenizer

    return load_tokenizer(model)


def rlhf_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m rlhf` in a process of its own, with further variables."""
    return subprocess.run(
        [sys.executable, "-m", "rlhf", *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def write_spec(path: Path, spec: dict[str, Any]) -> Path:
    """A spec file for the command line."""
    path.write_text(json.dumps(spec), "utf-8")
    return path


def wait_until(
    what: str,
    condition: Callable[[], Any],
    *,
    every: float = 0.05,
    otherwise: Callable[[], Any] = str,
    sleep: Callable[[float], object] = time.sleep,
) -> Any:
    """Poll until the condition holds and return its value; one that hangs fails, saying what was awaited.

    `otherwise` tells then how things stand.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        sleep(every)
    raise AssertionError(f"After {PATIENCE_SECONDS:.0f} s still waiting for: {what} {otherwise()}")


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended; whose child it became last may take seconds to ask how, or never do."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def free_port() -> Iterator[int]:
    """A port on which a program can be told to listen. Nobody else is given it meanwhile: it is bound here."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


class Pace:
    """Holds the draws of an answering worker that is a thread of this process, so that a test can look in between.

    Each number is the token before which a draw is held next, whichever draw comes to that token.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self._held, self._going = threading.Semaphore(0), threading.Semaphore(0)

    def until_held(self) -> None:
        """Wait until a draw has come to the token."""
        assert self._held.acquire(timeout=PATIENCE_SECONDS)

    def hold(self, *tokens: int) -> None:
        """Hold the next draws that come to these tokens."""
        self.tokens += tokens

    def go_on(self) -> None:
        """Let the draw that is held go on."""
        self._going.release()

    def let_go(self) -> None:
        """Hold nothing any more."""
        self.tokens.clear()
        self._going.release(99)

    def draw(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[str],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        stop: Callable[[], bool] = lambda: False,
        written: Any = None,
        show_seconds: float = 0.0,
    ) -> Any:
        """As rlhf.models.sampling.drawing.draw, but each token is shown at once."""
        from rlhf.models.sampling.drawing import draw

        drawn = itertools.count(1)

        def between() -> bool:
            if next(drawn) == next(iter(self.tokens), None):
                self.tokens.pop(0)
                self._held.release()
                assert self._going.acquire(timeout=PATIENCE_SECONDS)
            return stop()

        return draw(model, tokenizer, prompts, seeds, sampling, between, written, 0.0)


@contextmanager
def kept_alive(db: Database, job_id: int) -> Iterator[None]:
    """Meanwhile a job that a test has claimed counts as heard of."""
    job = job_store.get(db, job_id)
    assert job.worker is not None
    with beating(Attempt(db, db.path.parent, job, job.worker)):
        yield


# Small enough for seconds on the tiny model, with every part of the recipe in use.
QUICK_DPO = DPOSpec(
    method="qlora",
    epochs=2,
    batch_size=2,
    accumulation=2,
    learning_rate=5e-3,
    beta=0.1,
    lora_r=4,
    lora_alpha=8,
    checkpoint_steps=1,
    stop_kl=0.0,
)
