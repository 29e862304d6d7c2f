"""What came of a run, on the Runs page: figures, check or quality, and what can be done with the policy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.tabs.components import Update, acting_box, asking_box, button, html_box
from annotation.tabs.guard import Context
from annotation.translation import N_, _
from annotation.ui import formatting
from annotation.ui.markup import Explained, acts, download_button, hint, paragraph, way
from annotation.ui.tab_addresses import Place, link
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.evaluation import rule_store
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import check_status, peoples_decisions
from rlhf.evaluation.finished_checks import check_of, newest_check
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import bytes_within, checkpoints_directory
from rlhf.jobs.job_store import Job
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.models.reward_model_quality import quality_in
from rlhf.tabs import downloads
from rlhf.tabs.iterations import check_report, iteration_card
from rlhf.tabs.jobs import job_cards, reward_model_card

NEW_RUN_SENTENCE = N_("“Start a new run” fills in a form with this as the parent.")


def lay_out() -> dict[str, Any]:
    parts: dict[str, Any] = {"outcome": html_box(), "quality": html_box()}
    with gr.Accordion(_("Its check"), open=False, visible=False) as parts["checked"]:
        parts["report"] = html_box()
    with gr.Column(visible=False) as parts["actions"]:
        with gr.Row():
            parts["promote"] = button(_("Use it in the loop"), "run-promote", "primary")
            parts["check"] = button(_("Check it now"), "run-check")
            parts["new_run"] = button(_("Start a new run from this policy"), "run-new-run")
            parts["new_run_why"] = html_box()
            parts["merge"] = button(_("Merge into 16-bit weights"), "run-merge")
            parts["delete"] = button(delete_words(made=True), "run-delete", "stop")
        parts["objection"] = html_box()
        parts["acted"] = acting_box(speaks=True, elem_id="run-acted")
        with gr.Column(visible=False) as parts["confirm"]:
            parts["question"] = asking_box()
            with gr.Row():
                parts["really"] = button(_("Yes, delete the files"), "run-really", "stop")
                parts["keep"] = button(_("No, keep them"), "run-keep")
    return parts


def subject_of(context: Context, job: Job | None) -> Policy | None:
    """The policy or reward model that a job made, or that it checks; the base model is nobody's to act on here."""
    if job is None:
        return None
    if isinstance(job.spec, CheckSpec):
        checked = registry.by_revision(context.db, job.spec.candidate)
        return None if checked.path is None else checked
    return registry.of_job(context.db, job.id)


def delete_words(made: bool) -> str:
    """What the button says that deletes what a run made, or where it made nothing its checkpoints."""
    return _("Delete with its files") if made else _("Delete its checkpoints")


@dataclass(frozen=True)
class RunFiles:
    """What can be deleted of a run: what it made, or the checkpoints of one that ended early."""

    name: str
    """As the page remembers what it asked about."""
    question: str
    size: str


def files_of(context: Context, job: Job | None, subject: Policy | None) -> RunFiles | None:
    """What there is to delete; None for nothing."""
    if subject is not None:
        size = formatting.size(downloads.bytes_on_disk(context.data_dir, subject))
        return None if subject.deleted else RunFiles(subject.revision, job_cards.delete_question(subject, size), size)
    if job is None or job.is_open:
        return None
    count = bytes_within(checkpoints_directory(context.data_dir, job.id))
    size = formatting.size(count)
    return RunFiles(_("job {id}").format(id=job.id), job_cards.checkpoints_question(job, size), size) if count else None


def parts_of(
    context: Context, job: Job | None, subject: Policy | None, files: RunFiles | None, confirming: str | None
) -> dict[str, Update]:
    """What a job measured and made, its check or its quality, and the buttons that make sense now."""
    quality = quality_in(None if job is None else job.result)
    on_disk = _("nothing") if files is None else files.size
    made = subject if subject is not None and job is not None and subject.job_id == job.id else None
    asked = files is not None and confirming == files.name
    against = peoples_decisions.objection(context.db, subject, brief=True) if subject is not None else ""
    unchecked = subject is not None and subject.undecided and newest_check(context.db, subject.revision) is None
    objects = objection(subject, against, unchecked) if subject is not None and against else ""
    return {
        "outcome": gr.update(value="" if job is None else job_cards.outcome_card(job, made, on_disk)),
        "quality": gr.update(value="" if quality is None else reward_model_card.card(quality)),
        "report": gr.update(value=(checked := report(context, job, subject))),
        "checked": gr.update(visible=bool(checked)),
        "actions": gr.update(visible=subject is not None or files is not None),
        "download": gr.update(
            value="" if subject is None else download_line(subject, on_disk, registry.ground(context.db, subject))
        ),
        "confirm": gr.update(visible=asked),
        "question": gr.update(value=files.question if files is not None and asked else ""),
        **button_parts(subject, bool(against), under_way(context.db, subject), unchecked),
        "objection": gr.update(value=objects + use_of(context.db, subject)),
        "delete": gr.update(value=delete_words(made=subject is not None), interactive=files is not None),
    }


def report(context: Context, job: Job | None, subject: Policy | None) -> str:
    """The check of the job's policy; a job that is a check shows its own. Of a reward model its quality is shown."""
    if job is None or subject is None or subject.kind == "reward-model":
        return ""
    if isinstance(job.spec, CheckSpec):
        own = check_of(job)
        return "" if own is None else check_report.report_card(own.report, rule_store.rule(context.db))
    check = newest_check(context.db, subject.revision)
    stands = iteration_card.checking_line(check_status.check_status(context.db, subject).sentence)
    return stands + check_report.report_card(None if check is None else check.report, rule_store.rule(context.db))


def under_way(db: Database, subject: Policy | None) -> frozenset[str]:
    """The kinds of job that wait or run for a policy, of which one is enough."""
    if subject is None or subject.kind != "policy":
        return frozenset()
    against = "base" if subject.status == "serving" else registry.serving(db).revision
    specs = (CheckSpec(candidate=subject.revision, against=against), MergeSpec(revision=subject.revision))
    return frozenset(spec.kind for spec in specs if job_store.doing(db, spec) is not None)


def button_parts(subject: Policy | None, against: bool, doing: Collection[str], unchecked: bool) -> dict[str, Update]:
    """Which of the buttons are there and can be pressed; `against`: the rule speaks against using what was
    made, which is decided on the Iterations tab; `doing`: the kinds of job that wait or run for it."""
    if subject is None:
        hidden = {name: gr.update(visible=False) for name in ("promote", "check", "new_run", "merge")}
        return {**hidden, "new_run_why": gr.update(value="")}
    there, answers = subject.deleted is None, subject.kind == "policy"
    decided = subject.status in ("candidate", "rejected")
    label = _("Use it in the loop") if decided else check_report.promote_label(subject)
    start = _("Start a new run from this policy") if answers else _("Start a new run from this reward model")
    return {
        "promote": gr.update(value=label, visible=answers and not against, interactive=check_report.can_serve(subject)),
        "check": gr.update(
            visible=answers,
            interactive=there and CheckSpec.kind not in doing,
            variant="primary" if unchecked and against and CheckSpec.kind not in doing else "secondary",
        ),
        "new_run": gr.update(value=start, visible=True, interactive=there),
        "new_run_why": gr.update(value=hint(Explained(start, _(NEW_RUN_SENTENCE)))),
        "merge": gr.update(
            visible=answers and subject.form == "lora", interactive=there and MergeSpec.kind not in doing
        ),
    }


def use_of(db: Database, subject: Policy | None) -> str:
    """Where a policy is trained against a reward model, which does nothing itself; what an adapter was merged into."""
    if subject is None or subject.deleted:
        return ""
    if subject.kind == "policy":
        made = (one for one in registry.all_policies(db) if one.parent_id == subject.id and not one.deleted)
        merged = [one for one in made if one.algorithm == MergeSpec.kind and one.job_id]
        said = _("Merged weights: {revision}")
        places = [(link("runs", Place((str(one.job_id),))), said.format(revision=one.revision)) for one in merged]
    else:
        said = _("Train a policy against it: {form}")
        forms = (form for spec in ALGORITHMS.values() if subject.kind in spec.lists.values() for form in spec.forms)
        places = [(link("train", Place((form.name,))), said.format(form=_(form.label))) for form in forms]
    return acts("".join(way(address, words) for address, words in places))


def objection(subject: Policy, against: str, unchecked: bool) -> str:
    """What the rule says against using a policy, and, once it was checked, the way to where that can be overruled."""
    if unchecked:
        return paragraph(against, "quiet")
    see = way(link("iterations", Place((subject.revision,))), _("See why, or let it serve all the same"))
    return paragraph(against, "quiet") + acts(see)


def download_line(subject: Policy, on_disk: str, ground: Policy) -> str:
    """The link that fetches the files, and what they need: the weights of `ground`."""
    if subject.deleted:
        return ""
    words = _("Download {revision} ({on_disk}, zip)").format(revision=subject.revision, on_disk=on_disk)
    link = download_button(downloads.address(subject.revision), words)
    if ground.path is None or ground.id == subject.id:
        return link
    below = _("It lies on the weights of {revision}: whoever uses it elsewhere needs those too.")
    return link + paragraph(below.format(revision=ground.revision), "quiet")
