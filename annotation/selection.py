"""The draws behind comparing: gold and re-asks now and then, prompts evenly, which answers, in what order. Pure.

Which comparisons people judge is no accident, so the chances are kept beside the rows, each given all that was known
when it was drawn by. NULL is unknown: an earlier version, or who made the data elsewhere, noted none.

- `comparison.formed_chance`: that its prompt was taken for a comparison just then, of those that were in question
  (prompts compared least often come first, ties by lot). 1 where a person asked for it, or a check compares all that it
  answers.
- `comparison.answers_by`: what chose the answers: `random`, `heads` (that disagree on them), or a `person`. And
  `answers_chance`: that these came to be compared of those that were drawn and differ, whichever of the first two it
  was. 1 where nothing was chosen: the first that differ are taken, which is random as well.
- `comparison.people_chance`: that people were to judge it, and `people_drawn`, whether that came out. 1 where people
  judge everything, 0 where they judge nothing; with judges first, 1 where these flipped, differed or were unsure, else
  the audit's share; in a check, the share that people get. Unknown as long as it waits for judges. What an admin has
  people judge beyond that keeps the record of its draw.
- `claim.chance`: that this very comparison was what this annotator was shown then, of all that could have been: the
  share of its purpose (gold, re-ask, candidate, own), with that of purposes that had nothing to offer; halved where
  comparisons of the serving policy and of no single one were drawn between. 1 where a person asked for it. Unknown
  where an admin assigned it: nobody drew who judges it. What an undo brings back has that with which it was drawn.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Literal

from annotation.records import ChosenAnswers, Kind, Project

# One comparison in six is on a held-out prompt: these measure every later adapter and are never trained on.
HELD_OUT_SHARE = 1 / 6
# An own comparison is asked again only when so many others lie between: by then it is hardly remembered.
RE_ASK_AFTER = 10


def draw_order(size: int, source: random.Random) -> tuple[int, ...]:
    """A uniformly drawn order in which to show `size` answers."""
    order = list(range(size))
    source.shuffle(order)
    return tuple(order)


Shown = Literal["own", "gold", "re-ask", "candidate"]


def chances(project: Project, offered: Collection[Shown]) -> dict[Shown, float]:
    """The chance of each purpose of which there is something to show.

    Gold, re-asks and candidates come in the project's shares. Where one has nothing to offer, the share is the pool's;
    and where the pool is empty, the candidate's, except where no such share is wanted. Where neither has anything,
    nothing is shown: a page that waits asks every two seconds, and would soon have shown all gold and re-asks.
    """
    found: dict[Shown, float] = {}
    left = 1.0
    shares: Sequence[tuple[Shown, float]] = (
        ("gold", project.gold_share), ("re-ask", project.re_ask_share), ("candidate", project.candidate_share)
    )  # fmt: skip
    for purpose, share in shares:
        taken = min(share, left)
        left -= taken
        if taken > 0 and purpose in offered:
            found[purpose] = taken
    rest = 1 - sum(found.values())
    heir: Shown | None = (
        "own" if "own" in offered else "candidate" if project.candidate_share and "candidate" in offered else None
    )
    if rest > 0:
        if heir is None:
            return {}
        found[heir] = min(found.get(heir, 0.0) + rest, 1.0)
    return found


def draw_purpose(among: Mapping[Shown, float], source: random.Random) -> Shown | None:
    """What the next comparison is for, by these chances: to measure an annotator or a candidate, to learn, or none."""
    return source.choices([*among], [*among.values()])[0] if among else None


def pick(candidates: Sequence[tuple[int, int]]) -> int:
    """The id among (id, judgements on its prompt) whose prompt has been judged least; the oldest of those."""
    return min(candidates, key=lambda entry: (entry[1], entry[0]))[0]


def kind_of(project: Project, size: int) -> Kind:
    """What is asked about a comparison of `size` answers; it may be older or come from elsewhere than the project."""
    if size == 2:
        return "best" if project.kind == "best" else "pair"
    return "rank" if project.kind == "pair" else project.kind


def choose_answers(votes: Sequence[int], number: int, share: float, source: random.Random) -> ChosenAnswers:
    """So many answers to compare: with chance `share` by the votes of heads, else at random.

    `votes` say how many heads find each answer the best. Heads are drawn until their favourites are enough (double
    Thompson sampling for two: Wu and Liu 2016, "Double Thompson Sampling for Dueling Bandits"); where all of them have
    fewer favourites, the rest is drawn from the other answers.
    """
    by_heads = source.random() < share
    left = list(range(len(votes)))
    places: list[int] = []
    for _place in range(number):
        weights = [votes[answer] if by_heads else 1 for answer in left]
        (taken,) = source.choices(left, weights if any(weights) else None)
        left.remove(taken)
        places.append(taken)
    chance = share * chance_by_votes(votes, places) + (1 - share) / comb(len(votes), number)
    return ChosenAnswers(tuple(places), "heads" if by_heads else "random", chance)


def chance_by_votes(votes: Sequence[int], places: Sequence[int]) -> float:
    """The chance that heads, drawn one after the other, take these answers, in whatever order."""
    named = [place for place in places if votes[place]]
    others = sum(not count for count in votes)
    unnamed = len(places) - len(named)
    if unnamed and sum(votes[place] for place in named) < sum(votes):
        return 0.0  # favourites are taken before the rest
    total = sum(votes)
    reached = {frozenset[int](): 1.0}  # by the set that has been taken
    for size in range(1, len(named) + 1):
        for chosen in map(frozenset, combinations(named, size)):
            reached[chosen] = sum(
                reached[chosen - {last}] * votes[last] / (total - sum(votes[place] for place in chosen - {last}))
                for last in chosen
            )
    return reached[frozenset(named)] / comb(others, unnamed)
