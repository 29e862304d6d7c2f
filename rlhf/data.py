"""Snapshot rows to token ids and padded batches; a pair stays one object to the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from annotation.records import UserError
from annotation.snapshots import PreferenceRow, read_rows
from rlhf.models import render
from rlhf.specs import Noise


def load_snapshot(data_dir: Path, sha256: str) -> list[PreferenceRow]:
    """The rows of the frozen data of this name. Raises UserError if the file is gone or is not what its name says."""
    from hashlib import sha256 as hash_of

    path = snapshot_path(data_dir, sha256)
    if not path.is_file():
        raise UserError(f"The frozen data {path} is gone. Restore it, or start a new run with the present judgements.")
    content = path.read_bytes()
    if hash_of(content).hexdigest() != sha256:
        raise UserError(f"The frozen data {path} was changed (its sha256 differs). Restore it, or start a new run.")
    return read_rows(content)


def snapshot_path(data_dir: Path, sha256: str) -> Path:
    """Where frozen data lies."""
    return data_dir / "snapshots" / f"{sha256}.jsonl"


def answer_ids(tokenizer: Any, answer: Mapping[str, Any]) -> list[int]:
    """Token ids of an answer and the end-of-text token, which an answer cut off at the limit does not get.

    That one did not end, and training must not teach that it did. What a person wrote or an import brought is whole.
    """
    ids: list[int] = tokenizer(answer["text"], add_special_tokens=False)["input_ids"]
    return ids if answer["finish_reason"] == "length" else [*ids, tokenizer.eos_token_id]


def tokenise_pairs(
    tokenizer: Any, rows: Sequence[PreferenceRow], max_length: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Pairs as token ids (the columns TRL's trainer knows) with their comparison, and how many are left out and why.

    A prompt that no policy has been fed (imported with its answers) is put into the model's chat template here.
    """
    pairs: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        try:
            rendered = row["rendered_prompt"] or render(tokenizer, row["messages"])
        except UserError:
            left_out["template"] += 1
            continue
        prompt = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        chosen, rejected = answer_ids(tokenizer, row["chosen"]), answer_ids(tokenizer, row["rejected"])
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            left_out["too-long"] += 1
            continue
        # Data frozen before annotators were measured has no chance of error, and is trained on without it.
        noise = {"flip": row["flip"]} if "flip" in row else {}
        ids = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        pairs.append({**ids, "comparison": row["comparison"], **noise})
    return pairs, dict(left_out)


def with_noise(pairs: Sequence[Mapping[str, Any]], noise: Noise) -> list[dict[str, Any]]:
    """The pairs with the columns `flip` and `weight` as the loss is to use them: 0 and 1 where noise is ignored.

    Weights are 1 - 2 flip over their mean: what a coin would have said weighs nothing, and the mean is 1, so that the
    learning rate means the same as without weights. Raises UserError if every pair is a coin's, or has no estimate.
    """
    if noise == "ignore":
        return [{**pair, "flip": 0.0, "weight": 1.0} for pair in pairs]
    if any("flip" not in pair for pair in pairs):
        raise UserError("This frozen data says nothing of annotators' reliability. Freeze it anew, in a new run.")
    if noise == "smooth":
        return [{**pair, "weight": 1.0} for pair in pairs]
    mean = fmean(1 - 2 * pair["flip"] for pair in pairs)
    if mean <= 0:
        raise UserError("By the annotators' reliability every pair is a coin's, so no weight is left to train with.")
    return [{**pair, "flip": 0.0, "weight": (1 - 2 * pair["flip"]) / mean} for pair in pairs]


def pad(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded (ids, attention mask, completion mask), each (B, T), of (prompt, completion) token ids."""
    width = max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids = torch.full((len(sequences), width), pad_id)
    attention = torch.zeros(len(sequences), width, dtype=torch.long)
    completions = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, (prompt, completion) in enumerate(sequences):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion])
        attention[row, :end] = 1
        completions[row, len(prompt) : end] = 1
    return ids, attention, completions


@dataclass(frozen=True)
class Packed:
    """Pairs of (prompt, chosen, rejected) in one row of L tokens without padding, each prompt once.

    `sources_N` are the positions whose next token is `labels_N`; `rows_N` says to which of the 2P answers (all chosen
    ones, then all rejected ones) each of the N answer tokens belongs.
    """

    ids_1L: Tensor
    positions_1L: Tensor
    allowed_11LL: Tensor
    sources_N: Tensor
    labels_N: Tensor
    rows_N: Tensor


def pack(ids_BT: Tensor, attention_BT: Tensor, completion_BT: Tensor) -> Packed:
    """Pack a padded batch of P chosen answers followed by the P rejected ones to the same prompts (B = 2P).

    Both answers of a pair attend to their prompt and to themselves, never to each other, and have the positions that
    they would have alone: the log-probabilities are those of the padded batch, for about half the computation.
    """
    pairs, length = len(ids_BT) // 2, 0
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    pair_of: list[Tensor] = []
    part_of: list[Tensor] = []
    sources: list[Tensor] = []
    labels: list[Tensor] = []
    rows: list[Tensor] = []

    def append(part: int, pair: int, tokens: Tensor, position: int) -> int:
        """Add a prompt (part 0) or an answer (1 chosen, 2 rejected); returns where it starts in the row."""
        nonlocal length
        ids.append(tokens)
        positions.append(torch.arange(position, position + len(tokens)))
        pair_of.append(torch.full((len(tokens),), pair))
        part_of.append(torch.full((len(tokens),), part))
        length += len(tokens)
        return length - len(tokens)

    for pair in range(pairs):
        prompt_length = int((attention_BT[pair] - completion_BT[pair]).sum())
        start = append(0, pair, ids_BT[pair, :prompt_length], 0)
        for part, row in ((1, pair), (2, pairs + pair)):
            answer = ids_BT[row][completion_BT[row].bool()]
            here = append(part, pair, answer, prompt_length)
            # The prompt's last token predicts the answer's first, and each answer token the next one.
            sources.append(torch.tensor([start + prompt_length - 1, *range(here, here + len(answer) - 1)]))
            labels.append(answer)
            rows.append(torch.full((len(answer),), row))
    pair_L, part_L = torch.cat(pair_of), torch.cat(part_of)
    same_pair = pair_L[:, None] == pair_L[None, :]
    visible = (part_L[None, :] == 0) | (part_L[:, None] == part_L[None, :])
    earlier = torch.ones(len(pair_L), len(pair_L), dtype=torch.bool).tril()
    device = ids_BT.device
    return Packed(
        ids_1L=torch.cat(ids)[None],
        positions_1L=torch.cat(positions)[None].to(device),
        allowed_11LL=(same_pair & visible & earlier)[None, None].to(device),
        sources_N=torch.cat(sources).to(device),
        labels_N=torch.cat(labels),
        rows_N=torch.cat(rows).to(device),
    )
