"""The HTML of the admin's pages: strangers' text stays text, cells and bars say what they are."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from html import unescape

import pytest

from annotation import translation
from annotation.imports.import_report import ImportReport
from annotation.metrics.quality import AdminDecision, FlaggedCase
from annotation.tabs import import_form, quality_report
from annotation.ui import charts, invisible, markup
from annotation.ui.markup import Download, progress_bar, table
from annotation.workbench.gold import ComparisonReview
from rlhf.jobs.descriptions import TokenSequence, TokenSpan
from rlhf.jobs.job_store import SampleAnswer
from rlhf.tabs.iterations import check_report
from rlhf.tabs.iterations.check_report import AnswerPair
from rlhf.tabs.jobs import job_cards
from rlhf.tabs.playground import playground_tab
from rlhf.tabs.train import plan_card
from tests.builders import checked_answer
from tests.machine_fixtures import ROOT
from tests.votes import vote

MOMENT = "2026-01-02T03:04:05.000000+00:00"
HOSTILE = '"><img src=x onerror=alert(1)> <think>hm</think>'


@pytest.mark.parametrize(
    "html",
    [
        markup.paragraph(HOSTILE),
        markup.status(HOSTILE, "warning"),
        table((HOSTILE,), []),
        table(("a",), [(HOSTILE,)]),
        table(("a",), [], HOSTILE),
        table(("a",), [(Download("files/x", HOSTILE),)]),
        table(("a",), [(Download(HOSTILE, "x"),)]),
        progress_bar(HOSTILE, 1),
    ],
)
def test_whatever_was_written_is_shown_literally(html: str) -> None:
    assert "&lt;img" in html
    assert "&lt;think&gt;hm&lt;/think&gt;" in html
    assert not re.search(r"<(img|think)", html)
    assert '=""' not in html  # nor does a quote end an attribute


def test_a_table_sets_numbers_to_the_right_and_lets_sentences_wrap() -> None:
    html = table(("Why", "Number"), [("short", "7"), ("w" * 33, "1,204")], "nothing", ("Number",))
    assert html == (
        '<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">Why</th>'
        '<th scope="col" class="number">Number</th></tr></thead>'
        '<tbody><tr><td>short</td><td class="number">7</td></tr>'
        f'<tr><td class="wordy">{"w" * 33}</td><td class="number">1,204</td></tr></tbody></table></div>'
    )
    assert table(("Why", "Number"), [], "nothing", ("Number",)) == '<p class="quiet">nothing</p>'


def test_a_finished_file_can_be_fetched() -> None:
    assert '<td><a href="files/a.zip" download>a.zip</a></td>' in table(
        ("File",), [(Download("files/a.zip", "a.zip"),)]
    )


# ------------------------------------------------------------------------------------------------------- what is unseen
HIDING = "pay\u202eyap\u200b\U000e0041\ufe0f\u2028\u3164end"
SAID = {"role": HIDING, "content": HIDING}
SAMPLE = SampleAnswer(HIDING, HIDING, "stop", tokens=3)
ANSWER = checked_answer(text=HIDING, rendered_prompt=HIDING)
LOOK = {
    "name": HIDING, "format": HIDING, "columns": [HIDING], "offered": [HIDING],
    "problem": "", "target": "preferences", "proposed": {},
    "notes": [HIDING], "counted": "", "asked": [], "usable": True,
    "rows": [{"number": 1, "values": {HIDING: HIDING}}], "bad": [{"number": 2, "reason": HIDING}],
    "records": [{"messages": [SAID, SAID], "answers": [HIDING], "ranking": None, "label": None, "outcome": "ranked",
                 "remark": HIDING}],
}  # fmt: skip
LOOKED = ImportReport.from_json({"look": LOOK}).look
OPINION = vote(1, HIDING, (1, 2), strength=1)
PLACES = {
    "quality, one comparison": lambda: quality_report.case_view(
        ComparisonReview(
            comparison_id=1,
            state="ready",
            messages=(SAID,),
            answers=(HIDING, HIDING),
            opinions=(OPINION,),
            consensus=0,
        )
    ),
    "quality, flags": lambda: quality_report.flagged_table(
        [FlaggedCase(comparison_id=1, flag="harmful", note=HIDING, annotator=HIDING, created=MOMENT, prompt=HIDING)], 1
    ),
    "quality, decisions": lambda: quality_report.decisions_table(
        [
            AdminDecision(
                what="leave-out", annotator=HIDING, comparison_id=None, reason=HIDING, decided_by=HIDING, created=MOMENT
            )
        ]
    ),
    "iterations, side by side": lambda: check_report.answers_page(
        [AnswerPair(HIDING, ANSWER, ANSWER)], 0, 1, (HIDING, HIDING)
    ),
    "runs, samples": lambda: job_cards.samples_box({HIDING: {0: SAMPLE}}),
    "runs, log": lambda: job_cards.log_box([HIDING]),
    "train, rows": lambda: plan_card.sequence_box(TokenSequence(HIDING, [TokenSpan("raised", [(HIDING, 2)])])),
    "playground, literal": lambda: playground_tab.turn(HIDING, HIDING, False),
    "playground, rendered": lambda: playground_tab.turn(HIDING, HIDING, True),
    "data, first rows": lambda: import_form.look_card(LOOKED),
    "data, what they become": lambda: import_form.meaning_card(LOOKED),
    "a table": lambda: table((HIDING,), [(HIDING,), (Download(HIDING, HIDING),)], HIDING),
    "sentences": lambda: markup.paragraph(HIDING) + markup.status(HIDING) + progress_bar(HIDING, 1),
    "a chart": lambda: charts.figure(charts.Frame(HIDING, HIDING, HIDING), "", 10, HIDING, "upright"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_can_not_be_seen_is_spelt_out_wherever_a_strangers_text_is_shown(place: Callable[[], str]) -> None:
    html = place()
    assert invisible.INVISIBLE.findall(unescape(html)) == []
    assert "⟨U+202E⟩" in html


def test_every_text_gets_into_markup_through_the_one_escape() -> None:
    """A new page can't forget what can't be seen: nothing else here takes Python's own `escape`."""
    allowed = {ROOT / "annotation/ui/markup.py", ROOT / "annotation/ui/markdown.py"}
    found = set()
    for path in [ROOT / "app.py", *(ROOT / "annotation").rglob("*.py"), *(ROOT / "rlhf").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            taken = isinstance(node, ast.ImportFrom) and node.module in ("html", "xml.sax.saxutils", "markupsafe")
            called = isinstance(node, ast.Attribute) and node.attr == "escape" and ast.unparse(node.value) == "html"
            if taken or called:
                found.add(path)
    assert found <= allowed


def test_a_sentence_is_announced_and_none_is_nothing() -> None:
    assert markup.status("Saved.") == '<p role="status">Saved.</p>'
    assert markup.status("Saved.", "quiet") == '<p role="status" class="quiet">Saved.</p>'
    assert markup.status("") == ""


def test_a_bar_says_how_far_it_is_where_that_is_known() -> None:
    known = progress_bar("Import", 40)
    assert 'aria-label="Import" aria-valuemin="0" aria-valuemax="100" aria-valuenow="40"' in known
    assert "width: 40%" in known
    unknown = progress_bar("Import", None)
    assert "aria-valuenow" not in unknown
    assert "width: 0%" in unknown


def test_a_conversation_says_who_said_what_in_the_readers_language() -> None:
    turns = [
        *({"role": "system", "content": "Be <b>brief</b>."}, {"role": "user", "content": "Hi"}),
        *({"role": "assistant", "content": "Hello"}, {"role": "tool", "content": "{}"}),
    ]
    assert markup.conversation_text(turns[1:3]) == "User: Hi\nAssistant: Hello"
    assert markup.conversation_text(turns[1:2]) == "Hi"
    with translation.speaking(translation.language_of("de")):
        html = markup.conversation(turns)
    assert re.findall("<h3>(.*?)</h3>", html) == ["Anweisungen", "Mensch", "Assistent", "tool"]
    assert '<pre dir="auto">Be &lt;b&gt;brief' in html


def test_a_share_is_said_as_well_as_drawn() -> None:
    assert 'role="img" aria-label="37%"' in table(("Share",), [(markup.Bar(0.37, "37%"),)])
