"""Prompts: each once, in its split, used or still to be answered, and those that are the gate's own."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from typing import Any

from annotation.database import Database
from annotation.records import Message, Prompt, Split, now
from annotation.store.setting_store import arriving


def add_prompts(db: Database, prompts: Iterable[Prompt]) -> int:
    """Insert prompts that are not there yet and return how many were new. A known prompt keeps its split."""
    added = 0
    with db.transaction() as connection:
        for prompt in prompts:
            fingerprint, messages = fingerprint_of(prompt.messages)
            cursor = connection.execute(
                """INSERT OR IGNORE INTO prompt (fingerprint, messages, source, split, created)
                   VALUES (:fingerprint, :messages, :source, :split, :created)""",
                {
                    "fingerprint": fingerprint,
                    "messages": messages,
                    "source": prompt.source,
                    "split": prompt.split,
                    "created": now(),
                },
            )
            added += cursor.rowcount
    return added


def fingerprint_of(messages: Sequence[Message]) -> tuple[str, str]:
    """(sha256, JSON) of a conversation: what makes two prompts the same."""
    text = json.dumps([dict(message) for message in messages], ensure_ascii=False, sort_keys=True)
    return sha256(text.encode()).hexdigest(), text


NO_LETTERS = re.compile(r"\W+")


def letters_of(messages: Sequence[Message]) -> str:
    """What a conversation says, whatever case, blanks and punctuation; all of it where it has no letter or digit."""
    text = "\n".join(message["content"] for message in messages)
    return NO_LETTERS.sub("", text.casefold()) or text


def prompts(db: Database, split: Split) -> list[Prompt]:
    """All prompts of a split, oldest first."""
    rows = db.rows(f"SELECT * FROM prompt p WHERE split = ? AND NOT {arriving('p')} ORDER BY id", (split,))
    return [read_prompt(row) for row in rows]


# Of a prompt `p`: that the gate has it for itself now.
RESERVED = "coalesce(p.held_for > 0 AND p.held_for = (SELECT max(held_for) FROM prompt), 0)"
# Of a prompt `p` to train on: that no answer, comparison or demonstration has been made of it.
UNUSED = f"""(p.split = 'train' AND p.source != 'own prompt' AND NOT {arriving("p")}
    AND NOT EXISTS (SELECT 1 FROM response r WHERE r.prompt_id = p.id)
    AND NOT EXISTS (SELECT 1 FROM comparison c WHERE c.prompt_id = p.id))"""


def reserved_prompts(db: Database, version: int | None = None) -> list[Prompt]:
    """The prompts of the gate's own set as it is now, or of a version of it, oldest first."""
    wanted = RESERVED if version is None else "p.held_for = :version"
    rows = db.rows(f"SELECT * FROM prompt p WHERE {wanted} ORDER BY id", {"version": version})
    return [read_prompt(row) for row in rows]


def hold_for(db: Database, prompt_ids: Iterable[int], version: int) -> None:
    """Note that prompts were drawn into what reports speak of (0), or into a version of the gate's own set."""
    with db.transaction() as connection:
        connection.conn.executemany(
            "UPDATE prompt SET held_for = :version WHERE id = :id AND (held_for IS NULL OR :version > 0)",
            [{"id": prompt_id, "version": version} for prompt_id in prompt_ids],
        )


def prompt_sources(db: Database) -> dict[str, int]:
    return {row["source"]: row["n"] for row in db.rows("SELECT source, count(*) AS n FROM prompt GROUP BY source")}


def has_prompts(db: Database, split: Split) -> bool:
    return bool(db.value(f"SELECT EXISTS(SELECT 1 FROM prompt p WHERE split = ? AND NOT {arriving('p')})", (split,)))


def prompts_to_answer(
    db: Database, model_id: int, split: Split, limit: int, refused: Collection[int] = ()
) -> list[tuple[Prompt, int, float]]:
    """Prompts of a split with the number of answers this model has drawn to each, and the chance of being taken.

    Prompts compared least often under any policy come first, ties in random order: judgements spread evenly. Not those
    that are the gate's own, nor those that the model has refused.
    """
    rows = db.rows(
        f"""SELECT *, count(*) OVER (PARTITION BY compared, attempts) AS tied,
                rank() OVER (ORDER BY compared, attempts) - 1 AS before
            FROM (SELECT p.*, (SELECT count(*) FROM comparison c WHERE c.prompt_id = p.id) AS compared,
                   (SELECT count(*) FROM response r WHERE r.prompt_id = p.id AND r.model_id = :model
                       AND r.purpose = 'compare') AS attempts
               FROM prompt p WHERE split = :split AND NOT {RESERVED} AND NOT {arriving("p")}
                   AND p.id NOT IN (SELECT value FROM json_each(:refused)))
            ORDER BY compared, attempts, random() LIMIT :limit""",
        {"model": model_id, "split": split, "limit": limit, "refused": json.dumps(list(refused))},
    )
    return [(read_prompt(row), row["attempts"], min(1.0, (limit - row["before"]) / row["tied"])) for row in rows]


def read_prompt(row: dict[str, Any]) -> Prompt:
    return Prompt(tuple(json.loads(row["messages"])), row["split"], row["source"], row["id"])
