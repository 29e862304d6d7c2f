"""The table of comparisons with what can be done with the chosen ones, as HTML; all text is escaped. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from annotation.tabs.comparisons import words
from annotation.translation import _, ngettext, numeral
from annotation.ui.formatting import NOTHING, clock, cut, moment
from annotation.ui.markup import (
    Button,
    Choosable,
    Noted,
    Row,
    Way,
    act_button,
    escape,
    pages,
    paragraph,
    status,
    table,
    unfold,
    way,
)
from annotation.ui.tab_addresses import Place, link
from annotation.workbench.bulk_changes import BulkRequest, Change, ChangeKind, Plan
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_list import FilterChoices, ListedComparison, ListPage

SHOWN_PROMPT: Final = 140
LIST, STATISTICS, EXPORT = "data/comparisons", "data/statistics", "data/export"
# What the header of a column sorts by, and by when it is pressed again.
TURNS: Final = {"newest": "oldest", "latest": "earliest", "most": "fewest"}


EVERYTHING: Final = ComparisonFilter()


@dataclass(frozen=True)
class ListPlace:
    """What of the list is looked at: the filter, the order and the page."""

    comparisons: ComparisonFilter = EVERYTHING
    sort: str = "newest"
    page: int = 1

    @property
    def place(self) -> Place:
        sort = {"sort": self.sort} if self.sort != "newest" else {}
        page = {"page": str(self.page)} if self.page > 1 else {}
        return Place((), {**self.comparisons.query, **sort, **page})

    @property
    def address(self) -> str:
        return link(LIST, self.place)


def header(label: str, sort: str, looked: ListPlace) -> Way:
    """The header of a column that can be sorted by; pressed again it turns the order round."""
    turned = {second: first for first, second in TURNS.items()}
    mark = "" if turned.get(looked.sort, looked.sort) != sort else " ▼" if looked.sort == sort else " ▲"
    then = TURNS[sort] if looked.sort == sort else sort
    return Way(replace(looked, sort=then, page=1).address, f"{label}{mark}")


def table_of(page: ListPage, looked: ListPlace, known: FilterChoices, made: int | None = None) -> str:
    """The whole of it: how many there are, what can be done with them, the rows, and the way to further pages.

    None are chosen any more where it is drawn because the change of number `made` was made of them.
    """
    filtered = looked.comparisons.text
    top = filter_line(looked)
    if not page.rows:
        return top + status(_("No comparison matches.") if filtered else _("There are no comparisons yet."))
    counted = ngettext("{total:,} comparison", "{total:,} comparisons", page.total).format(total=page.total)
    headers: Sequence[str | Way] = (
        header(_("Number"), "newest", looked),
        _("Status"),
        _("Prompt"),
        header(_("Judgements"), "most", looked),
        header(_("Last judged (UTC)"), "latest", looked),
        _("Answers by"),
    )
    shown = table(headers, [row_of(one) for one in page.rows], caption=counted)
    bar = f"{top}{bulk_bar(page.total, known)}{shown}{pager(page, looked)}"
    done = "" if made is None else f' data-made="{made}"'
    return f'<div class="workbench" data-filter="{escape(filtered)}"{done}>{bar}</div>'


def filter_line(looked: ListPlace) -> str:
    """What the list is filtered by, each with the way to the list without it; nothing where it is not."""
    asked = {name: getattr(looked.comparisons, name) for name in words.FIELD_LABELS}
    ways = "".join(
        way(without(looked, name), f"{_(words.FIELD_LABELS[name])}: {words.field_value(name, value)} ×")
        for name, value in asked.items()
        if value
    )
    said = _("Filtered. Press one to leave it out:")
    return pages(said, after=ways) if ways else ""


def without(looked: ListPlace, name: str) -> str:
    """Where the list is that is not filtered by this field."""
    dropped = replace(looked.comparisons, **{name: type(getattr(looked.comparisons, name))()})
    return replace(looked, comparisons=dropped, page=1).address


def as_of(time: str, before: str = "") -> str:
    """When what is below was looked up, and the button that looks again: it does not follow what others do."""
    said, button = _("As of {time} UTC").format(time=clock(time)), act_button(_("Refresh"), "again", "")
    return pages(said, before, button)


def row_of(one: ListedComparison) -> Row:
    beginning = cut(" ".join(one.prompt.split()), SHOWN_PROMPT)
    held_out = " · " + _("held out") if one.split == "held-out" else ""
    notes = [_("to {whom}").format(whom=one.assigned)] if one.assigned else []
    notes += [_("flagged")] if one.flagged else []
    name = Way(link(LIST, Place((str(one.id),))), f"#{one.id}")
    judged = str(one.judged) if one.judged >= one.wanted else f"{one.judged} / {one.wanted}"
    return (
        Choosable(name, str(one.id), _("Choose comparison {number}").format(number=one.id)),
        Noted(words.status_chip(one.status), notes),
        f"{beginning}\n{one.source}{held_out}",
        judged + (f"\n{one.judges}" if one.judges else ""),
        moment(one.last_judged),
        one.writers or NOTHING,
    )


def bulk_bar(total: int, known: FilterChoices) -> str:
    """What can be done with the chosen ones; the script of the box fills in how many are chosen."""
    chosen, every = escape(_("chosen")), escape(_("all {total:,} in this list").format(total=total))
    scopes = f'<option value="chosen" data-words="{chosen}">{chosen} (0)</option><option value="all">{every}</option>'
    said = (_("With several comparisons"), _("Which comparisons"), _("Choose this page"))
    label, which, page = map(escape, said)
    ways = act_button(_("Statistics"), "go", f"/{STATISTICS}") + act_button(_("Export"), "go", f"/{EXPORT}?all=1")
    return (
        f'<div class="bulk" role="group" aria-label="{label}">'
        f'<label class="tick"><input type="checkbox" data-page> {page}</label>'
        f'<select data-scope aria-label="{which}">{scopes}</select>'
        f"{acts(known)}{ways}</div>"
    )


def acts(known: FilterChoices) -> str:
    """Whom to assign to, and a button for each kind of change."""
    kinds: Sequence[ChangeKind] = ("release", "settle", "skip", "withdraw")
    people = "".join(option(f"person:{name}", name) for name in known.active)
    several = "".join(option(f"group:{name}", _("group {name}").format(name=name)) for name in known.groups)
    label, assign = escape(_("To whom")), act_button(_("Assign to"), "plan", "assign")
    whom = f'<select data-whom aria-label="{label}">{people}{several}</select>'
    buttons = "".join(act_button(_(words.BUTTONS[kind]), "plan", kind) for kind in kinds)
    return f'<span class="assign">{assign}{whom}</span>{buttons}'


def option(value: str, label: str) -> str:
    return f'<option value="{escape(value)}">{escape(label)}</option>'


def pager(page: ListPage, looked: ListPlace) -> str:
    if page.pages == 1:
        return ""
    said = _("Page {number:,} of {pages:,}").format(number=page.number, pages=page.pages)
    back = way(replace(looked, page=page.number - 1).address, _("Previous")) if page.number > 1 else ""
    on = way(replace(looked, page=page.number + 1).address, _("Next")) if page.number < page.pages else ""
    return pages(said, back, on)


def confirmation(asked: BulkRequest, planned: Plan, meanwhile: str = "") -> str:
    """The question before a change. `meanwhile`: why it is asked once more."""
    whom = asked.whom.partition(":")[2]
    again = paragraph(meanwhile) if meanwhile else ""
    rest = words.left_out(asked.kind, planned.left_out)
    if not planned.changed:
        none = status(_("None of these can be changed so."))
        return f'<div class="confirm">{none}{again}{paragraph(rest)}{leave()}</div>'
    request = {"kind": asked.kind, "comparisons": asked.comparisons.text, "whom": asked.whom}
    confirmed = json.dumps({**request, "expected": planned.changed})
    words_of = f"{_(words.BUTTONS[asked.kind])} ({numeral(planned.changed)})"
    return (
        f'<div class="confirm">{status(words.question(asked.kind, planned.changed, whom), "headline")}'
        f"{again}{paragraph(_(words.MEANINGS[asked.kind]))}{paragraph(rest) if rest else ''}"
        f"<p>{act_button(words_of, 'make', confirmed)} {leave()}</p></div>"
    )


def leave() -> str:
    return act_button(_("Leave it"), "leave", "")


def made(change: Change) -> str:
    said = words.outcome(change.kind, change.comparisons, change.whom)
    undo = act_button(_("Undo"), "undo", str(change.id))
    return f'<div class="confirm">{status(said, "headline")}<p>{undo}</p></div>'


def taken_back(change: Change, count: int) -> str:
    """That a change was taken back, and of how many comparisons where something came of the others meanwhile."""
    said = words.outcome(change.kind, change.comparisons, change.whom)
    if change.undone_by is None:
        of_these = _(
            "Taken back for {count:,} of them. The rest stays withdrawn while the model answers in another way. {what}"
        )
    elif count < change.comparisons:
        of_these = _(
            "Taken back for {count:,} of them; the rest was given back before, judged or changed meanwhile. {what}"
        )
    else:
        of_these = _("Taken back. {what}")
    back = status(of_these.format(count=count, what=said), "headline")
    return f'<div class="confirm">{back}</div>'


def partly_undone(change: Change) -> str:
    """Of how many comparisons a change was taken back, where that is not known to be all or none."""
    if change.undone_for in (None, change.comparisons):
        return ""
    return _("undone for {undone:,} of {count:,}").format(undone=change.undone_for, count=change.comparisons)


def changes_table(changes: Sequence[Change]) -> str:
    """The latest bulk changes, each to be taken back; nothing where there is none."""
    if not changes:
        return ""
    rows: list[Row] = [
        (
            "\n".join(filter(None, (words.outcome(one.kind, one.comparisons, one.whom), partly_undone(one)))),
            one.decided_by,
            moment(one.created),
            Button(_("Undo"), "undo", str(one.id))
            if one.undone_by is None
            else _("taken back by {name}").format(name=one.undone_by),
        )
        for one in changes
    ]
    headers = (_("Bulk change"), _("By"), _("When (UTC)"), _("Act"))
    return unfold(_("Latest bulk changes"), table(headers, rows, caption=_("Latest bulk changes")))
