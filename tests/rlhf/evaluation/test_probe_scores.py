"""The log-probabilities that probes take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf.evaluation.probe_scores import TokenisedProbe, logps_of_batch
from rlhf.models.hidden_states import completions
from rlhf.models.loading.base_weights import load_for_answering
from rlhf.models.packing import pad
from tests.rlhf.evaluation.test_probes import CHOICE


@torch.no_grad()
def test_probes_are_scored_by_a_head_that_rounds_nothing(tiny_model: Path) -> None:
    """Those of a head in 16 bits are off by up to 0.07 nats a token, and the limit of a fall is 0.02."""
    model = load_for_answering(tiny_model, "bf16")
    sequences = [([5, 6, 7], [8, 9]), ([5, 6, 7], [10, 11, 12])]
    (found,) = logps_of_batch(model, 0, [TokenisedProbe(CHOICE, sequences)])
    states = completions(model, *pad(sequences, 0), [0, 0])
    logps_NV = (states.before_NH.double() @ model.lm_head.weight.double().T).log_softmax(-1)
    logps_N = logps_NV.gather(-1, states.labels_N[:, None])[:, 0]
    for row, logp in enumerate(found):
        assert logp == pytest.approx(float(logps_N[states.rows_N == row].sum()), abs=1e-4)
