"""What a model makes of completions: the states that predict each token and the last one's, without padding.

Everything that trains or scores goes through here, with whatever adapter is active: SFT, DPO, the reward model, PPO,
evaluation. Only completion positions ever meet the vocabulary or a scalar head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from rlhf.models.log_probabilities import sum_by_row, token_logps
from rlhf.models.packing import pack, rows_of

# Families whose attention is plain causal attention under a mask that is given whole. Others are padded.
PACKABLE = {"llama", "qwen2", "qwen3", "smollm3"}
# Tokens in a packed row. Its attention looks at every pair of them, also at those that the mask forbids: on a CPU eight
# long demonstrations in one row took nearly three times as long as padded, and less in rows of this many. A GPU wants
# larger pieces of work.
ROW_TOKENS = 4096 if torch.cuda.is_available() else 1024


@dataclass(frozen=True)
class Completions:
    """Final hidden states of B completions with N tokens in all.

    `before_NH` predict the tokens `labels_N`, `rows_N` says whose they are, and `last_BH` is each last token's.
    """

    before_NH: Tensor
    labels_N: Tensor
    rows_N: Tensor
    last_BH: Tensor


def inner_model(model: Any) -> Any:
    """The transformers model inside DDP's and PEFT's wrappings, with the active adapter's layers in it."""
    inner = model.module if hasattr(model, "module") else model
    return inner.get_base_model() if isinstance(inner, PeftModel) else inner


def packable(causal: Any) -> bool:
    """Whether a model can compute several sequences in one row."""
    return causal.config.model_type in PACKABLE and bool(causal.config._attn_implementation == "sdpa")


def virtual_tokens(model: Any) -> Tensor | None:
    """The embeddings (K, H) of the active prompt-tuning adapter; None for any other model."""
    inner = model.module if hasattr(model, "module") else model
    if not isinstance(inner, PeftModel) or not inner.active_peft_config.is_prompt_learning:
        return None
    embeddings: Tensor = inner.prompt_encoder[inner.active_adapter].embedding.weight
    return embeddings


def embed(causal: Any, ids: Tensor, virtual_KH: Tensor | None) -> dict[str, Tensor]:
    """The model's input: ids, or with virtual tokens (ids from the vocabulary's size on) their embeddings."""
    if virtual_KH is None:
        return {"input_ids": ids}
    table = causal.get_input_embeddings()
    first = table.weight.shape[0]
    is_virtual = ids >= first
    embedded = table(ids.clamp(max=first - 1))
    own = virtual_KH[(ids - first).clamp(min=0)].to(embedded.dtype)
    return {"inputs_embeds": torch.where(is_virtual[..., None], own, embedded)}


def virtual_ids(causal: Any, virtual_KH: Tensor | None) -> list[int]:
    """The ids that stand for virtual tokens."""
    if virtual_KH is None:
        return []
    first = causal.get_input_embeddings().weight.shape[0]
    return list(range(first, first + len(virtual_KH)))


def completions(
    model: Any,
    ids_BT: Tensor,
    attention_BT: Tensor,
    completion_BT: Tensor,
    group_B: Sequence[int] | None = None,
    *,
    adapted: bool = True,
    packed: bool = True,
) -> Completions:
    """The states of a right-padded batch's completions, in its order, computed in packed rows of bounded length.

    Sequences of one group share their prompt and its computation, and lie in one row.
    `adapted=False` leaves a prompt-tuning adapter's virtual tokens out; other adapters are switched off in the model.
    The call goes around DDP, so gradients of several processes are averaged by `trainer.average_gradients`.
    """
    causal = inner_model(model)
    virtual_KH = virtual_tokens(model) if adapted else None
    if not packed or not packable(causal):
        return padded_states(causal, virtual_KH, ids_BT, attention_BT, completion_BT)
    group_B = range(len(ids_BT)) if group_B is None else group_B
    width = 0 if virtual_KH is None else len(virtual_KH)
    places = rows_of(attention_BT, completion_BT, group_B, ROW_TOKENS, width)
    parts = [
        packed_states(
            causal, virtual_KH, ids_BT[row], attention_BT[row], completion_BT[row], [group_B[place] for place in row]
        )
        for row in places
    ]
    return in_order(parts, places)


def packed_states(
    causal: Any,
    virtual_KH: Tensor | None,
    ids_BT: Tensor,
    attention_BT: Tensor,
    completion_BT: Tensor,
    group_B: Sequence[int],
) -> Completions:
    """The states of completions that lie in one row."""
    row = pack(ids_BT, attention_BT, completion_BT, group_B, virtual_ids(causal, virtual_KH))
    hidden_LH = causal.base_model(
        **embed(causal, row.ids_1L, virtual_KH),
        attention_mask=row.allowed_11LL,
        position_ids=row.positions_1L,
        use_cache=False,
    ).last_hidden_state[0]
    return Completions(hidden_LH[row.sources_N], row.labels_N, row.rows_N, hidden_LH[row.last_B])


def in_order(parts: Sequence[Completions], places: Sequence[Sequence[int]]) -> Completions:
    """The states of several packed rows in the order of the batch, in which row i's completions are at places[i]."""
    device = parts[0].rows_N.device
    place_B = torch.tensor([place for row in places for place in row], device=device)
    placed = [torch.tensor(row, device=device)[part.rows_N] for row, part in zip(places, parts, strict=True)]
    rows_N, order_N = torch.cat(placed).sort(stable=True)
    return Completions(
        torch.cat([part.before_NH for part in parts])[order_N],
        torch.cat([part.labels_N for part in parts])[order_N],
        rows_N,
        torch.cat([part.last_BH for part in parts])[place_B.argsort()],
    )


def padded_states(
    causal: Any, virtual_KH: Tensor | None, ids_BT: Tensor, attention_BT: Tensor, completion_BT: Tensor
) -> Completions:
    """The states of completions in a padded batch."""
    prefix = virtual_ids(causal, virtual_KH)
    width = len(prefix)
    before = torch.tensor(prefix, dtype=ids_BT.dtype, device=ids_BT.device).expand(len(ids_BT), width)
    hidden_BTH = causal.base_model(
        **embed(causal, torch.cat([before, ids_BT], 1), virtual_KH),
        attention_mask=torch.cat([torch.ones_like(before), attention_BT], 1),
        use_cache=False,
    ).last_hidden_state[:, width:]
    mask_BT = completion_BT[:, 1:].bool()
    last_B = attention_BT.sum(-1) - 1
    return Completions(
        hidden_BTH[:, :-1][mask_BT],
        ids_BT[:, 1:][mask_BT],
        mask_BT.nonzero()[:, 0],
        hidden_BTH[torch.arange(len(ids_BT), device=ids_BT.device), last_B],
    )


def logps_of(model: Any, states: Completions) -> Tensor:
    """log p of each completion token, (N,), float32."""
    return token_logps(states.before_NH, inner_model(model).get_output_embeddings().weight, states.labels_N)


def summed_logps(
    model: Any,
    ids_BT: Tensor,
    attention_BT: Tensor,
    completion_BT: Tensor,
    group_B: Sequence[int] | None = None,
    *,
    adapted: bool = True,
) -> Tensor:
    """log p of each whole completion, (B,), float32."""
    states = completions(model, ids_BT, attention_BT, completion_BT, group_B, adapted=adapted)
    return sum_by_row(logps_of(model, states), states.rows_N, len(ids_BT))
