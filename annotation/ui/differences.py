"""Two texts beside each other with the words marked in which they differ. Pure."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from annotation.ui.markup import escape

# Words, signs, and spaces between them; scripts written without spaces are compared character by character.
PIECE = re.compile(r"\s+|[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+|[^\w\s]")
# What is compared takes time that grows with the square of the length.
MOST_PIECES = 1500
# Below this share of common words nearly everything would be marked, which says nothing.
LIKE_EACH_OTHER = 0.3


def marked(left: str, right: str) -> tuple[str, str]:
    """Both texts as HTML, each with `<mark>` around what the other has not.

    Nothing is marked in texts that have little in common, nor behind the first 1,500 words.
    """
    ours, theirs = PIECE.findall(left), PIECE.findall(right)
    matcher = SequenceMatcher(None, ours[:MOST_PIECES], theirs[:MOST_PIECES])
    runs = matcher.get_opcodes()
    common = sum(words(ours[begin:end]) for tag, begin, end, _from, _to in runs if tag == "equal")
    if 2 * common < LIKE_EACH_OTHER * (words(ours) + words(theirs)):
        return escape(left), escape(right)
    shown = "".join(run(ours[begin:end], tag != "equal") for tag, begin, end, _from, _to in runs)
    shown_there = "".join(run(theirs[begin:end], tag != "equal") for tag, _from, _to, begin, end in runs)
    rest, rest_there = ("".join(pieces[MOST_PIECES:]) for pieces in (ours, theirs))
    return shown + escape(rest), shown_there + escape(rest_there)


def words(pieces: list[str]) -> int:
    """How many of them are not mere space."""
    return sum(not piece.isspace() for piece in pieces[:MOST_PIECES])


def run(pieces: list[str], differs: bool) -> str:
    """Successive pieces as HTML; spaces alone are not marked, which nobody would see."""
    text = "".join(pieces)
    return f"<mark>{escape(text)}</mark>" if differs and text.strip() else escape(text)
