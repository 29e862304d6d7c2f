"""What was measured of a candidate against what serves, read from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from typing import Any

from annotation.database import Database
from rlhf.data import held_out_sets
from rlhf.evaluation import rule_store, win_rates
from rlhf.evaluation.check_spec import chosen_anchor
from rlhf.evaluation.decisions.decision_cache import cached
from rlhf.evaluation.decisions.judge_findings import judge_findings, optimised_against, panel_findings
from rlhf.evaluation.finished_checks import FinishedCheck, finished_checks, told_as_now
from rlhf.evaluation.gate import (
    Findings,
    Hacked,
    corrected_by_judges,
    share_by_rule,
)
from rlhf.evaluation.report import AnswerFigures, CheckReport
from rlhf.judges import judge_store
from rlhf.models import decision_store, registry
from rlhf.models.registry import Policy


def opponent(db: Database, policy: Policy) -> Policy:
    """What a policy is weighed against: what serves now, or what served when it was last promoted or rejected."""
    decided_against = None if policy.status == "candidate" else decision_store.decided_against(db, policy)
    return decided_against or registry.serving(db)


def checks_of(db: Database, policy: Policy) -> list[FinishedCheck]:
    """The finished checks of a policy against its opponent, newest first; others tell nothing about a promotion.

    Before a decision, nor do those of when the opponent answered in another precision, or policies answered otherwise.
    """
    against = opponent(db, policy)
    found = [check for check in finished_checks(db, policy.revision) if check.spec.against == against.revision]
    if policy.status != "candidate":
        return found
    now = told_as_now(db)
    return [check for check in found if check.job_id in now and opponent_precision(check, against) == against.precision]


def opponent_precision(check: FinishedCheck, against: Policy) -> str:
    """The precision in which a check's opponent answered; earlier versions held the base in NF4."""
    return check.report.against.precision or ("nf4" if against.form == "base" else against.precision)


def findings(db: Database, policy: Policy) -> Findings:
    """Everything that was measured of a policy against its opponent.

    The figures are those of the newest check; of judges every one that was asked in any of them.
    """
    against, checks = opponent(db, policy), checks_of(db, policy)
    on = win_rates.prompts_that_count(db, checks)
    people = win_rates.people_outcomes(db, policy, against, on)
    number = place_of(db, policy)
    if not checks:
        return Findings(people, number=number)
    report = comparable(checks[0], chosen_anchor(db), policy)
    return Findings(
        people,
        panel_findings(db, policy, against, checks, on),
        number=number,
        carried=held_out_sets.weighed(db, checks[-1].spec.gate_set).index(policy.revision),
        left_to_judges=win_rates.prompts_left_to_judges(db, policy, against, on),
        prompts=report.prompts,
        kl_per_token=report.kl_per_token,
        nll_ratio=report.nll_ratio,
        distinct_ratio=report.distinct_ratio,
        truncated_more=report.truncated_more,
        perplexity_ratio=report.perplexity_ratio,
        probes_fall=report.probes_fall,
        reward_hacking=rewarded(db, policy, hacking(report)),
        identical_to_serving=report.identical,
    )


# The version of the rule from which on the anchor "base" is the base under whatever weights.
BASE_IS_THE_BASE = 3


def comparable(check: FinishedCheck, anchor: str, policy: Policy) -> CheckReport:
    """A check's report, without the figures that it took against another policy than the rule's limits are against.

    Nor with those of an earlier version that took them in two precisions or, of a policy that waits for its decision,
    against the trained weights that it hangs on: step by step a project could go any way.
    """
    report = check.report
    against_ground = not check.spec.anchor and (report.rule or 0) < BASE_IS_THE_BASE
    other_weights = against_ground and report.anchor.revision not in ("", "base") and policy.status == "candidate"
    one_precision = report.candidate.precision or policy.precision == "nf4"
    if check.spec.anchor == anchor and not other_weights and one_precision:
        return report
    without: dict[str, Any] = dict.fromkeys(("equal_length_distinct", "equal_length_nll_ratio", "equal_length_kl"))
    return replace(report, candidate=AnswerFigures(report.candidate.revision), **without)


def place_of(db: Database, policy: Policy) -> int:
    """The place of a policy against its opponent among all pairs that were checked, by their first check's end.

    The next one if there was none yet. Whether a candidate is better than another policy is another question, with a
    chance of its own to be wrong; so it is where both think, or do not any more, and where the other answers in another
    precision. Deleted ones count: that chance was spent.
    """
    against, checks = opponent(db, policy), checks_of(db, policy)
    precision = opponent_precision(checks[0], against) if checks else against.precision
    known = cached(db, ("places",), lambda: places(db))
    return known.get((policy.revision, against.revision, True, precision), len(known) + 1)


def places(db: Database) -> dict[tuple[str, str, bool, str], int]:
    """The places of all pairs that were checked: candidate, opponent, whether they answer so now, its precision."""
    now, policies = told_as_now(db), {one.revision: one for one in registry.all_policies(db)}
    known: dict[tuple[str, str, bool, str], int] = {}
    for check in reversed(finished_checks(db)):
        spec = check.spec
        other = policies.get(spec.against)
        precision = opponent_precision(check, other) if other is not None else ""
        known.setdefault((spec.candidate, spec.against, check.job_id in now, precision), len(known) + 1)
    return known


def hacking(report: CheckReport) -> Hacked:
    """Whether the reward of its training rose for nothing: 'open' where it rose, which the rule then asks evidence of.

    None where it can't be told: too few rounds were made, or a check is too old.
    """
    if not report.reward_known:
        return None
    found = report.reward
    if found is None:
        return "no reward"
    if found.rise is None or isnan(found.rise):
        return None
    return "open" if found.rise > 0 else False


def rewarded(db: Database, policy: Policy, hacked: Hacked) -> Hacked:
    """The same, but that a check found no reward is believed only where the training says so too."""
    if hacked != "no reward":
        return hacked
    trained = registry.training_of(db, policy)
    if trained is None:
        return "made elsewhere"
    # An earlier version's check did not look at what merged weights come from.
    return None if optimised_against(trained) else hacked


def share_of_next_check(db: Database, policy: Policy, judges: Sequence[judge_store.Judge], prompts_left: int) -> float:
    """The part of a check's prompts that people are to get where these judges compare them all; 1 without judges.

    Asked before the check puts anything before anybody; `prompts_left` were never compared, the check's own among them.
    """
    against, on = opponent(db, policy), win_rates.prompts_that_count(db, checks_of(db, policy))
    known = Findings(
        people=win_rates.people_outcomes(db, policy, against, on),
        judges=tuple(judge_findings(db, judge, policy, against, on) for judge in judges),
        number=place_of(db, policy),
        left_to_judges=win_rates.prompts_left_to_judges(db, policy, against, on),
    )
    return share_by_rule(rule_store.rule(db), known, prompts_left)


def spent_prompts(db: Database, policy: Policy, against: Policy) -> frozenset[int]:
    """The prompts left to judges on which people's verdicts could not count any more: they have corrected others."""
    if against.id != opponent(db, policy).id:
        return frozenset()
    return cached(db, ("spent", policy.revision), lambda: corrected_by_judges(findings(db, policy)).spent)
