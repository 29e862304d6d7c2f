"""The gate at work: a candidate's findings read from the rows, the decision on it, and what follows. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from weakref import WeakKeyDictionary

from annotation import store
from annotation.database import Database
from annotation.measuring.analysis import Estimate
from annotation.records import UserError
from rlhf import jobs, judges, loop, policies
from rlhf.gate import Decision, Findings, JudgeFindings, Rule, decide
from rlhf.jobs import Job
from rlhf.policies import Policy
from rlhf.specs import EvaluateSpec
from rlhf.trust import trust

SETTING = "gate"
THE_GATE = "the gate"


def rule(db: Database) -> Rule:
    """The project's rule."""
    return Rule.from_setting(store.setting(db, SETTING, {}))


def set_rule(db: Database, values: Mapping[str, Any]) -> Rule:
    """Store a rule; what is left out has its default. Raises UserError for values that make no sense."""
    new = Rule.from_setting(values)
    store.set_setting(db, SETTING, new.to_setting())
    return new


# ----------------------------------------------------------------------------------------------------------- findings
def finished_checks(db: Database) -> list[Job]:
    """All finished checks, newest first."""
    return [
        job
        for job in jobs.recent(db, ("evaluate",), 1000)
        if job.status == "finished" and job.result is not None and isinstance(job.spec, EvaluateSpec)
    ]


def checks_of(db: Database, policy: Policy, known: Sequence[Job] | None = None) -> list[Job]:
    """The finished checks of a policy against what serves now, newest first; others tell nothing about a promotion."""
    serving = policies.serving(db).revision
    return [
        job
        for job in (finished_checks(db) if known is None else known)
        if isinstance(job.spec, EvaluateSpec) and (job.spec.candidate, job.spec.against) == (policy.revision, serving)
    ]


def findings(db: Database, policy: Policy) -> Findings:
    """Everything that was measured of a candidate against the policy that serves now.

    The figures are those of the newest check; of judges every one that was asked in any of them.
    """
    serving, checks = policies.serving(db), checks_of(db, policy)
    people = tuple(one.outcome for one in judges.faced(db, policy.id, serving.id))
    if not checks or checks[0].result is None:
        return Findings(people)
    result = checks[0].result
    candidate, base = result["candidate"], result["base"]
    rates = result.get("win_rates", {}).get(serving.revision, {})
    asked = {
        judge.name: judge
        for job in checks
        if "win_rates" in (job.result or {})
        for judge in judges.named(db, getattr(job.spec, "judges", ""))
    }
    panel = tuple(judge_findings(db, judge, policy, serving, rates.get(name)) for name, judge in asked.items())
    return Findings(
        people,
        panel,
        prompts=result["prompts"],
        kl_per_token=candidate.get("kl_to_base"),
        nll_ratio=ratio(candidate.get("nll_under_base"), base.get("nll_under_base")),
        distinct_ratio=ratio(candidate.get("distinct_2"), base.get("distinct_2")),
        truncated_more=difference(base.get("ended_share"), candidate.get("ended_share")),
        perplexity_ratio=ratio(candidate.get("perplexity"), base.get("perplexity")),
        reward_hacking=hacking(result, people, panel),
        identical_to_parent=result["same_answers"] == result["prompts"] if "same_answers" in result else None,
    )


def hacking(result: Mapping[str, Any], people: Sequence[float], panel: Sequence[JudgeFindings]) -> bool | None:
    """Whether PPO's reward rose while nobody who was asked finds the answers better on average (Gao et al. 2023).

    People's word stands before judges'. None where it can't be told: nobody was asked, or too few rounds were made.
    """
    if "reward_hacking" not in result:
        return None  # an earlier version's check
    found = result["reward_hacking"]
    if found is None:
        return False
    heard = [people] if people else [judge.outcomes for judge in panel if judge.outcomes]
    if found["rise"] is None or not heard:
        return None
    return bool(found["rise"] > 0 and max(fmean(outcomes) for outcomes in heard) <= 0.5)


def difference(value: float | None, less: float | None) -> float | None:
    """One figure less another; None where either is missing."""
    return None if value is None or less is None else value - less


def judge_findings(
    db: Database, judge: judges.Judge, policy: Policy, serving: Policy, measured: Mapping[str, Any] | None
) -> JudgeFindings:
    """What a judge says of a candidate; its agreement with people is that of today."""
    agreement = trust(judges.cases(db, judge)).with_people
    controlled = (measured or {}).get("length_controlled")
    return JudgeFindings(
        judge.name,
        tuple(one.outcome for one in judges.faced(db, policy.id, serving.id, judge.id)),
        None if agreement is None else agreement.share,
        None if controlled is None else Estimate(**controlled),
    )


def ratio(value: float | None, to: float | None) -> float | None:
    """One figure over another; None where either is missing or the second is zero."""
    return None if value is None or not to else value / to


# ----------------------------------------------------------------------------------------------------------- decisions
_kept: WeakKeyDictionary[Database, tuple[Any, dict[str, Decision]]] = WeakKeyDictionary()


def decision_on(db: Database, policy: Policy) -> Decision:
    """What the project's rule makes of what was measured of this candidate.

    Kept until a row changes that it depends on, because the loop and the pages ask every few seconds.
    """
    stamp = db.row(
        """SELECT (SELECT max(id) FROM judgement) AS judgement, (SELECT max(id) FROM exclusion) AS exclusion,
               (SELECT max(id) FROM promotion) AS promotion, (SELECT max(finished) FROM job WHERE kind = 'evaluate')
               AS checked, (SELECT count(*) FROM comparison WHERE candidate_id IS NOT NULL AND asks = 'people'
                   AND taken = 0) AS open, (SELECT value FROM setting WHERE key = 'gate') AS rule"""
    )
    kept = _kept.get(db)
    if kept is None or kept[0] != stamp:
        kept = _kept[db] = stamp, {}
    if policy.revision not in kept[1]:
        kept[1][policy.revision] = decide(rule(db), findings(db, policy))
    return kept[1][policy.revision]


@dataclass(frozen=True)
class Pending:
    """The candidate that the gate looks at, and its decision."""

    policy: Policy
    decision: Decision
    exhausted: bool = False
    """Whether nothing is left to compare until another check draws new answers."""


def pending(db: Database) -> Pending | None:
    """The newest candidate that was checked against what serves now, with the decision on it; None without one.

    Only the newest: an older one that was not decided on has been overtaken by what was learnt since.
    """
    candidates = [one for one in policies.everything(db) if one.status == "candidate" and one.kind == "policy"]
    known = finished_checks(db) if candidates else []
    for policy in reversed([one for one in candidates if one.deleted is None]):
        checks = checks_of(db, policy, known)
        if checks:
            decision = decision_on(db, policy)
            return Pending(policy, decision, exhausted(db, policy, decision, checks))
    return None


# Beyond these a candidate is waited for no more: with 60 prompts they give more comparisons than the rule asks for.
MOST_CHECKS = 8


def exhausted(db: Database, policy: Policy, decision: Decision, checks: Sequence[Job]) -> bool:
    """Whether comparisons are wanted of a candidate and none are left; a further check would make some."""
    if decision.verdict != "not enough evidence" or decision.more is None or len(checks) >= MOST_CHECKS:
        return False
    if decision.more_by is None:
        return judges.open_to_people(db, policy.id, policies.serving(db).id) == 0
    said = ((checks[0].result or {}).get("judged") or {}).get(decision.more_by) or {}
    return bool(said.get("judged"))  # one that judged nothing would judge nothing again


def advice(db: Database, policy: Policy) -> str:
    """What the rule says at the moment, for the record of a person's decision; nothing of what is no candidate."""
    if policy.status != "candidate" or policy.kind != "policy":
        return ""
    decision = decision_on(db, policy)
    return f"The rule said: {decision.verdict}. {decision.sentence}"


def act(db: Database, data_dir: Path) -> Pending | None:
    """Promote or reject what is decided, where the rule's mode is automatic; returns what was done, or None.

    A candidate whose files are damaged is rejected: it can't serve.
    """
    if rule(db).mode != "automatic":
        return None
    found = pending(db)
    if found is None or found.decision.verdict == "not enough evidence":
        return None
    if found.decision.verdict == "reject":
        policies.reject(db, found.policy.revision, THE_GATE, found.decision.sentence)
        return found
    try:
        loop.promote(db, data_dir, found.policy.revision, THE_GATE, found.decision.sentence)
    except UserError as error:
        policies.reject(db, found.policy.revision, THE_GATE, str(error))
    return found
