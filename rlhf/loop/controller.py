"""The iteration: collect, train, check, decide; what is due next, and doing that unasked. Torch-free.

`LoopState` is what the rows say, `next_step` is a pure function of it, and `advance` does the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from annotation.database import Database
from annotation.jobs.job_table import CAME_TO_NOTHING
from annotation.records import now, seconds_between
from annotation.store import project_store, setting_store, training_data
from annotation.translation import N_, _, spoken
from rlhf.data import held_out_sets, snapshots
from rlhf.evaluation import pair_outcomes, rule_store
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import asking_people, candidate_decision, decision_cache, gate_acts
from rlhf.evaluation.decisions.candidate_decision import PendingDecision
from rlhf.evaluation.finished_checks import told_as_now
from rlhf.evaluation.gate import Mode
from rlhf.jobs import job_spec, job_store
from rlhf.jobs.artifacts import checkpoints_directory
from rlhf.jobs.descriptions import Made
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.judge_result import JudgeResult
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.submission import job_submission, preconditions
from rlhf.submission.form_fields import in_labels

THE_LOOP = N_("the loop")
# A judge loads a model, which is not worth while for fewer comparisons.
JUDGE_AT_LEAST = 8
# What failed without being asked for is tried again after a while, not at once.
RETRY_SECONDS = 300.0
# A check that failed so often would fail again: it takes a person.
MOST_FAILURES = 2

Action = Literal["check", "decide", "ask", "judge", "train", "train first"]


# -------------------------------------------------------------------------------------------------------------- state
@dataclass(frozen=True)
class FailedCheck:
    """The last check of a candidate, where nothing has come of it or of any since the last finished one."""

    job: Job
    failures: int
    """How many failed or were lost since then."""
    rested: bool
    """Whether the last ended longer ago than a retry waits."""

    @property
    def to_be_repeated(self) -> bool:
        """Whether the loop tries once more: not what a person cancelled, nor what would only fail again."""
        return self.job.status != "cancelled" and self.failures < MOST_FAILURES


@dataclass(frozen=True)
class AutomaticTraining:
    """Whether, how often and how the loop trains without being asked; kept as one setting, edited on the Train tab."""

    on: bool
    every: int
    """So many new judgements."""
    algorithm: str
    """A kind of training."""

    @property
    def wanted(self) -> int:
        """How many new judgements start a training."""
        return max(self.every, snapshots.MIN_PAIRS)


@dataclass(frozen=True)
class LoopState:
    auto_train: AutomaticTraining
    new: int
    """Judgements since the last training that learnt from them, or is to."""
    active: tuple[Job, ...]
    """Jobs that wait or run here."""
    unchecked: str | None
    """The oldest candidate whose training asked for a check and has had none; first those that the loop can check."""
    waiting: Mapping[str, int]
    """Open comparisons by the judge that they wait for, those aside that failed a moment ago."""
    pending: PendingDecision | None
    """The candidate that is to be decided on."""
    gate: Mode
    needed_model: str | None = None
    """The model that is trained before the training that is started unasked, where that was done since the last one."""
    needed_tried: bool = False
    """Whether it was to be trained since, and as many judgements have not come after that."""
    failed_checks: Mapping[str, FailedCheck] = field(default_factory=dict)
    """By candidate, what came of a check that came to nothing."""
    broken: tuple[Job, ...] = ()
    """The newest training, and the newest check of a candidate, if they failed or were lost; not if a person has
    cancelled them, or has deleted the training's checkpoints."""
    saved: frozenset[int] = frozenset()
    rented: tuple[Job, ...] = ()
    """Trainings on rented hardware, beside which all else goes on here."""
    given: bool = True
    """Whether annotators are given comparisons of candidates, and there is anybody who can compare them."""
    measurable: bool = True
    """Whether there is a held-out prompt to check a candidate on."""
    spent: int = 0
    """Of the new judgements, those that a training was begun with that came to nothing: they start no other."""
    unasked: str | None = None
    """The newest candidate, where it has had no check and nothing has asked for one."""

    @property
    def towards_next(self) -> int:
        """The judgements that count towards the next training: that starts by itself, or that somebody starts."""
        return self.new - self.spent if self.auto_train.on else self.new


def state_of(db: Database, counted: bool = True) -> LoopState:
    """What the rows say now; judgements need not be `counted` where nothing starts by them."""
    auto_train = automatic_training(db)
    latest = next(iter(job_store.recent(db, tuple(automatic_kinds()), 1)), None)
    since = latest.created if latest else ""
    kind = automatic_kinds().get(auto_train.algorithm)
    needed = kind.trained_first() if kind else None
    tried = None if needed is None else tried_since(db, needed, since)
    checks = job_store.checks(db)
    failed, broken, without = failed_checks(checks), broken_jobs(db, checks), without_check(db, checks)
    unspent = training_data.new_to_train_on(db, since) if counted else 0
    learnt = newest_training(db)
    new = training_data.new_to_train_on(db, learnt) if counted and learnt != since else unspent
    found = unchecked_candidates(db, without)
    able = [revision for revision in found if revision not in failed or failed[revision].to_be_repeated]
    return LoopState(
        auto_train=auto_train,
        new=new,
        active=(*job_store.at_work(db), *job_store.queue(db)),
        unchecked=next(iter([*able, *found]), None),
        waiting=waiting_judges(db),
        pending=candidate_decision.pending(db),
        gate=rule_store.rule(db).mode,
        needed_model=None if needed is None else newest_model(db, needed, since),
        needed_tried=tried is not None and training_data.new_to_train_on(db, tried) < auto_train.wanted,
        failed_checks=failed,
        broken=broken,
        saved=frozenset(
            job.id for job in broken if any(checkpoints_directory(db.path.parent, job.id).glob("checkpoint-*"))
        ),
        rented=tuple(job_store.rented_jobs(db)),
        given=asking_people.given_to_people(db) and pair_outcomes.can_be_compared(db),
        measurable=held_out_sets.can_measure(db),
        spent=new - unspent,
        unasked=newest_unasked(db, without),
    )


def newest_training(db: Database) -> str:
    """When the last training was asked for that has learnt from the judgements before it, or is to; empty without."""
    found = (job for job in job_store.recent(db, tuple(automatic_kinds())) if job.status not in CAME_TO_NOTHING)
    return next((job.created for job in found), "")


def failed_checks(checks: Sequence[Job]) -> dict[str, FailedCheck]:
    """By candidate, the checks (newest first) that came to nothing; not while another waits or runs."""
    ended: dict[str, list[Job]] = {}
    settled: set[str] = set()
    for job in checks:
        revision = candidate_of(job)
        if job.status not in CAME_TO_NOTHING:
            settled.add(revision)
        if revision not in settled:
            ended.setdefault(revision, []).append(job)
    return {
        revision: FailedCheck(
            found[0], sum(job.status != "cancelled" for job in found), seconds_since(found[0]) >= RETRY_SECONDS
        )
        for revision, found in ended.items()
    }


def candidate_of(job: Job) -> str:
    return job.spec.candidate if isinstance(job.spec, CheckSpec) else ""


def seconds_since(job: Job) -> float:
    """How long ago a job has ended; for ever where the clock was set back since."""
    passed = seconds_between(job.finished or job.created, now())
    return passed if passed >= 0 else math.inf


def without_check(db: Database, checks: Sequence[Job]) -> list[Policy]:
    """The candidates that have had no check, oldest first."""
    now = told_as_now(db)
    counting = [check for check in checks if check.is_open or (check.status == "finished" and check.id in now)]
    had = {candidate_of(check) for check in counting}
    return [one for one in registry.all_policies(db) if one.undecided and one.revision not in had]


def unchecked_candidates(db: Database, without: Sequence[Policy]) -> list[str]:
    """Of the candidates `without` a check those whose training asked for one, oldest first."""
    return [one.revision for one in without if asked_for_check(db, one)]


def newest_unasked(db: Database, without: Sequence[Policy]) -> str | None:
    """The newest candidate, if it is `without` a check and nothing has asked for one."""
    newest = [one for one in registry.all_policies(db) if one.undecided][-1:]
    return next((one.revision for one in newest if one in without and not asked_for_check(db, one)), None)


def asked_for_check(db: Database, policy: Policy) -> bool:
    if policy.job_id is None:
        return False
    job = job_store.get(db, policy.job_id)
    return job.status == "finished" and isinstance(job.spec, TrainingSpec) and job.spec.check


def broken_jobs(db: Database, checks: Sequence[Job]) -> tuple[Job, ...]:
    """The newest training, and the newest check if its policy is still a candidate, where they came to nothing unasked.

    A person who cancels one, or deletes its checkpoints, is done with it.
    """
    trainings = job_store.recent(db, tuple(job_spec.trainings()), 1)
    newest = [
        *(job for job in trainings if not thrown_away(db, job)),
        *(check for check in checks[:1] if is_candidate(db, candidate_of(check))),
    ]
    return tuple(job for job in newest if job.status in CAME_TO_NOTHING and job.status != "cancelled")


def thrown_away(db: Database, job: Job) -> bool:
    """Whether what a training here had reached was deleted: it makes the directory before its first step.

    That is no more needed once its model is registered, whether it could still say so or not.
    """
    made = registry.of_job(db, job.id)
    there = checkpoints_directory(db.path.parent, job.id).is_dir() or (made is not None and made.deleted is None)
    return job.flavor is None and job.step > 0 and not there


def is_candidate(db: Database, revision: str) -> bool:
    return any(one.revision == revision and one.undecided for one in registry.all_policies(db))


def waiting_judges(db: Database) -> dict[str, int]:
    """How many open comparisons wait for each judge that labels them and has not failed a moment ago."""
    if project_store.feedback(db).mode == "people":
        return {}
    found = {}
    for judge in judge_store.judges(db, active=True):
        if not failed_lately(judge_store.last_job(db, judge)):
            found[judge.name] = verdict_store.count_open(db, judge)
    return found


def newest_model(db: Database, made: Made, since: str) -> str | None:
    """The newest model of this kind that was trained after `since` and is there."""
    models = [one for one in registry.all_policies(db) if one.kind == made and one.deleted is None]
    return next((one.revision for one in reversed(models) if one.created > since), None)


def tried_since(db: Database, made: Made, since: str) -> str | None:
    """When the last training that makes a model of this kind was asked for, if after `since`."""
    latest = job_store.recent(db, (kind_making(made).kind,), 1)
    return next((job.created for job in latest if job.created > since), None)


def failed_lately(job: Job | None) -> bool:
    """Whether a judge's last job came to nothing, a moment ago."""
    if job is None:
        return False
    result = JudgeResult.of(job.result)
    empty = bool(result.gave_up) or (not result.verdicts and result.left_open > 0)
    return (job.status != "finished" or empty) and seconds_since(job) < RETRY_SECONDS


# ------------------------------------------------------------------------------------------------------ the next step
@dataclass(frozen=True)
class Step:
    """What the loop does next without being asked; `subject` is a candidate, a judge, or the model that a training
    needs."""

    action: Action
    subject: str = ""


def automatic_kinds() -> Mapping[str, type[TrainingSpec]]:
    """The kinds of training that the loop can start by itself, the usual one first."""
    return {kind: spec for kind, spec in job_spec.trainings().items() if spec.automatic}


def kind_making(made: Made) -> type[TrainingSpec]:
    """The kind of training that makes a model of this kind, the usual one."""
    return next(spec for spec in job_spec.trainings().values() if spec.makes == made)


def automatic_training(db: Database) -> AutomaticTraining:
    """Whether, how often and by which kind of training the loop trains without being asked."""
    usual = {"on": False, "every": 60, "algorithm": next(iter(automatic_kinds()))}
    return AutomaticTraining(**{**usual, **setting_store.setting(db, "auto_train", {})})


def save_automatic_training(db: Database, setting: AutomaticTraining) -> None:
    setting_store.set_setting(db, "auto_train", asdict(setting))


def kind_to_train(state: LoopState) -> type[TrainingSpec]:
    """The kind of training that is started without being asked."""
    return automatic_kinds()[state.auto_train.algorithm]


def next_step(state: LoopState) -> Step | None:
    """The next step of the iteration, if one is due. Pure.

    A fresh candidate is checked first, and decided on as soon as the evidence is there; judges label what waits for
    them; then, when switched on, every N new judgements start a training. Where the gate decides by itself, the next
    training waits for its decision, because it starts from whoever serves then; where no check shows more of it, people
    are given what was left to judges, and one of which nobody was heard then is waited for no more. A check that failed
    is tried once more.
    """
    if state.active:
        return None
    if state.unchecked and ready(state, state.unchecked):
        return Step("check", state.unchecked)
    if (ruled_on := gates_own(state)) is not None and ruled_on.decision.says != "not enough evidence":
        return Step("decide", ruled_on.policy.revision)
    if (asked := to_ask_about(state)) is not None:
        return Step("ask", asked)
    again = to_check_again(state)
    if again is not None and ready(state, again):
        return Step("check", again)
    for name, count in state.waiting.items():
        if count >= JUDGE_AT_LEAST and not enough_labels(state):
            return Step("judge", name)
    to_check = state.unchecked is not None and state.measurable and checked_by_loop(state, state.unchecked)
    awaited = (state.pending is not None and not state.pending.decision.unheard) or to_check
    if state.rented or not due(state) or (awaited and state.gate == "automatic"):
        return None
    step = training_step(state)
    # One that failed would fail again on the same judgements.
    return None if step.action == "train first" and state.needed_tried else step


def training_step(state: LoopState) -> Step:
    """The training that is started unasked, or the one that makes what it needs."""
    if kind_to_train(state).trained_first() is None:
        return Step("train")
    return Step("train first") if state.needed_model is None else Step("train", state.needed_model)


def checked_by_loop(state: LoopState, revision: str) -> bool:
    """Whether the loop will check a candidate that needs it, now or after a while; otherwise it takes a person."""
    return revision not in state.failed_checks or state.failed_checks[revision].to_be_repeated


def gates_own(state: LoopState) -> PendingDecision | None:
    """What the gate decides by itself."""
    return state.pending if state.gate == "automatic" else None


def to_check_again(state: LoopState) -> str | None:
    """The candidate that needs another check, where the gate decides by itself and another one would show more."""
    pending = gates_own(state)
    return pending.policy.revision if pending is not None and pending.exhausted and not pending.used_up else None


def to_ask_about(state: LoopState) -> str | None:
    """The candidate of which people are to be given what was left to judges, where the gate decides by itself."""
    pending = gates_own(state)
    return pending.policy.revision if pending is not None and pending.askable and pending.used_up else None


def will_check(db: Database, state: LoopState, policy: Policy) -> bool:
    """Whether the loop checks a policy without being asked: a fresh candidate, or where it decides by itself."""
    needed = [to_check_again(state), *unchecked_candidates(db, without_check(db, job_store.checks(db)))]
    return policy.revision in needed and checked_by_loop(state, policy.revision)


def ready(state: LoopState, revision: str) -> bool:
    """Whether the loop checks a candidate that needs it now."""
    able = state.measurable and checked_by_loop(state, revision)
    return able and (revision not in state.failed_checks or state.failed_checks[revision].rested)


def due(state: LoopState) -> bool:
    """Whether enough was judged for a training that nobody asks for."""
    return state.auto_train.on and state.towards_next >= state.auto_train.wanted


def enough_labels(state: LoopState) -> bool:
    """Whether automatic training has twice what it wants: more labels than trainings use are not bought."""
    return state.auto_train.on and state.towards_next >= 2 * state.auto_train.wanted


def advance(db: Database, data_dir: Path) -> int | None:
    """Do the step that is due, if any; returns the id of the job that it made, if it made one."""
    if job_store.at_work(db) or job_store.queue(db):  # the common case, without reading the rest
        return None
    counted = automatic_training(db).on or project_store.feedback(db).mode != "people"
    state = state_of(db, counted)
    step = next_step(state)
    if step is None:
        return None
    if step.action == "check":
        return job_submission.submit(
            db, data_dir, next_check(step.subject, state.failed_checks.get(step.subject)), THE_LOOP
        )
    if step.action == "decide":
        gate_acts.act(db, data_dir)
        return None
    if step.action == "ask":
        asking_people.ask_what_is_left(db, step.subject)
        return None
    if step.action == "judge":
        return job_submission.submit(db, data_dir, JudgeSpec(judge=step.subject), THE_LOOP)
    spec = automatic_spec(db, step, kind_to_train(state))
    if preconditions.check(db, spec):
        return None  # the page says why, where automatic training is switched on
    try:
        return job_submission.submit(db, data_dir, spec, THE_LOOP)
    except snapshots.TooFewRows:
        return None  # enough judgements, but too few of them are pairs, as `automatic_problems` says: wait for more


def next_check(revision: str, failed: FailedCheck | None) -> CheckSpec:
    """The loop's check of a candidate; after one that failed it asks the judges that were chosen for that."""
    spec = CheckSpec(candidate=revision)
    before = None if failed is None else failed.job.spec
    return replace(spec, judges=before.judges) if isinstance(before, CheckSpec) else spec


def automatic_spec(db: Database, step: Step, kind: type[TrainingSpec]) -> TrainingSpec:
    """What is trained without being asked, by the defaults: on from the policy that serves, in its own shape."""
    serving = registry.serving(db)
    needed = kind.trained_first()
    if step.action == "train first" and needed is not None:
        return kind_making(needed)(parent=registry.ground(db, serving).revision).on_weights(serving.precision)
    named: dict[str, Any] = {
        name: step.subject if made == needed else serving.revision for name, made in kind.lists.items()
    }
    return preconditions.on_parent(db, kind(**named), serving)


def automatic_problems(db: Database) -> list[str]:
    """Why automatic training can't start, as things are, a sentence each; too little to train on, once it is due."""
    state = state_of(db)
    step = training_step(state)
    spec = automatic_spec(db, step, kind_to_train(state))
    found = [in_labels(sentence, spec) for sentence in preconditions.check(db, spec)]
    if found or not due(state) or state.active:
        return found
    if step.action == "train first" and state.needed_tried:
        said = _("What it needs first came to nothing: {training}. Start one on the Train tab, or judge more.")
        return [said.format(training=_(spec.title))]
    name = ("shortage", spec.kind, spoken().code, str(training_data.data_mark(db)))
    few = decision_cache.cached(db, name, lambda: job_submission.shortage_of(db, db.path.parent, spec))
    return [in_labels(few, spec)] if few else []
