"""The database file: migrations, refusals in one sentence, and what a person's disk can do to it."""

from __future__ import annotations

import json
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from annotation.claims import handing_out, judging
from annotation.database import (
    FILE_NAME,
    Database,
    copy_database,
    damage,
    existing_database,
    migrate,
    open_database,
)
from annotation.records import Prompt, UserError
from annotation.schema import migrations
from annotation.sqlite import sqlite3, sqlite_utils
from annotation.store import comparison_store, prompt_store, setting_store
from annotation.workbench import bulk_changes
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.hub.hub_requests import REQUESTS, PullModel
from rlhf.jobs import job_store, run_labels
from rlhf.jobs.run_labels import RunLabel
from rlhf.kinds import KINDS
from rlhf.models import decision_store, registry
from rlhf.models.precisions.precisions_spec import PrecisionsSpec
from tests.conftest import act, judgement_count, make_response, seed_comparisons, seed_prompts, shown_texts
from tests.frozen_in_memory import current_judgements

pytestmark = pytest.mark.slow


def prompt(text: str) -> Prompt:
    return Prompt(({"role": "user", "content": text},), "train", "test")


def schema(db: Database) -> list[str]:
    return [row["sql"] for row in db.rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")]


def test_what_people_do_is_synced_through_the_disk_itself_where_fsync_ends_before_it(tmp_path: Path) -> None:
    """On macOS; elsewhere SQLite holds the setting and does nothing by it."""
    for durable in (True, False):
        opened = open_database(tmp_path, durable)
        assert (opened.value("PRAGMA fullfsync"), opened.value("PRAGMA synchronous")) == (durable, 2 if durable else 1)
        opened.close()


def test_wal_is_on_and_the_command_line_of_sqlite_utils_reads_the_file(db: Database, data_dir: Path) -> None:
    assert db.value("PRAGMA journal_mode") == "wal"
    assert db.value("PRAGMA foreign_keys") == 1
    assert {"prompt", "judgement", "job", "model"} <= set(sqlite_utils.Database(data_dir / FILE_NAME).table_names())


def test_a_row_is_inserted_by_column_within_the_transaction_around_it(db: Database) -> None:
    row = {"created": "2026-01-01", "written_by": "ann", "text": "Be kind.", "version": 7}  # in no table's order
    assert db.insert("guidelines", row) == 7
    assert db.row("SELECT * FROM guidelines") == row
    with suppress(UserError), db.transaction():
        assert db.insert("guidelines", {**row, "version": 8}) == 8
        raise UserError("What follows in the transaction is refused.")
    with pytest.raises(sqlite3.OperationalError, match="no column named author"):
        db.insert("guidelines", {**row, "version": 9, "author": "ann"})
    assert db.value("SELECT max(version) FROM guidelines") == 7


def test_a_statement_says_how_many_rows_it_changed_within_the_transaction_around_it(db: Database) -> None:
    prompt_store.add_prompts(db, [prompt("one"), prompt("two")])
    with suppress(UserError), db.transaction():
        assert db.write("UPDATE prompt SET split = 'held-out'") == 2
        raise UserError("What follows in the transaction is refused.")
    assert len(prompt_store.prompts(db, "train")) == 2
    assert db.write("UPDATE prompt SET split = 'held-out' WHERE id = :id", {"id": 1}) == 1
    assert db.write("DELETE FROM prompt WHERE id = ?", (99,)) == 0
    other = open_database(db.path.parent)
    assert len(prompt_store.prompts(other, "train")) == 1
    other.close()


def test_migrating_again_changes_nothing(data_dir: Path) -> None:
    first = open_database(data_dir)
    before = schema(first)
    prompt_store.add_prompts(first, [prompt("kept?")])
    again = open_database(data_dir)
    migrate(again)
    assert schema(again) == before
    assert [entry.text for entry in prompt_store.prompts(again, "train")] == ["kept?"]
    assert again.value("PRAGMA integrity_check") == "ok"


def old_file(data_dir: Path) -> None:
    """A file as the first release left it: one comparison judged, one skipped, one in hand, one open."""
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m003_many_annotators")
    moment = "2026-01-01T00:00:00.000000+00:00"
    old["annotator"].insert({"id": 1, "name": "ann", "role": "admin", "created": moment})
    old["model"].insert(
        {"id": 1, "revision": "base", "method": "base", "base": "b", "status": "serving", "created": moment}
    )
    for number, state in enumerate(("judged", "skipped", "held", ""), 1):
        messages = json.dumps([{"content": f"Question {number}?", "role": "user"}])
        old["prompt"].insert(
            {"id": number, "fingerprint": str(number), "messages": messages, "source": "x", "split": "train",
             "created": moment}
        )  # fmt: skip
        old["comparison"].insert(
            {"id": number, "prompt_id": number, "model_id": 1, "purpose": "preference", "created": moment}
        )
        for position in (0, 1):
            response = old["response"].insert(
                {"prompt_id": number, "model_id": 1, "purpose": "compare", "text": f"{number}.{position}",
                 "sampling": "{}", "seed": 3, "rendered_prompt": "p", "prompt_tokens": 2, "tokens": 3,
                 "finish_reason": "stop", "created": moment}
            ).last_pk  # fmt: skip
            old["comparison_response"].insert({"comparison_id": number, "position": position, "response_id": response})
        if state:
            old["claim"].insert(
                {"id": number, "nonce": f"n{number}", "comparison_id": number, "annotator_id": 1, "slot": 0,
                 "shown_order": "[1, 0]", "state": state, "created": moment, "expires": "2100"}
            )  # fmt: skip
        if state in ("judged", "skipped"):
            old["judgement"].insert(
                {"id": number, "claim_id": number, "comparison_id": number, "annotator_id": 1,
                 "outcome": "ranked" if state == "judged" else "skip", "strength": 2 if state == "judged" else None,
                 "ranking": "[2, 1]" if state == "judged" else None, "shown_order": "[1, 0]", "seconds": 4.5,
                 "created": moment}
            )  # fmt: skip
    old.close()


def test_a_file_of_the_first_release_is_brought_up_to_date_and_loses_nothing(data_dir: Path) -> None:
    old_file(data_dir)
    db = open_database(data_dir)
    assert db.value("PRAGMA foreign_keys") == 1
    assert db.rows("PRAGMA foreign_key_check") == []
    judged, skipped = current_judgements(db)
    assert (judged.purpose, judged.kind, judged.ranking, judged.strength) == ("own", "pair", (2, 1), 2)
    assert [response.text for response in judged.responses] == ["1.0", "1.1"]
    assert (skipped.outcome, skipped.seconds) == ("skip", 4.5)
    assert (judged.formed_chance, judged.people_chance, judged.shown_chance) == (None, None, None), "unknown"
    assert (judged.answers_by, judged.answers_chance) == (None, None), "unknown"
    assert [row["taken"] for row in db.rows("SELECT taken FROM comparison ORDER BY id")] == [1, 0, 1, 0]
    held = handing_out.claim_next(db, 1)
    assert held is not None
    assert (held.nonce, held.kind, shown_texts(held)) == ("n3", "pair", ("3.1", "3.0"))
    judging.judge(db, 1, held.nonce, act("left-much"))
    assert judgement_count(db) == 2
    last = handing_out.claim_next(db, 1)
    assert last is not None
    assert last.comparison_id == 4
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), db.transaction() as connection:
        connection.execute("DELETE FROM judgement")


def test_comparisons_of_a_checked_policy_with_another_keep_which_is_the_candidate(data_dir: Path) -> None:
    old_file(data_dir)
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m005_ai_feedback")
    moment = "2026-02-01T00:00:00.000000+00:00"
    old["model"].insert(
        {"id": 2, "revision": "dpo-2", "method": "dpo", "base": "b", "status": "candidate", "created": moment}
    )
    for number, purpose in ((5, "evaluate"), (6, "compare")):
        old["comparison"].insert({"id": number, "prompt_id": 1, "purpose": "preference", "created": moment})
        for position, model in enumerate((2, 1)):
            response = old["response"].insert(
                {"prompt_id": 1, "model_id": model, "purpose": purpose, "origin": "policy", "text": f"by {model}",
                 "sampling": "{}", "seed": 3, "rendered_prompt": "p", "prompt_tokens": 2, "tokens": 3,
                 "finish_reason": "stop", "created": moment}
            ).last_pk  # fmt: skip
            old["comparison_response"].insert({"comparison_id": number, "position": position, "response_id": response})
    old.close()
    db = open_database(data_dir)
    rows = db.rows("SELECT id, candidate_id, against_id, asks FROM comparison ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [
        *((number, None, None, "people") for number in (1, 2, 3, 4)),
        (5, 2, 1, "people"),
        (6, None, None, "people"),
    ]


def test_the_prompts_that_earlier_reports_spoke_of_are_known_and_chances_are_not(data_dir: Path) -> None:
    old_file(data_dir)
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m012_held_out_sets_and_chances")
    old.execute("UPDATE prompt SET split = 'held-out' WHERE id > 1")
    made = [{"version": 1, "prompts": 1}, {"version": 2, "prompts": 2}]
    old["setting"].insert({"key": "held_out_sets", "value": json.dumps(made)})
    old.close()
    db = open_database(data_dir)
    rows = db.rows("SELECT id, held_for FROM prompt ORDER BY id")
    assert [row["held_for"] for row in rows] == [None, 0, 0, None], "the first ones that were held out"
    chances = db.rows("SELECT DISTINCT formed_chance, people_chance, people_drawn FROM comparison")
    assert [tuple(row.values()) for row in chances] == [(None, None, None)]
    assert db.value("SELECT count(*) FROM claim WHERE chance NOT NULL") == 0


def test_what_was_asked_of_the_token_holder_and_rented_jobs_come_into_the_lane_of_the_hub(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m008_lanes")
    job = {"kind": "dpo", "spec": "{}", "status": "finished", "requested_by": "kim", "created": "1"}
    old["job"].insert_all([{**job, "flavor": None}, {**job, "flavor": "t4-small"}])
    rental = {"job_id": 2, "mark": "m", "price_per_hour": 1.0, "hours": 1.0, "stage": "CLEARED"}
    old["rental"].insert(rental)
    asked = {"request": '{"repo": "a/b"}', "requested_by": "kim", "created": "2", "message": "", "result": None}
    begun = {"begun": "3", "result": '{"again": 1, "progress": 2}'}
    over = {"begun": "3", "finished": "4", "result": '{"price": 1}'}
    old["errand"].insert_all(
        [
            {**asked, "kind": "token", "state": "asked"},
            {**asked, **begun, "kind": "publish", "state": "doing"},
            {**asked, **begun, "kind": "import", "state": "doing", "message": "It was asked to stop."},
            {**asked, **over, "kind": "check-space", "state": "done", "message": "Nothing would fail."},
            {**asked, **over, "kind": "pull", "state": "failed", "message": "No such repository."},
            {**asked, **over, "kind": "import", "state": "failed", "message": "It was cancelled.", "result": "{}"},
        ],
        alter=True,
    )
    old.close()
    db = open_database(data_dir)
    rows = db.rows("SELECT lane, kind, status, attempt, heartbeat, finished, message, result FROM job ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [
        ("device", "dpo", "finished", 0, None, None, "", None),
        ("hub", "dpo", "finished", 0, None, None, "", None),
        ("hub", "token", "queued", 0, None, None, "", None),
        ("hub", "publish", "running", 2, "", None, "", None),
        ("hub", "import", "cancelling", 2, "", None, "", None),
        ("hub", "check-space", "finished", 1, None, "4", "Nothing would fail.", '{"price": 1}'),
        ("hub", "pull", "failed", 1, None, "4", "No such repository.", '{"price": 1}'),
        ("hub", "import", "cancelled", 1, None, "4", "It was cancelled.", "{}"),
    ]
    (spec,) = {row["spec"] for row in db.rows("SELECT spec FROM job WHERE kind = 'publish'")}
    assert json.loads(spec) == {"repo": "a/b", "kind": "publish"}
    assert db.rows("SELECT stage, cleared FROM rental") == [{"stage": "COMPLETED", "cleared": "1"}]
    assert db.value("SELECT count(*) FROM sqlite_master WHERE name LIKE 'errand%'") == 0


def test_why_jobs_ended_is_read_once_from_what_earlier_versions_said_of_them(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m009_reasons")
    job = {"kind": "dpo", "spec": "{}", "requested_by": "kim", "created": "1"}
    said = [
        ("failed", "Memory ran out. Close other programs."),
        ("lost", "The worker was killed, often because memory ran out. Resume goes on from the last checkpoint."),
        ("failed", "The loss became not a number at step 3, so the run was stopped."),
        ("running", "Too few different answers: 2 are wanted for each prompt."),
        ("finished", ""),
        ("cancelled", "Cancelled before it began."),
        ("cancelled", "Cancelled. Resume goes on from the last checkpoint."),
        ("cancelled", "Cancelled, and the rented machine was given back."),
        ("cancelled", "It was cancelled."),
        ("failed", "Failed (KeyError: 'x'). The log has the details."),
    ]
    old["job"].insert_all({**job, "status": status, "message": message} for status, message in said)
    event = {"job_id": 1, "step": 0, "created": "2"}
    lines = ["Memory ran out. Queued again with a smaller batch: batch_size 4 → 2.", "Loading."]
    logged = [{**event, "kind": "log", "data": json.dumps(line)} for line in lines]
    old["event"].insert_all([*logged, {**event, "kind": "metric", "data": "{}"}])
    old.close()
    db = open_database(data_dir)
    assert [row["reason"] for row in db.rows("SELECT reason FROM job ORDER BY id")] == [
        *("out-of-memory", "killed", "not-a-number", "too-few-answers"),
        *[None] * 6,
    ]
    assert [row["message"] for row in db.rows("SELECT message FROM job ORDER BY id")] == [
        *(message for _, message in said[:5]),
        "It had not begun.",
        "Resume goes on from the last checkpoint.",
        "The rented machine was given back.",
        "It was cancelled.",
        "An error of Prefloop's own ended it (KeyError: 'x'). The log has the details.",
    ]
    assert [row["kind"] for row in db.rows("SELECT kind FROM event ORDER BY id")] == ["change", "log", "metric"]


def test_an_earlier_base_and_its_answers_keep_what_they_did(data_dir: Path) -> None:
    """Whether it was told not to think is not known, and it is not; nor which tokens its answers were.

    What a reward model said was right but for its chance, which was of scores on another scale: that becomes unknown.
    """
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m011_token_ids")
    old["model"].insert(
        {"revision": "base", "method": "base", "form": "base", "base": "b", "status": "serving", "created": "1"}
    )
    old["prompt"].insert({"fingerprint": "f", "messages": "[]", "source": "s", "split": "train", "created": "1"})
    old["response"].insert(
        {"prompt_id": 1, "origin": "policy", "model_id": 1, "purpose": "compare", "text": "Blue.", "created": "1"}
    )
    old["comparison"].insert({"prompt_id": 1, "purpose": "preference", "created": "1"})
    for number, backend in enumerate(("local", "reward-model"), 1):
        old["annotator"].insert({"name": backend, "role": "annotator", "kind": "ai", "created": "1"})
        by = {"annotator_id": number, "created": "1"}
        old["judge"].insert({**by, "backend": backend, "settings": "{}", "created_by": "kim"})
        old["verdict"].insert(
            {**by, "comparison_id": 1, "first": 0, "second": 1, "choice": "first", "chance": 0.97, "seconds": 0.1}
        )
    old.close()
    db = open_database(data_dir)
    assert [row["chance"] for row in db.rows("SELECT chance FROM verdict ORDER BY annotator_id")] == [0.97, None]
    assert registry.ensure_base(db, "b").thinking is None
    assert not registry.no_thinking(db)
    assert db.rows("SELECT text, token_ids FROM response") == [{"text": "Blue.", "token_ids": None}]
    registry.set_thinking(db, "off")
    assert registry.no_thinking(db)


def test_answers_of_earlier_versions_are_in_the_precision_of_their_policy(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m010_precisions")
    old["prompt"].insert({"fingerprint": "f", "messages": "[]", "source": "s", "split": "train", "created": "1"})
    policy = {"method": "dpo", "base": "b", "status": "candidate", "created": "1"}
    named = {"base": "nf4", "sft-1": "bf16"}
    old["model"].insert_all({**policy, "revision": name, "weights": weights} for name, weights in named.items())
    answer = {"prompt_id": 1, "text": "x", "created": "1"}
    drawn = [{**answer, "origin": "policy", "model_id": number, "purpose": "evaluate"} for number in (1, 2)]
    old["response"].insert_all([*drawn, {**answer, "origin": "import", "model_id": None, "purpose": "compare"}])
    old.close()
    db = open_database(data_dir)
    assert [row["precision"] for row in db.rows("SELECT precision FROM response ORDER BY id")] == ["nf4", "bf16", None]


def test_what_was_called_by_another_word_is_called_as_everywhere_else(data_dir: Path) -> None:
    """With all that other tables say of it: references to answers hold, and whole specs are read."""
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m015_one_word_for_one_thing")
    model = {"base": "b", "status": "candidate", "created": "1"}
    old["model"].insert_all({**model, "revision": name, "method": name} for name in ("base", "dpo"))
    old["prompt"].insert({"fingerprint": "f", "messages": "[]", "source": "s", "split": "held-out", "created": "1"})
    answer = {"prompt_id": 1, "origin": "policy", "model_id": 1, "text": "x", "created": "1", "edited_from": None}
    drawn = [{**answer, "purpose": purpose} for purpose in ("evaluate", "compare", "demonstrate")]
    old["response"].insert_all([*drawn, {**answer, "purpose": "demonstrate", "edited_from": 1}])
    old["score"].insert({"response_id": 1, "scorer": "kl", "value": 0.5})
    specs = {
        "evaluate": {"candidate": "dpo-1", "kind": "evaluate", "people_share": 0.5},
        "dpo": {"beta": 0.1, "evaluate": True, "kind": "dpo"},
        "sft": {"evaluate": False, "kind": "sft"},
        "merge": {"kind": "merge", "revision": "dpo-1"},
    }
    job = {"status": "finished", "requested_by": "kim", "created": "1"}
    old["job"].insert_all({**job, "kind": kind, "spec": json.dumps(spec)} for kind, spec in specs.items())
    settings = {"auto_train": {"on": True, "every": 30, "method": "dpo"}, "gate": {"mode": "ask"}}
    old["setting"].insert_all({"key": key, "value": json.dumps(value)} for key, value in settings.items())
    old.close()
    db = open_database(data_dir)
    assert [one.algorithm for one in registry.all_policies(db)] == ["base", "dpo"]
    rows = db.rows("SELECT purpose, edited_from FROM response ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [
        *(("check", None), ("compare", None), ("demonstrate", None), ("demonstrate", 1))
    ]
    assert db.rows("PRAGMA foreign_key_check") == []
    assert [(job.kind, job.spec) for job in reversed(job_store.recent(db, tuple(KINDS)))] == [
        ("check", CheckSpec(candidate="dpo-1", people_share=0.5)),
        ("dpo", DPOSpec(beta=0.1, check=True, stop_kl=0.0)),
        ("sft", SFTSpec(check=False)),
        ("merge", MergeSpec(revision="dpo-1")),
    ]
    assert db.value("SELECT count(*) FROM job WHERE spec LIKE '%evaluate%'") == 0
    assert setting_store.setting(db, "auto_train", None) == {"on": True, "every": 30, "algorithm": "dpo"}
    assert setting_store.setting(db, "gate", None) == {"mode": "ask"}


WORDS_OF_A_PAIR = '[{"content": "Which?", "role": "user"}]'
# (comparison, annotator, purpose, outcome, ranking, flag, early, supersedes): 1 agreed and a flag that was taken back,
# 2 disputed and flagged, 3 disputed by somebody excluded, 4 settled, 5 by somebody excluded, 6 too early, all bad,
# 7 skipped and undone, 8 an import and a judgement, 9 a re-ask and an AI judge.
JUDGED = (
    (1, 1, "own", "ranked", "[1, 2]", "harmful", 0, None),
    (1, 1, "own", "ranked", "[1, 2]", None, 0, 1),
    (1, 2, "own", "ranked", "[1, 1]", None, 0, None),
    (2, 1, "own", "ranked", "[1, 2]", None, 0, None),
    (2, 2, "own", "ranked", "[2, 1]", "broken", 0, None),
    (3, 1, "own", "ranked", "[1, 2]", None, 0, None),
    (3, 3, "own", "ranked", "[2, 1]", None, 0, None),
    (4, 1, "own", "ranked", "[1, 2]", None, 0, None),
    (4, 2, "own", "ranked", "[2, 1]", None, 0, None),
    (4, 4, "settle", "ranked", "[1, 2]", None, 0, None),
    (5, 1, "own", "ranked", "[1, 2]", None, 0, None),
    (5, 3, "settle", "ranked", "[2, 1]", None, 0, None),
    (6, 1, "own", "ranked", "[1, 2]", None, 1, None),
    (6, 2, "own", "all-bad", None, None, 0, None),
    (7, 1, "own", "skip", None, "personal-data", 0, None),
    (7, 2, "own", "ranked", "[1, 2]", None, 0, None),
    (7, 2, "own", "undone", None, None, 0, 16),
    (8, 1, "import", "ranked", "[1, 2]", None, 0, None),
    (8, 2, "own", "ranked", "[2, 1]", None, 0, None),
    (9, 1, "own", "ranked", "[1, 2]", None, 0, None),
    (9, 1, "re-ask", "ranked", "[2, 1]", None, 0, None),
    (9, 5, "judge", "ranked", "[2, 1]", None, 0, None),
)


def with_judgements(db: Any, settle: str = "settle") -> None:
    """Insert `JUDGED`, the judgements of two who were excluded, one of whom was taken back in."""
    moment = {"created": "2026-01-01"}
    rows: dict[str, list[dict[str, Any]]] = {
        "annotator": [{"id": one, "name": f"a{one}", "role": "annotator", **moment} for one in range(1, 6)],
        "prompt": [
            {"id": 1, "fingerprint": "f", "messages": WORDS_OF_A_PAIR, "source": "s", "split": "train", **moment}
        ],
        "comparison": [{"id": one, "prompt_id": 1, "purpose": "preference", **moment} for one in range(1, 11)],
        "claim": [],
        "judgement": [],
        "exclusion": [
            {"annotator_id": who, "excluded": excluded, "reason": "r", "decided_by": "kim", **moment}
            for who, excluded in ((2, 1), (3, 1), (2, 0))
        ],
    }
    for number, (comparison, who, purpose, outcome, ranking, flag, early, supersedes) in enumerate(JUDGED, 1):
        said_so = settle if purpose == "settle" else purpose
        asked = {"comparison_id": comparison, "annotator_id": who, "purpose": said_so, "kind": "pair"}
        asked |= {"shown_order": "[0, 1]", "created": f"2026-01-{number:02}"}
        claimed = purpose not in ("import", "judge")
        if claimed:
            slot = number if purpose == "own" else None
            claim = {"id": number, "nonce": str(number), "slot": slot, "state": "released", "expires": "2100", **asked}
            rows["claim"].append(claim)
        said = {"outcome": outcome, "ranking": ranking, "flag": flag, "early": early, "supersedes": supersedes}
        rows["judgement"].append({"id": number, "claim_id": number if claimed else None, **said, **asked})
    for table, found in rows.items():
        db[table].insert_all(found)


def standings(db: Database) -> list[tuple[Any, ...]]:
    found = db.rows("SELECT id, judged, last_judged, flagged, opinion FROM comparison ORDER BY id")
    return [tuple(row.values()) for row in found]


def test_how_old_comparisons_stand_is_what_it_would_be_had_they_been_judged_today(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m017_workbench")
    with_judgements(old, "adjudication")
    old.close()
    today = open_database(data_dir.with_name("today"))
    with today.transaction() as connection:
        with_judgements(connection)
    db = open_database(data_dir)
    assert standings(db) == standings(today)
    opinions = [row[-1] for row in standings(db)]
    assert opinions == [
        *("agreed", "disputed", "agreed", "settled", "agreed", "none", "none", "disputed", "agreed", "none")
    ]
    assert [row[0] for row in standings(db) if row[3]] == [2, 7]
    assert db.value("SELECT count(*) FROM prompt_words WHERE prompt_words MATCH 'which'") == 1


def test_what_chose_the_answers_of_old_comparisons_is_unknown(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m016_how_answers_were_chosen")
    old["prompt"].insert({"fingerprint": "f", "messages": "[]", "source": "s", "split": "train", "created": "1"})
    old["comparison"].insert({"prompt_id": 1, "purpose": "preference", "created": "1", "formed_chance": 0.5})
    old.close()
    rows = open_database(data_dir).rows("SELECT formed_chance, answers_by, answers_chance FROM comparison")
    assert rows == [{"formed_chance": 0.5, "answers_by": None, "answers_chance": None}]


def test_old_runs_have_no_label_and_can_be_given_one(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m018_run_labels")
    spec = json.dumps({"kind": "sft", "snapshot": "0" * 64})
    old["job"].insert({"kind": "sft", "spec": spec, "status": "finished", "requested_by": "kim", "created": "1"})
    old.close()
    db = open_database(data_dir)
    assert (run_labels.labels(db), run_labels.label_of(db, 1)) == ({}, RunLabel())
    run_labels.set_label(db, 1, RunLabel("first", ("slow",), ""), "kim")
    assert run_labels.labels(db) == {1: RunLabel("first", ("slow",), "")}


def test_old_scores_keep_their_mean_and_have_none_by_token(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m019_scores_per_token")
    old["prompt"].insert({"fingerprint": "f", "messages": "[]", "source": "s", "split": "train", "created": "1"})
    old["response"].insert({"prompt_id": 1, "origin": "import", "purpose": "compare", "text": "x", "created": "1"})
    old["score"].insert({"response_id": 1, "scorer": "kl_to_base", "value": 0.5})
    old.close()
    rows = open_database(data_dir).rows("SELECT scorer, value, per_token FROM score")
    assert rows == [{"scorer": "kl_to_base", "value": 0.5, "per_token": None}]


def test_what_a_change_of_thinking_took_out_is_called_withdrawn(db: Database, data_dir: Path) -> None:
    """An earlier version left it ready, as what judges have settled stays; that is told from it by their judgement."""
    made = [
        comparison_store.add_comparison(db, [make_response(prompt, word) for word in ("yes", "no")])
        for prompt in seed_prompts(db, 4)
    ]
    db.connection.execute("UPDATE comparison SET asks = 'nobody'")
    db.connection.execute("UPDATE comparison SET asks_why = 'unsure' WHERE id = ?", (made[1],))
    db.connection.execute("UPDATE comparison SET candidate_id = 1, against_id = 1 WHERE id = ?", (made[2],))
    judge = db.insert("annotator", {"name": "j", "role": "annotator", "kind": "ai", "created": "1"})
    db.insert(
        "judgement",
        {
            "comparison_id": made[3],
            "annotator_id": judge,
            "purpose": "judge",
            "kind": "pair",
            "outcome": "ranked",
            "ranking": "[1, 2]",
            "shown_order": "[0, 1]",
            "seconds": 1.0,
            "created": "1",
        },
    )
    db.close()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    old["_sqlite_migrations"].delete_where("name IN ('m026_withdrawn_by_thinking', 'm028_words_of_the_page')")
    old.close()
    again = open_database(data_dir)
    assert [row["state"] for row in again.rows("SELECT state FROM comparison ORDER BY id")] == [
        "withdrawn",
        *["ready"] * 3,
    ]


def test_the_state_of_an_old_comparison_says_what_the_page_said_of_it(data_dir: Path) -> None:
    """With all that refers to comparisons: indexes, triggers and rows of other tables."""
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m028_words_of_the_page")
    moment = {"created": "2026-01-01"}
    old["model"].insert({"revision": "base", "algorithm": "base", "base": "b", "status": "serving", **moment})
    old["annotator"].insert({"name": "ann", "role": "annotator", **moment})
    old["prompt"].insert({"fingerprint": "f", "messages": "[]", "source": "s", "split": "train", **moment})
    preference = {"prompt_id": 1, "purpose": "preference", "expected": None, "candidate_id": None, **moment}
    gold = {**preference, "purpose": "gold", "expected": "[1, 2]"}
    old["comparison"].insert_all(
        [
            {**preference, "state": "ready", "asks": "people"},
            {**preference, "state": "withdrawn", "asks": "judges"},
            {**preference, "state": "withdrawn", "asks": "nobody", "candidate_id": 1},
            {**preference, "state": "closed", "asks": "nobody"},
            {**preference, "state": "closed", "asks": "people"},
            {**gold, "state": "closed", "asks": "people"},
            {**gold, "state": "closed", "asks": "nobody"},
            {**preference, "state": "failed", "asks": "people"},
        ]
    )
    decided = {"action": "make", "decided_by": "kim", "previous_state": "closed", **moment}
    old["gold_decision"].insert_all({**decided, "comparison_id": number} for number in (6, 7))
    whole = {
        row["name"]: row["sql"] for row in old.query("SELECT name, sql FROM sqlite_master WHERE name != 'comparison'")
    }
    migrations.apply(old, stop_before="m029_one_word_in_rows_too")
    now = {row["name"]: row["sql"] for row in old.query("SELECT name, sql FROM sqlite_master")}
    assert now.items() >= whole.items()
    old.close()
    db = open_database(data_dir)
    assert [row["state"] for row in db.rows("SELECT state FROM comparison ORDER BY id")] == [
        *("ready", "dropped", "withdrawn", "withdrawn", "closed", "closed", "closed", "failed")
    ]
    assert [row["previous_state"] for row in db.rows("SELECT previous_state FROM gold_decision ORDER BY id")] == [
        *("closed", "withdrawn")
    ]
    assert (db.rows("PRAGMA foreign_key_check"), db.value("PRAGMA integrity_check")) == ([], "ok")
    claim = {"nonce": "n", "comparison_id": 1, "annotator_id": 1, "purpose": "own", "kind": "pair", "slot": 0}
    db.insert("claim", {**claim, "shown_order": "[0, 1]", "state": "held", "expires": "2100", **moment})
    assert db.value("SELECT taken FROM comparison WHERE id = 1") == 1
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        db.insert("comparison", {**preference, "state": "unfit"})
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        db.connection.execute("DELETE FROM comparison WHERE id = 1")


def test_rows_say_what_page_and_code_say(data_dir: Path) -> None:
    """With all that refers to what is renamed, as the version before left it."""
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m029_one_word_in_rows_too")
    moment = {"created": "2026-01-01"}
    model = {"base": "b", "status": "candidate", "kind": "policy", "parent_id": 1, **moment}
    old["model"].insert_all(
        [
            {**model, "revision": "base", "algorithm": "base", "weights": "nf4", "parent_id": None},
            {**model, "revision": "dpo-1", "algorithm": "dpo", "weights": "bf16"},
            {**model, "revision": "reward_model-2", "algorithm": "reward_model", "weights": "fp32", "kind": "reward"},
        ]
    )
    old["annotator"].insert_all(
        {"name": name, "role": "annotator", **moment} for name in ("ann", "kim", "local", "remote")
    )
    old["prompt"].insert({"fingerprint": "f", "messages": "[]", "source": "s", "split": "train", **moment})
    answer = {"prompt_id": 1, "origin": "policy", "purpose": "compare", "text": "x", **moment}
    old["response"].insert_all({**answer, "model_id": one, "weights": held} for one, held in ((1, "nf4"), (2, "bf16")))
    decided = {"model_id": 2, "previous_id": 1, "decided_by": "kim", "reason": "why", **moment}
    actions = ("promote", "rollback", "reject", "reopen", "delete")
    old["promotion"].insert_all({**decided, "action": action} for action in actions)
    judge = {"backend": "local", "created_by": "kim", **moment}
    settings = ({"directory": "/d", "weights": "fp32"}, {"model": "base"})
    old["judge"].insert_all(
        {**judge, "annotator_id": number, "settings": json.dumps(told)} for number, told in enumerate(settings, 3)
    )
    specs = (
        {"kind": "precisions", "other": "bf16", "weights": "nf4"},
        {"kind": "pull", "address": "ann/model", "weights": "bf16"},
        {"kind": "generate", "stock": 7},
        {"kind": "answer", "each": 2},
    )
    job = {"status": "finished", "requested_by": "kim", **moment}
    old["job"].insert_all(
        {**job, "kind": spec["kind"], "spec": json.dumps(spec), "lane": "hub" if spec["kind"] == "pull" else "device"}
        for spec in specs
    )
    old.close()
    db = open_database(data_dir)
    assert [(one.revision, one.precision, one.kind) for one in registry.all_policies(db)] == [
        ("base", "nf4", "policy"),
        ("dpo-1", "bf16", "policy"),
        ("reward_model-2", "fp32", "reward-model"),
    ]
    assert [row["precision"] for row in db.rows("SELECT precision FROM response ORDER BY id")] == ["nf4", "bf16"]
    settings_now = [json.loads(row["settings"]) for row in db.rows("SELECT settings FROM judge ORDER BY annotator_id")]
    assert settings_now == [{"directory": "/d", "precision": "fp32"}, {"model": "base"}]
    assert REQUESTS.recent(db, 9)[0].spec == PullModel("ann/model", "bf16")
    assert [job.spec for job in reversed(job_store.recent(db, tuple(KINDS)))] == [
        PrecisionsSpec(precision="nf4", other="bf16"),
        AnsweringSpec(stock=7),
        PromptSetSpec(each=2),
    ]
    kinds = [row["kind"] for row in db.rows("SELECT kind FROM job ORDER BY id")]
    assert kinds == ["precisions", "pull", "answering", "prompt-set"]
    assert kinds == [row["kind"] for row in db.rows("SELECT json_extract(spec, '$.kind') AS kind FROM job ORDER BY id")]
    found = decision_store.decisions(db)[::-1]
    assert [one.action for one in found] == ["promote", "go-back", "reject", "take-back-rejection", "delete"]
    assert {(one.revision, one.previous, one.decided_by, one.reason) for one in found} == {
        ("dpo-1", "base", "kim", "why")
    }
    assert (db.rows("PRAGMA foreign_key_check"), db.value("PRAGMA integrity_check")) == ([], "ok")
    for change in ("UPDATE model SET precision = 'int8'", "UPDATE decision SET action = 'rollback'"):
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            db.connection.execute(change)


def test_what_settled_comparisons_is_called_so_and_still_does(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m029_one_word_in_rows_too")
    with_judgements(old, "adjudication")
    before = {table: list(old.query(f"SELECT * FROM {table} ORDER BY id")) for table in ("claim", "judgement")}
    stood = list(old.query("SELECT id, judged, last_judged, flagged, opinion FROM comparison ORDER BY id"))
    whole = {row["name"]: row["sql"] for row in old.query("SELECT name, sql FROM sqlite_master")}
    old.close()
    db = open_database(data_dir)
    for table, rows in before.items():
        renamed = [{**row, "purpose": row["purpose"].replace("adjudication", "settle")} for row in rows]
        assert db.rows(f"SELECT * FROM {table} ORDER BY id") == renamed
    assert standings(db) == [tuple(row.values()) for row in stood]
    named = {row["name"]: row["sql"] for row in db.rows("SELECT name, sql FROM sqlite_master")}
    for name in ("claim", "judgement", "judgement_counts", "exclusion_counts"):
        assert named[name] == whole[name].replace("'adjudication'", "'settle'") != whole[name]
    # Who settled the fourth is left out, who settled the fifth is taken back in.
    for who, excluded in ((4, 1), (3, 0)):
        told = {"annotator_id": who, "excluded": excluded, "reason": "", "decided_by": "kim", "created": "2"}
        db.insert("exclusion", told)
    assert [row[-1] for row in standings(db)][3:5] == ["disputed", "settled"]
    for change in ("UPDATE judgement SET note = 'x'", "DELETE FROM judgement"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.connection.execute(change)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        db.insert("claim", {**before["claim"][0], "id": None, "nonce": "x", "purpose": "adjudication"})


def test_what_answering_jobs_of_earlier_versions_kept_ready_is_their_stock(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m028_words_of_the_page")
    job = {"kind": "generate", "status": "finished", "requested_by": "kim", "created": "1"}
    specs = ({"buffer": 7, "kind": "generate", "until_full": True}, {"kind": "generate"})
    old["job"].insert_all({**job, "spec": json.dumps(spec)} for spec in specs)
    old.close()
    db = open_database(data_dir)
    assert [job.spec for job in reversed(job_store.recent(db, ("answering",)))] == [
        *(AnsweringSpec(stock=7, until_full=True), AnsweringSpec())
    ]


def test_of_how_many_comparisons_an_earlier_version_took_a_change_back_is_not_known(data_dir: Path) -> None:
    data_dir.mkdir()
    old = sqlite_utils.Database(data_dir / FILE_NAME)
    migrations.apply(old, stop_before="m031_partly_undone")
    old["bulk_change"].insert({"kind": "skip", "decided_by": "kim", "created": "1", "undone_by": "eve", "undone": "2"})
    old.close()
    db = open_database(data_dir)
    assert [(one.undone_by, one.undone_for) for one in bulk_changes.changes(db)] == [("eve", None)]


def test_two_processes_may_create_the_file_at_once(tmp_path: Path) -> None:
    """Often, because one in ten failed: SQLite waits for nobody while a new file is turned to write ahead."""
    failures: list[BaseException] = []

    def create(directory: Path) -> None:
        try:
            open_database(directory)
        except BaseException as error:  # reported by the assertion below
            failures.append(error)

    for number in range(20):
        threads = [threading.Thread(target=create, args=[tmp_path / str(number)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_copy_of_any_earlier_version_is_ours_however_it_came_to_its_tables(tmp_path: Path) -> None:
    steps = [step.name for step in migrations.pending(sqlite_utils.Database(memory=True))]
    path = tmp_path / "grown.db"
    for following in [*steps[1:], None]:
        with closing(sqlite3.connect(path)) as grown:
            migrations.apply(sqlite_utils.Database(grown), stop_before=following)
            grown.execute("ANALYZE")
        assert damage(path) == ""
    with closing(sqlite3.connect(path)) as grown:
        grown.executescript(
            "CREATE TABLE mine (x); CREATE VIEW best AS SELECT * FROM mine; CREATE INDEX quick ON judgement (created)"
        )
    assert damage(path) == "", "somebody's own, in a database browser"
    assert len(steps) > 20


def test_a_newer_database_is_refused_and_left_alone(db: Database, data_dir: Path) -> None:
    with db.transaction() as connection:
        connection["_sqlite_migrations"].insert(
            {"migration_set": "prefloop", "name": "m999_from_the_future", "applied_at": "2030-01-01"}
        )
    before = schema(db)
    with pytest.raises(UserError, match=r"newer Prefloop.*m999_from_the_future"):
        open_database(data_dir)
    assert schema(db) == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / FILE_NAME).write_bytes(b"my only copy of something else" * 100)
    with pytest.raises(UserError, match="not a readable SQLite database"):
        open_database(data_dir)
    assert (data_dir / FILE_NAME).read_bytes() == b"my only copy of something else" * 100


def test_another_programs_database_is_refused_and_left_alone(data_dir: Path) -> None:
    data_dir.mkdir()
    with sqlite3.connect(data_dir / FILE_NAME) as other:
        other.execute("CREATE TABLE annotator (x)")
    other.close()
    path = data_dir / FILE_NAME
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(UserError, match="is another program's database"):
        open_database(data_dir)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, 0o644)


def test_no_name_of_a_directory_fails(tmp_path: Path) -> None:
    for name in ("none", "x" * 300):
        with pytest.raises(UserError, match="There is no database in"):
            existing_database(tmp_path / name)


def test_a_directory_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UserError, match=r"can't be written.*--data DIR"):
        open_database(tmp_path / "file" / "data")


def test_a_full_disk_saves_nothing_of_the_transaction_and_says_so(db: Database) -> None:
    seed_comparisons(db, 2)
    before = db.value("SELECT count(*) FROM prompt")
    db.connection.execute(f"PRAGMA max_page_count = {db.value('PRAGMA page_count')}")
    with pytest.raises(UserError, match=r"disk .* is full\. Nothing was saved"):
        prompt_store.add_prompts(db, [prompt(f"{number} " + "x" * 3000) for number in range(200)])
    db.connection.execute("PRAGMA max_page_count = 1000000")
    assert db.value("SELECT count(*) FROM prompt") == before
    assert prompt_store.add_prompts(db, [prompt("after the disk was cleared")]) == 1


def test_a_write_waits_a_minute_for_another_process(db: Database) -> None:
    """The last transaction of a large import takes that long on a slow machine; a run of hours must not fail for it."""
    assert db.value("PRAGMA busy_timeout") == 60_000


def test_a_database_that_another_program_keeps_locked_is_said_to_be(
    db: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start of a program, and while it runs: once the wait is over."""
    other = Database(data_dir / FILE_NAME)
    db.close()
    monkeypatch.setattr("annotation.database.WAIT_SECONDS", 0.0)
    with closing(other), other.transaction():
        for act in (lambda: open_database(data_dir).write("DELETE FROM event"), lambda: db.write("DELETE FROM event")):
            with pytest.raises(UserError, match=r"was locked for too long\. Nothing was saved"):
                act()
    assert db.write("DELETE FROM event") == 0


def test_a_transaction_that_can_not_be_committed_is_open_no_more(db: Database, data_dir: Path) -> None:
    """Or all that this thread writes from then on would be in it, and lost."""

    def refer_to_nobody() -> None:
        with db.transaction() as connection:
            connection.execute("PRAGMA defer_foreign_keys=ON")
            connection.execute("INSERT INTO annotator_group (name, annotator_id) VALUES ('nobody', 99)")

    with pytest.raises(sqlite3.IntegrityError):
        refer_to_nobody()
    setting_store.set_setting(db, "afterwards", 1)
    with closing(open_database(data_dir)) as other:
        assert setting_store.setting(other, "afterwards", None) == 1
        assert other.value("SELECT count(*) FROM annotator_group") == 0


def test_a_transaction_is_all_or_nothing_and_nests(db: Database) -> None:
    def fail_half_way() -> None:
        with db.transaction():
            prompt_store.add_prompts(db, [prompt("half done")])
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail_half_way()
    assert prompt_store.prompts(db, "train") == []


def test_a_copy_of_the_live_file_is_whole(db: Database, tmp_path: Path) -> None:
    seed_comparisons(db, 3)
    copy_database(db, tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert copy.execute("SELECT count(*) FROM comparison").fetchone() == (3,)
    copy.close()


def test_no_commit_is_lost_where_connections_write_and_reset_the_log_at_the_same_moment(data_dir: Path) -> None:
    """Each thread as a process of its own would: with a connection and a lock of its own."""
    open_database(data_dir).close()
    failures: list[BaseException] = []

    def write(writer: int) -> None:
        own = open_database(data_dir)
        try:
            own.connection.execute("PRAGMA wal_autocheckpoint = 1")
            for number in range(100):
                prompt_store.add_prompts(own, [prompt(f"{writer} {number}")])
                if number % 5 == writer:
                    own.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except BaseException as error:  # reported by the assertion below
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    db = open_database(data_dir)
    written = {entry.text for entry in prompt_store.prompts(db, "train")}
    assert written == {f"{writer} {number}" for writer in range(4) for number in range(100)}
    assert db.value("PRAGMA integrity_check") == "ok"
    db.close()


def test_what_is_deleted_is_gone_from_the_file_and_so_from_its_copies(db: Database, tmp_path: Path) -> None:
    with db.transaction() as connection:
        connection.execute("CREATE TABLE secret (text)")
        connection.execute("INSERT INTO secret (text) VALUES (?)", ("of nobody's business",))
        connection.execute("DELETE FROM secret")
    copy_database(db, tmp_path / "copy.db")
    assert b"nobody's business" not in (tmp_path / "copy.db").read_bytes()


def test_counting_the_held_out_prompts_reads_no_other(db: Database) -> None:
    (plan,) = db.rows("EXPLAIN QUERY PLAN SELECT count(*) FROM prompt WHERE split = 'held-out'")
    assert "COVERING INDEX prompt_held_out" in plan["detail"]
