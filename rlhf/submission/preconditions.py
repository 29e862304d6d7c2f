"""Why something can't be done with policies and reward models as they are: train from them, merge, delete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from annotation.database import Database
from annotation.records import UserError
from annotation.translation import N_, _, joined, ngettext
from rlhf.jobs import job_store
from rlhf.jobs.devices import query_graphics
from rlhf.jobs.job_spec import ATTENTION, Training, TrainingSpec, target_layers
from rlhf.judges import judge_store
from rlhf.models import registry
from rlhf.models.adapters.adapter_tensors import ADAPTER_WEIGHTS
from rlhf.models.adapters.stored_adapter import StoredLora, StoredPrompt, read_adapter
from rlhf.models.base import base_files, base_precision
from rlhf.models.memory import model_shapes, parameter_counts
from rlhf.models.model_files import OUTPUTS, has_scores, is_tied, read_header
from rlhf.models.registry import Policy
from rlhf.models.reward_model_quality import quality_of
from rlhf.models.self_test_results import kept_result


def check(db: Database, spec: TrainingSpec, here: bool = True) -> list[str]:
    """Why this job can't be made, a sentence each, as far as can be told without freezing its data.

    `here`: it is to run on this machine.
    """
    found: list[str] = []
    try:
        parent = registry.by_revision(db, spec.parent)
        spec = on_parent(db, spec, parent)
        problem = parent_problem(db, spec, parent)
        found = [problem] if problem else [*ground_problem(db, spec, parent)]
        found += filter(None, [spec.refusal(db)])
    except UserError as error:
        found.append(str(error))
    return [*spec.impossible(), *(machine_problem(spec) if here else ()), *found]


def machine_problem(spec: TrainingSpec) -> Iterator[str]:
    if spec.processes == 1 and spec.optimiser == "adamw":
        return  # without asking the driver, which takes a moment, on every change of a form
    gpus, processors = len(query_graphics()), os.cpu_count() or 1
    if spec.optimiser == "adamw-8bit" and not gpus:
        yield _("The optimiser adamw-8bit needs a GPU, and there is none here: use adamw.")
    # Two processes can share one processor; each needs a GPU of its own where there are any.
    if spec.processes > (gpus or max(2, processors)):
        too_many = (
            _("{processes} processes are more than this machine has GPUs ({devices}), and each process takes one.")
            if gpus
            else _("{processes} processes are more than this machine has processors ({devices}).")
        )
        yield too_many.format(processes=spec.processes, devices=gpus or processors)


def ground_problem(db: Database, spec: TrainingSpec, parent: Policy) -> Iterator[str]:
    """Why a job can't be run on the weights that its parent lies on, or is; nothing where these are not here."""
    directory = ground_directory(db, parent)
    if directory is None:
        return
    yield from quantised_problem(spec, base_precision.quantisation(directory))
    if spec.makes == "reward-model" and not has_scores(directory):
        yield _(
            "The installed transformers has no scoring model of this base's kind, so a reward model can't grow on "
            "it: train policies by an algorithm that needs none."
        )
    directory_of_base = base_files.on_this_machine(db.path.parent, parent.base)
    tried = None if directory_of_base is None else kept_result(db.path.parent, directory_of_base)
    if tried is not None and (problem := tried.problem(spec.method)):
        yield problem
    try:
        shapes = model_shapes.read_shapes(directory)
    except UserError:
        return  # of a kind whose layers are not known before it is loaded
    longest = spec.max_length + (spec.virtual_tokens if spec.method == "prompt" else 0)
    if 0 < shapes.positions < longest:
        yield _(
            "This base model has places for {positions} tokens, and an item may have {longest}: lower max_length "
            "({max_length})."
        ).format(positions=shapes.positions, longest=longest, max_length=spec.max_length)
    if spec.method in ("lora", "qlora"):
        yield from adapter_problem(shapes, spec)


def adapter_problem(shapes: model_shapes.Shapes, spec: TrainingSpec) -> Iterator[str]:
    """Why the adapter that a job asks for can't be put on layers of these shapes."""
    missing = parameter_counts.missing_targets(shapes, spec)
    if missing:
        layers = sorted({name.split(".")[-2] for name in shapes.adaptable})
        yield _(
            "lora_targets '{lora_targets}' needs layers named {missing}, and this model has none: its linear "
            "layers are {layers}. Take lora_targets 'all-linear', or 'named' with some of these in lora_layers."
        ).format(lora_targets=spec.lora_targets, missing=", ".join(missing), layers=", ".join(layers))
    # Experts of these kinds and their router, `gate`, are parameters, on which PEFT puts adapters of another class.
    if shapes.experts and spec.dora:
        names = {name.split(".")[-2] for name in parameter_counts.targets(shapes, spec)}
        if names & {*shapes.experts, "gate"}:
            yield _(
                "DoRA can't be put on the experts of this model or on what chooses them: train without it, or "
                "take lora_targets 'attention'."
            )
    if shapes.experts and spec.lora_targets == "upper-half":
        yield _(
            "The experts of this model have adapters in all layers or in none: take lora_targets 'all-linear' or "
            "'attention'."
        )
    fused = [name for name in shapes.experts[:2] if name in {end.split(".")[-1] for end in target_layers(spec)}]
    if len(fused) == 1:
        yield _(
            "The experts of this model hold {first} and {second} as one layer: name both in lora_layers, or neither."
        ).format(first=shapes.experts[0], second=shapes.experts[1])
    if spec.lora_init == "pissa":
        sides = [min(shape) for shape in parameter_counts.targets(shapes, spec).values()]
        if sides and spec.lora_r > min(sides):
            yield _(
                "PiSSA takes lora_r {lora_r} directions out of each layer, and the smallest here has "
                "{sides}: lower lora_r, or use the default init."
            ).format(lora_r=spec.lora_r, sides=min(sides))


def quantised_problem(spec: TrainingSpec, how: str) -> Iterator[str]:
    """Why a job can't be run on weights that are quantised already, and `how`; nothing if they are not."""
    if not how:
        return
    if spec.method == "full":
        yield _(
            "The weights that it starts from are quantised already ({how}), and only those in 16 or 32 bits can be "
            "trained: train an adapter (lora or prompt)."
        ).format(how=_(how))
    if spec.method == "qlora" and how != base_precision.FOUR_BITS:
        yield _(
            "The weights that it starts from are quantised already ({how}), and can't be held in 4 bits: use the "
            "method lora, which takes them as they are."
        ).format(how=_(how))
    if spec.lora_init == "pissa":
        yield _(
            "The weights that it starts from are quantised already ({how}), and PiSSA takes directions out of "
            "them: use the default init."
        ).format(how=_(how))
    if spec.dora and how != base_precision.FOUR_BITS:
        yield _(
            "The weights that it starts from are quantised already ({how}), and DoRA needs them in 4, 16 or 32 "
            "bits: train without it."
        ).format(how=_(how))


def ground_directory(db: Database, policy: Policy) -> Path | None:
    """Where the weights are that a policy lies on, or is; None where they are not on this machine."""
    data_dir = db.path.parent
    ground = registry.ground(db, policy)
    if ground.form == "full":
        directory = data_dir / str(ground.path)
        return directory if (directory / "config.json").is_file() else None
    return base_files.on_this_machine(data_dir, policy.base)


def parent_problem(db: Database, spec: TrainingSpec, parent: Policy) -> str:
    """Why a job can't start from this parent; empty where it can."""
    if parent.deleted:
        return _("The files of the parent {revision} were deleted on {deleted}: choose another.").format(
            revision=parent.revision, deleted=parent.deleted[:10]
        )
    if parent.kind == "reward-model" and spec.makes == "policy":
        return _("{revision} is a reward model; choose a policy as the parent.").format(revision=parent.revision)
    if spec.makes == "reward-model" and parent.kind == "policy" and parent.form not in ("base", "full"):
        adapter = _("A reward model grows on whole weights, and {revision} is an adapter.").format(
            revision=parent.revision
        )
        return joined(adapter, instead(db, spec, parent))
    if parent.form in ("base", "full"):
        full_reference = spec.method == "full" and spec.implicit_reference() == "base"
        if full_reference and parent.form == "full":
            return _(
                "Full fine-tuning from {revision} keeps no copy of the base to be the reference: take the "
                "parent as the reference."
            ).format(revision=parent.revision)
        return ""
    if spec.method == "full":
        adapter = _("Full fine-tuning starts from whole weights, and {revision} is an adapter.").format(
            revision=parent.revision
        )
        return joined(adapter, instead(db, spec, parent))
    return shape_problem(db, spec, parent)


def instead(db: Database, spec: TrainingSpec, parent: Policy) -> str:
    """What else can be done than what its parent's adapter does not let a job do, in a sentence."""
    if parent.form != "prompt":
        return (
            _(START) if merge_problem(db, parent) else _("Merge it into 16-bit weights first, or start from the base.")
        )
    if "prompt" not in spec.methods:
        return _("Its virtual tokens can't be merged into weights, so start from the base.")
    return _(
        "Its virtual tokens can't be merged into weights, so continue with prompt tuning of {tokens}, or start from "
        "the base."
    ).format(tokens=shape_of(db, parent)["virtual_tokens"])


START = N_("Start from the base.")


SHAPE = {
    "lora": ("method", "lora_r", "lora_alpha", "lora_targets", "lora_layers", "dora", "rslora", "lora_init"),
    "prompt": ("method", "virtual_tokens"),
}
SHAPED = tuple(dict.fromkeys(name for names in SHAPE.values() for name in names))


def shape_of(db: Database, policy: Policy) -> dict[str, Any]:
    """The settings that a job has to share with what made its parent's adapter; none for whole weights.

    Those of one that was not trained here are in its configuration. Raises UserError where that can't be read.
    """
    made = registry.trained_as(db, policy)
    if made is not None:
        return {name: getattr(made, name) for name in SHAPE.get(policy.form, ())}
    if policy.form not in SHAPE:
        return {}
    adapter = stored_adapter(db, policy)
    if isinstance(adapter, StoredPrompt):
        return {"method": "prompt", "virtual_tokens": adapter.num_virtual_tokens}
    return {
        "method": "qlora" if policy.precision == "nf4" else "lora",
        "lora_r": adapter.r,
        "lora_alpha": adapter.lora_alpha,
        **targets_of(db, policy, adapter),
        "dora": adapter.use_dora,
        "rslora": adapter.use_rslora,
        "lora_init": "default",
    }


def on_parent(db: Database, spec: Training, parent: Policy) -> Training:
    """The spec with what it leaves to its parent: method, precision and, of an adapter to continue, the shape.

    What stands at the default is left. Nothing is taken of an adapter that can't be continued, or read: `check` says
    why.
    """
    made, shape = registry.trained_as(db, parent), {}
    if parent.kind == ("reward-model" if spec.makes == "reward-model" else "policy") and (
        made is None or made.lora_init != "pissa"
    ):
        with suppress(UserError):
            shape = shape_of(db, parent)
    if spec.method == "auto" and parent.form == "prompt" and "prompt" in spec.methods:
        spec = replace(spec, method="prompt")
    spec = spec.on_weights(parent.precision)
    if parent.form != ("prompt" if spec.method == "prompt" else "lora") or spec.method == "full":
        return spec
    default = type(spec)()
    left = {name: value for name, value in shape.items() if getattr(spec, name) == getattr(default, name)}
    if not left.keys() >= TOGETHER:
        left = {name: value for name, value in left.items() if name not in TOGETHER}
    # Alpha may be none that a spec can have.
    return replace(spec, **{name: value for name, value in left.items() if type(value) is type(getattr(default, name))})


# Which layers have an adapter is said by two fields.
TOGETHER = {"lora_targets", "lora_layers"}


def stored_adapter(db: Database, policy: Policy) -> StoredLora | StoredPrompt:
    """The record of an adapter. Raises UserError where there is none of its files."""
    return read_adapter(db.path.parent / str(policy.path))


def targets_of(db: Database, policy: Policy, adapter: StoredLora) -> dict[str, str]:
    """The layers that have an adapter, as a spec names them; PEFT may have written each one out."""
    names, linear = {*adapter.target_modules}, linear_layers(db, policy)

    def covered(ends: Iterable[str]) -> set[str]:
        return {layer for layer in linear if any(model_shapes.ends(layer, end) for end in ends)}

    if adapter.all_linear or (linear and covered(names) == linear):
        return {"lora_targets": "upper-half" if adapter.layers_to_transform else "all-linear", "lora_layers": ""}
    if names == {*ATTENTION} or (linear and covered(names) == covered(ATTENTION)):
        return {"lora_targets": "attention", "lora_layers": ""}
    short = {name.rpartition(".")[2] for name in names}
    names = short if linear and covered(names) == covered(short) else names
    return {"lora_targets": "named", "lora_layers": ", ".join(sorted(names))}


def linear_layers(db: Database, policy: Policy) -> set[str]:
    """The linear layers of the weights that a policy lies on; none where these are not known."""
    shapes = shapes_under(db, policy)
    return set() if shapes is None else {*shapes.adaptable}


def shapes_under(db: Database, policy: Policy) -> model_shapes.Shapes | None:
    directory = ground_directory(db, policy)
    try:
        return None if directory is None else model_shapes.read_shapes(directory)
    except UserError:
        return None


# What an adapter may have that no job here could give it: it would be left out, or mean something else, in going on.
BEYOND: Final = (
    *("rank_pattern", "alpha_pattern", "layers_to_transform", "exclude_modules", "lora_bias"),
    *("target_parameters", "trainable_token_indices", "modules_to_save"),
)


def leaves_out_the_same(db: Database, policy: Policy, adapter: StoredLora) -> bool:
    """Whether an adapter leaves out the layers that training here leaves out of it, too."""
    shapes = shapes_under(db, policy)
    return shapes is not None and {*adapter.exclude_modules} == {*shapes.without_adapter}


def is_upper_half(db: Database, policy: Policy, adapter: StoredLora) -> bool:
    """Whether an adapter lies on all linear layers of the model's upper half, as training here puts one there."""
    shapes = shapes_under(db, policy)
    if shapes is None:
        return False
    upper = range(shapes.layers // 2, shapes.layers)
    every = all(any(model_shapes.ends(layer, end) for end in adapter.target_modules) for layer in shapes.adaptable)
    return every and [*adapter.layers_to_transform] == [*upper]


def beyond(db: Database, policy: Policy) -> list[str]:
    """The settings of a LoRA adapter that was not trained here with which no job could go on."""
    adapter = stored_adapter(db, policy)
    if isinstance(adapter, StoredPrompt):
        return []
    given = {
        "layers_to_transform": is_upper_half(db, policy, adapter),
        "exclude_modules": leaves_out_the_same(db, policy, adapter),
        "modules_to_save": policy.kind == "reward-model",
    }
    return [name for name in BEYOND if getattr(adapter, name) and not given.get(name)]


def shape_problem(db: Database, spec: TrainingSpec, parent: Policy) -> str:
    """Why the parent's adapter can't be continued: its weights would not fit, or would mean another policy.

    Empty where it can.
    """
    made, shape = registry.trained_as(db, parent), shape_of(db, parent)
    if spec.method != shape["method"] and {spec.method, shape["method"]} != {"lora", "qlora"}:
        what = (
            _("The parent {revision} was trained with {shape} and can't be continued with {method}.")
            if made is not None
            else _("The parent {revision} is an adapter of the kind {shape} and can't be continued with {method}.")
        ).format(revision=parent.revision, shape=shape["method"], method=spec.method)
        return joined(what, instead(db, spec, parent))
    if spec.held_in() != parent.precision:
        return across_precisions(db, spec, parent)
    if made is not None and made.lora_init == "pissa":
        began = _("The parent {revision} began with PiSSA, and was stored as an adapter of twice the rank.").format(
            revision=parent.revision
        )
        return joined(began, instead(db, spec, parent))
    unknown = beyond(db, parent) if made is None else []
    if unknown:
        has = _("The parent {revision} has settings that training here has not ({settings}), so it can't be continued.")
        said = has.format(revision=parent.revision, settings=", ".join(unknown))
        return joined(said, instead(db, spec, parent))
    differing = {name: value for name, value in shape.items() if not same_setting(name, value, spec)}
    if not differing:
        return ""
    settings = ", ".join(f"{name} {value}" for name, value in differing.items())
    return _("The parent {revision} has {settings}. Use the same to continue it, or start from the base.").format(
        revision=parent.revision, settings=settings
    )


def across_precisions(db: Database, spec: TrainingSpec, parent: Policy) -> str:
    """Why a parent's adapter can't be continued on weights in another precision, and what can be done instead."""
    if spec.method == "qlora":
        said = _(
            "The parent {revision} was trained on {precision} weights, and in another precision these are other "
            "weights: use the method lora to continue it."
        )
    elif parent.precision == "nf4":
        said = _(
            "The parent {revision} was trained on {precision} weights, and in another precision these are other "
            "weights: use the method qlora to continue it."
        )
    else:
        said = _(
            "The parent {revision} was trained on {precision} weights, and in another precision these are other "
            "weights: use precision {precision} to continue it."
        )
    otherwise = _(START) if parent.form == "prompt" else instead(db, spec, parent)
    return joined(said.format(revision=parent.revision, precision=parent.precision), otherwise)


def same_setting(name: str, value: Any, spec: TrainingSpec) -> bool:
    """Whether a spec has a setting of its parent's shape; the order of layers' names makes no difference."""
    if name == "lora_layers":
        return sorted(value.replace(" ", "").split(",")) == sorted(spec.lora_layers.replace(" ", "").split(","))
    return bool(value == getattr(spec, name))


def accuracy_of(db: Database, reward: Policy) -> float | None:
    """How often a reward model is right on held-out comparisons; None where that was not measured."""
    quality = quality_of(db, reward)
    return None if quality is None else quality.accuracy.value


NOT_MERGED: Mapping[str, str] = {
    "base": N_("{revision} has no adapter that could be merged."),
    "full": N_("{revision} is whole weights already: there is nothing to merge."),
    "prompt": N_(
        "{revision} is virtual tokens before the prompt, which change no weight, so they can't be merged into any."
    ),
    "reward-model": N_(
        "{revision} is a reward model: it scores answers, and merging makes a policy, which gives them."
    ),
}


def merge_problem(db: Database, policy: Policy) -> str:
    """Why a policy can't be merged into 16-bit weights; empty where it can."""
    for what in (policy.kind, policy.form):
        if what in NOT_MERGED:
            return _(NOT_MERGED[what]).format(revision=policy.revision)
    if policy.deleted:
        return registry.gone(policy)
    ground = ground_directory(db, policy)
    how = base_precision.quantisation(ground) if ground is not None else ""
    if how:
        return _("{revision} lies on weights that are quantised ({how}), and there are none in 16 bits.").format(
            revision=policy.revision, how=_(how)
        )
    return unmergeable(db, policy, ground)


# Settings of an adapter for what is added to no matrix.
UNMERGED = ("trainable_token_indices", "lora_bias")


def unmergeable(db: Database, policy: Policy, ground: Path | None) -> str:
    """Why an adapter from elsewhere would be merged into weights that answer otherwise; empty where it is not here.

    Its rows for some tokens are not added to any matrix, nor is a bias to a layer without one. And a matrix by which
    words are read and written, of which it changes one use, can't be both.
    """
    with suppress(UserError):
        adapter = stored_adapter(db, policy)
        has = [name for name in UNMERGED if getattr(adapter, name)]
        if ground is not None and is_tied(ground):
            embeddings = {*model_shapes.INPUT_EMBEDDINGS, *OUTPUTS}
            adapted = read_header(db.path.parent / str(policy.path) / ADAPTER_WEIGHTS)
            words = {word for name in adapted if ".lora_" in name for word in name.split(".")}
            has += sorted(words & embeddings)
        if has:
            return _("{revision} changes what can't be merged into weights ({named}), so it stays an adapter.").format(
                revision=policy.revision, named=", ".join(has)
            )
    return ""


def needed_by(db: Database, policy: Policy) -> str:
    """Why a policy's files can't be deleted now; empty where they can."""
    if policy.path is None:
        return _("The base model is not Prefloop's to delete.")
    if policy.deleted:
        return _("The files of {revision} were deleted already.").format(revision=policy.revision)
    if policy.status == "serving":
        return _("{revision} serves now: promote another policy first.").format(revision=policy.revision)
    grounded = [
        other.revision for other in registry.all_policies(db) if other.ground_id == policy.id and not other.deleted
    ]
    if grounded:
        return ngettext(
            "{grounded} lies on the weights of {revision}: delete it first.",
            "{grounded} lie on the weights of {revision}: delete them first.",
            len(grounded),
        ).format(grounded=", ".join(grounded), revision=policy.revision)
    judged = [other.revision for other in registry.all_policies(db) if is_reference(db, policy, other)]
    if judged:
        return _("{judged} is compared with {revision}, its reference, in its check: decide on it first.").format(
            judged=judged[0], revision=policy.revision
        )
    if registry.limits_are_against(db) == policy.revision:
        return _("The gate's limits are against {revision}: choose another policy in the gate's rule first.").format(
            revision=policy.revision
        )
    panel = [judge.name for judge in judge_store.judges(db, active=True) if judge_store.model_of(db, judge) == policy]
    if panel:
        return _("The judge {panel} judges with {revision}: put the judge aside first, on the AI judges tab.").format(
            panel=panel[0], revision=policy.revision
        )
    users = [
        job.id for job in job_store.active(db, job_store.waiting_kinds()) if policy.revision in job.spec.depends_on()
    ]
    if users:
        return _("Job {users} needs {revision}: wait for it, or cancel it.").format(
            users=users[0], revision=policy.revision
        )
    return ""


def is_reference(db: Database, policy: Policy, candidate: Policy) -> bool:
    spec = registry.trained_as(db, candidate) if candidate.status == "candidate" and not candidate.deleted else None
    return spec is not None and spec.implicit_reference() == "parent" and spec.parent == policy.revision
