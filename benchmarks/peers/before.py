"""Trainings, checks and a round of PPO by this program, beside the same by an earlier one in a checkout of its own.

Each program has a data directory with the same prompts and pairs, and trains two policies and a reward model on them,
the policies in one pass. Then they take turns in copies of it: a project's first check, a check of the other policy,
which finds what the first left of the base, and two measurements of PPO, of one round and of two, whose difference is a
round without what starts it. Each job is run as the running program would: by a worker that is forked from a process
which has imported already, where this program forks, and by one that has yet to import. Seconds of the processor are
the worker's, seconds of the clock what the job's row says.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil

from annotation.database import FILE_NAME, Database, open_database
from annotation.environment import worker_environment
from annotation.examples.example_sets import read_example
from annotation.imports.importing import starter_prompts
from benchmarks.harness.driver import ROOT, BenchmarkError, say
from rlhf.jobs import job_store
from rlhf.jobs.devices import devices_here
from rlhf.jobs.job_spec import from_json
from rlhf.submission import job_submission
from rlhf.workers.forked_worker import ForkServer, can_fork
from rlhf.workers.worker_process import start_worker

TRAIN, HELD_OUT, PROMPTS = 40, 10, 30
TRAINING, CHECK, LATER, ROUND = "train", "check", "check_later", "ppo_round"
FIGURES = (TRAINING, CHECK, LATER, ROUND)
# Seconds between two looks at what workers have used.
LOOKS: Final = 0.1
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Program:
    """A checkout, and by what words it knows a check and a training without one."""

    root: Path
    check: str = "check"
    alone: Mapping[str, Any] | None = None
    hides: str = ""
    """A package that was not installed with it, and with which it fails."""
    forks: ForkServer | None = None
    """Where its workers are forks."""

    def trainings(self) -> list[dict[str, Any]]:
        """The specs of the policies that are checked, and of the reward model that PPO is against."""
        lora = {"method": "lora", "epochs": 1, "samples": 0}
        unchecked = {"check": False, "stop_kl": 0.0} if self.alone is None else dict(self.alone)
        policies = [{"kind": "dpo", **lora, **unchecked, "seed": seed} for seed in (1, 2)]
        return [*policies, {"kind": "reward_model", **lora}]

    def check_of(self, policy: str) -> dict[str, Any]:
        """The spec of a check by no judge: those compute what their own benchmark measures."""
        return {"kind": self.check, "candidate": policy, "judges": ""}

    def rounds_against(self, reward_model: str, accepted: float, rounds: int) -> dict[str, Any]:
        """The spec of a measurement of so many rounds of PPO, at whatever accuracy the reward model has."""
        training = {"kind": "ppo", "method": "lora", "samples": 0}
        training |= {"reward_model": reward_model, "accepted_accuracy": accepted}
        return {"kind": "measure", "steps": rounds, "training": json.dumps(training)}


def programs(before: Path) -> tuple[Program, Program]:
    """This program and the earlier one, of commit 865f146."""
    return Program(ROOT), Program(before.resolve(), "evaluate", {"evaluate": False}, "pysqlite3")


def server_here() -> ForkServer | None:
    """What this program's workers are forked from, where they can be."""
    if not can_fork(devices_here()):
        return None
    forks = ForkServer(worker_environment())
    atexit.register(forks.close)
    return forks


def rows(quick: bool) -> dict[str, Rows]:
    """What both import, by split: of the example answers, each better than the next question's; further prompts."""
    train, held_out, prompts = (8, 2, 2) if quick else (TRAIN, HELD_OUT, PROMPTS)
    examples = read_example("medical-answers")[: train + held_out]
    pairs = [
        {"prompt": one.messages[-1]["content"], "chosen": one.completion, "rejected": other.completion}
        for one, other in zip(examples, [*examples[1:], examples[0]], strict=True)
    ]
    further = [{"prompt": one.text} for one in starter_prompts()[:prompts]]
    return {"train": pairs[:train], "held-out": pairs[train:], "held-out prompts": further}


@dataclass(frozen=True)
class Cost:
    """Of a job: seconds of the processor, of the clock, and what came of it."""

    processor: float
    clock: float
    result: Mapping[str, Any]


def command(program: Program, *arguments: str) -> float:
    """Run one of a program's commands; returns the processor seconds of what it starts. Raises BenchmarkError."""
    whole = [sys.executable, "-m", *arguments]
    with TemporaryDirectory() as directory, Path(directory, "said").open("w+b") as said:
        if program.hides:
            Path(directory, f"{program.hides}.py").write_text("raise ImportError", "utf-8")
        found_first = {**os.environ, "PYTHONPATH": directory}
        process = psutil.Popen(whole, cwd=program.root, env=found_first, stdout=said, stderr=said)
        used = seconds_of(process, process.children)
        if process.returncode:
            said.seek(0)
            told = said.read()[-2000:].decode()
            raise BenchmarkError(f"{' '.join(whole)} in {program.root} ended with code {process.returncode}:\n{told}")
    return used


def seconds_of(process: Any, workers: Callable[[], Sequence[psutil.Process]]) -> float:
    """Wait for a process to end; returns the processor seconds of all that were ever seen to be its workers."""
    used: dict[int, float] = {}
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            for one in workers():
                used[one.pid] = sum(one.cpu_times()[:2])
        time.sleep(LOOKS)
    return sum(used.values())


def forked(forks: ForkServer, data_dir: Path, spec: str) -> float:
    """Run a job in a fork, as the program does; returns its processor seconds. Raises BenchmarkError where it fails."""
    database = open_database(data_dir)
    number = job_submission.submit(database, data_dir, from_json(spec), "the benchmark")
    with (data_dir / "said").open("w+b") as said:
        job, worker = job_store.get(database, number), uuid.uuid4().hex
        process = start_worker(job, data_dir, worker, devices_here(), said, forks)
        used = seconds_of(process, lambda: [psutil.Process(process.pid)] if process.pid else [])
    ended = job_store.get(database, number)
    database.close()
    if ended.status != "finished":
        raise BenchmarkError(f"{spec} is {ended.status}: {ended.message}")
    return used


def run_job(program: Program, data_dir: Path, spec: Mapping[str, Any]) -> Cost:
    """Run a job to its end."""
    path = data_dir / "spec.json"
    path.write_text(json.dumps(spec), "utf-8")
    if program.forks is None:
        processor = command(program, "rlhf", "--data", str(data_dir), "run", str(path))
    else:
        processor = forked(program.forks, data_dir, json.dumps(spec))
    database = Database(data_dir / FILE_NAME)  # as it is, of whichever version
    (row,) = database.rows("SELECT * FROM job WHERE kind = ? ORDER BY id DESC LIMIT 1", (spec["kind"],))
    database.close()
    clock = (datetime.fromisoformat(row["finished"]) - datetime.fromisoformat(row["started"])).total_seconds()
    return Cost(processor, clock, json.loads(row["result"]))


@dataclass(frozen=True)
class Prepared:
    """What a program has trained."""

    policies: tuple[str, str]
    reward_model: str
    accuracy: float
    """How often the reward model is right."""
    trainings: list[Cost]
    """The policies'."""


def prepare(program: Program, data_dir: Path, imported: Mapping[str, Rows]) -> Prepared:
    """Make a data directory with prompts, pairs, two trained policies and a reward model."""
    data_dir.mkdir()
    command(program, "rlhf", "--data", str(data_dir), "prepare")
    for name, content in imported.items():
        path = data_dir / "rows.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in content), "utf-8")
        command(program, "annotation", "import", "--data", str(data_dir), "--split", name.split()[0], str(path))
    *trainings, reward = (run_job(program, data_dir, spec) for spec in program.trainings())
    first, second = (str(one.result["revision"]) for one in trainings)
    quality = reward.result.get("quality", reward.result.get("health"))
    accuracy = max(quality["accuracy"]["value"] or 0.0, 0.01)
    return Prepared((first, second), str(reward.result["revision"]), accuracy, trainings)


def take_turns(
    before: Path, directory: Path, turns: int, quick: bool = False
) -> dict[str, tuple[list[Cost], list[Cost]]]:
    """What each of the figures costs this program and the earlier one, turn by turn."""
    found: dict[str, tuple[list[Cost], list[Cost]]] = {name: ([], []) for name in FIGURES}
    now, earlier = programs(before)
    both, made = (replace(now, forks=server_here()), earlier), []
    for place, program in enumerate(both):
        made.append(prepare(program, directory / str(place), rows(quick)))
        found[TRAINING][place].extend(made[-1].trainings)
        say(f"{program.root}: {made[-1]}")
    for turn in range(turns):
        for place in (0, 1) if turn % 2 == 0 else (1, 0):
            copy = directory / f"{place}-{turn}"
            shutil.copytree(directory / str(place), copy, copy_function=linked)
            for name, cost in one_turn(both[place], copy, made[place]).items():
                found[name][place].append(cost)
            shutil.rmtree(copy)
            said = {name: f"{pair[place][-1].processor:.0f} s, {pair[place][-1].clock:.0f} s by the clock"
                    for name, pair in found.items()}  # fmt: skip
            say(f"{both[place].root}: {said}")
    return found


def one_turn(program: Program, data_dir: Path, made: Prepared) -> dict[str, Cost]:
    """Both checks and a round."""
    checks = [run_job(program, data_dir, program.check_of(policy)) for policy in made.policies]
    one, two = (
        run_job(program, data_dir, program.rounds_against(made.reward_model, made.accuracy, rounds))
        for rounds in (1, 2)
    )
    of_round = Cost(two.processor - one.processor, float(two.result["seconds_per_step"]), two.result)
    return {CHECK: checks[0], LATER: checks[1], ROUND: of_round}


def linked(source: str, target: str) -> None:
    """Copy a file; one of weights, which nobody changes, as a link."""
    if source.endswith(".safetensors"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
