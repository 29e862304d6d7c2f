"""The command line of jobs and policies: all that the page can start, from the same specs. `python -m rlhf --help`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from annotation.database import FILE_NAME, Database, existing_database, open_database
from annotation.environment import default_directory, keep_private, named_directory
from annotation.jobs import job_table
from annotation.records import UserError, explain_errors
from annotation.translation import _, retold
from annotation.ui.invisible import visible
from annotation.validation import describe
from rlhf.cli import hub_command, rent_command, space_command
from rlhf.data import held_out_sets
from rlhf.evaluation import gate_decisions, gate_words
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, from_json, kinds, to_json
from rlhf.judges import judge_settings, judge_store
from rlhf.models import base_model, memory, registry
from rlhf.submission import job_submission
from rlhf.submission.precisions_spec import crossing
from rlhf.workers.worker_process import run_to_end

DEFAULT_DATA = default_directory(Path(__file__).parent.parent / "data")
EPILOG = """A job waits while others run or are before it in the queue; Ctrl-C takes it out, or stops it once it runs.

Exit codes: 0 done, 1 the job failed or was stopped, 2 bad input (a sentence on standard error says which).

For example: python -m rlhf spec KIND > spec.json; edit it; python -m rlhf run spec.json"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=named_directory, default=DEFAULT_DATA, help="the data directory (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    spec = commands.add_parser("spec", help="print the default spec of a kind of job, or explain its fields")
    spec.add_argument("kind", choices=sorted(kinds()))
    spec.add_argument("--explain", action="store_true", help="print each field with its default and meaning")
    run = commands.add_parser("run", help="queue a job from a spec file, run it when its turn comes, and wait for it")
    run.add_argument("spec", type=Path, help="a JSON file as `spec` prints it; fields left out keep their defaults")
    rent_command.add_arguments(run)
    prepare = commands.add_parser("prepare", help="set up a base model in the data directory, as the first start does")
    prepare.add_argument("--model", default=base_model.EMBEDDED, help="'embedded', a directory, or a name on the Hub")
    prepare.add_argument(
        "--anew",
        action="store_true",
        help="take what the Hub has now; policies on the commit before are to be checked, and judges that run on it "
        "are measured anew",
    )
    commands.add_parser("jobs", help="list the latest jobs")
    for name, text in (
        ("show", "show one job: spec, progress, result and log"),
        ("cancel", "ask a job to stop; it keeps a checkpoint"),
        ("resume", "queue a lost, cancelled or failed job again, go on from its last checkpoint, and wait for it"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("job", type=int)
        if name == "resume":
            command.add_argument("--half-batch", action="store_true", help="in smaller pieces, where memory ran out")
            command.add_argument("--yes", action="store_true", help="agree to rent what could not be rented before")
    precision = commands.add_parser("precision", help="in which precision the base is held, or hold it in another")
    precision.add_argument("precision", nargs="?", choices=get_args(registry.HeldPrecision))
    precision.set_defaults(act=run_precision)
    commands.add_parser("policies", help="list the base model and its adapters")
    for name, text in (
        ("promote", "let a policy serve, against the rule with a reason (also: roll back to an earlier one)"),
        ("reject", "turn a candidate down"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("revision")
        needed = "; needed where the gate's rule does not say 'promote'" if name == "promote" else ""
        command.add_argument("--why", default="", help=f"the reason, for the record of decisions{needed}")
    thinking = commands.add_parser("thinking", help="whether the base model may think before it answers")
    thinking.add_argument(
        "wish", nargs="?", choices=get_args(registry.Thinking), help="'off', or as its template has it"
    )
    gate = commands.add_parser("gate", help="what the gate's rule makes of a candidate, criterion by criterion")
    gate.add_argument("revision", nargs="?", help="default: the newest candidate that was checked")
    commands.add_parser("judges", help="list the AI judges")
    judge = commands.add_parser("add-judge", help="make an AI judge")
    judge.add_argument("name")
    judge.add_argument("backend", choices=get_args(judge_settings.Backend))
    judge.add_argument("settings", help='as JSON, say {"model": "base"} or {"address": "http://…/v1", "model": "…"}')
    hub_command.add_parsers(commands)
    space_command.add_parser(commands)
    for command in commands.choices.values():  # behind a command too
        command.add_argument("--data", type=named_directory, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    keep_private()
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "spec":
            return print_spec(options.kind, options.explain)
        if options.command == "space":
            return space_command.run(options)
        if options.command == "prepare":
            return prepare(options.data, options.model, options.anew)
        if options.command == "pull" and options.base:
            hub_command.run_pull_base(options)
            return 0
        return dispatch(existing_database(options.data), options)
    except UserError as error:
        print(visible(str(error)), file=sys.stderr)
        return 2


def prepare(data_dir: Path, model: str, anew: bool = False) -> int:
    """Set up a base model; a database is begun once the model is there."""
    if (data_dir / FILE_NAME).is_file():
        base_model.refuse_another(open_database(data_dir), model)
    base = base_model.prepare(data_dir, model, anew=anew)
    before = base_model.pinned(data_dir, base.name)
    policy = base_model.register(open_database(data_dir), base)
    thinking = base_model.thinking_sentence(data_dir, policy)
    said = f"The base model {base.name} is ready in {base.path}, held in {policy.precision}.{base.remark} {thinking}"
    print(said.rstrip())
    if before not in (base.name, base_model.pinned(data_dir, base.name)):
        print(f"It is on another commit than before. {base_model.OTHERWISE}")
    return 0


def run_precision(options: argparse.Namespace, db: Database) -> None:
    """Print in which precision the base is held; with another one, hold it in that first. Raises UserError."""
    if options.precision is not None:
        base_model.change_precision(db, options.precision, "the command line")
    base = registry.by_revision(db, "base")
    print(f"{base.base} is held in {base.precision}.")


def dispatch(db: Database, options: argparse.Namespace) -> int:
    """The commands that need a database."""
    job_store.mark_lost(db, at_once=True)
    if hasattr(options, "act"):
        options.act(options, db)
    elif options.command == "run":
        spec = from_json(read_text(options.spec))
        if options.rent is not None:
            return rent_command.run(options, db, spec)
        return wait_for(db, options.data, job_submission.submit(db, options.data, spec, "the command line"))
    elif options.command == "resume":
        if job_store.get(db, options.job).flavor is not None:
            return rent_command.resume(db, options.data, options.job, options.yes)
        job_store.resume(db, options.job, options.half_batch)
        return wait_for(db, options.data, options.job)
    elif options.command == "cancel":
        job_store.cancel(db, options.job)
        if job_store.get(db, options.job).status == "cancelling" and job_store.get(db, options.job).flavor is not None:
            return rent_command.follow(db, options.data, options.job)
    elif options.command == "jobs":
        for job in job_store.recent(db, tuple(kinds()), 30):
            print(
                f"{job.id:>5}  {job.kind:<9} {job.status:<10} {job.step}/{job.steps}  {job.created[:19]}  "
                f"{visible(job.message)}"
            )
    elif options.command == "show":
        print(visible(show(db, options.job)))
    elif options.command == "policies":
        for policy in registry.all_policies(db):
            state = f"{policy.status:<10} {policy.algorithm:<6}"
            check = f"  {gate_decisions.check_status(db, policy).sentence}" if policy.undecided else ""
            line = f"{policy.revision:<12} {state} {policy.created[:19]}  {policy.path or ''}{check}"
            print(visible(line.rstrip()))
    elif options.command == "promote":
        print(visible(promote(db, options)))
    elif options.command == "thinking":
        withdrawn = 0 if options.wish is None else registry.set_thinking(db, options.wish)
        said = base_model.thinking_sentence(options.data, registry.by_revision(db, "base"))
        said = said or _("Its chat template can't be told whether to think.")
        print(said + registry.withdrawn_sentence(withdrawn))
    elif options.command == "gate":
        print(visible(gate_text(db, options.revision)))
    elif options.command == "judges":
        judges = judge_store.judges(db)
        for one in judges:
            kept = json.dumps(asdict(one.settings))
            print(f"{visible(one.name):<30} {one.backend:<12} {'active' if one.active else 'aside':<6} {kept}")
        if not judges:
            print("There is no AI judge yet: python -m rlhf add-judge --help says how to make one.")
    elif options.command == "add-judge":
        settings = judge_store.checked_settings(db, options.backend, read_object(options.settings))
        added = judge_store.add(db, options.name, options.backend, settings, "the command line")
        print(f"The judge {added.name} is there.")
    elif options.command == "reject":
        print(f"{gate_decisions.reject(db, options.revision, 'the command line', options.why).revision} is rejected.")
    return 0


def promote(db: Database, options: argparse.Namespace) -> str:
    """Let a policy serve. Raises UserError, also where the rule speaks against it and no reason is given."""
    try:
        return gate_decisions.promote(db, options.data, options.revision, "the command line", options.why).sentence()
    except gate_decisions.PromotionAgainstRule as error:
        raise UserError(_('{error} Give one with --why "…".').format(error=error)) from error


def read_object(text: str) -> dict[str, Any]:
    """A JSON object from the command line. Raises UserError for anything else."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(_("The settings are not JSON: {error}.").format(error=error)) from error
    if not isinstance(value, dict):
        raise UserError(_("The settings must be a JSON object, with a name and a value for each."))
    return value


def gate_text(db: Database, revision: str | None) -> str:
    """The gate's decision on a candidate, with each criterion. Raises UserError where there is none to decide on."""
    pending = gate_decisions.pending(db)
    if revision is None and pending is None:
        told = _("No candidate was checked against what serves now. {newest_candidate}")
        raise UserError(told.format(newest_candidate=newest_candidate(db)))
    policy = pending.policy if pending is not None and revision is None else registry.by_revision(db, revision or "")
    decision = gate_decisions.decision_on(db, policy)
    lines = [f"{policy.revision}: {decision.says}. {gate_words.sentence(decision)}"]
    lines += filter(None, [gate_decisions.check_status(db, policy).sentence])
    said = [(one.passed, gate_words.in_words(one)) for one in decision.criteria]
    lines += [f"  {passed:<12} {one.name}: {one.value} (asked for: {one.threshold})" for passed, one in said]
    return "\n".join(lines)


def newest_candidate(db: Database) -> str:
    """How the check of the newest candidate stands, or that there is none, as a sentence."""
    found = [one for one in registry.all_policies(db) if (one.kind, one.status) == ("policy", "candidate")]
    if not found:
        return "There is none: train one."
    return f"Of {found[-1].revision}: {gate_decisions.check_status(db, found[-1]).sentence}"


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
    print(visible(f"job {job_id} {job.status}. {job.message}".strip()))
    if job.result is not None:
        print(result_text(job))
    return 0 if job.status == "finished" else 1


def crossing_sentence(db: Database, spec: JobSpec) -> str:
    """What it costs where a training leaves the precision in which its parent answers; empty where it does not."""
    found = crossing(db, spec, memory.this_machine()) if isinstance(spec, TrainingSpec) else None
    if found is None:
        return ""
    ask = "" if found.gap or found.measuring else " `python -m rlhf spec precisions` prints the job that measures it."
    return found.sentence() + ask


def follow(db: Database, data_dir: Path, job: job_store.Job) -> job_store.Job:
    """A job at its end: run here when nothing is ahead of it, unless a running app was quicker and has it."""
    said, patience = "", job_table.Patience()
    while job.is_open:
        ahead = job_store.jobs_ahead(db, job) if job.status == "queued" else []
        if job.status == "queued" and not ahead:
            if job.message:  # it goes on, with other settings
                print(visible(f"job {job.id}: {job.message}"), flush=True)
            run_to_end(db, data_dir, job)
        else:
            waits = waiting_sentence(job, ahead)
            if waits != said:
                print(waits, flush=True)
            said = waits
            time.sleep(1)
            if not patience.wanted():
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


def read_text(path: Path) -> str:
    """A file's text. Raises UserError if it can't be read."""
    with explain_errors(_("The spec file {path} can't be read: {error}."), UnicodeDecodeError, path=path):
        return path.read_text("utf-8")


def print_spec(kind: str, explain: bool) -> int:
    """Print a spec's defaults, or what its fields mean."""
    spec = kinds()[kind]
    if explain:
        print(f"# {spec.title}{f' ({spec.paper})' if spec.paper else ''}")
        for name, default, sentence in describe(spec):
            print(f"{name} = {default!r}\n    {sentence}")
    else:
        print(json.dumps(json.loads(to_json(spec())), indent=2))
    return 0


def show(db: Database, job_id: int) -> str:
    """Everything about one job, as text."""
    job = job_store.get(db, job_id)
    last = job_store.metrics(db, job_id)[-1:]
    lines = [
        f"job {job.id}: {job.kind}, {job.status}, attempt {job.attempt}, step {job.step} of {job.steps}. {job.message}",
        *made_lines(db, job_id),
        f"spec: {to_json(job.spec)}",
        f"last metrics: {json.dumps(last[0]) if last else 'none'}",
        f"result: {result_text(job)}",
        "log:",
        *(f"  {line}" for line in job_store.log_tail(db, job_id, 40)),
    ]
    return "\n".join(lines)


def result_text(job: job_store.Job) -> str:
    """The result of a job as JSON, with what it says to people in words, wherever it stands."""

    def told(value: Any) -> Any:
        match value:
            case str():
                return retold(value)
            case dict():
                return {name: told(one) for name, one in value.items()}
            case list():
                return [told(one) for one in value]
        return value

    return json.dumps(told(job.result), indent=2)


def made_lines(db: Database, job_id: int) -> list[str]:
    made = registry.of_job(db, job_id)
    check = "" if made is None or made.kind != "policy" else gate_decisions.check_status(db, made).sentence
    return [] if made is None else [f"made: {made.revision} ({made.status}). {check}".rstrip()]


if __name__ == "__main__":
    sys.exit(main())
