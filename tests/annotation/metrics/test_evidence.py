"""Evidence by prompt, corrected by judges: the bets are fair whatever the judges are worth."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from annotation.metrics.evidence import (
    LEAST_SHARE,
    TRIES,
    DecidedOutcome,
    JudgePanel,
    LeftPrompt,
    Moments,
    Prediction,
    Predictions,
    by_prompt,
    corrected,
    covariance_of,
    telling_share,
    win_rate,
    without_skipped,
)
from annotation.metrics.intervals_and_bias import Estimate
from annotation.metrics.sequential_testing import Stakes, log_capitals

CARD = Estimate(0.9, 0.8, 0.95, 100)


def people(*outcomes: float, probability: float | None = 0.5, first: int = 0) -> tuple[DecidedOutcome, ...]:
    """What people say, each on a prompt of its own, after all judges."""
    return tuple(
        DecidedOutcome(first + place, one, probability=probability, at=1000 + place, since=0)
        for place, one in enumerate(outcomes)
    )


def judge(*outcomes: float, first: int = 0, name: str = "Ada", at: int = 1) -> tuple[DecidedOutcome, ...]:
    """What a judge says of prompts in order."""
    return tuple(DecidedOutcome(first + place, one, name, at=at) for place, one in enumerate(outcomes))


def left(*prompts: int, since: int = 0) -> dict[int, LeftPrompt]:
    """Prompts that were left to judges, and not given to people."""
    return dict.fromkeys(prompts, LeftPrompt(since))


def test_a_prompt_enters_once_with_what_came_first() -> None:
    decided = [DecidedOutcome(7, 1.0), DecidedOutcome(3, 0.0), DecidedOutcome(7, 0.0), DecidedOutcome(7, 0.5)]
    seven, three = by_prompt(decided)
    assert (seven.prompt_id, seven.entered, seven.mean, three.outcomes) == (7, 1.0, 0.5, (0.0,))
    assert win_rate((seven, three)) == 0.25
    assert win_rate(()) is None
    (settled,) = by_prompt([DecidedOutcome(7, 1.0, shown=0.0)])
    assert (settled.entered, settled.mean) == (1.0, 0.0), "an admin who settled it said otherwise"


def test_a_prompt_is_corrected_by_others_that_were_left_to_judges_each_used_once() -> None:
    """One of two got to people: each of theirs has one other. w = cov / (var (1 + 1)) of what is known beforehand."""
    panel = JudgePanel(judge(1.0, 0.0, 1.0, 0.0), {"Ada": CARD}, left(2, 3))
    found = corrected(by_prompt(people(1.0, 0.0)), panel)
    moments = Moments().believing(covariance_of(CARD))
    weight = moments.both / (2 * moments.judges)
    first, second = found.outcomes
    assert (first.value, first.weight) == (pytest.approx(1.0), pytest.approx(weight))  # judges say 1 of both
    assert second.value == 0.0
    assert second.weight > weight, "people and judge agreed on the first"
    assert found.helped == 2
    assert 0.3 <= first.spread < 1
    over = corrected(by_prompt(people(1.0, 0.0)), replace(panel, left=left(3, 2)))
    assert over.outcomes[0].value == pytest.approx(1.0 - weight)


def test_what_is_not_known_before_people_compared_changes_nothing() -> None:
    said = by_prompt(people(1.0, 0.0, 1.0))
    plain = [(one.value, one.weight, one.spread) for one in corrected(said, JudgePanel()).outcomes]
    assert plain == [(1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (1.0, 0.0, 1.0)]
    trust = {"Ada": CARD}
    late = JudgePanel(judge(1.0, 0.0, 1.0, 0.0, 0.0, 0.0, at=5000), trust, left(3, 4, 5))
    unknown = by_prompt(people(1.0, 0.0, 1.0, probability=None))
    everybody = by_prompt(people(1.0, 0.0, 1.0, probability=1.0))
    asked = JudgePanel(judge(1.0, 0.0, 1.0, 0.0, 0.0, 0.0), trust, left(3, 4, 5))
    for prompts, panel in ((said, late), (unknown, asked), (everybody, asked), (said, replace(asked, left={}))):
        assert [(one.value, one.weight, one.spread) for one in corrected(prompts, panel).outcomes] == plain
    # The first prompts enter alike, whatever comes after them.
    assert corrected(said[:2], asked).outcomes == corrected(said, asked).outcomes[:2]


def test_a_prompt_that_has_corrected_another_does_not_count_when_people_compare_it_later() -> None:
    panel = JudgePanel(judge(1.0, 1.0, 0.0, 0.0), {"Ada": CARD}, left(2, 3))
    later = (*people(1.0, 1.0), DecidedOutcome(2, 1.0, probability=0.5, at=5000))
    assert [one.prompt_id for one in corrected(by_prompt(later), panel).prompts] == [0, 1]
    before = (DecidedOutcome(2, 1.0, probability=0.5, at=900), *people(1.0, 1.0))
    found = corrected(by_prompt(before), panel)
    assert [one.prompt_id for one in found.prompts] == [2, 0, 1]
    assert found.helped == 1


def test_a_judge_that_failed_midway_corrects_what_it_can() -> None:
    """How much is bet does not depend on whether it judged the prompt: it may fail where the candidate is worse."""
    panel = JudgePanel(judge(1.0, first=1) + judge(0.0, 0.0, first=3), {"Ada": CARD}, left(3, 4, 5))
    found = corrected(by_prompt(people(1.0, 1.0, 1.0)), panel)
    first, second, third = found.outcomes
    assert (first.value, first.weight) == (1.0, second.weight)
    assert second.value == pytest.approx(1.0 - second.weight)
    assert first.spread < second.spread < 1, "less is expected of a judge that told nothing"
    assert (third.value, third.weight) == (1.0, 0.0), "it has failed on the one that was to correct it"
    assert (found.helped, found.spent) == (1, {3, 4, 5}), "people are not given more of what it fails on"


def test_little_is_spent_on_a_judge_that_has_not_come_to_a_check() -> None:
    """The first finds that it has not; once it has come to one that people compared, it helps with the next."""
    said = judge(1.0, 1.0, first=2, at=1002) + judge(*[0.0] * 4, first=4, at=1002)
    panel = JudgePanel(said, {"Ada": CARD}, left(4, 5, 6, 7))
    prompts = by_prompt(people(1.0, 1.0, 1.0, 1.0))
    assert corrected(prompts[:3], panel).spent == {4}
    late = replace(panel, outcomes=tuple(replace(one, at=1003 if one.prompt_id == 3 else 1001) for one in said))
    found = corrected(prompts, late)
    assert ([one.weight > 0 for one in found.outcomes], found.spent) == ([False, False, False, True], {4, 5})
    # A second judge that has judged only what was left: the two are never the very same judges.
    both = JudgePanel(
        (*judge(*[1.0] * 16), *judge(*[1.0] * 8, first=8, name="Bob")), {"Ada": CARD}, left(*range(8, 16))
    )
    second = replace(both, trust={"Ada": CARD, "Bob": CARD})
    used = [len(corrected(by_prompt(people(*[1.0] * 8)), panel).spent) for panel in (both, second)]
    assert used == [8, TRIES]


def test_the_weight_is_learnt_and_a_hostile_judge_gets_none() -> None:
    source = np.random.default_rng(1)
    says = source.choice((0.0, 1.0), size=60)
    for agreeing, expected in ((True, 0.4), (False, 0.0)):
        heard = says if agreeing else 1 - says
        others = source.choice((0.0, 1.0), size=60)
        panel = JudgePanel(judge(*heard, *others), {}, left(*range(60, 120)))
        last = corrected(by_prompt(people(*says)), panel).outcomes[-1]
        assert last.weight == pytest.approx(expected, abs=0.07)
    assert corrected(by_prompt(people(*says)), panel).explained < 0.1


def test_several_judges_speak_as_one_by_what_their_cards_say() -> None:
    coin = Estimate(0.5, 0.4, 0.6, 100)
    panel = JudgePanel(
        judge(1.0, 0.0) + judge(0.0, 1.0, name="Bob"), {"Ada": CARD, "Bob": coin}, left(1)
    )  # fmt: skip
    alone = JudgePanel(judge(1.0, 0.0), {"Ada": CARD}, left(1))
    assert corrected(by_prompt(people(1.0)), panel).outcomes == corrected(by_prompt(people(1.0)), alone).outcomes
    assert covariance_of(coin) == 0.0
    assert covariance_of(CARD) > covariance_of(Estimate(0.9, 0.4, 1.0, 3)) > 0
    unknown = Predictions(JudgePanel(panel.outcomes))
    assert unknown.of(0, 1000) == Prediction(frozenset({"Ada", "Bob"}), 0.5)


@pytest.mark.parametrize("fair", [(0.9, 0.1), (0.5, 0.5)])
def test_the_bet_is_fair_over_all_that_can_happen_whatever_the_judge_is_worth(fair: tuple[float, float]) -> None:
    """Two prompts of people's and two of the judge's, all 64 courses: the capital is expected to stay what it is.

    By what the judge says, people find it better with these chances: even over both.
    """
    expected = 0.0
    for says in product((0.0, 1.0), repeat=4):
        for finds in product((0.0, 1.0), repeat=2):
            chance = (1 / 2) ** 4
            for heard, found in zip(says, finds, strict=False):
                wins = fair[0] if heard else fair[1]
                chance *= wins if found else 1 - wins
            panel = JudgePanel(judge(*says), {"Ada": CARD}, left(2, 3))
            prompts = corrected(by_prompt(people(*finds)), panel)
            expected += chance * math.exp(log_capitals(stakes(prompts.outcomes))[-1])
    assert expected == pytest.approx(1.0)


@pytest.mark.parametrize("fails", ["where it loses", "where it wins", "the second on what people got"])
def test_the_bet_is_fair_when_judges_fail_on_some_prompts(fails: str) -> None:
    """Four prompts, two of them people's; Ada knows, Bob says won, and one of both gives no verdict on some."""
    expected = 0.0
    for finds in product((0.0, 1.0), repeat=4):
        ada = [one for place, one in enumerate(finds) for one in judge(one, first=place)]
        bob = list(judge(1.0, 1.0, first=2, name="Bob"))
        if fails != "the second on what people got":
            lost = 0.0 if fails == "where it loses" else 1.0
            ada, bob = [one for one in ada if one.outcome != lost], []
        panel = JudgePanel((*ada, *bob), {"Ada": CARD, "Bob": CARD}, left(2, 3))
        prompts = corrected(by_prompt(people(*finds[:2])), panel)
        expected += math.exp(log_capitals(stakes(prompts.outcomes))[-1]) / 16
    assert expected == pytest.approx(1.0)


@pytest.mark.parametrize("checks", [1, 2])
def test_the_bet_is_fair_when_judges_are_slower_by_what_they_find(checks: int) -> None:
    """The judge says what people say, at once where it lost, and where it won once people have begun with the check.

    Two prompts of people's, who have other two for each: of the first only what was lost was judged by then; so of the
    second, in a check of its own, or all, in the same one. What is left of the first has been judged by then.
    """
    expected = moved = 0.0
    for finds in product((0.0, 1.0), repeat=6):
        since = {place: 2000 * (checks == 2 and place in (1, 4, 5)) for place in range(6)}
        ada = [
            DecidedOutcome(place, one, "Ada", at=since[place] + (1500 if one else 1)) for place, one in enumerate(finds)
        ]
        own = [
            DecidedOutcome(place, finds[place], probability=1 / 3, at=at, since=since[place])
            for place, at in ((0, 1000), (1, 3000))
        ]
        panel = JudgePanel(tuple(ada), {"Ada": CARD}, {place: LeftPrompt(since[place]) for place in (2, 3, 4, 5)})
        prompts = corrected(by_prompt(own), panel)
        expected += math.exp(log_capitals(stakes(prompts.outcomes))[-1]) / 64
        moved += sum(one.value - 0.5 for one in prompts.outcomes) / 64
    assert (expected, moved) == (pytest.approx(1.0), pytest.approx(0.0))


@pytest.mark.parametrize("fails_where", [0.0, 1.0])
def test_what_people_are_given_of_what_was_left_is_no_other_than_the_rest(fails_where: float) -> None:
    """Bob gives no verdict where it wins, or loses: people are not given more of these."""
    expected = means = 0.0
    for finds in product((0.0, 1.0), repeat=5):
        ada = [one for place, one in enumerate(finds) for one in judge(one, first=place)]
        bob = [replace(one, by="Bob") for one in ada if one.outcome != fails_where]
        panel = JudgePanel((*ada, *bob), {"Ada": CARD, "Bob": CARD}, left(2, 3, 4))
        own = people(*finds[:2])
        spent = corrected(by_prompt(own), panel).spent
        rest = [replace(people(finds[place], first=place)[0], at=3000 + place) for place in (2, 3, 4)]
        rest = [one for one in rest if one.prompt_id not in spent]
        given = {
            place: LeftPrompt(given=2000 if any(one.prompt_id == place for one in rest) else None)
            for place in (2, 3, 4)
        }
        found = corrected(by_prompt((*own, *rest)), replace(panel, left=given))
        expected += math.exp(log_capitals(stakes(found.outcomes))[-1]) / 32
        means += sum(one.value - 0.5 for one in found.outcomes)
    assert expected == pytest.approx(1.0)
    assert means == pytest.approx(0.0)


def test_a_judge_asked_later_changes_no_bet_that_was_made() -> None:
    """Nor what a judge says later of an answer that it failed on first."""
    said = by_prompt(people(1.0, 0.0, 1.0))
    panel = JudgePanel(judge(1.0, 0.0, 1.0, 0.0, 1.0, 0.0), {}, left(3, 4, 5))
    later = (*judge(*[0.0] * 6, name="Bob", at=5000), DecidedOutcome(3, 1.0, "Ada", at=5001), *panel.outcomes)
    after = replace(panel, outcomes=later, trust={"Bob": CARD})
    assert corrected(said, after).outcomes == corrected(said, panel).outcomes


def test_what_a_later_check_leaves_to_judges_was_not_looked_at_by_bets_before_it() -> None:
    """People's own prompt wants two others, of which judge Bob failed on the second: the next check has more."""
    own = by_prompt(people(1.0, probability=1 / 3))
    ada, bob = judge(1.0, 1.0, 1.0), judge(1.0, 1.0, name="Bob")
    panel = JudgePanel((*ada, *bob), {"Ada": CARD, "Bob": CARD}, left(1, 2))
    later = [one for name in ("Ada", "Bob") for one in judge(*[1.0] * 30, first=100, name=name, at=2000)]
    more = left(*range(100, 130), since=1500)
    after = replace(panel, outcomes=(*panel.outcomes, *later), left=panel.left | more)
    before, found = corrected(own, panel), corrected(own, after)
    assert before.spent == {1, 2}
    assert (found.spent, found.outcomes) == (before.spent, before.outcomes)


def test_what_people_are_given_of_what_was_left_counts_and_corrects_no_other() -> None:
    """Given at 1000, before the second of people's own: it spends none, and those given ask for none either."""
    panel = JudgePanel(judge(*[1.0] * 6), {"Ada": CARD}, left(2, 3, 4, 5))
    rest = people(1.0, 0.0, 1.0, first=3)
    said = by_prompt((*people(1.0, 0.0), *(replace(one, at=2000 + one.prompt_id) for one in rest)))
    found = corrected(said, replace(panel, left=left(2) | dict.fromkeys((3, 4, 5), LeftPrompt(given=1000))))
    assert ([one.prompt_id for one in found.prompts], found.helped) == ([0, 1, 3, 4, 5], 1)
    unnoted = corrected(said, panel)
    assert ([one.prompt_id for one in unnoted.prompts], unnoted.helped) == ([0, 1, 4, 5], 2)


def test_what_was_skipped_is_bet_on_and_counts_for_no_win_rate() -> None:
    skips = tuple(replace(one, skipped=True) for one in people(0.5, 0.5, first=2))
    found = corrected(by_prompt((*people(1.0, 0.0), *skips, DecidedOutcome(3, 0.5, shown=1.0))), JudgePanel())
    assert [one.value for one in found.outcomes] == [1.0, 0.0, 0.5, 0.5]
    assert (found.judged, found.win_rate) == (3, pytest.approx(2 / 3))
    assert corrected(by_prompt(skips), JudgePanel()).win_rate is None
    assert without_skipped(0.7, 4, 2) == pytest.approx(0.9)
    assert (without_skipped(0.5, 4, 1), without_skipped(0.3, 4, 1)) == (0.5, 0.0)


def stakes(outcomes) -> Stakes:  # type: ignore[no-untyped-def]
    """What is bet on."""
    return Stakes.of(*zip(*((one.value, one.weight, one.spread) for one in outcomes), strict=True))


def test_people_get_the_least_that_can_still_show_it() -> None:
    start = telling_share(0.0, 0.05, 0.6, 200)
    assert LEAST_SHARE <= start < 0.6
    assert telling_share(0.0, 0.05, 0.0, 200) == 1.0
    assert telling_share(0.0, 0.05, 0.6, 50) == 1.0, "few prompts are left"
    behind, even, ahead = (telling_share(log, 0.05, 0.6, 100) for log in (-0.3, 0.0, 0.3))
    assert 1 > behind > even > ahead > LEAST_SHARE
    assert telling_share(0.0, 0.04, 0.6, 100) > even
    assert telling_share(9.0, 0.05, 0.9, 10_000) == LEAST_SHARE


def test_prompts_are_not_spent_on_a_judge_that_tells_nothing() -> None:
    """Its card says 85%, and it says as often the opposite: once that is seen, what was left to it is for people."""
    source = np.random.default_rng(3)
    says, heard = source.choice((0.0, 1.0), size=(2, 400))
    panel = JudgePanel(judge(*heard), {"Ada": CARD}, left(*range(200, 400)))
    found = corrected(by_prompt(people(*says[:200])), panel)
    assert 0 < found.helped < 60
    assert all(one.weight == 0 for one in found.outcomes[100:])
    good = JudgePanel(judge(*np.where(source.random(400) < 0.85, says, 1 - says)), {"Ada": CARD}, panel.left)
    assert corrected(by_prompt(people(*says[:200])), good).helped == 200
