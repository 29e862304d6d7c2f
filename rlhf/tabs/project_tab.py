"""The Project tab: `annotation.tabs.project`, then the precision of the base and whether it may think first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.tabs import project
from annotation.tabs.components import QUEUED, QUIET, html_box, opening_of
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _
from annotation.ui.formatting import moment
from annotation.ui.markup import paragraph, status
from rlhf.models import registry
from rlhf.models.base import base_precision, base_template
from rlhf.models.registry import PRECISION_WORDS

EXPLANATION = N_(
    "Used by answers, checks, and trainings whose method is left to “Automatic”. In 16 bits it answers "
    "best; 4 bits (NF4) take a quarter of the memory and change the answers. Adapters stay on the weights "
    "that they were trained on, so change it before there are any."
)
THINKING: Mapping[registry.Thinking, str] = {"off": N_("No"), "template": N_("As its chat template has it")}


def build(demo: gr.Blocks, context: Context) -> None:
    project.build(demo, context)
    build_precision(demo, context)
    build_thinking(demo, context)


def build_precision(demo: gr.Blocks, context: Context) -> None:
    """In which precision the base is held, and the choice of another."""
    db, admin = context.db, guarded(context, "admin")
    with gr.Accordion(_("Precision of the base"), open=False, elem_id="precision"):
        standing = html_box()
        choice = gr.Radio(
            [(_(name), precision) for precision, name in PRECISION_WORDS.items()],
            label=_("Held in"),
            info=_(EXPLANATION),
        )
        save = gr.Button(_("Save the precision"), elem_id="precision-save")

    @admin
    def open_precision() -> list[Any]:
        return shown(db)

    @admin
    def save_precision(annotator: Annotator, precision: Any) -> list[Any]:
        """Hold the base so from now on. Raises UserError where it can't be."""
        base_precision.change_precision(db, str(precision), annotator.name)
        return shown(db)

    opening_of(demo)(open_precision, None, [standing, choice], api_name="precision-open", **QUIET)
    save.click(save_precision, choice, [standing, choice], api_name="precision-save", **QUEUED)


def build_thinking(demo: gr.Blocks, context: Context) -> None:
    """Whether the base may think before it answers, where its template can be told."""
    db, admin = context.db, guarded(context, "admin")
    with gr.Column(visible=False) as can_think:
        gr.Markdown(_("## Thinking before an answer"))
        thinks = gr.Radio(
            [(_(name), wish) for wish, name in THINKING.items()],
            label=_("May the base think first?"),
            info=_("Holds for answers, trainings and checks from now on. Judges on this machine never do."),
        )
        save_thinks = gr.Button(_("Save"), elem_id="thinking-save")
        thinks_said = html_box()

    @admin
    def open_thinking() -> list[Any]:
        """What holds; nothing of it where the base's template can't be told."""
        base = registry.by_revision(db, "base")
        told = base_template.can_be_told(context.data_dir, base.base)
        return [gr.update(visible=told), gr.update(value=base.thinking or "template"), ""]

    @admin
    def save_thinking(wish: Any) -> str:
        """Tell the base so from now on. Raises UserError for any other wish."""
        if wish not in get_args(registry.Thinking):
            raise UserError(_("Choose whether the base may think before it answers."))
        if registry.by_revision(db, "base").thinking == wish:
            return status(_("Nothing was changed."))
        withdrawn = registry.set_thinking(db, cast(registry.Thinking, wish))
        return status(_("Saved.") + registry.withdrawn_sentence(withdrawn))

    opening_of(demo)(open_thinking, None, [can_think, thinks, thinks_said], api_name="thinking-open", **QUIET)
    save_thinks.click(save_thinking, thinks, thinks_said, api_name="thinking-save", **QUEUED)


def shown(db: Database) -> list[Any]:
    """In which precision the base is held and who chose it, and the choice as it stands."""
    base, decided = registry.by_revision(db, "base"), registry.precision_set(db)
    name = _(PRECISION_WORDS[base.precision])
    if decided is None:
        said = _("{base} is held in {name}, as from the start.").format(base=base.base, name=name)
    else:
        said = _("{base} is held in {name}: {by} chose it on {at} UTC.").format(
            base=base.base, name=name, by=decided[0], at=moment(decided[1])
        )
    others = sum(one.form == "lora" and one.precision != base.precision for one in registry.all_policies(db))
    more = _("Adapters on weights in another precision, which go on being served on these: {others}.").format(
        others=others
    )
    return [status(said) + (paragraph(more, "quiet") if others else ""), gr.update(value=base.precision)]
