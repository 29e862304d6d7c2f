"""Whether a candidate is better than what serves, in one line with its interval, and what would tell. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from annotation.metrics.intervals_and_bias import Estimate
from annotation.translation import N_, _, ngettext
from annotation.ui.charts import interval_bar
from annotation.ui.formatting import percent, percent_span
from annotation.ui.markup import class_of, escape, paragraph
from rlhf.evaluation import gate_words
from rlhf.evaluation.gate import EvidenceSource, Findings, GateDecision

HeadlineState = Literal["good", "bad", "open", ""]


@dataclass(frozen=True)
class Headline:
    state: HeadlineState
    """Its direction: found better, found worse or past a limit, not told yet, or nothing to tell."""
    saying: str
    """What was found, as a sentence."""
    found: Estimate | None
    """The share of prompts on which people prefer it, with the interval that decides."""
    then: str = ""
    """What would tell, as a sentence."""
    unasked: int = 0
    """Of these prompts those that nobody had to compare."""


NOT_GIVEN = N_(
    "Annotators are not given these comparisons: on the Project tab the share “Candidate against serving” is 0%."
)


def headline_of(findings: Findings, decision: GateDecision, against: str, given: bool) -> Headline:
    """What the comparisons and the rule's limits say of a candidate against another policy.

    `given`: whether annotators are given comparisons of candidates.
    """
    people = decision.weighed.people
    state, saying = direction(findings, decision)
    named = saying.format(against=against, judge=decision.source.judge)
    tells = decision.says == "not enough evidence" and decision.more is not None and people.more
    then = gate_words.needed(people) if tells else ""
    then = f"{_(gate_words.UNHEARD)} {then}" if decision.unheard else then
    then = then if given or not then else f"{then} {_(NOT_GIVEN)}"
    return Headline(state=state, saying=named, found=people.found, then=then, unasked=people.unasked)


def direction(findings: Findings, decision: GateDecision) -> tuple[HeadlineState, str]:
    """The direction and the sentence, with names left out. What only a judge finds is never said of people."""
    people, judge = decision.weighed.people, decision.source.judge
    waits = decision.says == "not enough evidence"
    if findings.identical_to_serving:
        return "", _("It answers in the same words as {against}.")
    if decision.reason == "worse":
        by_judge = _("The judge {judge} finds it worse than {against}.")
        return "bad", _("Worse than {against}.") if judge is None else by_judge
    if decision.reason == "past-a-limit":
        better = _("People find it better than {against}, but it is past a limit.")
        return "bad", better if people.standing == "better" else _("Past a limit: it should not serve.")
    if decision.reason == "better":
        return "good", _("Better than {against}.") if judge is None else better_by_judge(people)
    if decision.reason == "unmeasured":
        return "open", better_as_far_as_known(decision)
    if not waits:
        return "open", _("Not shown to be better than {against}.")
    if people.found is None and not any(one.outcomes for one in findings.judges):
        return "open", _("Nobody has compared it with {against} yet.")
    return "open", _("Not shown to be better than {against} yet.")


def better_by_judge(people: EvidenceSource) -> str:
    """That a judge decided, and what people have to do with it."""
    if people.found is None:
        return _("The judge {judge} finds it better than {against}. No person has compared it.")
    return _("The judge {judge} finds it better than {against}. People have not shown it.")


def better_as_far_as_known(decision: GateDecision) -> str:
    """That something was not measured of what is found better; whether that is waited for."""
    waits, by_people = decision.says == "not enough evidence", decision.source.judge is None
    return {
        (True, True): _("People find it better than {against}, but not everything is known yet."),
        (True, False): _("The judge {judge} finds it better than {against}, but not everything is known yet."),
        (False, True): _("People find it better than {against}, but not everything could be measured."),
        (False, False): _("The judge {judge} finds it better than {against}, but not everything could be measured."),
    }[waits, by_people]


def unchecked(headline: Headline, stands: str, elsewhere: str = "") -> Headline:
    """Of a candidate without a check that counts, whatever people say of it: how one `stands`, or that there is none.

    `elsewhere` is the policy that it was to be checked against, where it was checked against another.
    """
    missing = _("It has not been checked against {against} yet.") if elsewhere else _("It has not been checked yet.")
    return replace(headline, state="", saying=stands or missing.format(against=elsewhere), then="")


def score(headline: Headline) -> str:
    """On how many of the prompts that count it won, as a sentence; empty without any."""
    found, unasked = headline.found, headline.unasked
    if found is None:
        return ""
    said = ngettext(
        "People prefer it on {value} of {n} prompt ({span}).",
        "People prefer it on {value} of {n} prompts ({span}).",
        found.n,
    )
    if unasked:
        said = ngettext(
            "It won {value} of {n} prompt ({span}): people compared {asked}; on {unasked} one answer was empty, or "
            "both were the same.",
            "It won {value} of {n} prompts ({span}): people compared {asked}; on {unasked} one answer was empty, or "
            "both were the same.",
            found.n,
        )
    span = percent_span(found.low, found.high)
    return said.format(value=percent(found.value), n=found.n, span=span, asked=found.n - unasked, unasked=unasked)


def headline_card(headline: Headline, more: Sequence[str] = ()) -> str:
    """What was found, in a line, large and in its colour, the interval as a bar, what would tell, and more."""
    said = score(headline)
    ends = (_("worse"), _("even"), _("better"))
    bar = "" if headline.found is None else interval_bar(headline.found, said, ends)
    sentences = "".join(paragraph(sentence) for sentence in (headline.then, *more) if sentence)
    style = class_of(" ".join(filter(None, ("verdict", headline.state))))
    line = f"{escape(headline.saying)} <span>{escape(said)}</span>" if said else escape(headline.saying)
    return f'<section{style}><p class="saying" role="status">{line}</p>{bar}{sentences}</section>'
