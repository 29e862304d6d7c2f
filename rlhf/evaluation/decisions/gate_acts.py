"""The gate promotes or rejects by itself, where the rule's mode is automatic."""

from __future__ import annotations

from pathlib import Path

from annotation.database import Database
from annotation.records import UserError
from annotation.translation import N_
from rlhf.evaluation import gate_words, rule_store
from rlhf.evaluation.decisions.candidate_decision import PendingDecision, pending
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy

THE_GATE = N_("the gate")


def act(db: Database, data_dir: Path) -> PendingDecision | None:
    """Promote or reject what is decided, where the rule's mode is automatic; returns what was done, or None.

    Never against the rule: it is asked again in the transaction that acts on it. A candidate whose files are damaged
    is rejected: it can't serve.
    """
    found = to_act_on(db)
    if found is None:
        return None
    problem = damage(data_dir, found.policy) if found.decision.says == "promote" else ""
    with db.transaction():
        again = to_act_on(db)
        if again is None or (again.policy, again.decision.says) != (found.policy, found.decision.says):
            return None
        revision, why = again.policy.revision, problem or gate_words.sentence(again.decision)
        if again.decision.says == "promote" and not problem:
            decision_store.promote(db, revision, THE_GATE, why)
        else:
            decision_store.reject(db, revision, THE_GATE, why)
    return again


def to_act_on(db: Database) -> PendingDecision | None:
    """The candidate that the gate promotes or rejects by itself now, if it may and the evidence is there."""
    found = pending(db) if rule_store.rule(db).mode == "automatic" else None
    return None if found is None or found.decision.says == "not enough evidence" else found


def damage(data_dir: Path, policy: Policy) -> str:
    """Why a policy's files can't be used, as a sentence; empty where they can."""
    try:
        registry.verify(data_dir, policy)
    except UserError as error:
        return str(error)
    return ""
