"""On the Playground tab: let one policy answer a prompt set as a job, and fetch the files that came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, Sampling, UserError
from annotation.store import prompt_store
from annotation.tabs.components import QUEUED, button, html_box, open_choice, text_in, whole_number
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _, numeral
from annotation.ui import markup
from annotation.ui.formatting import moment
from annotation.ui.invisible import visible
from annotation.ui.markup import Download, paragraph, table
from annotation.validation import stored
from rlhf.generation import playground_store, prompt_set_spec, prompt_sets
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.generation.prompt_sets import PromptSetResult
from rlhf.jobs import job_store
from rlhf.models import registry
from rlhf.submission import job_submission
from rlhf.tabs.iterations import check_report

SPLITS: Mapping[str, str] = {
    "held-out": N_("Held-out prompts"),
    "train": N_("Prompts to train on"),
    "all": N_("All prompts"),
}
LISTED_FILES = 20
MAXIMUM_EACH = 16
ASKED = ("revision", "split", "source", "each", "temperature", "min_p", "tokens", "seed")


def files_table(context: Context) -> str:
    """The answers that can be fetched, newest first; nothing before the first."""
    rows = []
    for job in job_store.recent(context.db, (PromptSetSpec.kind,), LISTED_FILES):
        result, spec = stored(PromptSetResult, job.result), job.spec
        there = job.status == "finished" and prompt_sets.file_of(context.data_dir, job.id).is_file()
        if there and isinstance(spec, PromptSetSpec):
            fetched = Download(prompt_sets.address(job.id), f"job-{job.id}.jsonl")
            prompts = f"{numeral(result.prompts)} · {prompt_set_spec.described(spec)}"
            rows.append((str(job.id), spec.revision, prompts, str(result.answers), moment(job.finished), fetched))
    headers = (_("Job"), _("Policy"), _("Prompts"), _("Answers"), _("Finished (UTC)"), _("File"))
    return table(headers, rows, "", (_("Answers"),)) if rows else ""


def sources(db: Database) -> list[tuple[str, str]]:
    """Where prompts have come from, to choose from."""
    found = prompt_store.prompt_sources(db)
    return [
        (_("Any source"), ""),
        *((f"{visible(name)} ({numeral(count)})", name) for name, count in sorted(found.items())),
    ]


def choices(db: Database) -> list[tuple[str, str]]:
    found = [policy for policy in registry.all_policies(db) if policy.can_answer]
    return [
        (f"{policy.revision} · {policy.status_word}", policy.revision) for policy in check_report.policy_order(found)
    ]


def number_in(value: Any, low: float, high: float, label: str) -> float:
    """A number within its limits. Raises UserError naming the field at fault."""
    sound = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not sound:
        raise UserError(_("{label} must be a number from {low:,} to {high:,}.").format(label=label, low=low, high=high))
    return float(value)


def whole_in(value: Any, low: int, high: int, label: str) -> int:
    """A whole number within its limits. Raises UserError naming the field at fault."""
    number = number_in(value, low, high, label)
    if number != int(number):
        said = _("{label} must be a whole number from {low:,} to {high:,}.")
        raise UserError(said.format(label=label, low=low, high=high))
    return int(number)


def sampling_of(form: Mapping[str, Any]) -> Sampling:
    """How answers are to be drawn. Raises UserError naming the field at fault."""
    return Sampling(
        number_in(form["temperature"], 0.01, 10, _("Temperature")),
        number_in(form["min_p"], 0, 0.99, "min_p"),
        whole_in(form["tokens"], 1, playground_store.MAXIMUM_TOKENS, _("Tokens at most")),
    )


def seed_of(form: Mapping[str, Any]) -> int:
    """The seed in the form. Raises UserError where there is none."""
    return whole_in(form["seed"], 0, playground_store.SEEDS - 1, _("Seed"))


def submit(context: Context, form: Mapping[str, Any], requested_by: str) -> int:
    """Queue a job that answers the chosen prompts; returns its id. Raises UserError for a form that can't be meant."""
    if form["split"] not in SPLITS:
        raise UserError(_("Choose which prompts are to be answered."))
    spec = PromptSetSpec(
        model=context.model,
        revision=text_in(form["revision"]) or "serving",
        split=form["split"],
        source=text_in(form["source"]),
        each=whole_in(form["each"], 1, MAXIMUM_EACH, _("Answers to each")),
        seed=seed_of(form),
        sampling=sampling_of(form),
    )
    return job_submission.submit(context.db, context.data_dir, spec, requested_by)


def lay_out() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Accordion(_("Let a policy answer a prompt set"), open=False):
        with gr.Row():
            parts["revision"] = open_choice(_("Policy"), info=_("Nothing chosen: the one that serves."), min_width=200)
            parts["split"] = gr.Dropdown(
                [(_(label), split) for split, label in SPLITS.items()],
                value="held-out",
                label=_("Prompts"),
                min_width=200,
            )
            parts["source"] = open_choice(_("Source"), info=_("Nothing chosen: any source."), min_width=200)
            parts["each"] = whole_number(_("Answers to each"), 1, min_width=140)
        html_box(paragraph(_("It draws with the sampling and the seed above, and waits in the queue like a training.")))
        parts["answer"] = button(_("Answer them"), "answer-start")
        parts["queued"] = html_box()
        parts["files"] = html_box()
    return parts


def opened(context: Context) -> Any:
    """The field of sources as the tab opens."""
    return gr.update(choices=sources(context.db))


def wire(parts: Mapping[str, Any], context: Context) -> None:
    @guarded(context, "admin")
    def start_answers(annotator: Annotator, *sent: Any) -> str:
        job_id = submit(context, dict(zip(ASKED, sent, strict=True)), annotator.name)
        return markup.notice(
            _(
                "Job {job_id} was queued; the Runs tab shows how far it is. Its file can be fetched here when "
                "it is done."
            ).format(job_id=job_id)
        )

    inputs = [parts[name] for name in ASKED]
    parts["answer"].click(start_answers, inputs, parts["queued"], api_name="answers-start", **QUEUED)
