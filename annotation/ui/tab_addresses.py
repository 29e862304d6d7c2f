"""What is looked at in a tab, as its part of the page's address says it: /runs/12, /data?status=skipped. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

MAXIMUM_LENGTH: Final = 2_000
MAXIMUM_FIELDS: Final = 30


@dataclass(frozen=True)
class Place:
    """What is looked at in a tab: steps of a path, and a query."""

    path: tuple[str, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)
    unread: str = ""
    """A part of an address that says nothing we could read, as it stands there: then there is neither path nor query.

    Whatever acts on all that an address names must refuse it, for an empty query means everything.
    """

    @property
    def first(self) -> str:
        """The first step of the path, such as a number; empty where there is none."""
        return self.path[0] if self.path else ""

    def part(self) -> str:
        """The part of an address that says so."""
        if self.unread:
            return self.unread
        steps = "".join(f"/{quote(step, safe='')}" for step in self.path)
        query = urlencode({name: value for name, value in self.query.items() if value}, safe=",")
        return f"{steps}?{query}" if query else steps


def place_in(part: Any) -> Place:
    """The place that a part of an address means; what no address of ours could say is `unread`."""
    if not isinstance(part, str) or len(part) > MAXIMUM_LENGTH:
        return Place(unread=str(part))
    path, _mark, query = part.partition("?")
    try:
        fields = dict(parse_qsl(query, max_num_fields=MAXIMUM_FIELDS))
    except ValueError:  # too many
        return Place(unread=part)
    return Place(tuple(unquote(step) for step in path.split("/") if step), fields)


def link(tab: str, place: Place) -> str:
    return f"/{tab}{place.part()}"
