"""The gate at work: a candidate's findings read from the rows, the decision on it, and what follows. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from annotation import store
from annotation.database import Database
from annotation.measuring.analysis import Estimate
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
def check_of(db: Database, policy: Policy) -> Job | None:
    """The newest finished check of a policy against what serves now; one against what served before tells nothing."""
    serving = policies.serving(db).revision
    return next((job for job in checks(db, policy) if getattr(job.spec, "against", "") == serving), None)


def checks(db: Database, policy: Policy) -> list[Job]:
    """The finished checks of a policy, newest first."""
    found = jobs.recent(db, ("evaluate",), 1000)
    return [
        job
        for job in found
        if job.status == "finished" and isinstance(job.spec, EvaluateSpec) and job.spec.candidate == policy.revision
    ]


def findings(db: Database, policy: Policy) -> Findings:
    """Everything that was measured of a candidate against the policy that serves now."""
    serving, check = policies.serving(db), check_of(db, policy)
    people = tuple(one.outcome for one in judges.faced(db, policy.id, serving.id))
    if check is None or check.result is None:
        return Findings(people)
    result, spec = check.result, check.spec
    assert isinstance(spec, EvaluateSpec)
    candidate, base = result["candidate"], result["base"]
    rates = result.get("win_rates", {}).get(serving.revision, {})
    return Findings(
        people,
        tuple(
            judge_findings(db, judge, policy, serving, rates.get(judge.name))
            for judge in judges.named(db, spec.judges if "win_rates" in result else "")
        ),
        kl_per_token=candidate.get("kl_to_base"),
        nll_ratio=ratio(candidate.get("nll_under_base"), base.get("nll_under_base")),
        distinct_ratio=ratio(candidate.get("distinct_2"), base.get("distinct_2")),
        truncated_more=difference(base.get("ended_share"), candidate.get("ended_share")),
        perplexity_ratio=ratio(candidate.get("perplexity"), base.get("perplexity")),
        reward_hacking=hacking(result),
        identical_to_parent=result["same_answers"] == result["prompts"] if "same_answers" in result else None,
    )


def hacking(result: Mapping[str, Any]) -> bool | None:
    """Whether a check saw signs of reward hacking; None where it could not tell, as an earlier version's could not."""
    if "reward_hacking" not in result:
        return None
    found = result["reward_hacking"]
    return False if found is None else found["flagged"]


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
               AS checked, (SELECT value FROM setting WHERE key = 'gate') AS rule"""
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


def pending(db: Database) -> Pending | None:
    """The newest candidate that was checked against what serves now, with the decision on it; None without one.

    Only the newest: an older one that was not decided on has been overtaken by what was learnt since.
    """
    candidates = [one for one in policies.everything(db) if one.status == "candidate" and one.kind == "policy"]
    for policy in reversed([one for one in candidates if one.deleted is None]):
        if check_of(db, policy) is not None:
            return Pending(policy, decision_on(db, policy))
    return None


def act(db: Database, data_dir: Path) -> Pending | None:
    """Promote or reject what is decided, where the rule's mode is automatic; returns what was done, or None.

    Raises UserError where the adapter's files are damaged; then nothing has changed.
    """
    if rule(db).mode != "automatic":
        return None
    found = pending(db)
    if found is None or found.decision.verdict == "not enough evidence":
        return None
    if found.decision.verdict == "promote":
        loop.promote(db, data_dir, found.policy.revision, THE_GATE, found.decision.sentence)
    else:
        policies.reject(db, found.policy.revision, THE_GATE, found.decision.sentence)
    return found
