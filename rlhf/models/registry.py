"""The registry of models: the base and its adapters, which one serves, and what was decided on them."""

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
from annotation.records import UserError, ancestors_of, now, who
from annotation.store import answer_changes, policy_comparisons, setting_store
from annotation.translation import N_, _, kept, ngettext, retold
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
DecisionAction = Literal["promote", "go-back", "reject", "take-back-rejection", "delete"]
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


# ---------------------------------------------------------------------------------------------------------- decisions
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


def promote(db: Database, revision: str, decided_by: str, reason: str = "") -> Policy:
    """Let a policy serve; the one that served is retired. Going back to an earlier one is recorded as that.

    People and the gate decide by `rlhf.evaluation.decisions`, which has its files verified before. Raises
    UserError if it serves already, can't serve, or there is none of that name.
    """
    with db.transaction() as connection:
        policy, current = by_revision(db, revision), serving(db)
        require_answering(policy)
        if policy.id == current.id:
            raise UserError(_("'{revision}' serves already.").format(revision=policy.revision))
        action: DecisionAction = "go-back" if policy.status == "retired" else "promote"
        connection.execute("UPDATE model SET status = 'retired' WHERE id = ?", (current.id,))
        connection.execute("UPDATE model SET status = 'serving' WHERE id = ?", (policy.id,))
        record_decision(db, policy.id, current.id, action, decided_by, reason)
        for decided in (policy, current):
            policy_comparisons.withdraw_candidate(db, decided.id)
    return by_revision(db, policy.revision)


def reject(db: Database, revision: str, decided_by: str, reason: str = "") -> Policy:
    """Turn a candidate down; it stays on disk and can still be promoted. Raises UserError if it is no candidate."""
    with db.transaction() as connection:
        policy = by_revision(db, revision)
        if policy.deleted:
            raise UserError(gone(policy))
        if policy.status != "candidate":
            said = _("'{revision}' is not a candidate ({status}), so it can't be rejected.")
            raise UserError(said.format(revision=policy.revision, status=policy.status_word))
        connection.execute("UPDATE model SET status = 'rejected' WHERE id = ?", (policy.id,))
        record_decision(db, policy.id, serving(db).id, "reject", decided_by, reason)
        policy_comparisons.withdraw_candidate(db, policy.id)
    return by_revision(db, policy.revision)


def take_back_rejection(db: Database, revision: str, decided_by: str) -> Policy:
    """Take a rejection back: the policy is a candidate again. Raises UserError where it is not rejected any more."""
    with db.transaction() as connection:
        policy = by_revision(db, revision)
        if policy.status != "rejected" or policy.deleted:
            said = _("There is no rejection of '{revision}' ({status}) to take back.")
            raise UserError(said.format(revision=policy.revision, status=policy.status_word))
        connection.execute("UPDATE model SET status = 'candidate' WHERE id = ?", (policy.id,))
        record_decision(db, policy.id, serving(db).id, "take-back-rejection", decided_by)
    return by_revision(db, policy.revision)


def mark_deleted(db: Database, policy: Policy, decided_by: str) -> None:
    """Record that a policy's files are about to be deleted, and by whom; nobody is asked about it any more."""
    with db.transaction() as connection:
        connection.execute("UPDATE model SET deleted = ? WHERE id = ?", (now(), policy.id))
        record_decision(db, policy.id, serving(db).id, "delete", decided_by)
        policy_comparisons.withdraw_candidate(db, policy.id)


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


def record_decision(
    db: Database, model_id: int, previous_id: int, action: DecisionAction, decided_by: str, reason: str = ""
) -> None:
    """Append to the record of what was decided: who and, where it was said, why."""
    made = {"model_id": model_id, "previous_id": previous_id, "action": action}
    db.insert("decision", {**made, "decided_by": decided_by, "reason": kept(reason), "created": now()})


def decided_against(db: Database, policy: Policy) -> Policy | None:
    """What served until a policy was last promoted or rejected; None of one that was not decided on."""
    row = db.row(
        """SELECT previous_id FROM decision WHERE model_id = ? AND action IN ('promote', 'reject')
           ORDER BY id DESC LIMIT 1""",
        (policy.id,),
    )
    return None if row is None or row["previous_id"] is None else by_id(db, row["previous_id"])


def gone_back_from(db: Database, policy: Policy) -> bool:
    """Whether a policy was promoted, and serves no more because one from before it was gone back to."""
    row = db.row(
        """SELECT action, model_id FROM decision WHERE previous_id = ? AND action IN ('promote', 'go-back')
           ORDER BY id DESC LIMIT 1""",
        (policy.id,),
    )
    if policy.status != "retired" or row is None or row["action"] != "go-back":
        return False
    return first_promoted(db, row["model_id"]) < first_promoted(db, policy.id)


def first_promoted(db: Database, model_id: int) -> int:
    """The number of a policy's first promotion, which grow; 0 without any, as of the base."""
    first = "SELECT min(id) FROM decision WHERE model_id = ? AND action = 'promote'"
    return int(db.value(first, (model_id,)) or 0)


def rejection(db: Database, policy: Policy) -> str:
    """Who rejected a policy, when and why, as a sentence; empty where nobody has."""
    row = db.row("SELECT * FROM decision WHERE model_id = ? AND action = 'reject' ORDER BY id DESC", (policy.id,))
    if row is None:
        return ""
    return _("{who} rejected it on {day}: {reason}").format(
        who=who(row["decided_by"]), day=row["created"][:10], reason=why(retold(row["reason"]))
    )


NO_REASON = N_("no reason given")


def why(reason: str) -> str:
    """The reason that is recorded with a decision, as it is shown."""
    return _(NO_REASON) if reason == NO_REASON else reason


@dataclass(frozen=True)
class Decision:
    """What was decided on a policy: who did and, where it was said, why."""

    id: int
    created: str
    action: DecisionAction
    revision: str
    previous: str | None
    """What served until then."""
    decided_by: str
    reason: str


def decisions(db: Database, limit: int = 50) -> list[Decision]:
    """The latest ones, newest first."""
    rows = db.rows(
        """SELECT d.id, d.created, d.action, m.revision, previous.revision AS previous, d.decided_by, d.reason
           FROM decision d JOIN model m ON m.id = d.model_id LEFT JOIN model previous ON previous.id = d.previous_id
           ORDER BY d.id DESC LIMIT ?""",
        (limit,),
    )
    return [Decision(**{**row, "reason": retold(row["reason"])}) for row in rows]


def undoable(db: Database) -> dict[int, Decision]:
    """The decisions that can be taken back, by their numbers: the newest on its policy, while what it made holds."""
    there = {policy.revision: policy.status for policy in all_policies(db) if policy.deleted is None}
    newest: dict[str, Decision] = {}
    for one in decisions(db):
        newest.setdefault(one.revision, one)
    made = {"promote": "serving", "go-back": "serving", "reject": "rejected"}
    return {
        one.id: one
        for one in newest.values()
        if there.get(one.revision) == made.get(one.action, "") and (one.action == "reject" or one.previous in there)
    }


def to_take_back(db: Database, number: int) -> Decision:
    """The decision of a number. Raises UserError, with what holds now, where it can't be taken back any more."""
    known, latest = undoable(db), decisions(db, limit=1)
    if number in known:
        return known[number]
    if not latest or not 0 < number <= latest[0].id:
        raise UserError(_("There is no such decision; reload the page."))
    before = next((one.previous for one in decisions(db) if one.id == number), None)
    if before is not None and by_revision(db, before).deleted:
        raise UserError(_("Nothing was undone: the files of {revision} were deleted.").format(revision=before))
    said = _("Nothing was undone: that decision holds no more. {who} decided last; {revision} serves now.")
    raise UserError(said.format(who=who(latest[0].decided_by), revision=serving(db).revision))


def newest_decision(db: Database) -> int:
    """A number that is another after each decision; 0 before the first."""
    return int(db.value("SELECT coalesce(max(id), 0) FROM decision"))


def refuse_unseen(db: Database, number: int) -> None:
    """Raises UserError where somebody has decided after this decision, the newest that a person was shown."""
    if newest_decision(db) != number:
        said = _("Nothing was changed: {who} has decided meanwhile. Look again.")
        raise UserError(said.format(who=who(decisions(db, limit=1)[0].decided_by)))


def from_source(db: Database, source: str) -> Policy | None:
    """The model that came from there and still has its files, if there is one."""
    row = db.row("SELECT * FROM model WHERE source = ? AND deleted IS NULL ORDER BY id DESC", (source,))
    return None if row is None else Policy(**row)
