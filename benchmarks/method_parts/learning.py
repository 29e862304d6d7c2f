"""Part five of `benchmarks.methods`: does PPO learn what it is rewarded for, on each of several seeds?

The reward is a program: how close an answer's length is to a target, 1 at the target and 0 at twice that or at nothing.
It stands in the place of the reward model, so that nothing but PPO itself is on trial.

`python -m benchmarks.method_parts.learning DATA_DIR --job ID --worker ID` is the worker of such a job; it leaves its
curve and no policy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from annotation.database import open_database
from annotation.imports.importing import starter_prompts
from annotation.jobs import job_table
from annotation.records import Sampling
from annotation.store import prompt_store
from benchmarks.harness.driver import say
from benchmarks.harness.laboratory import Laboratory
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.data.snapshots import CountedRows, prompt_rows, store_snapshot
from rlhf.jobs import job_store
from rlhf.jobs.run import Run
from rlhf.workers import worker

TARGET_TOKENS = 12
# Shorter than the template's own: most of the time goes into reading prompts.
SYSTEM = {"role": "system", "content": "Be brief."}
# Rounds whose mean is called that of the start and of the end.
ROUNDS_AT_AN_END = 3


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    seeds: int = 5
    """From 1 on."""
    rounds: int = 12
    rollouts: int = 16
    tokens: int = 24
    max_length: int = 72
    epochs: int = 1
    learning_rate: float = 5e-4
    """Ten times PPO's default, because there are few rounds. Of 5e-4, 1e-3 and 2e-3, tried on seed 0, which is not
    reported, the last goes too far and comes back."""


# A tiny model's tokens are short.
QUICK = Sizes(seeds=1, rounds=2, rollouts=4, max_length=160)


def plan(sizes: Sizes) -> dict[str, float]:
    """The parts with their relative times."""
    return {name_of(seed): 0.2 * sizes.rounds for seed in range(1, sizes.seeds + 1)}


def name_of(seed: int) -> str:
    """The part's name."""
    return f"learning seed {seed}"


def spec_of(seed: int, sizes: Sizes) -> PPOSpec:
    """PPO from the base with an adaptive KL penalty, and no reward model."""
    return PPOSpec(
        parent="base",
        method="lora",
        steps=sizes.rounds,
        rollouts=sizes.rollouts,
        batch_size=sizes.rollouts // 2,
        epochs=sizes.epochs,
        learning_rate=sizes.learning_rate,
        max_length=sizes.max_length,
        sampling=Sampling(temperature=1.0, min_p=0.0, max_new_tokens=sizes.tokens),
        seed=seed,
        samples=0,
        check=False,
    )


def measure(lab: Laboratory, sizes: Sizes) -> dict[str, Any]:
    """Train with every seed. What came of each, and on how many it was learnt."""
    prompt_store.add_prompts(lab.db, starter_prompts())
    rows = [replace(row, messages=(SYSTEM, *row.messages)) for row in prompt_rows(lab.db)]
    snapshot = store_snapshot(lab.db, lab.directory, CountedRows(rows))
    found = []
    for seed in range(1, sizes.seeds + 1):
        name, spec = name_of(seed), replace(spec_of(seed, sizes), model=lab.base.name, snapshot=snapshot)
        # Not through `job_submission.submit`, which refuses PPO without a reward model.
        job_id = lab.job_of(name) or job_store.enqueue(lab.db, spec, name)
        command = [sys.executable, "-m", "benchmarks.method_parts.learning", str(lab.directory), "--job", str(job_id)]
        job = lab.finish(name, job_id, command)
        found.append({"seed": seed, **judged(job_store.metrics(lab.db, job.id), spec.kl_target)})
        say(f"{name}: {found[-1]}")
    return {
        "learning": {
            "target_tokens": TARGET_TOKENS,
            "kl_target": spec.kl_target,
            "learning_rate": spec.learning_rate,
            "rounds": sizes.rounds,
            "seeds": found,
            "learned": sum(entry["rose"] and entry["kl_under_target"] for entry in found),
        }
    }


def judged(curve: Sequence[Mapping[str, float]], kl_target: float) -> dict[str, Any]:
    """Whether a run's reward rose by more than its noise, and its KL stayed under the target in every round.

    Noise: what two means of so many rounds differ by in 95 of 100 cases, if nothing is learnt.
    """
    rewards, lengths, kl = ([entry[name] for entry in curve] for name in ("reward", "length", "kl"))
    start, end = ends(rewards)
    # Half the mean squared difference of neighbours is a round's variance whatever the trend (von Neumann 1941).
    variance = fmean((after - before) ** 2 for before, after in pairwise(rewards)) / 2
    noise = 1.96 * sqrt(2 * variance / ROUNDS_AT_AN_END)
    return {
        "reward_start": round(start, 3),
        "reward_end": round(end, 3),
        "noise": round(noise, 3),
        "rose": end - start > noise,
        "tokens_start": round(ends(lengths)[0], 1),
        "tokens_end": round(ends(lengths)[1], 1),
        "kl_mean": round(fmean(kl), 3),
        "kl_max": round(max(kl), 3),
        "kl_under_target": max(kl) < kl_target,
    }


def ends(values: Sequence[float]) -> tuple[float, float]:
    """The means of the first and of the last rounds."""
    return fmean(values[:ROUNDS_AT_AN_END]), fmean(values[-ROUNDS_AT_AN_END:])


# ---------------------------------------------------------------------------------------------------------- reporting
def table(found: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """Headers and rows for people."""
    headers = ("seed", "reward: start → end", "noise", "tokens: start → end", "KL: mean", "KL: highest round")
    rows = [
        [
            str(entry["seed"]),
            f"{entry['reward_start']:.2f} → {entry['reward_end']:.2f}",
            f"{entry['noise']:.2f}",
            f"{entry['tokens_start']:.1f} → {entry['tokens_end']:.1f}",
            f"{entry['kl_mean']:.2f}",
            f"{entry['kl_max']:.2f}",
        ]
        for entry in found["seeds"]
    ]
    return headers, rows


def describe(found: Mapping[str, Any]) -> str:
    """The verdict in a sentence."""
    return (
        f"PPO for answers of about {found['target_tokens']} tokens, {found['rounds']} rounds: on {found['learned']} of "
        f"{len(found['seeds'])} seeds the reward rose by more than its noise and the KL of every round stayed under "
        f"its target of {found['kl_target']:g}."
    )


# --------------------------------------------------------------------------------------------------------- the worker
def learn(data_dir: Path, job_id: int, worker_id: str) -> None:
    """Work on a PPO job with our reward in the place of its reward model."""
    from rlhf.algorithms.ppo.roles import load_roles
    from rlhf.algorithms.ppo.train import Learner, read_data
    from rlhf.algorithms.trainer import start_of
    from rlhf.models.loading.tokenizer_loading import load_tokenizer

    db = open_database(data_dir)
    job = job_store.claim(db, job_id, worker_id)
    assert job is not None
    assert isinstance(job.spec, PPOSpec)
    run, spec = Run(db, data_dir, job, worker_id), job.spec
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path)
    data = read_data(run, spec, tokenizer)
    roles = load_roles(spec, start, None, tokenizer.pad_token_id)
    figures = Learner(run, spec, roles, tokenizer, data.items, closeness).learn()
    made = figures.result(spec.snapshot, len(data.items), data.left_out)
    job_table.finish(db, job_id, worker_id, made.to_json())


def closeness(answers: Sequence[Any]) -> Any:
    """How close each answer's length in tokens is to the target, (B,)."""
    import torch

    return torch.tensor([1 - abs(len(answer.ids) - TARGET_TOKENS) / TARGET_TOKENS for answer in answers])


def main() -> None:
    """Read the worker's command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--worker", required=True)
    options = parser.parse_args()
    worker.prepare_process()
    learn(options.data, options.job, options.worker)


if __name__ == "__main__":
    main()
