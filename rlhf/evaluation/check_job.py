"""Check a candidate: it, the serving policy, the base and its anchor answer the held-out prompts with the same seeds.

Reports the win rate by AI judges in both orders, also at equal lengths (Dubois et al. 2024), implicit-reward accuracy
on held-out judgements with Wilson's interval (Wilson 1927), the KL to its anchor per token over the policy's own
answers, their likelihood under the anchor, the perplexity of a fixed text, fixed probes of what it should not have
lost, and what the answers are like: length, share cut off, distinct-n (Li et al. 2016), repetition (Welleck et al.
2020). The answers are then before people and judges, blind. What a policy is measured against, its anchor, is the base
in the policy's own precision, or another policy that the rule names. KL to the ground (`registry.own_ground`), the
weights that its adapter hangs on, is measured beside it where these are others; where memory does not hold both, the
ground is the anchor.

It goes on where it was broken off: answers, scores and verdicts are kept one by one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from annotation.database import Database
from annotation.exports.frozen_rows import PreferenceRow
from annotation.metrics.intervals_and_bias import wilson_interval
from annotation.records import CheckedAnswer, Prompt, UserError
from annotation.store import check_store, policy_comparisons
from annotation.translation import _, ngettext
from rlhf.data import held_out_sets
from rlhf.evaluation import gate_words
from rlhf.evaluation.anchors import GROUND_SCORES, CheckedPolicies, policies_of
from rlhf.evaluation.answer_figures import (
    equal_length_distinct,
    equal_length_kl,
    equal_length_nll_ratio,
    of_words,
    per_token,
    summarise,
)
from rlhf.evaluation.check_spec import CheckSpec
from rlhf.evaluation.decisions import candidate_findings
from rlhf.evaluation.finished_checks import measured_before
from rlhf.evaluation.probe_scores import TokenisedProbe, probe_figures, tokenise_probes
from rlhf.evaluation.report import (
    RULE_VERSION,
    AnswerFigures,
    CheckReport,
    ImplicitAccuracy,
    JudgeCalls,
    WinRate,
)
from rlhf.evaluation.win_rates import outcomes_by, reward_change
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.jobs.run import Run
from rlhf.judges import judge_store, verdict_store
from rlhf.judges.backends import JudgingCounts, backend_for, run_judge
from rlhf.models import registry
from rlhf.models.base.base_model import ready
from rlhf.models.hidden_states import Completions, completions, head_of, passes_of
from rlhf.models.loading.loaded_policies import LoadedPolicies
from rlhf.models.log_probabilities import Head, kl_and_logps, sum_by_row, token_logps
from rlhf.models.packing import pad, prompt_groups
from rlhf.models.precisions.plain_text import PlainText, PromptAndAnswer, plain_text
from rlhf.models.registry import Policy
from rlhf.models.sampling.drawing import Draw, draw_in_turn
from rlhf.models.tokenise import answer_ids, load_snapshot, of_split, text_ids, tokenise_pairs

# Comparisons that a judge in this process reads together.
JUDGING_BATCH = 4


def run(run: Run, spec: CheckSpec) -> dict[str, Any]:
    """Answer, score and compare. Returns the report that the page and `python -m rlhf` show."""
    check = begun(run, spec)
    found = {one.version: measure(check, one) for one in check.policies.compared}
    measured = replace(
        figures_of(check, found),
        implicit_accuracy=implicit_accuracy(check.progress, check.models, check.policies.candidate, check.held_out),
    )
    policies = check.policies
    del check  # a judge may need the memory that its models take
    candidate, against, others = policies.candidate, policies.against, policies.others
    put_before_people(run.db, spec, candidate, others)
    judged, own = ask_judges(run, spec, candidate), {answer.id for answer in found[candidate.version].answers}
    ask_people_instead(run, spec, candidate, judged)
    same = same_answers(run.db, candidate, against, own) if against.id != candidate.id else measured.prompts
    report = replace(
        measured,
        win_rates={other.revision: rates_by_judge(run.db, spec, candidate, other, own) for other in others},
        judged=judged,
        same_answers=same,
        reward=reward_change(run.db, candidate),
        seconds=run.seconds(),
    )
    return report.to_json()


@dataclass(frozen=True)
class Check:
    """A check as it is made: what was asked, the policies in memory, and what they answer and read."""

    spec: CheckSpec
    models: LoadedPolicies
    policies: CheckedPolicies
    prompts: Sequence[Prompt]
    rendered: Mapping[int, str]
    """What is fed, by prompt id; prompts that the model does not take are left out."""
    apart: Sequence[Prompt]
    """Those on which the policies are compared beside those of the report."""
    rendered_apart: Mapping[int, str]
    held_out: Sequence[PreferenceRow]
    """Judgements by which the implicit reward is measured."""
    probes: Sequence[TokenisedProbe]
    plain: PlainText
    progress: CheckProgress

    def answers_of(self, policy: Policy) -> list[CheckedAnswer]:
        """A policy's answers to the prompts of the report."""
        return answers_of(self.progress.run, self.spec, policy, self.prompts, self.rendered)


def begun(run: Run, spec: CheckSpec) -> Check:
    """A check with all that it needs. Raises UserError where it can't be made, or its figures would say nothing."""
    run.report(0, 0, {}, _("It loads the model."))
    models = LoadedPolicies(run.db, run.data_dir, ready(run.data_dir, spec.model).path)
    policies = policies_of(run, spec, models.base_path)
    if not spec.gate_set and (said := gate_words.gate_set_sentence(held_out_sets.gate_set_status(run.db))):
        run.log(said)
    prompts = held_out_sets.prompts_of(run.data_dir, spec.prompt_set)
    apart = held_out_sets.prompts_of(run.data_dir, spec.compared_set) if spec.compared_set else []
    refuse_leaked(run, policies.candidate, [*prompts, *apart])
    fed, fed_apart = (what_to_feed(run, spec, models, policies.compared, one) for one in (prompts, apart))
    held_out = of_split(load_snapshot(run.data_dir, spec.snapshot, PreferenceRow), "held-out")
    check = Check(
        spec,
        models,
        policies,
        prompts=prompts,
        rendered=fed,
        apart=apart,
        rendered_apart=fed_apart,
        held_out=held_out,
        probes=tokenise_probes(models),
        plain=plain_text(models.tokenizer),
        progress=CheckProgress(run, len(held_out)),
    )
    check.progress.total += sum(to_do(check, policy) for policy in policies.compared)
    return check


def to_do(check: Check, policy: Policy) -> int:
    """How many answers of a policy there are to draw and to score; what an earlier check has done takes no time."""
    drawn, scored = len(to_draw(check, policy)), len(unscored(check, policy))
    missing = len(missing_answers(check.progress.run, check.spec, policy, check.prompts, check.rendered))
    return drawn + (missing + scored) * len(check.policies.measured_by(policy))


@dataclass(frozen=True)
class MeasuredPolicy:
    """A policy's answers to the prompts of the report, with their scores, and its figures."""

    answers: list[CheckedAnswer]
    figures: AnswerFigures


def measure(check: Check, policy: Policy) -> MeasuredPolicy:
    """Let a policy answer and read, and score what it answers."""
    models, policies, progress = check.models, check.policies, check.progress
    models.keep_only(policy, *policies.measured_by(policy).values())  # those in another precision may be as large
    draw_answers(check, policy, to_draw(check, policy))
    score_answers(check, policy)
    answers = check.answers_of(policy)
    asking = _("It puts the probes to {revision}.").format(revision=policy.revision)
    figures = replace(
        summarise(policy, answers, policies.scores(policy)),
        perplexity=perplexity(models, policy, check.plain),
        perplexity_of=check.plain.name,
        probes=probe_figures(models.db, models, policy, check.probes, lambda: progress.advance(0, asking)),
    )
    return MeasuredPolicy(answers, figures)


def figures_of(check: Check, found: Mapping[tuple[int, registry.HeldPrecision], MeasuredPolicy]) -> CheckReport:
    """What the report says of the answers; who is found better, people and judges have yet to say."""
    policies = check.policies
    candidate, anchor, against = (found[one.version] for one in (policies.candidate, policies.anchor, policies.against))
    kl, nll = (of_words(candidate.answers, name) for name in policies.scores(policies.candidate))
    anchor_nll = of_words(anchor.answers, policies.scores(policies.anchor)[1])
    return CheckReport(
        candidate=candidate.figures,
        against=against.figures,
        anchor=anchor.figures,
        prompts=len(check.rendered),
        compared_apart=len(check.rendered_apart),
        equal_length_distinct=equal_length_distinct(candidate.answers, anchor.answers),
        equal_length_nll_ratio=equal_length_nll_ratio(nll, anchor_nll),
        equal_length_kl=equal_length_kl(kl, anchor_nll),
        kl_to_ground=per_token(candidate.answers, GROUND_SCORES[0]) if policies.ground_is_apart else None,
        rule=RULE_VERSION,
    )


def put_before_people(db: Database, spec: CheckSpec, candidate: Policy, others: Sequence[Policy]) -> None:
    """Make comparisons of the answers: people are asked about what the candidate would replace, judges about all.

    People get the check's share of them, drawn by lot, or more where it takes more to tell; all of them, earlier
    checks' too, where that is 1, but for those that can't count any more. Of the gate's own set they get only its
    prompts: what they say of others decides nothing.
    """
    on = held_out_sets.that_count(db, spec.gate_set)
    with db.transaction():  # nobody decides meanwhile
        pending = registry.by_id(db, candidate.id).status == "candidate"
        for other in others:
            wanted = pending and other.id == registry.serving(db).id
            share = people_share(db, spec, candidate, other) if wanted else 1.0
            policy_comparisons.compare_policies(db, candidate.id, other.id, "people" if wanted else "nobody", on, share)
            if wanted and spec.people_share == 1:
                spent = candidate_findings.spent_prompts(db, candidate, other)
                policy_comparisons.ask_people_of_candidate(db, candidate.id, other.id, on, spent)


def people_share(db: Database, spec: CheckSpec, candidate: Policy, other: Policy) -> float:
    """The share of this check's comparisons that people get: what it asks for, and as much as the evidence takes."""
    if spec.people_share in (0.0, 1.0):
        return 1.0
    judges = judge_store.judges_named(db, spec.judges)
    left = held_out_sets.never_compared(db, candidate, other, spec.gate_set)
    return max(spec.people_share, candidate_findings.share_of_next_check(db, candidate, judges, left))


def refuse_leaked(run: Run, candidate: Policy, prompts: Sequence[Prompt]) -> None:
    """Raises UserError where the candidate was trained on what it is to be measured on."""
    leaked = held_out_sets.trained_on(run.db, run.data_dir, candidate, prompts)
    if leaked:
        raise UserError(
            _(
                "{revision} was trained on held-out prompts ({count} of {held_out}), for example {text!r}. "
                "Figures on them would say nothing: take them out of the training data and train anew."
            ).format(revision=candidate.revision, count=len(leaked), held_out=len(prompts), text=leaked[0].text[:80])
        )


def what_to_feed(
    run: Run, spec: CheckSpec, models: LoadedPolicies, policies: Sequence[Policy], prompts: Sequence[Prompt]
) -> dict[int, str]:
    """The text to feed by prompt id. Raises UserError if the model takes none of the prompts; some may be left out."""
    fed, refused = models.feed_each(prompts, spec.sampling.max_new_tokens, *policies)
    if refused:
        run.log(
            _("Held-out prompts that can't be answered: {count} of {count_2}. For example: {refused}").format(
                count=len(refused), count_2=len(prompts), refused=refused[0]
            )
        )
    if refused and not fed:
        raise UserError(_("There is no held-out prompt that this model can answer. Add some, and check it again."))
    return fed


class CheckProgress:
    """Counts answered and scored items for the progress bar, and stops the job when it is asked to."""

    def __init__(self, run: Run, total: int) -> None:
        self.run, self.total, self.done = run, total, 0

    def advance(self, items: int, message: str) -> None:
        """Report `items` more as done. Raises Stopped when the job was cancelled."""
        self.done += items
        self.run.report(min(self.done, self.total), self.total, {}, message)
        self.run.raise_if_stopped()


def answers_of(
    run: Run, spec: CheckSpec, policy: Policy, prompts: Sequence[Prompt], rendered: Mapping[int, str]
) -> list[CheckedAnswer]:
    """The policy's answers on the terms of this check, to the very text that it feeds, in its precision."""
    return check_store.answers_of_check(
        run.db, policy.id, prompts, spec.seed, spec.sampling, rendered=rendered, precision=policy.precision
    )


# A prompt to answer, what is fed, and the seed.
PromptToAnswer = tuple[Prompt, str, int]


def to_draw(check: Check, policy: Policy) -> list[PromptToAnswer]:
    """What a policy has yet to answer, for the report and for the comparison."""
    run, spec, policies = check.progress.run, check.spec, check.policies
    asked = missing_answers(run, spec, policy, check.prompts, check.rendered)
    if policy in (policies.candidate, policies.against):
        compared = replace(spec, seed=spec.compared_seed)
        asked += missing_answers(run, compared, policy, check.apart, check.rendered_apart)
    return asked


def missing_answers(
    run: Run, spec: CheckSpec, policy: Policy, prompts: Sequence[Prompt], rendered: Mapping[int, str]
) -> list[PromptToAnswer]:
    """One answer a prompt, prompt i with seed + i, but for those that an earlier check drew, which are used again."""
    known = {(answer.prompt_id, answer.seed) for answer in answers_of(run, spec, policy, prompts, rendered)}
    asked = [(prompt, rendered[prompt.id], spec.seed + place)
             for place, prompt in enumerate(prompts) if prompt.id in rendered]  # fmt: skip
    return [one for one in asked if (one[0].id, one[2]) not in known]


def draw_answers(check: Check, policy: Policy, asked: Sequence[PromptToAnswer]) -> None:
    """Draw and store answers, each as soon as it and all before it have ended.

    A check that is broken off leaves those to the first prompts, and not the shortest ones: what is the same on both
    sides, or empty, counts at once.
    """
    spec, run, said = check.spec, check.progress.run, _("{revision} answers.").format(revision=policy.revision)
    rows, model = [(text, seed) for _prompt, text, seed in asked], check.models.use(policy)
    together, tokenizer = spec.prompts_per_batch, check.models.tokenizer
    check.progress.advance(0, said)
    ended: dict[int, Draw] = {}
    stored = 0
    for place, drawn in draw_in_turn(model, tokenizer, rows, spec.sampling, together, lambda: run.stopped):
        ended[place] = drawn
        before = stored
        while stored in ended:
            prompt, text, _seed = asked[stored]
            response = ended.pop(stored).response(prompt, policy, text, spec.sampling)
            check_store.add_checked_answer(run.db, response)
            stored += 1
        check.progress.advance(stored - before, said)
    run.raise_if_stopped()


def unscored(check: Check, policy: Policy) -> list[CheckedAnswer]:
    """A policy's answers to score; of those that an earlier version has scored, only the mean was kept."""
    names = {name for both in check.policies.measured_by(policy) for name in both}
    return [answer for answer in check.answers_of(policy) if not names <= answer.token_scores.keys()]


def score_answers(check: Check, policy: Policy) -> None:
    """Store the KL to each anchor at each token of each of a policy's answers, and the token's NLL under it."""
    models, measured_by = check.models, check.policies.measured_by(policy)
    anchors, answers = list(measured_by.values()), unscored(check, policy)
    sequences = [token_ids_of(models, answer) for answer in answers]
    for places in passes_of(models.use(policy), sequences):
        found = score(models, policy, anchors, [sequences[place] for place in places])
        for (kl_score, nll_score), scores in zip(measured_by, found, strict=True):
            for place, (kls, nlls) in zip(places, scores, strict=True):
                check_store.add_score(models.db, answers[place].id, kl_score, fmean(kls), kls)
                check_store.add_score(models.db, answers[place].id, nll_score, fmean(nlls), nlls)
        done = len(places) * len(anchors)
        check.progress.advance(done, _("It scores the answers of {revision}.").format(revision=policy.revision))


def token_ids_of(models: LoadedPolicies, answer: CheckedAnswer) -> PromptAndAnswer:
    """What a policy was fed, and what it answered."""
    drawn = answer_ids(models.tokenizer, answer.text, answer.finish_reason, answer.token_ids)
    return tuple(text_ids(models.tokenizer, answer.rendered_prompt)), tuple(drawn)


@torch.no_grad()
def score(
    models: LoadedPolicies, policy: Policy, anchors: Sequence[Policy], answers: Sequence[PromptAndAnswer]
) -> list[list[tuple[list[float], list[float]]]]:
    """For each anchor (KL to it at each token, NLL of each token under it) of each answer, in nats.

    Each of the policies reads them once.
    """
    different = {one.version: one for one in (policy, *anchors)}.values()
    found, read = [], {one.version: completion_states(models, one, answers) for one in different}
    own, head = read[policy.version]
    for anchor in anchors:
        under, anchor_head = read[anchor.version]
        if under is own:
            logps_N = token_logps(own.before_NH, head, own.labels_N)
            kl_N = torch.zeros_like(logps_N)
        else:
            kl_N, logps_N = kl_and_logps(own.before_NH, head, under.before_NH, anchor_head, own.labels_N)
        of_answers = [own.rows_N == row for row in range(len(answers))]
        found.append([(kl_N[of].tolist(), (-logps_N[of]).tolist()) for of in of_answers])
    return found


def completion_states(
    models: LoadedPolicies, policy: Policy, sequences: Sequence[PromptAndAnswer]
) -> tuple[Completions, Head]:
    """The states of the answers to prompts, and what makes logits of them, in float32."""
    model = models.use(policy)
    padded = pad(sequences, models.tokenizer.pad_token_id)
    ids_BT, attention_BT, completion_BT = (part.to(model.device) for part in padded)
    states = completions(model, ids_BT, attention_BT, completion_BT, prompt_groups(sequences))
    return states, head_of(model, float32=True)


def implicit_accuracy(
    progress: CheckProgress, models: LoadedPolicies, candidate: Policy, rows: Sequence[PreferenceRow]
) -> ImplicitAccuracy:
    """How often the candidate's implicit reward prefers the answer that annotators preferred, with its interval.

    The reward is beta times a log-ratio (Rafailov et al. 2023, equation 5), a token where its training took it so, and
    which of two is larger beta does not change. The pairs of one comparison stand or fall together, so each comparison
    counts once, with the share that is right.
    """
    reference, max_length, per_token = training_terms(models.db, candidate)
    pairs, left_out = tokenise_pairs(models.tokenizer, rows, max_length)
    sides = [
        [(tuple(pair["prompt_ids"]), tuple(ids)) for ids in (pair["chosen_ids"], pair["rejected_ids"])]
        for pair in pairs
    ]
    different = list(dict.fromkeys(answer for both in sides for answer in both))
    gained: dict[PromptAndAnswer, float] = {}
    for places in passes_of(models.use(candidate), different):
        batch = [different[place] for place in places]
        own_B, reference_B = (summed_logps(models, policy, batch) for policy in (candidate, reference))
        lengths = [max(len(ids), 1) if per_token else 1 for _prompt, ids in batch]
        gained |= zip(batch, ((own_B - reference_B) / own_B.new_tensor(lengths)).tolist(), strict=True)
        progress.advance(
            len(rows) * len(batch) // len(different), _("It measures the implicit reward on held-out judgements.")
        )
    scores: dict[int, list[float]] = {}
    for pair, both in zip(pairs, sides, strict=True):
        chosen, rejected = (gained[answer] for answer in both)
        right = 1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0
        scores.setdefault(pair["comparison"], []).append(right)
    total = sum(fmean(values) for values in scores.values())
    low, high = wilson_interval(total, len(scores))
    return ImplicitAccuracy(
        value=total / len(scores) if scores else None, low=low, high=high, n=len(scores), left_out=dict(left_out)
    )


@torch.no_grad()
def summed_logps(models: LoadedPolicies, policy: Policy, sequences: Sequence[PromptAndAnswer]) -> torch.Tensor:
    """log pi(answer | prompt) of each, (B,)."""
    states, head = completion_states(models, policy, sequences)
    return sum_by_row(token_logps(states.before_NH, head, states.labels_N), states.rows_N, len(sequences))


def training_terms(db: Database, candidate: Policy) -> tuple[Policy, int, bool]:
    """The reference policy, in the candidate's precision, the length limit that the candidate was trained with, and
    whether its rewards are per token."""
    ground = registry.own_ground(db, candidate)
    spec = registry.trained_as(db, candidate)
    to = spec.implicit_reference() if spec is not None else None
    if spec is None or to is None:
        return ground, TrainingSpec.max_length, False
    if to == "parent" or spec.method == "full":
        ground = replace(registry.by_revision(db, spec.parent), precision=candidate.precision)
    return ground, spec.max_length, spec.rewards_per_token()


def perplexity(models: LoadedPolicies, policy: Policy, text: PlainText) -> float:
    """Perplexity of the fixed text: language that a policy should not have lost. Read once in a policy's life."""
    for before in measured_before(models.db, policy):
        if before.perplexity is not None and before.perplexity_of == text.name:
            return before.perplexity
    logps_B = summed_logps(models, policy, text.paragraphs)
    return math.exp(-float(logps_B.sum()) / sum(len(ids) for _before, ids in text.paragraphs))


# ------------------------------------------------------------------------------------------------- who is found better
def ask_judges(run: Run, spec: CheckSpec, candidate: Policy) -> dict[str, JudgeCalls]:
    """Let each judge compare the candidate's answers with the others'; how many verdicts failed, and why."""
    rubric, found = judge_store.rubric(run.db), dict[str, JudgeCalls]()
    for judge in judge_store.judges_named(run.db, spec.judges):
        waiting = verdict_store.to_judge(run.db, judge, "candidate", 100_000, candidate.id)
        counts = JudgingCounts()
        if waiting:

            def progress(counts: JudgingCounts, name: str = judge.name, total: int = len(waiting)) -> None:
                judged = {"judged": float(counts.judged)}  # with its time, by which the time left is reckoned
                run.report(counts.judged, total, judged, _("{name} judges.").format(name=name))

            try:
                progress(counts)
                bench = backend_for(run, judge, rubric, spec.model, JUDGING_BATCH)
                counts = run_judge(run, judge, rubric, bench, waiting, spec.failures, progress)
            except UserError as error:  # its model is gone, say: the others' verdicts and the figures still count
                counts.gave_up = str(error)
        left_open = len(waiting) - counts.judged
        # This check may have been cut off and resumed.
        before = verdict_store.heard_in(run.db, judge, run.job_id) - {comparison.id for comparison in waiting}
        found[judge.name] = JudgeCalls(
            judged=len(before) + counts.judged,
            left_open=left_open,
            failed=dict(counts.failed),
            gave_up=counts.gave_up,
            chances=counts.basis,
        )
    return found


def ask_people_instead(run: Run, spec: CheckSpec, candidate: Policy, judged: Mapping[str, JudgeCalls]) -> None:
    """Where no judge has given any verdict, give people what the judges were to spare them."""
    calls = judged.values()
    if any(one.judged for one in calls) or not any(one.left_open for one in calls):
        return
    with run.db.transaction():  # nobody decides meanwhile
        against = registry.by_revision(run.db, spec.against)
        if registry.by_id(run.db, candidate.id).status != "candidate" or against.status != "serving":
            return
        on = held_out_sets.that_count(run.db, spec.gate_set)
        spent = candidate_findings.spent_prompts(run.db, candidate, against)
        count = policy_comparisons.ask_people_of_candidate(run.db, candidate.id, against.id, on, spent)
    if not count:  # they have them all
        return
    more = ngettext(
        "No judge has compared anything, so people get {count} comparison more.",
        "No judge has compared anything, so people get {count} comparisons more.",
        count,
    )
    run.log(more.format(count=count))


def rates_by_judge(
    db: Database, spec: CheckSpec, candidate: Policy, other: Policy, own: Collection[int]
) -> dict[str, WinRate]:
    """By judge: how often the candidate's `own` answers of this check won against another policy's."""
    panel = judge_store.judges_named(db, spec.judges)
    return {judge.name: outcomes_by(db, judge, candidate, other, own).rate() for judge in panel}


def same_answers(db: Database, candidate: Policy, against: Policy, own: Collection[int]) -> int:
    """On how many prompts of this check the two policies gave the same answer."""
    pairs = policy_comparisons.paired_answers(db, candidate.id, against.id)
    return sum(pair.first in own and pair.known_outcome == 0.5 for pair in pairs)
