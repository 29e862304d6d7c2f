"""One form of the Train tab, built from its fields: what a run would learn from and take, why it can't start, start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.tabs.components import (
    QUEUED,
    QUIET,
    FollowedPage,
    Seen,
    Update,
    changes,
    html_box,
    meanings,
    whole_number,
)
from annotation.tabs.guard import Context, guarded
from annotation.tabs.polling import poll, pulse
from annotation.translation import _, ngettext
from annotation.ui import markup
from annotation.ui.markup import paragraph
from rlhf.algorithms.measure_spec import MeasureSpec
from rlhf.jobs import job_store
from rlhf.jobs.job_spec import JobSpec, TrainingSpec, to_json
from rlhf.jobs.rental_store import Terms
from rlhf.models.reward_model_quality import quality_of
from rlhf.submission import form_fields, job_submission, preflight
from rlhf.submission.form_fields import Form
from rlhf.submission.preflight import Choices, PlannedRun, Preflight
from rlhf.tabs.jobs import job_words, reward_model_card
from rlhf.tabs.train import plan_card, rental_form, row_views
from rlhf.tabs.train.row_views import RowsPage

FOLLOW_SECONDS = 4
# The shapes that fields have, in the order of the page.
SHAPES = ("lists", "choices", "typed", "switches")

Values = Mapping[str, Any]


# ------------------------------------------------------------------------------------------------ what the form shows
def spec_asked_for(form: Form, known: Preflight, values: Values, accepted: bool) -> TrainingSpec:
    """The form as a spec, with the person's word where one is needed. Raises UserError naming what can't be meant."""
    spec = form_fields.spec_of(form, known.model, values)
    confirmed = spec.confirmation(known.db) if accepted else None
    return spec if confirmed is None else replace(spec, **confirmed.settings)


def lists_of(db: Database, form: Form) -> dict[str, Choices]:
    others = {name: preflight.models_of(db, kind) for name, kind in form.spec_type.lists.items()}
    return {"parent": preflight.parents(db, form), **others}


def named_models(form: Form, values: Values) -> list[Any]:
    return [values.get(name) for name in form.spec_type.lists]


def means_it(form: Form, ticked: Any, seen: Any, values: Values) -> bool:
    """Whether the confirmation is ticked for the models that it was shown with."""
    return bool(ticked) and isinstance(seen, dict) and seen.get("named") == named_models(form, values)


def live(form: Form, known: Preflight, values: Values, ticked: Any, seen: Any) -> tuple[dict[str, Update], Seen]:
    """The parts of the form that differ from what this browser session was sent last, and what it has now.

    Only what a person did not just choose is sent a value: they may have gone on while this is answered.
    """
    seen = seen if isinstance(seen, dict) else {}
    shape = preflight.adapter_fields(known.db, form, values.get("parent"))
    filled = first_choices(form, known.db, values) | of_the_parent(form, shape, seen.get("shape"), values)
    values = {**values, **filled}
    accepted = means_it(form, ticked, seen, values)
    parts = field_parts(form, known, values)
    for name, choices in lists_of(known.db, form).items():
        parts[name] = gr.update(choices=choices)
    for name, value in filled.items():
        parts[name] = {**parts.get(name, gr.update()), "value": value}
    rows: Any = None
    try:
        spec = spec_asked_for(form, known, values, accepted)
        run = known.of(spec)
        rows = [*preflight.what_decides_lengths(run.spec)]
        parts |= {"accept": accept_part(known.db, spec), **planned_parts(known, run)}
        meant = run.spec.open_values()
        for name in open_fields(form):
            parts[name] = {**parts.get(name, gr.update()), "placeholder": meant.get(name, "")}
    except UserError as error:
        parts |= {
            **{name: gr.update(value="") for name in ("summary", "rate", "crossing", "spec", "command")},
            **{name: gr.update(visible=False) for name in ("accept", "apart")},
            **{name: gr.update(interactive=False) for name in ("start", "measure")},
            "problems": gr.update(value=plan_card.problem_box([str(error)])),
        }
    if ticked and not accepted:
        parts["accept"] = {**parts["accept"], "value": False}
    changed, marks = changes(parts, seen)
    if seen.get("rows", rows) != rows:
        changed |= {"row": gr.update(value=""), "rows_found": gr.update(value="")}  # what is shown is of other rows
    return changed, {**seen, **marks, "named": named_models(form, values), "rows": rows, "shape": shape}


def first_choices(form: Form, db: Database, values: Values) -> dict[str, Any]:
    """The newest model of each list beside the parent from which none has been chosen."""
    known = {name: preflight.models_of(db, kind) for name, kind in form.spec_type.lists.items() if not values.get(name)}
    return {name: choices[0][1] for name, choices in known.items() if choices}


def of_the_parent(form: Form, shape: Values, before: Any, values: Values) -> dict[str, Any]:
    """The fields of the adapter that differ from the parent's `shape`, and that nobody has set to another value.

    They stand at the default, or as the parent that was chosen `before` had them.
    """
    was = before if isinstance(before, dict) else {}
    return {
        name: value
        for name, value in shape.items()
        if values.get(name) != value and values.get(name) in (form.described[name][0], was.get(name))
    }


def field_parts(form: Form, known: Preflight, values: Values) -> dict[str, Update]:
    unseen = form_fields.hidden(form, values) | (set() if known.shares_steps() else {"processes"})
    parts = {name: gr.update(visible=name not in unseen) for name in form.conditional}
    groups = {title: gr.update(visible=not set(names) <= unseen) for title, names in form.groups.items()}
    return parts | groups


def accept_part(db: Database, spec: TrainingSpec) -> Update:
    """The confirmation that says what is doubtful, where one is needed."""
    wanted = spec.confirmation(db)
    return gr.update(visible=False) if wanted is None else gr.update(visible=True, label=wanted.label)


def planned_parts(known: Preflight, run: PlannedRun) -> dict[str, Update]:
    return {
        "summary": gr.update(value=plan_card.summary_line(run)),
        "problems": gr.update(value=plan_card.problem_box(run.problems)),
        "rate": gr.update(value=plan_card.rate_note(run.asked, run.spec)),
        "crossing": gr.update(value=plan_card.crossing_note(run.crossing)),
        "apart": gr.update(visible=to_be_measured(run)),
        "judged": gr.update(value=reward_card(known.db, run.spec)),
        "data": gr.update(value=plan_card.data_card(run.data, run.spec) if run.data else ""),
        "cost": gr.update(value=plan_card.cost_card(run.cost) if run.cost else markup.notice(run.unknown)),
        "spec": gr.update(value=job_words.spec_text(run.spec)),
        "command": gr.update(value=plan_card.command_text(run.spec, known.data_dir)),
        "start": gr.update(interactive=not run.problems),
        "measure": gr.update(interactive=not run.problems),
    }


def to_be_measured(run: PlannedRun) -> bool:
    """Whether a run leaves its parent's precision and nobody has measured or is measuring how far that is."""
    return run.crossing is not None and run.crossing.gap is None and not run.crossing.measuring


def reward_card(db: Database, spec: TrainingSpec) -> str:
    """How good the chosen reward model is; nothing for jobs that have none."""
    reward = preflight.scorer_of(db, spec)
    if reward is None:
        return ""
    quality = quality_of(db, reward)
    if quality is not None:
        return reward_model_card.card(quality)
    trained = reward.job_id is not None and job_store.get(db, reward.job_id).result is not None
    return plan_card.reward_intro(reward.revision, trained)


# ---------------------------------------------------------------------------------------------------------- the page
@dataclass(frozen=True)
class TrainingFormPage(FollowedPage):
    """A form's components; its `parts` follow the fields too. What a field is sent goes to its input."""

    form: Form
    inputs: Mapping[str, Any]
    """By field, in the order of the form's names."""
    rows: RowsPage
    said: gr.HTML
    pulse: gr.HTML
    rented: rental_form.RentalFormPage

    @property
    def asked(self) -> list[Any]:
        """What handlers are sent: the confirmation, what was seen, then the fields."""
        return [self.parts["accept"], self.seen, *self.inputs.values()]

    def values(self, sent: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.form.names, sent, strict=True))

    def spec(self, known: Preflight, ticked: Any, seen: Any, *sent: Any) -> TrainingSpec:
        """What is asked for, from what handlers are sent. Raises UserError naming what can't be meant."""
        values = self.values(sent)
        return spec_asked_for(self.form, known, values, means_it(self.form, ticked, seen, values))


def lay_out(form: Form) -> TrainingFormPage:
    """The components, without anything from the rows: what a run would be and its button, then what is behind it."""
    parts: dict[str, Any] = {"summary": html_box()}
    with gr.Row():
        start = f"{form.name}-start"
        parts["start"] = gr.Button(_(form.layout.start), variant="primary", interactive=False, elem_id=start)
        measure = f"{form.name}-measure"
        parts["measure"] = gr.Button(_("Measure three steps"), interactive=False, elem_id=measure)
    said = html_box()
    parts["problems"] = html_box()
    parts["accept"] = gr.Checkbox(label=_("Run it"), visible=False, elem_id=f"{form.name}-accept")
    parts["crossing"] = html_box()
    apart = f"{form.name}-apart"
    parts["apart"] = gr.Button(_("Measure how far apart"), visible=False, elem_id=apart)
    parts["judged"] = html_box()
    with gr.Accordion(_("Settings"), open=False, elem_id=f"{form.name}-settings"):
        html_box(paragraph(_(form.layout.introduction)))
        inputs = field_inputs(form, form.layout.main)
        parts["rate"] = html_box()
        for title, names in form.groups.items():
            with gr.Accordion(_(title), open=False) as parts[title]:
                inputs |= field_inputs(form, names)
    with gr.Accordion(_("What it would learn from"), open=False):
        parts["data"] = html_box()
        rows = RowsPage(form)
    with gr.Accordion(_("What it would take"), open=False):
        parts["cost"] = html_box()
    rented = rental_form.RentalFormPage(form.name)
    parts |= {"row": rows.row, "rows_found": rows.found}
    with gr.Accordion(_("As JSON, and on the command line"), open=False):
        parts["spec"] = to_copy(_("Spec"), f"{form.name}-spec")
        parts["command"] = to_copy(_("Commands that run it without the page"), f"{form.name}-command")
    method = ["method"] if "method" in form.names else []
    parts |= {name: inputs[name] for name in (*named_fields(form), *form.conditional, *open_fields(form), *method)}
    ordered = {name: inputs[name] for name in form.names}
    return TrainingFormPage(
        parts=parts,
        seen=gr.State({}),
        form=form,
        inputs=ordered,
        rows=rows,
        said=said,
        pulse=pulse(FOLLOW_SECONDS),
        rented=rented,
    )


def open_fields(form: Form) -> list[str]:
    """The fields that are empty where they are left to a default."""
    return [name for name in form.spec_type.left_open if name in form.names]


def to_copy(label: str, element: str) -> gr.Textbox:
    return gr.Textbox(
        label=label, lines=4, max_lines=14, interactive=False, buttons=["copy"], elem_id=element, elem_classes=["code"]
    )


def field_inputs(form: Form, names: Sequence[str]) -> dict[str, Any]:
    """The components that ask for some fields, those of one shape beside each other."""
    inputs: dict[str, Any] = {}
    shapes = {name: shape(form, name) for name in names}
    for wanted in SHAPES:
        if wanted in shapes.values():
            with gr.Row(elem_classes=["fields", wanted]):
                inputs |= {name: field_input(form, name) for name in names if shapes[name] == wanted}
    meanings([(form.label(name), _(form.described[name][1])) for name in inputs])
    return inputs


def named_fields(form: Form) -> tuple[str, ...]:
    return "parent", *form.spec_type.lists


def shape(form: Form, name: str) -> str:
    """How a field looks: a list, choices to tick, something to type, or a switch."""
    if name in (*named_fields(form), *form.spec_type.offered):
        return "lists"
    if form.choices(name):
        return "choices"
    return "switches" if isinstance(form.described[name][0], bool) else "typed"


def field_input(form: Form, name: str) -> Any:
    """The component that asks for a field; what it may be is checked when the form is read."""
    default, _sentence = form.described[name]
    common: dict[str, Any] = {"label": form.label(name), "value": default, "min_width": 260}
    if name in form.spec_type.left_open:  # a number field would show 0 where nothing is typed
        return gr.Textbox(**{**common, "value": ""}, max_length=30)
    if isinstance(default, bool):
        return gr.Checkbox(**common)
    if isinstance(default, int | float):
        return whole_number(**common) if isinstance(default, int) else gr.Number(**common)
    # A choice made before the app was restarted must still be accepted after it.
    if name in form.spec_type.offered:
        return gr.Dropdown(form.spec_type.offered[name](), allow_custom_value=True, **common)
    if name in named_fields(form):
        return gr.Dropdown([(default, default)] if default else [], allow_custom_value=True, **common)
    choices = form.choices(name)
    return gr.Radio(choices, **common) if choices else gr.Textbox(max_length=2_000, **common)


# ------------------------------------------------------------------------------------------------------------- wiring
def wire(page: TrainingFormPage, context: Context, known: Preflight, opening: Callable[..., Any]) -> None:
    """Fill the form when it is opened, follow the rows, and answer what is changed in it."""
    form, admin = page.form, guarded(context, "admin")

    def view(ticked: Any, seen: Any, *sent: Any) -> list[Any]:
        return page.sent(*live(form, known, page.values(sent), ticked, seen))

    def open_form(said: Any, ticked: Any, seen: Any, *sent: Any) -> list[Any]:
        """What was said at an earlier visit goes; a button may have been pressed since this one was asked for."""
        return [*view(ticked, seen, *sent), "" if said else gr.skip()]

    def measure(annotator: Annotator, *asked: Any) -> str:
        measuring = MeasureSpec(training=to_json(page.spec(known, *asked)))
        job_id = queued(known, measuring, annotator.name)
        return markup.notice(
            ngettext(
                "Job {job_id} was queued: it runs {steps} step and keeps nothing but its time and memory, which "
                "are shown below when it has ended.",
                "Job {job_id} was queued: it runs {steps} steps and keeps nothing but their time and memory, which "
                "are shown below when it has ended.",
                measuring.steps,
            ).format(job_id=job_id, steps=measuring.steps)
        )

    def compare(annotator: Annotator, *asked: Any) -> str:
        return markup.notice(begin_comparing(known, page.spec(known, *asked), annotator.name))

    for handler, name in ((view, "view"), (open_form, "open"), (measure, "measure"), (compare, "compare")):
        handler.__name__ = f"{name}_{form.name}"
    opening(admin(open_form), [page.said, *page.asked], [*page.followed, page.said], **QUIET)
    redraw = admin(view)
    touched = [component.input for component in (*page.inputs.values(), page.parts["accept"])]
    gr.on(touched, redraw, page.asked, page.followed, trigger_mode="always_last", **QUIET)
    page.parts["measure"].click(admin(measure), page.asked, page.said, **QUEUED)
    page.parts["apart"].click(admin(compare), page.asked, page.said, **QUEUED)
    looked = row_views.wire(page.rows, form, context, known, [*page.inputs.values()])
    looked.then(redraw, page.asked, page.followed, **QUIET)
    poll(page.pulse, context, view, page.asked, page.followed)


def queued(known: Preflight, spec: JobSpec, by: str, terms: Terms | None = None) -> int:
    """Queue a job; returns its id. Raises UserError, which calls settings as the page does, where it can't start."""
    try:
        return job_submission.submit(known.db, known.data_dir, spec, by, terms)
    except UserError as error:
        raise UserError(form_fields.in_labels(str(error), spec)) from error


def begin_comparing(known: Preflight, spec: TrainingSpec, by: str) -> str:
    """Queue what measures the two precisions that the form's job lies between, and say so. Raises UserError."""
    run = known.of(spec)
    if run.crossing is None or not to_be_measured(run):
        return _("There is nothing to measure: look again at what is said of the precision.")
    job_id = queued(known, run.crossing.spec, by)
    return _("Job {job_id} was queued: it reads a plain text in both precisions.").format(job_id=job_id)
