"""Places of a tab and their part of the address, there and back."""

from __future__ import annotations

from typing import Any

import pytest

from annotation.ui.tab_addresses import Place, link, place_in


@pytest.mark.parametrize(
    ("place", "part"),
    [
        (Place(), ""),
        (Place(("12",)), "/12"),
        (Place(("a/b", "ä ?")), "/a%2Fb/%C3%A4%20%3F"),
        (Place((), {"status": "skipped", "q": "two words & more"}), "?status=skipped&q=two+words+%26+more"),
        (Place(("12",), {"compare": "3,5"}), "/12?compare=3,5"),
    ],
)
def test_there_and_back(place: Place, part: str) -> None:
    assert place.part() == part
    assert place_in(part) == place
    assert link("runs", place) == f"/runs{part}"


def test_what_is_empty_is_not_said() -> None:
    assert Place((), {"q": ""}).part() == ""
    assert Place().first == ""


@pytest.mark.parametrize("part", [None, 7, ["/12"], {"part": "/12"}, "/" + "x" * 3000, "?" + "a=b&" * 50])
def test_what_no_address_says_is_no_place_and_stays_as_it_stands(part: Any) -> None:
    place = place_in(part)
    assert (place.path, place.query, place.unread, place.part()) == ((), {}, str(part), str(part))
