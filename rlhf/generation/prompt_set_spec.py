"""The job that answers a prompt set, described, prompts and seeds too; `prompt_set_job` does it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from annotation.database import Database
from annotation.records import Prompt, Sampling, Split, UserError
from annotation.store import prompt_store
from annotation.translation import N_, _
from annotation.validation import NonNegativeInt, PositiveInt
from rlhf.data.held_out_sets import without
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.job_spec import Drawing, JobSpec
from rlhf.models import registry

Answered = Literal["all", "train", "held-out"]
SPLITS: Final[tuple[Split, ...]] = ("train", "held-out")
# What a job is called, and its prompts: all of them, and those of a source.
ABOUT: Final[Mapping[Answered, tuple[str, str]]] = {
    "all": (N_("answers by {revision} to all prompts"), N_("answers by {revision} to all prompts from '{source}'")),
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

    kind: ClassVar = "prompt-set"
    title: ClassVar = N_("answers to a prompt set")
    revision: str = "serving"
    """Revision of the policy that answers: 'base', 'serving' or another revision."""
    split: Answered = "held-out"
    """Which prompts to answer: the 'held-out' ones, those to 'train' on, or 'all'."""
    source: str = ""
    """Only prompts of this source, say the name of an import; empty for any source."""
    each: PositiveInt = 1
    """Answers to each prompt."""
    seed: NonNegativeInt = 0
    """Start of the seeds; answer j to the prompt with id i draws with seed + i * each + j, under every policy."""
    prompts_per_batch: PositiveInt = 12
    """Prompts answered together."""
    sampling: Drawing = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""

    def about(self) -> str:
        return _(ABOUT[self.split][bool(self.source)]).format(revision=self.revision, source=self.source)

    def facts(self) -> Facts:
        return [
            (_("Policy"), self.revision),
            (_("Prompts"), described(self)),
            (_("Answers"), _("{each} to each prompt").format(each=self.each)),
        ]

    def depends_on(self) -> tuple[str, ...]:
        return (self.revision,)

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with a revision for a name. Raises UserError for what answers nothing, or where nothing is asked."""
        policy = registry.by_revision(db, self.revision)
        registry.require_answering(policy)
        if not prompts_of(db, self):
            none = _("There are no such prompts ({prompts}). Import some, or choose others.")
            raise UserError(none.format(prompts=described(self)))
        return replace(self, revision=policy.revision)


def prompts_of(db: Database, spec: PromptSetSpec) -> list[Prompt]:
    """The prompts that a job answers, in the order of its file; not those that are the gate's own."""
    splits = SPLITS if spec.split == "all" else (spec.split,)
    found = [
        prompt for split in splits for prompt in prompt_store.prompts(db, split) if spec.source in ("", prompt.source)
    ]
    return without(found, prompt_store.reserved_prompts(db))


def described(spec: PromptSetSpec) -> str:
    plain, of_source = WHICH[spec.split]
    return _(of_source).format(source=spec.source) if spec.source else _(plain)


def seeds_of(spec: PromptSetSpec, prompt: Prompt) -> list[int]:
    """The seeds of the answers to a prompt: no two answers of a job have the same, whatever is imported meanwhile."""
    return [spec.seed + prompt.id * spec.each + place for place in range(spec.each)]
