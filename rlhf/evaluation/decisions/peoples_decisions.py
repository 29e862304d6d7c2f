"""A person promotes or rejects: what the rule advises, what speaks against it, and the reason that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

from annotation.database import Database
from annotation.records import UserError, storable
from annotation.translation import _, joined
from rlhf.evaluation import gate_words, rule_store
from rlhf.evaluation.decisions import check_status
from rlhf.evaluation.decisions.candidate_decision import decision_on
from rlhf.evaluation.gate import (
    GateDecision,
    Ruling,
)
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy


def advised(db: Database, policy: Policy) -> GateDecision | None:
    """What the rule advises a person to do; None where its mode is 'never', and of what has been decided on.

    Unless that was taken back: whatever it had been promoted for, it is weighed as before.
    """
    if rule_store.rule(db).mode == "never" or not (policy.undecided or decision_store.gone_back_from(db, policy)):
        return None
    return decision_on(db, policy)


# Characters of what a person gives as the reason for a decision.
MOST_WHY = 1000


class PromotionAgainstRule(UserError):
    """A promotion that the rule speaks against, for which nobody has given a reason; it says what the rule says."""


def objection(db: Database, policy: Policy, brief: bool = False) -> str:
    """What speaks against letting a policy serve, as sentences; empty where nothing does. `brief`: without the reasons.

    That is every ruling but 'promote', and that it was rejected. Nothing speaks against going back to a
    policy that has served, because that has to be quick when what serves does harm, but to one that somebody has gone
    back from; nor where nobody is to be advised.
    """
    if not policy.can_answer or rule_store.rule(db).mode == "never":
        return ""
    if policy.status == "rejected":
        return decision_store.rejection(db, policy)
    decision = advised(db, policy)
    if decision is None or decision.says == "promote":
        return ""
    return described(db, policy, decision, gate_words.RULE_SAYS, brief)


def described(
    db: Database, policy: Policy, decision: GateDecision, says: Mapping[Ruling, str], brief: bool = False
) -> str:
    """A decision on a candidate, with its reasons unless `brief`, and how its check stands."""
    why = "" if brief else gate_words.sentence(decision)
    return joined(_(says[decision.says]), why, check_status.check_status(db, policy).sentence)


@dataclass(frozen=True)
class Promotion:
    revision: str
    against: bool

    def sentence(self) -> str:
        said = _("{revision} serves now, against the rule.") if self.against else _("{revision} serves now.")
        return said.format(revision=self.revision)


def promote(
    db: Database,
    data_dir: Path,
    revision: str,
    decided_by: str,
    why: str = "",
    undoes: int | None = None,
    after: int | None = None,
) -> Promotion:
    """Let a policy serve because a person wants it; against the rule only with a reason. Both are kept.

    The rule is asked in the transaction that promotes: what was judged since the person looked counts. So is whether
    the decision that it `undoes` still holds, whose button two people may have seen, and whether somebody has decided
    anything `after` the newest decision that the person was shown.
    Raises PromotionAgainstRule without a reason, and UserError where it can't serve; then nothing has changed.
    """
    registry.verify(data_dir, registry.by_revision(db, revision))  # before: reading the files takes a while
    own = clean_reason(why)
    with db.transaction():
        if undoes is not None:
            decision_store.to_take_back(db, undoes)
        if after is not None:
            decision_store.refuse_unseen(db, after)
        policy = registry.by_revision(db, revision)
        against = objection(db, policy)
        if against and not own:
            said = _("{revision} was not promoted. {against} Against that it takes a reason.")
            raise PromotionAgainstRule(said.format(revision=policy.revision, against=against))
        decision_store.promote(db, policy.revision, decided_by, reason(db, policy, own))
    return Promotion(policy.revision, bool(against))


def reject(db: Database, revision: str, decided_by: str, why: str = "") -> Policy:
    """Turn a candidate down because a person wants it, with what the rule says. Raises UserError."""
    own = clean_reason(why)
    with db.transaction():
        policy = registry.by_revision(db, revision)
        return decision_store.reject(db, policy.revision, decided_by, reason(db, policy, own))


def clean_reason(why: str) -> str:
    """A reason as it is kept: on one line, and nothing where there is nothing to be seen. Raises UserError."""
    said = " ".join(storable(why).replace("\0", " ").split())
    if len(said) > MOST_WHY:
        too_long = _("Why (for the record): {count} characters are too many. Say it in at most {most_why}.")
        raise UserError(too_long.format(count=len(said), most_why=MOST_WHY))
    if not any(category(one)[0] in "LNPS" and one not in BLANK_LETTERS for one in said):
        return ""
    return why if said == why else said  # what was said as a sentence of ours is told again in each language


# Letters and symbols that look like nothing: Hangul fillers and the empty Braille cell.
BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"


def reason(db: Database, policy: Policy, own: str) -> str:
    """What is recorded with a person's decision: their own words, then what the rule says, or who rejected it."""
    said = own if not own or own.endswith((".", "!", "?", "…")) else f"{own}."
    decision = advised(db, policy)
    rule_said = objection(db, policy) if decision is None else described(db, policy, decision, gate_words.RULE_SAID)
    return joined(said, rule_said) or decision_store.NO_REASON
