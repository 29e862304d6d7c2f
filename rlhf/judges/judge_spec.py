"""The job that lets an AI judge judge comparisons, described; `judge_job` does it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from annotation.database import Database
from annotation.translation import N_, _
from annotation.validation import PositiveInt
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.job_spec import JobSpec
from rlhf.judges import judge_store
from rlhf.judges.verdict_store import JudgeScope
from rlhf.models import registry


@dataclass(frozen=True)
class JudgeSpec(JobSpec):
    """Let an AI judge judge comparisons, each pair of answers in both orders; what it has judged is not asked again."""

    kind: ClassVar = "judge"
    title: ClassVar = N_("judging")
    judge: str = ""
    """Name of the judge."""
    scope: JudgeScope = "open"
    """'open' comparisons that wait for judges; those that people have 'judged', the newest first, to see how far the
    judge can be trusted; or those of a 'candidate' with what it would replace."""
    candidate: str = ""
    """Revision of the candidate, for that scope."""
    comparisons: PositiveInt = 200
    """How many comparisons to judge, at most."""
    failures: PositiveInt = 10
    """Verdicts that fail one after the other until it gives up; the comparisons stay open."""
    batch_size: PositiveInt = 8
    """Prompts that a local judge reads together."""

    def about(self) -> str:
        return _("judging by {judge}").format(judge=self.judge)

    def facts(self) -> Facts:
        judged = {
            "open": _("open comparisons"),
            "judged": _("what people have judged"),
            "candidate": _("the answers of {candidate}").format(candidate=self.candidate),
        }
        return [(_("Judge"), self.judge), (_("It judges"), judged[self.scope]), (_("At most"), str(self.comparisons))]

    def depends_on(self) -> tuple[str, ...]:
        return (self.candidate,)

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with the judge's name and the candidate's revision. Raises UserError for unknown ones."""
        candidate = registry.by_revision(db, self.candidate).revision if self.scope == "candidate" else ""
        return replace(self, judge=judge_store.by_name(db, self.judge).name, candidate=candidate)
