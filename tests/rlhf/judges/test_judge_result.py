"""What a judging's result says, whichever version wrote it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from rlhf.judges.judge_result import JudgeResult


def test_what_was_written_is_read_again() -> None:
    made = JudgeResult(judge="ada", comparisons=3, left_open=1, failed={"timeout": 2}, gave_up="Gone.", cost=None)
    assert JudgeResult.of(asdict(made)) == made


@pytest.mark.parametrize("told", [None, {}, {"left_open": "many", "failed": {"timeout": None}, "gave_up": None}])
def test_what_is_not_said_or_can_not_be_meant_is_as_before_it_began(told: dict[str, object] | None) -> None:
    assert JudgeResult.of(told) == JudgeResult()


def test_a_result_of_an_earlier_version_says_what_it_said() -> None:
    """Before there was a remark."""
    earlier = {"judge": "ada", "comparisons": 4, "verdicts": 8, "left_open": 0, "failed": {"refused": 1}, "calls": 9}
    assert JudgeResult.of(earlier) == JudgeResult(judge="ada", comparisons=4, verdicts=8, failed={"refused": 1})
