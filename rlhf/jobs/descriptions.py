"""The records in which a kind of job describes itself: its form, rates, curves and rows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

from annotation.exports.frozen_rows import FrozenRow
from annotation.translation import N_, _, ngettext

Facts = list[tuple[str, str]]
# Rows as token ids, `prompt_ids` among them; which else, the algorithm's own types say (`rlhf.models.tokenise`).
Item = Mapping[str, Any]
# The formats of frozen rows.
Unit = Literal["pairs", "demonstrations", "prompts"]
# An adapter of a reward model's shape beside the one that answers; a trained one has a head and an optimiser's state.
Beside = Literal["frozen", "trained"]
# What a training makes, as a model's row says it.
Made = Literal["policy", "reward-model"]
Part = Literal["virtual", "context", "raised", "lowered", "scored"]


@dataclass(frozen=True)
class LearningRate:
    """The peak learning rate that we stand behind for a method, and where it comes from, in a few words."""

    value: float
    source: str


@dataclass(frozen=True)
class FormLayout:
    """A form that makes jobs of a kind: its words, what is on top of it, and what is fixed."""

    name: str
    label: str
    """The title of its tab."""
    main: Sequence[str]
    """The fields on top; all others are grouped below."""
    start: str
    """What its button says."""
    introduction: str
    """What it is for, in the words of someone who sees it for the first time."""
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Confirmation:
    """What a person has to confirm before a job is made, and the settings that stand for the confirmation."""

    label: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One plot of a run: which metrics, on which axis, and the sentence that tells what to look for."""

    name: str
    label: str
    axis: str
    """What is measured, with its unit."""
    series: Mapping[str, str]
    """The metric of each line, by the line's name."""
    caption: str
    limits: tuple[float | None, float | None] = (None, None)
    """The ends of the upright axis where they are known; what lies beyond is drawn at the edge."""
    reference: tuple[float, str] | None = None
    """A value to compare with, and its name."""

    def translated(self) -> Curve:
        """The same plot as a person reads it, in their language."""
        series = {_(name): metric for name, metric in self.series.items()}
        reference = None if self.reference is None else (self.reference[0], _(self.reference[1]))
        label, axis, caption = _(self.label), _(self.axis), _(self.caption)
        return replace(self, label=label, axis=axis, series=series, caption=caption, reference=reference)


@dataclass(frozen=True)
class HeldOutFigure:
    """A figure on held-out rows: the metric, what it is called, how it is written, and how it is read."""

    metric: str
    label: str
    compared: str
    """Its name beside those of other runs."""
    write: Callable[[float], str]
    reading: str
    better: Literal["lower", "higher"]


# By what share of itself a held-out figure has to be worse for that to be said.
NOTICED: Final = 0.01


@dataclass(frozen=True)
class HeldOutFigures:
    """What a training measures on held-out rows when it is done, and before it where that costs little."""

    title: str
    """With {n}, their number."""
    missing: str
    """What is said where there are none."""
    figures: Sequence[HeldOutFigure]
    """What training is for comes first."""

    def setback(self, before: Mapping[str, float], after: Mapping[str, float | None]) -> str:
        """That what training is for got worse, by more than rounding; empty where it did not.

        Of the figures that were measured both times the first one counts: others may fall while it gets better.
        """
        for one in self.figures:
            was, came = before.get(one.metric), after.get(one.metric)
            if was is None or came is None:
                continue
            worse = came - was if one.better == "lower" else was - came
            if worse <= NOTICED * abs(was):
                return ""
            return _("{figure} got worse: from {before} before training to {after}.").format(
                figure=_(one.compared), before=one.write(was), after=one.write(came)
            )
        return ""


# --------------------------------------------------------------------------------------------------- what is trained on
@dataclass(frozen=True)
class ItemWords:
    """What is trained on, in words: in the plural, counted, and over its number."""

    plural: str
    counted: Callable[[int], str]
    heading: str
    to_train_on: str
    to_check_with: str = ""
    """Of the rows, whatever a batch counts; empty where none are held out."""


@dataclass(frozen=True, kw_only=True)
class RowWords(ItemWords):
    """What frozen rows are, in words: what is said of their items, and where there are too few of them."""

    one: str
    """What one is called, or what it is of, with its {number}."""
    more: str
    """How there come to be more."""
    all_left_out: Mapping[str, str]
    """That all {count} are left out, by reason; of 'template' with its {refusal}."""


PAIRS = RowWords(
    one=N_("Comparison {number}"),
    plural=N_("pairs"),
    counted=lambda count: ngettext("{count:,} pair", "{count:,} pairs", count).format(count=count),
    heading=N_("Pairs"),
    to_train_on=N_("Pairs to train on"),
    to_check_with=N_("Held-out pairs to check with"),
    more=N_("Judge more comparisons first."),
    all_left_out={
        "template": N_("Every pair was refused by the model's chat template ({count} in all): {refusal}"),
        "too-long": N_("Every pair is longer than max_length ({count} in all)."),
        "identical": N_("In every pair the two answers are the same text ({count} in all)."),
    },
)
COMPARISONS = ItemWords(
    plural=N_("comparisons"),
    counted=lambda count: ngettext("{count:,} comparison", "{count:,} comparisons", count).format(count=count),
    heading=N_("Comparisons"),
    to_train_on=N_("Comparisons to train on"),
    to_check_with=N_("Held-out pairs to check with"),
)
DEMONSTRATIONS = RowWords(
    one=N_("Demonstration {number}"),
    plural=N_("demonstrations"),
    counted=lambda count: ngettext("{count:,} demonstration", "{count:,} demonstrations", count).format(count=count),
    heading=N_("Demonstrations"),
    to_train_on=N_("Demonstrations to train on"),
    to_check_with=N_("Held-out demonstrations to check with"),
    more=N_(
        "Import some on the Data tab, edit answers while annotating, or choose an example set: “Data (source)” in the "
        "settings."
    ),
    all_left_out={
        "template": N_("Every demonstration was refused by the model's chat template ({count} in all): {refusal}"),
        "too-long": N_("Every demonstration is longer than max_length ({count} in all)."),
    },
)
PROMPTS = RowWords(
    one=N_("Prompt {number}"),
    plural=N_("prompts"),
    counted=lambda count: ngettext("{count:,} prompt", "{count:,} prompts", count).format(count=count),
    heading=N_("Prompts"),
    to_train_on=N_("Prompts to train on"),
    more=N_("Import prompts on the Data tab."),
    all_left_out={
        "template": N_("Every prompt was refused by the model's chat template ({count} in all): {refusal}"),
        "too-long": N_("Every prompt is longer than max_length ({count} in all)."),
    },
)
UNITS: Mapping[Unit, RowWords] = {"pairs": PAIRS, "demonstrations": DEMONSTRATIONS, "prompts": PROMPTS}


# --------------------------------------------------------------------------------------------------------------- rows
class Refusal(Protocol):
    """What a chat template says when it refuses a conversation."""

    reason: str


class LeftOut(Counter[str]):
    """How much is left out, by reason, and what a chat template said when it first refused something."""

    refusal: str = ""

    def refused(self, error: Refusal) -> None:
        self["template"] += 1
        self.refusal = self.refusal or error.reason

    def take(self, other: Mapping[str, int]) -> None:
        """Count what is left out elsewhere too."""
        self.update(other)
        self.refusal = self.refusal or getattr(other, "refusal", "")


class Rows(Protocol):
    """Rows with a split, counted as they are iterated over, once."""

    @property
    def counts(self) -> Counter[str]:
        """Rows by split."""

    @property
    def left_out(self) -> Counter[str]:
        """What gave no row, by reason."""

    @property
    def last_judgement_id(self) -> int:
        """The last judgement that was looked at; 0 where none was."""

    def __iter__(self) -> Iterator[FrozenRow]:
        """The rows."""


Tokenised = tuple[Sequence[Any], LeftOut]


@dataclass(frozen=True)
class TokenSpan:
    """Successive tokens with the same part in the loss: the text of each with how many tokens it takes."""

    part: Part
    pieces: Sequence[tuple[str, int]]

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.pieces)


@dataclass(frozen=True)
class TokenSequence:
    """One sequence as the model is fed it."""

    title: str
    spans: Sequence[TokenSpan]

    @property
    def tokens(self) -> int:
        return sum(span.tokens for span in self.spans)


def token_span(tokenizer: Any, part: Part, ids: Sequence[int]) -> TokenSpan:
    """Token ids with one part in the loss; the tokenizer says which text they are."""
    return TokenSpan(part, tokenizer.pieces(ids))
