"""Runs beside each other: exactly the settings that differ, shared curves, figures that either has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from annotation.translation import chosen, speaking
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.evaluation.report import AnswerFigures, CheckReport, ImplicitAccuracy
from rlhf.jobs.job_spec import JobSpec
from rlhf.tabs.jobs import job_words
from rlhf.tabs.runs import compare_runs
from rlhf.tabs.runs.compare_runs import RunSummary
from tests.rlhf.tabs.jobs.test_job_cards import JOB


def run(number: int, spec: JobSpec, losses: Sequence[float] = (), **known: Any) -> RunSummary:
    """A finished run with a loss at each of its steps."""
    metrics = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    job = replace(JOB, id=number, kind=spec.kind, spec=spec, steps=len(losses), result=known.pop("result", {}))
    return RunSummary(job, metrics, known.pop("made", f"{spec.kind}-{number}"), known.pop("check", None))


def rows_of(html: str) -> list[list[str]]:
    """A table's cells, row by row, its head first."""
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in html.split("<tr>")[1:]]


def test_exactly_the_settings_that_differ_are_listed() -> None:
    first, second = SFTSpec(seed=1, learning_rate=1e-4), SFTSpec(seed=2, learning_rate=1e-4, packing=False)
    assert compare_runs.differing([first, second]) == [("seed", [1, 2]), ("packing", [True, False])]
    assert rows_of(compare_runs.settings_table([run(3, first), run(4, second)])) == [
        ["Setting", "3 · sft-3", "4 · sft-4"],
        ["Seed", "1", "2"],
        ["Packing", "yes", "no"],
    ]


def test_settings_are_called_as_on_their_forms() -> None:
    specs = DPOSpec(sft_weight=0.2, ai_weight=1, seed=1), DPOSpec(sft_weight=0.3, ai_weight=2, seed=2)
    with speaking(chosen("de")):
        shown = rows_of(compare_runs.settings_table([run(place, spec) for place, spec in enumerate(specs)]))
    assert [name for name, *_ in shown] == ["Einstellung", "Startwert", "Gewicht der KI-Richter", "SFT-Gewicht"]
    specs = DPOSpec(scope="new", parent="base"), DPOSpec(scope="all", parent="dpo-2")
    shown = rows_of(compare_runs.settings_table([run(place, spec) for place, spec in enumerate(specs)]))
    assert ["Data (scope)", "New since the parent", "All judgements"] in shown
    assert ["Parent", "base", "dpo-2"] in shown
    shown = rows_of(compare_runs.settings_table([run(1, SFTSpec()), run(2, DPOSpec())]))
    assert ["Kind", SFTSpec.title, DPOSpec.title] in shown


def test_a_setting_within_the_sampling_has_a_name_of_its_own() -> None:
    cooler = replace(PPOSpec(), sampling=replace(PPOSpec().sampling, temperature=0.5))
    assert compare_runs.differing([PPOSpec(), cooler]) == [
        ("sampling.temperature", [PPOSpec().sampling.temperature, 0.5])
    ]


def test_a_setting_that_only_one_kind_has_is_a_difference() -> None:
    found = dict(compare_runs.differing([SFTSpec(), DPOSpec(beta=0.1)]))
    assert found["kind"] == ["sft", "dpo"]
    assert found["beta"] == [None, 0.1]
    assert found["source"] == ["demonstrations", None]
    assert "seed" not in found
    assert ["Beta", "–", "0.1"] in rows_of(compare_runs.settings_table([run(1, SFTSpec()), run(2, DPOSpec(beta=0.1))]))


def test_three_runs_are_compared_at_once_and_equal_ones_are_called_so() -> None:
    specs = [DPOSpec(beta=0.1), DPOSpec(beta=0.1), DPOSpec(beta=0.5)]
    assert compare_runs.differing(specs) == [("beta", [0.1, 0.1, 0.5])]
    assert compare_runs.SAME_SETTINGS in compare_runs.settings_table([run(1, DPOSpec()), run(2, DPOSpec())])


def test_snapshots_are_shortened() -> None:
    specs = [DPOSpec(snapshot="a" * 64), DPOSpec(snapshot="b" * 64)]
    table = compare_runs.settings_table([run(1, specs[0]), run(2, specs[1])])
    assert ["Snapshot", "a" * 12, "b" * 12] in rows_of(table)


def test_one_run_is_not_a_comparison() -> None:
    assert "Choose two or more" in compare_runs.settings_table([run(1, SFTSpec())])
    assert compare_runs.overlaid([run(1, SFTSpec(), [1.0])]) == ""
    assert compare_runs.figures_table([run(1, SFTSpec(), [1.0])]) == ""


def test_curves_that_two_runs_have_are_overlaid_on_the_longest_ones_axis() -> None:
    html = compare_runs.overlaid([run(1, SFTSpec(), [2.0, 1.0]), run(2, SFTSpec(), [2.0, 1.5, 1.0, 0.5])])
    assert html.count("<figure") == 1
    lines = re.findall(r'<polyline points="([^"]*)" class="curve hue(\d)"', html)
    assert [hue for _, hue in lines] == ["0", "1"]
    assert [points.split()[-1].split(",")[0] for points, _ in lines] == ["500.0", "1000.0"]
    for name in ("1 · sft-1: 1", "2 · sft-2: 0.5"):
        assert name in html
    assert compare_runs.NO_SHARED_CURVES in compare_runs.overlaid([run(1, SFTSpec(), [2.0]), run(2, SFTSpec())])


def test_losses_of_different_kinds_are_not_to_be_compared_by_height() -> None:
    mixed = compare_runs.overlaid([run(1, SFTSpec(), [2.0, 1.0]), run(2, DPOSpec(), [0.7, 0.6])])
    assert compare_runs.OTHER_LOSSES in mixed
    alike = compare_runs.overlaid([run(1, SFTSpec(), [2.0, 1.0]), run(2, SFTSpec(), [0.7, 0.6])])
    assert compare_runs.OTHER_LOSSES not in alike


def test_figures_stand_side_by_side_and_missing_ones_are_dashes() -> None:
    first = run(
        1,
        SFTSpec(),
        [2.0, 1.0],
        result={
            "held_out": {"loss": 0.52, "perplexity": 1.68, "token_accuracy": 0.9, "n": 9},
            "trainable": 4800,
            "checkpoint_bytes": 19_600_000,
            "peak_memory_mb": 640.0,
        },
    )
    check = CheckReport.from_json(
        {
            "implicit_accuracy": {"value": 0.75},
            "candidate": {"kl_to_anchor": 0.0712, "mean_length": 20.0},
            "equal_length_kl": 0.0934,
        }
    )
    second = run(2, DPOSpec(), [0.7, 0.6], result={"trainable": 9600}, check=check)
    rows = {row[0]: row[1:] for row in rows_of(compare_runs.figures_table([first, second]))}
    assert rows["Figure"] == ["1 · sft-1", "2 · dpo-2"]
    assert rows["Loss, at the end"] == ["1 nats a token", "0.6"]
    assert rows["Held-out perplexity"] == ["1.68", "–"]
    assert rows["Held-out accuracy (check)"] == ["–", "0.75"]
    assert rows["KL per token, at equal length (check)"] == ["–", "0.0934"]
    assert rows["KL per token (check)"] == ["–", "0.0712"]
    assert rows["Trainable parameters"] == ["4,800", "9,600"]
    assert rows["Size on disk"] == ["19.6 MB", "–"]
    assert rows["Peak memory"] == ["0.64 GB", "–"]
    assert "Time in all" not in rows


def test_every_figure_has_its_place_in_the_order() -> None:
    """A figure that is computed and not in the order would never be shown."""
    everything = run(
        1,
        SFTSpec(),
        [1.0],
        result={
            "held_out": {"loss": 1.0, "perplexity": 2.7, "token_accuracy": 0.5},
            "quality": {"accuracy": {"value": 0.7}},
            **dict.fromkeys(("trainable", "trainable_percent", "seconds_per_step", "seconds"), 1),
            **dict.fromkeys(("peak_memory_mb", "checkpoint_bytes"), 1),
        },
        check=CheckReport(
            candidate=AnswerFigures("dpo-1", mean_length=1, distinct_2=1, kl_to_anchor=0),
            against=AnswerFigures(),
            anchor=AnswerFigures(),
            prompts=20,
            equal_length_kl=0,
            implicit_accuracy=ImplicitAccuracy(0.5, 0.4, 0.6, 20),
        ),
    )
    assert set(compare_runs.figures(everything)) <= set(compare_runs.order())
    assert len(set(compare_runs.order())) == len(compare_runs.order())


def test_names_are_shown_literally() -> None:
    nasty = [run(number, DPOSpec(seed=number), [1.0, 2.0], made="<script>") for number in (1, 2)]
    for html in (compare_runs.settings_table(nasty), compare_runs.overlaid(nasty), compare_runs.figures_table(nasty)):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html


def test_a_name_turns_no_text_around_in_gradios_own_choices_and_legends() -> None:
    named = replace(run(1, DPOSpec()), called="\u202ecba")
    assert named.name == "1 · ⟨U+202E⟩cba"
    assert job_words.title(named.job, named.called).startswith("⟨U+202E⟩cba · 1 · ")


def test_runs_that_ended_early_are_compared_by_the_steps_that_they_made() -> None:
    early, whole = run(1, DPOSpec(stop_kl=0.15), [0.7, 0.6]), run(2, DPOSpec(stop_kl=0.15), [0.7, 0.6, 0.5])
    ended = [
        replace(one, job=replace(one.job, status="finished", step=steps, result={"final": {"kl": kl}}))
        for one, steps, kl in ((early, 2, 0.2), (whole, 3, 0.1))
    ]
    assert ["Steps", "2, ended early", "3"] in rows_of(compare_runs.figures_table(ended))
    assert "Steps" not in compare_runs.figures(early), "it may make more"


def test_what_kinds_mean_by_one_name_is_not_put_into_one_plot() -> None:
    """DPO's KL is a token's, from where the run began; PPO's an answer's, to the reference."""

    def moved(number: int, spec: JobSpec) -> RunSummary:
        return replace(run(number, spec), metrics=[{"step": 1, "kl": 0.1}, {"step": 2, "kl": 0.2}])

    assert compare_runs.shared([moved(1, DPOSpec()), moved(2, PPOSpec())]) == []
    (own,) = compare_runs.shared([moved(1, PPOSpec()), moved(2, PPOSpec())])
    (other,) = compare_runs.shared([moved(1, DPOSpec()), moved(2, DPOSpec())])
    assert (own.axes.label, other.axes.label) == ("KL to the reference", "How far it has moved")
    assert own.axes.name != other.axes.name
    assert "KL to the reference, at the end" in compare_runs.figures(moved(1, PPOSpec()))
    assert "How far it has moved, at the end" in compare_runs.figures(moved(1, DPOSpec()))
