"""The rows that a form would train on: one of them token by token, and all of them looked through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from annotation.records import Split
from annotation.tabs.components import QUEUED, button, html_box, whole_number
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _
from annotation.validation import whole
from rlhf.submission import form_fields
from rlhf.submission.form_fields import Form
from rlhf.submission.preflight import Preflight
from rlhf.tabs.train import plan_card

SPLITS: Sequence[tuple[str, Split]] = ((N_("To train on"), "train"), (N_("Held out"), "held-out"))
NUMBER = N_("Number of the row")
# What each button adds to the number of the row.
TURNS: Mapping[str, tuple[str, int]] = {
    "previous": (N_("Previous"), -1),
    "show": (N_("Show"), 0),
    "next": (N_("Next"), 1),
}


def show(form: Form, preflight: Preflight, values: Mapping[str, Any], split: Any, number: Any, turn: int) -> list[Any]:
    """The number of the row that is shown, and the row with its loss mask. Raises UserError where none can be shown."""
    chosen: Split = "held-out" if split == "held-out" else "train"
    wanted = 1 if number is None else whole(number, NUMBER, 1)
    spec = form_fields.spec_of(form, preflight.model, values)
    shown = preflight.show(spec, chosen, wanted + turn)
    return [1 if shown is None else shown.number, plan_card.shown_card(shown, chosen)]


class RowsPage:
    """The components, top to bottom, without anything from the rows."""

    def __init__(self, form: Form) -> None:
        splits = [(_(words), value) for words, value in (SPLITS if form.spec_type.items.to_check_with else SPLITS[:1])]
        with gr.Accordion(_("Show a row, token by token"), open=False) as self.accordion:
            with gr.Row():
                self.split = gr.Radio(splits, value="train", label=_("Rows"), min_width=240, visible=len(splits) > 1)
                self.number = whole_number(_(NUMBER), 1, min_width=140, elem_id=f"{form.name}-number")
            with gr.Row():
                self.turns = {name: button(_(label), f"{form.name}-{name}") for name, (label, _step) in TURNS.items()}
            self.row = html_box()
        self.through = button(_("Look through all rows"), f"{form.name}-through")
        self.found = html_box()


def wire(page: RowsPage, form: Form, context: Context, preflight: Preflight, inputs: Sequence[Any]) -> Any:
    """Show rows of what the form says; `inputs` are its fields in the order of their names.

    Returns the event of looking through them, after which more is known of what a run takes.
    """
    admin = guarded(context, "admin")
    looked, shown = [page.split, page.number, *inputs], [page.number, page.row]

    def turner(name: str) -> Callable[..., list[Any]]:
        def show_row(split: Any, number: Any, *sent: Any) -> list[Any]:
            values = dict(zip(form.names, sent, strict=True))
            return show(form, preflight, values, split, number, TURNS[name][1])

        show_row.__name__ = f"{name}_{form.name}"
        return admin(show_row)

    def look_through(*sent: Any) -> str:
        spec = form_fields.spec_of(form, preflight.model, dict(zip(form.names, sent, strict=True)))
        return plan_card.survey_card(preflight.survey(spec), spec)

    look_through.__name__ = f"through_{form.name}"
    turners = {name: turner(name) for name in TURNS}
    for name, turning in page.turns.items():
        turning.click(turners[name], looked, shown, **QUEUED)
    for again in (page.accordion.expand, page.split.input, page.number.submit):
        again(turners["show"], looked, shown, **QUEUED)
    return page.through.click(admin(look_through), [*inputs], page.found, **QUEUED)
