"""The Runs page: the queue, one run live from its rows and what came of it, and runs compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.jobs.job_table import CAME_TO_NOTHING
from annotation.records import Annotator, UserError, now
from annotation.tabs.address import place_bar, told, told_view, visits
from annotation.tabs.components import (
    QUEUED,
    QUIET,
    FollowedPage,
    Seen,
    Update,
    acting_box,
    button,
    changes,
    drafted,
    html_box,
    open_choice,
    row_number,
    text_in,
    undrafted,
)
from annotation.tabs.guard import Context, guarded
from annotation.tabs.polling import poll, pulse
from annotation.translation import N_, _, joined
from annotation.ui import markup
from annotation.ui.markup import Download, Explained, paragraph
from annotation.ui.tab_addresses import Place, link
from rlhf.data.snapshots import SnapshotCounts, snapshot_counts
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs import job_store, rental_store, run_labels
from rlhf.jobs.artifacts import bytes_within, checkpoints_directory
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.job_store import Job
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy
from rlhf.submission import preconditions
from rlhf.submission.form_fields import in_labels
from rlhf.tabs import downloads, plot_zoom
from rlhf.tabs.jobs import job_cards, job_words, policy_decisions
from rlhf.tabs.plot_zoom import LookedAt
from rlhf.tabs.runs import compare_runs_form, curves, queue_view, run_list, run_outcome
from rlhf.tabs.runs.run_list import NEWEST

LATEST = "latest"
# The plots that are looked at closely: of the run, and of the comparison.
LOOK = "closer"
LOOKS = (LOOK, compare_runs_form.LOOK)
LISTED_JOBS = 50
SEARCHED_JOBS = 5000
# What is looked at, in the order of `RunsSelection`.
LOOKED = ("selector", "queued", "compared", "search", "order", "name", "tags", "notes")
# What a changed address goes by among the changed parts.
ADDRESS = "address"
LOG_LINES = 200
POLL_SECONDS = 2
RESUME_SENTENCE = N_(
    "“Resume this run” puts the same job back in the queue: it goes on from what it has saved, if anything, with the "
    "same data and settings, to the end that it was given."
)
ANEW_SENTENCE = N_("Nothing of it is saved: “Resume this run” begins it anew, with the same data and settings.")
RENTED_SENTENCE = N_(
    "“Resume this run” follows the job on the Hub and fetches what it has made. One that was never started there is "
    "rented now, on the terms that were agreed to."
)
SLOWER_SENTENCE = N_("Because its loss was no number any more, it goes on with half the learning rate.")
HALF_SENTENCE = N_(
    "“Go on with half the batch” does so with half as many items in a forward pass and twice the passes in a step: "
    "that takes less memory and learns the same."
)
CANCELLABLE = ("queued", "running")

Metrics = Sequence[Mapping[str, Any]]


# ------------------------------------------------------------------------------------------------ what the page shows
def find_job(db: Database, selected: Any) -> Job | None:
    """The job to look at: the chosen one; otherwise the one that runs, or the newest."""
    number = row_number(selected)
    found = [] if number is None else job_store.with_ids(db, [number])
    if found and found[0].spec.waits:
        return found[0]
    running = [*job_store.at_work(db), *job_store.rented_jobs(db)]
    newest = job_store.recent(db, job_store.waiting_kinds(), 1)
    return running[0] if running else newest[0] if newest else None


def drawn_job(db: Database, job: Job | None) -> Job | None:
    """Whose curves to draw: the job itself, or the training that made the candidate under check."""
    if job is None or not isinstance(job.spec, CheckSpec):
        return job
    made_by = registry.by_revision(db, job.spec.candidate).job_id
    return None if made_by is None else job_store.get(db, made_by)


def job_parts(db: Database, job: Job | None, made: Policy | None, at: str) -> dict[str, Update]:
    """How a job stands, what it runs with, and whether it can be cancelled or resumed."""
    status = "" if job is None else job.status
    rental = None if job is None else rental_store.found(db, job.id)
    resumable = status in CAME_TO_NOTHING and not (rental is not None and rental.is_over)
    halvable = job is not None and job_store.can_be_halved(job)
    return {
        "card": gr.update(value=job_card(db, job, made, at)),
        "facts": gr.update(value="" if job is None else job_facts(db, job)),
        **{name: gr.update(visible=job is not None) for name in ("all", "record")},
        "cancel": gr.update(visible=status in (*CANCELLABLE, "cancelling"), interactive=status in CANCELLABLE),
        "resume": gr.update(visible=resumable, interactive=resumable),
        "half": gr.update(visible=halvable, interactive=halvable),
        "resume_why": gr.update(value=resume_hint(db, job) if job and resumable else ""),
        "resume_note": gr.update(value=resume_note(db, job) if job and resumable else ""),
    }


def has_nothing_saved(db: Database, job: Job) -> bool:
    """Whether a training here would begin anew: it had written no checkpoint yet, or they were deleted.

    One whose model is registered only says so.
    """
    saved = bytes_within(checkpoints_directory(db.path.parent, job.id)) or registry.of_job(db, job.id)
    return isinstance(job.spec, TrainingSpec) and not saved


def resume_hint(db: Database, job: Job) -> str:
    """What the buttons that let a job go on do, for whoever asks."""
    noted = job.flavor is not None or has_nothing_saved(db, job)
    half = _(HALF_SENTENCE) if job_store.can_be_halved(job) else ""
    said = joined("" if noted else _(RESUME_SENTENCE), half)
    return markup.hint(Explained(_("Resume this run"), said))


def resume_note(db: Database, job: Job) -> str:
    """What is not as one would think where a job goes on."""
    if job.flavor is not None:
        return paragraph(_(RENTED_SENTENCE), "quiet")
    anew = _(ANEW_SENTENCE) if has_nothing_saved(db, job) else ""
    slower = _(SLOWER_SENTENCE) if job_store.diverged(job) else ""
    said = joined(anew, slower)
    return paragraph(said, "quiet") if said else ""


def job_card(db: Database, job: Job | None, made: Policy | None, at: str) -> str:
    if job is None:
        return markup.notice(_("Nothing has been run yet. Start a run on the Train tab."))
    left = job_cards.seconds_left(job_store.step_times(db, job), job, at)
    done, retries = made if job.status == "finished" else None, job_store.retries(db, job.id)
    label = run_labels.label_of(db, job.id)
    return job_cards.job_card(job, left, done, at, retries, label.name) + job_cards.label_card(label)


def job_facts(db: Database, job: Job) -> str:
    data = snapshot_counts(db, job.spec.snapshot) if isinstance(job.spec, TrainingSpec) else SnapshotCounts()
    return job_cards.job_facts(job, data, rental_store.found(db, job.id))


def list_parts(db: Database, looked: RunsSelection, at: str) -> dict[str, Update]:
    """The list of the runs that are searched for, and the choice among the last."""
    search, order = text_in(looked.search), text_in(looked.order)
    everything = bool(search.strip()) or order != NEWEST
    # One more than are listed says that there are more.
    jobs = job_store.recent(db, job_store.waiting_kinds(), SEARCHED_JOBS if everything else run_list.LISTED + 1)
    known = run_labels.labels(db)
    made = {one.job_id: one for one in registry.all_policies(db) if one.job_id is not None}
    runs = run_list.found(run_list.listed(jobs, known, made, at), search, order)
    titles = [
        (job_words.title(job, known.get(job.id, run_labels.NONE).name), str(job.id)) for job in jobs[:LISTED_JOBS]
    ]
    return {
        "jobs": gr.update(value=run_list.runs_table(runs, search)),
        "selector": gr.update(choices=[(_("What runs now, or ran last"), LATEST), *titles], visible=bool(jobs)),
    }


def label_parts(db: Database, job: Job | None) -> dict[str, Update]:
    """The fields for what people call a run, as it is stored, and where its report is fetched."""
    address = "" if job is None else downloads.report_address(job.id)
    return {
        "labels": gr.update(visible=job is not None),
        "labelled": gr.update(value=""),
        **{name: gr.update(value=value) for name, value in label_form(db, job).items()},
        "fetch": gr.update(value=markup.download_button(address, _("Report (Markdown)")) if address else ""),
    }


def label_form(db: Database, job: Job | None) -> dict[str, str]:
    """The same fields by name."""
    label = run_labels.NONE if job is None else run_labels.label_of(db, job.id)
    return {"name": label.name, "tags": ", ".join(label.tags), "notes": label.notes}


def followed_label(db: Database, job: Job | None, looked: RunsSelection, seen: Seen) -> tuple[dict[str, Update], Any]:
    """What the run that is shown is called; where it was shown before, in the fields where nothing is being typed."""
    if "job" not in seen or seen["job"] != (None if job is None else job.id):
        return label_parts(db, job), label_form(db, job)
    was = label_sent(seen)
    fresh = undrafted(was, looked.typed, label_form(db, job))
    return {name: gr.update(value=text) for name, text in fresh.items() if looked.typed[name] != text}, {**was, **fresh}


def label_sent(seen: Seen) -> dict[str, str]:
    """What this session was sent last of what a run is called; nothing where none is shown."""
    sent = seen.get("label")
    return sent if isinstance(sent, dict) else {}


def record_parts(db: Database, job: Job | None, drawn: Job | None, look: Any) -> tuple[dict[str, Update], LookedAt]:
    """The curves, samples and log of a job: costly, and the same until it reports again; and what is looked at."""
    metrics = [] if drawn is None else job_store.metrics(db, drawn.id)
    other = drawn is not None and job is not None and drawn.id != job.id and bool(metrics)
    heading = (
        _("Curves and samples of job {id}, which made it").format(id=drawn.id) if drawn is not None and other else ""
    )
    close, look = plot_zoom.nothing(LOOK) if drawn is None else look_at(drawn, metrics, look)
    return {
        "heading": gr.update(value=markup.notice(heading)),
        "plots": gr.update(value="" if drawn is None else curves.run_plots(drawn.spec, metrics, drawn.steps)),
        "samples": gr.update(value="" if drawn is None else job_cards.samples_box(job_store.samples(db, drawn.id))),
        "log": gr.update(value="" if job is None else job_cards.log_box(job_store.log_tail(db, job.id, LOG_LINES))),
        **close,
    }, look


def look_at(drawn: Job, metrics: Metrics, look: Any, chosen: str | None = None) -> tuple[dict[str, Update], LookedAt]:
    files = [Download(downloads.metrics_address(drawn.id), _("All values of job {id} (CSV)").format(id=drawn.id))]
    return plot_zoom.updates(LOOK, curves.curve_data_of(drawn.spec, metrics), files, look, chosen)


def record_key(db: Database, job: Job | None, drawn: Job | None) -> list[Any]:
    """Changes whenever a job or the one whose curves are drawn has reported something."""
    return [None if one is None else [one.id, one.steps, job_store.newest_event(db, one.id)] for one in (job, drawn)]


@dataclass(frozen=True)
class RunsSelection:
    """What this browser looks at: a job, a place in the queue, the runs to compare, the list, whether to delete; and
    what it calls the job.
    """

    job: Any = LATEST
    queued: Any = None
    compared: Any = None
    search: Any = ""
    order: Any = NEWEST
    name: Any = None
    tags: Any = None
    notes: Any = None
    confirming: str | None = None
    """The files that a person was asked about and has not answered."""

    @property
    def typed(self) -> dict[str, str]:
        return {"name": text_in(self.name), "tags": text_in(self.tags), "notes": text_in(self.notes)}


def selection_at(db: Database, place: Place) -> tuple[RunsSelection, str]:
    """What an address names, and what is to be said of it where there is no such job."""
    compared = [number for number in place.query.get("compare", "").split(",") if number]
    order = place.query.get("sort", NEWEST)
    order = order if order in run_list.ORDERS else NEWEST
    looked = RunsSelection(place.first or LATEST, None, compared, search=place.query.get("q", ""), order=order)
    return there_of(db, looked)


def there_of(db: Database, looked: RunsSelection) -> tuple[RunsSelection, str]:
    """What there is of what was typed, or named by an address, and what is to be said of the rest."""
    said = []
    job, number = str(looked.job or LATEST), row_number(looked.job)
    if job != LATEST and not (number and (found := job_store.with_ids(db, [number])) and found[0].spec.waits):
        job, other = LATEST, _("There is no job {number}; this is what runs now, or ran last.")
        none = _("There is no job {number}.")
        said.append((other if find_job(db, LATEST) else none).format(number=looked.job))
    elif number is not None:
        job = str(number)
    typed = looked.compared if isinstance(looked.compared, list) else []
    compared = [str(run.id) for run in compare_runs_form.chosen_jobs(db, typed)]
    missing = [str(one) for one in typed[: compare_runs_form.MOST] if str(row_number(one)) not in compared]
    if missing:
        said.append(_("There is no training {numbers} to compare.").format(numbers=", ".join(missing)))
    return replace(looked, job=job, compared=compared), markup.notice(joined(*said)) if said else ""


def place_of(looked: RunsSelection) -> Place:
    number, compared = row_number(looked.job), looked.compared if isinstance(looked.compared, list) else []
    numbers = ",".join(str(one) for one in map(row_number, compared) if one is not None)
    order = text_in(looked.order)
    query = {"compare": numbers, "q": text_in(looked.search).strip(), "sort": "" if order == NEWEST else order}
    return Place(() if number is None else (str(number),), query)


def in_view(looked: RunsSelection, seen: Seen) -> Place:
    """The address of what is looked at with the job that this session was shown, whatever runs later."""
    return place_of(replace(looked, job=seen["job"]))


def drawn_anew(
    db: Database, job: Job | None, drawn: Job | None, compared: Sequence[Job], keys: Mapping[str, Any], seen: Seen
) -> tuple[dict[str, Update], dict[str, Any]]:
    """The record and the comparison where they are others than were sent, and what of them is looked at closely."""
    changed: dict[str, Update] = {}
    looks: dict[str, Any] = {name: seen.get(name) for name in LOOKS}
    if seen.get("recorded") != keys["recorded"]:
        changed, looks[LOOK] = record_parts(db, job, drawn, looks[LOOK])
    if seen.get("comparison") != keys["comparison"]:
        name = compare_runs_form.LOOK
        comparison, looks[name] = compare_runs_form.parts_of(db, compared, looks[name])
        changed |= comparison
    return changed, looks


def live(context: Context, looked: RunsSelection, seen: Seen, chosen: bool = False) -> tuple[dict[str, Any], Seen]:
    """The parts of the page that differ from what this browser session was sent last, and what it has now.

    A run that a person has just chosen is shown, whatever stands unsaved about another one.
    """
    db, at = context.db, now()
    found = find_job(db, looked.job)
    stays = None if chosen else written_about(db, looked, seen, found)
    job = stays or found
    subject = run_outcome.subject_of(context, job)
    files = run_outcome.files_of(context, job, subject)
    parts = (
        queue_view.parts_of(db, looked.queued, at)
        | job_parts(db, job, None if job is None else registry.of_job(db, job.id), at)
        | run_outcome.parts_of(context, job, subject, files, looked.confirming)
        | list_parts(db, looked, at)
        | compare_runs_form.choice_parts(db)
    )
    changed, marks = changes(parts, seen)
    if stays is not None:
        changed["selector"] = {**parts["selector"], "value": str(stays.id)}
        changed[ADDRESS] = told(place_of(replace(looked, job=stays.id)), step=False)
    drawn, compared = drawn_job(db, job), compare_runs_form.chosen_jobs(db, looked.compared)
    keys: dict[str, Any] = {
        "recorded": record_key(db, job, drawn),
        "comparison": compare_runs_form.key_of(db, compared),
        "state": [] if job is None else [job.id, job.status],
        "order": queue_view.order_of(db),
        "decided": [
            *(decision_store.newest_decision(db), registry.serving(db).revision),
            sorted(run_outcome.under_way(db, subject)),
        ],
    }
    redrawn, looks = drawn_anew(db, job, drawn, compared, keys, seen)
    changed |= redrawn
    called, keys["label"] = followed_label(db, job, looked, seen)
    changed |= called
    there = subject is not None and subject.deleted is None
    return changed, {
        **marks,
        **keys,
        **looks,
        "job": None if job is None else job.id,
        "revision": subject.revision if subject is not None and there else None,
        "files": None if files is None else files.name,
        "confirming": looked.confirming if files is not None and looked.confirming == files.name else None,
    }


def written_about(db: Database, looked: RunsSelection, seen: Seen, found: Job | None) -> Job | None:
    """The run on the page where something typed of it is not saved yet, and another one would take its place."""
    shown = seen.get("job")
    if row_number(looked.job) is not None or not isinstance(shown, int) or found is None or found.id == shown:
        return None
    return job_store.get(db, shown) if looked.typed != label_sent(seen) else None


def cancel_shown(db: Database, seen: Any) -> str:
    """Cancel the job on the page: the one this session was shown, even if a newer one began since."""
    job_id = shown_job(seen)
    job_store.cancel(db, job_id)
    job = job_store.get(db, job_id)
    if job.status == "cancelled":
        idle = (
            _("Job {job_id} is cancelled: it had not gone on.")
            if job.attempt
            else _("Job {job_id} is cancelled: it had not begun.")
        )
        return idle.format(job_id=job_id)
    if job.flavor is not None:
        return _("Job {job_id} was asked to stop; the rented machine is given back.").format(job_id=job_id)
    return _("Job {job_id} was asked to stop.").format(job_id=job_id)


def resume_shown(db: Database, seen: Any, half_batch: bool = False) -> str:
    """Put the job on the page back in the queue. Raises UserError where it can't be resumed (in that way)."""
    job_id = shown_job(seen)
    changed = in_labels(job_store.resume(db, job_id, half_batch), job_store.get(db, job_id).spec)
    if job_store.get(db, job_id).flavor is not None:
        return _("Job {job_id} is looked for on the Hub again.").format(job_id=job_id)
    again = _("Job {job_id} is queued again and goes on from what it has saved, if anything. {changed}")
    if has_nothing_saved(db, job_store.get(db, job_id)):
        again = _("Job {job_id} is queued again and begins anew: nothing of it was saved. {changed}")
    return again.format(job_id=job_id, changed=changed).strip()


def shown_job(seen: Any) -> int:
    """The id of the job on the page. Raises UserError when there is none."""
    if not isinstance(seen, dict) or not isinstance(seen.get("job"), int):
        raise UserError(_("No job is shown; reload the page."))
    return int(seen["job"])


def shown_revision(seen: Any) -> str:
    """The revision that the job on the page made or checks. Raises UserError when there is none."""
    if not isinstance(seen, dict) or not isinstance(seen.get("revision"), str):
        raise UserError(_("This job has made nothing that could be used (any more)."))
    return str(seen["revision"])


def asked_about(context: Context, seen: Any) -> str:
    """The files that a person is to be asked about. Raises UserError while they can't be deleted."""
    if not isinstance(seen, dict) or not isinstance(seen.get("files"), str):
        raise UserError(_("This job has left no files that could be deleted."))
    made = None if seen["revision"] is None else registry.by_revision(context.db, seen["revision"])
    if made is not None and (needed := preconditions.needed_by(context.db, made)):
        raise UserError(needed)
    return str(seen["files"])


def delete_confirmed(context: Context, seen: Any, decided_by: str) -> str:
    """Delete what the question named, if it is still what is shown."""
    if asked_about(context, seen) != seen.get("confirming"):
        said = _("Press “{button}” first; the question names what would be deleted.")
        raise UserError(said.format(button=run_outcome.delete_words(made=seen["revision"] is not None)))
    if seen["revision"] is None:
        return policy_decisions.delete_checkpoints(context, shown_job(seen))
    return policy_decisions.delete(context, seen["revision"], decided_by)


# ---------------------------------------------------------------------------------------------------------- the page
@dataclass(frozen=True)
class RunsPage(FollowedPage):
    """The page's components.

    `seen` holds under "job" the id of the job that is shown, and under "revision" what it made or checks, or None.
    """

    notices = {"said": "state", "acted": "decided", "queue_said": "order"}

    pulse: gr.HTML
    bar: gr.HTML

    @property
    def new_run(self) -> gr.Button:
        """ "Start a new run from this policy": the forms listen to it."""
        button: gr.Button = self.parts["new_run"]
        return button

    @property
    def looked(self) -> list[Any]:
        """The inputs that say what is looked at, in the order of `RunsSelection`."""
        return [self.parts[name] for name in LOOKED]

    @property
    def followed(self) -> list[Any]:
        return [*super().followed, self.bar]

    def sent(self, changed: Mapping[str, Any], seen: Mapping[str, Any]) -> list[Any]:
        """What goes to the browser: the changed parts and address, and nothing for the others."""
        return [*super().sent(changed, seen), changed.get(ADDRESS, gr.skip())]

    def looked_at(self, name: str) -> list[Any]:
        """The outputs of a handler that looks closely at another plot."""
        return [*(self.parts[part] for part in plot_zoom.names(name)), self.seen]

    def sent_of(self, name: str, changed: Mapping[str, Any], seen: Seen) -> list[Any]:
        return [*(changed.get(part, gr.skip()) for part in plot_zoom.names(name)), seen]


def lay_out() -> RunsPage:
    parts = queue_view.lay_out()
    with gr.Accordion(_("All runs"), open=False, visible=False) as parts["all"]:
        with gr.Row():
            parts["search"] = gr.Textbox(
                label=_("Search"), max_length=200, elem_id="run-search", min_width=240, scale=2
            )
            orders = [(_(words), name) for name, words in run_list.ORDERS.items()]
            parts["order"] = gr.Dropdown(orders, value=NEWEST, label=_("Order"), elem_id="run-order", min_width=160)
        parts["jobs"] = html_box()
    parts |= compare_runs_form.lay_out()
    parts["selector"] = open_choice(
        _("Job"), [(_("What runs now, or ran last"), LATEST)], value=LATEST, elem_id="run-job", visible=False
    )
    parts["card"] = html_box()
    with gr.Row():
        parts["cancel"] = button(_("Cancel"), "run-cancel", "stop", visible=False)
        parts["resume"] = button(_("Resume this run"), "run-resume", visible=False)
        parts["half"] = button(_("Go on with half the batch"), "run-half", visible=False)
        parts["resume_why"] = html_box()
    parts["resume_note"] = html_box()
    parts["said"] = acting_box(speaks=True, elem_id="run-said")
    parts |= lay_out_labels()
    parts |= run_outcome.lay_out()
    with gr.Row(elem_id="run-files"):
        parts |= {"download": html_box(), "fetch": html_box()}
    parts |= {"heading": html_box(), "plots": html_box()}
    parts |= plot_zoom.lay_out(LOOK, _("Look closer"))
    parts["samples"] = html_box()
    with gr.Accordion(_("Its settings and log"), open=False, visible=False) as parts["record"]:
        parts |= {"facts": html_box(), "log": html_box()}
    return RunsPage(parts, gr.State({}), pulse(POLL_SECONDS), place_bar())


def lay_out_labels() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Accordion(_("Name, tags and notes"), open=False, elem_classes=["of-subject"]) as parts["labels"]:
        with gr.Row():
            parts["name"] = gr.Textbox(label=_("Name"), max_length=run_labels.LONGEST_NAME, elem_id="run-name")
            parts["tags"] = gr.Textbox(label=_("Tags, with commas between"), max_length=900, elem_id="run-tags")
        parts["notes"] = gr.Textbox(
            label=_("Notes"), lines=3, max_lines=20, max_length=run_labels.LONGEST_NOTES, elem_id="run-notes"
        )
        parts["keep_label"] = button(_("Save"), "run-keep-label")
        parts["labelled"] = html_box()
    return parts


def build(context: Context) -> RunsPage:
    page = lay_out()
    wire_views(page, context)
    wire_labels(page, context)
    wire_looks(page, context)
    wire_queue(page, context)
    wire_actions(page, context)
    wire_deleting(page, context)
    return page


def wire_views(page: RunsPage, context: Context) -> None:
    """Fill the page with what its address names, and from then on send what changes."""

    def open_runs(place: Place) -> list[Any]:
        looked, said = selection_at(context.db, place)
        changed, seen = live(context, looked, {})
        values = {"selector": looked.job, "compared": looked.compared, "search": looked.search, "order": looked.order}
        shown = {name: {**changed.get(name, gr.update()), "value": value} for name, value in values.items()}
        address = told(place_of(looked), step=False, shows=in_view(looked, seen))
        if {"q", "sort"} & place.query.keys():
            shown["all"] = {**changed.get("all", gr.update()), "open": True}
        if looked.compared:
            shown["comparable"] = {**changed.get("comparable", gr.update()), "open": True}
        return page.sent({**changed, **shown, "said": said, "acted": "", ADDRESS: address}, seen)

    def poll_runs(*sent: Any) -> list[Any]:
        looked, was = read(sent)
        held = page.held(was)
        changed, seen = live(context, replace(looked, confirming=was.get("confirming")), was)
        if page.asked_since(held, seen):
            return [gr.skip() for _part in page.followed]
        changed |= page.overtaken(held, seen)
        if "job" in was and seen["job"] != was["job"]:  # another one runs now
            changed = {ADDRESS: told_view(place_of(looked), in_view(looked, seen)), **changed}
        return page.sent(changed, seen)

    def look(sent: Sequence[Any], chosen: bool) -> list[Any]:
        asked, was = read(sent)
        looked, unknown = there_of(context.db, asked)
        changed, seen = live(context, looked, was, chosen)
        values = {"selector": (asked.job, looked.job), "compared": (asked.compared, looked.compared)}
        for name, (typed, value) in values.items() if unknown else ():
            if typed != value:
                changed[name] = {**changed.get(name, gr.update()), "value": value}
        address = told(place_of(looked), shows=in_view(looked, seen))
        return page.sent({ADDRESS: address, **changed, "said": unknown, "acted": ""}, seen)

    @guarded(context, "admin")
    def choose_run(*sent: Any) -> list[Any]:
        return look(sent, chosen=True)

    @guarded(context, "admin")
    def list_runs(*sent: Any) -> list[Any]:
        return look(sent, chosen=False)

    visits(page.bar, context, open_runs, [], page.followed)
    inputs = [*page.looked, page.seen]
    page.parts["selector"].input(choose_run, inputs, page.followed, **QUIET)
    for name in ("compared", "order"):
        page.parts[name].input(list_runs, inputs, page.followed, **QUIET)
    page.parts["search"].submit(list_runs, inputs, page.followed, **QUIET)
    page.parts["queued"].input(guarded(context, "admin")(poll_runs), inputs, page.followed, **QUIET)
    poll(page.pulse, context, poll_runs, inputs, page.followed)


def wire_labels(page: RunsPage, context: Context) -> None:
    labels = {name: str(page.parts[name].label) for name in ("name", "tags", "notes")}

    @guarded(context, "admin")
    def save_label(annotator: Annotator, *sent: Any) -> list[Any]:
        looked, was = read(sent)
        db, job_id = context.db, shown_job(was)
        with db.transaction():
            holds = label_form(db, job_store.get(db, job_id))
            draft = drafted(was.get("label"), looked.typed, holds, labels)
            if draft.both:
                theirs = markup.facts(
                    [(labels[name], text) for name, text in holds.items() if labels[name] in draft.both]
                )
                return page.sent({"labelled": draft.refusal + theirs}, {**was, "label": draft.sent})
            run_labels.set_label(db, job_id, run_labels.written(**draft.values), annotator.name)
        changed, seen = live(context, replace(looked, job=job_id), {**was, "job": None})
        said = markup.notice(_("Saved for job {job_id}.").format(job_id=job_id)) + draft.remark
        return page.sent({**changed, "labelled": said}, seen)

    page.parts["keep_label"].click(save_label, [*page.looked, page.seen], page.followed, **QUEUED)


def read(sent: Sequence[Any]) -> tuple[RunsSelection, Seen]:
    """What a browser looks at and was sent last, from what it sends with each press."""
    *looked, was = sent
    return RunsSelection(*looked), was if isinstance(was, dict) else {}


def wire_looks(page: RunsPage, context: Context) -> None:
    """Look closely at another plot, of the run that is shown or of the runs that are compared."""
    db = context.db

    @guarded(context, "admin")
    def choose_plot(choice: Any, was: Seen) -> list[Any]:
        drawn = drawn_job(db, job_store.get(db, shown_job(was)))
        if drawn is None:
            return page.sent_of(LOOK, {}, was)
        close, look = look_at(drawn, job_store.metrics(db, drawn.id), was.get(LOOK), text_in(choice))
        return page.sent_of(LOOK, close, {**was, LOOK: look})

    @guarded(context, "admin")
    def choose_shared_plot(choice: Any, was: Seen, compared: Any) -> list[Any]:
        runs, name = compare_runs_form.chosen_jobs(db, compared), compare_runs_form.LOOK
        close, look = compare_runs_form.look_at(db, runs, was.get(name), text_in(choice))
        return page.sent_of(name, close, {**was, name: look})

    own, shared = LOOKS
    choices = {name: page.parts[f"{name}_choice"] for name in LOOKS}
    choices[own].input(choose_plot, [choices[own], page.seen], page.looked_at(own), **QUIET)
    inputs = [choices[shared], page.seen, page.parts["compared"]]
    choices[shared].input(choose_shared_plot, inputs, page.looked_at(shared), **QUIET)
    for name in LOOKS:
        plot_zoom.wire(name, context, page.parts)


def wire_queue(page: RunsPage, context: Context) -> None:
    def changer(action: str) -> Callable[..., list[Any]]:
        def change_queue(*sent: Any) -> list[Any]:
            looked, was = read(sent)
            said = markup.notice(queue_view.change(context.db, looked.queued, action))
            changed, seen = live(context, looked, was)
            # Not what was said of the run before: the same sentence said again would be no news.
            return page.sent({**changed, "said": "", "queue_said": said}, seen)

        change_queue.__name__ = f"queue_{action}"
        return change_queue

    for action in queue_view.BUTTONS:
        handler = guarded(context, "admin")(changer(action))
        page.parts[action].click(handler, [*page.looked, page.seen], page.followed, **QUEUED)


def wire_actions(page: RunsPage, context: Context) -> None:
    """Cancel and resume the job that is shown; use, check and merge what it made."""

    def actor(name: str, act: Callable[[Seen, str], str], where: str) -> Callable[..., list[Any]]:
        def act_on_run(annotator: Annotator, *sent: Any) -> list[Any]:
            looked, was = read(sent)
            said = act(was, annotator.name)
            shown = markup.notice(said)
            if name == "promote":
                undo = markup.way(link("iterations", Place((shown_revision(was),))), _("Undo it on the Iterations tab"))
                shown = markup.done(said) + markup.acts(undo)
            changed, seen = live(context, looked, was)
            return page.sent({**changed, where: shown}, seen)

        act_on_run.__name__ = f"run_{name}"
        return act_on_run

    actions: Mapping[str, Callable[[Seen, str], str]] = {
        "cancel": lambda was, by: cancel_shown(context.db, was),
        "resume": lambda was, by: resume_shown(context.db, was),
        "half": lambda was, by: resume_shown(context.db, was, half_batch=True),
        "promote": lambda was, by: policy_decisions.promote(context, shown_revision(was), by),
        "check": lambda was, by: policy_decisions.check(context, shown_revision(was), by),
        "merge": lambda was, by: policy_decisions.merge(context, shown_revision(was), by),
    }
    inputs = [*page.looked, page.seen]
    for name, act in actions.items():
        where = "said" if name in ("cancel", "resume", "half") else "acted"
        handler = guarded(context, "admin")(actor(name, act, where))
        page.parts[name].click(handler, inputs, page.followed, **QUEUED)


def wire_deleting(page: RunsPage, context: Context) -> None:
    """Ask before files are deleted, naming what and how large; then delete them, or not."""
    inputs = [*page.looked, page.seen]

    @guarded(context, "admin")
    def ask_deletion(*sent: Any) -> list[Any]:
        looked, was = read(sent)
        return page.sent(*live(context, replace(looked, confirming=asked_about(context, was)), was))

    @guarded(context, "admin")
    def delete_run(annotator: Annotator, *sent: Any) -> list[Any]:
        looked, was = read(sent)
        said = markup.notice(delete_confirmed(context, was, annotator.name))
        changed, seen = live(context, looked, was)
        return page.sent({**changed, "acted": said}, seen)

    @guarded(context, "admin")
    def keep_run(*sent: Any) -> list[Any]:
        return page.sent(*live(context, *read(sent)))

    page.parts["delete"].click(ask_deletion, inputs, page.followed, **QUEUED)
    page.parts["really"].click(delete_run, inputs, page.followed, **QUEUED)
    page.parts["keep"].click(keep_run, inputs, page.followed, **QUEUED)
