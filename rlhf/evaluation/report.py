"""The report of a check as a record: a candidate's figures beside its anchor's and those of what it may replace. Pure.

The gate, the pages and the card on the Hub read these fields. Reports are stored as JSON in the job's row; those of
earlier versions are read too: what they did not measure is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from annotation.metrics.intervals_and_bias import Estimate, Share
from annotation.validation import StoredAs, stored
from rlhf.evaluation.probes import ProbeFigures, falls, sure_fall
from rlhf.judges.verdicts import ChanceBasis

CountedIn: TypeAlias = Literal["prompts", "comparisons"]


@dataclass(frozen=True)
class AnswerFigures:
    """What one policy's answers to the held-out prompts are like; None is what was not measured."""

    revision: str = ""
    precision: Annotated[str, StoredAs("weights")] = ""
    """Precision of the weights that answered; empty of an earlier version, which measured all against the base in
    NF4."""
    mean_length: float | None = None
    """Words in an answer."""
    distinct_1: float | None = None
    """Different words as a share of all words (Li et al. 2016)."""
    distinct_2: float | None = None
    """The same of pairs of words."""
    kl_to_anchor: Annotated[float | None, StoredAs("kl_to_base")] = None
    """To what it is measured against, in its own precision, nats a token."""
    nll_under_anchor: Annotated[float | None, StoredAs("nll_under_base")] = None
    """Negative log-likelihood under the same, nats a token."""
    ended_share: float | None = None
    """Share of answers that ended by themselves and said something."""
    repetition: float | None = None
    """Share of an answer's groups of four words that it has said before (Welleck et al. 2020)."""
    perplexity: float | None = None
    """Of a fixed plain text."""
    perplexity_of: str | None = None
    """The sha256 of the token ids of that text, and of how they are scored."""
    probes: ProbeFigures | None = None
    """Whether it still can do what it could."""

    @property
    def cut_off_share(self) -> float | None:
        return None if self.ended_share is None else 1 - self.ended_share


@dataclass(frozen=True)
class WinRate(Share):
    """How often a policy's answers won against another's by one judge, as `rlhf.evaluation.win_rates` counts it.

    The value is None where the judge has said nothing and there was something to say.
    """

    ties: int = 0
    length_controlled: Estimate | None = None
    """What it would be if the answers were of equal lengths."""


@dataclass(frozen=True)
class JudgeCalls:
    """What came of asking one judge in a check."""

    judged: int = 0
    left_open: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    """Verdicts that failed, by reason."""
    gave_up: str = ""
    """Why it gave up; empty where it did not."""
    chances: ChanceBasis | None = None
    """What its chances rest on; None where it gave none in this check, and of an earlier version."""


@dataclass(frozen=True)
class RewardChange:
    """What became of the reward that a policy was trained to raise."""

    rise: float | None
    """None where there were too few rounds to tell."""
    length: float | None
    """How the reward goes with an answer's length (Spearman)."""


@dataclass(frozen=True)
class ImplicitAccuracy(Share):
    """How often the implicit reward prefers what people preferred, by held-out comparison."""

    left_out: Mapping[str, int] = field(default_factory=dict)
    """Pairs that were not looked at, by reason."""


@dataclass(frozen=True)
class CheckReport:
    candidate: AnswerFigures = AnswerFigures()
    against: AnswerFigures = AnswerFigures()
    """Of the policy that it was compared with."""
    anchor: Annotated[AnswerFigures, StoredAs("base")] = AnswerFigures()
    """Of what the candidate is measured against, in its precision (`anchor_of` in `rlhf.evaluation.anchors`); earlier
    versions said base also where it was other weights."""
    prompts: int = 0
    """Held-out prompts that were answered."""
    compared_apart: int = 0
    """Other prompts, on which the two policies were compared; nothing here is of their answers."""
    implicit_accuracy: ImplicitAccuracy | None = None
    win_rates: Mapping[str, Mapping[str, WinRate]] | None = None
    """By the other policy's revision, then by judge; None of a version that asked no judges."""
    judged: Mapping[str, JudgeCalls] = field(default_factory=dict)
    same_answers: int | None = None
    """Prompts that candidate and `against` answered in the same words; None where that was not counted."""
    reward: Annotated[RewardChange | None, StoredAs("reward_hacking")] = None
    """None where no reward took part in its training, or `reward_known` is false."""
    reward_known: bool = True
    """Whether the check looked for a reward at all."""
    seconds: float | None = None
    equal_length_distinct: float | None = None
    """Distinct-2 of its answers over the anchor's at equal lengths; None of a version that did not cut the longer."""
    equal_length_nll_ratio: float | None = None
    """How much its answers surprise its anchor, over how much the anchor's own do, at equal lengths; None of a version
    that did not cut the longer."""
    equal_length_kl: float | None = None
    """KL to its anchor at as many tokens of its answers as the anchor's have, in nats a token; None of a version that
    took whole answers."""
    kl_to_ground: float | None = None
    """KL to the weights that its adapter hangs on, where these are others than the anchor, nats a token."""
    rule: int | None = None
    """The version of the gate's rule that the check was made for; None of one that counted comparisons, not prompts."""

    # What the gate's limits bound: ratios are to the anchor's own figures, so that no step is too small to be seen.
    @property
    def kl_per_token(self) -> float | None:
        """How far it has moved from its anchor, in nats a token, at equal lengths where it was measured so."""
        return self.candidate.kl_to_anchor if self.equal_length_kl is None else self.equal_length_kl

    @property
    def nll_ratio(self) -> float | None:
        """How much its answers surprise its anchor, over how much the anchor's own do, at equal lengths if known."""
        if self.equal_length_nll_ratio is not None:
            return self.equal_length_nll_ratio
        return ratio(self.candidate.nll_under_anchor, self.anchor.nll_under_anchor)

    @property
    def distinct_ratio(self) -> float | None:
        """Distinct-2 of its answers, over the anchor's, at equal lengths where they were measured so."""
        if self.equal_length_distinct is not None:
            return self.equal_length_distinct
        return ratio(self.candidate.distinct_2, self.anchor.distinct_2)

    @property
    def truncated_more(self) -> float | None:
        """Share of its answers that were cut off, less the anchor's."""
        own, anchor = self.candidate.ended_share, self.anchor.ended_share
        return None if own is None or anchor is None else anchor - own

    @property
    def perplexity_ratio(self) -> float | None:
        """Perplexity of the fixed text, over the anchor's."""
        return ratio(self.candidate.perplexity, self.anchor.perplexity)

    @property
    def probe_falls(self) -> Mapping[str, Estimate]:
        """How much less chance than the anchor it gives to what is right on the probes, over all and by family."""
        return falls(self.candidate.probes, self.anchor.probes)

    @property
    def probes_fall(self) -> float | None:
        """The most of it that is sure: the greatest lower end of the intervals, or 0."""
        return sure_fall(self.probe_falls)

    @property
    def identical(self) -> bool | None:
        """Whether it answers every prompt in the same words as what it was compared with; None if not counted."""
        return None if self.same_answers is None or not self.prompts else self.same_answers == self.prompts

    @property
    def counted_in(self) -> CountedIn:
        """What its win rates count: until version 5 each comparison, also several of one prompt."""
        return "prompts" if (self.rule or 0) >= PROMPTS_ARE_COUNTED else "comparisons"

    def rates_against(self, revision: str) -> Mapping[str, WinRate]:
        """By judge, how often it won against another policy."""
        return (self.win_rates or {}).get(revision, {})

    def to_json(self) -> dict[str, Any]:
        stored = {name: value for name, value in asdict(self).items() if name not in RENAMED and value is not None}
        reward = None if self.reward is None else asdict(self.reward)
        return stored | ({"reward_hacking": reward} if self.reward_known else {})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CheckReport:
        """A stored report, whatever version wrote it."""
        accuracy = values.get("implicit_accuracy")
        if accuracy and accuracy.get("too_long"):  # the first version counted only pairs that were too long
            accuracy = {"left_out": {"too-long": accuracy["too_long"]}, **accuracy}
        known = {"implicit_accuracy": accuracy, "reward_known": "reward_hacking" in values}
        return stored(cls, {**values, **known}, endless=True)


# 2: evidence counts prompts, and distinct-2 is compared at equal lengths. 3: so is the likelihood, and the base is what
# the limits are against also under a policy on other whole weights. 4: where an answer ends is no part of its
# likelihood. 5: KL is taken at equal lengths; a prompt counts by what was said of it first, corrected by the very
# judges that judged it. 6: what was drawn for people and skipped ties, and none is given to them for a judge's failing.
# 7: nor is it given to others then; what later verdicts speak against is not shown. 8: prompts of the same check alone
# correct each other, and each was looked at once. 9: bets are weighed by Beta(4, 8), and are none too small to show
# anything within a few hundred prompts.
RULE_VERSION = 9
PROMPTS_ARE_COUNTED = 5
# Stored under a name of its own, or not at all.
RENAMED = ("reward", "reward_known")


def ratio(value: float | None, to: float | None) -> float | None:
    """One figure over another; None where either is missing or the second is zero."""
    return None if value is None or not to else value / to
