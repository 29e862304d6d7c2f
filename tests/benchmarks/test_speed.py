"""`benchmarks.speed` on the tiny model: both sides run, their losses agree, and every key is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import speed
from benchmarks.peers import before
from benchmarks.speed import Ratio
from rlhf.jobs.job_spec import from_json

pytestmark = pytest.mark.slow


def test_both_sides_compute_the_same_loss_and_every_figure_has_its_key(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ranking, whose six pairs TRL takes one by one, is a comparison here; what was not measured is null."""
    assert speed.main(["--quick", "--model", str(tiny_model), "--only", "dpo_rank4", "generate_8"]) == 0
    *said, last = capsys.readouterr().out.strip().splitlines()
    found = json.loads(last)
    assert tuple(found) == (*speed.KEYS, "met", "missed")
    assert {name for name in speed.KEYS if found[name] is not None} == {"dpo_rank4", "generate_8"}
    assert len([*found["met"], *found["missed"]]) == 2
    assert found["dpo_rank4"] > 0
    assert any(line.startswith("Not measured here: dpo_pairs_96") for line in said)


def test_a_goal_is_met_from_above_or_below_and_what_was_not_measured_is_neither() -> None:
    def ratio(value: float) -> Ratio:
        return Ratio(value=value, low=value, high=value, ours=value, peer=1.0)

    found = {**dict.fromkeys(speed.KEYS), "dpo_pairs_96": ratio(3.0), "dpo_rank4": ratio(7.9), "memory": ratio(0.34)}
    met, missed = speed.goals({**found, before.CHECK: ratio(0.41), "sft": ratio(0.1)})
    assert met == ["dpo_pairs_96: 3.00, to be at least 3", "memory: 0.34, to be at most 0.5"]
    assert missed == ["dpo_rank4: 7.90, to be at least 8", "check: 0.41, to be at most 0.4"]


def test_both_programs_are_asked_for_the_same_in_their_own_words(tmp_path: Path) -> None:
    """Ours reads what it is asked; the earlier one had a word for a check, and one for none after a training."""
    now, earlier = before.programs(tmp_path)
    assert (now.root, earlier.root) == (before.ROOT, tmp_path.resolve())
    (dpo, other, reward), (earlier_dpo, earlier_other, earlier_reward) = now.trainings(), earlier.trainings()
    shared = {"kind": "dpo", "method": "lora", "epochs": 1, "samples": 0}
    assert dpo == {**shared, "check": False, "stop_kl": 0.0, "seed": 1}
    assert earlier_dpo == {**shared, "evaluate": False, "seed": 1}
    assert (other, earlier_other) == ({**dpo, "seed": 2}, {**earlier_dpo, "seed": 2})
    assert reward == earlier_reward == {**shared, "kind": "reward_model"}
    assert now.check_of("dpo-1") == {"kind": "check", "candidate": "dpo-1", "judges": ""}
    assert earlier.check_of("dpo-1") == {"kind": "evaluate", "candidate": "dpo-1", "judges": ""}
    rounds = now.rounds_against("reward_model-1", 0.8, 2)
    assert rounds == earlier.rounds_against("reward_model-1", 0.8, 2)
    for spec in (dpo, reward, now.check_of("dpo-1"), rounds, json.loads(rounds["training"])):
        assert from_json(json.dumps(spec)).kind == spec["kind"]


def test_prompts_that_are_held_out_are_not_trained_on() -> None:
    imported = before.rows(quick=False)
    trained, held_out = ({row["prompt"] for row in imported[name]} for name in ("train", "held-out"))
    further = {row["prompt"] for row in imported["held-out prompts"]}
    assert (len(trained), len(held_out), len(further)) == (before.TRAIN, before.HELD_OUT, before.PROMPTS)
    assert not trained & held_out
    assert not (trained | held_out) & further
    assert all(row["chosen"] != row["rejected"] for name in ("train", "held-out") for row in imported[name])


def test_trl_is_given_every_pair_with_its_prompt() -> None:
    case = speed.CASES["dpo_rank4"]
    ranking = speed.comparisons(case, 1, 1000)[0]
    pairs = speed.peer_items(case, ranking)
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs] == [
        (ranking["answers"][better], ranking["answers"][worse])
        for better, worse in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    ]
    assert all(pair["prompt_ids"] == ranking["prompt_ids"] for pair in pairs)
    assert [speed.passes_of(rows) for rows in (1, 4, 6, 8, 12)] == [1, 4, 3, 8, 4]
