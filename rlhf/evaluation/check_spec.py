"""The check of a policy, described; `check_job` does it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

from annotated_types import Interval

from annotation.database import Database
from annotation.records import Sampling
from annotation.store import project_store
from annotation.translation import N_, _
from annotation.ui.formatting import percent
from annotation.validation import NonNegativeInt, PositiveInt
from rlhf.data import held_out_sets, snapshots
from rlhf.evaluation import rule_store
from rlhf.jobs import job_store
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.job_spec import Drawing, JobSpec
from rlhf.judges import judge_store
from rlhf.models import registry
from rlhf.models.registry import Policy


@dataclass(frozen=True)
class CheckSpec(JobSpec):
    """Let a candidate, the serving policy and the base answer the held-out prompts with the same seeds, and compare."""

    kind: ClassVar = "check"
    title: ClassVar = N_("check")
    candidate: str = ""
    """Revision of the policy to check."""
    against: str = "serving"
    """Revision to compare with: 'base', 'serving' or another revision; people compare only with the one that serves."""
    snapshot: str = ""
    """sha256 of the frozen data whose held-out judgements measure the implicit reward; empty: freeze them now."""
    prompt_set: str = ""
    """sha256 of the frozen held-out prompts that the report is of; empty for the set that every check uses."""
    compared_set: str = ""
    """sha256 of the frozen held-out prompts on which the two policies are compared; empty for those of the report."""
    compared_seed: NonNegativeInt = 20_000
    """Start of the seeds of the answers that are compared; prompt i draws with compared_seed + i."""
    gate_set: NonNegativeInt = 0
    """The version of the gate's own prompts that these are of; 0 where the gate and the reports share one set."""
    people_share: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """The least share of these comparisons that people get, drawn by lot, more where it takes more to tell; 0 for the
    project's share. All, where no judge compares them or no new prompts are left."""
    anchor: str = ""
    """Revision that the limits are against, as the gate's rule says; empty for the base."""
    prompts: PositiveInt = held_out_sets.LEAST
    """How many held-out prompts the first check draws for the reports, and each check for the comparison."""
    judges: str = "active"
    """AI judges that compare the candidate's answers with the others', by name, separated by commas; 'active' for
    those that label comparisons, empty for none."""
    failures: PositiveInt = 10
    """Verdicts that fail one after the other until a judge is given up."""
    seed: NonNegativeInt = 20_000
    """Start of the seeds of the answers in the report; prompt i draws with seed + i under every policy."""
    prompts_per_batch: PositiveInt = 2 * held_out_sets.LEAST
    """Prompts answered together, as far as memory holds them."""
    sampling: Drawing = field(default_factory=Sampling)
    """How answers are drawn: temperature, then min_p against unlikely tokens, up to max_new_tokens."""

    def about(self) -> str:
        return _("check of {candidate}").format(candidate=self.candidate)

    def facts(self) -> Facts:
        return [
            (_("Candidate"), self.candidate),
            (_("Against"), self.against),
            (_("Held-out prompts"), self.prompt_set[:12] or _("up to {prompts}").format(prompts=self.prompts)),
            (_("Compared on"), self.compared_on()),
            (
                _("Of that by people, at least"),
                percent(self.people_share) if self.people_share else _("set at the start"),
            ),
            (_("Judges"), self.judges or _("none")),
            (_("Data snapshot"), self.snapshot[:12] or _("frozen at the start")),
            (_("First seed"), str(self.seed)),
        ]

    def compared_on(self) -> str:
        """On which prompts the two policies are compared, in words."""
        if not self.compared_set:
            return _("the same")
        if self.gate_set:
            return _("{prompts}, version {version} of the gate's own").format(
                prompts=self.compared_set[:12], version=self.gate_set
            )
        return self.compared_set[:12]

    def repeats(self, other: JobSpec) -> bool:
        return isinstance(other, CheckSpec) and (other.candidate, other.against) == (self.candidate, self.against)

    def depends_on(self) -> tuple[str, ...]:
        return self.candidate, self.against, *filter(None, (self.anchor,))

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with names for what stands for them, and its data's sha256.

        Raises UserError for unknown ones, and for a policy that can't answer (any more).
        """
        candidate, against = registry.by_revision(db, self.candidate), registry.by_revision(db, self.against)
        for policy in (candidate, against):
            registry.require_answering(policy)
        snapshot = self.snapshot or snapshots.store_snapshot(
            db, data_dir, snapshots.collect(db, candidate, "new", 100_000, judges_too=False)
        )
        by_name = self.judges != "active"
        panel = judge_store.judges_named(db, self.judges) if by_name else judge_store.judges(db, active=True)
        named = replace(
            self,
            candidate=candidate.revision,
            against=against.revision,
            snapshot=snapshot,
            judges=", ".join(judge.name for judge in panel),
            anchor=self.anchor or chosen_anchor(db),
            people_share=self.people_share or (project_store.feedback(db).check_share if panel else 1.0),
        )
        return named if self.prompt_set else named.with_prompts(db, data_dir, candidate, against)

    def with_prompts(self, db: Database, data_dir: Path, candidate: Policy, against: Policy) -> Self:
        """The spec with the prompts that the report is of, and those on which the two policies are compared."""
        prompt_set = held_out_sets.name_of_current(db, data_dir, self.prompts)
        finished = [job.spec for job in job_store.checks(db, candidate.revision) if job.status == "finished"]
        before = [
            spec for spec in reversed(finished) if isinstance(spec, CheckSpec) and spec.against == against.revision
        ]
        begun_on = before[0].gate_set if before else None
        found = held_out_sets.to_compare(db, data_dir, (candidate, against), self.prompts, len(before), begun_on)
        return replace(
            self,
            prompt_set=prompt_set,
            people_share=1.0 if found.repeated else self.people_share,
            compared_set=found.sha256,
            compared_seed=self.seed + found.seeds,
            gate_set=found.gate_set,
        )


def chosen_anchor(db: Database) -> str:
    """The policy that the gate's limits are against; empty for the base, and where the chosen one's files are gone."""
    anchor = registry.by_revision(db, rule_store.rule(db).anchor)
    return "" if anchor.revision == "base" or anchor.deleted else anchor.revision
