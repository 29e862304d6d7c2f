"""The Import form in several sessions at once: each is shown the rows of what it looks at itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.database import Database
from annotation.imports.import_process import HERE
from annotation.imports.import_report import ImportReport
from annotation.imports.importing import ImportPreview, ImportResult
from annotation.imports.mapping.mapped_rows import MappedRow
from annotation.jobs import job_table
from annotation.tabs import import_form
from annotation.tabs.guard import Context
from annotation.translation import language_of, speaking
from annotation.web import access
from tests.conftest import BASE_NAME
from tests.handlers import asked_by

LOOK = {
    "name": "rows.jsonl",
    "format": "JSON lines",
    "columns": ["prompt"],
    "offered": ["prompt"],
    "rows": [],
    "bad": [],
    "notes": [],
    "proposed": {"prompt": "prompt"},
    "target": "prompts",
    "records": [],
    "problem": "",
    "counted": "",
    "asked": [],
    "usable": True,
}
OUTCOME = {
    **{"name": "rows.jsonl", "format": "JSON lines", "target": "prompts", "columns": {"prompt": "prompt"}},
    **{
        "counts": {"rows": 9},
        "dry_run": False,
        "import_id": 1,
        "seconds": 1.0,
        "locked_seconds": 0.0,
        "reasons": [],
        "skipped": [],
    },
    "counted": "",
}


def outcome_of(**values: Any) -> ImportResult:
    """What is read of what a process told of an import."""
    told = ImportReport.from_json({"outcome": {**OUTCOME, **values}})
    assert told.outcome is not None
    return told.outcome


def look_of(**values: Any) -> ImportPreview:
    look = ImportReport.from_json({"look": {**LOOK, **values}}).look
    assert look is not None
    return look


@pytest.fixture
def pages(db: Database, data_dir: Path) -> gr.Blocks:
    """The form, built as the app builds it."""
    for name in ("olga", "mira"):
        access.add_account(db, name, "admin", "long enough words")
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Import"):
        import_form.build(demo, Context(db, data_dir, BASE_NAME))
    return demo


class Session:
    """One admin's open page: the source that is chosen, and what the server remembers of it."""

    def __init__(self, pages: gr.Blocks, name: str) -> None:
        self.listeners = {block.api_name: block for block in pages.fns.values()}
        self.name, self.path = name, ""
        self.looked: Any = None
        self.columns: dict[str, str] = {}
        self.target = "auto"
        self.unfolded = False
        self.shown: list[str] = []
        self.emptied: dict[str, Any] = {}
        self.meaning = ""

    def call(self, name: str) -> str:
        """Press a button, or be asked whether something is new; all that was sent."""
        block = self.listeners[name]
        form = {"Path on this server": self.path, "Source": "server", "Import as": self.target, "Rows": ""}
        values = {**form, **self.columns}
        asked = [self.looked if isinstance(one, gr.State) else values.get(one.label, "") for one in block.inputs]
        sent = block.fn(*asked_by(self.name, block.fn), *asked)
        (meaning,) = self.listeners["import-meaning"].outputs
        said = sent[block.outputs.index(meaning)]
        self.meaning = said if isinstance(said, str) else self.meaning
        (folded,) = [two for one, two in zip(block.outputs, sent, strict=True) if isinstance(one, gr.Accordion)]
        self.unfolded = folded.get("open", False)
        self.looked = next(value for one, value in zip(block.outputs, sent, strict=True) if isinstance(one, gr.State))
        filled = {getattr(one, "label", None): value for one, value in zip(block.outputs, sent, strict=True)}
        self.shown = [role for role in import_form.ROLES if (filled[role] or {}).get("visible")]
        self.target = filled["Import as"].get("value", self.target)
        self.emptied = {name: filled.get(name) for name in ("Verdicts of preferences become", "Rows", "Good from")}
        return str(sent[:-1])

    def look(self, path: str) -> str:
        self.path = path
        return self.call("import-look")


def end(db: Database, result: dict[str, Any]) -> None:
    """What the newest run finds, and that it is over."""
    job = HERE.claim_next(db, "w")
    assert job is not None
    assert job_table.finish(db, job.id, "w", result)


def fail(db: Database, why: str) -> None:
    """The newest run comes to nothing."""
    job = HERE.claim_next(db, "w")
    assert job is not None
    assert job_table.stop(db, job.id, "w", "failed", why)


def test_the_rows_that_another_looks_at_are_not_shown_to_me(pages: gr.Blocks, db: Database) -> None:
    olga, mira = Session(pages, "olga"), Session(pages, "mira")
    olga.look("/data/olga.jsonl")
    end(db, {"look": {**LOOK, "name": "olga.jsonl"}})
    assert "olga.jsonl: JSON lines. The first rows" in olga.call("import-follow")
    assert "olga.jsonl" not in olga.call("import-follow"), "once, so that what was chosen since stays"
    assert "olga.jsonl" not in mira.call("import-open")
    mira.look("/data/mira.jsonl")
    assert "Requested by mira." in olga.call("import-follow")
    end(db, {"look": {**LOOK, "name": "mira.jsonl"}})
    assert "mira.jsonl" not in olga.call("import-follow")
    assert "mira.jsonl: JSON lines. The first rows" in mira.call("import-follow")


def test_a_look_is_shown_also_where_another_has_begun_one_meanwhile(pages: gr.Blocks, db: Database) -> None:
    """Her page asks now and then, and only while it is in view."""
    olga, mira = Session(pages, "olga"), Session(pages, "mira")
    olga.look("/data/olga.jsonl")
    end(db, {"look": {**LOOK, "name": "olga.jsonl"}})
    mira.look("/data/mira.jsonl")
    assert "olga.jsonl: JSON lines. The first rows" in olga.call("import-follow")
    assert "olga.jsonl" not in olga.call("import-follow")
    end(db, {"look": {**LOOK, "name": "mira.jsonl"}})
    olga.look("/data/nothing.jsonl")
    fail(db, "There is no file nothing.jsonl.")
    mira.look("/data/other.jsonl")
    shown = olga.call("import-follow")
    assert "There is no file nothing.jsonl." in shown
    assert "Requested by mira." in shown


def test_where_columns_are_to_be_chosen_they_are_unfolded(pages: gr.Blocks, db: Database) -> None:
    olga = Session(pages, "olga")
    olga.look("/data/rows.jsonl")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    assert not olga.unfolded
    olga.call("import-again")
    end(db, {"look": {**LOOK, "problem": "There is no column with the prompt."}})
    olga.call("import-follow")
    assert olga.unfolded
    olga.call("import-again")
    end(db, {"look": {**LOOK, "usable": False}})
    olga.call("import-follow")
    assert olga.unfolded
    for button in ("import-check", "import-import"):
        olga.call(button)
        assert not olga.unfolded
        fail(db, "Wählen Sie sie unter „Spalten“.")
        olga.call("import-follow")
        assert olga.unfolded, "in whatever language that is said"


def test_of_columns_what_is_asked_for_is_shown_and_the_rest_when_somebody_wants_more(
    pages: gr.Blocks, db: Database
) -> None:
    olga = Session(pages, "olga")
    olga.look("/data/rows.jsonl")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    assert olga.shown == ["prompt"], "what is filled"
    proposed = {"prompt": "prompt", "completion": "reply"}
    olga.columns = {**proposed, "history": "before"}
    olga.call("import-again")
    asking = {"problem": "May be bad.", "asked": ["label", "rating"], "proposed": proposed}
    end(db, {"look": {**LOOK, **asking}})
    olga.call("import-follow")
    assert olga.shown == ["history", "completion", "label", "rating"], "what was chosen too"
    more = olga.listeners["import-more"]
    hidden, *columns = more.fn(*asked_by("olga", more.fn))
    assert (hidden["visible"], {one["visible"] for one in columns}) == (False, {True})
    assert [one.label for one in more.outputs[1:]] == [*import_form.ROLES]
    olga.look("/data/others.jsonl")
    end(db, {"look": {**LOOK, "proposed": {}}})
    olga.call("import-follow")
    assert olga.shown == [*import_form.ROLES], "nothing else is known"


def test_what_was_chosen_for_the_file_before_is_not_meant_for_the_next(pages: gr.Blocks, db: Database) -> None:
    olga = Session(pages, "olga")
    olga.look("/data/first.jsonl")
    assert olga.emptied == {"Verdicts of preferences become": "judged", "Rows": "", "Good from": None}
    end(db, {"look": LOOK})
    olga.call("import-follow")
    assert olga.call("import-again")
    assert olga.emptied["Verdicts of preferences become"] is None, "of the same file it stays"


def test_a_look_that_failed_is_told_of_once(pages: gr.Blocks, db: Database) -> None:
    olga, mira = Session(pages, "olga"), Session(pages, "mira")
    olga.look("/data/nothing.jsonl")
    fail(db, "There is no file nothing.jsonl.")
    mira.look("/data/other.jsonl")
    for _poll in range(2):
        assert "There is no file nothing.jsonl." in olga.call("import-follow"), "while the page follows another's"
    end(db, {"look": LOOK})
    assert "There is no file nothing.jsonl." in olga.call("import-follow")
    assert "There is no file nothing.jsonl." not in olga.call("import-open")


def test_a_look_whose_rows_are_gone_is_to_be_asked_for_again(pages: gr.Blocks, db: Database) -> None:
    """First rows of somebody's data are kept for a day at most once others go on."""
    olga, mira = Session(pages, "olga"), Session(pages, "mira")
    olga.look("/data/rows.jsonl")
    end(db, {"look": LOOK})
    db.write("UPDATE job SET finished = '2026-01-02T10:00:00.000000+00:00'")
    mira.look("/data/other.jsonl")
    assert db.value("SELECT count(*) FROM job WHERE result NOT NULL") == 0
    end(db, {"look": LOOK})
    assert "Look at the first rows again." in olga.call("import-follow")
    assert "Look at the first rows again." not in olga.call("import-open")


def test_a_directory_on_this_server_is_asked_for_its_configuration() -> None:
    shown = [one["visible"] for one in import_form.choose_source("server")]
    assert shown == [False, True, False, True, True, True]


def test_what_was_not_looked_at_is_not_imported(pages: gr.Blocks, db: Database) -> None:
    """The rows shown, and what their columns are taken for, are of another file."""
    olga = Session(pages, "olga")
    olga.look("/data/first.jsonl")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    olga.path = "/data/second.jsonl"
    for button in ("import-import", "import-check", "import-again"):
        with pytest.raises(gr.Error, match="of another source"):
            olga.call(button)
    assert db.value("SELECT count(*) FROM job") == 1
    olga.path = "/data/first.jsonl"
    olga.call("import-import")
    end(db, {"outcome": OUTCOME})
    assert "9 rows read." in olga.call("import-follow")


def test_a_column_that_nobody_has_chosen_is_left_to_be_proposed_beside_those_that_are_chosen(
    pages: gr.Blocks, db: Database
) -> None:
    """A label that the first look had no answers for is not left out by whoever then chooses the answers."""
    olga = Session(pages, "olga")

    def mapped(button: str, **columns: str) -> list[str]:
        olga.columns = columns
        olga.call(button)
        spec = json.loads(str(db.value("SELECT spec FROM job ORDER BY id DESC LIMIT 1")))
        return [one for one in spec["arguments"] if one.startswith("--map=")]

    olga.look("/data/rows.jsonl")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    assert mapped("import-again", prompt="prompt", completion="reply") == ["--map=completion=reply"]
    labelled = {"prompt": "prompt", "completion": "reply", "label": "label"}
    end(db, {"look": {**LOOK, "proposed": labelled}})
    olga.call("import-follow")
    assert mapped("import-import", **labelled) == ["--map=completion=reply"]
    end(db, {"outcome": OUTCOME})
    assert mapped("import-import", **{**labelled, "label": ""}) == ["--map=completion=reply", "--map=label="]


def test_what_a_file_is_taken_for_is_nobodys_choice(pages: gr.Blocks, db: Database) -> None:
    """Else answers that are bad come in from the file after it, or a label that is found later is not looked at."""
    olga = Session(pages, "olga")

    def asked() -> str:
        spec = json.loads(str(db.value("SELECT spec FROM job ORDER BY id DESC LIMIT 1")))
        return next(one for one in spec["arguments"] if one.startswith("--as="))

    olga.look("/data/a.jsonl")
    end(db, {"look": {**LOOK, "target": "demonstrations"}})
    olga.call("import-follow")
    olga.call("import-again")
    assert asked() == "--as=auto"
    end(db, {"look": {**LOOK, "target": "demonstrations"}})
    olga.call("import-follow")
    olga.target = "prompts"
    olga.call("import-again")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    olga.call("import-check")
    assert asked() == "--as=prompts", "somebody has chosen it"
    end(db, {"outcome": OUTCOME})
    olga.look("/data/b.jsonl")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    olga.call("import-import")
    assert asked() == "--as=auto", "for another file"


def test_that_all_answers_are_good_can_be_said(pages: gr.Blocks, db: Database) -> None:
    olga = Session(pages, "olga")
    olga.look("/data/rows.jsonl")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    assert ("none: all are good", import_form.NONE) in import_form.choices_of("label", ())
    olga.columns = {"prompt": "prompt", "label": import_form.NONE}
    olga.call("import-again")
    end(db, {"look": LOOK})
    assert str(olga.call("import-follow")).count(repr(import_form.NONE)) == 3, "as a choice twice, and chosen once"
    olga.call("import-import")
    assert "--map=label=" in json.loads(str(db.value("SELECT spec FROM job ORDER BY id DESC LIMIT 1")))["arguments"]


def test_an_import_takes_away_what_was_said_of_the_rows_before_it(pages: gr.Blocks, db: Database) -> None:
    """That they are to be read again for what was chosen since, for one: it has been done as it was chosen."""
    olga = Session(pages, "olga")
    olga.look("/data/rows.jsonl")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    assert "Read as prompts" in olga.meaning
    olga.call("import-check")
    end(db, {"outcome": {**OUTCOME, "dry_run": True}})
    olga.call("import-follow")
    assert "Read as prompts" in olga.meaning
    olga.call("import-import")
    assert olga.meaning == ""


def test_an_import_says_whose_it_is_and_when_it_was(pages: gr.Blocks, db: Database) -> None:
    olga, mira = Session(pages, "olga"), Session(pages, "mira")
    olga.look("/data/rows.jsonl")
    end(db, {"look": LOOK})
    olga.call("import-follow")
    olga.call("import-import")
    assert "Requested by olga." in mira.call("import-open")
    end(db, {"outcome": OUTCOME})
    assert "Requested by olga; it ended on 20" in mira.call("import-open")


def test_an_import_leads_to_what_came_in_where_it_can_be_withdrawn() -> None:
    counts = {"judged": 0, "gold": 0, "open": 2}
    assert import_form.way_to(outcome_of(counts=counts)) == (
        '<p class="acts"><a class="button" href="/data/comparisons?source=import+1%3A+rows.jsonl">'
        "Look at the comparisons that came in</a></p>"
    )
    only_prompts = outcome_of(counts={**counts, "open": 0})
    assert import_form.way_to(only_prompts) == ""


def test_a_row_that_was_skipped_names_its_column_once() -> None:
    """In what is said of it."""
    skipped = [{"row": 3, "column": "a", "reason": "column 'a' is empty"}]
    told = outcome_of(counted="rows from 1", skipped=skipped, reasons=[["column 'a' is empty", 1]])
    shown = import_form.outcome_card(told)
    assert shown.count("column") == 2, "once for the reason, once for the row"


@pytest.mark.parametrize(
    ("target", "verdict"),
    [("prompts", "judged"), ("demonstrations", "judged"), ("preferences", "open"), ("auto", "open")],
)
def test_what_is_to_become_of_verdicts_is_asked_and_obeyed_only_where_there_are_some(target: str, verdict: str) -> None:
    """The choice may be left over from the import before this one."""
    order = import_form.order_of(target, "open", "held-out", None, "", None, *("" for _ in import_form.ROLES))
    assert order.verdict == verdict
    shown = import_form.choose_target(target)
    assert shown["visible"] == (verdict == "open")


def test_an_upload_is_looked_at_by_itself_and_other_sources_have_a_button(pages: gr.Blocks) -> None:
    choose = next(block.fn for block in pages.fns.values() if block.api_name == "import-source")
    buttons = {kind: choose(*asked_by("olga", choose), kind)[-1]["visible"] for kind in ("upload", "server", "hub")}
    assert buttons == {"upload": False, "server": True, "hub": True}


def test_the_rows_as_they_are_are_folded_where_they_can_be_read(pages: gr.Blocks) -> None:
    assert "<details>" in import_form.look_card(look_of())
    problem = look_of(problem="There is no prompt in it.")
    assert "<details>" not in import_form.look_card(problem)


def test_turns_of_a_row_are_named_in_the_readers_language() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with speaking(language_of("de")):
        prompt, _answers = import_form.record_cells(MappedRow(tuple(turns)))
    assert prompt == "Mensch: Hi\nAssistent: Hello"
