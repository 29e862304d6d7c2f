"""The Import part of the Data tab: choose a source, see what its columns are taken for, check it, import it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import gradio as gr

from annotation.imports.import_command import arguments_of, columns_line, rows_of
from annotation.imports.import_process import Importer, State
from annotation.imports.importing import HELD_OUT_SHARE, ImportPreview, ImportRequest, ImportResult, summary
from annotation.imports.mapping.columns import ROLES
from annotation.imports.mapping.import_plan import TARGETS
from annotation.imports.mapping.mapped_rows import MappedRow, remark_words
from annotation.imports.sources import file_formats
from annotation.records import Annotator, UserError, who
from annotation.tabs.components import QUEUED, QUIET, button, html_box, labelled, open_choice, opening_of, text_in
from annotation.tabs.guard import Context, guarded
from annotation.tabs.polling import again, poll, pulse
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui.formatting import cut, moment
from annotation.ui.invisible import visible
from annotation.ui.markup import acts, conversation_text, paragraph, progress_bar, status, table, unfold, way
from annotation.ui.tab_addresses import Place, link
from annotation.workbench.comparison_filter import ComparisonFilter

POLL_SECONDS = 1
MAXIMUM_UPLOAD = "500mb"
SHOWN_CELL = 200
SHOWN_SKIPPED = 50
UPLOAD, SERVER, HUB = "upload", "server", "hub"
SOURCES = [
    (N_("Upload a file"), UPLOAD),
    (N_("A file or directory on this server"), SERVER),
    (N_("A dataset on the Hub"), HUB),
]
TARGET_NAMES = [
    (N_("Prompts"), "prompts"),
    (N_("Demonstrations"), "demonstrations"),
    (N_("Preferences"), "preferences"),
]
TARGET_CHOICES = [(N_("As the columns suggest"), "auto"), *TARGET_NAMES]
VERDICT_CHOICES = [
    (N_("Judgements, to train on"), "judged"),
    (N_("Gold comparisons, to measure annotators"), "gold"),
    (N_("Left out: people are to judge"), "open"),
]
SPLIT_CHOICES = [
    (N_("To train on"), "train"),
    (N_("Held out, to check with"), "held-out"),
    (N_("A share held out"), "share"),
]
# Chosen for a role that no column has, where "–" leaves it open; no column is called so.
NONE = "\n"
NONE_MEANS = {"prompt": N_("none: the answers begin with it"), "label": N_("none: all are good")}
EXPLANATION = N_(
    "Prompts, demonstrations or preferences: {texts} (also as .gz), {others}, or a dataset's directory. What is there "
    "already is not imported twice."
)


def explanation() -> str:
    """What can be imported, by the table of formats."""
    texts, others = (
        ", ".join(one.name for one in file_formats.FORMATS if bool(one.mark) == marked) for marked in (False, True)
    )
    return _(EXPLANATION).format(texts=texts, others=others)


# ----------------------------------------------------------------------------------------------- form to command line
def source_of(kind: Any, upload: Any, path: Any, repository: Any, config: Any, split: Any) -> list[str]:
    """What to import, as arguments. Raises UserError where nothing has been chosen."""
    chosen = {UPLOAD: upload, SERVER: text_in(path).strip(), HUB: text_in(repository).strip()}.get(text_in(kind))
    if not isinstance(chosen, str) or not chosen:
        raise UserError(_("Choose what to import first: upload a file, or give a path or the name of a dataset."))
    arguments = [f"--source-split={text_in(split).strip()}"] if text_in(split).strip() else []
    arguments += ["--hub"] if kind == HUB else []
    arguments += [f"--config={text_in(config).strip()}"] if text_in(config).strip() else []
    return [*arguments, "--", chosen]


def order_of(
    target: Any, verdict: Any, split: Any, share: Any, rows: Any, good_from: Any, *columns: Any
) -> ImportRequest:
    """The form as an order. Raises UserError for what can't be meant; the command checks the rest."""
    first, last = rows_of(text_in(rows).strip())
    if split == "share" and not is_number(share):
        raise UserError(_("Give the share of prompts to hold out, in percent."))
    wanted = ImportRequest(
        target=target if target in TARGETS else "auto",
        columns={role: text_in(column) for role, column in zip(ROLES, columns, strict=True)},
        verdict=verdict if verdict in ("gold", "open") and with_verdicts(target) else "judged",
        split=share / 100 if split == "share" else "held-out" if split == "held-out" else "train",
        first=first,
        last=last,
        good_from=float(good_from) if is_number(good_from) else None,
    )
    wanted.check()
    return wanted


def with_verdicts(target: Any) -> bool:
    """Whether what is imported may have verdicts: what the form says of them is not meant for anything else."""
    return target not in ("prompts", "demonstrations")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ------------------------------------------------------------------------------------------------------ what is shown
def look_card(look: ImportPreview) -> str:
    heads = [_("row"), *look.columns]
    rows = [
        [str(row.number), *(cut(row.values.get(column, ""), SHOWN_CELL) for column in look.columns)]
        for row in look.rows
    ]
    bad = "".join(
        status(_("Row {number} can't be read: {reason}").format(number=entry.number, reason=entry.reason), "warning")
        for entry in look.bad
    )
    said = _("{name}: {format}. The first rows").format(name=look.name, format=_(look.format))
    shown = table(heads, rows, data=True)
    # What they become says the same, where they can be read.
    return (status(said, "headline") + shown if look.problem else unfold(said, shown)) + bad


def meaning_card(look: ImportPreview) -> str:
    notes = "".join(status(note, "warning") for note in look.notes)
    if look.problem:
        return status(look.problem, "warning") + notes
    proposed = columns_line(look.proposed)
    pairs = zip(look.rows, look.records, strict=True)
    rows = [[str(row.number), *record_cells(record)] for row, record in pairs]
    read = (
        _("Read as {target}, with {proposed}. They become:")
        if proposed
        else _("Read as {target}, without a column that is known. They become:")
    )
    headline = status(read.format(target=target_word(look.target), proposed=proposed), "headline")
    return headline + table((_("Row"), _("Prompt"), _("Answers")), rows, data=True) + notes


def target_word(target: str | None) -> str:
    """What rows are made into, within a sentence."""
    return {"prompts": _("prompts"), "demonstrations": _("demonstrations")}.get(str(target), _("preferences"))


def record_cells(record: MappedRow | str) -> tuple[str, str]:
    """Prompt and answers of a record, or why there is none."""
    if isinstance(record, str):
        return _("can't be used"), record
    prompt = conversation_text(record.messages)
    ranks = record.ranking or (None,) * len(record.answers)
    pairs = zip(ranks, record.answers, strict=True)
    answers = [verdict_on(rank, record).format(answer=cut(answer, SHOWN_CELL)) for rank, answer in pairs]
    return cut(prompt, SHOWN_CELL), "\n".join(
        [*answers, *([f"({remark_words(record.remark)})"] if record.remark else [])]
    )


def verdict_on(rank: int | None, record: MappedRow) -> str:
    """What a verdict says of an answer, with a gap for it."""
    if record.label is not None:
        return _("good: {answer}") if record.label else _("bad: {answer}")
    if record.outcome == "all-bad":
        return _("all bad: {answer}")
    return "{answer}" if rank is None else f"{rank}. {{answer}}"


def progress_card(state: State) -> str:
    progress = state.progress
    doing = {"look": _("Looking at the file …"), "check": _("Checking …"), "import": _("Importing …")}[state.kind]
    if progress is None:
        return status(doing) + progress_bar(_("Import"), None)
    share, count = progress.share, progress.rows
    counted = ngettext("{count:,} row", "{count:,} rows", count).format(count=count) if count else ""
    now = paragraph(" · ".join(filter(None, (progress.what, counted))), "quiet")
    return status(doing) + now + progress_bar(_("Import"), None if share is None else round(100 * share))


def way_to(result: ImportResult) -> str:
    """Where the comparisons that came in are; nothing where none did."""
    counts = result.counts
    if not (counts.judged or counts.gold or counts.open):
        return ""
    source = f"import {result.import_id}: {result.name}"
    address = link("data/comparisons", Place((), ComparisonFilter(source=(source,)).query))
    words = _("Look at the comparisons that came in")
    return acts(way(address, words))


def outcome_card(result: ImportResult) -> str:
    """What was imported, or would be, and what not and why."""
    columns = columns_line(result.columns)
    named = (
        _("{name}: {format}, as {target}, with {columns}.")
        if columns
        else _("{name}: {format}, as {target}, without a column that is known.")
    )
    known = {"name": result.name, "format": _(result.format), "target": target_word(result.target)}
    name = named.format(**known, columns=columns)
    held_out_by = _("Before you import, “New prompts are” says how many.") if result.dry_run else ""
    lines = summary(result, held_out_by)
    text = "".join(status(line, "" if place else "headline") for place, line in enumerate(lines))
    if result.dry_run:
        text += status(_("This was a check: nothing has been written."))
    else:
        text += way_to(result)
    if result.reasons:
        reasons = [(numeral(count), reason) for reason, count in result.reasons]
        rows = [(str(one.row), one.reason) for one in result.skipped[:SHOWN_SKIPPED]]
        text += table((_("rows"), _("can't be used because")), reasons)
        text += status(_("The first of them ({counted}):").format(counted=result.counted))
        text += table((_("row"), _("reason")), rows)
    return status(name) + text


# ------------------------------------------------------------------------------------------------------------ the page
class ImportFormPage:
    """The part's components. `looked` is what this session has looked at, `more` shows columns not spoken of yet."""

    def __init__(self) -> None:
        gr.Markdown(_("## Import"))
        gr.Markdown(explanation())
        self.source = build_source()
        look = button(_("Look at the first rows"), "import-look", "primary", visible=False)
        with gr.Column(visible=False) as self.group:
            self.first_rows, self.meaning = html_box(), html_box()
            self.form, (self.folded, self.more, self.columns) = build_form(), build_columns()
            with gr.Row():
                again = button(_("Read the first rows again"), "import-again")
                check = button(_("Check all rows"), "import-check")
                bring = button(_("Import"), "import-import", "primary")
        self.standing = html_box()
        cancel = button(_("Cancel"), "import-cancel", "stop", visible=False)
        self.buttons = {"look": look, "again": again, "check": check, "import": bring, "cancel": cancel}
        self.looked, self.pulse = gr.State({}), pulse()

    @property
    def fields(self) -> list[Any]:
        return [*self.source.values(), *self.form.values(), *self.columns.values()]

    @property
    def followed(self) -> list[Any]:
        filled = [self.group, self.first_rows, self.meaning, self.folded, self.more, self.form["target"]]
        return [self.standing, self.pulse, *self.buttons.values(), *filled, *self.columns.values(), self.looked]


@dataclass(frozen=True)
class Looked:
    """What one session has looked at, whoever else looks at something meanwhile."""

    source: tuple[str, ...] = ()
    """What its first rows were asked of, as arguments."""
    waits: int = 0
    """The look whose rows are to fill this session's form when it is done; 0 for none."""
    proposed: Mapping[str, str] = field(default_factory=dict)
    """The columns by role that the form was filled with."""
    said: Mapping[str, str] = field(default_factory=dict)
    """Those that were a person's choice."""
    target: str = "auto"
    """What a person has chosen to make of the rows."""

    def chosen(self, columns: Mapping[str, str]) -> dict[str, str]:
        """What a person has chosen of a form's columns: a role that was left as it came is not left out by anybody."""
        return {
            role: column.removeprefix(NONE)
            for role, column in columns.items()
            if role in self.said or column != self.proposed.get(role, "")
        }


def build_source() -> dict[str, Any]:
    source: dict[str, Any] = {}
    source["kind"] = gr.Radio(labelled(SOURCES), value=UPLOAD, label=_("Source"), elem_id="import-kind")
    file = _("File (up to {maximum_upload})").format(maximum_upload=MAXIMUM_UPLOAD.upper())
    source["upload"] = gr.File(label=file, elem_id="import-file", height=140)
    source["path"] = gr.Textbox(
        label=_("Path on this server"), placeholder="/data/preferences.jsonl", visible=False, elem_id="import-path"
    )
    with gr.Row():
        source["repository"] = gr.Textbox(label=_("Dataset"), placeholder="owner/name", visible=False, min_width=240)
        for name, label in (("config", _("Configuration")), ("split", _("Split to read"))):
            source[name] = gr.Textbox(label=label, info=_("Where it has several."), visible=False, min_width=160)
    return source


def build_form() -> dict[str, Any]:
    form: dict[str, Any] = {}
    form["target"] = gr.Radio(labelled(TARGET_CHOICES), value="auto", label=_("Import as"), elem_id="import-target")
    form["verdict"] = gr.Radio(labelled(VERDICT_CHOICES), value="judged", label=_("Verdicts of preferences become"))
    form["prompts"] = gr.Radio(labelled(SPLIT_CHOICES), value="share", label=_("New prompts are"))
    with gr.Row(elem_classes=["fields"]):
        form["share"] = gr.Number(
            100 * HELD_OUT_SHARE,
            label=_("Held-out share in percent"),
            info=_("Decided by each prompt's text: always the same ones."),
            min_width=240,
        )
        form["rows"] = gr.Textbox(
            label=_("Rows"),
            info=_("Empty: all. A range as 1-100000."),
            max_length=40,
            min_width=200,
            elem_id="import-rows",
        )
        form["good_from"] = gr.Number(
            None,
            label=_("Good from"),
            info=_("With a rating: answers of at least this are good, the others bad."),
            min_width=200,
            elem_id="import-good-from",
        )
    return form


def build_columns() -> tuple[gr.Accordion, gr.Button, dict[str, gr.Dropdown]]:
    """A choice of column for every role, folded, and the button that shows those which a look has left out."""
    with gr.Accordion(_("Columns"), open=False, elem_id="import-columns") as folded:
        with gr.Row():
            columns = {
                role: open_choice(
                    role,
                    choices_of(role, ()),
                    value="",
                    info=_(meaning),
                    min_width=260,
                    elem_id=f"import-column-{role}",
                )
                for role, (meaning, _names) in ROLES.items()
            }
        more = button(_("More columns"), "import-more")
    return folded, more, columns


def choices_of(role: str, columns: Iterable[str]) -> list[tuple[str, str]]:
    none = [(_(NONE_MEANS[role]), NONE)] if role in NONE_MEANS else []
    return [("–", ""), *none, *((visible(column), column) for column in columns)]


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay the part out inside the caller's tab and wire it; every value comes from a guarded handler."""
    wire(ImportFormPage(), context, Importer(context.db, context.token_held), opening_of(demo))


def wire(page: ImportFormPage, context: Context, importer: Importer, opening: Any) -> None:
    admin = guarded(context, "admin")
    source, form = page.source, page.form
    choice = [*(source[name] for name in ("upload", "path", "repository", "config", "split")), page.buttons["look"]]
    source["kind"].change(admin(choose_source), source["kind"], choice, api_name="import-source", **QUIET)
    form["target"].change(admin(choose_target), form["target"], form["verdict"], api_name="import-target", **QUIET)
    chosen = [form["target"].input, form["verdict"].input]
    gr.on(chosen, admin(choose_meaning), None, page.meaning, api_name="import-meaning", **QUIET)
    shares = admin(lambda split: gr.update(visible=split == "share"))
    form["prompts"].change(shares, form["prompts"], form["share"], api_name="import-split", **QUIET)
    fresh = admin(partial(look_at_source, page, importer))
    looking = [form["verdict"], form["rows"], form["good_from"], *page.followed]
    source["upload"].upload(fresh, [*source.values()], looking, api_name="import-uploaded", **QUEUED)
    page.buttons["look"].click(fresh, [*source.values()], looking, api_name="import-look", **QUEUED)
    for named, kind in (("again", "look"), ("check", "check"), ("import", "import")):
        page.buttons[named].click(
            admin(partial(start_import, page, importer, kind)),
            [page.looked, *page.fields],
            page.followed,
            api_name=f"import-{named}",
            **QUEUED,
        )
    all_of_them = [page.more, *page.columns.values()]
    page.more.click(admin(partial(show_columns, page)), None, all_of_them, api_name="import-more", **QUIET)
    cancel = admin(importer.cancel)  # the next poll shows when it has ended
    page.buttons["cancel"].click(cancel, None, None, api_name="import-cancel", **QUEUED)
    follow = partial(follow_import, page, importer)
    poll(page.pulse, context, follow, [page.looked], page.followed, api_name="import-follow")
    opening(admin(follow), page.looked, page.followed, api_name="import-open", **QUIET)


# ------------------------------------------------------------------------------------------------------------ handlers
def choose_source(kind: Any) -> list[Any]:
    elsewhere = gr.update(visible=kind in (SERVER, HUB))  # an upload is looked at by itself
    return [
        gr.update(visible=kind == UPLOAD),
        gr.update(visible=kind == SERVER),
        gr.update(visible=kind == HUB),
        *(elsewhere for _name in ("config", "split", "look")),
    ]


def choose_target(target: Any) -> Any:
    return gr.update(visible=with_verdicts(target))


def choose_meaning() -> str:
    """What was said of the rows, or what they lack, was said before this choice."""
    return status(_("Read the first rows again to see what they become now."))


def show_columns(page: ImportFormPage) -> list[Any]:
    return [gr.update(visible=False), *(gr.update(visible=True) for _role in page.columns)]


def look_at_source(page: ImportFormPage, importer: Importer, annotator: Annotator, *values: Any) -> list[Any]:
    """The handler of an upload and of "Look": another source, of which nothing has been chosen yet."""
    source = source_of(*values)
    state = importer.start("look", source, [], annotator.name)
    return ["judged", "", None, *status_parts(page, importer, Looked(tuple(source), state.number))]


def start_import(
    page: ImportFormPage, importer: Importer, kind: Any, annotator: Annotator, looked: Any, *values: Any
) -> list[Any]:
    """Begin a run with what the form says, on what its first rows are of. Raises UserError for anything else."""
    source, order = source_of(*values[: len(page.source)]), order_of(*values[len(page.source) :])
    seen = looked_in(looked)
    if tuple(seen.source) != tuple(source):
        raise UserError(_("The rows shown are of another source. Look at the first rows of this one first."))
    order = replace(order, columns=seen.chosen(order.columns))
    arguments = [*arguments_of(order), f"--by={annotator.name}"]
    state = importer.start(kind, source, arguments, annotator.name)
    if kind == "look":
        seen = replace(seen, waits=state.number, said=order.columns, target=order.target)
    else:
        seen = replace(seen, waits=0)
    parts = status_parts(page, importer, seen)
    if kind == "import":  # what was said of the rows before it, as that they are to be read again, is over
        parts[page.followed.index(page.meaning)] = ""
    return parts


def follow_import(page: ImportFormPage, importer: Importer, looked: Any) -> list[Any]:
    """The handler of polls and of the opened tab."""
    return status_parts(page, importer, looked_in(looked))


def looked_in(value: Any) -> Looked:
    """What a session has looked at; nothing if the server has forgotten it."""
    return Looked(**value) if isinstance(value, dict) else Looked()


def status_parts(page: ImportFormPage, importer: Importer, looked: Looked) -> list[Any]:
    """What the page shows of a run, whoever began it; a finished look fills the form of the session that asked."""
    state = importer.state
    mine = state if looked.waits in (0, state.number) else importer.state_of(looked.waits)
    running, said = state.status == "running", status_card(state)
    if mine is not state and mine.status == "failed":  # and somebody has begun another meanwhile
        said = status_card(mine) + said
    if mine.status == "none" and looked.waits:
        gone = _("The rows that were read are not kept any more. Look at the first rows again.")
        said = status(gone, "warning") + said
    buttons = [
        gr.update(visible=running) if name == "cancel" else gr.update(interactive=not running) for name in page.buttons
    ]
    unfolded = gr.update(open=True) if state.status == "failed" and state.kind != "look" else gr.skip()
    more_and_choices = (gr.skip() for _ in range(2 + len(page.columns)))
    told = looked if "running" in (mine.status, state.status) else replace(looked, waits=0)
    rest = [*(gr.skip() for _ in range(3)), unfolded, *more_and_choices, asdict(told)]
    if mine.look is not None and mine.number == looked.waits:
        rest = [*look_parts(page, mine.look, looked), asdict(replace(looked, waits=0, proposed=mine.look.proposed))]
    return [said, again(POLL_SECONDS if running else None), *buttons, *rest]


def status_card(state: State) -> str:
    """A run in words: how far it is, what came of it, or why it failed."""
    if state.status == "running":
        return progress_card(state) + asked_for(state)
    if state.status == "failed":
        return status(state.error, "warning") + asked_for(state)
    return "" if state.outcome is None else outcome_card(state.outcome) + asked_for(state)


def asked_for(state: State) -> str:
    """Who began a run, and when it ended: it may be another admin's, or of days ago."""
    if state.ended is None:
        return paragraph(_("Requested by {name}.").format(name=who(state.by)), "quiet")
    said = _("Requested by {name}; it ended on {when} UTC.").format(name=who(state.by), when=moment(state.ended))
    return paragraph(said, "quiet")


def look_parts(page: ImportFormPage, look: ImportPreview, looked: Looked) -> list[Any]:
    """The form as a finished look fills it, with what a person has said; of columns what is asked for, or filled."""
    filled = {**look.proposed, **{role: NONE for role in NONE_MEANS if looked.said.get(role) == ""}}
    shown = {*(look.asked or filled), *looked.said} or {*page.columns}
    columns = [
        gr.update(choices=choices_of(role, look.offered), value=filled.get(role, ""), visible=role in shown)
        for role in page.columns
    ]
    unfolded = gr.update(open=True) if look.problem or not look.usable else gr.skip()
    more, target = gr.update(visible=len(shown) < len(columns)), gr.update(value=looked.target)
    return [gr.update(visible=True), look_card(look), meaning_card(look), unfolded, more, target, *columns]
