"""The gate: a written rule that says of what was measured of a candidate whether it may serve. Pure.

Promoting a candidate that is no better is the error to be bounded. Each prompt counts once, by what came of it when it
was first decided (`annotation.metrics.evidence`); these outcomes are bet on, as said in
`annotation.metrics.sequential_testing`: at most `alpha` of such candidates are ever promoted, however often the gate is
asked. "No better" is meant of prompts like those that were held out, of which they are a random part.

That one alpha is spent in total: where judges may decide too, people get half of it, and the judges that the first
check asked share the other half. A judge's part bounds the chance to promote what that judge itself would not prefer in
the long run; that it speaks for people rests on its trust card. Rejecting spends nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isclose, isnan
from typing import Annotated, Any, Literal, Protocol, cast

from annotated_types import Interval

from annotation.metrics.evidence import (
    CorrectedPrompts,
    DecidedOutcome,
    JudgePanel,
    by_prompt,
    corrected,
    share_for_people,
    win_rate,
)
from annotation.metrics.intervals_and_bias import Estimate
from annotation.metrics.sequential_testing import Stakes, anytime_mean, log_capitals, more_needed
from annotation.records import UserError
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui.formatting import NOT_MEASURED, percent
from annotation.validation import bare, from_form, hints_of, label_of, read
from rlhf.evaluation.gate_words import number, percentage

Mode = Literal["ask", "automatic", "never"]
Holds = Literal["mode", "project", "candidate"]
GateVerdict = Literal["promote", "reject", "not enough evidence"]
Passed = Literal["pass", "fail", "open", "few", "missing", "inapplicable", "informs"]
Rewardless = Literal["no reward", "made elsewhere"]
Hacked = bool | Literal["open"] | Rewardless | None
EvidenceState = Literal["better", "worse", "spent", "open"]
MOST = 10_000
# Fewer held-out prompts decide nothing, whatever a rule says.
FEWEST_PROMPTS = 60
Count = Annotated[int, Interval(ge=1, le=MOST)]
EnoughPrompts = Annotated[int, Interval(ge=FEWEST_PROMPTS, le=MOST)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Ratio = Annotated[float, Interval(ge=1, le=10)]


# --------------------------------------------------------------------------------------------------------------- rule
@dataclass(frozen=True)
class Rule:
    """What a candidate must show."""

    mode: Annotated[Mode, N_("The gate's mode")] = "ask"
    """What is done with a decision: 'ask' a person, who may decide otherwise; act on it ('automatic'); 'never' let the
    gate promote or reject anything. The decision itself is the same."""
    alpha: Annotated[float, Interval(ge=0.001, le=0.2), N_("Share of wrong promotions")] = 0.05
    """Of candidates that are no better than the policy that serves, the share that may be promoted at most."""
    alpha_holds: Annotated[Holds, N_("That share holds")] = "mode"
    """For what: each 'candidate' by itself, so that of many useless ones some are promoted; the whole 'project', whose
    later candidates have to show more; or by 'mode': for the project where the gate acts by itself, else for each."""
    people_least: Annotated[Count, N_("Fewest prompts compared by people")] = 10
    """Prompts on which people have compared before they can decide. The evidence holds with any number, and ten wins in
    a row are the fewest that are enough of it at an alpha of 0.05: raise this to hear more people."""
    people_most: Annotated[Count, N_("Most prompts compared by people")] = 200
    """Prompts on which people have compared, after which a candidate that is not shown to be better is rejected. Our
    choice: of candidates that win 60 of 100, a fifth of them ties, most are promoted by then (`python -m
    benchmarks.gate`)."""
    judge_may_decide: Annotated[bool, N_("Whether a judge may decide")] = False
    """Whether a trusted judge's comparisons decide while people's have not; off, because that has to be wanted."""
    judge_trust: Annotated[float, Interval(ge=0.5, le=1), N_("Agreement of a judge with people")] = 0.6
    """What the lower limit of a judge's agreement with people must reach. A training asks as much of a reward model,
    though not of its lower limit (`rlhf.submission.preconditions`); people agree with each other little more often on
    open questions."""
    judge_least: Annotated[Count, N_("Fewest prompts compared by a judge")] = 30
    """Prompts that a judge has compared before it can decide: they are cheap, and it takes some to tell what length
    does."""
    judge_most: Annotated[Count, N_("Most prompts compared by a judge")] = 400
    """Prompts that a judge has compared, after which it has nothing more to say; a candidate that people have not begun
    with by then is rejected."""
    anchor: Annotated[str, N_("The limits are against")] = "base"
    """The policy that the limits are against: the base, or one that was trained to a style or a language on purpose, so
    that later candidates are not turned down for it. Not each policy that serves: one could go step by step. The base
    is the base also under a policy that hangs on other whole weights, merged or fully trained ones; where memory does
    not hold both, these stand in, and the check's log and report say so."""
    prompts_least: Annotated[EnoughPrompts, N_("Fewest held-out prompts")] = FEWEST_PROMPTS
    """Held-out prompts that the figures must rest on; below 60 an interval of a win rate spans a quarter of all, and
    the 5% would speak of these prompts more than of others like them."""
    kl_most: Annotated[float, Interval(ge=0.001, le=100), N_("KL to its anchor, nats a token")] = 0.5
    """KL to its anchor, in nats a token. Our choice: 25 nats in an answer of 50 tokens, four times the target of
    Ziegler et al. (2019)."""
    nll_ratio_most: Annotated[Ratio, N_("Surprise to its anchor, ratio")] = 1.15
    """How far its answers may surprise its anchor more than its own do; above it they stop being its language."""
    distinct_ratio_least: Annotated[Fraction, N_("Distinct-2, ratio")] = 0.90
    """Distinct-2 of its answers over its anchor's; below it they repeat themselves, or each other."""
    truncated_more_most: Annotated[Fraction, N_("Answers cut off, more than its anchor's")] = 0.10
    """Share of answers cut off at the length limit, less its anchor's. More of them has run away in length."""
    perplexity_ratio_most: Annotated[Ratio, N_("Perplexity of the fixed text, ratio")] = 1.15
    """Perplexity of a fixed text over its anchor's; above it the candidate forgets what it was not trained on."""
    probes_fall_most: Annotated[Fraction, N_("Lost on the probes")] = 0.02
    """How much less chance than its anchor it may give to what is right on the probes, over all and in each family.
    What counts is what it has surely lost: the lower end of the interval of the fall."""

    def to_setting(self) -> dict[str, Any]:
        """The rule as it is stored in the project's settings."""
        return asdict(self)

    @classmethod
    def stored(cls, values: Any) -> Rule:
        """A rule as it was stored: that of an earlier version may have asked for fewer prompts than decide today."""
        least = values.get("prompts_least") if isinstance(values, Mapping) else None
        lifted = isinstance(least, int) and least < FEWEST_PROMPTS
        return cls.from_setting({**values, "prompts_least": FEWEST_PROMPTS} if lifted else values)

    @classmethod
    def from_setting(cls, values: Any) -> Rule:
        """The rule that given values describe; what is left out has its default. Raises UserError."""
        rule = read(cls, from_form(values), _("The gate's rule"))
        for most, least in (("people_most", "people_least"), ("judge_most", "judge_least")):
            if getattr(rule, most) < getattr(rule, least):
                raise UserError(
                    _(
                        "{field}: {most} are fewer than the {least} before which nothing is decided. Raise the one or "
                        "lower the other."
                    ).format(field=label(most), most=getattr(rule, most), least=getattr(rule, least))
                )
        return rule


COUNTS = tuple(name for name, hint in hints_of(Rule).items() if bare(hint) is int)
NUMBERS = tuple(name for name, hint in hints_of(Rule).items() if bare(hint) is float)


def label(name: str) -> str:
    """What a number of the rule is called, for people."""
    return _(label_of(hints_of(Rule)[name]))


# ----------------------------------------------------------------------------------------------------------- findings
@dataclass(frozen=True)
class JudgeFindings:
    """What one AI judge says of the candidate, and how far it can be trusted; None is what was not measured."""

    name: str
    outcomes: tuple[DecidedOutcome, ...] = ()
    """Candidate against the policy that serves: 1 won, 0 lost, 1/2 a tie or a verdict that flipped with the order."""
    trust: Estimate | None = None
    """Its agreement with people on comparisons that they have judged too."""
    length_controlled: Estimate | None = None
    """Its win rate for the candidate at equal lengths, with a 90% interval clustered by prompt."""
    left_open: int = 0
    """Comparisons that it was asked about and has not judged."""
    gave_up: str = ""
    """Why it gave up, as a sentence; empty where it did not."""
    trust_before: Estimate | None = None
    """Its agreement with people as it was when they first compared the candidate; their evidence knows no other."""
    informs: str = ""
    """Why it informs only, whatever the rule allows, as a sentence; empty where it may decide."""


@dataclass(frozen=True)
class Findings:
    """What was measured of a candidate; None is what was not. Ratios are to its anchor's figures."""

    people: tuple[DecidedOutcome, ...] = ()
    """People's outcomes against the policy that serves, one for each comparison, in the order in which they came. A
    judgement that is taken back and made anew is looked at twice, which alpha does not allow for."""
    judges: tuple[JudgeFindings, ...] = ()
    """Every judge that was asked about this candidate. Who of them may decide is settled before any has answered."""
    number: int = 1
    """Its place among the project's candidates, in the order in which they were first checked; the first is 1. One
    that is checked against another policy that serves by then is another: what is claimed of it is."""
    carried: int | None = None
    """Candidates that the gate had looked at on the same held-out prompts before; None where that is not known."""
    left_to_judges: Mapping[int, int | None] = field(default_factory=dict)
    """Prompts that a draw left to judges, in an order that says nothing about them. Each with the last judgement before
    people were given it all the same; None where they were not, or nobody noted it."""
    prompts: int | None = None
    """Held-out prompts that the figures were measured on."""
    kl_per_token: float | None = None
    nll_ratio: float | None = None
    distinct_ratio: float | None = None
    truncated_more: float | None = None
    """Share of answers cut off, less its anchor's."""
    perplexity_ratio: float | None = None
    probes_fall: float | None = None
    """What it has surely lost of the chance of what is right on the probes, at the least."""
    reward_hacking: Hacked = None
    """Whether its reward went up while its win rate did not, 'open' where it takes more comparisons to tell; 'no
    reward' where none took part in its training, 'made elsewhere' where nothing here says whether one did."""
    identical_to_serving: bool | None = None
    """Whether it answers every prompt in the same words as the policy that serves."""

    @property
    def panel(self) -> tuple[JudgeFindings, ...]:
        """The judges that may decide where the rule lets judges decide; the others inform only."""
        return tuple(judge for judge in self.judges if not judge.informs)


# ----------------------------------------------------------------------------------------------------------- decision
@dataclass(frozen=True)
class Criterion:
    """One thing that the rule asks for: what was found, what is asked, and whether that is so."""

    name: str
    value: str
    threshold: str
    verdict: Passed
    """'open': there are comparisons, but not enough to tell; 'few': it rests on too little to count; 'missing': it was
    not measured, and never passes; 'inapplicable': there is nothing to measure; 'informs': nothing hangs on it."""
    why: str


@dataclass(frozen=True)
class GateDecision:
    """What the rule makes of the findings, in a sentence, with every criterion."""

    verdict: GateVerdict
    sentence: str
    criteria: tuple[Criterion, ...]
    more: int | None = None
    """Without enough evidence: about how many more comparisons it takes; None where comparisons would not help."""
    more_by: str | None = None
    """Whose: a judge's name, or None for people."""


def decide(rule: Rule, findings: Findings) -> GateDecision:
    """Promote, reject or wait. Pure.

    The order in which prompts were decided counts only where judges correct them: each by what was known before it.

    People count most: what they find worse is rejected, and what they find better only a limit can stop. A judge
    decides if it may, is trusted, and people have not decided and do not lean the other way; judges that contradict
    each other decide nothing.
    """
    people_alpha, judge_alpha = alphas(rule, len(findings.panel), findings.number)
    people = weigh_people(rule, findings, people_alpha)
    panel = [judge_evidence(rule, judge, judge_alpha) for judge in findings.panel] if rule.judge_may_decide else []
    others = [informing(judge) for judge in findings.judges if judge.informs] if rule.judge_may_decide else []
    limits = limits_of(rule, findings)
    verdict, sentence, needed = ruling(rule, people, panel, limits)
    return GateDecision(
        verdict=verdict,
        sentence=sentence,
        criteria=(
            people.criterion(),
            *(one for voter in panel for one in voter.criteria()),
            *others,
            *limits,
            risk(rule, findings),
            *worn(findings),
        ),
        more=needed.more if needed else None,
        more_by=needed.judge if needed else None,
    )


def given_up(decision: GateDecision, checks: int, used_up: bool = False) -> GateDecision:
    """A rejection in place of waiting for comparisons that no check will make any more.

    `used_up`: every held-out prompt has been compared.
    """
    said = (
        _("Every held-out prompt has been compared, and other answers to the same ones show no more. Import more.")
        if used_up
        else _("Nothing is left to compare after {checks} checks, and that is not enough evidence.").format(
            checks=checks
        )
    )
    sentence = f"{said} {decision.sentence}"
    return GateDecision("reject", sentence, decision.criteria)


def alphas(rule: Rule, judges: int, number: int = 1) -> tuple[float, float]:
    """(people's, each judge's) part of alpha; by Bonferroni's inequality the parts add up to at most all of it.

    Trust has no say in it: it changes while the candidate is looked at. The people's interval that goes with the gate
    is `running_interval(outcomes, 2 * alpha)`, of which the lower end decides.
    """
    alpha = alpha_of(rule, number)
    if not rule.judge_may_decide:
        return alpha, 0.0
    return alpha / 2, alpha / 2 / max(judges, 1)


# Of alpha for the n-th candidate: n to this power, over its sum over all (Riemann's zeta of 1.6). The exponent is that
# of Javanmard and Montanari (2018, "Online rules for control of false discovery rate and false discovery exceedance").
SPENDING, ALL_OF_IT = -1.6, 2.2858


def over_project(rule: Rule) -> bool:
    """Whether alpha holds for all candidates of the project together."""
    return rule.alpha_holds == "project" or (rule.alpha_holds == "mode" and rule.mode == "automatic")


def alpha_of(rule: Rule, number: int) -> float:
    """The alpha of a project's n-th candidate: all of it, or its part where one alpha holds for all of them."""
    return rule.alpha * (float(number**SPENDING) / ALL_OF_IT if over_project(rule) else 1.0)


def risk_so_far(rule: Rule, number: int) -> float:
    """The chance that any of so many candidates is promoted if all are useless and this rule decides on each.

    At most that where one alpha holds for all; else as if each had its own, whatever the others do.
    """
    if over_project(rule):
        return sum(alpha_of(rule, one) for one in range(1, number + 1))
    return float(1 - (1 - rule.alpha) ** number)


def risk(rule: Rule, findings: Findings) -> Criterion:
    """What the chance of a wrong promotion has come to over the project's candidates; nothing hangs on it."""
    number = findings.number
    most = ngettext("at most {share} over {number} candidate", "at most {share} over {number} candidates", number)
    about = ngettext("about {share} over {number} candidate", "about {share} over {number} candidates", number)
    value = most if over_project(rule) else about
    asked = _("{alpha} over all candidates") if over_project(rule) else _("{alpha} for each candidate")
    own = _("This one has to show it with an alpha of {own}.").format(own=numeral(alpha_of(rule, number), ".2g"))
    again = _("A candidate that is checked against another policy counts again.")
    each = _(
        "Of many candidates that are no better, one will be promoted by chance. Counted as if this rule had decided on "
        "all of them."
    )
    return Criterion(
        name=_("Chance that a wrong one was promoted"),
        value=value.format(share=percentage(risk_so_far(rule, number), 2), number=number),
        threshold=asked.format(alpha=percentage(rule.alpha, 6)),
        verdict="informs",
        why=f"{own if over_project(rule) else each} {again}",
    )


def worn(findings: Findings) -> list[Criterion]:
    """How many candidates the held-out prompts have weighed before; nothing hangs on it."""
    if findings.carried is None:
        return []
    value = ngettext("{count} candidate", "{count} candidates", findings.carried).format(count=findings.carried)
    why = _("What is found of each tells whoever trains a little of these prompts.")
    return [
        Criterion(
            name=_("Weighed on these prompts before"), value=value, threshold=_("nothing"), verdict="informs", why=why
        )
    ]


# ----------------------------------------------------------------------------------------------------------- evidence
@dataclass(frozen=True)
class EvidenceSource:
    """People, or a judge: what their comparisons show so far."""

    judge: str | None
    """A judge's name; None for people."""
    found: Estimate | None
    """The win rate, with the interval that decides; it counts prompts."""
    standing: EvidenceState
    alpha: float
    least: int
    most: int
    more: int
    """How many more they would take; 0 when they have decided."""
    likely: bool
    """Whether that number is an estimate, because the candidate is clearly ahead."""
    ties: int = 0
    """Prompts on which neither was better."""
    helped: int = 0
    """Prompts left to judges that made people's say more."""
    unrecorded: bool = False
    """Whether judges could not help, because nobody recorded with which chance people got these prompts."""

    def whose(self, people: str, judge: str) -> str:
        """One of two sentences: about people's comparisons, or about those of the {judge}."""
        return people if self.judge is None else judge

    @property
    def count(self) -> int:
        """How many prompts they have compared on."""
        return self.found.n if self.found else 0

    @property
    def all_ties(self) -> bool:
        """Whether nothing that they compared was better or worse."""
        return self.found is not None and self.ties == self.count

    @property
    def leaning(self) -> EvidenceState:
        """What they find so far, from as many comparisons on as can decide: better, worse, or open."""
        value = self.found.value if self.found and self.count >= self.least else 0.5
        return "better" if value > 0.5 else "worse" if value < 0.5 else "open"

    def score(self) -> str:
        """The win rate in words, with its interval."""
        if self.found is None:
            return _("no comparison yet")
        value, low, high = (beside(end, 0.5, percentage) for end in (self.found.value, self.found.low, self.found.high))
        said = ngettext("{value} on {n} prompt ({low}–{high})", "{value} on {n} prompts ({low}–{high})", self.count)
        return said.format(value=value, n=self.count, low=low.removesuffix("%"), high=high)

    def help(self) -> str:
        """What judges did to people's evidence, as a sentence; empty where there is nothing to say."""
        if self.unrecorded:
            return _("Judges could not help: by which chance people got these prompts was not recorded.")
        if not self.helped:
            return ""
        return ngettext(
            "It is what people say; {count} prompt that judges alone compared helped to tell.",
            "It is what people say; {count} prompts that judges alone compared helped to tell.",
            self.helped,
        ).format(count=self.helped)

    def needs(self) -> str:
        """How many more comparisons it takes, as a sentence; a judge's stands after people's."""
        return self.whose(self.people_needed(), self.judge_needed()).format(count=self.more, judge=self.judge)

    def people_needed(self) -> str:
        """That people have to compare {count} more prompts."""
        count = self.more
        if self.likely:
            return ngettext(
                "It takes about {count} more prompt compared by people (if they go on as they have).",
                "It takes about {count} more prompts compared by people (if they go on as they have).",
                count,
            )
        if self.count < self.least:
            return ngettext(
                "It takes at least {count} more prompt compared by people.",
                "It takes at least {count} more prompts compared by people.",
                count,
            )
        return ngettext(
            "It takes at most {count} more prompt compared by people (it is not clearly ahead so far).",
            "It takes at most {count} more prompts compared by people (it is not clearly ahead so far).",
            count,
        )

    def judge_needed(self) -> str:
        """That the {judge} would have to."""
        count = self.more
        if self.likely:
            return ngettext(
                "Or it takes about {count} more prompt compared by the judge {judge} (if it goes on as it has).",
                "Or it takes about {count} more prompts compared by the judge {judge} (if it goes on as it has).",
                count,
            )
        if self.count < self.least:
            return ngettext(
                "Or it takes at least {count} more prompt compared by the judge {judge}.",
                "Or it takes at least {count} more prompts compared by the judge {judge}.",
                count,
            )
        return ngettext(
            "Or it takes at most {count} more prompt compared by the judge {judge} (it is not clearly ahead so far).",
            "Or it takes at most {count} more prompts compared by the judge {judge} (it is not clearly ahead so far).",
            count,
        )

    def criterion(self) -> Criterion:
        """Whether they prefer the candidate."""
        sure = f"{numeral(100 * (1 - self.alpha), '.4g')}%"
        whys = {
            "better": _("The whole interval is above 50%."),
            "worse": _("The whole interval is below 50%."),
            "spent": _("After {most} prompts it is not shown to be better.").format(most=self.most),
            "open": _("Not yet enough to tell."),
        }
        verdicts: Mapping[EvidenceState, Passed] = {"better": "pass", "worse": "fail", "spent": "fail", "open": "open"}
        name, threshold = (
            self.whose(_("Preferred by people"), _("Preferred by the judge {judge}")).format(judge=self.judge),
            _("all above 50%, from {least} prompts on").format(least=self.least),
        )
        if self.found is None:
            return Criterion(
                name=name,
                value=self.score(),
                threshold=threshold,
                verdict="missing",
                why=_("It has not been compared with what serves."),
            )
        held = _("Each end of it holds with {sure} however often one looks.").format(sure=sure)
        ties = _("Every prompt was a tie.") if self.all_ties else ""
        why = " ".join(filter(None, (whys[self.standing], ties, held, self.help())))
        return Criterion(name=name, value=self.score(), threshold=threshold, verdict=verdicts[self.standing], why=why)


def weigh_people(rule: Rule, findings: Findings, alpha: float) -> EvidenceSource:
    """What people show, with the help of all judges, those too that may not decide: it is about people all the same."""
    prompts = corrected_by_judges(findings)
    found = weigh(None, prompts, alpha, rule.people_least, rule.people_most)
    judged = any(judge.outcomes for judge in findings.judges)
    return replace(found, unrecorded=judged and any(one.probability is None for one in prompts.prompts))


def corrected_by_judges(findings: Findings) -> CorrectedPrompts:
    """The prompts that people have compared, corrected by what judges say of these and of others."""
    panel = JudgePanel(
        tuple(outcome for judge in findings.judges for outcome in judge.outcomes),
        {judge.name: judge.trust_before for judge in findings.judges if judge.trust_before is not None},
        findings.left_to_judges,
    )
    return corrected(by_prompt(findings.people), panel)


NEARLY_ALL = 0.95


def people_share(rule: Rule, findings: Findings, prompts_left: int) -> float:
    """The part of a next check's prompts that people are to get; `prompts_left`: those that were never compared."""
    prompts = corrected_by_judges(findings)
    capitals = log_capitals(stakes_of(prompts))
    alpha, _judges = alphas(rule, len(findings.panel), findings.number)
    log_capital = float(capitals[-1]) if len(capitals) else 0.0
    share = share_for_people(log_capital, alpha, prompts.explained, prompts_left)
    # All of them would mean those too that earlier checks left to judges, on which the bets rest.
    return min(share, NEARLY_ALL) if findings.left_to_judges else share


def stakes_of(prompts: CorrectedPrompts) -> Stakes:
    """What the prompts enter with, as what is bet on."""
    return Stakes.of(
        [one.value for one in prompts.outcomes],
        [one.weight for one in prompts.outcomes],
        [one.spread for one in prompts.outcomes],
    )


def weigh_judge(judge: JudgeFindings, alpha: float, least: int, most: int) -> EvidenceSource:
    """What a judge shows by itself."""
    return weigh(judge.name, corrected(by_prompt(judge.outcomes), JudgePanel()), alpha, least, most)


def weigh(judge: str | None, prompts: CorrectedPrompts, alpha: float, least: int, most: int) -> EvidenceSource:
    """What so many outcomes show, with `alpha` for the error on either side."""
    stakes, count = stakes_of(prompts), len(prompts.outcomes)
    found = anytime_win_rate(prompts, 2 * alpha)
    standing: EvidenceState = "open"
    if found is not None and count >= least:
        shown = "better" if found.low > 0.5 else "worse" if found.high < 0.5 else None
        standing = cast(EvidenceState, shown or ("spent" if count >= most else "open"))
    said = EvidenceSource(
        judge=judge,
        found=found,
        standing=standing,
        alpha=alpha,
        least=least,
        most=most,
        more=0,
        likely=False,
        ties=sum(one.tied for one in prompts.prompts),
        helped=prompts.helped,
    )
    if standing != "open":
        return said
    first, left, expected = least - count, most - count, more_needed(stakes, alpha)
    likely = expected is not None and expected <= left
    more = max(first, expected or 1) if likely else first if first > 0 else left
    return replace(said, more=more, likely=likely)


def anytime_win_rate(prompts: CorrectedPrompts, alpha: float) -> Estimate | None:
    """The win rate of all that came, with the interval of what was bet on, which it may lie beside.

    The interval misses it with a chance of `alpha`, however often one looks.
    """
    bet_on, value = anytime_mean(stakes_of(prompts), alpha), prompts.win_rate
    if bet_on is None or value is None:
        return None
    return replace(bet_on, value=min(max(value, bet_on.low), bet_on.high))


@dataclass(frozen=True)
class JudgeEvidence:
    """A judge that may decide: whether it is trusted, what it prefers, and whether that is only length."""

    source: EvidenceSource
    trust: Criterion
    equal_lengths: Criterion

    unfinished: Criterion | None = None
    """That it failed on many comparisons, if it did."""

    @property
    def says(self) -> EvidenceState | None:
        """What it decides for; None where it must not decide: it is not trusted, or its preference may be length.

        Nor where it failed on many: those that it fails on may not be like the others.
        """
        standing = self.source.standing
        short = standing == "better" and self.equal_lengths.verdict != "pass"
        return None if self.trust.verdict != "pass" or short or self.unfinished else standing

    def criteria(self) -> tuple[Criterion, ...]:
        """All of them."""
        return self.trust, self.source.criterion(), self.equal_lengths, *filter(None, (self.unfinished,))

    def objection(self) -> str:
        """Why it must not decide, as a sentence; empty where it may."""
        if self.says is not None:
            return ""
        at_fault = self.trust if self.trust.verdict != "pass" else self.unfinished or self.equal_lengths
        cant = _("The judge {judge} can't decide.").format(judge=self.source.judge)
        return f"{cant} {at_fault.why}"


def judge_evidence(rule: Rule, judge: JudgeFindings, alpha: float) -> JudgeEvidence:
    """A judge's criteria."""
    source = weigh_judge(judge, alpha, rule.judge_least, rule.judge_most)
    return JudgeEvidence(source, trusted(rule, judge), preferred_at_equal_lengths(judge), unfinished(judge))


# Of a judge's comparisons the share that it may fail on and still decide.
FAILURES_MOST = 0.1


def unfinished(judge: JudgeFindings) -> Criterion | None:
    """That a judge failed on too many comparisons to decide; None where it did not."""
    judged, asked = len(judge.outcomes), len(judge.outcomes) + judge.left_open
    if judge.left_open <= FAILURES_MOST * asked:
        return None
    return Criterion(
        name=_("Judged by the judge {name}").format(name=judge.name),
        value=_("{judged} of {asked}").format(judged=judged, asked=asked),
        threshold=_("at least {share}").format(share=percentage(1 - FAILURES_MOST, 2)),
        verdict="few",
        why=" ".join(filter(None, (_("It failed on the others, which may not be like these."), judge.gave_up))),
    )


def informing(judge: JudgeFindings) -> Criterion:
    """What a judge finds that must not decide."""
    prompts = by_prompt(judge.outcomes)
    share, count = win_rate(prompts), len(prompts)
    value = (
        ngettext("{percentage} on {count} prompt", "{percentage} on {count} prompts", count).format(
            percentage=percentage(share, 2), count=count
        )
        if share is not None
        else _("no comparison yet")
    )
    return Criterion(
        name=_("Preferred by the judge {name}").format(name=judge.name),
        value=value,
        threshold=_("nothing"),
        verdict="informs",
        why=judge.informs,
    )


def trusted(rule: Rule, judge: JudgeFindings) -> Criterion:
    """Whether a judge agrees with people often enough."""
    name, wanted = _("Trust in the judge {name}").format(name=judge.name), percentage(rule.judge_trust, 6)
    threshold = _("agrees with people in at least {wanted}").format(wanted=wanted)
    if judge.trust is None:
        why = _("It has not been compared with people: let it judge comparisons that they have judged.")
        return Criterion(name=name, value=_(NOT_MEASURED), threshold=threshold, verdict="missing", why=why)
    low = judge.trust.low
    passed = low >= rule.judge_trust
    value = _("at least {beside} ({value} of {n})").format(
        beside=beside(low, rule.judge_trust, percentage), value=percent(judge.trust.value), n=judge.trust.n
    )
    why = _("It speaks for people often enough.") if passed else _("It may not speak for people often enough.")
    return Criterion(name=name, value=value, threshold=threshold, verdict="pass" if passed else "fail", why=why)


def preferred_at_equal_lengths(judge: JudgeFindings) -> Criterion:
    """Whether a judge would prefer the candidate if its answers were as long as the others: judges like length.

    The lower end of its interval has to say so: a point just above a half says nothing.
    """
    name, threshold = _("Preferred by the judge {name} at equal lengths").format(name=judge.name), _("all above 50%")
    if judge.length_controlled is None:
        why = _("Its win rate at equal lengths was not measured.")
        return Criterion(name=name, value=_(NOT_MEASURED), threshold=threshold, verdict="missing", why=why)
    rate = judge.length_controlled
    passed = rate.low > 0.5
    low = beside(rate.low, 0.5, percentage).removesuffix("%")
    value = f"{percentage(rate.value, 2)} ({low}–{percentage(rate.high, 2)})"
    why = _("It is not the length that it prefers.") if passed else _("Its preference may be for length.")
    return Criterion(name=name, value=value, threshold=threshold, verdict="pass" if passed else "fail", why=why)


# ------------------------------------------------------------------------------------------------------------- limits


@dataclass(frozen=True)
class MetricLimit:
    """A figure of `Findings` and the field of `Rule` that bounds it."""

    name: str
    figure: str
    bound: str
    why: str

    @property
    def least(self) -> bool:
        """Whether the bound is what the figure must reach; otherwise it must not exceed it."""
        return self.bound.endswith("_least")

    def holds(self, value: float, bound: float) -> bool:
        """Whether a figure keeps within it. NaN is on neither side and does not: its answers could not be scored."""
        return lies_on(value, bound) or (value >= bound if self.least else value <= bound)


LIMITS = (
    MetricLimit(
        N_("KL to its anchor, nats a token"), "kl_per_token", "kl_most", N_("How far it has moved from its anchor.")
    ),
    MetricLimit(
        N_("Surprise to its anchor, ratio"),
        "nll_ratio",
        "nll_ratio_most",
        N_("Whether its answers are still language."),
    ),
    MetricLimit(
        N_("Distinct-2, ratio"),
        "distinct_ratio",
        "distinct_ratio_least",
        N_("Whether its answers repeat themselves."),
    ),
    MetricLimit(
        N_("Answers cut off, more than its anchor's"),
        "truncated_more",
        "truncated_more_most",
        N_("Whether its answers still come to an end."),
    ),
    MetricLimit(
        N_("Perplexity of the fixed text, ratio"),
        "perplexity_ratio",
        "perplexity_ratio_most",
        N_("Whether it still knows what it was not trained on."),
    ),
    MetricLimit(
        N_("Lost on the probes"), "probes_fall", "probes_fall_most", N_("Whether it still can do what it could.")
    ),
)


def limits_of(rule: Rule, findings: Findings) -> list[Criterion]:
    """What a check answers of the rule, whoever prefers the candidate."""
    return [enough_prompts(rule, findings), differs(findings), *within_limits(rule, findings), no_hacking(findings)]


class Measured(Protocol):
    """What the limits bound; None is what was not measured. Ratios are to its anchor's figures."""

    @property
    def kl_per_token(self) -> float | None: ...
    @property
    def nll_ratio(self) -> float | None: ...
    @property
    def distinct_ratio(self) -> float | None: ...
    @property
    def truncated_more(self) -> float | None: ...
    @property
    def perplexity_ratio(self) -> float | None: ...
    @property
    def probes_fall(self) -> float | None: ...


def past_limits(rule: Rule, measured: Measured) -> list[tuple[MetricLimit, float, float]]:
    """The limits that are not kept, with figure and bound: the gate rejects for them, and pages warn of them."""
    known = [(limit, getattr(measured, limit.figure), getattr(rule, limit.bound)) for limit in LIMITS]
    return [found for found in known if found[1] is not None and not found[0].holds(found[1], found[2])]


def within_limits(rule: Rule, measured: Measured) -> list[Criterion]:
    """Whether the candidate has kept its language."""
    found = []
    for limit in LIMITS:
        value, bound = getattr(measured, limit.figure), getattr(rule, limit.bound)
        threshold = (_("at least {bound}") if limit.least else _("at most {bound}")).format(bound=number(bound, 6))
        if value is None:
            found.append(
                Criterion(
                    name=_(limit.name), value=_(NOT_MEASURED), threshold=threshold, verdict="missing", why=_(limit.why)
                )
            )
            continue
        shown = _("not a number") if isnan(value) else beside(value, bound, number)
        verdict: Passed = "pass" if limit.holds(value, bound) else "fail"
        found.append(Criterion(name=_(limit.name), value=shown, threshold=threshold, verdict=verdict, why=_(limit.why)))
    return found


def enough_prompts(rule: Rule, findings: Findings) -> Criterion:
    """Whether the figures rest on enough held-out prompts; too few are as if nothing had been measured."""
    name, threshold = _("Held-out prompts"), _("at least {prompts_least}").format(prompts_least=rule.prompts_least)
    if findings.prompts is None:
        return Criterion(
            name=name, value=_(NOT_MEASURED), threshold=threshold, verdict="missing", why=_("What the figures rest on.")
        )
    passed = findings.prompts >= rule.prompts_least
    few = _("Too few to tell.")
    why = _("Enough to tell.") if passed else f"{few} {_(MORE_PROMPTS)}"
    return Criterion(
        name=name, value=str(findings.prompts), threshold=threshold, verdict="pass" if passed else "few", why=why
    )


MORE_PROMPTS = N_("Import more, and make a new version of the held-out set.")


YES = N_("yes")


DIFFERENT = N_("Different from what serves")
SAME = N_("It does not differ from what serves: it answers every prompt in the same words.")


def differs(findings: Findings) -> Criterion:
    """Whether there is anything to promote."""
    return yes_or_no(_(DIFFERENT), findings.identical_to_serving, _("Whether promoting it would change anything."))


REWARDLESS: Mapping[Rewardless, str] = {
    "no reward": N_("{not_measured}: no reward took part"),
    "made elsewhere": N_("{not_measured}: it was not trained here"),
}


def no_hacking(findings: Findings) -> Criterion:
    """Whether the reward that it was trained for still means something."""
    name, why = _("No reward hacking"), _("Whether its reward went up and its win rate with it.")
    hacked = findings.reward_hacking
    if hacked == "no reward" or hacked == "made elsewhere":
        said = _(REWARDLESS[hacked]).format(not_measured=_(NOT_MEASURED))
        return Criterion(name=name, value=said, threshold=_(YES), verdict="inapplicable", why=why)
    if hacked == "open":
        return Criterion(
            name=name,
            value=_("can't be told yet"),
            threshold=_(YES),
            verdict="open",
            why=_("{why} It takes more comparisons to tell.").format(why=why),
        )
    return yes_or_no(name, hacked, why)


def yes_or_no(name: str, problem: bool | None, why: str) -> Criterion:
    """A criterion that is met where there is no trouble."""
    if problem is None:
        return Criterion(name=name, value=_(NOT_MEASURED), threshold=_(YES), verdict="missing", why=why)
    return Criterion(
        name=name,
        value=_("no") if problem else _(YES),
        threshold=_(YES),
        verdict="fail" if problem else "pass",
        why=why,
    )


# ----------------------------------------------------------------------------------------------------------- settling
Ruling = tuple[GateVerdict, str, EvidenceSource | None]


def ruling(rule: Rule, people: EvidenceSource, panel: Sequence[JudgeEvidence], limits: Sequence[Criterion]) -> Ruling:
    """The verdict, its sentence, and of whom more comparisons are needed, first things first."""
    failed = [one for one in limits if one.verdict == "fail"]
    better = [voter.source for voter in panel if voter.says == "better"]
    worse = [voter.source for voter in panel if voter.says == "worse"]
    if people.standing == "worse":
        return "reject", preferred(people, "worse"), None
    if any(one.name == _(DIFFERENT) for one in failed):
        return "reject", _(SAME), None
    if failed:
        listed = "; ".join(
            _("{name}: {value}, asked for: {threshold}").format(name=one.name, value=one.value, threshold=one.threshold)
            for one in failed
        )
        sentences = [_("It is past a limit. {listed}.").format(listed=listed)]
        if people.standing == "better":
            sentences.append(_("People find it better all the same."))
        return "reject", " ".join(sentences), None
    if people.standing == "better":
        return promoted(people, people, limits)
    if better and not worse and people.leaning != "worse":
        return promoted(better[0], people, limits)
    if worse and not better and people.leaning != "better":
        return "reject", preferred(worse[0], "worse"), None
    if people.standing == "spent":
        return "reject", enough_shown(people), None
    deciding = [voter.source for voter in panel if voter.says is not None]
    if deciding and all(source.standing == "spent" for source in deciding) and people.count < rule.people_least:
        return "reject", enough_shown(deciding[0]), None
    return waiting(people, panel, limits)


def promoted(source: EvidenceSource, people: EvidenceSource, limits: Sequence[Criterion]) -> Ruling:
    """Promotion, unless something was not measured, or more comparisons by people have to tell it."""
    missing, untold = unmeasured(limits), [one for one in limits if one.verdict == "open"]
    if missing:
        return "not enough evidence", f"{preferred(source, 'better')} {missing}", None
    if untold:
        tell = _("But it takes more comparisons to tell: {criterion}.").format(criterion=untold[0].name)
        sentence = f"{preferred(source, 'better')} {tell}"
        return "not enough evidence", sentence, replace(people, more=max(people.more, 1))
    within = _("It keeps within every limit.")
    alone = _("No person has compared it: this says what a judge prefers.") if people.count == 0 else ""
    return "promote", " ".join(filter(None, (preferred(source, "better"), alone, within))), None


def preferred(source: EvidenceSource, word: str) -> str:
    """That they find it better or worse, as a sentence with the figures."""
    better = source.whose(
        _("People find it better: it won {score}."), _("The judge {judge} finds it better: it won {score}.")
    )
    worse = source.whose(
        _("People find it worse: it won {score}."), _("The judge {judge} finds it worse: it won {score}.")
    )
    return (better if word == "better" else worse).format(judge=source.judge, score=source.score())


def enough_shown(source: EvidenceSource) -> str:
    """That there were enough comparisons to show it, as a sentence."""
    return source.whose(
        _("People's comparisons do not show that it is better: it won {score}."),
        _("The comparisons of the judge {judge} do not show that it is better: it won {score}."),
    ).format(judge=source.judge, score=source.score())


def unmeasured(limits: Sequence[Criterion]) -> str:
    """What is missing or rests on too little, in sentences; empty where nothing is."""
    missing = [one.name for one in limits if one.verdict == "missing"]
    said = []
    if missing and len(missing) == sum(one.verdict != "inapplicable" for one in limits):
        said.append(_("Nothing was measured of its answers, so nothing has passed."))
    elif missing:
        not_all = _("Not measured, so not passed: {missing}.")
        said.append(not_all.format(missing="; ".join(missing)))
    few = _("{count} held-out prompts are too few to tell (asked for: {wanted}).")
    found = [one for one in limits if one.verdict == "few"]
    said += [f"{few.format(count=one.value, wanted=one.threshold)} {_(MORE_PROMPTS)}" for one in found]
    return " ".join(said)


def waiting(people: EvidenceSource, panel: Sequence[JudgeEvidence], limits: Sequence[Criterion]) -> Ruling:
    """Why nothing is decided, and what it takes."""
    sources = [people, *(voter.source for voter in panel if voter.says == "open")]
    sentences = [source.needs() for source in sources]
    decided = [voter.source for voter in panel if voter.says in ("better", "worse")]
    if decided:
        finds = {"better": _("The judge {judge} finds it better."), "worse": _("The judge {judge} finds it worse.")}
        sentences += [finds[source.standing].format(judge=source.judge) for source in decided]
        apart = len({source.standing for source in decided}) > 1
        sentences.append(_("They are against each other.") if apart else _("That is against what people find so far."))
    sentences += [objection for objection in (voter.objection() for voter in panel) if objection]
    missing = unmeasured(limits)
    if missing:
        sentences.append(missing)
    # An estimate before a mere bound.
    return "not enough evidence", " ".join(sentences), min(sources, key=lambda one: (not one.likely, one.more))


# -------------------------------------------------------------------------------------------------------------- words
def lies_on(value: float, bound: float) -> bool:
    """Whether a figure is off its bound by the noise of binary fractions only."""
    return isclose(value, bound, rel_tol=1e-9)


def beside(value: float, bound: float, write: Callable[[float, int], str]) -> str:
    """A figure with as many digits as it takes to see on which side of the bound it lies."""
    if lies_on(value, bound):
        return write(bound, 6)
    for digits in range(2, 18):
        if write(value, digits) != write(bound, digits):
            break
    return write(value, digits)
