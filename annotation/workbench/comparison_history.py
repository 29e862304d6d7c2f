"""One comparison with all that ever became of it: how it was formed, who was given it, what was said, who learnt of it.

Which trainings used it is not a row: the frozen data are files, and are looked through for its number.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from annotation.database import Database
from annotation.jobs.job_table import Status
from annotation.records import (
    AnnotatorKind,
    Asks,
    AsksWhy,
    ClaimState,
    ComparisonState,
    Flag,
    Message,
    Outcome,
    Purpose,
    ResponseState,
    UserError,
    now,
)
from annotation.translation import _
from annotation.workbench.bulk_changes import ChangeKind
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_list import ListedComparison, list_page


@dataclass(frozen=True)
class HistoryAnswer:
    text: str
    writer: str
    """A policy's revision, 'import' or 'person'."""
    state: ResponseState
    tokens: int | None
    finish_reason: Literal["stop", "length"] | None


@dataclass(frozen=True)
class HandOut:
    when: str
    annotator: str
    purpose: Purpose
    state: ClaimState | Literal["undone"]
    chance: float | None
    assigned_by: str | None
    """The admin who assigned it; None where it was drawn."""


@dataclass(frozen=True)
class SaidJudgement:
    id: int
    when: str
    annotator: str
    kind: AnnotatorKind
    purpose: Purpose
    outcome: Outcome
    ranking: tuple[int, ...] | None
    strength: int | None
    tags: tuple[str, ...]
    note: str
    flag: Flag | None
    edited: str | None
    seconds: float | None
    early: bool
    supersedes: int | None
    stands: bool


@dataclass(frozen=True)
class JudgeVerdict:
    """What an AI judge answered on two of the answers, in one order."""

    when: str
    judge: str
    first: int
    second: int
    choice: Literal["first", "second", "tie"]
    chance: float | None
    reply: str


@dataclass(frozen=True)
class AdminAct:
    """What an admin did with it: a bulk change, or a decision about a gold comparison."""

    when: str
    who: str
    kind: ChangeKind | Literal["gold-make", "gold-retire", "gold-reinstate", "gold-release"]
    whom: str
    undone_by: str | None
    undone: str | None
    state: str | None
    """What came of it for this comparison: 'released' where it was given back."""


@dataclass(frozen=True)
class UsedBy:
    """Frozen data that has it, with a job that was given these data."""

    snapshot: str
    created: str
    job: int | None
    status: Status | None
    revision: str | None
    """What the job made, if it did."""


@dataclass(frozen=True)
class ComparisonHistory:
    listed: ListedComparison
    messages: tuple[Message, ...]
    answers: tuple[HistoryAnswer, ...]
    created: str
    asked_by: str | None
    import_name: str | None
    candidate: str | None
    against: str | None
    state: ComparisonState
    asks: Asks
    asks_why: AsksWhy | None
    formed_chance: float | None
    people_chance: float | None
    people_drawn: bool | None
    hand_outs: tuple[HandOut, ...]
    judgements: tuple[SaidJudgement, ...]
    verdicts: tuple[JudgeVerdict, ...]
    acts: tuple[AdminAct, ...]


COPIED = ("created", "candidate", "against", "state", "asks", "asks_why", "formed_chance", "people_chance")


def history(db: Database, comparison_id: int) -> ComparisonHistory:
    """All rows about a comparison, oldest first. Raises UserError where there is no such comparison."""
    with db.reading():
        page = list_page(db, ComparisonFilter(ids=(comparison_id,)))
        if not page.rows:
            raise UserError(_("There is no comparison {number}.").format(number=comparison_id))
        row = db.one(
            """SELECT c.*, p.messages, a.name AS asker, i.name AS imported, m.revision AS candidate, 
                   n.revision AS against
               FROM comparison c JOIN prompt p ON p.id = c.prompt_id LEFT JOIN annotator a ON a.id = c.asked_by
                   LEFT JOIN import i ON i.id = c.import_id LEFT JOIN model m ON m.id = c.candidate_id
                   LEFT JOIN model n ON n.id = c.against_id WHERE c.id = ?""",
            (comparison_id,),
        )
        return ComparisonHistory(
            listed=page.rows[0],
            messages=tuple(json.loads(row["messages"])),
            answers=answers(db, comparison_id),
            **{name: row[name] for name in COPIED},
            asked_by=row["asker"],
            import_name=row["imported"],
            people_drawn=None if row["people_drawn"] is None else bool(row["people_drawn"]),
            hand_outs=hand_outs(db, comparison_id),
            judgements=judgements(db, comparison_id),
            verdicts=verdicts(db, comparison_id),
            acts=acts(db, comparison_id),
        )


def answers(db: Database, comparison_id: int) -> tuple[HistoryAnswer, ...]:
    """Its answers, in the order of their positions."""
    rows = db.rows(
        """SELECT r.text, coalesce(m.revision, r.origin) AS writer, r.state, r.tokens, r.finish_reason
           FROM comparison_response cr JOIN response r ON r.id = cr.response_id LEFT JOIN model m ON m.id = r.model_id
           WHERE cr.comparison_id = ? ORDER BY cr.position""",
        (comparison_id,),
    )
    return tuple(HistoryAnswer(**row) for row in rows)


def hand_outs(db: Database, comparison_id: int) -> tuple[HandOut, ...]:
    """Who was given it when. Not the bulk skips, which nobody was shown it for."""
    rows = db.rows(
        """SELECT k.created AS "when", a.name AS annotator, k.purpose, k.chance, x.decided_by AS assigned_by,
               CASE WHEN k.state = 'held' AND k.expires <= :now THEN 'released'
                   WHEN k.state = 'released' AND k.id IN (SELECT claim_id FROM judgement) THEN 'undone'
                   ELSE k.state END AS state
           FROM claim k JOIN annotator a ON a.id = k.annotator_id LEFT JOIN bulk_change x ON x.id = k.assigned_by
           WHERE k.comparison_id = :id AND coalesce(x.kind, '') != 'skip' ORDER BY k.id""",
        {"id": comparison_id, "now": now()},
    )
    return tuple(HandOut(**row) for row in rows)


def judgements(db: Database, comparison_id: int) -> tuple[SaidJudgement, ...]:
    """Every judgement, also those that were changed or taken back since."""
    rows = db.rows(
        """SELECT j.id, j.created AS "when", a.name AS annotator, a.kind, j.purpose, j.outcome, j.ranking, j.strength,
               j.tags, j.note, j.flag, e.text AS edited, j.seconds, j.early, j.supersedes,
               j.id IN (SELECT id FROM current_judgement) AS stands
           FROM judgement j JOIN annotator a ON a.id = j.annotator_id
               LEFT JOIN response e ON e.id = j.edited_response_id
           WHERE j.comparison_id = ? ORDER BY j.id""",
        (comparison_id,),
    )
    for row in rows:
        row |= {"tags": tuple(json.loads(row["tags"])), "early": bool(row["early"]), "stands": bool(row["stands"])}
        row["ranking"] = None if row["ranking"] is None else tuple(json.loads(row["ranking"]))
    return tuple(SaidJudgement(**row) for row in rows)


def verdicts(db: Database, comparison_id: int) -> tuple[JudgeVerdict, ...]:
    rows = db.rows(
        """SELECT v.created AS "when", a.name AS judge, v.first, v.second, v.choice, v.chance, v.reply
           FROM verdict v JOIN annotator a ON a.id = v.annotator_id WHERE v.comparison_id = ? ORDER BY v.id""",
        (comparison_id,),
    )
    return tuple(JudgeVerdict(**row) for row in rows)


def acts(db: Database, comparison_id: int) -> tuple[AdminAct, ...]:
    """What admins did with it, oldest first."""
    rows = db.rows(
        """SELECT x.created AS "when", x.decided_by AS who, x.kind, coalesce(a.name, x.group_name, '') AS whom,
               x.undone_by, x.undone, i.state
           FROM bulk_change_comparison i JOIN bulk_change x ON x.id = i.change_id
               LEFT JOIN annotator a ON a.id = x.annotator_id WHERE i.comparison_id = :id
           UNION ALL
           SELECT created, decided_by, 'gold-' || action, '', NULL, NULL, NULL FROM gold_decision
           WHERE comparison_id = :id
           ORDER BY 1""",
        {"id": comparison_id},
    )
    return tuple(AdminAct(**row) for row in rows)


# --------------------------------------------------------------------------------------------------- what learnt of it
JOBS: Final = """SELECT j.id AS job, j.status, (SELECT group_concat(m.revision, ', ') FROM model m
        WHERE m.job_id = j.id) AS revision
    FROM job j WHERE json_extract(j.spec, '$.snapshot') = ? ORDER BY j.id"""


def used_by(db: Database, data_dir: Path, comparison_id: int) -> tuple[UsedBy, ...]:
    """The frozen data that have it as a preference, or an edit of it as a demonstration, and the jobs given these."""
    edits = db.rows(
        """SELECT DISTINCT edited_response_id AS id FROM judgement
           WHERE comparison_id = ? AND edited_response_id NOT NULL""",
        (comparison_id,),
    )
    # As `annotation.exports.frozen_rows.line_of` writes them; within a text a quotation mark has a stroke before it.
    marks = [f'"comparison": {comparison_id},', *(f'"response": {row["id"]},' for row in edits)]
    first = db.value("SELECT min(id) FROM judgement WHERE comparison_id = ?", (comparison_id,))
    found: list[UsedBy] = []
    if first is None:
        return ()
    for frozen in db.rows("SELECT sha256, path, created FROM snapshot ORDER BY created, sha256"):
        if not holds(data_dir / frozen["path"], marks):
            continue
        jobs = db.rows(JOBS, (frozen["sha256"],)) or [{"job": None, "status": None, "revision": None}]
        found += [UsedBy(snapshot=frozen["sha256"], created=frozen["created"], **job) for job in jobs]
    return tuple(found)


def holds(path: Path, marks: Sequence[str]) -> bool:
    """Whether a file has one of these in it; a file that is gone has none."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(mark.encode()) >= 0 for mark in marks)
    except (OSError, ValueError):  # deleted, or empty
        return False
