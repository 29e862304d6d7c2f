"""Whole weights in the precision that a job or a policy wants, computing in training what they answer with."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from annotation.records import UserError
from annotation.translation import _
from rlhf.jobs.job_spec import Precision, TrainingSpec
from rlhf.models.hidden_states import PACKS
from rlhf.models.model_files import CONFIG, WHOLE
from rlhf.models.registry import HeldPrecision
from rlhf.models.sampling.prompt_cache import SHARES
from rlhf.models.self_test_results import SelfTestResult
from rlhf.private_members import AnyDropout, processor_has_bfloat16

# The head of a reward model, which the weights that it grows on have not.
SCORE: Final = "score."


def compute_dtype() -> torch.dtype:
    """bfloat16 where this processor or GPU computes in it, otherwise float32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if processor_has_bfloat16() else torch.float32


def dtype_of(precision: Precision) -> torch.dtype:
    """What a job computes in."""
    return {"auto": compute_dtype(), "bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def held_precision(spec: TrainingSpec) -> HeldPrecision:
    """The precision of the weights under an adapter, or of fully trained ones once they are stored."""
    if spec.method == "qlora":
        return "nf4"
    return "bf16" if dtype_of(spec.precision) == torch.bfloat16 else "fp32"


def load_quantised(path: Path, dtype: torch.dtype | None = None, model_class: Any = None, **arguments: Any) -> Any:
    """A model in NF4 with double quantisation (Dettmers et al. 2023), frozen, in train mode; computes in `dtype`.

    Train mode matters: on CPUs with AVX512-BF16 one forward pass in eval mode repacks the 4-bit weights, and from then
    on some gradients are silently zero.
    """
    from transformers import BitsAndBytesConfig

    dtype = dtype or compute_dtype()
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=WHOLE,
    )
    placed = {"device_map": placement(), **arguments}
    model = load_whole(path, model_class, quantization_config=quantisation, dtype=dtype, **placed)
    if not any(hasattr(module, "compute_dtype") for module in model.modules()):
        said = _("None of the layers of this model can be held in 4 bits. Hold it in 16 or 32 bits, and train by LoRA.")
        raise UserError(said)
    compute_in(model, dtype)
    return model.train()


def compute_in(model: Any, dtype: torch.dtype) -> None:
    """Compute in a type, whichever one stands in the files of a model that was saved in 4 bits: that comes first.

    What transformers holds in 32 bits for its own reasons stays in them.
    """
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = parameter.data.to(dtype)


def load_plain(path: Path, dtype: torch.dtype, model_class: Any = None, **arguments: Any) -> Any:
    """A model with its weights in this 16- or 32-bit type, in train mode."""
    return load_whole(path, model_class, dtype=dtype, device_map=placement(), **arguments).train()


def load_whole(path: Path, model_class: Any = None, **arguments: Any) -> Any:
    """A model all of whose weights are in its files. Raises UserError for others: transformers draws those at random.

    On the device "meta" it takes no memory, and its files are hardly read.
    """
    from transformers import AutoModelForCausalLM

    model, found = (model_class or AutoModelForCausalLM).from_pretrained(
        path, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
    )
    mismatched = [name for name, *_ in found["mismatched_keys"]]
    lacking = sorted(name for name in {*found["missing_keys"], *mismatched} if not name.startswith(SCORE))
    if lacking:
        said = _(
            "The weights in {path} are not all that a model of its {config} has: {lacking} are "
            "missing or of another size. Fetch the whole model again, or choose another one."
        )
        raise UserError(said.format(path=path, config=CONFIG, lacking=some_of(lacking)))
    unread = unread_weights(model, found["unexpected_keys"])
    if unread:
        said = _(
            "{path} has weights that a model of its {config} is computed without: {unread}. What it says would be "
            "another model's. Fetch the whole model again, or choose another one."
        )
        raise UserError(said.format(path=path, config=CONFIG, unread=some_of(unread)))
    return without_router_loss(model)


def some_of(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are besides."""
    shown = ", ".join(names[:3])
    return _("{names} and {more} more").format(names=shown, more=len(names) - 3) if names[3:] else shown


def unread_weights(model: Any, unexpected: Collection[str]) -> list[str]:
    """Which of the weights that a model has no place for stand among those that it has one for.

    Not those of whole parts that it lacks, such as eyes, nor of layers behind the last one that guess several tokens at
    once, nor what a way of quantising reads.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return []
    guessing = getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0
    own = {name for name, _value in model.named_parameters()}
    known = {*own, *unexpected}
    sizes = {name: len(part) for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)}

    def stands_among(name: str) -> bool:
        stem, _dot, kind = name.rpartition(".")
        biases = kind == "bias" and f"{stem}.weight" in known
        layer = re.match(r"(.+?)\.(\d+)\.", name)
        if layer is None or layer[1] not in sizes:
            return biases and f"{stem}.weight" in own
        size = sizes[layer[1]]
        return (kind.startswith("weight") or biases) and int(layer[2]) not in range(size, size + guessing)

    return sorted(filter(stands_among, unexpected))


def without_router_loss(model: Any) -> Any:
    """A model that doesn't compute its routers' loss beside its logits, where it has experts.

    Nobody here asks for it, and after a cache transformers fails at it. Programs that train experts switch it on.
    """
    config = model.config.get_text_config()
    if hasattr(config, "output_router_logits"):
        config.output_router_logits = False
    return model


def placement() -> dict[str, int] | None:
    """All of a model on this process's GPU, if there is one."""
    return {"": int(os.environ.get("LOCAL_RANK", "0"))} if torch.cuda.is_available() else None


def load_for_training(
    path: Path, spec: TrainingSpec, model_class: Any = None, *, tried: SelfTestResult | None = None, **arguments: Any
) -> Any:
    """The weights that a job starts from, in the precision that its spec asks for.

    `tried` is what is known of the model; without it that is found out when it is needed.

    What is trained is held in float32: at these learning rates AdamW's steps are below bfloat16's resolution. So full
    fine-tuning in bf16 computes in it and keeps float32 weights. Without dropout, it computes in train mode as in eval
    mode: dropout would make noise of the reference, of ratios to what has drawn, and of the answers.
    """
    if spec.method == "qlora":
        model = load_quantised(path, dtype_of(spec.precision), model_class, **arguments)
    else:
        dtype = torch.float32 if spec.method == "full" else dtype_of(spec.precision)
        model = load_plain(path, dtype, model_class, **arguments)
    leave_nothing_to_chance(model)
    remember(model, tried)
    return model


def load_for_answering(path: Path, precision: HeldPrecision = "nf4") -> Any:
    """A model for generation and scoring, in eval mode.

    The policy that answers must be the policy that is trained, so 4-bit weights are those of `load_quantised`. On a
    CPU they are unpacked to 16 bits: the 4-bit kernels save no time there, and only some CPUs have them.
    """
    if precision != "nf4":
        model = load_plain(path, torch.bfloat16 if precision == "bf16" else torch.float32)
    else:
        model = load_quantised(path)
        if not torch.cuda.is_available():
            model = model.dequantize()
    return model.eval().requires_grad_(False)


def remember(model: Any, tried: SelfTestResult | None) -> None:
    """What the self-test of a model's base said needs no finding out."""
    if tried is not None:
        PACKS[model], SHARES[model] = tried.packs, tried.shares_prompts


def leave_nothing_to_chance(model: Any) -> None:
    """Make a model compute in train mode what it computes in eval mode: without dropout, jitter, drawn experts.

    Models drop by modules, by numbers that they keep themselves or read in their configuration. What else they do at
    random (PhiMoE draws its experts) they do only in train mode, in which nothing stays but what needs it: layers that
    are computed again in the backward pass, and weights of other libraries.
    """
    for module in model.modules():
        for holder in (module, getattr(module, "config", module)):
            for name, value in list(vars(holder).items()):
                if "drop" in name and isinstance(value, int | float) and not isinstance(value, bool):
                    setattr(holder, name, 0.0)
        if isinstance(module, AnyDropout):
            module.p = 0.0
        own = type(module).__module__.startswith("transformers.models.")
        if own and not hasattr(module, "gradient_checkpointing"):
            stay_in_eval_mode(module)


def stay_in_eval_mode(module: torch.nn.Module) -> None:
    """Put a module into eval mode for good; what is in it goes into the modes that it is told to."""

    def train(mode: bool = True) -> torch.nn.Module:
        for child in module.children():
            child.train(mode)
        return module

    module.training = False
    module.train = train  # type: ignore[method-assign]
