"""Every SQL statement about prompts, answers, comparisons, claims and judgements; records out."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from annotation.database import Database
from annotation.records import (
    Annotator,
    Claim,
    JudgedComparison,
    Prompt,
    Response,
    Sampling,
    Split,
    UserError,
    Verdict,
    now,
    seconds_between,
)
from annotation.selection import draw_order

CLAIM_SECONDS = 20 * 60


# ---------------------------------------------------------------------------------------------------------- prompts
def add_prompts(db: Database, prompts: Iterable[Prompt]) -> int:
    """Insert prompts that are not there yet and return how many were new. A known prompt keeps its split."""
    added = 0
    with db.transaction() as connection:
        for prompt in prompts:
            messages = json.dumps(prompt.messages, ensure_ascii=False, sort_keys=True)
            cursor = connection.execute(
                "INSERT OR IGNORE INTO prompt (fingerprint, messages, source, split, created) VALUES (?, ?, ?, ?, ?)",
                (sha256(messages.encode()).hexdigest(), messages, prompt.source, prompt.split, now()),
            )
            added += cursor.rowcount
    return added


def prompts(db: Database, split: Split) -> list[Prompt]:
    """All prompts of a split, oldest first."""
    return [read_prompt(row) for row in db.rows("SELECT * FROM prompt WHERE split = ? ORDER BY id", (split,))]


def prompts_to_answer(db: Database, model_id: int, split: Split, limit: int) -> list[tuple[Prompt, int]]:
    """Prompts of a split with the number of answers this model has drawn to each for comparisons.

    Prompts compared least often under any policy come first, ties in random order: judgements spread evenly.
    """
    rows = db.rows(
        """SELECT prompt.*, (SELECT count(*) FROM comparison c WHERE c.prompt_id = prompt.id) AS compared,
               (SELECT count(*) FROM response r WHERE r.prompt_id = prompt.id AND r.model_id = :model
                   AND r.purpose = 'compare') AS attempts
           FROM prompt WHERE split = :split ORDER BY compared, attempts, random() LIMIT :limit""",
        {"model": model_id, "split": split, "limit": limit},
    )
    return [(read_prompt(row), row["attempts"]) for row in rows]


def read_prompt(row: dict[str, Any]) -> Prompt:
    """A prompt row as a record."""
    return Prompt(tuple(json.loads(row["messages"])), row["split"], row["source"], row["id"])


# ------------------------------------------------------------------------------------------- answers and comparisons
def add_response(db: Database, response: Response, purpose: str, dropped: str | None = None) -> int:
    """Store one answer and return its id. `dropped` says why it will not be offered: 'empty' or 'duplicate'."""
    with db.transaction() as connection:
        return int(
            connection.execute(
                """INSERT INTO response (prompt_id, model_id, purpose, text, sampling, seed, rendered_prompt,
                       prompt_tokens, tokens, finish_reason, dropped, created)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    response.prompt_id,
                    response.model_id,
                    purpose,
                    response.text,
                    json.dumps(asdict(response.sampling)),
                    response.seed,
                    response.rendered_prompt,
                    response.prompt_tokens,
                    response.tokens,
                    response.finish_reason,
                    dropped,
                    now(),
                ),
            ).lastrowid
            or 0
        )


def add_comparison(db: Database, responses: Sequence[Response], wanted: int = 2) -> int | None:
    """Store the answers a policy drew to one prompt, and a comparison of the first `wanted` that differ.

    Empty answers and answers equal to an earlier one (white space and case aside) are kept, marked and never offered.
    Returns the comparison's id, or None when too few answers were left.
    """
    seen: set[str] = set()
    offered: list[int] = []
    with db.transaction() as connection:
        for response in responses:
            folded = " ".join(response.text.split()).casefold()
            dropped = "empty" if not folded else "duplicate" if folded in seen else None
            seen.add(folded)
            response_id = add_response(db, response, "compare", dropped)
            if dropped is None and len(offered) < wanted:
                offered.append(response_id)
        if len(offered) < wanted:
            return None
        comparison_id = connection.execute(
            "INSERT INTO comparison (prompt_id, model_id, purpose, created) VALUES (?, ?, 'preference', ?)",
            (responses[0].prompt_id, responses[0].model_id, now()),
        ).lastrowid
        connection.conn.executemany(
            "INSERT INTO comparison_response (comparison_id, position, response_id) VALUES (?, ?, ?)",
            [(comparison_id, position, response_id) for position, response_id in enumerate(offered)],
        )
    return comparison_id


def evaluation_responses(db: Database, model_id: int) -> list[dict[str, Any]]:
    """A policy's answers to the held-out prompts, a row each with prompt and scores, in prompt and seed order."""
    rows = db.rows(
        """SELECT r.*, p.messages,
               (SELECT json_group_object(scorer, value) FROM score s WHERE s.response_id = r.id) AS scores
           FROM response r JOIN prompt p ON p.id = r.prompt_id
           WHERE r.model_id = ? AND r.purpose = 'evaluate' ORDER BY r.prompt_id, r.seed""",
        (model_id,),
    )
    return [{**row, "messages": json.loads(row["messages"]), "scores": json.loads(row["scores"])} for row in rows]


def answers_of_check(
    db: Database, model_id: int, prompts: Sequence[Prompt], seed: int, sampling: Sampling
) -> list[dict[str, Any]]:
    """A policy's answers on the terms of one check: prompt i with seed + i. Others may have had other terms."""
    wanted = {(prompt.id, seed + place) for place, prompt in enumerate(prompts)}
    return [
        row
        for row in evaluation_responses(db, model_id)
        if (row["prompt_id"], row["seed"]) in wanted and json.loads(row["sampling"]) == asdict(sampling)
    ]


def add_score(db: Database, response_id: int, scorer: str, value: float) -> None:
    """Record what a scorer says of an answer; scoring again replaces the value."""
    with db.transaction() as connection:
        connection.execute(
            "INSERT OR REPLACE INTO score (response_id, scorer, value) VALUES (?, ?, ?)", (response_id, scorer, value)
        )


def buffer_sizes(db: Database, model_id: int) -> dict[Split, int]:
    """How many comparisons by this policy wait for a judgement, by split."""
    rows = db.rows(
        # One that somebody skipped is still there for others, but nobody may be left who would judge it.
        f"""SELECT p.split, count(*) AS n FROM comparison c JOIN prompt p ON p.id = c.prompt_id
            WHERE c.model_id = ? AND {OPEN_COMPARISON}
              AND NOT EXISTS (SELECT 1 FROM claim k WHERE k.comparison_id = c.id AND k.state = 'skipped')
            GROUP BY p.split""",
        (model_id,),
    )
    sizes: dict[Split, int] = {"train": 0, "held-out": 0}
    return sizes | {row["split"]: row["n"] for row in rows}


def comparison_counts(db: Database) -> dict[Split, int]:
    """How many comparisons, open or judged, each split that has prompts has got."""
    rows = db.rows(
        """SELECT p.split, count(c.id) AS n FROM prompt p LEFT JOIN comparison c ON c.prompt_id = p.id
           GROUP BY p.split ORDER BY p.split DESC"""
    )
    return {row["split"]: row["n"] for row in rows}


OPEN_COMPARISON = "NOT EXISTS (SELECT 1 FROM claim k WHERE k.comparison_id = c.id AND k.state IN ('held', 'judged'))"


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
    row = db.row(
        """SELECT count(*) AS total, coalesce(sum(finish_reason = 'stop'), 0) AS ended,
               coalesce(sum(dropped = 'empty'), 0) AS empty, coalesce(sum(dropped = 'duplicate'), 0) AS duplicate
           FROM response WHERE purpose = 'compare'"""
    )
    assert row is not None
    return AnswerCounts(**row)


# -------------------------------------------------------------------------------------------------- claims, judgements
def claim_next(db: Database, annotator_id: int) -> Claim | None:
    """The comparison this annotator holds, or a new one from the pool; None when the pool is empty.

    Asking again (a reload, a second tab) gives the same comparison in the same order until it is judged or expires.
    """
    held = held_claim(db, annotator_id)
    if held is not None:
        return held
    with db.transaction() as connection:
        release_expired(db)
        held = held_claim(db, annotator_id)
        if held is not None:
            return held
        chosen = db.value(NEXT_COMPARISON, {"annotator": annotator_id})
        if chosen is None:
            return None
        size = int(db.value("SELECT count(*) FROM comparison_response WHERE comparison_id = ?", (chosen,)))
        insert_claim(connection, chosen, annotator_id, draw_order(size, secrets.SystemRandom()))
    return held_claim(db, annotator_id)


# Answers of the policy that serves, so that judgements are about the model as it is; the oldest first, which keeps the
# share of held-out prompts that the answering worker has put in.
NEXT_COMPARISON = f"""SELECT c.id FROM comparison c JOIN model m ON m.id = c.model_id AND m.status = 'serving'
    WHERE {OPEN_COMPARISON}
      AND NOT EXISTS (SELECT 1 FROM current_judgement j WHERE j.comparison_id = c.id AND j.annotator_id = :annotator)
    ORDER BY c.id LIMIT 1"""


def insert_claim(connection: Any, comparison_id: int, annotator_id: int, order: Sequence[int]) -> None:
    """Put a comparison into an annotator's hands, inside the caller's transaction."""
    created = datetime.now(UTC)
    connection.execute(
        """INSERT INTO claim (nonce, comparison_id, annotator_id, slot, shown_order, state, created, expires)
           VALUES (?, ?, ?, 0, ?, 'held', ?, ?)""",
        (
            secrets.token_urlsafe(16),
            comparison_id,
            annotator_id,
            json.dumps(list(order)),
            created.isoformat(timespec="microseconds"),
            (created + timedelta(seconds=CLAIM_SECONDS)).isoformat(timespec="microseconds"),
        ),
    )


def held_claim(db: Database, annotator_id: int) -> Claim | None:
    """The unexpired comparison in this annotator's hands, if any."""
    row = db.row("SELECT * FROM claim WHERE annotator_id = ? AND state = 'held' AND expires > ?", (annotator_id, now()))
    if row is None:
        return None
    answers = db.rows(
        """SELECT r.text, p.messages FROM comparison_response cr JOIN response r ON r.id = cr.response_id
           JOIN prompt p ON p.id = r.prompt_id WHERE cr.comparison_id = ? ORDER BY cr.position""",
        (row["comparison_id"],),
    )
    return Claim(
        nonce=row["nonce"],
        comparison_id=row["comparison_id"],
        annotator_id=annotator_id,
        shown_order=tuple(json.loads(row["shown_order"])),
        messages=tuple(json.loads(answers[0]["messages"])),
        texts=tuple(answer["text"] for answer in answers),
    )


def release_expired(db: Database) -> None:
    """Return comparisons to the pool whose annotator let the time limit pass."""
    with db.transaction() as connection:
        connection.execute("UPDATE claim SET state = 'released' WHERE state = 'held' AND expires <= ?", (now(),))


def judge(db: Database, annotator_id: int, nonce: str, word: str) -> int:
    """Record a judgement on the comparison shown under `nonce` and return its id, once and only once.

    The same request again (double click, retry, second tab) returns the judgement made first, unchanged.
    Raises UserError when nothing was recorded: an unknown nonce, another person's claim, one undone or expired.
    """
    with db.transaction() as connection:
        claim = db.row("SELECT * FROM claim WHERE nonce = ? AND annotator_id = ?", (nonce, annotator_id))
        if claim is None:
            raise UserError("This comparison is not in your hands. Nothing was recorded; here is your next one.")
        first = db.row("SELECT id FROM judgement WHERE claim_id = ? AND supersedes IS NULL", (claim["id"],))
        if first is not None and claim["state"] == "released":
            raise UserError("You took this judgement back. Nothing was recorded; judge what is shown now.")
        if first is not None:
            return int(first["id"])
        verdict = Verdict.parse(word, tuple(json.loads(claim["shown_order"])))
        judged_at = now()
        if claim["state"] != "held" or claim["expires"] <= judged_at:
            raise UserError("The time for this comparison ran out and it went back to the pool. Nothing was recorded.")
        connection.execute(
            "UPDATE claim SET state = ? WHERE id = ?",
            ("skipped" if verdict.outcome == "skip" else "judged", claim["id"]),
        )
        return int(
            connection.execute(
                """INSERT INTO judgement (claim_id, comparison_id, annotator_id, outcome, ranking, strength,
                       shown_order, seconds, supersedes, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)""",
                (
                    claim["id"],
                    claim["comparison_id"],
                    annotator_id,
                    verdict.outcome,
                    None if verdict.ranking is None else json.dumps(verdict.ranking),
                    verdict.strength,
                    claim["shown_order"],
                    seconds_between(claim["created"], judged_at),
                    judged_at,
                ),
            ).lastrowid
            or 0
        )


def undo(db: Database, annotator_id: int, shown_nonce: str) -> Claim:
    """Take back this annotator's latest judgement: a superseding row says so, and the comparison is in hand again.

    `shown_nonce` is what the person sees while asking (empty: the waiting card); a repeated request finds another
    comparison in hand and undoes nothing more. Raises UserError then, when there is nothing to undo, or when another
    person has the comparison by now (after a skip).
    """
    with db.transaction() as connection:
        in_hand = held_claim(db, annotator_id)
        if shown_nonce != (in_hand.nonce if in_hand else ""):
            raise UserError("This page showed an older comparison, so nothing was undone. Here is where you are.")
        last = db.row(
            "SELECT * FROM current_judgement WHERE annotator_id = ? ORDER BY id DESC LIMIT 1", (annotator_id,)
        )
        if last is None:
            raise UserError("There is no judgement of yours to undo.")
        connection.execute("UPDATE claim SET state = 'released' WHERE id = ?", (last["claim_id"],))
        taken = db.row(
            "SELECT 1 FROM claim WHERE comparison_id = ? AND state IN ('held', 'judged')", (last["comparison_id"],)
        )
        if taken is not None:
            raise UserError("Someone else is judging the comparison you skipped; your skip stays.")
        connection.execute(
            """INSERT INTO judgement (claim_id, comparison_id, annotator_id, outcome, shown_order, seconds,
                   supersedes, created) VALUES (?, ?, ?, 'undone', ?, 0, ?, ?)""",
            (last["claim_id"], last["comparison_id"], annotator_id, last["shown_order"], last["id"], now()),
        )
        connection.execute(
            "UPDATE claim SET state = 'released' WHERE annotator_id = ? AND state = 'held'", (annotator_id,)
        )
        insert_claim(connection, last["comparison_id"], annotator_id, json.loads(last["shown_order"]))
    again = held_claim(db, annotator_id)
    assert again is not None
    return again


def judged_comparisons(db: Database, after: int = 0) -> list[JudgedComparison]:
    """Current judgements with ids above `after`, with prompt, answers and annotator, oldest first."""
    rows = db.rows(
        """SELECT j.id AS judgement_id, j.comparison_id, c.prompt_id, p.split, p.messages, a.name AS annotator,
               j.outcome, j.ranking, j.strength,
               (SELECT json_group_array(json_object('id', r.id, 'model_id', r.model_id, 'text', r.text,
                       'finish_reason', r.finish_reason, 'tokens', r.tokens, 'prompt_tokens', r.prompt_tokens,
                       'rendered_prompt', r.rendered_prompt))
                  FROM (SELECT response.* FROM comparison_response cr JOIN response ON response.id = cr.response_id
                        WHERE cr.comparison_id = j.comparison_id ORDER BY cr.position) r) AS responses
           FROM current_judgement j JOIN comparison c ON c.id = j.comparison_id JOIN prompt p ON p.id = c.prompt_id
           JOIN annotator a ON a.id = j.annotator_id WHERE j.id > ? ORDER BY j.id""",
        (after,),
    )
    return [
        JudgedComparison(
            **{key: row[key] for key in ("judgement_id", "comparison_id", "prompt_id", "split", "annotator")},
            outcome=row["outcome"],
            strength=row["strength"],
            messages=tuple(json.loads(row["messages"])),
            ranking=None if row["ranking"] is None else tuple(json.loads(row["ranking"])),
            responses=tuple(json.loads(row["responses"])),
        )
        for row in rows
    ]


def judgement_count(db: Database, annotator: Annotator | None = None, after: int = 0, since: str = "") -> int:
    """Current judgements (skips aside) with ids above `after` and made after `since`, of one annotator or of all."""
    return int(
        db.value(
            """SELECT count(*) FROM current_judgement
               WHERE outcome != 'skip' AND id > :after AND created > :since
                 AND (:annotator IS NULL OR annotator_id = :annotator)""",
            {"after": after, "since": since, "annotator": annotator.id if annotator else None},
        )
    )


# --------------------------------------------------------------------------------------------------------- settings
def setting(db: Database, key: str, default: Any) -> Any:
    """A stored setting, or its default."""
    stored = db.value("SELECT value FROM setting WHERE key = ?", (key,))
    return default if stored is None else json.loads(stored)


def set_setting(db: Database, key: str, value: Any) -> None:
    """Store a setting."""
    with db.transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO setting (key, value) VALUES (?, ?)", (key, json.dumps(value)))
