"""That our way of computing is the models' own, for tiny random models of many architectures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from annotation.records import Sampling
from rlhf.models.hidden_states import mean_states, summed_logps
from rlhf.models.loading.base_weights import leave_nothing_to_chance
from rlhf.models.loading.loaded_policies import context_of
from rlhf.models.packing import pad
from rlhf.models.sampling.batch import AnswerBatch
from rlhf.models.self_test.trial import Numbers, try_loaded
from tests.architectures import SETTINGS, VOCABULARY, built, tiny

REFUSED = {"bert", "electra", "recurrent_gemma"}
FAMILIES = sorted({*SETTINGS} - REFUSED)
PADDED = {
    *("bamba", "bloom", "falcon_h1", "gpt_neo", "granitemoehybrid", "lfm2", "llama4_text", "mamba", "mpt"),
    *("nemotron_h", "openai-gpt", "qwen3_5_text", "qwen3_next"),
}
# Do not take virtual tokens as they take words, or don't go on from them.
WORDS_ONLY = {"falcon_h1", "gemma3n_text", "gemma4_text", "mamba", "openai-gpt"}
LONGROPE = {"type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
# Prompts of different lengths, of which the first has two answers; some reach far beyond `architectures.WINDOW`.
LENGTHS = ((9, 7), (9, 14), (4, 11))


def sequences() -> list[tuple[list[int], list[int]]]:
    """Random (prompt, answer) ids; the first two share their prompt."""
    random = torch.Generator().manual_seed(1)
    drawn = [torch.randint(3, VOCABULARY, (2, 20), generator=random).tolist() for _ in LENGTHS]
    drawn[1][0] = drawn[0][0]
    return [(prompt[:a], answer[:b]) for (prompt, answer), (a, b) in zip(drawn, LENGTHS, strict=True)]


@torch.no_grad()
def own_logps(model: object, prompt: list[int], answer: list[int]) -> Tensor:
    """log p of an answer by the model's own logits, nothing beside it. Scalar."""
    logits_TV = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()  # type: ignore[operator]
    logps_TV = logits_TV.log_softmax(-1)[len(prompt) - 1 : -1]
    return logps_TV[range(len(answer)), answer].sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_the_models_own_logits(family: str) -> None:
    """Soft-caps, scales and biases included; packed where the model can be."""
    model = tiny(family)
    expected = torch.stack([own_logps(model, *sequence) for sequence in sequences()])
    with torch.no_grad():
        ours = summed_logps(model, *pad(sequences(), 0), [0, 0, 1])
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gemma3n_text", "llama", "mamba"])
def test_an_answers_states_at_any_depth_do_not_depend_on_what_is_beside_it(family: str) -> None:
    model = tiny(family)
    for depth in (0.0, 0.5, 1.0):
        alone = torch.cat([mean_states(model, [one], 0, depth) for one in sequences()])
        assert alone.shape == (3, 32)
        torch.testing.assert_close(mean_states(model, sequences(), 0, depth), alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_calls_in_train_mode_agree_with_each_other_and_with_eval_mode(family: str) -> None:
    """In values and in gradients: no dropout, no jitter, no expert is drawn, whatever a model calls it."""
    ids_BT = torch.tensor([[*prompt, *answer] for prompt, answer in sequences()[:1]])
    model = built(family)
    torch.manual_seed(0)
    found = []
    leave_nothing_to_chance(model.train())
    for train in (True, True, False):
        model.train(train)
        model.zero_grad()
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        logits_BTV.logsumexp(-1).sum().backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        found.append((logits_BTV.detach(), gradients))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_each_family_passes_its_self_test(family: str) -> None:
    """Packed are those that neither read a row in its order nor have windows of their own."""
    model = built(family)
    leave_nothing_to_chance(model.train())
    result = try_loaded(model)
    assert result.packs == (family not in PADDED)
    assert result.virtual_tokens == (family not in WORDS_ONLY)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_enters_a_batch_late_is_drawn_as_if_it_were_alone(family: str) -> None:
    """Whether its prompt is longer or shorter than what stands there; also what was there already."""
    model, ends = tiny(family), [VOCABULARY - 1]
    three, six = (GenerationConfig(max_new_tokens=tokens, eos_token_id=ends, pad_token_id=0) for tokens in (3, 6))

    def begun(*lengths: int) -> AnswerBatch:
        asked = [(length, " ".join(map(str, range(3, 3 + length))), length) for length in lengths]
        return AnswerBatch.begun(model, Numbers(), asked, None, Sampling(max_new_tokens=9))

    batch = begun(7)
    if not batch.can_grow:  # more is kept of a row than its tokens' states, or the latest of them only
        assert family not in {"cohere", "gpt2", "granite", "llama", "phi"}
        return
    batch.go_on(three, [])
    batch = batch.joined(begun(16, 2, 7))
    batch.go_on(six, [])
    for length, drawn in zip(batch.places, batch.drawn, strict=True):
        alone = begun(length)
        alone.go_on(six, [])
        assert len(alone.drawn[0]) > 1
        expected = alone.drawn[0]  # shorter where it has ended, after which a row of several has padding
        assert drawn[: len(expected)] == expected, length
    rest = batch.only([0, 2, 3])
    assert rest.ids_BT.shape[1] == 7 + 9, "what only the longest prompt needed is gone"


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"model_type": "llama", "max_position_embeddings": 77}, 77),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "max_position_embeddings": 77}}, 77),
        # Nested, and left out because it is the architecture's usual one.
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, 131_072),
        ({"model_type": "gpt2", "n_positions": 77}, 77),
        ({"model_type": "mpt", "max_seq_len": 77}, 77),
        # Longer texts would change what is computed of those beside them.
        ({"model_type": "phi3", "rope_scaling": LONGROPE, "original_max_position_embeddings": 77}, 77),
        (
            {"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 77},
            77,
        ),
        ({"model_type": "mamba"}, math.inf),
    ],
)
def test_a_models_context_is_found_however_its_configuration_says_it(
    tmp_path: Path, config: dict[str, Any], context: float
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    assert context_of(tmp_path) == context
