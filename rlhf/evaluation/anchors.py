"""The policies of a check, what each is measured against, and by what names the scores of its answers are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from annotation.database import Database
from annotation.records import UserError
from annotation.translation import _
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.base.base_precision import bytes_in
from rlhf.models.hidden_states import free_on
from rlhf.models.registry import Policy

# The names of an answer's scores: its KL, and its negative log-likelihood. Not `kl_to_base`: so earlier versions named
# what they measured against the base in NF4, whatever the candidate's precision was.
GROUND_SCORES: Final = ("kl_to_ground", "nll_under_ground")


@dataclass(frozen=True)
class CheckedPolicies:
    """The policies of a check, and what each is measured against."""

    db: Database
    candidate: Policy
    against: Policy
    base: Policy
    chosen_anchor: str
    """What the rule has chosen to measure against; empty for the base."""
    base_fits: bool
    """Whether the base can be in memory beside other whole weights; else an adapter's own ground stands in for it."""

    @property
    def anchor(self) -> Policy:
        return self.anchor_of(self.candidate)

    @property
    def compared(self) -> list[Policy]:
        """All that answer, each once."""
        every = (self.candidate, self.anchor, self.against, self.base)
        return list({policy.version: policy for policy in every}.values())

    @property
    def others(self) -> list[Policy]:
        """Those it is compared with: what serves, or could; not what only measures, in the candidate's precision."""
        return [one for one in self.compared if one in (self.against, self.base) and one.id != self.candidate.id]

    def anchor_of(self, policy: Policy) -> Policy:
        """In the policy's precision: what the rule has chosen, or the base."""
        if not self.chosen_anchor and not self.base_fits:
            return registry.own_ground(self.db, policy)
        return replace(registry.by_revision(self.db, self.chosen_anchor or "base"), precision=policy.precision)

    def apart(self, policy: Policy) -> bool:
        """Whether a policy's adapter hangs on other weights than it is measured against."""
        return registry.own_ground(self.db, policy).version != self.anchor_of(policy).version

    @property
    def ground_is_apart(self) -> bool:
        """Whether the candidate's adapter hangs on whole weights that are not its anchor."""
        return on_other_weights(self.candidate) and self.apart(self.candidate)

    def scores(self, policy: Policy) -> tuple[str, str]:
        """The names of the scores of a policy's answers by its anchor."""
        if not self.chosen_anchor and not self.apart(policy):
            return GROUND_SCORES
        revision = self.anchor_of(policy).revision
        return f"kl_to_anchor_{revision}", f"nll_under_anchor_{revision}"

    def measured_by(self, policy: Policy) -> dict[tuple[str, str], Policy]:
        """What scores a policy's answers, by the names of the scores."""
        found = {self.scores(policy): self.anchor_of(policy)}
        if policy.version == self.candidate.version and self.ground_is_apart:
            found[GROUND_SCORES] = registry.own_ground(self.db, policy)
        return found


def policies_of(run: Run, spec: CheckSpec, base_path: Path) -> CheckedPolicies:
    """The policies that a spec names, and what they are measured against. Raises UserError for an unfit anchor."""
    candidate, against, base = (registry.by_revision(run.db, one) for one in (spec.candidate, spec.against, "base"))
    refuse_anchor(run.db, spec, candidate)
    fits = room_for_both(run, base_path, candidate)
    return CheckedPolicies(run.db, candidate, against, base, chosen_anchor=spec.anchor, base_fits=fits)


def on_other_weights(policy: Policy) -> bool:
    """Whether a policy is an adapter on whole weights that were trained or merged."""
    return policy.form != "full" and policy.lies_on is not None


# Of the free memory, what two whole models may take.
TWO_MODELS_SHARE: Final = 0.8


def room_for_both(run: Run, base_path: Path, candidate: Policy) -> bool:
    """Whether the base fits into memory beside the whole weights that a candidate's adapter hangs on; said if not."""
    if not on_other_weights(candidate):
        return True
    free = free_on(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    taken = 2 * bytes_in(base_path, "fp32" if candidate.precision == "fp32" else "bf16")
    if taken <= TWO_MODELS_SHARE * free:
        return True
    run.log(
        _(
            "The base does not fit into memory beside the weights that {revision} hangs on, so these are what the "
            "limits are against."
        ).format(revision=candidate.revision)
    )
    return False


def refuse_anchor(db: Database, spec: CheckSpec, candidate: Policy) -> None:
    """Raises UserError where the rule's anchor was trained on another precision: it would not be itself on this one."""
    anchor = registry.by_revision(db, spec.anchor or "base")
    if anchor.form != "base" and anchor.precision != candidate.precision:
        raise UserError(
            _(
                "The gate's limits are against {anchor}, which computes in {its}, and {candidate} in {own}: the "
                "figures would also be of the difference between the two. Choose the base, or one in {own}, in the "
                "gate's rule."
            ).format(
                anchor=anchor.revision, its=anchor.precision, candidate=candidate.revision, own=candidate.precision
            )
        )
