"""The cache of prompts that answers go on from: each prompt computed once, without padding, for all its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from rlhf.models import hidden_states
from rlhf.models.chat_template import tokenizing
from rlhf.models.hidden_states import AGREEMENT, FAILURES, ROW_TOKENS
from rlhf.models.packing import pack, pad, rows_of

# Tokens after which answers that have ended leave the batch.
SPELL = 8


class RoomyLayer(DynamicLayer):
    """A layer of a cache with room for a spell's tokens: they are written into it instead of copying it for each."""

    keys: Tensor
    values: Tensor
    wholes: Sequence[Tensor] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Take in the states of new tokens, (B, K, T, D). Returns those of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        # Who crops or selects otherwise puts tensors without room in their place.
        has_room = bool(self.wholes) and self.keys.data_ptr() == self.wholes[0].data_ptr()
        if not has_room or end > self.wholes[0].shape[-2]:
            self.wholes = roomy(self.keys, key_states, begin), roomy(self.values, value_states, begin)
        for whole, states in zip(self.wholes, (key_states, value_states), strict=True):
            whole[..., begin:end, :] = states
        self.keys, self.values = (whole[..., :end, :] for whole in self.wholes)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Repeat rows or leave some out, and keep nothing of those before."""
        super().reorder_cache(beam_idx)
        self.wholes = ()


def roomy(states: Tensor, new: Tensor, length: int) -> Tensor:
    """A copy of the states of `length` tokens, if any, with room for new ones and a spell of further ones."""
    whole = new.new_empty(*new.shape[:-2], length + new.shape[-2] + SPELL, new.shape[-1])
    if length:
        whole[..., :length, :] = states
    return whole


@contextmanager
def own_settings_aside(causal: Any) -> Iterator[None]:
    """Inside, a model has no settings of its own for drawing, with which transformers fills in all that ours leave out.

    A repetition penalty, say, would shape answers without being recorded. Where it ends an answer is kept: a draw
    between two tokens of this one asks for it.
    """
    own = causal.generation_config
    causal.generation_config = GenerationConfig(eos_token_id=own.eos_token_id)
    try:
        yield
    finally:
        causal.generation_config = own


# Of the models in memory, which can go on from prompts that were computed once for several answers.
SHARES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def shares_prompts(causal: Any) -> bool:
    """Whether a model goes on from a repeated cache as from the whole prompt: seen when it is first asked."""
    if causal not in SHARES:
        SHARES[causal] = sharing_agrees(causal)
    return SHARES[causal]


@torch.no_grad()
def sharing_agrees(causal: Any) -> bool:
    """Whether logits after a repeated cache of random prompts, padded on the left, are those without a cache.

    Sliding windows are made so narrow meanwhile that prompts of a few tokens reach beyond them.
    """
    if "past_key_values" not in signature(causal.forward).parameters:
        return False
    one, other = hidden_states.random_ids(causal, (9, 5))
    ids_PT, mask_PT = padded_left([one, [*one[:3], *other]], 0, causal.device)
    ids_BT, mask_BT = ids_PT.repeat_interleave(2, 0), mask_PT.repeat_interleave(2, 0)
    settings = GenerationConfig(
        max_new_tokens=3, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    with (
        torch.autocast(causal.device.type, enabled=False),
        hidden_states.narrow_window(causal.config.get_text_config()),
    ):
        try:
            cache = prefilled(causal, ids_PT, mask_PT, None, (0, 0, 1, 1))
            with own_settings_aside(causal):
                made = causal.generate(
                    input_ids=ids_BT, attention_mask=mask_BT, past_key_values=cache, generation_config=settings
                )
        except torch.OutOfMemoryError:
            raise  # says nothing of the model
        except FAILURES:
            return False
        apart = largest = 0.0
        for place, (ids_T, steps) in enumerate(zip(made.sequences, zip(*made.logits, strict=True), strict=True)):
            # Without the padding before its prompt, and the last token, after which nothing was said.
            own_TV = causal(input_ids=ids_T[None, mask_BT[place].argmax() : -1], use_cache=False).logits[0].float()
            found_TV = torch.stack(steps).float()
            apart += float((found_TV - own_TV[-len(steps) :]).square().sum())
            largest += float(found_TV.square().sum())
    return bool(apart**0.5 <= AGREEMENT.get(causal.dtype, 0.05) * largest**0.5)


def prefilled(
    causal: Any, ids_PT: Tensor, mask_PT: Tensor, virtual_KH: Tensor | None, rows: Sequence[int]
) -> DynamicCache:
    """The cache of prompts padded on the left, but for their last tokens, for rows that each go on from one of them."""
    cache = DynamicCache(config=causal.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    # The last prompt token is left to generate(), which needs one uncached position to start from.
    ids_PT, mask_PT = ids_PT[:, :-1], mask_PT[:, :-1]
    # Several have padding to save and perhaps share a beginning. What layers that keep all states made in a packed row
    # can be taken out of it.
    several = len(ids_PT) > 1 and bool(mask_PT.any(-1).all())
    if several and all(isinstance(layer, RoomyLayer) for layer in cache.layers) and hidden_states.packable(causal):
        fill_by_rows(cache, causal, ids_PT, mask_PT, virtual_KH)
    else:
        # Positions count a prompt's own tokens: its padding must not move it.
        compute(causal, cache, ids_PT, virtual_KH, mask_PT, (mask_PT.cumsum(-1) - 1).clamp(min=0))
    # Not batch_repeat_interleave, which caches of recurrent layers have not.
    cache.reorder_cache(torch.tensor(rows, device=ids_PT.device))
    return cache


def compute(
    causal: Any, cache: DynamicCache, ids: Tensor, virtual_KH: Tensor | None, mask: Any, places: Tensor
) -> None:
    """Put tokens into a cache, without the output embedding, whose logits nobody reads."""
    hidden_states.backbone(causal)(
        **hidden_states.embed(causal, ids, virtual_KH),
        attention_mask=mask,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    )


def fill_by_rows(cache: DynamicCache, causal: Any, ids_PT: Tensor, mask_PT: Tensor, virtual_KH: Tensor | None) -> None:
    """Put prompts padded on the left into a cache, computed without padding and what all begin with once."""
    device, width = ids_PT.device, ids_PT.shape[1]
    prompts = [(ids_T[mask_T.bool()].tolist(), ()) for ids_T, mask_T in zip(ids_PT, mask_PT, strict=True)]
    right_PT, own_PT, answers_PT = (part.to(device) for part in pad(prompts, 0))  # the answers are empty
    parts: list[list[list[Tensor]]] = []  # by row and layer: keys and values, (P, K, T, D)
    for places in rows_of(right_PT, own_PT, answers_PT, range(len(prompts)), ROW_TOKENS):
        row = pack(right_PT[places], own_PT[places], answers_PT[places], places)
        computed = DynamicCache(config=causal.config)
        compute(causal, computed, row.ids_1L, virtual_KH, hidden_states.attention_masks(causal, row), row.positions_1L)
        ends = zip(places, row.last_B.tolist(), strict=True)
        lies = [lies_at(len(prompts[place][0]), end, row.beginning, width) for place, end in ends]
        lies_PT = torch.tensor(lies, device=device)
        layers: list[Any] = computed.layers
        parts.append(
            [[states[0][:, lies_PT].transpose(0, 1) for states in (layer.keys, layer.values)] for layer in layers]
        )
    for number, rows in enumerate(zip(*parts, strict=True)):
        keys, values = (torch.cat(states) for states in zip(*rows, strict=True))
        cache.update(keys, values, number)


def lies_at(length: int, end: int, beginning: int, width: int) -> list[int]:
    """Where in a packed row the tokens of a prompt lie whose last one is at `end`, padded on the left to a width."""
    own = length - beginning
    return [0] * (width - length) + [*range(beginning), *range(end + 1 - own, end + 1)]


def left_padded(
    tokenizer: Any, texts: Sequence[str], prefix: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Left-padded token ids and attention mask, each (P, T), of texts with a prefix of ids before each."""
    with tokenizing():
        rows = [[*prefix, *ids] for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    return padded_left(rows, tokenizer.pad_token_id, device)


def padded_left(rows: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids_PT = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
    mask_PT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids_PT.to(device), mask_PT.to(device)
