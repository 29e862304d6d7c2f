"""Snapshot rows to token ids and padded batches; a pair stays one object to the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from annotation.exporting import PreferenceRow, read_rows
from annotation.records import UserError


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
    """Token ids of an answer, with the end-of-text token only if the policy wrote it.

    An answer cut off at the limit did not end, and training must not teach that it did.
    """
    ids: list[int] = tokenizer(answer["text"], add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if answer["finish_reason"] == "stop" else ids


def tokenise_pairs(tokenizer: Any, rows: Sequence[PreferenceRow], max_length: int) -> tuple[list[dict[str, Any]], int]:
    """Pairs as token ids (the columns TRL's trainer knows), and how many were too long."""
    pairs: list[dict[str, Any]] = []
    for row in rows:
        prompt = tokenizer(row["rendered_prompt"], add_special_tokens=False)["input_ids"]
        chosen, rejected = answer_ids(tokenizer, row["chosen"]), answer_ids(tokenizer, row["rejected"])
        if len(prompt) + max(len(chosen), len(rejected)) <= max_length:
            pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return pairs, len(rows) - len(pairs)


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
