"""Comparisons and Statistics on the Data tab: filters in a row, the table, bulk changes, and the page of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, UserError, now
from annotation.tabs.address import place_bar, told, visits
from annotation.tabs.comparisons import comparison_card, comparison_table, statistics_card, words
from annotation.tabs.comparisons.comparison_table import ListPlace
from annotation.tabs.components import QUEUED, QUIET, acting_box, html_box, open_choice, pressed, row_number, text_in
from annotation.tabs.guard import Context, guarded, guarded_event
from annotation.translation import N_, _
from annotation.ui.markup import status, way
from annotation.ui.tab_addresses import MAXIMUM_LENGTH, Place, place_in
from annotation.validation import read
from annotation.workbench import bulk_changes, comparison_list, data_statistics
from annotation.workbench.bulk_changes import BulkRequest
from annotation.workbench.comparison_filter import LONGEST_FILTER, SAID, SPLITS, STATUSES, ComparisonFilter, numbers
from annotation.workbench.comparison_history import history, used_by
from annotation.workbench.comparison_list import SORTS, FilterChoices

SCRIPT: Final = Path(__file__).with_name("comparison_box.js").read_text(encoding="utf-8")
SEVERAL: Final = ("status", "person", "source", "assigned", "policy", "said", "split")
TOO_MANY: Final = N_("Too many are chosen for this. Choose fewer, or filter the list and take all of it.")
FIELDS: Final = ("q", "status", "person", "source", "sort", "assigned", "policy", "said", "split", "since", "until")


# ------------------------------------------------------------------------------------------------- fields and addresses
def filter_of(values: Sequence[Any]) -> ComparisonFilter:
    """The filter that the fields say. Raises UserError where it means nothing."""
    form = dict(zip(FIELDS, values, strict=True))
    asked: dict[str, Any] = {name: texts_in(form[name]) for name in SEVERAL}
    asked |= {name: text_in(form[name]).strip() for name in ("q", "since", "until")}
    return ComparisonFilter(**asked)


def texts_in(value: Any) -> tuple[str, ...]:
    """What a choice of several holds; nothing where the browser sent no list of texts."""
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def sort_of(value: Any) -> str:
    return value if isinstance(value, str) and value in SORTS else "newest"


def looked_at(place: Place) -> ListPlace:
    """The list that an address names. Raises UserError that says what of it means nothing."""
    if place.unread:
        raise UserError(_("This address is too long or damaged. Open Comparisons anew and filter there."))
    query = {name: value for name, value in place.query.items() if name not in ("sort", "page")}
    page = row_number(place.query.get("page", "1")) or 1
    return ListPlace(ComparisonFilter.of_query(query), sort_of(place.query.get("sort")), page)


def list_of(values: Sequence[Any]) -> ListPlace:
    """The list that the fields say. Raises UserError where they mean nothing, or more than an address holds."""
    form = dict(zip(FIELDS, values, strict=True))
    looked = ListPlace(filter_of(values), sort_of(form["sort"]))
    if len(looked.place.part()) > MAXIMUM_LENGTH:
        raise UserError(_("This is more than the address of a list can hold. Choose fewer."))
    return looked


def field_updates(looked: ListPlace, known: FilterChoices) -> list[Any]:
    """The fields as an address fills them, with what there is to choose from now."""
    choices: dict[str, Iterable[str]] = {"person": known.people, "source": known.sources, "policy": known.policies}
    choices["assigned"] = dict.fromkeys((*known.active, *known.groups))
    values: dict[str, Any] = {name: list(getattr(looked.comparisons, name)) for name in SEVERAL}
    values |= {name: getattr(looked.comparisons, name) for name in ("q", "since", "until")}
    values["sort"] = looked.sort
    offered: dict[str, Any] = {name: {"choices": list(offer)} for name, offer in choices.items()}
    return [gr.update(value=values[name], **offered.get(name, {})) for name in FIELDS]


# ------------------------------------------------------------------------------------------------------------ the page
class ComparisonsPage:
    """The components of the list, without any value. `looked` is the part of the address that the box shows."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        fields = self.fields
        with gr.Column() as self.filters:
            with gr.Row(elem_classes=["filters"]):
                label, hint = _(words.FIELD_LABELS["q"]), _("Words, or a number")
                fields["q"] = gr.Textbox(label=label, placeholder=hint, min_width=180, elem_id="comparisons-search")
                fields["status"] = several("status", [(_(word), name) for name, word in STATUSES.items()])
                fields["person"] = several("person", [])
                fields["source"] = several("source", [])
                orders = [(_(word), name) for name, (word, _order) in SORTS.items()]
                fields["sort"] = gr.Dropdown(orders, value="newest", label=_("Order"), min_width=160)
            with gr.Accordion(_("More filters"), open=False), gr.Row():
                fields["assigned"] = several("assigned", [])
                fields["policy"] = several("policy", [])
                fields["said"] = several("said", [(_(word), name) for name, (word, _sql) in SAID.items()])
                fields["split"] = several("split", [(_(word), name) for name, word in SPLITS.items()])
                fields["since"] = day("since")
                fields["until"] = day("until")
        self.said = acting_box(speaks=True, elem_id="comparisons-said")
        self.box = html_box(js_on_load=SCRIPT, elem_id="comparisons-box")
        self.changes = acting_box(elem_id="comparisons-changes")
        self.looked, self.bar = gr.State(""), place_bar()

    @property
    def inputs(self) -> list[Any]:
        return [self.fields[name] for name in FIELDS]

    @property
    def shown(self) -> list[Any]:
        """What is drawn anew by whatever changes something."""
        return [self.said, self.box, self.changes]


def several(name: str, choices: Sequence[tuple[str, str]]) -> gr.Dropdown:
    """A choice of several; one that was made before the program was restarted must still be accepted after it."""
    return open_choice(
        _(words.FIELD_LABELS[name]), list(choices), multiselect=True, min_width=160, elem_classes=["any"]
    )


def day(name: str) -> gr.Textbox:
    return gr.Textbox(label=_(words.FIELD_LABELS[name]), placeholder="2026-01-31", max_length=10, min_width=140)


def build(context: Context) -> None:
    """Lay the list out inside the caller's tab and wire it; every value comes from a guarded handler."""
    page = ComparisonsPage()
    wire_views(page, context)
    wire_acts(page, context)


# -------------------------------------------------------------------------------------------------------------- views
def list_html(db: Database, looked: ListPlace, made: int | None = None) -> str:
    page = comparison_list.list_page(db, looked.comparisons, looked.sort, looked.page)
    return comparison_table.as_of(now()) + comparison_table.table_of(page, looked, comparison_list.choices(db), made)


def card_html(context: Context, number: int | None, back: str) -> str:
    """The page of one comparison. Raises UserError where there is none."""
    if number is None:
        raise UserError(_("There is no such comparison."))
    found = history(context.db, number)
    used = used_by(context.db, context.data_dir, number)
    top = comparison_table.as_of(now(), way(back, _("Back to the list")))
    return top + comparison_card.card_of(found, used, comparison_list.choices(context.db))


def box_html(context: Context, place: Place, back: str = "/data/comparisons", made: int | None = None) -> str:
    """What an address of the list shows: the page of a comparison, or the table; or why there is none.

    `made` is the number of the change because of which it is drawn.
    """
    try:
        if place.first:
            return card_html(context, row_number(place.first), back)
        return list_html(context.db, looked_at(place), made)
    except UserError as error:
        return status(str(error), "warning")


def changes_html(db: Database) -> str:
    return comparison_table.changes_table(bulk_changes.changes(db))


def wire_views(page: ComparisonsPage, context: Context) -> None:
    def open_comparisons(place: Place, *values: Any) -> list[Any]:
        if place.first:
            back = address_of(values)
            shown = ["", box_html(context, place, back), "", place.part()]
            return [*(gr.skip() for _field in FIELDS), gr.update(visible=False), *shown]
        try:
            looked = looked_at(place)
        except UserError:  # the box says why
            looked = ListPlace()
        updates = field_updates(looked, comparison_list.choices(context.db))
        shown = ["", box_html(context, place), changes_html(context.db), place.part()]
        return [*updates, gr.update(visible=True), *shown]

    @guarded(context, "admin")
    def filter_comparisons(*values: Any) -> list[Any]:
        return filtered(context, values, step=True)

    @guarded(context, "admin")
    def search_comparisons(*values: Any) -> list[Any]:
        return filtered(context, values, step=False)

    @guarded(context, "admin")
    def look_again(part: Any, *values: Any) -> str:
        return box_html(context, place_in(part), address_of(values))

    visits(
        page.bar, context, open_comparisons, page.inputs, [*page.inputs, page.filters, *page.shown, page.looked],
        api_name="comparisons-open",
    )  # fmt: skip
    outputs = [page.said, page.box, page.looked, page.bar]
    options = {**QUIET, "trigger_mode": "always_last"}
    for name in (*SEVERAL, "sort"):
        page.fields[name].input(filter_comparisons, page.inputs, outputs, api_name=f"comparisons-{name}", **options)
    page.box.again(look_again, [page.looked, *page.inputs], page.box, api_name="comparisons-again", **QUIET)
    page.box.typed(search_comparisons, page.inputs, outputs, api_name="comparisons-search", **options)


def address_of(values: Sequence[Any]) -> str:
    """Where the list is that the fields say; the whole list where they mean nothing."""
    try:
        return list_of(values).address
    except UserError:
        return ListPlace().address


def filtered(context: Context, values: Sequence[Any], step: bool) -> list[Any]:
    """The list that the fields say, and its address; where they mean nothing, why."""
    try:
        looked = list_of(values)
        return ["", list_html(context.db, looked), looked.place.part(), told(looked.place, step=step)]
    except UserError as error:
        return ["", status(str(error), "warning"), gr.skip(), gr.skip()]


# --------------------------------------------------------------------------------------------------------------- acts
@dataclass(frozen=True)
class ConfirmedChange:
    kind: str
    comparisons: str
    whom: str
    expected: int

    @property
    def request(self) -> BulkRequest:
        """The change that was confirmed. Raises UserError where it means nothing."""
        kind = bulk_changes.check_kind(self.kind)
        return BulkRequest(kind, ComparisonFilter.of(self.comparisons), self.whom)


@dataclass(frozen=True)
class ChangeAsked:
    """What a press on the table sends: what is to become of which comparisons."""

    subject: str
    act: str = ""
    whom: str = ""
    all: bool = False
    filter: str | None = None
    """That of the list which the table was drawn from."""
    ids: list[str] = field(default_factory=list)


def planned(event: Any, looked: Place, values: Sequence[Any]) -> BulkRequest:
    """The change that a press on the table asks for. Raises UserError for what is none.

    All of a list are those that the table was drawn from, if the address and the fields, `values`, say the same.
    """
    asked = read(ChangeAsked, event, _("The request"))
    kind = bulk_changes.check_kind(asked.subject)
    if asked.all:
        comparisons = looked_at(looked).comparisons
        shown = replace(filter_of(values), ids=comparisons.ids)  # for which there is no field
        if not asked.filter == comparisons.text == shown.text:  # such as after a restart
            raise UserError(_("What is looked at is another list by now. Reload the page."))
        return BulkRequest(kind, comparisons, asked.whom)
    chosen = numbers(",".join(asked.ids))
    if not chosen:
        raise UserError(_("Choose comparisons first."))
    wanted = ComparisonFilter(ids=chosen)
    if len(wanted.text) > LONGEST_FILTER:
        raise UserError(_(TOO_MANY))
    return BulkRequest(kind, wanted, asked.whom)


def json_of(text: str) -> Any:
    """What a confirmation sent; nothing where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def wire_acts(page: ComparisonsPage, context: Context) -> None:
    db = context.db

    @guarded_event(context, "admin")
    def plan_change(annotator: Annotator, event: Any, part: Any, *values: Any) -> str:
        what, _subject = pressed(event, {"plan": "plan", "many": "many"})
        if what == "many":
            raise UserError(_(TOO_MANY))
        asked = planned(event, place_in(part), values)
        return comparison_table.confirmation(asked, bulk_changes.plan(db, asked, annotator))

    def changed(said: str, part: Any, made: int | None = None) -> list[Any]:
        return [said, box_html(context, place_in(part), made=made), changes_html(db)]

    @guarded_event(context, "admin")
    def make_change(annotator: Annotator, event: Any, part: Any) -> list[Any]:
        what, subject = pressed(event, {"make": "make", "undo": "undo", "leave": "leave"})
        if what == "leave":
            return ["", gr.skip(), gr.skip()]
        if what == "undo":
            return changed(undone(db, subject, annotator), part)
        confirmed = read(ConfirmedChange, json_of(subject), _("The confirmation"))
        said, change_id = confirm(db, confirmed, annotator)
        return changed(said, part, change_id)

    @guarded_event(context, "admin")
    def undo_change(annotator: Annotator, event: Any, part: Any) -> list[Any]:
        _act, subject = pressed(event, {"undo": "undo"})
        return changed(undone(db, subject, annotator), part)

    page.box.act(plan_change, [page.looked, *page.inputs], page.said, api_name="comparisons-plan", **QUEUED)
    page.said.act(make_change, page.looked, page.shown, api_name="comparisons-change", **QUEUED)
    page.changes.act(undo_change, page.looked, page.shown, api_name="comparisons-undo", **QUEUED)


def confirm(db: Database, confirmed: ConfirmedChange, annotator: Annotator) -> tuple[str, int | None]:
    """Make the change, and say so; where it would be of another number by now, ask anew."""
    asked = confirmed.request
    found = bulk_changes.plan(db, asked, annotator)
    if found.changed != confirmed.expected:
        meanwhile = bulk_changes.another_number(found.changed, confirmed.expected)
        return comparison_table.confirmation(asked, found, meanwhile), None
    change_id = bulk_changes.make(db, asked, annotator, confirmed.expected)
    made = bulk_changes.change(db, change_id)
    assert made is not None
    return comparison_table.made(made), change_id


def undone(db: Database, subject: str, annotator: Annotator) -> str:
    number = row_number(subject)
    if number is None:
        raise UserError(_("There is no such change. Reload the page."))
    return comparison_table.taken_back(*bulk_changes.undo(db, number, annotator.name))


# --------------------------------------------------------------------------------------------------------- statistics
def build_statistics(context: Context) -> None:
    box, looked = acting_box(status(_("Counting …"))), gr.State("")
    bar = place_bar()

    def open_statistics(place: Place) -> list[Any]:
        return [statistics_html(context.db, place), place.part()]

    @guarded_event(context, "admin")
    def count_again(event: Any, part: Any) -> str:
        pressed(event, {"again": "again"})
        return statistics_html(context.db, place_in(part))

    visits(bar, context, open_statistics, [], [box, looked], api_name="comparisons-statistics")
    box.act(count_again, looked, box, api_name="comparisons-count-again", **QUEUED)


def statistics_html(db: Database, place: Place) -> str:
    """The statistics of the list that an address names, or why there are none."""
    try:
        looked = ListPlace(looked_at(place).comparisons)
    except UserError as error:
        return status(str(error), "warning")
    found = data_statistics.statistics(db, looked.comparisons)
    return comparison_table.as_of(now()) + statistics_card.card_of(found, looked)
