"""Adding an adapter to the weights that it lies on, described; `merge_job` does it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from annotation.database import Database
from annotation.records import UserError
from annotation.translation import N_, _
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.job_spec import JobSpec
from rlhf.models import registry
from rlhf.submission.preconditions import merge_problem


@dataclass(frozen=True)
class MergeSpec(JobSpec):
    """Add an adapter to the 16-bit weights that it belongs to, as a policy of its own that needs no adapter."""

    kind: ClassVar = "merge"
    title: ClassVar = N_("merging")
    short: ClassVar = "merged"
    revision: str = ""
    """Revision of the adapter."""

    def about(self) -> str:
        return _("merging {revision}").format(revision=self.revision)

    def facts(self) -> Facts:
        return [(_("Adapter"), self.revision)]

    def repeats(self, other: JobSpec) -> bool:
        return isinstance(other, MergeSpec) and other.revision == self.revision

    def depends_on(self) -> tuple[str, ...]:
        return (self.revision,)

    def continues(self) -> str:
        """The adapter: what it is merged into was trained as it was."""
        return self.revision

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with the adapter's revision. Raises UserError for what can't be merged."""
        policy = registry.by_revision(db, self.revision)
        if problem := merge_problem(db, policy):
            raise UserError(problem)
        return replace(self, revision=policy.revision)
