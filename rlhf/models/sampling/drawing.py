"""Draw answers from a policy: many prompts at once, several samples each, one prefill a prompt, one seed an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

from annotation.records import Prompt, Response, Sampling, TokenIds, UserError
from annotation.translation import _
from rlhf.models.chat_template import tokenizing, vocabulary_of
from rlhf.models.hidden_states import inner_model, virtual_tokens
from rlhf.models.registry import Policy
from rlhf.models.sampling.batch import FIT_ANYWAY, AnswerBatch, rows_that_fit
from rlhf.models.sampling.laid_out_weights import weights_laid_out
from rlhf.models.sampling.prompt_cache import SPELL

# How often a draw that people watch shows what has been written.
SHOW_SECONDS = 0.5
# The share of a batch that has to be free for others to enter: their prompts take a pass of their own.
ROOM_TO_ENTER = 0.25
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
    """Sample len(seeds[i]) answers to rendered_prompts[i], all together; every prompt must ask for the same number.

    After each token `stop` is asked whether to end; then the list that is returned is empty. `written`, where given,
    gets the texts so far by prompt and sample, at most every `show_seconds`; but for rounding it changes nothing of
    what is drawn.
    """
    samples = len(seeds[0])
    if any(len(row) != samples for row in seeds):
        raise ValueError("Every prompt of one batch needs the same number of seeds.")

    def watch(start: int, ends: set[int]) -> StreamCallback:
        assert written is not None
        return StreamCallback(tokenizer, start, ends, samples, written, show_seconds)

    asked = [(text, seed) for text, row in zip(rendered_prompts, seeds, strict=True) for seed in row]
    watched = None if written is None else watch
    draws = dict(draw_in_turn(model, tokenizer, asked, sampling, len(asked), stop, watched))
    if len(draws) < len(asked):  # it was told to stop
        return []
    return [[draws[start + sample] for sample in range(samples)] for start in range(0, len(asked), samples)]


@torch.no_grad()
def draw_in_turn(
    model: Any,
    tokenizer: Any,
    asked: Sequence[tuple[str, int]],
    sampling: Sampling,
    together: int,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[int, set[int]], StreamCallback] | None = None,
) -> Iterator[tuple[int, Draw]]:
    """Sample an answer to each prompt by its seed, so many together; yields each with its place when it has ended.

    Where the model can go on from a repeated cache, a prompt is computed once for all its answers that begin together,
    and every SPELL tokens those that have ended leave, so that the others go on faster, and some that wait enter.
    After each token `stop` is asked whether to end; then no more come. `watch` makes of the column where answers begin,
    and of what ends them, who is told of all rows.
    """
    if asked and sampling.sampler != Sampling.sampler:
        raise UserError(_("Answers are not drawn by that sampler any more: leave “sampler” out of “sampling”."))
    causal, virtual_KH = inner_model(model), virtual_tokens(model)
    ends = end_token_ids(causal, tokenizer)
    settings = GenerationConfig(
        do_sample=False,  # the sampler's noise is in the scores already: their largest is the draw
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
    )
    waiting = [(place, text, seed) for place, (text, seed) in enumerate(asked)]
    batch: AnswerBatch | None = None
    if watch is None and len(asked) > FIT_ANYWAY:
        together = min(together, rows_that_fit(causal, tokenizer, waiting, virtual_KH, sampling))
    # Who watches waits for the first word.
    with nullcontext() if watch is not None or not asked else weights_laid_out(causal):
        while waiting or batch is not None:
            room = together if batch is None else (together - len(batch.places)) * batch.can_grow
            if waiting and room >= ROOM_TO_ENTER * together:
                new = AnswerBatch.begun(causal, tokenizer, waiting[:room], virtual_KH, sampling)
                batch, waiting = new if batch is None else batch.joined(new), waiting[room:]
            assert batch is not None
            criteria: list[Any] = [StopWhen(stop)]
            if watch is not None:
                criteria.append(watch(batch.ids_BT.shape[1], ends))
            left = sampling.max_new_tokens - max(map(len, batch.drawn))
            settings.max_new_tokens = left if watch is not None or batch.cache is None else min(left, SPELL)
            batch.go_on(settings, criteria)
            if stop():  # what was cut off would be taken for answers that ran into the limit
                return
            over = [len(ids) >= sampling.max_new_tokens or not ends.isdisjoint(ids) for ids in batch.drawn]
            draws = [
                (place, read_draw(tokenizer, ids, batch.seed_of(row), batch.prompt_tokens[row], ends))
                for row, (place, ids) in enumerate(zip(batch.places, batch.drawn, strict=True))
                if over[row]
            ]
            if draws:
                going = [row for row, has_ended in enumerate(over) if not has_ended]
                batch = batch.only(going) if going else None
            yield from draws


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
