"""Take adapters, reward models, whole weights and base models from the Hub: safetensors only, no code, one commit."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any, Final, get_args

from annotation import hub_client as hubs
from annotation.database import Database, has_database, open_database
from annotation.hub_client import Hub
from annotation.records import UserError
from annotation.translation import _, joined
from rlhf.algorithms.model_card import BASE_SHA256, FACTS, public_name
from rlhf.hub import publications
from rlhf.hub.push_model import ADAPTER, CARD, WHOLE
from rlhf.jobs.artifacts import directory_sha256, file_sha256, new_directory
from rlhf.jobs.descriptions import Made
from rlhf.models import chat_template, model_files, registry
from rlhf.models.adapters import adapter_tensors
from rlhf.models.adapters.adapter_tensors import ADAPTER_WEIGHTS, KINDS_OF_VALUES, WRAPPED, TensorShapes
from rlhf.models.adapters.stored_adapter import SCORES, StoredLora, StoredPrompt, read_adapter, write_settings
from rlhf.models.base import base_files, base_model, base_precision
from rlhf.models.base.base_files import BaseModel
from rlhf.models.base.base_identity import base_sha256
from rlhf.models.chat_template import ANSWER, ASKED, LARGEST_TOKENIZER, TOKENIZER_FILE
from rlhf.models.memory import machines
from rlhf.models.model_files import ADAPTER_CONFIG, CONFIG, LARGEST_FILE, OUTPUTS
from rlhf.models.registry import HeldPrecision, Policy, PolicyForm
from rlhf.models.reward_model_quality import SCALE_FILE, read_scale
from rlhf.models.template_process import TemplateRefused, conversation

PULLED: Final = "pulled"
PRECISIONS: Final[tuple[HeldPrecision, ...]] = get_args(HeldPrecision)
# Fields by which a configuration names code beside it.
CODE: Final = ("auto_map", "custom_pipelines")


@dataclass(frozen=True)
class HubRevision:
    """A revision of a model on the Hub: its commit and its files with their sizes and, of large ones, sha256."""

    repo: str
    sha: str
    sizes: Mapping[str, int]
    sha256: Mapping[str, str]

    @property
    def source(self) -> str:
        return f"{self.repo}@{self.sha}"

    def wanted(self, patterns: Sequence[str]) -> list[str]:
        tops = (name for name in self.sizes if "/" not in name)  # to fnmatch a star means directories too
        return sorted(name for name in tops if any(fnmatch(name, pattern) for pattern in patterns))


# --------------------------------------------------------------------------------------------------------------- bases
def pull_base(hub: Hub, data_dir: Path, address: str) -> BaseModel:
    """A model of the Hub that can be the base of a data directory, for good at the commit that its revision is now.

    Raises UserError if it can't be used, or if the directory has another, before anything is fetched.
    """
    found = look_up(hub, *hubs.split_address(address))
    if has_database(data_dir):
        base_model.refuse_another(open_database(data_dir), found.source)
    refuse_code(hub, found, "config.json", "tokenizer_config.json")
    if not found.wanted(["*.safetensors"]):
        said = _("{source} has no safetensors weights, and Prefloop loads no other kind.")
        raise UserError(said.format(source=found.source))
    return base_model.prepare(data_dir, found.source)


# ------------------------------------------------------------------------------------------------------------ policies
def pull(hub: Hub, db: Database, data_dir: Path, address: str, precision: HeldPrecision | None = None) -> Policy:
    """Take an adapter, a reward model or whole weights from the Hub into the registry, as a candidate.

    `precision` is that of what an adapter lies on; by default what its card says, if it is one of ours. What
    was pulled already is not pulled again. Raises UserError, and then the registry is as it was.
    """
    found = look_up(hub, *hubs.split_address(address))
    known = registry.from_source(db, found.source)
    if known is not None:
        return known
    adapter = ADAPTER_CONFIG in found.sizes
    names = usable_files(hub, data_dir, found, adapter)
    revision, base = name_for(db, found), registry.by_revision(db, "base")
    row: dict[str, Any] = {"revision": revision, "path": f"adapters/{revision}", "source": found.source}

    def refuse() -> None:
        if registry.named(db, revision) is not None:
            said = _("{revision} was pulled by somebody else meanwhile. Nothing was changed.")
            raise UserError(said.format(revision=revision))

    with new_directory(data_dir / row["path"], registry.registered(db, refuse, row)) as directory:
        fetch(hub, found, names, directory)
        card = directory / CARD
        said = hubs.card_head(card).get(FACTS) if card.is_file() else None
        facts = said if isinstance(said, dict) else {}
        by_card = next((one for one in PRECISIONS if facts.get("precision", facts.get("weights")) == one), None)
        held = precision or by_card or "bf16"
        entry = checked_adapter(db, data_dir, directory, found) if adapter else checked_whole(db, data_dir, directory)
        if adapter and entry.ground_id is None:
            check_base(db, data_dir, facts.get(BASE_SHA256), found)
            check_precision(db, data_dir, held, found)
        row |= {"algorithm": PULLED, "base": base.base, "parent_id": entry.ground_id or base.id, "job_id": None}
        row |= {**vars(entry), "precision": held}
        row["sha256"] = directory_sha256(directory)  # which takes a while: a kill until here leaves nothing whole
    return registry.by_revision(db, revision)


def usable_files(hub: Hub, data_dir: Path, found: HubRevision, adapter: bool) -> list[str]:
    """The files to fetch. Raises UserError where these are of no use here, as far as that can be seen from afar."""
    if not adapter and "config.json" not in found.sizes:
        said = _("{source} holds no model: neither adapter_config.json nor config.json is there.")
        raise UserError(said.format(source=found.source))
    if not adapter:
        refuse_code(hub, found, "config.json")
    names = found.wanted((*(ADAPTER if adapter else WHOLE), CARD))
    if not any(name.endswith(".safetensors") for name in names):
        said = _(
            "{source} has no safetensors weights, and Prefloop loads no other kind: other files can hold code that "
            "runs when they are loaded. Ask its owner to convert it."
        )
        raise UserError(said.format(source=found.source))
    base_files.refuse_too_large(data_dir, sum(found.sizes[name] for name in names))
    refuse_large_texts(found, names)
    return names


@dataclass(frozen=True)
class RegistryEntry:
    """What the registry says of pulled files."""

    kind: Made
    form: PolicyForm
    ground_id: int | None = None


def look_up(hub: Hub, repo: str, revision: str | None) -> HubRevision:
    """The commit that a revision is now, and its files. Raises UserError."""
    with hubs.explained(_("Looking up {repo} failed."), repo=repo):
        info = hub.api.model_info(repo, revision=revision, files_metadata=True)
    files = [one for one in info.siblings or [] if isinstance(one.size or 0, int)]
    return HubRevision(
        repo,
        str(info.sha),
        {one.rfilename: one.size or 0 for one in files},
        {one.rfilename: one.lfs.sha256 for one in files if one.lfs},
    )


def refuse_code(hub: Hub, found: HubRevision, *names: str) -> None:
    """Raises UserError for a model that needs code of its own: none of it is ever fetched, let alone run."""
    for name in names:
        if name in found.sizes:
            if found.sizes[name] > LARGEST_FILE:
                said = _("{name} of {source} has {sizes:,} bytes: it is no configuration.")
                raise UserError(said.format(name=name, source=found.source, sizes=found.sizes[name]))
            with tempfile.TemporaryDirectory(prefix="prefloop-") as directory:
                failed = hubs.explained(_("Fetching {name} of {repo} failed."), name=name, repo=found.repo)
                with failed, hubs.at_most(found.sizes[name]):
                    path = hub.api.hf_hub_download(found.repo, name, revision=found.sha, local_dir=directory)
                check_code(model_files.read_object(Path(path)), name, found.source)


def check_code(config: Mapping[str, Any], name: str, source: str) -> None:
    """Raises UserError where a configuration names code by which alone its model can be loaded."""
    named = [key for key in CODE if config.get(key)]
    if named:
        said = _(
            "{source} wants to run code of its own ({name} has {named}), and Prefloop runs none "
            "that comes with a model. Choose one that transformers and PEFT know by themselves."
        )
        raise UserError(said.format(source=source, name=name, named=", ".join(named)))


def refuse_large_texts(found: HubRevision, names: Sequence[str]) -> None:
    """Raises UserError where a file that is read whole, as all but weights are, is larger than any such file."""
    for name in names:
        limit = LARGEST_TOKENIZER if name == TOKENIZER_FILE else LARGEST_FILE
        if found.sizes[name] > limit and not name.endswith(".safetensors"):
            said = _("{name} of {source} has {sizes:,} bytes, more than the {most:,} that are read.")
            raise UserError(said.format(name=name, source=found.source, sizes=found.sizes[name], most=limit))


def name_for(db: Database, found: HubRevision) -> str:
    """A name for what was pulled; PEFT takes no dots in one."""
    short = re.sub(r"[^A-Za-z0-9]+", "-", found.repo.split("/")[1]).strip("-") or "model"
    name = f"{short[:80]}-{re.sub('[^A-Za-z0-9]', '-', found.sha[:7])}"
    taken = {policy.revision for policy in registry.all_policies(db)}
    return next(one for one in chain([name], (f"{name}-{number}" for number in count(2))) if one not in taken)


def fetch(hub: Hub, found: HubRevision, names: Sequence[str], directory: Path) -> None:
    """Fetch files of the commit, and compare them with what the Hub says they are. Raises UserError."""
    with hubs.explained(_("Fetching {source} failed."), source=found.source):
        for name in names:
            with hubs.at_most(found.sizes[name]):
                hub.api.hf_hub_download(found.repo, name, revision=found.sha, local_dir=directory)
    shutil.rmtree(directory / ".cache", ignore_errors=True)
    for name in names:
        path = directory / name
        whole = path.stat().st_size == found.sizes[name]
        if whole and name in found.sha256:
            whole = file_sha256(path) == found.sha256[name]
        if not whole:
            said = _("{name} of {source} came damaged. Nothing was kept; pull it again.")
            raise UserError(said.format(name=name, source=found.source))


# -------------------------------------------------------------------------------------------------------------- checks
def checked_adapter(db: Database, data_dir: Path, directory: Path, found: HubRevision) -> RegistryEntry:
    """What an adapter is and lies on. Raises UserError where it is of no use here."""
    adapter = read_adapter(directory, found.source)
    if adapter.kind == "reward-model":
        check_reward(directory, found)
    ground = ground_of(db, adapter, found)
    under = base_path(db, data_dir) if ground is None else data_dir / str(ground.path)
    check_tensors(directory, adapter, under, found.source)
    write_settings(directory, adapter)
    return RegistryEntry(adapter.kind, adapter.form, None if ground is None else ground.id)


def check_tensors(directory: Path, adapter: StoredLora | StoredPrompt, under: Path | None, source: str) -> None:
    """Raises UserError where an adapter does not fit what is under it, or would change it for others."""
    tensors = adapter_tensors.tensor_shapes(directory / ADAPTER_WEIGHTS)
    stray = next((name for name in tensors if is_stray(name, adapter)), None)
    if stray is not None:
        said = _(
            "{source} brings a value of the weights under it ({name}) without naming its layer in "
            "modules_to_save: it would change these for other policies, too. Ask its owner for the adapter "
            "alone (save_embedding_layers=False)."
        )
        raise UserError(said.format(source=source, name=stray[:200]))
    if under is None:
        return
    check_shapes(under, adapter, tensors, source)
    if isinstance(adapter, StoredLora) and adapter.trainable_token_indices and model_files.is_tied(under):
        said = _(
            "{source} has rows of its own for some tokens (trainable_token_indices), and the model under it "
            "uses the same rows for what it reads and writes: that can't be computed here. Ask its owner for "
            "an adapter without, or for merged weights."
        )
        raise UserError(said.format(source=source))


def check_reward(directory: Path, found: HubRevision) -> None:
    """Raises UserError for a reward model whose scores can't be put on a scale."""
    try:
        usable = (directory / SCALE_FILE).is_file() and read_scale(directory).std > 0
    except UserError:
        usable = False
    if not usable:
        said = _(
            "{source} is a reward model without reward.json, which has the mean and standard deviation of its "
            "scores, so they can't be used here. Only reward models that Prefloop has published can be pulled."
        )
        raise UserError(said.format(source=found.source))


def ground_of(db: Database, adapter: StoredLora | StoredPrompt, found: HubRevision) -> Policy | None:
    """The weights of the registry that an adapter lies on; None for the base. Raises UserError where it fits none."""
    wanted = adapter.base_model_name_or_path
    base = registry.by_revision(db, "base").base
    if is_base(wanted, base):
        return None
    for policy in reversed(registry.all_policies(db)):
        if policy.form == "full" and policy.deleted is None and (wanted, adapter.revision) in addresses(db, policy):
            return policy
    named, unnamed = (
        _(
            "{source} lies on {wanted}, and this data directory has {base}: on other weights it would compute "
            "something else."
        ),
        _("{source} lies on a base that it does not name, and this data directory has {base}."),
    )
    said = (named if wanted else unnamed).format(source=found.source, wanted=wanted, base=public_name(base))
    mend = _(
        "Pull it into a data directory with that base (--data DIR; `pull --base` sets one up), or pull the weights "
        "that it lies on first."
    )
    raise UserError(joined(said, mend))


def is_base(wanted: str, base: str) -> bool:
    """Whether an adapter names this base. Of one that lies, or lay, in a directory only the last part is a name."""
    own = public_name(base)
    if wanted == own:
        return True
    last = wanted.rpartition("/")[2]
    return bool(last) and ("/" not in own or "/" not in wanted) and last == own.rpartition("/")[2]


def addresses(db: Database, policy: Policy) -> Iterator[tuple[str, str]]:
    """Repository and revision by which a policy is known on the Hub, also without a revision."""
    repo, _, sha = (policy.source or "").partition("@")
    known = [(one.repo, one.tag) for one in publications.all_of(db) if one.model_id == policy.id]
    known += [(one.repo, one.commit_sha) for one in publications.all_of(db) if one.model_id == policy.id]
    for place in (*known, *([(repo, sha)] if repo else [])):
        yield place
        yield place[0], ""


def checked_whole(db: Database, data_dir: Path, directory: Path) -> RegistryEntry:
    """What whole weights are. Raises UserError where they are not whole, or not of the base's kind."""
    path, base = base_path(db, data_dir), public_name(registry.by_revision(db, "base").base)
    check_whole(directory, path, base)
    if path is not None:
        check_words(path, directory, base)
    base_model.self_test(directory)
    return RegistryEntry("policy", "full")


def check_whole(directory: Path, path: Path | None, base: str) -> None:
    """Raises UserError where whole weights are not whole, or not of the kind of the base, which lies at `path`."""
    how = base_precision.quantisation(directory)
    if how:
        said = _("These weights are stored quantised ({how}); Prefloop trains on and merges into 16 bits.")
        raise UserError(said.format(how=_(how)))
    model_files.check_architecture(directory)
    if path is not None:
        check_kind(model_files.read_object(path / CONFIG), model_files.read_object(directory / CONFIG), base)
    model_files.check_weights(directory)


def check_kind(own: Mapping[str, Any], config: Mapping[str, Any], base: str) -> None:
    """Raises UserError where whole weights' configuration is of another kind of model, or of other sizes, than the
    base's own.

    Of a base that also sees, whole weights may be the part for texts alone, and either may leave a size to its default.
    """
    pairs = [
        (name, model_files.of_text(config).get(name), model_files.of_text(own).get(name))
        for name in ("vocab_size", "hidden_size")
    ]
    differing = [pair for pair in pairs if None not in pair and pair[1] != pair[2]]
    kinds, wanted = (
        {str(one.get("model_type")) for one in (told, model_files.of_text(told))} for told in (config, own)
    )
    if not kinds & wanted:
        differing.insert(0, ("model_type", config.get("model_type"), own.get("model_type")))
    if differing:
        told = ", ".join(
            _("{name} {has} instead of {wanted}").format(name=name, has=has, wanted=wanted)
            for name, has, wanted in differing
        )
        said = _(
            "These weights are not those of a model that began as {base} ({told}). Use a data "
            "directory of their own: `pull --base` with another --data DIR."
        )
        raise UserError(said.format(base=base, told=told))


def check_words(path: Path, directory: Path, base: str) -> None:
    """Raises UserError where whole weights were trained with other words, or another template, than the base's at path.

    It is the base's tokenizer and template that they are given here. Tokens that they have besides do no harm.
    """
    differs = chat_template.has_template(directory) and written(directory) != written(path)
    if not differs and all((place / TOKENIZER_FILE).is_file() for place in (path, directory)):
        own, theirs = (chat_template.read_backend(place / TOKENIZER_FILE).get_vocab() for place in (path, directory))
        differs = any(theirs.get(word) != number for word, number in own.items())
    if differs:
        said = _(
            "These weights have another vocabulary or chat template than {base}, whose tokenizer and template "
            "they would be given here. Use a data directory of their own: `pull --base` with another --data DIR."
        )
        raise UserError(said.format(base=base))


def written(directory: Path) -> str:
    """How a model's template writes a short conversation; why it does not, where it refuses it."""
    try:
        told = [ASKED, {"role": "assistant", "content": ANSWER}, ASKED]
        return conversation(chat_template.read_format(directory), told, begins=True)
    except TemplateRefused as refused:
        return refused.reason


def base_path(db: Database, data_dir: Path) -> Path | None:
    """Where the base's files are, if they are on this machine."""
    return base_files.on_this_machine(data_dir, registry.by_revision(db, "base").base)


def check_precision(db: Database, data_dir: Path, precision: HeldPrecision, found: HubRevision) -> None:
    """Raises UserError where the base can't be held here in the precision that an adapter is to lie on."""
    path = base_path(db, data_dir)
    problem = "" if path is None else base_precision.precision_problem(path, precision, machines.this_machine())
    if problem:
        would = _("{source} would lie on the base in {precision}.").format(source=found.source, precision=precision)
        raise UserError(joined(would, problem, _("Or say in which precision the adapter was trained.")))


def check_base(db: Database, data_dir: Path, told: object, found: HubRevision) -> None:
    """Raises UserError where an adapter's card says that it lies on other weights of the base's name."""
    base = registry.by_revision(db, "base").base
    own = base_sha256(db, data_dir, base) if isinstance(told, str) else ""
    if own and told != own and told != base_sha256(db, data_dir, base, earlier=True):
        said = _(
            "{source} lies on weights that are called {public_name} but are not those of this data "
            "directory (its card has another sha256 of them): on these it would compute something else. "
            "Pull it into a data directory with its own base (--data DIR; `pull --base` sets one up)."
        )
        raise UserError(said.format(source=found.source, public_name=public_name(base)))


def saved_of(name: str) -> tuple[str, str] | None:
    """The layer that was trained whole beside an adapter, and which of its values this is; None for other tensors."""
    layer, _, kind = name.removeprefix(WRAPPED).rpartition(".")
    return (layer, kind) if name.startswith(WRAPPED) and layer and kind in KINDS_OF_VALUES else None


def is_stray(name: str, adapter: StoredLora | StoredPrompt) -> bool:
    """Whether a tensor is a value of a layer that is not said to be trained beside the adapter."""
    if adapter_tensors.part_of(name) is not None or (found := saved_of(name)) is None:
        return False
    told = adapter.modules_to_save if isinstance(adapter, StoredLora) else ()
    scores = SCORES if adapter.kind == "reward-model" else ()
    return not any(f"{one}." in f"{found[0]}." for one in (*scores, *told))


def check_shapes(under: Path, adapter: StoredLora | StoredPrompt, tensors: TensorShapes, source: str) -> None:
    """Raises UserError where an adapter's tensors can't belong to these weights.

    Where their files are not here there is nothing to compare with. Of weights that are stored quantised only the names
    say something, and not even these of experts, which a model may hold as one tensor.
    """
    known: dict[str, tuple[int, ...]] = {}
    for file in under.glob("*.safetensors"):
        known |= adapter_tensors.tensor_shapes(file)
    described = model_files.of_text(model_files.read_object(under / CONFIG))
    layers = Layers(known, bool(base_precision.quantisation(under)), described)
    for name, shape in tensors.items():
        if name.endswith("prompt_embeddings"):
            fits = layers.width is None or shape[-1:] == (layers.width,)
        else:
            fits = not known or layers.fit(name, shape, adapter)
        if not fits:
            said = (
                _(
                    "{source} does not fit the weights that it names: {name} is {size}, and there is nothing "
                    "of that name and size under it. It was trained on others of the same name."
                )
                if shape
                else _(
                    "{source} does not fit the weights that it names: {name} is a single number, and there is nothing "
                    "of that name and size under it. It was trained on others of the same name."
                )
            )
            size = "×".join(map(str, shape[:8]))
            raise UserError(said.format(source=source, name=name[:200], size=size))


@dataclass(frozen=True)
class Layers:
    """The tensors of some weights, and what their configuration says."""

    known: TensorShapes
    quantised: bool
    config: Mapping[str, Any]

    @property
    def width(self) -> int | None:
        """The size of a state, where the configuration has it under the usual names."""
        found = self.config.get("hidden_size", self.config.get("n_embd"))
        return found if isinstance(found, int) else None

    def fit(self, name: str, shape: tuple[int, ...], adapter: StoredLora | StoredPrompt) -> bool:
        lora, saved = adapter_tensors.part_of(name), saved_of(name)
        if lora is not None:
            layer, part = lora
            return any(
                part[-1] not in "AB" or side_fits(part, shape, below, self.turned(part, adapter))
                for below in self.at(layer, "weight")
            )
        if saved is None:
            return False
        layer, kind = saved
        if layer.rpartition(".")[2] in SCORES and adapter.kind == "reward-model":
            return kind == "bias" or self.width is None or shape[-1:] == (self.width,)
        return any(not below or shape == below for below in self.at(layer, kind))

    def turned(self, part: str, adapter: StoredLora | StoredPrompt) -> Sequence[bool]:
        """Whether the weights under a matrix may be stored turned: embeddings are, GPT-2's are but for its output."""
        if "embedding" in part:
            return (True,)
        either = (isinstance(adapter, StoredLora) and adapter.fan_in_fan_out) or self.config.get("model_type") == "gpt2"
        return (False, True) if either else (False,)

    def at(self, layer: str, what: str) -> list[tuple[int, ...]]:
        """The shapes of what may be this layer; an empty one stands for any.

        What stands before the number of a layer differs between a file and the model, or between two classes of it.
        """
        tail = adapter_tensors.numbered(layer)
        found = self.by_ending.get(f"{tail}.{what}", ())
        if found:
            return [() if self.quantised else self.known[name] for name in found]
        parts = layer.split(".")
        if parts[-1] in OUTPUTS:
            words = self.config.get("vocab_size")
            return [(words, self.width) if isinstance(words, int) and self.width is not None else ()]
        block = tail.partition(".experts")[0] if "experts" in parts else tail if self.quantised else ""
        return [()] if block and self.has_block(block) else []

    @cached_property
    def by_ending(self) -> Mapping[str, Sequence[str]]:
        """The known tensors by what their names end in: from before the first number on, and the last word."""
        found: dict[str, list[str]] = {}
        for name in self.known:
            layer, _, what = name.rpartition(".")
            for tail in {adapter_tensors.numbered(layer), layer.rpartition(".")[2]}:
                found.setdefault(f"{tail}.{what}", []).append(name)
        return found

    @cached_property
    def blocks(self) -> dict[str, bool]:
        """Whether parts of a name are among the known ones, as far as that was looked for."""
        return {}

    def has_block(self, block: str) -> bool:
        if block not in self.blocks:
            self.blocks[block] = any(f".{block}." in f".{name}" for name in self.known)
        return self.blocks[block]


def side_fits(part: str, shape: tuple[int, ...], below: tuple[int, ...], turned: Sequence[bool]) -> bool:
    """Whether an adapter's matrix meets the side of the weights under it that it has to."""
    first = part.endswith("A")
    side = shape[-1:] if first else shape[:1]
    return bool(side) and (len(below) != 2 or any(side == (below[first is not one],) for one in turned))
