"""HTML that pages are made of: sentences, tables and progress bars; all text goes through `escape`. Pure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from annotation.ui.invisible import visible

# Each goes through Gradio's template engine: no backtick, no backslash, no double brace.
BOX_STYLE = """
.html-container:has(> &) { padding: 0; }
.block:has(> .html-container > &:empty) { display: none; }
"""
TABLE_STYLE = """
.scroll { overflow-x: auto; max-width: 100%; }
.scroll + .scroll { margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; font-size: var(--text-sm); margin: 0.25rem 0; border: 0; }
tr, thead, tbody { border: 0; }
th { text-align: left; font-weight: normal; opacity: 0.8; }
th, td { padding: 4px 14px 4px 0; border: 0; border-bottom: 1px solid var(--border-color-primary);
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
"""
BAR_STYLE = """
.bar { height: 12px; border-radius: 6px; background: var(--border-color-primary); overflow: hidden; margin: 6px 0; }
.bar > div { height: 100%; background: var(--color-accent); }
"""
WARNING_STYLE = """
.warning { border-left: 4px solid var(--color-accent); padding: 4px 10px; margin: 6px 0; }
"""
# Characters from which a table's cell is a sentence and may wrap.
WORDY = 32


@dataclass(frozen=True)
class Download:
    """A table's cell that fetches a file."""

    address: str
    name: str


Row = Sequence[str | Download]


def escape(text: str, quote: bool = True) -> str:
    """Any text as HTML that shows it, with what can't be seen spelt out: the one way from a text into markup."""
    return html.escape(visible(text), quote)


def paragraph(sentence: str, style: str = "") -> str:
    return f"<p{class_of(style)}>{escape(sentence)}</p>"


def status(sentence: str, style: str = "") -> str:
    """A sentence that is announced to screen readers as well; nothing for none."""
    return f'<p role="status"{class_of(style)}>{escape(sentence)}</p>' if sentence else ""


def table(headers: Sequence[str], rows: Sequence[Row], empty: str = "", numbers: Sequence[str] = ()) -> str:
    """A table that scrolls in its own box; `numbers` names columns set to the right, `empty` stands for no rows."""
    if empty and not rows:
        return paragraph(empty, "quiet")
    right = [header in numbers for header in headers]
    head = "".join(table_cell("th", text, number) for text, number in zip(headers, right, strict=True))
    body = "".join(
        "<tr>" + "".join(table_cell("td", entry, number) for entry, number in zip(row, right, strict=True)) + "</tr>"
        for row in rows
    )
    # Only what has the focus scrolls by keyboard.
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def table_cell(tag: str, entry: str | Download, number: bool) -> str:
    """One cell of a table; a sentence is marked as one that may wrap."""
    if isinstance(entry, Download):
        return f'<{tag}><a href="{escape(entry.address)}" download>{escape(entry.name)}</a></{tag}>'
    style = "number" if number else "wordy" if len(entry) > WORDY else ""
    return f"<{tag}{class_of(style)}>{escape(entry)}</{tag}>"


def progress_bar(label: str, percent: int | None) -> str:
    """A bar as long as the share that is done, to see and to hear; empty where that is not known."""
    known = "" if percent is None else f' aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}"'
    return (
        f'<div class="bar" role="progressbar" aria-label="{escape(label)}"{known}>'
        f'<div style="width: {percent or 0}%"></div></div>'
    )


def class_of(style: str) -> str:
    """The attribute that gives an element its style."""
    return f' class="{style}"' if style else ""


def facts(pairs: Sequence[tuple[str, str]], style: str = "facts") -> str:
    """Labels with their values, as many beside each other as fit."""
    cells = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in pairs)
    return f'<dl class="{style}">{cells}</dl>'


def notice(sentence: str) -> str:
    """What a button did, announced to screen readers as well."""
    return status(sentence, "quiet")


def done(sentence: str) -> str:
    """What changed for everybody, so that nobody overlooks it."""
    return status(sentence, "headline")
