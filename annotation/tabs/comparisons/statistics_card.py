"""Statistics of the filtered comparisons, as HTML; all text is escaped. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from annotation.tabs.comparisons import words
from annotation.tabs.comparisons.comparison_table import STATISTICS, ListPlace
from annotation.translation import _, ngettext, numeral
from annotation.ui import charts
from annotation.ui.charts import Frame
from annotation.ui.formatting import NOTHING, percent_of
from annotation.ui.markup import (
    Bar,
    Row,
    card,
    cards,
    facts,
    pages,
    paragraph,
    table,
    telling,
    titled_card,
    unfold,
    way,
)
from annotation.ui.tab_addresses import Place, link
from annotation.workbench.comparison_filter import SPLITS
from annotation.workbench.data_statistics import LENGTH_EDGES, DataStatistics, NamedCounts


def card_of(found: DataStatistics, looked: ListPlace) -> str:
    filtered = looked.comparisons.text
    top = ""
    if filtered:
        ways = way(looked.address, _("The list")) + way(link(STATISTICS, Place()), _("Of all"))
        said = _("Of the comparisons of one list.")
        top = pages(said, after=ways)
    if not found.comparisons:
        return top + paragraph(_("No comparison matches.") if filtered else _("There are no comparisons yet."))
    numbers = facts(
        [
            (_("Comparisons"), numeral(found.comparisons)),
            (_("Judgements"), numeral(found.judgements)),
            (_("Ties"), share_of(found.ties, found.judgements)),
            (_("All bad"), share_of(found.all_bad, found.judgements)),
            (_("Flagged"), numeral(found.flagged)),
        ],
        "facts figures",
    )
    rows: list[Row] = [
        (one.writer, numeral(one.answers), numeral(one.mean, ",.0f"), numeral(one.longest)) for one in found.writers
    ]
    headers = (_("Answers by"), _("Answers"), _("Mean length"), _("Longest"))
    tables = (
        days(found),
        counted(_("By status"), found.by_status, found.comparisons, lambda name: words.status_chip(name).words),
        counted(_("By prompt set"), found.by_source, found.comparisons),
        card(_("Length of answers, in characters"), table(headers, rows, numbers=headers[1:])) if rows else "",
    )
    answers = sum(n for _name, n in found.lengths)
    rest = (
        counted(_("Answers by length, in characters"), found.lengths, answers, length, folded),
        counted(_("By split"), found.by_split, found.comparisons, lambda name: _(SPLITS[name]), folded),
        counted(_("By number of answers"), found.by_answers, found.comparisons, framed=folded),
    )
    return f"{top}{numbers}{cards([people(found)])}{cards(tables)}{cards(rest)}"


def folded(title: str, inside: str) -> str:
    return titled_card(unfold(title, inside))


def counted(
    title: str,
    counts: NamedCounts,
    whole: int,
    name_of: Callable[[str], str] = str,
    framed: Callable[[str, str], str] = card,
) -> str:
    """A count for each name, as a number and as a bar; nothing without any."""
    if not counts:
        return ""
    rows: list[Row] = [
        (name_of(name), numeral(number), Bar(number / whole if whole else 0, percent_of(number, whole)))
        for name, number in counts
    ]
    return framed(title, table((_("What"), _("Count"), _("Share")), rows, numbers=(_("Count"),)))


def length(edge: str) -> str:
    """A span of lengths, named by where it ends; 0 is the last."""
    number = int(edge)
    if number == 0:
        return _("{least:,} and more").format(least=LENGTH_EDGES[-1])
    place = LENGTH_EDGES.index(number)
    return _("{least:,} to {most:,}").format(least=LENGTH_EDGES[place - 1] if place else 0, most=number - 1)


def people(found: DataStatistics) -> str:
    rows: list[Row] = [
        (
            one.name,
            numeral(one.judgements),
            share_of(one.ties, one.judgements),
            share_of(one.all_bad, one.judgements),
            numeral(one.skips),
            numeral(one.flags),
            NOTHING if one.seconds is None else f"{numeral(one.seconds, '.1f')} s",
        )
        for one in found.people
    ]
    headers: Sequence[str] = (
        *(_("Annotator"), _("Judgements"), _("Ties"), _("All bad"), _("Skips"), _("Flags"), _("Median time")),
    )
    return card(_("By annotator"), table(*telling(headers, rows), numbers=headers[1:])) if rows else ""


def share_of(part: int, whole: int) -> str:
    return f"{numeral(part)} ({percent_of(part, whole)})" if part else numeral(0) if whole else NOTHING


def days(found: DataStatistics) -> str:
    if not found.by_day:
        return ""
    total = sum(number for _day, number in found.by_day)
    sentence = ngettext("{count:,} judgement.", "{count:,} judgements.", total).format(count=total)
    frame = Frame("data-days", _("Judgements by day"), sentence)
    return titled_card(charts.columns(frame, found.by_day, _("judgements")))
