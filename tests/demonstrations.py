"""Demonstrations put into a machine's database, as people import them."""

from __future__ import annotations

import json
import random

from annotation.imports.importing import ImportRequest, run_import
from annotation.imports.sources.opening import open_path
from annotation.store import prompt_store
from tests.machine_fixtures import WORDS, Machine


def demonstrate(machine: Machine, train: int, held_out: int) -> None:
    """Import an answer to so many starter prompts of each split: three to eight words, nearly always the same ones."""
    machine.add_prompts(train, held_out)
    source = random.Random(0)
    lines = []
    for prompt in (*prompt_store.prompts(machine.db, "train"), *prompt_store.prompts(machine.db, "held-out")):
        words = [*WORDS[: source.randint(2, 7)], source.choice(WORDS)]
        turns = [*prompt.messages, {"role": "assistant", "content": " ".join(words)}]
        lines.append(json.dumps({"messages": turns}) + "\n")
    path = machine.data_dir / "demonstrations.jsonl"
    path.write_text("".join(lines), "utf-8")
    outcome = run_import(
        machine.db, open_path(path), ImportRequest(split="train"), "a test", lambda what, rows, share: None
    )
    assert outcome.counts.demonstrations == train + held_out
