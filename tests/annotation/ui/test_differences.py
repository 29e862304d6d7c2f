"""Words that differ between two texts: what is marked, that nothing is lost, and that texts stay text."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.ui.differences import MOST_PIECES, marked


def plain(side: str) -> str:
    """A side without its marks."""
    return html.unescape(re.sub(r"</?mark>", "", side))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("It is good tea.", "It is bad tea.", ("It is <mark>good</mark> tea.", "It is <mark>bad</mark> tea.")),
        ("One, two.", "One, two, three.", ("One, two.", "One, two<mark>, three</mark>.")),
        ("我喜欢喝绿茶。", "我喜欢喝红茶。", ("我喜欢喝<mark>绿</mark>茶。", "我喜欢喝<mark>红</mark>茶。")),
        ("the same", "the same", ("the same", "the same")),
        ("", "something", ("", "something")),
        ("nothing in common", "quite other words", ("nothing in common", "quite other words")),
        ("a <b>bold</b> one", "a <b>dark</b> one",
         ("a &lt;b&gt;<mark>bold</mark>&lt;/b&gt; one", "a &lt;b&gt;<mark>dark</mark>&lt;/b&gt; one")),
    ],
)  # fmt: skip
def test_what_the_other_has_not_is_marked(left: str, right: str, expected: tuple[str, str]) -> None:
    assert marked(left, right) == expected


@given(st.text("ab <&\n", max_size=60), st.text("ab <&\n", max_size=60))
def test_both_texts_are_whole_and_only_marks_are_markup(left: str, right: str) -> None:
    sides = marked(left, right)
    assert tuple(map(plain, sides)) == (left, right)
    assert all("<" not in re.sub(r"</?mark>", "", side) for side in sides)


def test_of_long_texts_the_beginning_is_compared() -> None:
    long = " ".join(f"word{number}" for number in range(MOST_PIECES))
    left, right = marked(f"first {long} end", f"other {long} last")
    assert plain(left) == f"first {long} end"
    assert left.startswith("<mark>first</mark>")
    assert right.endswith("last")
