"""Where a sign-in leads: back to the address that was asked for, and never to another site. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode

from starlette.types import Scope

BEGINNING: Final = "/"
NEXT: Final = "next"
# As browsers write it: one slash and a letter, so that nothing in it can be taken for a host. Not the ways in and out.
DESTINATION: Final = re.compile(
    r"/(?!(?:login|logout|signin|oauth|healthz)\b)[a-z][a-z-]{0,39}(?:/[\w.~!$'()*+,:@%-]{1,600}){0,3}/?"
    r"(?:\?[^\s\\<>\"#\x00-\x1f\x7f]{0,1500})?",
    re.ASCII,
)


def destination(wanted: str) -> str:
    """Where a sign-in leads that was begun for this address: there if it is one of ours, else where all begin."""
    return wanted if DESTINATION.fullmatch(wanted) else BEGINNING


def sign_in_address(scope: Scope) -> str:
    """Where somebody signs in who asked for this page, so as to come back to it."""
    path = scope.get("raw_path", scope["path"].encode()).partition(b"?")[0]
    query = scope.get("query_string", b"")
    wanted = destination((path + (b"?" + query if query else b"")).decode("ascii", "replace"))
    return with_destination("/login", wanted)


def with_destination(address: str, wanted: str) -> str:
    """An address on the way in, which keeps in mind where it leads."""
    return address if wanted == BEGINNING else f"{address}?{urlencode({NEXT: wanted})}"
