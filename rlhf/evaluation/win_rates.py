"""How a policy did against others by people and judges, at equal lengths too, what its reward did, and what it took."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from annotation.database import Database
from annotation.metrics.evidence import DecidedOutcome, JudgePanel, LeftPrompt, by_prompt, corrected, win_rate
from annotation.metrics.intervals_and_bias import Estimate, wilson_interval
from annotation.metrics.sequential_testing import length_controlled
from annotation.store import judgement_store, policy_comparisons
from annotation.store.policy_comparisons import PairedAnswers
from rlhf.data import held_out_sets, snapshots
from rlhf.evaluation import pair_outcomes
from rlhf.evaluation.finished_checks import FinishedCheck, finished_checks
from rlhf.evaluation.gate import anytime_win_rate
from rlhf.evaluation.pair_outcomes import PairOutcome
from rlhf.evaluation.report import RewardChange, WinRate
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.judges.judge_store import Judge
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.models.reward_model_quality import quality_of


# ----------------------------------------------------------------------------------------------------------- win rates
@dataclass(frozen=True)
class PairedOutcomes:
    """What came of a policy's answers beside another's to the same prompts with the same seeds, by one judge.

    A policy's win rate is the mean of these over prompts, and on each prompt: 1 for an answer that won, 0 for one that
    lost, a half for a tie. What needs nobody to compare counts as it is: the same text ties, and an answer beats none.
    So it speaks of all prompts that both answered, and not only of those on which they differ. A check's report has it
    of the check's own answers, the gate of the answers of all checks of the two, pages and cards from either.
    """

    judge: str
    """Who says so."""
    compared: tuple[PairOutcome, ...]
    """What the judge has said."""
    uncompared: tuple[UncomparedPair, ...]
    """What came of answers that nobody has to compare."""
    answered: int
    """Prompts and seeds that both have answered."""

    @property
    def decided(self) -> tuple[DecidedOutcome, ...]:
        """All of them, in the order in which the candidate answered: a prompt counts by its first answer.

        None where the judge has said nothing and there was something to say.
        """
        if not self.compared and len(self.uncompared) < self.answered:
            return ()
        first_said = min((one.at for one in self.compared), default=0)
        every: list[PairOutcome | UncomparedPair] = [*self.compared, *self.uncompared]
        ordered = sorted(every, key=lambda one: one.response_id)
        return tuple(
            DecidedOutcome(one.prompt_id, one.outcome, self.judge, at=max(one.at, first_said)) for one in ordered
        )

    @property
    def left_open(self) -> int:
        """What there is to say that the judge has not said."""
        return self.answered - len(self.compared) - len(self.uncompared)

    def at_equal_lengths(self, level: float = 0.95) -> Estimate | None:
        """The win rate if the answers that were compared had been of equal lengths (Dubois et al. 2024)."""
        return at_equal_lengths(self.compared, level)

    def rate(self) -> WinRate:
        """The win rate, each prompt counted once, with Wilson's interval, which is for a single look."""
        prompts = by_prompt(self.decided)
        value, count = win_rate(prompts), len(prompts)
        low, high = wilson_interval((value or 0.0) * count, count)
        return WinRate(
            value=value,
            low=low,
            high=high,
            n=count,
            ties=sum(one.tied for one in prompts),
            length_controlled=self.at_equal_lengths(),
        )


@dataclass(frozen=True)
class UncomparedPair:
    """What came of a candidate's answer beside another's where nobody has to compare them."""

    prompt_id: int
    response_id: int
    outcome: float
    answered: str
    """When both had answered."""
    at: int = 0
    """For a judge, the last judgement before that: bets that were made by then did not know it."""


def at_equal_lengths(compared: Sequence[PairOutcome], level: float) -> Estimate | None:
    """The win rate at equal lengths; answers to one prompt stand or fall together."""
    return length_controlled(
        [one.outcome for one in compared],
        [one.length for one in compared],
        [one.other_length for one in compared],
        [one.prompt_id for one in compared],
        level,
    )


def outcomes_by(
    db: Database,
    judge: Judge,
    policy: Policy,
    other: Policy,
    responses: Collection[int] | None = None,
    on: Collection[int] | None = None,
) -> PairedOutcomes:
    """What came of a policy's answers beside another's, by an AI judge.

    Of all, or of these `responses` of its own, or of those `on` these prompts.
    """

    def counts(response_id: int, prompt_id: int) -> bool:
        return (responses is None or response_id in responses) and (on is None or prompt_id in on)

    pairs = policy_comparisons.paired_answers(db, policy.id, other.id)
    wanted = [pair for pair in pairs if counts(pair.first, pair.prompt_id)]
    paired = pair_outcomes.outcomes(db, policy.id, other.id, judge.id)
    compared = tuple(one for one in paired if counts(one.response_id, one.prompt_id))
    uncompared = uncompared_pairs(wanted)
    before = judgement_store.last_judgements_before(db, (one.answered for one in uncompared))
    known = tuple(replace(one, at=before[one.answered]) for one in uncompared)
    return PairedOutcomes(judge.name, compared, known, len(wanted))


def uncompared_pairs(pairs: Sequence[PairedAnswers]) -> tuple[UncomparedPair, ...]:
    """Those of the pairs that nobody has to compare and nobody has compared."""
    return tuple(
        UncomparedPair(pair.prompt_id, pair.first, pair.known_outcome, pair.answered)
        for pair in pairs
        if pair.known_outcome is not None and not pair.compared
    )


# With how much of a chance an interval misses a win rate by people that is published.
MISSED = 0.05


def by_people(db: Database, policy: Policy, other: Policy) -> Estimate | None:
    """How often people preferred a policy's answers to another's on the prompts that count; None without any.

    With an interval that holds however often one looks: what is published stopped when it was ahead.
    """
    checks = [check for check in finished_checks(db, policy.revision) if check.spec.against == other.revision]
    people = people_outcomes(db, policy, other, prompts_that_count(db, checks), skips=False)
    return anytime_win_rate(corrected(by_prompt(people), JudgePanel()), MISSED)


def prompts_that_count(db: Database, checks: Sequence[FinishedCheck]) -> frozenset[int] | None:
    """The ids of the prompts whose outcomes count; None for all. The first check (the last here) decides that."""
    return held_out_sets.that_count(db, checks[-1].spec.gate_set) if checks else None


def people_outcomes(
    db: Database, policy: Policy, other: Policy, on: Collection[int] | None = None, skips: bool = True
) -> tuple[DecidedOutcome, ...]:
    """What came of a policy's answers beside another's by people, in the order in which they said it.

    Of all, or of those `on` these prompts. What needs nobody to compare counts as it does beside a judge's verdicts,
    with the comparison that it `enters_with`, also where that was only skipped; as a verdict once people have judged
    any. `skips`: whether these are bet on where a draw left others to judges, as `pair_outcomes.outcomes` has it;
    without judges they are nothing.
    """
    every, uncompared = pair_outcomes.outcomes(db, policy.id, other.id), enters_with(db, policy, other, on)
    if not skips:
        later = {one.comparison_id: one for one in pair_outcomes.outcomes(db, policy.id, other.id, skips=False)}
        every = sorted((later.get(one.comparison_id, one) for one in every), key=lambda one: one.at)
    found = [one for one in every if on is None or one.prompt_id in on]
    begun = any(not one.skipped for one in found)
    before = judgement_store.last_judgements_before(db, (one.created for one in found))
    return tuple(
        DecidedOutcome(
            prompt_id=prompt,
            outcome=first,
            probability=one.people_chance,
            at=one.at,
            since=before[one.created],
            shown=shown,
            skipped=skipped,
            asked=asked,
        )
        for one in found
        for prompt, first, shown, skipped, asked in (
            (one.prompt_id, one.first, one.outcome, one.skipped, True),
            *((pair.prompt_id, pair.outcome, None, not begun, False) for pair in uncompared.get(one.comparison_id, ())),
        )
        if skips or not skipped
    )


def prompts_left_to_judges(
    db: Database, policy: Policy, other: Policy, on: Collection[int] | None = None
) -> dict[int, LeftPrompt]:
    """The prompts that a draw left to judges and not to people, in an order that says nothing about them.

    With those that nobody has to compare, as in `people_outcomes`.
    """
    uncompared = enters_with(db, policy, other, on)
    return {
        prompt: LeftPrompt(left.since, left.given)
        for left in pair_outcomes.left_to_judges(db, policy.id, other.id)
        for prompt in (left.prompt_id, *(one.prompt_id for one in uncompared.get(left.comparison_id, ())))
    }


def enters_with(
    db: Database, policy: Policy, other: Policy, on: Collection[int] | None
) -> dict[int, list[UncomparedPair]]:
    """What came of answers that nobody has to compare, by the comparison with which it enters what people say.

    Each enters with a comparison of its own check (the first that made any once both had answered), drawn by its
    number: so of these prompts as large a part counts as of those that people have to compare, and they come as mixed.
    It changes nothing that people had said before. All at once they would be most of the evidence as
    long as people have said little: an opponent's few missing answers would promote a candidate that is no better.
    """
    every = policy_comparisons.paired_answers(db, policy.id, other.id)
    pairs = [pair for pair in every if on is None or pair.prompt_id in on]
    uncompared = uncompared_pairs(pairs)
    if not uncompared:
        return {}
    own, times = {pair.first for pair in pairs}, sorted(pair.answered for pair in pairs)
    # A check answers and then makes its comparisons: those of one are made when there are as many pairs.
    checks: dict[int, list[int]] = {}
    for answer in pair_outcomes.answers_compared(db, policy.id, other.id):
        if answer.response_id in own:
            checks.setdefault(bisect_right(times, answer.created), []).append(answer.comparison_id)
    found: dict[int, list[UncomparedPair]] = {}
    for one in uncompared:
        known = bisect_right(times, one.answered)
        check = next((numbers for there, numbers in checks.items() if there >= known), None)
        if check is not None:
            found.setdefault(random.Random(one.response_id).choice(check), []).append(one)
    return found


# Rounds whose mean reward is called that of its start and of its end.
ROUNDS_AT_AN_END = 5


def reward_change(db: Database, candidate: Policy) -> RewardChange | None:
    """How much the reward of its training rose; None without one. `rise` is None after too few rounds to tell.

    `length` is how the reward model's scores go with length (Spearman) on the comparisons that it was checked with: a
    reward that is mostly length is soon hacked (Gao et al. 2023; Singhal et al. 2023).
    """
    job = registry.training_of(db, candidate)
    spec = job.spec if job is not None and isinstance(job.spec, TrainingSpec) else None
    pleased = () if spec is None else spec.trained_against()
    if job is None or spec is None or not pleased:
        return None
    rewards = [entry[spec.raises] for entry in job_store.metrics(db, job.id) if spec.raises in entry]
    ends = min(ROUNDS_AT_AN_END, len(rewards) // 2)
    quality = quality_of(db, registry.by_revision(db, pleased[0]))
    return RewardChange(
        rise=fmean(rewards[-ends:]) - fmean(rewards[:ends]) if ends else None,
        length=None if quality is None or quality.length is None else quality.length.spearman,
    )


def judged_for(db: Database, policy: Policy) -> int:
    """Comparisons on prompts to train on that were judged when a policy's data was frozen, each counted once.

    Whatever the scope of its training, a policy and those that it grew from have learnt from all up to a judgement.
    """
    last = max(snapshots.seen_until(db, one) for one in registry.family(db, policy))
    return int(
        db.value(
            """SELECT count(DISTINCT j.comparison_id) FROM judgement j JOIN comparison c ON c.id = j.comparison_id
                   JOIN prompt p ON p.id = c.prompt_id
               WHERE j.id <= ? AND j.outcome NOT IN ('skip', 'undone') AND c.purpose = 'preference'
                 AND c.candidate_id IS NULL AND p.split = 'train'""",
            (last,),
        )
    )
