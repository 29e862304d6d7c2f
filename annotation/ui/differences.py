"""Two texts beside each other with the words marked in which they differ. Pure."""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

from annotation.ui.markup import escape

# Words and signs, each with the space before it, which is not compared; scripts written without spaces are compared
# character by character. What is drawn as one, as letters with their marks or joined pictures, is not taken apart.
UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
MARKS = (
    "".join(mark for mark in map(chr, range(0x300, 0x12000)) if unicodedata.category(mark)[0] == "M") + "\u200c\u200d"
)
SIGN = rf"(?:[{UNSPACED}]|[\U0001f1e6-\U0001f1ff]{{2}}|[^\w\s])[{MARKS}\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
PIECE = re.compile(rf"\s*(?:(?:[^\W{UNSPACED}]+[{MARKS}]*)+|{SIGN}(?:(?<=\u200d){SIGN})*)|\s+")
# What is compared takes time that grows with the square of the length: so many words take some milliseconds.
MOST_WORDS = 3000
# Below this share of common words nearly everything would be marked, which says nothing.
LIKE_EACH_OTHER = 0.3


def is_long(text: str) -> bool:
    """Whether `marked` leaves the end of a text alone."""
    return len(PIECE.findall(text)) > MOST_WORDS


def marked(left: str, right: str) -> tuple[str, str]:
    """Both texts as HTML, each with `<mark>` around what the other has not.

    Nothing is marked in texts that have little in common, nor behind the first 3,000 words and signs.
    """
    ours, theirs = PIECE.findall(left), PIECE.findall(right)
    words, their_words = ([piece.strip() for piece in pieces[:MOST_WORDS]] for pieces in (ours, theirs))
    pairs = in_common(words, their_words)
    if 2 * len(pairs) < LIKE_EACH_OTHER * (len(words) + len(their_words)):
        return escape(left), escape(right)
    return side(ours, {place for place, _ in pairs}), side(theirs, {place for _, place in pairs})


def in_common(words: list[str], others: list[str]) -> list[tuple[int, int]]:
    """The places of a longest common subsequence in both, last first.

    Hyyrö's bit-parallel algorithm, a row of the table in one number: in row i, bit j is 0 where the subsequence of the
    first i words and the first j + 1 others is longer than without the last of these. difflib takes seconds for
    texts in which every other word differs.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(others):
        places[word] = places.get(word, 0) | 1 << place
    ones = (1 << len(others)) - 1
    rows = [ones]
    for word in words:
        found = rows[-1] & places.get(word, 0)
        rows.append((rows[-1] + found | rows[-1] - found) & ones)
    pairs = []
    ours, theirs = len(words), len(others)
    while ours and theirs:
        bit = 1 << theirs - 1
        if rows[ours] & bit:
            theirs -= 1
            continue
        ours -= 1
        if rows[ours] & bit:
            theirs -= 1
            pairs.append((ours, theirs))
    return pairs


def side(pieces: list[str], common: set[int]) -> str:
    """A text as HTML, its words marked that are not in common; the space before the first of them is not."""
    shown = []
    for differs, run in groupby(enumerate(pieces), lambda one: one[0] < MOST_WORDS and one[0] not in common):
        text = "".join(piece for _, piece in run)
        begin = len(text) - len(text.lstrip())
        shown.append(f"{text[:begin]}<mark>{escape(text[begin:])}</mark>" if differs and text.strip() else escape(text))
    return "".join(shown)
