"""In which precision the base is held: by what this machine has, or as somebody decided."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import cast, get_args

from annotation.database import Database
from annotation.records import UserError
from annotation.translation import N_, _
from rlhf.models import model_files, registry
from rlhf.models.base.base_files import on_this_machine
from rlhf.models.memory import machines, model_shapes
from rlhf.models.memory.machines import Machine
from rlhf.models.model_files import CONFIG
from rlhf.models.registry import HeldPrecision, Policy

# How `quantisation` names weights that bitsandbytes stored in 4 bits, as QLoRA holds them.
FOUR_BITS = N_("4 bits")
BYTES: Mapping[HeldPrecision, int] = {"bf16": 2, "fp32": 4}
# 16 bits where they take no more of the memory: training, its activations and a second policy want the rest.
SHARE_OF_MEMORY = 0.25
# NF4 costs quality, so it is to save at least so much of the weights' bytes.
NF4_SAVES = 0.5


def quantisation(directory: Path) -> str:
    """How a model's weights are stored if they are quantised already, as it stands in brackets; empty if not.

    Raises UserError if its configuration can't be read.
    """
    found = model_files.read_object(directory / CONFIG).get("quantization_config")
    if not found:
        return ""
    settings = found if isinstance(found, Mapping) else {}
    if settings.get("load_in_4bit"):
        return FOUR_BITS
    if settings.get("load_in_8bit"):
        return N_("8 bits")
    method = settings.get("quant_method")
    return str(method or N_("unknown method"))


def precision_by_need(directory: Path, machine: Machine) -> HeldPrecision:
    """The precision in which this machine should hold a model: 16 bits where they fit into a quarter of its memory.

    32 where it does not compute in 16; NF4 where neither fits, unless that saves too little (it leaves experts and
    embeddings as they are) and is not all that fits at all. What is quantised already is held as it is stored.
    """
    plain: HeldPrecision = "bf16" if machine.bf16 else "fp32"
    how = quantisation(directory)
    if how:
        return "nf4" if how == FOUR_BITS else plain
    need = bytes_in(directory, plain)
    if need <= SHARE_OF_MEMORY * machine.total:
        return plain
    share = model_shapes.share_in_nf4(
        {name: each.shape for name, each in model_files.check_weights(directory).items()}, BYTES[plain]
    )
    return "nf4" if share <= 1 - NF4_SAVES or share * need <= machine.total < need else plain


def bytes_in(directory: Path, plain: HeldPrecision) -> int:
    """How many bytes a model's weights take in 16 or 32 bits. Raises UserError where its files are not whole."""
    return sum(prod(tensor.shape) for tensor in model_files.check_weights(directory).values()) * BYTES[plain]


def change_precision(db: Database, precision: str, decided_by: str) -> Policy:
    """Hold the base in another precision from now on. Raises UserError where that can't be, or not now."""
    base = registry.by_revision(db, "base")
    directory = on_this_machine(db.path.parent, base.base)
    if directory is None:
        said = _("The base model {base} is not on this machine. Start Prefloop once to fetch it.")
        raise UserError(said.format(base=base.base))
    if problem := precision_problem(directory, precision, machines.this_machine()):
        raise UserError(problem)
    return registry.set_precision(db, cast(HeldPrecision, precision), decided_by)


def precision_problem(directory: Path, precision: str, machine: Machine) -> str:
    """Why a model can't be held in this precision on this machine, in a sentence; empty if it can."""
    if precision not in get_args(HeldPrecision):
        return _("A base can be held in nf4, bf16 or fp32, not in '{precision}'.").format(precision=precision)
    how = quantisation(directory)
    if how and (precision == "nf4") != (how == FOUR_BITS):
        return _("The base is stored quantised ({how}) and can only be held as it is stored.").format(how=_(how))
    if how or precision == "nf4":
        return ""
    need = bytes_in(directory, cast(HeldPrecision, precision))
    if need <= machine.total:
        return ""
    return _(
        "In {precision} the base takes {need:.1f} GB, and this machine has {total:.1f} GB of memory. Hold it in "
        "nf4, or take a larger machine."
    ).format(precision=precision, need=need / 1e9, total=machine.total / 1e9)
