"""What a run would be trained on, row by row: the exact tokens, which of them the loss is on, and what is left out.

Torch-free. The rows come from where `job_submission.submit` freezes them, and become tokens in `rlhf.models.tokenize`,
as in the worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

from annotation.database import Database
from annotation.metrics.aggregation import UNKNOWN_RELIABILITY
from annotation.records import STRENGTHS, Split
from annotation.ui.formatting import percent
from rlhf.data import snapshots
from rlhf.jobs.specs import DPOSpec, PPOSpec, RewardModelSpec, SFTSpec, TrainingSpec
from rlhf.models import registry
from rlhf.models.chat_template import ChatTokenizer
from rlhf.models.tokenize import (
    LeftOut,
    Row,
    render,
    text_ids,
    tokenise_comparisons,
    tokenise_demonstrations,
    tokenise_pairs,
    tokenise_prompts,
)
from rlhf.submission import job_submission
from rlhf.submission.job_submission import Preview

Part = Literal["virtual", "context", "raised", "lowered", "scored"]
Facts = list[tuple[str, str]]
# Tokenising takes up to a millisecond a row; a sample as large tells what there is to know.
TOKENISED_ITEMS = 2000
EXAMPLES_OF_A_REASON = 3


@dataclass(frozen=True)
class Item:
    """What a batch counts, with its rows: a demonstration, a pair, a comparison's pairs, or a prompt."""

    name: str
    split: Split
    rows: Sequence[Row]
    left_out: Mapping[str, int]
    """What of it was left out before it became rows, by reason."""
    asked: str
    """The question, to know it by."""


@dataclass(frozen=True)
class Passage:
    """Successive tokens with the same part in the loss: the text of each with how many tokens it takes."""

    part: Part
    pieces: Sequence[tuple[str, int]]

    @property
    def tokens(self) -> int:
        """Its length."""
        return sum(tokens for _, tokens in self.pieces)


@dataclass(frozen=True)
class Strip:
    """One sequence as the model is fed it."""

    title: str
    passages: Sequence[Passage]

    @property
    def tokens(self) -> int:
        """Its length."""
        return sum(passage.tokens for passage in self.passages)


@dataclass(frozen=True)
class Shown:
    """One item as it would be trained on."""

    item: Item
    number: int
    total: int
    facts: Facts
    strips: Sequence[Strip]
    left_out: LeftOut
    """What of it is left out when it becomes tokens, by reason."""
    used: bool
    """Whether anything of it is trained on; else the strips show only its prompt, if that much can be shown."""


# --------------------------------------------------------------------------------------------------------------- items
def items_of(db: Database, spec: TrainingSpec) -> Iterator[Item]:
    """The items of both splits, in the order in which they would be frozen; also those that give no row."""
    if isinstance(spec, DPOSpec | RewardModelSpec):
        yield from compared_items(db, spec)
        return
    for number, row in enumerate(job_submission.rows_of(db, spec), 1):
        name = f"Prompt {row['prompt_id']}" if isinstance(spec, PPOSpec) else f"Demonstration {number}"
        yield Item(name, row["split"], [row], {}, question_of(row["messages"]))


def compared_items(db: Database, spec: DPOSpec | RewardModelSpec) -> Iterator[Item]:
    """Comparisons one by one, so that what is left out can be laid at the door of one of them."""
    whole = snapshots.collect(db, registry.by_revision(db, spec.parent), spec.scope, spec.max_length)
    with db.reading():
        for group in whole.comparisons:
            alone = replace(whole, comparisons=[group], counts=Counter(), left_out=Counter())
            rows = list(alone)
            name, split, asked = f"Comparison {group[0].comparison_id}", group[0].split, question_of(group[0].messages)
            whole_item = Item(name, split, rows, dict(alone.left_out), asked)
            if isinstance(spec, RewardModelSpec) or not rows:
                yield whole_item
                continue
            for place, row in enumerate(rows):
                yield replace(whole_item, rows=[row], left_out=whole_item.left_out if place == 0 else {})


def question_of(messages: Sequence[Mapping[str, str]]) -> str:
    """The last turn of a conversation."""
    return messages[-1]["content"]


def items_to_train(db: Database, spec: TrainingSpec, found: Preview) -> tuple[int, int]:
    """How many items there are to train on, as batches count them, and the answers of the largest comparison.

    A reward model takes whole comparisons; others take them apart, and their second number is 0.
    """
    if not isinstance(spec, RewardModelSpec):
        return found.train, 0
    rows = (row for row in job_submission.rows_of(db, spec) if row["split"] == "train")
    answers = [len(places_of(list(pairs))) for _, pairs in groupby(rows, key=lambda row: row["comparison"])]
    return len(answers), max(answers, default=0)


def tokenise(tokenizer: ChatTokenizer, spec: TrainingSpec, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], LeftOut]:
    """Rows as the worker tokenises them, and what it leaves out."""
    if isinstance(spec, SFTSpec):
        return tokenise_demonstrations(tokenizer, rows, spec.max_length)
    if isinstance(spec, PPOSpec):
        return tokenise_prompts(tokenizer, rows, spec.max_length - spec.sampling.max_new_tokens)
    if isinstance(spec, RewardModelSpec):
        return tokenise_comparisons(tokenizer, rows, spec.max_length)
    return tokenise_pairs(tokenizer, rows, spec.max_length)


# ------------------------------------------------------------------------------------------------------------- one item
def show(
    tokenizer: ChatTokenizer, spec: TrainingSpec, items: Iterable[Item], split: Split, number: int
) -> Shown | None:
    """The item of this number (from 1) of a split, or the last one before it; None if there is none."""
    last: Item | None = None
    total = place = 0
    for item in items:
        if item.split == split and item.rows:
            total += 1
            if total <= max(number, 1):
                last, place = item, total
    if last is None:
        return None
    tokenised, left_out = tokenise(tokenizer, spec, last.rows)
    strips = strips_of(tokenizer, spec, tokenised[0]) if tokenised else unread(tokenizer, last, left_out)
    return Shown(last, place, total, facts_of(spec, last), strips, left_out, used=bool(tokenised))


def unread(tokenizer: ChatTokenizer, item: Item, left_out: LeftOut) -> list[Strip]:
    """The prompt of an item that is too long, to see why; nothing where the template refuses it."""
    if "template" in left_out:
        return []
    rendered = item.rows[0].get("rendered_prompt") or render(tokenizer, item.rows[0]["messages"])
    ids = text_ids(tokenizer, rendered)
    return [Strip("Prompt", [passage(tokenizer, "context", ids)])]


def strips_of(tokenizer: ChatTokenizer, spec: TrainingSpec, tokenised: Mapping[str, Any]) -> list[Strip]:
    """The sequences of one tokenised item, each token with its part in the loss."""
    prompt = [*virtual(spec), passage(tokenizer, "context", tokenised["prompt_ids"])]
    if isinstance(spec, SFTSpec):
        return [Strip("Demonstration", [*prompt, passage(tokenizer, "raised", tokenised["completion_ids"])])]
    if isinstance(spec, PPOSpec):
        return [Strip("Prompt as it is fed; the policy answers it", prompt)]
    if isinstance(spec, RewardModelSpec):
        return [
            Strip(f"Answer {place}", [*prompt, *scored(tokenizer, ids)])
            for place, ids in enumerate(tokenised["answers"], 1)
        ]
    return [
        Strip("Chosen", [*prompt, passage(tokenizer, "raised", tokenised["chosen_ids"])]),
        Strip("Rejected", [*prompt, passage(tokenizer, "lowered", tokenised["rejected_ids"])]),
    ]


def virtual(spec: TrainingSpec) -> list[Passage]:
    """The virtual tokens that prompt tuning puts first; they have no text."""
    return [Passage("virtual", [("", spec.virtual_tokens)])] if spec.method == "prompt" else []


def passage(tokenizer: ChatTokenizer, part: Part, ids: Sequence[int]) -> Passage:
    """Token ids with one part in the loss."""
    return Passage(part, tokenizer.pieces(ids))


def scored(tokenizer: ChatTokenizer, ids: Sequence[int]) -> list[Passage]:
    """An answer as a reward model reads it: the state of its last token gives the score."""
    return [passage(tokenizer, "context", ids[:-1]), passage(tokenizer, "scored", ids[-1:])]


def facts_of(spec: TrainingSpec, item: Item) -> Facts:
    """What is known of an item beside its text."""
    row = item.rows[0]
    if isinstance(spec, SFTSpec):
        label = [("Label", str(row["label"]))] if "label" in row else []
        return [("Comes from", str(row.get("origin", ""))), *label]
    if isinstance(spec, PPOSpec):
        return []
    if isinstance(spec, RewardModelSpec):
        places = places_of(item.rows)
        orders = [f"{places[pair['chosen']['id']]} over {places[pair['rejected']['id']]}" for pair in item.rows]
        return [("Better", ", ".join(orders)), ("Preferred", ", ".join(map(strength_word, item.rows)))]
    return [("Preferred", strength_word(row)), ("Judgements", str(len(row["judgements"]))), *chance(row)]


def places_of(rows: Sequence[Row]) -> dict[int, int]:
    """The number of each answer of a comparison, in the order in which its pairs name them."""
    places: dict[int, int] = {}
    for row in rows:
        for side in ("chosen", "rejected"):
            places.setdefault(row[side]["id"], len(places) + 1)
    return places


def strength_word(row: Row) -> str:
    """How strongly the chosen answer was preferred, in the words that annotators see."""
    strength = row.get("strength")
    return "no strength given" if strength is None else STRENGTHS[round(strength)]


def chance(row: Row) -> Facts:
    """The estimated chance that a pair is the wrong way round, or what is assumed where nothing is known."""
    if "flip" not in row:
        return []
    assumed = len(row["annotators"]) == 1 and abs(row["flip"] - (1 - UNKNOWN_RELIABILITY)) < SAME
    return [("Chance of the wrong way round", f"{percent(row['flip'])}{', assumed' if assumed else ''}")]


# Rows and the prior's top are rounded.
SAME = 1e-4


# -------------------------------------------------------------------------------------------------------------- survey
@dataclass
class Survey:
    """All items looked at: how many there are and how long, what is left out and why, with examples."""

    items: Counter[str] = field(default_factory=Counter)
    """Items that would be used, by split."""
    left_out: LeftOut = field(default_factory=LeftOut)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """(name, question) of a few items by reason."""
    largest: int = 0
    """Tokens of the largest item, its prompt counted once."""
    tokens: int = 0
    """Tokens of all items that were tokenised."""
    tokenised: int = 0
    seen: int = 0

    @property
    def mean_tokens(self) -> float:
        """Tokens of an item on average."""
        return self.tokens / max(self.tokenised, 1)

    def leave_out(self, item: Item, reasons: Mapping[str, int]) -> None:
        """Count what is left out of an item, and keep a few of them."""
        self.left_out.take(reasons)
        for reason in reasons:
            known = self.examples.setdefault(reason, [])
            if len(known) < EXAMPLES_OF_A_REASON:
                known.append((item.name, item.asked))


def survey(tokenizer: ChatTokenizer, spec: TrainingSpec, items: Iterable[Item], limit: int = TOKENISED_ITEMS) -> Survey:
    """Look at all items; only the first `limit` of them are tokenised, the others are counted as they are."""
    found = Survey()
    for item in items:
        found.leave_out(item, item.left_out)
        if not item.rows:
            continue
        found.seen += 1
        if found.seen > limit:
            found.items[item.split] += 1
            continue
        tokenised, reasons = tokenise(tokenizer, spec, item.rows)
        found.leave_out(item, reasons)
        if tokenised:
            found.items[item.split] += 1
            found.tokenised += 1
            length = length_of(spec, tokenised[0])
            found.tokens += length
            found.largest = max(found.largest, length)
    return found


def length_of(spec: TrainingSpec, tokenised: Mapping[str, Any]) -> int:
    """Tokens that one item puts into a forward pass, virtual ones and the answers that PPO draws included."""
    prompt = len(tokenised["prompt_ids"]) + (spec.virtual_tokens if spec.method == "prompt" else 0)
    if isinstance(spec, SFTSpec):
        return prompt + len(tokenised["completion_ids"])
    if isinstance(spec, PPOSpec):
        return prompt + spec.sampling.max_new_tokens
    if isinstance(spec, RewardModelSpec):
        return prompt + sum(map(len, tokenised["answers"]))
    return prompt + len(tokenised["chosen_ids"]) + len(tokenised["rejected_ids"])
