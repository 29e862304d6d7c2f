"""How long each kind of act takes people here, and what it teaches: the two that decide which one to ask for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from annotation.database import Database
from annotation.records import Kind

# How many pairs at random teach what one act does, with four answers; `benchmarks.acts` (docs/benchmarks.md).
PAIRS_AN_ACT: Mapping[Kind, float] = {"pair": 1.0, "best": 2.3, "rank": 4.2}
MEASURED_ANSWERS = 4
# With fewer judgements their median says little, and the page says so.
FEW = 10


@dataclass(frozen=True)
class ActTime:
    """The seconds that people took from being shown a comparison to judging it, for one kind of act."""

    kind: Kind
    answers: int
    judgements: int
    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""

    @property
    def pairs_an_act(self) -> float | None:
        """How many pairs at random teach as much as one; None where that was not measured."""
        measured = 2 if self.kind == "pair" else MEASURED_ANSWERS
        return PAIRS_AN_ACT[self.kind] if self.answers == measured else None

    @property
    def pairs_a_minute(self) -> float | None:
        """The same for a minute of judging; None where that is not known."""
        an_act = self.pairs_an_act
        return None if an_act is None or self.median <= 0 else 60 / self.median * an_act


def act_times(db: Database) -> list[ActTime]:
    """The kinds of acts that people have done here, pairs first. Skips and what was judged early do not count."""
    rows = db.connection.execute(
        """SELECT j.kind, json_array_length(j.shown_order), j.seconds
           FROM current_judgement j JOIN annotator a ON a.id = j.annotator_id
           WHERE j.outcome IN ('ranked', 'all-bad') AND NOT j.early AND j.seconds > 0
             AND j.purpose IN ('own', 'gold', 're-ask', 'adjudication') AND a.kind = 'person'"""
    )
    seconds: dict[tuple[Kind, int], list[float]] = defaultdict(list)
    for kind, answers, taken in rows:
        seconds[kind, answers].append(taken)
    order: Sequence[Kind] = tuple(PAIRS_AN_ACT)
    return [
        time_of(kind, answers, seconds[kind, answers])
        for kind, answers in sorted(seconds, key=lambda entry: (order.index(entry[0]), entry[1]))
    ]


def time_of(kind: Kind, answers: int, seconds: Sequence[float]) -> ActTime:
    """The quartiles of one kind."""
    low, median, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    return ActTime(kind=kind, answers=answers, judgements=len(seconds), median=median, low=low, high=high)
