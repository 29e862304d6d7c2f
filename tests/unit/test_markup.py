"""The HTML of the admin's pages: strangers' text stays text, cells and bars say what they are."""

from __future__ import annotations

import re

import pytest

from annotation import markup
from annotation.markup import Download, progress_bar, table

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
        '<div class="scroll" tabindex="0"><table><thead><tr><th>Why</th><th class="number">Number</th></tr></thead>'
        '<tbody><tr><td>short</td><td class="number">7</td></tr>'
        f'<tr><td class="wordy">{"w" * 33}</td><td class="number">1,204</td></tr></tbody></table></div>'
    )
    assert table(("Why", "Number"), [], "nothing", ("Number",)) == '<p class="quiet">nothing</p>'


def test_a_finished_file_can_be_fetched() -> None:
    assert '<td><a href="files/a.zip" download>a.zip</a></td>' in table(
        ("File",), [(Download("files/a.zip", "a.zip"),)]
    )


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


def test_the_styles_pass_gradios_template_engine() -> None:
    for style in (markup.BOX_STYLE, markup.TABLE_STYLE, markup.BAR_STYLE, markup.WARNING_STYLE):
        assert not re.search(r"[`\\]|\{\{|\}\}|\$\{", style)
