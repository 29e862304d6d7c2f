"""Proximal policy optimisation, described: its data, settings, form and words, without torch; `train` does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from annotation.database import Database
from annotation.exports.frozen_rows import PromptRow
from annotation.records import Sampling, UserError
from annotation.translation import N_, _, ngettext, numeral
from annotation.ui.formatting import NOT_MEASURED
from annotation.validation import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from rlhf.data.snapshots import MIN_PROMPTS, CountedRows, prompt_rows
from rlhf.jobs.descriptions import (
    PROMPTS,
    Beside,
    Confirmation,
    Curve,
    Facts,
    FormLayout,
    LearningRate,
    Rows,
    Tokenised,
    TokenSequence,
    Unit,
)
from rlhf.jobs.job_spec import Drawing, Method, Reference, TrainingSpec
from rlhf.models import registry
from rlhf.models.registry import Policy
from rlhf.models.reward_model_quality import REWARD_THRESHOLD
from rlhf.models.tokenise import TokenisedPrompt, tokenise_prompts
from rlhf.submission.form_fields import choice_label
from rlhf.submission.preconditions import accuracy_of

KLControl = Literal["adaptive", "fixed"]
# Ten times and more the 3e-6 that Huang et al. 2024 take for full fine-tuning.
HUANG = N_("over ten times the 3e-6 of Huang et al. 2024 for every weight")
# What a confirmation stands for where the reward model's accuracy was not measured, or is 0.
SOME_ACCURACY = 0.001
CURVES = (
    Curve(
        name="reward",
        label=N_("Reward"),
        axis=N_("reward of an answer"),
        series={N_("reward"): "reward"},
        caption=N_(
            "What the reward model gives the round's answers, before the KL penalty. It should rise; read the "
            "samples, because a policy can learn to please the model without being better."
        ),
    ),
    Curve(
        name="kl",
        label=N_("KL to the reference"),
        axis=N_("nats an answer"),
        series={"KL": "kl"},
        caption=N_(
            "How far the policy has moved from its reference. With the adaptive penalty it should settle at "
            "the target; far above it the language goes."
        ),
    ),
    Curve(
        name="entropy",
        label=N_("Entropy"),
        axis=N_("nats a token"),
        series={N_("entropy"): "entropy"},
        caption=N_(
            "How undecided the policy is about the next token. A slow fall is learning; near zero it says one thing "
            "only."
        ),
    ),
    Curve(
        name="value-loss",
        label=N_("Value loss"),
        axis=N_("squared reward"),
        series={N_("value loss"): "loss/value"},
        caption=N_("How far the critic's forecasts are from what came. It should fall early on and stay low."),
    ),
    Curve(
        name="length",
        label=N_("Length"),
        axis=N_("tokens an answer"),
        series={N_("length"): "length"},
        caption=N_(
            "Mean length of the round's answers. A climb together with the reward often means that length is "
            "what the reward model likes."
        ),
    ),
    Curve(
        name="policy-loss",
        label=N_("Policy loss"),
        axis=N_("advantage"),
        series={N_("policy loss"): "loss/policy"},
        caption=N_(
            "The clipped objective, with its sign turned. It hovers about zero in a healthy run and tells "
            "little by itself; spikes say that an update was too large."
        ),
    ),
    Curve(
        name="shares",
        label=N_("Ended, and clipped"),
        axis=N_("share"),
        series={N_("ended by themselves"): "ended_share", N_("clipped"): "clip_share"},
        caption=N_(
            "Share of answers that ended before the limit, which should be high; and share of tokens at which "
            "the clip held the policy back: above about 0.3 the steps are too large."
        ),
        limits=(0.0, 1.0),
    ),
    Curve(
        name="explained",
        label=N_("Explained by the critic"),
        axis=N_("share of variance"),
        series={N_("explained"): "value_explained"},
        caption=N_(
            "How much of the returns' variance the critic foresees: 1 is all, 0 no more than their mean, below "
            "zero worse than that (drawn down to -1)."
        ),
        limits=(-1.0, 1.0),
    ),
    Curve(
        name="coefficient",
        label=N_("KL penalty"),
        axis=N_("reward for a nat"),
        series={N_("penalty"): "kl_coefficient"},
        caption=N_("What a nat of KL costs now. The adaptive penalty rises while the KL is above its target."),
    ),
)


@dataclass(frozen=True)
class PPOSpec(TrainingSpec):
    """Proximal policy optimisation against a reward model (Schulman et al. 2017; Ouyang et al. 2022, equation 2).

    The code of Ziegler et al. 2019 is github.com/openai/lm-human-preferences.
    """

    kind: ClassVar = "ppo"
    title: ClassVar = "PPO"
    short: ClassVar = "PPO"
    paper: ClassVar = "Schulman et al. 2017; Ouyang et al. 2022, equation 2"
    trained_by: ClassVar = "proximal policy optimisation"
    last_step: ClassVar = {
        "reward": "reward",
        "kl": N_("KL to the reference, nats an answer"),
        "length": N_("tokens of an answer"),
    }
    step_word: ClassVar = N_("round of answering and learning")
    automatic: ClassVar = N_("a reward model, then PPO")
    unit: ClassVar[Unit] = "prompts"
    items: ClassVar = PROMPTS
    at_least: ClassVar = MIN_PROMPTS
    methods: ClassVar = {"qlora": LearningRate(5e-5, HUANG), "lora": LearningRate(5e-5, HUANG)}
    beside: ClassVar[tuple[Beside, ...]] = ("frozen", "trained")  # the reward model, the critic
    # A pass with gradients takes several times the memory.
    drawn_together: ClassVar = 4
    raises: ClassVar = "reward"
    pace_free: ClassVar = (
        *(name for name in TrainingSpec.pace_free if name != "epochs"),  # they are passes over a round's answers
        *("steps", "accepted_accuracy", "reward_model"),
    )
    lists: ClassVar = {"reward_model": "reward-model"}
    unasked: ClassVar = ("accepted_accuracy",)
    labels: ClassVar = {
        "kl_control": N_("KL control"),
        "kl_coefficient": N_("KL coefficient"),
        "kl_target": N_("KL target"),
        "lam": N_("Lambda (lam)"),
    }
    words: ClassVar = {"kl_control": {"adaptive": N_("Adaptive"), "fixed": N_("Fixed")}}
    only_with: ClassVar = {"kl_target": ("kl_control", ("adaptive",))}
    loss_fields: ClassVar = (
        *("kl_coefficient", "kl_target", "gamma", "lam", "clip", "value_clip", "value_weight", "whiten_rewards"),
        *("no_end_penalty", "entropy_weight"),
    )
    # min_p has to stay 0.
    sampling_fields: ClassVar = {
        "temperature": N_("1 draws from the policy's own distribution; lower than that is safer and explores less."),
        "max_new_tokens": N_("Tokens after which an answer is cut off."),
    }
    curves: ClassVar = CURVES
    forms: ClassVar = (
        FormLayout(
            name="ppo",
            label="PPO",
            main=(
                *("reward_model", "parent", "reference", "method", "kl_control", "steps", "rollouts"),
                *("learning_rate", "seed"),
            ),
            start=N_("Train with PPO"),
            introduction=N_(
                "Proximal policy optimisation: the policy answers prompts, a reward model scores the answers, and the "
                "policy learns to score higher without going far from its reference. It takes the longest."
            ),
        ),
    )

    reward_model: str = ""
    """Revision of the reward model that scores the answers."""
    method: Method = TrainingSpec.method
    """What is trained: 'qlora' low-rank adapters on the base in 4 bits (Dettmers et al. 2023), 'lora' the same on the
    base in 16 or 32 bits (Hu et al. 2022), 'auto' the one of the two that fits the parent's
    weights."""
    reference: Reference = "base"
    """The policy that the KL penalty ties to: the weights under the adapter, or the parent adapter."""
    steps: PositiveInt = 60
    """Rounds of answering and learning. Our choice, with rollouts: a thousand answers, which small machines can draw;
    the code of Ziegler et al. 2019 draws a million."""
    rollouts: PositiveInt = 16
    """Answers drawn in each round, to as many prompts, in all processes together."""
    batch_size: PositiveInt = 4
    """Answers in one forward pass; an optimiser step takes a minibatch, in as many passes as this makes of it."""
    minibatches: PositiveInt = 2
    """Optimiser steps in one pass over a round's answers. With two epochs four a round, as in the code of Ziegler et
    al. 2019, which makes four epochs of one minibatch."""
    epochs: PositiveInt = 2
    """Passes over a round's answers."""
    kl_control: KLControl = "adaptive"
    """'adaptive' moves the KL penalty so that the KL of an answer comes to kl_target (Ziegler et al. 2019, section
    2.2); 'fixed' keeps it at kl_coefficient."""
    kl_coefficient: NonNegativeFloat = 0.1
    """Penalty for each nat of KL to the reference, at first. Our choice, between the 0.15 with a target and the 0.03
    without in the code of Ziegler et al. 2019; rewards vary by 1 there too."""
    kl_target: PositiveFloat = 6.0
    """KL to the reference of a whole answer that the adaptive penalty aims at, in nats; 6 as in the code of
    Ziegler et al. 2019."""
    gamma: NonNegativeFloat = 1.0
    """Discount of later rewards; none, as in the code of Ziegler et al. 2019."""
    lam: NonNegativeFloat = 0.95
    """Lambda of generalised advantage estimation (Schulman et al. 2016); 0.95 as in the code of Ziegler et al. 2019."""
    clip: PositiveFloat = 0.2
    """How far the policy's ratio may move in a round before its gradient is cut (Schulman et al. 2017, equation 7; 0.2
    was best in its table 1)."""
    value_clip: PositiveFloat = 0.2
    """How far the critic's value may move in a round before its gradient is cut; 0.2 as in the code of Ziegler et al.
    2019."""
    value_weight: NonNegativeFloat = 0.1
    """Weight of the critic's loss beside the policy's; 0.1 as in the code of Ziegler et al. 2019."""
    whiten_rewards: bool = False
    """Scale each round's rewards to unit variance before advantages are computed. Our choice: scores are scaled
    already, and a round's few answers say little of their variance."""
    no_end_penalty: NonNegativeFloat = 1.0
    """Taken from the reward of an answer that was cut off at the limit, in standard deviations of the reward model's
    scores on its training data. Our choice; in the code of Ziegler et al. 2019 it gets -1 instead of its reward."""
    entropy_weight: NonNegativeFloat = 0.0
    """Weight of the policy's entropy beside its loss; none, as in the code of Ziegler et al. 2019."""
    warmup_steps: NonNegativeInt = 0
    """Optimiser steps until the peak; none, as in the code of Ziegler et al. 2019."""
    checkpoint_steps: NonNegativeInt = 0
    """Rounds between checkpoints, of which the last two are kept; Resume goes on from the last one. Empty (or 0)
    for as often as takes 3% of the time."""
    accepted_accuracy: NonNegativeFloat = 0.0
    """The reward model's held-out accuracy that the person accepted although it is below the threshold; 0: none."""
    sampling: Drawing = field(default_factory=lambda: Sampling(min_p=0.0))
    """How answers are drawn. PPO needs the policy's own distribution: temperature as is, no min_p."""
    check: bool = True
    """Check the candidate against the serving policy when training ends."""

    def facts(self) -> Facts:
        penalty = (
            _("{control}, from {coefficient:g}, target {target:g} nats")
            if self.kl_control == "adaptive"
            else _("{control}, from {coefficient:g}")
        )
        return [
            (_("Reward model"), self.reward_model or _(NOT_MEASURED)),
            (_("Reference"), choice_label(type(self), "reference", self.reference)),
            (
                _("KL penalty"),
                penalty.format(control=self.kl_control, coefficient=self.kl_coefficient, target=self.kl_target),
            ),
            (_("Clip: policy · value"), f"{numeral(self.clip, 'g')} · {numeral(self.value_clip, 'g')}"),
            ("γ · λ", f"{numeral(self.gamma, 'g')} · {numeral(self.lam, 'g')}"),
        ]

    @classmethod
    def counted_steps(cls, count: int) -> str:
        return ngettext("{count:,} round", "{count:,} rounds", count).format(count=count)

    def pace_fact(self) -> tuple[str, str]:
        """Its rounds, and how many answers each takes."""
        return _("Rounds · answers a round"), f"{self.steps} · {self.rollouts}"

    def contradictions(self) -> Iterator[str]:
        """Why its rounds, or what it draws and learns by, can't be."""
        if self.rollouts % (self.minibatches * self.processes):
            uneven = _("rollouts ({rollouts}) must divide evenly into {minibatches} minibatches.")
            if self.processes > 1:
                uneven = _(
                    "rollouts ({rollouts}) must divide evenly into {minibatches} minibatches for each of {processes} "
                    "processes."
                )
            yield uneven.format(rollouts=self.rollouts, minibatches=self.minibatches, processes=self.processes)
        if self.sampling.min_p:
            yield _(
                "PPO learns from the policy's own probabilities, and min_p draws from others: set sampling.min_p to 0."
            )
        if self.kl_control == "adaptive" and not self.kl_coefficient:
            yield _(
                "kl_control 'adaptive' multiplies the coefficient, and kl_coefficient is 0, which stays 0: "
                "give it a start (0.05), or set kl_control to fixed for no penalty at all."
            )
        if not self.gamma <= 1 or not self.lam <= 1:
            yield _("gamma and lam must not be above 1.")

    def refusal(self, db: Database) -> str:
        """Why it can't be run against the reward model that it names, or not without a person's word."""
        if not self.reward_model:
            return _("PPO needs a reward model: train one first, then choose it.")
        reward, parent = registry.by_revision(db, self.reward_model), registry.by_revision(db, self.parent)
        if reward.kind != "reward-model":
            return _("{revision} is no reward model. Train one, then choose it.").format(revision=reward.revision)
        if reward.deleted:
            return _("The files of the reward model {revision} were deleted on {deleted}.").format(
                revision=reward.revision, deleted=reward.deleted[:10]
            )
        if reward.lies_on != parent.lies_on:
            return _(
                "The reward model {revision} and the parent {parent_revision} lie on different weights, and PPO "
                "holds one copy for both: train the reward model from the weights that the parent lies on."
            ).format(revision=reward.revision, parent_revision=parent.revision)
        # A form asks for the confirmation with the method as it was chosen, which may be 'auto'.
        if (reward.precision == "nf4") != (self.on_weights(parent.precision).method == "qlora"):
            other = _(
                "The reward model {revision} was trained on {precision} weights: use the method {method} here, so that "
                "it judges with the weights it knows."
            )
            method = "qlora" if reward.precision == "nf4" else "lora"
            return other.format(revision=reward.revision, precision=reward.precision, method=method)
        return self.doubts(reward, accuracy_of(db, reward))

    def doubts(self, reward: Policy, accuracy: float | None) -> str:
        """Why its reward model is not good enough, as far as that is known, without a person's word."""
        if accuracy is None:
            return "" if self.accepted_accuracy else unmeasured(reward)
        accepted = self.accepted_accuracy > 0 and abs(self.accepted_accuracy - accuracy) < 0.005
        if accuracy >= REWARD_THRESHOLD or accepted:
            return ""
        return _(
            "The reward model {revision} is right on {accuracy:.1%} of held-out comparisons, and under "
            "{reward_threshold:.0%} PPO mostly learns its mistakes. Collect more judgements, or confirm "
            "that you accept it (tick “Run it although …”, or give accepted_accuracy {accuracy_2} in the spec)."
        ).format(
            revision=reward.revision,
            accuracy=accuracy,
            reward_threshold=REWARD_THRESHOLD,
            accuracy_2=max(round(accuracy, 3), 0.001),
        )

    def confirmation(self, db: Database) -> Confirmation | None:
        """A person's word for its reward model, where one is needed and would help; it names the accuracy."""
        try:
            reward = registry.by_revision(db, self.reward_model)
            accuracy = accuracy_of(db, reward)
            word = max(round(accuracy or 0.0, 4), SOME_ACCURACY)
            without, with_word = (replace(self, accepted_accuracy=number).refusal(db) for number in (0.0, word))
        except UserError:
            return None
        if with_word or not without:
            return None
        return Confirmation(accept_label(accuracy), {"accepted_accuracy": word})

    def trained_against(self) -> tuple[str, ...]:
        return (self.reward_model,) if self.reward_model else ()

    def references(self) -> Mapping[str, tuple[float, str]]:
        """The KL that the adaptive penalty aims at."""
        return (
            {"kl": (self.kl_target, _("target {kl_target:g}").format(kl_target=self.kl_target))}
            if self.kl_control == "adaptive"
            else {}
        )

    def rows(self, db: Database) -> Rows:
        """Every prompt to train on; what is held out is asked in the check."""
        return CountedRows(prompt_rows(db))

    def data_key(self) -> tuple[Any, ...]:
        """Nothing decides which prompts there are."""
        return (self.kind,)

    def tokenise(self, tokenizer: Any, rows: Sequence[PromptRow]) -> Tokenised:
        """Prompts that leave room for an answer."""
        return tokenise_prompts(tokenizer, rows, self.max_length - self.sampling.max_new_tokens)

    def sequences(self, tokenizer: Any, item: TokenisedPrompt) -> list[TokenSequence]:
        return [TokenSequence(_("Prompt as it is fed; the policy answers it"), self.prompt_spans(tokenizer, item))]

    def drawn_tokens(self) -> int:
        return self.sampling.max_new_tokens

    def steps_over(self, items: int) -> int:
        """Its rounds, however many prompts there are."""
        return self.steps


def unmeasured(reward: Policy) -> str:
    """That it is not known here how often a reward model is right, and what to do about that."""
    if reward.source:
        return _(
            "The reward model {revision} comes from {source}, and how often it is right was not measured "
            "here: PPO mostly learns the mistakes of one that is seldom right. Read on its card how often it was "
            "right on held-out comparisons; if that is enough, confirm it (tick “Run it although …”, or give that "
            "share as accepted_accuracy in the spec, say 0.7)."
        ).format(revision=reward.revision, source=reward.source)
    return _(
        "How often the reward model {revision} is right is not known here, and PPO mostly learns the mistakes of one "
        "that is seldom right. Judge more held-out comparisons and train another one, or confirm that you accept it "
        "(tick “Run it although …”, or give any accepted_accuracy in the spec, say 0.01)."
    ).format(revision=reward.revision)


def accept_label(accuracy: float | None) -> str:
    """What a person confirms before PPO with a reward model that is not known to be good; it names the number."""
    if accuracy is None:
        return _("Run it although nobody knows how often the reward model is right")
    return _("Run it although the reward model is right on only {accuracy:.1f}% of held-out comparisons").format(
        accuracy=100 * accuracy
    )
