"""What judges say of a candidate, how far they agree with people, and which of them have a part in it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from annotation.database import Database
from annotation.metrics.intervals_and_bias import Estimate
from rlhf.data import snapshots
from rlhf.evaluation import win_rates
from rlhf.evaluation.decisions.decision_cache import cached
from rlhf.evaluation.finished_checks import FinishedCheck
from rlhf.evaluation.gate import (
    JudgeFindings,
    Recusal,
)
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.judge_agreement import PairAgreement, trust
from rlhf.models import registry
from rlhf.models.registry import Policy


def panel_findings(
    db: Database, policy: Policy, against: Policy, checks: Sequence[FinishedCheck], on: Collection[int] | None
) -> tuple[JudgeFindings, ...]:
    """What each judge says that was asked in any of the checks (newest first); only those of the first may decide."""
    with_judges = [
        check for check in reversed(checks) if check.report.win_rates is not None
    ]  # the first version's had none
    asked = [judge_store.judges_named(db, check.spec.judges) for check in with_judges]
    first = {judge.name for panel in asked[:1] for judge in panel}
    different = {judge.name: judge for panel in asked for judge in panel}
    found = []
    for name, judge in different.items():
        informs = conflict_of_interest(db, judge, policy, against) or (None if name in first else "late")
        gave_up = next((check.report.judged[name].gave_up for check in checks if name in check.report.judged), "")
        found.append(replace(judge_findings(db, judge, policy, against, on, informs), gave_up=gave_up))
    return tuple(found)


def conflict_of_interest(db: Database, judge: judge_store.Judge, policy: Policy, against: Policy) -> Recusal | None:
    """Why a judge must not decide on a policy because it has a part in it; None where it has none.

    By what judges, whatever its name; and by all that the policy has become what it is by since it parted from the one
    that it would replace, not by its last training alone.
    """
    model, trained = judge_store.model_of(db, judge), registry.training_of(db, policy)
    if model is not None and (model.id == policy.id or (trained and registry.training_of(db, model) == trained)):
        return "itself"
    shared = {one.id for one in registry.family(db, against)}
    since = [registry.training_of(db, one) for one in registry.family(db, policy) if one.id not in shared]
    if model is not None and any(job and model.revision in optimised_against(job) for job in since):
        return "optimised-against"
    taught_by = teachers(db, policy)
    if judge_store.what_judges(judge) in taught_by:
        return "its-labels"
    if model is not None and taught_by & teachers(db, model):
        return "shared-labels"
    return None


def teachers(db: Database, model: Policy) -> set[tuple[str, ...]]:
    """What the judges were on whose labels a policy or a reward model was trained, or anything that it grew from."""
    trainings = sorted({snapshots.seen_until(db, one) for one in registry.family(db, model)} - {0})
    known = judge_store.judges(db) if trainings else []
    # Each by what was its labels then: of what people have judged by a later one, that learnt theirs.
    return {judge_store.what_judges(one) for one in known if verdict_store.has_taught(db, one, trainings)}


def optimised_against(trained: Job) -> tuple[str, ...]:
    """The revisions of the models that a training was to please."""
    return trained.spec.trained_against() if isinstance(trained.spec, TrainingSpec) else ()


# Of the interval at equal lengths: its lower end is wrong once in twenty times.
EQUAL_LENGTHS_LEVEL = 0.90


def judge_findings(
    db: Database,
    judge: judge_store.Judge,
    policy: Policy,
    against: Policy,
    on: Collection[int] | None,
    informs: Recusal | None = None,
) -> JudgeFindings:
    """What a judge says of a policy, of all or `on` these prompts; its agreement with people is that of today."""
    found = win_rates.outcomes_by(db, judge, policy, against, on=on)
    return JudgeFindings(
        name=judge.name,
        outcomes=found.decided,
        trust=agreement_of(db, judge),
        trust_before=agreement_before(db, judge, policy),
        length_controlled=found.at_equal_lengths(EQUAL_LENGTHS_LEVEL),
        informs=informs,
        left_open=found.left_open,
    )


def agreement_of(db: Database, judge: judge_store.Judge) -> Estimate | None:
    """How often a judge agrees with people, as of today; None before both have judged the same."""
    found = cached(db, ("trust", judge.name), lambda: trust(verdict_store.jointly_judged(db, judge)).with_people)
    return None if found is None else found.share


def agreement_before(db: Database, judge: judge_store.Judge, policy: Policy) -> Estimate | None:
    """The same as of when people first compared the policy: what was said later, bets on it must not know.

    Of as many comparisons as they are worth, by which the bets believe it.
    """
    first = db.value(
        """SELECT min(j.id) FROM judgement j JOIN comparison c ON c.id = j.comparison_id
           WHERE c.candidate_id = ? AND j.purpose IN ('own', 'settle')""",
        (policy.id,),
    )

    def measure() -> PairAgreement | None:
        return trust(verdict_store.jointly_judged(db, judge, first)).with_people

    found = cached(db, (f"trust before {policy.revision}", judge.name), measure)
    return None if found is None else replace(found.share, n=round(found.worth))
