"""The gate's rules one by one, and what `benchmarks.gate` computes itself."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import fields, replace
from statistics import median
from typing import Any

import numpy as np
import pytest

from annotation.metrics.evidence import DecidedOutcome, LeftPrompt
from annotation.metrics.intervals_and_bias import Estimate
from annotation.records import UserError
from benchmarks import gate as benchmark
from rlhf.evaluation.gate import (
    Findings,
    GateDecision,
    InformingJudge,
    JudgeFindings,
    Requirement,
    Rule,
    Ruling,
    Unfinished,
    alpha_of,
    alphas,
    corrected_by_judges,
    decide,
    given_up,
    risk_so_far,
    share_by_rule,
)
from rlhf.evaluation.gate_words import criterion_words
from tests.e_values import evidence_for

# Whatever else is asked for is in order.
SOUND = Findings(
    kl_per_token=0.1,
    prompts=60,
    nll_ratio=1.0,
    distinct_ratio=1.0,
    truncated_more=0.0,
    perplexity_ratio=1.0,
    probes_fall=0.0,
    reward_hacking=False,
    identical_to_serving=False,
)
ASKED = Rule()
WITH_JUDGE = Rule(judge_may_decide=True)
TRUSTED = Estimate(0.8, 0.7, 0.88, 100)
AT_EQUAL_LENGTHS = Estimate(0.6, 0.52, 0.7, 60)


def outcomes(won: int, lost: int, tied: int = 0) -> tuple[float, ...]:
    """So many of each."""
    return (1.0,) * won + (0.0,) * lost + (0.5,) * tied


BETTER, WORSE, OPEN, FEW = outcomes(40, 15, 10), outcomes(15, 40, 10), outcomes(30, 25, 10), outcomes(4, 3)
FIGURES = ("kl_per_token", "nll_ratio", "distinct_ratio", "truncated_more", "perplexity_ratio", "probes_fall")


def each(says: tuple[float, ...], by: str | None = None) -> tuple[DecidedOutcome, ...]:
    """These outcomes, each on a prompt of its own."""
    return tuple(DecidedOutcome(prompt, outcome, by) for prompt, outcome in enumerate(says))


def judge(says: tuple[float, ...] = BETTER, **changed: Any) -> JudgeFindings:
    """A trusted judge."""
    return replace(JudgeFindings("Ada", each(says, "Ada"), TRUSTED, AT_EQUAL_LENGTHS), **changed)


def found(people: tuple[float, ...] = (), *judges: JudgeFindings, **changed: Any) -> Findings:
    """A candidate with which all is in order."""
    return replace(SOUND, people=each(people), judges=judges, **changed)


DECIDED: Mapping[Ruling, GateDecision] = {
    "promote": decide(ASKED, found(BETTER)),
    "reject": decide(ASKED, found(WORSE)),
    "not enough evidence": decide(ASKED, found()),
}


def limit(decision: GateDecision, asks: str) -> Requirement:
    (one,) = (one for one in decision.weighed.limits if one.asks == asks)
    return one


# ------------------------------------------------------------------------------------------------------------- people
def test_what_people_find_better_is_promoted() -> None:
    decision = decide(ASKED, found(BETTER))
    assert (decision.says, decision.reason, decision.source.judge) == ("promote", "better", None)
    assert (decision.more, decision.more_by) == (None, None)
    assert {one.passed for one in decision.criteria} == {"pass", "informs"}


def test_what_people_find_worse_is_rejected_whatever_judges_say() -> None:
    for rule in (ASKED, WITH_JUDGE):
        decision = decide(rule, found(WORSE, judge(outcomes(200, 10))))
        assert (decision.says, decision.reason, decision.source.judge) == ("reject", "worse", None)


def test_what_people_find_better_no_judge_can_stop() -> None:
    assert decide(WITH_JUDGE, found(outcomes(60, 20), judge(WORSE))).says == "promote"


def skipped(count: int) -> tuple[DecidedOutcome, ...]:
    """So many prompts that people have skipped."""
    return tuple(DecidedOutcome(1000 + place, 0.5, skipped=True) for place in range(count))


def test_skips_alone_decide_nothing_and_stop_no_judge() -> None:
    decision = decide(Rule(), replace(found(), people=skipped(200)))
    people = decision.weighed.people
    assert (decision.says, people.passed, people.count) == ("not enough evidence", "missing", 0)
    ahead = found(FEW, judge(outcomes(200, 10)))
    assert decide(WITH_JUDGE, ahead).source.judge == "Ada"
    assert decide(WITH_JUDGE, replace(ahead, people=(*ahead.people, *skipped(20)))).source.judge == "Ada"
    assert decide(WITH_JUDGE, replace(ahead, people=skipped(20))).source.judge == "Ada"


def test_what_is_said_of_people_is_of_what_they_have_judged() -> None:
    for says in (BETTER, WORSE, OPEN):
        plain = decide(ASKED, found(says)).weighed.people
        people = decide(ASKED, replace(found(says), people=(*each(says), *skipped(60)))).weighed.people
        assert people.found is not None
        assert plain.found is not None
        assert (people.count, people.found.value) == (plain.count, plain.found.value)
        assert (people.standing, people.leaning) == (plain.standing, plain.leaning)
        assert people.found.low < people.found.value < people.found.high
        assert (people.more, people.likely) == (pytest.approx(plain.more, rel=0.2), plain.likely)


def judged_later(count: int, outcome: float) -> tuple[DecidedOutcome, ...]:
    """So many prompts that one person skipped, and another judged then; an earlier version handed them out again."""
    return tuple(DecidedOutcome(2000 + place, 0.5, shown=outcome) for place in range(count))


def test_nothing_is_promoted_or_found_worse_that_later_verdicts_speak_against() -> None:
    """Bets on the tie that a skip was show what the verdicts, with those that came later, do not."""
    for first, later in ((1.0, 0.0), (0.0, 1.0)):
        says = (*[first] * 40, *[1 - first] * 10)
        assert decide(ASKED, found(says)).says != "not enough evidence"
        decision = decide(ASKED, replace(found(says), people=(*each(says), *judged_later(50, later))))
        people = decision.weighed.people
        assert (decision.says, people.count) == ("not enough evidence", 100)
        assert people.found is not None
        assert people.found.value == pytest.approx(0.5 + (first - 0.5) * -0.2), "as it was said, beside its interval"
        assert not people.found.low <= people.found.value <= people.found.high
        assert (people.more, people.likely) == (100, False)


def test_what_is_expected_is_said_of_verdicts_alone() -> None:
    """Judges dislike what people skipped: that lifts what the bets hold, and nobody has compared anything."""
    says = tuple(DecidedOutcome(place, 0.5, probability=0.5, at=100, skipped=True) for place in range(12))
    ada = tuple(DecidedOutcome(place, float(place >= 12), "Ada", at=1) for place in range(40))
    judges = (JudgeFindings("Ada", ada, trust_before=Estimate(0.9, 0.8, 0.95, 100)),)
    left = dict.fromkeys(range(12, 40), LeftPrompt())
    people = decide(ASKED, replace(found(), people=says, judges=judges, left_to_judges=left)).weighed.people
    assert (people.count, people.helped > 0) == (0, True)
    assert (people.more, people.likely) == (ASKED.people_least, False)


def test_people_decide_as_soon_as_the_evidence_reaches_one_over_alpha() -> None:
    for won in range(15, 60):
        people = outcomes(won, 15, 5)
        shown = evidence_for(people)[-1] >= 1 / ASKED.alpha
        assert (decide(ASKED, found(people)).says == "promote") == shown


def test_the_order_of_comparisons_changes_nothing() -> None:
    shuffled = tuple(random.Random(1).sample(OPEN, len(OPEN)))
    assert decide(ASKED, found(shuffled)) == decide(ASKED, found(OPEN))


def test_before_the_fewest_comparisons_nothing_is_decided() -> None:
    rule = Rule(people_least=30)
    decision = decide(rule, found(outcomes(20, 0)))
    assert (decision.says, decision.more) == ("not enough evidence", 10)
    assert decision.weighed.people.passed == "open"
    assert decide(rule, found(outcomes(0, 20))).says == "not enough evidence"
    assert decide(rule, found(outcomes(30, 0))).says == "promote"


def test_after_the_most_comparisons_a_candidate_not_shown_to_be_better_is_rejected() -> None:
    assert decide(ASKED, found(outcomes(105, 94))).says == "not enough evidence"
    decision = decide(ASKED, found(outcomes(105, 95)))
    assert (decision.says, decision.reason) == ("reject", "not-shown")
    assert decision.weighed.people.passed == "fail"


# -------------------------------------------------------------------------------------------------------- how many more
def test_without_enough_evidence_the_number_that_is_missing_is_named() -> None:
    ahead = decide(ASKED, found(outcomes(20, 8)))
    assert ahead.says == "not enough evidence"
    assert ahead.more is not None
    assert ahead.weighed.people.likely
    # With so many more of the same it is shown, and the estimate is careful: it is not shown before half of them.
    later = outcomes(20 + round(ahead.more * 20 / 28), 8 + round(ahead.more * 8 / 28))
    assert decide(ASKED, found(later)).says == "promote"
    behind = decide(ASKED, found(outcomes(15, 17)))
    assert (behind.more, behind.weighed.people.likely) == (168, False)
    none = decide(ASKED, found())
    assert (none.more, none.weighed.people.passed) == (10, "missing")
    assert decide(ASKED, found(outcomes(100, 99))).more == 1


def test_more_than_the_rule_allows_is_never_asked_for() -> None:
    for won in range(80, 115):
        decision = decide(ASKED, found(outcomes(won, 80)))
        assert decision.more is None or 0 < decision.more <= 200 - won - 80


def test_the_shorter_way_to_a_decision_is_named_first() -> None:
    decision = decide(WITH_JUDGE, found(outcomes(11, 9), judge(outcomes(23, 8))))
    assert decision.says == "not enough evidence"
    assert decision.more_by == "Ada"
    assert decide(WITH_JUDGE, found((), judge(outcomes(20, 20)))).more_by is None


# ------------------------------------------------------------------------------------------------------------ prompts
def test_more_seeds_of_the_same_prompts_are_no_more_evidence() -> None:
    """Twelve wins on three prompts are three wins; the win rate shows them all."""
    again = each((1.0, 1.0, 0.5) * 4, None)
    repeated = tuple(replace(one, prompt_id=one.prompt_id % 3) for one in again)
    assert decide(ASKED, found(outcomes(10, 0))).says == "promote"
    decision = decide(ASKED, replace(SOUND, people=repeated))
    assert (decision.says, decision.weighed.people.passed) == ("not enough evidence", "open")
    assert decision.weighed.people.count == 3
    by_judge = decide(WITH_JUDGE, found(FEW, judge(outcomes=tuple(replace(one, by="Ada") for one in repeated * 20))))
    assert by_judge.says == "not enough evidence"


def test_what_comes_later_on_a_prompt_changes_the_win_rate_and_not_the_evidence() -> None:
    first = each(BETTER)
    later = tuple(replace(one, outcome=0.0) for one in first[:20])
    before, after = decide(ASKED, found(BETTER)), decide(ASKED, replace(SOUND, people=(*first, *later)))
    assert before.says == after.says == "promote"
    shown = [criterion_words(one.weighed.people).value for one in (before, after)]
    assert shown[0].startswith("69% on 65 prompts (")
    # Shown is what all have said, beside the interval of what was bet on.
    assert shown[1].startswith("54% on 65 prompts (55–")
    assert shown[0].partition("–")[2] == shown[1].partition("–")[2]


def test_a_judge_that_failed_midway_does_not_decide_and_it_is_said_why() -> None:
    stopped = judge(left_open=40, gave_up="The endpoint does not answer.")
    decision = decide(WITH_JUDGE, found(FEW, stopped))
    assert (decision.says, decision.more_by) == ("not enough evidence", None)
    (voter,) = decision.weighed.panel
    assert (voter.says, voter.obstacle) == (None, Unfinished("Ada", 65, 105, "The endpoint does not answer."))
    assert voter.obstacle in decision.criteria
    assert decide(WITH_JUDGE, found(FEW, judge(left_open=7))).says == "promote"


# ------------------------------------------------------------------------------------------------------------- judges
def test_a_trusted_judge_decides_where_it_may_and_people_have_not() -> None:
    better, worse = found(FEW, judge()), found(FEW, judge(WORSE))
    decision = decide(WITH_JUDGE, better)
    assert (decision.says, decision.reason, decision.source.judge) == ("promote", "better", "Ada")
    assert decide(WITH_JUDGE, worse).says == "reject"
    for findings in (better, worse):
        decision = decide(ASKED, findings)
        assert (decision.says, decision.more_by) == ("not enough evidence", None)
        assert (decision.weighed.panel, decision.weighed.recused) == ((), ())


@pytest.mark.parametrize("trust", [None, Estimate(0.9, 0.59, 0.99, 10), Estimate(0.62, 0.5999, 0.64, 2000)])
def test_nothing_is_promoted_on_a_judge_that_is_not_trusted(trust: Estimate | None) -> None:
    for says in (outcomes(400, 0), outcomes(0, 400)):
        decision = decide(WITH_JUDGE, found(FEW, judge(says, trust=trust)))
        assert (decision.says, decision.more_by) == ("not enough evidence", None)
        (voter,) = decision.weighed.panel
        assert voter.obstacle == voter.trust == decision.criteria[1]
        assert (voter.trust.asks, voter.trust.passed) == ("trust", "fail" if trust else "missing")


def test_trust_is_its_lower_limit_at_or_above_the_threshold() -> None:
    assert decide(WITH_JUDGE, found(FEW, judge(trust=Estimate(0.7, 0.6, 0.8, 99)))).says == "promote"


@pytest.mark.parametrize("rate", [None, Estimate(0.6, 0.5, 0.7, 60), Estimate(0.45, 0.3, 0.6, 60)])
def test_a_judge_that_may_only_prefer_length_promotes_nothing(rate: Estimate | None) -> None:
    decision = decide(WITH_JUDGE, found(FEW, judge(length_controlled=rate)))
    assert (decision.says, decision.more_by) == ("not enough evidence", None)
    assert decision.weighed.panel[0].obstacle == decision.weighed.panel[0].equal_lengths
    # What it finds worse is worse whatever the lengths, and people are not bound by lengths.
    assert decide(WITH_JUDGE, found(FEW, judge(WORSE, length_controlled=rate))).says == "reject"
    assert decide(WITH_JUDGE, found(outcomes(60, 20), judge(length_controlled=rate))).says == "promote"


def test_a_judge_does_not_decide_against_what_people_lean_to() -> None:
    decision = decide(WITH_JUDGE, found(outcomes(20, 25), judge()))
    assert decision.says == "not enough evidence"
    assert [one.says for one in decision.weighed.panel] == ["better"]
    assert decide(WITH_JUDGE, found(outcomes(25, 20), judge())).says == "promote"
    assert decide(WITH_JUDGE, found(outcomes(25, 20), judge(WORSE))).says == "not enough evidence"
    assert decide(WITH_JUDGE, found(outcomes(3, 6), judge())).says == "promote"


def test_judges_that_contradict_each_other_decide_nothing() -> None:
    other = judge(WORSE, name="Bob")
    decision = decide(WITH_JUDGE, found(FEW, judge(outcomes(60, 20)), other))
    assert decision.says == "not enough evidence"
    assert [one.says for one in decision.weighed.panel] == ["better", "worse"]
    untrusted = replace(other, trust=None)
    assert decide(WITH_JUDGE, found(FEW, judge(outcomes(60, 20)), untrusted)).says == "promote"


def test_a_judge_without_evidence_at_its_most_ends_it_only_where_people_have_not_begun() -> None:
    undecided = judge(outcomes(205, 195))
    assert decide(WITH_JUDGE, found(FEW, undecided)).says == "reject"
    begun = decide(WITH_JUDGE, found(outcomes(6, 5), undecided))
    assert (begun.says, begun.more_by) == ("not enough evidence", None)
    another = decide(WITH_JUDGE, found(FEW, undecided, judge(outcomes(60, 40), name="Bob")))
    assert (another.says, another.more_by) == ("not enough evidence", "Bob")


def test_one_alpha_is_spent_in_total() -> None:
    assert alphas(ASKED, 3) == (0.05, 0.0)
    for judges in range(4):
        people, each = alphas(WITH_JUDGE, judges)
        assert people + judges * each <= WITH_JUDGE.alpha + 1e-12
    # People and two judges, each with its own part of it: a half, and a quarter.
    for won in range(20, 60):
        says = outcomes(won, 20)
        evidence = evidence_for(says)[-1]
        by_people = decide(WITH_JUDGE, found(says, judge(FEW), judge(FEW, name="Bob")))
        by_judge = decide(WITH_JUDGE, found(FEW, judge(says), judge(FEW, name="Bob", trust=None)))
        assert (by_people.says == "promote") == (evidence >= 2 / WITH_JUDGE.alpha)
        assert (by_judge.says == "promote") == (evidence >= 4 / WITH_JUDGE.alpha)


def test_a_judge_that_informs_decides_nothing_and_takes_no_part_of_alpha() -> None:
    aside = judge(outcomes(400, 0), name="Bob", informs="itself")
    decision = decide(WITH_JUDGE, found(FEW, aside))
    assert (decision.says, decision.more_by) == ("not enough evidence", None)
    assert decision.weighed.recused == (InformingJudge("Bob", 1.0, 400, "itself"),)
    assert decision.weighed.recused[0] in decision.criteria
    worse = replace(aside, outcomes=each(outcomes(0, 400), "Bob"))
    alone = decide(WITH_JUDGE, found(FEW, judge()))
    beside = decide(WITH_JUDGE, found(FEW, judge(), worse))
    assert (beside.reason, beside.source) == (alone.reason, alone.source) == ("better", alone.source)
    assert decide(ASKED, found(FEW, aside)).weighed.recused == ()


def test_what_no_check_will_add_to_is_rejected_with_that_reason() -> None:
    waits = decide(ASKED, found(OPEN))
    decision = given_up(waits, 8)
    assert (decision.says, decision.more, decision.given_up_after, decision.used_up) == ("reject", None, 8, False)
    assert (decision.reason, decision.criteria) == (waits.reason, waits.criteria)
    assert given_up(waits, 3, used_up=True).used_up


# ------------------------------------------------------------------------------------------------------------- limits
@pytest.mark.parametrize("figure", FIGURES)
def test_a_limit_stops_even_what_people_find_better(figure: str) -> None:
    past = 0.5 if figure == "distinct_ratio" else 5.0
    decision = decide(ASKED, found(BETTER, **{figure: past}))
    assert (decision.says, decision.reason, limit(decision, figure).passed) == ("reject", "past-a-limit", "fail")
    assert decide(ASKED, found(OPEN, **{figure: past})).says == "reject"


@pytest.mark.parametrize("figure", FIGURES)
def test_what_is_not_a_number_fails(figure: str) -> None:
    assert decide(ASKED, found(BETTER, **{figure: math.nan})).says == "reject"


@pytest.mark.parametrize("figure", [*FIGURES, "reward_hacking", "identical_to_serving"])
def test_a_missing_number_never_passes(figure: str) -> None:
    for rule, people, judges in ((ASKED, BETTER, ()), (WITH_JUDGE, FEW, (judge(),))):
        decision = decide(rule, found(people, *judges, **{figure: None}))
        assert (decision.says, decision.more) == ("not enough evidence", None)
        assert decision.reason == "unmeasured"
        assert sum(one.passed == "missing" for one in decision.criteria) == 1
    assert decide(ASKED, found(OPEN, **{figure: None})).more is not None


@pytest.mark.parametrize("people", [(), outcomes(1, 0), outcomes(9, 0), FEW, OPEN, outcomes(118, 82)])
def test_a_judge_decides_on_a_risen_reward_too_where_people_have_not_and_do_not_lean_the_other_way(
    people: tuple[float, ...],
) -> None:
    asked = judge(outcomes(60, 10))
    assert decide(WITH_JUDGE, found(people, asked)).says == "promote"
    decision = decide(WITH_JUDGE, found(people, asked, reward_hacking="open"))
    assert (decision.says, limit(decision, "no-reward-hacking").passed) == ("promote", "pass")


@pytest.mark.parametrize(
    ("people", "says"), [(outcomes(30, 25, 10), outcomes(10, 60)), (outcomes(25, 30, 10), outcomes(60, 10))]
)
def test_where_people_lean_the_other_way_no_judge_tells_of_a_risen_reward(
    people: tuple[float, ...], says: tuple[float, ...]
) -> None:
    decision = decide(WITH_JUDGE, found(people, judge(says), reward_hacking="open"))
    assert (decision.says, decision.reason) == ("not enough evidence", "open")
    assert limit(decision, "no-reward-hacking").passed == "open"


def test_what_people_have_found_better_by_whatever_evidence_has_hacked_no_reward() -> None:
    """Else one that judges' verdicts helped to show better would wait for more comparisons, and be given up."""
    decision = decide(ASKED, found(BETTER, reward_hacking="open"))
    assert (decision.says, limit(decision, "no-reward-hacking").passed) == ("promote", "pass")
    assert decide(ASKED, found(BETTER, reward_hacking=True)).says == "reject"


@pytest.mark.parametrize(
    ("rule", "asked"),
    [
        (replace(ASKED, mode="automatic"), judge(outcomes(20, 40))),
        (ASKED, judge(outcomes(20, 40))),
        (WITH_JUDGE, judge(outcomes(20, 40), trust=Estimate(0.9, 0.5, 1.0, 5))),
        (WITH_JUDGE, judge(outcomes(20, 40), trust=None)),
        (WITH_JUDGE, judge(WORSE, informs="its-labels")),
    ],
)
def test_a_judge_that_may_not_decide_finds_no_reward_hacked(rule: Rule, asked: JudgeFindings) -> None:
    decision = decide(rule, found((), asked, reward_hacking="open"))
    assert (decision.says, limit(decision, "no-reward-hacking").passed) == ("not enough evidence", "open")


def test_a_judge_that_may_decide_tells_of_a_risen_reward_where_nobody_has_compared() -> None:
    assert limit(decide(WITH_JUDGE, found((), judge(WORSE), reward_hacking="open")), "no-reward-hacking").found is True
    assert decide(WITH_JUDGE, found((), judge(), reward_hacking="open")).says == "promote"
    against = judge(WORSE, name="Bob")
    decision = decide(WITH_JUDGE, found((), judge(outcomes(60, 10)), against, reward_hacking="open"))
    assert (decision.says, limit(decision, "no-reward-hacking").passed) == ("not enough evidence", "open")


@pytest.mark.parametrize(("people", "passed"), [(outcomes(0, 9), "open"), (outcomes(17, 33), "open"), (WORSE, "fail")])
def test_people_find_a_reward_hacked_only_where_their_bets_find_the_candidate_worse(
    people: tuple[float, ...], passed: str
) -> None:
    """Whatever an interval for a single look says, which looks after every prompt."""
    assert limit(decide(ASKED, found(people, reward_hacking="open")), "no-reward-hacking").passed == passed


def test_findings_without_anything_in_them_decide_nothing() -> None:
    decision = decide(WITH_JUDGE, Findings())
    assert decision.says == "not enough evidence"
    assert {one.passed for one in decision.criteria} == {"missing", "informs"}


def test_without_a_reward_there_is_nothing_to_hack_and_nothing_to_wait_for() -> None:
    for state in ("no reward", "made elsewhere"):
        decision = decide(ASKED, found(BETTER, reward_hacking=state))
        assert limit(decision, "no-reward-hacking").passed == "inapplicable"
        assert decision.says == "promote", "it neither passes nor fails, and holds nothing up"
        waits = decide(ASKED, found(OPEN, reward_hacking=state))
        assert waits == replace(decide(ASKED, found(OPEN)), weighed=waits.weighed)


def test_too_few_prompts_are_few_and_not_missing() -> None:
    decision = decide(ASKED, found(BETTER, prompts=12))
    assert (decision.says, decision.more) == ("not enough evidence", None)
    assert (decision.reason, limit(decision, "prompts").passed) == ("unmeasured", "few")


def test_reward_hacking_and_a_copy_of_what_serves_are_rejected() -> None:
    hacked = decide(ASKED, found(BETTER, reward_hacking=True))
    assert (hacked.says, hacked.reason, limit(hacked, "no-reward-hacking").passed) == (
        "reject", "past-a-limit", "fail"
    )  # fmt: skip
    copy = decide(ASKED, found((), identical_to_serving=True))
    assert (copy.says, copy.reason, limit(copy, "different").passed) == ("reject", "same", "fail")


def test_the_mode_is_for_who_acts_on_the_decision() -> None:
    for findings in (found(BETTER), found(WORSE), found(OPEN)):
        rules = [Rule(mode=mode, alpha_holds="candidate") for mode in ("ask", "automatic", "never")]
        decisions = {decide(rule, findings) for rule in rules}
        assert len(decisions) == 1


# ----------------------------------------------------------------------------------------------- many candidates
def test_one_alpha_for_a_project_is_spent_over_all_its_candidates() -> None:
    over, each = Rule(alpha_holds="project"), Rule()
    parts = [alpha_of(over, number) for number in range(1, 2000)]
    assert parts == sorted(parts, reverse=True)
    assert 0.045 < sum(parts) < over.alpha
    assert risk_so_far(over, 50) == pytest.approx(sum(parts[:50]))
    assert {alpha_of(each, number) for number in (1, 9)} == {each.alpha}
    assert risk_so_far(each, 20) == pytest.approx(0.64, abs=0.005)
    # The later, the more it takes.
    assert decide(over, found(outcomes(40, 10), number=2)).says == "promote"
    late = decide(over, found(outcomes(40, 15), number=60))
    assert late.says == "not enough evidence"
    assert late.more is not None


# ------------------------------------------------------------------------------------------------ people and judges
def helped(people: tuple[float, ...], agreed: float = 1.0, **changed: Any) -> Findings:
    """People compared every third prompt, and the judge Ada all, who says the same as they do of so many."""
    left = tuple(range(len(people), 3 * len(people)))
    source = random.Random(5)
    says = [one if source.random() < agreed else 0.5 for one in people] + [
        source.choice(people) for _ in left
    ]  # fmt: skip
    given = tuple(DecidedOutcome(place, one, probability=1 / 3, at=1000 + place) for place, one in enumerate(people))
    ada = JudgeFindings(
        "Ada", tuple(DecidedOutcome(place, one, "Ada", at=1) for place, one in enumerate(says)),
        trust_before=Estimate(0.9, 0.8, 0.95, 100), **changed,
    )  # fmt: skip
    return replace(SOUND, people=given, judges=(ada,), left_to_judges=dict.fromkeys(left, LeftPrompt()))


MIXED = tuple(float(one) for one in random.Random(3).choices((1.0, 0.5, 0.0), (58, 20, 22), k=40))


def test_a_good_judge_makes_what_people_say_tell_more_and_it_is_still_what_people_say() -> None:
    alone = decide(ASKED, found(MIXED))
    assert alone.says == "not enough evidence"
    decision = decide(ASKED, helped(MIXED))
    assert (decision.says, decision.reason, decision.source.judge) == ("promote", "better", None)
    assert (decision.weighed.people.count, decision.weighed.people.helped) == (40, 80)


def test_a_judge_that_may_not_decide_helps_all_the_same() -> None:
    conflicted = helped(MIXED, informs="its-labels")
    for rule in (ASKED, WITH_JUDGE):
        assert decide(rule, conflicted).weighed.people.helped
    alone = replace(conflicted, people=(), left_to_judges=dict.fromkeys(range(120), LeftPrompt()))
    assert decide(WITH_JUDGE, alone).says == "not enough evidence"


def test_without_a_recorded_chance_judges_do_not_help() -> None:
    old = helped(MIXED)
    unknown = replace(old, people=tuple(replace(one, probability=None) for one in old.people))
    decision = decide(ASKED, unknown)
    assert (decision.says, decision.weighed.people.unrecorded) == ("not enough evidence", True)
    assert decision.weighed.people.found == decide(ASKED, found(MIXED)).weighed.people.found


def test_people_get_all_without_a_judge_worth_hearing_and_less_with_a_good_one() -> None:
    coin, good = (replace(JudgeFindings("Ada"), trust_before=Estimate(share, 0.4, 1, 100)) for share in (0.5, 0.9))
    assert share_by_rule(ASKED, Findings(judges=(coin,)), 200) == 1.0
    assert share_by_rule(ASKED, Findings(), 200) == 1.0
    assert share_by_rule(ASKED, Findings(judges=(good,)), 200) < 0.6
    assert share_by_rule(ASKED, Findings(judges=(good,)), 60) > share_by_rule(ASKED, Findings(judges=(good,)), 400)


# --------------------------------------------------------------------------------------------------------------- rule
def test_a_rule_comes_back_from_the_settings_as_it_was() -> None:
    rule = Rule(mode="automatic", alpha=0.01, people_most=50, judge_may_decide=True, kl_most=2.0)
    assert Rule.from_setting(json.loads(json.dumps(rule.to_setting()))) == rule
    assert Rule.from_setting({}) == Rule()
    assert Rule.from_setting({"people_most": 30.0, "kl_most": 1}) == Rule(people_most=30, kl_most=1.0)


def test_a_stored_rule_that_asked_for_fewer_prompts_is_read_and_asks_for_sixty() -> None:
    old = {**Rule(mode="automatic", kl_most=2.0).to_setting(), "prompts_least": 20}
    assert Rule.stored(old) == Rule(mode="automatic", kl_most=2.0)
    assert Rule.stored({}) == Rule()
    assert Rule.stored({"prompts_least": 90}).prompts_least == 90
    with pytest.raises(UserError, match="Fewest held-out prompts"):
        Rule.stored({"prompts_least": "few"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "always"}, "mode must be one of: ask, automatic, never"),
        ({"alpha": 0}, "“Share of wrong promotions” must be a number from 0.001 to 0.2"),
        ({"alpha": "0.05"}, "Share of wrong promotions"),
        ({"alpha": math.nan}, "Share of wrong promotions"),
        ({"kl_most": math.inf}, "KL to its anchor"),
        ({"kl_most": True}, "KL to its anchor"),
        ({"kl_most": None}, "KL to its anchor"),
        ({"judge_may_decide": 1}, "choose yes or no"),
        ({"people_least": 0}, "“Fewest prompts compared by people” must be a whole number from 1 to 10,000, not 0"),
        ({"people_most": 20.5}, "Most prompts compared by people"),
        ({"people_least": 50, "people_most": 20}, "Most prompts compared by people: 20 is below 50"),
        ({"judge_least": 500}, "Most prompts compared by a judge: 400 is below 500"),
        ({"judge_trust": 0.4}, "Agreement of a judge with people"),
        ({"nll_ratio": 1.2}, "The gate's rule has these fields: mode, alpha, "),
        ({"prompts_least": 59}, "“Fewest held-out prompts” must be a whole number from 60 to 10,000, not 59"),
        ([], "The gate's rule has these fields"),
    ],
)
def test_nonsense_in_the_settings_is_refused_by_name(values: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Rule.from_setting(values)


def test_every_field_of_the_rule_can_be_set_and_is_heeded() -> None:
    """Each default, changed, turns some decision over."""
    cases: dict[str, tuple[Any, Findings]] = {
        "alpha": (0.001, found(BETTER)),
        "alpha_holds": ("project", found(BETTER, number=40)),
        "people_least": (66, found(BETTER)),
        "people_most": (65, found(OPEN)),
        "judge_may_decide": (True, found(FEW, judge())),
        "prompts_least": (61, found(BETTER)),
        "kl_most": (0.01, found(BETTER)),
        "nll_ratio_most": (1.05, found(BETTER, nll_ratio=1.1)),
        "distinct_ratio_least": (1.0, found(BETTER, distinct_ratio=0.95)),
        "truncated_more_most": (0.0, found(BETTER, truncated_more=0.05)),
        "perplexity_ratio_most": (1.05, found(BETTER, perplexity_ratio=1.1)),
        "probes_fall_most": (0.01, found(BETTER, probes_fall=0.015)),
        "judge_trust": (0.75, found(FEW, judge())),
        "judge_least": (66, found(FEW, judge())),
        "judge_most": (65, found(FEW, judge(OPEN))),
    }
    # By the anchor checks measure, and the mode is for who acts.
    assert {field.name for field in fields(Rule)} == {"mode", "anchor", *cases}
    for name, (value, findings) in cases.items():
        rule = WITH_JUDGE if name.startswith("judge_t") or name in ("judge_least", "judge_most") else ASKED
        changed = Rule.from_setting({**rule.to_setting(), name: value})
        assert decide(changed, findings).says != decide(rule, findings).says, name


# ---------------------------------------------------------------------------------------------------------- benchmark
def test_the_benchmark_promotes_when_the_gate_does() -> None:
    """It looks at all courses at once, the gate at one comparison more each time."""
    verdicts = set()
    for seed in range(12):
        cell = benchmark.Cell(
            0.6, 60, judge="85" if seed % 2 else "none", clusters="beta", skipped=0.3 * (seed > 3),
            judged_later=seed > 5,
        )  # fmt: skip
        rule = replace(ASKED, people_most=20) if seed > 7 else ASKED
        findings = benchmark.checked(
            Findings(judges=(JudgeFindings("85"),) if seed % 2 else ()), cell, np.full(60, 0.75), np.arange(60), 0.5, 0,
            benchmark.Luck.of(cell, seed),
        )  # fmt: skip
        looked = benchmark.look(rule, findings)
        decisions = [
            decide(rule, replace(SOUND, people=findings.people[:count], judges=findings.judges,
                                  left_to_judges=findings.left_to_judges)).says
            for count in range(1, len(findings.people) + 1)
        ]  # fmt: skip
        first = next((count for count, verdict in enumerate(decisions, 1) if verdict != "not enough evidence"), None)
        promoted = first if first is not None and decisions[first - 1] == "promote" else None
        assert (looked.promoted_after, looked.decided) == (promoted, first is not None)
        verdicts |= set(decisions)
    assert "promote" in verdicts


def test_what_comes_again_in_the_benchmark_comes_as_in_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty a check, least asked first, once people have what was left; and each prompt by its first draw."""
    seen: list[Findings] = []

    def note(rule: Rule, findings: Findings) -> benchmark.Course:
        seen.append(findings)
        return benchmark.Course(-math.inf, None, 0, decided=False)

    monkeypatch.setattr(benchmark, "look", note)
    cell = benchmark.Cell(0.5, 100, judge="85", repeats=2)
    benchmark.course(ASKED, cell, benchmark.Luck.of(cell, 1))
    _first, before, once, twice = seen
    left = before.left_to_judges
    assert len(left) > 10
    assert before.people == once.people[: len(before.people)]
    spent = corrected_by_judges(before).spent
    given = {prompt for prompt, one in once.left_to_judges.items() if one.given is not None}
    assert given == left.keys() - spent
    after = once.people[len(before.people) :]
    assert {one.prompt_id for one in after[: len(given)]} == given
    assert all(one.probability != 1 for one in after[: len(given)]), "by the draw that left it"
    again = [[one.prompt_id for one in found.people[-60:]] for found in (once, twice)]
    assert again == [[*range(60)], [*range(60, 100), *range(20)]]
    assert twice.left_to_judges == once.left_to_judges
    cell = benchmark.Cell(0.5, 100, judge="85")
    drawn = benchmark.checked(before, cell, np.full(100, 0.5), np.arange(100), 0.5, 9, benchmark.Luck.of(cell, 2))
    assert drawn.left_to_judges == left


@pytest.mark.parametrize("judge", ["none", "trained-in", "85"])
def test_at_most_alpha_is_promoted_with_the_same_winner_for_every_seed(judge: benchmark.Panel) -> None:
    """Twenty prompts again and again, which is where counting comparisons promoted a quarter; and with judges."""
    cell = benchmark.Cell(0.5, 20 if judge == "none" else 120, "same winner", judge, repeats=3 * (judge == "none"))
    found, _courses = benchmark.measure(ASKED, cell, 80)
    assert found["promoted"] <= ASKED.alpha


def test_at_most_alpha_is_promoted_where_people_skip_what_judges_like() -> None:
    cell = benchmark.Cell(0.5, 120, judge="85", skipped=0.25)
    found, _courses = benchmark.measure(ASKED, cell, 40)
    assert found["promoted"] <= ASKED.alpha


def test_the_benchmark_draws_what_it_names() -> None:
    source = np.random.default_rng(1)
    for clusters in benchmark.CLUSTERED:
        cell = benchmark.Cell(0.6, 4000, clusters)
        says = benchmark.compared(cell, benchmark.chances(cell, source), source)
        assert float(says.mean()) == pytest.approx(0.6, abs=0.03)
    agreed = benchmark.judged("85", says, source) == says
    assert float(agreed.mean()) == pytest.approx(0.85, abs=0.02)
    assert float(benchmark.judged("biased", says, source).mean()) == pytest.approx(0.6, abs=0.03)
    passed = benchmark.passed_over(benchmark.Cell(0.6, 4000, skipped=0.25), 4000, source)
    assert float(passed.mean()) == pytest.approx(0.25, abs=0.03)
    assert set(benchmark.judged("85", np.where(passed, np.nan, says), source)[passed]) == {1.0}


def test_the_benchmark_counts_those_that_were_not_promoted_with_all_that_they_took() -> None:
    """One that wins 60 of 100 on 60 prompts is promoted seldom: the promoted alone would look as if little did."""
    figures, courses = benchmark.measure(ASKED, benchmark.Cell(0.6, 60), 40)
    promoted = [one.promoted_after for one in courses if one.promoted_after is not None]
    assert 0 < len(promoted) < 20
    assert figures["people_median"] == 60
    assert figures["people_median_promoted"] == median(promoted) < 60


def test_some_cells_of_the_benchmark_can_be_measured_alone() -> None:
    found = benchmark.run_some(2, 1, ["50%, 60 prompts, beta, judge: n", "50%, 60 prompts, alike", "no such cell"])
    assert [(cell["name"], cell["seed"]) for cell in found["cells"]] == [
        ("50%, 60 prompts, alike, judge: none", 1),
        ("50%, 60 prompts, beta, judge: none", 1),
    ]


def test_the_benchmark_says_what_it_misses() -> None:
    cell = {"name": "c", "win_rate": 0.5, "promoted": 0.06, "candidates": 400}
    medians = {"none": 90, "coin": 96, "flattered coin": 99, "hostile": 90, "85": 46, "75": 61}
    project = {"project": {"one alpha for all": 0.2}, "project_interval": [0.12, 0.3]}
    found = {"nominal": 0.05, "cells": [cell], "people_median": medians, **project}
    assert benchmark.missed(found) == [
        "c: 6.0% of 400 promoted, more than 5%",
        "judge of 85%: 46 comparisons by people, more than 45",
        "judge of 75%: 61 comparisons by people, more than 60",
        "coin: 96 comparisons by people, more than 1.05 times 90",
        "flattered coin: 99 comparisons by people, more than 1.05 times 90",
        "a project of useless candidates: any promoted in 20.0%, more than 5%",
    ]
    medians, project = {"none": 90, "coin": 94, "85": 45, "75": 60}, {"project_interval": [0.02, 0.12]}
    assert benchmark.missed({"nominal": 0.05, "cells": [], "people_median": medians, **project}) == []
