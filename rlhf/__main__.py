"""The command line of jobs and policies: all that the page can start, from the same specs. `python -m rlhf --help`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from annotation.database import Database, open_database
from annotation.records import UserError
from rlhf import base_model, jobs, loop, policies, worker
from rlhf.specs import SPECS, describe, from_json, to_json
from rlhf.supervisor import worker_command

DEFAULT_DATA = Path(os.environ.get("PREFLOOP_DATA", Path(__file__).parent.parent / "data"))
EPILOG = """Exit codes: 0 done, 1 the job failed or was stopped, 2 bad input (a sentence on standard error says which).

Example: python -m rlhf spec dpo > spec.json; edit it; python -m rlhf run spec.json"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="the data directory (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    spec = commands.add_parser("spec", help="print the default spec of a kind of job, or explain its fields")
    spec.add_argument("kind", choices=sorted(SPECS))
    spec.add_argument("--explain", action="store_true", help="print each field with its default and meaning")
    run = commands.add_parser("run", help="run a job from a spec file, here, and wait for it")
    run.add_argument("spec", type=Path, help="a JSON file as `spec` prints it; fields left out keep their defaults")
    prepare = commands.add_parser("prepare", help="set up a base model in the data directory, as the first start does")
    prepare.add_argument("--model", default=base_model.EMBEDDED, help="'embedded', a directory, or a name on the Hub")
    commands.add_parser("jobs", help="list the latest jobs")
    for name, text in (
        ("show", "show one job: spec, progress, result and log"),
        ("cancel", "ask a job to stop; it keeps a checkpoint"),
        ("resume", "go on with a lost, cancelled or failed job from its last checkpoint, here, and wait for it"),
    ):
        commands.add_parser(name, help=text).add_argument("job", type=int)
    commands.add_parser("policies", help="list the base model and its adapters")
    for name, text in (
        ("promote", "let a policy serve (also: roll back to an earlier one)"),
        ("reject", "turn a candidate down"),
    ):
        commands.add_parser(name, help=text).add_argument("revision")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "spec":
            return print_spec(options.kind, options.explain)
        db = open_database(options.data)
        return dispatch(db, options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def dispatch(db: Database, options: argparse.Namespace) -> int:
    """The commands that need a database."""
    jobs.mark_lost(db)
    if options.command == "prepare":
        base = base_model.prepare(options.data, options.model)
        policies.ensure_base(db, base.name)
        print(f"The base model {base.name} is ready in {base.path}.")
    elif options.command == "run":
        spec = from_json(read_text(options.spec))
        return wait_for(db, options.data, loop.submit(db, options.data, spec, "the command line"))
    elif options.command == "resume":
        jobs.resume(db, options.job)
        return wait_for(db, options.data, options.job)
    elif options.command == "cancel":
        jobs.cancel(db, options.job)
    elif options.command == "jobs":
        for job in jobs.recent(db, tuple(SPECS), 30):
            print(
                f"{job.id:>5}  {job.kind:<9} {job.status:<10} {job.step}/{job.steps}  {job.created[:19]}  {job.message}"
            )
    elif options.command == "show":
        print(show(db, options.job))
    elif options.command == "policies":
        for policy in policies.everything(db):
            state = f"{policy.status:<10} {policy.method:<6}"
            print(f"{policy.revision:<12} {state} {policy.created[:19]}  {policy.path or ''}")
    elif options.command == "promote":
        print(f"{loop.promote(db, options.data, options.revision, 'the command line').revision} serves now.")
    elif options.command == "reject":
        print(f"{policies.reject(db, options.revision, 'the command line').revision} is rejected.")
    return 0


def wait_for(db: Database, data_dir: Path, job_id: int) -> int:
    """Run a queued job in this process and print how it ended."""
    print(f"job {job_id}: {to_json(jobs.get(db, job_id).spec)}", flush=True)
    run_here(db, data_dir, jobs.get(db, job_id))
    job = jobs.get(db, job_id)
    while job.status not in jobs.ENDED:  # a running app was quicker and has it: follow it there
        time.sleep(1)
        jobs.mark_lost(db)
        job = jobs.get(db, job_id)
    print(f"job {job_id} {job.status}. {job.message}".strip())
    if job.result is not None:
        print(json.dumps(job.result, indent=2))
    return 0 if job.status == "finished" else 1


def run_here(db: Database, data_dir: Path, job: jobs.Job) -> None:
    """Run a queued job to its end: in this process, or where it wants several, in processes that this one waits for."""
    worker_id = uuid.uuid4().hex
    if getattr(job.spec, "processes", 1) == 1:
        worker.prepare_process()
        worker.work(db, data_dir, job.id, worker_id)
        return
    command = worker_command(job, data_dir, worker_id)
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=False)
    jobs.stop(db, job.id, worker_id, "lost", "Its processes died. Resume goes on from the last checkpoint.")


def read_text(path: Path) -> str:
    """A file's text. Raises UserError if it can't be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The spec file {path} can't be read: {error}.") from error


def print_spec(kind: str, explain: bool) -> int:
    """Print a spec's defaults, or what its fields mean."""
    if explain:
        for name, default, sentence in describe(SPECS[kind]):
            print(f"{name} = {default!r}\n    {sentence}")
    else:
        print(json.dumps(json.loads(to_json(SPECS[kind]())), indent=2))
    return 0


def show(db: Database, job_id: int) -> str:
    """Everything about one job, as text."""
    job = jobs.get(db, job_id)
    last = jobs.metrics(db, job_id)[-1:]
    lines = [
        f"job {job.id}: {job.kind}, {job.status}, attempt {job.attempt}, step {job.step} of {job.steps}. {job.message}",
        f"spec: {to_json(job.spec)}",
        f"last metrics: {json.dumps(last[0]) if last else 'none'}",
        f"result: {json.dumps(job.result, indent=2)}",
        "log:",
        *(f"  {line}" for line in jobs.log_tail(db, job_id, 40)),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
