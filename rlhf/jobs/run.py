"""One run of a job: what an algorithm sees of it, running it, and in a person's words how it ended. No torch."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from annotation.jobs import job_table
from annotation.jobs.attempt import Attempt, Stopped, beating
from annotation.jobs.job_table import Reason
from annotation.records import UserError
from annotation.translation import N_, _, joined
from annotation.ui.invisible import visible
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec
from rlhf.jobs.job_store import SampleAnswer
from rlhf.jobs.out_of_memory import MEMORY_RAN_OUT, advice

LEFT_ALONE = N_("One of its processes ended, and the others with it.")


class Run(Attempt):
    """What an algorithm sees of its job: where the data is, how to report, and whether to stop."""

    rank = 0
    """Which of the job's processes this is; only the first one writes."""
    measured_steps = 0
    """How many steps to run and to keep nothing but their figures; 0 for a run in earnest."""
    told_to_end = ""
    """Why this process was told to end, in words, where not because the program ended."""

    def log(self, text: str) -> None:
        """Add a line to the job's log, in the page and in the program's, which may be read in a terminal."""
        print(visible(text), flush=True)
        job_table.log(self.db, self.job_id, text)

    def sample(self, step: int, answers: Sequence[SampleAnswer]) -> None:
        """Record what the model that is being trained answers at this step."""
        job_store.sample(self.db, self.job_id, step, answers)


def attend(run: Run, spec: JobSpec) -> int:
    """Run a claimed job to its end, beating all the while; returns the process's exit code."""
    with beating(run):
        return perform(run, spec)


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
            job_table.stop(run.db, run.job_id, run.worker, "lost", why_it_ended(run, spec))
        else:
            job_table.stop(run.db, run.job_id, run.worker, "cancelled", "")
        return 0
    except BaseException as error:
        return record_failure(run, spec, error)


def why_it_ended(run: Run, spec: JobSpec) -> str:
    """What is said of a job whose process was told to end."""
    return run.told_to_end or job_store.ended_with_program(spec)


def record_failure(run: Run, spec: JobSpec, error: BaseException) -> int:
    """Say in the job's row how it failed, in words a person can use; returns the process's exit code.

    Whichever of several processes fails first says it, and no other can change it. The code is an error even where the
    job is queued again, so that a launcher ends the others, which wait for this one. What goes wrong once this process
    was told to end is no failure of the job: what it has started was told as well, and so was a process that another
    one of the job has left alone. A full disk is one: nothing is saved that the job could go on from.
    """
    reason: Reason | None = None
    if run.terminated.is_set() and not left_alone(error) and not disk_full(error):
        traceback.print_exception(error)
        job_table.stop(run.db, run.job_id, run.worker, "lost", why_it_ended(run, spec))
        return 1
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
    signs = ("No space left", "os error 28", "file write failed", "PytorchStreamWriter", "disk is full")
    if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:  # whose words are the system's
        return True
    return any(sign in str(error) for sign in signs)


def sentence_for(error: BaseException, spec: JobSpec) -> str:
    """What a library's error means for a person: a full disk, too little memory, or a bug."""
    if disk_full(error):
        return _("The disk is full, so nothing more could be saved. Free some space, then resume this run.")
    if out_of_memory(error):
        return joined(_(MEMORY_RAN_OUT), advice(spec))
    return _("An error of Prefloop's own ended it ({kind}: {error}). The log has more.").format(
        kind=type(error).__name__, error=error
    )
