"""Comparisons of a candidate that people are given, and those that a check left to judges."""

from __future__ import annotations

from annotation.database import Database
from annotation.store import policy_comparisons, project_store
from rlhf.data import held_out_sets
from rlhf.evaluation import pair_outcomes
from rlhf.evaluation.decisions.candidate_findings import checks_of, opponent, spent_prompts
from rlhf.evaluation.finished_checks import FinishedCheck, newest_check
from rlhf.models import registry
from rlhf.models.registry import Policy


def left_to_ask(db: Database, policy: Policy) -> bool:
    """Whether people compare nothing of a candidate now and could be given what its newest check left to judges.

    That is the newest against what serves: whoever also checks it against another takes nothing from people.
    """
    checks = checks_of(db, policy) if policy.undecided else []
    return bool(checks) and nothing_open(db, policy) and can_be_asked(db, policy, checks[0])


def check_to_ask_about(db: Database, policy: Policy) -> FinishedCheck | None:
    """The check whose comparisons people are given next: that of which some are `left_to_ask`, else the newest."""
    return checks_of(db, policy)[0] if left_to_ask(db, policy) else newest_check(db, policy.revision)


def can_be_asked(db: Database, policy: Policy, check: FinishedCheck) -> bool:
    """Whether there are comparisons of a check that people have not been asked and that would count."""
    other = registry.by_revision(db, check.report.against.revision)
    on = held_out_sets.that_count(db, check.spec.gate_set)
    return pair_outcomes.could_be_asked(db, policy, other, on, spent_prompts(db, policy, other)) > 0


def ask_people(db: Database, policy: Policy, check: FinishedCheck) -> int:
    """Put before people what they have not been asked of a check's comparisons; returns how many these are."""
    other = registry.by_revision(db, check.report.against.revision)
    on = held_out_sets.that_count(db, check.spec.gate_set)
    return policy_comparisons.ask_people_of_candidate(db, policy.id, other.id, on, spent_prompts(db, policy, other))


def ask_what_is_left(db: Database, revision: str) -> None:
    """Put before people what the newest check of a candidate left to judges, unless somebody has decided meanwhile."""
    with db.transaction():
        policy = registry.by_revision(db, revision)
        if left_to_ask(db, policy):
            ask_people(db, policy, checks_of(db, policy)[0])


def given_to_people(db: Database) -> bool:
    """Whether annotators are given comparisons of candidates among their others."""
    return project_store.project(db).candidate_share > 0


def nothing_open(db: Database, policy: Policy) -> bool:
    """Whether no comparison of a policy with its opponent is before people."""
    return pair_outcomes.open_to_people(db, policy.id, opponent(db, policy).id) == 0
