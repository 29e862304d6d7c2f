"""Verdicts: what was pressed on the screen, with the order shown undone."""

from __future__ import annotations

import pytest

from annotation.records import VERDICTS, UserError, Verdict, now, seconds_between


@pytest.mark.parametrize(
    ("word", "shown_order", "ranking", "strength"),
    [
        ("left-better", (0, 1), (1, 2), 2),
        ("left-slightly", (0, 1), (1, 2), 1),
        ("right-slightly", (0, 1), (2, 1), 1),
        ("right-better", (0, 1), (2, 1), 2),
        ("left-better", (1, 0), (2, 1), 2),
        ("left-slightly", (1, 0), (2, 1), 1),
        ("right-slightly", (1, 0), (1, 2), 1),
        ("right-better", (1, 0), (1, 2), 2),
        ("tie", (0, 1), (1, 1), 0),
        ("tie", (1, 0), (1, 1), 0),
    ],
)
def test_ranking_is_by_position_whatever_the_order_shown(
    word: str, shown_order: tuple[int, ...], ranking: tuple[int, ...], strength: int
) -> None:
    assert Verdict.parse(word, shown_order) == Verdict("ranked", ranking, strength)


@pytest.mark.parametrize("shown_order", [(0, 1), (1, 0)])
def test_bad_and_skipped_rank_nothing(shown_order: tuple[int, ...]) -> None:
    assert Verdict.parse("all-bad", shown_order) == Verdict("all-bad")
    assert Verdict.parse("skip", shown_order) == Verdict("skip")


def test_every_word_parses_and_no_other() -> None:
    assert all(Verdict.parse(word, (1, 0)) for word in VERDICTS)
    for word in ("", "left", "undone", "LEFT-BETTER", "left-better "):
        with pytest.raises(UserError, match="is not a judgement"):
            Verdict.parse(word, (0, 1))


def test_text_order_of_times_is_time_order() -> None:
    times = [now() for _ in range(2000)]
    assert times == sorted(times)
    assert len({len(time) for time in times}) == 1
    assert seconds_between("2026-01-01T00:00:00.000000+00:00", "2026-01-01T00:01:00.500000+00:00") == 60.5
