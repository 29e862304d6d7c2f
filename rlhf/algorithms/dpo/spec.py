"""Direct preference optimisation, described: its data, settings, form and words, without torch; `train` does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any, ClassVar, Literal, Self, get_args

from annotation.exports.frozen_rows import PreferenceRow
from annotation.translation import N_, _, numeral
from annotation.ui.formatting import short_number
from annotation.validation import NonNegativeFloat, NonNegativeInt, PositiveInt
from rlhf.algorithms.comparison_spec import ComparisonSpec, pair_facts, ranking_facts
from rlhf.jobs import descriptions
from rlhf.jobs.descriptions import Curve, Facts, FormLayout, LearningRate, Tokenised, TokenSequence
from rlhf.jobs.finished_training import FinishedTraining
from rlhf.jobs.job_spec import NoiseUse, Reference, Scope, TrainingSpec
from rlhf.models.chat_template import special_ids
from rlhf.models.tokenise import TokenisedComparison
from rlhf.submission.form_fields import choice_label

PairwiseLoss = Literal["ipo", "robust"]
PreferenceLoss = Literal["sigmoid", PairwiseLoss, "length-normalised"]
# Losses that average log-ratios over an answer's tokens.
PER_TOKEN: tuple[PreferenceLoss, ...] = ("ipo", "length-normalised")
# Beta by loss, with its source. IPO's log-ratios are per token too, but its loss aims at 1 / (2 beta) of them.
BETAS: Mapping[PreferenceLoss, tuple[float, str]] = {
    "sigmoid": (0.1, N_("Rafailov et al. 2023, appendix B")),
    "robust": (0.1, N_("as the sigmoid loss, which it estimates")),
    "ipo": (0.1, N_("TRL's default, for log-ratios per token as here")),
    "length-normalised": (5.0, N_("Lambert et al. 2024, Tülu 3, for log-ratios per token as here")),
}
# Our own (docs/benchmarks.md, the recipe); full: Tunstall et al. 2023 (Zephyr).
MEASURED = N_("our own measurements, with the training ended by stop_kl")
# As many as move a policy about as far as it may go, at the default rate (docs/benchmarks.md, the recipe).
STEPS_A_PASS = 6
# How many times as far as `stop_kl` a policy may move to words that were likely before.
FURTHER = 3
# From so many nats a token on answers are seldom of any use; the gate's rule allows half.
RUINED = 1.0
# Comparisons in a forward pass.
BATCH = 4
CURVES = (
    Curve(
        name="loss",
        label=N_("Loss"),
        axis=N_("loss"),
        series={N_("loss"): "loss"},
        caption=N_(
            "What training minimises: the preference loss plus, weighted, how unlikely the chosen answers are. "
            "It should fall."
        ),
    ),
    Curve(
        name="margin",
        label=N_("Reward margin"),
        axis=N_("implicit reward"),
        series={N_("margin"): "rewards/margins", N_("chosen answer"): "rewards/chosen"},
        caption=N_(
            "Margin: how much more the new policy favours the chosen answer than the reference does; it should "
            "rise. The chosen answer's own reward should not sink far below zero."
        ),
    ),
    Curve(
        name="accuracy",
        label=N_("Accuracy"),
        axis=N_("share of pairs"),
        series={N_("accuracy"): "rewards/accuracies"},
        caption=N_(
            "Share of the step's training pairs in which the chosen answer has the higher reward; it starts "
            "near one half and should rise. Near 1 for long means that the pairs are learnt by heart."
        ),
        limits=(0.0, 1.0),
    ),
    Curve(
        name="drift",
        label=N_("How far it has moved"),
        axis=N_("nats a token"),
        series={"KL": "kl"},
        caption=N_(
            "How far the policy has moved from where this run began, on answers that it learns from. With a dashed "
            "line, training ends there if it has moved to less likely words, and at three times that if not."
        ),
    ),
)


@dataclass(frozen=True)
class DPOSpec(ComparisonSpec):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    kind: ClassVar = "dpo"
    title: ClassVar = N_("preference training (DPO)")
    short: ClassVar = "DPO"
    paper: ClassVar = "Rafailov et al. 2023"
    trained_by: ClassVar = "direct preference optimisation"
    last_step: ClassVar = {
        "loss": "loss",
        "rewards/accuracies": N_("implicit accuracy"),
        "rewards/margins": N_("implicit margin"),
        "kl": N_("KL from where it began"),
    }
    automatic: ClassVar = "DPO"
    methods: ClassVar = {
        "qlora": LearningRate(4e-4, MEASURED),
        "lora": LearningRate(4e-4, MEASURED),
        "prompt": LearningRate(3e-3, N_("a third of supervised prompt tuning's")),
        "full": LearningRate(1e-6, N_("Tunstall et al. 2023 (Zephyr) take about as much")),
    }
    pace_free: ClassVar = (*ComparisonSpec.pace_free, "beta", "stop_kl")
    labels: ClassVar = {"sft_weight": N_("SFT weight"), "stop_kl": N_("Stop at a KL of")}
    words: ClassVar = {
        "loss": {
            "sigmoid": N_("Sigmoid"),
            "ipo": "IPO",
            "robust": N_("Robust"),
            "length-normalised": N_("Length-normalised"),
        }
    }
    only_with: ClassVar = {"flip_rate": ("loss", ("robust",)), "offset": ("loss", ("sigmoid", "length-normalised"))}
    left_open: ClassVar = (*TrainingSpec.left_open, "beta", "flip_rate", "accumulation")
    loss_fields: ClassVar = ("sft_weight", "offset", "flip_rate", "ai_weight", "stop_kl")
    curves: ClassVar = CURVES
    forms: ClassVar = (
        FormLayout(
            name="dpo",
            label=N_("Preferences (DPO)"),
            main=(
                *("parent", "reference", "scope", "method", "loss", "beta", "annotator_noise", "epochs"),
                *("learning_rate", "seed"),
            ),
            start=N_("Train on preferences"),
            introduction=N_(
                "Direct preference optimisation: from judged comparisons the policy learns to make preferred "
                "answers likelier and the others less likely. Its adapter can then be checked, compared and "
                "put to use in the loop."
            ),
        ),
    )

    scope: Scope = "new"
    reference: Reference = "base"
    """The policy that the KL penalty ties to: the weights under the adapter (the base model, or the fully trained ones
    that carry it), or the parent."""
    loss: PreferenceLoss = "sigmoid"
    """'sigmoid' (Rafailov et al. 2023, equation 7), 'ipo' (Azar et al. 2024, equation 17), 'robust' to one rate of
    wrong labels (Chowdhury et al. 2024, equation 11), 'length-normalised' log-ratios per token (Meng et al. 2024).
    Sigmoid and length-normalised learn a ranking as one (Plackett 1975), the others its pairs."""
    beta: NonNegativeFloat = 0.0
    """Strength of the tie to the reference (equation 7 of the DPO paper). Empty for the default of the loss: 0.1, and 5
    where it is length-normalised, because log-ratios per token are smaller by about an answer's length."""
    sft_weight: NonNegativeFloat = 0.2
    """Weight of the likelihood of the chosen answer beside the DPO loss; counters degeneration (Pang et al. 2024, who
    take 1). Our choice: with 0.2 answers stay the model's language and follow the preferences."""
    offset: NonNegativeFloat = 0.0
    """How much more implicit reward is asked of an answer that people prefer much; a third of it slightly, two thirds
    clearly (Amini et al. 2024, ODPO, with people's own word for the strength). 0, because 1 gained half a point of win
    rate at most with pairs."""
    epochs: PositiveInt = 6
    """Passes over the comparisons at most. Our choice: with six most trainings go on until the policy has moved far
    enough."""
    stop_kl: NonNegativeFloat = 0.1
    """End the training where each comparison has been learnt from once and the policy has moved this far from where it
    began, in nats a token, at the first tokens of answers that it learns from; three times as far where the words that
    it moved to were likely ones before; 0 for never. Our choice, by measurements: further
    on, answers that have become shorter go past the gate's limit of language."""
    flip_rate: NonNegativeFloat = 0.0
    """Share of wrong labels that the robust loss expects; empty for the mean that annotators' reliability suggests."""
    annotator_noise: NoiseUse = "ignore"
    """What a pair's estimated chance of being the wrong way round (flip) does to its loss: 'ignore' nothing; 'weight'
    multiplies it by 1 - 2 flip, over the data's mean of that; 'smooth' is conservative DPO (Mitchell 2023)."""
    batch_size: PositiveInt = BATCH
    """Comparisons in one forward pass, each with all its pairs. Our choice: in one pass four take a tenth less time
    than in two."""
    accumulation: NonNegativeInt = 0
    """Forward passes in one optimiser step. Empty for as many as let one pass over the data take six steps at most:
    how far a policy moves depends on the number of steps, and it may move so far only; then every comparison is to
    have had its say. With fewer a run may end before that, after six steps."""
    check: bool = True
    """Check the candidate against the serving policy when training ends."""

    def facts(self) -> Facts:
        more = [(_("Flip rate"), self.flip_rate), (_("Offset"), self.offset)]
        beta = numeral(self.beta, "g") if self.beta else _("the loss's default")
        return [
            (_("Reference"), choice_label(type(self), "reference", self.reference)),
            (_("Data"), choice_label(type(self), "scope", self.scope)),
            (_("Loss"), choice_label(type(self), "loss", self.loss)),
            *((name, numeral(value, "g")) for name, value in more if value),
            (_("β · SFT weight"), f"{beta} · {numeral(self.sft_weight, 'g')}"),
            (_("Annotator noise"), choice_label(type(self), "annotator_noise", self.annotator_noise)),
        ]

    def filled(self) -> Self:
        return replace(super().filled(), beta=self.beta or BETAS[self.loss][0])

    def open_values(self) -> Mapping[str, str]:
        """What is left empty stands for, beside the learning rate."""
        from_data = dict.fromkeys(("flip_rate", "accumulation"), _("from the data"))
        return {**super().open_values(), "beta": numeral(BETAS[self.loss][0], "g"), **from_data}

    def default_notes(self) -> list[str]:
        """What an empty beta stands for."""
        if self.beta:
            return []
        beta, source = BETAS[self.loss]
        said = _("Left empty, beta is {beta:g}, the default of the {loss} loss ({source}).")
        return [said.format(beta=beta, loss=self.loss, source=_(source))]

    def contradictions(self) -> Iterator[str]:
        """Why its loss can't be had with what else is set."""
        if self.annotator_noise == "smooth" and self.loss != "sigmoid":
            yield _(
                "annotator_noise 'smooth' is a form of the sigmoid loss; with '{loss}' use weight or ignore."
            ).format(loss=self.loss)
        if self.offset and self.loss in get_args(PairwiseLoss):
            yield _("offset belongs to the sigmoid and the length-normalised loss; the loss is '{loss}'.").format(
                loss=self.loss
            )
        if self.flip_rate >= 0.5:
            yield _("flip_rate must be below 0.5, not {flip_rate}: at half the labels say nothing.").format(
                flip_rate=self.flip_rate
            )
        if self.flip_rate and self.loss != "robust":
            yield _("flip_rate belongs to the robust loss; the loss is '{loss}'.").format(loss=self.loss)

    def over(self, items: int) -> Self:
        """The spec with as many forward passes in a step as let one pass over the data take six steps at most.

        A step takes so many times four comparisons, in how small passes ever, so that a halved batch changes no step.
        """
        step = BATCH * max(1, ceil(items / (STEPS_A_PASS * BATCH)))
        return replace(self, accumulation=self.accumulation or ceil(step / (self.batch_size * self.processes)))

    def ends_early(self) -> bool:
        """Where the policy has moved far enough."""
        return self.stop_kl > 0

    def ended_early(self, final: Mapping[str, Any]) -> str:
        """How far the policy had moved, where that was enough."""
        moved, surprise = final.get("kl"), final.get("surprise")
        known = inf if surprise is None else surprise  # earlier runs did not measure it, and ended at `stop_kl`
        if not self.stop_kl or moved is None or not far_enough(moved, known, self.stop_kl):
            return ""
        said = (
            _("The policy had moved {moved} nats a token, and {enough} was enough.")
            if surprise is None or surprise <= 1
            else _("The policy had moved {moved} nats a token to less likely words, and {enough} was enough.")
        )
        return said.format(moved=short_number(moved), enough=short_number(enough_at(known, self.stop_kl)))

    def setback(self, result: Mapping[str, Any] | None) -> str:
        """That the policy moved so far that its answers are seldom of any use."""
        moved = FinishedTraining.of(result).final.get("kl")
        if moved is None or moved < RUINED:
            return super().setback(result)
        return _(
            "The policy moved {moved} nats a token from where it began, and its answers are probably ruined: read the "
            "samples, and train with a lower learning rate."
        ).format(moved=short_number(moved))

    def references(self) -> Mapping[str, tuple[float, str]]:
        """Where the plain loss starts, and where the policy has moved far enough."""
        plain = self.loss == "sigmoid" and not self.sft_weight and not self.offset
        found = {"loss": (0.693, _("0.69: no preference"))} if plain else {}
        if self.stop_kl:
            label = _("{stop_kl}: the end, if words get less likely").format(stop_kl=short_number(self.stop_kl))
            found["drift"] = (self.stop_kl, label)
        return found

    def implicit_reference(self) -> Reference:
        """What its loss compares the policy with."""
        return self.reference

    def rewards_per_token(self) -> bool:
        """Whether its loss orders answers by log-ratios per token."""
        return self.loss in PER_TOKEN

    def tokenise(self, tokenizer: Any, rows: Sequence[PreferenceRow]) -> Tokenised:
        """Comparisons with all their pairs together, without ends that only longer answers beat."""
        items, left_out = super().tokenise(tokenizer, rows)
        ends = special_ids(tokenizer)
        return [{**item, "answers": with_ends_to_learn(item, ends)} for item in items], left_out

    def sequences(self, tokenizer: Any, item: TokenisedComparison) -> list[TokenSequence]:
        """A sequence an answer: what wins at least as many pairs as it loses is made likelier, others less likely."""
        prompt, pairs = self.prompt_spans(tokenizer, item), item["pairs"]
        names = [_("Chosen"), _("Rejected")] if len(pairs) == 1 else None
        made: list[TokenSequence] = []
        for place, ids in enumerate(item["answers"]):
            if not ids:
                continue
            won = sum((better == place) - (worse == place) for better, worse, *_ in pairs)
            title = names[won < 0] if names else _("Answer {place}").format(place=len(made) + 1)
            made.append(
                TokenSequence(
                    title, [*prompt, descriptions.token_span(tokenizer, "raised" if won >= 0 else "lowered", ids)]
                )
            )
        return made

    def item_facts(self, rows: Sequence[PreferenceRow]) -> Facts:
        """How sure the preference is, or which answers of a ranking are better than which."""
        return pair_facts(rows[0]) if len(rows) == 1 else ranking_facts(rows)


def with_ends_to_learn(item: TokenisedComparison, ends: Set[int]) -> list[Sequence[int]]:
    """The answers of a comparison as token ids, without the ends of those to which a longer one was preferred.

    What makes an answer better is often found in longer ones, because there is more in them. Each end that is made
    less likely then says that answers should not end, which is learnt before anything else is, and more than anybody
    asked for. Who prefers long answers has them made likelier all the same; who prefers short ones loses no end. An
    answer that is nothing but its end keeps it: there is no other that it could be learnt by.
    """
    lengths = [len(ids) for ids in item["answers"]]
    beaten = {worse for better, worse, *_ in item["pairs"] if lengths[better] > lengths[worse]}
    return [
        ids[:-1] if place in beaten and len(ids) > 1 and ids[-1] in ends else ids
        for place, ids in enumerate(item["answers"])
    ]


def enough_at(surprise: float, stop_kl: float) -> float:
    """The KL at which a policy has moved enough; `surprise` as in `rlhf.algorithms.dpo.drift.Drift`."""
    return stop_kl if surprise > 1 else FURTHER * stop_kl


def far_enough(kl: float, surprise: float, stop_kl: float) -> bool:
    return kl >= enough_at(surprise, stop_kl)
