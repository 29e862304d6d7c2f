"""An AI judge labels comparisons: what it has said is kept verdict by verdict, so a broken-off job goes on from there.

Every pair of answers is asked in both orders, because judges favour a place (Wang et al. 2023, "Large Language Models
are not Fair Evaluators"); only a preference that survives the swap counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from annotation.records import UserError
from annotation.translation import _
from rlhf.jobs.run import Run
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.backends import JudgingCounts, backend_for, run_judge
from rlhf.judges.judge_result import JudgeResult
from rlhf.judges.judge_spec import JudgeSpec
from rlhf.judges.judge_store import Judge
from rlhf.judges.rubrics import Rubric
from rlhf.judges.verdict_store import Comparison
from rlhf.models import registry


def run(run: Run, spec: JudgeSpec) -> dict[str, Any]:
    """Judge what the spec names. Returns counts; raises UserError when the judge gave up with nothing judged."""
    judge, rubric = judge_store.by_name(run.db, spec.judge), judge_store.rubric(run.db)
    candidate = registry.by_revision(run.db, spec.candidate).id if spec.scope == "candidate" else None
    waiting = verdict_store.to_judge(run.db, judge, spec.scope, spec.comparisons, candidate)
    nothing = "" if waiting else _("There is nothing to judge.")
    if not waiting and spec.scope == "open":
        nothing = _("No comparison waits for judges. The AI judges tab says, and changes, who judges.")
    run.report(0, len(waiting), {}, nothing or _("It loads the judge."))
    counts = judged(run, spec, judge, rubric, waiting) if waiting else JudgingCounts()
    if counts.gave_up and not counts.verdicts:
        verdict_store.ask_people_instead(run.db, judge)
        raise UserError(counts.gave_up)
    return asdict(
        JudgeResult(
            judge=judge.name,
            comparisons=counts.judged,
            left_open=len(waiting) - counts.judged,
            verdicts=counts.verdicts,
            failed=dict(counts.failed),
            gave_up=counts.gave_up,
            remark=nothing if counts.basis is None else counts.basis.sentence(),
            prompt_tokens=counts.prompt_tokens,
            completion_tokens=counts.completion_tokens,
            cost=judge_store.cost(judge, counts.prompt_tokens, counts.completion_tokens),
            rubric_version=rubric.version,
            seconds=run.seconds(),
        )
    )


def judged(run: Run, spec: JudgeSpec, judge: Judge, rubric: Rubric, waiting: Sequence[Comparison]) -> JudgingCounts:
    """Let the judge judge them; what came of it, also where it gave up."""
    asked = sum(len(comparison.missing) for comparison in waiting)

    def progress(counts: JudgingCounts) -> None:
        metrics = {"verdicts": float(counts.verdicts), "failed": float(counts.failed.total())}
        said = _("Verdicts given: {verdicts} of {asked}.")
        run.report(counts.judged, len(waiting), metrics, said.format(verdicts=counts.verdicts, asked=asked))

    counts = JudgingCounts()
    try:
        bench = backend_for(run, judge, rubric, spec.model, spec.batch_size)
        progress(counts)  # the first verdicts can take minutes
        # With fewer to ask than may fail, a judge of whom nothing comes would end as one that had judged.
        return run_judge(run, judge, rubric, bench, waiting, min(spec.failures, asked), progress)
    except UserError as error:
        counts.gave_up = str(error)
        return counts
