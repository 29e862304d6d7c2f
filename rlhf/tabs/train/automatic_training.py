"""Training without being asked: on or off, and after how many new judgements; a part of the Train tab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.tabs.components import QUEUED, QUIET, html_box, whole_number
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _
from annotation.ui import markup
from annotation.validation import whole
from rlhf.loop import controller
from rlhf.loop.controller import AutomaticTraining

EVERY = N_("After so many new judgements")


def sentence(db: Database, setting: AutomaticTraining) -> str:
    """What the stored setting does, and what keeps it from being done now."""
    if not setting.on:
        return _("Off: an iteration starts only when someone starts it.")
    problem = controller.automatic_problems(db)
    how = _(controller.automatic_kinds()[setting.algorithm].automatic)
    said = _("On: an iteration ({how}, by the defaults) starts after every {every} new judgements.").format(
        how=how, every=setting.every
    )
    return " ".join([said, _("At the moment none can start."), *problem]) if problem else said


def save(db: Database, on: bool, every: float | None, algorithm: str) -> str:
    """Store when to train without being asked, and say so. Raises UserError for a number that can't be meant."""
    number = whole(every, EVERY, 1)
    if algorithm not in controller.automatic_kinds():
        known = "; ".join(_(spec.automatic) for spec in controller.automatic_kinds().values())
        raise UserError(_("Choose how to train, one of: {known}.").format(known=known))
    setting = AutomaticTraining(bool(on), number, algorithm)
    controller.save_automatic_training(db, setting)
    return _("Saved. {sentence}").format(sentence=sentence(db, setting))


def build(context: Context, opening: Callable[..., Any]) -> None:
    """Lay the part out inside the caller's tab and wire it."""
    with gr.Accordion(_("Automatic training"), open=False):
        with gr.Row(elem_classes=["fields", "typed"]):
            on = gr.Checkbox(label=_("Train automatically"))
            every = whole_number(_(EVERY))
            algorithm = gr.Radio(
                [(_(spec.automatic), kind) for kind, spec in controller.automatic_kinds().items()], label=_("How")
            )
        button = gr.Button(_("Save"), size="md", scale=0, min_width=140, elem_id="auto-save")
        said = html_box()

    @guarded(context, "admin")
    def open_auto_train(annotator: Annotator) -> list[Any]:
        setting = controller.automatic_training(context.db)
        return [setting.on, setting.every, setting.algorithm, markup.notice(sentence(context.db, setting))]

    @guarded(context, "admin")
    def save_auto_train(annotator: Annotator, wanted: bool, number: float | None, how: str) -> str:
        return markup.notice(save(context.db, wanted, number, how))

    opening(open_auto_train, None, [on, every, algorithm, said], **QUIET)
    button.click(save_auto_train, [on, every, algorithm], said, **QUEUED)
