"""Imports into a real database: what is written, what is known already, what a killed one leaves, and the page."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gradio as gr
import httpx
import psutil
import pytest

import app
from annotation.__main__ import main
from annotation.claims import handing_out, judging, own_prompts
from annotation.database import Database, open_database
from annotation.imports import commit, import_process, importing, staging
from annotation.imports.import_process import HERE, Importer, State
from annotation.imports.importing import ImportRequest, ImportResult
from annotation.imports.mapping import row_readers
from annotation.imports.mapping.mapped_rows import MappedRow
from annotation.imports.sources.opening import open_path
from annotation.jobs.lane_runner import LaneRunner
from annotation.metrics import quality
from annotation.records import Prompt, UserError
from annotation.store import comparison_store, project_store, prompt_store, setting_store, training_data
from annotation.tabs import import_form as tab
from annotation.tabs.guard import Context
from annotation.translation import kept, language_of, speaking
from annotation.web import access
from annotation.workbench import comparison_list
from annotation.workbench.comparison_filter import ComparisonFilter
from rlhf.models import registry
from tests.conftest import BASE_NAME, act, dump, make_response, measure_nobody, shown_texts
from tests.frozen_in_memory import current_judgements, freeze
from tests.handlers import asked_by
from tests.machine_fixtures import PATIENCE_SECONDS, ROOT, wait_until

pytestmark = pytest.mark.slow

PASSWORD = "a long enough password"
PAIRS = [
    {"prompt": f"Question {number}?", "chosen": f"good {number}", "rejected": f"bad {number}"} for number in range(6)
]


def quiet(what: str, rows: int, share: float | None) -> None:
    """Nobody looks."""


def write(directory: Path, rows: Sequence[Any], name: str = "pairs.jsonl") -> Path:
    """A file of JSON lines; text is written as it is."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def bring(db: Database, tmp_path: Path) -> Callable[..., ImportResult]:
    """Import rows, or a file."""

    def run(rows: Sequence[Any] | Path, dry_run: bool = False, **order: Any) -> ImportResult:
        path = rows if isinstance(rows, Path) else write(tmp_path, rows)
        wanted = ImportRequest(**{"split": "train", **order})
        return importing.run_import(db, open_path(path), wanted, "kim", quiet, dry_run)

    return run


def counts(outcome: ImportResult) -> dict[str, int]:
    """The counts that are not 0, without the rows."""
    return {name: value for name, value in vars(outcome.counts).items() if value and name not in ("rows", "remarks")}


def stored(db: Database) -> list[str]:
    """The whole database as text."""
    return dump(db)


def sizes(db: Database) -> dict[str, int]:
    """How many rows the tables have that an import writes."""
    tables = ("prompt", "response", "comparison", "comparison_response", "judgement", "annotator", "import", "setting")
    return {name: db.value(f"SELECT count(*) FROM {name}") for name in tables}


def sound(db: Database) -> bool:
    """Whether every reference leads somewhere."""
    return db.rows("PRAGMA foreign_key_check") == [] and db.value("PRAGMA integrity_check") == "ok"


# ---------------------------------------------------------------------------------------------------- what is written
CHANCES = [(1 / 3, 0.25, [0.5]), (1, 0, [0.5, 0.25]), (None, None, [None]), ("unknown", "", None), (0.5, 2, [1])]


@pytest.mark.parametrize("verdict", ["judged", "open"])
def test_the_chances_that_a_row_notes_are_kept_with_its_verdict(
    db: Database, bring: Callable[..., ImportResult], verdict: str
) -> None:
    """Of two judgements that became one, and of people's who are asked here, the noted chances are not those."""
    names = ("formed_chance", "people_chance", "shown_chances")
    rows = [{**pair, **dict(zip(names, noted, strict=True))} for pair, noted in zip(PAIRS, CHANCES, strict=False)]
    outcome = bring(rows, verdict=verdict)
    if verdict == "open":
        chances = {(row["formed_chance"], row["people_chance"]) for row in db.rows("SELECT * FROM comparison")}
        assert (counts(outcome)["open"], chances) == (5, {(None, 1.0)})
        return
    assert [(row.row, row.column) for row in outcome.skipped] == [(5, "people_chance")]
    assert "no chance from 0 to 1" in outcome.skipped[0].reason
    assert [(one.formed_chance, one.people_chance, one.shown_chance) for one in current_judgements(db)] == [
        *((1 / 3, 0.25, 0.5), (1.0, 0.0, None), (None, None, None), (None, None, None)),
    ]


def test_preferences_become_judgements_that_training_uses(db: Database, bring: Callable[..., ImportResult]) -> None:
    outcome = bring([*PAIRS, '{"prompt": "x", "chosen": null, "rejected": "b"}', "{broken"])
    assert counts(outcome) == {"prompts": 6, "judged": 6, "skipped": 2}
    assert [(row.row, row.column) for row in outcome.skipped] == [(7, "chosen"), (8, "")]
    judged = list(current_judgements(db))
    assert {(j.purpose, j.kind, j.annotator, j.annotator_kind, j.outcome, j.ranking) for j in judged} == {
        ("import", "pair", "import-1", "import", "ranked", (1, 2))
    }
    assert training_data.new_to_train_on(db, "") == 6, "the next training can learn from them"
    frozen = freeze(judged, max_length=1024)
    assert [(row.messages[0]["content"], row.chosen.text, row.rejected.text) for row in frozen.rows] == [
        (pair["prompt"], pair["chosen"], pair["rejected"]) for pair in PAIRS
    ]
    row = db.one("SELECT * FROM import")
    assert (row["name"], row["format"], row["requested_by"]) == ("pairs.jsonl", "JSON lines", "kim")
    assert json.loads(row["counts"])["judged"] == 6
    assert db.value("SELECT count(*) FROM comparison WHERE state = 'closed' AND purpose = 'preference'") == 6
    assert (
        db.value("SELECT count(*) FROM response WHERE origin = 'import' AND model_id IS NULL AND tokens IS NULL") == 12
    )
    assert not db.value("SELECT active FROM annotator WHERE name = 'import-1'")
    assert handing_out.claim_next(db, person(db)) is None, "what is judged already is not handed out"
    assert sound(db)


def test_an_import_is_nobodys_account(db: Database, bring: Callable[..., ImportResult]) -> None:
    access.add_account(db, "import-1", "annotator", PASSWORD)
    bring(PAIRS)
    assert {j.annotator for j in current_judgements(db)} == {"import-1-2"}
    assert [account.name for account in access.accounts(db)] == ["import-1"]
    assert quality.report(db).judgements > 0


def test_the_checksum_is_that_of_the_file(db: Database, bring: Callable[..., ImportResult], tmp_path: Path) -> None:
    bring(PAIRS)
    checked = subprocess.run(["sha256sum", tmp_path / "pairs.jsonl"], capture_output=True, text=True, check=True)
    assert db.value("SELECT sha256 FROM import") == checked.stdout.split()[0]


def test_rankings_ties_and_strengths_are_kept(db: Database, bring: Callable[..., ImportResult]) -> None:
    bring([{"prompt": "p", "responses": ["a", "b", "c", "d"], "scores": [1, 5, 1, 3]}])
    bring([{"prompt": "p", "response_a": "x", "response_b": "y", "winner": "tie", "strength": None}])
    bring([{"prompt": "q", "response_a": "x", "response_b": "y", "winner": "b", "strength": "much"}])
    bring([{"prompt": "q", "response_a": "u", "response_b": "v", "winner": "bothbad", "strength": 1}])
    found = [(j.kind, j.outcome, j.ranking, j.strength, j.shown_order) for j in current_judgements(db)]
    assert found == [
        ("rank", "ranked", (3, 1, 3, 2), None, (0, 1, 2, 3)),
        ("pair", "ranked", (1, 1), 0, (0, 1)),
        ("pair", "ranked", (2, 1), 3, (0, 1)),
        ("pair", "all-bad", None, None, (0, 1)),
    ]
    assert [row["name"] for row in db.rows("SELECT name FROM annotator ORDER BY id")] == [
        f"import-{number}" for number in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("size", range(2, 9))
def test_a_comparison_of_every_size_says_in_which_order_it_was(
    db: Database, bring: Callable[..., ImportResult], size: int
) -> None:
    bring([{"prompt": "p", "responses": [str(number) for number in range(size)], "ranks": list(range(1, size + 1))}])
    judged = next(current_judgements(db))
    assert judged.shown_order == tuple(range(size))
    assert judged.ranking == tuple(range(1, size + 1))
    assert [response.text for response in judged.responses] == [str(number) for number in range(size)]


def test_demonstrations_are_answers_without_a_comparison(db: Database, bring: Callable[..., ImportResult]) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    outcome = bring([{"messages": turns}, {"messages": [*turns, {"role": "user", "content": "Why?"}, turns[1]]}])
    assert counts(outcome) == {"prompts": 2, "demonstrations": 2}
    found = db.rows("SELECT origin, purpose, text, finish_reason, state, prompt_id FROM response ORDER BY id")
    assert found == [
        {"origin": "import", "purpose": "demonstrate", "text": "Hello.", "finish_reason": "stop", "state": "done",
         "prompt_id": number} for number in (1, 2)
    ]  # fmt: skip
    assert sizes(db)["comparison"] == sizes(db)["judgement"] == 0
    assert sound(db)


def test_prompts_are_split_by_their_text_and_a_known_one_stays_where_it_is(
    db: Database, bring: Callable[..., ImportResult]
) -> None:
    prompt_store.add_prompts(db, [Prompt(({"role": "user", "content": "Question 3?"},), "held-out", "test")])
    first = bring([{"prompt": f"Question {number}?"} for number in range(400)], split=0.25)
    assert counts(first) == {"prompts": 399, "held_out": first.counts.held_out, "known": 1}
    assert 70 <= first.counts.held_out <= 130, "about a quarter"
    held_out = {prompt.text for prompt in prompt_store.prompts(db, "held-out")} - {"Question 3?"}
    other = open_database(db.path.parent / "other")
    shuffled = write(db.path.parent, [{"prompt": f"Question {number}?"} for number in reversed(range(800))], "b.jsonl")
    importing.run_import(other, open_path(shuffled), ImportRequest(split=0.25), "kim", quiet)
    assert held_out <= {prompt.text for prompt in prompt_store.prompts(other, "held-out")}, (
        "the same ones in another file"
    )
    again = bring([{"prompt": f"Question {number}?"} for number in range(401)], split="held-out")
    assert counts(again) == {"prompts": 1, "held_out": 1, "known": 400}
    assert {prompt.text for prompt in prompt_store.prompts(db, "held-out")} == held_out | {
        "Question 3?",
        "Question 400?",
    }
    other.close()


@pytest.mark.parametrize(
    "again", [" {}", "{}\n", "question {number}", "QUESTION  {number} ?", "\u201cQuestion {number}?\u201d"]
)
def test_what_is_nearly_the_same_prompt_is_in_the_same_split(
    db: Database, bring: Callable[..., ImportResult], again: str
) -> None:
    """Else a candidate is measured on what it was trained on, and promoted for that."""
    texts = [f"Question {number}?" for number in range(100)]
    nearly = [again.format(text, number=number) for number, text in enumerate(texts)]
    bring([{"prompt": text} for text in texts + nearly], split=0.25)
    held_out = {prompt.text for prompt in prompt_store.prompts(db, "held-out")}
    assert len(held_out) >= 20
    assert all((one in held_out) == (other in held_out) for one, other in zip(texts, nearly, strict=True))


def test_prompts_without_a_letter_are_split_too(db: Database, bring: Callable[..., ImportResult]) -> None:
    found = bring([{"prompt": "?" * (number + 1)} for number in range(200)], split=0.25)
    assert 25 <= found.counts.held_out <= 75


def test_gold_measures_annotators(db: Database, bring: Callable[..., ImportResult]) -> None:
    tie = {"prompt": "tied", "response_a": "x", "response_b": "y", "winner": "tie"}
    outcome = bring([{**tie, "prompt": "p", "winner": "b"}, tie, {**tie, "winner": "bothbad"}], verdict="gold")
    assert counts(outcome) == {"prompts": 1, "gold": 1, "skipped": 2}
    project_store.set_project(db, replace(project_store.project(db), gold_share=1.0))
    claim = handing_out.claim_next(db, person(db))
    assert claim is not None
    assert claim.purpose == "gold"
    assert db.value("SELECT expected FROM comparison WHERE id = ?", (claim.comparison_id,)) == "[2, 1]"
    assert sizes(db)["judgement"] == 0
    assert sound(db)


def test_open_comparisons_are_judged_by_people(db: Database, bring: Callable[..., ImportResult]) -> None:
    outcome = bring([{"prompt": "p", "responses": ["a", "b"], "scores": [2, 1]}], verdict="open")
    assert counts(outcome) == {"prompts": 1, "open": 1}
    annotator = person(db)
    claim = handing_out.claim_next(db, annotator)
    assert claim is not None
    assert sorted(shown_texts(claim)) == ["a", "b"]
    judging.judge(db, annotator, claim.nonce, act("left-much"))
    assert [j.annotator for j in current_judgements(db)] == ["ann"]


def test_labelled_answers_to_one_prompt_are_compared(db: Database, bring: Callable[..., ImportResult]) -> None:
    outcome = bring(
        [
            {"prompt": "two", "completion": "good", "label": True},
            {"prompt": "lonely good", "completion": "kept", "label": True},
            {"prompt": "two", "completion": "bad", "label": False},
            {"prompt": "lonely bad", "completion": "dropped", "label": False},
            {"prompt": "three", "completion": "good", "label": 1},
            {"prompt": "three", "completion": "better", "label": 1},
            {"prompt": "three", "completion": "bad", "label": 0},
            {"prompt": "two", "completion": "bad", "label": "no"},
            {"prompt": "odd", "completion": "both", "label": True},
            {"prompt": "odd", "completion": "both", "label": False},
        ]
    )
    assert counts(outcome) == {"prompts": 3, "judged": 2, "demonstrations": 1, "repeated": 1, "skipped": 3}
    assert [(row.row, row.reason.split()[0]) for row in outcome.skipped] == [(4, "a"), (9, "the"), (10, "the")]
    judged = [(j.messages[0]["content"], texts(j), j.ranking, j.kind) for j in current_judgements(db)]
    assert judged == [
        ("two", ["good", "bad"], (1, 2), "pair"),
        ("three", ["good", "bad", "better"], (1, 2, 1), "rank"),
    ]
    assert db.value("SELECT text FROM response WHERE purpose = 'demonstrate'") == "kept"
    assert [prompt.text for prompt in prompt_store.prompts(db, "train")] == ["two", "lonely good", "three"]
    assert sound(db)


def texts(judgement: Any) -> list[str]:
    """The answers that were judged."""
    return [response.text for response in judgement.responses]


def test_many_labelled_answers_become_several_comparisons_with_some_of_both(
    db: Database, bring: Callable[..., ImportResult]
) -> None:
    goods = [{"prompt": "p", "completion": f"good {number}", "label": True} for number in range(15)]
    bads = [{"prompt": "p", "completion": f"bad {number}", "label": False} for number in range(3)]
    outcome = bring([*goods, *bads])
    judged = list(current_judgements(db))
    assert [len(j.responses) for j in judged] == [6, 6, 6]
    assert all(set(j.ranking or ()) == {1, 2} for j in judged)
    assert sorted(text for j in judged for text in texts(j)) == sorted(row["completion"] for row in [*goods, *bads])
    assert counts(outcome) == {"prompts": 1, "judged": 3}
    many = [{"prompt": "q", "completion": f"good {number}", "label": True} for number in range(12)]
    outcome = bring([*many, {"prompt": "q", "completion": "bad", "label": False}])
    assert counts(outcome) == {"prompts": 1, "judged": 1, "skipped": 5}


# ----------------------------------------------------------------------------------------------------- what is known
def test_what_says_the_same_is_imported_once(db: Database, bring: Callable[..., ImportResult]) -> None:
    swapped = {"prompt": "Question 0?", "response_a": "bad 0", "response_b": "good 0", "winner": "b"}
    first = bring([PAIRS[0], PAIRS[1], PAIRS[0], {**PAIRS[0], "rejected": "worse"}])
    assert counts(first) == {"prompts": 2, "judged": 3, "repeated": 1}
    before = stored(db)
    assert counts(bring([PAIRS[1], PAIRS[0]])) == {"known": 2}
    assert counts(bring([swapped])) == {"known": 1}, "the order of the answers makes no other content"
    assert stored(db) == before
    assert counts(bring([{**swapped, "winner": "a"}])) == {"judged": 1}, "another verdict is something new"
    assert counts(bring([{**swapped, "winner": "a"}], verdict="open")) == {"known": 1}, "is being compared already"
    assert sound(db)


def test_what_people_have_judged_is_known(db: Database, bring: Callable[..., ImportResult]) -> None:
    prompt_store.add_prompts(db, [Prompt(({"role": "user", "content": "Question 0?"},), "train", "test")])
    prompt = prompt_store.prompts(db, "train")[0]
    made = comparison_store.add_comparison(db, [make_response(prompt, text) for text in ("bad 0", "good 0")])
    assert made is not None
    annotator = person(db)
    claim = handing_out.claim_next(db, annotator)
    assert claim is not None
    judging.judge(db, annotator, claim.nonce, act("left-much" if shown_texts(claim)[0] == "good 0" else "right-much"))
    assert counts(bring(PAIRS[:2])) == {"prompts": 1, "judged": 1, "known": 1}


def test_demonstrations_gold_and_prompts_are_known(db: Database, bring: Callable[..., ImportResult]) -> None:
    shown = [{"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "b"}]
    assert counts(bring(shown)) == {"prompts": 1, "demonstrations": 2}
    assert counts(bring([*shown, shown[0]])) == {"known": 2, "repeated": 1}
    assert counts(bring(PAIRS[:1], verdict="gold")) == {"prompts": 1, "gold": 1}
    assert counts(bring(PAIRS[:1], verdict="gold")) == {"known": 1}
    assert counts(bring(PAIRS[:1], target="prompts")) == {"known": 1}
    assert counts(bring(PAIRS[:1])) == {"judged": 1}, "gold has no verdict to train on"


def test_prompts_added_meanwhile_are_not_added_twice(
    db: Database, bring: Callable[..., ImportResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody asks one of the file's prompts between the comparison with the database and the write."""
    annotator = person(db)
    plain = commit.ImportCommit.run

    def run(move: commit.ImportCommit) -> None:
        own_prompts.ask(db, annotator, [{"role": "user", "content": "Question 2?"}])
        plain(move)

    monkeypatch.setattr(commit.ImportCommit, "run", run)
    bring(PAIRS)
    assert sizes(db)["prompt"] == 6
    assert [j.messages[0]["content"] for j in current_judgements(db)] == [pair["prompt"] for pair in PAIRS]
    assert sound(db)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "responses": ["a", "b"], "scores": [2, 1]},
        {"prompt": "p", "response_a": "a", "response_b": "b", "winner": "a"},
    ],
    ids=["chosen", "scores", "winner"],
)
def test_what_waits_for_people_is_imported_once_whatever_verdicts_were_left_out(
    db: Database, bring: Callable[..., ImportResult], row: dict[str, Any]
) -> None:
    turned = {"prompt": "p", "chosen": "b", "rejected": "a"}
    assert counts(bring([row, turned][: 1 + ("chosen" in row)], verdict="open"))["open"] == 1
    assert counts(bring([row], verdict="open")) == {"known": 1}
    assert counts(bring([turned], verdict="open")) == {"known": 1}


def test_verdicts_on_answers_that_wait_for_people_come_in_beside_them_and_it_is_said_before(
    db: Database, bring: Callable[..., ImportResult]
) -> None:
    bring(PAIRS[:2], verdict="open")
    for dry_run in (True, False):
        outcome = bring(PAIRS[:3], dry_run=dry_run)
        assert counts(outcome) == {"prompts": 1, "judged": 3}
        assert outcome.counts.remarks == {staging.WAITS_ALREADY: 2}
    assert bring(PAIRS[:3]).counts.remarks == {}
    assert db.value("SELECT count(*) FROM comparison WHERE state = 'ready'") == 2, "they wait on"


def test_several_verdicts_on_the_same_answers_are_remarked(db: Database, bring: Callable[..., ImportResult]) -> None:
    votes = [{"prompt": "p", "response_a": "x", "response_b": "y", "winner": vote} for vote in "aaab"]
    turned = {"prompt": "p", "response_a": "y", "response_b": "x", "winner": "b"}
    outcome = bring([*votes, turned, {**votes[0], "prompt": "q"}, {**votes[0], "prompt": "q"}])
    assert outcome.counts.remarks == {staging.JUDGED_TWICE: 1}
    assert counts(outcome) == {"prompts": 2, "judged": 3, "repeated": 4}


def test_what_is_remarked_is_kept_as_the_code_has_it_and_told_in_the_language_that_is_spoken(
    db: Database, bring: Callable[..., ImportResult]
) -> None:
    scores = {"chosen": "x", "chosen_score": 1, "rejected": "y", "rejected_score": 1}
    with speaking(language_of("de")):
        outcome = bring([{"prompt": "What is in <image>?", **scores}, {"prompt": "p", **scores}])
        told = importing.summary(outcome, "")
        shown = tab.record_cells(MappedRow(({"role": "user", "content": "p"},), remark=row_readers.EQUAL_SCORES))
    tie, mark = row_readers.EQUAL_SCORES, row_readers.PICTURES_LEFT
    assert json.loads(db.value("SELECT counts FROM import"))["remarks"] == {tie: 1, f"{tie}; {mark}": 1}
    german = language_of("de").sentences.gettext
    assert told[-2:] == [f"1 × {german(tie)}; {german(mark)}.", f"1 × {german(tie)}."]
    assert shown == ("p", f"({german(tie)})")


def test_a_directory_none_of_whose_rows_can_be_read_is_called_so_in_the_language_that_is_spoken(
    tmp_path: Path, bring: Callable[..., ImportResult]
) -> None:
    write(tmp_path / "data", ['{"prompt": }'], "train.jsonl")
    with speaking(language_of("de")), pytest.raises(UserError, match="ist als Datensatz-Verzeichnis nicht lesbar"):
        bring(tmp_path / "data")


def test_a_reason_for_which_many_rows_are_left_out_is_made_ready_to_be_stored_once(
    bring: Callable[..., ImportResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Mock(wraps=kept)
    monkeypatch.setattr(staging, "kept", made)
    outcome = bring([PAIRS[0], *["[]", {**PAIRS[1], "rejected": 7}] * 5])
    assert [count for _reason, count in outcome.reasons] == [5, 5]
    assert made.call_count == 2, "it takes as long as to read the row"


# ------------------------------------------------------------------------------------------------- nothing half done
def test_a_check_writes_nothing(db: Database, bring: Callable[..., ImportResult]) -> None:
    before = stored(db)
    outcome = bring([*PAIRS, "[]"], dry_run=True)
    assert counts(outcome) == {"prompts": 6, "judged": 6, "skipped": 1}
    assert outcome.import_id is None
    assert stored(db) == before


@pytest.mark.parametrize(
    ("rows", "order", "message"),
    [
        ([], {}, "empty: 0 bytes"),
        (["", ""], {}, "holds no rows"),
        (["{", "{"], {}, "None of the first 2 rows"),
        ([{"x": 1}], {}, "No column with prompts was found"),
        ([{f"column {number}": "x" for number in range(1_001)}], {}, "has 1,001 columns; more than 1,000 are not read"),
        (
            [{"prompt": {"4": "a", "7": "b"}, "completion": {"4": "x", "7": "y"}}],
            {},
            "as pandas writes JSON unless told",
        ),
        (PAIRS, {"columns": {"prompt": "nothing"}}, "There is no column 'nothing'"),
        (PAIRS, {"split": 1.5}, "a number from 0 to 1"),
        (PAIRS, {"split": float("nan")}, "a number from 0 to 1"),
        (PAIRS, {"first": 5, "last": 3}, "range of rows"),
        (PAIRS, {"target": "prompts", "verdict": "gold"}, "Only preference data"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_nothing_written(
    db: Database, bring: Callable[..., ImportResult], rows: list[Any], order: dict[str, Any], message: str
) -> None:
    before = stored(db)
    with pytest.raises(UserError) as refusal:
        bring(rows, **order)
    assert message in str(refusal.value)
    assert stored(db) == before
    assert list(db.path.parent.glob("import-*")) == []


def test_a_file_that_turns_out_to_be_damaged_leaves_nothing(
    db: Database, bring: Callable[..., ImportResult], tmp_path: Path
) -> None:
    before = stored(db)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(PAIRS * 200)[:-30], encoding="utf-8")
    with pytest.raises(UserError, match="not JSON at element 1,200"):
        bring(path)
    assert stored(db) == before
    assert list(db.path.parent.glob("import-*")) == []


def test_only_some_rows(db: Database, bring: Callable[..., ImportResult]) -> None:
    assert bring(PAIRS, first=2, last=3).counts.rows == 2
    assert [j.messages[0]["content"] for j in current_judgements(db)] == ["Question 1?", "Question 2?"]


def test_more_than_one_import_can_hold_is_refused(
    db: Database, bring: Callable[..., ImportResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored(db)
    monkeypatch.setattr("annotation.imports.staging.MAXIMUM_VERDICT_ROWS", 15)
    with pytest.raises(UserError, match="the first 4 rows come to 16 rows of tables"):
        bring(PAIRS)
    assert stored(db) == before


def test_one_import_at_a_time(db: Database, bring: Callable[..., ImportResult], tmp_path: Path) -> None:
    with importing.only_import(db):
        with pytest.raises(UserError, match="Another import is at work"):
            bring(PAIRS)
        importing.clear_leftovers(db)
    (db.path.parent / "import-left-by-a-killed-one").mkdir()
    bring(PAIRS)
    assert list(db.path.parent.glob("import-*")) == []


def test_a_lock_that_is_not_ours_to_take_is_said_and_keeps_no_program_from_starting(
    db: Database, bring: Callable[..., ImportResult]
) -> None:
    (db.path.parent / "import.lock").mkdir()  # whoever runs the tests may open another user's file
    with pytest.raises(UserError, match=r"can't be written .*Nothing was imported"):
        bring(PAIRS)
    importing.clear_leftovers(db)


def test_a_full_disk_leaves_nothing(db: Database, bring: Callable[..., ImportResult]) -> None:
    """The database may not grow, which SQLite reports as a full disk."""
    before = stored(db)
    db.connection.conn.execute(f"PRAGMA max_page_count={db.value('PRAGMA page_count') + 2}")
    with pytest.raises(UserError, match="full"):
        bring([{**pair, "chosen": "long " * 2_000} for pair in PAIRS * 2])
    assert stored(db) == before


# ------------------------------------------------------------------------------------------------------ round trips
@pytest.mark.parametrize(
    ("format", "container"),
    [
        *(("preference", container) for container in ("jsonl", "parquet", "dataset")),
        *((name, "jsonl") for name in ("preference-plain", "reward", "kto")),
        ("csv", "dataset"),
    ],
)
def test_our_own_exports_are_read_back(db: Database, tmp_path: Path, format: str, container: str) -> None:
    """Judged by people, exported, imported elsewhere: the same prompts, answers and verdicts."""
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]
    prompt_store.add_prompts(
        db, [Prompt((*turns, {"role": "user", "content": f"Question {n}?"}), "train", "x") for n in "abc"]
    )
    annotator, words = person(db), {"a": "left-much", "b": "right-slightly", "c": "left-clearly"}
    for prompt in prompt_store.prompts(db, "train"):
        comparison_store.add_comparison(
            db, [make_response(prompt, f"=1+1 {text}\n{prompt.text} ") for text in ("one", "two")]
        )
        claim = handing_out.claim_next(db, annotator)
        assert claim is not None
        judging.judge(db, annotator, claim.nonce, act(words[claim.messages[-1]["content"][-2]]))
    target = tmp_path / ("out.csv" if format == "csv" else "out")
    export = [sys.executable, "-m", "annotation", "export", f"--format={format}", f"--as={container}", f"--to={target}"]
    subprocess.run(
        [*export, f"--data={db.path.parent}"], cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE_SECONDS
    )
    whole = target if format == "csv" or container == "dataset" else next(target.glob("train.*"))
    other = open_database(tmp_path / "other")
    importing.run_import(other, open_path(whole), ImportRequest(split="train"), "kim", quiet)

    def verdicts(database: Database) -> list[Any]:
        rows = freeze(current_judgements(database), 1024).rows
        strengths = [row.strength if format != "kto" else None for row in rows]
        return sorted(
            [json.dumps(row.messages), row.chosen.text, row.rejected.text, strength]
            for row, strength in zip(rows, strengths, strict=True)
        )

    assert len(verdicts(db)) == 3
    assert verdicts(other) == verdicts(db)
    other.close()


@pytest.mark.parametrize("ranking", [[{"rank": 1, "value": "a"}, {"rank": 2, "value": "b"}], [[1], [2]], "[A>B]"])
def test_a_look_shows_rows_whose_ranking_is_none(tmp_path: Path, ranking: Any) -> None:
    row = {"prompt": "p", "responses": ["x", "y"], "ranking": ranking}
    found = importing.preview(open_path(write(tmp_path, [row])), ImportRequest())
    assert found.proposed["ranks"] == "ranking"
    assert [str(one)[:16] for one in found.records] == ["column 'ranking'"]


def test_a_look_does_not_choose_where_a_person_has_to_say_what_a_ranking_is(tmp_path: Path) -> None:
    """The page sends what the look has proposed as chosen; also where only a later row tells the two apart."""
    rows = [{"prompt": "p", "responses": ["a", "b", "c"], "ranking": ranking} for ranking in ([0, 1, 2], [2, 0, 1])]
    for first in (rows, rows[:1]):
        source = open_path(write(tmp_path, first))
        found = importing.preview(source, ImportRequest())
        assert "ranks" not in found.proposed
        for role in ("ranks", "order"):
            chosen = importing.preview(source, ImportRequest(columns={role: "ranking"}))
            assert chosen.proposed == {"prompt": "prompt", "responses": "responses", role: "ranking"}
    from_1 = [{**row, "ranking": [rank + 1 for rank in row["ranking"]]} for row in rows]
    assert importing.preview(open_path(write(tmp_path, from_1)), ImportRequest()).proposed["ranks"] == "ranking"


def test_a_look_keeps_the_paths_that_a_person_has_named(tmp_path: Path) -> None:
    """Also where something else is unclear, and labels are found beside them."""
    row = {"data": {"q": "p", "answers": ["x", "y"], "ranking": [1, 0]}}
    paths = {"prompt": "data.q", "responses": "data.answers", "ranks": "data.none"}
    found = importing.preview(open_path(write(tmp_path, [row])), ImportRequest(columns=paths))
    assert "no column 'data.none'" in found.problem
    assert found.proposed == {"prompt": "data.q", "responses": "data.answers"}


def test_a_look_offers_so_many_parts_of_objects_however_deep_they_lie(tmp_path: Path) -> None:
    """Each is a choice for every role on the page; rows are as deep as JSON is read."""
    deep: Any = "x"
    for _level in range(900):
        deep = {"a": deep}
    wide = {str(number): "x" for number in range(2_000)}
    found = importing.preview(open_path(write(tmp_path, [{"deep": deep, "wide": wide}])), ImportRequest())
    assert found.offered[:4] == ("deep", "wide", "deep" + ".a" * 900, "wide.0")
    assert len(found.offered) == 1_002


# --------------------------------------------------------------------------------------------------- in small pieces
@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only large imports do: texts go ahead in small transactions."""
    monkeypatch.setattr(commit, "ONE_PIECE", 0)
    monkeypatch.setattr(commit, "PIECE", 50)
    monkeypatch.setattr(commit, "PAUSE_SECONDS", 0.0)


def mixed(count: int) -> list[dict[str, Any]]:
    """Labelled answers: pairs, and demonstrations for want of a bad answer."""
    goods = [{"prompt": f"p {number}", "completion": f"good {number}", "label": True} for number in range(count)]
    bads = [{"prompt": f"p {number}", "completion": f"bad {number}", "label": False} for number in range(0, count, 2)]
    return [*goods, *bads]


def content(db: Database) -> list[Any]:
    """Everything an import writes, in order, without ids (which may have gaps) and times."""
    prompts = db.rows("SELECT messages, source, split, import_id FROM prompt ORDER BY id")
    answers = db.rows(
        """SELECT p.messages, r.origin, r.import_id, r.purpose, r.text, r.state, r.finish_reason FROM response r
           JOIN prompt p ON p.id = r.prompt_id ORDER BY r.id"""
    )
    comparisons = db.rows("SELECT purpose, state, expected, import_id, taken FROM comparison ORDER BY id")
    judged = [(j.messages, j.split, texts(j), j.ranking, j.kind, j.annotator, j.shown_order)
              for j in current_judgements(db)]  # fmt: skip
    imports = db.rows("SELECT id, name, sha256, format, counts, requested_by FROM import")
    settings = db.rows("SELECT * FROM setting")
    return [prompts, answers, comparisons, judged, imports, settings]


def test_in_pieces_the_same_is_written_as_at_once(
    db: Database, bring: Callable[..., ImportResult], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    other = open_database(tmp_path / "other")
    registry.ensure_base(other, BASE_NAME)
    measure_nobody(other)
    for database in (db, other):
        prompt_store.add_prompts(database, [Prompt(({"role": "user", "content": "p 3"},), "held-out", "test")])
    path = write(tmp_path, mixed(20))
    importing.run_import(other, open_path(path), ImportRequest(split="train"), "kim", quiet)
    request.getfixturevalue("in_pieces")
    shares: list[float | None] = []
    importing.run_import(
        db, open_path(path), ImportRequest(split="train"), "kim", lambda what, rows, share: shares.append(share)
    )
    assert len([share for share in shares if share is not None]) > 10, "there were many pieces"
    assert content(db) == content(other)
    assert len(content(db)[1]) == 30
    assert sound(db)


@pytest.mark.usefixtures("in_pieces")
def test_searches_between_the_pieces_leave_no_words_out(db: Database, tmp_path: Path) -> None:
    path = open_path(write(tmp_path, mixed(20)))
    good = ComparisonFilter(q="good")

    def search_and_die(what: str, rows: int, share: float | None) -> None:
        if share:
            comparison_list.list_page(db, good)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        importing.run_import(db, path, ImportRequest(split="train"), "kim", search_and_die)
    assert sizes(db)["import"] == 0
    searched: list[int] = []
    importing.run_import(
        db, path, ImportRequest(split="train"), "kim",
        lambda what, rows, share: searched.append(comparison_list.list_page(db, good).total),
    )  # fmt: skip
    assert len(searched) > 10
    assert comparison_list.list_page(db, good).total == 10
    texts_there = db.value("SELECT (SELECT count(*) FROM prompt) + (SELECT count(*) FROM response)")
    indexed = "SELECT (SELECT count(*) FROM prompt_words_docsize) + (SELECT count(*) FROM answer_words_docsize)"
    assert db.value(indexed) == texts_there


@pytest.mark.usefixtures("in_pieces")
def test_others_write_between_the_pieces(
    db: Database, bring: Callable[..., ImportResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others add prompts (one of the file's own, too) and answers meanwhile, and all ends up in its place."""
    plain = commit.ImportCommit.insert_piece

    def insert_piece(move: commit.ImportCommit, *rest: Any) -> None:
        plain(move, *rest)
        number = sizes(db)["prompt"]
        annotator = person(db, f"ann{number}")  # nobody may have many prompts waiting
        own_prompts.ask(db, annotator, [{"role": "user", "content": f"asked {number}"}])
        own_prompts.ask(db, annotator, [{"role": "user", "content": "p 19"}])
        comparison_store.add_response(
            db, make_response(prompt_store.prompts(db, "train")[-1], "by a policy"), "compare"
        )

    monkeypatch.setattr(commit.ImportCommit, "insert_piece", insert_piece)
    assert counts(bring(mixed(20))) == {"prompts": 20, "judged": 10, "demonstrations": 10}
    judged = {j.messages[0]["content"]: texts(j) for j in current_judgements(db)}
    assert judged == {f"p {number}": [f"good {number}", f"bad {number}"] for number in range(0, 20, 2)}
    shown = db.rows(
        "SELECT r.text, p.messages FROM response r JOIN prompt p ON p.id = r.prompt_id WHERE purpose = 'demonstrate'"
    )
    assert {json.loads(row["messages"])[0]["content"]: row["text"] for row in shown} == {
        f"p {number}": f"good {number}" for number in range(1, 20, 2)
    }
    assert sound(db)


@pytest.mark.usefixtures("in_pieces")
def test_nobody_uses_what_has_not_arrived_as_a_whole(
    db: Database, bring: Callable[..., ImportResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to answer, to measure on, or to train on: it may yet be taken back."""
    there: list[tuple[int, ...]] = []

    def look() -> None:
        unused = db.value(f"SELECT count(*) FROM prompt p WHERE {prompt_store.UNUSED}")
        to_answer = prompt_store.prompts_to_answer(db, 1, "train", 100)
        there.append(
            (len(prompt_store.prompts(db, "train")), len(to_answer), len([*training_data.demonstrations(db)]), unused)
        )

    plain = commit.ImportCommit.insert_piece

    def insert_piece(move: commit.ImportCommit, *rest: Any) -> None:
        plain(move, *rest)
        look()

    monkeypatch.setattr(commit.ImportCommit, "insert_piece", insert_piece)
    bring([*mixed(20), {"prompt": "p 20"}])
    assert set(there) == {(0, 0, 0, 0)}
    look()
    assert there[-1][:3] == (20, 20, 10)


@pytest.mark.usefixtures("in_pieces")
def test_an_error_between_the_pieces_leaves_nothing(
    db: Database, bring: Callable[..., ImportResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored(db)

    def fail(move: commit.ImportCommit) -> None:
        assert db.value("SELECT count(*) FROM response") == 30, "the texts are there already"
        raise OSError("no more")

    monkeypatch.setattr(commit.ImportCommit, "insert_verdicts", fail)
    with pytest.raises(OSError, match="no more"):
        bring(mixed(20))
    assert stored(db) == before


# ------------------------------------------------------------------------------------------------- real processes
def command(db: Database, *arguments: str) -> list[str]:
    """The command line of an import into this data directory."""
    return [sys.executable, "-m", "annotation", "import", f"--data={db.path.parent}", *arguments]


def start(db: Database, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Import on the command line, in a process of its own."""
    return subprocess.run(
        command(db, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, **more
    )


def run(db: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which costs a tenth."""
    given = command(db, *arguments)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(given[3:])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
    return subprocess.CompletedProcess(given, status, out.getvalue(), errors.getvalue())


# So many seconds of its own processor time after it began to import, at the same places on any machine, the process
# ends as if it had been killed: nothing handles this signal.
KILLED_AFTER = """
import signal, sys
from annotation.imports import importing
from annotation.__main__ import main
delay, run = float(sys.argv[1]), importing.run_import

def timed(*given):
    signal.setitimer(signal.ITIMER_PROF, delay)
    return run(*given)

importing.run_import = timed
main(sys.argv[2:])
"""


def test_a_process_killed_at_any_moment_leaves_all_or_nothing(db: Database, tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": f"q {n}", "chosen": f"a {n}", "rejected": f"b {n}"} for n in range(12_000)])
    whole = {"prompt": 12_000, "response": 24_000, "comparison": 12_000, "comparison_response": 24_000}
    nothing = dict.fromkeys(whole, 0)
    ends: list[bool] = []
    program = tmp_path / "killed_after.py"
    program.write_text(KILLED_AFTER, "utf-8")
    there: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    for delay in (0.01, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2):
        importing_it = [sys.executable, str(program), str(delay), *command(db, str(path))[3:]]
        done = subprocess.run(importing_it, **there, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
        assert done.returncode in (-signal.SIGPROF, 0), done.stderr
        found = {name: sizes(db)[name] for name in whole}
        assert found in (nothing, whole)
        ends.append(found == whole)
        if ends[-1]:
            break
    assert not ends[0]
    assert run(db, str(path)).returncode == 0
    assert {name: sizes(db)[name] for name in whole} == whole
    assert list(db.path.parent.glob("import-*")) == [], "what the killed ones left is cleared away"
    assert sound(db)


KILLED_BETWEEN_PIECES = """
import os, signal, sys
from annotation.imports import commit
from annotation.__main__ import main
commit.ONE_PIECE, commit.PIECE = 0, 200
insert_piece = commit.ImportCommit.insert_piece

def insert_and_die(self, insert, *rest):
    insert_piece(self, insert, *rest)
    if insert.__name__ == "insert_answers":
        os.kill(os.getpid(), signal.SIGKILL)

commit.ImportCommit.insert_piece = insert_and_die
main(sys.argv[1:])
"""


def test_a_process_killed_between_the_pieces_is_cleared_away(db: Database, tmp_path: Path) -> None:
    path = write(tmp_path, mixed(20))
    before = sizes(db)
    arguments = [sys.executable, "-c", KILLED_BETWEEN_PIECES, "import", f"--data={db.path.parent}", str(path)]
    assert subprocess.run(arguments, cwd=ROOT, timeout=PATIENCE_SECONDS, check=False).returncode == -signal.SIGKILL
    assert db.value("SELECT count(*) FROM response")
    assert list(current_judgements(db)) == []
    assert sizes(db)["comparison"] == 0
    answered = prompt_store.read_prompt(db.rows("SELECT * FROM prompt ORDER BY id")[0])
    comparison_store.add_response(db, make_response(answered, "somebody answered it meanwhile"), "compare")
    importing.clear_leftovers(db)
    assert sizes(db) == {**before, "prompt": 1, "response": 1}
    assert prompt_store.prompts(db, answered.split) == [answered]
    assert db.rows("SELECT rowid FROM prompt_words WHERE prompt_words MATCH 'p'") == [{"rowid": answered.id}]
    assert sound(db)
    assert counts(importing.run_import(db, open_path(path), ImportRequest(split="train"), "kim", quiet))["judged"] == 10


def test_the_command_says_what_it_does(db: Database, tmp_path: Path) -> None:
    path = write(tmp_path, [*PAIRS, "{broken", {"prompt": "p", "chosen": "=1+1", "rejected": 7}])
    looked = start(db, "--look", str(path))
    assert "Taken for: prompt = 'prompt', chosen = 'chosen', rejected = 'rejected'" in looked.stdout
    assert "answer ranked 1: good 0" in looked.stdout
    checked = start(db, "--dry-run", str(path))
    assert "8 rows read. To import: 6 new prompts, 6 comparisons with their verdicts." in checked.stdout
    assert "pairs.jsonl, row 8: column 'rejected' must be text or messages; found: a number" in checked.stdout
    assert checked.stdout.strip().endswith("Nothing was written.")
    assert sizes(db)["prompt"] == 0
    done = start(db, "--rows=1-3", "--split=held-out", str(path))
    assert done.stdout.splitlines()[1] == "3 rows read. Imported: 3 new prompts, 3 comparisons with their verdicts."
    assert len(prompt_store.prompts(db, "held-out")) == 3
    told = [json.loads(line) for line in start(db, "--json-progress", "--as=prompts", str(path)).stdout.splitlines()]
    assert told[-1]["outcome"]["counts"]["prompts"] == 4
    assert told[-1]["outcome"]["columns"]["prompt"] == "prompt"


HELPSTEER = [
    {"prompt": f"p{n}", "response1": f"x{n}", "response2": f"y{n}", "overall_preference": n, "domain": "code",
     "history": [["a", "b"]] if n else []} for n in (-2, 1, -1, 2, 0)
]  # fmt: skip


def test_a_scale_with_a_sign_comes_in_the_right_way_round(db: Database, tmp_path: Path) -> None:
    path = str(write(tmp_path, HELPSTEER))
    refused = run(db, "--map=winner=overall_preference", path)
    assert (refused.returncode, sizes(db)["judgement"]) == (2, 0)
    assert "choose it as preference under “Columns”" in refused.stderr
    assert "(“Columns”: --map ROLE=COLUMN, --map ROLE= for none)" in refused.stderr
    assert "--map" not in run(db, "--json-progress", "--map=winner=overall_preference", path).stderr, "on the page"
    done = run(db, "--map=history=", path)
    assert done.returncode == 0
    note = "Not used, though it may change what the rows mean: 'history'."
    assert note in done.stdout
    assert note in run(db, "--map=history=", "--dry-run", path).stdout
    assert note in run(db, "--map=history=", "--look", path).stdout
    assert "Not used: 'domain'." in done.stdout
    assert {texts(j)[0]: (j.ranking, j.strength) for j in current_judgements(db)} == {
        "x-2": ((1, 2), 2), "x1": ((2, 1), 1), "x-1": ((1, 2), 1), "x2": ((2, 1), 2), "x0": ((1, 1), 0),
    }  # fmt: skip


def test_where_a_column_is_missing_the_option_that_names_it_is_said(db: Database, tmp_path: Path) -> None:
    path = str(write(tmp_path, [{"prompt": "p", "response_a": "x", "response_b": "y", "comparison": "a"}]))
    option = "(“Columns”: --map ROLE=COLUMN, --map ROLE= for none)"
    assert option in run(db, path).stderr
    assert option in run(db, "--look", path).stdout
    assert run(db, "--map=winner=comparison", path).returncode == 0


@pytest.mark.parametrize("mode", [[], ["--dry-run"], ["--look"], ["--json-progress"], ["--json-progress", "--look"]])
def test_no_usable_row_ends_with_1(db: Database, tmp_path: Path, mode: list[str]) -> None:
    bad = str(write(tmp_path, [{"prompt": "p", "chosen": 7, "rejected": "x"}] * 3, "bad.jsonl"))
    good = str(write(tmp_path, [{"prompt": "p", "chosen": 7, "rejected": "x"}, PAIRS[0]], "good.jsonl"))
    assert [run(db, *mode, path).returncode for path in (bad, good, good)] == [1, 0, 0]


def test_a_number_that_fits_no_name_ends_the_import_wherever_it_stands(db: Database, tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": f"p{n}", "response_1": "x", "response_2": "y", "winner": n % 2 + 1} for n in range(150)
    ]
    path = str(write(tmp_path, [*rows, {**rows[0], "winner": -1}]))
    before = stored(db)
    refused = run(db, path)
    assert refused.returncode == 2
    assert "holds -1, so its numbers are no names of the two answers" in refused.stderr
    assert stored(db) == before


def test_bad_answers_come_in_as_bad_ones(db: Database, tmp_path: Path, bring: Callable[..., ImportResult]) -> None:
    rated = [{"prompt": f"p{n // 2}", "response": f"r{n}", "helpfulness": n % 5} for n in range(10)]
    refused = run(db, str(write(tmp_path, rated)))
    assert (refused.returncode, sizes(db)["response"]) == (2, 0)
    assert "The column 'helpfulness' rates the answers" in refused.stderr
    assert counts(bring(rated, good_from=3)) == {"prompts": 3, "judged": 2, "demonstrations": 2, "skipped": 4}
    shown = db.rows("SELECT text FROM response WHERE purpose = 'demonstrate'")
    assert {row["text"] for row in shown} == {"r8", "r9"}
    turns = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": text}] for text in ("good", "bad")]
    outcome = bring([{"messages": turns[0], "label": True}, {"messages": turns[1], "label": False}])
    assert counts(outcome) == {"prompts": 1, "judged": 1}


# ------------------------------------------------------------------------------------------------------------ held out
def test_a_share_is_held_out_unless_somebody_says_otherwise(db: Database, tmp_path: Path) -> None:
    def sides() -> dict[str, str]:
        return {row["messages"]: row["split"] for row in db.rows("SELECT messages, split FROM prompt")}

    path = write(tmp_path, [{"prompt": f"Question {n}?", "chosen": "a", "rejected": "b"} for n in range(200)])
    first = run(db, str(path))
    held_out = len(prompt_store.prompts(db, "held-out"))
    assert 5 <= held_out <= 40
    assert f"{held_out} new prompts are held out, to check with. --split says how many." in first.stdout
    before = sides()
    for order in ("--split=train", "--split=held-out", "--split=0.5"):
        run(db, order, str(path))
    more = write(tmp_path, [{"prompt": f"Question {n}?", "chosen": "b", "rejected": "a"} for n in range(100, 300)], "b")
    run(db, str(more.rename(tmp_path / "b.jsonl")))
    after = sides()
    assert len(after) == 300
    assert {prompt: after[prompt] for prompt in before} == before, "a prompt stays on its side"
    train = run(db, "--split=train", str(write(tmp_path, [{"prompt": f"New {n}?"} for n in range(30)], "c.jsonl")))
    assert "No new prompt is held out, to check with. --split says how many." in train.stdout


@pytest.mark.parametrize("count", [9, 10, 11, 12, 14, 18])
def test_one_prompt_is_held_out_where_chance_takes_none(
    db: Database, bring: Callable[..., ImportResult], count: int
) -> None:
    rows = [{"prompt": f"{count} {n}", "chosen": "a", "rejected": "b"} for n in range(count)]
    outcome = bring(rows, split=0.001)
    assert outcome.counts.held_out == (count >= 10)
    again = bring([{"prompt": f"more {n}", "chosen": "a", "rejected": "b"} for n in range(count)], split=0.001)
    assert again.counts.held_out == 0, "there is one, or there are too few"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "There is no file none.csv"),
        ([""], "Say what to import"),
        (["x" * 300], "can't be read (File name too long)"),
        (["--good-from=nan", "{file}"], "is good from a number on, not from nan"),
        (["--map=prompt", "x.csv"], "names no column"),
        (["--map=promt=x", "{file}"], "is no role"),
        (["--split=half", "x.csv"], "is no split"),
        (["--rows=a-b", "x.csv"], "is no range"),
        (["--rows=9-3", "{file}"], "range of rows"),
        (["--hub", "../secret"], "no name of a dataset"),
        (["--", "--dry-run"], "There is no file --dry-run"),
    ],
)
def test_a_mistake_is_one_sentence(db: Database, tmp_path: Path, arguments: list[str], message: str) -> None:
    path = str(write(tmp_path, PAIRS))
    refused = run(db, *(argument.replace("{file}", path) for argument in arguments))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_without_the_hub_there_is_a_sentence(db: Database) -> None:
    refused = start(db, "--hub", "owner/name", env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert refused.returncode == 2
    assert "The Hub can't be reached to read owner/name." in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.own_start
def test_a_parquet_bomb_ends_in_a_sentence(db: Database, tmp_path: Path) -> None:
    """A text of 60 MB that 300 rows refer to: small on the disk, 18 GB in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array(["x" * 60_000_000]))
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"prompt": texts}), str(path), compression="zstd")
    assert path.stat().st_size < 100_000
    refused = start(db, str(path))
    assert refused.returncode == 2, refused.stderr[-500:]
    assert "Nothing was imported." in refused.stderr
    assert "Traceback" not in refused.stderr
    assert sizes(db)["prompt"] == 0


# ------------------------------------------------------------------------------------------------------------ the page
@pytest.fixture
def runner(db: Database, data_dir: Path) -> Iterator[None]:
    """What does imports, as in the web server."""
    runner = LaneRunner(data_dir, HERE, import_process.perform)
    runner.start()
    yield
    runner.stop(PATIENCE_SECONDS)


@pytest.fixture
def importer(db: Database, runner: None) -> Importer:
    """Runs imports as the page does."""
    return Importer(db)


def ended(importer: Importer) -> State:
    """The state when the run has ended."""
    wait_until("the end of the run", lambda: importer.state.status != "running")
    return importer.state


def test_the_page_looks_checks_and_imports_in_another_process(db: Database, importer: Importer, tmp_path: Path) -> None:
    path = str(write(tmp_path, [*PAIRS, {"prompt": "<img src=x>", "chosen": "\x1b[2J", "rejected": None}]))
    importer.start("look", ["--", path], [])
    with pytest.raises(UserError, match="An import is at work"):
        importer.start("look", ["--", path], [])
    looked = ended(importer)
    assert (looked.status, looked.number) == ("finished", 1)
    assert looked.look is not None
    assert looked.look.proposed == {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    importer.start("check", ["--", path], ["--split=0.5"])
    checked = ended(importer)
    assert checked.outcome is not None
    assert checked.outcome.counts.judged == 6
    said = tab.outcome_card(checked.outcome)
    assert "held out, to check with. Before you import, “New prompts are” says how many." in said
    assert "--" not in said, "there is no command line on the page"
    assert checked.outcome.import_id is None
    assert sizes(db)["prompt"] == 0
    importer.start("import", ["--", path], ["--by=kim"])
    imported = ended(importer).outcome
    assert imported is not None
    assert imported.import_id == 1
    assert "Before you import" not in tab.outcome_card(imported)
    assert db.value("SELECT requested_by FROM import") == "kim"
    importer.start("import", ["--", str(tmp_path / "none.csv")], [])
    failed = ended(importer)
    assert (failed.status, failed.error) == ("failed", f"There is no file {tmp_path / 'none.csv'}. Check the path.")
    with speaking(language_of("de")):
        assert importer.state.error == f"Es gibt keine Datei {tmp_path / 'none.csv'}. Prüfe den Pfad."
        importer.start("check", ["--", path], [])
    told = ended(importer).outcome
    assert told is not None
    assert "7 rows read." in tab.outcome_card(told)
    assert [why for why, _count in told.reasons] == ["column 'rejected' must be text or messages; found: empty (null)"]
    with speaking(language_of("de")):
        told = importer.state.outcome
        assert told is not None
        assert "7 Zeilen gelesen." in tab.outcome_card(told), "each is told in their language, whoever asked"
        assert [why for why, _count in told.reasons] == [
            "Spalte „rejected“ muss Text sein oder Nachrichten enthalten; gefunden: nichts (null)"
        ]


# Instead of what imports: one that goes no further once it has said how far it is.
HELD_CODE = """
import runpy, time
from annotation.imports import import_command, importing

progress = import_command.JsonPrinter.progress

def tell_and_wait(*told):
    progress(*told)
    time.sleep(3600)

importing.REPORT_SECONDS = -1.0
import_command.JsonPrinter.progress = tell_and_wait
runpy.run_module("annotation", run_name="__main__", alter_sys=True)
"""
HELD = ("-c", HELD_CODE, "import")


@pytest.fixture
def questions(tmp_path: Path) -> str:
    """A file with enough rows that an import says how far it is."""
    return str(write(tmp_path, [{"prompt": f"question {number}?"} for number in range(200)]))


def test_a_run_can_be_cancelled(
    db: Database, importer: Importer, questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="No import is at work"):
        importer.cancel()
    with monkeypatch.context() as held:
        held.setattr(import_process, "PROGRAM", HELD)
        importer.start("import", ["--", questions], [])
        wait_until("that it is under way", lambda: importer.state.progress)
        importer.cancel()
        state = ended(importer)
    assert (state.status, state.error) == ("failed", "It was cancelled. Nothing was imported.")
    assert sizes(db)["prompt"] == 0
    assert list(db.path.parent.glob("import-*")) == []
    importer.start("look", ["--", questions], [])
    assert ended(importer).status == "finished"


@pytest.mark.own_start
def test_a_process_that_dies_is_told(
    db: Database, importer: Importer, questions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_process, "PROGRAM", HELD)
    importer.start("import", ["--", questions], [])
    wait_until("that it is under way", lambda: importer.state.progress)
    next(one for one in psutil.Process().children() if questions in one.cmdline()).kill()
    assert ended(importer).error == ("The process was killed, often because memory ran out. Nothing was imported.")


@pytest.fixture
def page(db: Database, data_dir: Path, runner: None) -> gr.Blocks:
    """The Data tab's import part, built as the app builds it, and two people."""
    person(db)
    db.write("INSERT INTO annotator (name, role, created) VALUES ('kim', 'admin', '')")
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Data"):
        tab.build(demo, Context(db, data_dir, BASE_NAME))
    return demo


def handler(page: gr.Blocks, name: str) -> Any:
    """A registered function."""
    return next(block.fn for block in page.fns.values() if block.api_name == name)


def follow(page: gr.Blocks, looked: Any) -> list[Any]:
    """What the page is sent when the run has ended, and it asks no more."""

    def sent() -> list[Any] | None:
        follows = handler(page, "import-follow")
        found = follows(*asked_by("kim", follows), looked)
        return list(found) if float(found[1].split()[1]) == math.inf else None

    return list(wait_until("the end of the run", sent))


def test_every_listener_is_for_admins(page: gr.Blocks) -> None:
    assert len(page.fns) >= 9
    for block in page.fns.values():
        with pytest.raises(gr.Error, match="Only an admin"):
            block.fn(*asked_by("ann", block.fn), *(None for _ in block.inputs))


def test_a_column_without_a_name_is_no_preference(tmp_path: Path) -> None:
    """Its name is that of no column at all."""
    rows = [{"": "0", "prompt": "p", "response_a": "x", "response_b": "y", "winner": "a"}]
    found = importing.preview(open_path(write(tmp_path, rows)), ImportRequest())
    assert (found.problem, found.proposed["winner"]) == ("", "winner")


def test_the_form_is_filled_by_a_look_and_can_be_changed(page: gr.Blocks, db: Database, tmp_path: Path) -> None:
    kim = gr.Request(username="kim")
    path = str(write(tmp_path, [{"title": "t", **pair, "<b>x</b>": "${alert(1)}"} for pair in PAIRS]))
    source = ["server", None, path, "", "", ""]
    sent = follow(page, handler(page, "import-look")(kim, *source)[-1])
    columns = dict(zip(tab.ROLES, sent[-len(tab.ROLES) - 1 : -1], strict=True))
    assert {role: update["value"] for role, update in columns.items() if update["value"]} == {
        "prompt": "prompt", "chosen": "chosen", "rejected": "rejected",
    }  # fmt: skip
    assert ("title", "title") in columns["prompt"]["choices"]
    shown = "".join(part for part in sent if isinstance(part, str))
    assert "&lt;b&gt;x&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert follow(page, sent[-1])[-2] == gr.skip(), "a session's form is filled once"
    chosen = {**{role: update["value"] for role, update in columns.items()}, "prompt": "title"}
    form = ["preferences", "open", "share", 100, "1-2", None, *chosen.values()]
    handler(page, "import-import")(kim, sent[-1], *source, *form)
    sent = follow(page, sent[-1])
    assert "2 rows read. Imported: 1 new prompt, 2 comparisons to be judged by people." in sent[0]
    assert [prompt.text for prompt in prompt_store.prompts(db, "held-out")] == ["t"]
    assert db.value("SELECT requested_by FROM import") == "kim"


@pytest.mark.parametrize(
    ("row", "answers", "imported"),
    [
        ({"user_prompt": "Open Orca", "chosen": "Why? So.", "rejected": "Why? No."}, {"prompt": tab.NONE}, "Why?"),
        ({"user_prompt": "Why so?", "chosen": "So.", "rejected": "No."}, {"prompt": "user_prompt"}, "Why so?"),
        (
            {"prompt": "p", **{f"response_{n}": f"x{n}" for n in (1, 2, 3)}, **{f"score_{n}": n for n in (1, 2, 3)}},
            {"a": "response_1", "b": "response_2"},
            "p",
        ),
        (
            {"prompt": "p", "response_a": "x", "response_b": "y", "preference_strength": 1},
            {"preference": "preference_strength"},
            "p",
        ),
    ],
)
def test_what_is_unclear_can_be_answered_on_the_page(
    page: gr.Blocks, db: Database, tmp_path: Path, row: Any, answers: Any, imported: str
) -> None:
    kim = gr.Request(username="kim")
    source = ["server", None, str(write(tmp_path, [row])), "", "", ""]
    sent = follow(page, handler(page, "import-look")(kim, *source)[-1])
    for button in ("import-again", "import-import"):
        filled = dict(zip(tab.ROLES, (update["value"] for update in sent[-len(tab.ROLES) - 1 : -1]), strict=True))
        assert {role: filled[role] for role in answers} == (
            dict.fromkeys(answers, "") if button == "import-again" else answers
        )
        form = ["auto", "judged", "train", 0, "", None, *(filled | answers).values()]
        sent = follow(page, handler(page, button)(kim, sent[-1], *source, *form)[-1])
    assert "1 row read. Imported: 1 new prompt, 1 comparison with a verdict." in sent[0]
    assert [prompt.text for prompt in prompt_store.prompts(db, "train")] == [imported]


@pytest.mark.parametrize(
    ("source", "form", "message"),
    [
        (["upload", None, "", "", "", ""], ["auto", "judged", "train", 5, ""], "Choose what to import first"),
        (["nowhere", None, "x", "", "", ""], ["auto", "judged", "train", 5, ""], "Choose what to import first"),
        (["server", None, "x", "", "", ""], ["auto", "judged", "share", None, ""], "Give the share"),
        (["server", None, "x", "", "", ""], ["auto", "judged", "share", 500, ""], "a number from 0 to 1"),
        (["server", None, "x", "", "", ""], ["auto", "judged", "train", 5, "x"], "is no range of rows"),
    ],
)
def test_a_form_that_cannot_be_meant_is_refused(
    page: gr.Blocks, source: list[Any], form: list[Any], message: str
) -> None:
    values = [*source, *form, None, *([""] * len(tab.ROLES))]
    with pytest.raises(gr.Error, match=message):
        handler(page, "import-check")(gr.Request(username="kim"), None, *values)


def test_what_was_typed_cannot_become_an_option() -> None:
    assert tab.source_of("server", None, "--hub", "", "", "") == ["--", "--hub"]
    assert tab.source_of("server", None, "/data/both", "", "a", "train") == [
        "--source-split=train", "--config=a", "--", "/data/both",
    ]  # fmt: skip
    assert tab.source_of("hub", None, "", "--by=x", "--data=/", "-x") == [
        "--source-split=-x", "--hub", "--config=--data=/", "--", "--by=x",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- uploads
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Database]]:
    """A running server's address, its cookie's name and its database."""
    data_dir = tmp_path_factory.mktemp("uploads") / "data"
    db = open_database(data_dir)
    registry.ensure_base(db, BASE_NAME)
    for name, role in (("ann", "annotator"), ("kim", "admin")):
        access.add_account(db, name, role, PASSWORD)
    start = [sys.executable, "app.py", "--no-workers", "--no-browser", "--port", "0", "--data", str(data_dir)]
    with subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("Prefloop runs at ").strip().rstrip("/")
        try:
            yield url, app.Settings(port=int(url.rsplit(":", 1)[1])).cookie, db
        finally:
            process.terminate()
    db.close()


def client(server: tuple[str, str, Database], name: str | None) -> httpx.Client:
    """A browser of this person, or of a stranger."""
    url, cookie, db = server
    made = httpx.Client(base_url=url, timeout=PATIENCE_SECONDS)
    if name is not None:
        made.cookies.set(cookie, access.open_session(db, access.authorise(db, name, "annotator")))
    return made


@pytest.mark.parametrize("route", ["upload", "component_server", "component_server/", "process_recording"])
def test_only_admins_may_send_files(server: tuple[str, str, Database], route: str) -> None:
    for name, status in ((None, 401), ("ann", 403)):
        with client(server, name) as person:
            answer = person.post(f"/gradio_api/{route}", files={"files": ("x.csv", b"a,b\n1,2\n")})
            assert answer.status_code == status, (route, name, answer.text)
    with client(server, "ann") as person:
        odd = {"content-type": "Multipart/Form-Data ; boundary=x"}
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x.csv"\r\n\r\na\r\n--x--\r\n'
        assert person.post(f"/gradio_api/{route}", content=body, headers=odd).status_code == 403


def test_an_admins_upload_arrives(server: tuple[str, str, Database]) -> None:
    content = b"prompt\n" + b"x" * 3_000_000 + b"\n"  # more than the 1 MB that Gradio was held to before
    with client(server, "kim") as admin:
        answer = admin.post("/gradio_api/upload", files={"files": ("../../x.csv", content)})
    assert answer.status_code == 200
    path = Path(answer.json()[0])
    assert path.name == "x.csv"
    assert path.read_bytes() == content


# --------------------------------------------------------------------------------------------------------------- others
def person(db: Database, name: str = "ann") -> int:
    """An annotator."""
    db.write("INSERT OR IGNORE INTO annotator (name, role, created) VALUES (?, 'annotator', '')", (name,))
    return int(db.value("SELECT id FROM annotator WHERE name = ?", (name,)))


@pytest.mark.parametrize("early", [{}, {"label": None}])
def test_labels_that_come_late_are_not_passed_over(
    db: Database, bring: Callable[..., ImportResult], early: Any
) -> None:
    """The first rows, by which columns are chosen, say nothing of labels; a later one says that its answer is bad."""
    rows = [{"prompt": f"p {n}", "completion": "x", **early} for n in range(importing.LOOKED_AT)]
    rows.append({"prompt": "p", "completion": "bad", "label": False})
    for target in ("auto", "demonstrations"):
        with pytest.raises(UserError, match="'label' may say which answers are bad"):
            bring(rows, target=target)
    assert sizes(db)["prompt"] == 0
    assert counts(bring(rows, columns={"label": ""}))["demonstrations"] == len(rows), "somebody says that all are good"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much counts")
def test_the_limit_of_memory_is_for_what_the_import_takes() -> None:
    """A process that has more than that already can still begin threads, which what asks the Hub does."""
    code = (
        "import mmap, threading\n"
        "from annotation.imports.import_command import MEMORY_BYTES, bounded\n"
        "held = mmap.mmap(-1, MEMORY_BYTES + 2**28, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "with bounded():\n"
        "    print(len(bytes(2**26)))\n"
        "    thread = threading.Thread(target=print, args=['began'])\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "    try:\n"
        "        bytes(2 * MEMORY_BYTES)\n"
        "    except MemoryError:\n"
        "        print('bounded')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == [str(2**26), "began", "bounded"]


def test_others_can_write_while_a_file_is_read(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes seconds; the database is not locked meanwhile: here it goes on only after somebody has written."""
    monkeypatch.setattr(importing, "REPORT_SECONDS", 0.0)
    path = write(tmp_path, [{"prompt": f"q {n}", "chosen": f"a {n}", "rejected": f"b {n}"} for n in range(500)])
    reading, written = threading.Event(), threading.Event()
    outcomes: list[ImportResult] = []

    def wait_for_others(what: str, rows: int, share: float | None) -> None:
        if what == "reading":
            reading.set()
            assert written.wait(PATIENCE_SECONDS)

    def bring_it() -> None:
        own = open_database(db.path.parent)
        outcomes.append(
            importing.run_import(own, open_path(path), ImportRequest(split="train"), "kim", wait_for_others)
        )
        own.close()

    thread = threading.Thread(target=bring_it)
    thread.start()
    assert reading.wait(PATIENCE_SECONDS)
    setting_store.set_setting(db, "clock", 1)
    written.set()
    thread.join()
    assert outcomes[0].counts.judged == 500
