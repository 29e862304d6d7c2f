"""How long does a judgement take, from request to next comparison, while the next policy is trained on the same cores?

Fills the stock with real answers of the real model (`python -m rlhf run`, before the app starts), starts the app with
its workers, lets one annotator judge enough to train on, presses "Train the next iteration", and measures series of
judgements while the training takes steps. An admin has the Train page open all the while, which asks every two seconds.

How to read it. The promise is 100 ms at the 95th percentile; `over 100 ms` is the share of requests beyond it.
`one` and `team` judge with short pauses, faster than people read; `back to back` does not pause at all. `before` is
the same as `one` without training, to compare. `undo + judge` is extra load: it takes a judgement back and makes it
again; it counts neither in the totals nor in the JSON's main figures. Judgements that were lost or stored twice must
be 0. Client and server share the machine: what the client needs for its part is in the figures.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from annotation.database import open_database
from annotation.imports import importing
from annotation.records import Sampling
from annotation.store import prompt_store
from benchmarks.harness import driver
from benchmarks.harness.driver import (
    Answered,
    App,
    BenchmarkError,
    Latency,
    Ledger,
    Page,
    SimulatedAnnotator,
    Tally,
    say,
)
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.models import registry
from rlhf.models.base import base_files, base_model

LIMIT_MS = 100.0
WATCHER = "watcher"
WATCH_SECONDS = 2.0
JOB_SECONDS = 600.0
# Enough for any series: the run is cancelled when all are measured.
EPOCHS = 200


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    before: int = 24
    one: int = 40
    team: int = 25
    """Judgements of each annotator of the team."""
    back_to_back: int = 40
    undone: int = 30
    annotators: int = 4
    pause: tuple[float, float] = (0.6, 2.0)
    """Seconds between judgements, drawn evenly."""
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def comparisons(self) -> int:
        """How many must be in stock, with one in hand for each annotator and some on held-out prompts to spare."""
        return self.before + self.one + self.team * self.annotators + self.back_to_back + 2 * self.annotators


QUICK = Plan(
    before=12,
    one=8,
    team=5,
    back_to_back=10,
    undone=6,
    annotators=3,
    pause=(0.4, 1.0),
    sampling=Sampling(max_new_tokens=24),
)


# ---------------------------------------------------------------------------------------------------------- preparing
def fill(data_dir: Path, model: str, plan: Plan) -> None:
    """A data directory as the first start makes it, with the stock filled by an answering job."""
    db = open_database(data_dir)
    base = base_model.prepare(data_dir, model)
    registry.ensure_base(db, base.name)
    prompt_store.add_prompts(db, importing.starter_prompts())
    driver.measure_nobody(db)
    say(f"drawing answers for {plan.comparisons} comparisons")
    spec = {
        "kind": "answering",
        "stock": plan.comparisons,
        "spare": 0,
        "until_full": True,
        "prompts_per_batch": 16,
        "sampling": asdict(plan.sampling),
    }
    driver.run_job(data_dir, spec)
    db.close()


def first_choice(left: str, right: str) -> str:
    """A taste that costs no time: the text that sorts first; it decides nothing here."""
    return "left-clearly" if left < right else "right-clearly"


def start_training(app: App, owner: Page) -> Job:
    """Press "Train the next iteration" and wait for its first optimiser step."""
    form = owner.handlers["start_dpo"].form({"Epochs": EPOCHS})
    owner.call("start_dpo", *form)
    db, began = app.database, time.monotonic()
    while time.monotonic() - began < JOB_SECONDS:
        job = job_store.recent(db, ("dpo",), 1)[0]
        if not job.is_open:
            raise BenchmarkError(driver.failure_of(job, app.data_dir))
        if job.step:
            return job
        time.sleep(0.5)
    raise BenchmarkError(f"The training took no step in {JOB_SECONDS:.0f} s.")


def cancel_training(app: App, owner: Page, job: Job) -> float:
    """Press Cancel; returns the seconds until the job has ended."""
    looked = [value for _, value in owner.handlers["poll_runs"].inputs]
    owner.call("poll_runs", *looked)
    began = time.monotonic()
    owner.call("run_cancel", *looked)
    while job_store.get(app.database, job.id).is_open:
        if time.monotonic() - began > JOB_SECONDS:
            raise BenchmarkError(f"Job {job.id} did not end in {JOB_SECONDS:.0f} s after it was cancelled.")
        time.sleep(0.1)
    return round(time.monotonic() - began, 1)


@contextmanager
def watched(page: Page) -> Iterator[None]:
    """An admin's open Train page, asking every two seconds as its timer does."""
    ended = threading.Event()
    looked = [value for _, value in page.handlers["view_dpo"].inputs]

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            page.call("view_dpo", *looked)

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(watch)
        try:
            yield
        finally:
            ended.set()
    work.result()


def wait_for_answering_worker(app: App) -> None:
    """Wait until the answering worker has loaded the model, so that this is over before anything is measured."""
    db, began = app.database, time.monotonic()
    while time.monotonic() - began < JOB_SECONDS:
        answering = job_store.active(db, ("answering",))
        if answering and job_store.log_tail(db, answering[-1].id):
            return
        time.sleep(0.5)
    raise BenchmarkError(f"The answering worker was not ready after {JOB_SECONDS:.0f} s:\n{app.output()}")


# ---------------------------------------------------------------------------------------------------------- measuring
@dataclass(frozen=True)
class Series:
    """Judgements of the same kind."""

    name: str
    annotators: int
    latency: Latency
    during_training: int
    dry: int
    """Times when the stock was empty: the next comparison could not be given, and the request is left out."""


@dataclass(frozen=True)
class Measured:
    """A series as it was measured."""

    name: str
    annotators: int
    answers: Sequence[Answered]
    dry: int = 0

    def series(self, training: Job) -> Series:
        """The series' figures, with how many requests were sent while the training ran."""
        latency = driver.latency_of([answered.seconds for answered in self.answers])
        assert latency is not None
        during = sum(ran_at(training, answered.at) for answered in self.answers)
        return Series(name=self.name, annotators=self.annotators, latency=latency, during_training=during, dry=self.dry)


def ran_at(job: Job, at: float) -> bool:
    """Whether an ended job was running at this time."""
    assert job.started is not None
    assert job.finished is not None
    return datetime.fromisoformat(job.started).timestamp() <= at <= datetime.fromisoformat(job.finished).timestamp()


def judge_series(
    annotator: SimulatedAnnotator, count: int, pause: tuple[float, float], seed: int
) -> tuple[list[Answered], int]:
    """Judge `count` comparisons; returns the server's answers, and how often the stock was empty."""
    source = random.Random(seed)
    answers: list[Answered] = []
    dry, card = 0, annotator.look()
    while len(answers) < count:
        if not card.nonce:
            time.sleep(driver.POLL_SECONDS)
            card, dry = annotator.poll(), dry + 1
            continue
        time.sleep(source.uniform(*pause))
        answered = annotator.judge(card)
        if answered.recorded:
            answers.append(answered)
        card = answered.next
    return answers, dry


def undo_series(annotator: SimulatedAnnotator, count: int) -> list[Answered]:
    """Take the last judgement back and make it again, `count` times without a pause; both requests are measured."""
    answers: list[Answered] = []
    card = annotator.look()
    for _ in range(count):
        undone = annotator.undo(card)
        again = annotator.judge(undone.next)
        answers += [undone, again]
        card = again.next
    return answers


def measure(
    name: str, team: Sequence[SimulatedAnnotator], count: int, pause: tuple[float, float] = (0.0, 0.0)
) -> Measured:
    """A series by several annotators at once."""
    say(f"measuring: {name}")
    with ThreadPoolExecutor(len(team)) as pool:
        work = [pool.submit(judge_series, annotator, count, pause, seed) for seed, annotator in enumerate(team)]
        done = [future.result() for future in work]
    return Measured(
        name, len(team), [answered for answers, _ in done for answered in answers], sum(dry for _, dry in done)
    )


@dataclass(frozen=True)
class Outcome:
    """All that was measured."""

    series: Sequence[Series]
    total: Latency
    """Over the series while training ran, undone judgements aside."""
    during_training: int
    tally: Tally
    cancel_seconds: float


def run(app: App, plan: Plan) -> Outcome:
    """Sign everybody in, start the training, and measure."""
    names = [f"annotator-{number}" for number in range(1, plan.annotators + 1)]
    ledger = Ledger()
    with ExitStack() as stack:
        owner = stack.enter_context(Page(app.url))
        owner.follow(app.owner_link)
        pages = driver.add_people(owner, app.url, {**dict.fromkeys(names, "annotator"), WATCHER: "admin"})
        for page in pages.values():
            stack.enter_context(page)
        team = [SimulatedAnnotator(pages[name], ledger, first_choice) for name in names]
        wait_for_answering_worker(app)
        before = measure("before", team[:1], plan.before, plan.pause)
        say("starting the training")
        training = start_training(app, owner)
        with watched(pages[WATCHER]):
            during = [
                measure("one", team[:1], plan.one, plan.pause),
                measure("team", team, plan.team, plan.pause),
                measure("back to back", team[:1], plan.back_to_back),
            ]
            say("measuring: undo + judge")
            undone = Measured("undo + judge", 1, undo_series(team[0], plan.undone))
        cancel_seconds = cancel_training(app, owner, training)
        ended = job_store.get(app.database, training.id)
    total = driver.latency_of([answered.seconds for measured in during for answered in measured.answers])
    assert total is not None
    series = [measured.series(ended) for measured in (before, *during, undone)]
    return Outcome(
        series=series,
        total=total,
        during_training=sum(entry.during_training for entry in series[1:-1]),
        tally=ledger.tally(app.database),
        cancel_seconds=cancel_seconds,
    )


# ---------------------------------------------------------------------------------------------------------- reporting
def report(outcome: Outcome) -> str:
    """A table for people; the last line is one JSON object."""
    found = driver.machine()
    rows = [
        (
            entry.name,
            entry.annotators,
            entry.latency.count,
            entry.during_training,
            *(f"{value:.1f}" for value in (entry.latency.p50_ms, entry.latency.p95_ms, entry.latency.max_ms)),
            f"{entry.latency.over_100_ms:.1%}",
            entry.dry,
        )
        for entry in outcome.series
    ]
    headers = ("series", "annotators", "requests", "in training", "p50 ms", "p95 ms", "max ms", "over 100 ms", "dry")
    total, tally = outcome.total, outcome.tally
    verdict = "within" if total.p95_ms <= LIMIT_MS else "NOT within"
    lines = [
        driver.table(headers, rows),
        "",
        f"While training ran: p95 {total.p95_ms:.1f} ms over {total.count} judgements, {verdict} {LIMIT_MS:.0f} ms.",
        f"Judgements: {tally.acknowledged} acknowledged, {tally.stored} stored, {tally.lost} lost, "
        f"{tally.judged_twice + tally.unforeseen} duplicated or unforeseen. "
        f"Cancelling the training took {outcome.cancel_seconds:.1f} s.",
        driver.describe_machine(found),
        json.dumps(figures(outcome) | {"machine": found}),
    ]
    return "\n".join(lines)


def figures(outcome: Outcome) -> dict[str, Any]:
    """The JSON object's content."""
    total, tally = outcome.total, outcome.tally
    return {
        "p50_ms": total.p50_ms,
        "p95_ms": total.p95_ms,
        "max_ms": total.max_ms,
        "over_100_ms": total.over_100_ms,
        "judgements": total.count,
        "during_training": outcome.during_training,
        "judgements_acknowledged": tally.acknowledged,
        "judgements_stored": tally.stored,
        "judgements_lost": tally.lost,
        "judgements_duplicated": tally.judged_twice + tally.unforeseen,
        "cancel_seconds": outcome.cancel_seconds,
        "series": {
            entry.name: {"annotators": entry.annotators, "during_training": entry.during_training}
            | {"dry": entry.dry, **asdict(entry.latency)}
            for entry in outcome.series
        },
    }


# ------------------------------------------------------------------------------------------------------------ running
@driver.benchmark
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when no judgement was lost or stored twice."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="short series on short answers, in under two minutes")
    parser.add_argument("--model", metavar="NAME_OR_DIR", default=base_files.EMBEDDED, help="as for app.py")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a new data directory, which is kept")
    parser.add_argument("--keep", action="store_true", help="keep the temporary data directory")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    with driver.data_directory(options.data, options.keep) as data_dir:
        fill(data_dir, options.model, plan)
        with App(data_dir, model=options.model) as app:
            say(f"the app runs at {app.url} after {app.start_seconds:.1f} s")
            outcome = run(app, plan)
    print(report(outcome))
    return 0 if outcome.tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())
