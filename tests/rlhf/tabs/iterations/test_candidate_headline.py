"""Whether it got better, by people's outcomes, by limits, while nothing is known, and what would tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from annotation.metrics.evidence import DecidedOutcome
from annotation.metrics.intervals_and_bias import Estimate
from rlhf.evaluation import gate_words
from rlhf.evaluation.gate import Findings, GateDecision, JudgeFindings, Rule, decide, given_up
from rlhf.tabs.iterations import candidate_headline
from rlhf.tabs.iterations.candidate_headline import Headline

KEPT: dict[str, Any] = {
    "prompts": 60, "kl_per_token": 0.1, "nll_ratio": 1.0, "distinct_ratio": 1.0, "truncated_more": 0.0,
    "perplexity_ratio": 1.0, "probes_fall": 0.0, "reward_hacking": "no reward", "identical_to_serving": False,
}  # fmt: skip


def weighed(outcomes: Sequence[float], rule: Rule | None = None, **changed: Any) -> tuple[Findings, GateDecision]:
    """A candidate of whom people said this, one prompt after the other, and what the rule makes of it."""
    people = tuple(DecidedOutcome(prompt, outcome) for prompt, outcome in enumerate(outcomes))
    findings = Findings(people, **{**KEPT, **changed})
    return findings, decide(rule or Rule(), findings)


def verdict(outcomes: Sequence[float], rule: Rule | None = None, **changed: Any) -> tuple[Headline, GateDecision]:
    """What is said of a candidate of whom people said this."""
    findings, decision = weighed(outcomes, rule, **changed)
    return candidate_headline.headline_of(findings, decision, "dpo-1", given=True), decision


def test_what_people_prefer_is_better_and_says_so_in_one_line() -> None:
    found, decision = verdict([1.0] * 20)
    assert decision.says == "promote"
    assert (found.state, found.saying, found.then) == ("good", "Better than dpo-1.", "")
    card = candidate_headline.headline_card(found)
    assert "People prefer it on 100% of 20 prompts (" in card
    assert 'class="evidence good"' in card
    assert card.count("<svg") == 1


def test_of_prompts_that_nobody_had_to_compare_it_is_not_said_that_people_prefer_it_there() -> None:
    people = tuple(DecidedOutcome(prompt, 1.0, asked=prompt > 3) for prompt in range(20))
    findings = Findings(people, **KEPT)
    headline = candidate_headline.headline_of(findings, decide(Rule(), findings), "dpo-1", given=True)
    card = candidate_headline.headline_card(headline)
    assert "It won 100% of 20 prompts (" in card
    assert "people compared 16; on 4 one answer was empty, or both were the same." in card
    assert "People prefer" not in card


def test_what_people_dislike_is_worse() -> None:
    found, _ = verdict([0.0] * 20)
    assert (found.state, found.saying) == ("bad", "Worse than dpo-1.")
    assert 'class="evidence bad"' in candidate_headline.headline_card(found)


def test_while_nothing_is_shown_it_says_what_would_tell() -> None:
    found, _ = verdict([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    assert (found.state, found.saying) == ("open", "Not shown to be better than dpo-1 yet.")
    assert found.then == "It takes at least 3 more prompts compared by people."
    assert "43% of 7 prompts" in candidate_headline.headline_card(found)
    ahead, _ = verdict([1.0, 1.0, 0.0] * 5)
    assert ahead.then.startswith("It takes about ")
    assert ahead.then.endswith("more prompts compared by people (if they go on as they have).")
    even, _ = verdict([1.0, 0.0] * 8)
    assert even.then.startswith("It takes at most ")


@pytest.mark.parametrize(
    ("outcomes", "changed", "state", "saying"),
    [
        ([0.5] * 3, {"kl_per_token": 2.0}, "bad", "Past a limit: it should not serve."),
        ([1.0] * 20, {"kl_per_token": 2.0}, "bad", "People find it better than dpo-1, but it is past a limit."),
        ([0.5] * 3, {"identical_to_serving": True}, "", "It answers in the same words as dpo-1."),
        (
            [1.0] * 20,
            {"kl_per_token": None},
            "open",
            "People find it better than dpo-1, but not everything is known yet.",
        ),
        ([], {}, "open", "Nobody has compared it with dpo-1 yet."),
    ],
)  # fmt: skip
def test_a_limit_a_copy_and_what_is_not_known_are_told_apart(
    outcomes: list[float], changed: dict[str, Any], state: str, saying: str
) -> None:
    found, _ = verdict(outcomes, **changed)
    assert (found.state, found.saying) == (state, saying)


def test_what_was_compared_to_the_end_waits_for_nothing() -> None:
    found, decision = verdict([1.0, 0.0] * 8, Rule(people_least=10, people_most=16))
    assert decision.says == "reject"
    assert (found.state, found.saying, found.then) == ("open", "Not shown to be better than dpo-1.", "")
    assert given_up(decision, 8).says == "reject"


def test_skips_alone_are_no_comparison_by_people() -> None:
    skips = tuple(DecidedOutcome(prompt, 0.5, skipped=True) for prompt in range(12))
    findings = Findings(skips, **KEPT)
    found = candidate_headline.headline_of(findings, decide(Rule(), findings), "dpo-1", given=True)
    assert found.saying == "Nobody has compared it with dpo-1 yet."
    assert "People prefer" not in candidate_headline.headline_card(found)
    asked = replace(findings, judges=(judge([1.0] * 40),))
    decision = decide(WITH_JUDGE, asked)
    assert "No person has compared it" in candidate_headline.headline_of(asked, decision, "dpo-1", given=True).saying
    assert "No person has compared it" in gate_words.sentence(decision)
    assert "has not been compared" in gate_words.criterion_words(decision.weighed.people).why


WITH_JUDGE = Rule(judge_may_decide=True, judge_least=10, judge_most=40)


def judge(outcomes: Sequence[float], **changed: Any) -> JudgeFindings:
    """A trusted judge that says this, one prompt after the other."""
    each = tuple(DecidedOutcome(prompt, outcome, by="Ada") for prompt, outcome in enumerate(outcomes))
    said = JudgeFindings("Ada", each, Estimate(0.9, 0.85, 0.95, 99), length_controlled=Estimate(0.7, 0.6, 0.8, 40))
    return replace(said, **changed)


@pytest.mark.parametrize(
    ("people", "judges", "state", "saying"),
    [
        ([], [1.0] * 40, "good", "The judge Ada finds it better than dpo-1. No person has compared it."),
        ([1.0], [1.0] * 40, "good", "The judge Ada finds it better than dpo-1. People have not shown it."),
        ([], [0.0] * 40, "bad", "The judge Ada finds it worse than dpo-1."),
        ([], [0.5] * 40, "open", "Not shown to be better than dpo-1."),
    ],
)
def test_what_a_judge_decides_is_said_to_be_a_judges(
    people: list[float], judges: list[float], state: str, saying: str
) -> None:
    found, _ = verdict(people, WITH_JUDGE, judges=(judge(judges),))
    assert (found.state, found.saying) == (state, saying)


def test_no_limit_is_named_where_only_a_judge_is_not_trusted_or_a_figure_is_missing_to_the_end() -> None:
    untrusted = found_after_giving_up([0.5], WITH_JUDGE, judges=(judge([1.0] * 40, trust=Estimate(0.5, 0.4, 0.6, 99)),))
    assert (untrusted.state, untrusted.saying) == ("open", "Not shown to be better than dpo-1.")
    unmeasured = found_after_giving_up([1.0] * 20, None, kl_per_token=None)
    assert unmeasured.saying == "People find it better than dpo-1, but not everything could be measured."
    by_judge = found_after_giving_up([], WITH_JUDGE, judges=(judge([1.0] * 40),), kl_per_token=None)
    assert by_judge.saying == "The judge Ada finds it better than dpo-1, but not everything could be measured."


def found_after_giving_up(outcomes: Sequence[float], rule: Rule | None, **changed: Any) -> Headline:
    """What is said once no more checks are made."""
    findings, decision = weighed(outcomes, rule, **changed)
    assert decision.says == "not enough evidence"
    return candidate_headline.headline_of(findings, given_up(decision, 8), "dpo-1", given=True)


def test_where_nobody_was_heard_that_is_said() -> None:
    findings, decision = weighed([])
    said = candidate_headline.headline_of(findings, replace(decision, unheard=True), "dpo-1", given=True)
    assert said.saying == "Nobody has compared it with dpo-1 yet."
    assert said.then.startswith("Nobody has been heard: what people were given was skipped,")


def test_comparisons_that_nobody_is_given_are_not_promised() -> None:
    findings, decision = weighed([1.0])
    assert (
        "Annotators are not given" not in candidate_headline.headline_of(findings, decision, "dpo-1", given=True).then
    )
    then = candidate_headline.headline_of(findings, decision, "dpo-1", given=False).then
    assert "more prompts compared by people. Annotators are not given these comparisons: on the Project tab" in then
    found, decided = weighed([1.0] * 20)
    assert candidate_headline.headline_of(found, decided, "dpo-1", given=False).then == ""


def test_without_a_check_that_is_said_whatever_people_say() -> None:
    found, _ = verdict([1.0] * 20)
    waits = "It waits for its check (job 3, first in the queue)."
    for stands, saying in ((waits, waits), ("", "It has not been checked yet.")):
        unchecked = candidate_headline.unchecked(found, stands)
        assert (unchecked.state, unchecked.saying, unchecked.then) == ("", saying, "")
    other = candidate_headline.unchecked(found, "", "dpo-1")
    assert other.saying == "It has not been checked against dpo-1 yet.", "it was checked against another"


def test_a_name_is_text() -> None:
    card = candidate_headline.headline_card(Headline("open", "Not better than <b>x</b>.", None), ["<i>more</i>"])
    assert "&lt;b&gt;x" in card
    assert "&lt;i&gt;more" in card
