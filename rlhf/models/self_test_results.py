"""What a model's self-test said, kept in the data directory by the model's files: it runs once. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Final

from annotation.records import UserError
from annotation.translation import N_, _
from annotation.validation import read
from rlhf.jobs.artifacts import write_small

DIRECTORY: Final = "self-tests"
# Whose versions decide what is computed with a model's files.
COMPUTING: Final = ("torch", "transformers", "peft")
NO_VIRTUAL_TOKENS: Final = N_(
    "This base model does not take virtual tokens as it takes words, or answers don't go on from them, so "
    "prompt tuning would not make what is trained: use the method lora or qlora."
)
NO_ADAPTERS: Final = N_(
    "LoRA on this base model's layers fails, or computes something else once it was stored, so nobody could use what "
    "is trained: use another method."
)
# Raised whenever something else is tried, or computed in another way.
TRIAL: Final = 4


@dataclass(frozen=True)
class SelfTestResult:
    """What is true of a model that can be used."""

    packs: bool
    """Several sequences in one row are computed as if they were alone; else training pads them."""
    shares_prompts: bool
    """A prompt is computed once for several answers; else each answer begins with its own."""
    virtual_tokens: bool = True
    """Virtual tokens are computed as words are, and answers go on from them; else there is no prompt tuning."""
    adapters: bool = True
    """LoRA on its layers computes, and does so once it was stored; else there is none."""

    def problem(self, method: str) -> str:
        """Why nothing can be trained by a method; empty where it can."""
        if method == "prompt":
            return "" if self.virtual_tokens else _(NO_VIRTUAL_TOKENS)
        return "" if self.adapters or method == "full" else _(NO_ADAPTERS)


@cache
def version(package: str) -> str:
    """Of a package as this process has it; reading it takes a tenth of what a quick training does."""
    return metadata.version(package)


def mark_of(directory: Path) -> str:
    """What changes with a model's files and with what computes: a name for a file."""
    parts = [str(TRIAL), *(f"{package} {version(package)}" for package in COMPUTING)]
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            status = path.stat()
            parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return sha256("\n".join(parts).encode()).hexdigest()[:32]


def kept_result(data_dir: Path, directory: Path) -> SelfTestResult | None:
    """The result for a model whose files are as they were then; None where there is none that can be read."""
    try:
        return result_of((data_dir / DIRECTORY / f"{mark_of(directory)}.json").read_text("utf-8"))
    except (OSError, ValueError, UserError):
        return None


def keep_result(data_dir: Path, directory: Path, result: SelfTestResult) -> None:
    """Keep a result, whole or not at all. Raises UserError when the disk refuses."""
    write_small(data_dir / DIRECTORY / f"{mark_of(directory)}.json", json.dumps(asdict(result)))


def result_of(text: str) -> SelfTestResult:
    """A result from its text. Raises UserError for any other."""
    return read(SelfTestResult, json.loads(text), _("The result of a model's self-test"))
