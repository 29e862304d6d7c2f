"""Add a LoRA adapter to the weights that it lies on: a policy of its own, in 16 bits, that needs no adapter.

W' = W + (alpha / r) B A (Hu et al. 2022, section 4.1), a layer at a time in float32, then rounded to bfloat16. W are
the weights as they are stored, never in 4 bits: the steps between 4-bit values are larger than what an adapter changes.
So a policy that was trained on 16-bit weights answers as before but for rounding, whose size the result says; one that
was trained on 4-bit weights comes to lie on the weights that those stand for, and answers somewhat differently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from annotation.records import UserError
from annotation.translation import _
from rlhf.algorithms.merge_spec import MergeSpec
from rlhf.algorithms.model_card import TrainedModel
from rlhf.algorithms.trainer import store_made, stored_result
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.base.base_model import ready
from rlhf.models.loading.adapter_loading import hung_on
from rlhf.models.loading.base_weights import load_whole
from rlhf.models.loading.loaded_policies import ground_path, verified
from rlhf.models.loading.tokenizer_loading import load_tokenizer


def run(run: Run, spec: MergeSpec) -> dict[str, Any]:
    """Merge an adapter and register what it becomes as a candidate. Returns the job's result.

    Raises UserError for a policy that can't be merged, or whose files are gone or damaged.
    """
    known = registry.of_job(run.db, run.job_id)  # by a worker that was killed before it could say so
    if known is not None:
        return {"revision": known.revision, **stored_result(run, known), "seconds": run.seconds()}
    adapter = registry.by_revision(run.db, spec.frozen(run.db, run.data_dir).revision)
    base = ready(run.data_dir, spec.model)
    path = verified(run.data_dir, adapter)
    ground = ground_path(run.db, run.data_dir, base.path, adapter.lies_on)
    on = registry.ground(run.db, adapter).revision
    run.log(f"merging {adapter.revision}, which was trained on {adapter.precision} weights, into those of {on}")
    model, rounding = merged(ground, path, run)

    def save(directory: Path) -> dict[str, Any]:
        model.save_pretrained(directory, safe_serialization=True)
        load_tokenizer(base.path).save_pretrained(directory)
        return {"merged": adapter.revision, "adapter_sha256": adapter.sha256, "ground": on, "rounding": rounding}

    policy, result = store_made(run, TrainedModel(base.name, adapter.id, "full", "bf16"), save)
    return {"revision": policy.revision, **result, "seconds": run.seconds()}


def merged(ground: Path, adapter: Path, run: Run) -> tuple[Any, float | None]:
    """The merged model in bfloat16, and the norm of what rounding to it did over that of the adapter's change.

    It stays in the processor's memory: a GPU that held the weights in 4 bits may not hold them in 16. Raises Stopped
    when the job is told to stop, and UserError where layers with adapters of their own have the same weight.
    """
    plain = load_whole(ground, dtype="auto")
    model = hung_on(plain, adapter, torch_device="cpu")
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if len({id(weight_of(layer)) for layer in layers}) < len(layers):
        said = _(
            "{adapter} can't be merged: layers of this model share weights, and each has an adapter of its own. It "
            "can go on serving as it is."
        )
        raise UserError(said.format(adapter=adapter.name))
    change = error = torch.zeros(())
    for done, layer in enumerate(layers):
        run.report(done, len(layers), {}, _("It merges the weights."))
        run.raise_if_stopped()
        layer_change, layer_error = merge_layer(layer)
        change, error = change + layer_change, error + layer_error
    rounding = (error / change).sqrt().item() if change > 0 else None
    return model.unload().to(torch.bfloat16), rounding


@torch.no_grad()
def merge_layer(layer: Any) -> tuple[Tensor, Tensor]:
    """Add a layer's adapter to its weight; squared norms of the change and of what rounding to bfloat16 did to it."""
    weight = weight_of(layer)
    before_OI = weight.data.float()
    weight.data = before_OI
    layer.merge(safe_merge=True)
    exact_OI = weight.data
    weight.data = exact_OI.to(torch.bfloat16)
    return (exact_OI - before_OI).square().sum(), (weight.data.float() - exact_OI).square().sum()


def weight_of(layer: Any) -> Any:
    """What a layer's adapter is added to: of experts that are held together PEFT adapts parameters by name."""
    return getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))
