"""How often the gate promotes a candidate that is no better, and what it takes to promote one that is.

Simulated candidates win a known share of their comparisons with the policy that serves; some comparisons are ties. The
gate itself (`rlhf.evaluation.gate.decide`, default rule, everything but the comparisons in order) is asked after every
single one, until it promotes or rejects: whoever looks all the time must not be fooled more often than `nominal`.

How to read it. What is promoted at 45 and 50% is wrong, and `false_promotion_rate` is the worst of these. At 55% and
more it is right; the others were rejected, by mistake or because the rule's most comparisons did not show it.
`comparisons` is the median over the right decisions. `judge too`: a trusted judge may decide besides, with the same win
rate and twice as many comparisons; people and judge share one alpha. `naive` is who looks at Wilson's 95% interval
after every comparison and believes it as soon as it leaves 50%. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from annotation.metrics.intervals_and_bias import Estimate, share_of, wilson_interval
from benchmarks import driver
from benchmarks.driver import say
from rlhf.evaluation import gate
from rlhf.evaluation.gate import Findings, GateVerdict, JudgeFindings, Rule

WIN_RATES = (0.45, 0.50, 0.55, 0.60, 0.70)
TIES = 0.2
SEED = 0
CANDIDATES, QUICK_CANDIDATES = 2000, 40
JUDGEMENTS_A_LOOK = 2
"""A judge's comparisons for each one by people."""
TOLD_EVERY_SECONDS = 30.0

Outcomes = tuple[float, ...]
Decided = tuple[GateVerdict, int]
"""What was decided, after how many comparisons by people."""

# Whatever else is asked for is in order.
SOUND = Findings(
    kl_per_token=0.1,
    prompts=60,
    nll_ratio=1.0,
    distinct_ratio=1.0,
    truncated_more=0.0,
    perplexity_ratio=1.0,
    probes_fall=0.0,
    reward_hacking=False,
    identical_to_serving=False,
)
TRUST = Estimate(0.8, 0.7, 0.9, 100)
AT_EQUAL_LENGTHS = Estimate(0.6, 0.5, 0.7, 100)


# ---------------------------------------------------------------------------------------------------------- the gate
class Remembered:
    """`gate.weigh`, which is most of a decision's work, with what it said of the same counts; until it is closed."""

    def __init__(self) -> None:
        self.weigh = gate.weigh
        self.known: dict[tuple[Any, ...], gate.EvidenceSource] = {}

    def __enter__(self) -> Remembered:
        gate.weigh = self
        return self

    def __exit__(self, *_: object) -> None:
        gate.weigh = self.weigh

    def __call__(
        self, judge: str | None, outcomes: Outcomes, alpha: float, least: int, most: int
    ) -> gate.EvidenceSource:
        key = (judge, len(outcomes), outcomes.count(1.0), outcomes.count(0.5), alpha, least, most)
        if key not in self.known:
            self.known[key] = self.weigh(judge, outcomes, alpha, least, most)
        return self.known[key]


def decide(rule: Rule, people: Outcomes, judged: Outcomes | None) -> GateVerdict:
    """The gate's verdict on a candidate in which all else is in order."""
    judges = () if judged is None else (JudgeFindings("judge", judged, TRUST, AT_EQUAL_LENGTHS),)
    return gate.decide(rule, replace(SOUND, people=people, judges=judges)).verdict


def look_at(rule: Rule, people: Outcomes, judged: Outcomes | None) -> Decided:
    """Ask the gate after every comparison by people, until it decides."""
    for count in range(1, rule.people_most + 1):
        heard = None if judged is None else judged[: JUDGEMENTS_A_LOOK * count]
        verdict = decide(rule, people[:count], heard)
        if verdict != "not enough evidence":
            return verdict, count
    raise AssertionError("the rule's most comparisons decide")


def look_at_wilson(rule: Rule, people: Outcomes) -> Decided:
    """Believe Wilson's interval as soon as it leaves 50%, within the same numbers of comparisons."""
    won = 0.0
    for count, outcome in enumerate(people[: rule.people_most], 1):
        won += outcome
        low, high = wilson_interval(won, count)
        if count >= rule.people_least and (low > 0.5 or high < 0.5):
            return ("promote" if low > 0.5 else "reject"), count
    return "reject", rule.people_most


# ------------------------------------------------------------------------------------------------------- simulation
def drawn(rate: float, candidates: int, comparisons: int, stream: int) -> list[Outcomes]:
    """Outcomes of candidates with this win rate, ties being half a win."""
    chances = (1 - rate - TIES / 2, TIES, rate - TIES / 2)
    source = np.random.default_rng((SEED, round(1000 * rate), stream))
    table = source.choice((0.0, 0.5, 1.0), size=(candidates, comparisons), p=chances)
    return [tuple(row) for row in table.tolist()]


def measure(rate: float, candidates: int, progress: Progress) -> dict[str, Any]:
    """All three ways to look at candidates of one win rate."""
    alone, shared = Rule(), Rule(judge_may_decide=True)
    people = drawn(rate, candidates, alone.people_most, stream=0)
    judged = drawn(rate, candidates, JUDGEMENTS_A_LOOK * shared.people_most, stream=1)
    found: dict[str, list[Decided]] = {"gate": [], "judge": [], "naive": []}
    with Remembered():
        for mine, its in zip(people, judged, strict=True):
            found["gate"].append(look_at(alone, mine, None))
            found["judge"].append(look_at(shared, mine, its))
            found["naive"].append(look_at_wilson(alone, mine))
            progress.tick(rate)
    return {
        **summary(rate, found["gate"]),
        "with_judge": summary(rate, found["judge"]),
        "naive": summary(rate, found["naive"]),
    }


def summary(rate: float, decided: Sequence[Decided]) -> dict[str, Any]:
    """Shares of the verdicts, and how many comparisons they took."""
    right = "promote" if rate > 0.5 else "reject"
    counts = [count for verdict, count in decided if verdict == right]
    promoted = share_of(sum(verdict == "promote" for verdict, _ in decided), len(decided))
    assert promoted is not None
    return {
        "promoted": round(promoted.value, 4),
        "promoted_interval": [round(promoted.low, 4), round(promoted.high, 4)],
        "rejected": round(1 - promoted.value, 4),
        "median_comparisons": median(counts) if counts else None,
        "median_to_any_decision": median(count for _, count in decided),
    }


class Progress:
    """Says from time to time how far it is and how long the rest takes."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.told = total, 0, time.monotonic()
        self.began = self.told

    def tick(self, rate: float) -> None:
        """One more candidate."""
        self.done += 1
        now = time.monotonic()
        if now - self.told >= TOLD_EVERY_SECONDS or self.done == self.total:
            self.told = now
            left = (now - self.began) / self.done * (self.total - self.done)
            say(f"{self.done} of {self.total} candidates, now at {rate:.0%}; about {left:.0f} s left")


def run(candidates: int) -> dict[str, Any]:
    """Every win rate; the figures."""
    progress = Progress(candidates * len(WIN_RATES))
    by_rate = {f"{100 * rate:.0f}": measure(rate, candidates, progress) for rate in WIN_RATES}
    wrong = [
        way["promoted"] for rate, found in by_rate.items() if float(rate) <= 50 for way in (found, found["with_judge"])
    ]
    return {
        "false_promotion_rate": max(wrong),
        "nominal": Rule().alpha,
        "by_win_rate": by_rate,
        "candidates": candidates,
        "ties": TIES,
        "rule": asdict(Rule()),
        "seconds": round(time.monotonic() - progress.began, 1),
    }


# ---------------------------------------------------------------------------------------------------------- reporting
HEADERS = ("true win rate", "promoted (95%)", "rejected", "comparisons", "judge too: promoted", "naive: promoted")


def report(found: Mapping[str, Any]) -> str:
    """A table in Markdown for people; the last line is one JSON object."""
    lines = ["SMOKE RUN: few candidates. It shows that everything runs, no more.", ""] if found["quick"] else []
    lines += ["| " + " | ".join(HEADERS) + " |", "|" + " ---: |" * len(HEADERS)]
    lines += ["| " + " | ".join(row(rate, entry)) + " |" for rate, entry in found["by_win_rate"].items()]
    most, nominal = found["rule"]["people_most"], found["nominal"]
    lines += [
        "",
        f"{found['candidates']} candidates of each win rate, {found['ties']:.0%} of comparisons are ties.",
        f"The gate is asked after each comparison, up to {most}.",
        f"Wrong promotions: {found['false_promotion_rate']:.1%}, nominal {nominal:.0%}.",
        driver.describe_machine(found["machine"]) + ".",
    ]
    return "\n".join([*lines, json.dumps(found)])


def row(rate: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """One win rate."""
    return (
        f"{rate}%",
        interval(entry),
        f"{entry['rejected']:.1%}",
        "–" if entry["median_comparisons"] is None else f"{entry['median_comparisons']:g}",
        interval(entry["with_judge"]),
        interval(entry["naive"]),
    )


def interval(entry: Mapping[str, Any]) -> str:
    """The share that was promoted, with its interval."""
    low, high = entry["promoted_interval"]
    return f"{entry['promoted']:.1%} ({low:.1%} to {high:.1%})"


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of a minute; figures mean little")
    parser.add_argument("--candidates", type=int, metavar="N", help=f"of each win rate (default: {CANDIDATES})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = read_options(arguments)
    candidates = options.candidates or (QUICK_CANDIDATES if options.quick else CANDIDATES)
    found = {**run(candidates), "quick": options.quick, "machine": driver.machine()}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), "utf-8")
    print(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
