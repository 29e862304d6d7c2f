"""What a run would be trained on, row by row: the exact tokens, which of them the loss is on, and what is left out.

Torch-free. The rows come from where `job_submission.submit` freezes them, and become tokens in `rlhf.models.tokenise`,
as in the worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from annotation.database import Database
from annotation.exports.frozen_rows import FrozenRow, PreferenceRow
from annotation.exports.preference_rows import PreferenceRows
from annotation.records import Split
from annotation.translation import _
from rlhf.jobs.descriptions import COMPARISONS, PAIRS, UNITS, Facts, LeftOut, TokenSequence, token_span
from rlhf.jobs.job_spec import TrainingSpec
from rlhf.models.chat_template import ChatTokenizer
from rlhf.models.tokenise import render, text_ids
from rlhf.submission import job_submission
from rlhf.submission.job_submission import TrainingPreview

# Tokenising takes up to a millisecond a row; a sample as large tells what there is to know.
TOKENISED_ITEMS = 2000
EXAMPLES_OF_A_REASON = 3


@dataclass(frozen=True)
class ItemRows:
    """What a batch counts, with its rows: a demonstration, a pair, a comparison's pairs, or a prompt."""

    name: str
    split: Split
    rows: Sequence[FrozenRow]
    left_out: Mapping[str, int]
    """What of it was left out before it became rows, by reason."""
    asked: str
    """The question, to know it by."""


@dataclass(frozen=True)
class InspectedItem:
    item: ItemRows
    number: int
    total: int
    facts: Facts
    sequences: Sequence[TokenSequence]
    left_out: LeftOut
    """What of it is left out when it becomes tokens, by reason."""
    used: bool
    """Whether anything of it is trained on; else the sequences show only its prompt, if that much can be shown."""


# --------------------------------------------------------------------------------------------------------------- items
def items_of(db: Database, spec: TrainingSpec) -> Iterator[ItemRows]:
    """The items of both splits, in the order in which they would be frozen; also those that give no row."""
    rows = spec.rows(db)
    if isinstance(rows, PreferenceRows):
        yield from compared_items(db, rows, together=spec.items == COMPARISONS)
        return
    with db.reading():
        for place, row in enumerate(rows, 1):
            name = _(UNITS[spec.unit].one).format(number=row.number or place)
            yield ItemRows(name=name, split=row.split, rows=[row], left_out={}, asked=question_of(row.messages))


def compared_items(db: Database, whole: PreferenceRows, together: bool) -> Iterator[ItemRows]:
    """Comparisons one by one, so that what is left out can be laid at the door of one of them; or their pairs."""
    with db.reading():
        for group in whole.comparisons:
            alone = replace(whole, comparisons=[group], counts=Counter(), left_out=Counter())
            rows, first = list(alone), group[0]
            name = _(PAIRS.one).format(number=first.comparison_id)
            whole_item = ItemRows(
                name=name,
                split=first.split,
                rows=rows,
                left_out=dict(alone.left_out),
                asked=question_of(first.messages),
            )
            if together or not rows:
                yield whole_item
                continue
            for place, row in enumerate(rows):
                yield replace(whole_item, rows=[row], left_out=whole_item.left_out if place == 0 else {})


def question_of(messages: Sequence[Mapping[str, str]]) -> str:
    return messages[-1]["content"]


def items_to_train(db: Database, spec: TrainingSpec, found: TrainingPreview) -> tuple[int, int]:
    """How many items there are to train on, as batches count them, and the answers of the largest comparison.

    Some kinds take whole comparisons; others take them apart, and their second number is 0.
    """
    if spec.items != COMPARISONS:
        return found.train, 0
    rows = job_submission.rows_of(db, spec)
    pairs = (row for row in rows if isinstance(row, PreferenceRow) and row.split == "train")
    groups = groupby(pairs, key=lambda row: row.comparison)
    answers = [len({answer.id for pair in own for answer in pair.sides}) for _, own in groups]
    return len(answers), max(answers, default=0)


# ------------------------------------------------------------------------------------------------------------- one item
def inspect(
    tokenizer: ChatTokenizer, spec: TrainingSpec, items: Iterable[ItemRows], split: Split, number: int
) -> InspectedItem | None:
    """The item of this number (from 1) of a split, or the last one before it; None if there is none."""
    last: ItemRows | None = None
    total = place = 0
    for item in items:
        if item.split == split and item.rows:
            total += 1
            if total <= max(number, 1):
                last, place = item, total
    if last is None:
        return None
    tokenised, left_out = spec.tokenise(tokenizer, last.rows)
    sequences = spec.sequences(tokenizer, tokenised[0]) if tokenised else unread(tokenizer, last, left_out)
    return InspectedItem(
        item=last,
        number=place,
        total=total,
        facts=spec.item_facts(last.rows),
        sequences=sequences,
        left_out=left_out,
        used=bool(tokenised),
    )


def unread(tokenizer: ChatTokenizer, item: ItemRows, left_out: LeftOut) -> list[TokenSequence]:
    """The prompt of an item that is too long, to see why; nothing where the template refuses it."""
    if "template" in left_out:
        return []
    rendered = item.rows[0].rendered_prompt or render(tokenizer, item.rows[0].messages)
    ids = text_ids(tokenizer, rendered)
    return [TokenSequence(_("Prompt"), [token_span(tokenizer, "context", ids)])]


# -------------------------------------------------------------------------------------------------------------- survey
@dataclass
class DataSummary:
    """All items looked at: how many there are and how long, what is left out and why, with examples."""

    items: Counter[str] = field(default_factory=Counter)
    left_out: LeftOut = field(default_factory=LeftOut)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """(name, question) of a few items by reason."""
    largest: int = 0
    """Tokens of the largest item, its prompt counted once."""
    tokens: int = 0
    tokenised: int = 0
    seen: int = 0

    def leave_out(self, item: ItemRows, reasons: Mapping[str, int]) -> None:
        """Count what is left out of an item, and keep a few of them."""
        self.left_out.take(reasons)
        for reason in reasons:
            known = self.examples.setdefault(reason, [])
            if len(known) < EXAMPLES_OF_A_REASON:
                known.append((item.name, item.asked))


def summarise(
    tokenizer: ChatTokenizer, spec: TrainingSpec, items: Iterable[ItemRows], limit: int = TOKENISED_ITEMS
) -> DataSummary:
    """Look at all items; only the first `limit` of them are tokenised, the others are counted as they are."""
    found = DataSummary()
    for item in items:
        found.leave_out(item, item.left_out)
        if not item.rows:
            continue
        found.seen += 1
        if found.seen > limit:
            found.items[item.split] += 1
            continue
        tokenised, reasons = spec.tokenise(tokenizer, item.rows)
        found.leave_out(item, reasons)
        if tokenised:
            found.items[item.split] += 1
            found.tokenised += 1
            length = spec.tokens_of(tokenised[0])
            found.tokens += length
            found.largest = max(found.largest, length)
    return found
