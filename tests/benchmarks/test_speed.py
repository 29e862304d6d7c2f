"""`benchmarks.speed` on the tiny model: both sides run, their losses agree, and every key is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import speed

pytestmark = pytest.mark.slow


def test_both_sides_compute_the_same_loss_and_every_figure_has_its_key(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ranking, whose six pairs TRL takes one by one, is a comparison here; what was not measured is null."""
    assert speed.main(["--quick", "--model", str(tiny_model), "--only", "dpo_rank4", "generate_8"]) == 0
    *said, last = capsys.readouterr().out.strip().splitlines()
    found = json.loads(last)
    assert tuple(found) == speed.KEYS
    assert {name for name, ratio in found.items() if ratio is not None} == {"dpo_rank4", "generate_8"}
    assert found["dpo_rank4"] > 0
    assert any(line.startswith("Not measured here: dpo_pairs_96") for line in said)


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
