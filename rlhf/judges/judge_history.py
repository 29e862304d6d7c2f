"""What AI judges have said and spent, and who is asked about comparisons now: read for the AI judges tab."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from annotation.claims import backlog
from annotation.database import Database
from annotation.records import Message
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.judge_agreement import Trust, TrustBasis, VerdictPair, trust
from rlhf.judges.judge_store import Judge
from rlhf.judges.verdict_store import EARLIER, IN_VAIN, JUDGED_BY_PEOPLE, RANKED, UNLEARNT
from rlhf.judges.verdicts import Choice


def trust_in(db: Database, judge: Judge) -> Trust:
    """How far a judge can be trusted, from all that there is now."""
    return trust(verdict_store.jointly_judged(db, judge), verdict_pairs(db, judge))


def verdict_pairs(db: Database, judge: Judge) -> list[VerdictPair]:
    """What a judge said, as it is now, of each two answers that it was asked about in both orders."""
    rows = db.rows(
        f"""WITH said AS (SELECT * FROM verdict v WHERE v.annotator_id = ? AND NOT {EARLIER})
            SELECT f.comparison_id, f.choice AS forward, b.choice AS backward FROM said f JOIN said b
                ON b.comparison_id = f.comparison_id AND b.first = f.second AND b.second = f.first
            WHERE f.first < f.second ORDER BY f.comparison_id, f.first, f.second""",
        (judge.id,),
    )
    return [VerdictPair(**row) for row in rows]


def basis(db: Database, judge: Judge) -> TrustBasis:
    left_out = db.value(f"SELECT count(*) FROM verdict v WHERE v.annotator_id = ? AND {EARLIER}", (judge.id,))
    version = None if judge.backend == "reward-model" else judge_store.rubric(db).version
    frozen, model = judge_store.frozen_before(db, judge), judge_store.model_of(db, judge)
    if model is None or frozen is None:
        return TrustBasis(version, int(left_out))
    seen = db.value(
        f"SELECT count(*) {RANKED} AND {JUDGED_BY_PEOPLE} AND NOT {UNLEARNT}", {"judge": judge.id, "frozen": frozen}
    )
    return TrustBasis(version=version, left_out=int(left_out), model=model.revision, frozen=frozen, seen=int(seen))


@dataclass(frozen=True)
class JudgeUsage:
    verdicts: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """By the prices that the judge was given; None without prices."""
    calls: int = 0
    """Of its endpoint in all jobs."""


def usage(db: Database, judge: Judge, job_id: int | None = None) -> JudgeUsage:
    """What a judge has taken, in all jobs or in one, also for replies that could not be read."""
    row = db.one(
        f"""SELECT sum(counts) AS verdicts, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS
                completion_tokens
            FROM (SELECT 0 AS counts, 0 AS prompt_tokens, 0 AS completion_tokens, :job AS job_id
                UNION ALL SELECT 1, prompt_tokens, completion_tokens, job_id FROM verdict WHERE annotator_id = :judge
                UNION ALL SELECT 0, prompt_tokens, completion_tokens, job_id FROM ({IN_VAIN}))
            WHERE :job IS NULL OR job_id = :job""",
        {"judge": judge.id, "job": job_id},
    )
    cost = judge_store.cost(judge, row["prompt_tokens"], row["completion_tokens"])
    return JudgeUsage(**row, cost=cost, calls=judge_store.calls_made(db, judge))


def candidates(db: Database) -> list[str]:
    """The revisions of candidates whose answers are compared with another policy's, the newest first."""
    rows = db.rows(
        """SELECT revision FROM model WHERE status = 'candidate'
             AND id IN (SELECT candidate_id FROM comparison WHERE candidate_id NOT NULL) ORDER BY id DESC"""
    )
    return [row["revision"] for row in rows]


@dataclass(frozen=True)
class VerdictView:
    comparison_id: int
    first: int
    second: int
    choice: Choice
    chance: float | None
    reply: str
    rubric_version: int | None
    created: str


def latest(db: Database, judge: Judge, limit: int) -> list[VerdictView]:
    """A judge's latest verdicts, newest first."""
    rows = db.rows(
        """SELECT comparison_id, first, second, choice, chance, reply, rubric_version, created FROM verdict
           WHERE annotator_id = ? ORDER BY id DESC LIMIT ?""",
        (judge.id, limit),
    )
    return [VerdictView(**row) for row in rows]


@dataclass(frozen=True)
class PromptComparison:
    """A comparison of which a judge's prompt is made."""

    id: int
    messages: tuple[Message, ...]
    answers: tuple[str, ...]


def comparison(db: Database, number: int | None = None) -> PromptComparison | None:
    """The comparison of this number, or the newest, if its answers are complete."""
    row = db.row(
        """SELECT c.id, p.messages FROM comparison c JOIN prompt p ON p.id = c.prompt_id
           WHERE c.state IN ('ready', 'closed', 'withdrawn') AND (:number IS NULL OR c.id = :number)
           ORDER BY c.id DESC LIMIT 1""",
        {"number": number},
    )
    if row is None:
        return None
    answers = db.rows(
        """SELECT r.text FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           WHERE cr.comparison_id = ? ORDER BY cr.position""",
        (row["id"],),
    )
    return PromptComparison(row["id"], tuple(json.loads(row["messages"])), tuple(answer["text"] for answer in answers))


@dataclass(frozen=True)
class JudgingStatus:
    """Whom the comparisons wait for, and what judges alone came to, by number."""

    judges: int
    """They wait for an AI judge."""
    people: int
    """They wait for people."""
    why: Mapping[str, int]
    """Those of them that judges came before, by why: 'flip', 'disagreement', 'unsure' or 'audit'."""
    labelled: int
    """By judges, without people."""
    given_up: int
    """Nobody is asked, because no judge could judge them."""


def judging_status(db: Database) -> JudgingStatus:
    """Whom comparisons wait for; of judges not those that an annotator asked for or that measure a candidate."""
    rows = db.rows(
        """SELECT asks, asks_why, count(*) AS n FROM comparison
           WHERE purpose = 'preference' AND state = 'ready' AND asked_by IS NULL AND candidate_id IS NULL
             AND (asks = 'nobody' OR asks = 'judges' AND taken = 0) GROUP BY asks, asks_why"""
    )
    found = {(row["asks"], row["asks_why"]): row["n"] for row in rows}
    people = db.rows(
        f"""SELECT iif(asks = 'people', asks_why, NULL) AS why, count(*) AS n FROM comparison c
            WHERE {backlog.WAITS_FOR_PEOPLE} GROUP BY why""",
        backlog.asked_of(db),
    )
    return JudgingStatus(
        judges=sum(n for (asks, _), n in found.items() if asks == "judges"),
        people=sum(row["n"] for row in people),
        why={row["why"]: row["n"] for row in people if row["why"] is not None},
        labelled=found.get(("nobody", None), 0),
        given_up=found.get(("nobody", "unsure"), 0),
    )


def waiting_without_verdict(db: Database) -> dict[str, int]:
    """How many open comparisons wait for each judge that labels them and whose last job gave no verdict."""
    found = {}
    for judge in judge_store.judges(db, active=True):
        job = judge_store.last_job(db, judge)
        waiting = verdict_store.count_open(db, judge) if job and verdict_store.gave_no_verdict(db, job) else 0
        if waiting:
            found[judge.name] = waiting
    return found


def cache_key(db: Database) -> list[int | str | None]:
    """Changes whenever a figure of a judge can."""
    row = db.one(
        """SELECT (SELECT max(id) FROM verdict) AS verdict, (SELECT max(id) FROM judgement) AS judgement,
               (SELECT max(e.id) FROM job JOIN event e ON e.job_id = job.id AND e.kind = 'sample'
                   WHERE job.kind IN ('judge', 'check')) AS in_vain,
               (SELECT max(version) FROM rubric) AS rubric,
               (SELECT group_concat(value) FROM setting WHERE key LIKE 'calls of judge %'
                   OR key IN ('gate', 'precision', 'thinking_changes')) AS setting,
               (SELECT max(id) FROM exclusion) AS exclusion, (SELECT max(annotator_id) FROM judge) AS judge,
               (SELECT sum(active) FROM judge) AS active"""
    )
    return list(row.values())
