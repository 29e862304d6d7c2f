"""Probes: short fixed questions by which a check sees whether a policy can still do what it could. Pure.

Nothing is drawn: a probe compares log-probabilities, which is cheap, and the same each time. It comes to a chance:

- of several answers to one prompt (knowledge, arithmetic), that of the right one among them (Hendrycks et al. 2021, but
  by the answers' text: small models don't know what the letters A to D stand for);
- of two prompts with an answer each (format), that each answer belongs to its own prompt and not to the other, so that
  what a policy likes to say anyway cancels out;
- of a harmless prompt (refusals), that the answer begins as no refusal does.

What a policy has lost is the mean of the differences to its anchor's chances, probe by probe, with Student's interval.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, isfinite, sqrt
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Annotated, Literal, get_args

from annotation.metrics.intervals_and_bias import Estimate
from annotation.validation import StoredAs

Family = Literal["knowledge", "arithmetic", "format", "refusals"]
FAMILIES: tuple[Family, ...] = get_args(Family)
ALL = "all"
PROBES = Path(__file__).parents[2] / "annotation" / "examples" / "probes.jsonl"
# The chance that some interval of a report does not hold the fall that it is about.
ERROR = 0.05


@dataclass(frozen=True)
class Probe:
    """One prompt with the right answer before wrong ones, or two prompts with the answer of each.

    Of the family "refusals" the answers are how refusals begin, none of them as another does. `begin` is how the
    answer begins, whichever it is.
    """

    family: Family
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    begin: str = ""

    def chance(self, logps: Sequence[float]) -> float:
        """What the log-probabilities of all answers to the first prompt, then to the second, come to.

        A model that computes no numbers has no chance.
        """
        if not all(value < float("inf") for value in logps):  # NaN too
            return 0.0
        if self.family == "refusals":
            return max(0.0, 1 - sum(exp(value) for value in logps))
        if len(self.prompts) == 2:
            own_first, first_crossed, second_crossed, own_second = logps
            return chance_of_first([own_first + own_second, first_crossed + second_crossed])
        return chance_of_first(logps)


def chance_of_first(logps: Sequence[float]) -> float:
    """The probability of the first of several outcomes, one of which it is; 0 where none of them is possible."""
    most = max(logps)
    return exp(logps[0] - most) / sum(exp(value - most) for value in logps) if isfinite(most) else 0.0


@cache
def read_probes() -> tuple[Probe, ...]:
    with PROBES.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(
        Probe(row["family"], tuple(row["prompts"]), tuple(row["answers"]), row.get("begin", "")) for row in rows
    )


@dataclass(frozen=True)
class ProbeFigures:
    """The chances that a policy gives to what is right, by family, in the order of the probes."""

    asked: str
    """sha256 of the token ids that were scored: figures of others can't be compared, probe by probe."""
    precision: Annotated[str, StoredAs("weights")]
    chances: Mapping[str, tuple[float, ...]]

    def sets(self) -> dict[str, tuple[float, ...]]:
        """The chances of all probes together, then by family."""
        return {ALL: tuple(chance for found in self.chances.values() for chance in found), **self.chances}

    def mean(self, name: str) -> float | None:
        """The mean chance in a family, or in all; None where nothing was asked."""
        found = self.sets().get(name)
        return fmean(found) if found else None


def falls(own: ProbeFigures | None, anchor: ProbeFigures | None) -> dict[str, Estimate]:
    """How much chance a policy has lost to its anchor, over all probes and in each family, with intervals.

    All intervals together hold with 95% (Bonferroni). Empty where the two can't be compared.
    """
    if own is None or anchor is None or own.asked != anchor.asked:
        return {}
    before, after = anchor.sets(), own.sets()
    return {
        name: mean_interval([was - now for was, now in zip(before[name], after[name], strict=True)], ERROR / len(after))
        for name in after
        if len(after[name]) > 1
    }


def sure_fall(found: Mapping[str, Estimate]) -> float | None:
    """The most that was surely lost, in any family or over all; 0 where nothing surely was, None without figures."""
    return max(0.0, *(estimate.low for estimate in found.values())) if found else None


def mean_interval(values: Sequence[float], error: float) -> Estimate:
    """A mean of two or more values with Student's two-sided interval, which misses it with a chance of `error`."""
    mean, half = fmean(values), student(1 - error / 2, len(values) - 1) * stdev(values) / sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def student(share: float, freedom: int) -> float:
    """The quantile of Student's distribution, by its expansion around the normal one (Hill 1970).

    Within 0.1% from ten degrees of freedom on.
    """
    z = NormalDist().inv_cdf(share)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
