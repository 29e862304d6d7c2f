"""People, AI judges, or both at equal cost: how far two iterations come by a gold rule that only "people" know.

How to read it. Every condition starts from the base model and makes two iterations: comparisons of the serving policy's
answers, judgements, DPO (LoRA, by the defaults but for the epochs), promotion. Simulated people judge by
`benchmarks.harness.gold`. A simulated judge gives each verdict as they would with the stated chance, drawn anew for
each order of the two answers, so that it also contradicts itself, which makes ties. A judgement by people costs 1, one
by a judge (both orders) `price`; each iteration may spend `budget`. `mixed` lets the judge label first and spends the
other half on what people are asked then: what it contradicts itself on or is unsure of, and a random share. What the
budget does not reach is not trained on.

`win rate`: how often the last policy's answer to a held-out prompt beats the base's by the gold rule, same seeds, a tie
counting half; the interval is over seeds and prompts together (`benchmarks.harness.intervals`). `pairs` is what the two
trainings learnt from, `right` the share of them that the gold rule would order the same way.

An iteration whose judgements leave too few pairs to train on (a judge that contradicts itself makes ties) trains
nothing and keeps the policy that serves; `trained` says in how many iterations there was a training.

It goes on where it was broken off: give the same --data. Several can share the work and a --data, each with seeds of
its own by --first-seed and --seeds; a last run over all seeds then only makes the table.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from annotation.claims import handing_out, judging
from annotation.exports.frozen_rows import PreferenceRow
from annotation.imports.importing import starter_prompts
from annotation.records import Feedback, Sampling
from annotation.store import project_store, prompt_store
from annotation.web import access
from benchmarks.harness import driver
from benchmarks.harness.driver import act_of, say
from benchmarks.harness.gold import gold
from benchmarks.harness.intervals import crossed
from benchmarks.harness.laboratory import Laboratory
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.data.snapshots import TooFewRows
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.judge_store import Judge
from rlhf.judges.verdicts import Choice, Verdict
from rlhf.models import decision_store, registry
from rlhf.models.base.base_files import EMBEDDED
from rlhf.models.tokenise import load_snapshot, of_split

Mode = Literal["people", "ai", "mixed"]
AGREEMENTS = ("0.65", "0.75", "0.90")
ITERATIONS = 2
TEST_SEED = 500_000
DEFAULT_DATA = driver.DEFAULT_DATA_DIR / "benchmark-rlaif"


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    seeds: int = 5
    budget: float = 20.0
    """What an iteration may spend, in judgements by people."""
    price: float = 0.5
    """Of a judgement by a judge."""
    share_for_people: float = 0.5
    """Of the budget, when mixed."""
    tokens: int = 40
    held_out: int = 60
    epochs: int = 5
    """More than the default's 3: there are few pairs."""

    def comparisons(self, mode: Mode) -> int:
        """How many are drawn in an iteration."""
        if mode == "people":
            return int(self.budget)
        share = 1 - self.share_for_people if mode == "mixed" else 1.0
        return int(self.budget * share / self.price)


QUICK = Sizes(seeds=1, budget=10.0, price=0.5, tokens=12, held_out=6, epochs=1)


@dataclass(frozen=True)
class Condition:
    """Who judges: people, a judge, or both; and the judge's chance to agree with people."""

    mode: Mode
    judge: str = ""

    @property
    def name(self) -> str:
        """As a directory and in tables."""
        return f"{self.mode} {self.judge}".strip()


def conditions(quick: bool) -> list[Condition]:
    """People alone, then each judge alone and mixed."""
    panel = ("0.75",) if quick else AGREEMENTS
    modes: tuple[Mode, Mode] = ("ai", "mixed")
    return [Condition("people"), *(Condition(mode, judge) for judge in panel for mode in modes)]


# ------------------------------------------------------------------------------------------------------------ judging
def taste(left: str, right: str) -> str:
    """The verdict of a simulated person."""
    worths = gold(left), gold(right)
    return "tie" if worths[0] == worths[1] else "left-clearly" if worths[0] > worths[1] else "right-clearly"


def people_judge(lab: Laboratory, most: int) -> None:
    """Let simulated people judge what they are handed, up to `most`."""
    name = "gold"
    known = access.find(lab.db, name)
    person = access.add_account(lab.db, name, "annotator", "a password") if known is None else known.annotator
    for _ in range(most):
        claim = handing_out.claim_next(lab.db, person.id)
        if claim is None:
            return
        judging.judge(lab.db, person.id, claim.nonce, act_of(taste(*(answer.text for answer in claim.shown))))


def judge_simulated(lab: Laboratory, judge: Judge, agreement: float, seed: int, most: int) -> None:
    """Give a simulated judge's verdicts on what is open, each right with this chance."""
    for comparison in verdict_store.to_judge(lab.db, judge, "open", most):
        for pair in comparison.missing:
            right = choice_of(*(comparison.answers[place] for place in pair))
            lucky = random.Random(f"{seed} {comparison.id} {pair}").random() < agreement
            swapped: Mapping[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
            choice = right if lucky else swapped[right]
            chance = {"first": agreement, "second": 1 - agreement, "tie": 0.5}[choice]
            verdict = Verdict(choice=choice, chance=chance, reply="", prompt_tokens=0, completion_tokens=0, seconds=0.0)
            verdict_store.add_verdict(lab.db, judge, comparison.id, pair, verdict, 0, (), None)
        verdict_store.judge_comparison(lab.db, judge, comparison)


def choice_of(first: str, second: str) -> Choice:
    """Which of two answers people would choose."""
    worths = gold(first), gold(second)
    return "tie" if worths[0] == worths[1] else "first" if worths[0] > worths[1] else "second"


def label(lab: Laboratory, condition: Condition, sizes: Sizes, iteration: int, seed: int) -> dict[str, int]:
    """Spend an iteration's budget on judgements; returns how many there are by people and by the judge.

    What an earlier start has spent of it before it was broken off is spent.
    """
    path = lab.parts / f"judged-before-{iteration}.json"
    if not path.exists():
        path.write_text(json.dumps(judged(lab)), "utf-8")
    before: dict[str, int] = json.loads(path.read_text("utf-8"))
    drawn = sizes.comparisons(condition.mode)
    for_people = drawn
    if condition.mode != "people":
        judge = judge_store.by_name(lab.db, "judge")
        for_people = int(sizes.budget - drawn * sizes.price + 1e-9) if condition.mode == "mixed" else 0
        left = drawn - (judged(lab)["judge"] - before["judge"])
        judge_simulated(lab, judge, float(condition.judge), seed, left)
    people_judge(lab, for_people - (judged(lab)["people"] - before["people"]))
    return {kind: number - before[kind] for kind, number in judged(lab).items()}


def judged(lab: Laboratory) -> dict[str, int]:
    """How many comparisons people and judges have judged so far."""
    count = """SELECT count(*) FROM current_judgement j JOIN annotator a ON a.id = j.annotator_id WHERE a.kind = ?"""
    return {name: int(lab.db.value(count, (kind,))) for name, kind in (("people", "person"), ("judge", "ai"))}


# --------------------------------------------------------------------------------------------------------- iterations
def prepared(lab: Laboratory, condition: Condition) -> None:
    """The prompts, nobody measured, and who judges."""
    prompt_store.add_prompts(lab.db, starter_prompts())
    driver.measure_nobody(lab.db)
    if condition.mode != "people" and not judge_store.judges(lab.db):
        judge_store.add(lab.db, "judge", "local", {"model": "base"}, "the benchmark")
        project_store.set_feedback(lab.db, Feedback(mode=condition.mode))


def iterate(lab: Laboratory, condition: Condition, sizes: Sizes, iteration: int, seed: int) -> dict[str, Any]:
    """One iteration to its promotion; what it cost and learnt from. Kept in a file when it is done."""
    path = lab.parts / f"iteration-{iteration}.json"
    if path.exists():
        return dict(json.loads(path.read_text("utf-8")))
    drawn = sizes.comparisons(condition.mode)
    sampling = Sampling(max_new_tokens=sizes.tokens)
    # One in six is on a held-out prompt; these are judged like the others, and not trained on.
    lab.run(f"generate {iteration}", AnsweringSpec(seed=seed, stock=drawn, until_full=True, sampling=sampling))
    spent = label(lab, condition, sizes, iteration, seed)
    found = {**train(lab, sizes, iteration, seed), **spent}
    path.write_text(json.dumps(found), "utf-8")
    return found


def train(lab: Laboratory, sizes: Sizes, iteration: int, seed: int) -> dict[str, Any]:
    """Train on all judgements and promote; without enough pairs, go on with the policy that serves."""
    try:
        # Four pairs a step as by default, in one pass; on CPUs full precision is faster than four bits.
        spec = DPOSpec(
            method="lora",
            batch_size=4,
            accumulation=1,
            epochs=sizes.epochs,
            seed=seed,
            check=False,
            samples=0,
        )
        job = lab.run(f"train {iteration}", spec)
    except TooFewRows as error:
        say(str(error))
        return {"revision": registry.serving(lab.db).revision, "trained": False, "pairs": 0, "right": 0}
    assert job.result is not None
    revision = str(job.result["revision"])
    if registry.serving(lab.db).revision != revision:
        decision_store.promote(lab.db, revision, "the benchmark")
    rows = of_split(load_snapshot(lab.directory, job.result["snapshot"], PreferenceRow), "train")
    right = sum(gold(row.chosen.text) > gold(row.rejected.text) for row in rows)
    return {"revision": revision, "trained": True, "pairs": len(rows), "right": right}


def wins(lab: Laboratory, sizes: Sizes, revision: str, shared: Path) -> list[float]:
    """The last policy against the base on each held-out prompt by the gold rule: 1, 1/2 or 0.

    What the base's answers are worth is the same for all, and kept in the file `shared`.
    """
    prompts = prompt_store.prompts(lab.db, "held-out")[: sizes.held_out]
    if revision == "base":
        return [0.5] * len(prompts)
    missing = [] if shared.exists() else [("base", "bf16")]
    request = {
        "policies": [(revision, None), *missing],
        "prompts": [[dict(message) for message in prompt.messages] for prompt in prompts],
        "sampling": asdict(Sampling(max_new_tokens=sizes.tokens)),
        "samples": 1,
        "seed": TEST_SEED,
        "model": lab.base.name,
        "reference": None,
    }
    own, *base = ([gold(one[0]["text"]) for one in made] for made in lab.compute("answers", request))
    if base:
        shared.write_text(json.dumps(base[0]), "utf-8")
    others = json.loads(shared.read_text("utf-8"))
    return [0.5 if one == other else float(one > other) for one, other in zip(own, others, strict=True)]


def plan(condition: Condition, sizes: Sizes) -> dict[str, float]:
    """A condition's parts with their relative times."""
    weights, drawn = {"generate": 1.0, "train": float(sizes.epochs)}, sizes.comparisons(condition.mode)
    made = {f"{name} {number}": weights[name] * drawn for number in range(1, ITERATIONS + 1) for name in weights}
    return {**made, "answers": 1.0 * sizes.held_out}


def measure(directory: Path, model: str, condition: Condition, sizes: Sizes, seed: int) -> dict[str, Any]:
    """One condition with one seed, in a data directory of its own."""
    place = directory / condition.name.replace(" ", "-") / f"seed-{seed}"
    done = place.with_suffix(".json")
    if done.exists():
        return dict(json.loads(done.read_text("utf-8")))
    lab = Laboratory(place, model, {"rlaif": {"model": model, **asdict(sizes)}}, plan(condition, sizes))
    prepared(lab, condition)
    iterations = [iterate(lab, condition, sizes, number, seed) for number in range(1, ITERATIONS + 1)]
    outcomes = wins(lab, sizes, iterations[-1]["revision"], directory / "base.json")
    lab.db.close()
    found = {"wins": outcomes, "iterations": iterations}
    done.write_text(json.dumps(found), "utf-8")
    shutil.rmtree(place)  # adapters and a copy of the base by the dozen
    say(f"{condition.name}, seed {seed}: {fmean(outcomes):.3f}")
    return found


def figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A condition's figures over its seeds."""
    rate = crossed([run["wins"] for run in runs])
    spent = [one for run in runs for one in run["iterations"]]
    pairs = sum(one["pairs"] for one in spent)
    return {
        "win_rate": round(rate.value, 4),
        "low": round(rate.low, 4),
        "high": round(rate.high, 4),
        "by_seed": [round(fmean(run["wins"]), 4) for run in runs],
        "people": round(sum(one["people"] for one in spent) / len(runs), 2),
        "judge": round(sum(one["judge"] for one in spent) / len(runs), 2),
        "trained": sum(one["trained"] for one in spent),
        "pairs": round(pairs / len(runs), 2),
        "right": round(sum(one["right"] for one in spent) / max(pairs, 1), 4),
    }


# ---------------------------------------------------------------------------------------------------------- reporting
def report(found: Mapping[str, Any]) -> str:
    """A table for people; the last line is one JSON object."""
    headers = ("who judges", "win rate (95%)", "each seed", "by people", "by the judge", "trained", "pairs", "right")
    rows = [
        (
            name,
            f"{one['win_rate']:.1%} ({one['low']:.1%}–{one['high']:.1%})",
            ", ".join(f"{value:.0%}" for value in one["by_seed"]),
            f"{one['people']:.0f}",
            f"{one['judge']:.0f}",
            f"{one['trained']} of {ITERATIONS * len(one['by_seed'])}",
            f"{one['pairs']:.0f}",
            f"{one['right']:.0%}",
        )
        for name, one in found["conditions"].items()
    ]
    smoke = ["SMOKE RUN: it shows that everything runs, no more.", ""] if found["quick"] else []
    table = driver.table(headers, rows)
    return "\n".join([*smoke, table, "", f"{driver.describe_machine(found['machine'])}.", json.dumps(found)])


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rlaif", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; figures mean little")
    parser.add_argument("--seeds", type=int, metavar="N", help="repetitions of each condition (default: 5, quick: 1)")
    parser.add_argument("--first-seed", type=int, metavar="N", default=1, help="where these start (default: 1)")
    parser.add_argument("--model", metavar="NAME_OR_DIR", default=EMBEDDED, help="base model, as for app.py")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help=f"where to work and to go on (default: {DEFAULT_DATA})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    return parser.parse_args(arguments)


def run(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every condition with every seed, seed by seed, so that what is there early says something of all."""
    sizes = QUICK if options.quick else Sizes()
    wanted = range(options.first_seed, options.first_seed + (options.seeds or sizes.seeds))
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in wanted:
        for condition in conditions(options.quick):
            found = measure(directory, options.model, condition, sizes, seed)
            runs.setdefault(condition.name, []).append(found)
    return {
        "quick": options.quick,
        "model": options.model,
        "machine": driver.machine(),
        "sizes": asdict(sizes),
        "conditions": {name: figures(made) for name, made in runs.items()},
    }


@driver.benchmark
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = read_options(arguments)
    with driver.working_directory(options, DEFAULT_DATA) as directory:
        found = run(directory, options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), "utf-8")
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
