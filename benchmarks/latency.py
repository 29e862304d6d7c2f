"""How long does a judgement take, from request to next comparison, while the next policy is trained on the same cores?

Fills the buffer with real answers of the real model (`python -m rlhf run`, before the app starts), starts the app with
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
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from annotation import importing, store
from annotation.database import open_database
from annotation.records import Sampling
from benchmarks import driver
from benchmarks.driver import App, BenchmarkError, Latency, Ledger, Page, SimulatedAnnotator, Tally, say
from rlhf import base_model, jobs, policies
from rlhf.jobs import Job

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
    sampling: Sampling = Sampling()

    @property
    def comparisons(self) -> int:
        """How many must be in the buffer, with one in hand for each annotator and some on held-out prompts to spare."""
        return self.before + self.one + self.team * self.annotators + self.back_to_back + 2 * self.annotators


QUICK = Plan(12, 8, 5, 10, 6, 3, (0.4, 1.0), Sampling(max_new_tokens=24))


# ---------------------------------------------------------------------------------------------------------- preparing
def fill(data_dir: Path, model: str, plan: Plan) -> None:
    """A data directory as the first start makes it, with the buffer filled by a generate job."""
    db = open_database(data_dir)
    base = base_model.prepare(data_dir, model)
    policies.ensure_base(db, base.name)
    store.add_prompts(db, importing.starter_prompts())
    say(f"drawing answers for {plan.comparisons} comparisons")
    spec = {
        "kind": "generate",
        "buffer": plan.comparisons,
        "until_full": True,
        "prompts_per_batch": 16,
        "sampling": asdict(plan.sampling),
    }
    driver.run_job(data_dir, spec)
    db.close()


def first_choice(left: str, right: str) -> str:
    """A taste that costs no time: the text that sorts first; it decides nothing here."""
    return "left-better" if left < right else "right-better"


def start_training(app: App, owner: Page) -> Job:
    """Press "Train the next iteration" and wait for its first optimiser step."""
    form = owner.handlers["start_training"].form({"epochs": EPOCHS})
    owner.call("start_training", *form)
    db, began = app.database, time.monotonic()
    while time.monotonic() - began < JOB_SECONDS:
        job = jobs.recent(db, ("dpo",), 1)[0]
        if job.status in jobs.ENDED:
            raise BenchmarkError(driver.failure_of(job, app.data_dir))
        if job.step:
            return job
        time.sleep(0.5)
    raise BenchmarkError(f"The training took no step in {JOB_SECONDS:.0f} s.")


def cancel_training(app: App, owner: Page, job: Job) -> float:
    """Press Cancel; returns the seconds until the job has ended."""
    looked = [value for _, value in owner.handlers["poll_train"].inputs]
    owner.call("poll_train", *looked)
    began = time.monotonic()
    owner.call("cancel_job", None)
    while jobs.get(app.database, job.id).status not in jobs.ENDED:
        if time.monotonic() - began > JOB_SECONDS:
            raise BenchmarkError(f"Job {job.id} did not end in {JOB_SECONDS:.0f} s after it was cancelled.")
        time.sleep(0.1)
    return round(time.monotonic() - began, 1)


@contextmanager
def watched(app: App) -> Iterator[None]:
    """An admin's open Train page, asking every two seconds as its timer does."""
    ended = threading.Event()

    def watch(page: Page) -> None:
        looked = [value for _, value in page.handlers["poll_train"].inputs]
        while not ended.wait(WATCH_SECONDS):
            page.call("poll_train", *looked)

    with ThreadPoolExecutor(1) as pool, Page(app.url) as page:
        page.client.cookies.set(app.cookie, app.owner_cookie)
        work = pool.submit(watch, page)
        try:
            yield
        finally:
            ended.set()
            work.result()
