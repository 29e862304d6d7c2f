"""The card of frozen data as a dataset: what one training read, what was left out of it and why, its columns. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from annotation.exports.dataset_card import NOTES, code, dataset_head, feature, licence_text, table
from annotation.exports.formats import Column
from annotation.metrics.aggregation import REASONS
from annotation.translation import ENGLISH, speaking
from rlhf.jobs.descriptions import Unit

Type = Column | Literal["numbers", "answer"]
ANSWER: Final[Mapping[str, Column]] = {
    "id": "whole",
    "origin": "text",
    "model_id": "whole",
    "text": "text",
    "finish_reason": "text",
    "tokens": "whole",
}
COLUMNS: Final[Mapping[Unit, Mapping[str, Type]]] = {
    "pairs": {
        "comparison": "whole",
        "prompt_id": "whole",
        "split": "text",
        "judgements": "numbers",
        "annotators": "texts",
        "messages": "messages",
        "rendered_prompt": "text",
        "chosen": "answer",
        "rejected": "answer",
        "strength": "number",
        "agreement": "number",
        "flip": "number",
        "ai": "truth",
    },
    "demonstrations": {
        "split": "text",
        "messages": "messages",
        "text": "text",
        "origin": "text",
        "response": "whole",
        "label": "text",
    },
    "prompts": {"prompt_id": "whole", "split": "text", "messages": "messages"},
}
MEANINGS: Final[Mapping[str, str]] = {
    **NOTES,
    "comparison": "rows with the same number come from one comparison",
    "split": "`train`, or `held-out` for what the training was only checked with",
    "judgements": "numbers of the judgements that say so",
    "messages": "the conversation up to the answer",
    "rendered_prompt": "the same in the model's chat template, as it was read; none where no policy drew an answer",
    "chosen": "the preferred answer, with who made it and its tokens where a policy drew it; none, `outside`, "
    "where people found all answers bad",
    "rejected": "the other answer, likewise",
    "ai": "true where AI judges alone say so",
    "text": "the answer to imitate",
    "origin": "where the answer comes from",
    "response": "the answer's number",
    "label": "the label that the answer gives",
}
SPLITS: Final = (
    "`test` holds the rows of prompts that Prefloop keeps out of all training: the run was at most checked with them."
)
TITLES_AND_TAGS: Final[Mapping[Unit, tuple[str, tuple[str, ...]]]] = {
    "pairs": ("Preference pairs", ("preference", "human-feedback")),
    "demonstrations": ("Demonstrations for supervised fine-tuning", ("sft",)),
    "prompts": ("Prompts for reinforcement learning", ("prompts",)),
}


@dataclass(frozen=True)
class SnapshotFacts:
    repo: str
    tag: str
    sha256: str
    unit: Unit
    job: int
    made: str
    base: str
    source: str
    """Where demonstrations come from, as the training's spec says it; empty for other rows."""
    rows: Mapping[str, int]
    files: Mapping[str, tuple[str, str]]
    """Path and sha256 of each split's file."""
    left_out: Mapping[str, int]
    left_out_later: Mapping[str, int]
    """What the training itself left out of these rows, by reason."""
    agreement: str
    """How far those agreed who judged, as Markdown; empty where nobody judged."""
    names: bool
    licence: str


def mark(unit: str) -> str:
    """By what a repository's card says that it holds frozen data of this kind."""
    return f"frozen-{unit}"


def names_annotators(unit: Unit) -> bool:
    return "annotators" in COLUMNS[unit]


@speaking(ENGLISH)
def card(about: SnapshotFacts) -> str:
    agreement = ("## Agreement", about.agreement) if about.agreement else ()
    parts = [
        front_matter(about),
        f"# {TITLES_AND_TAGS[about.unit][0]} that a model was trained on",
        f"{sum(about.rows.values()):,} rows as run {about.job} ({about.made}) of Prefloop read them, frozen before it "
        "began. Judgements made since are not in it.",
        "## How to load it",
        f'```python\nfrom datasets import load_dataset\n\ndata = load_dataset("{about.repo}", revision="{about.tag}")\n'
        "```",
        "## What is in it",
        counts(about),
        "## What was left out",
        left_out(about),
        *agreement,
        "## Columns",
        table(["column", "meaning"], [[f"`{name}`", MEANINGS[name]] for name in COLUMNS[about.unit]]),
        "## Where it comes from",
        origin(about),
        "## Licence",
        licence_text(about.licence),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(about: SnapshotFacts) -> str:
    return dataset_head(
        f"Prefloop frozen {about.unit}",
        about.licence,
        (*TITLES_AND_TAGS[about.unit][1], "trl", "prefloop"),
        {"format": mark(about.unit), "sha256": about.sha256},
        sum(about.rows.values()),
        [typed(name, kind) for name, kind in COLUMNS[about.unit].items()],
        {split: path for split, (path, _) in about.files.items()},
    )


def typed(name: str, kind: Type) -> dict[str, Any]:
    if kind == "numbers":
        return {"name": name, "list": "int64"}
    if kind == "answer":
        return {"name": name, "struct": [feature(part, inner) for part, inner in ANSWER.items()]}
    return feature(name, kind)


def counts(about: SnapshotFacts) -> str:
    rows = [[f"`{split}`", f"{number:,}", f"`{about.files[split][0]}`"] for split, number in about.rows.items()]
    return "\n\n".join([table(["split", "rows", "file"], rows), SPLITS])


def left_out(about: SnapshotFacts) -> str:
    """How much was left out, by reason, before the rows were frozen and in the training."""
    before = reasons("Judgements, or pairs of answers, that gave no row when the data was frozen", about.left_out)
    later = reasons("Rows that are here but that the training left out when it read them", about.left_out_later)
    return f"{before}\n\n{later}"


def reasons(what: str, found: Mapping[str, int]) -> str:
    rows = [[REASONS.get(reason, code(reason)), f"{number:,}"] for reason, number in Counter(found).most_common()]
    return f"{what}:\n\n{table(['reason', 'number'], rows)}" if rows else f"{what}: none."


def origin(about: SnapshotFacts) -> str:
    """The run, the base, the annotators, and what can be compared by which sha256."""
    people = {True: "named", False: "pseudonyms"}[about.names]
    lines = [
        f"- Run {about.job}: {about.made} on the base model {code(about.base)}.",
        *([f"- Source of the demonstrations: {code(about.source)}."] if about.source else []),
        f"- Annotators are {people}." if names_annotators(about.unit) else "- The rows name no annotator.",
        f"- sha256 of the data: {code(about.sha256)}. It is that of the one file that the training read, with all rows "
        "of both splits in the order in which they were frozen and with the annotators' names, where it has any. "
        "Models whose cards name the same sha256 were trained on the same rows. The files here are split and hold "
        "empty columns too, so that they have others:",
        *(f"  - `{path}`: {code(sha)}" for path, sha in about.files.values()),
    ]
    return "\n".join(lines)


def line_of(row: Mapping[str, Any], unit: Unit) -> bytes:
    """A row as a line of a split's file: every column, empty where the row says nothing of it."""
    found = {name: row.get(name) for name in COLUMNS[unit]}
    for name in (name for name, kind in COLUMNS[unit].items() if kind == "answer"):
        found[name] = {part: row[name].get(part) for part in ANSWER}  # its token ids are of use with this base only
    return json.dumps(found, ensure_ascii=False).encode() + b"\n"
