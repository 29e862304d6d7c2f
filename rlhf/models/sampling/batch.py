"""Answers that are drawn at the same time: whoever has ended leaves the batch, and what waits enters it.

Shapes stand in the names: B rows, one of each answer; T columns, padded on the left; P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from annotation.records import Sampling, UserError
from annotation.translation import _
from rlhf.models.chat_template import tokenizing
from rlhf.models.hidden_states import free_on, virtual_ids
from rlhf.models.sampling.prompt_cache import (
    RoomyLayer,
    left_padded,
    own_settings_aside,
    prefilled,
    shares_prompts,
)
from rlhf.models.sampling.seeded_sampler import SeededSampler


@dataclass
class AnswerBatch:
    """Rows of prompts and what has been drawn after them."""

    causal: Any
    places: list[int]
    """Which of all answers that were asked for each row is."""
    drawn: list[list[int]]
    """The tokens of each row so far, its prompt's left out."""
    prompt_tokens: list[int]
    ids_BT: Tensor
    mask_BT: Tensor
    cache: DynamicCache | None
    """Of all columns but the last; None where the model can't go on from that of a prompt."""
    sampler: SeededSampler

    @classmethod
    def begun(
        cls,
        causal: Any,
        tokenizer: Any,
        asked: Sequence[tuple[int, str, int]],
        virtual_KH: Tensor | None,
        sampling: Sampling,
    ) -> AnswerBatch:
        """Place, prompt and seed of each answer → their rows; a prompt is computed once for all its answers.

        Raises UserError where the model would have to go on from virtual tokens, and can't.
        """
        places, texts, seeds = zip(*asked, strict=True)
        prompts = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        ids_PT, mask_PT = left_padded(tokenizer, list(prompts), virtual_ids(causal, virtual_KH), causal.device)
        of_prompts = [prompts[text] for text in texts]
        shared = shares_prompts(causal)
        if virtual_KH is not None and not shared:
            said = _("A '{kind}' model can't go on from virtual tokens. Train it with LoRA instead.")
            raise UserError(said.format(kind=causal.config.model_type))
        cache = prefilled(causal, ids_PT, mask_PT, virtual_KH, of_prompts) if shared else None
        if virtual_KH is not None:
            # They are in the cache; what stands for them is never looked up again.
            ids_PT = ids_PT.where(ids_PT < causal.get_input_embeddings().weight.shape[0], tokenizer.pad_token_id)
        tokens_P = (mask_PT.sum(-1) - (0 if virtual_KH is None else len(virtual_KH))).tolist()
        return cls(
            causal=causal,
            places=list(places),
            drawn=[[] for _ in places],
            prompt_tokens=[tokens_P[prompt] for prompt in of_prompts],
            ids_BT=ids_PT[of_prompts],
            mask_BT=mask_PT[of_prompts],
            cache=cache,
            sampler=SeededSampler(seeds, sampling),
        )

    @property
    def can_grow(self) -> bool:
        """Whether rows can enter: where more is kept of the present ones than the states of their tokens, none can."""
        return self.cache is not None and all(isinstance(layer, RoomyLayer) for layer in self.cache.layers)

    def joined(self, others: AnswerBatch) -> AnswerBatch:
        """These rows and those of another batch of this model, with as many columns."""
        width = max(self.ids_BT.shape[1], others.ids_BT.shape[1])
        self.widen(width)
        others.widen(width)
        assert self.cache is not None
        assert others.cache is not None
        for layer, entering in zip(self.cache.layers, others.cache.layers, strict=True):
            layer.keys, layer.values = (
                torch.cat(both) for both in ((layer.keys, entering.keys), (layer.values, entering.values))
            )
        self.sampler.enter(others.sampler)
        return replace(
            self,
            places=self.places + others.places,
            drawn=self.drawn + others.drawn,
            prompt_tokens=self.prompt_tokens + others.prompt_tokens,
            ids_BT=torch.cat([self.ids_BT, others.ids_BT]),
            mask_BT=torch.cat([self.mask_BT, others.mask_BT]),
        )

    def widen(self, width: int) -> None:
        """Put padding before all rows, or take some away, so that they have this many columns."""
        more = width - self.ids_BT.shape[1]
        self.ids_BT, self.mask_BT = F.pad(self.ids_BT, (more, 0)), F.pad(self.mask_BT, (more, 0))
        assert self.cache is not None
        for layer in self.cache.layers:
            layer.keys, layer.values = (F.pad(states, (0, 0, more, 0)) for states in (layer.keys, layer.values))

    def seed_of(self, row: int) -> int:
        return int(self.sampler.seeds_B[row])

    def go_on(self, settings: GenerationConfig, criteria: Sequence[Any]) -> None:
        """Draw further tokens of every row, up to `settings.max_new_tokens`."""
        with own_settings_aside(self.causal):
            ids_BT = self.causal.generate(
                input_ids=self.ids_BT,
                attention_mask=self.mask_BT,
                **({} if self.cache is None else {"past_key_values": self.cache}),
                generation_config=settings,
                logits_processor=LogitsProcessorList([self.sampler]),
                stopping_criteria=StoppingCriteriaList(list(criteria)),
            )
        new_BT = ids_BT[:, self.ids_BT.shape[1] :]
        self.ids_BT, self.mask_BT = ids_BT, torch.cat([self.mask_BT, torch.ones_like(new_BT)], dim=1)
        for row, ids in zip(self.drawn, new_BT.tolist(), strict=True):
            row += ids

    def only(self, going: Sequence[int]) -> AnswerBatch:
        """Some of the rows, without the columns that are padding in all of them."""
        self.sampler.leave(torch.tensor(going))
        if self.cache is not None:
            self.cache.reorder_cache(torch.tensor(going, device=self.ids_BT.device))
        rest = replace(
            self,
            places=[self.places[row] for row in going],
            drawn=[self.drawn[row] for row in going],
            prompt_tokens=[self.prompt_tokens[row] for row in going],
            ids_BT=self.ids_BT[going],
            mask_BT=self.mask_BT[going],
        )
        padding = int((rest.mask_BT.sum(0) == 0).long().cumprod(0).sum())
        if padding and rest.can_grow:
            rest.widen(rest.ids_BT.shape[1] - padding)
        return rest


# Of the free memory, what the states of answers' tokens may take: whoever leaves or enters has them copied.
STATES_SHARE: Final = 0.3
# So few prompts tell what a model keeps of a token.
FEW: Final = 4
# Of more answers it is asked how many fit.
FIT_ANYWAY: Final = 16
# Where each token has the whole text computed again, what that takes is not known beforehand.
MOST_WITHOUT_CACHE: Final = 60


def rows_that_fit(
    causal: Any, tokenizer: Any, asked: Sequence[tuple[int, str, int]], virtual_KH: Tensor | None, sampling: Sampling
) -> int:
    """Of how many of these answers the free memory of the model's device holds the states at once; at least 1."""
    few = AnswerBatch.begun(causal, tokenizer, asked[:FEW], virtual_KH, sampling)
    if few.cache is None:
        return MOST_WITHOUT_CACHE
    kept = [getattr(layer, name, None) for layer in few.cache.layers for name in ("keys", "values")]
    of_token = sum(states.nbytes for states in kept if isinstance(states, Tensor)) / few.ids_BT.numel()
    del few, kept
    with tokenizing():
        ids = tokenizer(list({text for _, text, _ in asked}), add_special_tokens=False)["input_ids"]
    longest = max(map(len, ids)) + len(virtual_ids(causal, virtual_KH)) + sampling.max_new_tokens
    return max(1, int(STATES_SHARE * free_on(causal.device) / max(1, of_token * longest)))
