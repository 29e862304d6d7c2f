"""What the statistics of a list say of counts."""

from __future__ import annotations

from annotation.tabs.comparisons.statistics_card import share_of


def test_a_count_is_neither_said_to_be_none_nor_all_of_what_it_is_a_share_of() -> None:
    said = [share_of(*counts) for counts in ((1, 2030), (2029, 2030), (2030, 2030), (0, 2030), (11, 2030), (0, 0))]
    assert said == ["1 (<1%)", "2,029 (>99%)", "2,030 (100%)", "0", "11 (1%)", "–"]
