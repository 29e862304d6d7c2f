"""What the admin's tabs have in common: what of a page has changed."""

from __future__ import annotations

from annotation.tabs.components import changes


def test_what_differs_from_what_was_sent_last_is_sent() -> None:
    seen = changes({"a": 1, "b": [2]}, {})[1]
    assert changes({"a": 1, "b": [3]}, seen) == ({"b": [3]}, {**changes({"b": [3]}, {})[1], "a": seen["a"]})
