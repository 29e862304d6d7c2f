"""A prompt set as one policy answers it: the answers drawn already, and the file that they become."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from annotation.records import Prompt, Sampling, UserError
from annotation.translation import _
from rlhf.jobs.artifacts import explain_write_errors

DIRECTORY: Final = "answers"
# No separators, and nothing but a job's number.
NAME: Final = re.compile(r"job-(\d{1,18})\.jsonl")


@dataclass(frozen=True)
class PromptSetResult:
    """What came of a job that answers a prompt set; as before it began where its result does not say."""

    revision: str = ""
    prompts: int = 0
    left_out: int = 0
    answers: int = 0
    file: str = ""
    """Where it can be fetched."""
    sha256: str = ""
    seconds: float = 0.0


def row_of(prompt: Prompt, answer: Mapping[str, Any], sampling: Sampling, revision: str) -> dict[str, Any]:
    """A row of the file; `answer` has the text, the seed, the tokens and why it ended."""
    return {
        "messages": [dict(message) for message in prompt.messages],
        "answer": answer["text"],
        "finish_reason": answer["finish_reason"],
        "tokens": answer["tokens"],
        "seed": answer["seed"],
        "sampling": asdict(sampling),
        "revision": revision,
    }


def file_of(data_dir: Path, job_id: int) -> Path:
    return data_dir / DIRECTORY / f"job-{job_id}.jsonl"


def draft_of(data_dir: Path, job_id: int) -> Path:
    """Where they gather until then."""
    return data_dir / DIRECTORY / f".job-{job_id}.part"


def read_draft(path: Path) -> dict[int, dict[str, Any]]:
    """What a job has drawn so far, by seed; a line that was being written when the machine stopped is cut off."""
    if not path.is_file():
        return {}
    whole, newline, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        os.truncate(path, len(whole) + len(newline))
    rows = [json.loads(line) for line in whole.splitlines() if line]
    return {row["seed"]: row for row in rows}


def add_to_draft(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Keep more answers, safe on disk. Raises UserError when the disk refuses."""
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as handle:
            handle.write(lines_of(rows))
            handle.flush()
            os.fsync(handle.fileno())


def publish(data_dir: Path, job_id: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write a job's file, whole or not at all, and drop the draft; returns its sha256."""
    target, draft, content = file_of(data_dir, job_id), draft_of(data_dir, job_id), lines_of(rows)
    temporary = target.with_name(f".{target.name}.new")
    with explain_write_errors(target):
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.rename(target)
        draft.unlink(missing_ok=True)
    return sha256(content).hexdigest()


def lines_of(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def address(job_id: int) -> str:
    """Where a browser fetches a job's answers, relative to the page."""
    return f"{DIRECTORY}/job-{job_id}.jsonl"


def find(data_dir: Path, name: str) -> Path:
    """The file of this name. Raises UserError for a name that none has."""
    path = data_dir / DIRECTORY / name if NAME.fullmatch(name) else None
    if path is None or not path.is_file() or path.is_symlink():
        raise UserError(_("There are no such answers (any more)."))
    return path
