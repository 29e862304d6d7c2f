"""The lossless archive: there and back is the same for any database; what is damaged or foreign changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.database import Database, open_database
from annotation.exports import archive, writing
from annotation.exports.formats import FORMATS, ExportRequest
from annotation.imports import importing
from annotation.imports.importing import ImportRequest
from annotation.imports.sources.opening import open_path
from annotation.records import UserError, now
from annotation.store import (
    comparison_store,
    judgement_store,
    project_store,
    prompt_store,
    setting_store,
    training_data,
)
from annotation.web import access
from annotation.workbench.gold import release_gold
from rlhf.judges import judge_store
from rlhf.models import registry
from tests.archive_fixtures import TEXTS, has_password, populate
from tests.conftest import BASE_NAME, dump, make_response, new_database
from tests.frozen_in_memory import current_judgements
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT

pytestmark = pytest.mark.slow

Line = dict[str, Any]


@contextmanager
def fresh() -> Iterator[Database]:
    """An empty, migrated database of its own."""
    with tempfile.TemporaryDirectory() as directory:
        db = new_database(Path(directory) / "data")
        yield db
        db.close()


def archived(db: Database) -> bytes:
    """The archive of a database."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "archive.jsonl"
        writing.export(db, ExportRequest("raw"), path)
        return path.read_bytes()


def restored(db: Database, content: bytes) -> dict[str, int]:
    """Fill a database from an archive."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "archive.jsonl"
        path.write_bytes(content)
        return archive.restore(db, path)


def everything(db: Database) -> list[str]:
    """The whole database as text."""
    return dump(db)


@pytest.fixture(scope="module")
def content() -> bytes:
    """An archive of a database with everything in it."""
    with fresh() as db:
        populate(db, 3)
        return archived(db)


# ----------------------------------------------------------------------------------------------------- there and back
SIGNS = st.characters(exclude_categories=("Cs",))


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.lists(st.text(SIGNS, min_size=1, max_size=12), min_size=1, max_size=4))
def test_there_and_back_is_the_same_for_any_database(seed: int, texts: list[str]) -> None:
    with fresh() as db, fresh() as other:
        populate(db, seed, [*texts, *TEXTS], acts=25)
        before = archived(db)
        counts = restored(other, before)
        assert counts == archive.count(db)
        assert archived(other) == before
        assert list(current_judgements(other)) == list(current_judgements(db))
        assert list(training_data.demonstrations(other)) == list(training_data.demonstrations(db))
        assert judgement_store.excluded_annotators(other) == judgement_store.excluded_annotators(db)
        assert project_store.project(other) == project_store.project(db)
        assert project_store.guidelines_versions(other) == project_store.guidelines_versions(db)
        held = {row["comparison_id"] for row in db.rows("SELECT comparison_id FROM claim WHERE state = 'held'")}
        taken = {
            row["id"]: row["taken"] for row in db.rows("SELECT id, taken FROM comparison") if row["id"] not in held
        }
        again = {row["id"]: row["taken"] for row in other.rows("SELECT id, taken FROM comparison")}
        assert taken.items() <= again.items()


def test_the_generated_databases_have_all_that_the_property_is_about() -> None:
    """Otherwise it would hold for nothing."""
    seen: set[str] = set()
    for seed in range(4):
        with fresh() as db:
            populate(db, seed)
            for column in ("purpose", "kind", "outcome"):
                seen |= {row["x"] for row in db.rows(f"SELECT DISTINCT {column} AS x FROM judgement")}
            for row in db.rows("SELECT * FROM judgement"):
                seen |= {name for name in ("flag", "edited_response_id", "supersedes", "re_ask_of") if row[name]}
                seen |= {"tie"} if row["ranking"] and set(json.loads(row["ranking"])) == {1} else set()
                seen |= {"tags"} if row["tags"] != "[]" else set()
                seen |= {"early"} if row["early"] else set()
    assert seen >= {
        *("own", "gold", "re-ask", "settle", "import", "pair", "best", "rank", "ranked", "all-bad", "skip"),
        *("undone", "flag", "edited_response_id", "supersedes", "re_ask_of", "tie", "tags", "early"),
    }


def test_the_restored_data_gives_the_same_exports(content: bytes, tmp_path: Path) -> None:
    with fresh() as db, fresh() as other:
        populate(db, 3)
        restored(other, archived(db))
        for name in FORMATS:
            exported = []
            for number, database in enumerate((db, other)):
                target = tmp_path / f"{name}-{number}"
                writing.export(database, ExportRequest(name, "jsonl"), target)
                files = [target] if target.is_file() else sorted(target.rglob("*.jsonl"))
                exported.append([file.read_bytes() for file in files])
            assert exported[0] == exported[1]
            assert any(exported[0])


def test_the_archive_holds_no_secret_and_nothing_of_the_machines(content: bytes) -> None:
    with fresh() as db:
        populate(db, 5)
        access.set_password(db, "kim", "a long enough password")
        access.open_session(db, access.authorise(db, "kim", "admin"))
        hashed = db.value("SELECT password_hash FROM annotator WHERE name = 'kim'")
        nonces = [row["nonce"] for row in db.rows("SELECT nonce FROM claim")]
        text = archived(db).decode()
        assert hashed not in text
        assert not [nonce for nonce in nonces if nonce in text]
        assert '"session"' not in text


STANDING_COLUMNS = ("judged", "last_judged", "flagged", "opinion")
WORD_TABLES = ("prompt_words", "answer_words")
# SQLite's own, of a full-text index.
WORD_TABLE_PARTS = ("", "_data", "_idx", "_docsize", "_config")
# What the archive leaves to the data directory it comes from, with the reason.
NOT_ARCHIVED = {
    "session": "a secret",
    "sign_in_link": "a secret",
    "invitation": "a secret",
    "annotator.invitation_id": "a secret",
    "job": "the machines'",
    "run_label": "of jobs, which are the machines'",
    "event": "the machines'",
    "snapshot": "the machines'",
    "decision": "the machines'",
    "chat": "tried out and gone",
    "publication": "the Hub's",
    "safe_copy": "the machines'",
    "rental": "the Hub's",
    "annotator.password_hash": "a secret",
    "annotator.hub_id": "the Hub's",
    "annotator.language": "chosen anew",
    "claim.nonce": "made anew",
    "comparison.taken": "counted from the claims",
    "comparison.assigned": "counted from the bulk changes",
    **{f"comparison.{name}": "counted from the judgements" for name in STANDING_COLUMNS},
    **{f"{table}{part}": "made of the texts" for table in WORD_TABLES for part in WORD_TABLE_PARTS},
    "prompt.held_for": "drawn anew",
    "model.job_id": "the machines'",
    "response.token_ids": "the machines', and tokenised anew from the text",
    "score.per_token": "of the tokens that are not in it either, and measured anew",
    "verdict.job_id": "the machines'",
    "model.status": "the base serves after a restore",
    "judge.active": "where judges send prompts and which key goes along may be anybody's word: an admin looks first",
}


def test_every_table_and_column_is_in_the_archive_or_left_out_for_a_reason(db: Database) -> None:
    for row in db.rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'"):
        table = row["name"]
        if table.startswith("sqlite_") or table in NOT_ARCHIVED:
            continue
        columns = {column["name"] for column in db.rows(f'PRAGMA table_info("{table}")')}
        known = {name for name in columns if f"{table}.{name}" in NOT_ARCHIVED}
        assert set(archive.TABLES[table].columns) | known == columns, table


def test_what_an_earlier_version_had_withdrawn_by_thinking_is_withdrawn_after_a_restore(content: bytes) -> None:
    lines = of_an_earlier_version(content)
    ai = {line["id"] for line in lines if line.get("table") == "annotator" and line["kind"] == "ai"}
    by_ai = {line["comparison_id"] for line in lines if line.get("table") == "judgement" and line["annotator_id"] in ai}
    withdrawn, unsure = [line for line in lines if line.get("table") == "comparison" and line["id"] not in by_ai][:2]
    drawn = {"purpose": "preference", "state": "ready", "candidate_id": None, "import_id": None, "model_id": 1}
    withdrawn |= {**drawn, "asks": "nobody", "asks_why": None}
    unsure |= {**drawn, "asks": "nobody", "asks_why": "unsure"}
    with fresh() as db:
        restored(db, sealed(lines))
        states = {row["id"]: row["state"] for row in db.rows("SELECT id, state FROM comparison")}
    assert (states[withdrawn["id"]], states[unsure["id"]]) == ("withdrawn", "ready")


def test_the_states_of_an_earlier_archive_are_read_as_they_were_meant(content: bytes) -> None:
    """What is dropped was 'withdrawn' then; what is withdrawn was 'closed', as retired and imported ones still are."""
    lines = of_an_earlier_version(content)
    ordinary = [one for one in lines if one.get("table") == "comparison" and one["purpose"] == "preference"]
    dropped, measured, withdrawn, imported, gold = ordinary[:5]
    dropped["state"] = "withdrawn"
    measured |= {"state": "withdrawn", "candidate_id": 1, "against_id": 1, "asks": "nobody"}
    withdrawn |= {"state": "closed", "asks": "nobody"}
    imported |= {"state": "closed", "asks": "people"}
    size = sum(one.get("table") == "comparison_response" and one["comparison_id"] == gold["id"] for one in lines)
    gold |= {"state": "closed", "asks": "nobody", "purpose": "gold", "expected": json.dumps([1] * size)}
    made = {"table": "gold_decision", "id": 10**6, "comparison_id": gold["id"], "action": "make", "expected": None}
    lines.append({**made, "previous_state": "closed", "decided_by": "kim", "created": now()})
    with fresh() as db:
        restored(db, sealed(lines))
        states = {row["id"]: row["state"] for row in db.rows("SELECT id, state FROM comparison")}
        assert [states[one["id"]] for one in ordinary[:5]] == ["dropped", "withdrawn", "withdrawn", "closed", "closed"]
        release_gold(db, gold["id"], "kim")
        assert db.value("SELECT state FROM comparison WHERE id = ?", (gold["id"],)) == "withdrawn"
        again = archived(db)
    with fresh() as db:
        restored(db, again)
        assert db.value("SELECT state FROM comparison WHERE id = ?", (withdrawn["id"],)) == "withdrawn"
        assert archived(db) == again


def test_after_a_restore_people_have_no_password_and_the_base_serves(content: bytes) -> None:
    with fresh() as db:
        restored(db, content)
        assert registry.serving(db).revision == "base"
        adapter = registry.by_revision(db, "dpo-1")
        assert (adapter.status, adapter.path, adapter.sha256) == ("retired", "adapters/dpo-1", "ab")
        assert not has_password(db, "kim")
        access.set_password(db, "kim", "a long enough password")
        assert access.check_password(db, "kim", "a long enough password") is not None


def test_after_a_restore_no_judge_is_asked_until_somebody_switches_it_on(content: bytes) -> None:
    settings = {"address": "https://evil.example/v1", "model": "gpt-5", "key_variable": "OPENAI_API_KEY"}
    with fresh() as db:
        restored(db, change(content, "judge", active=1, settings=json.dumps(settings)))
        assert judge_store.judges(db, active=True) == []
        assert [judge.name for judge in judge_store.judges(db)] == ["a judge"]


def test_after_a_restore_nobody_sees_a_comparison_twice(content: bytes) -> None:
    from annotation.claims import handing_out, judging

    with fresh() as db:
        restored(db, content)
        ann = db.value("SELECT id FROM annotator WHERE name = 'ann'")
        seen = {
            row["comparison_id"] for row in db.rows("SELECT comparison_id FROM claim WHERE annotator_id = ?", (ann,))
        }
        claim = handing_out.claim_next(db, ann)
        while claim is not None:
            assert claim.purpose == "re-ask" or claim.comparison_id not in seen
            seen.add(claim.comparison_id)
            judging.judge(db, ann, claim.nonce, {"outcome": "skip"})
            claim = handing_out.claim_next(db, ann)


# ------------------------------------------------------------------------------------------------------------ refusals
def refused(content: bytes, match: str) -> None:
    """Restoring raises one sentence, and leaves the database as it was."""
    with fresh() as db:
        before = everything(db)
        with pytest.raises(UserError, match=match):
            restored(db, content)
        assert everything(db) == before


def test_a_long_list_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore holds the database while it looks at each."""
    read: list[str] = []

    def counted(text: str) -> Any:
        read.append(text)
        return parsed(text)

    parsed = archive.parsed
    monkeypatch.setattr(archive, "parsed", counted)
    many = json.dumps([1] * 50)
    answers = {name: archive.CHECKS[name](many) for name in ("judgement.ranking", "claim.shown_order")}
    assert answers == {"judgement.ranking": True, "claim.shown_order": False}
    assert archive.CHECKS["verdict.principles"](many)
    assert archive.CHECKS["judgement.tags"]('["a"]')
    assert not archive.CHECKS["judgement.ranking"]("[0]")
    assert not archive.CHECKS["verdict.principles"]("[-1]")
    assert len(read) == 6


def test_a_database_in_use_is_refused_also_when_it_holds_the_same(content: bytes, tmp_path: Path) -> None:
    with fresh() as db:
        restored(db, content)
        before = everything(db)
        with pytest.raises(UserError, match=r"in use already \(import 1, .*Nothing was changed"):
            restored(db, content)
        assert everything(db) == before


def test_a_path_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with fresh() as db:
        for path in (tmp_path / "nothing", tmp_path):
            with pytest.raises(UserError, match="can't be read"):
                archive.restore(db, path)


@pytest.mark.parametrize(
    ("foreign", "match"),
    [
        (b"", "line 1: the end is missing"),
        (b"prompt,chosen\n", "line 1: it is no JSON"),
        (b'{"prompt": "a", "chosen": "b"}\n', "line 1: it is no archive of this version"),
        (b'{"format":"prefloop archive","version":3}\n', "line 1: it is no archive of this version"),
        (b"[]\n", "line 1: it is no JSON object"),
        (b"\xff\xfe{}\n", "line 1: it is no JSON"),
        (b"[" * 200_000 + b"\n", "line 1: it is no JSON"),
        (b"SQLite format 3\x00", "line 1: the line is cut off or too long"),
    ],
)
def test_a_foreign_file_is_refused(foreign: bytes, match: str) -> None:
    refused(foreign, match)


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAXIMUM_LINE", 1000)
    refused(b'{"format":"prefloop archive",' + b" " * 5000 + b'"version":1}\n', "too long")


def lines_of(content: bytes) -> list[Line]:
    """An archive's lines."""
    return [json.loads(line) for line in content.splitlines()]


def of_an_earlier_version(content: bytes) -> list[Line]:
    """An archive's lines (without the last) as those whose states are to be read as they were meant then begin."""
    header, *rows = lines_of(content)[:-1]
    return [{**header, "version": 1}, *rows]


def sealed(lines: list[Line]) -> bytes:
    """An archive of these lines (without the last) whose end fits: what somebody made with intent."""
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    end = {"end": True, "rows": len(lines) - 1, "sha256": sha256(body).hexdigest()}
    return body + json.dumps(end).encode() + b"\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[: content.rindex(b"\n", 0, -1) + 1],
        lambda content: content + b"\n",
        lambda content: content.replace(b'"train"', b'"trein"', 1),
        lambda content: content.replace(b"imported 0", b"imported 9", 1),
        lambda content: b"".join(line for n, line in enumerate(content.splitlines(keepends=True)) if n != 5),
        lambda content: content.replace(b'{"table":"score"', b'{"table":"session"', 1),
    ],
)
def test_a_damaged_archive_is_refused(content: bytes, damage: Callable[[bytes], bytes]) -> None:
    damaged = damage(content)
    assert damaged != content
    refused(damaged, "Nothing was (changed|saved)")


def change(content: bytes, table: str, **values: Any) -> bytes:
    """The archive with values of the first row of a table (with a ranking, for judgements) changed, sealed again."""
    lines = lines_of(content)[:-1]
    row = next(
        line
        for line in lines
        if line.get("table") == table and (table != "judgement" or line["ranking"]) and line.get("expected", 1)
    )
    row.update(values)
    return sealed(lines)


def test_what_is_sealed_again_unchanged_is_accepted(content: bytes) -> None:
    with fresh() as db:
        restored(db, sealed(lines_of(content)[:-1]))
        assert archived(db) == content


def test_an_archive_from_before_there_were_other_models_than_adapters_is_read(content: bytes) -> None:
    earlier = []
    for line in of_an_earlier_version(content):
        new = ARE_NEW.get(line.get("table"), ())
        before = {"algorithm": "method"} if line.get("table") == "model" else {}
        earlier.append({before.get(name, name): value for name, value in line.items() if name not in new})
    next(line for line in earlier if line.get("table") == "response")["purpose"] = "evaluate"
    with fresh() as db:
        restored(db, sealed(earlier))
        assert registry.by_revision(db, "base").form == "base"
        held = "SELECT DISTINCT m.precision AS own, r.precision FROM response r LEFT JOIN model m ON m.id = r.model_id"
        assert all(row["own"] == row["precision"] for row in db.rows(held))
        assert db.value("SELECT count(*) FROM response WHERE purpose = 'check'") == 1
        adapter = registry.by_revision(db, "dpo-1")
        assert adapter.algorithm == "dpo"
        assert (adapter.kind, adapter.form, adapter.precision, adapter.ground_id) == ("policy", "lora", "nf4", None)


def in_earlier_words(line: Line) -> Line:
    """A row as the version before rows said what page and code say had it."""
    if line.get("table") in ("model", "response"):
        line = {"weights" if name == "precision" else name: value for name, value in line.items()}
        return {**line, "kind": "reward"} if line.get("kind") == "reward-model" else line
    if line.get("table") == "judge":
        return {**line, "settings": line["settings"].replace('"precision"', '"weights"')}
    if line.get("table") in ("claim", "judgement") and line["purpose"] == "settle":
        return {**line, "purpose": "adjudication"}
    return line


def test_an_archive_in_earlier_words_is_the_same_in_those_of_now(content: bytes) -> None:
    lines = lines_of(content)[:-1]
    judge = next(line for line in lines if line.get("table") == "judge")
    judge |= {"backend": "local", "settings": json.dumps({"directory": "/models/judge", "precision": "bf16"})}
    earlier = [in_earlier_words(line) for line in lines]
    assert earlier != lines
    found = []
    for version in (lines, earlier):
        with fresh() as db:
            restored(db, sealed(version))
            found.append(archived(db))
    assert found[0] == found[1]


ARE_NEW: Mapping[str | None, tuple[str, ...]] = {
    "model": ("kind", "form", "precision", "ground_id", "deleted"),
    "response": ("precision",),
    "judgement": ("imported_chance",),
    "bulk_change": ("undone_for",),
}


@pytest.mark.parametrize(
    ("table", "values", "match"),
    [
        ("annotator", {"name": "<b>${evil}"}, "the name can't be a person's"),
        ("annotator", {"role": "owner"}, "does not fit the database"),
        ("annotator", {"password_hash": "x"}, "no row of this version's tables"),
        ("prompt", {"messages": "[]"}, "messages is malformed"),
        ("prompt", {"messages": '[{"role": "user", "content": "other"}]'}, "the fingerprint does not fit"),
        ("prompt", {"messages": '[{"content": "\\ud800", "role": "user"}]'}, "messages is malformed"),
        ("prompt", {"id": "1"}, "id has the wrong type"),
        ("prompt", {"id": True}, "id has the wrong type"),
        ("prompt", {"id": 2**70}, "does not fit the database"),
        ("prompt", {"source": "\ud800"}, "does not fit the database"),
        ("model", {"path": "../../etc"}, "path is malformed"),
        ("model", {"path": "/etc"}, "path is malformed"),
        ("model", {"path": "adapters"}, "path is malformed"),
        ("model", {"path": "snapshots"}, "path is malformed"),
        ("model", {"path": "adapters/sft-2", "revision": "dpo-1"}, "path is malformed"),
        ("model", {"revision": "a/b"}, "revision is malformed"),
        ("model", {"form": "tree"}, "does not fit the database"),
        ("model", {"deleted": "yesterday"}, "deleted is malformed"),
        ("response", {"prompt_id": 999_999}, "refer to others that are not there"),
        ("response", {"sampling": "[]"}, "sampling is malformed"),
        ("response", {"sampling": '{"min_p": 0.1, "x\\n\\n# Evil": 1}'}, "sampling is malformed"),
        ("response", {"sampling": '{"temperature": "<b>"}'}, "sampling is malformed"),
        ("response", {"text": None}, "does not fit the database"),
        ("comparison", {"expected": "[1]"}, "expected ranking that does not fit"),
        ("comparison_response", {"position": 7}, "gaps between its answers"),
        ("judgement", {"ranking": "[1]"}, "does not fit its comparison's answers"),
        ("judgement", {"ranking": "[0, 1]"}, "ranking is malformed"),
        ("judgement", {"ranking": None}, "does not fit its comparison's answers"),
        ("judgement", {"shown_order": "[0, 0]"}, "shown_order is malformed"),
        ("judgement", {"tags": '{"a": 1}'}, "tags is malformed"),
        ("judgement", {"created": "today"}, "created is malformed"),
        ("judgement", {"created": "2026-99-99T00:00:00.000000+00:00"}, "created is malformed"),
        ("comparison", {"created": "zzz"}, "created is malformed"),
        ("claim", {"shown_order": "[0]"}, "does not fit its comparison's answers"),
        ("judge", {"settings": '{"address": "http://127.0.0.1/v1"}'}, "does not say what it is"),
        ("judge", {"settings": '{"address": "http://127.0.0.1/v1", "model": 3}'}, "does not say what it is"),
        ("judge", {"backend": "local", "settings": '{"model": 3}'}, "does not say what it is"),
        ("judge", {"backend": "reward-model", "settings": '{"directory": "/x"}'}, "does not say what it is"),
        ("setting", {"key": "auto_train"}, "key is malformed"),
        ("setting", {"value": '{"overlap": -1}'}, "value is malformed"),
        ("setting", {"value": '{"tags": [{"key": "s", "label": "x"}]}'}, "value is malformed"),
    ],
)
def test_an_archive_made_up_with_intent_is_refused(
    content: bytes, table: str, values: dict[str, Any], match: str
) -> None:
    refused(change(content, table, **values), match)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 60),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["[]", "[1, 2]", "[1]", "{}", "null", "[0, 1]", "[1, 0]", "import", "pair", "[[]]", "[null]"]),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=60)
@given(st.data())
def test_whatever_a_row_says_is_restored_or_refused_and_what_is_restored_can_be_exported(data: Any) -> None:
    lines = lines_of(module_content())[:-1]
    for _ in range(data.draw(st.integers(1, 2))):
        row = lines[data.draw(st.integers(1, len(lines) - 1))]
        row[data.draw(st.sampled_from(sorted(row)))] = data.draw(VALUES)
    with fresh() as db:
        before = everything(db)
        refusal = ""
        try:
            restored(db, sealed(lines))
        except UserError as error:
            refusal = str(error)
        if refusal:
            assert "Nothing was" in refusal
            assert everything(db) == before
            return
        archived(db)
        for name in FORMATS:
            writing.count(db, ExportRequest(name))
        assert len(list(current_judgements(db))) == judgement_store.judged_count(db)


CACHE: list[bytes] = []


def module_content() -> bytes:
    """An archive for tests that take no fixtures."""
    if not CACHE:
        with fresh() as db:
            populate(db, 3)
            CACHE.append(archived(db))
    return CACHE[0]


# -------------------------------------------------------------------------------------------------------- command line
def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m annotation` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "annotation", *arguments],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def test_what_was_imported_goes_there_and_back(tmp_path: Path) -> None:
    """Through the real import: pairs, a KTO file, demonstrations and comparisons with a known answer."""
    data, archives, moved = tmp_path / "data", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "moved"
    pairs = [{"prompt": f"Q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(4)]
    labelled = [
        {"prompt": "K", "completion": "yes", "label": True},
        {"prompt": "K", "completion": "no", "label": False},
    ]
    shown = [{"prompt": "D", "completion": "Thus."}]
    for number, (rows, more) in enumerate(((pairs, ["--gold"]), (pairs[:2], ["--open"]), (labelled, []), (shown, []))):
        source = tmp_path / f"{number}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        done = command("import", str(source), *more, "--data", str(data))
        assert done.returncode == 0, done.stderr
    for directory, target in ((data, archives[0]), (moved, archives[1])):
        if directory is moved:
            assert command("restore", str(archives[0]), "--data", str(moved)).returncode == 0
        done = command("export", "--format", "raw", "--to", str(target), "--data", str(directory))
        assert done.returncode == 0, done.stderr
    assert archives[0].read_bytes() == archives[1].read_bytes()
    counts = {line["table"] for line in lines_of(archives[0].read_bytes())[1:-1]}
    assert counts >= {"import", "annotator", "prompt", "response", "comparison", "comparison_response", "judgement"}


def test_an_import_that_is_still_arriving_is_not_in_an_archive(tmp_path: Path) -> None:
    """Restored, its half would count as a whole; a prompt of it that somebody has answered meanwhile stays."""
    with fresh() as db, fresh() as other:
        registry.ensure_base(db, BASE_NAME)
        for number, name in enumerate(("whole", "half"), 1):
            source = tmp_path / f"{name}.jsonl"
            rows = [{"prompt": f"{name} {n}", "completion": f"Thus {n}."} for n in range(2)]
            source.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
            done = importing.run_import(db, open_path(source), ImportRequest(split="train"), "kim", lambda *_: None)
            assert done.import_id == number
        setting_store.set_setting(db, setting_store.UNFINISHED, 2)
        answered = prompt_store.read_prompt(db.rows("SELECT * FROM prompt ORDER BY id")[-1])
        comparison_store.add_response(db, make_response(answered, "somebody answered it meanwhile"), "compare")
        with pytest.raises(UserError, match="is in use already"):
            restored(db, archived(db))
        restored(other, archived(db))
        shown = [("whole 0", "Thus 0."), ("whole 1", "Thus 1.")]
        for kept in (db, other):
            assert [(d.messages[0]["content"], d.text) for d in training_data.demonstrations(kept)] == shown
        told = [
            (json.loads(row["messages"])[0]["content"], row["import_id"]) for row in other.rows("SELECT * FROM prompt")
        ]
        assert told == [("whole 0", 1), ("whole 1", 1), ("half 1", None)]
        assert [row["name"] for row in other.rows("SELECT name FROM import")] == ["whole.jsonl"]
        assert other.value("SELECT count(*) FROM response") == 3
    with fresh() as left:
        left.connection.execute(
            "INSERT INTO import (id, name, sha256, format, counts, requested_by, created) "
            "VALUES (1, 'a', 'b', 'c', '{}', 'kim', ?)",
            (now(),),
        )
        setting_store.set_setting(left, setting_store.UNFINISHED, 1)
        with pytest.raises(UserError, match="is in use already"):
            restored(left, archived(left))


def test_there_and_back_on_the_command_line(data_dir: Path, tmp_path: Path) -> None:
    db = open_database(data_dir)
    populate(db, 11)
    db.close()
    first, second, moved = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "moved"
    done = command("export", "--format", "raw", "--to", str(first), "--data", str(data_dir))
    assert done.returncode == 0, done.stderr
    assert "Wrote" in done.stdout
    done = command("restore", str(first), "--data", str(moved))
    assert done.returncode == 0, done.stderr
    assert "Restored import 1, " in done.stdout
    assert "All AI judges are switched off" in done.stdout
    assert command("export", "--format", "raw", "--to", str(second), "--data", str(moved)).returncode == 0
    assert first.read_bytes() == second.read_bytes()
    again = command("restore", str(first), "--data", str(moved))
    assert (again.returncode, again.stdout) == (2, "")
    assert "is in use already" in again.stderr
