"""How often the gate promotes a candidate that is no better, and how many people it takes to promote one that is.

Simulated candidates are compared with what serves, prompt by prompt; a fifth of comparisons are ties, or what the cell
says. What decides are the rule's own functions: `evidence.corrected` on everything there is, `sequential_testing` on
what that comes to, `evidence.telling_share` before each check of 60 prompts, `held_out_sets.least_compared` for which
these are. It is looked at after every single comparison by people.

How to read it. **Wrong promotions**: candidates that are no better over all prompts, however lopsided on each. A cell
names how the chance to win varies by prompt (alike; Beta(0.2, 0.2); the same winner with every seed), how many prompts
there are, whether further checks put the same prompts again (60 each, once people have what was left to judges; of a
prompt the first draw counts, and what was said first), and what the judge is worth: `biased` finds six of ten
candidates' answers better while people are even, `trained-in` nine of ten, `hostile` says mostly the opposite; all of
them with a card that says 85%, as a `flattered coin` has. Of `two`, one of 85% and one trained in, the second compares
only what was left to judges. A `shy` one gives no verdict on half of what the candidate loses. Where people skip a part
of the prompts, judges find the candidate better on each of these; where others judge these later, they do as ever. With
20 prompts the rule decides nothing: the cell is of the evidence without that.
**Right promotions**: candidates that win 60 of 100, 200 prompts, judges with a card of what they are worth. A judge of
85% says of 85 of 100 comparisons what people say (won, tied, lost), of the others one of the other two.
`people_median` is over all candidates, of which those that were not promoted count with all that they took; it counts
all that people compared, also what counted no more.
`people_median_promoted` is over the promoted alone, whom chance has favoured. `promoted` says how many were,
`people_mean` what all of them took, and `half_promoted_after` the comparisons after which half of all were promoted:
prompts that judges alone compare are lost to people, so a judge that saves work costs some promotions where prompts
are few. **A project**: 50 useless candidates in a row, whether any is promoted.

It ends with 1 where a goal is missed. A cell in which more are promoted wrongly than the rule allows is measured again
with four times as many candidates, and missed if they are still more. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import numpy as np

from annotation.metrics.evidence import CorrectedPrompts, DecidedOutcome, LeftPrompt
from annotation.metrics.intervals_and_bias import Estimate, share_of
from annotation.metrics.sequential_testing import log_capitals
from benchmarks.harness import driver
from benchmarks.harness.driver import say
from rlhf.data.held_out_sets import least_compared
from rlhf.evaluation.gate import (
    Findings,
    JudgeFindings,
    Rule,
    alpha_of,
    corrected_by_judges,
    share_by_rule,
    stakes_of,
    weigh_judge,
)

Clusters = Literal["alike", "beta", "same winner"]
Panel = Literal["none", "coin", "75", "85", "95", "biased", "trained-in", "hostile", "flattered coin", "two", "shy"]

TIES = 0.2
EVEN, BETTER = 0.5, 0.6
PROMPTS_A_CHECK = 60
TUNED_ON = 0
"""The seed that the constants of people's share were tuned on: figures to report are of another."""
CANDIDATES, QUICK_CANDIDATES = 1000, 25
AGAIN = 4
"""So many times as many candidates of a cell in which too many were promoted."""
USELESS_IN_A_ROW = 50
TINY_ALPHA = 1e-9
CLUSTERED: tuple[Clusters, ...] = ("alike", "beta", "same winner")
# Won, tied, lost by a judge that does not listen to people.
DEAF: Mapping[Panel, tuple[float, float, float]] = {
    "coin": (0.4, 0.2, 0.4),
    "flattered coin": (0.4, 0.2, 0.4),
    "biased": (0.5, 0.2, 0.3),
    "trained-in": (0.9, 0.05, 0.05),
}
AGREES: Mapping[Panel, float] = {"75": 0.75, "85": 0.85, "95": 0.95, "hostile": 0.85, "shy": 0.95}
# What the judge's card says; it is of comparisons before, and of some judges wrong.
CARDS: Mapping[Panel, float] = {"coin": 0.5, "75": 0.82, "85": 0.89, "95": 0.96, "shy": 0.96}
TWO: tuple[Panel, Panel] = ("85", "trained-in")
FLATTERING = 0.85
JUDGED_BEFORE = 100
GOALS: Mapping[Panel, float] = {"85": 45, "75": 60}
USELESS: tuple[Panel, ...] = ("coin", "flattered coin", "hostile")
COIN_GOAL = 1.05


# --------------------------------------------------------------------------------------------------------- candidates
@dataclass(frozen=True)
class Cell:
    """Candidates of one kind, and how they are checked."""

    win_rate: float
    prompts: int
    clusters: Clusters = "alike"
    judge: Panel = "none"
    repeats: int = 0
    """Further checks, which put the same prompts again, with other seeds."""
    seed: int = TUNED_ON
    ties: float = TIES
    skipped: float = 0.0
    """The part of the prompts that people skip, of which judges like the candidate's answers."""
    judged_later: bool = False
    """Whether others judge what was skipped, as an earlier version had it: that is shown, and the bets stay."""

    @property
    def name(self) -> str:
        """In words."""
        again = f", {self.repeats} times again" if self.repeats else ""
        tied = f", {self.ties:.0%} ties" if self.ties != TIES else ""
        later = " and others judge it later" if self.judged_later else ""
        skipped = f", people skip {self.skipped:.0%}{later}" if self.skipped else ""
        kind = f"{self.prompts} prompts{again}, {self.clusters}{tied}{skipped}"
        return f"{self.win_rate:.0%}, {kind}, judge: {self.judge}"

    @property
    def panel(self) -> tuple[Panel, ...]:
        """The judges that are asked."""
        return TWO if self.judge == "two" else () if self.judge == "none" else (self.judge,)


@dataclass(frozen=True)
class Course:
    """What the gate would have seen of one candidate."""

    highest: float
    """The logarithm of the largest capital against "no better" before it was shown to be worse."""
    promoted_after: int | None
    """Comparisons by people until it was promoted; None where it was not."""
    people: int
    """Comparisons by people, those too that counted no more, until anything was decided or the prompts were used up."""
    decided: bool = True


def chances(cell: Cell, source: np.random.Generator) -> np.ndarray[Any, Any]:
    """Each prompt's chance that the candidate wins a comparison that is no tie."""
    rate = cell.win_rate if cell.clusters == "same winner" else (cell.win_rate - cell.ties / 2) / (1 - cell.ties)
    if cell.clusters == "alike":
        return np.full(cell.prompts, rate)
    if cell.clusters == "beta":
        return source.beta(0.4 * rate, 0.4 * (1 - rate), cell.prompts)
    return (source.random(cell.prompts) < rate).astype(float)


def compared(cell: Cell, chance: np.ndarray[Any, Any], source: np.random.Generator) -> np.ndarray[Any, Any]:
    """What people would say of one comparison on each prompt."""
    won = (source.random(len(chance)) < chance).astype(float)
    tied = (source.random(len(chance)) < cell.ties) & (cell.clusters != "same winner")
    return np.where(tied, 0.5, won)


def passed_over(cell: Cell, prompts: int, source: np.random.Generator) -> np.ndarray[Any, Any]:
    """Which of so many prompts people skip first."""
    return source.random(prompts) < cell.skipped if cell.skipped else np.zeros(prompts, bool)


def judged(judge: Panel, people: np.ndarray[Any, Any], source: np.random.Generator) -> np.ndarray[Any, Any]:
    """What a judge says of comparisons of which people would say this, not a number of what they would skip; not a
    number where it gives no verdict."""
    if judge in DEAF:
        return source.choice((1.0, 0.5, 0.0), size=len(people), p=DEAF[judge])
    says = 1 - people if judge == "hostile" else people
    others = (2 * says + source.integers(1, 3, size=len(people))) % 3 / 2  # one of the other two verdicts
    heard = np.where(source.random(len(people)) < AGREES[judge], says, others)
    silent = (judge == "shy") & (people == 0) & (source.random(len(people)) < 0.5)
    return np.where(silent, np.nan, np.where(np.isnan(people), 1.0, heard))


# ----------------------------------------------------------------------------------------------------------- the gate
@dataclass(frozen=True)
class Luck:
    """Of one candidate: what people say does not depend on who judges beside them, so that cells can be compared."""

    people: np.random.Generator
    judges: np.random.Generator
    kept: list[DecidedOutcome] = field(default_factory=list)
    """What people would have said of prompts that were left to judges; not a number where they would skip them."""

    @classmethod
    def of(cls, cell: Cell, number: int) -> Luck:
        """That of a cell's candidate of this number."""
        alike = (cell.seed, number, round(1000 * cell.win_rate), cell.prompts, *cell.clusters.encode())
        return cls(np.random.default_rng(alike), np.random.default_rng((*alike, *cell.judge.encode())))


def course(rule: Rule, cell: Cell, luck: Luck) -> Course:
    """Check a candidate until it is decided on or nothing is left to compare."""
    chance = chances(cell, luck.people)
    judges = tuple(
        JudgeFindings(one, trust_before=Estimate(CARDS.get(one, FLATTERING), 0.0, 1.0, JUDGED_BEFORE))
        for one in cell.panel
    )
    found, asked = Findings(judges=judges), Counter[int]()
    looked = Course(-math.inf, None, 0, decided=False)
    checks = math.ceil(cell.prompts / PROMPTS_A_CHECK)
    for number in range(checks + cell.repeats):
        if number == checks and judges:  # no new prompt is left
            found = people_compare_the_rest(found, cell, number, luck)
        prompts = least_compared(range(cell.prompts), asked, PROMPTS_A_CHECK)
        new = sum(not asked[prompt] for prompt in range(cell.prompts))
        share = share_by_rule(rule, found, new) if judges and new else 1.0
        found = checked(found, cell, chance, np.array(prompts), share, number + (number >= checks), luck)
        asked.update(prompts)
        looked = look(rule, found)
        if looked.decided:
            return looked
    if judges and found.left_to_judges and not cell.repeats:
        return look(rule, people_compare_the_rest(found, cell, checks, luck))
    return looked


def people_compare_the_rest(found: Findings, cell: Cell, number: int, luck: Luck) -> Findings:
    """No new prompt is left, so people get what was left to judges, with the chance of the draw as it was recorded."""
    asked, spent = 1 + number * 10 * cell.prompts, corrected_by_judges(found).spent
    rest = [replace(one, at=asked + place) for place, one in enumerate(luck.kept, 1) if one.prompt_id not in spent]
    given = {one.prompt_id: replace(found.left_to_judges[one.prompt_id], given=asked) for one in rest}
    said = [one for one in rest if not math.isnan(one.outcome)]
    return replace(found, people=(*found.people, *said), left_to_judges={**found.left_to_judges, **given})


def checked(
    found: Findings,
    cell: Cell,
    chance: np.ndarray[Any, Any],
    prompts: np.ndarray[Any, Any],
    share: float,
    number: int,
    luck: Luck,
) -> Findings:
    """One more check: judges compare all its prompts, then people a part of them drawn by lot.

    Of a prompt that comes again the first draw counts, as in `pair_outcomes.left_to_judges`.
    """
    says = compared(cell, chance[prompts], luck.people)
    passed = passed_over(cell, len(prompts), luck.people)
    first_said = np.where(passed, np.nan, says)
    by_lot = luck.judges.random(len(prompts)) < share
    drawn_before = {one.prompt_id for one in found.people} | found.left_to_judges.keys()
    left = ~by_lot & np.array([int(prompt) not in drawn_before for prompt in prompts])
    asked = 1 + number * 10 * cell.prompts  # when, among all judgements
    people = [
        DecidedOutcome(
            int(prompt),
            0.5 if skips else float(outcome),
            probability=share,
            at=asked + cell.prompts + place,
            since=asked,
            shown=float(outcome),
            skipped=bool(skips) and not cell.judged_later,
        )
        for place, (prompt, outcome, skips) in enumerate(
            zip(prompts[by_lot], says[by_lot], passed[by_lot], strict=True)
        )
    ]
    given = {one.prompt_id for one in people}
    heard: dict[str, list[DecidedOutcome]] = {
        judge: [
            DecidedOutcome(int(prompt), float(outcome), judge, at=asked)
            for prompt, outcome in zip(prompts, judged(judge, first_said, luck.judges), strict=True)
            if not np.isnan(outcome) and not (judge == TWO[1] and cell.judge == "two" and int(prompt) in given)
        ]
        for judge in cell.panel
    }
    judges = tuple(replace(one, outcomes=(*one.outcomes, *heard[one.name])) for one in found.judges)
    luck.kept.extend(
        DecidedOutcome(int(prompt), float(outcome), probability=share)
        for prompt, outcome in zip(prompts[left], (says if cell.judged_later else first_said)[left], strict=True)
    )
    waiting = {**found.left_to_judges, **{int(prompt): LeftPrompt(since=asked) for prompt in prompts[left]}}
    return replace(found, people=(*found.people, *people), judges=judges, left_to_judges=waiting)


def look(rule: Rule, found: Findings) -> Course:
    """What the gate sees who looks after every comparison by people."""
    prompts = corrected_by_judges(found)
    # Comparisons by people until each prompt that counts was compared.
    place = {one.prompt_id: number for number, one in reversed(list(enumerate(found.people, 1)))}
    asked = [place[one.prompt_id] for one in prompts.prompts]
    judged = np.cumsum([not one.skipped for one in prompts.prompts])
    end = first_over(judged, rule.people_most) + 1
    stakes = stakes_of(prompts)
    better, worse = (log_capitals(side)[:end] for side in (stakes, stakes.mirrored))
    ahead = ahead_by_then(prompts)[:end]
    before = judged[:end] < rule.people_least
    better[before | (ahead <= 0)], worse[before | (ahead >= 0)] = -math.inf, -math.inf
    wanted = -math.log(rule.alpha)
    first_worse = first_over(worse, wanted)
    seen = better[:first_worse]
    promoted = first_over(seen, wanted)
    highest = float(seen.max(initial=-math.inf))
    if promoted < len(seen):
        return Course(highest, asked[promoted], asked[promoted])
    if first_worse < len(worse) or judged.max(initial=0) >= rule.people_most:
        return Course(highest, None, asked[min(first_worse, len(better) - 1)])
    return Course(highest, None, len(found.people), decided=False)


def ahead_by_then(prompts: CorrectedPrompts) -> np.ndarray[Any, Any]:
    """How many wins the corrected win rate was above a half after each prompt, of what was shown of them at first."""
    shown = [0.0 if one.skipped else one.outcomes[0] - 0.5 for one in prompts.prompts]
    moved = [one.value - prompt.entered for one, prompt in zip(prompts.outcomes, prompts.prompts, strict=True)]
    return np.cumsum(np.add(shown, moved))


def first_over(amounts: np.ndarray[Any, Any], wanted: float) -> int:
    """The first place at which there is as much; their number where there never is."""
    over = np.flatnonzero(amounts >= wanted)
    return int(over[0]) if len(over) else len(amounts)


# --------------------------------------------------------------------------------------------------------- simulation
def cells() -> list[Cell]:
    """Candidates that are no better, in every way to be fooled by them."""
    alone = [Cell(EVEN, prompts, clusters) for prompts in (60, 200) for clusters in CLUSTERED]
    again = [Cell(EVEN, prompts, clusters, repeats=3) for prompts in (20, 60, 200) for clusters in CLUSTERED]
    both: tuple[Panel, ...] = ("85", "biased")
    again += [Cell(EVEN, prompts, "same winner", judge, repeats=3) for prompts in (60, 200) for judge in both]
    panels: tuple[Panel, ...] = ("coin", "flattered coin", "75", "85", "95", "biased", "trained-in", "hostile")
    helped = [Cell(EVEN, 200, clusters, judge) for judge in panels for clusters in ("alike", "same winner")]
    few = [Cell(EVEN, prompts, "beta", judge) for prompts in (20, 60, 120) for judge in panels]
    tied = [Cell(EVEN, 200, judge=judge, ties=ties) for ties in (0.0, 0.6) for judge in ("none", "85", "biased")]
    failing = [Cell(EVEN, prompts, "alike", judge) for prompts in (120, 200) for judge in ("two", "shy")]
    skipping = [
        Cell(EVEN, 200, "alike", judge, skipped=0.25, judged_later=later)
        for later in (False, True)
        for judge in ("85", "95")
    ]
    worse = [Cell(0.45, 200, judge=judge) for judge in ("none", "trained-in")]
    return [*alone, *again, *helped, *few, *tied, *failing, *skipping, *worse]


def measure(rule: Rule, cell: Cell, candidates: int) -> tuple[dict[str, Any], list[Course]]:
    """The figures of a cell, and what they are of."""
    began = time.monotonic()
    seen = [course(rule, cell, Luck.of(cell, number)) for number in range(candidates)]
    counts = [one.promoted_after for one in seen if one.promoted_after is not None]
    share = share_of(len(counts), len(seen))
    assert share is not None
    figures = {
        **asdict(cell),
        "name": cell.name,
        "candidates": candidates,
        "promoted": round(share.value, 4),
        "promoted_interval": [round(share.low, 4), round(share.high, 4)],
        "people_median": median(one.people for one in seen),
        "people_median_promoted": median(counts) if counts else None,
        "people_mean": round(fmean(one.people for one in seen), 1),
        "half_promoted_after": sorted(counts)[len(seen) // 2] if len(counts) > len(seen) // 2 else None,
        "seconds": round(time.monotonic() - began, 1),
    }
    say(f"{cell.name}: {share.value:.1%} promoted")
    return figures, seen


def wrongly(rule: Rule, cell: Cell, candidates: int) -> dict[str, Any]:
    """The figures of a cell of useless candidates, of more of them where too many of so many are promoted."""
    found = measure(rule, cell, candidates)[0]
    return measure(rule, cell, AGAIN * candidates)[0] if found["promoted"] > rule.alpha else found


def projects(rule: Rule, seen: Sequence[Course]) -> dict[str, float]:
    """The share of projects of useless candidates in which any was promoted: one alpha for all, and one for each."""
    over_all = replace(rule, alpha_holds="project")
    rows = [seen[start : start + USELESS_IN_A_ROW] for start in range(0, len(seen), USELESS_IN_A_ROW)]
    return {
        name: round(fmean(any(fooled(one, number) for number, one in enumerate(row, 1)) for row in rows), 4)
        for name, fooled in (
            ("one alpha for all", lambda one, number: one.highest >= -math.log(alpha_of(over_all, number))),
            ("one for each", lambda one, number: one.highest >= -math.log(alpha_of(rule, number))),
        )
    }


def judge_alone(candidates: int, seed: int) -> float:
    """How often a biased judge alone finds a candidate better that people find even, where it may decide.

    That is no claim about people, and is called a judge's: what is bounded is how often it promotes what it does not
    prefer itself.
    """
    rule, cell = Rule(judge_may_decide=True), Cell(EVEN, 200, judge="biased")
    source = np.random.default_rng((seed, 1))
    better = 0
    for _ in range(candidates):
        says = judged("biased", compared(cell, chances(cell, source), source), source)
        outcomes = tuple(DecidedOutcome(place, float(one), "biased", at=1) for place, one in enumerate(says))
        found = weigh_judge(JudgeFindings("biased", outcomes), rule.alpha / 2, rule.judge_least, rule.judge_most)
        better += found.standing == "better"
    return round(better / candidates, 4)


def run(candidates: int, seed: int = TUNED_ON) -> dict[str, Any]:
    """Every cell; the figures."""
    rule, began = Rule(), time.monotonic()
    wrong = [wrongly(rule, replace(cell, seed=seed), candidates) for cell in cells()]
    panels: tuple[Panel, ...] = ("none", "coin", "flattered coin", "hostile", "75", "85", "95")
    right = {judge: measure(rule, Cell(BETTER, 200, judge=judge, seed=seed), candidates)[0] for judge in panels}
    # Looked at to the end, whatever alpha a candidate's place in the project leaves it.
    to_the_end = replace(rule, alpha=TINY_ALPHA)
    _, useless = measure(to_the_end, Cell(EVEN, 200, "beta", seed=seed), USELESS_IN_A_ROW * max(candidates // 4, 2))
    project = projects(rule, useless)
    together = share_of(round(project["one alpha for all"] * (rows := len(useless) // USELESS_IN_A_ROW)), rows)
    assert together is not None
    found = {
        "false_promotion_worst": max(cell["promoted"] for cell in wrong),
        "nominal": rule.alpha,
        "people_median": {judge: cell["people_median"] for judge, cell in right.items()},
        "people_median_promoted": {judge: cell["people_median_promoted"] for judge, cell in right.items()},
        "promoted": {judge: cell["promoted"] for judge, cell in right.items()},
        "people_mean": {judge: cell["people_mean"] for judge, cell in right.items()},
        "half_promoted_after": {judge: cell["half_promoted_after"] for judge, cell in right.items()},
        "project": project,
        "project_interval": [round(together.low, 4), round(together.high, 4)],
        "biased_judge_alone": judge_alone(min(candidates, 200), seed),
        "cells": [*wrong, *right.values()],
        "candidates": candidates,
        "seed": seed,
        "ties": TIES,
        "rule": asdict(rule),
        "seconds": round(time.monotonic() - began, 1),
    }
    return {**found, "missed": missed(found)}


def run_some(candidates: int, seed: int, names: Sequence[str]) -> dict[str, Any]:
    """The figures of those cells of candidates that are no better of whose names any of these words are a part."""
    rule = Rule()
    some = [replace(cell, seed=seed) for cell in cells() if any(name in cell.name for name in names)]
    measured = [wrongly(rule, cell, candidates) for cell in some]
    said = promoted_wrongly(measured, rule.alpha)
    return {"cells": measured, "candidates": candidates, "seed": seed, "missed": said}


def promoted_wrongly(measured: Sequence[Mapping[str, Any]], nominal: float) -> list[str]:
    """The cells of candidates that are no better of which too many were promoted, in words."""
    return [
        f"{cell['name']}: {cell['promoted']:.1%} of {cell['candidates']} promoted, more than {nominal:.0%}"
        for cell in measured
        if cell["win_rate"] <= EVEN and cell["promoted"] > nominal
    ]


def missed(found: Mapping[str, Any]) -> list[str]:
    """The goals that are not reached, in words. For chance more candidates are measured (`wrongly`)."""
    nominal, medians = found["nominal"], found["people_median"]
    said = promoted_wrongly(found["cells"], nominal)
    for judge, most in GOALS.items():
        if medians[judge] is None or medians[judge] > most:
            said.append(f"judge of {judge}%: {medians[judge]} comparisons by people, more than {most:g}")
    alone = medians["none"]
    said += [
        f"{useless}: {medians[useless]:g} comparisons by people, more than {COIN_GOAL} times {alone:g}"
        for useless in USELESS
        if useless in medians and medians[useless] > COIN_GOAL * alone
    ]
    if found["project_interval"][0] > nominal:
        share = found["project"]["one alpha for all"]
        said.append(f"a project of useless candidates: any promoted in {share:.1%}, more than {nominal:.0%}")
    return said


# ---------------------------------------------------------------------------------------------------------- reporting
HEADERS = (
    *("candidates", "promoted (95%)", "comparisons by people, median", "of the promoted", "mean of all"),
    "half promoted after",
)


def report(found: Mapping[str, Any]) -> str:
    """Tables in Markdown for people; the last line is one JSON object."""
    lines = ["SMOKE RUN: few candidates. It shows that everything runs, no more.", ""] if found["quick"] else []
    lines += table(found["cells"])
    project, nominal = found["project"], found["nominal"]
    lines += [
        "",
        f"{found['candidates']} candidates a cell, {AGAIN} times as many where more than {nominal:.0%} were promoted; "
        f"{found['ties']:.0%} of comparisons are ties where nothing else is said.",
        f"Wrong promotions, worst cell: {found['false_promotion_worst']:.1%}, nominal {nominal:.0%}.",
        f"{USELESS_IN_A_ROW} useless candidates in a row: any promoted in {project['one alpha for all']:.1%} of "
        f"projects with one alpha for all, in {project['one for each']:.1%} with one for each.",
        f"A biased judge alone, where it may decide: {found['biased_judge_alone']:.1%}; that says what it prefers.",
        *(f"MISSED: {one}." for one in found["missed"]),
        driver.describe_machine(found["machine"]) + ".",
    ]
    return "\n".join([*lines, json.dumps(found)])


def report_some(found: Mapping[str, Any]) -> str:
    """The table of some cells; the last line is one JSON object."""
    lines = [*table(found["cells"]), *(f"MISSED: {one}." for one in found["missed"])]
    return "\n".join([*lines, driver.describe_machine(found["machine"]) + ".", json.dumps(found)])


def table(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each cell."""
    heads = ["| " + " | ".join(HEADERS) + " |", "| --- |" + " ---: |" * (len(HEADERS) - 1)]
    return heads + [row(cell) for cell in measured]


def row(cell: Mapping[str, Any]) -> str:
    """One cell."""
    low, high = cell["promoted_interval"]
    promoted = f"{cell['promoted']:.1%} ({low:.1%} to {high:.1%})"
    names = ("people_median", "people_median_promoted", "people_mean", "half_promoted_after")
    counts = [cell[name] for name in names]
    return " | ".join((f"| {cell['name']}", promoted, *("–" if one is None else f"{one:g}" for one in counts), ""))


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of a minute; figures mean little")
    parser.add_argument("--candidates", type=int, metavar="N", help=f"of each kind (default: {CANDIDATES})")
    parser.add_argument(
        "--seed", type=int, default=TUNED_ON, metavar="N", help="of the candidates (default: the one tuned on)"
    )
    parser.add_argument(
        "--cells", nargs="+", metavar="WORDS", help="only useless candidates' cells with any of these in their names"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 where a goal is missed."""
    options = read_options(arguments)
    candidates = options.candidates or (QUICK_CANDIDATES if options.quick else CANDIDATES)
    measured = run_some(candidates, options.seed, options.cells) if options.cells else run(candidates, options.seed)
    found = {**measured, "quick": options.quick, "machine": driver.machine()}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), "utf-8")
    print(report_some(found) if options.cells else report(found))
    return 1 if found["missed"] and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
