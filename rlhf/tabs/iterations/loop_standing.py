"""Where the loop stands, what comes next, and what has gone wrong on the way, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rlhf.evaluation.check_spec import EvaluateSpec
from rlhf.evaluation.gate import Mode
from rlhf.evaluation.gate_decisions import ENDINGS, PendingDecision
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.loop.controller import (
    JUDGE_AT_LEAST,
    RETRY_SECONDS,
    FailedCheck,
    LoopState,
    checked_by_loop,
    enough_labels,
    method_of,
    ready,
    wanted,
)
from rlhf.tabs.runs import job_words

Stage = Literal["collecting", "training", "checking", "deciding"]


@dataclass(frozen=True)
class LoopStatus:
    """Where the iteration stands, what comes next, and why."""

    stage: Stage
    now: str
    then: str
    problems: tuple[str, ...] = ()
    """What failed, was lost or was cancelled, and what follows from it."""


def loop_status(state: LoopState) -> LoopStatus:
    """Where the iteration stands, and what has gone wrong on the way. Pure."""
    stage = stage_of(state)
    return replace(stage, then=f"{stage.then} {judges_rest(state)}".strip(), problems=problems(state))


def judges_rest(state: LoopState) -> str:
    """That judges label no more although something waits for them, and until when; empty where they go on."""
    waits = any(count >= JUDGE_AT_LEAST for count in state.waiting.values())
    if state.active or not waits or not enough_labels(state):
        return ""
    return f"Judges label no more until the next training: {state.new} judgements wait for it already."


def stage_of(state: LoopState) -> LoopStatus:
    """The stage that the iteration is in, what happens now, and what comes next."""
    known = (*state.active, *state.rented)
    at_work = next((job for job in known if job.status != "queued"), next(iter(known), None))
    collected = f"{state.new} of {wanted(state)} new judgements"
    if at_work is not None:
        waits = at_work.status == "queued" and at_work.flavor is None
        if isinstance(at_work.spec, TrainingSpec):
            where = f" on rented hardware ({at_work.flavor})" if at_work.flavor else ""
            return LoopStatus(
                "training", f"Job {at_work.id} {'waits to train' if waits else 'trains'}{where}.", made_of(at_work.spec)
            )
        if isinstance(at_work.spec, EvaluateSpec):
            does = "waits to check" if waits else "checks"
            now = f"Job {at_work.id} {does} {at_work.spec.candidate} on the held-out prompts."
            return LoopStatus("checking", now, AFTER_CHECK[state.gate])
        if isinstance(at_work.spec, JudgeSpec):
            does = "is to judge" if waits else "judges"
            return LoopStatus("collecting", f"The judge {at_work.spec.judge} {does}: {collected}.", after(state))
    if state.unchecked and checked_by_loop(state, state.unchecked):
        then = f"The check starts {soon(state, state.unchecked)}."
        return LoopStatus("checking", f"{state.unchecked} is to be checked.", then)
    if state.pending is not None:
        return LoopStatus("deciding", found_of(state, state.pending), consequence(state, state.pending))
    return LoopStatus("collecting", f"Collecting: {collected}.", after(state))


AFTER_CHECK: Mapping[Mode, str] = {
    "ask": "Then the rule advises, once there are enough comparisons.",
    "automatic": "Then the gate decides, once there are enough comparisons.",
    "never": "Then what it measured is shown below: nobody is advised.",
}


def made_of(spec: TrainingSpec) -> str:
    """What follows a training."""
    if spec.makes == "reward":
        return "It makes a reward model, which never serves."
    checked = getattr(spec, "evaluate", False)
    return "When it ends, its candidate is checked." if checked else "Its candidate is not checked by itself."


def soon(state: LoopState, revision: str) -> str:
    """When the loop checks a candidate."""
    if state.active:
        return f"after job {state.active[0].id} ({job_words.about(state.active[0])})"
    return "within seconds" if ready(state, revision) else f"within {RETRY_SECONDS / 60:.0f} minutes"


def problems(state: LoopState) -> tuple[str, ...]:
    """What failed, was lost or was cancelled, each with what the loop does then or a person can do. Pure."""
    needed = [state.unchecked] if state.unchecked else []
    if state.pending is not None and state.pending.exhausted and state.gate == "automatic":
        needed.append(state.pending.policy.revision)
    held_up = {revision: state.fruitless[revision] for revision in needed if revision in state.fruitless}
    told = {fruitless.job.id for fruitless in held_up.values()}
    others = [f"{how_it_ended(job)} {repair(job)}" for job in state.broken if job.id not in told]
    return (*(check_problem(revision, fruitless) for revision, fruitless in held_up.items()), *others)


def repair(job: Job) -> str:
    """What a person can do about a job that came to nothing; a check leaves no checkpoints."""
    if isinstance(job.spec, EvaluateSpec):
        return f"The loop does not repeat it: check {job.spec.candidate} again below."
    return "The loop does not repeat it: resume it, or delete its checkpoints, on the Runs tab."


def check_problem(revision: str, fruitless: FailedCheck) -> str:
    """What came of a check that a candidate needs, and what follows."""
    by_hand = f"Check {revision} again below, or reject it."
    if fruitless.job.status == "cancelled":
        cancelled = f"{revision} waits: its check was cancelled (job {fruitless.job.id})"
        return f"{cancelled}, so the loop does not repeat it. {by_hand}"
    ended = how_it_ended(fruitless.job)
    if fruitless.to_be_repeated:
        return f"{ended} The loop tries it once more, {RETRY_SECONDS / 60:.0f} minutes after that."
    return f"{ended} {fruitless.failures} tries came to nothing, so the loop makes no further one. {by_hand}"


def how_it_ended(job: Job) -> str:
    """How a job ended that came to nothing, with its message, as a sentence."""
    message = job.message.strip().rstrip(".")
    return f"Job {job.id} ({job_words.about(job)}) {ENDINGS[job.status]}{f': {message}' if message else ''}."


def found_of(state: LoopState, pending: PendingDecision) -> str:
    """What the rule makes of a candidate that was checked; nothing where nobody is to be advised."""
    if state.gate == "never":
        return f"{pending.policy.revision} was checked: what was measured is below."
    return pending.decision.sentence


def consequence(state: LoopState, pending: PendingDecision) -> str:
    """What happens to a candidate that was checked."""
    revision, decided = pending.policy.revision, pending.decision.verdict != "not enough evidence"
    if pending.exhausted:
        by_itself = state.gate == "automatic" and checked_by_loop(state, revision)
        again = f"is checked again {soon(state, revision)}" if by_itself else "has to be checked again"
        return f"Everything that there was has been compared: {revision} {again}, which draws new answers."
    if not decided:
        waiting = " The next training waits for it." if state.gate == "automatic" and state.auto_train["on"] else ""
        return f"People compare {revision} with what serves, blind, among their other comparisons.{waiting}"
    if state.gate == "never":
        return f"Whether {revision} serves is for you to decide. The gate's mode is 'never', so nobody is advised."
    verb = "promote" if pending.decision.verdict == "promote" else "reject"
    if state.gate == "automatic":
        return f"The gate will {verb} {revision} within seconds."
    return f"The rule says: {verb} {revision}. It is for you to do so, because the gate's mode is 'ask'."


def after(state: LoopState) -> str:
    """What collecting leads to."""
    if not state.auto_train["on"]:
        return "Automatic training is off: a training starts when somebody starts it on the Train tab."
    method = method_of(state).automatic
    missing = max(wanted(state) - state.new, 0)
    return f"After {missing} more a training starts: {method}." if missing else f"A training is due: {method}."
