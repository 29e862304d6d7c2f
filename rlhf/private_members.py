"""What machines need of torch, transformers, PEFT, TRL and accelerate and these do not promise: here and nowhere else.

Its test holds each against the installed versions. Where one changes it says what that means.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.state import AcceleratorState
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor


class WithoutPreparation:
    """Mixed into a TRL trainer, before it: it takes rows as they come, and puts back no files of its own."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """The rows as they are."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        """The rows as they are."""
        return dataset

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def compute_with(layer: BaseTunerLayer, adapter: str | None) -> None:
    """Let a layer compute with this adapter, or with none. What is trained stays so, whichever is active.

    PEFT's own switch goes through the whole model four times, to say of each parameter whether it is trained.
    """
    layer._disable_adapters = adapter is None
    if adapter is not None:
        layer._active_adapter = [adapter]


def forget_precision() -> None:
    """Let the next accelerator compute in another precision than an earlier one of this process."""
    AcceleratorState._reset_state()


def attention_of(model: Any) -> str | None:
    """By which of transformers' ways a model computes attention, such as "sdpa" and "eager"."""
    found: str | None = model.config._attn_implementation
    return found


def processor_has_bfloat16() -> bool:
    """Whether this processor has instructions that compute in bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def onednn_has_bfloat16() -> bool:
    """Whether oneDNN multiplies in bfloat16 here."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def in_blocks(weight: Tensor) -> Tensor:
    """A layer's weight as oneDNN's kernels want it."""
    blocks: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return blocks


def linear_in_blocks(x: Tensor, blocks: Tensor, bias: Tensor | None) -> Tensor:
    """What a layer computes, by its weight in blocks."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, blocks, bias, "none", [], "")
    return product


# What all of torch's kinds of dropout are.
AnyDropout = torch.nn.modules.dropout._DropoutNd
