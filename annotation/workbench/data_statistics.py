"""What the filtered comparisons are: by status, person, prompt set and day; ties and lengths. All SQL of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from annotation.database import Database
from annotation.workbench.comparison_filter import STATUS, TIE, ComparisonFilter
from annotation.workbench.comparison_list import condition_of, terms

MOST_ROWS: Final = 30
MOST_DAYS: Final = 120
# Characters: where the bars of lengths end, the last of all others.
LENGTH_EDGES: Final = (100, 200, 400, 800, 1600, 3200)

NamedCounts = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class PersonCounts:
    name: str
    judgements: int
    ties: int
    all_bad: int
    skips: int
    flags: int
    seconds: float | None
    """The median that a judgement took, skips aside, as on the Quality tab."""


@dataclass(frozen=True)
class WriterLengths:
    """How long the answers of one policy (or of an import) are, in characters."""

    writer: str
    answers: int
    mean: float
    longest: int


@dataclass(frozen=True)
class DataStatistics:
    """What there is to say of a selection of comparisons."""

    comparisons: int
    judgements: int
    """That stand, skips aside."""
    ties: int
    all_bad: int
    flagged: int
    by_status: NamedCounts
    by_source: NamedCounts
    by_split: NamedCounts
    by_answers: NamedCounts
    by_day: NamedCounts
    """Judgements by day (UTC), oldest first."""
    people: tuple[PersonCounts, ...]
    writers: tuple[WriterLengths, ...]
    lengths: NamedCounts
    """Answers by their length."""


def statistics(db: Database, wanted: ComparisonFilter) -> DataStatistics:
    """Count what a filter finds. 100,000 comparisons take about a second."""
    condition, values = condition_of(db, wanted)
    asked = {**terms(db), **values}
    chosen = f"FROM comparison c WHERE {condition}"
    with db.reading():
        # Once for all the counts: the ids in a table of this connection's own, in memory or on the temporary disk.
        db.connection.execute("CREATE TEMP TABLE IF NOT EXISTS chosen (id INTEGER PRIMARY KEY)")
        db.connection.execute("DELETE FROM chosen")
        db.connection.execute(f"INSERT INTO chosen (id) SELECT c.id {chosen}", asked)
        pairs = counts_of(db)
        people = tuple(PersonCounts(**row) for row in db.rows(PEOPLE))
        answers = db.rows(ANSWERS)
        return DataStatistics(
            comparisons=int(db.value("SELECT count(*) FROM chosen")),
            judgements=sum(one.judgements for one in people),
            ties=sum(one.ties for one in people),
            all_bad=sum(one.all_bad for one in people),
            flagged=int(db.value(f"SELECT count(*) {MINE} WHERE c.flagged")),
            by_status=pairs(f"SELECT {STATUS}, count(*) {MINE} GROUP BY 1 ORDER BY 2 DESC", asked),
            by_source=pairs(f"SELECT p.source, count(*) {PROMPTS} GROUP BY 1 ORDER BY 2 DESC LIMIT {MOST_ROWS}"),
            by_split=pairs(f"SELECT p.split, count(*) {PROMPTS} GROUP BY 1 ORDER BY 1 DESC"),
            by_answers=pairs(
                f"SELECT n, count(*) FROM (SELECT count(*) AS n {PLACED} GROUP BY o.id) GROUP BY 1 ORDER BY 1"
            ),
            by_day=pairs(
                f"""SELECT * FROM (SELECT substr(j.created, 1, 10), count(*) {SAID} WHERE j.outcome != 'skip'
                GROUP BY 1 ORDER BY 1 DESC LIMIT {MOST_DAYS}) ORDER BY 1"""
            ),
            people=people[:MOST_ROWS],
            writers=writers_of(answers),
            lengths=lengths_of(answers),
        )


MINE: Final = "FROM chosen o JOIN comparison c ON c.id = o.id"
PROMPTS: Final = f"{MINE} JOIN prompt p ON p.id = c.prompt_id"
SAID: Final = "FROM chosen o JOIN current_judgement j ON j.comparison_id = o.id"
PLACED: Final = "FROM chosen o JOIN comparison_response cr ON cr.comparison_id = o.id"
EDGES: Final = " ".join(f"WHEN length(r.text) < {edge} THEN {edge}" for edge in LENGTH_EDGES)
# The texts are read once for both: who wrote how long ones, and how many there are of each length.
ANSWERS: Final = f"""SELECT coalesce(m.revision, r.origin) AS writer, CASE {EDGES} ELSE 0 END AS edge,
        count(*) AS answers, sum(length(r.text)) AS characters, max(length(r.text)) AS longest
    {PLACED} JOIN response r ON r.id = cr.response_id LEFT JOIN model m ON m.id = r.model_id GROUP BY 1, 2"""
MEDIANS: Final = f"""SELECT annotator_id, avg(seconds) AS seconds FROM (
        SELECT j.annotator_id, j.seconds, count(*) OVER (PARTITION BY j.annotator_id) AS n,
            row_number() OVER (PARTITION BY j.annotator_id ORDER BY j.seconds) AS place
        {SAID} WHERE j.outcome != 'skip' AND j.seconds NOT NULL)
    WHERE place IN ((n + 1) / 2, (n + 2) / 2) GROUP BY annotator_id"""
PEOPLE: Final = f"""SELECT a.name, sum(j.outcome != 'skip') AS judgements, sum({TIE}) AS ties,
        sum(j.outcome = 'all-bad') AS all_bad, sum(j.outcome = 'skip') AS skips, sum(j.flag NOT NULL) AS flags,
        middle.seconds
    {SAID} JOIN annotator a ON a.id = j.annotator_id LEFT JOIN ({MEDIANS}) middle ON middle.annotator_id = a.id
    GROUP BY a.id ORDER BY judgements DESC"""


def writers_of(rows: Sequence[Mapping[str, Any]]) -> tuple[WriterLengths, ...]:
    """How long the answers of each are, who wrote most of them first."""
    found: dict[str, WriterLengths] = {}
    for row in rows:
        old = found.get(row["writer"], WriterLengths(row["writer"], 0, 0.0, 0))
        count = old.answers + row["answers"]
        mean = (old.mean * old.answers + row["characters"]) / count
        found[row["writer"]] = WriterLengths(row["writer"], count, mean, max(old.longest, row["longest"]))
    return tuple(sorted(found.values(), key=lambda one: -one.answers)[:MOST_ROWS])


def lengths_of(rows: Sequence[Mapping[str, Any]]) -> NamedCounts:
    """How many answers end by each edge; 0, that they are longer than all of them, comes last."""
    counts: Counter[int] = Counter()
    for row in rows:
        counts[row["edge"]] += row["answers"]
    return tuple((str(edge), counts[edge]) for edge in (*LENGTH_EDGES, 0) if counts[edge])


def counts_of(db: Database) -> Any:
    """Reads (name, number) of a query's rows."""

    def pairs(query: str, values: dict[str, Any] | Sequence[Any] = ()) -> NamedCounts:
        return tuple((str(name), int(number)) for name, number in db.connection.conn.execute(query, values).fetchall())

    return pairs
