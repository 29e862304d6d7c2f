"""Judgements to preference rows frozen under their sha256; what gives no row is counted with its reason. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from annotation.consensus import Pair, by_comparison, pairs_of, usable
from annotation.records import Judgement

PreferenceRow = Mapping[str, Any]


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


def freeze(
    judged: Iterable[Judgement],
    max_length: int,
    trained_until: int = 0,
    reliability: Mapping[str, float] | None = None,
    excluded: Iterable[str] = (),
) -> Frozen:
    """Preference pairs of the current judgements: train pairs made after `trained_until`, held-out pairs all.

    The pairs of a comparison (up to K(K-1)/2 for K answers, more with edits) stay together. `max_length` counts the
    tokens of prompt and answer where they are known; `reliability` gives the chance that an annotator is right.
    """
    rows: list[PreferenceRow] = []
    left_out: Counter[str] = Counter()
    last = 0
    for group in by_comparison(judged):
        last = max(last, *(judgement.id for judgement in group))
        counted, reasons = usable(group, excluded)
        left_out.update(reasons)
        if not counted:
            continue
        if counted[0].split == "train" and max(judgement.id for judgement in counted) <= trained_until:
            left_out["earlier"] += len(counted)
            continue
        pairs, reasons = pairs_of(counted, reliability)
        left_out.update(reasons)
        for pair in pairs:
            reason = why_left_out(pair, max_length)
            if reason:
                left_out[reason] += 1
            else:
                rows.append(preference_row(counted[0], pair))
    return Frozen(tuple(rows), dict(left_out), last)


def why_left_out(pair: Pair, max_length: int) -> str | None:
    """The reason why a pair can't be trained on, if there is one."""
    if pair.better["text"].strip() == pair.worse["text"].strip():
        return "identical"
    lengths = [
        response["prompt_tokens"] + response["tokens"] for response in (pair.better, pair.worse) if response["tokens"]
    ]
    return "too-long" if any(length > max_length for length in lengths) else None


def preference_row(judgement: Judgement, pair: Pair) -> PreferenceRow:
    """One line of a snapshot. Answers that no policy drew have no token counts, and their prompt may be unrendered."""
    keep = ("id", "origin", "model_id", "text", "finish_reason", "tokens")
    return {
        "comparison": judgement.comparison_id,
        "prompt_id": judgement.prompt_id,
        "split": judgement.split,
        "judgements": list(pair.judgements),
        "annotators": list(pair.annotators),
        "messages": [dict(message) for message in judgement.messages],
        "rendered_prompt": pair.better["rendered_prompt"] or pair.worse["rendered_prompt"],
        "chosen": {key: pair.better[key] for key in keep},
        "rejected": {key: pair.worse[key] for key in keep},
        "strength": pair.strength,
        "agreement": pair.agreement,
        "flip": round(pair.flip, 6),
    }


def read_rows(content: bytes) -> list[PreferenceRow]:
    """The rows of a snapshot file."""
    return [json.loads(line) for line in content.splitlines()]
