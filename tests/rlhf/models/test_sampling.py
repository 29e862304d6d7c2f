"""Sampling from a tiny real model: the shared prefill, one seed an answer, true frequencies, how an answer ended."""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig
from transformers.cache_utils import DynamicLayer

from annotation.claims import handing_out
from annotation.records import Response, Sampling, TokenIds, UserError
from annotation.store import comparison_store, prompt_store, stock_counts
from rlhf.models import registry
from rlhf.models.chat_template import vocabulary_of
from rlhf.models.hidden_states import random_ids
from rlhf.models.loading.base_weights import load_for_answering
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.sampling import batch, laid_out_weights, seeded_sampler
from rlhf.models.sampling.drawing import Draw, StreamCallback, draw, draw_in_turn, end_token_ids, read_draw
from rlhf.models.sampling.laid_out_weights import laid_out, to_lay_out, weights_laid_out
from rlhf.models.sampling.prompt_cache import SPELL, RoomyLayer, padded_left, prefilled
from rlhf.models.sampling.seeded_sampler import SeededSampler
from rlhf.models.tokenise import render
from tests.conftest import shown_texts
from tests.machine_fixtures import Machine

pytestmark = pytest.mark.slow

SAMPLING = Sampling(max_new_tokens=16)
# Of different lengths, so that a batch of them is padded.
QUESTIONS = ("Name a fruit.", "Describe the smell of coffee in the morning, in one sentence.", "Why?")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    """In float32, where the make-up of a batch changes no digit that could change a sample."""
    return load_for_answering(tiny_model).float()


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[str]:
    return [render(tokenizer, [{"role": "user", "content": question}]) for question in QUESTIONS]


def uniform(seed: int, step: int, token: int) -> float:
    """A number in (0, 1) from the seed, the step and the token: SplitMix64 on Python's integers."""
    golden, limit = 0x9E3779B97F4A7C15, 2**64

    def mixed(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % limit
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % limit
        return x ^ (x >> 31)

    bits = mixed((mixed((seed + step * golden) % limit) + token * golden) % limit)
    return ((bits >> 11) + 0.5) / 2**53


@torch.no_grad()
def slow_draw(model: Any, tokenizer: Any, prompt: str, seed: int, sampling: Sampling) -> Draw:
    """One answer from the definition: the whole sequence through the model for each token, no cache, no batch."""
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer: list[int] = []
    ended = False
    while not ended and len(answer) < sampling.max_new_tokens:
        logits = model(input_ids=torch.tensor([prompt_ids + answer]), use_cache=False).logits[0, -1]
        probabilities = (logits / sampling.temperature).softmax(-1)
        allowed = probabilities >= sampling.min_p * probabilities.max()
        exponential = torch.tensor([-math.log(uniform(seed, len(answer), token)) for token in range(len(logits))])
        # The token whose exponential clock of rate p rings first is a sample from p.
        token = int(torch.where(allowed, exponential / probabilities, torch.inf).argmin())
        ended = token == tokenizer.eos_token_id
        if not ended:
            answer.append(token)
    text = tokenizer.decode(answer, skip_special_tokens=True)
    ids = (*answer, *([tokenizer.eos_token_id] if ended else []))
    return Draw(
        text=text,
        seed=seed,
        tokens=len(answer) + ended,
        prompt_tokens=len(prompt_ids),
        finish_reason="stop" if ended else "length",
        ids=ids,
    )


def test_shared_prefill_padding_and_batching_change_nothing(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    """Text, length, prompt length and finish reason of every answer are those of a loop over the definition."""
    seeds = [[1, 2, 3], [4, 5, 6], [7, 8, 1]]
    draws = draw(model, tokenizer, prompts, seeds, SAMPLING)
    expected = [
        [slow_draw(model, tokenizer, prompt, seed, SAMPLING) for seed in row]
        for prompt, row in zip(prompts, seeds, strict=True)
    ]
    assert draws == expected
    reasons = {entry.finish_reason for row in draws for entry in row}
    assert reasons == {"stop", "length"}, "both ways to end must be among the answers, or the test proves too little"


@pytest.mark.parametrize("room", [1, 39, 4096], ids=["a row each", "two rows", "one row"])
def test_prompts_are_computed_without_padding_and_what_they_begin_with_once(
    model: Any, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Also where one of them is no longer than that; their last tokens are left to what goes on from them."""
    monkeypatch.setattr("rlhf.models.sampling.prompt_cache.ROW_TOKENS", room)
    begin, *rest = random_ids(model, (16, 9, 1, 17))
    ids_PT, mask_PT = padded_left([[*begin, *ids] for ids in rest], 0, model.device)
    computed: list[int] = []
    watch = model.model.embed_tokens.register_forward_pre_hook(
        lambda module, inputs: computed.append(inputs[0].numel())
    )
    found = prefilled(model, ids_PT, mask_PT, None, (0, 0, 1, 1, 2, 2))
    watch.remove()
    assert computed == {1: [24, 16, 32], 39: [24, 32], 4096: [40]}[room]
    monkeypatch.setattr("rlhf.models.hidden_states.packable", lambda causal: False)
    padded = prefilled(model, ids_PT, mask_PT, None, (0, 0, 1, 1, 2, 2))
    own_BT = mask_PT[:, :-1].repeat_interleave(2, 0).bool()
    for one, other in zip(found.layers, padded.layers, strict=True):
        for states, expected in ((one.keys, other.keys), (one.values, other.values)):
            assert states.shape == expected.shape
            torch.testing.assert_close(states.transpose(1, 2)[own_BT], expected.transpose(1, 2)[own_BT])


@pytest.mark.parametrize("lengths", [(9,), (1, 60)], ids=["one", "one of which nothing is left"])
def test_prompts_with_nothing_to_save_are_computed_as_they_are(
    model: Any, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]
) -> None:
    """A mask of a packed row would take the place of the fast way to compute what comes before."""
    monkeypatch.setattr("rlhf.models.sampling.prompt_cache.fill_by_rows", pytest.fail)
    monkeypatch.setattr("rlhf.models.sampling.prompt_cache.ROW_TOKENS", 10)
    cache = prefilled(
        model, *padded_left(random_ids(model, lengths), 0, model.device), None, [*range(len(lengths))] * 3
    )
    assert cache.get_seq_length() == max(lengths) - 1


def test_a_layer_with_room_holds_what_a_copied_one_holds_and_is_written_into() -> None:
    roomy, copied = RoomyLayer(), DynamicLayer()
    keys: list[torch.Tensor] = []  # held, so that no memory is given out again
    for step, tokens in enumerate((5, *([1] * 3 * SPELL))):
        new = [torch.randn(4 if step < SPELL else 2, 2, tokens, 3) for _ in range(2)]
        for found, expected in zip(roomy.update(*new), copied.update(*new), strict=True):
            assert torch.equal(found, expected)
        keys.append(roomy.keys)
        if step == SPELL - 1:
            for layer in (roomy, copied):
                layer.reorder_cache(torch.tensor([3, 1]))
            assert not roomy.wholes, "what a batch was stays in memory beside what it is"
    places = pairwise(one.data_ptr() for one in keys)
    moved = [step for step, (one, other) in enumerate(places, start=1) if one != other]
    assert moved == [SPELL, 2 * SPELL + 1], "once for rows that left the batch, once where the room was full"


def test_an_answer_can_be_drawn_again_alone(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    together = draw(model, tokenizer, prompts, [[11, 12], [13, 14], [15, 16]], SAMPLING)
    assert draw(model, tokenizer, prompts[1:2], [[14]], SAMPLING) == [[together[1][1]]]


def test_seeds_make_the_difference_and_nothing_else_does(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    torch.manual_seed(1)
    ((first, other, again),) = draw(model, tokenizer, prompts[1:2], [[21, 22, 21]], SAMPLING)
    assert first == again
    assert first.text != other.text
    torch.manual_seed(2)
    assert draw(model, tokenizer, prompts[1:2], [[21]], SAMPLING) == [[first]]


def test_answers_that_have_ended_leave_the_batch_and_change_none_of_the_others(
    model: Any, tokenizer: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, sampling = [[10 * place + sample for sample in range(6)] for place in range(3)], Sampling(max_new_tokens=40)
    monkeypatch.setattr("rlhf.models.sampling.drawing.SPELL", 40)
    together = draw(model, tokenizer, prompts, seeds, sampling)
    lengths = {answer.tokens for row in together for answer in row}
    assert min(lengths) < 20, "some end early"
    assert 40 in lengths, "others not at all"
    rows: list[int] = []
    watch = model.model.embed_tokens.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    monkeypatch.setattr("rlhf.models.sampling.drawing.SPELL", 3)
    assert draw(model, tokenizer, prompts, seeds, sampling) == together
    watch.remove()
    # The prompts are computed once each, in one row; a few before, to see what memory a token takes.
    assert rows[:3] == [1, 1, 18]
    assert rows[2:] == sorted(rows[2:], reverse=True)
    assert rows[-1] < 10


@pytest.mark.parametrize("together", [1, 5, 18])
def test_what_waits_enters_where_others_have_ended_and_draws_what_it_draws_alone(
    model: Any, tokenizer: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Also prompts that are longer, or shorter, than what has been drawn meanwhile."""
    sampling = Sampling(max_new_tokens=21)
    asked = [(prompts[(seed // 2) % 3], seed) for seed in range(18)]
    expected = [draw(model, tokenizer, [text], [[seed]], sampling)[0][0] for text, seed in asked]
    batches: list[tuple[int, int]] = []

    def note(module: Any, args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[1] == 1:  # no prompts are computed
            batches.append((len(given["input_ids"]), given["past_key_values"].get_seq_length() + 1))

    watch = model.model.register_forward_pre_hook(note, with_kwargs=True)
    monkeypatch.setattr("rlhf.models.sampling.drawing.SPELL", 3)
    found = list(draw_in_turn(model, tokenizer, asked, sampling, together))
    watch.remove()
    assert dict(found) == dict(enumerate(expected))
    lengths = [answer.tokens for _, answer in found]
    assert min(lengths) < 12, "some end early"
    assert 21 in lengths, "others not at all"
    rows, columns = zip(*batches, strict=True)
    assert max(rows) <= together
    if together == 5:
        assert [place for place, _ in found] != sorted(range(18)), "they are told in the order in which they end"
        assert any(later > earlier > 1 for earlier, later in pairwise(rows)), "some have entered"
    longest = max(len(tokenizer(text)["input_ids"]) for text in prompts)
    assert max(columns) <= longest + 21, "what only those had who have left is kept"


def test_no_more_are_drawn_together_than_memory_holds(
    model: Any, tokenizer: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [(prompts[0], seed) for seed in range(17)]
    expected = dict(draw_in_turn(model, tokenizer, asked, SAMPLING, 17))
    columns = len(tokenizer(prompts[0])["input_ids"]) + SAMPLING.max_new_tokens
    config = model.config
    states = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4 * columns
    monkeypatch.setattr(batch, "free_on", lambda device: int(4.1 * states / batch.STATES_SHARE))
    rows: list[int] = []
    watch = model.model.register_forward_pre_hook(
        lambda module, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    assert dict(draw_in_turn(model, tokenizer, asked, SAMPLING, 17)) == expected
    assert max(rows) == 4
    rows.clear()
    monkeypatch.setattr(batch, "free_on", lambda device: 0)
    assert dict(draw_in_turn(model, tokenizer, asked, Sampling(max_new_tokens=2), 17)).keys() == expected.keys()
    watch.remove()
    assert max(rows) == 1


def test_who_waits_behind_answers_that_are_told_to_stop_never_begins(
    model: Any, tokenizer: Any, prompts: list[str]
) -> None:
    asked = [(prompts[0], seed) for seed in range(9)]
    told: list[int] = []
    for place, _ in draw_in_turn(model, tokenizer, asked, SAMPLING, 3, lambda: bool(told)):
        told.append(place)
    assert 0 < len(told) <= 3


def test_a_batch_whose_prompts_ask_for_different_numbers_is_a_mistake(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="same number of seeds"):
        draw(model, tokenizer, ["a", "b"], [[1, 2], [3]], SAMPLING)


# ------------------------------------------------------------------------------------------------------- frequencies
def sampled(logits: list[float], sampling: Sampling, draws: int, steps: int = 1) -> list[list[int]]:
    """Tokens drawn by `draws` rows of the same logits, step by step."""
    sampler = SeededSampler(range(draws), sampling)
    scores = torch.tensor([logits] * draws)
    return [sampler(torch.zeros(draws, 1), scores).argmax(-1).tolist() for _ in range(steps)]


def chi_square(observed: Counter[Any], expected: dict[Any, float]) -> float:
    """Pearson's statistic of counts against expected counts."""
    return sum((observed[key] - count) ** 2 / count for key, count in expected.items())


def test_frequencies_are_those_of_the_softmax_at_this_temperature() -> None:
    """Chi-square over five tokens stays below its 99.9% quantile; so do consecutive draws, which are independent."""
    logits, temperature, draws = [1.0, 0.2, -0.5, 0.0, 2.0], 0.7, 8000
    weights = [math.exp(logit / temperature) for logit in logits]
    share = [weight / sum(weights) for weight in weights]
    first, second = sampled(logits, Sampling(temperature=temperature, min_p=0.0), draws, steps=2)
    for tokens in (first, second):
        assert chi_square(Counter(tokens), {token: draws * share[token] for token in range(5)}) < 18.47  # 4 degrees
    both = {(a, b): draws * share[a] * share[b] for a in range(5) for b in range(5)}
    assert chi_square(Counter(zip(first, second, strict=True)), both) < 51.18  # 24 degrees
    # The statistic would notice another temperature.
    cold = sampled(logits, Sampling(temperature=0.6, min_p=0.0), draws)[0]
    assert chi_square(Counter(cold), {token: draws * share[token] for token in range(5)}) > 100


def test_min_p_keeps_tokens_of_at_least_that_share_of_the_likeliest_and_no_others() -> None:
    # At temperature 1 the shares of the likeliest are 1, 0.5, 0.11, 0.09 and 0.01.
    logits = [math.log(share) for share in (1.0, 0.5, 0.11, 0.09, 0.01)]
    counts = Counter(sampled(logits, Sampling(temperature=1.0, min_p=0.1), 4000)[0])
    assert set(counts) == {0, 1, 2}
    expected = {token: 4000 * share / 1.61 for token, share in enumerate((1.0, 0.5, 0.11))}
    assert chi_square(counts, expected) < 13.82  # 2 degrees
    # The filter looks at the tempered distribution: at temperature 2, shares go to their square roots.
    assert set(Counter(sampled(logits, Sampling(temperature=2.0, min_p=0.2), 4000)[0])) == {0, 1, 2, 3}


def test_unlikely_tokens_are_drawn_as_often_as_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 400 tokens is hardly possible, all of them together are a quarter of the draws."""
    rare, draws, plausible = 400, 5000, 1e-3
    monkeypatch.setattr(
        "rlhf.models.sampling.seeded_sampler.PLAUSIBLE", plausible
    )  # with its own it would take 40,000 tokens
    logits = [0.0, *([math.log(0.9 * plausible)] * rare)]
    first, second = sampled(logits, Sampling(temperature=1.0, min_p=0.0), draws, steps=2)
    together = 0.9 * plausible * rare / (1 + 0.9 * plausible * rare)
    for tokens in (first, second):
        drawn = Counter(0 if token == 0 else 1 + (token - 1) // 100 for token in tokens)
        expected = {0: draws * (1 - together), **{part: draws * together / 4 for part in range(1, 5)}}
        assert chi_square(drawn, expected) < 18.47  # 4 degrees
    # Which of them is no matter of the row alone.
    assert len({token for token in first if token}) > 350
    # min_p keeps them out, however small it is.
    assert set(sampled(logits, Sampling(temperature=1.0, min_p=plausible), 4000)[0]) == {0}


def test_where_no_token_is_unlikely_none_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the likely ones leave of 1 is rounding then, which may win; so may a tail of tokens that can't be drawn."""
    monkeypatch.setattr(seeded_sampler, "gumbel", lambda states_N, tokens_N: 40.0 * (tokens_N == 3))
    sampler = SeededSampler(range(64), Sampling(min_p=0.0))
    torch.manual_seed(0)
    scores = torch.randn(64, 3)
    likeliest = scores.argmax(-1)
    assert sampler(torch.zeros(64, 0), scores).argmax(-1).equal(likeliest)
    monkeypatch.setattr(seeded_sampler, "gumbel", lambda states_N, tokens_N: 40.0 * (tokens_N == 4))
    impossible = torch.cat([torch.full((64, 1), -math.inf), scores], dim=-1)
    assert sampler(torch.zeros(64, 0), impossible).argmax(-1).equal(1 + likeliest)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_draw_nothing(wrong: float) -> None:
    scores = torch.randn(2, 50)
    scores[1] = wrong
    with pytest.raises(UserError, match="no numbers"):
        SeededSampler([1, 2], Sampling(min_p=0.1))(torch.zeros(2, 0), scores)
    if math.isnan(wrong):
        scores[1] = 0.0
        scores[1, 7] = wrong
        with pytest.raises(UserError, match="no numbers"):
            SeededSampler([1, 2], Sampling(min_p=0.0))(torch.zeros(2, 0), scores)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(temperature=1.0)
    together = SeededSampler([5, 6, 7], sampling)(torch.zeros(3, 1), scores)
    alone = SeededSampler([6], sampling)(torch.zeros(1, 1), scores[1:2])
    assert torch.equal(together[1:2], alone)


# ------------------------------------------------------------------------------------------------------------ endings
def test_the_end_token_is_counted_but_is_no_text(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    rows = draw(model, tokenizer, prompts, [list(range(30))] * 3, replace(SAMPLING, max_new_tokens=24))
    by_reason = {reason: [e for row in rows for e in row if e.finish_reason == reason] for reason in ("stop", "length")}
    assert all(entry.tokens == 24 for entry in by_reason["length"])
    assert {entry.tokens for entry in by_reason["stop"]} > {1, 5}
    assert all((entry.text == "") == (entry.tokens == 1) for entry in by_reason["stop"])
    assert [row[0].prompt_tokens for row in rows] == [len(tokenizer(text)["input_ids"]) for text in prompts]


def test_a_row_is_cut_at_its_first_end_token(tokenizer: Any) -> None:
    """What follows it in a batch is padding, or the answer of another row going on."""
    word = tokenizer("sun rain")["input_ids"]
    end = tokenizer.eos_token_id
    whole = Draw(text="sun rain", seed=3, tokens=len(word) + 1, prompt_tokens=7, finish_reason="stop", ids=(*word, end))
    assert read_draw(tokenizer, [*word, end, *word, end], 3, 7, {end}) == whole
    assert read_draw(tokenizer, word, 3, 7, {end}) == Draw(
        text="sun rain", seed=3, tokens=len(word), prompt_tokens=7, finish_reason="length", ids=tuple(word)
    )
    assert read_draw(tokenizer, [end], 3, 7, {end}) == Draw(
        text="", seed=3, tokens=1, prompt_tokens=7, finish_reason="stop", ids=(end,)
    )


def test_a_model_may_have_several_end_tokens(model: Any, tokenizer: Any) -> None:
    assert end_token_ids(model, tokenizer) == {tokenizer.eos_token_id}
    configured = copy.copy(model)
    configured.generation_config = GenerationConfig(eos_token_id=[7, 9])
    assert end_token_ids(configured, tokenizer) == {7, 9, tokenizer.eos_token_id}


def test_a_worker_told_to_stop_ends_its_generation_at_once(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    asked = iter([False, False, True, True, True])
    assert draw(model, tokenizer, prompts, [[1], [2], [3]], replace(SAMPLING, max_new_tokens=500), asked.__next__) == []
    assert len(list(asked)) <= 1


# ------------------------------------------------------------------------------------------------- while it is written
def test_watching_a_draw_changes_nothing_of_it(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    seeds = [[1, 2, 3], [4, 5, 6], [7, 8, 1]]
    seen: list[list[list[str]]] = []
    watched = draw(model, tokenizer, prompts, seeds, SAMPLING, written=seen.append, show_seconds=0.0)
    assert watched == draw(model, tokenizer, prompts, seeds, SAMPLING)
    assert 2 <= len(seen) <= SAMPLING.max_new_tokens
    assert {len(texts) for texts in seen} == {3}
    assert {len(row) for texts in seen for row in texts} == {3}


def test_what_is_shown_grows_to_the_answer(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    """Each text begins with the one shown before; answers that have ended stand still, and none has end tokens."""
    sampling = replace(SAMPLING, max_new_tokens=24)
    seen: list[list[str]] = []
    (row,) = draw(
        model, tokenizer, prompts[:1], [list(range(12))], sampling, written=lambda t: seen.append(t[0]), show_seconds=0
    )
    assert len({entry.tokens for entry in row if entry.finish_reason == "stop"}) > 2, "they must end at different times"
    for place, drawn in enumerate(row):
        texts = [shown[place] for shown in seen]
        assert all(later.startswith(earlier) for earlier, later in pairwise([*texts, drawn.text]))
        assert texts[-1] == drawn.text
        written = drawn.tokens - (drawn.finish_reason == "stop")
        assert len(set(texts)) == max(written, 1), "each token was shown when it had come"


def test_a_character_is_shown_when_its_last_byte_has_come(tokenizer: Any) -> None:
    """The tokenizer has a token for each byte of é, 語 and the emoji; half a character would be a replacement mark."""
    text = "é 語 😀"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 2 + 1 + 3 + 1 + 4
    assert "\ufffd" in tokenizer.decode(ids[:1])
    seen: list[str] = []
    show = StreamCallback(tokenizer, 2, {tokenizer.eos_token_id}, 1, lambda texts: seen.append(texts[0][0]), 0.0)
    for end in range(1, len(ids) + 1):
        assert not show(torch.tensor([[5, 6, *ids[:end]]]), None).any()
    assert seen == ["", "é", "é ", "é ", "é ", "é 語", "é 語 ", "é 語 ", "é 語 ", "é 語 ", "é 語 😀"]


def test_texts_are_told_at_most_so_often(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    times: list[float] = []

    def slowly() -> bool:
        time.sleep(0.01)
        return False

    draw(model, tokenizer, prompts, [[1], [2], [3]], SAMPLING, slowly, lambda _: times.append(time.monotonic()), 0.05)
    assert len(times) >= 2
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.05


def test_a_draw_between_two_tokens_of_another_changes_neither(model: Any, tokenizer: Any, prompts: list[str]) -> None:
    """So a batch can wait for an answer that somebody asked for, and go on."""
    outer_alone = draw(model, tokenizer, prompts, [[1, 2], [3, 4], [5, 6]], SAMPLING)
    inner_alone = draw(model, tokenizer, prompts[2:], [[9, 10, 11]], SAMPLING)
    steps = count()
    inner: list[Any] = []

    def stop() -> bool:
        if next(steps) == 3:
            inner.extend(draw(model, tokenizer, prompts[2:], [[9, 10, 11]], SAMPLING))
        return False

    assert draw(model, tokenizer, prompts, [[1, 2], [3, 4], [5, 6]], SAMPLING, stop) == outer_alone
    assert inner == inner_alone


# --------------------------------------------------------------------------------------------- what becomes of answers
def test_empty_and_identical_answers_are_dropped_and_counted(model: Any, machine: Machine) -> None:
    """Drawn twice with one seed, an answer is its own duplicate; one that ends at once is empty."""
    machine.add_prompts(train=1, held_out=0)
    prompt = prompt_store.prompts(machine.db, "train")[0]
    rendered = machine.render(prompt.messages)
    seeds = list(range(40))
    (drawn,) = draw(model, machine.tokenizer, [rendered], [seeds], SAMPLING)
    empty = next(entry for entry in drawn if not entry.text.strip())
    ended = [entry for entry in drawn if entry.text.strip() and entry.finish_reason == "stop"]
    cut = next(entry for entry in drawn if entry.finish_reason == "length")
    (again,) = draw(model, machine.tokenizer, [rendered], [[ended[0].seed]], SAMPLING)
    chosen = [empty, ended[0], again[0], cut]

    serving = registry.serving(machine.db)
    responses = [entry.response(prompt, serving, rendered, SAMPLING) for entry in chosen]
    assert responses[1] == Response(
        prompt_id=prompt.id,
        model_id=serving.id,
        text=ended[0].text,
        sampling=SAMPLING,
        seed=ended[0].seed,
        rendered_prompt=rendered,
        prompt_tokens=machine.count(rendered),
        tokens=len(ended[0].ids),
        finish_reason="stop",
        token_ids=TokenIds(vocabulary_of(machine.tokenizer), ended[0].ids),
        precision=serving.precision,
    )
    assert comparison_store.add_comparison(machine.db, responses) is not None
    assert stock_counts.answer_counts(machine.db) == stock_counts.AnswerCounts(total=4, ended=3, empty=1, duplicate=1)
    claim = handing_out.claim_next(machine.db, machine.annotator.id)
    assert claim is not None
    assert sorted(shown_texts(claim)) == sorted([ended[0].text, cut.text])
    # With nothing left to compare, no comparison is made, and the answers are still counted.
    assert comparison_store.add_comparison(machine.db, responses[:3]) is None
    assert stock_counts.answer_counts(machine.db).total == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_compute_the_same_with_their_weights_laid_out(dtype: torch.dtype) -> None:
    """With a bias and without, under a LoRA adapter; afterwards they are what they were."""
    plain = torch.nn.Sequential(torch.nn.Linear(64, 96, bias=False), torch.nn.Linear(96, 32)).to(dtype)
    model = get_peft_model(plain, LoraConfig(target_modules=["0"], init_lora_weights=False))
    expects = to_lay_out(torch.nn.Linear(1, 1).to(dtype))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.no_grad():
        expected = model(x)
        with weights_laid_out(model):
            assert {"forward" in vars(layer) for layer in (model.model[0].base_layer, model.model[1])} == {expects}
            found = model(x)
    apart = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, rtol=apart, atol=apart)
    assert not any("forward" in vars(layer) for layer in model.modules())


@pytest.mark.skipif(not to_lay_out(torch.nn.Linear(1, 1)), reason="oneDNN computes nothing here")
def test_weights_are_laid_out_only_where_that_helps_a_copy_has_room_and_nobody_watches(
    model: Any, tokenizer: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(laid_out_weights, "laid_out", lambda layer: made.append(layer) or laid_out(layer))

    def draws(**arguments: Any) -> list[list[Draw]]:
        made.clear()
        return draw(model, tokenizer, prompts, [[1], [2], [3]], SAMPLING, **arguments)

    expected = draws(written=lambda texts: None)
    assert not made
    assert draws() == expected
    assert made
    with torch.autocast("cpu", torch.bfloat16):
        draws()
    assert not made
    monkeypatch.setattr(laid_out_weights, "free_memory", lambda: 1000)
    assert draws() == expected
    assert not made


def test_layers_are_what_they_were_where_their_weights_could_not_be_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy left behind would answer with the weights of before once they are trained."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))

    def fails_at_the_second(layer: Any) -> Any:
        if layer is model[1]:
            raise MemoryError
        return laid_out_weights.laid_out

    monkeypatch.setattr(laid_out_weights, "to_lay_out", lambda layer: layer in (model[0], model[1]))
    monkeypatch.setattr(laid_out_weights, "laid_out", fails_at_the_second)
    with pytest.raises(MemoryError), weights_laid_out(model):
        pass
    assert not any("forward" in vars(layer) for layer in model)
