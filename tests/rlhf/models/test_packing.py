"""Token ids and batches: answers end where the policy ended them; padded and packed tokens see what they should."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from annotation.exports.frozen_rows import FrozenAnswer, PreferenceRow, line_of, read_rows
from annotation.records import TokenIds, UserError
from rlhf.algorithms.comparisons import with_noise
from rlhf.models import hidden_states, packing
from rlhf.models.chat_template import ChatTokenizer, vocabulary_of
from rlhf.models.packing import SPANS, Spans, attend, pack, pad, rows_of
from rlhf.models.tokenise import (
    answer_ids,
    load_snapshot,
    snapshot_path,
    tokenise_comparisons,
    tokenise_pairs,
)
from tests.architectures import built
from tests.tiny_model import build_tokenizer

TOKENIZER = build_tokenizer()
END = TOKENIZER.eos_token_id


RENDERED = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def row(chosen: str, rejected: str, finish_reason: str | None = "stop", **changes: Any) -> PreferenceRow:
    """A snapshot row as far as tokenising reads it."""
    better, worse = FrozenAnswer(1, chosen, finish_reason), FrozenAnswer(2, rejected, finish_reason)
    made = PreferenceRow(
        split="train",
        messages=({"role": "user", "content": "Why?"},),
        comparison=3,
        prompt_id=7,
        chosen=better,
        rejected=worse,
        rendered_prompt=RENDERED,
        flip=0.27,
    )
    return replace(made, **changes)


# --------------------------------------------------------------------------------------------------------- tokenising
def test_an_answer_that_was_cut_off_gets_no_end_token() -> None:
    """Training must not teach that an answer ends where only the limit ended it."""
    ids = TOKENIZER("sun rain", add_special_tokens=False)["input_ids"]
    assert answer_ids(TOKENIZER, "sun rain", "stop") == [*ids, END]
    assert answer_ids(TOKENIZER, "sun rain", "length") == ids


def test_what_a_person_wrote_or_an_import_brought_is_a_whole_answer() -> None:
    """Nobody knows how such an answer ended, and it is there because it is complete: training teaches its end."""
    ids = TOKENIZER("sun rain", add_special_tokens=False)["input_ids"]
    assert answer_ids(TOKENIZER, "sun rain", None) == [*ids, END]


def letter_by_letter(text: str, end: int) -> TokenIds:
    """An answer that was drawn a letter at a time: the tokenizer would make longer tokens of its text."""
    ids = tuple(token for letter in text for token in TOKENIZER(letter)["input_ids"])
    return TokenIds(vocabulary_of(TOKENIZER), (*ids, end))


def test_an_answer_is_the_tokens_that_were_drawn_and_ends_as_it_ended() -> None:
    """Not those that its text would be made of, nor the template's end where the model ended with another."""
    other_end = TOKENIZER.pad_token_id
    assert other_end != END
    drawn = letter_by_letter("sun rain", other_end)
    encoded = answer_ids(TOKENIZER, "sun rain", "stop")
    assert TOKENIZER.decode(drawn.ids[:-1]) == "sun rain" == TOKENIZER.decode(encoded[:-1])
    assert list(drawn.ids) != encoded
    answers = FrozenAnswer(1, "sun rain", "stop", token_ids=drawn), FrozenAnswer(2, "sun rain", "stop")
    frozen = replace(row("", ""), chosen=answers[0], rejected=answers[1])
    (stored,) = read_rows(line_of(frozen), PreferenceRow)
    assert stored == frozen
    ((pair,), _) = tokenise_pairs(TOKENIZER, [stored], 100)
    assert (pair["chosen_ids"], pair["rejected_ids"]) == (list(drawn.ids), encoded)
    ((item,), _) = tokenise_comparisons(TOKENIZER, [stored], 100)
    assert item["answers"] == [list(drawn.ids), encoded]


def preferences(pairs: Iterable[tuple[int, int]]) -> list[PreferenceRow]:
    """Rows of one comparison, by the ids of the better and the worse answer."""
    return [
        replace(row("", ""), chosen=FrozenAnswer(better, f"sun {better}"), rejected=FrozenAnswer(worse, f"sun {worse}"))
        for better, worse in pairs
    ]


def test_preferences_in_a_circle_are_left_out_and_what_is_decided_beside_them_is_kept() -> None:
    circle = [(1, 2), (2, 3), (3, 1)]
    (item,), left_out = tokenise_comparisons(TOKENIZER, preferences([*circle, (1, 4)]), 100)
    assert [pair[:2] for pair in item["pairs"]] == [(0, 3)]
    assert left_out == {"disagreement": 3}
    assert tokenise_comparisons(TOKENIZER, preferences(circle), 100) == ([], {"disagreement": 3})


def test_no_item_has_more_answers_than_their_orders_can_be_counted_of() -> None:
    """Four ranked answers, and nine edited ones that are better than all of them."""
    ranked = [(first, second) for first in range(1, 5) for second in range(first + 1, 5)]
    edited = [(10 + edit, place) for edit in range(9) for place in range(1, 5)]
    items, left_out = tokenise_comparisons(TOKENIZER, preferences([*edited, *ranked]), 100)
    assert left_out == {}
    assert [len(item["answers"]) for item in items] == [10, 7]
    assert sum(len(item["pairs"]) for item in items) == 9 * 4 + 6


def test_token_ids_are_never_used_with_another_tokenizer(tmp_path: Path) -> None:
    """With one token more the numbers may mean something else; ours and transformers' of one file are the same."""
    drawn = letter_by_letter("sun rain", END)
    TOKENIZER.save_pretrained(tmp_path)
    ours = ChatTokenizer(tmp_path)
    assert answer_ids(ours, "sun rain", "stop", drawn) == list(drawn.ids)
    other = build_tokenizer()
    other.add_tokens(["<|more|>"])
    assert answer_ids(other, "sun rain", "stop", drawn) == answer_ids(TOKENIZER, "sun rain", "stop")


def test_a_prompt_that_no_policy_was_fed_is_put_into_the_models_template() -> None:
    fed, imported = row("a", "b"), row("a", "b", None, rendered_prompt=None)
    (from_policy, from_import), left_out = tokenise_pairs(TOKENIZER, [fed, imported], 100)
    assert left_out == {}
    assert from_import == from_policy
    assert from_import["comparison"] == 3


def test_a_conversation_that_the_template_refuses_is_counted_and_the_others_are_kept() -> None:
    strict = build_tokenizer()
    strict.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + str(strict.chat_template)
    )
    refused = row("a", "b", rendered_prompt=None, messages=({"role": "system", "content": "Be brief."},))
    pairs, left_out = tokenise_pairs(strict, [refused, row("a", "b"), refused], 100)
    assert (len(pairs), left_out) == (1, {"template": 2})


def test_special_tokens_of_the_rendered_prompt_become_one_token_each() -> None:
    ((pair,), left_out) = tokenise_pairs(TOKENIZER, [row("a", "b")], 100)
    assert left_out == {}
    assert pair["prompt_ids"].count(END) == 1
    assert TOKENIZER.decode(pair["prompt_ids"]) == RENDERED
    assert pair["chosen_ids"] == [*TOKENIZER("a")["input_ids"], END]


def test_pairs_beyond_the_limit_are_counted_whichever_answer_is_the_long_one() -> None:
    prompt = len(TOKENIZER(RENDERED)["input_ids"])
    rows = [row("a", "b"), row("a" * 40, "b"), row("a", "b" * 40)]
    pairs, left_out = tokenise_pairs(TOKENIZER, rows, prompt + 2)
    assert (len(pairs), left_out) == (1, {"too-long": 2})
    assert tokenise_pairs(TOKENIZER, rows, prompt + 1) == ([], {"too-long": 3})


def test_a_snapshot_of_an_earlier_version_can_still_be_trained_on() -> None:
    """A run that was lost before the update is resumed after it."""
    stored = {key: value for key, value in row("a", "b").to_json().items() if key not in ("flip", "agreement")}
    first = {**stored, "judgement": 5, "annotator": "ann"}
    del first["judgements"], first["annotators"]
    old = [PreferenceRow.from_json(values) for values in (stored, first)]
    assert (old[1].judgements, old[1].annotators, old[1].agreement) == ((5,), ("ann",), None)
    ((item,), left_out) = tokenise_comparisons(TOKENIZER, old[:1], 100)
    assert left_out == {}
    assert with_noise(item["pairs"], "ignore") == [(0.0, 1.0)]


# ---------------------------------------------------------------------------------------------------- frozen data
def test_frozen_data_that_is_gone_or_changed_is_refused(tmp_path: Path) -> None:
    content = line_of(row("a", "b"))
    name = sha256(content).hexdigest()
    with pytest.raises(UserError, match=f"The frozen data {name[:12]} is gone") as gone:
        load_snapshot(tmp_path, name, PreferenceRow)
    assert str(tmp_path) not in str(gone.value), "Runs names it so, and the documentation says where it lies"
    snapshot_path(tmp_path, name).parent.mkdir()
    snapshot_path(tmp_path, name).write_bytes(content)
    assert load_snapshot(tmp_path, name, PreferenceRow) == [row("a", "b")]
    snapshot_path(tmp_path, name).write_bytes(content.replace(b"Why", b"How"))
    with pytest.raises(UserError, match=f"The frozen data {name[:12]} was changed") as changed:
        load_snapshot(tmp_path, name, PreferenceRow)
    assert str(tmp_path) not in str(changed.value)


# ---------------------------------------------------------------------------------------------------------- batches
def test_padding_worked_out_by_hand() -> None:
    ids, attention, completions = pad([([5, 6, 7], [8]), ([5], [9, 10])], pad_id=1)
    assert ids.tolist() == [[5, 6, 7, 8], [5, 9, 10, 1]]
    assert attention.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert completions.tolist() == [[0, 0, 0, 1], [0, 1, 1, 0]]


def padded_pairs(pairs: Sequence[tuple[list[int], list[int], list[int]]]) -> tuple[torch.Tensor, ...]:
    """All chosen answers of (prompt, chosen, rejected), then all rejected ones, padded."""
    chosen, rejected = [(p, c) for p, c, _ in pairs], [(p, r) for p, _, r in pairs]
    return pad([*chosen, *rejected], pad_id=0)


def test_a_packed_pair_worked_out_by_hand() -> None:
    packed = pack(*padded_pairs([([11, 12], [13, 14], [15])]), [0, 0])
    assert packed.ids_1L.tolist() == [[11, 12, 13, 14, 15]]
    assert packed.positions_1L.tolist() == [[0, 1, 2, 3, 2]]
    assert packed.sources_N.tolist() == [1, 2, 1]  # 12 → 13, 13 → 14 and, again after the prompt, 12 → 15
    assert packed.labels_N.tolist() == [13, 14, 15]
    assert packed.rows_N.tolist() == [0, 0, 1]
    assert packed.allowed_11LL[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    "pairs",
    [
        [([1, 2, 3], [4], [5, 6]), ([7], [8, 9], [10]), ([1, 2], [3, 4, 5], [6])],
        [([1, 2, 3], [4], [5, 6]), ([1, 2], [8, 9], [10]), ([1, 2, 7], [3, 4, 5], [6])],
    ],
    ids=["that begin differently", "that begin alike"],
)
def test_no_token_sees_another_pair_or_the_other_answer(
    pairs: Sequence[tuple[list[int], list[int], list[int]]],
) -> None:
    packed = pack(*padded_pairs(pairs), [0, 1, 2, 0, 1, 2])
    seen = [packed.ids_1L[0][packed.allowed_11LL[0, 0, at]].tolist() for at in packed.sources_N.tolist()]
    expected = {
        (row, label): [*prompt, *answer[:place]]
        for pair, (prompt, *answers) in enumerate(pairs)
        for row, answer in zip((pair, 3 + pair), answers, strict=True)
        for place, label in enumerate(answer)
    }
    assert dict(zip(zip(packed.rows_N.tolist(), packed.labels_N.tolist(), strict=True), seen, strict=True)) == expected


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([5, 5, 1], [[0, 1], [2]]),
        ([30, 2, 8, 30], [[0], [1, 2], [3]]),
        ([10], [[0]]),
        ([4, 4, 4, 4], [[0, 1], [2, 3]]),
    ],
)
def test_packed_rows_take_neighbours_up_to_their_limit_and_a_longer_one_alone(
    lengths: list[int], rows: list[list[int]]
) -> None:
    padded = pad([([place], [2] * (length - 1)) for place, length in enumerate(lengths)], 0)
    assert rows_of(*padded, range(len(lengths)), 10) == rows


def test_a_group_stays_in_one_row_its_prompt_and_virtual_tokens_counted_once() -> None:
    """Pairs of 3 + 1 + 2, 1 + 2 + 1 and 2 + 3 + 1 tokens, all chosen answers first."""
    pairs = [([1, 2, 3], [4], [5, 6]), ([7], [8, 9], [10]), ([1, 2], [3, 4, 5], [6])]
    padded, groups = padded_pairs(pairs), [0, 1, 2, 0, 1, 2]
    assert rows_of(*padded, groups, 10) == [[0, 3, 1, 4], [2, 5]]
    assert rows_of(*padded, groups, 10, virtual=1) == [[0, 3], [1, 4], [2, 5]]
    assert rows_of(*padded, groups, 16) == [[0, 3, 1, 4, 2, 5]]
    assert rows_of(*padded, groups, 1) == [[0, 3], [1, 4], [2, 5]]


def test_virtual_tokens_stand_once_before_each_prompt_and_shift_what_follows() -> None:
    packed = pack(*padded_pairs([([11, 12], [13, 14], [15])]), [0, 0], [90, 91])
    assert packed.ids_1L.tolist() == [[90, 91, 11, 12, 13, 14, 15]]
    assert packed.positions_1L.tolist() == [[0, 1, 2, 3, 4, 5, 4]]
    assert packed.sources_N.tolist() == [3, 4, 3]
    assert packed.last_B.tolist() == [5, 6]
    assert packed.allowed_11LL[0, 0, 6].int().tolist() == [1, 1, 1, 1, 0, 0, 1]


def test_what_all_prompts_begin_with_is_packed_once_also_where_one_is_no_longer() -> None:
    sides = [([11, 12, 13], [14]), ([11, 12], [15, 16]), ([11, 12], [17])]
    packed = pack(*pad(sides, 0), [0, 1, 1])
    assert packed.ids_1L.tolist() == [[11, 12, 13, 14, 15, 16, 17]]
    assert packed.positions_1L.tolist() == [[0, 1, 2, 3, 2, 3, 2]]
    assert packed.sources_N.tolist() == [2, 1, 4, 1]
    assert packed.last_B.tolist() == [3, 5, 6]
    assert (packed.spans, packed.beginning) == (((0, 2), (2, 4), (4, 7)), 2)
    assert packed.allowed_11LL[0, 0, 5].int().tolist() == [1, 1, 0, 0, 1, 1, 0]


def test_what_all_prompts_begin_with_takes_room_once_in_a_row() -> None:
    padded, longer = (
        pad([([*range(begin), 90 + place], [1]) for place in range(3)], 0) for begin in (6, 9)
    )  # fmt: skip
    assert rows_of(*padded, range(3), 12) == [[0, 1, 2]]
    assert rows_of(*padded, range(3), 12, virtual=1) == [[0, 1], [2]]
    assert rows_of(*longer, range(3), 12) == [[0], [1], [2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("begins", [(), (91, 92)])
def test_attention_within_the_groups_is_attention_over_the_whole_row(
    begins: tuple[int, ...], dtype: torch.dtype, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its gradients, by torch's fused attention and by plain products; where keys are shared, too."""
    monkeypatch.setattr(packing, "PRODUCTS_UP_TO", 9)
    pairs = [([*begins, 1, 2, 3], [4], [5, 6]), ([*begins, 7], [8, 9], [10]),
             ([*begins, 1, 2, 3, 4], [3, 4, 5], [6, 7, 8, 9])]  # fmt: skip
    sides = [(prompt, answer) for prompt, *answers in pairs for answer in answers]
    packed = pack(*pad(sides, 0), [0, 0, 1, 1, 2, 2])
    first = len(begins)
    assert packed.spans[-3:] == ((first, first + 6), (first + 6, first + 10), (first + 10, first + 21))
    random = torch.Generator().manual_seed(0)
    states = [
        torch.randn(1, many, first + 21, 8, generator=random, dtype=dtype) for many in (heads[0], heads[1], heads[1])
    ]
    module = SimpleNamespace(num_key_value_groups=heads[0] // heads[1], is_causal=True)
    weight = torch.randn(1, first + 21, heads[0], 8, generator=random, dtype=dtype)
    found = []
    for spans in (None, Spans(packed.spans, packed.beginning)):
        mask = packed.allowed_11LL.clone()
        if spans is not None:
            setattr(mask, SPANS, spans)
        own = [part.clone().requires_grad_() for part in states]
        attended, _ = attend(module, *own, mask, scaling=0.3)
        (attended * weight).sum().backward()
        found.append([attended.detach(), *(part.grad for part in own)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_groups_that_lie_mixed_up_are_one_span() -> None:
    pairs = [([1, 2, 3], [4], [5, 6]), ([7], [8, 9], [10])]
    assert pack(*padded_pairs(pairs), [0, 1, 0, 1]).spans == ((0, 10),)
    # Also where a group without a token of its own makes up for one that lies in two places.
    sides = [([1, 2, 5], [3]), ([1, 2, 6], [4]), ([1, 2, 5], [7]), ([1, 2], [])]
    assert pack(*pad(sides, 0), [0, 1, 0, 2]).spans == ((0, 7),)


def test_prompts_that_are_all_the_same_are_one_span_each() -> None:
    row = pack(*pad([([1, 2], [3]), ([1, 2], [4])], 0), [0, 1])
    assert (row.spans, row.beginning) == (((0, 2), (2, 3), (3, 4)), 2)
    alone = pack(*pad([([1, 2], []), ([1, 2], [])], 0), [0, 1])
    assert (alone.spans, alone.last_B.tolist()) == (((0, 2),), [1, 1])


def test_a_models_layers_attend_within_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask comes to each of them as it was made, so no pair of tokens of two groups is computed."""
    seen = []

    def attend_by_products(q: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(q.shape[1])
        return by_products(q, *rest)

    model, by_products = built("gemma3_text").to(torch.bfloat16), packing.attend_by_products
    monkeypatch.setattr(packing, "attend_by_products", attend_by_products, raising=True)
    pairs = [([1, 2, 3], [4], [5, 6]), ([7], [8, 9], [10])]
    hidden_states.summed_logps(model, *padded_pairs(pairs), [0, 1, 0, 1])
    assert seen[-4:] == [6, 4] * 2
