"""Names and lines that come from outside, as they can be shown and stored: printable, and bounded. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from annotation.translation import _

UNREADABLE_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def display_name(name: str) -> str:
    """A name as it can be shown and stored: printable, and bounded."""
    return printable(name)[-200:]


def printable(text: str) -> str:
    """A line without control characters and tricks of direction; one that has none is the same, in every language."""
    return UNREADABLE_CHARACTERS.sub("\ufffd", text) if UNREADABLE_CHARACTERS.search(text) else text


def listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{display_name(name)}'" for name in names[:30])
    if len(names) > 30:
        return _("{names} and {more} more").format(names=shown, more=len(names) - 30)
    return shown or _("none")


def first_line(error: BaseException) -> str:
    """The first line of what a library says, bounded."""
    return display_name(str(error).strip().split("\n")[0][:200]) or type(error).__name__
