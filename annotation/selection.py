"""The draws behind handing out: gold and re-asks now and then, prompts evenly, answers in a drawn order. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
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


def draw_purpose(project: Project, source: random.Random) -> Literal["own", "gold", "re-ask", "candidate"]:
    """What the next comparison is for: to measure an annotator or a candidate, in the project's shares, or to learn."""
    drawn = source.random()
    if drawn < project.gold_share:
        return "gold"
    if drawn < project.gold_share + project.re_ask_share:
        return "re-ask"
    return "candidate" if drawn < project.gold_share + project.re_ask_share + project.candidate_share else "own"


def pick(candidates: Sequence[tuple[int, int]]) -> int:
    """The id among (id, judgements on its prompt) whose prompt has been judged least; the oldest of those."""
    return min(candidates, key=lambda entry: (entry[1], entry[0]))[0]


def kind_of(project: Project, size: int) -> Kind:
    """What is asked about a comparison of `size` answers; it may be older or come from elsewhere than the project."""
    if size == 2:
        return "best" if project.kind == "best" else "pair"
    return "rank" if project.kind == "pair" else project.kind
