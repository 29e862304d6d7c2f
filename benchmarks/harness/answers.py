"""Let policies answer prompts, in a process of its own: what `benchmarks.methods` measures accuracy, gold and KL by.

`python -m benchmarks.harness.answers DATA_DIR REQUEST RESULT`. The request names policies (revision, and the
precision to hold the base in), prompts, how answers are drawn (`samples` each; sample k of prompt i has the seed `seed`
+ i · samples + k under every policy), and perhaps a reference; the result has, by policy, prompt and sample: text,
tokens, whether it ended, and the KL.

The KL is that of whole next-token distributions at the answer's own tokens, policy against reference, at temperature 1,
summed over the answer: its mean over answers drawn at temperature 1 is the sequence KL, and it varies less than the
sampled log-ratio, whose expectation it is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from annotation.database import open_database
from annotation.records import Sampling
from rlhf.models import registry
from rlhf.workers import worker

PROMPTS_TOGETHER = 30
SCORED_TOGETHER = 8


def answer(data_dir: Path, request: Mapping[str, Any]) -> list[list[list[dict[str, Any]]]]:
    """The answers asked for, by policy, prompt and sample."""
    from rlhf.models.base.base_model import ready
    from rlhf.models.loading.loaded_policies import LoadedPolicies

    db = open_database(data_dir)
    models = LoadedPolicies(db, data_dir, ready(data_dir, request["model"]).path)
    reference = request["reference"] and registry.by_revision(db, request["reference"])
    found = []
    for revision, precision in request["policies"]:
        policy = registry.by_revision(db, revision)
        policy = replace(policy, precision=precision) if precision else policy
        if not reference:
            models.keep_only(policy)
        found.append(answers_of(models, policy, request, reference))
        print(f"{revision} has answered", flush=True)
    return found


def answers_of(models: Any, policy: Any, request: Mapping[str, Any], reference: Any) -> list[list[dict[str, Any]]]:
    """One policy's answers by prompt and sample."""
    from rlhf.models.sampling.drawing import draw

    samples, sampling = request["samples"], Sampling(**request["sampling"])
    texts = [models.feed(messages, sampling.max_new_tokens) for messages in request["prompts"]]
    found: list[list[dict[str, Any]]] = []
    for start in range(0, len(texts), PROMPTS_TOGETHER):
        part = texts[start : start + PROMPTS_TOGETHER]
        first = request["seed"] + start * samples
        seeds = [[first + place * samples + sample for sample in range(samples)] for place in range(len(part))]
        drawn = draw(models.use(policy), models.tokenizer, part, seeds, sampling)
        found += [
            [
                {
                    "text": one.text,
                    "ids": list(one.ids),
                    "prompt": text,
                    "prompt_tokens": one.prompt_tokens,
                    "ended": one.finish_reason == "stop",
                }
                for one in row
            ]
            for text, row in zip(part, drawn, strict=True)
        ]
    if reference:
        flat = [one for row in found for one in row]
        for start in range(0, len(flat), SCORED_TOGETHER):
            batch = flat[start : start + SCORED_TOGETHER]
            for one, kl in zip(batch, sequence_kl(models, policy, reference, batch), strict=True):
                one["kl"] = kl
    return found


def sequence_kl(models: Any, policy: Any, reference: Any, answers: Sequence[Mapping[str, Any]]) -> list[float]:
    """KL(policy || reference) summed over the tokens of each answer, in nats."""
    import torch

    from rlhf.algorithms.ppo.losses import compare_policies
    from rlhf.models.hidden_states import completions, head_of
    from rlhf.models.log_probabilities import sum_by_row
    from rlhf.models.packing import pad
    from rlhf.models.tokenise import text_ids

    sequences = [(text_ids(models.tokenizer, one["prompt"]), one["ids"]) for one in answers]
    batch = pad(sequences, models.tokenizer.pad_token_id)
    with torch.no_grad():
        model = models.use(reference)
        q, q_head = completions(model, *batch), head_of(model, float32=True)
        model = models.use(policy)
        p, p_head = completions(model, *batch), head_of(model, float32=True)
    terms = compare_policies(p.before_NH, p_head, q.before_NH, q_head, p.labels_N, 1.0)
    kl: list[float] = sum_by_row(terms.kl_N, p.rows_N, len(answers)).tolist()
    return kl


def main() -> None:
    """Answer a request."""
    data_dir, request, result = map(Path, sys.argv[1:])
    worker.prepare_process()
    found = answer(data_dir, json.loads(request.read_text("utf-8")))
    part = result.with_suffix(".part")
    part.write_text(json.dumps(found), "utf-8")
    part.replace(result)


if __name__ == "__main__":
    main()
