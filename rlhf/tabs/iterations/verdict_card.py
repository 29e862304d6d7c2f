"""Whether a candidate is better than what serves, in one line with its interval, and what would tell. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from annotation.metrics.intervals_and_bias import Estimate
from annotation.translation import _, ngettext
from annotation.ui.charts import interval_bar
from annotation.ui.formatting import percent, percent_span
from annotation.ui.markup import class_of, escape, paragraph
from rlhf.evaluation.gate import EvidenceSource, Findings, GateDecision, Rule, alphas, weigh_people

HeadlineState = Literal["good", "bad", "open", ""]


@dataclass(frozen=True)
class Headline:
    """What is to be said of a candidate first."""

    state: HeadlineState
    """Its direction: found better, found worse or past a limit, not told yet, or nothing to tell."""
    saying: str
    """The verdict, as a sentence."""
    found: Estimate | None
    """The share of prompts on which people prefer it, with the interval that decides."""
    then: str = ""
    """What would tell, as a sentence."""


def verdict_of(rule: Rule, findings: Findings, decision: GateDecision, against: str) -> Headline:
    """What the comparisons and the rule's limits say of a candidate against another policy."""
    alpha, _judges = alphas(rule, len(findings.panel), findings.number)
    people = weigh_people(rule, findings, alpha)
    failed = [one for one in decision.criteria if one.verdict == "fail"]
    if findings.identical_to_serving:
        return Headline("", _("It answers in the same words as {against}.").format(against=against), people.found)
    if people.standing == "worse":
        return Headline("bad", _("Worse than {against}.").format(against=against), people.found)
    if decision.verdict == "promote":
        return Headline("good", _("Better than {against}.").format(against=against), people.found)
    if decision.verdict == "reject" and failed and people.standing != "spent":
        saying = _("Past a limit: it should not serve.")
        if people.standing == "better":
            saying = _("People find it better than {against}, but it is past a limit.").format(against=against)
        return Headline("bad", saying, people.found)
    if decision.verdict == "reject":
        return Headline("open", _("Not shown to be better than {against}.").format(against=against), people.found)
    if people.found is None and not any(judge.outcomes for judge in findings.judges):
        saying = _("Nobody has compared it with {against} yet.").format(against=against)
        return Headline("open", saying, None, would_tell(people, decision))
    if people.standing == "better":
        saying = _("People find it better than {against}, but not everything is known yet.").format(against=against)
        return Headline("open", saying, people.found, would_tell(people, decision))
    saying = _("Not shown to be better than {against} yet.").format(against=against)
    return Headline("open", saying, people.found, would_tell(people, decision))


def unchecked(verdict: Headline, active: bool, elsewhere: str = "") -> Headline:
    """Of a candidate without a check that counts, whatever people say of it: that one is `active`, or is needed.

    `elsewhere` is the policy that it was to be checked against, where it was checked against another.
    """
    saying = _("It is being checked.") if active else _("It has not been checked yet.")
    if elsewhere and not active:
        saying = _("It has not been checked against {against} yet.").format(against=elsewhere)
    return replace(verdict, state="", saying=saying, then="")


def would_tell(people: EvidenceSource, decision: GateDecision) -> str:
    """How many more comparisons would tell, as far as comparisons can."""
    if decision.more is None or people.more == 0:
        return ""
    if people.likely:
        said = ngettext(
            "About {count} more prompt compared by people will tell, if it goes on like this.",
            "About {count} more prompts compared by people will tell, if it goes on like this.",
            people.more,
        )
    elif people.count < people.least:
        said = ngettext(
            "It takes at least {count} more prompt compared by people.",
            "It takes at least {count} more prompts compared by people.",
            people.more,
        )
    else:
        said = ngettext(
            "At most {count} more prompt compared by people will tell.",
            "At most {count} more prompts compared by people will tell.",
            people.more,
        )
    return said.format(count=people.more)


def score(found: Estimate | None) -> str:
    """How often people prefer it, in words; empty without a comparison."""
    if found is None:
        return ""
    said = ngettext(
        "People prefer it on {value} of {n} prompt ({span}).",
        "People prefer it on {value} of {n} prompts ({span}).",
        found.n,
    )
    return said.format(value=percent(found.value), n=found.n, span=percent_span(found.low, found.high))


def verdict_card(verdict: Headline, more: Sequence[str] = ()) -> str:
    """The verdict in one line, large and in its colour, the interval as a bar, what would tell, and more sentences."""
    said = score(verdict.found)
    bar = ""
    if verdict.found is not None:
        ends = "".join(f"<span>{escape(end)}</span>" for end in (_("worse"), _("even"), _("better")))
        shade = "good" if verdict.found.low > 0.5 else "bad" if verdict.found.high < 0.5 else "plain"
        drawn = interval_bar(verdict.found, said)
        bar = f'<div class="evidence {shade}">{drawn}<p class="ends" aria-hidden="true">{ends}</p></div>'
    sentences = "".join(paragraph(sentence) for sentence in (verdict.then, *more) if sentence)
    style = class_of(" ".join(filter(None, ("verdict", verdict.state))))
    line = f"{escape(verdict.saying)} <span>{escape(said)}</span>" if said else escape(verdict.saying)
    return f'<section{style}><p class="saying" role="status">{line}</p>{bar}{sentences}</section>'
