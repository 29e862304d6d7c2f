"""Characters that can't be seen, spelt out: what strangers wrote must not turn, join, hide or carry text unnoticed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Control, format, surrogate and "default ignorable" characters: they turn, join, hide or carry text without a glyph.
INVISIBLE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{4,6}\U000e007f")
JOINERS, EMOJI_STYLE = "\u200c\u200d", "\ufe0e\ufe0f"
# Scripts whose letters need joiners to be written rightly: Arabic and its neighbours, the Indic ones, Khmer, Mongolian.
JOINING = ((0x0600, 0x08FF), (0x0900, 0x109F), (0x1780, 0x18AF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC), (0x11000, 0x11FFF))
HAN = ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))


def visible(text: str) -> str:
    """The text with each character that can't be seen spelt out, like ⟨U+202E⟩; joined emoji and letters stay whole."""
    if not INVISIBLE.search(text):
        return text
    text = text.replace("\r\n", "\n")
    flags = {place for found in FLAG.finditer(text) for place in range(*found.span())}

    def spell(found: re.Match[str]) -> str:
        place, character = found.start(), found[0]
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        fitting = place in flags or belongs(character, before, after)
        return character if fitting else f"⟨U+{ord(character):04X}⟩"

    return INVISIBLE.sub(spell, text)


def belongs(character: str, before: str, after: str) -> bool:
    """Whether an invisible character is part of writing that needs it between these two neighbours."""
    if not before:
        return False
    if character in JOINERS:
        emoji = character == "\u200d" and bool(after) and is_symbol(before) and is_symbol(after)
        return emoji or within(before, JOINING)
    if character in EMOJI_STYLE:
        return unicodedata.category(before)[0] in "SP" or before in "0123456789"
    return "\U000e0100" <= character <= "\U000e01ef" and within(before, HAN)


def is_symbol(character: str) -> bool:
    """Whether a character is a picture, or what follows one inside an emoji."""
    return unicodedata.category(character) in ("So", "Sk") or character in ("\ufe0f", "\u2194", "\u2195")


def within(character: str, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(low <= ord(character) <= high for low, high in ranges)
