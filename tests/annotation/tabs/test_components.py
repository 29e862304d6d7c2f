"""What the admin's tabs have in common: what of a page has changed."""

from __future__ import annotations

from annotation.tabs.components import fingerprints


def test_fingerprints_tell_what_changed() -> None:
    first, second = fingerprints({"a": 1, "b": [2]}), fingerprints({"a": 1, "b": [3]})
    assert first["a"] == second["a"]
    assert first["b"] != second["b"]
