"""What people read of the gate's decisions: a sentence, and a row for each criterion."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from annotation.metrics.intervals_and_bias import Estimate
from rlhf.evaluation import gate_words
from rlhf.evaluation.gate import Findings, JudgeFindings, Recusal, Rule, decide, given_up
from rlhf.evaluation.gate_words import CriterionWords, criterion_words, sentence
from tests.rlhf.evaluation.test_gate import (
    ASKED,
    BETTER,
    FEW,
    FIGURES,
    MIXED,
    OPEN,
    SOUND,
    WITH_JUDGE,
    WORSE,
    each,
    found,
    helped,
    judge,
    outcomes,
)


def said(rule: Rule, findings: Findings) -> str:
    """Why it is decided so."""
    return sentence(decide(rule, findings))


def row(rule: Rule, findings: Findings, name: str) -> CriterionWords:
    """What is said of one criterion."""
    (one,) = (words for words in map(criterion_words, decide(rule, findings).criteria) if words.name == name)
    return one


# ----------------------------------------------------------------------------------------------------------- decision
PROMOTED, REJECTED = outcomes(60, 20), outcomes(20, 60)


@pytest.mark.parametrize(
    ("rule", "findings", "begins"),
    [
        (ASKED, found(BETTER), "People find it better: it won 69% on 65 prompts ("),
        (ASKED, found(WORSE), "People find it worse: it won 31% on 65 prompts ("),
        (WITH_JUDGE, found(WORSE, judge(outcomes(200, 10))), "People find it worse: it won 31% on 65 prompts ("),
        (ASKED, found(outcomes(105, 95)), "People's comparisons do not show that it is better: it won 52% on 200 "),
        (ASKED, helped(MIXED), "People find it better: it won "),
        (WITH_JUDGE, found(FEW, judge()), "The judge Ada finds it better: it won 69% on 65 prompts ("),
        (WITH_JUDGE, found(FEW, judge(WORSE)), "The judge Ada finds it worse: it won 31% on 65 prompts ("),
        (
            WITH_JUDGE,
            found(FEW, judge(outcomes(205, 195))),
            "The comparisons of the judge Ada do not show that it is better: it won 51% on 400 ",
        ),
        (ASKED, found(BETTER, reward_hacking=True), "It is past a limit. No reward hacking: no, asked for: yes."),
        (ASKED, found((), identical_to_serving=True), "It does not differ from what serves: it answers every "),
    ],
)
def test_a_decision_says_first_what_it_rests_on(rule: Rule, findings: Findings, begins: str) -> None:
    assert said(rule, findings).startswith(begins)


def test_what_no_person_has_compared_is_called_a_judges_promotion() -> None:
    assert said(WITH_JUDGE, found((), judge())).endswith(
        "No person has compared it: this says what a judge prefers. It keeps within every limit."
    )
    assert "No person" not in said(WITH_JUDGE, found(FEW, judge()))


def test_without_enough_evidence_the_number_that_is_missing_is_named() -> None:
    ahead = decide(ASKED, found(outcomes(20, 8)))
    assert sentence(ahead) == (
        f"It takes about {ahead.more} more prompts compared by people (if they go on as they have)."
    )
    assert said(ASKED, found(outcomes(15, 17))) == (
        "It takes at most 168 more prompts compared by people (it is not clearly ahead so far)."
    )
    assert said(ASKED, found()) == "It takes at least 10 more prompts compared by people."
    assert "1 more prompt compared by people" in said(ASKED, found(outcomes(100, 99)))
    shorter = decide(WITH_JUDGE, found(outcomes(11, 9), judge(outcomes(23, 8))))
    assert f"Or it takes about {shorter.more} more prompts compared by the judge Ada" in sentence(shorter)


@pytest.mark.parametrize(
    ("ada", "why"),
    [
        (judge(trust=None), "It has not been compared with people: let it judge comparisons that they have judged."),
        (judge(trust=Estimate(0.9, 0.59, 0.99, 10)), "It may not speak for people often enough."),
        (judge(WORSE, trust=Estimate(0.62, 0.5999, 0.64, 2000)), "It may not speak for people often enough."),
        (judge(length_controlled=None), "Its win rate at equal lengths was not measured."),
        (judge(length_controlled=Estimate(0.6, 0.5, 0.7, 60)), "Its preference may be for length."),
        (judge(left_open=40), "It failed on the others, which may not be like these."),
        (judge(left_open=40, gave_up="Gone."), "It failed on the others, which may not be like these. Gone."),
    ],
)  # fmt: skip
def test_why_a_judge_does_not_decide_is_said(ada: JudgeFindings, why: str) -> None:
    assert said(WITH_JUDGE, found(FEW, ada)).endswith(f" The judge Ada can't decide. {why}")


def test_what_judges_find_who_must_not_decide_by_it_is_said() -> None:
    against = said(WITH_JUDGE, found(outcomes(20, 25), judge()))
    assert against.endswith(" The judge Ada finds it better. That is against what people find so far.")
    apart = said(WITH_JUDGE, found(FEW, judge(PROMOTED), judge(REJECTED, name="Bob")))
    assert apart.endswith("The judge Ada finds it better. The judge Bob finds it worse. They are against each other.")
    spent = found(outcomes(6, 5), judge(outcomes(205, 195)))
    assert "Ada" not in said(WITH_JUDGE, spent), "it has nothing more to say"


def test_what_no_check_will_add_to_is_rejected_with_that_reason() -> None:
    waits = decide(ASKED, found(OPEN))
    ended = "Nothing is left to compare after 8 checks, and that is not enough evidence."
    assert sentence(given_up(waits, 8)) == ended, "no more comparisons are said to be needed of what is left"
    judged = decide(WITH_JUDGE, found(outcomes(20, 25), judge()))
    assert sentence(given_up(judged, 8)).startswith(f"{ended} The judge Ada finds it better. ")
    ended = "No held-out prompt is new to it any more, and other answers to the same ones show no more. Import more."
    assert sentence(given_up(waits, 8, used_up=True)) == ended
    unheard = sentence(replace(waits, unheard=True))
    assert unheard.startswith("Nobody has been heard: ")
    assert unheard.endswith(f" That alone rejects nothing. {sentence(waits)}")


# ------------------------------------------------------------------------------------------------------------- limits
NAMES = {
    "kl_per_token": "KL to its anchor, nats a token",
    "nll_ratio": "Surprise at its answers, times that at its anchor's",
    "distinct_ratio": "Distinct-2, ratio",
    "truncated_more": "Answers cut off, more than its anchor's",
    "perplexity_ratio": "Perplexity of the fixed text, ratio",
    "probes_fall": "Lost on the probes",
}
BOUNDS = {
    "kl_per_token": 0.5,
    "nll_ratio": 1.15,
    "distinct_ratio": 0.9,
    "truncated_more": 0.1,
    "perplexity_ratio": 1.15,
    "probes_fall": 0.02,
}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_criterions_verdict_agrees_with_its_number_and_its_threshold(figure: str) -> None:
    """Also at the threshold itself and beside it, where as many digits are shown as it takes to see the difference."""
    bound, least = BOUNDS[figure], figure == "distinct_ratio"
    noise = (math.nextafter(bound, -1), math.nextafter(bound, 9))
    for value in (bound, *noise, bound * (1 - 1e-8), bound * (1 + 1e-8), bound - 0.04, bound + 0.00004, bound + 3):
        decision = decide(ASKED, found(BETTER, **{figure: value}))
        (one,) = (one for one in decision.weighed.limits if one.asks == figure)
        words = criterion_words(one)
        assert words.name == NAMES[figure]
        side, asked = words.threshold.rsplit(" ", 1)
        assert side == ("at least" if least else "at most")
        shown, threshold = float(words.value), float(asked)
        assert threshold == bound
        assert (one.passed == "pass") == (shown >= threshold if least else shown <= threshold)
        assert decision.says == ("promote" if one.passed == "pass" else "reject")


@pytest.mark.parametrize("figure", FIGURES)
def test_what_is_past_a_limit_is_named_with_its_bound(figure: str) -> None:
    past = 0.5 if figure == "distinct_ratio" else 5.0
    read = said(ASKED, found(BETTER, **{figure: past}))
    begins, _, _ = gate_words.LIMITS[figure].failure.partition("{threshold}")
    assert read.startswith(f"It is past a limit. {begins.format(name=NAMES[figure], value=f'{past:.2g}')}")
    assert read.endswith("People find it better all the same.")
    assert row(ASKED, found(BETTER, **{figure: math.nan}), NAMES[figure]).value == "not a number"


@pytest.mark.parametrize("figure", [*FIGURES, "reward_hacking", "identical_to_serving"])
def test_what_was_not_measured_is_named(figure: str) -> None:
    for rule, people, judges in ((ASKED, BETTER, ()), (WITH_JUDGE, FEW, (judge(),)), (ASKED, OPEN, ())):
        decision = decide(rule, found(people, *judges, **{figure: None}))
        (missing,) = (criterion_words(one) for one in decision.criteria if one.passed == "missing")
        assert missing.value == "not measured"
        assert sentence(decision).endswith(f" Not measured, so not passed: {missing.name}.")
        assert "check it again" not in sentence(decision), "a check may be running: who asks the rows says what to do"


def test_where_nothing_was_measured_that_is_said_once() -> None:
    decision = decide(WITH_JUDGE, Findings())
    assert sentence(decision).endswith("Nothing was measured of its answers, so nothing has passed.")
    assert not any("so nothing" in criterion_words(one).why for one in decision.criteria)


def test_too_few_prompts_are_said_to_be_few_and_not_to_be_missing() -> None:
    few = found(BETTER, prompts=12)
    assert row(ASKED, few, "Held-out prompts").value == "12"
    assert row(ASKED, few, "Held-out prompts").why.startswith("Too few to tell. Import more")
    assert "Too few held-out prompts to tell (12; asked for: at least 60). Import more" in said(ASKED, few)
    assert "not measured" not in said(ASKED, few).lower()


def test_of_reward_hacking_it_is_said_why_it_can_not_be_told() -> None:
    for state, value in (("no reward", "no reward took part"), ("made elsewhere", "it was not trained here")):
        one = row(ASKED, found(BETTER, reward_hacking=state), "No reward hacking")
        assert one.value == f"not measured: {value}"
    untold = found(FEW, reward_hacking="open")
    assert row(WITH_JUDGE, untold, "No reward hacking").why.endswith("It takes more comparisons to tell.")


# ----------------------------------------------------------------------------------------------------- other criteria
NOTHING_FOUND = {
    "Preferred by people": (SOUND, "no comparison yet"),
    "Preferred by the judge Ada": (found((), judge(())), "no comparison yet"),
    "Trust in the judge Ada": (found((), judge(trust=None)), "not measured"),
    "Preferred by the judge Ada at equal lengths": (found((), judge(length_controlled=None)), "not measured"),
    "Held-out prompts": (found(prompts=None), "not measured"),
    "Different from what serves": (found(identical_to_serving=None), "not measured"),
    "No reward hacking": (found(reward_hacking=None), "not measured"),
    **{NAMES[figure]: (found(**{figure: None}), "not measured") for figure in FIGURES},
}


def test_of_each_criterion_without_anything_measured_it_is_said_that_it_was_not() -> None:
    """Neither yes nor no nor a number, and it never passes."""
    asked = [one for one in decide(WITH_JUDGE, found((), judge())).criteria if one.passed != "informs"]
    assert {criterion_words(one).name for one in asked} == set(NOTHING_FOUND)
    for name, (nothing, value) in NOTHING_FOUND.items():
        (one,) = (one for one in decide(WITH_JUDGE, nothing).criteria if criterion_words(one).name == name)
        assert (criterion_words(one).value, one.passed) == (value, "missing"), name
        found_so = ("interval is", "with 95%", "speaks for people often")
        assert not any(word in criterion_words(one).why for word in found_so), name


def test_how_many_prompts_and_ties_people_compared_is_said() -> None:
    assert " on 40 prompts (" in row(ASKED, helped(MIXED), "Preferred by people").value
    again = tuple(replace(one, prompt_id=one.prompt_id % 3) for one in each((1.0, 1.0, 0.5) * 4))
    assert " on 3 prompts (" in row(ASKED, replace(SOUND, people=again), "Preferred by people").value
    for count in (30, 200):
        assert "Every prompt was a tie." in row(ASKED, found((0.5,) * count), "Preferred by people").why


def test_prompts_that_nobody_had_to_compare_are_told_apart() -> None:
    people = tuple(replace(one, asked=one.prompt_id > 3) for one in each((1.0,) * 12))
    one = row(ASKED, replace(SOUND, people=people), "Preferred by people")
    assert " on 12 prompts (" in one.value
    assert "On 4 of these prompts nobody had to compare: one answer was empty, or both were the same." in one.why
    asked_later = (*people, replace(people[0], asked=True))
    assert "On 3 of these" in row(ASKED, replace(SOUND, people=asked_later), "Preferred by people").why
    assert "nobody had to" not in row(ASKED, found(BETTER), "Preferred by people").why


@pytest.mark.parametrize("first", [1.0, 0.0])
def test_where_all_that_was_said_speaks_against_what_is_bet_on_that_is_said(first: float) -> None:
    against = "What was said first would tell; all that was said does not."
    for number in (9, 20, 200):
        people = tuple(replace(one, shown=1 - first) for one in each((first,) * number))
        why = row(ASKED, replace(SOUND, people=people), "Preferred by people").why
        assert (against in why) == (number > ASKED.people_least)
    for people in (outcomes(60, 20), outcomes(20, 60), outcomes(11, 10)):
        assert against not in row(ASKED, found(people), "Preferred by people").why
    threshold = row(ASKED, found(BETTER), "Preferred by people").threshold
    assert threshold == "win rate and whole interval above 50%, after 10 prompts"


def test_what_judges_did_to_peoples_evidence_is_said() -> None:
    helps = "It is what people say; 80 prompts that judges alone compared helped to tell."
    for rule, findings in ((ASKED, helped(MIXED)), (WITH_JUDGE, helped(MIXED, informs="its-labels"))):
        assert row(rule, findings, "Preferred by people").why.endswith(helps)
    old = helped(MIXED)
    unknown = replace(old, people=tuple(replace(one, probability=None) for one in old.people))
    one, alone = row(ASKED, unknown, "Preferred by people"), row(ASKED, found(MIXED), "Preferred by people")
    assert one.why.endswith("Where nobody recorded with which chance people got a prompt, judges could not help.")
    assert one.value == alone.value
    # The rest of a check of an earlier version, then a new one.
    some = replace(old, people=(replace(old.people[0], prompt_id=999, probability=None), *old.people))
    both = row(ASKED, some, "Preferred by people").why
    assert "that judges alone compared helped to tell. Where nobody recorded" in both


def test_a_judge_that_failed_midway_has_a_row_that_says_so() -> None:
    one = row(WITH_JUDGE, found(FEW, judge(left_open=40)), "Judged by the judge Ada")
    assert (one.value, one.threshold) == ("65 of 105", "at least 90%")


@pytest.mark.parametrize(
    ("recusal", "why"),
    [
        ("itself", "It is the candidate itself."),
        ("optimised-against", "It is the reward model that the candidate was trained to please."),
        ("its-labels", "The candidate was trained on its labels. "),
        ("shared-labels", "It and the candidate were trained on the labels of the same judge. "),
        ("late", "It was asked after the first check, "),
    ],
)
def test_a_judge_that_informs_has_a_row_that_says_why(recusal: Recusal, why: str) -> None:
    aside = judge(outcomes(400, 0), name="Bob", informs=recusal)
    one = row(WITH_JUDGE, found(FEW, aside), "Preferred by the judge Bob")
    assert (one.value, one.threshold) == ("100% on 400 prompts", "nothing")
    assert one.why.startswith(why)


def test_what_the_chance_of_a_wrong_promotion_has_come_to_is_said() -> None:
    name = "Chance that a wrong one was promoted"
    one = row(ASKED, found(BETTER, number=20), name)
    assert (one.value, one.threshold) == ("about 64% over 20 candidates", "5% for each candidate")
    one = row(Rule(mode="automatic"), found(BETTER), name)
    assert (one.value, one.threshold) == ("about 2.2% over 1 candidate", "5% over all candidates")
    assert "an alpha of 0.022" in one.why
    for rule in (ASKED, Rule(mode="automatic")):
        counted = row(rule, found(BETTER, number=11), name)
        assert "at most" not in counted.value, "earlier ones were decided by the rule of then, which nobody keeps"
        assert "as if this rule had decided on all" in counted.why
