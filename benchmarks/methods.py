"""The lesson's claims, measured: ways of fine-tuning against each other, PPO against DPO, and what PPO takes in memory.

How to read it. First table: SmolLM2 learns to call the sentiment of financial headlines (`annotation/examples`), with
every method from the same seeds, with the same epochs, batch and length, each at its own default learning rate. Each
training is a job in a process of its own, and `peak memory` and `s / step` (median of the optimiser steps, then of the
seeds) are that process's. An answer is decoded greedily and its label read from the text; one that gives none, or
several, counts as wrong. `before` is the base model under the same instructions, for QLoRA in 4 bits as it trains. The
interval is over seeds and headlines together (`benchmarks.intervals`).

Second table: from one SFT policy, preferences between its own answers by one gold reward (`benchmarks.gold`) train a
reward model for PPO, and DPO, at three betas: the KL coefficient of PPO, the beta of DPO. `KL` is from the SFT policy,
per whole answer, `gold` the mean gold reward, both of answers that are drawn with the same seeds to held-out prompts.
A method is the better one where it gets more gold for the same KL. PPO sees the gold reward only through its reward
model; a last run gets the gold reward itself.

`ppo_memory_ratio`: peak memory of PPO over that of SFT, LoRA on a bf16 base, passes of the same number of tokens, all
used; 1.5 at most is what we ask for. Times are as measured: let nothing else run beside it.

It goes on where it was broken off: give the same --data.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from annotation.records import UserError
from benchmarks import driver, frontier, memory, sentiment
from benchmarks.driver import BenchmarkError, say
from benchmarks.laboratory import Laboratory
from rlhf.base_model import EMBEDDED

PARTS = ("methods", "memory", "frontier")
DEFAULT_DATA = driver.DEFAULT_DATA_DIR / "benchmark-methods"


# ---------------------------------------------------------------------------------------------------------- reporting
def report(found: Mapping[str, Any], machine: Mapping[str, Any], quick: bool) -> str:
    """Tables in Markdown for people; the last line is one JSON object."""
    smoke = ["SMOKE RUN: a few steps on a few rows. It shows that everything runs, no more.", ""] if quick else []
    lines = [*smoke]
    if "methods" in found:
        lines += [markdown(*sentiment.table(found["methods"])), ""]
    if "frontier" in found:
        lines += [markdown(*frontier.table(found["frontier"])), "", frontier.describe(found["frontier"]), ""]
    if "memory" in found:
        lines += [memory.describe(found["memory"]), ""]
    threads = os.environ.get("OMP_NUM_THREADS")
    using = f"; OMP_NUM_THREADS={threads}" if threads else ""
    lines += [f"{driver.describe_machine(machine)}{using}."]
    return "\n".join([*lines, json.dumps(figures(found, machine, quick))])


def figures(found: Mapping[str, Any], machine: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """The JSON object's content."""
    ratio = {"ppo_memory_ratio": found["memory"]["ratio"]} if "memory" in found else {}
    return {**found, **ratio, "quick": quick, "machine": machine}


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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too, after every part")
    return parser.parse_args(arguments)


def sizes_of(options: argparse.Namespace) -> tuple[sentiment.Sizes, frontier.Sizes, memory.Sizes]:
    """How much is done in each part."""
    first = sentiment.Sizes(seeds=1, items=16) if options.quick else sentiment.Sizes()
    changed = {name: getattr(options, name) for name in ("seeds", "epochs") if getattr(options, name)}
    first = sentiment.Sizes(**{**asdict(first), **changed})
    return (
        first,
        frontier.QUICK if options.quick else frontier.Sizes(),
        memory.QUICK if options.quick else memory.Sizes(),
    )


def run(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All parts asked for; the figures by part."""
    wanted = options.only or PARTS
    first, second, third = sizes_of(options)
    plan = sentiment.plan(first) if "methods" in wanted else {}
    if set(wanted) & {"memory", "frontier"}:
        plan |= frontier.plan_of_reward_model()
    if "memory" in wanted:
        plan |= memory.plan()
    if "frontier" in wanted:
        plan |= frontier.plan(second)
    sizes = {"methods": asdict(first), "memory": asdict(third), "frontier": asdict(second)}
    settings = {name: {"model": options.model, **sizes[name]} for name in wanted}
    lab = Laboratory(directory, options.model, settings, plan)
    found: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        say(f"{name}: {json.dumps(value)}")
        if options.json:
            options.json.write_text(json.dumps(figures(found, driver.machine(), options.quick), indent=2), "utf-8")

    if "methods" in wanted:
        note("methods", sentiment.compare(lab, first))
    if "memory" in wanted:
        note("memory", memory.compare(lab, frontier.reward_model(lab, second), third))
    if "frontier" in wanted:
        note("frontier", frontier.measure(lab, second))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = read_options(arguments)
    driver.end_on_sigterm()
    temporary = options.quick and options.data is None
    try:
        with tempfile.TemporaryDirectory(prefix="prefloop-") if temporary else nullcontext() as directory:
            found = run(Path(directory or options.data or DEFAULT_DATA), options)
    except (BenchmarkError, UserError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report(found, driver.machine(), options.quick))
    return 0


if __name__ == "__main__":
    sys.exit(main())
