"""The ranks of several answers: told, or from an order, scores or the number of the best. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from annotation.imports.mapping import labels
from annotation.imports.mapping.conversations import list_of
from annotation.imports.mapping.import_plan import ImportPlan
from annotation.imports.mapping.labels import UnclearColumn, UnusableRow
from annotation.imports.printable import display_name
from annotation.translation import _, numeral

SCORE_KEYS = ("score", "overall_score", "rating", "reward", "pm_score")
RANK_KEYS = ("rank", "ranking")


def ranking_of(values: Mapping[str, Any], plan: ImportPlan, entries: Sequence[Any]) -> tuple[int, ...]:
    """The dense ranks of several answers: from ranks, or from scores of which the highest is the best."""
    columns, size = plan.columns, len(entries)
    for role in ("winner_from_0", "winner_from_1"):
        if role in columns:
            best = labels.index_of(values.get(columns[role]), columns[role], int(role[-1]), size)
            return tuple(1 if place == best else 2 for place in range(size))
    if "order" in columns:
        return ranks_by_order(list_of(values.get(columns["order"]), columns["order"]), columns["order"], size)
    if "ranks" in columns:
        ranks = labels.numbers(list_of(values.get(columns["ranks"]), columns["ranks"]), columns["ranks"], size)
        if not plan.ranks_said:
            refuse_order(ranks, columns["ranks"])
        return labels.dense(ranks)
    if "scores" in columns:
        scores = labels.numbers(
            list_of(values.get(columns["scores"]), columns["scores"]), columns["scores"], size, labels.score_of
        )
        return labels.dense([-score for score in scores])
    column = columns["responses"]
    for keys, sign, read in ((RANK_KEYS, 1, labels.number_of), (SCORE_KEYS, -1, labels.score_of)):
        for key in keys:
            if all(isinstance(entry, dict) and key in entry for entry in entries):
                found = labels.numbers([entry[key] for entry in entries], column, size, read)
                return labels.dense([sign * number for number in found])
    raise UnusableRow(column, _("column '{column}' has answers without scores or ranks"))


def perhaps_order(ranks: Sequence[Any], column: str) -> bool:
    """Whether numbers that are called a ranking count from 0, as those of answers do and ranks hardly."""
    if labels.plain_name(column) not in ("ranking", "rankings") or not all(
        isinstance(rank, int | float) for rank in ranks
    ):
        return False
    return {*ranks} == {*range(len(ranks))}


def refuse_order(ranks: Sequence[float], column: str) -> None:
    """Raises UnclearColumn where what is called a ranking may as well name the answers by their numbers, best first."""
    places = range(len(ranks))
    if perhaps_order(ranks, column) and [ranks.index(place) for place in places] != ranks:
        raise UnclearColumn(
            _(
                "The column '{name}' holds {numbers}: ranks of the answers, or the answers' numbers with the best "
                "one's first? Choose it under “Columns” as ranks or as order. Nothing was imported."
            ).format(name=display_name(column), numbers=", ".join(numeral(rank, "g") for rank in ranks)),
            *("ranks", "order"),
        )


def ranks_by_order(found: Sequence[Any], column: str, size: int) -> tuple[int, ...]:
    """The ranks of answers whose numbers stand in an order, the best one's first. Raises UnusableRow."""
    order = labels.numbers(found, column, size)
    first = min(order)
    if first not in (0, 1) or sorted(order) != [first + place for place in range(size)]:
        raise UnusableRow(column, _("column '{column}' must hold the number of each answer once, from 0 or from 1"))
    return tuple(order.index(first + place) + 1 for place in range(size))
