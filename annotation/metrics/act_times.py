"""How long each kind of act takes people here, and what it teaches: the two that decide which one to ask for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Literal

from annotation.database import Database
from annotation.records import Kind

# How many pairs at random teach what one act does, with four answers; `benchmarks.acts` (docs/benchmarks.md).
PAIRS_AN_ACT: Mapping[Kind, float] = {"pair": 1.0, "best": 2.1, "rank": 4.1}
MEASURED_ANSWERS = 4
# Nobody reads two answers in less: such judgements are a script's, or were made with closed eyes.
LEAST_SECONDS = 1.0
# With fewer judgements their median says little, and the page says so.
FEW = 10


# So many times as much a minute must teach before another kind of act is offered: the figures are not exact.
WORTH_A_CHANGE = 1.2


@dataclass(frozen=True)
class RicherAct:
    """How many times as much a ranking teaches as a pair."""

    times: float
    by: Literal["act", "minute"]
    """Of judging; by the act alone as long as nobody knows how long people take for one here."""


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
        """The same for a minute of judging; None where that is not known, or nobody can have read so fast."""
        an_act = self.pairs_an_act
        return None if an_act is None or self.median < LEAST_SECONDS else 60 / self.median * an_act


def act_times(db: Database) -> list[ActTime]:
    """The kinds of acts that people have done here, pairs first. Skips and what was judged early do not count."""
    rows = db.connection.execute(
        """SELECT j.kind, json_array_length(j.shown_order), j.seconds
           FROM current_judgement j JOIN annotator a ON a.id = j.annotator_id
           WHERE j.outcome IN ('ranked', 'all-bad') AND NOT j.early AND j.seconds > 0
             AND j.purpose IN ('own', 'gold', 're-ask', 'settle') AND a.kind = 'person'"""
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
    low, median, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    return ActTime(kind=kind, answers=answers, judgements=len(seconds), median=median, low=low, high=high)


def richer_act(times: Sequence[ActTime]) -> RicherAct | None:
    """What ranking would teach beside pairs in a minute, by the seconds that people took here for pairs.

    As many of both must have been judged as make a median, or no ranking: then it is only known what one teaches. None
    where too little is known, or a ranking teaches no more.
    """
    known = {(one.kind, one.answers): one for one in times if one.judgements >= FEW}
    pair, rank = known.get(("pair", 2)), known.get(("rank", MEASURED_ANSWERS))
    if pair is None or not pair.pairs_a_minute:
        return None
    if rank is None:
        return RicherAct(PAIRS_AN_ACT["rank"] / PAIRS_AN_ACT["pair"], "act")
    by = (rank.pairs_a_minute or 0) / pair.pairs_a_minute
    return RicherAct(by, "minute") if by >= WORTH_A_CHANGE else None
