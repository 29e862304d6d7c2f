"""A reward model, described: its data, settings, form and words, without torch; `train` trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from annotation.exports.frozen_rows import PreferenceRow
from annotation.translation import N_, _, numeral
from annotation.ui.formatting import percent
from annotation.validation import NonNegativeFloat, NonNegativeInt, PositiveInt
from rlhf.algorithms.comparison_spec import ComparisonSpec, ranking_facts
from rlhf.jobs.descriptions import (
    Curve,
    Facts,
    FormLayout,
    LearningRate,
    Made,
    TokenSequence,
    token_span,
)
from rlhf.jobs.job_spec import Method, NoiseUse, TrainingSpec
from rlhf.models.reward_model_quality import quality_in
from rlhf.models.tokenise import TokenisedComparison
from rlhf.submission.form_fields import choice_label

# 64 comparisons twice: right on 65% of held-out ones at 1e-4, TRL's default for adapters, 75% at 3e-4, 92% at 1e-3.
MEASURED = N_("our own measurements: a smaller one learns little from a few hundred comparisons")
CURVES = (
    Curve(
        name="loss",
        label=N_("Loss"),
        axis=N_("nats a pair"),
        series={N_("loss"): "loss"},
        caption=N_(
            "What training minimises: 0.69 at the start, when it can't tell the answers apart; more with a "
            "margin. It should fall."
        ),
    ),
    Curve(
        name="accuracy",
        label=N_("Accuracy"),
        axis=N_("share of pairs"),
        series={N_("accuracy"): "accuracy"},
        caption=N_(
            "Share of the step's pairs in which the answer that was chosen gets the higher reward; one half "
            "is guessing. Its quality, shown when it is done, is on pairs that it was not trained on."
        ),
        limits=(0.0, 1.0),
    ),
    Curve(
        name="margin",
        label=N_("Reward margin"),
        axis=N_("reward"),
        series={N_("margin"): "margin"},
        caption=N_("How much more reward the chosen answer gets than the rejected one; it should rise from zero."),
    ),
    Curve(
        name="score",
        label=N_("Mean reward"),
        axis=N_("reward"),
        series={N_("mean reward"): "score"},
        caption=N_(
            "Of chosen and rejected answers together; centring keeps it about zero. Below zero, an answer is worse "
            "than none if some were judged all bad; otherwise only differences count."
        ),
    ),
)


@dataclass(frozen=True)
class RewardModelSpec(ComparisonSpec):
    """A reward model: a scalar head on adapted weights, trained on comparisons (Bradley and Terry 1952; Ouyang et al.
    2022, equation 1)."""

    kind: ClassVar = "reward_model"
    title: ClassVar = N_("reward model training")
    paper: ClassVar = "Bradley and Terry 1952; Ouyang et al. 2022, equation 1"
    trained_by: ClassVar = "comparing answers (Bradley and Terry 1952)"
    last_step: ClassVar = {"loss": "loss", "accuracy": "accuracy"}
    makes: ClassVar[Made] = "reward-model"
    methods: ClassVar = {"qlora": LearningRate(1e-3, MEASURED), "lora": LearningRate(1e-3, MEASURED)}
    loss_fields: ClassVar = ("ai_weight", "margin", "centre")
    curves: ClassVar = CURVES
    forms: ClassVar = (
        FormLayout(
            name="reward_model",
            label=N_("Reward model"),
            main=("parent", "scope", "method", "annotator_noise", "epochs", "learning_rate", "seed"),
            start=N_("Train a reward model"),
            introduction=N_(
                "A reward model learns from judged comparisons to give preferred answers the higher score. PPO trains "
                "a policy against it; its quality, shown when it is done, says whether it is good enough for that."
            ),
        ),
    )

    parent: str = "base"
    """Revision whose weights carry the reward model: 'base', fully trained or merged weights, or a reward model to
    continue."""
    method: Method = TrainingSpec.method
    """What is trained: 'qlora' low-rank adapters on the base in 4 bits (Dettmers et al. 2023), 'lora' the same on the
    base in 16 or 32 bits (Hu et al. 2022), 'auto' the one of the two that fits the parent's
    weights."""
    margin: bool = True
    """Ask for a larger difference where people prefer more strongly: by 1/3, 2/3 or 1 (Touvron et al. 2023, equation 2,
    the smaller margins of table 27)."""
    centre: NonNegativeFloat = 0.01
    """Weight of the squared sum of a pair's rewards, which keeps rewards about zero (Eisenstein et al. 2023); TRL
    recommends 0.01."""
    annotator_noise: NoiseUse = "ignore"
    """What a pair's estimated chance of being the wrong way round (flip) does to its loss: 'ignore' nothing; 'weight'
    multiplies it by 1 - 2 flip, over the data's mean of that; 'smooth' smooths the label by it."""

    batch_size: PositiveInt = 4
    """Comparisons in one forward pass; all pairs of one are in the same batch (Ouyang et al. 2022, section 3.5). Our
    choice, with the learning rates: a hundred comparisons should make some fifty steps."""
    accumulation: PositiveInt = 1
    """Forward passes in one optimiser step."""
    epochs: PositiveInt = 2
    """Passes over the comparisons; more tends to learn them by heart (Ouyang et al. 2022, appendix C.2, who take one).
    Two are what our learning rates were measured with."""
    samples: NonNegativeInt = 0
    """A reward model answers nothing."""

    def setback(self, result: Mapping[str, Any] | None) -> str:
        """That it is right less often than by guessing, which is how a new one begins, whatever chance did."""
        quality = quality_in(result)
        right = None if quality is None else quality.accuracy.estimate
        if right is None or right.high >= 0.5:
            return ""
        return _("It is worse than guessing: right on {right} of held-out comparisons.").format(
            right=percent(right.value)
        )

    def facts(self) -> Facts:
        return [
            (_("Data"), choice_label(type(self), "scope", self.scope)),
            (_("Margin by strength"), _("yes") if self.margin else _("no")),
            (_("Centring weight"), numeral(self.centre, "g")),
            (_("Annotator noise"), choice_label(type(self), "annotator_noise", self.annotator_noise)),
        ]

    def sequences(self, tokenizer: Any, item: TokenisedComparison) -> list[TokenSequence]:
        """A sequence an answer; the state of its last token gives the score."""
        prompt = self.prompt_spans(tokenizer, item)
        return [
            TokenSequence(
                _("Answer {place}").format(place=place),
                [*prompt, token_span(tokenizer, "context", ids[:-1]), token_span(tokenizer, "scored", ids[-1:])],
            )
            for place, ids in enumerate(self.answers_of(item), 1)
        ]

    def item_facts(self, rows: Sequence[PreferenceRow]) -> Facts:
        """Which answers are better than which, and how strongly."""
        return ranking_facts(rows)
