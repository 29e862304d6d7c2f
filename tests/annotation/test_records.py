"""What the browser sends, checked; ranks by place turned into a ranking by position; times as text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.claims.sent_acts import parse_act
from annotation.records import Act, UserError, now, seconds_between
from tests.conftest import act

TAGS = ("accurate", "clear")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
# Nearly right: each field is often sound, so that the others are looked at.
SENT = st.fixed_dictionaries(
    {"outcome": st.sampled_from(["ranked", "all-bad", "skip"]) | JSON},
    optional={
        "ranks": st.lists(st.integers(-1, 4), min_size=2, max_size=3) | JSON,
        "strength": st.integers(-1, 4) | JSON,
        "tags": st.lists(st.sampled_from([*TAGS, "other"])) | JSON,
        "note": JSON,
        "flag": st.sampled_from(["harmful", "other"]) | JSON,
        "edit": st.fixed_dictionaries({"place": st.integers(-1, 3), "text": st.text()}) | JSON,
    },
)


@pytest.mark.parametrize(
    ("word", "shown_order", "ranking", "strength"),
    [
        ("left-much", (0, 1), (1, 2), 3),
        ("left-slightly", (0, 1), (1, 2), 1),
        ("right-clearly", (0, 1), (2, 1), 2),
        ("left-much", (1, 0), (2, 1), 3),
        ("right-slightly", (1, 0), (1, 2), 1),
        ("tie", (1, 0), (1, 1), 0),
    ],
)
def test_ranking_is_by_position_whatever_the_order_shown(
    word: str, shown_order: tuple[int, ...], ranking: tuple[int, ...], strength: int
) -> None:
    parsed = parse_act(act(word), "pair", 2, TAGS)
    assert (parsed.ranking(shown_order), parsed.strength) == (ranking, strength)


def test_the_places_of_four_answers_become_positions() -> None:
    """Shown were the answers 2, 0, 3, 1; the person put the third shown first, and two second."""
    parsed = parse_act({"outcome": "ranked", "ranks": [5, 2, 1, 2]}, "rank", 4, TAGS)
    assert parsed.ranks == (3, 2, 1, 2)
    assert parsed.ranking((2, 0, 3, 1)) == (2, 2, 3, 1)


def test_bad_and_skipped_rank_nothing() -> None:
    for word in ("all-bad", "skip"):
        parsed = parse_act(act(word), "pair", 2, TAGS)
        assert (parsed.outcome, parsed.ranking((1, 0)), parsed.strength) == (word, None, None)


def test_the_best_of_several_has_two_ranks_at_most() -> None:
    assert parse_act({"outcome": "ranked", "ranks": [2, 1, 2]}, "best", 3, TAGS).ranks == (2, 1, 2)
    with pytest.raises(UserError, match="Only the best"):
        parse_act({"outcome": "ranked", "ranks": [2, 1, 3]}, "best", 3, TAGS)


@given(SENT | JSON, st.sampled_from(["pair", "best", "rank"]))
def test_whatever_is_sent_gives_an_act_or_a_sentence(value: Any, kind: Any) -> None:
    try:
        parsed = parse_act(value, kind, 3 if kind != "pair" else 2, TAGS)
    except UserError:
        return
    assert isinstance(parsed, Act)


@given(st.lists(st.integers(1, 8), min_size=2, max_size=8), st.data())
def test_undoing_the_order_loses_nothing(ranks: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(ranks))))
    parsed = parse_act({"outcome": "ranked", "ranks": ranks}, "rank", len(ranks), TAGS)
    ranking = parsed.ranking(order)
    assert ranking is not None
    assert tuple(ranking[position] for position in order) == parsed.ranks
    # Dense, and in the same order as what was sent.
    assert sorted(set(ranking)) == list(range(1, len(set(ranks)) + 1))
    assert all(
        (a < b) == (x < y)
        for a, x in zip(ranks, parsed.ranks or (), strict=True)
        for b, y in zip(ranks, parsed.ranks or (), strict=True)
    )


def test_text_order_of_times_is_time_order() -> None:
    times = [now() for _ in range(2000)]
    assert times == sorted(times)
    assert len({len(time) for time in times}) == 1
    assert seconds_between("2026-01-01T00:00:00.000000+00:00", "2026-01-01T00:01:00.500000+00:00") == 60.5


def test_half_a_surrogate_pair_can_be_kept_and_whole_characters_stay() -> None:
    parsed = parse_act(
        act("left-much", note="a\ud83db \U0001f600", edit={"place": 0, "text": "\udc00!"}), "pair", 2, TAGS
    )
    assert parsed.note == "a\ufffdb \U0001f600"
    assert parsed.edit is not None
    assert parsed.edit.text.encode() == "\ufffd!".encode()
