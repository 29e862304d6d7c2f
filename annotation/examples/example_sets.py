"""The example sets by name: their rows, and the label that an answer gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from annotation.records import Message, Split, UserError
from annotation.translation import N_, _

EXAMPLES: Mapping[str, str] = {
    "financial-sentiment": N_("360 invented headlines about companies, to be called positive, negative or neutral"),
    "medical-answers": N_("120 lay questions on general health with short, careful answers"),
}
LABELS = ("positive", "negative", "neutral")


@dataclass(frozen=True)
class ExampleRow:
    """A conversation that ends with the user's turn, and the answer to learn."""

    messages: tuple[Message, ...]
    completion: str
    split: Split
    label: str | None
    """The class that a classification row belongs to; None where the answer is free text."""


def example_path(name: str) -> Path:
    """The file of an example set, as JSON Lines. Raises UserError for a name that is none."""
    if name not in EXAMPLES:
        known = ", ".join(f"'{known}'" for known in EXAMPLES)
        said = _("There is no example data called '{name}'. Choose one of: {known}.")
        raise UserError(said.format(name=name, known=known))
    return Path(__file__).parent / f"{name.replace('-', '_')}.jsonl"


def read_example(name: str) -> list[ExampleRow]:
    """The rows of an example set in the order of its file. Raises UserError for a name that is none."""
    with example_path(name).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [ExampleRow(tuple(row["messages"]), row["completion"], row["split"], row.get("label")) for row in rows]
