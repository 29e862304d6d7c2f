"""Adapters for PEFT: fresh ones as a spec asks for, and stored ones put on weights that they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from annotation.records import UserError
from annotation.translation import _
from rlhf.jobs.job_spec import TrainingSpec, first_adapted, target_layers
from rlhf.models import chat_template
from rlhf.models.adapters.stored_adapter import StoredLora, StoredPrompt, read_adapter
from rlhf.models.loading.base_weights import some_of
from rlhf.models.loading.tokenizer_loading import tokenizer_of_files
from rlhf.models.memory.model_shapes import WITHOUT_ADAPTER, read_shapes
from rlhf.models.memory.parameter_counts import targets
from rlhf.models.model_files import CONFIG, read_json


def adapter_config(spec: TrainingSpec, base_path: Path, task: str = "CAUSAL_LM") -> Any:
    """PEFT's configuration of the adapter that a spec asks for on this base; None for full fine-tuning."""
    from peft import LoraConfig, PromptTuningConfig, PromptTuningInit
    from transformers import AutoConfig

    if spec.method == "full":
        return None
    if spec.method == "prompt":
        by_text = spec.virtual_init == "text"
        if by_text:
            check_virtual_text(base_path, spec.virtual_text)
        text = AutoConfig.from_pretrained(base_path).get_text_config()
        return PromptTuningConfig(
            task_type=task,
            # PEFT does not find these under each name that files have for them.
            token_dim=text.hidden_size,
            num_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_virtual_tokens=spec.virtual_tokens,
            # Not PEFT's RANDOM, whose vectors lie far from those of any token.
            prompt_tuning_init=PromptTuningInit.TEXT if by_text else PromptTuningInit.SAMPLE_VOCAB,
            prompt_tuning_init_text=spec.virtual_text if by_text else None,
            tokenizer_name_or_path=str(base_path) if by_text else None,
        )
    where: dict[str, Any] = {"target_modules": list(target_layers(spec)) or "all-linear"}
    if spec.lora_targets == "upper-half":
        shapes = read_shapes(base_path)
        where["target_modules"] = sorted({name.split(".")[-2] for name in targets(shapes, spec)})
        where["layers_to_transform"] = [*range(first_adapted(spec, shapes.layers), shapes.layers)]
        where["layers_pattern"] = shapes.list_of_layers
    return LoraConfig(
        **where,
        task_type=task,
        r=spec.lora_r,
        lora_alpha=spec.lora_alpha,
        exclude_modules=list(WITHOUT_ADAPTER.get(str(read_json(base_path / CONFIG).get("model_type")), ())) or None,
        use_dora=spec.dora,
        use_rslora=spec.rslora,
        init_lora_weights=True if spec.lora_init == "default" else spec.lora_init,
    )


def check_virtual_text(base_path: Path, text: str) -> None:
    """Raises UserError where virtual tokens can't start from a text: the model has no rows for its tokens."""
    tokenizer = tokenizer_of_files(base_path)
    numbers = tokenizer(text)["input_ids"]
    if not numbers:
        raise UserError(_("This model reads nothing in virtual_text. Write other words, or set virtual_init random."))
    without = next((one for one in numbers if not chat_template.has_row(base_path, one)), None)
    if without is not None:
        told = _("This model has no row for {token}, which is in virtual_text. Leave it out.")
        raise UserError(told.format(token=tokenizer.convert_ids_to_tokens(without)))


def hold_in_float32(model: Any) -> None:
    """Lift what is trained to float32; TRL and PEFT may have made it bfloat16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def load_adapter(model: Any, path: Path, adapter: str = "default") -> None:
    """Put stored weights into an adapter that the model has. Raises UserError if its layers or shapes differ.

    PEFT can't make a stored prompt-tuning adapter trainable; a fresh one that gets its weights can be.
    """
    from peft import load_peft_weights

    put_weights(model, load_peft_weights(str(path), device="cpu"), adapter, path.name)


def put_weights(model: Any, weights: dict[str, torch.Tensor], adapter: str, name: str) -> None:
    """Put weights into an adapter that the model has, all of which must be there and fit. Raises UserError."""
    from peft import set_peft_model_state_dict

    try:
        found = set_peft_model_state_dict(model, weights, adapter_name=adapter)
    except (RuntimeError, ValueError) as error:
        said = _(
            "The adapter {name} has another shape than the one asked for. Use its settings (lora_r, "
            "virtual_tokens ...), or start from the base."
        )
        raise UserError(said.format(name=name)) from error
    # Virtual tokens are put in by themselves, after the count of what fits.
    virtual = model.peft_config[adapter].is_prompt_learning
    for key in () if virtual else (*found.unexpected_keys, *(k for k in found.missing_keys if f".{adapter}." in k)):
        said = _(
            "The adapter {name} is on other layers than the one asked for ({layer}). Use its settings "
            "(lora_targets ...) on the base that it was trained on, or start from the base."
        )
        raise UserError(said.format(name=name, layer=key))


def hung_on(model: Any, path: Path, adapter: str = "default", **arguments: Any) -> Any:
    """Weights, or a PeftModel of them, with a stored LoRA adapter. Raises UserError where some of it fits nothing.

    Layers for which it has nothing compute as without it, which does no harm.
    """
    from peft import PeftModel

    config = peft_config(read_adapter(path))
    said = _(
        "The adapter {name} is on layers that the weights under it have not ({layer}). Use another revision, "
        "or the base that it was trained on."
    )
    held = model
    try:
        if isinstance(model, PeftModel):
            model.add_adapter(adapter, config)
        else:
            held = PeftModel.from_pretrained(model, path, adapter_name=adapter, config=config, **arguments)
    except ValueError as error:  # none of its layers is there
        layers = some_of(sorted(config.target_modules or config.target_parameters))
        raise UserError(said.format(name=path.name, layer=layers)) from error
    # The first is read twice: only here PEFT says what fitted nothing.
    for key in held.load_adapter(path, adapter_name=adapter, **arguments).unexpected_keys:
        held.delete_adapter(adapter)
        if held is not model:
            held.unload()
        raise UserError(said.format(name=path.name, layer=key))
    return held


def peft_config(adapter: StoredLora | StoredPrompt, **changes: Any) -> Any:
    """PEFT's configuration of a stored adapter that answers; `changes` for another use."""
    from peft import get_peft_config

    return get_peft_config({**adapter.settings(), "inference_mode": True, **changes})
