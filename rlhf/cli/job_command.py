"""`python -m rlhf spec`, `run`, `jobs`, `show`, `cancel` and `resume`: a job from its spec to how it ended."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from annotation.database import Database
from annotation.records import explain_errors
from annotation.ui.invisible import visible
from annotation.validation import describe
from rlhf.cli import rent_command
from rlhf.cli.opening import Commands, database_of
from rlhf.data import held_out_sets
from rlhf.evaluation.decisions import check_status
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, from_json, kinds, to_json
from rlhf.models import registry
from rlhf.models.memory import machines
from rlhf.models.precisions.precisions_spec import crossing
from rlhf.submission import job_submission
from rlhf.workers.worker_process import run_to_end


def add_parsers(commands: Commands) -> None:
    spec = commands.add_parser("spec", help="print the default spec of a kind of job, or explain its fields")
    spec.set_defaults(act=run_spec)
    spec.add_argument("kind", choices=sorted(kinds()))
    spec.add_argument("--explain", action="store_true", help="print each field with its default and meaning")
    run = commands.add_parser("run", help="queue a job from a spec file, run it when its turn comes, and wait for it")
    run.set_defaults(act=run_job)
    run.add_argument("spec", type=Path, help="a JSON file as `spec` prints it; fields left out keep their defaults")
    rent_command.add_arguments(run)
    commands.add_parser("jobs", help="list the latest jobs").set_defaults(act=run_jobs)
    show = commands.add_parser("show", help="show one job: spec, progress, result and log")
    cancel = commands.add_parser("cancel", help="ask a job to stop; it keeps a checkpoint")
    resume = commands.add_parser(
        "resume", help="queue a lost, cancelled or failed job again, go on from its last checkpoint, and wait for it"
    )
    for command, act in ((show, run_show), (cancel, run_cancel), (resume, run_resume)):
        command.set_defaults(act=act)
        command.add_argument("job", type=int)
    resume.add_argument("--half-batch", action="store_true", help="in smaller pieces, where memory ran out")
    resume.add_argument("--yes", action="store_true", help="agree to rent what could not be rented before")


# --------------------------------------------------------------------------------------------------------------- specs
def run_spec(options: argparse.Namespace) -> None:
    spec = kinds()[options.kind]
    if options.explain:
        print(f"# {spec.title}{f' ({spec.paper})' if spec.paper else ''}")
        for name, default, sentence in describe(spec):
            print(f"{name} = {default!r}\n    {sentence}")
    else:
        print(json.dumps(json.loads(to_json(spec())), indent=2))


def read_text(path: Path) -> str:
    """A file's text. Raises UserError if it can't be read."""
    with explain_errors("The spec file {path} can't be read: {error}.", UnicodeDecodeError, path=path):
        return path.read_text("utf-8")


# ------------------------------------------------------------------------------------------------------------- running
def run_job(options: argparse.Namespace) -> int:
    """Queue a job from a spec file, and wait for its end; 1 where it is none that finished. Raises UserError."""
    db, spec = database_of(options), from_json(read_text(options.spec))
    if options.rent is not None:
        return rent_command.run(options, db, spec)
    return wait_for(db, options.data, job_submission.submit(db, options.data, spec, "the command line"))


def run_resume(options: argparse.Namespace) -> int:
    """Queue a job again, and wait for its end, as `run_job`. Raises UserError."""
    db = database_of(options)
    if job_store.get(db, options.job).flavor is not None:
        return rent_command.resume(db, options.data, options.job, options.yes)
    job_store.resume(db, options.job, options.half_batch)
    return wait_for(db, options.data, options.job)


def run_cancel(options: argparse.Namespace) -> int:
    """Ask a job to stop; a rented one is followed to its end. Raises UserError."""
    db = database_of(options)
    job_store.cancel(db, options.job)
    job = job_store.get(db, options.job)
    if job.status == "cancelling" and job.flavor is not None:
        return rent_command.follow(db, options.data, options.job)
    return 0


def wait_for(db: Database, data_dir: Path, job_id: int) -> int:
    """Run a queued job when its turn comes, wait for its end, and print how it ended."""
    job = job_store.get(db, job_id)
    print(f"job {job_id}: {to_json(job.spec)}", flush=True)
    if job.status == "queued":
        for said in filter(None, (held_out_sets.missing_for(db, job.spec), crossing_sentence(db, job.spec))):
            print(said, flush=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        job = follow(db, data_dir, job)
    except KeyboardInterrupt:
        if not job_store.take_out(db, job_id):
            print(f"job {job_id} goes on in the program that runs it.")
            return 1
        job = job_store.get(db, job_id)
    finally:
        signal.signal(signal.SIGTERM, before)
    return rent_command.print_ending(job)


def crossing_sentence(db: Database, spec: JobSpec) -> str:
    """What it costs where a training leaves the precision in which its parent answers; empty where it does not."""
    found = crossing(db, spec, machines.this_machine()) if isinstance(spec, TrainingSpec) else None
    if found is None:
        return ""
    ask = "" if found.gap or found.measuring else " `python -m rlhf spec precisions` prints the job that measures it."
    return found.sentence() + ask


def follow(db: Database, data_dir: Path, job: job_store.Job) -> job_store.Job:
    """A job at its end: run here when nothing is ahead of it, unless a running app was quicker and has it."""
    said = ""
    while job.is_open:
        ahead = job_store.jobs_ahead(db, job) if job.status == "queued" else []
        if job.status == "queued" and not ahead:
            if job.message:  # it goes on, with other settings
                print(visible(f"job {job.id}: {job.message}"), flush=True)
            told: list[int] = []
            run_to_end(db, data_dir, job, told)
            if told:  # perhaps before its worker could begin
                job_store.take_out(db, job.id)
        else:
            waits = waiting_sentence(job, ahead)
            if waits != said:
                print(waits, flush=True)
            said = waits
            time.sleep(1)
            job_store.mark_lost(db)
        job = job_store.get(db, job.id)
    return job


def waiting_sentence(job: job_store.Job, ahead: Sequence[job_store.Job]) -> str:
    if not ahead:
        return f"job {job.id} runs in another program; this one waits for its end."
    first = ahead[0]
    more = f" and {len(ahead) - 1} more" if len(ahead) > 1 else ""
    sentence = f"job {job.id} waits: job {first.id} ({first.spec.about()}, {first.status}){more} is ahead."
    if first.status != "queued":
        return sentence
    return f"{sentence} The app or its own command starts it; `python -m rlhf cancel {first.id}` takes it out."


# -------------------------------------------------------------------------------------------------------- what there is
def run_jobs(options: argparse.Namespace) -> None:
    for job in job_store.recent(database_of(options), tuple(kinds()), 30):
        print(
            f"{job.id:>5}  {job.kind:<9} {job.status:<10} {job.step}/{job.steps}  {job.created[:19]}  "
            f"{visible(job.message)}"
        )


def run_show(options: argparse.Namespace) -> None:
    """Print everything about one job. Raises UserError where there is none."""
    print(visible(show(database_of(options), options.job)))


def show(db: Database, job_id: int) -> str:
    job = job_store.get(db, job_id)
    last = job_store.metrics(db, job_id)[-1:]
    made = registry.of_job(db, job_id)
    check = "" if made is None or made.kind != "policy" else check_status.check_status(db, made).sentence
    lines = [
        f"job {job.id}: {job.kind}, {job.status}, attempt {job.attempt}, step {job.step} of {job.steps}. {job.message}",
        *([] if made is None else [f"made: {made.revision} ({made.status}). {check}".rstrip()]),
        f"spec: {to_json(job.spec)}",
        f"last metrics: {json.dumps(last[0]) if last else 'none'}",
        f"result: {json.dumps(job.result, indent=2)}",
        "log:",
        *(f"  {line}" for line in job_store.log_tail(db, job_id, 40)),
    ]
    return "\n".join(lines)
