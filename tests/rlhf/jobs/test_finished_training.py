"""What a training's result says, whichever version wrote it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rlhf.jobs.finished_training import FinishedTraining


@pytest.mark.parametrize("name", ["trained_on", "train_pairs", "train_items", "train_prompts"])
def test_how_much_was_trained_on_is_known_of_every_version(name: str) -> None:
    found = FinishedTraining.of({name: 28, "snapshot": "ab", "left_out": {"tie": 2}, "final": {"loss": 0.6}, "new": 1})
    assert found == FinishedTraining(snapshot="ab", trained_on=28, left_out={"tie": 2}, final={"loss": 0.6})


def test_what_earlier_versions_called_otherwise_is_known_by_its_name_of_today() -> None:
    old = FinishedTraining.of({"peak_rss_mb": 900.5, "health": {"accuracy": {"value": 0.7}}})
    assert old == FinishedTraining(peak_memory_mb=900.5, quality={"accuracy": {"value": 0.7}})
    assert FinishedTraining.of({"peak_rss_mb": 900.5, "peak_memory_mb": 800.0}).peak_memory_mb == 800.0


def test_what_a_training_says_is_stored_by_these_names_and_read_again() -> None:
    cost = FinishedTraining(trainable=10, trainable_percent=1.5, steps=3, seconds_per_step=0.5, peak_memory_mb=900.0)
    data = {"snapshot": "ab", "trained_on": 12, "left_out": {"too-long": 2}}
    done = replace(
        cost, revision="sft-1", final={"loss": 0.5}, held_out={"loss": None, "n": 0}, checkpoint_bytes=0, **data
    )
    told = done.to_json()
    assert FinishedTraining.of(json.loads(json.dumps(told))) == done
    assert "quality" not in told, "what is not known is not said"
    assert FinishedTraining.of(told).cost() == cost


def test_what_is_not_said_is_unknown_and_what_nobody_can_mean_is_not_read() -> None:
    assert FinishedTraining.of(None) == FinishedTraining.of({"held_out_before": None, "final": "x", "seconds": {}})
    assert FinishedTraining.of({}).trained_on is None


@pytest.mark.parametrize("wrong", ["x", True, [1], {"n": 1}, float("nan"), float("inf"), 10**400])
def test_a_number_is_read_where_it_is_one(wrong: object) -> None:
    numbers = ("trained_on", "planned_steps", "trainable", "trainable_percent", "seconds_per_step", "checkpoint_bytes")
    assert FinishedTraining.of({**dict.fromkeys(numbers, wrong), "left_out": {"tie": wrong}}) == FinishedTraining()
    assert FinishedTraining.of({"final": {"loss": wrong, "kl": 1, "none": None}}).final == {"kl": 1, "none": None}
    assert FinishedTraining.of({"seconds": 2, "trained_on": wrong, "train_pairs": 3}).trained_on == 3
    assert FinishedTraining.of({"seconds": 2, "planned_steps": 1.5, "snapshot": 7}) == FinishedTraining(seconds=2)
