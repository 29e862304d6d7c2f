"""The fixed text as token ids: what each paragraph is read after."""

from __future__ import annotations

from pathlib import Path

from tokenizers.processors import TemplateProcessing

from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.precisions.plain_text import plain_text


def test_plain_text_is_read_after_the_token_that_texts_begin_with_where_there_is_one(tiny_model: Path) -> None:
    """After the end of a turn a model expects a turn, not a text; one that puts nothing before texts is given that."""
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.bos_token = "<|endoftext|>"
    ended = plain_text(tokenizer)
    assert {before for before, _ids in ended.paragraphs} == {(tokenizer.eos_token_id,)}
    begins = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)])
    tokenizer.backend_tokenizer.post_processor = begins
    begun = plain_text(tokenizer)
    assert {before for before, _ids in begun.paragraphs} == {(tokenizer.bos_token_id,)}
    assert [ids for _before, ids in begun.paragraphs] == [ids for _before, ids in ended.paragraphs]
    assert begun.name != ended.name, "it is read anew"
