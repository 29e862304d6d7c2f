"""Token ids to tensors: padded batches, and packed ones in which answers share their prompt and nothing is padding.

Prompts that begin alike, as with a system prompt, share their beginning. In a packed row every token could look at
every other one, and most pairs are forbidden: `attend` computes attention within each group only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlhf.models.memory.run_memory import PRODUCTS_UP_TO

# The group of the tokens that all prompts of a packed row begin with.
BEGINNING: Final = -1
# The name under which a mask knows its `Spans`.
SPANS: Final = "spans"


def pad(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded (ids, attention mask, completion mask), each (B, T), of (prompt, completion) token ids."""
    width = max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids = torch.full((len(sequences), width), pad_id)
    attention = torch.zeros(len(sequences), width, dtype=torch.long)
    completions = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, (prompt, completion) in enumerate(sequences):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion])
        attention[row, :end] = 1
        completions[row, len(prompt) : end] = 1
    return ids, attention, completions


def prompt_groups(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[int]:
    """The same number for those of the (prompt, completion) token ids that have the same prompt."""
    groups: dict[tuple[int, ...], int] = {}
    return [groups.setdefault(tuple(prompt), len(groups)) for prompt, _ in sequences]


def rows_of(
    ids_BT: Tensor, attention_BT: Tensor, completion_BT: Tensor, group_B: Sequence[int], limit: float, virtual: int = 0
) -> list[list[int]]:
    """Which of a batch's sequences lie in one packed row: groups in turn, whole, as many as fit, and at least one.

    Those of a group lie together. `virtual` tokens stand before each prompt, and so before what all begin with.
    """
    members: dict[int, list[int]] = {}
    for place, group in enumerate(group_B):
        members.setdefault(group, []).append(place)
    completion_B = completion_BT.sum(-1).tolist()
    prompt_BT = attention_BT - completion_BT
    begins_alike_T = (ids_BT == ids_BT[:1]) & prompt_BT.bool()
    beginning = virtual + int(begins_alike_T.all(0).cumprod(0).sum())
    prompt_B = (prompt_BT.sum(-1) + virtual - beginning).tolist()
    rows: list[list[int]] = []
    taken = 0
    for places in members.values():
        length = prompt_B[places[0]] + sum(completion_B[place] for place in places)
        if not rows or taken + length > limit:
            rows.append([])
            taken = beginning
        rows[-1] += places
        taken += length
    return rows


def rows_alone(attention_BT: Tensor, group_B: Sequence[int], limit: float) -> list[list[int]]:
    """The same where a model can't compute several sequences in one row: each brings its own prompt."""
    return rows_of(attention_BT, attention_BT, attention_BT, group_B, limit)


@dataclass(frozen=True)
class Piece:
    """Tokens of some of the B sequences, prompt and completion, from the `first` one on; from and to in the row."""

    rows: tuple[int, ...]
    first: int
    start: int
    end: int


@dataclass(frozen=True)
class Packed:
    """Prompts with their completions in one row of L tokens without padding; a prompt, and what all begin with, once.

    `sources_N` are the positions whose next token is `labels_N`; `rows_N` says to which of the B completions each of
    the N completion tokens belongs; `last_B` is the position of each completion's last token. Ids from `vocabulary` on
    are virtual tokens: the first, the second and so on.
    """

    ids_1L: Tensor
    positions_1L: Tensor
    allowed_11LL: Tensor
    sources_N: Tensor
    labels_N: Tensor
    rows_N: Tensor
    last_B: Tensor
    spans: tuple[tuple[int, int], ...]
    """Where what all begin with and then the groups lie; one span of everything where they lie mixed up."""
    beginning: int
    """How many tokens all prompts begin with: each span's look at them, too."""
    pieces: tuple[Piece, ...]


def pack(
    ids_BT: Tensor, attention_BT: Tensor, completion_BT: Tensor, group_B: Sequence[int], virtual: Sequence[int] = ()
) -> Packed:
    """Pack a right-padded batch; rows of one group are completions of the same prompt, which is packed once.

    What the prompts of several groups begin with comes first, and is computed for all of them. Completions attend to
    their prompt and to themselves, never to each other, and have the positions that they would have alone: the results
    are those of the padded batch, for less computation. `virtual` token ids stand before every prompt.
    """
    packed = PackedParts()
    prompts = prompts_by_group(ids_BT, attention_BT - completion_BT, group_B, virtual)
    beginning = shared_beginning(list(prompts.values()))
    if beginning:
        packed.append(BEGINNING, 0, prompts[group_B[0]][:beginning], 0, range(len(group_B)))
    ends: dict[int, int] = {}  # by group: where its prompt's last token lies
    sources: list[Tensor] = []
    labels: list[Tensor] = []
    rows: list[Tensor] = []
    last: list[int] = []
    for row, group in enumerate(group_B):
        prompt = prompts[group]
        if group not in ends:  # the first completion of a group brings its prompt, which the others share
            sharing = [other for other, its_group in enumerate(group_B) if its_group == group]
            packed.append(group, 0, prompt[beginning:], beginning, sharing)
            ends[group] = (packed.length if len(prompt) > beginning else beginning) - 1
        completion = ids_BT[row][completion_BT[row].bool()]
        # Its positions go on from its prompt's, however far from it in the row it lies.
        here = packed.append(group, row + 1, completion, len(prompt), [row])
        # The prompt's last token predicts the completion's first, and each completion token the next one.
        before = [ends[group], *range(here, here + len(completion))]
        sources.append(torch.tensor(before[:-1], dtype=torch.long))
        labels.append(completion)
        rows.append(torch.full((len(completion),), row))
        last.append(before[-1])
    group_L, device = torch.cat(packed.groups), ids_BT.device
    return Packed(
        ids_1L=torch.cat(packed.ids)[None],
        positions_1L=torch.cat(packed.positions)[None].to(device),
        allowed_11LL=allowed(group_L, torch.cat(packed.parts))[None, None].to(device),
        sources_N=torch.cat(sources).to(device),
        labels_N=torch.cat(labels),
        rows_N=torch.cat(rows).to(device),
        last_B=torch.tensor(last).to(device),
        spans=spans_of(group_L),
        beginning=beginning,
        pieces=tuple(packed.pieces),
    )


@dataclass
class PackedParts:
    """The prompts and completions of a packed row, one after the other."""

    ids: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    groups: list[Tensor] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    """0 for a prompt, and for each completion a number of its own."""
    pieces: list[Piece] = field(default_factory=list)
    length: int = 0

    def append(self, group: int, part: int, tokens: Tensor, position: int, rows: Sequence[int]) -> int:
        """Add a prompt or completion of these sequences, the first token at this position; returns where it starts."""
        self.pieces.append(Piece(tuple(rows), position, self.length, self.length + len(tokens)))
        self.ids.append(tokens)
        self.positions.append(torch.arange(position, position + len(tokens)))
        self.groups.append(torch.full((len(tokens),), group))
        self.parts.append(torch.full((len(tokens),), part))
        self.length += len(tokens)
        return self.length - len(tokens)


def allowed(group_L: Tensor, part_L: Tensor) -> Tensor:
    """Which earlier token each may look at, (L, L): of what all begin with, its prompt (part 0) and its completion."""
    same_group = (group_L[:, None] == group_L[None, :]) | (group_L[None, :] == BEGINNING)
    visible = (part_L[None, :] == 0) | (part_L[:, None] == part_L[None, :])
    earlier = torch.ones(len(group_L), len(group_L), dtype=torch.bool).tril()
    return same_group & visible & earlier


def spans_of(group_L: Tensor) -> tuple[tuple[int, int], ...]:
    """Where each group lies, from and to; one span of all where the parts of some group lie apart."""
    borders = [0, *(torch.nonzero(group_L.diff())[:, 0] + 1).tolist(), len(group_L)]
    apart = len(borders) == len(set(group_L.tolist())) + 1
    return tuple(pairwise(borders)) if apart else ((0, len(group_L)),)


def prompts_by_group(
    ids_BT: Tensor, prompt_BT: Tensor, group_B: Sequence[int], virtual: Sequence[int]
) -> dict[int, Tensor]:
    """The token ids of each group's prompt, after `virtual` ones; its first row's."""
    first = {group: row for row, group in reversed(list(enumerate(group_B)))}
    before = torch.tensor(virtual, dtype=ids_BT.dtype, device=ids_BT.device)
    return {group: torch.cat([before, ids_BT[row, : int(prompt_BT[row].sum())]]) for group, row in first.items()}


def shared_beginning(prompts: Sequence[Tensor]) -> int:
    """How many tokens several prompts begin with alike; of a single one there is nothing to share."""
    if len(prompts) < 2:
        return 0
    shortest = min(map(len, prompts))
    same_T = torch.stack([prompt[:shortest] == prompts[0][:shortest] for prompt in prompts]).all(0)
    return int(same_T.cumprod(0).sum())


# ----------------------------------------------------------------------------------------------------------- attention
@dataclass(frozen=True)
class Spans:
    """Where a packed row's groups lie, and what a span's mask is as numbers to add, by type and repeats of the rows."""

    spans: tuple[tuple[int, int], ...]
    beginning: int = 0
    added: dict[tuple[tuple[int, int], torch.dtype, int], Tensor] = field(default_factory=dict)

    def seen(self, states: Tensor, span: tuple[int, int], along: int) -> Tensor:
        """The part of the states that a span's tokens look at: what all begin with, and the span."""
        start, end = span
        own = states.narrow(along, start, end - start)
        if not self.beginning or start < self.beginning:
            return own
        return torch.cat([states.narrow(along, 0, self.beginning), own], along)

    def to_add(self, allowed_11LL: Tensor, span: tuple[int, int], dtype: torch.dtype, repeats: int) -> Tensor:
        """0 where a span's token may look and -inf elsewhere, (1, repeats x tokens, tokens seen)."""
        if (span, dtype, repeats) not in self.added:
            block = self.seen(allowed_11LL[0, :, slice(*span)], span, -1)
            zeros = torch.zeros_like(block, dtype=dtype).masked_fill(~block, -torch.inf)
            self.added[span, dtype, repeats] = zeros.repeat(1, repeats, 1)
        return self.added[span, dtype, repeats]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention by scaled dot products; where the mask has `Spans`, within each of them.

    Of (1, heads, L, D) it makes (1, L, heads, D), as transformers asks.
    """
    known: Spans | None = getattr(attention_mask, SPANS, None)
    if known is None or attention_mask is None or kwargs.get("position_bias") is not None:
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        return attended
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    parts, repeats = [], query.shape[1] // key.shape[1]
    for span in known.spans:
        q, k, v = query[:, :, slice(*span)], known.seen(key, span, 2), known.seen(value, span, 2)
        if query.dtype != torch.float32 and k.shape[2] <= PRODUCTS_UP_TO:
            added_1TS = known.to_add(attention_mask, span, query.dtype, repeats)
            parts.append(attend_by_products(q[0], k[0], v[0], added_1TS, scale))
            continue
        mask = known.seen(attention_mask[:, :, slice(*span)], span, -1)
        parts.append(sdpa_attention_forward(module, q, k, v, mask, dropout, scaling, **kwargs)[0][0])
    return torch.cat(parts)[None], None


def attend_by_products(q_HTD: Tensor, k_KSD: Tensor, v_KSD: Tensor, added_1TS: Tensor, scale: float) -> Tensor:
    """softmax(scale q k' + added) v of T tokens that look at S, with H heads that share K keys and values.

    Returns (T, H, D).
    """
    heads, tokens, _ = q_HTD.shape
    q_KQD = q_HTD.reshape(len(k_KSD), -1, q_HTD.shape[-1])
    weights_KQS = torch.baddbmm(added_1TS, q_KQD, k_KSD.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(weights_KQS, v_KSD).reshape(heads, tokens, -1).transpose(0, 1)


AttentionInterface.register("sdpa", attend)
