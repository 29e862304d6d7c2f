"""What AI judges say of pairs of answers: a local model's next token, a reward model's scores, an endpoint's reply."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from annotation.records import Message, UserError
from annotation.translation import _, joined, ngettext
from annotation.ui.formatting import percent
from rlhf.jobs.run import Run
from rlhf.judges import judge_store, local_models, rubrics, verdict_store
from rlhf.judges.judge_settings import DirectorySettings, EndpointSettings, LocalSettings, RewardModelSettings
from rlhf.judges.judge_store import Judge
from rlhf.judges.openai_client import Endpoint, Failure, Reply
from rlhf.judges.rubrics import Rubric
from rlhf.judges.verdict_store import TOO_LONG, Comparison
from rlhf.judges.verdicts import (
    ChanceBasis,
    LetterShare,
    ScoreTemperature,
    Verdict,
    after_thinking,
    parse_verdict,
    shortened,
)
from rlhf.models import registry
from rlhf.models.base.base_model import ready
from rlhf.models.hidden_states import completions, head_of, inner_model
from rlhf.models.loading.adapter_loading import put_weights
from rlhf.models.loading.base_weights import load_for_answering
from rlhf.models.loading.loaded_policies import LoadedPolicies, ground_key, ground_path, refuse_too_long
from rlhf.models.packing import pad
from rlhf.models.stored_reward_model import read_reward_model
from rlhf.models.tokenise import answer_ids, text_ids

# A judge whose next token is something else than a letter more often than not says nothing by its letters.
LEAST_LETTERS = 0.5


@dataclass(frozen=True)
class JudgeRequest:
    """Two answers of a comparison in the order in which a judge is shown them."""

    comparison: Comparison
    pair: tuple[int, int]
    principles: tuple[int, ...]
    """The principles of the rubric that were drawn for this comparison."""


JudgeReply = tuple[JudgeRequest, Verdict | Failure]
IsStopped = Callable[[], bool]


class JudgeBackend(Protocol):
    """Where a judge sits: gives a verdict for each request, or says why there is none."""

    @property
    def spent(self) -> str:
        """Why no more can be asked of it in this job; empty while it can."""

    @property
    def basis(self) -> ChanceBasis | None:
        """What the chances rest on that it has given so far; None where it gives none."""

    def verdicts(self, requests: Sequence[JudgeRequest], stopped: IsStopped = lambda: False) -> Iterator[JudgeReply]:
        """One after the other, in any order; ends early when a budget is spent or once `stopped` says so.

        What is under way then is given out all the same.
        """


# ------------------------------------------------------------------------------------------------------ local models
class LocalModel:
    """A chat model that reads the prompt and of whose next token the letters' probabilities are taken.

    As Lee et al. 2023 (RLAIF, section 2.1) do it; no text is drawn, so there is nothing to misread.
    """

    spent = ""

    def __init__(
        self,
        run: Run,
        name: str,
        settings: LocalSettings | DirectorySettings,
        rubric: Rubric,
        base_path: Path,
        batch_size: int,
    ) -> None:
        self.rubric, self.batch_size = rubric, batch_size
        match settings:
            case LocalSettings(revision):
                path, policy = base_path, registry.by_revision(run.db, revision)
            case DirectorySettings(directory, precision):
                prepared = local_models.prepare_directory(run.data_dir, directory)
                if prepared.untried:
                    run.log(joined(f"{name}:", prepared.remark))
                path, policy = prepared.path, replace(registry.by_revision(run.db, "base"), precision=precision)
        # What it thought would stand where its letter is read.
        self.models = LoadedPolicies(run.db, run.data_dir, path, no_thinking=True)
        self.policy, self.model = policy, self.models.use(policy)
        tokenizer = self.models.tokenizer
        self.letters = local_models.letter_tokens(tokenizer.get_vocab())
        self.said_letters: list[float] = []
        """P(A) + P(B) of each prompt that was read."""

    @property
    def basis(self) -> LetterShare | None:
        """How much of the next token's probability the letters had; None before any prompt was read."""
        said = self.said_letters
        return LetterShare(fmean(said), min(said), len(said)) if said else None

    def verdicts(self, requests: Sequence[JudgeRequest], stopped: IsStopped = lambda: False) -> Iterator[JudgeReply]:
        """The likelier letter, with its share of the two letters' probability; a failure where both have too little."""
        for start in range(0, len(requests), self.batch_size):
            if stopped():
                return
            batch, prompts = [], []
            for request in requests[start : start + self.batch_size]:
                try:
                    asked = prompt_of(self.rubric, request, "letter")
                    fed = self.models.feed(asked, 1, self.policy)
                    prompts.append(text_ids(self.models.tokenizer, fed))
                    batch.append(request)
                except UserError as error:
                    yield request, Failure(TOO_LONG, str(error))
            if not prompts:
                continue
            began = monotonic()
            letters_B2 = self.letter_chances(prompts)
            seconds = (monotonic() - began) / len(prompts)
            for request, ids, (first, second) in zip(batch, prompts, letters_B2.tolist(), strict=True):
                if not isfinite(first + second):
                    yield request, no_number(len(ids), 1)
                    continue
                self.said_letters.append(first + second)
                if first + second < LEAST_LETTERS:
                    yield request, Failure(verdict_store.NO_VERDICT, no_letter(first + second), len(ids), 1)
                    continue
                yield request, Verdict.of_chance(first / (first + second), seconds, len(ids), 1)

    @torch.no_grad()
    def letter_chances(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The probability of each letter as the next token after each prompt, (B, 2).

        What all begin with, most of a rubric, is read once, and one long prompt makes no other one longer.
        """
        followed = pad([(prompt, self.letters[0][:1]) for prompt in prompts], self.models.tokenizer.pad_token_id)
        ids_BT, attention_BT, completion_BT = (part.to(inner_model(self.model).device) for part in followed)
        before_BH = completions(self.model, ids_BT, attention_BT, completion_BT).before_NH
        logps_BV = head_of(self.model, float32=True).logits(before_BH).log_softmax(-1)
        return torch.stack([logps_BV[:, ids].logsumexp(-1).exp() for ids in self.letters], dim=-1)


def no_letter(letters: float) -> str:
    """That a local judge would say something else than a letter."""
    return _(
        "P(A) + P(B) of the judge's next token is {letters}: it would say something else, so its letters mean nothing. "
        "Choose another model, or a shorter and plainer rubric."
    ).format(letters=percent(letters))


def no_number(prompt_tokens: int = 0, completion_tokens: int = 0) -> Failure:
    """That a judgement is no number, or none that is finite."""
    said = _(
        "What the judge computes is no number: its weights are damaged, or too large for the precision in which it is "
        "held. Choose another model."
    )
    return Failure(verdict_store.NO_VERDICT, said, prompt_tokens, completion_tokens)


# ------------------------------------------------------------------------------------------------------- reward models
class RewardScorer:
    """A reward model: an answer's score does not depend on what stands beside it, so it never flips."""

    spent = ""

    def __init__(self, run: Run, revision: str, base_path: Path) -> None:
        from peft import get_peft_model

        policy = registry.by_revision(run.db, revision)
        if policy.kind != "reward-model":
            said = _("'{revision}' is no reward model. Choose one that a reward model training made.")
            raise UserError(said.format(revision=policy.revision))
        self.models = LoadedPolicies(run.db, run.data_dir, base_path)
        self.reward = read_reward_model(run, policy.revision)
        key = ground_key(policy)
        ground = load_for_answering(ground_path(run.db, run.data_dir, base_path, key[0]), key[1])
        config = copy(self.reward.config)
        config.base_model_name_or_path = None  # or PEFT warns that the base has another name where it lies here
        self.model = get_peft_model(ground, config, adapter_name="reward")
        put_weights(self.model, self.reward.weights, "reward", policy.revision)
        self.model.eval()

    @property
    def basis(self) -> ScoreTemperature:
        return ScoreTemperature(self.reward.scale.temperature)

    def verdicts(self, requests: Sequence[JudgeRequest], stopped: IsStopped = lambda: False) -> Iterator[JudgeReply]:
        """The calibrated Bradley–Terry probability of the first answer, by the difference of raw scores."""
        known: dict[int, list[float]] = {}
        for request in requests:
            if stopped():
                return
            comparison, began = request.comparison, monotonic()
            if comparison.id not in known:
                try:
                    known = {comparison.id: self.scores(comparison)}
                except UserError as error:
                    yield request, Failure(TOO_LONG, str(error))
                    continue
            first, second = (known[comparison.id][place] for place in request.pair)
            if not isfinite(first - second):
                yield request, no_number()
                continue
            yield request, Verdict.of_chance(self.reward.scale.chance(first, second), monotonic() - began)

    @torch.no_grad()
    def scores(self, comparison: Comparison) -> list[float]:
        """The raw score of each answer; a training sees them shifted and scaled, which would change the chances.

        Raises UserError where the model's context is too short for one.
        """
        tokenizer = self.models.tokenizer
        prompt = text_ids(tokenizer, comparison.rendered_prompt or self.models.feed(comparison.messages, 1))
        drawn = comparison.token_ids or (None,) * len(comparison.answers)
        answers = [
            answer_ids(tokenizer, *answer)
            for answer in zip(comparison.answers, comparison.finish_reasons, drawn, strict=True)
        ]
        refuse_too_long(len(prompt), max(map(len, answers)), self.models.context)
        device = inner_model(self.model).device
        padded = pad([(prompt, ids) for ids in answers], tokenizer.pad_token_id)
        ids_BT, attention_BT, completion_BT = (part.to(device) for part in padded)
        states = completions(self.model, ids_BT, attention_BT, completion_BT, packed=False)
        scores: list[float] = (states.last_BH.float() @ self.reward.head_H.to(device)).tolist()
        return scores


# ----------------------------------------------------------------------------------------------------------- endpoints
class RemoteModel:
    """A chat model behind an OpenAI-compatible endpoint, which writes its verdict as text."""

    basis = None

    def __init__(self, run: Run, judge: Judge, settings: EndpointSettings, rubric: Rubric) -> None:
        """Raises UserError where the calls of all jobs together are spent."""
        self.run, self.judge, self.rubric = run, judge, rubric
        self.made = judge_store.calls_made(run.db, judge)
        """Calls of earlier jobs, and those of this one that are counted with them."""
        self.total = settings.total_calls
        left = self.total - self.made if self.total else settings.calls
        if left <= 0:
            raise UserError(self.all_spent)
        self.endpoint = Endpoint(replace(settings, calls=min(settings.calls, left)))
        self.counted = 0

    @property
    def all_spent(self) -> str:
        """What is said where no job may ask it any more."""
        return ngettext(
            "The {total:,} call that {name} may make is made. Switch it off, and make a judge with a "
            "larger limit to go on.",
            "All {total:,} calls that {name} may make are made. Switch it off, and make a judge with a "
            "larger limit to go on.",
            self.total,
        ).format(total=self.total, name=self.judge.name)

    @property
    def spent(self) -> str:
        """That its budget of calls is spent, if it is."""
        if not self.endpoint.exhausted:
            return ""
        if self.total and self.made >= self.total:
            return self.all_spent
        calls = self.endpoint.settings.calls
        return ngettext(
            "The budget of {calls:,} call is spent; the next job goes on.",
            "The budget of {calls:,} calls is spent; the next job goes on.",
            calls,
        ).format(calls=calls)

    def verdicts(self, requests: Sequence[JudgeRequest], stopped: IsStopped = lambda: False) -> Iterator[JudgeReply]:
        """What is read from each reply; a reply that says nothing clear is a failure."""
        self.endpoint.stopped = stopped
        prompts = [prompt_of(self.rubric, request, "line") for request in requests]
        try:
            for place, reply in self.endpoint.ask_many(prompts):
                self.count()
                yield requests[place], reply if isinstance(reply, Failure) else verdict_in(reply)
        finally:
            self.count()

    def count(self) -> None:
        """Add the calls made since the last time to those of all jobs; no other job runs beside this one."""
        calls = self.endpoint.calls - self.counted
        self.counted += calls
        self.made += calls
        if calls:
            judge_store.count_calls(self.run.db, self.judge, calls)


def verdict_in(reply: Reply) -> Verdict | Failure:
    choice = parse_verdict(reply.text)
    if choice is None:
        said = _("The judge's reply gives no verdict.")
        return Failure(verdict_store.NO_VERDICT, said, reply.prompt_tokens, reply.completion_tokens)
    return Verdict(
        choice=choice,
        chance=None,
        reply=shortened(after_thinking(reply.text)),
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        seconds=reply.seconds,
    )


# ------------------------------------------------------------------------------------------------------------- judging
def prompt_of(rubric: Rubric, request: JudgeRequest, style: rubrics.Style) -> list[Message]:
    comparison = request.comparison
    first, second = (comparison.answers[place] for place in request.pair)
    texts = (comparison.messages, first, second)
    return rubrics.messages_for(rubric, request.principles, *texts, style, comparison_id=comparison.id)


def backend_for(run: Run, judge: Judge, rubric: Rubric, model: str, batch_size: int) -> JudgeBackend:
    """What answers for a judge. Raises UserError where its model or address is of no use."""
    settings = judge.settings
    if isinstance(settings, EndpointSettings):
        return RemoteModel(run, judge, settings, rubric)
    try:
        base_path = ready(run.data_dir, model).path
        match settings:
            case RewardModelSettings(revision):
                return RewardScorer(run, revision, base_path)
            case LocalSettings() | DirectorySettings():
                return LocalModel(run, judge.name, settings, rubric, base_path, batch_size)
    except (OSError, ValueError, SafetensorError, UserError) as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {shortened(str(error))}."
        said = _(
            "The model of the judge {name} can't be loaded: {reason} Mend its files, or make a judge with "
            "another model."
        )
        raise UserError(said.format(name=judge.name, reason=reason)) from error


@dataclass
class JudgingCounts:
    """How far a judge has come in a job."""

    judged: int = 0
    verdicts: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    """With those of replies that could not be read."""
    completion_tokens: int = 0
    gave_up: str = ""
    basis: ChanceBasis | None = None
    """What its chances rest on."""
    failed_in_a_row: int = 0

    def add_failure(self, failure: Failure, most: int) -> None:
        """Count a failed verdict; after `most` in a row the judge is given up."""
        self.failed[failure.reason] += 1
        self.failed_in_a_row += failure.reason != TOO_LONG  # which is the comparison's fault
        if self.failed_in_a_row >= most and not self.gave_up:
            self.gave_up = ngettext(
                "{in_a_row} verdict failed. {sentence}",
                "{in_a_row} verdicts failed one after the other. {sentence}",
                self.failed_in_a_row,
            ).format(in_a_row=self.failed_in_a_row, sentence=failure.sentence)


def run_judge(
    run: Run,
    judge: Judge,
    rubric: Rubric,
    bench: JudgeBackend,
    comparisons: Sequence[Comparison],
    failures: int,
    progress: Callable[[JudgingCounts], None],
) -> JudgingCounts:
    """Ask a judge about comparisons, and keep each verdict as it comes; stops after so many failures in a row.

    Verdicts that are there are not asked for again. Raises Stopped when the job is told to stop; what was under way
    then, or when the judge was given up, is kept first.
    """
    counts, failed = JudgingCounts(), set[int]()
    # In an order of this job's own: some that always fail must not stand before all others each time.
    comparisons = random.Random(run.job_id).sample(comparisons, len(comparisons))
    requests = [
        JudgeRequest(comparison, pair, rubrics.principles_for(rubric, comparison.id))
        for comparison in comparisons
        for pair in comparison.missing
    ]
    counts.judged += sum(verdict_store.judge_comparison(run.db, judge, one) for one in comparisons if not one.missing)
    for request, verdict in bench.verdicts(requests, lambda: run.stopped or bool(counts.gave_up)):
        counts.prompt_tokens += verdict.prompt_tokens
        counts.completion_tokens += verdict.completion_tokens
        if isinstance(verdict, Failure):
            verdict_store.add_failure(run.db, judge, request.comparison.id, verdict, run.job_id)
            failed.add(request.comparison.id)
            counts.add_failure(verdict, failures)
            if counts.failed[verdict.reason] == 1:
                run.log(_("comparison {id}: {sentence}").format(id=request.comparison.id, sentence=verdict.sentence))
            continue
        counts.failed_in_a_row = 0
        verdict_store.add_verdict(
            run.db, judge, request.comparison.id, request.pair, verdict, rubric.version, request.principles, run.job_id
        )
        counts.verdicts += 1
        counts.judged += verdict_store.judge_comparison(run.db, judge, request.comparison)
        progress(counts)
    run.raise_if_stopped()
    counts.basis = bench.basis
    if counts.basis is not None:
        run.log(joined(f"{judge.name}:", counts.basis.sentence()))
    verdict_store.pass_over(run.db, failed)
    counts.gave_up = counts.gave_up or bench.spent
    return counts
