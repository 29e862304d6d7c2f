"""The gate at work: a candidate's findings read from the rows, the decision on it, and what follows. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any, TypeVar, cast
from unicodedata import category
from weakref import WeakKeyDictionary

from annotation.database import Database
from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import UserError, storable
from annotation.store import policy_comparisons, project_store, setting_store
from annotation.translation import N_, _, joined, spoken
from rlhf.data import held_out_sets, snapshots
from rlhf.evaluation import gate_words, pair_outcomes, win_rates
from rlhf.evaluation.check_spec import CheckSpec, chosen_anchor
from rlhf.evaluation.finished_checks import FinishedCheck, finished_checks, newest_check, told_as_now
from rlhf.evaluation.gate import (
    Findings,
    GateDecision,
    Hacked,
    JudgeFindings,
    Recusal,
    Rule,
    Ruling,
    corrected_by_judges,
    decide,
    given_up,
    share_by_rule,
)
from rlhf.evaluation.report import AnswerFigures, CheckReport
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.judge_agreement import PairAgreement, trust
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.submission.form_fields import in_labels

THE_GATE = N_("the gate")


def rule(db: Database) -> Rule:
    return Rule.stored(setting_store.setting(db, registry.RULE_SETTING, {}))


def set_rule(db: Database, values: Mapping[str, Any]) -> Rule:
    """Store a rule; what is left out has its default. Raises UserError for values that make no sense."""
    new = Rule.from_setting(values)
    registry.require_answering(registry.by_revision(db, new.anchor))
    setting_store.set_setting(db, registry.RULE_SETTING, new.to_setting())
    return new


# ----------------------------------------------------------------------------------------------------------- findings
def opponent(db: Database, policy: Policy) -> Policy:
    """What a policy is weighed against: what serves now, or what served when it was last promoted or rejected."""
    decided_against = None if policy.status == "candidate" else registry.decided_against(db, policy)
    return decided_against or registry.serving(db)


def checks_of(db: Database, policy: Policy) -> list[FinishedCheck]:
    """The finished checks of a policy against its opponent, newest first; others tell nothing about a promotion.

    Before a decision, nor do those of when the opponent answered in another precision, or policies answered otherwise.
    """
    against = opponent(db, policy)
    found = [check for check in finished_checks(db, policy.revision) if check.spec.against == against.revision]
    if policy.status != "candidate":
        return found
    now = told_as_now(db)
    return [check for check in found if check.job_id in now and opponent_precision(check, against) == against.precision]


def opponent_precision(check: FinishedCheck, against: Policy) -> str:
    """The precision in which a check's opponent answered; earlier versions held the base in NF4."""
    return check.report.against.precision or ("nf4" if against.form == "base" else against.precision)


def findings(db: Database, policy: Policy) -> Findings:
    """Everything that was measured of a policy against its opponent.

    The figures are those of the newest check; of judges every one that was asked in any of them.
    """
    against, checks = opponent(db, policy), checks_of(db, policy)
    on = win_rates.prompts_that_count(db, checks)
    people = win_rates.people_outcomes(db, policy, against, on)
    number = place_of(db, policy)
    if not checks:
        return Findings(people, number=number)
    report = comparable(checks[0], chosen_anchor(db), policy)
    return Findings(
        people,
        panel_findings(db, policy, against, checks, on),
        number=number,
        carried=held_out_sets.weighed(db, checks[-1].spec.gate_set).index(policy.revision),
        left_to_judges=win_rates.prompts_left_to_judges(db, policy, against, on),
        prompts=report.prompts,
        kl_per_token=report.kl_per_token,
        nll_ratio=report.nll_ratio,
        distinct_ratio=report.distinct_ratio,
        truncated_more=report.truncated_more,
        perplexity_ratio=report.perplexity_ratio,
        probes_fall=report.probes_fall,
        reward_hacking=rewarded(db, policy, hacking(report)),
        identical_to_serving=report.identical,
    )


# The version of the rule from which on the anchor "base" is the base under whatever weights.
BASE_IS_THE_BASE = 3


def comparable(check: FinishedCheck, anchor: str, policy: Policy) -> CheckReport:
    """A check's report, without the figures that it took against another policy than the rule's limits are against.

    Nor with those of an earlier version that took them in two precisions or, of a policy that waits for its decision,
    against the trained weights that it hangs on: step by step a project could go any way.
    """
    report = check.report
    against_ground = not check.spec.anchor and (report.rule or 0) < BASE_IS_THE_BASE
    other_weights = against_ground and report.anchor.revision not in ("", "base") and policy.status == "candidate"
    one_precision = report.candidate.precision or policy.precision == "nf4"
    if check.spec.anchor == anchor and not other_weights and one_precision:
        return report
    without: dict[str, Any] = dict.fromkeys(("equal_length_distinct", "equal_length_nll_ratio", "equal_length_kl"))
    return replace(report, candidate=AnswerFigures(report.candidate.revision), **without)


def place_of(db: Database, policy: Policy) -> int:
    """The place of a policy against its opponent among all pairs that were checked, by their first check's end.

    The next one if there was none yet. Whether a candidate is better than another policy is another question, with a
    chance of its own to be wrong; so it is where both think, or do not any more, and where the other answers in another
    precision. Deleted ones count: that chance was spent.
    """
    against, checks = opponent(db, policy), checks_of(db, policy)
    precision = opponent_precision(checks[0], against) if checks else against.precision
    known = cached(db, ("places",), lambda: places(db))
    return known.get((policy.revision, against.revision, True, precision), len(known) + 1)


def places(db: Database) -> dict[tuple[str, str, bool, str], int]:
    """The places of all pairs that were checked: candidate, opponent, whether they answer so now, its precision."""
    now, policies = told_as_now(db), {one.revision: one for one in registry.all_policies(db)}
    known: dict[tuple[str, str, bool, str], int] = {}
    for check in reversed(finished_checks(db)):
        spec = check.spec
        other = policies.get(spec.against)
        precision = opponent_precision(check, other) if other is not None else ""
        known.setdefault((spec.candidate, spec.against, check.job_id in now, precision), len(known) + 1)
    return known


def hacking(report: CheckReport) -> Hacked:
    """Whether the reward of its training rose for nothing: 'open' where it rose, which the rule then asks evidence of.

    None where it can't be told: too few rounds were made, or a check is too old.
    """
    if not report.reward_known:
        return None
    found = report.reward
    if found is None:
        return "no reward"
    if found.rise is None or isnan(found.rise):
        return None
    return "open" if found.rise > 0 else False


def rewarded(db: Database, policy: Policy, hacked: Hacked) -> Hacked:
    """The same, but that a check found no reward is believed only where the training says so too."""
    if hacked != "no reward":
        return hacked
    trained = registry.training_of(db, policy)
    if trained is None:
        return "made elsewhere"
    # An earlier version's check did not look at what merged weights come from.
    return None if optimised_against(trained) else hacked


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


def share_of_next_check(db: Database, policy: Policy, judges: Sequence[judge_store.Judge], prompts_left: int) -> float:
    """The part of a check's prompts that people are to get where these judges compare them all; 1 without judges.

    Asked before the check puts anything before anybody; `prompts_left` were never compared, the check's own among them.
    """
    against, on = opponent(db, policy), win_rates.prompts_that_count(db, checks_of(db, policy))
    known = Findings(
        people=win_rates.people_outcomes(db, policy, against, on),
        judges=tuple(judge_findings(db, judge, policy, against, on) for judge in judges),
        number=place_of(db, policy),
        left_to_judges=win_rates.prompts_left_to_judges(db, policy, against, on),
    )
    return share_by_rule(rule(db), known, prompts_left)


def spent_prompts(db: Database, policy: Policy, against: Policy) -> frozenset[int]:
    """The prompts left to judges on which people's verdicts could not count any more: they have corrected others."""
    if against.id != opponent(db, policy).id:
        return frozenset()
    return cached(db, ("spent", policy.revision), lambda: corrected_by_judges(findings(db, policy)).spent)


# ----------------------------------------------------------------------------------------------------------- decisions
_cache: WeakKeyDictionary[Database, tuple[Any, dict[tuple[str, ...], Any]]] = WeakKeyDictionary()
Cached = TypeVar("Cached")


def cached(db: Database, name: tuple[str, ...], work: Callable[[], Cached]) -> Cached:
    """What this work comes to, kept until a row changes that a decision depends on.

    The loop and the pages ask every few seconds. What else than judgements, decisions, checks and the rule it depends
    on the name holds, and the language where it comes to words.
    """
    stamp = db.row(
        """SELECT (SELECT max(id) FROM judgement) AS judgement, (SELECT max(id) FROM exclusion) AS exclusion,
               (SELECT max(id) FROM decision) AS decision, (SELECT max(finished) FROM job WHERE kind = 'check')
               AS checked, (SELECT count(*) FROM job WHERE kind = 'check' AND status = 'finished') AS checks,
               (SELECT count(*) FROM comparison WHERE candidate_id IS NOT NULL AND asks = 'people'
                   AND taken = 0) AS open,
               (SELECT json_group_array(json_array(id, quota)) FROM annotator WHERE active) AS annotators,
               (SELECT value FROM setting WHERE key = 'gate') AS rule,
               (SELECT max(version) FROM rubric) AS rubric,
               (SELECT count(*) FROM prompt WHERE split = 'held-out') AS held_out,
               (SELECT precision || coalesce(thinking, '') FROM model WHERE algorithm = 'base') AS answers,
               (SELECT value FROM setting WHERE key = 'thinking_changes') AS changes"""
    )
    found = _cache.get(db)
    if found is None or found[0] != stamp:
        found = _cache[db] = stamp, {}
    if name not in found[1]:
        found[1][name] = work()
    return cast(Cached, found[1][name])


def decided(db: Database, policy: Policy) -> tuple[Findings, GateDecision]:
    """What was measured of this policy, and what the project's rule makes of it.

    Where comparisons are wanted that no check will make any more, a rejection; but not where people were given some and
    nobody, no judge either, has said anything that counts. To wait longer is safe: that promotes nothing, and what
    people still say is bet on as before.
    """

    def look() -> tuple[Findings, GateDecision]:
        found, terms = findings(db, policy), rule(db)
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
            askable, used_up = left_to_ask(db, policy), shows_no_more(db, policy, checks)
            waits = needs_new_answers(decision, checks) or nothing_open(db, policy)
            ended = askable or (waits and not used_up)
            return PendingDecision(policy, decision, exhausted=ended, askable=askable, used_up=used_up)
    return None


# Beyond these a candidate is waited for no more: with 60 prompts they give more comparisons than the rule asks for.
MOST_CHECKS = 8


def shows_no_more(db: Database, policy: Policy, checks: Sequence[FinishedCheck]) -> bool:
    """Whether a further check would draw nothing that counts."""
    left = cached(db, ("unused", policy.revision), lambda: prompts_left(db, policy, checks))
    return len(checks) >= MOST_CHECKS or not left


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
    return nothing_open(db, policy) and (decision.more is None or not left_to_ask(db, policy))


def needs_new_answers(decision: GateDecision, checks: Sequence[FinishedCheck]) -> bool:
    """Whether it takes a judge that has judged everything there was; checks come newest first."""
    if decision.more_by is None:
        return False
    calls = checks[0].report.judged.get(decision.more_by)
    return calls is not None and calls.judged > 0  # one that judged nothing would judge nothing again


def given_to_people(db: Database) -> bool:
    """Whether annotators are given comparisons of candidates among their others."""
    return project_store.project(db).candidate_share > 0


def nothing_open(db: Database, policy: Policy) -> bool:
    """Whether no comparison of a policy with its opponent is before people."""
    return pair_outcomes.open_to_people(db, policy.id, opponent(db, policy).id) == 0


# ------------------------------------------------------------------------------------------------- how a check stands
@dataclass(frozen=True)
class CheckStatus:
    sentence: str
    """What it waits for, how far it is, or why there is none and how to go on; empty where all was measured."""
    active: bool
    """Whether one that counts waits or runs, so that nobody has to ask for one."""


def check_status(db: Database, policy: Policy) -> CheckStatus:
    """How the check of a policy stands now; of a candidate only checks against what serves count."""
    every = [(job, job.spec) for job in job_store.checks(db, policy.revision) if isinstance(job.spec, CheckSpec)]
    against = registry.serving(db).revision if policy.status == "candidate" else None
    active = [one for one in every if one[0].is_open]
    ended = sorted((one for one in every if not one[0].is_open), key=lambda one: job_store.ended_at(one[0]))
    now = told_as_now(db)
    right = [job for job, spec in ended if job.status == "finished" and against in (None, spec.against)]
    counting = [job for job in right if against is None or job.id in now]
    before = ""
    if counting:
        before = _("The figures are those of the check before (job {number}).").format(number=counting[-1].id)
    if active:
        job, spec = min(active, key=lambda one: (against not in (None, one[1].against), one[0].status == "queued"))
        other = against not in (None, spec.against)
        beside = _("The gate counts checks against {serving}, which serves now; this one is against {against}.").format(
            serving=against, against=spec.against
        )
        beside = beside if other else ""
        return CheckStatus(joined(progress_of(db, job), beside, before), not other)
    if not ended:
        return CheckStatus("" if policy.path is None else _("It has not been checked yet."), False)
    job, spec = ended[-1]
    if job.status != "finished":
        again = _("Check it again, or resume job {id}.").format(id=job.id)
        return CheckStatus(joined(how_it_ended(job, spec.about()), again, before), False)
    if right and not counting:
        said = _("Its check (job {number}) is of when policies answered otherwise than now. Check it again.")
        return CheckStatus(said.format(number=right[-1].id), False)
    if not counting:
        elsewhere = _(
            "The gate counts checks against {serving}, which serves now; its check (job {number}) was against "
            "{against}. Check it again."
        ).format(serving=against, number=job.id, against=spec.against)
        return CheckStatus(elsewhere, False)
    again = _("Its check left out some of what the rule asks: check it again.")
    return CheckStatus(again if policy.status == "candidate" and left_out(db, policy) else "", False)


def left_out(db: Database, policy: Policy) -> bool:
    """Whether a check of a policy left out some of what the rule asks."""
    return any(one.passed == "missing" for one in decision_on(db, policy).weighed.limits)


def progress_of(db: Database, job: Job) -> str:
    if job.status == "cancelling":
        return _("Job {id}, its check, is being cancelled.").format(id=job.id)
    if job.status == "running":
        if not job.steps:
            return _("Job {number} is checking it.").format(number=job.id)
        return _("Job {number} is checking it: step {step} of {steps}.").format(
            number=job.id, step=job.step, steps=job.steps
        )
    place = next((number for number, other in enumerate(job_store.queue(db)) if other.id == job.id), 0)
    running = job_store.at_work(db) if place == 0 else []
    if running:
        return _("It waits for its check (job {number}, first in the queue, behind job {running}).").format(
            number=job.id, running=running[0].id
        )
    said = _(IN_THE_QUEUE[min(place, len(IN_THE_QUEUE) - 1)])
    return said.format(number=job.id, place=place + 1)


# By how many are before it.
IN_THE_QUEUE = (
    N_("It waits for its check (job {number}, first in the queue)."),
    N_("It waits for its check (job {number}, second in the queue)."),
    N_("It waits for its check (job {number}, third in the queue)."),
    N_("It waits for its check (job {number}, number {place} in the queue)."),
)
ENDINGS: Mapping[str, str] = {
    "failed": N_("Job {number} ({about}) failed."),
    "lost": N_("Job {number} ({about}) was lost."),
    "cancelled": N_("Job {number} ({about}) was cancelled."),
}
ENDINGS_WITH_MESSAGE: Mapping[str, str] = {
    "failed": N_("Job {number} ({about}) failed: {message}."),
    "lost": N_("Job {number} ({about}) was lost: {message}."),
}


def how_it_ended(job: Job, about: str) -> str:
    """How a job ended that came to nothing, as a sentence; why it was cancelled, who did that knows."""
    said = "" if job.status == "cancelled" else in_labels(_(job.message), job.spec)
    message = " ".join(said.split()).rstrip(".")
    ended = ENDINGS_WITH_MESSAGE if message else ENDINGS
    return _(ended[job.status]).format(number=job.id, about=about, message=message)


# ------------------------------------------------------------------------------------------------- what people decide
def advised(db: Database, policy: Policy) -> GateDecision | None:
    """What the rule advises a person to do; None where its mode is 'never', and of what has been decided on.

    Unless that was taken back: whatever it had been promoted for, it is weighed as before.
    """
    if rule(db).mode == "never" or not (policy.undecided or registry.gone_back_from(db, policy)):
        return None
    return decision_on(db, policy)


# Characters of what a person gives as the reason for a decision.
MOST_WHY = 1000


class PromotionAgainstRule(UserError):
    """A promotion that the rule speaks against, for which nobody has given a reason; it says what the rule says."""


def objection(db: Database, policy: Policy, brief: bool = False) -> str:
    """What speaks against letting a policy serve, as sentences; empty where nothing does. `brief`: without the reasons.

    That is every ruling but 'promote', and that it was rejected. Nothing speaks against going back to a
    policy that has served, because that has to be quick when what serves does harm, but to one that somebody has gone
    back from; nor where nobody is to be advised.
    """
    if not policy.can_answer or rule(db).mode == "never":
        return ""
    if policy.status == "rejected":
        return registry.rejection(db, policy)
    decision = advised(db, policy)
    if decision is None or decision.says == "promote":
        return ""
    return described(db, policy, decision, gate_words.RULE_SAYS, brief)


def described(
    db: Database, policy: Policy, decision: GateDecision, says: Mapping[Ruling, str], brief: bool = False
) -> str:
    """A decision on a candidate, with its reasons unless `brief`, and how its check stands."""
    why = "" if brief else gate_words.sentence(decision)
    return joined(_(says[decision.says]), why, check_status(db, policy).sentence)


@dataclass(frozen=True)
class Promotion:
    revision: str
    against: bool

    def sentence(self) -> str:
        said = _("{revision} serves now, against the rule.") if self.against else _("{revision} serves now.")
        return said.format(revision=self.revision)


def promote(
    db: Database,
    data_dir: Path,
    revision: str,
    decided_by: str,
    why: str = "",
    undoes: int | None = None,
    after: int | None = None,
) -> Promotion:
    """Let a policy serve because a person wants it; against the rule only with a reason. Both are kept.

    The rule is asked in the transaction that promotes: what was judged since the person looked counts. So is whether
    the decision that it `undoes` still holds, whose button two people may have seen, and whether somebody has decided
    anything `after` the newest decision that the person was shown.
    Raises PromotionAgainstRule without a reason, and UserError where it can't serve; then nothing has changed.
    """
    registry.verify(data_dir, registry.by_revision(db, revision))  # before: reading the files takes a while
    own = clean_reason(why)
    with db.transaction():
        if undoes is not None:
            registry.to_take_back(db, undoes)
        if after is not None:
            registry.refuse_unseen(db, after)
        policy = registry.by_revision(db, revision)
        against = objection(db, policy)
        if against and not own:
            said = _("{revision} was not promoted. {against} Against that it takes a reason.")
            raise PromotionAgainstRule(said.format(revision=policy.revision, against=against))
        registry.promote(db, policy.revision, decided_by, reason(db, policy, own))
    return Promotion(policy.revision, bool(against))


def reject(db: Database, revision: str, decided_by: str, why: str = "") -> Policy:
    """Turn a candidate down because a person wants it, with what the rule says. Raises UserError."""
    own = clean_reason(why)
    with db.transaction():
        policy = registry.by_revision(db, revision)
        return registry.reject(db, policy.revision, decided_by, reason(db, policy, own))


def clean_reason(why: str) -> str:
    """A reason as it is kept: on one line, and nothing where there is nothing to be seen. Raises UserError."""
    said = " ".join(storable(why).replace("\0", " ").split())
    if len(said) > MOST_WHY:
        too_long = _("Why (for the record): {count} characters are too many. Say it in at most {most_why}.")
        raise UserError(too_long.format(count=len(said), most_why=MOST_WHY))
    if not any(category(one)[0] in "LNPS" and one not in BLANK_LETTERS for one in said):
        return ""
    return why if said == why else said  # what was said as a sentence of ours is told again in each language


# Letters and symbols that look like nothing: Hangul fillers and the empty Braille cell.
BLANK_LETTERS = "\u115f\u1160\u3164\uffa0\u2800"


def reason(db: Database, policy: Policy, own: str) -> str:
    """What is recorded with a person's decision: their own words, then what the rule says, or who rejected it."""
    said = own if not own or own.endswith((".", "!", "?", "…")) else f"{own}."
    decision = advised(db, policy)
    rule_said = objection(db, policy) if decision is None else described(db, policy, decision, gate_words.RULE_SAID)
    return joined(said, rule_said) or registry.NO_REASON


# -------------------------------------------------------------------------------------------------- what the gate does
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
            registry.promote(db, revision, THE_GATE, why)
        else:
            registry.reject(db, revision, THE_GATE, why)
    return again


def to_act_on(db: Database) -> PendingDecision | None:
    """The candidate that the gate promotes or rejects by itself now, if it may and the evidence is there."""
    found = pending(db) if rule(db).mode == "automatic" else None
    return None if found is None or found.decision.says == "not enough evidence" else found


def damage(data_dir: Path, policy: Policy) -> str:
    """Why a policy's files can't be used, as a sentence; empty where they can."""
    try:
        registry.verify(data_dir, policy)
    except UserError as error:
        return str(error)
    return ""
