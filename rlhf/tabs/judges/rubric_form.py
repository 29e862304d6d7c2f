"""The rubric that AI judges go by, on their tab: its text in versions, and the prompt that it makes of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.records import Annotator, UserError
from annotation.tabs.components import (
    QUEUED,
    QUIET,
    button,
    drafted,
    html_box,
    open_choice,
    row_number,
    text_in,
    undrafted,
    whole_number,
)
from annotation.tabs.guard import Context, guarded
from annotation.translation import N_, _, joined
from annotation.ui.markup import label, log, paragraph, sides, status
from annotation.validation import whole
from rlhf.judges import judge_history, judge_store, rubrics
from rlhf.judges.judge_history import PromptComparison
from rlhf.judges.judge_settings import DirectorySettings
from rlhf.judges.judge_store import Judge
from rlhf.judges.rubrics import Rubric
from rlhf.models.base import base_files
from rlhf.models.chat_template import ChatTokenizer, chat_tokenizer
from rlhf.models.tokenise import render

FIELDS = ("instruction", "principles", "drawn")
DRAWN = N_("Principles drawn")

FieldValues = dict[str, Any]


# ------------------------------------------------------------------------------------------------------- the versions
def title_of(found: Rubric) -> str:
    if not found.version:
        return _("Version 0 (Prefloop's own)")
    return _("Version {version} of {created} by {written_by}").format(
        version=found.version, created=found.created[:10], written_by=found.written_by
    )


FIRST = N_("Answer {number} first")


def text_of(found: Rubric) -> str:
    drawn = _("Drawn for each comparison: all")
    if found.drawn:
        drawn = _("Drawn for each comparison: {drawn}").format(drawn=found.drawn)
    return "\n\n".join([found.instruction, "\n".join(f"- {line}" for line in found.principles), drawn])


def form_of(found: Rubric) -> FieldValues:
    drawn = found.drawn or None  # all of them
    return {"instruction": found.instruction, "principles": "\n".join(found.principles), "drawn": drawn}


def versions(db: Database) -> list[Rubric]:
    return [*judge_store.rubrics(db), rubrics.DEFAULT]


def write(db: Database, values: Mapping[str, Any], written_by: str) -> str:
    """Add a version, and say so. Raises UserError naming what can't be meant."""
    drawn = 0 if values["drawn"] is None else whole(values["drawn"], DRAWN, 0)
    asked = rubrics.parse_rubric(text_in(values["instruction"]), text_in(values["principles"]), drawn)
    before = judge_store.rubric(db).version
    version = judge_store.write_rubric(db, asked.instruction, asked.principles, asked.drawn, written_by)
    if version == before:
        return _("This is the rubric that holds; no version was added.")
    return _(
        "Version {version} holds from now on. Verdicts that are there stay; each says by which version it was made."
    ).format(version=version)


# --------------------------------------------------------------------------------------------------------- the prompt
def prompt_box(context: Context, judge: Judge | None, number: Any) -> str:
    """What a judge is sent about two answers of a comparison, in both orders, letter for letter. Raises UserError."""
    db = context.db
    if judge is not None and judge.backend == "reward-model":
        said = _("{name} is a reward model: it is sent no prompt, and scores each answer by itself.")
        return status(said.format(name=judge.name))
    found, rubric = comparison_in(db, number), judge_store.rubric(db)
    tokenizer = tokenizer_of(context, judge) if judge is not None and judge.backend == "local" else None
    boxes = [
        label(_(FIRST).format(number=pair[0] + 1)) + log(prompt_of(rubric, found, pair, tokenizer))
        for pair in ((0, 1), (1, 0))
    ]
    sent = (
        _("Comparison {number} by version {version} of the rubric, as an endpoint is sent it.")
        if judge is None
        else _("Comparison {number} by version {version} of the rubric, as {judge} is sent it.")
    )
    sentences = [
        sent.format(number=found.id, version=rubric.version, judge="" if judge is None else judge.name),
        _("Its chat template and special tokens stand around it.") if tokenizer is not None else "",
        _("Every two of its answers are asked about; these are 1 and 2.") if len(found.answers) > 2 else "",
    ]
    return paragraph(joined(*sentences), "quiet") + sides(boxes)


def comparison_in(db: Database, number: Any) -> PromptComparison:
    """The comparison that was typed, or the latest. Raises UserError if there is none."""
    typed = text_in(number).strip()
    if typed and row_number(typed) is None:
        raise UserError(_("Type the number of a comparison, or leave it empty for the latest."))
    found = judge_history.comparison(db, row_number(typed))
    if found is None:
        raise UserError(_("There is no such comparison with complete answers. Leave the number empty for the latest."))
    return found


def tokenizer_of(context: Context, judge: Judge) -> ChatTokenizer:
    """The tokenizer of a local judge. Raises UserError if it has none that can be read here."""
    match judge.settings:
        case DirectorySettings(directory):
            path = Path(directory)
        case _:
            path = base_files.directory_of(context.data_dir, context.model)
    return chat_tokenizer(path, no_thinking=True)


def prompt_of(rubric: Rubric, found: PromptComparison, pair: tuple[int, int], tokenizer: ChatTokenizer | None) -> str:
    """The prompt about two answers in the order in which they are shown, to a local model or to an endpoint."""
    first, second = (found.answers[place] for place in pair)
    messages = rubrics.messages_for(
        rubric,
        rubrics.principles_for(rubric, found.id),
        found.messages,
        first,
        second,
        comparison_id=found.id,
        style="line" if tokenizer is None else "letter",
    )
    if tokenizer is not None:
        return render(tokenizer, messages)
    return "\n\n".join(message["content"] for message in messages)


# ---------------------------------------------------------------------------------------------------------- the page
class RubricFormPage:
    """The components, without any value. `sent` is what this session was sent last: fields that differ are a draft."""

    def __init__(self) -> None:
        with gr.Accordion(_("The rubric: what judges go by"), open=False, elem_id="rubric"):
            self.holding = html_box()
            self.form: dict[str, Any] = {}
            self.form["instruction"] = gr.Textbox(
                label=_("Instruction"),
                lines=3,
                max_lines=12,
                max_length=rubrics.MAXIMUM_INSTRUCTION,
                elem_id="rubric-instruction",
            )
            self.form["principles"] = gr.Textbox(
                label=_("Principles, one a line"),
                lines=7,
                max_lines=30,
                max_length=rubrics.MAXIMUM_PRINCIPLES * (rubrics.MAXIMUM_PRINCIPLE + 1),
                elem_id="rubric-principles",
            )
            self.form["drawn"] = whole_number(_(DRAWN), info=_("By lot for each comparison."), placeholder=_("all"))
            self.save = button(_("Save as a new version"), "rubric-save", "primary")
            self.said = html_box()
            with gr.Accordion(_("Every version"), open=False):
                self.versions = open_choice(_("Version"), elem_id="rubric-versions")
                self.earlier = gr.Textbox(
                    label=_("Its text"), interactive=False, lines=6, max_lines=30, buttons=["copy"]
                )
                self.edit = button(_("Edit this version"), "rubric-edit")
            with gr.Accordion(_("The prompt as sent"), open=False):
                self.number = gr.Textbox(
                    label=_("Comparison"),
                    info=_("Its number; empty for the latest."),
                    max_length=20,
                    elem_id="rubric-comparison",
                )
                self.show = button(_("Show the prompt"), "rubric-prompt")
                self.prompt = html_box()
        self.sent = gr.State({})

    @property
    def fields(self) -> list[Any]:
        return [self.form[name] for name in FIELDS]


def build(context: Context, opening: Callable[..., Any], selector: gr.Dropdown) -> None:
    """Lay the part out inside the caller's tab and wire it; `selector` chooses the judge whose prompt is shown."""
    wire(RubricFormPage(), context, opening, selector)


def fields_with(values: Mapping[str, Any]) -> list[Any]:
    """What the fields are set to; those without a value here stay. Gradio draws a number that is just None as 0."""
    sent = {name: gr.update(value=None) if value is None else value for name, value in values.items()}
    return [sent.get(name, gr.skip()) for name in FIELDS]


def held(db: Database) -> list[Any]:
    choices = [(title_of(one), one.version) for one in versions(db)]
    return [
        status(_("{title_of} holds.").format(title_of=title_of(judge_store.rubric(db))), "quiet"),
        gr.update(choices=choices),
    ]


def wire(part: RubricFormPage, context: Context, opening: Callable[..., Any], selector: gr.Dropdown) -> None:
    """Fill the fields when the tab is opened, write versions and read them, and show the prompt."""
    db, admin = context.db, guarded(context, "admin")
    labels = {name: str(field.label) for name, field in part.form.items()}

    @admin
    def open_rubric(sent: Any, *here: Any) -> list[Any]:
        was = sent if isinstance(sent, dict) else {}
        fresh = undrafted(was, dict(zip(FIELDS, here, strict=True)), form_of(judge_store.rubric(db)))
        return [*held(db), *fields_with(fresh), {**was, **fresh}]

    @admin
    def save_rubric(annotator: Annotator, sent: Any, *values: Any) -> list[Any]:
        here = dict(zip(FIELDS, values, strict=True))
        with db.transaction():
            draft = drafted(sent, here, form_of(judge_store.rubric(db)), labels)
            if draft.both:
                return [*held(db), *(gr.skip() for _field in FIELDS), draft.sent, draft.refusal]
            said = write(db, draft.values, annotator.name)
        holds = form_of(judge_store.rubric(db))
        return [*held(db), *fields_with(holds), holds, status(said, "quiet") + draft.remark]

    @admin
    def read_rubric(version: Any) -> str:
        return next((text_of(one) for one in versions(db) if one.version == version), "")

    @admin
    def edit_rubric(version: Any) -> list[Any]:
        found = next((form_of(one) for one in versions(db) if one.version == version), {})
        return fields_with(found)

    @admin
    def show_prompt(selected: Any, number: Any) -> str:
        judge = next((one for one in judge_store.judges(db) if one.name == selected), None)
        return prompt_box(context, judge, number)

    holding: Sequence[Any] = [part.holding, part.versions, *part.fields, part.sent]
    opening(open_rubric, [part.sent, *part.fields], holding, **QUIET)
    part.save.click(save_rubric, [part.sent, *part.fields], [*holding, part.said], **QUEUED)
    part.versions.input(read_rubric, part.versions, part.earlier, **QUIET)
    part.edit.click(edit_rubric, part.versions, part.fields, **QUEUED)
    part.show.click(show_prompt, [selector, part.number], part.prompt, **QUEUED)
