"""Small heads: the states that they score, what they learn, and where they disagree."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.models.hidden_states import mean_states
from rlhf.models.orders.heads import HEADS, StateScale, ensemble, fitted, rankings_of, votes
from tests.machine_fixtures import Machine

FEATURES = 12


def test_states_are_the_mean_over_the_answers_own_tokens(machine: Machine) -> None:
    """In whatever order, beside answers to the same prompt and to others, of a layer and of the last."""
    model = AutoModelForCausalLM.from_pretrained(machine.model, dtype=torch.float32).eval()
    answers = [((5, 6, 7), (8, 9)), ((10, 11), (12,)), ((5, 6, 7), (13, 14, 15, 16))]
    for depth, layer in ((0.5, 1), (1.0, 2)):
        found = mean_states(model, answers, 0, depth)
        for (prompt, ids), mean_H in zip(answers, found, strict=True):
            with torch.no_grad():
                states = model(torch.tensor([[*prompt, *ids]]), output_hidden_states=True).hidden_states[layer][0]
            torch.testing.assert_close(mean_H, states[len(prompt) :].mean(0), atol=1e-4, rtol=1e-4)


def test_heads_agree_on_what_was_judged_often_and_not_on_what_nobody_knows() -> None:
    """The first feature decides in all comparisons, of two, three and four answers; the second never differs."""
    source = torch.Generator().manual_seed(2)
    states = [torch.randn(2 + number % 3, FEATURES, generator=source) for number in range(60)]
    for one_KH in states:
        one_KH[:, 1] = 0
    orders = [
        [(a, b) if one_KH[a, 0] > one_KH[b, 0] else (b, a) for a, b in combinations(range(len(one_KH)), 2)]
        for one_KH in states
    ]
    scale = StateScale.of(torch.cat(states))
    batch = rankings_of([scale.scaled(one_KH) for one_KH in states], orders)
    heads_MH = ensemble(*batch, torch.Generator().manual_seed(3))
    known, unknown = torch.zeros(3, FEATURES), torch.zeros(3, FEATURES)
    known[:, 0] = unknown[:, 1] = torch.tensor([-2.0, 0.0, 2.0])
    assert votes(heads_MH, known / FEATURES**0.5) == [0, 0, HEADS]
    assert max(votes(heads_MH, unknown / FEATURES**0.5)) < HEADS


def test_padding_of_a_batch_changes_no_head() -> None:
    """Pairs alone, and beside a ranking of four that says nothing."""
    source = torch.Generator().manual_seed(4)
    pairs = [torch.randn(2, FEATURES, generator=source) for _ in range(5)]
    priors_MH = torch.zeros(1, FEATURES)
    alone = fitted(*rankings_of(pairs, [[(0, 1)]] * 5), priors_MH)
    other = torch.randn(4, FEATURES, generator=source)
    beside = fitted(*rankings_of([*pairs, other], [*[[(0, 1)]] * 5, []]), priors_MH)
    assert beside.tolist()[0] == pytest.approx(alone.tolist()[0], abs=1e-4)
