"""A tiny real chat model, made in code: a 2-layer Llama and a BPE tokenizer trained on the starter prompts."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from annotation.imports.importing import starter_prompts

# Dimensions are multiples of 64, NF4's block, so that every linear layer quantises without a remainder.
VOCABULARY = 320
HIDDEN = 64
END = "<|im_end|>"
SPECIAL = ["<|endoftext|>", "<|im_start|>", END]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Ends most answers within two dozen tokens, and leaves some to be cut off.
END_BIAS = 4.2
# Of a judge's next token: it is a letter nearly always.
LETTER_BIAS = 15.0


def build(directory: Path, seed: int = 0, end_bias: float = END_BIAS, letter_bias: float = 0.0) -> Path:
    """Write the model and its tokenizer as safetensors; the same seed gives the same model.

    With a low `end_bias` answers go on up to the limit, with a high `letter_bias` they begin with A or B.
    """
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        initializer_range=0.12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    bias_answers(model, tokenizer, end_bias, letter_bias)
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with SmolLM2's special tokens and chat format."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((prompt.text for prompt in starter_prompts()), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@torch.no_grad()
def bias_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, end_bias: float, letter_bias: float = 0.0
) -> None:
    """Make the answers readable: they end by themselves, and are made of letters and spaces only.

    A Llama has no bias on its logits, so the first channel of the residual stream is made a constant that no layer
    writes to (or next to nothing: DoRA divides by the length of a weight's rows), and the output embedding's first
    column is the bias.
    """
    model.model.embed_tokens.weight[:, 0] = 1.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 1e-5
        layer.mlp.down_proj.weight[0] = 1e-5
    for token in range(VOCABULARY):
        text = tokenizer.decode([token])
        readable = text.replace(" ", "").isalpha() and text.isascii()
        model.lm_head.weight[token, 0] = 0.0 if readable or text == " " else -60.0
        if text.strip() in ("A", "B"):
            model.lm_head.weight[token, 0] = letter_bias
    model.lm_head.weight[tokenizer.eos_token_id, 0] = end_bias
