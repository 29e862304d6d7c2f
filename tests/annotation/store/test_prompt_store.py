"""Prompts on a real file: each once, and taken with the chance that is noted."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from annotation.database import Database
from annotation.records import Prompt
from annotation.store import comparison_store, prompt_store
from tests.conftest import make_response, seed_prompts

pytestmark = pytest.mark.slow


def test_a_known_prompt_keeps_its_split(db: Database) -> None:
    first = seed_prompts(db, 1, "held-out")[0]
    moved = Prompt(first.messages, "train", "import")
    assert prompt_store.add_prompts(db, [moved]) == 0
    assert [prompt.id for prompt in prompt_store.prompts(db, "held-out")] == [first.id]
    assert prompt_store.prompts(db, "train") == []


def test_a_prompt_is_taken_with_the_chance_that_is_noted(db: Database) -> None:
    """Those compared least for certain, the others by lot."""
    prompts = seed_prompts(db, 8)
    for prompt in prompts[:5]:
        comparison_store.add_comparison(db, [make_response(prompt, place) for place in "AB"])
    taken = Counter[int]()
    for _ in range(300):
        found = prompt_store.prompts_to_answer(db, 1, "train", 4, {prompts[0].id, prompts[7].id})
        assert [chance for _, _, chance in found] == [1.0, 1.0, 0.5, 0.5]
        taken.update(prompt.id for prompt, _, _ in found)
    assert [taken[prompt.id] for prompt in prompts[5:7]] == [300, 300]
    assert all(abs(taken[prompt.id] - 150) < 5 * math.sqrt(75) for prompt in prompts[1:5])
    assert sum(taken.values()) == 1200
