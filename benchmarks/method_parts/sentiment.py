"""Part two of `benchmarks.methods`: the ways of fine-tuning on the lesson's example, sentiment of financial news."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from annotation.examples.example_sets import LABELS, read_example
from benchmarks.harness.driver import say
from benchmarks.harness.gold import WORD
from benchmarks.harness.intervals import Interval, crossed
from benchmarks.harness.laboratory import Laboratory
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data.snapshots import CountedRows, demonstrations, store_snapshot
from rlhf.jobs.job_spec import Method
from rlhf.jobs.job_store import Job

EXAMPLE = "financial-sentiment"
METHODS: tuple[Method, ...] = ("full", "lora", "qlora", "prompt")
NAMES: Mapping[Method, str] = {"full": "full", "lora": "LoRA", "qlora": "QLoRA", "prompt": "prompt tuning"}
# Relative times, for what is said of the time left.
WEIGHTS: Mapping[Method, float] = {"full": 8.0, "lora": 5.0, "qlora": 5.5, "prompt": 4.0}
# With min_p at 1 only the likeliest token is left: greedy decoding.
GREEDY = {"temperature": 1.0, "min_p": 1.0, "max_new_tokens": 16}


@dataclass(frozen=True)
class Sizes:
    """How much is trained, the same for every method."""

    seeds: int = 3
    """From 1 on: 0 has chosen the learning rates."""
    epochs: int = 1
    batch_size: int = 4
    max_length: int = 128
    items: int | None = None
    """Of each split; None for all."""


# A tiny model's tokens are short.
QUICK = Sizes(seeds=1, items=16, max_length=256)


@dataclass(frozen=True)
class Trained:
    """One training and what it answers to the held-out headlines."""

    job: Job
    right: list[float]
    unreadable: float


def plan(sizes: Sizes) -> dict[str, float]:
    """The parts with their relative times."""
    parts = {"base answers": 2.0}
    for seed in range(1, sizes.seeds + 1):
        parts |= {training_name(method, seed): WEIGHTS[method] * sizes.epochs for method in METHODS}
        parts[answers_name(seed)] = 4.0
    return parts


def training_name(method: Method, seed: int) -> str:
    """The part's name."""
    return f"sentiment {method} seed {seed}"


def answers_name(seed: int) -> str:
    """The part's name."""
    return f"sentiment answers seed {seed}"


def spec_of(method: Method, seed: int, sizes: Sizes, snapshot: str, rate: float) -> SFTSpec:
    """The job: the method's defaults but for its rate and what is the same for all, without samples and checkpoints."""
    return SFTSpec(
        source=f"example:{EXAMPLE}",
        snapshot=snapshot,
        method=method,
        learning_rate=rate,
        seed=seed,
        epochs=sizes.epochs,
        batch_size=sizes.batch_size,
        max_length=sizes.max_length,
        samples=0,
        checkpoint_steps=100_000,
    )


def compare(lab: Laboratory, sizes: Sizes, rates: Mapping[Method, float]) -> dict[str, Any]:
    """Train with every method, at its rate, and seed; let all answer the held-out headlines. Figures by method."""
    snapshot = "" if sizes.items is None else small_snapshot(lab, EXAMPLE, sizes.items)
    held_out = [row for row in read_example(EXAMPLE) if row.split == "held-out"][: sizes.items]
    labels = [str(row.label) for row in held_out]
    questions = [[dict(message) for message in row.messages] for row in held_out]

    def ask(name: str, policies: Sequence[tuple[str, str | None]]) -> list[tuple[list[float], float]]:
        return [graded(answers, labels) for answers in answers_to(lab, name, policies, questions)]

    # The base in the precision that the method holds it in.
    before_16, before_4 = ask("base answers", [("base", "bf16"), ("base", "nf4")])
    before = {method: before_4 if method == "qlora" else before_16 for method in METHODS}
    trained: dict[Method, list[Trained]] = {method: [] for method in METHODS}
    for seed in range(1, sizes.seeds + 1):
        done = {
            method: lab.run(training_name(method, seed), spec_of(method, seed, sizes, snapshot, rates[method]))
            for method in METHODS
        }
        answered = ask(answers_name(seed), [(revision_of(job), None) for job in done.values()])
        for (method, job), (right, unreadable) in zip(done.items(), answered, strict=True):
            trained[method].append(Trained(job, right, unreadable))
            say(f"{training_name(method, seed)}: {fmean(before[method][0]):.3f} → {fmean(right):.3f} right")
    return {
        "methods": {
            method: {"learning_rate": rates[method], **figures(runs, before[method])}
            for method, runs in trained.items()
        }
    }


def answers_to(
    lab: Laboratory, name: str, policies: Sequence[tuple[str, str | None]], questions: Sequence[Sequence[Any]]
) -> list[list[str]]:
    """What policies (revision, and the precision to hold the base in) answer, greedily, by policy and question."""
    request = {"policies": policies, "prompts": questions, "sampling": GREEDY, "samples": 1, "seed": 0}
    answered = lab.compute(name, {**request, "model": lab.base.name, "reference": None})
    return [[row[0]["text"] for row in answers] for answers in answered]


def small_snapshot(lab: Laboratory, example: str, items: int) -> str:
    """The first rows of each split of an example as frozen data, for a smoke run."""
    rows = list(demonstrations(lab.db, f"example:{example}"))
    kept = [row for split in ("train", "held-out") for row in [row for row in rows if row.split == split][:items]]
    return store_snapshot(lab.db, lab.directory, CountedRows(kept))


def revision_of(job: Job) -> str:
    """What a training has made."""
    assert job.result is not None
    return str(job.result["revision"])


def label_of(answer: str) -> str | None:
    """The label that an answer gives, in any case and punctuation; None if it gives none, or more than one."""
    found = {word for word in WORD.findall(answer.lower()) if word in LABELS}
    return found.pop() if len(found) == 1 else None


def graded(answers: Sequence[str], labels: Sequence[str]) -> tuple[list[float], float]:
    """Which answers give the label (1 or 0), and the share that gives none or several, which counts as wrong."""
    given = [label_of(answer) for answer in answers]
    right = [float(one == label) for one, label in zip(given, labels, strict=True)]
    return right, fmean(one is None for one in given)


def figures(runs: Sequence[Trained], before: tuple[list[float], float]) -> dict[str, Any]:
    """A method's figures over its seeds: medians of time and memory, and accuracy over seeds and headlines."""
    results = [run.job.result or {} for run in runs]
    accuracy, base = crossed([run.right for run in runs]), crossed([before[0]])
    gain = crossed([[after - start for after, start in zip(run.right, before[0], strict=True)] for run in runs])
    return {
        "trainable": results[0]["trainable"],
        "trainable_percent": results[0]["trainable_percent"],
        "peak_memory_mb": round(median(result["peak_memory_mb"] for result in results), 1),
        "seconds_per_step": round(median(result["seconds_per_step"] for result in results), 3),
        "checkpoint_bytes": results[0]["checkpoint_bytes"],
        "accuracy_before": round(base.value, 4),
        "before_low": round(base.low, 4),
        "before_high": round(base.high, 4),
        "accuracy": round(accuracy.value, 4),
        "low": round(accuracy.low, 4),
        "high": round(accuracy.high, 4),
        "gain": [round(value, 4) for value in gain],
        "by_seed": [round(fmean(run.right), 4) for run in runs],
        "unreadable_before": round(before[1], 4),
        "unreadable": round(fmean(run.unreadable for run in runs), 4),
        "steps": results[0]["steps"],
    }


def table(methods: Mapping[str, Mapping[str, Any]]) -> tuple[Sequence[str], list[list[str]]]:
    """Headers and rows for people."""
    headers = (
        "method",
        "rate",
        "trainable",
        "of all",
        "peak memory",
        "s / step",
        "checkpoint",
        "accuracy before",
        "accuracy after (95%)",
        "each seed",
        "unreadable before / after",
    )
    rows = [
        [
            NAMES[method],
            f"{found['learning_rate']:g}",
            f"{found['trainable']:,}",
            f"{found['trainable_percent']:.3g}%",
            f"{found['peak_memory_mb']:,.0f} MB",
            f"{found['seconds_per_step']:.2f}",
            f"{found['checkpoint_bytes'] / 1e6:,.2f} MB",
            interval_cell(Interval(found["accuracy_before"], found["before_low"], found["before_high"])),
            interval_cell(Interval(found["accuracy"], found["low"], found["high"])),
            ", ".join(f"{value:.3f}" for value in found["by_seed"]),
            f"{found['unreadable_before']:.0%} / {found['unreadable']:.0%}",
        ]
        for method, found in ((method, methods[method]) for method in METHODS if method in methods)
    ]
    return headers, rows


def interval_cell(interval: Interval) -> str:
    """A share with its interval."""
    return f"{interval.value:.3f} ({interval.low:.2f}–{interval.high:.2f})"
