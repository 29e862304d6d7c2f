"""Answers and comparisons of them: drawn by policies, kept, and watched while they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from annotation.database import Database, marks
from annotation.records import ChosenAnswers, Prompt, Response, now, write_token_ids
from annotation.store.project_store import feedback
from annotation.store.prompt_store import add_prompts, fingerprint_of


def add_response(db: Database, response: Response, purpose: str, dropped: str | None = None) -> int:
    """Store one answer and return its id. `dropped` says why it will not be offered: 'empty' or 'duplicate'."""
    return db.insert(
        "response",
        {
            "prompt_id": response.prompt_id,
            "origin": "policy",
            "model_id": response.model_id,
            "purpose": purpose,
            "text": response.text,
            "sampling": json.dumps(asdict(response.sampling)),
            "seed": response.seed,
            "rendered_prompt": response.rendered_prompt,
            "prompt_tokens": response.prompt_tokens,
            "tokens": response.tokens,
            "finish_reason": response.finish_reason,
            "token_ids": write_token_ids(response.token_ids),
            "dropped": dropped,
            "precision": response.precision
            or db.value("SELECT precision FROM model WHERE id = ?", (response.model_id,)),
            "created": now(),
        },
    )


def add_comparison(
    db: Database,
    responses: Sequence[Response],
    wanted: int = 2,
    chance: float | None = None,
    chosen: ChosenAnswers | None = None,
) -> int | None:
    """Store the answers a policy drew to one prompt, and a comparison of those chosen, or the first that differ.

    Empty answers and answers equal to an earlier one (white space and case aside) are kept, marked and never offered.
    `chance` is that with which the prompt was taken. Returns the comparison's id, or None when too few answers were
    left.
    """
    reasons = reasons_to_drop(response.text for response in responses)
    offered = [place for place, reason in enumerate(reasons) if reason is None][:wanted]
    taken = ChosenAnswers(tuple(offered), "random", 1.0) if chosen is None else chosen
    with db.transaction():
        ids = [
            add_response(db, response, "compare", reason) for response, reason in zip(responses, reasons, strict=True)
        ]
        if len(taken.places) < wanted:
            return None
        comparison_id = insert_comparison(
            db,
            responses[0].prompt_id,
            model_id=responses[0].model_id,
            formed_chance=chance,
            answers_by=taken.by,
            answers_chance=taken.chance,
        )
        place_responses(db, comparison_id, [ids[place] for place in taken.places])
    return comparison_id


def reasons_to_drop(texts: Iterable[str]) -> list[str | None]:
    """Why each of some answers is not to be compared with the others; None of those that differ."""
    seen: set[str] = set()
    reasons: list[str | None] = []
    for text in texts:
        folded = " ".join(text.split()).casefold()
        reasons.append("empty" if not folded else "duplicate" if folded in seen else None)
        seen.add(folded)
    return reasons


def add_mixed_comparison(db: Database, prompt: Prompt, responses: Sequence[Response]) -> int | None:
    """Store answers of several policies to one prompt (a new one is added), and a comparison of them.

    Returns the comparison's id, or None where all of these answers have been compared before.
    """
    with db.transaction():
        add_prompts(db, [prompt])
        prompt_id = int(db.value("SELECT id FROM prompt WHERE fingerprint = ?", (fingerprint_of(prompt.messages)[0],)))
        rows = db.rows(
            """SELECT r.model_id, r.seed, r.text FROM response r JOIN comparison_response c ON c.response_id = r.id
               WHERE r.prompt_id = ? AND r.purpose = 'compare'""",
            (prompt_id,),
        )
        compared = {(row["model_id"], row["seed"], row["text"]) for row in rows}
        if all((response.model_id, response.seed, response.text) in compared for response in responses):
            return None
        comparison_id = insert_comparison(db, prompt_id, formed_chance=1.0, answers_by="person")
        answers = [replace(response, prompt_id=prompt_id) for response in responses]
        place_responses(db, comparison_id, [add_response(db, answer, "compare") for answer in answers])
    return comparison_id


def insert_comparison(db: Database, prompt_id: int | None, **columns: Any) -> int:
    """A comparison of answers to a prompt, still without them, inside the caller's transaction; returns its id.

    Unless it says with what chance people are to judge it, they judge it for certain, or once judges have decided that;
    unless it says what chose its answers, these are the first that were drawn.
    """
    certain = columns.get("asked_by") is not None or feedback(db).mode == "people"
    told = {"people_chance": 1.0, "people_drawn": 1} if certain else {}
    chosen = {"answers_by": "random", "answers_chance": 1.0}
    row = {"prompt_id": prompt_id, "purpose": "preference", **told, **chosen, **columns, "created": now()}
    return db.insert("comparison", row)


def place_responses(db: Database, comparison_id: int, response_ids: Sequence[int]) -> None:
    """Give a comparison its answers, inside the caller's transaction."""
    db.connection.conn.executemany(
        "INSERT INTO comparison_response (comparison_id, position, response_id) VALUES (?, ?, ?)",
        [(comparison_id, position, response_id) for position, response_id in enumerate(response_ids)],
    )


# --------------------------------------------------------------------------------------- answers while being written
def begin_answers(
    db: Database, responses: Sequence[Response], comparison_id: int | None = None, chance: float | None = None
) -> tuple[int, list[int]]:
    """Put answers that are being written into a comparison (a new one, or one asked for) that people can watch.

    `chance` is that with which a new one's prompt was taken. Returns the ids of the comparison and of the answers, in
    order.
    """
    first = responses[0]
    with db.transaction() as connection:
        if comparison_id is None:
            comparison_id = insert_comparison(
                db, first.prompt_id, model_id=first.model_id, state="writing", formed_chance=chance
            )
        else:
            connection.execute(
                "UPDATE comparison SET state = 'writing', model_id = ? WHERE id = ?", (first.model_id, comparison_id)
            )
        ids = [add_response(db, response, "compare") for response in responses]
        connection.execute(
            f"UPDATE response SET state = 'writing', finish_reason = NULL WHERE id IN ({marks(ids)})", ids
        )
        place_responses(db, comparison_id, ids)
    return comparison_id, ids


def update_answers(db: Database, texts: Mapping[int, str]) -> None:
    """Show what has been written so far, by answer id."""
    with db.transaction() as connection:
        connection.conn.executemany(
            "UPDATE response SET text = ? WHERE id = ? AND state = 'writing'",
            [(text, response_id) for response_id, text in texts.items()],
        )


def finish_answers(db: Database, comparison_id: int, responses: Mapping[int, Response]) -> str:
    """The answers as they ended, by id. Returns the comparison's state: 'ready', or 'dropped' if some are the same."""
    reasons = reasons_to_drop(response.text for response in responses.values())
    with db.transaction() as connection:
        for (response_id, response), dropped in zip(responses.items(), reasons, strict=True):
            connection.execute(
                """UPDATE response SET text = :text, tokens = :tokens, prompt_tokens = :prompt_tokens,
                       finish_reason = :finish_reason, token_ids = :token_ids, dropped = :dropped, state = 'done'
                   WHERE id = :id""",
                vars(response)
                | {"token_ids": write_token_ids(response.token_ids), "dropped": dropped, "id": response_id},
            )
        state = "dropped" if any(reasons) else "ready"
        connection.execute("UPDATE comparison SET state = ? WHERE id = ? AND state = 'writing'", (state, comparison_id))
    return state


def fail_answers(db: Database, comparison_id: int | None = None) -> int:
    """Mark answers that nobody writes any more: a comparison's, or all (when the answering worker starts).

    Such a comparison can't be judged. Returns how many comparisons there were.
    """
    with db.transaction() as connection:
        connection.execute(
            """UPDATE response SET state = 'failed' WHERE state = 'writing' AND (:id IS NULL OR id IN
                   (SELECT response_id FROM comparison_response WHERE comparison_id = :id))""",
            {"id": comparison_id},
        )
        return connection.execute(
            "UPDATE comparison SET state = 'failed' WHERE state = 'writing' AND (:id IS NULL OR id = :id)",
            {"id": comparison_id},
        ).rowcount
