"""A worker, one process for one job: it claims it, runs it or a share of it, and ends when told to."""

from __future__ import annotations

import argparse
import logging
import os
import select
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from annotation.database import Database, open_database
from annotation.environment import keep_private
from annotation.jobs.attempt import Stopped
from annotation.records import UserError
from annotation.ui.invisible import visible
from annotation.ui.terminal import outlast_readers
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import checkpoints_directory
from rlhf.jobs.job_store import SampleAnswer
from rlhf.jobs.run import Run, attend, record_failure, run_algorithm

# How long a process may take to save and end once the program that started it is gone.
GRACE_SECONDS = 300.0


class ReplicaRun(Run):
    """A further process of a job with several: it computes its share and leaves the rows to the first one."""

    def __init__(
        self, db: Database, data_dir: Path, job: job_store.Job, worker: str, terminated: threading.Event, rank: int
    ) -> None:
        super().__init__(db, data_dir, job, worker, terminated)
        self.rank = rank

    def report(self, step: int, steps: int, metrics: Mapping[str, float], message: str = "") -> None:
        """Nothing: the first process reports."""

    def beat(self) -> None:
        """Nothing: the first process beats."""

    def log(self, text: str) -> None:
        print(visible(f"[process {self.rank}] {text}"), flush=True)

    def sample(self, step: int, answers: Sequence[SampleAnswer]) -> None:
        """Nothing: the first process draws samples."""


def listen_for_the_end(tied: bool) -> threading.Event:
    """Set once this process is told to end by a signal, or, where it is tied, by the end of standard input.

    The other end of that pipe is held by the program that started this one, so it ends with it, however that died and
    however far this one had come. A process number read here would be too late: it may be that of another by then.
    """
    terminated = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: terminated.set())
    if tied:
        line = os.dup(sys.stdin.fileno())
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), sys.stdin.fileno())  # for libraries that would ask a person
        # Where that program is gone already, nothing may be claimed before the thread below has its first turn.
        if sys.platform != "win32" and select.select([line], [], [], 0)[0]:
            terminated.set()
        threading.Thread(target=await_end, args=(line, terminated), name="life line", daemon=True).start()
    return terminated


def await_end(line: int, terminated: threading.Event) -> None:
    """Wait for the end of a pipe, and end this process some time after it where it does not do so by itself."""
    os.read(line, 1)  # nothing is ever written; not a buffered reader, whose lock would be held when Python ends
    terminated.set()
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def work(db: Database, data_dir: Path, job_id: int, worker: str, terminated: threading.Event) -> int:
    """Claim a job for this worker id and run it to its end; returns the process's exit code."""
    rank = int(os.environ.get("RANK", "0"))
    job = job_store.claim(db, job_id, worker) if rank == 0 and not terminated.is_set() else None
    if job is not None and job.attempt == 1:  # another database's, whose jobs had these numbers too
        shutil.rmtree(checkpoints_directory(data_dir, job_id), ignore_errors=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        claimed = agreed(job is not None)
        if rank:
            return (
                follow(ReplicaRun(db, data_dir, job_store.get(db, job_id), worker, terminated, rank)) if claimed else 0
            )
    if job is None:
        print(f"Job {job_id} is not queued, or Prefloop was stopped; nothing to do.", flush=True)
        return 0
    return attend(Run(db, data_dir, job, worker, terminated), job.spec)


def agreed(first: bool) -> bool:
    """What the first of the job's processes says, in all of them."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    return bool(broadcast_object_list([first])[0])


def follow(run: ReplicaRun) -> int:
    """Compute a further process's share of a job; the first one records how it ended, unless this one fails."""
    spec = job_store.get(run.db, run.job_id).spec
    try:
        run_algorithm(run, spec)
    except Stopped:
        return 0
    except BaseException as error:
        return record_failure(run, spec, error)
    return 0


def prepare_process() -> None:
    """Quiet libraries, no telemetry, and a lower priority than the page that people wait for."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["TQDM_DISABLE"] = "1"
    # Nothing is compiled here; what would do it takes a second of a processor to import.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # Two workers share the processors. OpenMP's threads spin at every barrier while they wait for one that the other
    # worker has pushed aside; asleep they leave it the processor: ten times faster on two busy cores. Read once, when
    # torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.nice(10)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--worker", default=uuid.uuid4().hex, help="the id under which to claim the job")
    parser.add_argument("--job", type=int, required=True, help="the queued job to run")
    parser.add_argument("--tied", action="store_true", help="end with whoever holds the other end of standard input")
    return parser


def begin(options: argparse.Namespace) -> int:
    """Do what the command line says in a process that is prepared; returns its exit code."""
    outlast_readers()
    terminated = listen_for_the_end(options.tied)
    try:
        return work(open_database(options.data), options.data, options.job, options.worker, terminated)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    keep_private()
    prepare_process()
    return begin(options)


if __name__ == "__main__":
    sys.exit(main())
