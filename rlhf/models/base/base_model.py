"""Make a base model ready and check it before anything heavy is loaded: all there, room for it, computed rightly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from annotation.database import Database
from annotation.records import UserError
from annotation.translation import _
from rlhf.models import model_files, registry
from rlhf.models.base.base_files import (
    EMBEDDED,
    EMBEDDED_NAME,
    BaseModel,
    convert_embedded,
    is_hub_name,
    locate,
    models_process,
    name_of,
    on_this_machine,
)
from rlhf.models.base.base_template import answers_plainly, takes_system
from rlhf.models.memory import machines
from rlhf.models.model_files import CONFIG
from rlhf.models.self_test_results import SelfTestResult, keep_result, kept_result, result_of
from rlhf.models.template_process import ended

# A job holds the 4-bit base, a 16-bit copy while it loads, activations and an optimiser for the adapter.
MEMORY_FACTOR = 1.5
MEMORY_FLOOR = 1_000_000_000
# How the process that tries a model says that its last line is a sentence for people, or why it can't be tried here.
REFUSED, NOT_HERE = 2, 3


class NotHere(Exception):
    """A model can't be tried on this machine, which says nothing against it; says why, in a few words."""


def prepare(data_dir: Path, model: str, known: bool = False, anew: bool = False) -> BaseModel:
    """Locate the model, converting the embedded one on first use (about half a minute), and check that it can be used.

    A name on the Hub stays at its commit, as `locate` has it, unless it is wanted `anew`.

    One that is not `known` from an earlier time, for which the first job does that, is also tried: whether it can be
    loaded and computed rightly (`rlhf.models.self_test`), which takes some seconds and is kept. A known one stays as it
    is on this machine. Weights that are stored quantised may need a device of another kind: then the model says that it
    was not tried. Imports no torch: what needs it runs in a process of its own. Raises UserError saying what is
    missing.
    """
    embedded = data_dir / "models" / EMBEDDED_NAME
    if model in (EMBEDDED, EMBEDDED_NAME) and not embedded.is_dir():
        convert_embedded(embedded)
    if known:
        return kept(data_dir, model, room=False)  # workers of a program that was killed may still have the memory
    return tried(data_dir, check(locate(data_dir, model, anew)))


def ready(data_dir: Path, model: str) -> BaseModel:
    """The model that `prepare` has set up, checked again; for jobs, whose log says what there is to know of it.

    It is tried where that was not done yet, or by another version of what computes: so no start has to wait for it.
    Raises UserError if it is gone, no longer fits, or can't be computed rightly any more.
    """
    base = tried(data_dir, kept(data_dir, model))
    if base.untried:
        print(base.remark.strip(), flush=True)
    return base


def kept(data_dir: Path, model: str, room: bool = True) -> BaseModel:
    """A model as it is on this machine, checked; fetched again only where it can't be used as it is. Raises UserError.

    Adapters lie on what is here, and the branch that a name on the Hub means may have moved on since.
    """
    try:
        base = present(data_dir, model, room=False)
    except UserError:
        base = check(locate(data_dir, model), room=False)
    if room:
        check_room(base)
    return base


def tried(data_dir: Path, base: BaseModel) -> BaseModel:
    """A model that was tried with these files by what computes here, now if not before. Raises UserError."""
    if kept_result(data_dir, base.path) is not None:
        return base
    try:
        keep_result(data_dir, base.path, self_test(base.path))
    except NotHere as reason:
        return replace(base, untried=str(reason))
    return base


def present(data_dir: Path, model: str, room: bool = True) -> BaseModel:
    """A model that is on this machine, ready to be used: nothing is converted, fetched or installed.

    Raises UserError where it is not here, or can't be used.
    """
    base: BaseModel | None = None
    if model in (EMBEDDED, EMBEDDED_NAME) or Path(model).expanduser().exists():
        base = locate(data_dir, model)
    elif is_hub_name(model) and (cached := on_this_machine(data_dir, model)) is not None:
        base = BaseModel(model, cached)
    if base is None or not base.path.is_dir():
        said = _(
            "There is no base model in {data_dir} yet, and --no-workers sets none up. Start `python "
            "app.py` once without it, or run `python -m rlhf --data {data_dir} prepare`."
        )
        raise UserError(said.format(data_dir=data_dir))
    return check(base, room)


def refuse_another(db: Database, model: str) -> None:
    """Raises UserError where the data directory has another base: before this one is converted or fetched."""
    if registry.all_policies(db):
        registry.ensure_base(db, name_of(model))


def check(base: BaseModel, room: bool = True) -> BaseModel:
    """A model that can be loaded, answer and be trained, with what its chat template takes.

    Raises UserError where files are missing or not whole, transformers does not know the architecture, the template
    does not work, or, unless nobody asks for `room`, the memory is too small.
    """
    model_files.refuse_adapter(base.path)
    if not (base.path / CONFIG).is_file() and not list(base.path.glob("*.gguf")):
        said = _("{path} holds no model: there is no {config}. Choose another one.")
        raise UserError(said.format(path=base.path, config=CONFIG))
    model_files.weight_files(base.path)  # says what is missing before the memory is looked at
    if room:
        check_room(base)
    model_files.check_architecture(base.path)
    model_files.check_weights(base.path)
    return replace(base, takes_system=takes_system(base.path), answers_plainly=answers_plainly(base.path))


def check_room(base: BaseModel) -> None:
    """Raises UserError where the memory is too small for a model."""
    check_memory(base, sum(file.stat().st_size for file in model_files.weight_files(base.path) if file.is_file()))


def check_memory(base: BaseModel, weights: int) -> None:
    """Raises UserError where a model whose weights have so many bytes does not fit."""
    need, free = memory_needed(weights), machines.free_memory()
    if need > free:
        said = _(
            "The model {name} needs about {need:.1f} GB of memory and {free:.1f} GB are free. Close other "
            "programs, or choose a smaller model."
        )
        raise UserError(said.format(name=base.name, need=need / 1000000000.0, free=free / 1000000000.0))


def memory_needed(weights: int) -> int:
    """How many bytes of memory a model needs whose weights have so many."""
    return int(weights * MEMORY_FACTOR) + MEMORY_FLOOR


def self_test(directory: Path) -> SelfTestResult:
    """What is true of a model. Raises UserError where it lacks weights, or can't be loaded or computed rightly.

    Raises NotHere where weights that are stored quantised can't be computed on this machine.
    """
    status, last = models_process("rlhf.models.self_test.trial", directory)
    if status == REFUSED:
        raise UserError(last)
    if status == NOT_HERE:
        raise NotHere(last)
    if status:
        said = _("The model in {directory} can't be loaded ({ended}) Choose another one.")
        raise UserError(said.format(directory=directory, ended=ended(last)))
    return result_of(last)
