"""The Export part of the Data tab: choose a format, see what would be in it, have it written, fetch it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from annotation.database import Database
from annotation.exports import export_files
from annotation.exports.export_command import shell_command
from annotation.exports.export_files import EXPORTS, WriteExport
from annotation.exports.formats import (
    CONTAINERS,
    FORMATS,
    LEFT_OUT,
    ONE_FILE,
    SOURCES,
    ExportContext,
    ExportRequest,
    Filters,
    check_request,
    iterations_of,
)
from annotation.exports.writing import DIRECTORY
from annotation.jobs.job_table import Job
from annotation.records import Annotator, UserError, who
from annotation.store import data_sources
from annotation.tabs.address import place_bar, told, visits
from annotation.tabs.components import (
    QUEUED,
    QUIET,
    button,
    html_box,
    labelled,
    licence_choice,
    open_choice,
    opening_of,
    row_number,
    text_in,
)
from annotation.tabs.guard import Context, guarded, guarded_steps
from annotation.tabs.polling import again, poll, pulse
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui.formatting import moment, size
from annotation.ui.markup import Download, Row, paragraph, progress_bar, status, table, unfold
from annotation.ui.tab_addresses import MAXIMUM_LENGTH, Place
from annotation.workbench.comparison_filter import ComparisonFilter, escaped, unescaped

POLL_SECONDS = 1
EXPLANATION = N_("What training uses, with a card that says what is in it and what was left out.")
FORMAT_CHOICES = [
    *((entry.title, name) for name, entry in FORMATS.items()),
    (N_("Raw: every judgement, also undone ones, and what it refers to"), "raw"),
]
CONTAINER_CHOICES = [(title, name) for name, title in CONTAINERS.items()]
# What stands in the address of a list's export where the list has no filter.
ALL = {"all": "1"}
SOURCE_CHOICES = [
    (N_("judged by people"), "human"),
    (N_("judged by AI"), "ai"),
    (N_("edited answers"), "edited"),
    (N_("imported"), "imported"),
]


# ------------------------------------------------------------------------------------------------------ form to request
def request_of(db: Database, *values: Any) -> ExportRequest:
    """The form as a request. Raises UserError naming what can't be had."""
    form = dict(zip(DEFAULTS, values, strict=True))
    request = ExportRequest(
        format=text_in(form["format"]),
        container=text_in(form["container"]),
        filters=Filters(
            iterations=tuple(number for number in map(row_number, list_of(form["iterations"])) if number is not None),
            policies=tuple(str(entry) for entry in list_of(form["policies"])),
            annotators=tuple(str(entry) for entry in list_of(form["annotators"])),
            since=text_in(form["since"]).strip(),
            until=text_in(form["until"]).strip(),
            agreement=number_of(form["agreement"]),
            sources=tuple(source for source in SOURCES if source in list_of(form["sources"])),
            comparisons=text_in(form["comparisons"]).strip().removeprefix("?"),
        ),
        names=bool(form["names"]),
        licence=text_in(form["licence"]).strip(),
    )
    if request.format == "raw":
        request = ExportRequest("raw")
    people = {one.name: one.name for one in data_sources.annotators(db)}
    check_request(request, ExportContext(iterations_of(data_sources.models(db)), people))
    return request


def list_of(value: Any) -> list[Any]:
    """What a choice of several holds; nothing where the browser sent no list."""
    return value if isinstance(value, list) else []


def number_of(value: Any) -> float:
    """What a slider holds, in hundredths: exactly what it shows."""
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return round(float(value), 2) if sound else 0.0


# ----------------------------------------------------------------------------------------------------- form and address
# The fields in the order of `request_of`'s values, with what they hold at first.
DEFAULTS: Mapping[str, Any] = {
    **{"format": "preference", "container": "dataset", "policies": [], "iterations": [], "annotators": []},
    **{"sources": [*SOURCES], "since": "", "until": "", "agreement": 0, "comparisons": "", "names": False},
    "licence": "",
}
# What an address calls those that a list's filter has a like of; the filter itself stands beside them, as in a list's.
CALLED: Mapping[str, str] = {"container": "files", "since": "first", "until": "last"}
KNOWN: Mapping[str, Collection[str]] = {"format": [*FORMATS, "raw"], "container": CONTAINERS, "sources": SOURCES}
# The fields that are folded, fold by fold: one that an address fills is unfolded.
FOLDED = ({"policies", "iterations", "annotators", "sources", "since", "until", "agreement"}, {"names", "licence"})
# How an address says that no source is chosen.
NOBODY = "none"


def addressed(query: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What an address says of the form's own fields, by field, and the rest of it: a list's filter."""
    called = {CALLED.get(name, name): name for name in DEFAULTS if name != "comparisons"}
    own = {called[name]: text for name, text in query.items() if name in called}
    return own, {name: text for name, text in query.items() if name not in called}


def form_of(own: Mapping[str, str]) -> dict[str, Any]:
    """The form's own fields as an address says them; one that it does not speak of, or wrongly, is as at first."""
    return {name: value_in(name, own.get(name)) for name in DEFAULTS if name != "comparisons"}


def value_in(name: str, text: str | None) -> Any:
    """What a field holds of which an address says this."""
    if name == "sources" and text == NOBODY:
        return []
    if text is None or (name in KNOWN and not all(one in KNOWN[name] for one in text.split(","))):
        return DEFAULTS[name]
    if isinstance(DEFAULTS[name], list):
        return [unescaped(one) for one in text.split(",") if one]
    if name == "names":
        return text == "yes"
    if name == "agreement":
        return int(text) / 100 if text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= 100 else 0
    return text


def text_of(name: str, value: Any) -> str:
    """A field's value as an address says it; nothing for what it holds at first."""
    if isinstance(DEFAULTS[name], list):
        chosen = [escaped(str(one)) for one in list_of(value)]
        return "" if sorted(chosen) == sorted(DEFAULTS[name]) else ",".join(chosen) or NOBODY
    if name == "names":
        return "yes" if value else ""
    if name == "agreement":
        return str(round(100 * number_of(value))) if number_of(value) else ""
    return "" if text_in(value) == DEFAULTS[name] else text_in(value).strip()


def address_of(values: Sequence[Any]) -> Any:
    """The address of what the form says, for the bar; what it had stays while the list's filter means nothing."""
    form = dict(zip(DEFAULTS, values, strict=True))
    try:
        query = ComparisonFilter.of(text_in(form.pop("comparisons")).strip().removeprefix("?")).query
    except UserError:
        return gr.skip()
    own = {CALLED.get(name, name): text_of(name, value) for name, value in form.items()}
    place = Place((), {**query, **own})
    return told(place, step=False) if len(place.part()) <= MAXIMUM_LENGTH else gr.skip()


# ------------------------------------------------------------------------------------------------------- what is shown
def count_card(request: ExportRequest, counted: Mapping[str, Mapping[str, int]]) -> str:
    rows, left_out = counted["rows"], counted["left_out"]
    total, raw = sum(rows.values()), request.format == "raw"
    parts = export_files.parts_of(rows)
    headline = (
        ngettext(
            "{total:,} row of the tables would be exported: {parts}.",
            "{total:,} rows of the tables would be exported: {parts}.",
            total,
        )
        if raw
        else ngettext("{total:,} row would be exported: {parts}.", "{total:,} rows would be exported: {parts}.", total)
    ).format(total=total, parts=parts)
    text = status(headline if parts else _("0 rows would be exported."), "headline")
    if raw:
        text += status(
            _(
                "Raw takes every judgement and what it refers to, with people's names: filters, names and licence "
                "don't apply. `python -m annotation restore FILE` reads it."
            )
        )
    if not left_out:
        return text
    entries = sorted(left_out.items(), key=lambda entry: -entry[1])
    reasons = [(_(LEFT_OUT[reason]), numeral(number)) for reason, number in entries]
    shown = table((_("Judgements, or pairs of answers"), _("Count")), reasons, numbers=(_("Count"),))
    return text + unfold(_("Left out: {count:,}").format(count=sum(left_out.values())), shown)


def progress_card(job: Job[WriteExport] | None, names: Collection[str]) -> str:
    """How the latest export stands; nothing of one whose file was deleted. `names` are of the files that there are."""
    if job is None or (job.status == "finished" and job.spec.file not in names):
        return ""
    by = paragraph(_("Requested by {name}.").format(name=who(job.requested_by)), "quiet")
    if not job.is_open:
        said = _(job.message)  # which names the file where there is one
        return status(said if job.status == "finished" else f"{job.spec.file}: {said}") + by
    bar = progress_bar(_("Export"), round(100 * job.step / job.steps) if job.steps else 0)
    doing = _(job.message) or _("begins")
    return status(f"{job.spec.file}: {doing}") + bar + by


def files_card(context: Context) -> str:
    found = export_files.files(context.data_dir)
    if not found:
        return status(_("There are no exports yet."))
    rows: list[Row] = [
        (Download(f"{DIRECTORY}/{entry.name}", entry.name), f"{moment(entry.made)} UTC", size(entry.size))
        for entry in found
    ]
    return table((_("File"), _("Made"), _("Size")), rows, numbers=(_("Size"),))


# ------------------------------------------------------------------------------------------------------------ the page
class ExportFormPage:
    """The components; the form's in the order of `request_of`'s values."""

    def __init__(self) -> None:
        gr.Markdown(_("## Export"))
        gr.Markdown(_(EXPLANATION))
        self.form, self.folded = build_form()
        self.count = html_box()
        with gr.Accordion(_("The same on the command line"), open=False):
            self.command = gr.Textbox(label=_("Command"), interactive=False, buttons=["copy"], lines=2)
        with gr.Row():
            self.write = button(_("Write the export"), "export-write", "primary")
            self.cancel = button(_("Cancel"), "export-cancel", "stop", visible=False)
        self.progress, self.files = html_box(), html_box()
        with gr.Accordion(_("Delete an export"), open=False, visible=False) as self.deletion, gr.Row():
            self.chosen = open_choice(_("Export"), min_width=240)
            self.delete = button(_("Delete"), variant="stop")
        self.deleted = html_box()
        self.pulse = pulse()

    @property
    def fields(self) -> list[Any]:
        return list(self.form.values())

    @property
    def shown(self) -> list[Any]:
        return [self.progress, self.files, self.chosen, self.pulse, self.cancel, self.deletion]


def build_form() -> tuple[dict[str, Any], list[gr.Accordion]]:
    """The fields by name, and what FOLDED are in; choices from the database are filled when the tab is opened."""
    form: dict[str, Any] = {}
    form["format"] = gr.Radio(labelled(FORMAT_CHOICES), value="preference", label=_("Format"), elem_id="export-format")
    form["container"] = gr.Radio(
        labelled(CONTAINER_CHOICES),
        value="dataset",
        label=_("Files"),
        info=_("In a zip with its card; CSV and raw are single files."),
    )
    with gr.Accordion(_("Filters"), open=False) as filters:
        with gr.Row():
            for name, label, info in (  # `check_request` has the last word
                ("policies", _("Policies"), _("That wrote the answers; none chosen: all.")),
                ("iterations", _("Trainings behind them"), _("Behind those policies; 0 is the base model.")),
                ("annotators", _("Annotators"), _("Who judged; none chosen: all.")),
            ):
                form[name] = open_choice(label, multiselect=True, info=info, min_width=240)
        form["sources"] = gr.CheckboxGroup(labelled(SOURCE_CHOICES), value=list(SOURCES), label=_("Sources"))
        with gr.Row():
            form["since"] = day(_("First day"), "export-since")
            form["until"] = day(_("Last day"), "export-until")
            form["agreement"] = gr.Slider(
                0,
                1,
                value=0,
                step=0.05,
                label=_("Minimum agreement"),
                info=_("Share of the annotators who preferred one of two answers that must agree."),
                min_width=240,
            )
    # The list's “Export” fills it in; nobody has to know what is typed there.
    form["comparisons"] = gr.Textbox(
        label=_("Only what the list of comparisons showed"),
        info=_("Its filter came with you from there. Empty it to export all."),
        visible=False,
        elem_id="export-comparisons",
    )
    with gr.Accordion(_("Names and licence"), open=False) as rights:
        form["names"] = gr.Checkbox(label=_("Name the annotators (otherwise each has a pseudonym)"))
        form["licence"] = licence_choice(elem_id="export-licence")
    return form, [filters, rights]


def day(label: str, name: str) -> gr.Textbox:
    info = _("UTC; empty: no limit.")
    return gr.Textbox(label=label, info=info, placeholder="2026-01-31", max_length=10, min_width=200, elem_id=name)


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay the part out inside the caller's tab and wire it; every value comes from a guarded handler."""
    wire(ExportFormPage(), context, opening_of(demo))


def wire(page: ExportFormPage, context: Context, opening: Any) -> None:
    admin = guarded(context, "admin")
    form = page.form
    filled = [form["policies"], form["iterations"], form["annotators"]]
    counted = [page.count, page.write]
    described = [page.command, form["container"]]
    changed = partial(gr.on, [field.change for field in page.fields])
    bar = place_bar()
    visits(bar, context, narrow_export, [], [*page.fields, *page.folded], api_name="export-only")
    opening(admin(partial(open_exports, context)), None, [*filled, *page.shown], api_name="export-open", **QUIET)
    # The browser runs what one event starts one after the other: what is quick comes first.
    opening(admin(partial(describe_export, context)), page.fields, described, api_name="export-describe", **QUIET)
    changed(
        admin(partial(redescribe_export, context)),
        page.fields,
        [*described, bar],
        api_name="export-redescribe",
        **QUIET,
    )
    # Counting reads every judgement, so only the latest state of the form is counted, one form at a time.
    count = guarded_steps(context, "admin", say_counting, partial(count_export, context))
    counting: Mapping[str, Any] = {**QUEUED, "trigger_mode": "always_last", "concurrency_limit": 1}
    for event, name in ((opening, "export-count"), (changed, "export-recount")):
        event(count, page.fields, counted, api_name=name, **counting)
    page.write.click(admin(partial(write_export, context)), page.fields, page.shown, api_name="export-write", **QUEUED)
    page.cancel.click(admin(partial(cancel_export, context)), None, page.shown, api_name="export-cancel", **QUEUED)
    poll(page.pulse, context, partial(export_status, context), [], page.shown, api_name="export-follow")
    told = [page.deleted, *page.shown]
    page.delete.click(admin(partial(delete_export, context)), page.chosen, told, api_name="export-delete", **QUEUED)


# ------------------------------------------------------------------------------------------------------------ handlers
def export_status(context: Context) -> list[Any]:
    """How the exports stand; it is asked again while one is being written."""
    latest = EXPORTS.newest(context.db)
    running = latest is not None and latest.is_open
    names = [entry.name for entry in export_files.files(context.data_dir)]
    choice = gr.skip() if running else gr.update(choices=names, value=None)
    return [progress_card(latest, names), files_card(context), choice, again(POLL_SECONDS if running else None),
            gr.update(visible=running), gr.update(visible=bool(names))]  # fmt: skip


def open_exports(context: Context) -> list[Any]:
    policies = iterations_of(data_sources.models(context.db))
    filters = [
        gr.update(choices=list(policies)),
        gr.update(choices=[str(number) for number in sorted(set(policies.values()))]),
        gr.update(choices=[one.name for one in data_sources.annotators(context.db)]),
    ]
    return [*filters, *export_status(context)]


def narrow_export(place: Place) -> list[Any]:
    """Fill the form in; what the address does not speak of stays, and `all` empties the filter.

    A filter that can't be read stands there as it came: the export refuses it, and an empty field would mean
    everything.
    """
    own, others = addressed(place.query)
    values: dict[str, Any] = form_of(own) if own else {}
    if place.unread:
        values["comparisons"] = place.unread.partition("?")[2] or place.unread
    elif place.query == ALL:
        values["comparisons"] = ""
    elif place.query:
        try:
            values["comparisons"] = ComparisonFilter.of_query(others).text
        except UserError:
            values["comparisons"] = urlencode(others)
    updates = {name: gr.update(value=value) for name, value in values.items()}
    if "comparisons" in values:
        updates["comparisons"] = gr.update(value=values["comparisons"], visible=values["comparisons"] != "")
    unfolded = (gr.update(open=True) if own.keys() & names else gr.skip() for names in FOLDED)
    return [*(updates.get(name, gr.skip()) for name in DEFAULTS), *unfolded]


def say_counting(*values: Any) -> list[Any]:
    """What is said until the form is counted: what stands there is of the form as it was."""
    return [status(_("Counting …")), gr.skip()]


def count_export(context: Context, *values: Any) -> list[Any]:
    try:
        request = request_of(context.db, *values)
        counted = export_files.count(context.data_dir, request)
    except UserError as error:
        return [status(str(error)), gr.update(interactive=False)]
    return [count_card(request, counted), gr.update(interactive=sum(counted["rows"].values()) > 0)]


def describe_export(context: Context, *values: Any) -> list[Any]:
    """The command line, where the form can be had, and whether there is a choice of files."""
    container = gr.update(interactive=text_in(values[0]) not in ONE_FILE)
    try:
        return [shell_command(request_of(context.db, *values), context.data_dir), container]
    except UserError:  # the count says why
        return ["", container]


def redescribe_export(context: Context, *values: Any) -> list[Any]:
    """The same once the form was changed, with its address."""
    return [*describe_export(context, *values), address_of(values)]


def write_export(context: Context, annotator: Annotator, *values: Any) -> list[Any]:
    export_files.start(context.db, request_of(context.db, *values), annotator.name)
    return export_status(context)


def cancel_export(context: Context) -> list[Any]:
    export_files.cancel(context.db)
    return export_status(context)


def delete_export(context: Context, name: Any) -> list[Any]:
    if not text_in(name):
        raise UserError(_("Choose an export first."))
    export_files.find(context.data_dir, text_in(name)).unlink()
    said = status(_("{file} is deleted.").format(file=text_in(name)))
    return [said, *export_status(context)]
