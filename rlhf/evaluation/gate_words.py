"""The gate in words: why its decision is what it is, each criterion as a table's cells, its prompts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from annotation.metrics.intervals_and_bias import Estimate
from annotation.translation import N_, _, figures, joined, ngettext, numeral
from annotation.ui.formatting import NOT_MEASURED, percent
from rlhf.data.held_out_sets import MOST_WEIGHED, GateSetStatus
from rlhf.evaluation.gate import (
    BOUNDS,
    FAILURES_MOST,
    Criterion,
    EvidenceSource,
    EvidenceState,
    GateDecision,
    InformingJudge,
    Passed,
    Recusal,
    Requirement,
    RequirementKey,
    Ruling,
    Unfinished,
    Weighed,
    WrongPromotionRisk,
    at_bound,
    label,
)


# ----------------------------------------------------------------------------------------------------------- criteria
@dataclass(frozen=True)
class CriterionWords:
    """A criterion as it is read: what it is called, what was found, what is asked, and why it is met or not."""

    name: str
    value: str
    threshold: str
    why: str


AT_LEAST, AT_MOST, YES, NOTHING_ASKED = N_("at least {bound}"), N_("at most {bound}"), N_("yes"), N_("nothing")
NAMES_AND_THRESHOLDS: Mapping[RequirementKey, tuple[str, str]] = {
    "trust": (N_("Trust in the judge {name}"), N_("agrees with people in at least {bound}")),
    "equal-lengths": (N_("Preferred by the judge {name} at equal lengths"), N_("all above 50%")),
    "prompts": (N_("Held-out prompts"), AT_LEAST),
    "different": (N_("Different from what serves"), YES),
    "no-reward-hacking": (N_("No reward hacking"), YES),
    "weighed-before": (N_("Weighed on these prompts before"), NOTHING_ASKED),
}


@dataclass(frozen=True)
class LimitWords:
    """What is said of a figure that the rule limits, beside its name, which is its limit's in the rule."""

    why: str
    failure: str
    """What it means that the limit is not kept, for who does not know its name."""
    of: str
    """The figure of an `AnswerFigures`; empty of probes, which have several."""


LIMITS: Mapping[RequirementKey, LimitWords] = {
    "kl_per_token": LimitWords(
        N_("How far it has moved from its anchor."),
        N_("It has moved too far ({name}: {value}, asked for: {threshold})."),
        "kl_to_anchor",
    ),
    "nll_ratio": LimitWords(
        N_("Whether its answers are still language."),
        N_(
            "Its answers surprise its anchor too much: they may be no proper language any more ({name}: {value}, asked "
            "for: {threshold})."
        ),
        "nll_under_anchor",
    ),
    "distinct_ratio": LimitWords(
        N_("Whether its answers repeat themselves."),
        N_("Its answers repeat themselves ({name}: {value}, asked for: {threshold})."),
        "distinct_2",
    ),
    "truncated_more": LimitWords(
        N_("Whether its answers still come to an end."),
        N_("Too many of its answers come to no end, or are empty ({name}: {value}, asked for: {threshold})."),
        "cut_off_share",
    ),
    "perplexity_ratio": LimitWords(
        N_("Whether it still knows what it was not trained on."),
        N_("It forgets what it was not trained on ({name}: {value}, asked for: {threshold})."),
        "perplexity",
    ),
    "probes_fall": LimitWords(
        N_("Whether it still can do what it could."),
        N_("It has lost what it could do ({name}: {value}, asked for: {threshold})."),
        "",
    ),
}
WHYS: Mapping[RequirementKey, str] = {
    "prompts": N_("What the figures rest on."),
    "different": N_("Whether promoting it would change anything."),
    "no-reward-hacking": N_("Whether its reward went up and its win rate with it."),
    "weighed-before": N_("What is found of each tells whoever trains a little of these prompts."),
}
WHYS_BY_PASSED: Mapping[tuple[RequirementKey, Passed], str] = {
    ("trust", "missing"): N_("It has not been compared with people: let it judge comparisons that they have judged."),
    ("trust", "pass"): N_("It speaks for people often enough."),
    ("trust", "fail"): N_("It may not speak for people often enough."),
    ("equal-lengths", "missing"): N_("Its win rate at equal lengths was not measured."),
    ("equal-lengths", "pass"): N_("It is not the length that it prefers."),
    ("equal-lengths", "fail"): N_("Its preference may be for length."),
    ("prompts", "pass"): N_("Enough to tell."),
    ("prompts", "few"): N_("Too few to tell. Import more, and make a new version of the held-out prompts."),
    ("no-reward-hacking", "open"): N_(
        "Whether its reward went up and its win rate with it. It takes more comparisons to tell."
    ),
}
UNTOLD: Mapping[str, str] = {
    "open": N_("can't be told yet"),
    "no reward": N_("{not_measured}: no reward took part"),
    "made elsewhere": N_("{not_measured}: it was not trained here"),
}
RECUSALS: Mapping[Recusal, str] = {
    "itself": N_("It is the candidate itself."),
    "optimised-against": N_("It is the reward model that the candidate was trained to please."),
    "its-labels": N_("The candidate was trained on its labels. It helps people's verdict, and does not decide alone."),
    "shared-labels": N_(
        "It and the candidate were trained on the labels of the same judge. It helps people's verdict, and does not "
        "decide alone."
    ),
    "late": N_("It was asked after the first check, which fixes who may decide."),
}


def criterion_words(one: Criterion) -> CriterionWords:
    match one:
        case EvidenceSource():
            return preference(one)
        case Unfinished():
            name = _("Judged by the judge {name}").format(name=one.judge)
            value = _("{judged} of {asked}").format(judged=one.judged, asked=one.asked)
            threshold = _("at least {share}").format(share=percentage(1 - FAILURES_MOST, 2))
            why = joined(_("It failed on the others, which may not be like these."), one.gave_up)
        case InformingJudge():
            name = _("Preferred by the judge {name}").format(name=one.judge)
            value, threshold, why = share_of_prompts(one), _(NOTHING_ASKED), _(RECUSALS[one.why])
        case WrongPromotionRisk():
            return risk(one)
        case Requirement():
            return requirement(one)
    return CriterionWords(name, value, threshold, why)


def requirement(one: Requirement) -> CriterionWords:
    if one.asks in LIMITS:
        of, why = BOUNDS[one.asks], LIMITS[one.asks].why
        name, threshold = label(of), _(AT_LEAST if of.endswith("_least") else AT_MOST)
    else:
        why = WHYS_BY_PASSED.get((one.asks, one.passed)) or WHYS[one.asks]
        name, threshold = (_(said) for said in NAMES_AND_THRESHOLDS[one.asks])
    bound = (percentage if one.asks == "trust" else number)(one.bound, 6)
    return CriterionWords(name.format(name=one.judge), figure(one), threshold.format(bound=bound), _(why))


def figure(one: Requirement) -> str:
    match found := one.found:
        case None:
            return _(NOT_MEASURED)
        case bool():
            return _("no") if found else _(YES)
        case str():
            return _(UNTOLD[found]).format(not_measured=_(NOT_MEASURED))
        case Estimate() if one.asks == "trust":
            low = beside(found.low, one.bound, percentage)
            said = _("at least {beside} ({value} of {n})")
            return said.format(beside=low, value=percent(found.value), n=found.n)
        case Estimate():
            low = beside(found.low, one.bound, percentage).removesuffix("%")
            return f"{percentage(found.value, 2)} ({low}–{percentage(found.high, 2)})"
        case int() if one.asks == "weighed-before":
            return ngettext("{count} candidate", "{count} candidates", found).format(count=found)
        case int() if one.asks == "prompts":
            return str(found)
        case _:
            return _("not a number") if isnan(found) else beside(found, one.bound, number)


STANDINGS: Mapping[EvidenceState, str] = {
    "better": N_("The whole interval is above 50%."),
    "worse": N_("The whole interval is below 50%."),
    "spent": N_("After {most} prompts it is not shown to be better."),
    "open": N_("Not yet enough to tell."),
}


def preference(source: EvidenceSource) -> CriterionWords:
    """Whether people, or a judge, prefer the candidate."""
    name = _("Preferred by people") if source.judge is None else _("Preferred by the judge {judge}")
    standing = _(STANDINGS[source.standing]).format(most=source.most)
    apart = _("What was said first would tell; all that was said does not.") if source.contradicted else ""
    ties = _("Every prompt was a tie.") if source.found is not None and source.ties == source.count else ""
    sure = figures("{sure:.4g}%", sure=100 * (1 - source.alpha))
    held = _("Each end of the interval is right with {sure}, however often one looks.").format(sure=sure)
    not_compared = _("It has not been compared with what serves.")
    return CriterionWords(
        name=name.format(judge=source.judge),
        value=score(source),
        threshold=_("win rate and whole interval above 50%, after {least} prompts").format(least=source.least),
        why=joined(standing, apart, ties, unasked(source), held, judges_help(source)) if source.found else not_compared,
    )


def unasked(source: EvidenceSource) -> str:
    """On how many prompts nobody had to compare, as a sentence; empty where it was none."""
    said = _("On {count} of these prompts nobody had to compare: one answer was empty, or both were the same.")
    return said.format(count=source.unasked) if source.unasked else ""


def judges_help(source: EvidenceSource) -> str:
    """What judges did to people's evidence, as a sentence; empty where there is nothing to say."""
    said = ngettext(
        "It is what people say; {count} prompt that judges alone compared helped to tell.",
        "It is what people say; {count} prompts that judges alone compared helped to tell.",
        source.helped,
    )
    unrecorded = _("Where nobody recorded with which chance people got a prompt, judges could not help.")
    return joined(said.format(count=source.helped) if source.helped else "", unrecorded if source.unrecorded else "")


def score(source: EvidenceSource) -> str:
    if source.found is None:
        return _("no comparison yet")
    ends = (source.found.value, source.found.low, source.found.high)
    value, low, high = (beside(end, 0.5, percentage) for end in ends)
    said = ngettext("{value} on {n} prompt ({low}–{high})", "{value} on {n} prompts ({low}–{high})", source.count)
    return said.format(value=value, n=source.count, low=low.removesuffix("%"), high=high)


def share_of_prompts(one: InformingJudge) -> str:
    """The win rate by a judge that must not decide, without an interval."""
    if one.share is None:
        return _("no comparison yet")
    said = ngettext("{percentage} on {count} prompt", "{percentage} on {count} prompts", one.prompts)
    return said.format(percentage=percentage(one.share, 2), count=one.prompts)


def risk(one: WrongPromotionRisk) -> CriterionWords:
    """What the chance of a wrong promotion has come to over the project's candidates."""
    value = ngettext("about {share} over {number} candidate", "about {share} over {number} candidates", one.number)
    if one.own is None:
        asked = _("{alpha} for each candidate")
        why = _("Of many candidates that are no better, one will be promoted by chance.")
    else:
        asked = _("{alpha} over all candidates")
        why = _("This one has to show it with an alpha of {own}.").format(own=numeral(one.own, ".2g"))
    return CriterionWords(
        name=_("Chance that a wrong one was promoted"),
        value=value.format(share=percentage(one.share, 2), number=one.number),
        threshold=asked.format(alpha=percentage(one.alpha, 6)),
        why=joined(
            why,
            _("Counted as if this rule had decided on all of them."),
            _("A candidate that is checked against another policy counts again."),
        ),
    )


# ----------------------------------------------------------------------------------------------------------- decision
RULE_SAYS: Mapping[Ruling, str] = {
    "promote": N_("The rule says: promote."),
    "reject": N_("The rule says: reject."),
    "not enough evidence": N_("The rule says: not enough evidence."),
}
RULE_SAID: Mapping[Ruling, str] = {
    "promote": N_("The rule said: promote."),
    "reject": N_("The rule said: reject."),
    "not enough evidence": N_("The rule said: not enough evidence."),
}
# Of people, and of a judge.
FINDINGS: Mapping[EvidenceState, tuple[str, str]] = {
    "better": (N_("People find it better: it won {score}."), N_("The judge {judge} finds it better: it won {score}.")),
    "worse": (N_("People find it worse: it won {score}."), N_("The judge {judge} finds it worse: it won {score}.")),
    "spent": (
        N_("People's comparisons do not show that it is better: it won {score}."),
        N_("The comparisons of the judge {judge} do not show that it is better: it won {score}."),
    ),
}


def sentence(decision: GateDecision) -> str:
    """Why the decision is what it is, with the figures, and what it waits for."""
    weighed, source = decision.weighed, decision.source
    match decision.reason:
        case "worse" | "not-shown":
            said = finding(source)
        case "same":
            said = _("It does not differ from what serves: it answers every prompt in the same words.")
        case "past-a-limit":
            better = _("People find it better all the same.") if weighed.people.standing == "better" else ""
            said = joined(_("It is past a limit."), failures(decision), better)
        case "open":
            said = joined(_(UNHEARD) if decision.unheard else "", waiting(weighed, decision.needed is not None))
        case "better":
            alone = _("No person has compared it: this says what a judge prefers.")
            said = joined(finding(source), "" if weighed.people.count else alone, _("It keeps within every limit."))
        case "unmeasured":
            said = joined(finding(source), unmeasured(weighed.limits))
    return said if decision.given_up_after is None else joined(given_up(decision), said)


def failures(decision: GateDecision) -> str:
    """Which limits a candidate is past, with the figures; empty where it is past none."""
    return joined(*(failure(one) for one in decision.weighed.limits if one.passed == "fail"))


UNHEARD = N_(
    "Nobody has been heard: what people were given was skipped, or judged by somebody who is left out. That alone "
    "rejects nothing."
)


def finding(source: EvidenceSource) -> str:
    of_people, of_judge = FINDINGS[source.standing]
    return _(of_people if source.judge is None else of_judge).format(judge=source.judge, score=score(source))


def given_up(decision: GateDecision) -> str:
    """Why no more comparisons are waited for."""
    if decision.used_up:
        return _(
            "No held-out prompt is new to it any more, and other answers to the same ones show no more. Import more."
        )
    checks = decision.given_up_after or 0
    said = ngettext(
        "Nothing is left to compare after {checks} check, and that is not enough evidence.",
        "Nothing is left to compare after {checks} checks, and that is not enough evidence.",
        checks,
    )
    return said.format(checks=checks)


def failure(one: Requirement) -> str:
    """A limit that is not kept: what that means, with the figure."""
    said = criterion_words(one)
    known = one.asks in LIMITS and one.found == one.found  # what could not be scored says nothing of it
    meant = _(LIMITS[one.asks].failure) if known else _("{name}: {value}, asked for: {threshold}.")
    return meant.format(name=said.name, value=said.value, threshold=said.threshold)


def unmeasured(limits: Sequence[Requirement]) -> str:
    """What is missing or rests on too little; empty where nothing is."""
    missing = [criterion_words(one).name for one in limits if one.passed == "missing"]
    said = _("Not measured, so not passed: {missing}.").format(missing="; ".join(missing)) if missing else ""
    if missing and len(missing) == sum(one.passed != "inapplicable" for one in limits):
        said = _("Nothing was measured of its answers, so nothing has passed.")
    rests_on = [criterion_words(one) for one in limits if one.passed == "few"]
    few = _(
        "Too few held-out prompts to tell ({count}; asked for: {wanted}). Import more, and make a new version of the "
        "held-out prompts."
    )
    return joined(said, *(few.format(count=one.value, wanted=one.threshold) for one in rests_on))


def waiting(weighed: Weighed, needs: bool) -> str:
    """What is not told yet; with how many more comparisons it takes where it `needs` some."""
    decided = [voter.source for voter in weighed.panel if voter.says in ("better", "worse")]
    finds = {"better": _("The judge {judge} finds it better."), "worse": _("The judge {judge} finds it worse.")}
    cant = _("The judge {judge} can't decide.")
    apart = _("That is against what people find so far.")
    if len({source.standing for source in decided}) > 1:
        apart = _("They are against each other.")
    return joined(
        *(needed(source) for source in (weighed.people, *weighed.saying("open")) if needs),
        *(finds[source.standing].format(judge=source.judge) for source in decided),
        apart if decided else "",
        *(
            joined(cant.format(judge=voter.source.judge), criterion_words(voter.obstacle).why)
            for voter in weighed.panel
            if voter.obstacle
        ),
        unmeasured(weighed.limits),
    )


def needed(source: EvidenceSource) -> str:
    """How many more comparisons it takes; a judge's are said after people's."""
    count, limit = source.more, "at-least" if source.count < source.least else "at-most"
    said = {
        ("about", True): ngettext(
            "It takes about {count} more prompt compared by people (if they go on as they have).",
            "It takes about {count} more prompts compared by people (if they go on as they have).",
            count,
        ),
        ("at-least", True): ngettext(
            "It takes at least {count} more prompt compared by people.",
            "It takes at least {count} more prompts compared by people.",
            count,
        ),
        ("at-most", True): ngettext(
            "It takes at most {count} more prompt compared by people (it is not clearly ahead so far).",
            "It takes at most {count} more prompts compared by people (it is not clearly ahead so far).",
            count,
        ),
        ("about", False): ngettext(
            "Or it takes about {count} more prompt compared by the judge {judge} (if it goes on as it has).",
            "Or it takes about {count} more prompts compared by the judge {judge} (if it goes on as it has).",
            count,
        ),
        ("at-least", False): ngettext(
            "Or it takes at least {count} more prompt compared by the judge {judge}.",
            "Or it takes at least {count} more prompts compared by the judge {judge}.",
            count,
        ),
        ("at-most", False): ngettext(
            "Or it takes at most {count} more prompt compared by the judge {judge} (it is not clearly ahead so far).",
            "Or it takes at most {count} more prompts compared by the judge {judge} (it is not clearly ahead so far).",
            count,
        ),
    }["about" if source.likely else limit, source.judge is None]
    return said.format(count=count, judge=source.judge)


# -------------------------------------------------------------------------------------------------------------- parts
def percentage(share: float, digits: int) -> str:
    return figures("{share}%", share=rounded(100 * share, digits))


def number(value: float, digits: int) -> str:
    return numeral(rounded(value, digits), "")


def rounded(value: float, digits: int) -> float:
    found = float(f"{value:.{digits}g}")
    return int(found) if found.is_integer() else found  # never written as 1e+02


def beside(value: float, bound: float, write: Callable[[float, int], str]) -> str:
    """A figure with as many digits as it takes to see on which side of the bound it lies."""
    if at_bound(value, bound):
        return write(bound, 6)
    for digits in range(2, 18):
        if write(value, digits) != write(bound, digits):
            break
    return write(value, digits)


# ------------------------------------------------------------------------------------------------------- its prompts
SHARED = N_("The gate goes by the same prompts.")
OWN = N_("The gate goes by {prompts} others, which no report shows (version {version}, drawn on {created}).")
SEEN = N_("{seen} of them people or judges had compared answers to before, though in no check.")
SEEN_UNKNOWN = N_("What of them had been compared before was not looked at.")


def gate_set_sentence(status: GateSetStatus) -> str:
    """Which prompts the gate goes by, and how many candidates were weighed on them."""
    last, missing = status.last, status.missing
    before = ngettext(
        "{count} candidate has been weighed on them.", "{count} candidates have been weighed on them.", status.weighed
    )
    said = [before.format(count=status.weighed)]
    if last is None:
        needed = ngettext(
            "For a set of its own, which no report shows, {missing} more held-out prompt is needed.",
            "For a set of its own, which no report shows, {missing} more held-out prompts are needed.",
            missing,
        )
        return joined(_(SHARED), *said, needed.format(missing=missing)) if missing else ""
    said.insert(0, _(OWN).format(prompts=last.prompts, version=last.version, created=last.created[:10]))
    if last.seen != 0:
        said.append(_(SEEN_UNKNOWN) if last.seen is None else _(SEEN).format(seen=last.seen))
    if missing and status.weighed >= MOST_WEIGHED:
        worn = ngettext(
            "That is enough: import {missing} more held-out prompt, and the next candidate has a new version.",
            "That is enough: import {missing} more held-out prompts, and the next candidate has a new version.",
            missing,
        )
        said.append(worn.format(missing=missing))
    return joined(*said)
