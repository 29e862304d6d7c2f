"""The check of a policy, described; `check` does it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

from annotation.database import Database
from annotation.records import Sampling
from annotation.translation import _
from annotation.validation import NonNegativeInt, PositiveInt
from rlhf.data import held_out_sets, snapshots
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.job_spec import Drawing, JobSpec
from rlhf.judges import judge_store
from rlhf.models import registry


@dataclass(frozen=True)
class EvaluateSpec(JobSpec):
    """Let a candidate, the serving policy and the base answer the held-out prompts with the same seeds, and compare."""

    kind: ClassVar = "evaluate"
    title: ClassVar = _("check")
    candidate: str = ""
    """Revision of the policy to check."""
    against: str = "serving"
    """Revision to compare with: 'base', 'serving' or another revision."""
    snapshot: str = ""
    """sha256 of the frozen data whose held-out judgements measure the implicit reward; empty: freeze them now."""
    prompt_set: str = ""
    """sha256 of the frozen held-out prompts to answer; empty for the set that every check uses."""
    prompts: PositiveInt = 60
    """How many held-out prompts that set takes when the first check makes it, the first ones."""
    judges: str = "active"
    """AI judges that compare the candidate's answers with the others', by name, separated by commas; 'active' for
    those that label comparisons, empty for none."""
    failures: PositiveInt = 10
    """Verdicts that fail one after the other until a judge is given up."""
    seed: NonNegativeInt = 20_000
    """Start of the seeds; prompt i draws with seed + i under every policy."""
    prompts_per_batch: PositiveInt = 30
    """Prompts answered together."""
    sampling: Drawing = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""

    @classmethod
    def runner(cls) -> str:
        """Beside the report and the gate."""
        return "rlhf.evaluation.check"

    def about(self) -> str:
        """Which policy is checked."""
        return _("check of {candidate}").format(candidate=self.candidate)

    def facts(self) -> Facts:
        """What is compared with what, and by whom."""
        return [
            (_("Candidate"), self.candidate),
            (_("Against"), self.against),
            (_("Held-out prompts"), self.prompt_set[:12] or _("up to {prompts}").format(prompts=self.prompts)),
            (_("Judges"), self.judges or "none"),
            (_("Data snapshot"), self.snapshot[:12] or _("frozen at the start")),
            (_("First seed"), str(self.seed)),
        ]

    def depends_on(self) -> tuple[str, ...]:
        """The two policies that are compared."""
        return self.candidate, self.against

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with names for what stands for them, and its data's sha256. Raises UserError for unknown ones."""
        candidate, against = registry.by_revision(db, self.candidate), registry.by_revision(db, self.against)
        snapshot = self.snapshot or snapshots.store_snapshot(
            db, data_dir, snapshots.collect(db, candidate, "new", 100_000, judges_too=False)
        )
        panel = (
            judge_store.judges(db, active=True)
            if self.judges == "active"
            else judge_store.judges_named(db, self.judges)
        )
        return replace(
            self,
            candidate=candidate.revision,
            against=against.revision,
            snapshot=snapshot,
            prompt_set=self.prompt_set or held_out_sets.name_of_current(db, data_dir, self.prompts),
            judges=", ".join(judge.name for judge in panel),
        )
