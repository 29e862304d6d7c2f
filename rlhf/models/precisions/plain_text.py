"""A fixed text that shows whether a policy still speaks a language, as token ids. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rlhf.models.tokenise import text_ids

PLAIN_TEXT = Path(__file__).parents[3] / "annotation" / "examples" / "plain_text.txt"
# Part of what names the fixed text's token ids; raised whenever the same ids come to another perplexity.
READING = 1

# Token ids of a prompt and of an answer to it.
PromptAndAnswer = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class PlainText:
    """The paragraphs of the fixed text as token ids, each an answer to nothing."""

    paragraphs: Sequence[PromptAndAnswer]

    @property
    def name(self) -> str:
        """The sha256 of all token ids and of how they are read."""
        return sha256(json.dumps([READING, self.paragraphs]).encode()).hexdigest()


def plain_text(tokenizer: Any) -> PlainText:
    """The fixed text; each paragraph comes after a token, so that its first word counts too.

    After the one that begins a text where the tokenizer puts one there, else after the one that ends a text.
    """
    paragraphs = filter(None, (text.strip() for text in PLAIN_TEXT.read_text("utf-8").split("\n\n")))
    begun = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    before = (tokenizer.bos_token_id if begun else tokenizer.eos_token_id,)
    return PlainText([(before, tuple(text_ids(tokenizer, text))) for text in paragraphs])
