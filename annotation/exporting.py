"""Judgements to preference rows frozen under their sha256; one that gives no row is counted with its reason. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from typing import Any

from annotation.records import JudgedComparison

PreferenceRow = Mapping[str, Any]

# Why a judgement gives no preference pair, in the words of the page.
REASONS = {
    "tie": "tie",
    "all-bad": "both bad",
    "skip": "skipped",
    "identical": "identical answers",
    "too-long": "too long",
    "earlier": "already trained on",
}


@dataclass(frozen=True)
class Frozen:
    """Preference rows as they will be trained on, and what was left out, by reason."""

    rows: tuple[PreferenceRow, ...]
    left_out: Mapping[str, int]
    last_judgement_id: int

    @property
    def content(self) -> bytes:
        """The rows as JSON lines; the same rows always give the same bytes."""
        return b"".join(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n" for row in self.rows)

    @property
    def sha256(self) -> str:
        """The name of this data."""
        return sha256(self.content).hexdigest()

    def count(self, split: str) -> int:
        """How many pairs of a split there are."""
        return sum(row["split"] == split for row in self.rows)


def freeze(judged: Sequence[JudgedComparison], max_length: int, trained_until: int = 0) -> Frozen:
    """Preference pairs of the current judgements: train pairs made after `trained_until`, held-out pairs all.

    A ranking of K answers gives up to K(K-1)/2 pairs, kept together. `max_length` counts prompt and answer tokens.
    """
    rows: list[PreferenceRow] = []
    left_out: Counter[str] = Counter()
    for comparison in judged:
        if comparison.split == "train" and comparison.judgement_id <= trained_until:
            left_out["earlier"] += 1
            continue
        pairs, reasons = preference_pairs(comparison, max_length)
        rows += pairs
        left_out.update(reasons)
    return Frozen(tuple(rows), dict(left_out), max((entry.judgement_id for entry in judged), default=0))


def preference_pairs(comparison: JudgedComparison, max_length: int) -> tuple[list[PreferenceRow], list[str]]:
    """One judgement's pairs, better answer first, and the reasons for those that are left out."""
    if comparison.outcome != "ranked" or comparison.ranking is None:
        return [], [comparison.outcome]
    pairs: list[PreferenceRow] = []
    reasons: list[str] = []
    ranked = sorted(zip(comparison.ranking, comparison.responses, strict=True), key=lambda entry: entry[0])
    for (rank, better), (worse_rank, worse) in combinations(ranked, 2):
        reason = why_left_out(better, worse, rank == worse_rank, max_length)
        if reason:
            reasons.append(reason)
        else:
            pairs.append(preference_row(comparison, better, worse))
    return pairs, reasons


def why_left_out(better: Mapping[str, Any], worse: Mapping[str, Any], tied: bool, max_length: int) -> str | None:
    """The reason why a pair can't be trained on, if there is one."""
    if tied:
        return "tie"
    if better["text"].strip() == worse["text"].strip():
        return "identical"
    if any(response["prompt_tokens"] + response["tokens"] > max_length for response in (better, worse)):
        return "too-long"
    return None


def preference_row(comparison: JudgedComparison, better: Mapping[str, Any], worse: Mapping[str, Any]) -> PreferenceRow:
    """One line of a snapshot."""
    keep: Iterable[str] = ("id", "model_id", "text", "finish_reason", "tokens")
    return {
        "judgement": comparison.judgement_id,
        "comparison": comparison.comparison_id,
        "prompt_id": comparison.prompt_id,
        "split": comparison.split,
        "annotator": comparison.annotator,
        "messages": list(comparison.messages),
        "rendered_prompt": better["rendered_prompt"],
        "chosen": {key: better[key] for key in keep},
        "rejected": {key: worse[key] for key in keep},
        "strength": comparison.strength,
    }


def read_rows(content: bytes) -> list[PreferenceRow]:
    """The rows of a snapshot file."""
    return [json.loads(line) for line in content.splitlines()]
