"""The lesson's claims, measured: ways of fine-tuning, PPO against DPO, what PPO takes in memory and whether it learns.

How to read it. First the learning rates are chosen, on training headlines that are held back
(`benchmarks.method_parts.rates`). First table: SmolLM2 learns to call the sentiment of financial headlines
(`annotation/examples`), with every method from the same seeds, with the same epochs, batch and length, each at its own
rate. Each training is a job in a process of its own, and `peak memory` and `s / step` (median of the optimiser steps,
then of the seeds) are that process's. An answer is decoded greedily and its label read from the text; one that gives
none, or several, counts as wrong. `before` is the base model under the same instructions, for QLoRA in 4 bits as it
trains. The interval is over seeds and headlines together (`benchmarks.harness.intervals`).

Second table: from one SFT policy, preferences between its own answers by one gold reward (`benchmarks.harness.gold`)
train a reward model for PPO, and DPO, at three betas: the KL coefficient of PPO, the beta of DPO. `KL` is from the SFT
policy, per whole answer, `gold` the mean gold reward, both of answers that are drawn with the same seeds to held-out
prompts. A method is the better one where it gets more gold for the same KL. PPO sees the gold reward only through its
reward model.

`ppo_memory_ratio`: peak memory of PPO over that of SFT, LoRA on a bf16 base, passes of the same number of tokens, all
used; 1.5 at most is what we ask for. Times are as measured: let nothing else run beside it.

Third table: PPO from the base model, rewarded by a program for answers of a wished length, five times over. The reward
must rise by more than its noise with the KL of an answer under its target.

It goes on where it was broken off: give the same --data. What --json holds from earlier starts is kept and reported
too, so that parts can be measured one at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import driver
from benchmarks.harness.driver import BenchmarkError, say
from benchmarks.harness.laboratory import Laboratory
from benchmarks.method_parts import frontier, learning, memory, rates, sentiment
from rlhf.models.base.base_files import EMBEDDED

PARTS = ("rates", "methods", "memory", "frontier", "learning")
DEFAULT_DATA = driver.DEFAULT_DATA_DIR / "benchmark-methods"


# ---------------------------------------------------------------------------------------------------------- reporting
def report(found: Mapping[str, Any]) -> str:
    """Tables in Markdown for people; the last line is one JSON object."""
    smoke = "SMOKE RUN: a few steps on a few rows. It shows that everything runs, no more."
    lines = [smoke, ""] if found["quick"] else []
    if "rates" in found:
        lines += [rates.describe(found["rates"]), ""]
    if "methods" in found:
        lines += [markdown(*sentiment.table(found["methods"])), ""]
    if "frontier" in found:
        lines += [markdown(*frontier.table(found)), "", frontier.describe(found), ""]
    if "memory" in found:
        lines += [memory.describe(found), ""]
    if "learning" in found:
        lines += [markdown(*learning.table(found["learning"])), "", learning.describe(found["learning"]), ""]
    threads = os.environ.get("OMP_NUM_THREADS")
    using = f"; OMP_NUM_THREADS={threads}" if threads else ""
    lines += [f"{driver.describe_machine(found['machine'])}{using}."]
    return "\n".join([*lines, json.dumps(found)])


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the first column to the left and the others to the right."""
    lines = [headers, ["---", *(["---:"] * (len(headers) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ------------------------------------------------------------------------------------------------------------ running
def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few minutes; figures mean little")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be given several times")
    parser.add_argument("--seeds", type=int, metavar="N", help="trainings of each method (default: 3, quick: 1)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of each method (default: 1)")
    parser.add_argument("--model", metavar="NAME_OR_DIR", default=EMBEDDED, help="base model, as for app.py")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help=f"where to work and to go on (default: {DEFAULT_DATA})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="add the figures to this file, after every part")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Sizes:
    """How much is done in each part."""

    rates: sentiment.Sizes
    methods: sentiment.Sizes
    memory: memory.Sizes
    frontier: frontier.Sizes
    learning: learning.Sizes


def sizes_of(options: argparse.Namespace) -> Sizes:
    """What the command line asks for."""
    first = sentiment.QUICK if options.quick else sentiment.Sizes()
    changed = {name: getattr(options, name) for name in ("seeds", "epochs") if getattr(options, name)}
    first = sentiment.Sizes(**{**asdict(first), **changed})
    if options.quick:
        return Sizes(rates=first, methods=first, memory=memory.QUICK, frontier=frontier.QUICK, learning=learning.QUICK)
    return Sizes(
        rates=first, methods=first, memory=memory.Sizes(), frontier=frontier.Sizes(), learning=learning.Sizes()
    )


def run(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All parts asked for; their figures, and those that --json holds from earlier starts."""
    wanted, sizes = options.only or PARTS, sizes_of(options)
    found = {**earlier(options), "machine": driver.machine()}
    if "methods" in wanted and "rates" not in found:
        wanted = ["rates", *wanted]
    plan = rates.plan(sizes.rates) if "rates" in wanted else {}
    if "methods" in wanted:
        plan |= sentiment.plan(sizes.methods)
    if set(wanted) & {"memory", "frontier"}:
        plan |= frontier.plan_of_reward_model()
    if "memory" in wanted:
        plan |= memory.plan()
    if "frontier" in wanted:
        plan |= frontier.plan(sizes.frontier)
    if "learning" in wanted:
        plan |= learning.plan(sizes.learning)
    settings = {name: {"model": options.model, **asdict(getattr(sizes, name))} for name in wanted}
    lab = Laboratory(directory, options.model, settings, plan)

    def note(figures: Mapping[str, Any]) -> None:
        found.update(figures)
        say(json.dumps(figures))
        if options.json:
            options.json.write_text(json.dumps(found, indent=2), "utf-8")

    if "rates" in wanted:
        note(rates.choose(lab, sizes.rates))
    if "methods" in wanted:
        note(sentiment.compare(lab, sizes.methods, rates.chosen(found["rates"])))
    if "memory" in wanted:
        note(memory.compare(lab, frontier.reward_model(lab, sizes.frontier), sizes.memory))
    if "frontier" in wanted:
        note(frontier.measure(lab, sizes.frontier))
    if "learning" in wanted:
        note(learning.measure(lab, sizes.learning))
    return found


def earlier(options: argparse.Namespace) -> dict[str, Any]:
    """The figures that --json holds. Raises BenchmarkError where they are another model's, or of another size."""
    ours = {"model": options.model, "quick": options.quick}
    if options.json is None or not options.json.exists():
        return ours
    found: dict[str, Any] = json.loads(options.json.read_text("utf-8"))
    if any(found.get(name) != value for name, value in ours.items()):
        raise BenchmarkError(f"{options.json} holds the figures of another benchmark. Give another --json.")
    return found


@driver.benchmark
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = read_options(arguments)
    with driver.working_directory(options, DEFAULT_DATA) as directory:
        found = run(directory, options)
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
