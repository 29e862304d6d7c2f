"""The draws behind handing out: gold and re-asks now and then, prompts evenly, answers in a drawn order. Pure.

Which comparisons people judge is no accident, so the chances are kept beside the rows, each given all that was known
when it was drawn by. NULL is unknown: an earlier version, or who made the data elsewhere, noted none.

- `comparison.formed_chance`: that its prompt was taken for a comparison just then, of those that were in question
  (prompts compared least often come first, ties by lot). Nothing else was left to chance: of the answers that were
  drawn, the first that differ are taken. 1 where a person asked for it, or a check compares all that it answers.
- `comparison.people_chance`: that people were to judge it, and `people_drawn`, whether that came out. 1 where people
  judge everything, 0 where they judge nothing; with judges first, 1 where these flipped, differed or were unsure, else
  the audit's share; in a check, the share that people get. Unknown until judges have settled it. What an admin has
  people judge beyond that keeps the record of its draw.
- `claim.chance`: that this very comparison was what this annotator was shown then, of all that could have been: the
  share of its purpose (gold, re-ask, candidate, own), with that of purposes that had nothing to offer; halved where
  comparisons of the serving policy and of no single one were drawn between. 1 where a person asked for it. Unknown
  where an admin assigned it: nobody drew who judges it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from annotation.records import Kind, Project

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
    """The chance of each purpose of which there is something to show; what they lack of 1 is that of nothing.

    Gold, re-asks and candidates come in the project's shares. Where one has nothing to offer, the share is the pool's;
    and where the pool is empty, the candidate's, except where no such share is wanted.
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
    if heir is not None and rest > 0:
        found[heir] = min(found.get(heir, 0.0) + rest, 1.0)
    return found


def draw_purpose(among: Mapping[Shown, float], source: random.Random) -> Shown | None:
    """What the next comparison is for, by these chances: to measure an annotator or a candidate, to learn, or none."""
    names: list[Shown | None] = [*among, None]
    return source.choices(names, [*among.values(), max(0.0, 1 - sum(among.values()))])[0]


def pick(candidates: Sequence[tuple[int, int]]) -> int:
    """The id among (id, judgements on its prompt) whose prompt has been judged least; the oldest of those."""
    return min(candidates, key=lambda entry: (entry[1], entry[0]))[0]


def kind_of(project: Project, size: int) -> Kind:
    """What is asked about a comparison of `size` answers; it may be older or come from elsewhere than the project."""
    if size == 2:
        return "best" if project.kind == "best" else "pair"
    return "rank" if project.kind == "pair" else project.kind
