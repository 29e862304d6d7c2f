"""One process, one job: claim it, run it, say how it ended. `python -m rlhf.jobs.worker --data DIR --job ID`."""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from annotation.database import Database, open_database
from annotation.environment import keep_private
from annotation.jobs import job_table
from annotation.jobs.attempt import Attempt, Stopped, beating
from annotation.jobs.job_table import Reason
from annotation.records import UserError
from annotation.translation import N_, _
from annotation.ui.invisible import visible
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec
from rlhf.jobs.out_of_memory import MEMORY_RAN_OUT, advice

# How long a process may take to save and end once the program that started it is gone.
GRACE_SECONDS = 300.0
LEFT_ALONE = N_("One of its processes ended, and the others with it. Resume goes on from what it has saved.")


class Run(Attempt):
    """What an algorithm sees of its job: where the data is, how to report, and whether to stop."""

    rank = 0
    """Which of the job's processes this is; only the first one writes."""
    measured_steps = 0
    """How many steps to run and to keep nothing but their figures; 0 for a run in earnest."""

    def sample(self, step: int, answers: Sequence[Mapping[str, Any]]) -> None:
        """Record what the model that is being trained answers at this step."""
        job_store.sample(self.db, self.job_id, step, answers)


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
        """Add a line to the log file."""
        print(f"[process {self.rank}] {text}", flush=True)

    def sample(self, step: int, answers: Sequence[Mapping[str, Any]]) -> None:
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


def attend(run: Run, spec: JobSpec) -> int:
    """Run a claimed job to its end, beating all the while; returns the process's exit code."""
    with beating(run):
        return perform(run, spec)


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


def run_algorithm(run: Run, spec: JobSpec) -> dict[str, Any]:
    """Do what a spec says, by its module's `run`, which may load torch; returns the job's result."""
    result: dict[str, Any] = import_module(spec.runner()).run(run, spec)
    return result


def perform(run: Run, spec: JobSpec) -> int:
    """Run the algorithm and record how it ended, in words a person can use."""
    try:
        result = run_algorithm(run, spec)
        job_table.finish(run.db, run.job_id, run.worker, result)
        return 0
    except Stopped:
        if run.terminated.is_set():
            job_table.stop(run.db, run.job_id, run.worker, "lost", job_store.ended_with_program(spec, saved=True))
        else:
            job_table.stop(run.db, run.job_id, run.worker, "cancelled", _("Resume goes on from what it has saved."))
        return 0
    except BaseException as error:
        return record_failure(run, spec, error)


def record_failure(run: Run, spec: JobSpec, error: BaseException) -> int:
    """Say in the job's row how it failed, in words a person can use; returns the process's exit code.

    Whichever of several processes fails first says it, and no other can change it. The code is an error even where the
    job is queued again, so that a launcher ends the others, which wait for this one.
    """
    reason: Reason | None = None
    if isinstance(error, UserError):
        run.log(str(error))
        reason = "not-a-number" if isinstance(error, job_store.Diverged) else None
        job_table.stop(run.db, run.job_id, run.worker, "failed", str(error), reason)
        return 1
    # The traceback goes to the log file; the page gets one line. A bug still ends the process with an error.
    traceback.print_exception(error)
    if out_of_memory(error) and job_store.requeue_smaller(run.db, run.job_id, run.worker, "out-of-memory"):
        return 1
    if left_alone(error):  # not failed: whoever started the processes knows better why the other one ended
        job_table.stop(run.db, run.job_id, run.worker, "lost", LEFT_ALONE)
        return 1
    reason = "out-of-memory" if out_of_memory(error) and not disk_full(error) else None
    if job_table.stop(run.db, run.job_id, run.worker, "failed", sentence_for(error, spec), reason):
        job_table.log(run.db, run.job_id, "".join(traceback.format_exception(error, limit=-3)))
    return 1


def left_alone(error: BaseException) -> bool:
    """Whether a library says that another of the job's processes is gone, by gloo's words or NCCL's."""
    signs = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
    return any(sign in str(error) for sign in signs)


def out_of_memory(error: BaseException) -> bool:
    """Whether a library says that there was too little memory, on the GPU or here."""
    signs = ("allocate memory", "out of memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def disk_full(error: BaseException) -> bool:
    """Whether a library says that there is no room left on the disk."""
    signs = ("No space left", "os error 28", "file write failed", "PytorchStreamWriter")
    return any(sign in str(error) for sign in signs)


def sentence_for(error: BaseException, spec: JobSpec) -> str:
    """What a library's error means for a person: a full disk, too little memory, or a bug."""
    if disk_full(error):
        return _("The disk is full, so nothing more could be saved. Free some space, then resume this run.")
    if out_of_memory(error):
        return f"{_(MEMORY_RAN_OUT)} {advice(spec)}"
    return _("An error of Prefloop's own ended it ({kind}: {error}). The log has more.").format(
        kind=type(error).__name__, error=error
    )


def prepare_process() -> None:
    """Quiet libraries, no telemetry, and a lower priority than the page that people wait for."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["TQDM_DISABLE"] = "1"
    # Two workers share the processors. OpenMP's threads spin at every barrier while they wait for one that the other
    # worker has pushed aside; asleep they leave it the processor: ten times faster on two busy cores. Read once, when
    # torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.nice(10)


def main(arguments: list[str] | None = None) -> int:
    """The worker's command line, used by the supervisor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--worker", default=uuid.uuid4().hex, help="the id under which to claim the job")
    parser.add_argument("--job", type=int, required=True, help="the queued job to run")
    parser.add_argument("--tied", action="store_true", help="end with whoever holds the other end of standard input")
    options = parser.parse_args(arguments)
    terminated = listen_for_the_end(options.tied)
    keep_private()
    prepare_process()
    try:
        return work(open_database(options.data), options.data, options.job, options.worker, terminated)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
