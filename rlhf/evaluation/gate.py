"""The gate: a written rule that says of what was measured of a candidate whether it may serve. Pure.

Promoting a candidate that is no better is the error to be bounded. Each prompt counts once, by what came of it when it
was first decided (`annotation.metrics.evidence`); these outcomes are bet on, as said in
`annotation.metrics.sequential_testing`: at most `alpha` of such candidates are ever promoted, however often the gate is
asked. "No better" is meant of prompts like those that were held out, of which they are a random part.

That one alpha is spent in total: where judges may decide too, people get half of it, and the judges that the first
check asked share the other half. A judge's part bounds the chance to promote what that judge itself would not prefer in
the long run; that it speaks for people rests on its card. Rejecting spends nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil, isclose, nan
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast

from annotated_types import Interval

from annotation.metrics.evidence import (
    CorrectedPrompts,
    DecidedOutcome,
    JudgePanel,
    LeftPrompt,
    by_prompt,
    corrected,
    telling_share,
    win_rate,
    without_skipped,
)
from annotation.metrics.intervals_and_bias import Estimate
from annotation.metrics.sequential_testing import Stakes, anytime_mean, log_capitals, more_needed
from annotation.records import UserError
from annotation.translation import N_, _
from annotation.validation import bare, from_form, hints_of, label_of, read
from rlhf.evaluation.report import CheckReport

Mode = Literal["ask", "automatic", "never"]
Holds = Literal["mode", "project", "candidate"]
Ruling = Literal["promote", "reject", "not enough evidence"]
GateReason = Literal["worse", "same", "past-a-limit", "not-shown", "better", "unmeasured", "open"]
Passed = Literal["pass", "fail", "open", "few", "missing", "inapplicable", "informs"]
"""'open': there are comparisons, but not enough to tell; 'few': it rests on too little to count; 'missing': it was not
measured, and never passes; 'inapplicable': there is nothing to measure; 'informs': nothing hangs on it."""
Rewardless = Literal["no reward", "made elsewhere"]
Hacked = bool | Literal["open"] | Rewardless | None
EvidenceState = Literal["better", "worse", "spent", "open"]
Recusal = Literal["itself", "optimised-against", "its-labels", "shared-labels", "late"]
LimitedFigure = Literal[
    "kl_per_token", "nll_ratio", "distinct_ratio", "truncated_more", "perplexity_ratio", "probes_fall"
]
RequirementKey = (
    LimitedFigure | Literal["trust", "equal-lengths", "prompts", "different", "no-reward-hacking", "weighed-before"]
)
MOST = 10_000
# With fewer held-out prompts nothing is promoted, whatever a rule says.
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
    """Prompts on which people have compared, after which the rule rejects a candidate that is not shown to be better.
    Our choice: of candidates that win 60 of 100, a fifth of them ties, most are promoted by then (`python -m
    benchmarks.gate`)."""
    judge_may_decide: Annotated[bool, N_("Whether a judge may decide")] = False
    """Whether a trusted judge's comparisons decide while people's have not; off, because that has to be wanted."""
    judge_trust: Annotated[float, Interval(ge=0.5, le=1), N_("Agreement of a judge with people")] = 0.6
    """What the lower limit of a judge's agreement with people must reach. A training asks as much of a reward model,
    though not of its lower limit; people agree with each other little more often on
    open questions."""
    judge_least: Annotated[Count, N_("Fewest prompts compared by a judge")] = 30
    """Prompts that a judge has compared before it can decide: they are cheap, and it takes some to tell what length
    does."""
    judge_most: Annotated[Count, N_("Most prompts compared by a judge")] = 400
    """Prompts that a judge has compared, after which it has nothing more to say; the rule rejects a candidate that
    people have not begun with by then."""
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
    nll_ratio_most: Annotated[Ratio, N_("Surprise at its answers, times that at its anchor's")] = 1.15
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
                said = _(
                    "{field}: {most} is below {least}, before which nothing is decided. Raise the one or lower the "
                    "other."
                )
                raise UserError(said.format(field=label(most), most=getattr(rule, most), least=getattr(rule, least)))
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
    informs: Recusal | None = None
    """Why it informs only, whatever the rule allows: it is the candidate itself, the candidate was optimised against it
    or trained on its labels, both were on those of another judge, or it was asked late; None where it may decide."""


@dataclass(frozen=True)
class Findings:
    """What was measured of a candidate; None is what was not. Ratios are to its anchor's figures."""

    people: tuple[DecidedOutcome, ...] = ()
    """People's outcomes against the policy that serves, one for each comparison, in the order in which they came. A
    judgement that is taken back and made anew is looked at twice, which alpha does not allow for."""
    judges: tuple[JudgeFindings, ...] = ()
    """Every judge that was asked about this candidate. Who of them may decide is fixed before any has answered."""
    number: int = 1
    """Its place among the project's candidates, in the order in which they were first checked; the first is 1. One
    that is checked against another policy that serves by then is another: what is claimed of it is."""
    carried: int | None = None
    """Candidates that the gate had looked at on the same held-out prompts before; None where that is not known."""
    left_to_judges: Mapping[int, LeftPrompt] = field(default_factory=dict)
    """Prompts that a draw left to judges, in an order that says nothing about them."""
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
    """Whether its reward went up while its win rate did not, 'open' where it went up and evidence has to tell; 'no
    reward' where none took part in its training, 'made elsewhere' where nothing here says whether one did."""
    identical_to_serving: bool | None = None
    """Whether it answers every prompt in the same words as the policy that serves."""

    @property
    def panel(self) -> tuple[JudgeFindings, ...]:
        """The judges that may decide where the rule lets judges decide; the others inform only."""
        return tuple(judge for judge in self.judges if not judge.informs)


# ----------------------------------------------------------------------------------------------------------- decision
@dataclass(frozen=True)
class GateDecision:
    """What the rule makes of the findings, and of what; `gate_words` says it to people."""

    reason: GateReason
    source: EvidenceSource
    """Whose comparisons it rests on: a judge's only where that decides."""
    weighed: Weighed
    needed: EvidenceSource | None = None
    """Without enough evidence: whose comparisons are the shortest way to a ruling; None where none would help."""
    given_up_after: int | None = None
    """So many checks, after which no more comparisons are waited for."""
    used_up: bool = False
    """Whether that is so because every held-out prompt has been compared."""
    unheard: bool = False
    """Whether no check will make more comparisons, and of those made nobody has said anything that counts."""

    @property
    def says(self) -> Ruling:
        if self.reason == "better":
            return "promote"
        waits = self.reason in ("unmeasured", "open") and self.given_up_after is None
        return "not enough evidence" if waits else "reject"

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        return self.weighed.criteria

    @property
    def more(self) -> int | None:
        """About how many more comparisons it takes; None where comparisons would not help."""
        return self.needed.more if self.needed else None

    @property
    def more_by(self) -> str | None:
        """Whose: a judge's name, or None for people."""
        return self.needed.judge if self.needed else None


def decide(rule: Rule, findings: Findings) -> GateDecision:
    """Promote, reject or wait. Pure.

    The order in which prompts were decided counts only where judges correct them: each by what was known before it.

    People count most: what they find worse is rejected, and what they find better only a limit can stop. A judge
    decides if it may, is trusted, and people have not decided and do not lean the other way; judges that contradict
    each other decide nothing.
    """
    people_alpha, judge_alpha = alphas(rule, len(findings.panel), findings.number)
    judges = findings.judges if rule.judge_may_decide else ()
    people = weigh_people(rule, findings, people_alpha)
    panel = tuple(judge_evidence(rule, judge, judge_alpha) for judge in judges if not judge.informs)
    if findings.reward_hacking == "open":
        findings = replace(findings, reward_hacking=hacked(people, panel))
    return ruling(
        Weighed(
            people=people,
            panel=panel,
            recused=tuple(InformingJudge.of(judge, judge.informs) for judge in judges if judge.informs),
            limits=limits_of(rule, findings),
            others=tuple(over_candidates(rule, findings)),
        )
    )


def hacked(people: EvidenceSource, panel: Sequence[JudgeEvidence]) -> Hacked:
    """Whether a reward rose for nothing: the candidate is found worse (Gao et al. 2023); 'open' where nothing tells.

    By people, where they have decided, else by judges that may, unless people lean the other way.
    """
    decided = people.standing in ("better", "worse")
    told = ({people.standing} if decided else {voter.says for voter in panel}) & {"better", "worse"}
    agreed = len(told | {people.leaning} - {"open"}) == 1
    return "worse" in told if told and agreed else "open"


def given_up(decision: GateDecision, checks: int, used_up: bool = False) -> GateDecision:
    """A rejection in place of waiting for comparisons that no check will make any more.

    `used_up`: every held-out prompt has been compared.
    """
    return replace(decision, needed=None, given_up_after=checks, used_up=used_up)


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


@dataclass(frozen=True)
class WrongPromotionRisk:
    """What the chance of a wrong promotion has come to over the project's candidates; nothing hangs on it."""

    number: int
    share: float
    alpha: float
    own: float | None
    """The part of alpha with which this candidate has to show that it is better; None where each has all of it."""
    passed: ClassVar[Passed] = "informs"


def over_candidates(rule: Rule, findings: Findings) -> list[WrongPromotionRisk | Requirement]:
    """What other candidates have to do with it: the risk, and how many the held-out prompts have weighed before."""
    number, carried = findings.number, findings.carried
    own = alpha_of(rule, number) if over_project(rule) else None
    risk = WrongPromotionRisk(number, risk_so_far(rule, number), rule.alpha, own)
    return [risk] if carried is None else [risk, Requirement("weighed-before", "informs", carried)]


# ----------------------------------------------------------------------------------------------------------- criteria
@dataclass(frozen=True)
class Requirement:
    """What the rule asks for of one figure."""

    asks: RequirementKey
    passed: Passed
    found: Estimate | float | Hacked
    """The figure; None where it was not measured."""
    bound: float = nan
    """What it is held against, if it is a number."""
    judge: str = ""
    """Whose the figure is, if it is a judge's."""


def met(so: bool) -> Passed:
    return "pass" if so else "fail"


# ----------------------------------------------------------------------------------------------------------- evidence
@dataclass(frozen=True)
class EvidenceSource:
    """People, or a judge: what their comparisons show so far, and whether that is that they prefer the candidate."""

    judge: str | None
    """A judge's name; None for people."""
    found: Estimate | None
    """The win rate, with the interval that decides; it counts prompts that somebody has judged."""
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
    unasked: int = 0
    """Prompts that count though nobody had to compare them."""
    helped: int = 0
    """Prompts left to judges that made people's say more."""
    unrecorded: bool = False
    """Whether judges could not help on some, because nobody recorded with which chance people got these."""

    @property
    def count(self) -> int:
        return self.found.n if self.found else 0

    @property
    def contradicted(self) -> bool:
        """Whether the interval, which is of what was said first, would tell, and all that was said does not."""
        found, told = self.found, self.standing in ("better", "worse")
        return found is not None and self.count >= self.least and not told and not found.low <= 0.5 <= found.high

    @property
    def leaning(self) -> EvidenceState:
        """What they find so far, from as many comparisons on as can decide: better, worse, or open."""
        value = self.found.value if self.found and self.count >= self.least else 0.5
        return "better" if value > 0.5 else "worse" if value < 0.5 else "open"

    @property
    def passed(self) -> Passed:
        if self.found is None:
            return "missing"
        return "open" if self.standing == "open" else met(self.standing == "better")


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


def share_by_rule(rule: Rule, findings: Findings, prompts_left: int) -> float:
    """The part of a next check's prompts that people are to get; `prompts_left`: those that were never compared."""
    prompts = corrected_by_judges(findings)
    capitals = log_capitals(stakes_of(prompts))
    alpha, _judges = alphas(rule, len(findings.panel), findings.number)
    log_capital = float(capitals[-1]) if len(capitals) else 0.0
    share = telling_share(log_capital, alpha, prompts.explained, prompts_left)
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
    return weigh(judge.name, corrected(by_prompt(judge.outcomes), JudgePanel()), alpha, least, most)


def weigh(judge: str | None, prompts: CorrectedPrompts, alpha: float, least: int, most: int) -> EvidenceSource:
    """What so many outcomes show, with `alpha` for the error on either side.

    What was said later moves no bet, but where it speaks against what the bets show, that is not shown.
    """
    stakes, count = stakes_of(prompts), prompts.judged
    found = anytime_win_rate(prompts, 2 * alpha)
    standing: EvidenceState = "open"
    if found is not None and count >= least:
        better, worse = min(found.value, found.low) > 0.5, max(found.value, found.high) < 0.5
        shown = "better" if better else "worse" if worse else None
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
        unasked=sum(not one.asked and not one.skipped for one in prompts.prompts),
        helped=prompts.helped,
    )
    if standing != "open":
        return said
    first, left = least - count, most - count
    expected = more_needed(stakes, alpha) if found is not None and found.value > 0.5 else None
    expected = expected and ceil(expected * count / len(prompts.prompts))  # of so many some will be skipped
    likely = expected is not None and expected <= left
    more = max(first, expected or 1) if likely else first if first > 0 else left
    return replace(said, more=more, likely=likely)


def anytime_win_rate(prompts: CorrectedPrompts, alpha: float) -> Estimate | None:
    """The win rate of all that was said, with the interval of what was bet on, which it may lie beside.

    The interval misses it with a chance of `alpha`, however often one looks. What was skipped is bet on as a tie and
    counts for neither.
    """
    bet_on, value = anytime_mean(stakes_of(prompts), alpha), prompts.win_rate
    if bet_on is None or value is None:
        return None
    low, high = (without_skipped(end, len(prompts.prompts), prompts.judged) for end in (bet_on.low, bet_on.high))
    return Estimate(min(max(value, 0.0), 1.0), low, high, prompts.judged)


@dataclass(frozen=True)
class Unfinished:
    """That a judge failed on too many comparisons to decide."""

    judge: str
    judged: int
    asked: int
    gave_up: str
    """Why it gave up, as a sentence; empty where it did not."""
    passed: ClassVar[Passed] = "few"


@dataclass(frozen=True)
class InformingJudge:
    """What a judge finds that must not decide."""

    judge: str
    share: float | None
    prompts: int
    why: Recusal
    passed: ClassVar[Passed] = "informs"

    @classmethod
    def of(cls, judge: JudgeFindings, why: Recusal) -> InformingJudge:
        """What it finds on every prompt that it has compared."""
        prompts = by_prompt(judge.outcomes)
        return cls(judge.name, win_rate(prompts), len(prompts), why)


@dataclass(frozen=True)
class JudgeEvidence:
    """A judge that may decide: what it prefers, whether it is trusted, and whether it prefers length only."""

    source: EvidenceSource
    trust: Requirement
    equal_lengths: Requirement
    unfinished: Unfinished | None = None

    @property
    def obstacle(self) -> Requirement | Unfinished | None:
        """Why it must not decide: it is not trusted, it failed on many, which may not be like the others, or its
        preference may be for length; None where it may."""
        if self.trust.passed != "pass":
            return self.trust
        short = self.source.standing == "better" and self.equal_lengths.passed != "pass"
        return self.unfinished or (self.equal_lengths if short else None)

    @property
    def says(self) -> EvidenceState | None:
        """What it decides for; None where it must not decide."""
        return None if self.obstacle else self.source.standing

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        return self.trust, self.source, self.equal_lengths, *filter(None, (self.unfinished,))


# Of a judge's comparisons the share that it may fail on and still decide.
FAILURES_MOST = 0.1


def judge_evidence(rule: Rule, judge: JudgeFindings, alpha: float) -> JudgeEvidence:
    """What a judge has to say, and whether it may.

    Judges like length: at equal lengths the lower end of its interval has to be above a half. A point just above it
    says nothing.
    """
    judged, asked = len(judge.outcomes), len(judge.outcomes) + judge.left_open
    failed = judge.left_open > FAILURES_MOST * asked
    agrees, longer = judge.trust, judge.length_controlled
    trusted = "missing" if agrees is None else met(agrees.low >= rule.judge_trust)
    prefers = "missing" if longer is None else met(longer.low > 0.5)
    return JudgeEvidence(
        source=weigh_judge(judge, alpha, rule.judge_least, rule.judge_most),
        trust=Requirement("trust", trusted, agrees, rule.judge_trust, judge=judge.name),
        equal_lengths=Requirement("equal-lengths", prefers, longer, 0.5, judge=judge.name),
        unfinished=Unfinished(judge.name, judged, asked, judge.gave_up) if failed else None,
    )


# ------------------------------------------------------------------------------------------------------------- limits
# The field of `Rule` that bounds a figure of `Findings`, and that it is called after.
BOUNDS: Mapping[RequirementKey, str] = {
    "kl_per_token": "kl_most",
    "nll_ratio": "nll_ratio_most",
    "distinct_ratio": "distinct_ratio_least",
    "truncated_more": "truncated_more_most",
    "perplexity_ratio": "perplexity_ratio_most",
    "probes_fall": "probes_fall_most",
}


def limits_of(rule: Rule, findings: Findings) -> tuple[Requirement, ...]:
    """What a check answers of the rule, whoever prefers the candidate."""
    prompts, same, hacked = findings.prompts, findings.identical_to_serving, findings.reward_hacking
    # Too few are as if nothing had been measured.
    enough: Passed = "missing" if prompts is None else "pass" if prompts >= rule.prompts_least else "few"
    return (
        Requirement("prompts", enough, prompts, rule.prompts_least),
        Requirement("different", no_problem(same), same),
        *within_limits(rule, findings),
        Requirement("no-reward-hacking", no_problem(hacked), hacked),
    )


def no_problem(problem: Hacked) -> Passed:
    """Whether something is met that must not be found."""
    if isinstance(problem, str):
        return "open" if problem == "open" else "inapplicable"
    return "missing" if problem is None else met(not problem)


def within_limits(rule: Rule, measured: Findings | CheckReport) -> list[Requirement]:
    """Whether the candidate has kept its language."""
    return [within(figure, getattr(measured, figure), getattr(rule, bound)) for figure, bound in BOUNDS.items()]


def within(figure: RequirementKey, value: float | None, bound: float) -> Requirement:
    return Requirement(figure, "missing" if value is None else met(keeps(figure, value, bound)), value, bound)


def keeps(figure: RequirementKey, value: float, bound: float) -> bool:
    """Whether a figure keeps within its bound. NaN is on neither side and does not: its answers could not be scored."""
    return at_bound(value, bound) or (value >= bound if BOUNDS[figure].endswith("_least") else value <= bound)


def at_bound(value: float, bound: float) -> bool:
    """Whether a figure is off its bound by the noise of binary fractions only."""
    return isclose(value, bound, rel_tol=1e-9)


# ------------------------------------------------------------------------------------------------------------- ruling
Criterion: TypeAlias = EvidenceSource | Requirement | Unfinished | InformingJudge | WrongPromotionRisk
"""One thing that the rule asks for: what was found, what is asked, and whether that is so (`passed`)."""


@dataclass(frozen=True)
class Weighed:
    """All that a decision is made of."""

    people: EvidenceSource
    panel: tuple[JudgeEvidence, ...]
    recused: tuple[InformingJudge, ...]
    limits: tuple[Requirement, ...]
    others: tuple[WrongPromotionRisk | Requirement, ...]
    """What other candidates have to do with it."""

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        panel = (one for voter in self.panel for one in voter.criteria)
        return self.people, *panel, *self.recused, *self.limits, *self.others

    def saying(self, state: EvidenceState) -> list[EvidenceSource]:
        """The judges that decide for this."""
        return [voter.source for voter in self.panel if voter.says == state]


def ruling(weighed: Weighed) -> GateDecision:
    """The decision, first things first."""
    people, better, worse = weighed.people, weighed.saying("better"), weighed.saying("worse")
    failed = {one.asks for one in weighed.limits if one.passed == "fail"}
    if people.standing == "worse":
        return GateDecision("worse", people, weighed)
    if failed:
        return GateDecision("same" if "different" in failed else "past-a-limit", people, weighed)
    if people.standing == "better":
        return promoted(people, weighed)
    if better and not worse and people.leaning != "worse":
        return promoted(better[0], weighed)
    if worse and not better and people.leaning != "better":
        return GateDecision("worse", worse[0], weighed)
    if people.standing == "spent":
        return GateDecision("not-shown", people, weighed)
    spent, waits = weighed.saying("spent"), weighed.saying("open")
    if spent and not (better or worse or waits) and people.count < people.least:
        return GateDecision("not-shown", spent[0], weighed)
    # An estimate before a mere bound.
    return GateDecision("open", people, weighed, min((people, *waits), key=lambda one: (not one.likely, one.more)))


def promoted(source: EvidenceSource, weighed: Weighed) -> GateDecision:
    """Promotion, unless something was not measured; whoever promotes has told of a reward too (`hacked`)."""
    few = {one.passed for one in weighed.limits} & {"missing", "few"}
    return GateDecision("unmeasured" if few else "better", source, weighed)
