"""Rows before a run: the tokens and the loss mask that are shown are those of the worker, and what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from annotation import translation
from annotation.claims import handing_out, judging
from annotation.records import Prompt
from annotation.store import comparison_store, prompt_store
from rlhf.algorithms.dpo.spec import DPOSpec
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.reward_model.spec import RewardModelSpec
from rlhf.algorithms.sft.spec import SFTSpec
from rlhf.jobs.descriptions import DEMONSTRATIONS, UNITS, LeftOut, TokenSequence
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models.chat_template import ChatTokenizer, chat_tokenizer
from rlhf.models.tokenise import tokenise_comparisons, tokenise_demonstrations, tokenise_prompts
from rlhf.submission import inspect_rows, job_submission
from rlhf.submission.inspect_rows import InspectedItem, ItemRows
from tests.conftest import act
from tests.demonstrations import demonstrate
from tests.machine_fixtures import Machine, make_machine

EXAMPLE = SFTSpec(source="example:financial-sentiment")
MANY_SIGNS = "Zürich, 東京, 🙂🏽\n\n<b>bold</b> {{x}} <|im_end|>"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Machine]:
    """Judged comparisons of both splits, some of which give no row, and demonstrations. Only read from."""
    made = make_machine(tmp_path_factory.mktemp("rows") / "data", tiny_model)
    demonstrate(made, train=12, held_out=5)
    made.judge("train", 6)
    made.judge("train", 1, answers=("Short.", MANY_SIGNS))
    made.judge("train", 2, "tie")
    made.judge("train", 1, answers=("word " * 200, "Short."))
    made.judge("train", 1, "skip")
    made.judge("held-out", 3)
    yield made
    made.db.close()


def tokenizer_of(machine: Machine) -> ChatTokenizer:
    """The page's tokenizer."""
    return chat_tokenizer(machine.model)


def by_worker(machine: Machine, spec: TrainingSpec, split: str) -> tuple[list[dict[str, Any]], LeftOut]:
    """What the worker makes of the frozen rows, with transformers' tokenizer."""
    rows: list[Any] = [row for row in job_submission.rows_of(machine.db, spec) if row.split == split]
    if isinstance(spec, SFTSpec):
        return tokenise_demonstrations(machine.tokenizer, rows, spec.max_length)
    if isinstance(spec, PPOSpec):
        return tokenise_prompts(machine.tokenizer, rows, spec.max_length - spec.sampling.max_new_tokens)
    return tokenise_comparisons(machine.tokenizer, rows, spec.max_length)


def shown_items(machine: Machine, spec: TrainingSpec, split: Any) -> Iterator[InspectedItem]:
    """Every item of a split as it is shown."""
    number = 1
    while True:
        shown = inspect_rows.inspect(
            tokenizer_of(machine), spec, inspect_rows.items_of(machine.db, spec), split, number
        )
        if shown is None or shown.number < number:
            return
        assert shown.number == number
        yield shown
        number += 1


def parts_of(strip: TokenSequence) -> list[tuple[str, str, int]]:
    """(part, text, tokens) of a sequence's spans that have tokens."""
    return [(span.part, "".join(text for text, _ in span.pieces), span.tokens) for span in strip.spans if span.tokens]


def expected_sequences(machine: Machine, spec: TrainingSpec, item: dict[str, Any]) -> list[list[tuple[str, str, int]]]:
    """The parts of an item's sequences, from the worker's ids."""

    def part(name: str, ids: list[int]) -> tuple[str, str, int]:
        return (name, machine.tokenizer.decode(ids), len(ids))

    prompt = part("context", item["prompt_ids"])
    if isinstance(spec, SFTSpec):
        return [[prompt, part("raised", item["completion_ids"])]]
    if isinstance(spec, PPOSpec):
        return [[prompt]]
    if isinstance(spec, RewardModelSpec):
        return [[prompt, part("context", ids[:-1]), part("scored", ids[-1:])] for ids in item["answers"]]
    ((better, worse, *_),) = item["pairs"]
    return [[prompt, part({better: "raised", worse: "lowered"}[at], ids)] for at, ids in enumerate(item["answers"])]


@pytest.mark.parametrize("split", ["train", "held-out"])
@pytest.mark.parametrize(
    "spec",
    [DPOSpec(), RewardModelSpec(), SFTSpec(), EXAMPLE, PPOSpec()],
    ids=["dpo", "reward model", "sft", "example", "ppo"],
)
def test_what_is_shown_are_the_workers_tokens_and_its_loss_mask(ready: Machine, spec: TrainingSpec, split: str) -> None:
    items, left_out = by_worker(ready, spec, split)
    shown = list(shown_items(ready, spec, split)) if spec is not EXAMPLE else first_of(ready, spec, split)
    used = [one for one in shown if one.used]
    assert len(used) == (len(items) if spec is not EXAMPLE else 3)
    assert sum(sum(one.left_out.values()) for one in shown) == (0 if spec is EXAMPLE else sum(left_out.values()))
    for one, item in zip(used, items, strict=spec is not EXAMPLE):
        assert [parts_of(sequence) for sequence in one.sequences] == expected_sequences(ready, spec, item)


def first_of(machine: Machine, spec: TrainingSpec, split: Any) -> list[InspectedItem]:
    """The first three items of a split."""
    items = list(inspect_rows.items_of(machine.db, spec))
    found = [inspect_rows.inspect(tokenizer_of(machine), spec, items, split, number) for number in (1, 2, 3)]
    return [one for one in found if one is not None]


def test_rows_are_called_what_is_said_of_their_unit(ready: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in units of another kind is called a demonstration by nobody."""
    monkeypatch.setitem(UNITS, "demonstrations", replace(DEMONSTRATIONS, one="Row {number}"))
    assert next(inspect_rows.items_of(ready.db, SFTSpec())).name == "Row 1"
    (first, *_others) = prompt_store.prompts(ready.db, "train")
    assert next(inspect_rows.items_of(ready.db, PPOSpec())).name == f"Prompt {first.id}"
    assert next(inspect_rows.items_of(ready.db, DPOSpec())).name.startswith("Comparison ")


def test_virtual_tokens_come_first_and_are_counted(ready: Machine) -> None:
    spec = SFTSpec(method="prompt", virtual_tokens=7)
    shown = next(shown_items(ready, spec, "train"))
    virtual, *rest = parts_of(shown.sequences[0])
    assert virtual == ("virtual", "", 7)
    assert [part for part, _, _ in rest] == ["context", "raised"]
    plain = next(shown_items(ready, SFTSpec(), "train"))
    assert shown.sequences[0].tokens == plain.sequences[0].tokens + 7


def test_an_answer_that_was_cut_off_is_not_taught_to_end(machine: Machine) -> None:
    machine.add_prompts(train=1, held_out=0)
    (prompt,) = prompt_store.prompts(machine.db, "train")
    whole, cut = (
        machine.response(prompt, "It ends."),
        replace(machine.response(prompt, "It goes"), finish_reason="length"),
    )
    assert comparison_store.add_comparison(machine.db, [whole, cut]) is not None
    judge_first(machine)
    shown = next(shown_items(machine, DPOSpec(), "train"))
    texts = [parts_of(strip)[1][1] for strip in shown.sequences]
    assert sorted(texts) == ["It ends.<|im_end|>", "It goes"]


def judge_first(machine: Machine) -> None:
    """Judge the comparison that waits, whichever answer is on the left."""
    claim = handing_out.claim_next(machine.db, machine.annotator.id)
    assert claim is not None
    judging.judge(machine.db, machine.annotator.id, claim.nonce, act("left-much"))


def test_a_row_that_is_too_long_says_so_and_shows_its_prompt(ready: Machine) -> None:
    """The tokens of imported answers are not known before they are looked at here."""
    spec = SFTSpec(max_length=8)
    shown = next(shown_items(ready, spec, "train"))
    assert not shown.used
    assert shown.left_out == {"too-long": 1}
    assert [strip.title for strip in shown.sequences] == ["Prompt"]
    assert shown.sequences[0].tokens > 8


def test_a_number_beyond_the_last_shows_the_last_and_none_where_there_are_none(ready: Machine) -> None:
    items = list(inspect_rows.items_of(ready.db, SFTSpec()))
    for number, expected in ((999, 12), (12, 12), (0, 1), (-5, 1)):
        shown = inspect_rows.inspect(tokenizer_of(ready), SFTSpec(), items, "train", number)
        assert shown is not None
        assert (shown.number, shown.total) == (expected, 12)
    assert (
        inspect_rows.inspect(tokenizer_of(ready), PPOSpec(), inspect_rows.items_of(ready.db, PPOSpec()), "held-out", 1)
        is None
    )


def test_the_facts_of_a_pair_and_of_a_comparison(ready: Machine) -> None:
    pair = next(shown_items(ready, DPOSpec(), "train"))
    assert dict(pair.facts) == {
        "Preferred": "clearly",
        "Judgements": "1",
        "Chance of the wrong way round": "27%, assumed",
    }
    with translation.speaking(translation.language_of("de")):
        german = next(shown_items(ready, DPOSpec(), "train"))
    assert dict(german.facts)["Vorgezogen"] == "klar"
    comparison = next(shown_items(ready, RewardModelSpec(), "train"))
    assert dict(comparison.facts)["Better"] == "1 over 2"
    example = first_of(ready, EXAMPLE, "train")[0]
    assert dict(example.facts)["Label"] in ("positive", "negative", "neutral")
    assert parts_of(example.sequences[0])[1][1] == f"{dict(example.facts)['Label']}<|im_end|>"


# -------------------------------------------------------------------------------------------------------------- survey
@pytest.mark.parametrize("spec", [DPOSpec(max_length=150), RewardModelSpec(max_length=150)], ids=["dpo", "reward"])
def test_all_rows_looked_through_are_those_that_are_frozen_and_used(ready: Machine, spec: TrainingSpec) -> None:
    found = inspect_rows.summarise(tokenizer_of(ready), spec, inspect_rows.items_of(ready.db, spec))
    preview = job_submission.preview(ready.db, ready.data_dir, spec)
    used = {split: by_worker(ready, spec, split) for split in ("train", "held-out")}
    assert found.items == {split: len(items) for split, (items, _) in used.items()}
    left_out = dict(preview.left_out)
    for _, reasons in used.values():
        for reason, count in reasons.items():
            left_out[reason] = left_out.get(reason, 0) + count
    assert found.left_out == left_out
    assert {"tie", "skip", "too-long"} <= found.left_out.keys()
    assert found.examples["tie"][0][0].startswith("Comparison ")
    assert found.largest == max(length(item) for items, _ in used.values() for item in items)


def length(item: dict[str, Any]) -> int:
    """Tokens of an item, its prompt counted once."""
    return len(item["prompt_ids"]) + sum(map(len, item["answers"]))


def test_the_answers_that_ppo_draws_count_and_long_prompts_are_left_out(ready: Machine) -> None:
    spec = replace(PPOSpec(), max_length=160)
    found = inspect_rows.summarise(tokenizer_of(ready), spec, inspect_rows.items_of(ready.db, spec))
    prompts, left_out = by_worker(ready, spec, "train")
    assert found.items == {"train": len(prompts)}
    assert found.left_out == left_out
    assert found.largest == max(len(prompt["prompt_ids"]) for prompt in prompts) + 96


def test_only_the_first_are_tokenised_and_a_few_examples_kept(machine: Machine) -> None:
    asked = [
        Prompt(({"role": "user", "content": f"Number {n} " + "long " * (50 * (n % 2))},), "train", "a")
        for n in range(20)
    ]
    prompt_store.add_prompts(machine.db, asked)
    spec = replace(PPOSpec(), max_length=96 + 40)
    items: list[ItemRows] = list(inspect_rows.items_of(machine.db, spec))
    whole = inspect_rows.summarise(tokenizer_of(machine), spec, items)
    assert (whole.seen, whole.tokenised, whole.left_out["too-long"]) == (20, 10, 10)
    assert len(whole.examples["too-long"]) == inspect_rows.EXAMPLES_OF_A_REASON
    some = inspect_rows.summarise(tokenizer_of(machine), spec, items, limit=4)
    assert (some.seen, some.tokenised, some.items["train"]) == (20, 2, 18)


def test_batches_of_what_takes_whole_comparisons_count_these(ready: Machine) -> None:
    for spec in (DPOSpec(), RewardModelSpec(), SFTSpec()):
        found = job_submission.preview(ready.db, ready.data_dir, spec)
        items, _ = by_worker(ready, spec, "train")
        answers = max(len(item.get("answers", ())) for item in items)
        assert inspect_rows.items_to_train(ready.db, spec, found) == (len(items), answers)
