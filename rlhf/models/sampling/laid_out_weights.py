"""Weights as the processor reads them, while answers are drawn: few rows at a time meet all of a model's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from rlhf.models.adapters.low_rank import factors_kept
from rlhf.models.memory.machines import free_memory
from rlhf.private_members import in_blocks, linear_in_blocks, onednn_has_bfloat16

# Of the free memory, what a second copy of the weights may take.
SHARE_OF_FREE: Final = 0.25


@contextmanager
def weights_laid_out(causal: Any) -> Iterator[None]:
    """Inside, a model's plain layers compute with a copy of their weights in blocks, as oneDNN's kernels want them.

    It lays them out anew at each call otherwise, which takes longer than to multiply a few rows by them; of the
    embedded model's it takes as long as two tokens of a batch. Adapters stay as they are, but what they multiply by is
    made once. No copy is made where there is no memory for it or no kernel of oneDNN, nor under autocast, which has
    kernels of its own choice.
    """
    layers = [layer for name, layer in causal.named_modules() if "lora_" not in name and to_lay_out(layer)]
    room = SHARE_OF_FREE * free_memory()
    if torch.is_autocast_enabled("cpu") or sum(layer.weight.nbytes for layer in layers) > room:
        layers = []
    try:
        for layer in layers:
            layer.forward = laid_out(layer)
        with factors_kept(causal):
            yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def to_lay_out(layer: nn.Module) -> bool:
    """Whether a layer is a plain one on a processor whose weights have a type that oneDNN multiplies here."""
    if type(layer) is not nn.Linear or "forward" in vars(layer) or layer.weight.device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    dtype = layer.weight.dtype
    return dtype == torch.float32 or (dtype == torch.bfloat16 and onednn_has_bfloat16())


def laid_out(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """What computes a layer with its weights laid out; where types differ or gradients are wanted, the layer does."""
    weight, bias, own = layer.weight.detach(), layer.bias, layer.forward
    blocks = in_blocks(weight)

    def forward(x: Tensor) -> Tensor:
        if x.dtype != weight.dtype or torch.is_grad_enabled():
            return own(x)
        return linear_in_blocks(x, blocks, bias)

    return forward
