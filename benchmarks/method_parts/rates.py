"""Part one of `benchmarks.methods`: the learning rate of each way of fine-tuning, chosen apart from what is reported.

Every fourth training headline is held back, the rest is trained on with seed 0, and each method takes the rate that
gets most of those held back right. The test headlines are not looked at, and seed 0 is not among those reported.
QLoRA takes what LoRA takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from annotation.examples.example_sets import read_example
from benchmarks.harness.driver import say
from benchmarks.harness.laboratory import Laboratory
from benchmarks.method_parts.sentiment import EXAMPLE, NAMES, WEIGHTS, Sizes, answers_to, graded, revision_of, spec_of
from rlhf.data.snapshots import CountedRows, demonstrations, store_snapshot
from rlhf.jobs.job_spec import Method

RATES: Mapping[Method, tuple[float, ...]] = {
    "full": (2e-5, 1e-4, 3e-4),
    "lora": (2e-4, 1e-3, 3e-3),
    "prompt": (1e-2, 3e-2, 1e-1),
}
SEED = 0
HELD_BACK = 4
"""Every so many-th headline."""


@dataclass(frozen=True)
class Split:
    """The training headlines apart: frozen data to train on, and what is asked afterwards."""

    snapshot: str
    questions: list[list[dict[str, str]]]
    labels: list[str]


def tried(sizes: Sizes) -> Mapping[Method, Sequence[float]]:
    """The rates of each method; of a smoke run one of one method."""
    return RATES if sizes.items is None else {"prompt": RATES["prompt"][:1]}


def plan(sizes: Sizes) -> dict[str, float]:
    """The parts with their relative times."""
    share = 1 - 1 / HELD_BACK
    trainings = {
        training_name(method, rate): WEIGHTS[method] * sizes.epochs * share
        for method, rates in tried(sizes).items()
        for rate in rates
    }
    return {**trainings, **{answers_name(method): 1.5 for method in tried(sizes)}}


def training_name(method: Method, rate: float) -> str:
    """The part's name."""
    return f"rate {method} {rate:g}"


def answers_name(method: Method) -> str:
    """The part's name."""
    return f"rate answers {method}"


def split(lab: Laboratory, sizes: Sizes) -> Split:
    """Hold every fourth training headline back, as the frozen data's held-out rows."""
    rows = [row for row in demonstrations(lab.db, f"example:{EXAMPLE}") if row.split == "train"][: sizes.items]
    kept = [replace(row, split="train" if place % HELD_BACK else "held-out") for place, row in enumerate(rows)]
    held_back = [row for row in read_example(EXAMPLE) if row.split == "train"][: sizes.items][::HELD_BACK]
    return Split(
        store_snapshot(lab.db, lab.directory, CountedRows(kept)),
        [[dict(message) for message in row.messages] for row in held_back],
        [str(row.label) for row in held_back],
    )


def choose(lab: Laboratory, sizes: Sizes) -> dict[str, Any]:
    """Train at every rate, and see which gets most of the held-back headlines right."""
    data, found = split(lab, sizes), dict[str, Any]()
    for method, rates in tried(sizes).items():
        done = [
            lab.run(training_name(method, rate), spec_of(method, SEED, sizes, data.snapshot, rate)) for rate in rates
        ]
        policies = [(revision_of(job), None) for job in done]
        answered = answers_to(lab, answers_name(method), policies, data.questions)
        right = [fmean(graded(answers, data.labels)[0]) for answers in answered]
        found[method] = [{"rate": rate, "accuracy": round(share, 4)} for rate, share in zip(rates, right, strict=True)]
        say(f"{method}: {found[method]}")
    return {"rates": {"headlines": len(data.labels), "methods": found}}


def chosen(found: Mapping[str, Any]) -> dict[Method, float]:
    """The rate of each method: what got most right, the lowest of equals; the lowest where none was tried."""
    measured = found["methods"]
    best = {
        method: max(measured[method], key=lambda one: one["accuracy"])["rate"] if method in measured else rates[0]
        for method, rates in RATES.items()
    }
    return {**best, "qlora": best["lora"]}


def describe(found: Mapping[str, Any]) -> str:
    """Every rate and what came of it, in a sentence."""
    lines = [f"{NAMES[method]} {', '.join(map(cell, entries))}" for method, entries in found["methods"].items()]
    return f"Right on {found['headlines']} held-back training headlines, by learning rate: {'; '.join(lines)}."


def cell(tried: Mapping[str, float]) -> str:
    """One rate with its accuracy."""
    return f"{tried['accuracy']:.0%} at {tried['rate']:g}"
