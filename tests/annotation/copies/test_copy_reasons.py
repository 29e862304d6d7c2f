"""What makes a safe copy due, and what of it is somebody's work: each act, and all of the schema."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from annotation import schema
from annotation.claims import handing_out, judging, own_prompts
from annotation.copies import copy_reasons, safe_copies
from annotation.copies.copy_reasons import WATCHED, WORK
from annotation.database import Database
from annotation.jobs import job_table
from annotation.records import Annotator, Feedback
from annotation.store import policy_comparisons, project_store, prompt_store, setting_store
from annotation.web import access, invitations
from annotation.workbench import annotator_groups, bulk_changes
from annotation.workbench.bulk_changes import BulkRequest, ChangeKind
from annotation.workbench.comparison_filter import ComparisonFilter
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.data import held_out_sets
from rlhf.generation.answering_spec import AnsweringSpec
from rlhf.jobs import job_store, run_labels
from rlhf.judges import judge_store
from rlhf.models import decision_store, registry
from rlhf.models.base import base_identity
from tests.conftest import BASE_NAME, act, seed_comparisons, seed_prompts
from tests.machine_fixtures import ROOT
from tests.syntax_trees import tree_of

GROUP = ("medics",)


@pytest.fixture
def ann(db: Database) -> Annotator:
    """Somebody with comparisons to judge, beside a policy, a run and an invitation."""
    seed_comparisons(db, 4)
    seed_prompts(db, 1)
    registry.add(
        db, revision="tuned", algorithm="dpo", base=BASE_NAME, parent_id=1, job_id=None, path="adapters/tuned",
        sha256="0" * 64,
    )  # fmt: skip
    for _ in range(2):
        job_store.enqueue(db, DPOSpec(), "kim")
    invitations.invite(db, {"uses": 2}, "kim")
    judge_store.add(db, "local", "local", {"model": "base"}, "kim")
    ann = access.add_account(db, "ann", "annotator", "a long enough password")
    annotator_groups.set_groups(db, ann.id, ("nurses",))
    return ann


def bulk(kind: ChangeKind, whom: str = "") -> Callable[[Database, Annotator], object]:
    """A change of two comparisons."""

    def make(db: Database, ann: Annotator) -> object:
        return bulk_changes.make(db, BulkRequest(kind, ComparisonFilter(ids=(1, 2)), whom), ann, 2)

    return make


def invite(db: Database, ann: Annotator) -> None:
    invitations.invite(db, {"uses": 1}, ann.name)


def ask_own(db: Database, ann: Annotator) -> None:
    own_prompts.ask(db, ann.id, [dict(message) for message in prompt_store.prompts(db, "train")[-1].messages])


def publish(db: Database, ann: Annotator) -> None:
    put = {"kind": "dataset", "model_id": None, "repo": "ann/x", "tag": "v1", "commit_sha": "0" * 40}
    db.insert("publication", {**put, "private": 1, "published_by": ann.name, "created": ""})


# What somebody does beside judging, each alone.
DONE_BY_PEOPLE: dict[str, Callable[[Database, Annotator], object]] = {
    "assign": bulk("assign", "person:ann"),
    "withdraw": bulk("withdraw"),
    "group": lambda db, ann: annotator_groups.set_groups(db, ann.id, GROUP),
    "no group": lambda db, ann: annotator_groups.set_groups(db, ann.id, ()),
    "quota": lambda db, ann: annotator_groups.set_quota(db, ann.id, 7),
    "role": lambda db, ann: access.set_role(db, "ann", "admin"),
    "sign-off": lambda db, ann: access.deactivate(db, "ann"),
    "invitation": invite,
    "invitation withdrawn": lambda db, ann: invitations.withdraw(db, 1),
    "note": lambda db, ann: run_labels.set_label(db, 1, run_labels.RunLabel(notes="Too short."), "ann"),
    "run": lambda db, ann: job_store.enqueue(db, DPOSpec(), "ann"),
    "run typed": lambda db, ann: job_store.enqueue(db, DPOSpec(), "the command line"),
    "order": lambda db, ann: job_store.move(db, 2, up=True),
    "own prompt": ask_own,
    "publication": publish,
    "feedback": lambda db, ann: project_store.set_feedback(db, Feedback(mode="ai")),
    "thinking": lambda db, ann: registry.set_thinking(db, "template"),
    "precision": lambda db, ann: registry.set_precision(db, "bf16", "ann"),
    "rejected": lambda db, ann: decision_store.reject(db, "tuned", "ann"),
    "overlap": lambda db, ann: project_store.set_project(db, replace(project_store.project(db), overlap=3)),
}


@pytest.mark.parametrize("name", DONE_BY_PEOPLE)
def test_what_somebody_does_beside_judging_is_copied_and_missed(db: Database, ann: Annotator, name: str) -> None:
    mark, work = copy_reasons.state_mark(db), copy_reasons.work(db)
    DONE_BY_PEOPLE[name](db, ann)
    assert copy_reasons.state_mark(db) != mark
    assert copy_reasons.work(db) != work


@pytest.mark.parametrize("kind", ["assign", "withdraw"])
def test_what_is_taken_back_and_changed_again_is_copied_and_missed(
    db: Database, ann: Annotator, kind: ChangeKind
) -> None:
    made = bulk(kind, "person:ann" if kind == "assign" else "")(db, ann)
    run_labels.set_label(db, 1, run_labels.RunLabel(notes="Too short."), "ann")
    assert isinstance(made, int)
    for again in (
        lambda: bulk_changes.undo(db, made, "ann"),
        lambda: run_labels.set_label(db, 1, run_labels.RunLabel(notes="Too long."), "ann"),
    ):
        mark, work = copy_reasons.state_mark(db), copy_reasons.work(db)
        again()
        assert copy_reasons.state_mark(db) != mark
        assert copy_reasons.work(db) != work


def judge(db: Database, ann: Annotator) -> None:
    claim = handing_out.claim_next(db, ann.id)
    assert claim is not None
    judging.judge(db, ann.id, claim.nonce, act("tie"))


def take_job(db: Database, ann: Annotator) -> None:
    assert job_store.claim(db, 1, "worker") is not None


# What is copied, and yet nobody would miss it, or it is counted elsewhere.
NOT_MISSED: dict[str, Callable[[Database, Annotator], object]] = {
    "judgement": judge,
    "language": lambda db, ann: access.set_language(db, "ann", "de"),
    "the loop's run": lambda db, ann: job_store.enqueue(db, DPOSpec(), "the loop"),
    "run taken up": take_job,
    "held-out prompts": lambda db, ann: setting_store.set_setting(db, held_out_sets.SETTING, [1]),
    "gate's prompts": lambda db, ann: setting_store.set_setting(db, held_out_sets.GATE_SETTING, [1]),
    "a base's hash": lambda db, ann: setting_store.set_setting(db, base_identity.HASHED, {"model.safetensors": "0"}),
    "a base's template": lambda db, ann: setting_store.set_setting(
        db, base_identity.BASE_CONTENT, {"base": ["0", "0"]}
    ),
    "a judge's calls": lambda db, ann: judge_store.count_calls(db, judge_store.judges(db)[0], 5),
}


@pytest.mark.parametrize("name", NOT_MISSED)
def test_what_goes_on_by_itself_is_copied_and_nobody_has_to_choose_because_of_it(
    db: Database, ann: Annotator, name: str
) -> None:
    mark, work = copy_reasons.state_mark(db), copy_reasons.work(db)
    NOT_MISSED[name](db, ann)
    assert copy_reasons.state_mark(db) != mark
    assert copy_reasons.work(db) == work


def test_that_people_are_asked_of_a_candidate_is_copied(db: Database, ann: Annotator) -> None:
    candidate = registry.by_revision(db, "tuned")
    db.connection.execute(
        "UPDATE comparison SET candidate_id = ?, against_id = 1, asks = 'nobody' WHERE id = 1", (candidate.id,)
    )
    mark = copy_reasons.state_mark(db)
    assert policy_comparisons.ask_people_of_candidate(db, candidate.id, 1) == 1
    assert copy_reasons.state_mark(db) != mark


def test_what_changes_all_the_time_makes_no_copies(db: Database, ann: Annotator) -> None:
    take_job(db, ann)
    access.owner_link_token(db)
    answering = job_store.enqueue(db, AnsweringSpec(), "the program")
    mark, work = copy_reasons.state_mark(db), copy_reasons.work(db)
    assert handing_out.claim_next(db, ann.id) is not None
    handing_out.release_unfit(db)
    access.open_session(db, ann)
    access.owner_link_token(db)
    assert job_store.claim(db, answering, "another") is not None
    assert job_table.beat(db, 1, "worker")
    job_table.log(db, 1, "halfway")
    safe_copies.add_row(db, "place", "run")
    db.connection.execute("UPDATE response SET state = 'writing', text = 'So f'")
    assert copy_reasons.state_mark(db) == mark
    assert copy_reasons.work(db) == work


# ---------------------------------------------------------------------------------------------------- over the schema
def tables(db: Database) -> dict[str, set[str]]:
    """The columns of every table that is no index of words, which is made of the texts."""
    names = [row["name"] for row in db.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    kept = [name for name in names if not name.startswith(("sqlite_", "_sqlite_", "prompt_words", "answer_words"))]
    return {name: {row["name"] for row in db.rows(f'PRAGMA table_info("{name}")')} for name in kept}


# What stands in the gaps of statements, where it names tables or columns.
GAPS = {"STANDING": schema.STANDING, "table": "session"}
# Of imports on their way, and of what the Data tab counts.
SCRATCH = {"staged.prompt", "staged.item", "staged.answer", "chosen"}
# Migrations, which are made before the first copy, and a file of an import's own.
ELSEWHERE = ("annotation/schema.py", "annotation/imports/staging.py")
WRITES = re.compile(
    r"\bUPDATE (?P<changed>[\w.]+)(?: AS \w+)?\s+SET\s+|\bDELETE FROM (?P<gone>[\w.]+)"
    r"|\bINSERT (?P<again>OR REPLACE )?INTO [\"[]?(?P<added>[\w.]+)"
)


def texts(tree: ast.AST) -> Iterator[str]:
    """What is written in a file, gaps filled where they name tables or columns."""
    parts = {id(one) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for one in node.values}
    for node in (one for one in ast.walk(tree) if id(one) not in parts):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                GAPS.get(ast.unparse(one.value), "0") if isinstance(one, ast.FormattedValue) else ast.literal_eval(one)
                for one in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def statements(db: Database) -> Iterator[str]:
    """All SQL that writes, of the source and of triggers."""
    for path in sorted(path for part in ("annotation", "rlhf") for path in (ROOT / part).rglob("*.py")):
        if path.relative_to(ROOT).as_posix() not in ELSEWHERE:
            yield from (text for text in texts(tree_of(path)) if WRITES.search(text))
    yield from (row["sql"] for row in db.rows("SELECT sql FROM sqlite_master WHERE type = 'trigger'"))


def columns_set(assignments: str) -> set[str]:
    """The columns that are set by what follows SET: names before the equal signs that stand in no parentheses."""
    depth, outside = 0, ""
    for letter in assignments:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        outside += letter if depth == 0 else " " if letter != "," else ";"
    listed = re.match(r"\s*\(([\w, ]+)\)\s*=", assignments)
    if listed:
        return set(re.split(r",\s*", listed[1]))
    before = re.split(r"\b(?:WHERE|RETURNING)\b", outside)[0]
    return {name for one in before.split(",") for name in re.findall(r"^\s*(\w+)\s*=", one)}


def written_in_place(db: Database) -> set[str]:
    """Each `table.column` that some statement changes in rows that are there, `table.rowid` where rows go."""
    found: set[str] = set()
    for text in statements(db):
        for hit in WRITES.finditer(text):
            if hit["changed"]:
                found |= {f"{hit['changed']}.{name}" for name in columns_set(text[hit.end() :]) or {"?"}}
            elif hit["gone"] or hit["again"]:
                found.add(f"{hit['gone'] or hit['added']}.rowid")
            elif also := re.search(r"DO UPDATE SET\s+", text[hit.end() :]):
                found |= {f"{hit['added']}.{name}" for name in columns_set(text[hit.end() + also.end() :]) or {"?"}}
    named = {one.removeprefix("main.") for one in found}
    return {one for one in named if one.rpartition(".")[0] not in SCRATCH}


# Tables, columns that change in place, and `rowid` for rows that go, that make no copy due, with the reason.
NOT_WATCHED = {
    "session": "signing in again makes a new one",
    "sign_in_link": "made anew at each start",
    "claim": "hand-outs; what came of them is a judgement",
    "comparison_response": "added with its comparison",
    "bulk_change_comparison": "changes with a bulk change, a judgement, an account, a group or a quota",
    "event": "the progress of jobs",
    "chat": "tried out and gone",
    "safe_copy": "what copies themselves write",
    "comparison.taken": "hand-outs",
    **dict.fromkeys(
        ("comparison.judged", "comparison.last_judged", "comparison.flagged", "comparison.opinion"),
        "counted from judgements and exclusions",
    ),
    "comparison.assigned": "counted from the bulk changes",
    "comparison.state": "changes with a bulk change, a gold decision, a setting, a model, or as answers are written",
    "comparison.model_id": "as answers are written",
    **dict.fromkeys(("comparison.purpose", "comparison.expected"), "change with a gold decision"),
    **dict.fromkeys(
        (
            *("comparison.asks", "comparison.asks_why", "comparison.people_chance", "comparison.people_drawn"),
            "comparison.people_given",
        ),
        "change with a bulk change, a setting, a decision, a judge, a verdict, a job, or ASKED_OF_CANDIDATES",
    ),
    "prompt.split": "changes with a job",
    "prompt.held_for": "changes with a setting",
    "prompt.import_id": "changes with a setting: of an import that never came to its end",
    **dict.fromkeys(("prompt.rowid", "response.rowid", "import.rowid"), "of an import that never came to its end"),
    **dict.fromkeys(
        (
            *("response.state", "response.text", "response.tokens", "response.prompt_tokens", "response.token_ids"),
            *("response.finish_reason", "response.dropped", "response.precision"),
        ),
        "as an answer is written, after its row is",
    ),
    "verdict.rowid": "makes room for another one",
    "score.rowid": "makes room for another one",
    **dict.fromkeys(("snapshot.counts", "snapshot.last_judgement_id"), "of the same rows, for another job"),
    **dict.fromkeys(
        (
            *("job.worker", "job.heartbeat", "job.attempt", "job.created", "job.started", "job.finished", "job.step"),
            *("job.steps", "job.message", "job.reason", "job.result", "job.spec"),
        ),
        "the progress of jobs; at its end the status changes",
    ),
    **dict.fromkeys(("rental.url", "rental.batches", "rental.stage", "rental.seconds", "rental.cleared"), "progress"),
    "bulk_change.undone_by": "changes with `undone`",
    "gold_decision.previous_state": "changes with `bulk_change.undone`",
    **dict.fromkeys(
        ("run_label.name", "run_label.tags", "run_label.notes", "run_label.changed_by"), "change with `changed`"
    ),
}
# What of it is nobody's work.
NOT_WORK = {
    "judgement": "counted for itself",
    "response": "the model's, or added with a judgement",
    **dict.fromkeys(("verdict", "score", "snapshot"), "the machines'"),
    "annotator.language": "the browser's, mostly; chosen again with a click",
    "job.status": "changes as it is done",
    **dict.fromkeys(("rental.namespace", "rental.hub_job"), "come from the Hub"),
}


def test_every_table_is_watched_or_excused(db: Database) -> None:
    excused = {name for name in NOT_WATCHED if "." not in name}
    assert set(WATCHED) | excused == set(tables(db))
    assert set(WATCHED) & excused == set()
    for name, watch in (*WATCHED.items(), *WORK.items()):
        assert set(watch.columns) <= tables(db)[name], name


def test_every_column_that_changes_in_place_is_watched_or_excused(db: Database) -> None:
    known = tables(db)
    written = written_in_place(db)
    assert [one for one in written if one.split(".")[1] not in known.get(one.split(".")[0], set()) | {"rowid"}] == []
    seen = {f"{table}.{column}" for table, watch in WATCHED.items() for column in watch.columns}
    # Where each row is read, it is seen that one goes.
    seen |= {f"{table}.rowid" for table, watch in WATCHED.items() if watch.columns}
    to_excuse = {one for one in written if one.split(".")[0] in WATCHED} - seen
    assert to_excuse == {one for one in NOT_WATCHED if "." in one}


def test_what_is_copied_is_somebodys_work_or_excused() -> None:
    assert set(WORK) <= set(WATCHED)
    columns = {
        f"{table}.{column}"
        for table, watch in WATCHED.items()
        if table in WORK
        for column in set(watch.columns) - set(WORK[table].columns)
    }
    assert (set(WATCHED) - set(WORK)) | columns == set(NOT_WORK)


def test_statements_are_read_as_they_are_meant() -> None:
    assert columns_set("a = 1, b = (SELECT x = 2, c = 3 FROM y WHERE z = 1) WHERE d = 4") == {"a", "b"}
    assert columns_set("(a, b) = (SELECT c, d FROM e WHERE f = 1) WHERE g = 1") == {"a", "b"}
    assert columns_set(f"{schema.STANDING} WHERE id = 1") == {"judged", "last_judged", "flagged", "opinion"}
