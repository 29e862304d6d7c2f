"""The rule's decision on a candidate: whether it is ripe, waited for, or given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from annotation.database import Database
from annotation.translation import spoken
from rlhf.data import held_out_sets
from rlhf.evaluation import pair_outcomes, rule_store
from rlhf.evaluation.decisions import asking_people
from rlhf.evaluation.decisions.candidate_findings import checks_of, findings, opponent
from rlhf.evaluation.decisions.decision_cache import cached
from rlhf.evaluation.finished_checks import FinishedCheck
from rlhf.evaluation.gate import (
    Findings,
    GateDecision,
    decide,
    given_up,
)
from rlhf.models import registry
from rlhf.models.registry import Policy


def decided(db: Database, policy: Policy) -> tuple[Findings, GateDecision]:
    """What was measured of this policy, and what the project's rule makes of it.

    Where comparisons are wanted that no check will make any more, a rejection; but not where people were given some and
    nobody, no judge either, has said anything that counts. To wait longer is safe: that promotes nothing, and what
    people still say is bet on as before.
    """

    def look() -> tuple[Findings, GateDecision]:
        found, terms = findings(db, policy), rule_store.rule(db)
        decision, checks = decide(terms, found), checks_of(db, policy)
        used_up = bool(checks) and decision.more is not None and not prompts_left(db, policy, checks)
        begun = any(not one.skipped for one in found.people)
        if (used_up or len(checks) >= MOST_CHECKS) and needs_another_check(db, policy, decision, checks, begun):
            heard = begun or any(one.outcomes for one in found.judges)
            if not heard and pair_outcomes.taken_up_by_people(db, policy.id, opponent(db, policy).id):
                decision = replace(decision, unheard=True)
            else:
                decision = given_up(decision, len(checks), used_up)
        return found, decision

    return cached(db, ("decision", policy.revision, spoken().code), look)


def prompts_left(db: Database, policy: Policy, checks: Sequence[FinishedCheck]) -> int:
    """On how many prompts a policy was not compared with its opponent yet: more seeds of the others are no evidence."""
    return held_out_sets.never_compared(db, policy, opponent(db, policy), checks[-1].spec.gate_set)


def decision_on(db: Database, policy: Policy) -> GateDecision:
    """What the project's rule makes of what was measured of this candidate."""
    return decided(db, policy)[1]


@dataclass(frozen=True)
class PendingDecision:
    policy: Policy
    decision: GateDecision
    exhausted: bool = False
    """Whether nothing more comes of it until another check draws new answers, or people are given others."""
    askable: bool = False
    """Whether they can be given what was left to judges."""
    used_up: bool = False
    """Whether another check would show no more: then they are given that, or it is given up."""


def pending(db: Database) -> PendingDecision | None:
    """The newest candidate that was checked against what serves now, with the decision on it; None without one.

    Only the newest: an older one that was not decided on has been overtaken by what was learnt since.
    """
    for policy in reversed([one for one in registry.all_policies(db) if one.undecided]):
        checks = checks_of(db, policy)
        if checks:
            decision = decision_on(db, policy)
            if decision.says != "not enough evidence" or decision.more is None:
                return PendingDecision(policy, decision)
            askable, used_up = asking_people.left_to_ask(db, policy), shows_no_more(db, policy, checks)
            waits = needs_new_answers(decision, checks) or asking_people.nothing_open(db, policy)
            ended = askable or (waits and not used_up)
            return PendingDecision(policy, decision, exhausted=ended, askable=askable, used_up=used_up)
    return None


# Beyond these a candidate is waited for no more: with 60 prompts they give more comparisons than the rule asks for.
MOST_CHECKS = 8


def shows_no_more(db: Database, policy: Policy, checks: Sequence[FinishedCheck]) -> bool:
    """Whether a further check would draw nothing that counts."""
    left = cached(db, ("unused", policy.revision), lambda: prompts_left(db, policy, checks))
    return len(checks) >= MOST_CHECKS or not left


def needs_another_check(
    db: Database, policy: Policy, decision: GateDecision, checks: Sequence[FinishedCheck], begun: bool
) -> bool:
    """Whether nothing more will come of a candidate without a further check; people are awaited who have `begun`.

    They are given first what was left to judges, unless no comparison would help: then it is a figure that is missing.
    """
    if decision.says != "not enough evidence":
        return False
    if needs_new_answers(decision, checks) and not begun:
        return True
    return asking_people.nothing_open(db, policy) and (
        decision.more is None or not asking_people.left_to_ask(db, policy)
    )


def needs_new_answers(decision: GateDecision, checks: Sequence[FinishedCheck]) -> bool:
    """Whether it takes a judge that has judged everything there was; checks come newest first."""
    if decision.more_by is None:
        return False
    calls = checks[0].report.judged.get(decision.more_by)
    return calls is not None and calls.judged > 0  # one that judged nothing would judge nothing again
