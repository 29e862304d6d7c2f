"""What workers have made, and where an admin fetches it: policies' files, metrics, reports. Loads no Gradio."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from annotation.database import Database
from annotation.records import UserError
from annotation.translation import _
from rlhf.jobs.artifacts import bytes_within
from rlhf.models import registry
from rlhf.models.registry import Policy

MODELS: Final = "models"
METRICS: Final = "metrics"
REPORTS: Final = "reports"
# Weights, configuration, tokenizer and card. Not training_args.bin, which may hold a token, nor an optimiser's state.
ALLOWED: Final = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md")


def address(revision: str) -> str:
    """Where a browser fetches a policy, relative to the page."""
    return f"{MODELS}/{revision}.zip"


def metrics_address(job_id: int) -> str:
    """Where a browser fetches what a job has reported, relative to the page."""
    return f"{METRICS}/{job_id}.csv"


def report_address(job_id: int) -> str:
    """Where a browser fetches the report of a run, relative to the page."""
    return f"{REPORTS}/run-{job_id}.md"


def directory_of(db: Database, data_dir: Path, revision: str) -> Path:
    """Where a policy's files lie. Raises UserError where it has none (any more)."""
    policy = registry.by_revision(db, revision)
    if policy.path is None:
        raise UserError(_("'{revision}' has no files of its own here.").format(revision=revision))
    directory = data_dir / policy.path
    if policy.deleted or not directory.is_dir():
        raise UserError(_("The files of '{revision}' are gone.").format(revision=revision))
    return directory


def files_of(directory: Path) -> list[Path]:
    """What of a policy's directory may be handed out, by name; nothing hidden, never what a link points to."""
    found = {path for pattern in ALLOWED for path in directory.glob(pattern) if not path.name.startswith(".")}
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def bytes_on_disk(data_dir: Path, policy: Policy) -> int:
    return 0 if policy.path is None else bytes_within(data_dir / policy.path)
