"""A policy's log-probabilities of the probes' answers, several probes in one pass; what is known is not asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from annotation.database import Database
from rlhf.evaluation.finished_checks import measured_before
from rlhf.evaluation.probes import FAMILIES, Probe, ProbeFigures, read_probes
from rlhf.models.hidden_states import inner_model, summed_logps
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.packing import pad
from rlhf.models.registry import Policy
from rlhf.models.tokenise import render, text_ids

# Probes whose answers are scored together.
PROBES_PER_BATCH = 32
# Part of what names the token ids; raised whenever the same ids come to other chances. 2: logits are not rounded.
SCORING = 2

Sequences = list[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class TokenisedProbe:
    """A probe, and (prompt, answer) token ids of each log-probability that it takes."""

    probe: Probe
    sequences: Sequences


def tokenise_probes(models: LoadedPolicies) -> list[TokenisedProbe]:
    """The probes as token ids in the model's chat template. Raises TemplateRefused if it takes no single question."""
    return [tokenised(models, probe) for probe in read_probes()]


def tokenised(models: LoadedPolicies, probe: Probe) -> TokenisedProbe:
    """A probe as token ids.

    Prompt and answer are tokenised as one text, as a model would read them. Where one token would hold the end of the
    prompt and the beginning of the answer it counts to the answer, and so do the ids after it.
    """
    sequences: Sequences = []
    for prompt in probe.prompts:
        rendered = render(models.tokenizer, [{"role": "user", "content": prompt}])
        whole = [text_ids(models.tokenizer, rendered + probe.begin + answer) for answer in probe.answers]
        own = text_ids(models.tokenizer, rendered + probe.begin)
        shared = sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(own, *whole, strict=False)))
        sequences += [(ids[:shared], ids[shared:]) for ids in whole]
    return TokenisedProbe(probe, sequences)


def name_of(probes: Sequence[TokenisedProbe]) -> str:
    asked = [SCORING, [(one.probe.family, one.sequences) for one in probes]]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def probe_figures(
    db: Database,
    models: LoadedPolicies,
    policy: Policy,
    probes: Sequence[TokenisedProbe],
    between: Callable[[], None] = lambda: None,
) -> ProbeFigures:
    """The chances that a policy gives to what is right; those of an earlier check where it asked the same.

    `between` is called before each batch; it may raise to stop.
    """
    asked = name_of(probes)
    for before in measured_before(db, policy):
        if before.probes and (before.probes.precision, before.probes.asked) == (policy.precision, asked):
            return before.probes
    model = models.use(policy)
    chances: dict[str, list[float]] = {family: [] for family in FAMILIES}
    for start in range(0, len(probes), PROBES_PER_BATCH):
        between()
        batch = probes[start : start + PROBES_PER_BATCH]
        for one, logps in zip(batch, logps_of_batch(model, models.tokenizer.pad_token_id, batch), strict=True):
            chances[one.probe.family].append(one.probe.chance(logps))
    return ProbeFigures(asked, policy.precision, {family: tuple(found) for family, found in chances.items()})


@torch.no_grad()
def logps_of_batch(model: object, pad_id: int, batch: Sequence[TokenisedProbe]) -> list[list[float]]:
    """Of each probe log p(answer | prompt) of its sequences, in nats; the answers of one prompt share its pass."""
    sequences = [sequence for one in batch for sequence in one.sequences]
    groups: dict[tuple[int, ...], int] = {}
    group_B = [groups.setdefault((number, *prompt), len(groups))
               for number, one in enumerate(batch) for prompt, _ in one.sequences]  # fmt: skip
    ids_BT, attention_BT, completion_BT = (part.to(inner_model(model).device) for part in pad(sequences, pad_id))
    logps = iter(summed_logps(model, ids_BT, attention_BT, completion_BT, group_B, float32=True).tolist())
    return [[next(logps) for _ in one.sequences] for one in batch]
