"""What was decided on policies: which one serves, who turned a candidate down, why, and what of that can be undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from annotation.database import Database
from annotation.records import UserError, now, who
from annotation.store import policy_comparisons
from annotation.translation import N_, _, kept, retold
from rlhf.models import registry
from rlhf.models.registry import Policy

DecisionAction = Literal["promote", "go-back", "reject", "take-back-rejection", "delete"]


def promote(db: Database, revision: str, decided_by: str, reason: str = "") -> Policy:
    """Let a policy serve; the one that served is retired. Going back to an earlier one is recorded as that.

    People and the gate decide by `rlhf.evaluation.decisions`, which has its files verified before. Raises
    UserError if it serves already, can't serve, or there is none of that name.
    """
    with db.transaction() as connection:
        policy, current = registry.by_revision(db, revision), registry.serving(db)
        registry.require_answering(policy)
        if policy.id == current.id:
            raise UserError(_("'{revision}' serves already.").format(revision=policy.revision))
        action: DecisionAction = "go-back" if policy.status == "retired" else "promote"
        connection.execute("UPDATE model SET status = 'retired' WHERE id = ?", (current.id,))
        connection.execute("UPDATE model SET status = 'serving' WHERE id = ?", (policy.id,))
        record_decision(db, policy.id, current.id, action, decided_by, reason)
        for decided in (policy, current):
            policy_comparisons.withdraw_candidate(db, decided.id)
    return registry.by_revision(db, policy.revision)


def reject(db: Database, revision: str, decided_by: str, reason: str = "") -> Policy:
    """Turn a candidate down; it stays on disk and can still be promoted. Raises UserError if it is no candidate."""
    with db.transaction() as connection:
        policy = registry.by_revision(db, revision)
        if policy.deleted:
            raise UserError(registry.gone(policy))
        if policy.status != "candidate":
            said = _("'{revision}' is not a candidate ({status}), so it can't be rejected.")
            raise UserError(said.format(revision=policy.revision, status=policy.status_word))
        connection.execute("UPDATE model SET status = 'rejected' WHERE id = ?", (policy.id,))
        record_decision(db, policy.id, registry.serving(db).id, "reject", decided_by, reason)
        policy_comparisons.withdraw_candidate(db, policy.id)
    return registry.by_revision(db, policy.revision)


def take_back_rejection(db: Database, revision: str, decided_by: str) -> Policy:
    """Take a rejection back: the policy is a candidate again. Raises UserError where it is not rejected any more."""
    with db.transaction() as connection:
        policy = registry.by_revision(db, revision)
        if policy.status != "rejected" or policy.deleted:
            said = _("There is no rejection of '{revision}' ({status}) to take back.")
            raise UserError(said.format(revision=policy.revision, status=policy.status_word))
        connection.execute("UPDATE model SET status = 'candidate' WHERE id = ?", (policy.id,))
        record_decision(db, policy.id, registry.serving(db).id, "take-back-rejection", decided_by)
    return registry.by_revision(db, policy.revision)


def mark_deleted(db: Database, policy: Policy, decided_by: str) -> None:
    """Record that a policy's files are about to be deleted, and by whom; nobody is asked about it any more."""
    with db.transaction() as connection:
        connection.execute("UPDATE model SET deleted = ? WHERE id = ?", (now(), policy.id))
        record_decision(db, policy.id, registry.serving(db).id, "delete", decided_by)
        policy_comparisons.withdraw_candidate(db, policy.id)


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
    return None if row is None or row["previous_id"] is None else registry.by_id(db, row["previous_id"])


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
    there = {policy.revision: policy.status for policy in registry.all_policies(db) if policy.deleted is None}
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
    if before is not None and registry.by_revision(db, before).deleted:
        raise UserError(_("Nothing was undone: the files of {revision} were deleted.").format(revision=before))
    said = _("Nothing was undone: that decision holds no more. {who} decided last; {revision} serves now.")
    raise UserError(said.format(who=who(latest[0].decided_by), revision=registry.serving(db).revision))


def newest_decision(db: Database) -> int:
    """A number that is another after each decision; 0 before the first."""
    return int(db.value("SELECT coalesce(max(id), 0) FROM decision"))


def refuse_unseen(db: Database, number: int) -> None:
    """Raises UserError where somebody has decided after this decision, the newest that a person was shown."""
    if newest_decision(db) != number:
        said = _("Nothing was changed: {who} has decided meanwhile. Look again.")
        raise UserError(said.format(who=who(decisions(db, limit=1)[0].decided_by)))
