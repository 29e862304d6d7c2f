"""The whole loop on a real model: do the answers come to follow a wish, stay language, and how long does that take?

Starts the app, signs in, and lets simulated annotators judge over HTTP by a gold rule that only they know. After
enough judgements an admin presses "Train the next iteration", waits for training and check, promotes, and goes on.

How to read it. `win rate`: how often the new policy's answer to a held-out prompt beats the base model's by the gold
rule, same seeds, a tie counting half; the interval is Wilson's over prompts. The loop works where its lower bound is
above 50%. `nll ratio` (likelihood of the answers under the base model, per token, against the base's own answers) and
`distinct-2 ratio` say whether the answers are still language: near 1 is good; an adapter that found a shortcut raises
the one or lowers the other. `implicit` is how often the trained reward agrees with held-out judgements.
`generate s` runs from the start (or the promotion) until the last comparison needed was on screen; `wait s` is what of
it an annotator spent before an empty page, on average. Simulated people need no time to read, so they wait more.
`train s` and `check s` are the jobs' wall time. Latencies are of judgements, from request to next comparison, while
answers are sampled (`collecting`) and while the next policy is trained and checked (`training`).
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from annotation import store
from annotation.analysis import wilson_interval
from annotation.database import Database
from annotation.records import seconds_between
from benchmarks import driver
from benchmarks.driver import App, BenchmarkError, Card, Latency, Ledger, MemorySampler, Page, SimulatedAnnotator, say
from rlhf import jobs, policies
from rlhf.jobs import Job
from rlhf.loop import snapshot_counts
from rlhf.specs import DPOSpec, EvaluateSpec

# No comparison for this long means that the answering worker is dead or stuck.
DRY_SECONDS = 300.0
JOB_SECONDS = 3600.0
PROGRESS_SECONDS = 10.0
PROBE_PAUSE_SECONDS = 2.0
QUICK_JUDGEMENTS = 14
QUICK_PROMPTS = 6


# --------------------------------------------------------------------------------------------------------- gold rules
def shorter(text: str) -> tuple[int, ...]:
    """Fewer words are better."""
    return (-len(text.split()),)


def question(text: str) -> tuple[int, ...]:
    """An answer that ends with a question mark is better, then the one with more question marks."""
    return int(text.rstrip().endswith("?")), text.count("?")


RULES: dict[str, Callable[[str], tuple[int, ...]]] = {"shorter": shorter, "question": question}


def taste_of(rule: str) -> Callable[[str, str], str]:
    """A rule as the button that someone with this taste presses."""
    worth = RULES[rule]

    def taste(left: str, right: str) -> str:
        if worth(left) == worth(right):
            return "tie"
        return "left-better" if worth(left) > worth(right) else "right-better"

    return taste


def win_of(rule: str, answer: str, opponent: str) -> float:
    """1 where the answer is better by the rule, 0 where it is worse, a half for a tie."""
    worth = RULES[rule]
    return 0.5 if worth(answer) == worth(opponent) else float(worth(answer) > worth(opponent))


# --------------------------------------------------------------------------------------------------------- collecting
class Quota:
    """How many judgements are still wanted; annotators draw from it on their own threads."""

    def __init__(self, wanted: int) -> None:
        self._left = wanted
        self._lock = threading.Lock()
        self.last_served = time.monotonic()

    def take(self) -> bool:
        """Whether another judgement is wanted; if so, it is the caller's to make."""
        with self._lock:
            self._left -= self._left > 0
            return self._left >= 0 if self._taken() else False

    def _taken(self) -> bool:
        raise NotImplementedError
