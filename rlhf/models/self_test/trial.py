"""A model's self-test: padded, packed, virtual tokens, adapters, own logits, answers drawn with and without a cache.

`python -m rlhf.models.self_test.trial DIRECTORY` loads the model, on the processor, and prints what is true of it, or
says on stderr why it can't be used. What is learnt, checked and judged stands on log-probabilities of hidden states,
on sharing a prompt, on train mode being eval mode: where a model does anything else, figures would be wrong and nobody
would see it. Random tokens show it; sliding windows are made narrow, so that a few tokens reach beyond them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from peft import get_peft_model
from safetensors import SafetensorError
from torch import Tensor

from annotation.environment import keep_private
from annotation.records import Sampling, UserError
from annotation.translation import _
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models.base import base_model, base_precision
from rlhf.models.hidden_states import narrow_window, packable, random_ids, summed_logps, takes_embeddings
from rlhf.models.loading.adapter_loading import adapter_config, hung_on
from rlhf.models.loading.base_weights import leave_nothing_to_chance, load_whole, placement
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.memory import machines
from rlhf.models.model_files import CAUSAL, check_weights, kinds_in
from rlhf.models.packing import pad
from rlhf.models.sampling.drawing import draw
from rlhf.models.sampling.prompt_cache import shares_prompts
from rlhf.models.sampling.seeded_sampler import PLAUSIBLE, SeededSampler
from rlhf.models.self_test_results import SelfTestResult

# How many tokens the answers have that are computed in every way.
ANSWERS: Final = (5, 12, 8)
# How far two ways of computing a token's log-probability may lie apart, in nats, and how far below the largest a drawn
# token's score. Measured on the embedded model with random tokens, which are the worst for rounding: apart lie in
# float32 1e-5, in float16 0.007, in bfloat16 0.08, in NF4 0.18, in 8 bits (LLM.int8) 0.11 at most; what is computed
# wrongly is off by more: logits that are 5% too large by 0.40 at least, a padding that is read by 0.75, a soft cap that
# is left out by 1.4, a neighbour in the row by 3.8. An answer that stands one place too far (0.06 to 0.44) is surely
# seen in float32 alone, which is why that is taken wherever it fits.
ROUNDED: Final = 0.25
TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 0.05}
# Without the tail of unlikely tokens, which the sampler tells apart by itself: a little rounding makes another one win,
# and that says nothing about the model.
SAMPLING: Final = Sampling(temperature=1.0, min_p=PLAUSIBLE, max_new_tokens=6)
SEEDS: Final = ((1, 2), (3, 4))
# Of the free memory, what float32 weights may take, for which rounding hides nothing.
FLOAT32_SHARE: Final = 0.6

Ids = Sequence[int]


def try_model(directory: Path) -> SelfTestResult:
    """What is true of the model in this directory. Raises UserError saying why it, or its tokenizer, can't be used."""
    load_tokenizer(directory)
    how = base_precision.quantisation(directory)
    model = load_for_trial(directory) if not how else load_quantised_for_trial(directory, how)
    kind = model.config.model_type
    if kind not in kinds_in(CAUSAL):
        stored = _("What is trained of it is stored as a '{kind}', which transformers can't load as a language model.")
        raise unusable(stored.format(kind=kind))
    leave_nothing_to_chance(model.train())
    result = try_loaded(model)
    return replace(result, adapters=keeps_adapters(model, directory))


def load_for_trial(directory: Path) -> Any:
    """The model on the processor, in float32 where that fits. Raises UserError where it can't be loaded."""
    parameters = sum(torch.Size(tensor.shape).numel() for tensor in check_weights(directory).values())
    load_whole(directory, dtype="auto", device_map="meta")  # before memory is taken for what a configuration says
    fits = 4 * parameters < FLOAT32_SHARE * machines.free_memory()
    return load_whole(directory, dtype=torch.float32 if fits else "auto")


@torch.no_grad()
def load_quantised_for_trial(directory: Path, how: str) -> Any:
    """A model as it is stored, on the device that answers where it takes one.

    Raises UserError where it lacks weights, NotHere where a method other than 4 bits lacks a package or a device here.
    """
    if how == base_precision.FOUR_BITS:
        return load_whole(directory, dtype="auto")
    try:
        model = load_whole(directory, dtype="auto", device_map=placement())
        (ids,) = random_ids(model, (4,))
        own_logits(model, ids)
    except UserError:
        raise
    except Exception as error:
        raise base_model.NotHere(in_a_line(error)) from error
    return model


@torch.no_grad()
def try_loaded(model: Any) -> SelfTestResult:
    """What is true of a model in train mode that leaves nothing to chance. Raises UserError saying what is wrong."""
    try:
        return tried(model)
    except (UserError, MemoryError, torch.OutOfMemoryError):  # the machine's, which say nothing of the model
        raise
    except Exception as error:  # whatever an architecture that nobody here has met makes of it
        raise unusable(_("It fails ({said}).").format(said=in_a_line(error))) from error


def tried(model: Any) -> SelfTestResult:
    """As `try_loaded`, where the model itself does not fail."""
    one, other, *answers = random_ids(model, (9, 4, *ANSWERS))
    sequences = list(zip((one, one, other), answers, strict=True))
    with narrow_window(model.config.get_text_config()):
        own_B = torch.stack([own_logp(model, *sequence) for sequence in sequences])
        again_B = torch.stack([own_logp(model, *sequence) for sequence in sequences])
        demand(model, own_B, again_B, _("In training it computes something else each time."))
        alone_B = torch.cat([summed_logps(model, *padded(model, [one]), float32=True) for one in sequences])
        demand(model, own_B, alone_B, _("Its logits are not made of its hidden states in a way that Prefloop knows."))
        padded_B = summed_logps(model, *padded(model, sequences), packed=False, float32=True)
        demand(model, own_B, padded_B, _("Beside a longer answer it computes something else of an answer than alone."))
        packs = packable(model)
        model.eval()
        answering_B = torch.stack([own_logp(model, *sequence) for sequence in sequences])
        demand(model, own_B, answering_B, _("When it answers it computes something else than in training."))
        demand_drawn(model, [one, other])
    shares = shares_prompts(model)
    return SelfTestResult(packs, shares, shares and takes_embeddings(model))


def padded(model: Any, sequences: Sequence[tuple[Ids, Ids]]) -> tuple[Tensor, Tensor, Tensor]:
    """(Prompt, answer) ids as rows of one length on the model's device."""
    ids_BT, attention_BT, completion_BT = (part.to(model.device) for part in pad(sequences, 0))
    return ids_BT, attention_BT, completion_BT


def own_logits(model: Any, ids: Ids) -> Tensor:
    """The model's own logits at each token, with nothing beside it and without a cache. (T, V), float32."""
    logits_TV: Tensor = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0]
    return logits_TV.float()


def own_logp(model: Any, prompt: Ids, answer: Ids) -> Tensor:
    """log p of an answer by the model's own logits. Scalar."""
    logps_TV = own_logits(model, [*prompt, *answer]).log_softmax(-1)[len(prompt) - 1 : -1]
    return logps_TV[range(len(answer)), list(answer)].sum()


def tolerance(model: Any) -> float:
    """How far ways of computing may lie apart: weights that are stored quantised round whatever computes with them."""
    quantised = getattr(model.config, "quantization_config", None) is not None
    return ROUNDED if quantised else TOLERANCE.get(model.dtype, ROUNDED)


def demand(model: Any, expected_B: Tensor, found_B: Tensor, otherwise: str) -> None:
    """Raises UserError where the log-probabilities of answers lie apart."""
    tokens_B = torch.tensor(ANSWERS, device=found_B.device)
    apart = float(((found_B - expected_B).abs() / tokens_B).max())
    if not apart <= tolerance(model):
        said = _("{otherwise} Log-probabilities differ by {apart:.2g} nats a token.")
        raise unusable(said.format(otherwise=otherwise, apart=apart))


def demand_drawn(model: Any, prompts: Sequence[Ids]) -> None:
    """Raises UserError where tokens drawn with a cache, several answers a prompt, are not the draws of own logits."""
    texts = [" ".join(map(str, prompt)) for prompt in prompts]
    for prompt, row in zip(prompts, draw(model, Numbers(), texts, SEEDS, SAMPLING), strict=True):
        for drawn in row:
            sampler = SeededSampler([drawn.seed], SAMPLING)
            logits_TV = own_logits(model, [*prompt, *drawn.ids])[len(prompt) - 1 : -1]
            for token, logits_V in zip(drawn.ids, logits_TV, strict=True):
                scores_V = sampler(torch.tensor([[]], device=model.device), logits_V[None])[0]
                if not scores_V.max() - scores_V[token] <= tolerance(model):
                    raise unusable(_("What it draws with a cache is not what it says without."))


@torch.no_grad()
def keeps_adapters(model: Any, directory: Path) -> bool:
    """Whether LoRA on all of a model's layers computes, and does so once it was stored. Leaves it with an adapter."""
    (ids,) = random_ids(model, (9,))
    try:
        spec = TrainingSpec(method="lora", lora_r=1, lora_alpha=1)  # so that float16 holds what it computes
        adapted = get_peft_model(model, adapter_config(spec, directory))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)  # a fresh one changes nothing
        expected_TV = own_logits(adapted, ids)
        with TemporaryDirectory() as stored:
            adapted.save_pretrained(stored)
            found_TV = own_logits(hung_on(adapted.unload(), Path(stored)), ids)
    except (OSError, SafetensorError, MemoryError, torch.OutOfMemoryError):  # the machine's
        raise
    except Exception:  # whatever an architecture that nobody here has met makes of it
        return False
    return bool((found_TV - expected_TV).abs().max() <= tolerance(model))


class Numbers:
    """A tokenizer of texts that are token ids already."""

    pad_token_id, eos_token_id = 0, None
    vocabulary = ""

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def decode(self, ids: Ids, **_: Any) -> str:
        """Nothing: nobody reads it."""
        return ""


def in_a_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def unusable(reason: str) -> UserError:
    return UserError(_("This model can't be computed rightly here. {reason} Choose another one.").format(reason=reason))


def main(directory: str) -> int:
    """Try a model, and print its result as JSON; a sentence on stderr where it can't be used."""
    keep_private()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        print(json.dumps(asdict(try_model(Path(directory)))))
    except UserError as error:
        print(error, file=sys.stderr)
        return base_model.REFUSED
    except base_model.NotHere as reason:
        print(reason, file=sys.stderr)
        return base_model.NOT_HERE
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
