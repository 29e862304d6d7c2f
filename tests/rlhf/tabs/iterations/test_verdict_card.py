"""Whether it got better, by people's outcomes, by limits, while nothing is known, and what would tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from annotation.metrics.evidence import DecidedOutcome
from rlhf.evaluation.gate import Findings, GateDecision, Rule, decide, given_up
from rlhf.tabs.iterations import verdict_card
from rlhf.tabs.iterations.verdict_card import Headline

KEPT: dict[str, Any] = {
    "prompts": 60, "kl_per_token": 0.1, "nll_ratio": 1.0, "distinct_ratio": 1.0, "truncated_more": 0.0,
    "perplexity_ratio": 1.0, "probes_fall": 0.0, "reward_hacking": "no reward", "identical_to_serving": False,
}  # fmt: skip


def verdict(outcomes: Sequence[float], rule: Rule | None = None, **changed: Any) -> tuple[Headline, GateDecision]:
    """What is said of a candidate of whom people said this, one prompt after the other."""
    rule = rule or Rule()
    people = tuple(DecidedOutcome(prompt, outcome) for prompt, outcome in enumerate(outcomes))
    findings = Findings(people, **{**KEPT, **changed})
    decision = decide(rule, findings)
    return verdict_card.verdict_of(rule, findings, decision, "dpo-1"), decision


def test_what_people_prefer_is_better_and_says_so_in_one_line() -> None:
    found, decision = verdict([1.0] * 20)
    assert decision.verdict == "promote"
    assert (found.state, found.saying, found.then) == ("good", "Better than dpo-1.", "")
    card = verdict_card.verdict_card(found)
    assert "People prefer it on 100% of 20 prompts (" in card
    assert 'class="evidence good"' in card
    assert card.count("<svg") == 1


def test_what_people_dislike_is_worse() -> None:
    found, _ = verdict([0.0] * 20)
    assert (found.state, found.saying) == ("bad", "Worse than dpo-1.")
    assert 'class="evidence bad"' in verdict_card.verdict_card(found)


def test_while_nothing_is_shown_it_says_what_would_tell() -> None:
    found, _ = verdict([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    assert (found.state, found.saying) == ("open", "Not shown to be better than dpo-1 yet.")
    assert found.then == "It takes at least 3 more prompts compared by people."
    assert "43% of 7 prompts" in verdict_card.verdict_card(found)
    ahead, _ = verdict([1.0, 1.0, 0.0] * 5)
    assert ahead.then.startswith("About ")
    assert ahead.then.endswith("more prompts compared by people will tell, if it goes on like this.")
    even, _ = verdict([1.0, 0.0] * 8)
    assert even.then.startswith("At most ")


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
    assert decision.verdict == "reject"
    assert (found.state, found.saying, found.then) == ("open", "Not shown to be better than dpo-1.", "")
    assert given_up(decision, 8).verdict == "reject"


def test_without_a_check_that_is_said_whatever_people_say() -> None:
    found, _ = verdict([1.0] * 20)
    for active, saying in ((True, "It is being checked."), (False, "It has not been checked yet.")):
        unchecked = verdict_card.unchecked(found, active)
        assert (unchecked.state, unchecked.saying, unchecked.then) == ("", saying, "")
    other = verdict_card.unchecked(found, False, "dpo-1")
    assert other.saying == "It has not been checked against dpo-1 yet.", "it was checked against another"


def test_a_name_is_text() -> None:
    card = verdict_card.verdict_card(Headline("open", "Not better than <b>x</b>.", None), ["<i>more</i>"])
    assert "&lt;b&gt;x" in card
    assert "&lt;i&gt;more" in card
