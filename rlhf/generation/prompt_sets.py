"""A prompt set answered by one policy: which prompts, what is drawn already, and the file that it becomes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

from annotation import store
from annotation.database import Database
from annotation.records import Prompt, Sampling, Split, UserError
from annotation.translation import N_, _
from annotation.validation import NonNegativeInt, PositiveInt
from rlhf.data.held_out_sets import without
from rlhf.jobs.artifacts import explain_write_errors
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.finished_training import told_fields
from rlhf.jobs.job_spec import Drawing, JobSpec
from rlhf.models import registry

Answered = Literal["all", "train", "held-out"]
DIRECTORY: Final = "answers"
# No separators, and nothing but a job's number.
NAME: Final = re.compile(r"job-(\d{1,18})\.jsonl")
SPLITS: Final[tuple[Split, ...]] = ("train", "held-out")
# What a job is called, and its prompts: all of them, and those of a source.
ABOUT: Final[Mapping[Answered, tuple[str, str]]] = {
    "all": (
        N_("answers by {revision} to all prompts"),
        N_("answers by {revision} to all prompts from '{source}'"),
    ),
    "train": (
        N_("answers by {revision} to prompts to train on"),
        N_("answers by {revision} to prompts to train on from '{source}'"),
    ),
    "held-out": (
        N_("answers by {revision} to held-out prompts"),
        N_("answers by {revision} to held-out prompts from '{source}'"),
    ),
}
WHICH: Final[Mapping[Answered, tuple[str, str]]] = {
    "all": (N_("all prompts"), N_("all prompts from '{source}'")),
    "train": (N_("prompts to train on"), N_("prompts to train on from '{source}'")),
    "held-out": (N_("held-out prompts"), N_("held-out prompts from '{source}'")),
}


@dataclass(frozen=True)
class PromptSetSpec(JobSpec):
    """Let a policy answer a prompt set, and write the answers to a file, a JSON object a line."""

    kind: ClassVar = "answer"
    title: ClassVar = N_("answers to a prompt set")
    revision: str = "serving"
    """Revision of the policy that answers: 'base', 'serving' or another revision."""
    split: Answered = "held-out"
    """Which prompts to answer: the 'held-out' ones, those to 'train' on, or 'all'."""
    source: str = ""
    """Only prompts of this source, say the name of an import; empty for whatever source."""
    each: PositiveInt = 1
    """Answers to each prompt."""
    seed: NonNegativeInt = 0
    """Start of the seeds; answer j to the prompt with id i draws with seed + i * each + j, under every policy."""
    prompts_per_batch: PositiveInt = 12
    """Prompts answered together."""
    sampling: Drawing = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""

    @classmethod
    def runner(cls) -> str:
        """Beside the prompt sets."""
        return "rlhf.generation.prompt_set_job"

    def about(self) -> str:
        """Who answers which prompts."""
        return _(ABOUT[self.split][bool(self.source)]).format(revision=self.revision, source=self.source)

    def facts(self) -> Facts:
        """Who answers which prompts, and how often."""
        return [
            (_("Policy"), self.revision),
            (_("Prompts"), described(self)),
            (_("Answers"), _("{each} to each prompt").format(each=self.each)),
        ]

    def depends_on(self) -> tuple[str, ...]:
        """The policy that answers."""
        return (self.revision,)

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with a revision for a name. Raises UserError for what answers nothing, or where nothing is asked."""
        policy = registry.by_revision(db, self.revision)
        registry.require_answering(policy)
        if not prompts_of(db, self):
            none = _("There are no such prompts ({prompts}). Import some, or choose others.")
            raise UserError(none.format(prompts=described(self)))
        return replace(self, revision=policy.revision)


@dataclass(frozen=True)
class PromptSetResult:
    """What came of a job that answers a prompt set; as before it began where its result does not say."""

    revision: str = ""
    prompts: int = 0
    left_out: int = 0
    """Prompts that the model does not take."""
    answers: int = 0
    file: str = ""
    """Where it can be fetched."""
    sha256: str = ""
    seconds: float = 0.0

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> PromptSetResult:
        """The result of a job."""
        return cls(**told_fields(cls, result or {}))


def prompts_of(db: Database, spec: PromptSetSpec) -> list[Prompt]:
    """The prompts that a job answers, in the order of its file; not those that are the gate's own."""
    splits = SPLITS if spec.split == "all" else (spec.split,)
    found = [prompt for split in splits for prompt in store.prompts(db, split) if spec.source in ("", prompt.source)]
    return without(found, store.reserved_prompts(db))


def described(spec: PromptSetSpec) -> str:
    """Which prompts those are, as a name."""
    plain, of_source = WHICH[spec.split]
    return _(of_source).format(source=spec.source) if spec.source else _(plain)


def seeds_of(spec: PromptSetSpec, prompt: Prompt) -> list[int]:
    """The seeds of the answers to a prompt: no two answers of a job have the same, whatever is imported meanwhile."""
    return [spec.seed + prompt.id * spec.each + place for place in range(spec.each)]


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


# --------------------------------------------------------------------------------------------------------------- files
def file_of(data_dir: Path, job_id: int) -> Path:
    """Where a job's answers are once they are all there."""
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
    """Rows as JSON, one a line."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


# ----------------------------------------------------------------------------------------------------------- downloads
def address(job_id: int) -> str:
    """Where a browser fetches a job's answers, relative to the page."""
    return f"{DIRECTORY}/job-{job_id}.jsonl"


def find(data_dir: Path, name: str) -> Path:
    """The file of this name. Raises UserError for a name that none has."""
    path = data_dir / DIRECTORY / name if NAME.fullmatch(name) else None
    if path is None or not path.is_file() or path.is_symlink():
        raise UserError(_("There are no such answers (any more)."))
    return path
