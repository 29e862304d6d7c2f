"""A layer with its low-rank adapter as one function, to train, answer and score: LoRA without what PEFT adds to it.

Hu et al. 2022, "LoRA", equation 3: W x + s B A x. PEFT lifts x to the adapter's float32, which autocast undoes, and
scales and adds in steps of their own, each kept for the backward pass: on a processor that is more than the layer. What
answers and is checked computes so too, in the type in which it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor


class AdaptedProduct(torch.autograd.Function):
    """W x + bias + scale B A x for N inputs of I features and O outputs; W and bias stay as they are."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        a_RI, b_OR = a_RI.to(x_NI.dtype), (scale * b_OR).to(x_NI.dtype)
        inner_NR = x_NI @ a_RI.T
        ctx.save_for_backward(x_NI, weight_OI, a_RI, b_OR, inner_NR)
        ctx.scale = scale
        y_NO = x_NI @ weight_OI.T if bias_O is None else torch.addmm(bias_O, x_NI, weight_OI.T)
        return y_NO.addmm_(inner_NR, b_OR.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI, a_RI, b_OR, inner_NR = ctx.saved_tensors
        (for_y_NO,) = gradients
        for_inner_NR = for_y_NO @ b_OR
        for_x_NI = (for_y_NO @ weight_OI).addmm_(for_inner_NR, a_RI) if ctx.needs_input_grad[0] else None
        for_a_RI = (for_inner_NR.T @ x_NI).float() if ctx.needs_input_grad[3] else None
        for_b_OR = ctx.scale * (for_y_NO.T @ inner_NR).float() if ctx.needs_input_grad[4] else None
        return for_x_NI, None, None, for_a_RI, for_b_OR, None


def compute_adapters_at_once(model: Any) -> None:
    """Let each adapted plain layer of a model be computed by `AdaptedProduct` where its one adapter is plain LoRA.

    PEFT goes on to compute the others: 4-bit layers, DoRA, adapters with a bias, several at once, what is switched off
    or merged. Adapters may come to such a layer later.
    """
    for layer in model.modules():
        plain = isinstance(layer, Linear) and type(layer.get_base_layer()) is torch.nn.Linear
        if plain and "forward" not in vars(layer):
            layer.forward = at_once(layer, layer.forward)


@contextmanager
def factors_kept(model: Any) -> Iterator[None]:
    """Inside, where no adapter changes, what it multiplies by is made once, not for each token, a third of its cost."""
    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    try:
        for layer in layers:
            layer.kept_factors = {}
        yield
    finally:
        for layer in layers:
            vars(layer).pop("kept_factors", None)


def at_once(layer: Any, by_peft: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer's new forward pass beside PEFT's."""

    def forward(x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        names, base = layer.active_adapters, layer.get_base_layer()
        name = names[0] if len(names) == 1 and names[0] in layer.lora_A else None
        off = layer.disable_adapters or layer.merged or name is None or name in layer.lora_variant
        off = off or layer.lora_bias[name]
        if off or arguments or keywords or x.dtype != base.weight.dtype:
            return by_peft(x, *arguments, **keywords)
        a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
        rows_NI = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled():
            made_NO: Tensor = AdaptedProduct.apply(rows_NI, base.weight, base.bias, a, b, scale)  # type: ignore[no-untyped-call]
        else:  # the layer's own product, as its weights may be laid out
            kept = vars(layer).get("kept_factors", {})
            if name not in kept:
                kept[name] = a.to(x.dtype).T, (scale * b).to(x.dtype).T
            a_IR, b_RO = kept[name]
            made_NO = base(rows_NI).addmm_(rows_NI @ a_IR, b_RO)
        return made_NO.reshape(*x.shape[:-1], -1)

    return forward
