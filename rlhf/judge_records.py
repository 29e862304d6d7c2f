"""What AI judges have said and spent, and who is asked about comparisons now: read for the AI judges tab."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from annotation.database import Database
from annotation.records import Message
from rlhf import judges
from rlhf.judges import Judge
from rlhf.trust import Swapped, Trust, trust
from rlhf.verdicts import Choice


def trust_in(db: Database, judge: Judge) -> Trust:
    """How far a judge can be trusted, from all that there is now."""
    return trust(judges.cases(db, judge), swapped(db, judge))


def swapped(db: Database, judge: Judge) -> list[Swapped]:
    """What a judge said of each two answers that it was asked about in both orders."""
    rows = db.rows(
        """SELECT f.comparison_id, f.choice AS forward, b.choice AS backward FROM verdict f JOIN verdict b
               ON b.annotator_id = f.annotator_id AND b.comparison_id = f.comparison_id
               AND b.first = f.second AND b.second = f.first
           WHERE f.annotator_id = ? AND f.first < f.second ORDER BY f.comparison_id, f.first, f.second""",
        (judge.id,),
    )
    return [Swapped(**row) for row in rows]


@dataclass(frozen=True)
class Spent:
    """What a judge's verdicts took."""

    verdicts: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """By the prices that the judge was given; None without prices."""


def spent(db: Database, judge: Judge, job_id: int | None = None) -> Spent:
    """What the verdicts of a judge took, of all jobs or of one; calls that brought no verdict are not among them."""
    row = db.row(
        """SELECT count(*) AS verdicts, coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
               coalesce(sum(completion_tokens), 0) AS completion_tokens
           FROM verdict WHERE annotator_id = :judge AND (:job IS NULL OR job_id = :job)""",
        {"judge": judge.id, "job": job_id},
    )
    assert row is not None
    return Spent(**row, cost=judges.cost(judge, row["prompt_tokens"], row["completion_tokens"]))


@dataclass(frozen=True)
class Stored:
    """A verdict as the page shows it."""

    comparison_id: int
    first: int
    second: int
    choice: Choice
    chance: float | None
    reply: str
    rubric_version: int | None
    created: str


def latest(db: Database, judge: Judge, limit: int) -> list[Stored]:
    """A judge's latest verdicts, newest first."""
    rows = db.rows(
        """SELECT comparison_id, first, second, choice, chance, reply, rubric_version, created FROM verdict
           WHERE annotator_id = ? ORDER BY id DESC LIMIT ?""",
        (judge.id, limit),
    )
    return [Stored(**row) for row in rows]


@dataclass(frozen=True)
class Judged:
    """A comparison of which a judge's prompt is made."""

    id: int
    messages: tuple[Message, ...]
    answers: tuple[str, ...]


def comparison(db: Database, number: int | None = None) -> Judged | None:
    """The comparison of this number, or the newest, if its answers are complete."""
    row = db.row(
        """SELECT c.id, p.messages FROM comparison c JOIN prompt p ON p.id = c.prompt_id
           WHERE c.state IN ('ready', 'closed') AND (:number IS NULL OR c.id = :number) ORDER BY c.id DESC LIMIT 1""",
        {"number": number},
    )
    if row is None:
        return None
    answers = db.rows(
        """SELECT r.text FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? ORDER BY cr.position""",
        (row["id"],),
    )
    return Judged(row["id"], tuple(json.loads(row["messages"])), tuple(answer["text"] for answer in answers))


@dataclass(frozen=True)
class Standing:
    """Who is asked about the comparisons of which no person has judged any, by number."""

    judges: int
    """They wait for an AI judge."""
    people: int
    """They wait for people, whom judges did not come before."""
    why: Mapping[str, int]
    """They wait for people, by why: 'flip', 'disagreement', 'unsure' or 'audit'."""
    settled: int
    """By judges, without people."""


def standing(db: Database) -> Standing:
    """How the comparisons stand that neither an annotator asked for nor measure a candidate."""
    rows = db.rows(
        """SELECT asks, asks_why, count(*) AS n FROM comparison
           WHERE purpose = 'preference' AND state = 'ready' AND asked_by IS NULL AND candidate_id IS NULL
             AND (asks = 'nobody' OR taken = 0) GROUP BY asks, asks_why"""
    )
    found = {(row["asks"], row["asks_why"]): row["n"] for row in rows}
    return Standing(
        judges=found.get(("judges", None), 0),
        people=found.get(("people", None), 0),
        why={why: n for (asks, why), n in found.items() if asks == "people" and why is not None},
        settled=found.get(("nobody", None), 0),
    )


def stamp(db: Database) -> list[int | None]:
    """Changes whenever a figure of a judge can: verdicts, judgements and exclusions are only ever added."""
    row = db.row(
        """SELECT (SELECT max(id) FROM verdict) AS verdict, (SELECT max(id) FROM judgement) AS judgement,
               (SELECT max(id) FROM exclusion) AS exclusion, (SELECT max(annotator_id) FROM judge) AS judge,
               (SELECT sum(active) FROM judge) AS active"""
    )
    assert row is not None
    return list(row.values())
