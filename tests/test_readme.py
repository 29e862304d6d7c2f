"""The README says what is so: its layout, schema and settings are those of the code."""

from __future__ import annotations

import re

import pytest

from tests.readme_sections import README, ROOT, SECTIONS, section


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_section_agrees_with_the_code(name: str) -> None:
    """If this fails, `make docs` mends it."""
    assert section(README.read_text("utf-8"), name) == SECTIONS[name]()


def test_every_link_and_command_names_something_that_exists() -> None:
    """Relative links lead to files, and modules named in commands can be found."""
    text = README.read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text):
        assert (ROOT / target).exists(), target
    for module in set(re.findall(r"python -m ([a-z_.]+)", text)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
