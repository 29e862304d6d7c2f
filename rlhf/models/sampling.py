"""Draw answers from a policy: many prompts at once, several samples each, one prefill a prompt, one seed an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from annotation.records import Prompt, Response, Sampling, TokenIds, UserError
from annotation.translation import _
from rlhf.models.chat_template import vocabulary_of
from rlhf.models.hidden_states import (
    AGREEMENT,
    FAILURES,
    ROW_TOKENS,
    attention_masks,
    backbone,
    embed,
    inner_model,
    narrow_window,
    packable,
    random_ids,
    virtual_ids,
    virtual_tokens,
)
from rlhf.models.packing import pack, pad, rows_of
from rlhf.models.registry import Policy

# How often a draw that people watch shows what has been written.
SHOW_SECONDS = 0.5
# Tokens after which answers that have ended leave the batch.
SPELL = 8
# Of the likeliest token's probability: what less likely ones come to is a few in a thousand of a model's draws.
PLAUSIBLE = 1e-5
# Numbers of which a few copies fit into the cache of a processor's core.
CACHED = 2**18
# What a decoder puts for bytes that are no whole character yet.
INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class Draw:
    """One sampled answer. `tokens` counts the generated tokens, the end-of-text token included."""

    text: str
    seed: int
    tokens: int
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]
    ids: tuple[int, ...] = ()
    """The generated tokens, the end-of-text token included."""
    vocabulary: str = field(default="", compare=False)
    """Of the tokenizer that they belong to."""

    @property
    def token_ids(self) -> TokenIds | None:
        """What is kept of them; None where nothing has been drawn yet."""
        return TokenIds(self.vocabulary, self.ids) if self.vocabulary else None

    def response(self, prompt: Prompt, policy: Policy, rendered_prompt: str, sampling: Sampling) -> Response:
        """The record of this answer: everything needed to draw it again."""
        return Response(
            prompt_id=prompt.id,
            model_id=policy.id,
            text=self.text,
            sampling=sampling,
            seed=self.seed,
            rendered_prompt=rendered_prompt,
            prompt_tokens=self.prompt_tokens,
            tokens=self.tokens,
            finish_reason=self.finish_reason,
            token_ids=self.token_ids,
            precision=policy.precision,
        )


def undrawn(seed: int) -> Draw:
    """An answer of which nothing has been written yet."""
    return Draw(text="", seed=seed, tokens=0, prompt_tokens=0, finish_reason="length")


# Texts so far, by prompt and sample.
Written = Callable[[list[list[str]]], None]


class SeededSampler(LogitsProcessor):
    """Sampling by the Gumbel-max trick, each row with random numbers of its own (Gumbel 1954; Maddison et al. 2014).

    argmax(logit / T + g) with Gumbel noise g is a sample from softmax(logit / T). The noise is a function of the
    answer's seed, the step and the token, so an answer can be drawn again without its batch, and two policies given
    the same seeds share their random numbers: their answers differ only where the policies do.

    Tokens of less than PLAUSIBLE of the likeliest are first drawn as one: the largest of their perturbed logits has
    Gumbel noise around the logarithm of what they come to (Maddison et al. 2014, section 3). Only where they win are
    they told apart, so that noise costs next to nothing however large the vocabulary.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self.seeds_B = torch.tensor(seeds, dtype=torch.int64)
        self.sampling = sampling
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores (rows, vocabulary) → perturbed scores whose argmax is the sample."""
        seeds_B = self.seeds_B.to(scores.device)
        # A few rows at a time take a fraction of the time where they stay in the processor's cache.
        rows = max(1, CACHED // scores.shape[-1]) if scores.device.type == "cpu" else len(scores)
        parts = zip(torch.split(scores, rows), torch.split(seeds_B, rows), strict=True)
        perturbed_BV = torch.cat([self.perturbed(scores_RV.float(), seeds_R) for scores_RV, seeds_R in parts])
        self.step += 1
        return perturbed_BV

    def perturbed(self, scores_RV: Tensor, seeds_R: Tensor) -> Tensor:
        """Of some rows: scores with noise, of tokens that may win."""
        logits_RV = scores_RV / self.sampling.temperature
        floor_R1 = logits_RV.amax(dim=-1, keepdim=True) + math.log(max(self.sampling.min_p, PLAUSIBLE))
        rows_N, tokens_N = (logits_RV >= floor_R1).nonzero(as_tuple=True)
        logits_N = logits_RV[rows_N, tokens_N]
        perturbed_RV = torch.full_like(logits_RV, -math.inf)
        perturbed_RV[rows_N, tokens_N] = logits_N + gumbel(seeds_R[rows_N], self.step, tokens_N)
        if self.sampling.min_p < PLAUSIBLE:
            all_R = logits_RV.logsumexp(dim=-1)
            tail_R = 1 - torch.zeros_like(all_R).index_add_(0, rows_N, (logits_N - all_R[rows_N]).exp())
            beyond_R = torch.full_like(seeds_R, logits_RV.shape[-1])  # the noise of a tail is that of one token more
            best_R = all_R + tail_R.clamp(min=0).log() + gumbel(seeds_R, self.step, beyond_R)
            for row in (best_R > perturbed_RV.amax(dim=-1)).nonzero().flatten().tolist():
                tokens_N = (logits_RV[row] < floor_R1[row]).nonzero().flatten()
                noise_N = gumbel(seeds_R[row].expand_as(tokens_N), self.step, tokens_N)
                perturbed_RV[row, tokens_N[(logits_RV[row, tokens_N] + noise_N).argmax()]] = math.inf
        return perturbed_RV


def gumbel(seeds_N: Tensor, step: int, tokens_N: Tensor) -> Tensor:
    """Gumbel noise as a pure function of (seed, step, token): counter-based random numbers (Salmon et al. 2011).

    The bits come from two rounds of SplitMix64 (Steele et al. 2014) in wrapping 64-bit arithmetic. Returns (N,).
    """
    bits_N = mix(mix(seeds_N + wrap(step * GOLDEN)) + tokens_N * GOLDEN)
    uniform_N = (shift(bits_N, 11).double() + 0.5) * 2.0**-53
    return -(-uniform_N.log()).log().float()


# 2^64 / golden ratio, and SplitMix64's multipliers, as signed 64-bit numbers.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def mix(x_N: Tensor) -> Tensor:
    """SplitMix64's finaliser."""
    x_N = (x_N ^ shift(x_N, 30)) * FIRST
    x_N = (x_N ^ shift(x_N, 27)) * SECOND
    return x_N ^ shift(x_N, 31)


def wrap(x: int) -> int:
    """A Python integer as a signed 64-bit one."""
    return (x + 2**63) % 2**64 - 2**63


def shift(x_N: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's keeps the sign."""
    return (x_N >> bits) & ((1 << (64 - bits)) - 1)


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


class StopWhen(StoppingCriteria):
    """Asks the caller after each token whether to end early (a cancelled job, a worker told to stop)."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self.asked = asked

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), self.asked(), dtype=torch.bool, device=input_ids.device)


class StreamCallback(StoppingCriteria):
    """Tells the caller what has been written: the first token, then at most every `seconds`. Never stops anything."""

    def __init__(
        self, tokenizer: Any, start: int, ends: set[int], samples: int, written: Written, seconds: float
    ) -> None:
        self.tokenizer, self.start, self.ends, self.samples = tokenizer, start, ends, samples
        self.written, self.seconds = written, seconds
        self.last = -math.inf  # the first token is shown at once
        self.ended: dict[int, str] = {}

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        if time.monotonic() - self.last >= self.seconds:
            rows = input_ids[:, self.start :].tolist()
            texts = [self.text_of(row, ids) for row, ids in enumerate(rows)]
            self.written([texts[start : start + self.samples] for start in range(0, len(texts), self.samples)])
            self.last = time.monotonic()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def text_of(self, row: int, ids: list[int]) -> str:
        """The text of one row so far, without the first bytes of a character whose others are still to come."""
        if row not in self.ended:
            drawn = read_draw(self.tokenizer, ids, 0, 0, self.ends)
            if drawn.finish_reason == "length":
                return drawn.text.rstrip(INCOMPLETE)
            self.ended[row] = drawn.text
        return self.ended[row]


@torch.no_grad()
def draw(
    model: Any,
    tokenizer: Any,
    rendered_prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
    stop: Callable[[], bool] = lambda: False,
    written: Written | None = None,
    show_seconds: float = SHOW_SECONDS,
) -> list[list[Draw]]:
    """Sample len(seeds[i]) answers to rendered_prompts[i]; every prompt must ask for the same number.

    Where the model can, the prompts are prefilled once each and their cache is repeated for the samples. After each
    token `stop` is asked whether to end; then the list that is returned is empty. `written`, where given, gets the
    texts so far by prompt and sample, at most every `show_seconds`; it changes nothing of what is drawn.
    """
    samples = len(seeds[0])
    if any(len(row) != samples for row in seeds):
        raise ValueError("Every prompt of one batch needs the same number of seeds.")
    if sampling.sampler != Sampling.sampler:
        raise UserError(_("Answers are not drawn by that sampler any more: leave “sampler” out of “sampling”."))
    causal, virtual_KH = inner_model(model), virtual_tokens(model)
    ids_PT, mask_PT, cache = begun(causal, tokenizer, rendered_prompts, virtual_KH, samples)
    # Sample s of prompt p is row p * samples + s: in the cache, in the ids and among the seeds alike.
    ids_BT, mask_BT = ids_PT.repeat_interleave(samples, 0), mask_PT.repeat_interleave(samples, 0)
    ends = end_token_ids(causal, tokenizer)
    flat_seeds = [seed for row in seeds for seed in row]
    criteria: list[Any] = [StopWhen(stop)]
    if written is not None:
        criteria.append(StreamCallback(tokenizer, ids_BT.shape[1], ends, samples, written, show_seconds))
    settings = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,  # the sampler's noise is in the scores already: their largest is the draw
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
    )
    answers = continued(causal, ids_BT, mask_BT, cache, settings, SeededSampler(flat_seeds, sampling), criteria)
    if stop():  # what was cut off would be taken for answers that ran into the limit
        return []
    prompt_tokens = (mask_PT.sum(-1) - (0 if virtual_KH is None else len(virtual_KH))).tolist()
    draws = [
        read_draw(tokenizer, ids, seed, prompt_tokens[index // samples], ends)
        for index, (ids, seed) in enumerate(zip(answers, flat_seeds, strict=True))
    ]
    return [draws[start : start + samples] for start in range(0, len(draws), samples)]


def begun(
    causal: Any, tokenizer: Any, rendered_prompts: Sequence[str], virtual_KH: Tensor | None, samples: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Ids and mask of prompts padded on the left, so that every answer begins at the same column, (P, T), and a cache.

    The cache is none where the model can't go on from a repeated one. Raises UserError if it would need to.
    """
    ids_PT, mask_PT = left_padded(tokenizer, rendered_prompts, virtual_ids(causal, virtual_KH), causal.device)
    shared = shares_prompts(causal)
    cache = {"past_key_values": prefilled(causal, ids_PT, mask_PT, virtual_KH, samples)} if shared else {}
    if virtual_KH is not None:
        if not shared:
            raise UserError(
                _("A '{kind}' model can't go on from virtual tokens. Train it with LoRA instead.").format(
                    kind=causal.config.model_type
                )
            )
        # They are in the cache; what stands for them is never looked up again.
        ids_PT = ids_PT.where(ids_PT < causal.get_input_embeddings().weight.shape[0], tokenizer.pad_token_id)
    return ids_PT, mask_PT, cache


def continued(
    causal: Any,
    ids_BT: Tensor,
    mask_BT: Tensor,
    cache: Mapping[str, Any],
    settings: GenerationConfig,
    sampler: SeededSampler,
    criteria: list[Any],
) -> list[list[int]]:
    """The tokens of each row's answer, with padding after its end perhaps.

    With a cache, rows that have ended leave the batch every SPELL tokens, so that the others go on faster.
    """
    answers: list[list[int]] = [[] for _ in ids_BT]
    alive, left = torch.arange(len(ids_BT), device=ids_BT.device), settings.max_new_tokens
    ends_E = torch.tensor(settings.eos_token_id, device=ids_BT.device)
    watched = len(criteria) > 1  # who watches all rows is told of all rows
    while left and len(alive):
        settings.max_new_tokens = min(left, SPELL) if cache and not watched else left
        before = ids_BT.shape[1]
        with own_settings_aside(causal):
            ids_BT = causal.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                **cache,
                generation_config=settings,
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList(criteria),
            )
        new_BT = ids_BT[:, before:]
        for row, ids in zip(alive.tolist(), new_BT.tolist(), strict=True):
            answers[row] += ids
        if new_BT.shape[1] < settings.max_new_tokens or watched or not cache:
            break  # all have ended, or were told to stop
        left -= settings.max_new_tokens
        mask_BT = torch.cat([mask_BT, torch.ones_like(new_BT)], dim=1)
        going = (~torch.isin(new_BT, ends_E).any(dim=1)).nonzero().flatten()
        ids_BT, mask_BT, alive = ids_BT[going], mask_BT[going], alive[going]
        sampler.seeds_B = sampler.seeds_B[going.cpu()]
        cache["past_key_values"].reorder_cache(going)
    return answers


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
    one, other = random_ids(causal, (9, 5))
    ids_PT, mask_PT = padded_left([one, [*one[:3], *other]], 0, causal.device)
    ids_BT, mask_BT = ids_PT.repeat_interleave(2, 0), mask_PT.repeat_interleave(2, 0)
    settings = GenerationConfig(
        max_new_tokens=3, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    with torch.autocast(causal.device.type, enabled=False), narrow_window(causal.config.get_text_config()):
        try:
            cache = prefilled(causal, ids_PT, mask_PT, None, 2)
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


def prefilled(causal: Any, ids_PT: Tensor, mask_PT: Tensor, virtual_KH: Tensor | None, samples: int) -> DynamicCache:
    """The cache of prompts padded on the left, but for their last tokens, repeated for each prompt's samples."""
    cache = DynamicCache(config=causal.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    # The last prompt token is left to generate(), which needs one uncached position to start from.
    ids_PT, mask_PT = ids_PT[:, :-1], mask_PT[:, :-1]
    # Several have padding to save and perhaps share a beginning. What layers that keep all states made in a packed row
    # can be taken out of it.
    several = len(ids_PT) > 1 and bool(mask_PT.any(-1).all())
    if several and all(isinstance(layer, RoomyLayer) for layer in cache.layers) and packable(causal):
        fill_by_rows(cache, causal, ids_PT, mask_PT, virtual_KH)
    else:
        # Positions count a prompt's own tokens: its padding must not move it.
        compute(causal, cache, ids_PT, virtual_KH, mask_PT, (mask_PT.cumsum(-1) - 1).clamp(min=0))
    # Not batch_repeat_interleave, which caches of recurrent layers have not.
    cache.reorder_cache(torch.arange(len(ids_PT), device=ids_PT.device).repeat_interleave(samples))
    return cache


def compute(
    causal: Any, cache: DynamicCache, ids: Tensor, virtual_KH: Tensor | None, mask: Any, places: Tensor
) -> None:
    """Put tokens into a cache, without the output embedding, whose logits nobody reads."""
    backbone(causal)(
        **embed(causal, ids, virtual_KH),
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
        compute(causal, computed, row.ids_1L, virtual_KH, attention_masks(causal, row), row.positions_1L)
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
    rows = [[*prefix, *ids] for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
    return padded_left(rows, tokenizer.pad_token_id, device)


def padded_left(rows: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Left-padded ids and attention mask, each (P, T), of rows of ids."""
    width = max(map(len, rows))
    ids_PT = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
    mask_PT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids_PT.to(device), mask_PT.to(device)


def read_draw(tokenizer: Any, ids: list[int], seed: int, prompt_tokens: int, ends: set[int]) -> Draw:
    """Cut one generated row at its first end token."""
    end = next((index for index, token in enumerate(ids) if token in ends), None)
    answer = ids if end is None else ids[:end]
    return Draw(
        text=tokenizer.decode(answer, skip_special_tokens=True),
        seed=seed,
        tokens=len(answer) + (end is not None),
        prompt_tokens=prompt_tokens,
        finish_reason="length" if end is None else "stop",
        ids=tuple(ids if end is None else ids[: end + 1]),
        vocabulary=vocabulary_of(tokenizer),
    )


def end_token_ids(model: Any, tokenizer: Any) -> set[int]:
    """The token ids at which this model ends an answer."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return {token for token in [*ids, tokenizer.eos_token_id] if token is not None}
