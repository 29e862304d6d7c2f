"""The same weights in two precisions: whether a training goes from one to the other, and how far. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self, cast

from annotation.database import Database
from annotation.records import UserError
from annotation.store import answer_changes
from annotation.translation import N_, _
from annotation.ui.formatting import moment
from annotation.validation import stored
from rlhf.jobs import job_store
from rlhf.jobs.descriptions import Facts
from rlhf.jobs.job_spec import JobSpec, TrainingSpec
from rlhf.models import registry
from rlhf.models.memory import run_memory
from rlhf.models.memory.machines import Machine
from rlhf.models.registry import HeldPrecision, Policy

# Of this many measurements the newest of a pair is found.
REMEMBERED = 200


@dataclass(frozen=True)
class PrecisionsSpec(JobSpec):
    """Measure how far apart whole weights are as policies in two precisions, token by token on a fixed plain text."""

    kind: ClassVar = "precisions"
    title: ClassVar = N_("comparing precisions")
    revision: str = "base"
    """Revision of the weights: 'base', or fully trained or merged ones."""
    precision: HeldPrecision = "nf4"
    """The precision in which they answer."""
    other: HeldPrecision = "bf16"
    """The precision in which they would be trained."""

    def about(self) -> str:
        return _("comparing {revision} in {precision} and {other}").format(
            revision=self.revision, precision=self.precision, other=self.other
        )

    def facts(self) -> Facts:
        return [(_("Answers in"), self.precision), (_("Would be trained in"), self.other)]

    def depends_on(self) -> tuple[str, ...]:
        return (self.revision,)

    def frozen(self, db: Database, data_dir: Path) -> Self:
        """The spec with the revision of the weights. Raises UserError where there is nothing to compare."""
        policy = registry.by_revision(db, self.revision)
        if policy.kind != "policy" or policy.form not in ("base", "full"):
            raise UserError(
                _("{revision} is an adapter: compare the weights that it lies on.").format(revision=policy.revision)
            )
        if self.precision == self.other:
            raise UserError(_("Both precisions are {precision}: name two.").format(precision=self.precision))
        return replace(self, revision=policy.revision)


@dataclass(frozen=True)
class PrecisionGap:
    """How far apart the same weights are in two precisions."""

    kl: float = math.nan
    """KL of the policy in the other precision to the one that answers, nats a token."""
    perplexity: float = math.nan
    """Of the plain text, in the precision that answers."""
    other_perplexity: float = math.nan


@dataclass(frozen=True)
class PrecisionMismatch:
    """A training that holds its parent's whole weights in another precision than they answer in."""

    parent: Policy
    held_in: HeldPrecision
    gap: PrecisionGap | None
    """None before it was measured."""
    measured: str | None
    """When."""
    measuring: bool
    """Whether a job that measures it waits or runs."""

    @property
    def spec(self) -> PrecisionsSpec:
        return PrecisionsSpec(revision=self.parent.revision, precision=self.parent.precision, other=self.held_in)

    def sentence(self) -> str:
        """What that costs: how far apart the two policies are, as far as it was measured."""
        held_in, precision = (_(registry.PRECISION_WORDS[one]) for one in (self.held_in, self.parent.precision))
        said = _(
            "This holds the weights of {revision} in {held_in}, and {revision} answers in {precision}: another policy "
            "before the first step."
        ).format(revision=self.parent.revision, held_in=held_in, precision=precision)
        if self.gap is not None:
            kl, perplexity, other = self.gap.kl, self.gap.perplexity, self.gap.other_perplexity
            apart = _(
                "They are {kl:.2g} nats a token apart (KL), and their perplexities of a plain text {other:.1f} and "
                "{perplexity:.1f}, measured on {measured} UTC."
            ).format(kl=kl, other=other, perplexity=perplexity, measured=moment(self.measured))
        elif self.measuring:
            apart = _("How far apart they are is being measured.")
        else:
            apart = _(
                "How far apart they are has not been measured: that takes about a minute, once, and is done when "
                "somebody asks for it."
            )
        return f"{said} {apart}"


def crossing(db: Database, spec: TrainingSpec, machine: Machine) -> PrecisionMismatch | None:
    """How a training, as it would be queued, leaves the precision in which its parent answers; None where it stays.

    An adapter is never continued in another precision (`preconditions.check`), so this is about whole weights.
    """
    parent = registry.named(db, spec.parent)
    if parent is None or parent.form not in ("base", "full") or parent.kind != "policy":
        return None
    held_in = spec.held_in() if spec.held_in() != "auto" else run_memory.precision_of(spec, machine)
    if held_in == parent.precision:
        return None
    found = PrecisionMismatch(parent, cast(HeldPrecision, held_in), None, None, measuring=False)
    recent = job_store.recent(db, (PrecisionsSpec.kind,), REMEMBERED)
    jobs = [job for job in recent if replace(job.spec, model=found.spec.model) == found.spec]
    since = answer_changes.weights_since(db)
    done = next((job for job in jobs if job.status == "finished" and job.result and (job.started or "") > since), None)
    if done is not None and done.result is not None:
        found = replace(found, gap=stored(PrecisionGap, done.result), measured=done.finished or done.created)
    return replace(found, measuring=any(job.is_open for job in jobs))
