"""`python -m rlhf prepare`, `precision`, `thinking`, `policies`, `gate`, `promote` and `reject`: what answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from annotation.database import Database, has_database, open_database
from annotation.records import UserError
from annotation.ui.invisible import visible
from rlhf.cli.opening import Commands, database_of
from rlhf.evaluation import gate_words
from rlhf.evaluation.decisions import candidate_decision, check_status, peoples_decisions
from rlhf.models import registry
from rlhf.models.base import base_files, base_identity, base_model, base_precision, base_template


def add_parsers(commands: Commands) -> None:
    prepare = commands.add_parser("prepare", help="set up a base model in the data directory, as the first start does")
    prepare.set_defaults(act=run_prepare)
    prepare.add_argument("--model", default=base_files.EMBEDDED, help="'embedded', a directory, or a name on the Hub")
    prepare.add_argument(
        "--anew",
        action="store_true",
        help="take what the Hub has now; policies on the commit before are to be checked, and judges that run on it "
        "are measured anew",
    )
    precision = commands.add_parser("precision", help="in which precision the base is held, or hold it in another")
    precision.set_defaults(act=run_precision)
    precision.add_argument("precision", nargs="?", choices=get_args(registry.HeldPrecision))
    thinking = commands.add_parser("thinking", help="whether the base model may think before it answers")
    thinking.set_defaults(act=run_thinking)
    thinking.add_argument(
        "wish", nargs="?", choices=get_args(registry.Thinking), help="'off', or as its template has it"
    )
    commands.add_parser("policies", help="list the base model and its adapters").set_defaults(act=run_policies)
    gate = commands.add_parser("gate", help="what the gate's rule makes of a candidate, criterion by criterion")
    gate.set_defaults(act=run_gate)
    gate.add_argument("revision", nargs="?", help="default: the newest candidate that was checked")
    promote = commands.add_parser(
        "promote", help="let a policy serve, against the rule with a reason (also: go back to an earlier one)"
    )
    needed = "; needed where the gate's rule does not say 'promote'"
    reject = commands.add_parser("reject", help="turn a candidate down")
    for command, act, when in ((promote, run_promote, needed), (reject, run_reject, "")):
        command.set_defaults(act=act)
        command.add_argument("revision")
        command.add_argument("--why", default="", help=f"the reason, for the record of decisions{when}")


def run_prepare(options: argparse.Namespace) -> None:
    prepare(options.data, options.model, options.anew)


def prepare(data_dir: Path, model: str, anew: bool = False) -> None:
    """Set up a base model; a database is begun once the model is there."""
    if has_database(data_dir):
        base_model.refuse_another(open_database(data_dir), model)
    base = base_model.prepare(data_dir, model, anew=anew)
    before = base_files.pinned(data_dir, base.name)
    policy = base_identity.register(open_database(data_dir), base)
    thinking = base_template.thinking_sentence(data_dir, policy)
    said = f"The base model {base.name} is ready in {base.path}, held in {policy.precision}.{base.remark} {thinking}"
    print(said.rstrip())
    if before not in (base.name, base_files.pinned(data_dir, base.name)):
        print(f"It is on another commit than before. {base_identity.OTHERWISE}")


def run_precision(options: argparse.Namespace) -> None:
    """Print in which precision the base is held; with another one, hold it in that first. Raises UserError."""
    db = database_of(options)
    if options.precision is not None:
        base_precision.change_precision(db, options.precision, "the command line")
    base = registry.by_revision(db, "base")
    print(f"{base.base} is held in {base.precision}.")


def run_thinking(options: argparse.Namespace) -> None:
    """Print whether the base may think; with a wish, have it so first. Raises UserError."""
    db = database_of(options)
    told = base_template.can_be_told(options.data, registry.by_revision(db, "base").base)
    withdrawn = registry.set_thinking(db, options.wish) if told and options.wish is not None else 0
    said = base_template.thinking_sentence(options.data, registry.by_revision(db, "base"))
    said = said or "Its chat template can't be told whether to think."
    print(said + registry.withdrawn_sentence(withdrawn))


def run_policies(options: argparse.Namespace) -> None:
    db = database_of(options)
    for policy in registry.all_policies(db):
        state = f"{policy.status:<10} {policy.algorithm:<6}"
        check = f"  {check_status.check_status(db, policy).sentence}" if policy.undecided else ""
        line = f"{policy.revision:<12} {state} {policy.created[:19]}  {policy.path or ''}{check}"
        print(visible(line.rstrip()))


def run_promote(options: argparse.Namespace) -> None:
    """Let a policy serve. Raises UserError, also where the rule speaks against it and no reason is given."""
    try:
        made = peoples_decisions.promote(
            database_of(options), options.data, options.revision, "the command line", options.why
        )
    except peoples_decisions.PromotionAgainstRule as error:
        raise UserError(f'{error} Give one with --why "…".') from error
    print(visible(made.sentence()))


def run_reject(options: argparse.Namespace) -> None:
    rejected = peoples_decisions.reject(database_of(options), options.revision, "the command line", options.why)
    print(f"{rejected.revision} is rejected.")


def run_gate(options: argparse.Namespace) -> None:
    """Print the gate's decision on a candidate. Raises UserError where there is none to decide on."""
    print(visible(gate_text(database_of(options), options.revision)))


def gate_text(db: Database, revision: str | None) -> str:
    """The gate's decision on a candidate, with each criterion. Raises UserError where there is none to decide on."""
    pending = candidate_decision.pending(db)
    if revision is None and pending is None:
        raise UserError(f"No candidate was checked against what serves now. {newest_candidate(db)}")
    policy = pending.policy if pending is not None and revision is None else registry.by_revision(db, revision or "")
    decision = candidate_decision.decision_on(db, policy)
    lines = [f"{policy.revision}: {decision.says}. {gate_words.sentence(decision)}"]
    lines += filter(None, [check_status.check_status(db, policy).sentence])
    said = [(one.passed, gate_words.criterion_words(one)) for one in decision.criteria]
    lines += [f"  {passed:<12} {one.name}: {one.value} (asked for: {one.threshold})" for passed, one in said]
    return "\n".join(lines)


def newest_candidate(db: Database) -> str:
    """How the check of the newest candidate stands, or that there is none, as a sentence."""
    found = [one for one in registry.all_policies(db) if (one.kind, one.status) == ("policy", "candidate")]
    if not found:
        return "There is none: train one."
    return f"Of {found[-1].revision}: {check_status.check_status(db, found[-1]).sentence}"
