"""A database with everything that people can make: through the claims they go through, and imports as rows."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from annotation import selection
from annotation.claims import changing, handing_out, judging, own_judgements, own_prompts
from annotation.database import Database
from annotation.records import Flag, Prompt, UserError, now
from annotation.store import check_store, comparison_store, project_store, prompt_store
from annotation.web import access
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.verdicts import Verdict
from rlhf.models import decision_store, registry
from tests.conftest import BASE_NAME, make_response

TEXTS = ("Straße 日本 \U0001f600", "=1+1", 'a "quoted" \\ line\nbreak', "\u202eright\u2028to left", "\x00\x07", "  ")


def populate(db: Database, seed: int, texts: Sequence[str] = TEXTS, acts: int = 40) -> None:
    """Fill a migrated database; the same seed gives the same rows, apart from times and nonces."""
    source = random.Random(seed)
    registry.ensure_base(db, BASE_NAME)
    add_adapter(db)
    for name, role in (("ann", "annotator"), ("bob", "annotator"), ("kim", "admin")):
        db.connection.execute("INSERT INTO annotator (name, role, created) VALUES (?, ?, ?)", (name, role, now()))
    kind, size = (("pair", 2), ("best", 3), ("rank", 4))[seed % 3]
    asked = replace(project_store.project(db), kind=kind, answers=size, overlap=2, gold_share=0.2, re_ask_share=0.3)
    project_store.set_project(db, asked)
    for prompt in add_prompts(db, source, texts):
        add_comparison(db, source, prompt, size, texts)
    add_import(db, source, texts)
    own_prompts.ask(db, person(db, "bob"), [{"role": "user", "content": "An own prompt"}])
    check_store.add_score(db, 1, "length", 0.1 + 0.2)
    were, selection.RE_ASK_AFTER = selection.RE_ASK_AFTER, 1
    try:
        for number in range(acts):
            if number % 15 == 0:
                project_store.write_guidelines(db, f"Version {number}\n\n{source.choice(texts)}.", "kim")
            act_once(db, source, texts)
    finally:
        selection.RE_ASK_AFTER = were
    make_some_early(db)
    exclude(db, source)
    add_judge(db)
    db.connection.execute(
        """INSERT INTO gold_decision (comparison_id, action, expected, previous_state, decided_by, created)
           VALUES (1, 'make', '[1, 2]', 'ready', 'kim', ?)""",
        (now(),),
    )
    undone = {"undone_by": "kim", "undone": now(), "undone_for": 0}
    db.insert("bulk_change", {"kind": "withdraw", "decided_by": "kim", "created": now(), **undone})


def add_judge(db: Database) -> None:
    """An AI judge who has judged what people have, by a rubric of the project's own."""
    judge = judge_store.add(db, "a judge", "endpoint", {"address": "http://127.0.0.1/v1", "model": "m"}, "kim")
    judge_store.write_rubric(db, "Judge.", ["Be kind.", "Be brief."], 1, "kim")
    for comparison in verdict_store.to_judge(db, judge, "judged", 3):
        for pair in comparison.missing:
            verdict = Verdict(
                choice="first" if pair[0] < pair[1] else "second",
                chance=None,
                reply="Verdict: A",
                prompt_tokens=100,
                completion_tokens=4,
                seconds=0.25,
            )
            verdict_store.add_verdict(db, judge, comparison.id, pair, verdict, 1, (0,), 1)
        assert verdict_store.judge_comparison(db, judge, comparison)


def make_some_early(db: Database) -> None:
    """As earlier builds have stored judgements of answers that were still being written."""
    guard = db.value("SELECT sql FROM sqlite_master WHERE name = 'judgement_no_update'")
    db.connection.execute("DROP TRIGGER judgement_no_update")
    db.connection.execute("UPDATE judgement SET early = 1 WHERE id % 9 = 0")
    db.connection.execute(str(guard))


def add_adapter(db: Database) -> None:
    """A trained policy that serves, and a reward model on whole weights whose files were deleted."""
    db.connection.execute(
        "INSERT INTO job (kind, spec, status, requested_by, created) VALUES ('dpo', '{}', 'finished', 'x', ?)", (now(),)
    )
    registry.add(
        db, revision="dpo-1", algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=1, path="adapters/dpo-1", sha256="ab"
    )
    decision_store.promote(db, "dpo-1", "kim")
    registry.add(
        db, revision="sft-2", algorithm="sft", base=BASE_NAME, parent_id=1, job_id=1, path="adapters/sft-2",
        sha256="cd", form="full", precision="fp32",
    )  # fmt: skip
    judge = registry.add(
        db, revision="reward-model-3", algorithm="reward_model", base=BASE_NAME, parent_id=1, job_id=1,
        path="adapters/reward-model-3", sha256="ef", kind="reward-model", precision="bf16", ground_id=3,
    )  # fmt: skip
    decision_store.mark_deleted(db, judge, "kim")


def add_prompts(db: Database, source: random.Random, texts: Sequence[str]) -> list[Prompt]:
    """Prompts of one turn and of several, in both splits."""
    made = []
    for number in range(10):
        turns = [{"role": "user", "content": f"{number} {source.choice(texts)}"}]
        if number % 3 == 0:
            system, before = {"role": "system", "content": source.choice(texts)}, {"role": "user", "content": "Hello"}
            turns = [system, before, {"role": "assistant", "content": source.choice(texts)}, *turns]
        made.append(Prompt(tuple(turns), "held-out" if number % 4 == 0 else "train", "test"))
    prompt_store.add_prompts(db, made)
    return [*prompt_store.prompts(db, "train"), *prompt_store.prompts(db, "held-out")]


def add_comparison(db: Database, source: random.Random, prompt: Prompt, size: int, texts: Sequence[str]) -> None:
    """A comparison by one of two policies; now and then its answer is known, or still being written, or failed."""
    answers = [
        make_response(prompt, f"{place} {source.choice(texts)}", source.choice([1, 2]), source.randint(0, 2**40))
        for place in range(size)
    ]
    fate = source.choice(["ready", "ready", "ready", "gold", "writing", "failed"])
    if fate in ("writing", "failed"):
        comparison_id, _ = comparison_store.begin_answers(db, answers)
        if fate == "failed":
            comparison_store.fail_answers(db, comparison_id)
        return
    made = comparison_store.add_comparison(db, answers, size)
    if fate == "gold":
        ranking = json.dumps([1, *[2] * (size - 1)])
        db.connection.execute("UPDATE comparison SET purpose = 'gold', expected = ? WHERE id = ?", (ranking, made))


def add_import(db: Database, source: random.Random, texts: Sequence[str]) -> None:
    """What an import leaves: its row, its annotator, a comparison with its judgement, and a demonstration."""
    moment = now()
    run = db.connection.execute
    named = {"name": f"{source.choice(texts)}.csv", "sha256": "ff", "format": "trl", "counts": '{"pairs": 1}'}
    db.insert("import", {**named, "requested_by": "kim", "created": moment})
    run(
        """INSERT INTO annotator (name, role, active, kind, created)
           VALUES ('import-1', 'annotator', 0, 'import', ?)""",
        (moment,),
    )
    prompt = prompt_store.prompts(db, "train")[0]
    run("UPDATE prompt SET import_id = 1 WHERE id = ?", (prompt.id,))
    imported = {"prompt_id": prompt.id, "origin": "import", "import_id": 1, "created": moment}
    ids = [
        db.insert("response", {**imported, "purpose": use, "text": f"imported {number} {source.choice(texts)}"})
        for number, use in enumerate(("compare", "compare", "demonstrate"))
    ]
    comparison_id = run(
        """INSERT INTO comparison (prompt_id, purpose, state, import_id, created)
           VALUES (?, 'preference', 'closed', 1, ?)""",
        (prompt.id, moment),
    ).lastrowid
    comparison_store.place_responses(db, int(comparison_id or 0), ids[:2])
    run(
        """INSERT INTO judgement (comparison_id, annotator_id, purpose, kind, outcome, ranking, strength, shown_order,
               import_id, created) VALUES (?, ?, 'import', 'pair', 'ranked', '[2, 1]', NULL, '[0, 1]', 1, ?)""",
        (comparison_id, person(db, "import-1"), moment),
    )


def person(db: Database, name: str) -> int:
    """An annotator's id."""
    return int(db.value("SELECT id FROM annotator WHERE name = ?", (name,)))


def act_once(db: Database, source: random.Random, texts: Sequence[str]) -> None:
    """One thing that a person does; what can't be done is refused, as on the page."""
    annotator = person(db, source.choice(["ann", "bob", "kim"]))
    try:
        if source.random() < 0.1:
            held = handing_out.held_claim(db, annotator)
            changing.undo(db, annotator, held.nonce if held else "")
        elif source.random() < 0.1:
            mine = [one.made.id for one in own_judgements.latest(db, annotator)]
            if mine:
                chosen = source.choice(mine)
                size = len(changing.reopen(db, annotator, chosen)[0].answers)
                changing.revise(db, annotator, chosen, random_act(db, source, texts, size, "rank"))
        else:
            if source.random() < 0.1:
                handing_out.take_to_settle(
                    db, annotator, int(db.value("SELECT comparison_id FROM current_judgement LIMIT 1"))
                )
            claim = handing_out.claim_next(db, annotator, source)
            if claim is not None:
                act = random_act(db, source, texts, len(claim.answers), claim.kind)
                judging.judge(db, annotator, claim.nonce, act)
    except UserError:
        return


def random_act(db: Database, source: random.Random, texts: Sequence[str], size: int, kind: str) -> dict[str, object]:
    """Something that the page could send."""
    flags = [None] * 60 + list(get_args(Flag))
    extras: dict[str, object] = {"note": source.choice(["", *texts]), "flag": source.choice(flags)}
    extras["tags"] = source.sample([tag.label for tag in project_store.project(db).tags], source.randint(0, 2))
    outcome = source.choice(["ranked"] * 8 + ["all-bad", "skip"])
    if outcome != "ranked":
        return {"outcome": outcome, **extras}
    best = source.randrange(size)
    ranks = [1 if place == best else 2 for place in range(size)]
    if kind != "best" and source.random() < 0.3:
        ranks = [source.randint(1, size) for _ in range(size)]
    if source.random() < 0.3:
        extras["edit"] = {"place": ranks.index(min(ranks)), "text": f"mended {source.choice(texts)}"}
    strength = 0 if len(set(ranks)) == 1 else source.randint(1, 3)
    return {"outcome": outcome, "ranks": ranks, "strength": strength, **extras}


def exclude(db: Database, source: random.Random) -> None:
    """Leave somebody out, and perhaps take it back."""
    for excluded in (1, source.randint(0, 1)):
        db.connection.execute(
            """INSERT INTO exclusion (annotator_id, excluded, reason, decided_by, created)
               VALUES (?, ?, 'careless', 'kim', ?)""",
            (person(db, "bob"), excluded, now()),
        )


def has_password(db: Database, name: str) -> bool:
    """Whether somebody can sign in with a password."""
    return next(account.has_password for account in access.accounts(db) if account.name == name)
