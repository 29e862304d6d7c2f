"""The gate's rule: what a candidate must show before it serves, as a form; a part of the Iterations tab."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import gradio as gr

from annotation.records import Annotator, UserError, who
from annotation.tabs.components import (
    QUEUED,
    QUIET,
    Question,
    acting_box,
    asking,
    button,
    drafted,
    html_box,
    labelled,
    pressed,
    row_number,
    unasked,
    whole_number,
)
from annotation.tabs.guard import Context, guarded, guarded_event
from annotation.translation import N_, _, joined, ngettext, numeral
from annotation.ui import markup
from annotation.ui.formatting import moment
from annotation.validation import hint_at, limits_of, whole
from rlhf.data import held_out_sets
from rlhf.evaluation import gate, rule_store
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.gate import COUNTS, MOST, NUMBERS, Rule, over_project
from rlhf.evaluation.gate_words import gate_set_sentence, percentage
from rlhf.evaluation.rule_store import RuleChange

PROMPTS = N_("Held-out prompts in a new version")
RENEWAL = N_(
    "Draw a new version of the held-out prompts, {prompts:,} at most? Figures of earlier checks can't be compared with "
    "those to come, and there is no way back to this version."
)
HOLDS = [
    (N_("By mode: over the project if automatic, else for each candidate"), "mode"),
    (N_("Over the project: later candidates have to show more"), "project"),
    (N_("For each candidate: of many useless ones some are promoted"), "candidate"),
]
NAMES = tuple(field.name for field in fields(Rule))
MODES = [
    (N_("Ask: a person decides, with the rule's advice"), "ask"),
    (N_("Automatic: act on the rule's decision"), "automatic"),
    (N_("Never: decide nothing"), "never"),
]


def summary(rule: Rule) -> str:
    judge = (
        _("A trusted judge decides while people have not (trust: at least {percentage} agreement).").format(
            percentage=percentage(rule.judge_trust, 6)
        )
        if rule.judge_may_decide
        else _("AI judges inform and do not decide.")
    )
    wrong = percentage(rule.alpha, 6)
    promise = (
        _("By this rule the chance that any candidate is promoted that is no better is at most {wrong}.")
        if over_project(rule)
        else _("By this rule at most {wrong} of candidates that are no better are promoted.")
    )
    counted = _(
        "People decide from {people_least} prompts on, and after {people_most} without evidence the rule says reject."
    ).format(people_least=rule.people_least, people_most=rule.people_most)
    return joined(promise.format(wrong=wrong), counted, judge)


def held_out_sentence(context: Context) -> str:
    made = held_out_sets.versions(context.db)
    if not made:
        return _("The first check draws the held-out prompts that every later one uses.")
    last = made[-1]
    said = _("Reports are of version {version} of the held-out prompts: {prompts}, drawn on {created}.").format(
        version=last.version, prompts=last.prompts, created=last.created[:10]
    )
    few = _("With fewer than {least} nothing is promoted: import more.").format(least=held_out_sets.LEAST)
    first = _("They were the first ones: a new version draws them at random.")
    remarks = (few if last.prompts < held_out_sets.LEAST else "", first if last.seed is None else "")
    return joined(said, *remarks, gate_set_sentence(held_out_sets.gate_set_status(context.db)))


def change_card(change: RuleChange | None, rule: Rule, labels: Mapping[str, str]) -> str:
    """The newest change of the rule, with its undo; nothing where there was none."""
    before = (rule if change is None else Rule.stored(change.before)).to_setting()
    changed = [
        f"{labels[name]}: {value_in_words(before[name])} → {value_in_words(value)}"
        for name, value in rule.to_setting().items()
        if before[name] != value
    ]
    if change is None or not changed:
        return ""
    said = _("{who} changed the rule, {when} UTC.").format(who=who(change.changed_by), when=moment(change.created))
    undo = markup.act_button(_("Undo: put the rule back"), "undo-rule", str(change.number))
    return markup.decided(markup.paragraph(said) + markup.points(changed), undo)


def value_in_words(value: Any) -> str:
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    chosen = {choice: words for words, choice in (*MODES, *HOLDS)}
    return _(chosen.get(value, value)) if isinstance(value, str) else numeral(value, "g")


def offered(context: Context) -> int:
    """How many held-out prompts a new version is to have unless somebody says otherwise: never fewer than the last."""
    made = held_out_sets.versions(context.db)
    return max(CheckSpec.prompts, made[-1].prompts if made else 0)


class GateFormPage:
    """The part's components, without anything from the rows; `form` has a field for each of the rule's."""

    def __init__(self, context: Context) -> None:
        self.context = context
        with gr.Accordion(_("The gate's rule"), open=False):
            self.said_of = html_box()
            self.form = rule_fields()
            with gr.Row():
                self.save = button(_("Save the rule"), "gate-save")
            self.changed = acting_box(elem_id="rule-change")
            with gr.Row(elem_classes=["fields", "typed"]):
                self.prompts = whole_number(_(PROMPTS), min_width=220)
                self.renew = button(_("New version of the held-out prompts"))
            self.renewal = Question(_("Yes, draw it"), "renew")
            self.said = html_box()
        self.sent_before = gr.State({})

    @property
    def labels(self) -> Mapping[str, str]:
        return {name: str(field.label) for name, field in self.form.items()}

    @property
    def shown(self) -> list[Any]:
        return [self.form[name] for name in NAMES]

    @property
    def filled_in(self) -> list[Any]:
        """What follows the rule: the outputs of `filled`."""
        return [self.sent_before, self.said_of, self.changed, *self.shown, self.prompts]

    def filled(self, rule: Rule) -> list[Any]:
        """The rule, what it means, and its newest change."""
        sentences, values = f"{summary(rule)} {held_out_sentence(self.context)}", rule.to_setting()
        return [values, markup.notice(sentences), self.change(rule), *values.values(), offered(self.context)]

    def change(self, rule: Rule) -> str:
        """The newest change of the rule, with its undo."""
        return change_card(rule_store.newest_change(self.context.db), rule, self.labels)


def build(context: Context, opening: Callable[..., Any]) -> None:
    page = GateFormPage(context)
    wire_rule(page, opening)
    wire_renewal(page)


def rule_fields() -> dict[str, Any]:
    form: dict[str, Any] = {"mode": gr.Radio(labelled(MODES), label=_("What is done with a decision"))}
    form["judge_may_decide"] = gr.Checkbox(label=_("A trusted AI judge may decide while people have not"))
    with gr.Accordion(_("Its numbers and limits"), open=False):
        form |= seldom_changed()
    return form


def seldom_changed() -> dict[str, Any]:
    form: dict[str, Any] = {}
    form["alpha_holds"] = gr.Radio(labelled(HOLDS), label=_("The share of wrong promotions holds"))
    form["anchor"] = gr.Textbox(
        label=_("The limits are against"),
        info=_("A policy by its name, or the base: for one on merged or fully trained weights, these."),
        max_lines=1,
    )
    with gr.Row(elem_classes=["fields", "typed"]):
        for name in COUNTS:
            form[name] = whole_number(gate.label(name), min_width=220)
    with gr.Row(elem_classes=["fields", "typed"]):
        for name in NUMBERS:
            limits = limits_of(hint_at(Rule, [name]))
            span = _("{low:g} to {high:g}").format(low=limits["ge"], high=limits["le"])
            form[name] = gr.Number(label=gate.label(name), info=span, min_width=220)
    return form


def wire_rule(page: GateFormPage, opening: Callable[..., Any]) -> None:
    context, filled = page.context, page.filled

    @guarded(context, "admin")
    def open_rule(asked: Any) -> list[Any]:
        """A question of an earlier visit goes; one may have been asked since this visit was asked for."""
        question = [gr.skip() for _part in page.renewal.parts] if asked is None else unasked()
        return [*filled(rule_store.rule(context.db)), *question]

    @guarded(context, "admin")
    def save_rule(annotator: Annotator, sent: Any, *values: Any) -> list[Any]:
        here = dict(zip(NAMES, values, strict=True))
        with context.db.transaction():
            draft = drafted(sent, here, rule_store.rule(context.db).to_setting(), page.labels)
            if draft.both:
                return [draft.sent, *(gr.skip() for _part in page.filled_in[1:]), draft.refusal]
            rule = rule_store.change_rule(context.db, dict(draft.values), annotator.name)
        return [*filled(rule), markup.notice(_("The rule is saved.")) + draft.remark]

    @guarded_event(context, "admin")
    def undo_rule(annotator: Annotator, event: Any) -> list[Any]:
        act, subject = pressed(event, {"undo-rule": rule_store.undo_change})
        try:
            act(context.db, row_number(subject) or 0, annotator.name)
        except UserError as error:  # beside what holds now; what was typed stays
            change = page.change(rule_store.rule(context.db))
            updates = [change if part is page.changed else gr.skip() for part in page.filled_in]
            return [*updates, markup.status(str(error), "warning")]
        return [*filled(rule_store.rule(context.db)), markup.notice(_("The rule is as it was before."))]

    opening(open_rule, page.renewal.about, [*page.filled_in, *page.renewal.parts], **QUIET)
    page.save.click(save_rule, [page.sent_before, *page.shown], [*page.filled_in, page.said], **QUEUED)
    page.changed.act(undo_rule, [], [*page.filled_in, page.said], **QUEUED)


def wire_renewal(page: GateFormPage) -> None:
    context, question = page.context, page.renewal

    @guarded(context, "admin")
    def renew_held_out(number: Any, asked_of: Any) -> list[Any]:
        wanted = whole(number, PROMPTS, 1, MOST)
        if asked_of != wanted:
            raise UserError(_("Press the button again: another number of prompts is written there now."))
        said = markup.notice(renewed(context, wanted))
        return [*page.filled(rule_store.rule(context.db)), said, *unasked()]

    @guarded(context, "admin")
    def ask_renewal(number: Any) -> list[Any]:
        wanted = whole(number, PROMPTS, 1, MOST)
        return asking(_(RENEWAL).format(prompts=wanted), wanted)

    @guarded(context, "admin")
    def keep_held_out() -> list[Any]:
        return unasked()

    shown = [*page.filled_in, page.said, *question.parts]
    page.renew.click(ask_renewal, page.prompts, question.parts, **QUEUED)
    question.yes.click(renew_held_out, [page.prompts, question.about], shown, **QUEUED)
    question.no.click(keep_held_out, None, question.parts, **QUEUED)


def renewed(context: Context, wanted: int) -> str:
    """Draw a new version of the held-out prompts; says so. Raises UserError where none would be new."""
    before = held_out_sets.versions(context.db)
    made = held_out_sets.renew(context.db, context.data_dir, wanted)
    if before and before[-1] == made:
        said = _("Version {version} has every held-out prompt already, {prompts} in all. Import more first.")
        raise UserError(said.format(prompts=made.prompts, version=made.version))
    return ngettext(
        "Version {version} has {prompts} prompt. Figures of earlier checks can't be compared with "
        "those to come: check again what you want to compare.",
        "Version {version} has {prompts} prompts. Figures of earlier checks can't be compared with "
        "those to come: check again what you want to compare.",
        made.prompts,
    ).format(version=made.version, prompts=made.prompts)
