"""The list of runs, what people write about a run, and its report."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from starlette.requests import Request

from annotation import translation
from annotation.database import Database
from annotation.jobs import job_table
from annotation.records import Annotator, UserError
from annotation.web.middleware import ANNOTATOR_KEY
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs import job_store, run_labels
from rlhf.jobs.run_labels import RunLabel
from rlhf.models import decision_store, registry
from rlhf.tabs.download_endpoint import DownloadEndpoint
from rlhf.tabs.downloads import report_address
from rlhf.tabs.runs import run_list, run_report
from tests import builders
from tests.conftest import BASE_NAME
from tests.rlhf.tabs.jobs.test_job_cards import AT, JOB

LABELS = {
    1: RunLabel("Zebra", ("fast", "old"), "First try."),
    2: RunLabel("apple", (), "Half the β."),
    3: RunLabel("", ("fast",), ""),
}
JOBS = [replace(JOB, id=number, status=status) for number, status in ((3, "running"), (2, "failed"), (1, "finished"))]

MADE = {1: builders.policy(revision="sft-1"), 2: builders.policy(revision="reward-model-2", kind="reward")}


def numbers(search: str = "", order: str = "newest") -> list[int]:
    """The jobs that a search finds, in their order."""
    return [run.job.id for run in run_list.found(run_list.listed(JOBS, LABELS, MADE, AT), search, order)]


@pytest.mark.parametrize(
    ("search", "found"),
    [("", [3, 2, 1]), ("FAST", [3, 1]), ("fast zebra", [1]), ("β", [2]), ("sft-1", [1]), ("#2", [2]), ("nothing", [])],
)
def test_a_search_finds_the_runs_in_which_all_words_stand(search: str, found: list[int]) -> None:
    assert numbers(search) == found


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("newest", [3, 2, 1]),
        ("oldest", [1, 2, 3]),
        ("name", [2, 3, 1]),
        ("tags", [3, 1, 2]),
        ("status", [2, 1, 3]),
        ("nonsense", [3, 2, 1]),
    ],
)
def test_each_order(order: str, found: list[int]) -> None:
    assert numbers(order=order) == found


def test_the_table_links_each_run_and_says_how_many_more_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = run_list.found(run_list.listed(JOBS, LABELS, MADE, AT), "", "newest")
    table = run_list.runs_table(runs, "")
    for words in ('<a href="/runs/1#run-job">Zebra</a>', '<a href="/iterations/sft-1">sft-1</a>', "fast, old"):
        assert words in table
    assert "<td>reward-model-2</td>" in table, "which answers nothing, so that no page of policies has it"
    with translation.speaking(translation.language_of("de")):
        german = run_list.found(run_list.listed(JOBS, LABELS, {}, AT), "gescheitert", "newest")
        assert german, "runs are found by the word that is shown, too"
        assert '<span class="chip bad">gescheitert</span>' in run_list.runs_table(german, "")
    assert "Tags" in table
    bare = run_list.runs_table(run_list.listed(JOBS, {}, {}, AT), "")
    assert [head for head in ("Tags", "Made", "Message") if head in bare] == [], "nothing stands there of any run"
    monkeypatch.setattr(run_list, "LISTED", 1)
    assert "There are more: search for them." in run_list.runs_table(runs, "")
    assert "No run has these words." in run_list.runs_table([], "x")


def test_what_is_typed_becomes_a_label_or_is_refused() -> None:
    assert run_labels.written(" a  name ", " x, y ,,x,two  words", "\nnotes\n") == RunLabel(
        "a name", ("x", "y", "two words"), "notes"
    )
    for name, tags, notes in (("n" * 81, "", ""), ("", "t" * 41, ""), ("", ",".join(map(str, range(21))), "")):
        with pytest.raises(UserError, match="at most"):
            run_labels.written(name, tags, notes)
    with pytest.raises(UserError, match="at most"):
        run_labels.written("", "", "x" * 10_001)


def finished(db: Database) -> int:
    """A run that is over, with two values of its loss."""
    job_id = job_store.enqueue(db, SFTSpec(snapshot="0" * 64, epochs=3), "kim")
    assert job_store.claim(db, job_id, "w") is not None
    for step, loss in ((1, 0.75), (2, 0.5)):
        assert job_table.report(db, job_id, "w", step, 2, {"loss": loss}, "Training")
    assert job_table.finish(db, job_id, "w", {"peak_memory_mb": 120})
    return job_id


def test_a_label_is_kept_and_changed_and_a_run_without_one_has_none(db: Database) -> None:
    job_id = finished(db)
    assert run_labels.label_of(db, job_id) == RunLabel()
    for label in (LABELS[1], LABELS[2]):
        run_labels.set_label(db, job_id, label, "kim")
        assert run_labels.label_of(db, job_id) == run_labels.labels(db)[job_id] == label
    with pytest.raises(UserError):
        run_labels.set_label(db, job_id + 1, LABELS[1], "kim")


def test_the_report_says_what_was_asked_and_what_came_of_it(db: Database) -> None:
    job_id = finished(db)
    run_labels.set_label(db, job_id, RunLabel("Mine", ("one", "two"), "- first\n\n# second\nthird"), "kim")
    report = run_report.report_of(db, job_store.get(db, job_id))
    notes = "> \\- first\\\n>\n> \\# second\\\n> third"
    for words in (
        "# Mine",
        "Tags: one, two",
        notes.replace("first\\", "first"),
        "Loss, at the end: 0.5",
        '"epochs": 3',
    ):
        assert words in report
    assert "120" in report
    assert re.search(r"\n- Ended \(UTC\): \d{4}-\d\d-\d\d \d\d:\d\d\n", report), "as pages write moments"
    assert not re.search(r"\d\d:\d\d:\d\d", report)


def test_the_report_has_the_decisions_by_which_its_policy_came_to_serve_and_no_longer_does(
    db: Database, data_dir: Path
) -> None:
    job_id = finished(db)
    registry.ensure_base(db, BASE_NAME)
    for number, made_by in ((1, job_id), (2, finished(db))):
        registry.add(
            db,
            revision=f"sft-{number}",
            algorithm="sft",
            base=BASE_NAME,
            parent_id=1,
            job_id=made_by,
            path=f"adapters/{number}",
            sha256="x",
        )
    decision_store.promote(db, "sft-1", "kim", "better")
    decision_store.reject(db, "sft-2", "kim")
    decision_store.promote(db, "base", "lee")
    files = data_dir / "adapters" / "1"
    files.mkdir(parents=True)
    (files / "README.md").write_text('12 pairs\n\n    "epochs": 3,')
    report = run_report.report_of(db, job_store.get(db, job_id))
    assert report.count('"epochs"') == 1, "its card says the same, as of when it was stored"
    assert not re.search(r"\| \S+T\d\d:", report)
    assert "| promote | sft-1 | kim | better |" in report
    assert "| go back | base | lee |" in report
    assert "sft-2" not in report, "what was decided of others while it served is not about it"


def test_the_report_of_a_run_that_never_began_does_not_promise_it(db: Database) -> None:
    job_id = job_store.enqueue(db, DPOSpec(), "kim")
    assert "- Started (UTC): not yet" in run_report.report_of(db, job_store.get(db, job_id))
    job_store.cancel(db, job_id)
    assert "- Started (UTC): never" in run_report.report_of(db, job_store.get(db, job_id))


def test_the_report_says_where_and_why_a_run_ended_early(db: Database) -> None:
    job_id = job_store.enqueue(db, DPOSpec(stop_kl=0.15), "kim")
    assert job_store.claim(db, job_id, "w") is not None
    assert job_table.report(db, job_id, "w", 1, 21, {"kl": 0.01}, "Training")
    assert job_table.report(db, job_id, "w", 2, 2, {"kl": 0.2}, "Training")
    assert job_table.finish(db, job_id, "w", {"final": {"kl": 0.2}})
    report = run_report.report_of(db, job_store.get(db, job_id))
    for words in ("It ended after step 2. The policy had moved 0.2 nats", "- Steps: 2, ended early", "at most 6"):
        assert words in report


# What opens an element, a list, a heading, a link, a picture, code or a formula, ends a cell, or undoes the escape.
HOSTILE = (
    "<b onclick=x>", "&lt;i&gt;", "![p](http://e.org/p.png)", "[l](http://e.org)", "[r]: http://e.org", "<http://e.org>",
    "a \\| b", "\\<img src=x>", "`code`", "```", "~~~", "*x* _y_ ~~z~~", "# h #", "---", "===", "- i", "+ i", "1. i",
    "2) i", "> q", "\\", "\\\\[l](u)", "$x$", "|---|", "    indented", "http://e.org", "www.e.org", "9", "3.5", "-1",
)  # fmt: skip


OF_THE_REPORT = re.compile("(heading|paragraph|bullet_list|list_item|table|thead|tbody|tr|th|td|blockquote)_|inline$")


def shown(markdown: str) -> tuple[set[str], list[str]]:
    """What a viewer makes of it besides the report's own elements, and the texts of all."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    made = {token.type for token in tokens if not OF_THE_REPORT.match(token.type)}
    pieces = [token.children or [] for token in tokens if token.type == "inline"]
    made |= {piece.type for line in pieces for piece in line if piece.type != "text"}
    return made, ["".join(piece.content for piece in line) for line in pieces]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_people_wrote_is_the_same_text_in_a_viewer(text: str) -> None:
    said = " ".join(text.split())
    for markdown in (f"# {run_report.plain(text)}", run_report.pairs([(text, "v")]), run_report.quoted(text)):
        made, found = shown(markdown)
        assert (made, "".join(found).removesuffix(": v")) == (set(), said)
    assert shown(run_report.pairs([("n", text)])) == (set(), [f"n: {said}"])
    assert run_report.pairs([("n", "-1.5")]) == "- n: -1.5", "no other number than it is"
    made, cells = shown(run_report.grid(["a", "b"], [[text, "end"]]))
    assert (made, cells) == (set(), ["a", "b", said, "end"])


@pytest.mark.parametrize("text", ["# A text\n![p](http://e.org)\n<script>", "```\n<b>\n````\n# x\n"])
def test_settings_stand_in_the_report_as_they_are(text: str) -> None:
    (fence,) = MarkdownIt("commonmark").parse(run_report.code(text))
    assert (fence.type, fence.content.rstrip()) == ("fence", text.rstrip())


def test_only_an_admin_fetches_a_report(db: Database, data_dir: Path) -> None:
    job_id, (*_others, reports) = finished(db), DownloadEndpoint(db, data_dir).routes()

    def ask(role: str | None, name: str) -> tuple[int, str]:
        known = {} if role is None else {ANNOTATOR_KEY: Annotator(1, "kim", role)}  # type: ignore[arg-type]
        scope = {"type": "http", "path_params": {"name": name}, **known}
        answer = asyncio.run(reports.endpoint(Request(scope)))
        return answer.status_code, answer.headers.get("content-disposition", "")

    name = report_address(job_id).split("/")[1]
    assert ask("admin", name) == (200, f'attachment; filename="{name}"')
    assert [ask(role, name)[0] for role in ("annotator", None)] == [403, 403]
    assert [ask("admin", other)[0] for other in ("run-999.md", "run-x.md", "../x", "run-1.md.md")] == [404] * 4
