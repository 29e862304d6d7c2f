"""The gold reward of `benchmarks.methods`: what its simulated people like, and a run of PPO that is given it directly.

Plain words in short sentences, about as much as one sentence, to its end, without saying anything twice. Plainness is
Flesch's reading ease (Flesch 1948, "A New Readability Yardstick"), held between 0 and 100, since nonsense of tiny words
would go far beyond.

`python -m benchmarks.gold DATA_DIR --job ID --worker ID` is the worker of a PPO job whose reward model is replaced by
the gold reward; it leaves its curve and no policy.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

from annotation.database import open_database
from annotation.measuring.analysis import distinct_n

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
VOWELS = re.compile(r"[aeiouy]+")
SENTENCE_END = re.compile(r"[.!?]+")
# What a point is: 25 of reading ease, a length off by a factor of e^(1/2), a quarter of all word pairs said twice.
EASE, LENGTH, REPEATED, UNFINISHED = 1 / 25, 2.0, 4.0, 1.0
WISHED_WORDS = 15


def gold(text: str) -> float:
    """The gold reward of an answer: at most 4."""
    words = WORD.findall(text.lower())
    if not words:
        return -LENGTH * log(WISHED_WORDS)
    too_long_or_short = abs(log(len(words) / WISHED_WORDS))
    repeated = 1 - distinct_n([" ".join(words)], 2) if len(words) > 1 else 0.0
    unfinished = text.rstrip()[-1:] not in (".", "!", "?")
    return EASE * reading_ease(text) - LENGTH * too_long_or_short - REPEATED * repeated - UNFINISHED * unfinished


def reading_ease(text: str) -> float:
    """Flesch's reading ease of a text with words, between 0 (hard) and 100 (plain)."""
    words = WORD.findall(text.lower())
    sentences = max(len(SENTENCE_END.findall(text)), 1)
    ease = 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)
    return min(max(ease, 0.0), 100.0)


def syllables(word: str) -> int:
    """About how many syllables an English word has: groups of vowels, but for a silent e at the end."""
    groups = len(VOWELS.findall(word))
    silent = word.endswith("e") and not word.endswith("le") and groups > 1
    return max(groups - silent, 1)


# ----------------------------------------------------------------------------------------------- PPO on the gold itself
def learn(data_dir: Path, job_id: int, worker_id: str) -> None:
    """Work on a PPO job with the gold reward in the place of its reward model."""
    from rlhf import jobs, worker
    from rlhf.worker import Run

    worker.prepare_process()
    db = open_database(data_dir)
    job = jobs.claim(db, job_id, worker_id)
    if job is None:
        return
    curve = rewarded(Run(db, data_dir, job, worker_id), job.spec)
    jobs.finish(db, job_id, worker_id, curve)


def rewarded(run: Any, spec: Any) -> dict[str, Any]:
    """PPO against the gold reward; returns its costs."""
    import torch

    from rlhf.algorithms.ppo import Learner, prompts_of
    from rlhf.models import load_tokenizer
    from rlhf.roles import Answer, load_roles
    from rlhf.training import start_of

    def score(answers: Sequence[Answer]) -> torch.Tensor:
        return torch.tensor([gold(answer.text) for answer in answers])

    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path)
    roles = load_roles(spec, start, None, tokenizer.pad_token_id)
    prompts, _ = prompts_of(run, spec, tokenizer)
    return Learner(run, spec, roles, tokenizer, prompts, score).learn().result()


def main() -> None:
    """Read the worker's command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--worker", required=True)
    options = parser.parse_args()
    learn(options.data, options.job, options.worker)


if __name__ == "__main__":
    main()
