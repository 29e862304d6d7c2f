"""HTML that pages are made of: sentences, tables and progress bars; all text goes through `escape`. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from annotation.translation import N_, _
from annotation.ui.formatting import NOTHING
from annotation.ui.invisible import visible

# Characters from which a table's cell is a sentence and may wrap.
WORDY = 32
# A head of more letters has room for them, or it is many lines high above all the others.
LONG_HEAD = 20
# Who says a message of a conversation.
ROLES: Final[Mapping[str, str]] = {"system": N_("Instructions"), "user": N_("User"), "assistant": N_("Assistant")}


@dataclass(frozen=True)
class Download:
    """A file to be fetched, and what its link says."""

    address: str
    name: str


@dataclass(frozen=True)
class Bar:
    """A table's cell that shows a share as a bar; one above the whole is full and striped."""

    share: float
    said: str


@dataclass(frozen=True)
class Chip:
    """A table's cell that says a state, in a colour as well: 'good', 'bad', 'open' or none."""

    words: str
    state: str = ""


@dataclass(frozen=True)
class Explained:
    """A table's cell whose name is explained to whoever asks."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Button:
    """A table's cell that can be pressed: what its box does then, and with what."""

    words: str
    act: str
    subject: str


@dataclass(frozen=True)
class Way:
    """A table's cell that leads to another place of the page."""

    address: str
    words: str


@dataclass(frozen=True)
class Choosable:
    """A table's cell that names its row, with a box to choose the row by; its name leads to what the row is about."""

    name: Way
    value: str
    label: str
    """Of the box."""


@dataclass(frozen=True)
class Noted:
    """A table's cell that says a state and, small below it, what else is to be known."""

    state: Chip
    notes: Sequence[str]


Cell = str | Download | Bar | Chip | Explained | Button | Way | Choosable | Noted
Row = Sequence[Cell]


def escape(text: str, quote: bool = True) -> str:
    """Any text as HTML that shows it, with what can't be seen spelt out: the one way from a text into markup."""
    return html.escape(visible(text), quote)


def paragraph(sentence: str, style: str = "") -> str:
    return f"<p{class_of(style)}>{escape(sentence)}</p>"


def status(sentence: str, style: str = "") -> str:
    """A sentence that is announced to screen readers as well; nothing for none."""
    return f'<p role="status"{class_of(style)}>{escape(sentence)}</p>' if sentence else ""


def card_title(title: str, sentence: str = "") -> str:
    """What a card is about, and what is to be said of it first."""
    return f'<p class="headline"><b>{escape(title)}</b>{escape(f" {sentence}" if sentence else "")}</p>'


def heading(title: str) -> str:
    return f"<h2>{escape(title)}</h2>"


def card(title: str, inside: str) -> str:
    return f'<section class="card"><h2>{escape(title)}</h2>{inside}</section>'


def titled_card(inside: str) -> str:
    """A card whose inside says what it is: a chart, or what unfolds."""
    return f'<section class="card">{inside}</section>'


def label(words: str) -> str:
    return paragraph(words, "label")


def role_name(role: str) -> str:
    return _(ROLES[role]) if role in ROLES else role


def conversation(messages: Iterable[Mapping[str, str]]) -> str:
    """Every message with who said it."""
    return "".join(text_box(role_name(one["role"]), escape(one["content"])) for one in messages)


def conversation_text(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt as text: its one question, or every message with who said it."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{role_name(one['role'])}: {one['content']}" for one in messages)


def text_box(title: str, inside: str, scrolls: bool = False) -> str:
    # Only what has the focus scrolls by keyboard.
    focus = ' tabindex="0"' if scrolls else ""
    return f'<h3>{escape(title)}</h3><pre dir="auto"{focus}>{inside}</pre>'


def sides(boxes: Iterable[str], strip: bool = False) -> str:
    start = '<div class="sides strip" tabindex="0">' if strip else '<div class="sides">'
    return f"{start}{''.join(f'<div>{inside}</div>' for inside in boxes)}</div>"


def answers_to(prompt: str, boxes: Iterable[str], strip: bool = False) -> str:
    """A prompt, and below it answers beside each other."""
    return f'<div class="pair"><pre class="prompt">{escape(prompt)}</pre>{sides(boxes, strip)}</div>'


def acts(ways: str) -> str:
    """Links and buttons below what they are about; nothing for none."""
    return f'<p class="acts">{ways}</p>' if ways else ""


def pages(said: str, before: str = "", after: str = "") -> str:
    """Where somebody is in a list or in its pages, with the ways around it; nothing of it may be said."""
    return f'<p class="pages">{before}{f"<span>{escape(said)}</span>" if said else ""}{after}</p>'


def cards(shown: Iterable[str]) -> str:
    return f'<div class="cards">{"".join(shown)}</div>'


def beside(parts: Iterable[str]) -> str:
    """Parts beside each other where there is room."""
    return f'<div class="beside">{"".join(parts)}</div>'


def decided(said: str, undo: str) -> str:
    """HTML that says what somebody decided, and beside it the button that takes it back, where there is one."""
    return f'<div class="decided"><div>{said}</div>{f"<span>{undo}</span>" if undo else ""}</div>'


def points(sentences: Sequence[str]) -> str:
    entries = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="points">{entries}</ul>' if entries else ""


def log(text: str) -> str:
    """A long text, letter for letter, which scrolls in its own box."""
    # Only what has the focus scrolls by keyboard.
    return f'<pre class="log" tabindex="0">{escape(text)}</pre>'


def unfold(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def chip(entry: Chip) -> str:
    return f"<span{class_of(f'chip {entry.state}'.strip())}>{escape(entry.words)}</span>"


def explained(entry: Explained) -> str:
    """A name, and behind an "i" what it means; the name alone where there is nothing to say."""
    return escape(entry.name) + hint(entry)


def hint(entry: Explained) -> str:
    """An "i", and behind it what a name means that stands beside it; nothing where there is nothing to say."""
    if not entry.meaning:
        return ""
    asks = _("What is meant by {name}").format(name=entry.name)
    return f'<details class="why"><summary aria-label="{escape(asks)}">i</summary>{escape(entry.meaning)}</details>'


def act_button(words: str, act: str, subject: str) -> str:
    """A button within HTML; the script of its box, `annotation.tabs.components.acting_box`, tells the server of it."""
    return f'<button type="button" data-act="{escape(act)}" data-subject="{escape(subject)}">{escape(words)}</button>'


def way(address: str, words: str) -> str:
    """A link to another place of the page that looks like a button."""
    return f'<a class="button" href="{escape(address)}">{escape(words)}</a>'


def within(place: Way) -> str:
    return f'<a href="{escape(place.address)}">{escape(place.words)}</a>'


def download_button(address: str, words: str) -> str:
    """A link that fetches a file and looks like a button."""
    return f'<p><a class="button" href="{escape(address)}" download>{escape(words)}</a></p>'


def links(files: Sequence[Download]) -> str:
    shown = "".join(f'<a href="{escape(one.address)}" download>{escape(one.name)}</a>' for one in files)
    return f'<p class="links">{shown}</p>' if shown else ""


def table(
    headers: Sequence[str | Way],
    rows: Sequence[Row],
    empty: str = "",
    numbers: Sequence[str] = (),
    caption: str = "",
    data: bool = False,
    label: str = "",
) -> str:
    """A table that scrolls in its own box; `numbers` names columns set to the right, `empty` stands for no rows.

    Lines of a cell after its first are set small, but for somebody's `data`, which stays as it is. With a caption, or a
    `label` that is heard only since a heading above says it, the first column names the rows and stays in sight.
    """
    called = caption or label
    if empty and not rows:
        return paragraph(empty, "quiet")
    right = [header in numbers for header in headers]
    head = "".join(table_cell('th scope="col"', text, number) for text, number in zip(headers, right, strict=True))
    tags = ['th scope="row"' if called else "td", *("td" for _ in headers[1:])]
    body = "".join(
        f"<tr>{''.join(table_cell(*column, data) for column in zip(tags, row, right, strict=True))}</tr>"
        for row in rows
    )
    style = " ".join(["scroll", *(["captioned"] if called else []), *(["data"] if data else [])])
    region = f' role="region" aria-label="{escape(called)}"' if called else ""
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    # Only what has the focus scrolls by keyboard.
    return (
        f'<div class="{style}" tabindex="0"{region}><table>{named}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def telling(headers: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], list[Row]]:
    """The columns of a table in which some row has more than a dash or a nought."""
    kept = [place for place in range(len(headers)) if any(row[place] not in (NOTHING, "0") for row in rows)]
    return [headers[place] for place in kept], [[row[place] for place in kept] for row in rows]


def table_cell(tag: str, entry: Cell, number: bool, data: bool = False) -> str:
    """One cell of a table; a sentence is marked as one that may wrap."""
    style, inside = "", ""
    if isinstance(entry, Download):
        inside = f'<a href="{escape(entry.address)}" download>{escape(entry.name)}</a>'
    elif isinstance(entry, Way):
        style = "wordy" if len(entry.words) > WORDY else ""
        inside = within(entry)
    elif isinstance(entry, Chip):
        inside = chip(entry)
    elif isinstance(entry, Explained):
        inside = explained(entry)
    elif isinstance(entry, Button):
        inside = act_button(entry.words, entry.act, entry.subject)
    elif isinstance(entry, Choosable):
        box = f'<input type="checkbox" value="{escape(entry.value)}" aria-label="{escape(entry.label)}">'
        inside = f'<label class="row">{box}</label>{within(entry.name)}'
    elif isinstance(entry, Noted):
        inside = chip(entry.state) + "".join(f'<span class="quiet">{escape(note)}</span>' for note in entry.notes)
    elif isinstance(entry, Bar):
        over, said = " over" if entry.share > 1 else "", escape(entry.said)
        filled = f'<div style="width: {min(entry.share, 1):.1%}"></div>'
        inside = f'<div class="bar{over}" role="img" aria-label="{said}" title="{said}">{filled}</div>'
    else:
        first, *others = [entry] if data else entry.split("\n")
        style = "number" if number else "wordy" if max(map(len, (first, *others))) > WORDY else ""
        if tag == 'th scope="col"' and len(first) > LONG_HEAD:
            style = " ".join(filter(None, (style, "long")))
        inside = escape(first) + "".join(f'<span class="quiet">{escape(other)}</span>' for other in others)
    return f"<{tag}{class_of(style)}>{inside}</{tag[:2]}>"


def or_empty(text: str) -> str:
    """A text as HTML; where there is none that it is empty, which a box would not say."""
    empty = _("(empty)")
    return text or f"<i>{escape(empty)}</i>"


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
