"""Draw answers from a policy: many prompts at once, several samples each, one prefill a prompt, one seed an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from annotation.records import Prompt, Response, Sampling, TokenIds, UserError
from annotation.translation import _
from rlhf.models.chat_template import tokenizing, vocabulary_of
from rlhf.models.hidden_states import inner_model, virtual_ids, virtual_tokens
from rlhf.models.registry import Policy
from rlhf.models.sampling.laid_out_weights import weights_laid_out
from rlhf.models.sampling.prompt_cache import SPELL, left_padded, own_settings_aside, prefilled, shares_prompts
from rlhf.models.sampling.seeded_sampler import SeededSampler

# How often a draw that people watch shows what has been written.
SHOW_SECONDS = 0.5
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
    texts so far by prompt and sample, at most every `show_seconds`; but for rounding it changes nothing of what
    is drawn.
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
    sampler = SeededSampler(flat_seeds, sampling)
    # Who watches waits for the first word.
    with nullcontext() if written is not None else weights_laid_out(causal):
        answers = continued(causal, ids_BT, mask_BT, cache, settings, sampler, criteria)
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
            said = _("A '{kind}' model can't go on from virtual tokens. Train it with LoRA instead.")
            raise UserError(said.format(kind=causal.config.model_type))
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


def read_draw(tokenizer: Any, ids: list[int], seed: int, prompt_tokens: int, ends: set[int]) -> Draw:
    """Cut one generated row at its first end token."""
    end = next((index for index, token in enumerate(ids) if token in ends), None)
    answer = ids if end is None else ids[:end]
    with tokenizing():
        text = tokenizer.decode(answer, skip_special_tokens=True)
    return Draw(
        text=text,
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
