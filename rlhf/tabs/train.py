"""The Train tab: what would be trained, the form that starts an iteration, and the running job live from its rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import gradio as gr

from annotation import store
from annotation.database import Database
from annotation.records import Annotator, UserError, now
from annotation.tabs.guard import Context, guarded
from annotation.tabs.parts import QUIET, SPOKEN, html_box, opening_of
from rlhf import jobs, loop, policies, presenting, specs
from rlhf.jobs import Job
from rlhf.specs import DPOSpec, EvaluateSpec

LATEST = "latest"
NUMBERS = (
    "beta",
    "sft_weight",
    "learning_rate",
    "epochs",
    "batch_size",
    "accumulation",
    "lora_r",
    "lora_alpha",
    "max_length",
    "seed",
)
SETTINGS = (*NUMBERS, "annotator_noise")
# A preview that takes long to compute is not computed on each new judgement: the rest is the annotators' time.
QUICK_SECONDS, REST_FACTOR = 0.1, 20
NOISE_SENTENCE = (
    "The chance is estimated from the reliability of those who judged the pair, which the Quality tab explains; one "
    "annotator of whom nothing is known has 27%. 'Weight' learns less from unsure pairs; 'Smooth' also stops pulling "
    "at a pair once the policy is as sure of it as its annotators are."
)
LISTED_JOBS = 15
POLL_SECONDS = 2

literal = partial(html_box, presenting.STYLE)
Update = dict[str, Any]
Seen = dict[str, Any]


# ------------------------------------------------------------------------------------------------ what the page shows
def form_spec(context: Context, reference: str, scope: str, settings: tuple[Any, ...]) -> DPOSpec:
    """The form as a spec. Raises UserError naming the field that is empty or out of range."""
    values = {"model": context.model, "reference": reference, "scope": scope}
    spec: DPOSpec = specs.build(DPOSpec, values | dict(zip(SETTINGS, settings, strict=True)))
    return spec


def preview_part(context: Context, reference: str, scope: str) -> Update:
    """What would be trained on now; where that can't be said, why."""
    try:
        spec = form_spec(context, reference, scope, tuple(getattr(DPOSpec(), name) for name in SETTINGS))
        found = loop.preview(context.db, context.data_dir, spec)
        until = loop.trained_until(context.db, policies.by_revision(context.db, found.parent))
        new = store.judgement_count(context.db, after=until)
        card = presenting.preview_card(
            found.parent, new, found.train_pairs, found.held_out_pairs, found.left_out, found.flip
        )
        return gr.update(value=card)
    except UserError as error:
        return gr.update(value=presenting.notice(str(error)))


def preview_key(db: Database, reference: str, scope: str) -> list[Any]:
    """Changes whenever the preview may: reading every judgement on each tick would be wasteful."""
    return [reference, scope, policies.serving(db).revision, *store.judgements_mark(db)]


def preview_due(seen: Seen, key: list[Any]) -> bool:
    """Whether to compute the preview: at once for another choice or policy, else as often as its cost allows."""
    shown = seen.get("preview") or []
    return shown[:3] != key[:3] or (shown != key and time.monotonic() >= seen["rests_until"])


def find_job(db: Database, selected: str | None) -> Job | None:
    """The job to look at: the chosen one, or the active or newest one for 'latest'."""
    if selected not in (None, LATEST):
        return jobs.get(db, int(str(selected)))
    newest = jobs.recent(db, loop.TRAINING, 1)
    running = [job for job in jobs.active(db, loop.TRAINING) if job.status != "queued"]
    return running[0] if running else newest[0] if newest else None


def curves_job(db: Database, job: Job | None) -> int | None:
    """Whose curves to draw: the training job itself, or the one that made the candidate under check."""
    if job is None or not isinstance(job.spec, EvaluateSpec):
        return None if job is None else job.id
    return policies.by_revision(db, job.spec.candidate).job_id


def job_parts(db: Database, job: Job | None, at: str) -> dict[str, Update]:
    """Everything about the job that is looked at, as updates by part of the page."""
    drawn = curves_job(db, job)
    metrics = [] if drawn is None else jobs.metrics(db, drawn)
    heading = "" if drawn is None or job is None or drawn == job.id else f"Curves of training job {drawn}"
    parts = {
        "card": gr.update(value=job_card(db, job, at)),
        "curves": gr.update(visible=bool(metrics)),
        "heading": gr.update(value=presenting.notice(heading) if heading else ""),
        "log": gr.update(value="" if job is None else presenting.log_box(jobs.log_tail(db, job.id))),
        "cancel": gr.update(interactive=job is not None and job.status in ("queued", "running")),
        "resume": gr.update(interactive=job is not None and job.status in ("lost", "cancelled", "failed")),
    }
    return parts | plot_parts(metrics, 0 if drawn is None else jobs.get(db, drawn).steps)


def plot_parts(metrics: list[dict[str, Any]], steps: int) -> dict[str, Update]:
    """The curves, on an axis as long as the whole run, so that it stands still while they grow."""
    limits = [0, steps or None]
    return {
        curve.label: gr.update(value=presenting.plot_rows(metrics, curve.series), x_lim=limits)
        for curve in presenting.CURVES
    }


def job_card(db: Database, job: Job | None, at: str) -> str:
    """The job in words, with progress bar and spec."""
    if job is None:
        return presenting.notice("No training has been started yet.")
    left = presenting.seconds_left(jobs.step_times(db, job), job, at)
    made = policies.of_job(db, job.id) if job.status == "finished" else None
    data = loop.snapshot_counts(db, job.spec.snapshot) if isinstance(job.spec, DPOSpec) else {}
    return presenting.job_card(job, data, left, made, at)


def list_parts(db: Database, at: str) -> dict[str, Update]:
    """The table of the last jobs and the choice among them."""
    recent = jobs.recent(db, loop.TRAINING, LISTED_JOBS)
    choices = [("Latest", LATEST), *((presenting.title(job), str(job.id)) for job in recent)]
    return {
        "jobs": gr.update(value=presenting.jobs_table(recent, at)),
        "selector": gr.update(choices=choices),
    }


def auto_sentence(setting: Mapping[str, Any]) -> str:
    """What the stored setting does."""
    if not setting["on"]:
        return "Off: an iteration starts only when someone starts it."
    return f"On: an iteration starts after every {setting['every']} new judgements."


def live(
    context: Context, selected: str | None, reference: str, scope: str, seen: Seen
) -> tuple[dict[str, Update], Seen]:
    """The parts of the page that differ from what this browser session was sent last, and what it has now."""
    at = now()
    job = find_job(context.db, selected)
    parts = job_parts(context.db, job, at) | list_parts(context.db, at)
    marks = presenting.fingerprints(parts)
    changed = {name: part for name, part in parts.items() if seen.get(name) != marks[name]}
    key = preview_key(context.db, reference, scope)
    shown = {name: seen.get(name) for name in ("preview", "rests_until")}
    if preview_due(seen, key):
        began = time.monotonic()
        changed["preview"] = preview_part(context, reference, scope)
        shown = {"preview": key, "rests_until": rest_after(began, time.monotonic())}
    return changed, {**marks, **shown, "job": None if job is None else job.id}


def rest_after(began: float, ended: float) -> float:
    """When the preview may be computed again."""
    cost = ended - began
    return ended + (REST_FACTOR * cost if cost > QUICK_SECONDS else 0.0)


def begin(context: Context, requested_by: str, reference: str, scope: str, settings: tuple[Any, ...]) -> int:
    """Start the next iteration from the form and return its job. Raises UserError where it can't be started."""
    spec = form_spec(context, reference, scope, settings)
    return loop.submit(context.db, context.data_dir, spec, requested_by=requested_by)


def save_auto(db: Database, on: bool, every: float | None) -> str:
    """Store when to train without being asked, and say so. Raises UserError for a number that can't be meant."""
    if every is None or every < 1 or every != int(every):
        raise UserError("The number of new judgements must be a whole number of at least 1.")
    setting = {"on": bool(on), "every": int(every)}
    store.set_setting(db, "auto_train", setting)
    return f"Saved. {auto_sentence(setting)}"


def cancel_shown(db: Database, seen: Seen) -> str:
    """Cancel the job on the page: the one this session was shown, even if a newer one began since."""
    job_id = shown_job(seen)
    jobs.cancel(db, job_id)
    return f"Job {job_id} was asked to stop; its last checkpoint stays."


def resume_shown(db: Database, seen: Seen) -> str:
    """Resume the job on the page. Raises UserError while another training runs."""
    job_id = shown_job(seen)
    loop.resume(db, job_id)
    return f"Job {job_id} is queued again and goes on from its last checkpoint."


def shown_job(seen: Seen) -> int:
    """The id of the job on the page. Raises UserError when there is none."""
    if not isinstance(seen, dict) or not isinstance(seen.get("job"), int):
        raise UserError("No job is shown; reload the page.")
    return int(seen["job"])


# ---------------------------------------------------------------------------------------------------------- the page
@dataclass(frozen=True)
class Form:
    """The inputs of an iteration."""

    reference: gr.Radio
    scope: gr.Radio
    settings: tuple[gr.Number | gr.Radio, ...]
    """In the order of SETTINGS."""
    start: gr.Button
    said: gr.HTML


@dataclass(frozen=True)
class AutoTrain:
    """The inputs of training without being asked."""

    on: gr.Checkbox
    every: gr.Number
    save: gr.Button
    said: gr.HTML


def build_form() -> Form:
    """The form of the next iteration; each setting's text comes from the spec."""
    with gr.Row():
        reference = gr.Radio(
            [("The base model (default)", "base"), ("The parent adapter", "parent")],
            value=DPOSpec().reference,
            label="Reference",
            info=sentence_of("reference"),
            min_width=320,
        )
        scope = gr.Radio(
            [("New since the parent", "new"), ("All judgements", "all")],
            value=DPOSpec().scope,
            label="Data",
            info=sentence_of("scope"),
            min_width=320,
        )
        noise = gr.Radio(
            [("Ignore (default)", "ignore"), ("Weight", "weight"), ("Smooth", "smooth")],
            value=DPOSpec().annotator_noise,
            label="Annotator noise",
            info=sentence_of("annotator_noise"),
            min_width=320,
        )
    literal(presenting.notice(NOISE_SENTENCE))
    with gr.Accordion("Settings", open=False), gr.Row():
        settings = tuple(setting_input(*entry) for entry in described())
    start = gr.Button("Train the next iteration", variant="primary", elem_id="train-start")
    return Form(reference, scope, (*settings, noise), start, literal())


def described() -> list[tuple[str, Any, str]]:
    """The form's numbers as the spec describes them, in the form's order."""
    known = {name: (name, default, sentence) for name, default, sentence in specs.describe(DPOSpec)}
    assert set(SETTINGS) <= {entry.name for entry in fields(DPOSpec)}
    return [known[name] for name in NUMBERS]


def sentence_of(field: str) -> str:
    """The spec's sentence on a field."""
    return next(sentence for name, _, sentence in specs.describe(DPOSpec) if name == field)


def setting_input(name: str, default: Any, sentence: str) -> gr.Number:
    """One setting; whole numbers where the spec wants them."""
    return gr.Number(
        value=default,
        precision=0 if isinstance(default, int) else None,
        label=name.replace("_", " "),
        info=sentence,
        min_width=240,
    )


def build_auto() -> AutoTrain:
    """Training without being asked."""
    with gr.Row():
        on = gr.Checkbox(label="Train automatically after every N new judgements", min_width=320)
        every = gr.Number(label="N", precision=0, minimum=1, min_width=140)
        save = gr.Button("Save", scale=0, min_width=140)
    return AutoTrain(on, every, save, literal())


def build_live() -> dict[str, Any]:
    """The parts of the page that follow the job, by name."""
    parts: dict[str, Any] = {}
    parts["selector"] = gr.Dropdown(
        # A choice made before the app was restarted must still be accepted after it.
        [("Latest", LATEST)],
        value=LATEST,
        label="Job",
        allow_custom_value=True,
    )
    parts["card"] = literal()
    with gr.Row():
        parts["cancel"] = gr.Button(
            "Cancel", variant="stop", interactive=False, elem_id="train-cancel", scale=0, min_width=160
        )
        parts["resume"] = gr.Button(
            "Resume this run", interactive=False, elem_id="train-resume", scale=0, min_width=220
        )
    parts["said"] = literal()
    with gr.Column(visible=False) as curves:
        parts["heading"] = literal()
        with gr.Row():
            for curve in presenting.CURVES:
                parts[curve.label] = build_plot(curve)
    parts["curves"] = curves
    parts["log"] = literal()
    gr.Markdown("### The last jobs")
    parts["jobs"] = literal()
    return parts


def build_plot(curve: presenting.Curve) -> gr.LinePlot:
    """One curve over optimiser steps."""
    with gr.Column(min_width=300):
        plot = gr.LinePlot(
            x="step",
            y="value",
            color="series" if len(curve.series) > 1 else None,
            title=curve.label,
            x_title="optimiser step",
            y_title=curve.axis,
            color_title="",
            y_lim=[*curve.limits],
            height=280,
        )
        literal(presenting.notice(curve.caption))
    return plot


@dataclass(frozen=True)
class Page:
    """The tab's components: `parts` by name follow the rows, `seen` is what this session was sent last."""

    form: Form
    auto: AutoTrain
    parts: Mapping[str, Any]
    seen: gr.State
    timer: gr.Timer

    @property
    def looked(self) -> list[Any]:
        """The inputs that say what is looked at."""
        return [self.parts["selector"], self.form.reference, self.form.scope]

    @property
    def followed(self) -> list[Any]:
        """The outputs of a handler that redraws what changed."""
        return [*self.parts.values(), self.seen]

    def sent(self, changed: Mapping[str, Any], seen: Seen) -> list[Any]:
        """What goes to the browser: the changed parts, and nothing for the others."""
        return [*(changed.get(name, gr.skip()) for name in self.parts), seen]


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay the tab out and wire it; every value comes from a guarded handler."""
    gr.Markdown("### What would be trained")
    preview = literal()
    form = build_form()
    auto = build_auto()
    gr.Markdown("### Training")
    parts = {"preview": preview, **build_live()}
    page = Page(form, auto, parts, gr.State({}), gr.Timer(POLL_SECONDS, active=False))
    wire_live(page, context, opening_of(demo))
    wire_buttons(page, context)


def wire_live(page: Page, context: Context, opening: Callable[..., Any]) -> None:
    """Fill the page when it is opened, and from then on send what changes."""

    @guarded(context, "admin")
    def open_train(annotator: Annotator, selected: str, reference: str, scope: str) -> list[Any]:
        setting = store.setting(context.db, "auto_train", loop.AUTO_TRAIN_DEFAULT)
        said = presenting.notice(auto_sentence(setting))
        filled = page.sent(*live(context, selected, reference, scope, {}))
        return [*filled, gr.Timer(active=True), setting["on"], setting["every"], said]

    @guarded(context, "admin")
    def poll_train(annotator: Annotator, selected: str, reference: str, scope: str, was: Seen) -> list[Any]:
        return page.sent(*live(context, selected, reference, scope, was))

    auto = page.auto
    opening(open_train, page.looked, [*page.followed, page.timer, auto.on, auto.every, auto.said], **QUIET)
    page.timer.tick(poll_train, [*page.looked, page.seen], page.followed, **QUIET)
    for choice in page.looked:
        choice.input(poll_train, [*page.looked, page.seen], page.followed, **QUIET)


def wire_buttons(page: Page, context: Context) -> None:
    """Start, cancel and resume jobs, and store when to start without being asked."""

    @guarded(context, "admin")
    def start_training(annotator: Annotator, reference: str, scope: str, *settings: Any) -> list[Any]:
        job_id = begin(context, annotator.name, reference, scope, settings)
        return [presenting.notice(f"Job {job_id} is queued; it is shown below."), gr.update(value=LATEST)]

    @guarded(context, "admin")
    def save_auto_train(annotator: Annotator, on: bool, every: float | None) -> str:
        return presenting.notice(save_auto(context.db, on, every))

    @guarded(context, "admin")
    def cancel_job(annotator: Annotator, was: Seen) -> str:
        return presenting.notice(cancel_shown(context.db, was))

    @guarded(context, "admin")
    def resume_job(annotator: Annotator, was: Seen) -> str:
        return presenting.notice(resume_shown(context.db, was))

    form, auto, parts = page.form, page.auto, page.parts
    inputs = [form.reference, form.scope, *form.settings]
    form.start.click(start_training, inputs, [form.said, parts["selector"]], **SPOKEN)
    auto.save.click(save_auto_train, [auto.on, auto.every], auto.said, **SPOKEN)
    parts["cancel"].click(cancel_job, page.seen, parts["said"], **SPOKEN)
    parts["resume"].click(resume_job, page.seen, parts["said"], **SPOKEN)
