"""Supervised fine-tuning, described: its data, settings, form and words, without torch; `train` does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from annotation.database import Database
from annotation.examples.example_sets import EXAMPLES
from annotation.exports.frozen_rows import DemonstrationRow
from annotation.translation import N_, _, numeral
from annotation.ui.formatting import percent
from annotation.validation import PositiveInt
from rlhf.data.snapshots import MIN_DEMONSTRATIONS, demonstrations
from rlhf.jobs.descriptions import (
    DEMONSTRATIONS,
    Curve,
    Facts,
    FormLayout,
    HeldOutFigure,
    HeldOutFigures,
    LearningRate,
    Rows,
    Tokenised,
    TokenSequence,
    Unit,
    token_span,
)
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models.tokenise import TokenisedDemonstration, tokenise_demonstrations

# Our own measurements on the sentiment example (`benchmarks.method_parts.rates`: 180 headlines, one seed, right on 60
# others: full 60% at 2e-5, 68% at 1e-4, 55% at 3e-4; LoRA 62% at 2e-4 and 1e-3, 63% at 3e-3: we take 1e-3 between them;
# prompt tuning 53% at 1e-2, 43% at 3e-2, 45% at 1e-1: far larger steps than the others', as Lester et al. 2021 find,
# who take 0.3 with Adafactor). A model of several billion weights wants a third or less (Schulman et al. 2025, "LoRA
# Without Regret": less the wider a model is, and LoRA's is about ten times full fine-tuning's).
MEASURED = N_("our own measurements with SmolLM2; take a third for a model of billions of weights")
VIRTUAL = N_("our own measurements with SmolLM2; virtual tokens need far larger steps, Lester et al. 2021")
CURVES = (
    Curve(
        name="loss",
        label=N_("Loss"),
        axis=N_("nats a token"),
        series={N_("loss"): "loss"},
        caption=N_(
            "Surprise at the demonstrated answers, which training minimises. It should fall and then flatten; "
            "near zero means that they are learnt by heart."
        ),
    ),
    Curve(
        name="token-accuracy",
        label=N_("Token accuracy"),
        axis=N_("share of tokens"),
        series={N_("token accuracy"): "token_accuracy"},
        caption=N_(
            "How often the most likely next token is the demonstrated one. It should rise with the loss falling."
        ),
        limits=(0.0, 1.0),
    ),
)


def sources() -> list[tuple[str, str]]:
    """(words, value) of what it can learn from."""
    return [
        (_("Demonstrations: imported ones (each answer of a conversation) and edited answers"), "demonstrations"),
        *((_("Example: {about}").format(about=_(about)), f"example:{name}") for name, about in EXAMPLES.items()),
    ]


@dataclass(frozen=True)
class SFTSpec(TrainingSpec):
    """Supervised fine-tuning: learn to give the demonstrated answers; the loss is on the answers only."""

    kind: ClassVar = "sft"
    title: ClassVar = N_("supervised training")
    short: ClassVar = "SFT"
    paper: ClassVar = "Ouyang et al. 2022, section 3.5"
    trained_by: ClassVar = "supervised fine-tuning"
    last_step: ClassVar = {"loss": "loss", "token_accuracy": N_("token accuracy")}
    unit: ClassVar[Unit] = "demonstrations"
    items: ClassVar = DEMONSTRATIONS
    at_least: ClassVar = MIN_DEMONSTRATIONS
    methods: ClassVar = {
        "lora": LearningRate(1e-3, MEASURED),
        "qlora": LearningRate(1e-3, MEASURED),
        "prompt": LearningRate(1e-2, VIRTUAL),
        "full": LearningRate(1e-4, MEASURED),
    }
    base_may_change: ClassVar = True
    held_out: ClassVar = HeldOutFigures(
        N_("Held-out demonstrations: {n}"),
        N_("There were no held-out demonstrations to check it with."),
        (
            HeldOutFigure(
                metric="loss",
                label=N_("Loss, nats a token"),
                compared=N_("Held-out loss"),
                write=partial(numeral, spec=".3f"),
                reading=N_(
                    "Surprise at held-out answers; lower is better. If it rises while the training loss falls, the "
                    "run learnt its data by heart."
                ),
                better="lower",
            ),
            HeldOutFigure(
                metric="perplexity",
                label=N_("Perplexity"),
                compared=N_("Held-out perplexity"),
                write=partial(numeral, spec=".2f"),
                reading=N_("The same as a number of equally likely next tokens."),
                better="lower",
            ),
            HeldOutFigure(
                metric="token_accuracy",
                label=N_("Token accuracy"),
                compared=N_("Held-out token accuracy"),
                write=percent,
                reading=N_("How often the most likely next token is the demonstrated one."),
                better="higher",
            ),
        ),
    )
    pace_free: ClassVar = (*TrainingSpec.pace_free, "source")
    labels: ClassVar = {"source": N_("Data (source)")}
    offered: ClassVar = {"source": sources}
    curves: ClassVar = CURVES
    forms: ClassVar = (
        FormLayout(
            name="sft",
            label=N_("Supervised"),
            main=("source", "parent", "method", "epochs", "learning_rate", "batch_size", "seed"),
            start=N_("Train on demonstrations"),
            introduction=N_(
                "Supervised fine-tuning: the policy learns to give demonstrated answers word for word. It needs "
                "demonstrations: imported ones, answers that annotators have edited, or one of the example sets."
            ),
        ),
        FormLayout(
            name="full",
            label=N_("Full fine-tuning"),
            main=("source", "parent", "precision", "epochs", "learning_rate", "batch_size", "seed"),
            start=N_("Train every weight"),
            introduction=N_(
                "Supervised fine-tuning of every weight, where the other forms train a small adapter. It takes "
                "the most memory, and each run leaves a whole model on the disk instead of megabytes."
            ),
            fixed={"method": "full"},
        ),
    )

    parent: str = "base"
    source: str = "demonstrations"
    """What to learn from: 'demonstrations' (imported ones and edited answers), or 'example:NAME' for a shipped set."""
    epochs: PositiveInt = 3
    """Passes over the demonstrations; 3 as Alpaca (Taori et al. 2023), and TRL's default."""
    batch_size: PositiveInt = 8
    """Demonstrations in one forward pass. Our choice: half of what QLoRA takes (Dettmers et al. 2023, table 9), because
    a few hundred demonstrations should still make a hundred steps."""
    accumulation: PositiveInt = 1
    """Forward passes in one optimiser step."""
    packing: bool = True
    """Put a batch's demonstrations into rows without padding, each seeing only itself; where the model allows it."""
    check: bool = False
    """Check the candidate against the serving policy when training ends."""

    def facts(self) -> Facts:
        return [(_("Data"), self.source), (_("Packing"), _("yes") if self.packing else _("no"))]

    def rows(self, db: Database) -> Rows:
        return demonstrations(db, self.source)

    def data_key(self) -> tuple[Any, ...]:
        """Its source: whatever the parent, the demonstrations are the same."""
        return self.kind, self.source

    def tokenise(self, tokenizer: Any, rows: Sequence[DemonstrationRow]) -> Tokenised:
        return tokenise_demonstrations(tokenizer, rows, self.max_length)

    def answers_of(self, item: TokenisedDemonstration) -> list[Sequence[int]]:
        return [item["completion_ids"]]

    def sequences(self, tokenizer: Any, item: TokenisedDemonstration) -> list[TokenSequence]:
        """One sequence, whose answer is made likelier."""
        answer = token_span(tokenizer, "raised", item["completion_ids"])
        return [TokenSequence(_("Demonstration"), [*self.prompt_spans(tokenizer, item), answer])]

    def item_facts(self, rows: Sequence[DemonstrationRow]) -> Facts:
        """Where the demonstration comes from, and its label."""
        row = rows[0]
        label = [] if row.label is None else [(_("Label"), row.label)]
        return [(_("Comes from"), row.origin), *label]
