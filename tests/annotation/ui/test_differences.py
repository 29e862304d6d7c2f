"""Words that differ between two texts: what is marked, that nothing is lost, and that texts stay text."""

from __future__ import annotations

import html
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.ui.differences import MOST_WORDS, in_common, is_long, marked


def plain(side: str) -> str:
    """A side without its marks."""
    return html.unescape(re.sub(r"</?mark>", "", side))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("It is good tea.", "It is bad tea.", ("It is <mark>good</mark> tea.", "It is <mark>bad</mark> tea.")),
        ("One, two.", "One, two, three.", ("One, two.", "One, two<mark>, three</mark>.")),
        ("我喜欢喝绿茶。", "我喜欢喝红茶。", ("我喜欢喝<mark>绿</mark>茶。", "我喜欢喝<mark>红</mark>茶。")),
        ("用list和set。", "用dict和set。", ("用<mark>list</mark>和set。", "用<mark>dict</mark>和set。")),
        ("हिन्दी भाषा है", "हिन्दू भाषा है", ("<mark>हिन्दी</mark> भाषा है", "<mark>हिन्दू</mark> भाषा है")),
        ("Go 👨\u200d👩\u200d👧 🇩🇪 👍🏽!", "Go 👨\u200d👩\u200d👦 🇩🇰 👍🏿!",
         ("Go <mark>👨\u200d👩\u200d👧 🇩🇪 👍🏽</mark>!", "Go <mark>👨\u200d👩\u200d👦 🇩🇰 👍🏿</mark>!")),
        ("A good old tea.", "A bad\nnew tea.", ("A <mark>good old</mark> tea.", "A <mark>bad\nnew</mark> tea.")),
        ("It is  good\ntea. ", "It is good tea.", ("It is  good\ntea. ", "It is good tea.")),
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


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_as_many_words_as_can_be_are_found_in_both(words: list[str], others: list[str]) -> None:
    pairs = in_common(words, others)
    assert all(words[here] == others[there] for here, there in pairs)
    assert all(before[0] > after[0] and before[1] > after[1] for before, after in pairwise(pairs))
    lengths = [0] * (len(others) + 1)
    for word in words:
        longer = [0]
        for there, other in enumerate(others):
            longer.append(lengths[there] + 1 if word == other else max(lengths[there + 1], longer[there]))
        lengths = longer
    assert len(pairs) == lengths[-1]


@pytest.mark.parametrize("extra", [0, 1])
def test_of_long_texts_so_many_words_are_compared_and_spaces_are_no_words(extra: int) -> None:
    words = [f"word{number}" for number in range(MOST_WORDS + extra)]
    text, other = " ".join(words), " ".join([*words[:-1], "last"])
    left, right = marked(text, other)
    assert (plain(left), plain(right)) == (text, other)
    assert right.endswith(" last" if extra else " <mark>last</mark>")
    assert is_long(text) == is_long(other) == bool(extra)
