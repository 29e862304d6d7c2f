"""How many comparisons and answers there are: in stock, drawn, dropped."""

from __future__ import annotations

from dataclasses import dataclass

from annotation.database import Database
from annotation.records import Split

# Of comparisons `c`: that they wait to be judged. One that somebody skipped is still there for others, but nobody may
# be left who would judge it; and what an annotator asked for is that annotator's first, who may never come back to it.
WAITS = """c.purpose = 'preference' AND c.state = 'ready' AND c.taken = 0 AND c.asks IN ('people', 'judges')
    AND c.assigned = 0 AND c.asked_by IS NULL
    AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.comparison_id = c.id AND k.state = 'skipped')"""


def stock_sizes(db: Database, model_id: int) -> dict[Split, int]:
    """How many comparisons by this policy nobody has judged or holds yet, by split; not what only some may have."""
    rows = db.rows(
        f"""SELECT p.split, count(*) AS n FROM comparison c JOIN prompt p ON p.id = c.prompt_id
            WHERE {WAITS} AND c.model_id = ? GROUP BY p.split""",
        (model_id,),
    )
    sizes: dict[Split, int] = {"train": 0, "held-out": 0}
    return sizes | {row["split"]: row["n"] for row in rows}


def waiting_elsewhere(db: Database, model_id: int) -> int:
    """How many comparisons that this policy did not write (others' and imported ones) nobody has judged yet."""
    return int(db.value(f"SELECT count(*) FROM comparison c WHERE {WAITS} AND c.model_id IS NOT ?", (model_id,)))


def attempts(db: Database, model_id: int, prompt_id: int) -> int:
    """How many answers a policy has drawn to a prompt for comparisons."""
    return int(
        db.value(
            "SELECT count(*) FROM response WHERE prompt_id = ? AND model_id = ? AND purpose = 'compare'",
            (prompt_id, model_id),
        )
    )


def comparison_counts(db: Database) -> dict[Split, int]:
    """How many comparisons by policies, open or judged, each split that has prompts has got.

    Imported ones don't count: they would shift the share of new ones that is held out.
    """
    rows = db.rows(
        """SELECT p.split, count(c.id) AS n FROM prompt p LEFT JOIN comparison c ON c.prompt_id = p.id
               AND c.model_id IS NOT NULL AND c.state IN ('writing', 'ready')
           GROUP BY p.split ORDER BY p.split DESC"""
    )
    return {row["split"]: row["n"] for row in rows}


@dataclass(frozen=True)
class AnswerCounts:
    """What the answering worker has produced for comparisons, in answers."""

    total: int
    ended: int
    empty: int
    duplicate: int

    @property
    def ended_share(self) -> float:
        """Share of answers that ended by themselves within the limit."""
        return self.ended / self.total if self.total else 0.0


def answer_counts(db: Database) -> AnswerCounts:
    """Counts over all answers drawn for comparisons."""
    row = db.one(
        """SELECT count(*) AS total, coalesce(sum(finish_reason = 'stop'), 0) AS ended,
               coalesce(sum(dropped = 'empty'), 0) AS empty, coalesce(sum(dropped = 'duplicate'), 0) AS duplicate
           FROM response WHERE purpose = 'compare' AND origin = 'policy' AND state = 'done'"""
    )
    return AnswerCounts(**row)
