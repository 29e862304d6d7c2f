"""Frozen rows to token ids: what is trained on, and what is left out and why. Torch-free, for workers and pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from annotation.exports.frozen_rows import AnyRow, DemonstrationRow, PreferenceRow, PromptRow, read_rows
from annotation.metrics.rankings import MOST_ANSWERS, decided
from annotation.records import TokenIds, UserError
from annotation.translation import _
from rlhf.jobs.descriptions import LeftOut
from rlhf.models.chat_template import inert, marks_of, name_of, tokenizing, vocabulary_of
from rlhf.models.template_process import TemplateRefused, conversation


# Dictionaries, because TRL's trainers take columns.
class TokenisedPrompt(TypedDict):
    prompt_id: int
    text: str
    """As it is fed."""
    prompt_ids: list[int]


class TokenisedDemonstration(TypedDict):
    prompt_ids: list[int]
    completion_ids: list[int]


class TokenisedPair(TypedDict):
    """A pair under the names that TRL's trainer knows."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    comparison: int


class OrderedPair(NamedTuple):
    """A pair of a comparison, by the places of its answers."""

    better: int
    worse: int
    strength: float | None
    flip: float | None
    """The chance that it is the wrong way round; data frozen before annotators were measured has none."""
    ai: bool
    """Whether AI judges alone prefer it."""


class TokenisedComparison(TypedDict):
    """A comparison with all its pairs, each answer once."""

    prompt_ids: list[int]
    answers: list[list[int]]
    comparison: int
    pairs: list[OrderedPair]


def load_snapshot(data_dir: Path, sha256: str, kind: type[AnyRow]) -> list[AnyRow]:
    """The rows of the frozen data of this name. Raises UserError if the file is gone or is not what its name says."""
    return read_rows(snapshot_content(data_dir, sha256), kind)


def snapshot_content(data_dir: Path, sha256: str) -> bytes:
    """The file of frozen data, after checking its hash. Raises UserError."""
    from hashlib import sha256 as hash_of

    path = snapshot_path(data_dir, sha256)
    if not path.is_file():
        said = _(
            "The frozen data {snapshot} is gone from the data directory. Put it back, or start a new run with the "
            "present judgements."
        )
        raise UserError(said.format(snapshot=sha256[:12]))
    content = path.read_bytes()
    if hash_of(content).hexdigest() != sha256:
        said = _(
            "The frozen data {snapshot} was changed in the data directory (its sha256 differs). Put it back as it "
            "was, or start a new run."
        )
        raise UserError(said.format(snapshot=sha256[:12]))
    return content


def of_split(rows: Sequence[AnyRow], split: str) -> list[AnyRow]:
    return [row for row in rows if row.split == split]


def snapshot_path(data_dir: Path, sha256: str) -> Path:
    return data_dir / "snapshots" / f"{sha256}.jsonl"


def render(tokenizer: Any, messages: Any) -> str:
    """The exact text a policy is fed: the conversation in the model's template, up to where its answer begins.

    What the messages say is words: none of it ends a turn or begins one. Raises TemplateRefused if the template refuses
    the conversation: many want user and assistant in turns, or no system.
    """
    told = [
        {**message, "content": inert(tokenizer, message["content"], by_model=message["role"] == "assistant")}
        for message in messages
    ]
    for message in told:
        word_ids(tokenizer, message["content"])
    return conversation(tokenizer, told, begins=True)


def word_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of an inert text. Raises TemplateRefused where its tokenizer makes a mark of something in it."""
    ids = text_ids(tokenizer, text)
    mark = next((token for token in ids if token in marks_of(tokenizer).ids), None)
    if mark is not None:
        said = _("a text holds '{name}', which the model would read as a mark of its own.")
        raise TemplateRefused(said.format(name=name_of(tokenizer, mark)[:80]))
    return ids


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that is in the model's template already. Raises UserError where its tokenizer fails on it.

    Raises TemplateRefused for a token that the weights have no row for: whoever knows its name can write it.
    """
    with tokenizing():
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    last, rows = max(ids, default=0), getattr(tokenizer, "rows", None)
    if rows is not None and last >= rows:
        name = name_of(tokenizer, last)[:80]
        raise TemplateRefused(_("the weights have no row for the token '{name}'.").format(name=name))
    return ids


def answer_ids(tokenizer: Any, text: str, finish_reason: str | None, drawn: TokenIds | None = None) -> list[int]:
    """Token ids of an answer and the token that ended it, which an answer cut off at the limit has not.

    That one did not end, and training must not teach that it did. What a person wrote or an import brought is whole. An
    answer whose tokens are known, by this tokenizer, is these: its text can be made of others, and it may have ended
    with another of the model's end tokens than the template's.
    """
    if drawn is not None and drawn.vocabulary == vocabulary_of(tokenizer):
        return list(drawn.ids)
    ids = word_ids(tokenizer, inert(tokenizer, text, by_model=True))
    return ids if finish_reason == "length" else [*ids, tokenizer.eos_token_id]


def tokenise_pairs(
    tokenizer: Any, rows: Sequence[PreferenceRow], max_length: int
) -> tuple[list[TokenisedPair], LeftOut]:
    """Pairs as token ids with their comparison, and how many are left out and why.

    A prompt that no policy has been fed (imported with its answers) is put into the model's chat template here.
    """
    pairs: list[TokenisedPair] = []
    left_out = LeftOut()
    for row in rows:
        try:
            prompt = text_ids(tokenizer, row.rendered_prompt or render(tokenizer, row.messages))
            chosen, rejected = (
                [] if side.outside else answer_ids(tokenizer, side.text, side.finish_reason, side.token_ids)
                for side in row.sides
            )
        except TemplateRefused as error:
            left_out.refused(error)
            continue
        if len(prompt) + max(len(chosen), len(rejected)) > max_length:
            left_out["too-long"] += 1
            continue
        pair = TokenisedPair(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected, comparison=row.comparison)
        pairs.append(pair)
    return pairs, left_out


def tokenise_comparisons(
    tokenizer: Any, rows: Sequence[PreferenceRow], max_length: int
) -> tuple[list[TokenisedComparison], LeftOut]:
    """Comparisons with all their pairs together, each answer once, and how many pairs are left out and why.

    Pairs on a circle of preferences are left out: nothing is decided among them. A comparison with very many edited
    answers becomes several items. Of answers that are all bad one more is better, of no tokens: whatever is summed over
    its tokens is 0.
    """
    items: list[TokenisedComparison] = []
    latest: dict[int, tuple[TokenisedComparison, dict[int, int]]] = {}
    left_out = LeftOut()
    for row in rows:
        tokenised, reasons = tokenise_pairs(tokenizer, [row], max_length)
        left_out.take(reasons)
        for pair in tokenised:
            item, known = latest.get(row.comparison, (None, {}))
            if item is None or len({*known, row.chosen.id, row.rejected.id}) > MOST_ANSWERS:
                item = {"prompt_ids": pair["prompt_ids"], "answers": [], "comparison": row.comparison, "pairs": []}
                latest[row.comparison] = item, (known := {})
                items.append(item)
            for answer, ids in ((row.chosen, pair["chosen_ids"]), (row.rejected, pair["rejected_ids"])):
                if answer.id not in known:
                    known[answer.id] = len(item["answers"])
                    item["answers"].append(ids)
            places = known[row.chosen.id], known[row.rejected.id]
            item["pairs"].append(OrderedPair(*places, row.strength, row.flip, row.ai))
    for item in items:
        kept = decided((pair.better, pair.worse) for pair in item["pairs"])
        if len(kept) < len(item["pairs"]):
            left_out["disagreement"] += len(item["pairs"]) - len(kept)
        item["pairs"] = [pair for pair in item["pairs"] if (pair.better, pair.worse) in kept]
    return [item for item in items if item["pairs"]], left_out


def tokenise_demonstrations(
    tokenizer: Any, rows: Sequence[DemonstrationRow], max_length: int
) -> tuple[list[TokenisedDemonstration], LeftOut]:
    """Demonstrations as token ids, and how many are left out and why."""
    items: list[TokenisedDemonstration] = []
    left_out = LeftOut()
    for row in rows:
        try:
            prompt = text_ids(tokenizer, render(tokenizer, row.messages))
            completion = answer_ids(tokenizer, row.text, "stop")
        except TemplateRefused as error:
            left_out.refused(error)
            continue
        if len(prompt) + len(completion) > max_length:
            left_out["too-long"] += 1
            continue
        items.append({"prompt_ids": prompt, "completion_ids": completion})
    return items, left_out


def tokenise_prompts(
    tokenizer: Any, rows: Sequence[PromptRow], max_prompt_length: int
) -> tuple[list[TokenisedPrompt], LeftOut]:
    """Prompts to answer as token ids, and how many are left out and why."""
    items: list[TokenisedPrompt] = []
    left_out = LeftOut()
    for row in rows:
        try:
            text = render(tokenizer, row.messages)
            ids = text_ids(tokenizer, text)
        except TemplateRefused as error:
            left_out.refused(error)
            continue
        if len(ids) > max_prompt_length:
            left_out["too-long"] += 1
            continue
        items.append({"prompt_id": row.prompt_id, "text": text, "prompt_ids": ids})
    return items, left_out
