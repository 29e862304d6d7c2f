"""What checks have drawn: answers to held-out prompts, and the scores of answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from annotation.database import Database
from annotation.records import CheckedAnswer, Prompt, Response, Sampling, read_token_ids
from annotation.store.answer_changes import as_told_now
from annotation.store.comparison_store import add_response


def add_checked_answer(db: Database, response: Response) -> None:
    """Store an answer that a check has drawn, unless another check has stored the same one meanwhile."""
    with db.transaction():
        known = db.value(
            f"""SELECT 1 FROM response r JOIN model m ON m.id = r.model_id
               WHERE r.prompt_id = :prompt_id AND r.model_id = :model_id AND r.purpose = 'check' AND r.seed = :seed
                 AND r.sampling = :sampling AND r.rendered_prompt = :rendered_prompt
                 AND r.precision = coalesce(nullif(:precision, ''), m.precision)
                 AND {as_told_now(db, "response", "r")}""",
            {**vars(response), "sampling": json.dumps(asdict(response.sampling))},
        )
        if known is None:
            add_response(db, response, "check")


def checked_answers(
    db: Database, model_id: int, precision: str | None = None, as_now: bool = False, until: str | None = None
) -> list[CheckedAnswer]:
    """A policy's answers to the held-out prompts, each with prompt and scores, in prompt and seed order.

    Those in this precision, or in that in which it answers now; `as_now`: those alone that it would give today, too;
    `until`: those stored by then.
    """
    rows = db.rows(
        f"""SELECT r.id, r.prompt_id, r.model_id, r.text, r.sampling, r.seed, r.rendered_prompt, r.prompt_tokens,
               r.tokens, r.finish_reason, r.precision, r.token_ids, p.messages,
               (SELECT json_group_object(scorer, value) FROM score s WHERE s.response_id = r.id) AS scores,
               (SELECT json_group_object(scorer, json(per_token)) FROM score s
                WHERE s.response_id = r.id AND per_token IS NOT NULL) AS token_scores
           FROM response r JOIN prompt p ON p.id = r.prompt_id JOIN model m ON m.id = r.model_id
           WHERE r.model_id = :model AND r.purpose = 'check' AND r.precision = coalesce(:precision, m.precision)
             AND (:until IS NULL OR r.created <= :until) AND {as_told_now(db, "response", "r") if as_now else True}
           ORDER BY r.prompt_id, r.seed, r.id""",
        {"model": model_id, "precision": precision, "until": until},
    )
    return [
        CheckedAnswer(
            **{
                **row,
                "sampling": Sampling.from_json(row["sampling"]),
                "messages": tuple(json.loads(row["messages"])),
                "token_ids": read_token_ids(row["token_ids"]),
                "scores": json.loads(row["scores"]),
                "token_scores": {name: tuple(values) for name, values in json.loads(row["token_scores"]).items()},
            }
        )
        for row in rows
    ]


def answers_of_check(
    db: Database,
    model_id: int,
    prompts: Sequence[Prompt],
    seed: int,
    sampling: Sampling,
    rendered: Mapping[int, str] | None = None,
    precision: str | None = None,
    until: str | None = None,
) -> list[CheckedAnswer]:
    """A policy's answers on the terms of one check: prompt i with seed + i. Others may have had other terms.

    With `rendered`, the text that is fed today by prompt id, only answers to that very text: a template may write the
    date into it, and may have been told something else before; and none that it gave on other weights. `precision` and
    `until` as in `checked_answers`.
    """
    wanted = {(prompt.id, seed + place) for place, prompt in enumerate(prompts)}
    return [
        answer
        for answer in checked_answers(db, model_id, precision, as_now=rendered is not None, until=until)
        if (answer.prompt_id, answer.seed) in wanted
        and answer.sampling == sampling
        and (rendered is None or rendered.get(answer.prompt_id) == answer.rendered_prompt)
    ]


def add_score(
    db: Database, response_id: int, scorer: str, value: float, per_token: Sequence[float] | None = None
) -> None:
    """Record what a scorer says of an answer, also of each of its tokens; scoring again replaces the value."""
    row = {
        "response_id": response_id,
        "scorer": scorer,
        "value": value,
        "per_token": None if per_token is None else json.dumps([float(f"{one:.6g}") for one in per_token]),
    }
    db.write(
        """INSERT OR REPLACE INTO score (response_id, scorer, value, per_token)
           VALUES (:response_id, :scorer, :value, :per_token)""",
        row,
    )
