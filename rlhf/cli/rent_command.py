"""`python -m rlhf run SPEC --rent FLAVOR`: what it costs, whether that is agreed to, and following it to its end."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path

from annotation import hub_client as hubs
from annotation.database import Database
from annotation.records import UserError
from annotation.ui import terminal
from annotation.ui.invisible import visible
from rlhf.data import held_out_sets
from rlhf.hub import rental_client
from rlhf.jobs import job_store, rental_store
from rlhf.jobs.job_spec import JobSpec
from rlhf.jobs.rental_store import Terms
from rlhf.submission import job_submission

LOOK_SECONDS = 1.0


def add_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("--rent", metavar="FLAVOR", help="run it on hardware that the Hub rents out, say t4-small")
    run.add_argument("--hours", type=float, default=1.0, help="on rented hardware: end it after so long at the latest")
    run.add_argument("--payer", default="", metavar="NAME", help="who pays, if not the token's owner")
    run.add_argument("--yes", action="store_true", help="agree to the price without being asked")


def run(options: argparse.Namespace, db: Database, spec: JobSpec) -> int:
    """Ask, queue the job, and follow it to its end; the exit status. Raises UserError."""
    hub = hubs.connect(hubs.token_here())
    hubs.check_token(hub)
    price = rental_client.price_of(hub, options.rent)
    terms = rental_store.checked_terms(options.rent, price, options.hours, options.payer)
    if makes_policy(spec) and (missing := held_out_sets.missing_for(db, spec)):
        print(missing)
    if not options.yes and not agreed(terms):
        print("Nothing was rented.")
        return 1
    return follow(db, options.data, job_submission.submit(db, options.data, spec, "the command line", terms))


def makes_policy(spec: JobSpec) -> bool:
    """Whether a job makes something that answers; a reward model is checked with comparisons, while it is made."""
    training = spec.trains()
    return training is not None and training.makes == "policy"


def agreed(terms: Terms) -> bool:
    """Whether somebody says yes. Raises UserError where nobody can be asked."""
    if not terminal.somebody_is_there():
        raise UserError(f"{terms.sentence} Repeat it with --yes if that is right.")
    return terminal.agreed(f"{terms.sentence} Go ahead?")


def resume(db: Database, data_dir: Path, job_id: int, yes: bool) -> int:
    """Follow a job further, or rent what was never rented, if that is agreed to; the exit status. Raises UserError."""
    job, rental = job_store.get(db, job_id), rental_store.get(db, job_id)
    terms = Terms(job.flavor or "", rental.price_per_hour, rental.hours, rental.namespace)
    if rental.hub_job is None and not yes and not agreed(terms):
        print("Nothing was rented.")
        return 1
    if not job.is_open:
        job_store.resume(db, job_id)
    return follow(db, data_dir, job_id)


def follow(db: Database, data_dir: Path, job_id: int) -> int:
    """Follow a job to its end, unless a running app does; the exit status. Ctrl-C leaves it to run."""
    hub, ended = hubs.connect(hubs.token_here()), threading.Event()
    hubs.check_token(hub)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"job {job_id} is for rented hardware; Ctrl-C leaves it to run, `cancel {job_id}` ends it.", flush=True)
    follower = rental_client.Follower(hub, data_dir, db)
    follower.start()
    try:
        while job_store.get(db, job_id).is_open:
            ended.wait(LOOK_SECONDS)
    except KeyboardInterrupt:
        follower.stop(rental_client.POLL_SECONDS)
        rental = rental_store.get(db, job_id)
        print(f"job {job_id} goes on: {rental.url or 'it is started by whoever follows it next'}.")
        print(f"`python -m rlhf resume {job_id}` follows it again, and a running app does.")
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    follower.stop(rental_client.POLL_SECONDS)
    rental_client.clear_up(hub, db)
    return print_ending(job_store.get(db, job_id))


def print_ending(job: job_store.Job) -> int:
    """Print how a job ended; the exit status."""
    print(visible(f"job {job.id} {job.status}. {job.message}".strip()))
    if job.result is not None:
        print(json.dumps(job.result, indent=2))
    return 0 if job.status == "finished" else 1
