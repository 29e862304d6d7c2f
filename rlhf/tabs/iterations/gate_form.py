"""The gate's rule: what a candidate must show before it serves, as a form; a part of the Iterations tab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import gradio as gr

from annotation.project import whole
from annotation.records import Annotator, UserError
from annotation.tabs.components import QUEUED, QUIET, html_box, whole_number
from annotation.tabs.guard import Context, guarded
from rlhf.data import held_out_sets
from rlhf.evaluation import gate_decisions
from rlhf.evaluation.check_spec import EvaluateSpec
from rlhf.evaluation.gate import COUNTS, MOST, NUMBERS, Rule, percentage
from rlhf.tabs.runs import job_cards

literal = partial(html_box, job_cards.STYLE)
PROMPTS = "Held-out prompts in a new version"
NAMES = tuple(field.name for field in fields(Rule))
MODES = [
    ("Ask: a person decides, with the rule's advice", "ask"),
    ("Automatic: act on the rule's decision", "automatic"),
    ("Never: decide nothing", "never"),
]


def summary(rule: Rule) -> str:
    """The rule in a sentence."""
    judge = (
        f"a trusted judge decides while people have not (trust: at least {percentage(rule.judge_trust, 6)} agreement)"
        if rule.judge_may_decide
        else "AI judges inform and do not decide"
    )
    wrong = percentage(rule.alpha, 6)
    return (
        f"By this rule at most {wrong} of candidates that are no better are promoted. People decide from "
        f"{rule.people_least} comparisons on, and after {rule.people_most} without evidence a candidate is rejected; "
        f"{judge}."
    )


def held_out_sentence(context: Context) -> str:
    """Which held-out prompts checks use."""
    made = held_out_sets.versions(context.db)
    if not made:
        return "The first check fixes the held-out prompts that every later one uses."
    last = made[-1]
    few = f" Fewer than {held_out_sets.FEW} leave wide intervals." if last.prompts < held_out_sets.FEW else ""
    return (
        f"Checks use version {last.version} of the held-out prompts: {last.prompts} of them, {last.sha256[:12]}, fixed "
        f"on {last.created[:10]}.{few}"
    )


def offered(context: Context) -> int:
    """How many held-out prompts a new version is to have unless somebody says otherwise: never fewer than the last."""
    made = held_out_sets.versions(context.db)
    return max(EvaluateSpec.prompts, made[-1].prompts if made else 0)


def build(context: Context, opening: Callable[..., Any]) -> None:
    """Lay the part out inside the caller's tab and wire it."""
    with gr.Accordion("The gate's rule", open=False):
        said_of = literal()
        form: dict[str, Any] = {"mode": gr.Radio(MODES, label="What is done with a decision")}
        form["judge_may_decide"] = gr.Checkbox(
            label="A trusted AI judge may decide", info="While people's comparisons have not decided."
        )
        with gr.Row(elem_classes=["fields", "typed"]):
            for name, label in COUNTS.items():
                form[name] = whole_number(label, min_width=220)
        with gr.Row(elem_classes=["fields", "typed"]):
            for name, (label, low, high) in NUMBERS.items():
                form[name] = gr.Number(label=label, info=f"{low:g} to {high:g}", min_width=220)
        with gr.Row():
            save = gr.Button("Save the rule", size="md", scale=0, min_width=160, elem_id="gate-save")
        with gr.Row(elem_classes=["fields", "typed"]):
            prompts = whole_number(PROMPTS, min_width=220)
            renew = gr.Button("New version of the held-out prompts", size="md", scale=0, min_width=280)
        said = literal()
    shown = [form[name] for name in NAMES]

    def filled(rule: Rule) -> list[Any]:
        sentences = f"{summary(rule)} {held_out_sentence(context)}"
        return [job_cards.notice(sentences), *(getattr(rule, name) for name in NAMES), offered(context)]

    @guarded(context, "admin")
    def open_rule(annotator: Annotator) -> list[Any]:
        return filled(gate_decisions.rule(context.db))

    @guarded(context, "admin")
    def save_rule(annotator: Annotator, *values: Any) -> list[Any]:
        given = dict(zip(NAMES, values, strict=True))
        return [*filled(gate_decisions.set_rule(context.db, given)), job_cards.notice("The rule is saved.")]

    @guarded(context, "admin")
    def renew_held_out(annotator: Annotator, number: Any) -> list[Any]:
        before = held_out_sets.versions(context.db)
        made = held_out_sets.renew(context.db, context.data_dir, whole(number, PROMPTS, 1, MOST))
        if before and before[-1] == made:
            raise UserError(f"The first {made.prompts} held-out prompts are those of version {made.version} already.")
        sentence = (
            f"Version {made.version} has {made.prompts} prompts. Figures of earlier checks can't be compared with "
            "those to come: check again what you want to compare."
        )
        return [*filled(gate_decisions.rule(context.db)), job_cards.notice(sentence)]

    filled_in = [said_of, *shown, prompts]
    opening(open_rule, None, filled_in, **QUIET)
    save.click(save_rule, shown, [*filled_in, said], **QUEUED)
    renew.click(renew_held_out, prompts, [*filled_in, said], **QUEUED)
