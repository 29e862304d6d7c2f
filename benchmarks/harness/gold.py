"""The gold reward of `benchmarks.methods`: what its simulated people like.

Plain words in short sentences, about as much as one sentence, to its end, without saying anything twice. Plainness is
Flesch's reading ease (Flesch 1948, "A New Readability Yardstick"), held between 0 and 100, since nonsense of tiny words
would go far beyond.
"""

from __future__ import annotations

import re
from math import log

from annotation.metrics.intervals_and_bias import distinct_n

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
