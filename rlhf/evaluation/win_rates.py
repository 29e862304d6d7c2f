"""How a policy did against others by people and judges, at equal lengths too, what its reward did, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from annotation.database import Database
from annotation.metrics.intervals_and_bias import Estimate, wilson_interval
from annotation.metrics.sequential_test import length_controlled
from rlhf.data import snapshots
from rlhf.jobs import job_store
from rlhf.jobs.job_store import Job
from rlhf.jobs.specs import TrainingSpec
from rlhf.judges import judge_store
from rlhf.models import registry
from rlhf.models.registry import Policy


def same_answers(own: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Prompts on which two policies' answers need no judge: `same` text, or one of them `empty_own`, `empty_other`."""
    texts = {row["prompt_id"]: row["text"].strip() for row in other}
    pairs = [(row["text"].strip(), texts[row["prompt_id"]]) for row in own if row["prompt_id"] in texts]
    return {
        "same": sum(one == two for one, two in pairs),
        "empty_own": sum(not one and bool(two) for one, two in pairs),
        "empty_other": sum(bool(one) and not two for one, two in pairs),
    }


def win_rates(
    db: Database,
    names: str,
    candidate: Policy,
    other: Policy,
    own: Sequence[Mapping[str, Any]],
    same: Mapping[str, int],
) -> dict[str, dict[str, Any]]:
    """By judge: how often the candidate's `own` answers beat another policy's, ties as half, and at equal lengths."""
    ids = {row["id"] for row in own}
    found = {}
    for judge in judge_store.named(db, names):
        faced = [one for one in judge_store.faced(db, candidate.id, other.id, judge.id) if one.response_id in ids]
        unasked = [0.5] * same["same"] + [0.0] * same["empty_own"] + [1.0] * same["empty_other"]
        outcomes = [one.outcome for one in faced]
        all_outcomes = [*outcomes, *unasked]
        low, high = wilson_interval(sum(all_outcomes), len(all_outcomes))
        controlled = length_controlled(outcomes, [one.length for one in faced], [one.other_length for one in faced])
        found[judge.name] = {
            "value": fmean(all_outcomes) if faced or len(unasked) == len(own) else None,
            "low": low,
            "high": high,
            "n": len(all_outcomes),
            "ties": sum(outcome == 0.5 for outcome in all_outcomes),
            "length_controlled": None if controlled is None else asdict(controlled),
        }
    return found


# Rounds whose mean reward is called that of its start and of its end.
ROUNDS_AT_AN_END = 5


def reward_gain(db: Database, candidate: Policy) -> dict[str, Any] | None:
    """How much the reward of its training rose; None without one. `rise` is None after too few rounds to tell.

    `length` is how the reward model's scores go with length (Spearman) on the comparisons that it was checked with: a
    reward that is mostly length is soon hacked (Gao et al. 2023; Singhal et al. 2023).
    """
    job = training_of(db, candidate)
    pleased = job.spec.trained_against() if job is not None and isinstance(job.spec, TrainingSpec) else ()
    if job is None or not pleased:
        return None
    rewards = [entry["reward"] for entry in job_store.metrics(db, job.id) if "reward" in entry]
    ends = min(ROUNDS_AT_AN_END, len(rewards) // 2)
    scorer = registry.by_revision(db, pleased[0])
    health = None if scorer.job_id is None else (job_store.get(db, scorer.job_id).result or {}).get("health")
    return {
        "rise": fmean(rewards[-ends:]) - fmean(rewards[:ends]) if ends else None,
        "length": ((health or {}).get("length") or {}).get("spearman"),
    }


def training_of(db: Database, policy: Policy) -> Job | None:
    """The job that trained a policy, or the adapter that it was merged from; None where that was not done here."""
    while policy.job_id is not None:
        job = job_store.get(db, policy.job_id)
        continued = job.spec.continues()
        if not continued:
            return job
        policy = registry.by_revision(db, continued)
    return None


def by_people(db: Database, policy: Policy, other: Policy) -> Estimate | None:
    """How often people preferred a policy's answers to another's, ties as half; None where they compared none."""
    outcomes = [one.outcome for one in judge_store.faced(db, policy.id, other.id)]
    if not outcomes:
        return None
    return Estimate(fmean(outcomes), *wilson_interval(sum(outcomes), len(outcomes)), len(outcomes))


def left_to_judges(db: Database, policy: Policy, other: Policy) -> int:
    """How many comparisons of a policy with another people have not been asked, which they could be."""
    return int(
        db.value(
            """SELECT count(*) FROM comparison WHERE candidate_id = ? AND against_id = ? AND asks = 'nobody'
                 AND taken = 0""",
            (policy.id, other.id),
        )
    )


def judged_for(db: Database, policy: Policy) -> int:
    """Comparisons on prompts to train on that were judged when a policy's data was frozen, each counted once.

    Whatever the scope of its training, a policy and those that it grew from have learnt from all up to a judgement.
    """
    return int(
        db.value(
            """SELECT count(DISTINCT j.comparison_id) FROM judgement j JOIN comparison c ON c.id = j.comparison_id
                   JOIN prompt p ON p.id = c.prompt_id
               WHERE j.id <= ? AND j.outcome NOT IN ('skip', 'undone') AND c.purpose = 'preference'
                 AND c.candidate_id IS NULL AND p.split = 'train'""",
            (learnt_until(db, policy),),
        )
    )


def learnt_until(db: Database, policy: Policy) -> int:
    """The last judgement that a policy, its reward model, or one that it grew from, has learnt from; 0 without any."""
    until, seen = snapshots.trained_until(db, policy), policy
    while seen.job_id is not None:
        spec = job_store.get(db, seen.job_id).spec
        for name in spec.trained_against() if isinstance(spec, TrainingSpec) else ():
            until = max(until, snapshots.trained_until(db, registry.by_revision(db, name)))
        if seen.parent_id is None:
            break
        seen = registry.by_id(db, seen.parent_id)
    return until
