"""The registry of models: the base and what was trained from it, which one serves, lineage and files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from annotation.database import Database
from annotation.environment import remove_leftover
from annotation.jobs.job_table import ENDED
from annotation.records import UserError, ancestors_of, now
from annotation.store import answer_changes, policy_comparisons, setting_store
from annotation.translation import N_, _, ngettext
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import bytes_within, clear_half_written, verify_directory
from rlhf.jobs.descriptions import Made
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job

# Under which a project keeps the gate's rule.
RULE_SETTING = "gate"
PolicyForm = Literal["base", "lora", "prompt", "full"]
HeldPrecision = Literal["nf4", "bf16", "fp32"]
PRECISION_WORDS: Mapping[str, str] = {"nf4": N_("4-bit (NF4)"), "bf16": "bf16", "fp32": "fp32"}
# Whether the base is told not to think before it answers, where its template can be told, or has it as it likes.
Thinking = Literal["off", "template"]
PolicyStatus = Literal["candidate", "serving", "retired", "rejected"]
STATUS_WORDS: Mapping[PolicyStatus, str] = {
    "candidate": N_("candidate"),
    "serving": N_("serving"),
    "retired": N_("retired"),
    "rejected": N_("rejected"),
}
# What each method leaves behind.
FORM_OF: Mapping[str, PolicyForm] = {"qlora": "lora", "lora": "lora", "prompt": "prompt", "full": "full"}


@dataclass(frozen=True)
class Policy:
    """The base model (no path), an adapter, or weights of its own. `path` is relative to the data directory.

    `precision` is that of what an adapter lies on, or of its own weights; `ground_id` names the fully trained
    model that an adapter lies on, if it is not the base. A reward model is kept like a policy, and never serves.
    `source` is where on the Hub one comes from that was not trained here, as OWNER/NAME@COMMIT.
    """

    id: int
    revision: str
    algorithm: str
    base: str
    parent_id: int | None
    job_id: int | None
    path: str | None
    sha256: str | None
    status: PolicyStatus
    created: str
    kind: Made
    form: PolicyForm
    precision: HeldPrecision
    ground_id: int | None
    deleted: str | None
    source: str | None = None
    thinking: Thinking | None = None
    """Of the base; None where nobody has said, as before there was a choice: its template has it as it likes."""

    @property
    def lies_on(self) -> int | None:
        """Whose weights it computes with when its adapter is off: its own where they are whole; None for the base's."""
        return self.id if self.form == "full" else self.ground_id

    @property
    def status_word(self) -> str:
        """How it stands, for people."""
        return _(STATUS_WORDS[self.status])

    @property
    def can_answer(self) -> bool:
        """Whether it gives answers, as no reward model does, and its files are there."""
        return self.kind == "policy" and self.deleted is None

    @property
    def undecided(self) -> bool:
        return self.status == "candidate" and self.can_answer

    @property
    def version(self) -> tuple[int, HeldPrecision]:
        """What tells its answers from others: whose they are, and the precision of the weights that drew them."""
        return self.id, self.precision


def ensure_base(db: Database, base: str, precision: HeldPrecision = "nf4") -> Policy:
    """The row of the base model; on first use it is made, is held in this precision, serves, and is told not to think.

    Raises UserError if the file has another base.
    """
    with db.transaction():
        row = db.row("SELECT * FROM model WHERE algorithm = 'base'")
        if row is None:
            named = dict.fromkeys(("revision", "algorithm", "form"), "base")
            held = {"base": base, "precision": precision, "status": "serving", "thinking": "off", "created": now()}
            db.insert("model", {**named, **held})
            row = db.one("SELECT * FROM model WHERE algorithm = 'base'")
    if row["base"] != base:
        said = _(
            "This data directory belongs to the base model {base}, not {asked}: its adapters fit no "
            "other. Start with --model {base}, or choose another directory with --data DIR."
        )
        raise UserError(said.format(base=row["base"], asked=base))
    return Policy(**row)


PRECISION_SETTING = "precision"


def set_precision(db: Database, precision: HeldPrecision, decided_by: str | None) -> Policy:
    """Hold the base in this precision from now on: it answers as another policy, so nobody is asked any more about a
    candidate against what it was. Adapters stay on the weights that they were trained on.

    Where nobody decided it the base was held so all along and only called otherwise: what judges said on it stands.
    Raises UserError where somebody did while a check runs, or a judge.
    """
    with db.transaction() as connection:
        base = by_revision(db, "base")
        if base.precision != precision:
            if decided_by is not None:
                refuse_during_judging(db)
                setting_store.set_setting(db, PRECISION_SETTING, {"by": decided_by, "at": now()})
            connection.execute("UPDATE model SET precision = ? WHERE id = ?", (precision, base.id))
            policy_comparisons.withdraw_candidate(db, base.id)
    return by_revision(db, "base")


def precision_set(db: Database) -> tuple[str, str] | None:
    """Who last set the precision of the base, and when; None where it is as it was when the base was registered."""
    found = setting_store.setting(db, PRECISION_SETTING, None)
    return None if found is None else (found["by"], found["at"])


def add(
    db: Database,
    *,
    revision: str,
    algorithm: str,
    base: str,
    parent_id: int,
    job_id: int | None,
    path: str,
    sha256: str,
    kind: Made = "policy",
    form: PolicyForm = "lora",
    precision: HeldPrecision = "nf4",
    ground_id: int | None = None,
    source: str | None = None,
) -> Policy:
    """Register as a candidate what a job of the kind `algorithm` has made, or what comes from `source`."""
    named = {"revision": revision, "status": "candidate", "created": now(), "source": source}
    made = {"algorithm": algorithm, "base": base, "parent_id": parent_id, "job_id": job_id, "kind": kind}
    weights = {"path": path, "sha256": sha256, "form": form, "precision": precision, "ground_id": ground_id}
    db.insert("model", {**named, **made, **weights})
    return by_revision(db, revision)


@contextmanager
def registered(db: Database, refuse: Callable[[], None], entry: Mapping[str, Any]) -> Iterator[None]:
    """In it a directory gets its name, by `new_directory`, and with it the row of which `entry` has the fields by then.

    `refuse` may raise: nobody takes a job over, or registers anything, from then on until the row is there.
    """
    with db.transaction():
        refuse()
        yield
        add(db, **entry)


def serving(db: Database) -> Policy:
    """The policy that answers now. Raises UserError before the first start has set one up."""
    row = db.row("SELECT * FROM model WHERE status = 'serving'")
    if row is None:
        raise UserError(not_set_up(db))
    return Policy(**row)


def not_set_up(db: Database) -> str:
    """That there is no model yet, and what makes one."""
    return _(
        "No base model has been set up in {directory} yet. Start `python app.py` once, or run `python -m rlhf --data "
        "{directory} prepare`."
    ).format(directory=db.path.parent)


def by_revision(db: Database, revision: str) -> Policy:
    """The policy of this revision ('serving' and 'base' included). Raises UserError if there is none."""
    if revision == "serving":
        return serving(db)
    found = named(db, revision)
    if found is None and revision == "base":
        raise UserError(not_set_up(db))
    if found is None:
        listed = ", ".join(one["revision"] for one in db.rows("SELECT revision FROM model ORDER BY id DESC LIMIT 8"))
        said = _("There is no policy '{revision}'. The newest are: {listed}.")
        raise UserError(said.format(revision=revision, listed=listed))
    return found


def named(db: Database, revision: str) -> Policy | None:
    row = db.row("SELECT * FROM model WHERE revision = ?", (revision,))
    return None if row is None else Policy(**row)


def by_id(db: Database, model_id: int) -> Policy:
    return Policy(**db.one("SELECT * FROM model WHERE id = ?", (model_id,)))


def all_policies(db: Database) -> list[Policy]:
    """All policies, oldest first."""
    return [Policy(**row) for row in db.rows("SELECT * FROM model ORDER BY id")]


def any_trained(db: Database) -> bool:
    return bool(db.value("SELECT EXISTS (SELECT 1 FROM model WHERE path NOT NULL)"))


def free_name(db: Database, kind: str, job_id: int) -> str:
    """The name of what a job makes, whenever it is asked: not another model's, which was restored from elsewhere."""
    name = f"{kind.replace('_', '-')}-{job_id}"
    while db.value("SELECT 1 FROM model WHERE revision = ? AND job_id IS NOT ?", (name, job_id)):
        name += "-new"
    return name


def of_job(db: Database, job_id: int) -> Policy | None:
    row = db.row("SELECT * FROM model WHERE job_id = ?", (job_id,))
    return None if row is None else Policy(**row)


def no_thinking(db: Database) -> bool:
    """Whether the base is told not to think before it answers: in answers, training and checks alike."""
    return by_revision(db, "base").thinking == "off"


def set_thinking(db: Database, thinking: Thinking) -> int:
    """Say whether the base is told not to think. Prompts that it was fed keep the text that it was fed.

    All policies answer otherwise then, so what they have answered and nobody has judged is put before nobody any more;
    returns how many comparisons that are. What was found of them until then decides nothing until they think so again.
    Raises UserError while a check runs: it would measure both. Where only nobody had said so, nothing else changes.
    """
    with db.transaction() as connection:
        told_before = no_thinking(db)
        otherwise = told_before != (thinking == "off")
        if otherwise:
            refuse_during_a_check(db)
            answer_changes.note_change_of_answers(db, told_before)
        connection.execute("UPDATE model SET thinking = ? WHERE revision = 'base'", (thinking,))
        return policy_comparisons.withdraw_open(db) if otherwise else 0


def answer_otherwise(db: Database) -> None:
    """Note that under the name of the base lie other weights from now on, which all policies but whole ones lie on.

    What they have answered and what was found of them decides nothing any more, as after `set_thinking`, and for good;
    nor do verdicts of judges that ran on these weights. Raises UserError while a check runs, or a judge.
    """
    with db.transaction():
        try:
            refuse_during_judging(db)
        except UserError as error:
            said = _("{error} If Prefloop has just been ended, start it again in a minute.")
            raise UserError(said.format(error=error)) from error
        answer_changes.note_change_of_answers(db, None)
        policy_comparisons.withdraw_open(db)


def refuse_during_a_check(db: Database) -> None:
    """Raises UserError while a check runs: it would measure policies before and after a change of their answers."""
    if db.value("SELECT 1 FROM job WHERE kind = 'check' AND status IN ('running', 'cancelling')"):
        raise UserError(_("A check is running. Wait until it has ended, or cancel it on the Runs tab."))


def refuse_during_judging(db: Database) -> None:
    """Raises UserError while a check runs, or a judge, which would go on with the weights as it began with them."""
    refuse_during_a_check(db)
    if db.value("SELECT 1 FROM job WHERE kind = 'judge' AND status IN ('running', 'cancelling')"):
        raise UserError(_("A judge is at work. Wait until it has ended, or cancel it on the Runs tab."))


def withdrawn_sentence(count: int) -> str:
    """That open comparisons were withdrawn, with a blank before it; empty where none were."""
    said = ngettext(
        "{count} open comparison was of answers of the other kind, and is withdrawn.",
        "{count} open comparisons were of answers of the other kind, and are withdrawn.",
        count,
    )
    return f" {said.format(count=count)}" if count else ""


# ------------------------------------------------------------------------------------------------------------- lineage
def limits_are_against(db: Database) -> str:
    """The revision that the gate's rule names as its anchor; empty where no rule was set."""
    rule = setting_store.setting(db, RULE_SETTING, {})
    return str(rule.get("anchor", "")) if isinstance(rule, dict) else ""


def ground(db: Database, policy: Policy) -> Policy:
    """The policy whose weights this one lies on, or is."""
    return by_revision(db, "base") if policy.lies_on is None else by_id(db, policy.lies_on)


def own_ground(db: Database, policy: Policy) -> Policy:
    """The weights that a policy hangs on, its adapter off, in its own precision: what its training has moved it from.

    Whole weights hang on none but the base. In two precisions the same weights are two policies, and a difference
    between them would be taken for one that training has made.
    """
    under = by_revision(db, "base") if policy.form == "full" or policy.lies_on is None else by_id(db, policy.lies_on)
    return replace(under, precision=policy.precision)


def ancestors(db: Database, policy: Policy) -> list[Policy]:
    """The policies that this one grew from, nearest first."""
    known = {one.id: one for one in all_policies(db)}
    parents = {one.id: one.parent_id for one in known.values()}
    return [known[number] for number in ancestors_of(parents, policy.id)]


def family(db: Database, policy: Policy) -> list[Policy]:
    """A policy, its ancestors, and the models with which any of them was trained, with theirs; each once."""
    found: dict[int, Policy] = {}
    waiting = [policy]
    while waiting:
        one = waiting.pop()
        if one.id in found:
            continue
        line = [one, *ancestors(db, one)]
        found |= {member.id: member for member in line}
        waiting += [scorer for member in line for scorer in trained_with(db, member)]
    return list(found.values())


def trained_as(db: Database, policy: Policy) -> TrainingSpec | None:
    """The training that made a policy; None for the base, and for merged weights."""
    spec = None if policy.job_id is None else job_store.get(db, policy.job_id).spec
    return spec if isinstance(spec, TrainingSpec) else None


def trained_with(db: Database, policy: Policy) -> list[Policy]:
    """The models beside its parent with which a policy was trained, such as the one that scored its answers."""
    spec = trained_as(db, policy)
    return [] if spec is None else [by_revision(db, name) for name in spec.depends_on() if name != spec.parent]


def training_of(db: Database, policy: Policy) -> Job | None:
    """The job that trained a policy, or the adapter that it was merged from; None where that was not done here."""
    while policy.job_id is not None:
        job = job_store.get(db, policy.job_id)
        continued = job.spec.continues()
        if not continued:
            return job
        policy = by_revision(db, continued)
    return None


# -------------------------------------------------------------------------------------------------------------- files
def verify(data_dir: Path, policy: Policy) -> None:
    """Read a policy's files through. Raises UserError where they are damaged or missing."""
    if policy.path is not None and policy.sha256 is not None and not policy.deleted:
        verify_directory(data_dir / policy.path, policy.sha256, policy.revision)


def require_answering(policy: Policy) -> None:
    """Raises UserError for a model that can't give answers (any more)."""
    if policy.kind == "reward-model":
        said = _("'{revision}' is a reward model: it scores answers and can't give them.")
        raise UserError(said.format(revision=policy.revision))
    require_files(policy)


def require_files(policy: Policy) -> None:
    """Raises UserError for a model whose files were deleted."""
    if policy.deleted:
        said = _("The files of '{revision}' were deleted on {deleted}. Choose another.")
        raise UserError(said.format(revision=policy.revision, deleted=policy.deleted[:10]))


def gone(policy: Policy) -> str:
    said = _("The files of {revision} were deleted on {deleted}.")
    return said.format(revision=policy.revision, deleted=str(policy.deleted)[:10])


def remove_files(data_dir: Path, policy: Policy) -> int:
    """Remove the files of a policy that are marked as deleted; returns the bytes that are free now.

    Only from where its name says they are: an archive from elsewhere may have brought another path.
    """
    if policy.path != f"adapters/{policy.revision}":
        return 0
    directory = data_dir / str(policy.path)
    freed = bytes_within(directory)
    shutil.rmtree(directory, ignore_errors=True)
    return freed


def clear_leftovers(db: Database, data_dir: Path) -> None:
    """Remove files that killed programs left: of deleted policies, unregistered ones, half-written ones."""
    policies = all_policies(db)
    for policy in policies:
        if policy.deleted and policy.path is not None:
            remove_files(data_dir, policy)
    # By their paths: what was restored elsewhere has no job, and other jobs may have the numbers in its names.
    registered = {policy.path for policy in policies}
    made = (
        f"adapters/{free_name(db, **job)}"
        for job in db.rows(f"SELECT kind, id AS job_id FROM job WHERE status IN {ENDED}")
    )
    remove_leftover(data_dir / path for path in made if path not in registered)
    clear_half_written(data_dir)


def from_source(db: Database, source: str) -> Policy | None:
    """The model that came from there and still has its files, if there is one."""
    row = db.row("SELECT * FROM model WHERE source = ? AND deleted IS NULL ORDER BY id DESC", (source,))
    return None if row is None else Policy(**row)
