"""What a comparison decides: which of its preferences an order can keep, and how many orders they leave. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from math import factorial, log2

Preference = tuple[int, int]
"""Places of two answers of a comparison, the better one first."""
# With more answers there are too many orders to count: eight are shown, and others may be edited ones.
MOST_ANSWERS = 10


def decided(pairs: Iterable[Preference]) -> frozenset[Preference]:
    """The preferences that all hold in some order: without those on a circle.

    Votes of several annotators can prefer a to b, b to c and c to a (Condorcet's paradox): among these nothing is
    decided.
    """
    found = frozenset(pairs)
    below = reachable(found)
    return frozenset((better, worse) for better, worse in found if better not in below.get(worse, ()))


def reachable(pairs: Collection[Preference]) -> dict[int, set[int]]:
    """Of each answer that is preferred to any: all those below it, directly or by way of others."""
    below: dict[int, set[int]] = {}
    for better, worse in pairs:
        below.setdefault(better, set()).add(worse)
    for middle in list(below):  # Warshall's closure
        for places in below.values():
            if middle in places:
                places |= below[middle]
    return below


def bits(size: int, pairs: Iterable[Preference]) -> float:
    """What preferences on no circle say of the order of so many answers: log2 of all orders over those they leave.

    One for a pair, log2(4) for the best of four, log2(24) for a ranking of four, nothing where all are tied.
    """
    return log2(factorial(size) / orders(size, frozenset(pairs)))


@cache
def orders(size: int, pairs: frozenset[Preference]) -> int:
    """How many orders of the answers keep all these preferences."""
    above = [sum(1 << better for better, worse in pairs if worse == place) for place in range(size)]
    found = [1] + [0] * (2**size - 1)  # by the set of answers that are still to be placed
    for left in range(1, 2**size):
        members = [place for place in range(size) if left >> place & 1]
        found[left] = sum(found[left ^ (1 << place)] for place in members if not above[place] & left)
    return found[-1]
