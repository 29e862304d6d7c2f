"""Every SQL statement about chats: what the playground asks of policies, how far the answers are, what becomes of them.

A chat is one column's conversation up to a user's turn, which a policy is to answer. Those asked together have the same
seed. The page writes and polls the rows, the answering worker fills them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from annotation.database import Database, marks
from annotation.records import (
    Message,
    Prompt,
    Response,
    Sampling,
    TokenIds,
    UserError,
    now,
    read_token_ids,
    seconds_between,
    storable,
    write_token_ids,
)
from annotation.store import comparison_store
from annotation.translation import N_, _, kept, retold

AnswerState = Literal["asked", "writing", "stopping", "done", "failed"]
FinishReason = Literal["stop", "length", "stopped"]

COLUMNS = 4
"""Policies that can be asked at once."""
BATCH = 8
"""Chats that one policy answers in one batch."""
MAXIMUM_MESSAGE = 20_000
MAXIMUM_TOKENS = 2_048
SEEDS = 2**31
SOURCE = "playground"
BROKEN_OFF = N_("The writing of this answer broke off, because the answering worker ended. Send the message again.")
# In this form SQLite uses the index of open chats.
OPEN = "c.state IN ('asked', 'writing', 'stopping')"


@dataclass(frozen=True)
class Chat:
    """A conversation that a policy is to answer, and its answer as far as it is written."""

    id: int
    model_id: int
    revision: str
    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int
    requested_by: str
    text: str
    state: AnswerState
    rendered_prompt: str | None
    prompt_tokens: int | None
    tokens: int | None
    finish_reason: FinishReason | None
    message: str
    created: str
    begun: str | None
    finished: str | None
    token_ids: TokenIds | None = None
    """None while it is written, and of one that was stopped."""

    @property
    def open(self) -> bool:
        """Whether its answer is still to come, or to go on."""
        return self.state in ("asked", "writing", "stopping")

    @property
    def first_token_seconds(self) -> float | None:
        """None before there is one, and where the clock was set back meanwhile."""
        seconds = -1.0 if self.begun is None else seconds_between(self.created, self.begun)
        return seconds if seconds >= 0 else None

    @property
    def said(self) -> tuple[Message, ...]:
        """The conversation with its answer and without a system prompt; a turn that got no answer was not said."""
        before = tuple(message for message in self.messages if message["role"] != "system")
        if self.state == "failed" or not self.text.strip():
            return before[:-1]
        return (*before, {"role": "assistant", "content": self.text})


CHATS = "SELECT c.*, m.revision FROM chat c JOIN model m ON m.id = c.model_id"


def read_chat(row: Mapping[str, Any]) -> Chat:
    messages, sampling = tuple(json.loads(row["messages"])), Sampling(**json.loads(row["sampling"]))
    token_ids = read_token_ids(row["token_ids"])
    told = {"message": retold(row["message"]), "messages": messages, "sampling": sampling, "token_ids": token_ids}
    return Chat(**{**row, **told})


# ---------------------------------------------------------------------------------------------------------- the page
def next_turn(last: Chat | None, system: str, text: str) -> tuple[Message, ...]:
    """What a column's policy is asked when a user says `text` after `last`. Raises UserError for no text, or too much.

    The system prompt is as it stands now, in front, and not there when it is empty.
    """
    message, instruction = storable(text).strip(), storable(system).strip()
    long_message = _("The message has {count:,} characters, and {most:,} are taken. Shorten it.")
    long_instruction = _("The system prompt has {count:,} characters, and {most:,} are taken. Shorten it.")
    for said, part in ((long_message, message), (long_instruction, instruction)):
        if len(part) > MAXIMUM_MESSAGE:
            raise UserError(said.format(count=len(part), most=MAXIMUM_MESSAGE))
    if not message:
        raise UserError(_("Write a message first."))
    first = ({"role": "system", "content": instruction},) if instruction else ()
    before = () if last is None else last.said
    return (*first, *before, {"role": "user", "content": message})


def ask(
    db: Database, conversations: Mapping[int, Sequence[Message]], sampling: Sampling, seed: int, requested_by: str
) -> list[int]:
    """Ask policies, by id, to answer a conversation each; returns the chats' ids in that order."""
    created = now()
    with db.transaction():
        return [
            db.insert(
                "chat",
                {
                    "model_id": model_id,
                    "messages": json.dumps([dict(message) for message in messages], ensure_ascii=False),
                    "sampling": json.dumps(asdict(sampling)),
                    "seed": seed,
                    "requested_by": requested_by,
                    "created": created,
                },
            )
            for model_id, messages in conversations.items()
        ]


def with_ids(db: Database, chat_ids: Sequence[int]) -> list[Chat]:
    """The chats of these ids, oldest first."""
    found = db.rows(f"{CHATS} WHERE c.id IN ({marks(chat_ids)}) ORDER BY c.id", tuple(chat_ids))
    return [read_chat(row) for row in found]


def latest(db: Database, requested_by: str) -> list[Chat]:
    """What this person asked last, a chat for each policy."""
    rows = db.rows(
        f"""{CHATS} WHERE c.requested_by = :name AND c.created =
            (SELECT created FROM chat WHERE requested_by = :name ORDER BY id DESC LIMIT 1) ORDER BY c.id""",
        {"name": requested_by},
    )
    return [read_chat(row) for row in rows]


def stop(db: Database, chat_ids: Sequence[int]) -> None:
    """End answers: one that is being written keeps what there is, one that has not been begun stays empty."""
    db.write(
        f"""UPDATE chat SET state = iif(state = 'asked', 'done', 'stopping'),
                finish_reason = iif(state = 'asked', 'stopped', NULL), finished = iif(state = 'asked', ?, NULL)
            WHERE state IN ('asked', 'writing') AND id IN ({marks(chat_ids)})""",
        (now(), *chat_ids),
    )


def compare(db: Database, chat_ids: Sequence[int]) -> tuple[int, int]:
    """Put the answers of these chats before annotators; returns the ids of the comparison and the number of answers.

    Raises UserError while some are being written, where fewer than two differ, where the conversations before them
    differ (those would be answers to different prompts), and where they have been put there before.
    """
    asked = with_ids(db, chat_ids)
    if any(chat.open for chat in asked):
        raise UserError(_("Wait until every answer is written to its end."))
    ended = {
        " ".join(chat.text.split()).casefold(): chat
        for chat in reversed(asked)  # of equal answers the first column's counts
        if chat.state == "done" and chat.finish_reason != "stopped" and chat.text.strip()
    }
    answers = sorted(ended.values(), key=lambda chat: chat.id)
    if len(answers) < 2:
        raise UserError(
            _(
                "A comparison needs two different answers that were written to their end, and there are not as many "
                "here. Ask two policies, or ask them again with another seed."
            )
        )
    if any(chat.messages != answers[0].messages for chat in answers):
        raise UserError(
            _(
                "The columns' conversations differ before the last message, so these are no answers to the same "
                "prompt. Start a new conversation, and send its first answers."
            )
        )
    prompt = Prompt(answers[0].messages, "train", SOURCE)
    comparison_id = comparison_store.add_mixed_comparison(db, prompt, [response_of(chat) for chat in answers])
    if comparison_id is None:
        raise UserError(_("These answers have been sent to annotation already."))
    return comparison_id, len(answers)


def response_of(chat: Chat) -> Response:
    """A chat's answer as one of a comparison, of a prompt that is still to be found or made."""
    assert chat.finish_reason in ("stop", "length")
    assert chat.rendered_prompt is not None
    assert chat.prompt_tokens is not None
    assert chat.tokens is not None
    return Response(
        prompt_id=0,
        model_id=chat.model_id,
        text=chat.text,
        sampling=chat.sampling,
        seed=chat.seed,
        rendered_prompt=chat.rendered_prompt,
        prompt_tokens=chat.prompt_tokens,
        tokens=chat.tokens,
        finish_reason=chat.finish_reason,
        token_ids=chat.token_ids,
    )


# -------------------------------------------------------------------------------------------------------- the worker
@dataclass(frozen=True)
class FinishedAnswer:
    """How an answer ended; `tokens` counts the generated ones."""

    text: str
    rendered_prompt: str
    prompt_tokens: int
    tokens: int
    finish_reason: FinishReason
    token_ids: TokenIds | None = None


def next_asked(db: Database) -> list[Chat]:
    """The chat that has waited longest, with those that the same policy can answer in one batch with it."""
    rows = db.rows(f"{CHATS} WHERE {OPEN} AND c.state = 'asked' ORDER BY c.id")
    if not rows:  # as nearly always when the worker looks
        return []
    waiting = [read_chat(row) for row in rows]
    first = waiting[0]
    return [chat for chat in waiting if (chat.model_id, chat.sampling) == (first.model_id, first.sampling)][:BATCH]


def begin(db: Database, chat_ids: Sequence[int]) -> list[int]:
    """Take chats to answer them; returns those that nobody else has taken, and nobody has stopped."""
    with db.transaction() as connection:
        rows = connection.query(
            f"UPDATE chat SET state = 'writing' WHERE state = 'asked' AND id IN ({marks(chat_ids)}) RETURNING id",
            tuple(chat_ids),
        )
        return sorted(row["id"] for row in rows)


def show(db: Database, texts: Mapping[int, str]) -> None:
    """Show what has been written so far, by chat id; the first time says when the first token was there."""
    with db.transaction() as connection:
        connection.conn.executemany(
            "UPDATE chat SET text = ?, begun = coalesce(begun, ?) WHERE id = ? AND state = 'writing'",
            [(text, now(), chat_id) for chat_id, text in texts.items()],
        )


def states(db: Database, chat_ids: Sequence[int]) -> dict[int, AnswerState]:
    rows = db.rows(f"SELECT id, state FROM chat WHERE id IN ({marks(chat_ids)})", tuple(chat_ids))
    return {row["id"]: row["state"] for row in rows}


def finish(db: Database, chat_id: int, answer: FinishedAnswer) -> None:
    """Store how an answer ended; one that has ended before stays as it is."""
    db.write(
        """UPDATE chat SET state = 'done', text = :text, rendered_prompt = :rendered_prompt,
               prompt_tokens = :prompt_tokens, tokens = :tokens, finish_reason = :finish_reason,
               token_ids = :token_ids, begun = coalesce(begun, iif(:tokens > 0, :now, NULL)), finished = :now
           WHERE id = :id AND state IN ('writing', 'stopping')""",
        {**vars(answer), "token_ids": write_token_ids(answer.token_ids), "now": now(), "id": chat_id},
    )


def fail(db: Database, chat_ids: Sequence[int], message: str) -> None:
    """Mark those of these chats that have begun and not ended, with a sentence for people; their text stays."""
    db.write(
        f"""UPDATE chat SET state = 'failed', message = ?, finished = ?
            WHERE state IN ('writing', 'stopping') AND id IN ({marks(chat_ids)})""",
        (kept(message), now(), *chat_ids),
    )


def fail_all(db: Database) -> None:
    """Mark the chats that nobody writes any more, when the answering worker starts; what only waits is answered."""
    rows = db.rows(f"SELECT id FROM chat c WHERE {OPEN} AND c.state != 'asked'")
    fail(db, [row["id"] for row in rows], BROKEN_OFF)
