"""What is asked of annotators, and the guidelines they go by, in versions: the first part of the Project tab."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import gradio as gr

from annotation import project
from annotation.claims import assignments, backlog
from annotation.database import Database
from annotation.metrics.act_times import act_times
from annotation.records import MAXIMUM_ANSWERS, Annotator, Kind, Project
from annotation.store import project_store
from annotation.store.project_store import Guidelines
from annotation.tabs import act_table
from annotation.tabs.components import QUEUED, QUIET, button, drafted, html_box, open_choice, opening_of, undrafted
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _
from annotation.ui import markdown_process
from annotation.ui.markup import paragraph, status, unfold
from annotation.validation import hints_of, label_of
from annotation.web import access

FIELDS = tuple(field.name for field in fields(Project))
SHARES = tuple(name for name in FIELDS if name.endswith("_share"))
KINDS: Mapping[Kind, str] = {
    "pair": N_("Two answers: which is better, and by how much"),
    "best": N_("Several answers: the best one"),
    "rank": N_("Several answers: a ranking"),
}
FIRST_VIEW: Mapping[str, tuple[str, bool | None]] = {
    "written": (N_("As answers are written"), None),
    "literal": (N_("Literal text"), False),
    "rendered": (N_("Rendered Markdown"), True),
}
# The previewed guidelines come from `rendering`, which lets nothing through that runs.
FieldValues = dict[str, Any]


# ----------------------------------------------------------------------------------------------------- form and project
def form_of(asked: Project) -> FieldValues:
    """A project as the form's fields show it: shares in percent, reasons one a line, no target as an empty field."""
    view = next(name for name, (_label, rendered) in FIRST_VIEW.items() if rendered == asked.rendered)
    return {
        **{name: getattr(asked, name) for name in FIELDS},
        "daily_target": asked.daily_target or None,
        **{name: percent_of(getattr(asked, name)) for name in SHARES},
        "rendered": view,
        "tags": project.tags_text(project.tags_as_read(asked.tags)),
    }


def percent_of(share: float) -> float:
    return round(100 * share, 6)


def project_of(values: FieldValues, people: int) -> Project:
    """The form's fields as a project. Raises UserError naming the field at fault."""
    shares = {name: share_of(values[name]) for name in SHARES}
    target = 0 if values["daily_target"] in (None, "") else values["daily_target"]
    view = values["rendered"]
    known = isinstance(view, str) and view in FIRST_VIEW
    rendered = FIRST_VIEW[view][1] if known else str(view)  # what is no view is refused
    return project.check({**values, **shares, "daily_target": target, "rendered": rendered}, people)


def share_of(value: Any) -> Any:
    """A percentage as a share; anything else is left for the check to refuse."""
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return round(value / 100, 8) if sound else value


# ------------------------------------------------------------------------------------------------------ what is shown
def counts_card(db: Database) -> str:
    """Who can judge and what there is to judge, in a sentence each."""
    people, sizes, gold = access.active_people(db), backlog.waiting_for_people(db), backlog.gold_comparisons(db)
    by_size = ", ".join(
        _("{count:,} with {size} answers").format(count=count, size=size) for size, count in sizes.items()
    ) or _("none")
    said = _("{people} can judge · waiting for people: {by_size} · gold comparisons: {gold:,}")
    lines = [said.format(people=people, by_size=by_size, gold=gold)]
    wanted = project_store.project(db).overlap
    if wanted > people:
        lines.append(
            _(
                "Each comparison waits for {wanted} annotators, and only {people} can judge: none gets its full number."
            ).format(wanted=wanted, people=people)
        )
    return "".join(map(paragraph, lines))


def preview_of(text: Any) -> str:
    """The guidelines as annotators see them, in a box."""
    plain = project.check_guidelines(text)
    return (
        f'<div class="rendered guidelines-preview">{markdown_process.to_html(plain)}</div>'
        if plain
        else status(_("There is no text yet."))
    )


def title_of(version: Guidelines) -> str:
    return _("Version {version} of {created} by {written_by}").format(
        version=version.version, created=version.created[:10], written_by=version.written_by
    )


def guidelines_status(latest: Guidelines) -> str:
    if not latest.version:
        return status(_("There are no guidelines yet. Annotators see none."))
    if not latest.text:
        return status(_("{title_of} has no text: annotators see no guidelines.").format(title_of=title_of(latest)))
    return status(_("{title_of} holds.").format(title_of=title_of(latest)))


def choose_version(db: Database, selected: Any) -> tuple[Any, str]:
    """The choice of versions, and the text of the selected one (the latest if there is no such version)."""
    versions = project_store.guidelines_versions(db)
    shown = next((version for version in versions if version.version == selected), versions[0] if versions else None)
    choices = [(title_of(version), version.version) for version in versions]
    value = None if shown is None else shown.version
    text = "" if shown is None else project.as_read(shown.text, project_store.project(db).kind)
    return gr.update(choices=choices, value=value), text


# ------------------------------------------------------------------------------------------------------------ the page
class ProjectPage:
    """The tab's components. `sent` is what this session was sent last: fields that differ from it are a draft."""

    def __init__(self) -> None:
        gr.Markdown(_("## What annotators are asked"))
        self.counts, self.acts, self.form = html_box(), html_box(), build_form()
        self.save = button(_("Save the project"), "project-save", "primary")
        self.saved = html_box()
        gr.Markdown(_("## Guidelines"))
        self.standing = html_box()
        self.text = gr.Textbox(
            label=_("Text, in Markdown"),
            lines=10,
            max_lines=30,
            max_length=project.MAXIMUM_GUIDELINES,
            elem_id="guidelines-text",
        )
        with gr.Row():
            self.preview = button(_("Preview"), "guidelines-preview")
            self.write = button(_("Save as a new version"), "guidelines-save", "primary")
        self.preview_box = html_box()
        with gr.Accordion(_("Every version"), open=False):
            self.versions = open_choice(_("Version"), elem_id="guidelines-versions")
            self.earlier = gr.Textbox(label=_("Its text"), interactive=False, lines=6, max_lines=30, buttons=["copy"])
            self.edit = button(_("Edit this version"), "guidelines-edit")
        self.sent = gr.State({})

    @property
    def fields(self) -> list[Any]:
        return [self.form[name] for name in FIELDS]

    @property
    def holding(self) -> list[Any]:
        """What says which guidelines hold, and which held before."""
        return [self.standing, self.versions, self.earlier]


def build_form() -> dict[str, Any]:
    """The project's fields by name; their values come from a guarded handler when the tab is opened."""
    form: dict[str, Any] = {}
    called = {name: label_of(hint) for name, hint in hints_of(Project).items()}
    form["kind"] = gr.Radio([(_(label), kind) for kind, label in KINDS.items()], label=called["kind"])
    with gr.Row(elem_classes=["fields"]):
        answers = _("2 to {maximum_answers}; a pair has 2.").format(maximum_answers=MAXIMUM_ANSWERS)
        form["answers"] = number(called["answers"], answers)
        form["overlap"] = number(called["overlap"])
        form["claim_minutes"] = number(called["claim_minutes"], _("Then a comparison in hand returns to the pool."))
        form["daily_target"] = number(called["daily_target"], empty=_("no target"))
    with gr.Accordion(_("Measuring, and how answers are shown"), open=False):
        with gr.Row(elem_classes=["fields"]):
            least_known = _("Share that shows those of eight answers of which it is least known what people prefer.")
            for name, meaning in (
                ("gold_share", _("Share with a known answer, to measure annotators.")),
                ("re_ask_share", _("Share of one's own earlier ones, in another order.")),
                ("candidate_share", _("Share that compares a new policy with the one it would replace.")),
                ("doubt_share", least_known),
            ):
                form[name] = number(called[name], meaning)
        form["rendered"] = gr.Radio(
            [(_(label), name) for name, (label, _rendered) in FIRST_VIEW.items()],
            label=called["rendered"],
            info=_("How answers are first shown; each annotator can switch."),
        )
    form["own_prompts"] = gr.Checkbox(label=called["own_prompts"])
    form["tags"] = gr.Textbox(
        label=_("Reasons that can be given with a judgement"),
        info=_("One a line, as 'key: label'."),
        lines=6,
        max_lines=20,
        max_length=project.MAXIMUM_TAGS_TEXT,
        elem_id="project-tags",
    )
    return form


def number(label: str, info: str | None = None, empty: str | None = None) -> gr.Number:
    """A field for a number; what it may be is checked when it is saved. `empty`: what an empty one means."""
    return gr.Number(label=label, info=info, placeholder=empty, min_width=240)


def build(demo: gr.Blocks, context: Context) -> None:
    wire(ProjectPage(), context, opening_of(demo))


def wire(page: ProjectPage, context: Context, opening: Callable[..., Any]) -> None:
    """Fill the page when it is opened; every value comes from a guarded handler."""
    db, admin = context.db, guarded(context, "admin")
    fields_and_text = [*page.fields, page.text]
    given = [page.sent, *fields_and_text]
    shown = [page.counts, page.acts, *fields_and_text, *page.holding, page.sent]
    opening(admin(partial(open_project, db)), given, shown, api_name="project-open", **QUIET)
    kind, answers = page.form["kind"], page.form["answers"]
    kind.input(admin(choose_kind), [kind, answers], answers, api_name="project-kind", **QUIET)
    saved = page.save.click(
        admin(partial(save_project, db, {name: str(field.label) for name, field in page.form.items()})),
        [page.sent, *page.fields],
        [page.counts, *page.fields, page.saved, page.sent],
        api_name="project-save",
        **QUEUED,
    )
    # Guidelines that nobody has written say what is asked now.
    saved.success(admin(partial(follow_project, db)), given, shown, api_name="project-saved", **QUIET)
    preview = admin(preview_of)
    page.preview.click(preview, page.text, page.preview_box, api_name="guidelines-preview", **QUEUED)
    page.write.click(
        admin(partial(write_guidelines, db)),
        [page.sent, page.text],
        [page.text, *page.holding, page.preview_box, page.sent],
        api_name="guidelines-save",
        **QUEUED,
    )
    read = admin(lambda version: choose_version(db, version)[1])
    page.versions.input(read, page.versions, page.earlier, api_name="guidelines-version", **QUIET)
    page.edit.click(admin(partial(edit_version, db)), page.versions, page.text, api_name="guidelines-edit", **QUEUED)


# ----------------------------------------------------------------------------------------------------------- handlers
def open_project(db: Database, sent: Any, *drafted: Any) -> list[Any]:
    """Show what holds; a draft that was begun on this page and not saved stays."""
    latest, asked, was = project_store.guidelines(db), project_store.project(db), known(sent)
    holds = {**form_of(asked), "text": project.as_read(latest.text, asked.kind)}
    here = dict(zip((*FIELDS, "text"), drafted, strict=True))
    fresh = undrafted(was, here, holds)
    # Nothing for what stands there already: somebody may be typing.
    news = {name for name, value in fresh.items() if here[name] != value}
    news |= {"answers"} if "kind" in news and "answers" in fresh else set()
    updates = [field_update(name, here | fresh) if name in news else gr.skip() for name in holds]
    acts = unfold(_(act_table.TITLE), act_table.acts_table(act_times(db)))
    return [counts_card(db), acts, *updates, guidelines_status(latest), *choose_version(db, None), {**was, **fresh}]


def follow_project(db: Database, sent: Any, *drafted: Any) -> list[Any]:
    """As when the tab is opened; what was said of the guidelines that somebody wrote is still to be read."""
    *before, _standing, versions, earlier, news = open_project(db, sent, *drafted)
    return [*before, gr.skip(), versions, earlier, news]


def known(sent: Any) -> FieldValues:
    """What this session was sent last; nothing if the server has forgotten it."""
    return dict(sent) if isinstance(sent, dict) else {}


def field_update(name: str, values: FieldValues) -> Any:
    """What a field is sent: its value, and whether the number of answers can be chosen."""
    if name == "answers":
        return gr.update(value=values[name], interactive=values["kind"] != "pair")
    return gr.update(value=values[name])


def choose_kind(kind: Any, answers: Any) -> Any:
    """A pair has two answers; several are four to begin with."""
    if kind == "pair":
        return gr.update(value=2, interactive=False)
    return gr.update(value=4 if answers == 2 else answers, interactive=True)


def save_project(db: Database, labels: Mapping[str, str], sent: Any, *values: Any) -> list[Any]:
    """Store what was changed on this page; what somebody else has changed meanwhile stays, or is asked about."""
    with db.transaction():
        before = project_store.project(db)
        here, holds = dict(zip(FIELDS, values, strict=True)), form_of(before)
        draft = drafted(sent, here, holds, labels)
        if draft.both:
            return [counts_card(db), *(gr.skip() for _name in FIELDS), draft.refusal, draft.sent]
        asked = project_of(dict(draft.values), access.active_people(db))
        asked = replace(asked, tags=project.tags_as_stored(asked.tags, before.tags))
        changed = asked != before
        project_store.set_project(db, asked)
        assignments.follow_assignments(db)
    form = form_of(asked)
    told = (
        _("Saved. It holds for every comparison handed out from now on; those made keep their number of answers.")
        if changed
        else _("Nothing was changed.")
    )
    updates = [field_update(name, form) for name in FIELDS]
    return [counts_card(db), *updates, status(told) + draft.remark, {**draft.sent, **form}]


def write_guidelines(db: Database, annotator: Annotator, sent: Any, text: Any) -> list[Any]:
    """Add a version; one that somebody else has added meanwhile is said first."""
    was, before, kind = known(sent), project_store.guidelines(db), project_store.project(db).kind
    written = project.as_stored(project.check_guidelines(text))
    if project.as_stored(was.get("text", before.text)) != before.text != written:
        said = _("Not saved. {version} came meanwhile: read it below. Save again to put yours in its place.")
        told = status(said.format(version=title_of(before)), "warning")
        stood = project.as_read(before.text, kind)
        return [gr.skip(), told, *choose_version(db, None), gr.skip(), {**was, "text": stood}]
    version = before.version if written == before.text else project_store.write_guidelines(db, written, annotator.name)
    plain = project.as_read(written, kind)
    told = (
        status(_("This is the text that holds; no version was added."))
        if version == before.version
        else guidelines_status(project_store.guidelines(db))
    )
    return [plain, told, *choose_version(db, version), preview_of(plain), {**was, "text": plain}]


def edit_version(db: Database, version: Any) -> Any:
    """The handler of "Edit this version": what is being written stays where none is chosen."""
    chosen = any(one.version == version for one in project_store.guidelines_versions(db))
    return choose_version(db, version)[1] if chosen else gr.skip()
