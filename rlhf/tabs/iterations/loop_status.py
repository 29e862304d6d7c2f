"""Where the loop stands, what comes next, and what has gone wrong on the way, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from annotation.translation import N_, _, joined, ngettext
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import check_status
from rlhf.evaluation.decisions.candidate_decision import PendingDecision
from rlhf.evaluation.gate import Mode
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.loop.controller import (
    JUDGE_AT_LEAST,
    RETRY_SECONDS,
    FailedCheck,
    LoopState,
    checked_by_loop,
    due,
    enough_labels,
    kind_to_train,
    ready,
    to_ask_about,
    to_check_again,
)
from rlhf.tabs.jobs import job_words

Stage = Literal["collecting", "training", "checking", "deciding"]


@dataclass(frozen=True)
class LoopStatus:
    stage: Stage
    now: str
    """Empty of a decision: what is found of the candidate is its headline."""
    then: str
    problems: tuple[str, ...] = ()
    """What came to nothing, and what follows from it."""


def loop_status(state: LoopState, hindered: Sequence[str] = ()) -> LoopStatus:
    """Where the iteration stands, and what has gone wrong on the way; `hindered`: why no training can start. Pure."""
    stage = stage_of(state)
    if hindered and due(state) and stage.then == after(state):
        training = _(kind_to_train(state).automatic)
        none = _("A training is due ({training}), but none can start.").format(training=training)
        stage = replace(stage, then=joined(none, *hindered))
    return replace(stage, then=joined(stage.then, judges_rest(state)), problems=problems(state))


def judges_rest(state: LoopState) -> str:
    """That judges label no more although something waits for them, and until when; empty where they go on."""
    waits = any(count >= JUDGE_AT_LEAST for count in state.waiting.values())
    if state.active or not waits or not enough_labels(state):
        return ""
    return ngettext(
        "Judges label no more until the next training: {new} judgement waits for it already.",
        "Judges label no more until the next training: {new} judgements wait for it already.",
        state.towards_next,
    ).format(new=state.towards_next)


def stage_of(state: LoopState) -> LoopStatus:
    """The stage that the iteration is in, what happens now, and what comes next."""
    known = (*state.active, *state.rented)
    at_work = next((job for job in known if job.status != "queued"), next(iter(known), None))
    if at_work is not None and isinstance(at_work.spec, TrainingSpec | CheckSpec | JudgeSpec):
        return stage_with(at_work, at_work.spec, state)
    if state.unchecked and checked_by_loop(state, state.unchecked):
        then = soon(state, state.unchecked)
        return LoopStatus("checking", _("{unchecked} is to be checked.").format(unchecked=state.unchecked), then)
    if state.pending is not None:
        return LoopStatus("deciding", "", consequence(state, state.pending))
    return LoopStatus("collecting", collecting(state), after(state))


def stage_with(job: Job, spec: TrainingSpec | CheckSpec | JudgeSpec, state: LoopState) -> LoopStatus:
    """The stage while this job is at work, or waits with none before it."""
    waits = job.status == "queued" and job.flavor is None
    match spec:
        case TrainingSpec():
            now = _("Job {number} trains.")
            if waits:
                now = _("Job {number} waits to train.")
            elif job.flavor:
                now = _("Job {number} trains on rented hardware ({hardware}).")
            return LoopStatus("training", now.format(number=job.id, hardware=job.flavor), made_of(spec))
        case CheckSpec():
            now = _("Job {number} checks {candidate} on the held-out prompts.")
            if waits:
                now = _("Job {number} waits to check {candidate} on the held-out prompts.")
            said = now.format(number=job.id, candidate=spec.candidate)
            return LoopStatus("checking", said, _(AFTER_CHECK[state.gate]))
        case JudgeSpec():
            now = _("The judge {judge} waits to judge.") if waits else _("The judge {judge} judges.")
            return LoopStatus("collecting", f"{collecting(state)} {now.format(judge=spec.judge)}", after(state))


def collecting(state: LoopState) -> str:
    said = _("Collecting new judgements: {new:,} of {wanted:,}.")
    if state.towards_next > state.auto_train.wanted:
        said = _("Collecting new judgements: {new:,}; {wanted:,} are enough.")
    return said.format(new=state.towards_next, wanted=state.auto_train.wanted)


AFTER_CHECK: Mapping[Mode, str] = {
    "ask": N_("Then the rule advises, once there are enough comparisons."),
    "automatic": N_("Then the gate decides, once there are enough comparisons."),
    "never": N_("Then what it measured is shown below: nobody is advised."),
}


def made_of(spec: TrainingSpec) -> str:
    if spec.makes == "reward-model":
        return _("It makes a reward model, which never serves.")
    return _("When it ends, its candidate is checked.") if spec.check else _("Its candidate is not checked by itself.")


def soon(state: LoopState, revision: str) -> str:
    if not state.measurable:
        return _("The check waits: there is no held-out prompt. Import some on the Data tab.")
    if len(state.active) > 1:
        return _("The check starts as soon as no job runs or waits.")
    if state.active:
        return _("The check starts after job {number} ({about}).").format(
            number=state.active[0].id, about=job_words.about(state.active[0])
        )
    if ready(state, revision):
        return _("The check starts within seconds.")
    return _("The check starts within {minutes:.0f} minutes.").format(minutes=RETRY_SECONDS / 60)


def problems(state: LoopState) -> tuple[str, ...]:
    """What failed, was lost or was cancelled, each with what the loop does then or a person can do. Pure."""
    needed = [revision for revision in (state.unchecked, to_check_again(state)) if revision]
    held_up = {revision: state.failed_checks[revision] for revision in needed if revision in state.failed_checks}
    told = {failed.job.id for failed in held_up.values()}
    others = [f"{how_it_ended(job)} {repair(job, job.id in state.saved)}" for job in state.broken if job.id not in told]
    return (*(check_problem(revision, failed) for revision, failed in held_up.items()), *others)


def repair(job: Job, saved: bool) -> str:
    """What a person can do about a job that came to nothing; `saved`: it is a training that left checkpoints."""
    if isinstance(job.spec, CheckSpec):
        return _("The loop does not repeat it: check {candidate} again below.").format(candidate=job.spec.candidate)
    if saved:
        return _("The loop does not repeat it: resume it, or delete its checkpoints, on the Runs tab.")
    return _("The loop does not repeat it: resume it on the Runs tab.")


def check_problem(revision: str, failed: FailedCheck) -> str:
    """What came of a check that a candidate needs, and what follows."""
    by_hand = _("Check {revision} again below, or reject it.").format(revision=revision)
    if failed.job.status == "cancelled":
        cancelled = _(
            "{revision} waits: its check was cancelled (job {number}), so the loop does not repeat it."
        ).format(revision=revision, number=failed.job.id)
        return f"{cancelled} {by_hand}"
    ended = how_it_ended(failed.job)
    if failed.to_be_repeated:
        return _("{ended} The loop tries it once more, {retry_seconds:.0f} minutes after that.").format(
            ended=ended, retry_seconds=RETRY_SECONDS / 60
        )
    return _("{ended} {failures} tries came to nothing, so the loop makes no further one. {by_hand}").format(
        ended=ended, failures=failed.failures, by_hand=by_hand
    )


def how_it_ended(job: Job) -> str:
    return check_status.how_it_ended(job, job_words.about(job))


def consequence(state: LoopState, pending: PendingDecision) -> str:
    """What happens to a candidate that was checked."""
    revision, decided = pending.policy.revision, pending.decision.says != "not enough evidence"
    if pending.exhausted:
        return goes_on(state, pending).format(revision=revision)
    if pending.decision.unheard:
        said = _("{revision} stays a candidate: decide yourself, or give people more of it to compare.")
        return said.format(revision=revision)
    if not decided:
        said = _("People compare {revision} with what serves, blind, among their other comparisons.").format(
            revision=revision
        )
        if not state.given:
            said = _("{revision} waits for comparisons that people are not given.").format(revision=revision)
        if pending.decision.more is None:
            said = _("{revision} waits for what was not measured: check it again.").format(revision=revision)
        waiting = _("The next training waits for it.")
        return f"{said} {waiting}" if state.gate == "automatic" and state.auto_train.on else said
    if state.gate == "never":
        return _("Whether {revision} serves is for you to decide: nobody is advised.").format(revision=revision)
    if state.gate == "automatic":
        return {
            (True, True): _("The gate will promote {revision} within seconds."),
            (False, True): _("The gate will reject {revision} within seconds."),
            (True, False): _("The gate will promote {revision} as soon as no job runs or waits."),
            (False, False): _("The gate will reject {revision} as soon as no job runs or waits."),
        }[pending.decision.says == "promote", not state.active].format(revision=revision)
    return _("{revision} waits for your decision.").format(revision=revision)  # its card says what the rule advises


def goes_on(state: LoopState, pending: PendingDecision) -> str:
    """How it goes on with a candidate of which nothing more comes by itself; its name is left out."""
    if to_ask_about(state) is not None and state.active:
        return _("People are given what they were not asked about as soon as no job runs or waits.")
    if to_ask_about(state) is not None:
        return _("People are given what they were not asked about.")
    if pending.askable and pending.used_up:
        return _("People have nothing left to compare: let them compare what they were not asked about.")
    if state.gate == "automatic" and checked_by_loop(state, pending.policy.revision):
        again = _("It takes new answers to compare: {revision} is checked again, which draws them.")
        return f"{again} {soon(state, pending.policy.revision)}"
    if pending.askable:
        return _(
            "People have nothing left to compare: let them compare what they were not asked about, or check {revision} "
            "again."
        )
    return _("It takes new answers to compare: {revision} has to be checked again, which draws them.")


def after(state: LoopState) -> str:
    if not state.auto_train.on:
        return _("Automatic training is off: a training starts when somebody starts it on the Train tab.")
    training = _(kind_to_train(state).automatic)
    missing = max(state.auto_train.wanted - state.towards_next, 0)
    said = _("After {missing} more a training starts: {training}.") if missing else _("A training is due: {training}.")
    return said.format(missing=missing, training=training)
