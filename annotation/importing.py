"""Files of prompts into records. Pure: reads, never writes."""

from __future__ import annotations

import json
from pathlib import Path

from annotation.records import Prompt

STARTER_FILE = Path(__file__).with_name("starter_prompts.jsonl")


def starter_prompts() -> list[Prompt]:
    """The prompts that ship with Prefloop, each with its split."""
    with STARTER_FILE.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [Prompt(({"role": "user", "content": row["prompt"]},), row["split"], "starter") for row in rows]
