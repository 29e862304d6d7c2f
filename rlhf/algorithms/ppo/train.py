"""Proximal policy optimisation against a reward model, on PEFT and accelerate.

Schulman et al. 2017, "Proximal Policy Optimization Algorithms", equation 7; Ziegler et al. 2019, "Fine-Tuning Language
Models from Human Preferences", section 2.2; Ouyang et al. 2022, equation 2. One base model in memory carries four
roles (`rlhf.algorithms.ppo.roles`): the policy (an adapter), the reference (no adapter, or the parent's), the reward
model and the critic (adapters with a scalar head). The losses are those of `rlhf.algorithms.ppo.losses`.

Of the details that Huang et al. 2024 list in "The N Implementation Details of RLHF with PPO", these are kept:

- Reward model and critic read prompt and answer together; the reward is that of the last token, once per answer.
- Positions count real tokens only, whatever the padding.
- Answers are drawn from the policy's whole distribution; its logits are divided by the temperature in training too.
- Rewards are normalised to a mean of 0 and a variance of 1.
- No dropout; a discount of 1; the learning rate falls to zero.
- Several epochs of shuffled minibatches, computed in smaller passes.
- A KL penalty on every token, the reward on the last one; a controller moves the penalty (or it is fixed).
- Rewards may be whitened without shifting their mean, advantages are whitened, by the values' own variance.
- The critic's value is clipped like the policy's ratio.

These are not:

- Answers of a fixed length, cut at a period, with a reward of -1 where there is none: answers end at their end-of-text
  token, and nothing after it is trained on. One that was cut off at the limit loses `no_end_penalty`, so that of two
  such answers the better one still gets more.
- Inputs of a fixed length, which start and end with a period: prompts are whole conversations in the model's template,
  and those that are too long are left out and counted.
- Rewards are normalised on the answers that people compared, instead of on new ones by the reference.
- A critic that is the policy with a head of zeros: it has an adapter of its own and starts as a copy of the reward
  model, head included (Ouyang et al. 2022, appendix C.4), so it has an idea of what answers are worth. `value_weight`
  then acts through the clipping of its gradients only: AdamW undoes a constant factor.
- A seed for each process: each answer has one, which depends on neither process nor batch.
- Whitening in each minibatch: it spans a whole round and all processes.
- A controller on the KL of the drawn tokens, with a gain by the number of answers: it gets the KL of the whole
  next-token distributions at the answers' tokens, which is the expectation of that and varies less, and its gain is the
  paper's, per round.
- TensorFlow's Adam: it is PyTorch's AdamW without weight decay, with their epsilon of 1e-5, whose first steps are
  larger. Gradients are clipped, policy's and critic's apart, so that a surprised critic does not slow the policy.
- Shuffling in the first epoch: it goes through the answers in the order, and in the very passes, in which their
  probabilities were noted, so that the ratio is exactly 1 until the first optimiser step.

How a reward model is trained, and so the start of its head, is the business of
`rlhf.algorithms.reward_model.train`. What else stands apart: the four roles of one model (`rlhf.algorithms.ppo.roles`),
which can be tested one by one and read stored reward models without a loop; the mathematics, tensors in and out
(`rlhf.algorithms.ppo.losses`), tested by hand and against slow versions; drawing answers (`rlhf.models.sampling`), as
everywhere; and the way of a run, with its checkpoints (`rlhf.algorithms.trainer`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from annotation.exports.frozen_rows import PromptRow
from annotation.jobs.attempt import Stopped
from annotation.records import UserError
from annotation.translation import _, joined
from rlhf.algorithms.ppo import losses
from rlhf.algorithms.ppo.losses import AdaptiveKL
from rlhf.algorithms.ppo.roles import ADAPTERS, TRAINED, AdapterRole, Roles, SampledResponse, load_roles
from rlhf.algorithms.ppo.spec import PPOSpec
from rlhf.algorithms.trainer import (
    RunCost,
    Start,
    TokenisedData,
    TrainingProgress,
    average_gradients,
    begin,
    conclude,
    diverged_sentence,
    recomputing,
    refuse_missing_optimiser,
    share_of_peak,
    start_of,
    stored_before,
)
from rlhf.data.snapshots import left_out_sentence, shortage
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_store import Diverged
from rlhf.jobs.run import Run
from rlhf.models import registry
from rlhf.models.loading.tokenizer_loading import load_tokenizer
from rlhf.models.log_probabilities import token_entropy, token_logps
from rlhf.models.sampling.drawing import draw
from rlhf.models.stored_reward_model import read_reward_model
from rlhf.models.tokenise import TokenisedPrompt, load_snapshot, of_split

MAX_GRAD_NORM = 1.0
# The reward of answers, (B,): a reward model's scores, or a test's own idea of a good answer.
Score = Callable[[Sequence[SampledResponse]], Tensor]


def run(run: Run, spec: PPOSpec) -> dict[str, Any]:
    """Train a policy against a reward model and register it as a candidate. Returns the job's result."""
    start = start_of(run, spec)
    tokenizer = load_tokenizer(start.base.path, registry.no_thinking(run.db))
    data = read_data(run, spec, tokenizer)
    run.log(joined(f"{len(data.items)} prompts; reward model {spec.reward_model}.", left_out_sentence(data.left_out)))
    trained = stored_before(run)
    if trained is None:
        begin(run, spec)
        trainer = build_trainer(spec, start, tokenizer, data, run)
        figures = trainer.learn().result(spec.snapshot, len(data.items), data.left_out)
        trained = conclude(run, spec, start, trainer.save, figures)
    return trained.to_json()


# ------------------------------------------------------------------------------------------------------------ the data
def read_data(run: Run, spec: PPOSpec, tokenizer: Any) -> TokenisedData:
    """The prompts to answer. Raises UserError if there is none."""
    rows = of_split(load_snapshot(run.data_dir, spec.snapshot, PromptRow), "train")
    items, left_out = spec.tokenise(tokenizer, rows)
    if not items and left_out["template"]:
        raise UserError(shortage("prompts", 0, 1, left_out))
    if not items:
        raise UserError(
            _(
                "Within a max_length of {max_length}, no prompt ({count} in all) leaves room for an answer of "
                "{max_new_tokens} tokens. Add shorter prompts, raise max_length, or lower max_new_tokens."
            ).format(count=len(rows), max_new_tokens=spec.sampling.max_new_tokens, max_length=spec.max_length)
        )
    return TokenisedData(items, left_out)


# ------------------------------------------------------------------------------------------------------------ a round
@dataclass(frozen=True)
class Rollouts:
    """The answers of a round in all processes, with what each role said of them while the policy was still the one that
    drew them. (B, T) by answer and token, zero beyond an answer's end, or (B,)."""

    answers: list[SampledResponse]
    scores_B: Tensor
    mask_BT: Tensor
    logps_BT: Tensor
    ref_logps_BT: Tensor
    values_BT: Tensor
    kl_BT: Tensor
    entropy_BT: Tensor

    def tokens(self, values_BT: Tensor, rows: Sequence[int]) -> Tensor:
        """The values of some answers' tokens, one after the other, as the forward passes give them. (N,)."""
        chosen = list(rows)
        return values_BT[chosen][self.mask_BT[chosen]]


def collate(parts: Sequence[tuple[SampledResponse, Mapping[str, Tensor]]], device: torch.device) -> Rollouts:
    """`Rollouts` of answers and what was noted of each: its score, and (T,) for every token."""
    answers, noted = [answer for answer, _ in parts], [values for _, values in parts]

    def padded(name: str) -> Tensor:
        return nn.utils.rnn.pad_sequence([values[name] for values in noted], batch_first=True).to(device)

    lengths_B = torch.tensor([len(answer.ids) for answer in answers])
    mask_BT = torch.arange(int(lengths_B.max())) < lengths_B[:, None]
    scores_B = torch.stack([values["score"] for values in noted]).to(device)
    names = ("logps", "ref_logps", "values", "kl", "entropy")
    return Rollouts(answers, scores_B, mask_BT.to(device), **{f"{name}_BT": padded(name) for name in names})


@lru_cache(maxsize=8)
def shuffled(count: int, key: str) -> tuple[int, ...]:
    """The numbers below `count` in an order that the key decides."""
    return tuple(random.Random(key).sample(range(count), count))


def minibatch(spec: PPOSpec, step: int, update: int) -> Sequence[int]:
    """The answers of a round's optimiser step: as they were drawn in the first epoch, then shuffled anew in each."""
    epoch, part = divmod(update, spec.minibatches)
    order = shuffled(spec.rollouts, f"order {spec.seed} {step} {epoch}") if epoch else range(spec.rollouts)
    size = spec.rollouts // spec.minibatches
    return order[part * size : (part + 1) * size]


def prompt_of(count: int, spec: PPOSpec, step: int, index: int) -> int:
    """Which of `count` prompts an answer of a round is to: all in turn, shuffled anew each time."""
    turn, place = divmod(step * spec.rollouts + index, count)
    return shuffled(count, f"prompts {spec.seed} {turn}")[place]


def seed_of(spec: PPOSpec, step: int, index: int) -> int:
    return random.Random(f"answer {spec.seed} {step} {index}").getrandbits(62)


def targets(rollouts: Rollouts, spec: PPOSpec, coefficient: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, advantages and returns of every token, each (B, T)."""
    cut_off_B = torch.tensor([not answer.ended for answer in rollouts.answers], device=rollouts.scores_B.device)
    scores_B = rollouts.scores_B - spec.no_end_penalty * cut_off_B
    penalty_BT = losses.k1(rollouts.logps_BT, rollouts.ref_logps_BT)
    rewards_BT = losses.shaped_rewards(scores_B, penalty_BT, rollouts.mask_BT, coefficient)
    used_BT = losses.whiten(rewards_BT, rollouts.mask_BT, shift_mean=False) if spec.whiten_rewards else rewards_BT
    advantages_BT, returns_BT = losses.gae(used_BT, rollouts.values_BT, rollouts.mask_BT, spec.gamma, spec.lam)
    return rewards_BT, losses.whiten(advantages_BT, rollouts.mask_BT), returns_BT


# --------------------------------------------------------------------------------------------------------- the trainer
def build_trainer(spec: PPOSpec, start: Start, tokenizer: Any, data: TokenisedData, run: Run) -> Learner:
    """The loop with its four roles on one model."""
    reward_model = read_reward_model(run, spec.reward_model)
    roles = load_roles(spec, start, reward_model, tokenizer.pad_token_id)
    return Learner(run, spec, roles, tokenizer, data.items, roles.score)


@dataclass
class PPOState:
    """Where a run is: after `step` rounds and `updates` optimiser steps of the next one. With the weights and the
    optimiser's state it decides all that follows."""

    controller: AdaptiveKL
    step: int = 0
    updates: int = 0
    rollouts: Rollouts | None = None
    tallies: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> PPOState:
        """A state from its plain values, as `asdict` gives them."""
        drawn = values["rollouts"]
        answers = [] if drawn is None else [SampledResponse(**answer) for answer in drawn["answers"]]
        rollouts = None if drawn is None else Rollouts(**{**drawn, "answers": answers})
        return cls(**{**values, "controller": AdaptiveKL(**values["controller"]), "rollouts": rollouts})


class Learner:
    """The loop: answer, score, and learn from it, round by round."""

    def __init__(
        self, run: Run, spec: PPOSpec, roles: Roles, tokenizer: Any, prompts: Sequence[TokenisedPrompt], score: Score
    ) -> None:
        self.run, self.spec, self.roles, self.accelerator = run, spec, roles, roles.accelerator
        self.tokenizer, self.prompts, self.score = tokenizer, prompts, score
        self.model = roles.model
        self.trained = {role: roles.parameters_of(role) for role in TRAINED}
        self.optimiser = optimiser_of(spec, list(self.weights().values()))
        self.state = PPOState(AdaptiveKL(spec.kl_coefficient, spec.kl_target))
        self.steps = run.measured_steps or spec.steps
        self.progress = TrainingProgress(run, spec, self, prompts)

    def learn(self) -> RunCost:
        """All rounds, from the last checkpoint or from the beginning. Raises Stopped when told to stop."""
        if self.progress.over():
            return self.progress.figures
        values = self.progress.restore()
        if values is not None:
            self.state = PPOState.from_values(values)
        self.progress.begin(self.state.step, self.steps)
        while self.state.step < self.steps:
            self.progress.step_begins()
            metrics = self.round()
            self.progress.step_ends()
            if self.progress.report(self.state.step, self.steps, metrics):
                raise Stopped
        return self.progress.figures

    def round(self) -> dict[str, float]:
        """Draw answers, then learn from them in epochs of minibatches. Returns the round's metrics."""
        state, spec = self.state, self.spec
        if state.rollouts is None:
            state.rollouts = self.roll_out()
        coefficient = state.controller.coefficient
        rewards_BT, advantages_BT, returns_BT = targets(state.rollouts, spec, coefficient)
        with recomputing(self.model, self.roles.recompute):
            for update in range(state.updates, spec.epochs * spec.minibatches):
                rows = minibatch(spec, state.step, update)
                state.tallies.append(self.update(state.rollouts, advantages_BT, returns_BT, rows))
                state.updates += 1
        metrics = {
            **describe(state.rollouts, rewards_BT, returns_BT),
            **{name: fmean(tally[name] for tally in state.tallies) for name in state.tallies[0]},
            "ratio_max": max(tally["ratio_max"] for tally in state.tallies),
            "kl_coefficient": coefficient,
        }
        adaptive = spec.kl_control == "adaptive"
        controller = state.controller.after(metrics["kl"]) if adaptive else state.controller
        self.state = PPOState(controller, state.step + 1)
        return metrics

    # ---- answering
    def roll_out(self) -> Rollouts:
        """Answer a round's prompts, each process its share, and note what the roles say of the answers."""
        spec, step = self.spec, self.state.step
        # The passes of the first epoch, in their order: then its ratios are exactly 1 until the first optimiser step.
        shares = [self.share(minibatch(spec, step, part)) for part in range(spec.minibatches)]
        mine = [index for share in shares for index in share]
        drawn: dict[int, SampledResponse] = {}
        for indices in pieces(mine, spec.drawn_together * spec.batch_size):
            drawn.update(zip(indices, self.draw_answers(indices), strict=False))
        assessed: dict[int, tuple[SampledResponse, dict[str, Tensor]]] = {}
        for share in shares if not self.run.stopped else ():
            for indices in self.passes(share, drawn):
                if not self.run.stopped:
                    assessed.update(zip(indices, self.assess([drawn[index] for index in indices]), strict=True))
        self.leave_if_stopped()
        everybodys = dict(gather_object(list(assessed.items())))
        return collate([everybodys[index] for index in range(spec.rollouts)], self.accelerator.device)

    def share(self, rows: Sequence[int]) -> list[int]:
        """This process's part of a minibatch."""
        size = len(rows) // self.accelerator.num_processes
        return list(rows[self.accelerator.process_index * size :][:size])

    def passes(
        self, rows: Sequence[int], answers: Mapping[int, SampledResponse] | Sequence[SampledResponse]
    ) -> list[list[int]]:
        """The answers at these places in their order, cut where a batch is full or has the tokens that memory holds."""
        found: list[list[int]] = []
        room = 0.0
        for row in rows:
            tokens = len(answers[row].prompt_ids) + len(answers[row].ids)
            if not found or len(found[-1]) == self.spec.batch_size or tokens > room:
                found.append([])
                room = self.roles.pass_tokens
            found[-1].append(row)
            room -= tokens
        return found

    def draw_answers(self, indices: Sequence[int]) -> list[SampledResponse]:
        """The policy's answers at these places of the round; none when told to stop."""
        spec, step = self.spec, self.state.step
        prompts = [self.prompts[prompt_of(len(self.prompts), spec, step, index)] for index in indices]
        seeds = [[seed_of(spec, step, index)] for index in indices]
        texts = [prompt["text"] for prompt in prompts]
        # A base under LoRA is in the type that is computed in already, and without autocast has its weights laid out.
        with nullcontext() if spec.method == "lora" else self.accelerator.autocast():
            model = self.roles.act_as("policy")
            drawn = draw(model, self.tokenizer, texts, seeds, spec.sampling, lambda: self.run.stopped)
        return [
            SampledResponse(tuple(prompt["prompt_ids"]), answer.ids, answer.text, answer.finish_reason == "stop")
            for prompt, (answer,) in zip(prompts, drawn, strict=False)
        ]

    @torch.no_grad()
    def assess(self, answers: Sequence[SampledResponse]) -> list[tuple[SampledResponse, dict[str, Tensor]]]:
        """What the roles say of a batch of answers, for `collate`. Raises UserError for a reward that is no number."""
        policy, reference = self.roles.states("policy", answers), self.roles.states("reference", answers)
        terms = losses.compare_policies(
            policy.before_NH,
            self.roles.head("policy"),
            reference.before_NH,
            self.roles.head("reference"),
            policy.labels_N,
            self.spec.sampling.temperature,
        )
        scores_B = self.score(answers).float().cpu()
        for score in scores_B[~scores_B.isfinite()].tolist():
            said = _(
                "The reward model '{revision}' scores an answer of round {step} with {score}, so nothing can be "
                "learnt from it, at any learning rate. Train another reward model, or use precision fp32."
            )
            raise UserError(said.format(revision=self.spec.reward_model, step=self.state.step + 1, score=score))
        by_token = {
            "logps": terms.logps_N,
            "ref_logps": terms.ref_logps_N,
            "kl": terms.kl_N,
            "entropy": terms.entropy_N,
            "values": self.roles.values(answers),
        }
        lengths = [len(answer.ids) for answer in answers]
        by_answer = {name: torch.split(values_N.cpu(), lengths) for name, values_N in by_token.items()}
        return [
            (answer, {"score": scores_B[place], **{name: values[place] for name, values in by_answer.items()}})
            for place, answer in enumerate(answers)
        ]

    # ---- learning
    def update(
        self, rollouts: Rollouts, advantages_BT: Tensor, returns_BT: Tensor, rows: Sequence[int]
    ) -> dict[str, float]:
        """One optimiser step on a minibatch. Raises Diverged where a gradient is no number. Returns what to tally."""
        tokens = int(rollouts.mask_BT[list(rows)].sum())
        passes: list[Tensor] = []
        for batch in self.passes(self.share(rows), rollouts.answers):
            if not self.run.stopped:
                loss, cut, log_ratio = self.policy_pass(rollouts, advantages_BT, batch, tokens)
                value_loss = self.value_pass(rollouts, returns_BT, batch, tokens)
                passes.append(torch.stack([loss, cut, value_loss, log_ratio]))
        self.leave_if_stopped()
        norms = self.move_weights()
        # Of one shape in every process, however many passes each has made.
        own_N4 = torch.stack(passes)
        everybodys = self.accelerator.gather(torch.cat([own_N4[:, :3].sum(0), own_N4[:, 3:].amax(0)])[None])
        policy_loss, cuts, value_loss_sum, _ = everybodys.sum(0).tolist()
        return {
            "loss/policy": policy_loss / tokens,
            "loss/value": value_loss_sum / tokens,
            "clip_share": cuts / tokens,
            "ratio_max": math.exp(everybodys[:, 3].max().item()),
            "grad_norm": norms["policy"],
            "grad_norm/value": norms["critic"],
            "learning_rate": self.optimiser.param_groups[0]["lr"],
        }

    def policy_pass(
        self, rollouts: Rollouts, advantages_BT: Tensor, rows: Sequence[int], tokens: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the policy's gradient on some answers.

        Returns the loss, summed over tokens, how many of them the clip cut, and the largest distance of log-ratios
        from 0.
        """
        head, temperature = self.roles.head("policy"), self.spec.sampling.temperature
        states = self.roles.states("policy", [rollouts.answers[row] for row in rows])
        logps_N = token_logps(states.before_NH, head, states.labels_N, temperature=temperature)
        log_ratio_N = logps_N - rollouts.tokens(rollouts.logps_BT, rows)
        loss_N, cut_N = losses.clipped_policy_loss(
            log_ratio_N.exp(), rollouts.tokens(advantages_BT, rows), self.spec.clip
        )
        total = loss_N.sum()
        if self.spec.entropy_weight:
            entropy_N = token_entropy(states.before_NH, head, temperature)
            total = total - self.spec.entropy_weight * entropy_N.sum()
        self.backward(total / tokens)
        return loss_N.detach().sum(), cut_N.sum(), log_ratio_N.detach().abs().max()

    def value_pass(self, rollouts: Rollouts, returns_BT: Tensor, rows: Sequence[int], tokens: int) -> Tensor:
        """Add the critic's gradient on some answers. Returns the sum of the loss."""
        values_N = self.roles.values([rollouts.answers[row] for row in rows])
        old_N, returns_N = rollouts.tokens(rollouts.values_BT, rows), rollouts.tokens(returns_BT, rows)
        total = losses.clipped_value_loss(values_N, old_N, returns_N, self.spec.value_clip).sum()
        self.backward(self.spec.value_weight * total / tokens)
        return total.detach()

    def backward(self, loss: Tensor) -> None:
        """Gradients of this process's part of a minibatch's loss; the average over processes is that of the whole."""
        (loss * self.accelerator.num_processes).backward()

    def move_weights(self) -> dict[AdapterRole, float]:
        """Average, check and clip the gradients, and move the weights. Returns the norms before clipping."""
        norms: dict[AdapterRole, float] = {}
        for role, own in self.trained.items():
            average_gradients(self.accelerator, own.values())
            norms[role] = float(nn.utils.clip_grad_norm_(own.values(), MAX_GRAD_NORM))
        if not all(math.isfinite(norm) for norm in norms.values()):
            raise Diverged(diverged_sentence("gradient", self.state.step, self.progress.checkpoints))
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return norms

    def learning_rate(self) -> float:
        """The step size of the coming optimiser step: warmed up, then linearly to zero."""
        spec, each = self.spec, self.spec.epochs * self.spec.minibatches
        done, total = self.state.step * each + self.state.updates, spec.steps * each
        return spec.learning_rate * share_of_peak(done, total, spec.warmup_steps)

    # ---- as `TrainingProgress` asks
    def weights(self) -> dict[str, nn.Parameter]:
        return {name: value for own in self.trained.values() for name, value in own.items()}

    def further(self) -> dict[str, Any]:
        return asdict(self.state)

    def policy(self) -> Any:
        return self.roles.act_as("policy")

    def save(self, directory: Path) -> FinishedTraining:
        """Write the policy's adapter. The job's result says no more of it."""
        self.model.save_pretrained(directory, selected_adapters=[ADAPTERS["policy"]], safe_serialization=True)
        return FinishedTraining()

    def leave_if_stopped(self) -> None:
        """Save a checkpoint and end, in all processes, where one of them was told to stop."""
        if self.progress.told_to_stop():
            self.progress.save(self.state.step, self.steps)
            raise Stopped


def pieces(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[place : place + size] for place in range(0, len(items), size)]


def optimiser_of(spec: PPOSpec, parameters: Sequence[nn.Parameter]) -> Any:
    """AdamW with the epsilon of Huang et al. 2024. Raises UserError for one that this machine has not."""
    refuse_missing_optimiser(spec)
    if spec.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=spec.learning_rate, eps=1e-5, weight_decay=0.0)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=spec.learning_rate, eps=1e-5, weight_decay=0.0)


def describe(rollouts: Rollouts, rewards_BT: Tensor, returns_BT: Tensor) -> dict[str, float]:
    mask_BT = rollouts.mask_BT
    tokens_B = mask_BT.sum(1).float()
    numbers = {
        "reward": rollouts.scores_B.mean(),
        "reward/shaped": rewards_BT.sum(1).mean(),
        "kl": rollouts.kl_BT.sum(1).mean(),
        "kl_per_token": rollouts.kl_BT.sum() / tokens_B.sum(),
        "entropy": rollouts.entropy_BT.sum() / tokens_B.sum(),
        "length": tokens_B.mean(),
        "value_explained": losses.explained_variance(rollouts.values_BT[mask_BT], returns_BT[mask_BT]),
    }
    ended = fmean(float(answer.ended) for answer in rollouts.answers)
    return {**{name: value.item() for name, value in numbers.items()}, "ended_share": ended}
