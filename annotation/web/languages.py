"""In which language a browser is answered before it is known who asks: what it says that its person reads."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from annotation.translation import Language, at_hand, codes, language_of, speaking

WEIGHT: Final = re.compile(r"q\s*=\s*([01](?:\.\d{0,3})?)", re.ASCII)
MOST_ACCEPTED: Final = 20


class AskedLanguage:
    """Answers in the language that the browser asks for; behind `SignedIn` it is the account's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = Headers(scope=scope).get("accept-language", "") if scope["type"] == "http" else ""
        with speaking(await heard(preferred(accepted))):
            await self.app(scope, receive, send)


async def heard(code: str | None) -> Language:
    """As `language_of`, while other requests go on."""
    known = at_hand(code)
    return await asyncio.to_thread(language_of, code) if known is None else known


def preferred(accepted: str) -> str | None:
    """The best of our languages for a browser that accepts these (RFC 9110, 12.5.4); None where it names none of ours.

    Of one that we have for another country, such as de-AT, ours is good enough.
    """
    known = {code.casefold(): code for code in codes()}
    loosely = {code.split("-")[0].casefold(): code for code in reversed(codes())}
    wanted = []
    for one in accepted.split(",")[:MOST_ACCEPTED]:
        tag, _semicolon, weight = one.partition(";")
        found = WEIGHT.fullmatch(weight.strip() or "q=1")
        if found and float(found[1]) > 0:
            wanted.append((float(found[1]), tag.strip().casefold()))
    for _weight, tag in sorted(wanted, key=lambda pair: -pair[0]):
        if code := known.get(tag) or loosely.get(tag.split("-")[0]):
            return code
    return None
