"""A prompt set to answer: which ones, with which seeds, what is drawn already, and the file, whole or not."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from annotation.database import Database
from annotation.records import Prompt, Sampling, UserError
from annotation.store import prompt_store
from rlhf.generation import prompt_set_spec, prompt_sets
from rlhf.generation.prompt_set_spec import PromptSetSpec
from rlhf.models import registry
from tests.conftest import seed_prompts


def test_prompts_are_chosen_by_split_and_source(db: Database) -> None:
    seed_prompts(db, 3)
    seed_prompts(db, 2, "held-out")
    prompt_store.add_prompts(db, [Prompt(({"role": "user", "content": "Sing."},), "held-out", "songs")])
    counts = {
        (split, source): len(prompt_set_spec.prompts_of(db, PromptSetSpec(split=split, source=source)))
        for split in ("all", "train", "held-out")
        for source in ("", "test", "songs")
    }
    assert counts == {
        ("all", ""): 6,
        ("all", "test"): 5,
        ("all", "songs"): 1,
        ("train", ""): 3,
        ("train", "test"): 3,
        ("train", "songs"): 0,
        ("held-out", ""): 3,
        ("held-out", "test"): 2,
        ("held-out", "songs"): 1,
    }
    assert prompt_store.prompt_sources(db) == {"test": 5, "songs": 1}


def test_no_two_answers_have_the_same_seed_and_later_imports_change_none(db: Database) -> None:
    seed_prompts(db, 5)
    spec = PromptSetSpec(split="train", each=3, seed=100)
    seeds = {prompt.id: prompt_set_spec.seeds_of(spec, prompt) for prompt in prompt_set_spec.prompts_of(db, spec)}
    assert len({seed for row in seeds.values() for seed in row}) == 15
    seed_prompts(db, 4)
    later = {prompt.id: prompt_set_spec.seeds_of(spec, prompt) for prompt in prompt_set_spec.prompts_of(db, spec)}
    assert {number: later[number] for number in seeds} == seeds


def test_a_job_names_the_revision_that_serves_when_it_is_made(db: Database, data_dir: Path) -> None:
    seed_prompts(db, 1, "held-out")
    assert PromptSetSpec().frozen(db, data_dir).revision == "base"


def test_jobs_of_one_policy_have_other_names_for_other_sources() -> None:
    assert PromptSetSpec(split="all").about() == "answers by serving to all prompts"
    assert PromptSetSpec(split="all", source="songs").about() == "answers by serving to all prompts from 'songs'"


@pytest.mark.parametrize(
    ("spec", "changed", "sentence"),
    [
        (PromptSetSpec(split="train"), {}, r"no such prompts \(prompts to train on\)"),
        (PromptSetSpec(source="songs"), {}, r"no such prompts \(held-out prompts from 'songs'\)"),
        (PromptSetSpec(revision="dpo-9"), {}, "no policy 'dpo-9'"),
        (PromptSetSpec(), {"kind": "reward-model"}, "can't give them"),
        (PromptSetSpec(), {"deleted": "2026-01-02T03"}, "were deleted on 2026-01-02"),
    ],
)
def test_what_gives_no_answers_is_refused_before_it_is_queued(
    db: Database, data_dir: Path, spec: PromptSetSpec, changed: dict[str, str], sentence: str
) -> None:
    seed_prompts(db, 1, "held-out")
    with db.transaction() as connection:
        for name, value in changed.items():
            connection.execute(f"UPDATE model SET {name} = ?", (value,))
    with pytest.raises(UserError, match=sentence):
        spec.frozen(db, data_dir)


# --------------------------------------------------------------------------------------------------------------- files
def rows(count: int) -> list[dict[str, object]]:
    """Rows of a file."""
    prompt = Prompt(({"role": "user", "content": "Grüße?"},), "train", "test", 1)
    drawn = {"text": "So – \u2028 sei es.", "finish_reason": "stop", "tokens": 5}
    return [prompt_sets.row_of(prompt, {**drawn, "seed": seed}, Sampling(), "base") for seed in range(count)]


def test_a_row_says_how_to_draw_its_answer_again() -> None:
    assert rows(1) == [
        {
            "messages": [{"role": "user", "content": "Grüße?"}],
            "answer": "So – \u2028 sei es.",
            "finish_reason": "stop",
            "tokens": 5,
            "seed": 0,
            "sampling": {"temperature": 1.0, "min_p": 0.1, "max_new_tokens": 96, "sampler": 2},
            "revision": "base",
        }
    ]


def test_what_is_drawn_is_found_again_but_for_a_line_that_was_being_written(tmp_path: Path) -> None:
    draft = prompt_sets.draft_of(tmp_path, 3)
    assert prompt_sets.read_draft(draft) == {}
    prompt_sets.add_to_draft(draft, rows(2))
    with draft.open("ab") as handle:
        handle.write(b'{"messages": [{"role": "us')
    assert prompt_sets.read_draft(draft) == dict(enumerate(rows(2)))
    prompt_sets.add_to_draft(draft, rows(3)[2:])
    assert prompt_sets.read_draft(draft) == dict(enumerate(rows(3))), "the torn line is gone, so the next one is whole"


def test_the_file_is_named_by_its_job_and_the_draft_is_gone(tmp_path: Path) -> None:
    prompt_sets.add_to_draft(prompt_sets.draft_of(tmp_path, 3), rows(1))
    digest = prompt_sets.publish(tmp_path, 3, rows(2))
    (made,) = (tmp_path / "answers").iterdir()
    assert made.name == "job-3.jsonl"
    assert sha256(made.read_bytes()).hexdigest() == digest
    assert [json.loads(line) for line in made.read_text("utf-8").split("\n")[:-1]] == rows(2)


def test_a_disk_that_refuses_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("in the way")
    with pytest.raises(UserError, match="can't be written"):
        prompt_sets.add_to_draft(prompt_sets.draft_of(tmp_path, 3), rows(1))


@pytest.mark.parametrize(
    "name",
    ["job-4.jsonl", ".job-3.part", "../prefloop.db", "job-3.jsonl\n", "job-5.jsonl", "/etc/passwd", "job-.jsonl", ""],
)
def test_no_other_name_gives_a_file(tmp_path: Path, name: str) -> None:
    prompt_sets.add_to_draft(prompt_sets.draft_of(tmp_path, 3), rows(1))
    prompt_sets.publish(tmp_path, 3, rows(1))
    prompt_sets.add_to_draft(prompt_sets.draft_of(tmp_path, 3), rows(1))
    (tmp_path / "prefloop.db").write_text("")
    (tmp_path / "answers" / "job-5.jsonl").symlink_to(tmp_path / "prefloop.db")
    assert prompt_sets.find(tmp_path, "job-3.jsonl").is_file()
    with pytest.raises(UserError, match="no such answers"):
        prompt_sets.find(tmp_path, name)


def test_a_deleted_policy_is_refused_at_its_turn_too(db: Database) -> None:
    with pytest.raises(UserError, match="were deleted"):
        registry.require_answering(replace(registry.serving(db), deleted="2026-01-02"))
