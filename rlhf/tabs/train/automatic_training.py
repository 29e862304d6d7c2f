"""Training without being asked: on or off, and after how many new judgements; a part of the Train tab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import UserError
from annotation.tabs.components import QUEUED, QUIET, button, drafted, html_box, whole_number
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _, joined, ngettext
from annotation.ui import markup
from annotation.validation import whole
from rlhf.loop import controller
from rlhf.loop.controller import AutomaticTraining

EVERY = N_("After so many new judgements")


def sentence(db: Database, setting: AutomaticTraining) -> str:
    if not setting.on:
        return _("Off: an iteration starts only when someone starts it.")
    problem = controller.automatic_problems(db)
    how = _(controller.automatic_kinds()[setting.algorithm].automatic)
    said = ngettext(
        "On: an iteration ({how}, by the defaults) starts after every {wanted} new judgement.",
        "On: an iteration ({how}, by the defaults) starts after every {wanted} new judgements.",
        setting.wanted,
    ).format(how=how, wanted=setting.wanted)
    return joined(said, _("At the moment none can start."), *problem) if problem else said


def store(db: Database, on: Any, every: Any, algorithm: Any) -> AutomaticTraining:
    """Store when to train without being asked. Raises UserError for a number that can't be meant."""
    number = whole(every, EVERY, 1)
    if algorithm not in controller.automatic_kinds():
        known = "; ".join(_(spec.automatic) for spec in controller.automatic_kinds().values())
        raise UserError(_("Choose how to train, one of: {known}.").format(known=known))
    setting = AutomaticTraining(bool(on), number, algorithm)
    controller.save_automatic_training(db, setting)
    return setting


def build(context: Context, opening: Callable[..., Any]) -> None:
    db, admin = context.db, guarded(context, "admin")
    with gr.Accordion(_("Automatic training"), open=False):
        with gr.Row(elem_classes=["fields", "typed"]):
            form: dict[str, Any] = {"on": gr.Checkbox(label=_("Train automatically"))}
            form["every"] = whole_number(_(EVERY))
            kinds = [(_(spec.automatic), kind) for kind, spec in controller.automatic_kinds().items()]
            form["algorithm"] = gr.Radio(kinds, label=_("How"))
        save = button(_("Save"), "auto-save")
        said = html_box()
    sent_before = gr.State({})
    labels = {name: str(field.label) for name, field in form.items()}

    def filled() -> list[Any]:
        holds = asdict(controller.automatic_training(db))
        return [holds, *(holds[name] for name in form)]

    @admin
    def open_auto_train() -> list[Any]:
        return [*filled(), markup.notice(sentence(db, controller.automatic_training(db)))]

    @admin
    def save_auto_train(sent: Any, *values: Any) -> list[Any]:
        here = dict(zip(form, values, strict=True))
        with db.transaction():
            draft = drafted(sent, here, asdict(controller.automatic_training(db)), labels)
            if draft.both:
                return [draft.sent, *(gr.skip() for _field in form), draft.refusal]
            setting = store(db, **draft.values)
        return [*filled(), markup.notice(_("Saved. {sentence}").format(sentence=sentence(db, setting))) + draft.remark]

    shown = [sent_before, *form.values(), said]
    opening(open_auto_train, None, shown, **QUIET)
    save.click(save_auto_train, shown[:-1], shown, **QUEUED)
