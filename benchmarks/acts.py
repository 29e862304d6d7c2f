"""What does an act of judging teach: two answers, the best of four, a ranking of four, answers chosen by doubt?

Simulated people judge answers of the base model by a gold rule that only they know. Each look at two answers is wrong
with a given chance; a ranking is sorted, and a best one found, by such looks, so that their errors are a person's. From
the first 15, 30, 60 and 120 acts a learner is trained, each time anew, and answers held-out prompts. Figures are the
gold win rate of its answers against the base model's others.

What stands for what: the learner is a linear score of a middle layer's states of an answer, trained by the product's
own loss of a comparison (`rlhf.models.orders.plackett_luce`); it answers with the best of eight by that score. So
it is a reward model on frozen layers, and best-of-eight stands for the policy that DPO or PPO would make of it: ratios
between kinds of acts are meant, not win rates. Its ridge was chosen with another rule and other seeds (`--tune`).

Chosen answers: some of the eight, as the program chooses them (`annotation.selection.choose_answers`) by an ensemble of
heads that was fitted to what has been judged so far (`rlhf.models.orders.heads`), in half of the comparisons; the other
half, and all prompts, at random.

How to read it. `acts_ratio`: 120 over the acts with rankings of four that reach what 120 pairs at random reach, the
median over rules and seeds, without flips; `acts_ratios` has it for each kind of act and chance of a flip.
`worse_than_random_at_20`: whether any of the richer acts is behind pairs at random on average, at 20% flips, after any
number of acts. `gains`: win rate of a method less that of another, its standard error over rules and seeds beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations, product
from math import log2, sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import Tensor

from annotation.selection import choose_answers
from benchmarks.harness import driver
from benchmarks.harness.acts_pool import PooledPrompt, pool
from benchmarks.harness.driver import say
from benchmarks.loop import plain, reason, shorter
from rlhf.models.base.base_files import EMBEDDED
from rlhf.models.orders.heads import RIDGE, StateScale, ensemble, fitted, votes
from rlhf.models.orders.plackett_luce import Rankings

DEFAULT_DATA = driver.DEFAULT_DATA_DIR / "benchmark-acts"
BUDGETS = (15, 30, 60, 120)
FLIPS = (0.0, 0.1, 0.2)
# Acts after which the heads that choose are trained anew; before the first, all is random.
RENEWED_AFTER = (10, 20, 40, 60, 80, 100)
CHOSEN_SHARE = 0.5
Pairs = frozenset[tuple[int, int]]
Worth = tuple[float, ...]


# ------------------------------------------------------------------------------------------------------------- people
def few_commas(text: str) -> Worth:
    """Fewer commas are better: the rule that the learner is tuned with."""
    return (-float(text.count(",")),)


RULES: Mapping[str, Callable[[str], Worth]] = {"length": shorter, "wording": plain, "content": reason}


@dataclass
class Person:
    """Judges by a rule; each look at two answers that differ is the wrong way round with chance `flip`."""

    rule: Callable[[str], Worth]
    flip: float
    source: random.Random

    def look(self, first: Worth, second: Worth) -> int:
        """1 where the first is found better, -1 where the second is, 0 for a tie."""
        sign = (first > second) - (first < second)
        return -sign if sign and self.source.random() < self.flip else sign

    def pair(self, worths: Sequence[Worth]) -> Pairs:
        """Which of two is better."""
        found = self.look(*worths)
        return frozenset({(0, 1)} if found > 0 else {(1, 0)} if found < 0 else ())

    def best(self, worths: Sequence[Worth]) -> Pairs:
        """The best of several, kept in mind while reading on; nothing where all seem the same."""
        best, differ = 0, False
        for place in range(1, len(worths)):
            found = self.look(worths[place], worths[best])
            best, differ = (place if found > 0 else best), differ or found != 0
        return frozenset((best, other) for other in range(len(worths)) if other != best and differ)

    def rank(self, worths: Sequence[Worth]) -> Pairs:
        """All of several, sorted one by one into those that were read, ties together."""
        groups: list[list[int]] = []
        for place, worth in enumerate(worths):
            for position, group in enumerate(groups):
                found = self.look(worth, worths[group[0]])
                if found >= 0:
                    groups.insert(position, [place]) if found else group.append(place)
                    break
            else:
                groups.append([place])
        return frozenset(
            (better, worse) for first, second in combinations(groups, 2) for better in first for worse in second
        )


# ------------------------------------------------------------------------------------------------------------ methods
@dataclass(frozen=True)
class Method:
    """A kind of act, how its answers are chosen, and what the learner makes of it."""

    act: str
    """A method of `Person`."""
    answers: int
    chosen: bool = False
    by_pairs: bool = False
    """Learn each pair of a ranking by itself, all with the weight of a pair."""
    offset: float = 0.0
    """By how much more the better answer is to score where it is much better."""


METHODS: Mapping[str, Method] = {
    "pairs": Method("pair", 2),
    "pairs, offset 1": Method("pair", 2, offset=1.0),
    "best of 4": Method("best", 4),
    "rank 4": Method("rank", 4),
    "rank 4 as pairs": Method("rank", 4, by_pairs=True),
    "pairs, chosen": Method("pair", 2, chosen=True),
    "rank 4, chosen": Method("rank", 4, chosen=True),
}
RICHER = ("best of 4", "rank 4", "pairs, chosen", "rank 4, chosen")


@dataclass
class Judged:
    """What has been judged: states (C, K, H), and what was said of each."""

    states: list[Tensor] = field(default_factory=list)
    said: list[Pairs] = field(default_factory=list)
    offsets: list[float] = field(default_factory=list)

    def rankings(self, by_pairs: bool) -> tuple[Tensor, Rankings]:
        """States and rankings of what decides anything, as comparisons or as so many pairs."""
        known = [one for one in zip(self.states, self.said, self.offsets, strict=True) if one[1]]
        if by_pairs:
            known = [(states[[*pair]], frozenset({(0, 1)}), by) for states, said, by in known for pair in sorted(said)]
        size = len(known[0][0])
        above, offset = torch.zeros(len(known), size, size, dtype=torch.bool), torch.zeros(len(known), size, size)
        for row, (_, said, by) in enumerate(known):
            for better, worse in said:
                above[row, better, worse], offset[row, better, worse] = True, by
        return torch.stack([states for states, *_ in known]), Rankings(above, offset, torch.full((len(known),), size))


# -------------------------------------------------------------------------------------------------------- one sequence
@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    seeds: int = 3
    repeats: int = 2
    """Sequences of acts, whose mean is that of a seed."""
    budgets: tuple[int, ...] = BUDGETS
    prompts: tuple[int, int] = (96, 48)
    """To train on, and held out."""
    answers: int = 8
    ridge: float = RIDGE


QUICK = Sizes(seeds=1, repeats=1, budgets=(4, 8), prompts=(12, 6))


@dataclass(frozen=True)
class Data:
    """The pool by what a rule finds of it: worths and states of the answers to each prompt."""

    train: Sequence[tuple[Sequence[Worth], Tensor]]
    held_out: Sequence[tuple[Sequence[Worth], Tensor]]


def data_of(prompts: Sequence[PooledPrompt], rule: Callable[[str], Worth]) -> Data:
    """States are scaled over the train split."""
    scale = StateScale.of(torch.cat([one.states_KH for one in prompts if one.split == "train"]))
    found = [(one.split, [rule(text) for text in one.texts], scale.scaled(one.states_KH)) for one in prompts]
    return Data(
        *([(worths, states) for own, worths, states in found if own == split] for split in ("train", "held-out"))
    )


def sequence(data: Data, method: Method, person: Person, sizes: Sizes) -> list[float]:
    """The gold win rate after each number of acts."""
    source, judged, found = person.source, Judged(), []
    generator = torch.Generator().manual_seed(source.randrange(2**31))
    heads_MH: Tensor | None = None
    gaps = sorted(gap_of(worths, (0, 1)) for worths, _ in data.train)
    for act in range(1, max(sizes.budgets) + 1):
        worths, states_KH = source.choice(data.train)
        counts = [0] * len(worths) if heads_MH is None else votes(heads_MH, states_KH)
        share = 0.0 if heads_MH is None else CHOSEN_SHARE
        places = list(choose_answers(counts, method.answers, share, source).places)
        source.shuffle(places)
        said = getattr(person, method.act)([worths[place] for place in places])
        judged.states.append(states_KH[places])
        judged.said.append(said)
        judged.offsets.append(method.offset * strength_of(gap_of(worths, places), gaps))
        if method.chosen and act in RENEWED_AFTER and act < max(sizes.budgets) and any(judged.said):
            heads_MH = ensemble(*judged.rankings(method.by_pairs), generator, sizes.ridge)
        if act in sizes.budgets:
            head_H = learnt(judged, method, sizes)
            found.append(fmean(win_rate(worths, states_KH @ head_H) for worths, states_KH in data.held_out))
    return found


def learnt(judged: Judged, method: Method, sizes: Sizes) -> Tensor:
    """What the learner makes of all judgements so far, (H,): no score for anything where nothing was decided."""
    none_1H = torch.zeros(1, judged.states[0].shape[1])
    if not any(judged.said):
        return none_1H[0]
    return fitted(*judged.rankings(method.by_pairs), none_1H, ridge=sizes.ridge)[0]


def gap_of(worths: Sequence[Worth], places: Sequence[int]) -> float:
    """How far apart the first two answers are by the rule."""
    return abs(worths[places[0]][0] - worths[places[1]][0])


def strength_of(gap: float, gaps: Sequence[float]) -> float:
    """1/3 slightly, 2/3 clearly, 1 much: by thirds of the gaps that there are."""
    place = sum(other < gap for other in gaps) / len(gaps)
    return min(int(3 * place) + 1, 3) / 3


def win_rate(worths: Sequence[Worth], scores_K: Tensor) -> float:
    """How often the best by score is better by the rule than another answer to its prompt; ties count half."""
    chosen = int(scores_K.argmax())
    others = [worth for place, worth in enumerate(worths) if place != chosen]
    return fmean((worths[chosen] > other) + (worths[chosen] == other) / 2 for other in others)


# ------------------------------------------------------------------------------------------------------------- figures
@dataclass(frozen=True)
class Cell:
    """The curve of one method, rule, chance of a flip and seed."""

    method: str
    rule: str
    flip: float
    seed: int
    curve: tuple[float, ...]


def measure(
    prompts: Sequence[PooledPrompt], sizes: Sizes, methods: Sequence[str], flips: Sequence[float]
) -> list[Cell]:
    """All cells, the same acts' randomness for every method as far as it goes."""
    cells = []
    for rule, flip, seed in product(RULES, flips, range(1, sizes.seeds + 1)):
        data = data_of(prompts, RULES[rule])
        for name in methods:
            runs = [
                sequence(data, METHODS[name], Person(RULES[rule], flip, random.Random(f"{seed} {again}")), sizes)
                for again in range(sizes.repeats)
            ]
            curve = tuple(round(fmean(values), 4) for values in zip(*runs, strict=True))
            cells.append(Cell(method=name, rule=rule, flip=flip, seed=seed, curve=curve))
        say(
            f"{rule}, {flip:.0%} flips, seed {seed}: "
            + "; ".join(f"{one.method} {one.curve}" for one in cells[-len(methods) :])
        )
    return cells


def acts_needed(curve: Sequence[float], target: float, budgets: Sequence[int]) -> float:
    """After how many acts a curve reaches the target, straight in the logarithm of acts between those measured.

    At most the first number where it starts above, and twice the last where it never does.
    """
    reached = next((place for place, value in enumerate(curve) if value >= target), None)
    if reached is None:
        return 2.0 * budgets[-1]
    if reached == 0:
        return float(budgets[0])
    low, high = curve[reached - 1], curve[reached]
    share = (target - low) / (high - low)
    return float(2 ** (log2(budgets[reached - 1]) + share * log2(budgets[reached] / budgets[reached - 1])))


def figures(cells: Sequence[Cell], sizes: Sizes) -> dict[str, Any]:
    """The JSON object's content."""
    methods, flips = list(dict.fromkeys(one.method for one in cells)), sorted({one.flip for one in cells})
    by = {(one.method, one.rule, one.flip, one.seed): one.curve for one in cells}
    settings = list(dict.fromkeys((one.rule, one.seed) for one in cells))
    ratios = {
        f"{name}, {flip:.0%} flips": round(
            median(
                sizes.budgets[-1]
                / acts_needed(by[name, rule, flip, seed], by["pairs", rule, flip, seed][-1], sizes.budgets)
                for rule, seed in settings
            ),
            2,
        )
        for name, flip in product(methods, flips)
        if name != "pairs"
    }
    against = [(name, "pairs") for name in methods if name != "pairs"]
    against += [(name, "rank 4") for name in methods if name.startswith("rank 4,") or name == "rank 4 as pairs"]
    gains = [
        {"method": name, "against": other, "flip": flip, "acts": acts, **mean_and_error(differences)}
        for (name, other), flip in product(against, flips)
        for place, acts in enumerate(sizes.budgets)
        if other in methods
        for differences in [
            [by[name, *one[:1], flip, one[1]][place] - by[other, *one[:1], flip, one[1]][place] for one in settings]
        ]
    ]
    worse = [one for one in gains if one["method"] in RICHER and one["against"] == "pairs" and one["flip"] == FLIPS[-1]]
    return {
        "acts_ratio": ratios.get("rank 4, 0% flips"),
        "worse_than_random_at_20": any(one["gain"] < 0 for one in worse) if worse else None,
        "acts_ratios": ratios,
        "gains": gains,
        "cells": [asdict(one) for one in cells],
        "budgets": list(sizes.budgets),
    }


def mean_and_error(differences: Sequence[float]) -> dict[str, float]:
    """Their mean, and its standard error."""
    error = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else 0.0
    return {"gain": round(fmean(differences), 4), "error": round(error, 4)}


def report(found: Mapping[str, Any]) -> str:
    """A table for people; the last line is one JSON object."""
    cells = [Cell(**one) for one in found["cells"]]
    headers = ("method", "flips", *(f"{acts} acts" for acts in found["budgets"]), "ratio")
    rows = []
    for name, flip in dict.fromkeys((one.method, one.flip) for one in cells):
        curves = [one.curve for one in cells if (one.method, one.flip) == (name, flip)]
        means = [f"{fmean(values):.3f}" for values in zip(*curves, strict=True)]
        rows.append((name, f"{flip:.0%}", *means, found["acts_ratios"].get(f"{name}, {flip:.0%} flips", 1.0)))
    lines = [driver.table(headers, rows), "", f"{driver.describe_machine(found['machine'])}.", json.dumps(found)]
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- running
def tune(prompts: Sequence[PooledPrompt], sizes: Sizes) -> None:
    """Say how each ridge does, with a rule and seeds that are not reported."""
    data = data_of(prompts, few_commas)
    for ridge in (0.02, 0.1, 0.5, 2.0):
        for name in ("pairs", "rank 4"):
            runs = [
                sequence(
                    data,
                    METHODS[name],
                    Person(few_commas, 0.1, random.Random(f"tune {again}")),
                    sizes_with(sizes, ridge),
                )
                for again in range(6)
            ]
            say(f"ridge {ridge:g}, {name}: {[round(fmean(values), 3) for values in zip(*runs, strict=True)]}")


def sizes_with(sizes: Sizes, ridge: float) -> Sizes:
    """The same with another ridge."""
    return Sizes(**{**asdict(sizes), "ridge": ridge, "budgets": tuple(sizes.budgets)})


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acts", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few minutes; figures mean little")
    parser.add_argument(
        "--tune", action="store_true", help="choose the learner's ridge, by another rule and other seeds"
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="(default: 3, quick: 1)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="(default: all)")
    parser.add_argument("--flips", nargs="+", type=float, default=list(FLIPS), help="(default: 0 0.1 0.2)")
    parser.add_argument("--model", metavar="NAME_OR_DIR", default=EMBEDDED, help="base model, as for app.py")
    parser.add_argument("--data", type=Path, metavar="DIR", help=f"where the pool is kept (default: {DEFAULT_DATA})")
    options = parser.parse_args(arguments)
    if "pairs" not in options.methods:
        options.methods.insert(0, "pairs")
    return options


@driver.benchmark
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = read_options(arguments)
    sizes = QUICK if options.quick else Sizes()
    sizes = Sizes(**{**asdict(sizes), "seeds": options.seeds or sizes.seeds})
    with driver.working_directory(options, DEFAULT_DATA) as where:
        where.mkdir(parents=True, exist_ok=True)
        prompts = pool(where, options.model, sizes.prompts, sizes.answers)
        if options.tune:
            tune(prompts, sizes)
            return 0
        cells = measure(prompts, sizes, options.methods, options.flips)
    print(report({**figures(cells, sizes), "machine": driver.machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
