"""What the Train tab says before a run: data, tokens with their marks, memory, time, commands; all of it inert."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest

from annotation.exports.frozen_rows import FrozenRow
from annotation.metrics.aggregation import REASONS
from annotation.ui import stylesheet
from annotation.ui.formatting import short_number
from rlhf.algorithms import ALGORITHMS
from rlhf.algorithms.dpo.spec import BETAS, DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec, accept_label
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.data.label_noise import Noise, NoiseEvidence
from rlhf.jobs.descriptions import ItemWords, TokenSequence, TokenSpan
from rlhf.jobs.job_spec import SHORT_METHODS, TrainingSpec, from_json
from rlhf.models.memory.fitting import Fit
from rlhf.models.memory.machines import Machine
from rlhf.models.memory.parameter_counts import Parameters
from rlhf.models.memory.run_memory import Component
from rlhf.submission.inspect_rows import DataSummary, InspectedItem, ItemRows
from rlhf.submission.job_submission import TrainingPreview
from rlhf.submission.preflight import CostEstimate, PlannedRun, TrainingData, shortage
from rlhf.submission.step_time import StepTime
from rlhf.tabs.train import plan_card
from tests.builders import training_preview

HOSTILE = "<script>alert(1)</script> {{x}} ${y} `z` \\"
ITEM = ItemRows(name="Comparison 7", split="train", rows=[FrozenRow("train", ())], left_out={}, asked="Why?")


class Text(HTMLParser):
    """The text of a page and the elements in it, by class."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.by_class: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.said: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.open.append(dict(attrs).get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.said.append(data)
        if self.open and self.open[-1]:
            self.by_class.setdefault(self.open[-1], []).append(data)


def shown(*sequences: TokenSequence, left_out: dict[str, int] | None = None, used: bool = True) -> InspectedItem:
    """An item."""
    return InspectedItem(
        item=ITEM,
        number=2,
        total=30,
        facts=[("Preferred", "clearly")],
        sequences=sequences,
        left_out=left_out or {},
        used=used,
    )


PAIR = (
    TokenSequence(
        "Chosen", [TokenSpan("context", [("Why", 1), ("?\n", 1)]), TokenSpan("raised", [("So", 1), (HOSTILE, 3)])]
    ),
    TokenSequence("Rejected", [TokenSpan("context", [("Why", 1)]), TokenSpan("lowered", [("No", 1)])]),
)


# ---------------------------------------------------------------------------------------------------------------- data
def preview(unit: str = "pairs", train: int = 1200, **values: object) -> TrainingPreview:
    """Counts."""
    left_out = {"tie": 3, "skip": 2, "flagged": 0}
    return training_preview(train, 9, **{"left_out": left_out, "parent": "dpo-3", "unit": unit, **values})


def test_the_data_is_counted_with_what_is_left_out_and_of_what() -> None:
    said = " ".join(Text(plan_card.data_card(TrainingData(preview(), 1200), DPOSpec())).said)
    for words in ("dpo-3", "1,200", "Held-out pairs", REASONS["tie"], "pairs", REASONS["skip"], "judgements"):
        assert words in said
    assert "Pairs in them" not in said
    assert REASONS["flagged"] not in said


def test_beside_how_much_is_trained_on_stands_where_the_rest_of_the_judgements_is() -> None:
    said = plan_card.where_the_rest_is(TrainingData(preview(), 1200), DPOSpec())
    for words in (
        "Held-out pairs to check with: 9. Left out: ",
        f"{REASONS['tie']} (3)",
        f"{REASONS['skip']} (2)",
    ):
        assert words in said
    assert plan_card.where_the_rest_is(TrainingData(preview("prompts", left_out={}), 1200), PPOSpec()) == ""


def test_with_too_little_to_train_on_the_reason_alone_says_what_is_left_out() -> None:
    few, spec = TrainingData(preview(train=3), 3), DPOSpec()
    problems = shortage(spec, few.found)
    assert "Left out: " in problems[0]
    run = PlannedRun(spec=spec, asked=spec, problems=problems, data=few, cost=None, unknown="")
    assert "Left out: " not in plan_card.summary_line(run)
    line = plan_card.summary_line(replace(run, cost=COST))
    assert not COST.fit.fits
    assert "memory" not in line, "of a run that can't be"
    assert "does not fit" not in line
    assert "Left out: " in plan_card.summary_line(replace(run, data=TrainingData(preview(), 1200)))


def test_how_many_are_labelled_wrong_is_a_figure_only_where_it_was_measured() -> None:
    nothing = Text(plan_card.data_card(TrainingData(preview(), 1200), DPOSpec())).said
    assert not any(number in nothing for number in ("26%", "27%")), "what is assumed is no figure"
    assert "labelled wrong is not known" in " ".join(nothing)
    assert "assumes 27% after one such annotator" in " ".join(nothing)
    some = Noise(1200, 900, 0.18, NoiseEvidence(40, 5, 12))
    said = " ".join(Text(plan_card.data_card(TrainingData(preview(noise=some), 1200), DPOSpec())).said)
    assert "Labelled wrong, estimated 18%" in said
    assert "from 40 judgements of comparisons that others judged too, 5 of gold ones and 12 asked again" in said
    assert "for 900 of the 1,200 pairs" in said
    every = " ".join(
        Text(plan_card.data_card(TrainingData(preview(noise=replace(some, measured=1200)), 1200), DPOSpec())).said
    )
    assert "of the 1,200 pairs" not in every


@pytest.mark.parametrize("kind", ["dpo", "reward_model", "sft", "ppo"])
def test_a_form_says_that_nothing_is_held_out(kind: str) -> None:
    found = preview("prompts", noise=None) if kind == "ppo" else preview()
    said = " ".join(
        Text(plan_card.data_card(TrainingData(found, 1200, unchecked="Nothing is held out."), ALGORITHMS[kind]())).said
    )
    assert "Nothing is held out." in said


def test_a_reward_model_counts_comparisons_and_the_pairs_in_them() -> None:
    said = " ".join(Text(plan_card.data_card(TrainingData(preview(), 400), RewardModelSpec())).said)
    for words in (
        "Comparisons to train on",
        "400",
        "Held-out pairs to check with",
        "Pairs in them",
        "1,200",
        "one for each answer where all are bad",
        "drawn for the gate",
    ):
        assert words in said


class TurnSpec(SFTSpec):
    """An algorithm that counts what no other does."""

    items: ClassVar = ItemWords(
        plural="turns",
        counted="{:,} turns".format,
        heading="Turns",
        to_train_on="Turns to train on",
        to_check_with="Held-out turns to check with",
    )


def test_what_an_algorithm_alone_counts_it_names_itself() -> None:
    said = " ".join(Text(plan_card.data_card(TrainingData(preview("demonstrations"), 1200), TurnSpec())).said)
    assert "Turns to train on" in said
    assert "Held-out turns to check with" in said
    assert "There is nothing to train on." in plan_card.shown_card(None, "train")
    assert TurnSpec().pace_fact()[0] == "Epochs · turns a step"


def test_prompts_have_no_held_out_ones_and_demonstrations_no_chance_of_error() -> None:
    prompts = " ".join(
        Text(plan_card.data_card(TrainingData(preview("prompts", noise=None, left_out={}), 1200), PPOSpec())).said
    )
    assert "Held-out" not in prompts
    shown_to = " ".join(
        Text(plan_card.data_card(TrainingData(preview("demonstrations", noise=None), 1200), SFTSpec())).said
    )
    assert "labelled wrong" not in shown_to
    assert "Held-out demonstrations" in shown_to


def test_all_rows_looked_through_are_told_with_examples() -> None:
    found = DataSummary(Counter({"train": 2100, "held-out": 4}), Counter({"too-long": 2}), seen=2106, tokenised=1998)
    found.examples["too-long"] = [("Comparison 5", HOSTILE + " and so on" * 20)]
    found.largest, found.tokens = 1234, 1998 * 50
    page = Text(plan_card.survey_card(found, DPOSpec()))
    said = " ".join(page.said)
    for words in ("2,100", "1,234", "50", "Comparison 5 (“<script>", "…”", "first 2,000 of 2,106"):
        assert words in said
    assert not page.tags["script"]
    few = replace(found, seen=100)
    assert "the first" not in plan_card.survey_card(few, DPOSpec())
    assert "Held-out" in said
    assert "Held-out" not in plan_card.survey_card(found, PPOSpec()), "prompts to answer have no such part"


# ------------------------------------------------------------------------------------------------------------ one item
def test_every_token_has_its_own_box_with_its_part_in_the_loss() -> None:
    html = plan_card.shown_card(shown(*PAIR), "train")
    page = Text(html)
    assert page.by_class["context"] == ["Why", "?↵\n", "Why"]
    assert page.by_class["raised"] == ["So", HOSTILE]
    assert page.by_class["lowered"] == ["No"]
    assert page.by_class["key raised"] == [plan_card.LEGEND["raised"]]
    assert "key scored" not in page.by_class
    assert 'title="3 tokens"' in html
    said = " ".join(page.said)
    for words in ("Row 2 of 30 to train on · Comparison 7", "Chosen · 6 tokens, 4 of them trained on", "clearly"):
        assert words in said


def test_no_text_of_a_row_becomes_part_of_the_page() -> None:
    page = Text(plan_card.shown_card(shown(*PAIR), "train"))
    assert not page.tags["script"]
    assert HOSTILE in page.said


def test_the_mask_is_told_by_more_than_colour() -> None:
    """Each part that is in the loss is underlined, each in a style of its own, and has a background."""
    styles = []
    for part in ("raised", "lowered", "scored", "virtual"):
        rules = "".join(re.findall(rf"[^}}]*\.{part}\b[^{{]*{{([^}}]*)}}", stylesheet.SHEET))
        assert "text-decoration-line: underline" in rules
        assert "background: var(--" in rules
        styles += re.findall(r"text-decoration-style: (\w+)", rules)
    assert len(set(styles)) == 4


def test_what_cannot_be_seen_is_written_out() -> None:
    assert plan_card.visible("a\n\tb") == "a↵\n\tb"
    assert plan_card.visible("\x00\u202e\u200b\u2066") == "⟨U+0000⟩⟨U+202E⟩⟨U+200B⟩⟨U+2066⟩"
    assert plan_card.visible("👩\u200d🚀") == "👩\u200d🚀", "what joins a letter's parts stays"


def test_a_row_that_is_left_out_says_why() -> None:
    gone = plan_card.shown_card(shown(PAIR[1], left_out={"too-long": 1}, used=False), "train")
    assert f"This would be left out: {REASONS['too-long']} (1)." in unescape(gone)
    partly = plan_card.shown_card(shown(PAIR[1], left_out={"too-long": 2}), "train")
    assert "Of this, left out" in partly
    assert "Nothing is held out." in plan_card.shown_card(None, "held-out")


# ------------------------------------------------------------------------------------------------------ memory and time
MACHINE = Machine("8 processors", 16_000_000_000, 10_000_000_000, bf16=True)
PARTS = [Component("Frozen weights", 2e9, "they stay"), Component("Activations", 13e9, "many")]
COST = CostEstimate(
    counted=Parameters(4_884_480, 139_399_488),
    fit=Fit(components=PARTS, total=15e9, processes=1, fits=False, sentence="It does not fit."),
    machine=MACHINE,
    step_time=StepTime(
        seconds_per_step=2.5,
        beside=42.0,
        measured="2026-03-01T10:00:00.000000+00:00",
        job_id=7,
        peak_memory_mb=1500.0,
    ),
    steps=1200,
    counted_steps=TrainingSpec.counted_steps,
    waiting=2,
    longest=0,
)


def test_the_cost_names_parameters_memory_by_component_and_what_there_is() -> None:
    page = Text(plan_card.cost_card(COST))
    said = " ".join(page.said)
    for words in (
        *("4,884,480 (3.5% of 139,399,488)", "15.00 GB", "10.00 GB of 16.00 GB", "8 processors", "1.50 GB"),
        *("Frozen weights", "2.00 GB", "they stay", "Activations", "13.00 GB", "Together"),
    ):
        assert words in said
    assert page.by_class["warning"] == ["It does not fit."]


def test_bars_are_as_long_as_the_share_of_what_is_free() -> None:
    html = plan_card.memory_table(COST.fit, MACHINE)
    assert re.findall(r"width: ([\d.]+)%", html) == ["20.0", "100.0", "100.0"]
    assert ["bar over" in row for row in html.split("<tbody>")[1].split("</tr>")[:3]] == [False, True, True]
    doubled = plan_card.memory_table(replace(COST.fit, processes=2, total=30e9), MACHINE)
    assert "4.00 GB" in doubled, "each process holds all of it"


def test_the_time_comes_from_a_measured_step() -> None:
    assert plan_card.time_sentence(COST) == (
        "Time: about 50 min 42 s for 1,200 optimiser steps (2.5 s each, 42 s beside them; measured on 2026-03-01 "
        "10:00 UTC by job 7). "
        "2 jobs run or wait before it."
    )
    assert COST.step_time is not None
    slow = replace(COST, step_time=replace(COST.step_time, seconds_per_step=863.8))
    assert "(14 min 24 s each, 42 s beside them; measured on" in plan_card.time_sentence(slow)
    early = replace(COST, step_time=None, ends_early=True)
    assert plan_card.time_sentence(early).startswith("Time: at most 1,200 optimiser steps. How long")
    unmeasured = replace(COST, step_time=None, steps=1, counted_steps=PPOSpec.counted_steps, waiting=0)
    assert plan_card.time_sentence(unmeasured) == (
        "Time: 1 round. How long a step takes with these settings has not been measured yet."
    )


def test_a_training_that_may_end_early_takes_at_most_so_long() -> None:
    run = PlannedRun(spec=DPOSpec(), asked=DPOSpec(), problems=[], data=None, cost=COST, unknown="")
    assert "1,200 optimiser steps · about 50 min" in plan_card.summary_line(run)
    early = plan_card.summary_line(replace(run, cost=replace(COST, ends_early=True)))
    assert "at most 1,200 optimiser steps · at most about 50 min" in early


def test_without_data_no_time_is_claimed() -> None:
    assert "nothing to train on" in plan_card.time_sentence(replace(COST, steps=0))
    assert "Time: at most about 50 min" in plan_card.time_sentence(replace(COST, ends_early=True))


def test_the_length_that_rows_are_taken_to_have_is_said() -> None:
    assert "as long as “Max length” allows" in plan_card.length_sentence(COST)
    assert "1,234 tokens" in plan_card.length_sentence(replace(COST, longest=1234))


# ------------------------------------------------------------------------------------------------------------ settings
@pytest.mark.parametrize("spec", [SFTSpec(), DPOSpec(), RewardModelSpec(), PPOSpec()], ids=lambda spec: spec.kind)
def test_a_default_learning_rate_is_named_with_its_source(spec: SFTSpec) -> None:
    for method, rate in spec.methods.items():
        chosen = replace(spec, method=method)
        note = unescape(plan_card.rate_note(chosen, chosen))
        assert (
            f"Left empty, the learning rate is {short_number(rate.value)}, the default for {SHORT_METHODS[method]}"
            in note
        )
        assert rate.source in note
    given = replace(spec, learning_rate=1e-3)
    assert "learning rate" not in plan_card.rate_note(given, given.on_weights("nf4"))


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("nf4", "QLoRA here: the parent's weights are held in 4 bits"),
        ("bf16", "LoRA here: the parent's weights are held in bf16"),
    ],
)
def test_what_automatic_means_is_said(precision: str, said: str) -> None:
    spec = DPOSpec()
    assert f"Automatic means {said}" in unescape(plan_card.rate_note(spec, spec.on_weights(precision)))
    assert "Automatic" not in plan_card.rate_note(replace(spec, method="qlora"), spec.on_weights("nf4"))


def test_the_beta_that_a_loss_has_by_default_is_named_with_its_source() -> None:
    spec = DPOSpec(method="lora", learning_rate=1e-3)
    for loss, (beta, source) in BETAS.items():
        note = unescape(plan_card.rate_note(replace(spec, loss=loss), spec))
        assert f"Left empty, beta is {beta:g}, the default of the {loss} loss ({source})" in note
    assert plan_card.rate_note(replace(spec, beta=0.3), spec) == ""


def test_a_method_that_the_kind_has_not_has_no_rate() -> None:
    assert plan_card.rate_note(PPOSpec(method="full"), PPOSpec(method="full")) == ""


def test_why_a_run_cannot_be_started_is_a_list_for_all_to_hear() -> None:
    assert plan_card.problem_box([]) == ""
    page = Text(plan_card.problem_box(["One & only.", HOSTILE]))
    assert page.tags["li"] == 2
    assert HOSTILE in page.said
    assert 'role="status"' in plan_card.problem_box(["One."])


def test_the_commands_run_the_very_same_spec(tmp_path: Path) -> None:
    """A shell is given them, with a program in the place of Python that says what it was called with."""
    spec = SFTSpec(method="prompt", virtual_text='It\'s $HOME `x` \\ "SPEC"\nSPEC\n', learning_rate=3e-2)
    data_dir = tmp_path / "it's my data"
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\nfor one in "$@"; do echo "$one"; done\n')
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", plan_card.command_text(spec, data_dir)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["-m", "rlhf", "--data", str(data_dir), "run", "spec.json"]
    written = (tmp_path / "spec.json").read_text("utf-8")
    assert from_json(written) == spec
    assert json.loads(written)["kind"] == "sft"


def test_the_confirmation_names_the_number() -> None:
    assert "only 53.1% of held-out comparisons" in accept_label(0.5312)
    assert "nobody knows" in accept_label(None)
    assert "no finished training here" in plan_card.reward_intro("reward-model-4", trained=False)
    assert "not checked" in plan_card.reward_intro("reward-model-4", trained=True)


@pytest.mark.parametrize("kind", ALGORITHMS.values())
def test_a_learning_rate_far_from_its_methods_default_is_warned_of(kind: type[TrainingSpec]) -> None:
    for method, default in kind.methods.items():
        spec = kind(method=method)
        for near in (0.0, default.value, default.value * 29, default.value / 999):
            assert plan_card.rate_warning(replace(spec, learning_rate=near)) == ""
        fast = plan_card.rate_warning(replace(spec, learning_rate=default.value * 31))
        usual = short_number(default.value)
        assert f"far above the usual {usual}: expect it to destroy what the model can." in fast
        slow = plan_card.rate_warning(replace(spec, learning_rate=default.value / 1001))
        assert f"far below the usual {usual}: expect the model to learn next to nothing." in slow


def test_the_line_above_the_button_warns_of_a_learning_rate() -> None:
    spec = SFTSpec(method="lora", learning_rate=0.9)
    run = PlannedRun(spec=spec, asked=spec, problems=[], data=None, cost=None, unknown="")
    assert '<p class="warning">The learning rate 0.9 is far above the usual 0.001' in plan_card.summary_line(run)
    assert '<p class="warning">It does not fit.</p><p class="warning">The' in plan_card.summary_line(
        replace(run, cost=COST)
    )
    fine = replace(run, spec=replace(spec, learning_rate=2e-3))
    assert plan_card.summary_line(fine) == ""
