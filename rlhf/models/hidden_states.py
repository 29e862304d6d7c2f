"""What a model makes of completions: the states that predict each token and the last one's, without padding.

Everything that trains or scores goes through here, with whatever adapter is active: every algorithm, checks and
judges. Only completion positions ever meet the vocabulary or a scalar head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from annotation.records import UserError
from annotation.translation import _
from rlhf.models.adapters.lower_layers import LowerLayers
from rlhf.models.log_probabilities import Head, sum_by_row, token_logps
from rlhf.models.memory import machines, run_memory
from rlhf.models.packing import SPANS, Packed, Spans, pack, pad, prompt_groups, rows_alone, rows_of
from rlhf.private_members import attention_of

# How configurations name what stands behind the output matrix: a bound of the logits, and what they are multiplied or
# divided by. Whether that is all is seen when a base is prepared.
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")
DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
# How configurations name layers that see all earlier tokens, and those that see the last ones.
FULL, SLIDING = "full_attention", "sliding_attention"
# How far states of the same tokens may lie apart for being computed in another order, of their length. A wrong mask
# moves them by tenths.
AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
# How configurations name the ids of tokens that are no words.
MEANINGS = ("_token_id", "_token_index")
# What models raise that take no mask, or no cache, of the form that they are given.
FAILURES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)
ROW_TOKENS = run_memory.ROW_TOKENS_GPU if torch.cuda.is_available() else run_memory.ROW_TOKENS


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


def backbone(causal: Any) -> Any:
    """The part of a model that makes its last hidden states."""
    inner = causal.base_model
    return causal.model if inner is causal else inner  # Llama 4 has it under another name than it says


# Of the models in memory, which can compute several sequences in one row.
PACKS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def packable(causal: Any) -> bool:
    """Whether a model makes of sequences in one row what it makes of them alone: seen when it is first asked."""
    if causal not in PACKS:
        PACKS[causal] = packing_agrees(causal)
    return PACKS[causal]


@torch.no_grad()
def packing_agrees(causal: Any) -> bool:
    """Whether the states of packed random tokens are those of padded ones.

    Sliding windows are made so narrow meanwhile that sequences of a dozen tokens reach beyond them.
    """
    config, device = causal.config.get_text_config(), causal.device
    if attention_of(causal) not in ("sdpa", "eager") or own_windows(config):
        return False
    one, rest, *answers = random_ids(causal, (7, 4, 5, 9, 6))
    other = [*one[:3], *rest]
    group_B = (0, 0, 1)
    padded = pad(list(zip((one, one, other), answers, strict=True)), 0)
    ids_BT, attention_BT, completion_BT = (part.to(device) for part in padded)
    with torch.autocast(device.type, enabled=False), narrow_window(config):
        padded_NH = padded_states(causal, None, ids_BT, attention_BT, completion_BT).before_NH.float()
        try:
            packed_NH = packed_states(causal, None, ids_BT, attention_BT, completion_BT, group_B).before_NH.float()
        except torch.OutOfMemoryError:
            raise  # says nothing of the model
        except FAILURES:
            return False  # it takes no mask of this form
    return bool((packed_NH - padded_NH).norm() <= AGREEMENT.get(causal.dtype, 0.05) * padded_NH.norm())


def random_ids(causal: Any, lengths: Sequence[int]) -> list[list[int]]:
    """Ids of random words, always the same for a model; none that its configuration gives a meaning, as of an image."""
    configs = (causal.config, causal.config.get_text_config())
    named = [value for config in configs for name, value in vars(config).items() if name.endswith(MEANINGS)]
    special = torch.tensor([value for value in named if isinstance(value, int)], dtype=torch.long)
    # Some have embeddings for what is no word, such as pictures, and an output matrix may be stored quantised.
    said = getattr(causal.get_output_embeddings(), "out_features", None)
    known = causal.get_input_embeddings().weight.shape[0]
    words = getattr(configs[1], "unpadded_vocab_size", None) or min(known, said or known)
    allowed = torch.arange(words)
    allowed = allowed[~torch.isin(allowed, special)]
    random = torch.Generator().manual_seed(0)
    return [allowed[torch.randint(len(allowed), (length,), generator=random)].tolist() for length in lengths]


def own_windows(config: Any) -> bool:
    """Whether a model looks at windows or chunks other than those that transformers makes masks of, such as GPT-Neo's.

    These count places in the row, which random tokens show only where they are as many.
    """
    return any(
        ("window" in name or "chunk" in name) and "sliding_window" not in name and not name.startswith("max_")
        for name, value in vars(config).items()
        if isinstance(value, int) and value > 1
    )


@contextmanager
def narrow_window(config: Any) -> Iterator[None]:
    """Inside, a model of this configuration sees the last few tokens only in its sliding-window layers."""
    window = getattr(config, "sliding_window", None)
    if not window:
        yield
        return
    config.sliding_window = 3
    try:
        yield
    finally:
        config.sliding_window = window


def attention_masks(causal: Any, row: Packed) -> Tensor | dict[str, Tensor]:
    """What a model's layers are to attend to in a packed row: one mask, or one for each kind of layer."""
    config = causal.config.get_text_config()
    window, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    full_11LL = attention_mask(causal, row.allowed_11LL, row)
    if not window or (kinds and SLIDING not in kinds):
        return full_11LL
    distance_LL = row.positions_1L[0, :, None] - row.positions_1L[0, None, :]
    near_11LL = attention_mask(causal, row.allowed_11LL & (distance_LL < window), row)
    return {FULL: full_11LL, SLIDING: near_11LL} if kinds else near_11LL


def attention_mask(causal: Any, allowed_11LL: Tensor, row: Packed) -> Tensor:
    """A mask as the model's way of computing attention takes it: whether to attend, or what to add.

    On a processor it says where the groups lie, so that attention is computed within them (`packing.attend`); a GPU
    would rather have one large piece of work.
    """
    if attention_of(causal) == "sdpa":
        if allowed_11LL.device.type == "cpu":
            setattr(allowed_11LL, SPANS, Spans(row.spans, row.beginning))
        return allowed_11LL
    added_11LL = torch.zeros_like(allowed_11LL, dtype=causal.dtype)
    return added_11LL.masked_fill(~allowed_11LL, torch.finfo(causal.dtype).min)


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


def free_on(device: torch.device) -> int:
    """Bytes of a device's memory that nobody uses now, with those that torch holds in reserve on a GPU."""
    if device.type != "cuda":
        return machines.free_memory()
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held


def virtual_ids(causal: Any, virtual_KH: Tensor | None) -> list[int]:
    """The ids that stand for virtual tokens."""
    if virtual_KH is None:
        return []
    first = causal.get_input_embeddings().weight.shape[0]
    return list(range(first, first + len(virtual_KH)))


@torch.no_grad()
def takes_embeddings(causal: Any) -> bool:
    """Whether a model makes of virtual tokens what it makes of the tokens whose embeddings they have, if any's.

    Some multiply embeddings where they look them up, or look up more by the ids of tokens.
    """
    device, table = causal.device, causal.get_input_embeddings()
    (ids,) = random_ids(causal, (8,))
    ids_1T = torch.tensor([ids], device=device)
    with torch.autocast(device.type, enabled=False):
        expected = states_at(causal, 1.0, input_ids=ids_1T).float()
        try:
            rows_KH = table(ids_1T[0, :2])
            virtual_1T = ids_1T.clone()
            virtual_1T[0, :2] = torch.tensor(virtual_ids(causal, rows_KH))
            found = states_at(causal, 1.0, **embed(causal, virtual_1T, rows_KH)).float()
            states_at(causal, 1.0, **embed(causal, virtual_1T, rows_KH.flip(-1) / 2))
        except torch.OutOfMemoryError:
            raise  # says nothing of the model
        except FAILURES:
            return False
    return bool((found - expected).norm() <= AGREEMENT.get(causal.dtype, 0.05) * expected.norm())


def completions(
    model: Any,
    ids_BT: Tensor,
    attention_BT: Tensor,
    completion_BT: Tensor,
    group_B: Sequence[int] | None = None,
    *,
    adapted: bool = True,
    packed: bool = True,
    depth: float = 1.0,
) -> Completions:
    """The states of a right-padded batch's completions, in its order, computed in packed rows of bounded length.

    Sequences of one group share their prompt and its computation, and lie in one row. The states are the last layer's,
    or of the layer at this `depth` from 0 to 1.
    `adapted=False` leaves a prompt-tuning adapter's virtual tokens out; other adapters are switched off in the model.
    The call goes around DDP, so gradients of several processes are averaged by `trainer.average_gradients`.
    """
    causal = inner_model(model)
    virtual_KH = virtual_tokens(model) if adapted else None
    if not packed or not packable(causal):
        return padded_states(causal, virtual_KH, ids_BT, attention_BT, completion_BT, depth)
    group_B = range(len(ids_BT)) if group_B is None else group_B
    width = 0 if virtual_KH is None else len(virtual_KH)
    places = rows_of(ids_BT, attention_BT, completion_BT, group_B, ROW_TOKENS, width)
    parts = [
        packed_states(
            causal,
            virtual_KH,
            ids_BT[row],
            attention_BT[row],
            completion_BT[row],
            [group_B[place] for place in row],
            depth,
        )
        for row in places
    ]
    return in_order(parts, places)


def passes_of(model: Any, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[int]]:
    """Which of (prompt, completion) token ids to give to `completions` together, by place: a packed row's worth.

    Those of one prompt share its computation. A model that can't compute several sequences in one row gets those of
    like lengths together, so that little of a batch is padding.
    """
    if not sequences:
        return []
    together = packable(inner_model(model))
    by_length = sorted(range(len(sequences)), key=lambda place: sum(map(len, sequences[place])))
    order = sorted(by_length, key=lambda place: tuple(sequences[place][0])) if together else by_length
    ordered = [sequences[place] for place in order]
    ids_BT, attention_BT, completion_BT = pad(ordered, 0)
    if together:
        rows = rows_of(ids_BT, attention_BT, completion_BT, prompt_groups(ordered), ROW_TOKENS)
    else:
        rows = rows_alone(attention_BT, range(len(ordered)), ROW_TOKENS)
    return [[order[place] for place in row] for row in rows]


def states_at(causal: Any, depth: float, **inputs: Any) -> Tensor:
    """The states (B, T, H) of the layer at this depth, the embeddings' at 0 and the last one's, normalised, at 1."""
    if depth == 1.0:
        last: Tensor = backbone(causal)(**inputs, use_cache=False).last_hidden_state
        return last
    layers = backbone(causal)(**inputs, use_cache=False, output_hidden_states=True).hidden_states
    found: Tensor = layers[round(depth * (len(layers) - 1))]
    return found[0] if found.ndim == 4 else found  # Gemma 3n's layers have several; the first one is computed with


def packed_states(
    causal: Any,
    virtual_KH: Tensor | None,
    ids_BT: Tensor,
    attention_BT: Tensor,
    completion_BT: Tensor,
    group_B: Sequence[int],
    depth: float = 1.0,
) -> Completions:
    row = pack(ids_BT, attention_BT, completion_BT, group_B, virtual_ids(causal, virtual_KH))
    compute = partial(
        states_at,
        causal,
        depth,
        **embed(causal, row.ids_1L, virtual_KH),
        attention_mask=attention_masks(causal, row),
        position_ids=row.positions_1L,
    )
    lower = LOWER.get(causal) if depth == 1.0 else None
    if lower is None:
        hidden_LH = compute()[0]
    else:
        sequences = [ids[:length] for ids, length in zip(ids_BT.tolist(), attention_BT.sum(-1).tolist(), strict=True)]
        hidden_LH = lower.through(row, sequences, compute)[0]
    return Completions(hidden_LH[row.sources_N], row.labels_N, row.rows_N, hidden_LH[row.last_B])


# Of models that are trained, the layers below what is.
LOWER: WeakKeyDictionary[Any, LowerLayers] = WeakKeyDictionary()


def lower_layers(model: Any) -> LowerLayers | None:
    """The layers below what is trained, from now on computed once for each sequence that they are filled with.

    None where there are none, or the model can't be so cut. Weights and precision have to stay what they are.
    """
    causal = inner_model(model)
    LOWER.pop(causal, None)
    layers = [] if virtual_tokens(model) is not None else below_training(causal)
    if layers and packable(causal) and lower_agree(causal, layers):
        LOWER[causal] = LowerLayers(layers)
    return LOWER.get(causal)


def below_training(causal: Any) -> list[nn.Module]:
    """The layers below the first in which something is trained; none where something outside of the layers is."""
    inner = backbone(causal)
    number = causal.config.get_text_config().num_hidden_layers
    lists = (part for part in inner.modules() if isinstance(part, nn.ModuleList) and len(part) == number)
    layers = list(next(lists, ()))
    inside = {part for layer in layers for part in layer.modules()}
    if any(is_trained(part) for part in inner.modules() if part not in inside):
        return []
    return list(takewhile(lambda layer: not any(map(is_trained, layer.modules())), layers))


def is_trained(part: nn.Module) -> bool:
    """Whether a part of a model has an adapter, or weights of its own that are trained."""
    return isinstance(part, BaseTunerLayer) or any(own.requires_grad for own in part.parameters(recurse=False))


@torch.no_grad()
def lower_agree(causal: Any, layers: Sequence[nn.Module]) -> bool:
    """Whether a model makes the same of what these of its layers have made before, tried on random tokens."""
    prompt, *answers = random_ids(causal, (7, 5, 9))
    padded = pad([(prompt, one) for one in answers], 0)
    ids_BT, attention_BT, completion_BT = (part.to(causal.device) for part in padded)
    with torch.autocast(causal.device.type, enabled=False):
        compute = partial(packed_states, causal, None, ids_BT, attention_BT, completion_BT, (0, 0))
        expected_NH = compute().before_NH.float()
        LOWER[causal] = lower = LowerLayers(layers)
        try:
            with lower.filling():
                compute()
            found_NH = compute().before_NH.float()
        except torch.OutOfMemoryError:
            raise  # says nothing of the model
        except FAILURES:
            return False
        finally:
            del LOWER[causal]
    return bool((found_NH - expected_NH).norm() <= AGREEMENT.get(causal.dtype, 0.05) * expected_NH.norm())


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
    causal: Any,
    virtual_KH: Tensor | None,
    ids_BT: Tensor,
    attention_BT: Tensor,
    completion_BT: Tensor,
    depth: float = 1.0,
) -> Completions:
    prefix = virtual_ids(causal, virtual_KH)
    width = len(prefix)
    before = torch.tensor(prefix, dtype=ids_BT.dtype, device=ids_BT.device).expand(len(ids_BT), width)
    hidden_BTH = states_at(
        causal,
        depth,
        **embed(causal, torch.cat([before, ids_BT], 1), virtual_KH),
        attention_mask=torch.cat([torch.ones_like(before), attention_BT], 1),
    )[:, width:]
    mask_BT = completion_BT[:, 1:].bool()
    last_B = attention_BT.sum(-1) - 1
    return Completions(
        hidden_BTH[:, :-1][mask_BT],
        ids_BT[:, 1:][mask_BT],
        mask_BT.nonzero()[:, 0],
        hidden_BTH[torch.arange(len(ids_BT), device=ids_BT.device), last_B],
    )


@torch.no_grad()
def mean_states(
    model: Any, answers: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, depth: float
) -> Tensor:
    """The mean over each answer's tokens of a layer's states, (B, H), float32, of (prompt, answer) token ids.

    Without a prompt-tuning adapter's virtual tokens; other adapters are the caller's to switch off.
    """
    ids_BT, attention_BT, completion_BT = (part.to(model.device) for part in pad(answers, pad_id))
    group_B = prompt_groups(answers)
    found = completions(model, ids_BT, attention_BT, completion_BT, group_B, adapted=False, depth=depth)
    # Those before each token but the first, and the last one's, are those of the tokens themselves.
    own_NH = found.before_NH.float().clone()
    first_N = torch.cat([torch.ones_like(found.rows_N[:1], dtype=torch.bool), found.rows_N.diff() > 0])
    own_NH[first_N] = found.last_BH.float()
    sums_BH = own_NH.new_zeros(len(answers), own_NH.shape[1]).index_add(0, found.rows_N, own_NH)
    return sums_BH / completion_BT.sum(-1)[:, None]


def head_of(model: Any, *, float32: bool = False) -> Head:
    """What the model, with its active adapter, makes its logits with. Raises UserError where it has no output matrix.

    An output matrix that is no plain one (adapted, trained beside an adapter, quantised) is taken by what it makes of
    each hidden unit, and always multiplied in float32: in 16 bits what was learnt would be rounded away.
    """
    causal = inner_model(model)
    outputs, config = causal.get_output_embeddings(), causal.config.get_text_config()
    if outputs is None:
        said = _("A '{kind}' model has no output matrix to take log-probabilities from. Choose another model.")
        raise UserError(said.format(kind=config.model_type))
    plain = type(outputs) is nn.Linear
    weight_VH, bias_V = (outputs.weight, outputs.bias) if plain else effective(outputs, causal.device)
    return Head(
        weight_VH,
        bias_V,
        scale=logit_scale(config),
        softcap=next(filter(None, (getattr(config, name, None) for name in SOFTCAPS)), None),
        words=getattr(config, "unpadded_vocab_size", None),
        float32=float32 or not plain,
    )


def effective(outputs: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The matrix (V, H) and the bias (V,) that a module's output is made with, float32, with their gradients."""
    lifted = {name: value.float() for name, value in outputs.named_parameters() if value.is_floating_point()}
    units_HH = torch.eye(outputs.in_features, device=device)
    with torch.autocast(device.type, enabled=False):
        both_HV = torch.func.functional_call(outputs, lifted, (torch.cat([units_HH, 0 * units_HH[:1]]),))
    return (both_HV[:-1] - both_HV[-1]).T, both_HV[-1]


def logit_scale(config: Any) -> float:
    """By what a model of this configuration multiplies its logits."""
    values = {name: getattr(config, name, None) for name in (*MULTIPLIERS, *DIVISORS)}
    scale = 1.0
    for name, value in values.items():
        if value is None or config.model_type == "mpt":  # whose own scale transformers leaves out
            continue
        # HyperCLOVA X alone multiplies by what others divide by.
        multiplies = name in MULTIPLIERS or config.model_type == "hyperclovax"
        scale = scale * value if multiplies else scale / value
    return scale


def summed_logps(
    model: Any,
    ids_BT: Tensor,
    attention_BT: Tensor,
    completion_BT: Tensor,
    group_B: Sequence[int] | None = None,
    *,
    adapted: bool = True,
    packed: bool = True,
    float32: bool = False,
) -> Tensor:
    """log p of each whole completion, (B,), float32."""
    states = completions(model, ids_BT, attention_BT, completion_BT, group_B, adapted=adapted, packed=packed)
    logps_N = token_logps(states.before_NH, head_of(model, float32=float32), states.labels_N)
    return sum_by_row(logps_N, states.rows_N, len(ids_BT))
