"""The card of an export: what is in it, what is not and why, how far people agree, where it comes from. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import PurePath
from typing import Any, Final

from annotation.exports.formats import (
    FORMATS,
    LEFT_OUT,
    SOURCE_OF_KIND,
    AggregatedComparison,
    Column,
    ExportedRows,
    ExportRequest,
    Filters,
    written_by,
)
from annotation.hub_client import to_front_matter
from annotation.metrics.agreement import agreements
from annotation.metrics.intervals_and_bias import Vote, length_biases, position_biases
from annotation.project import as_read, follows
from annotation.records import Demonstration, Judgement, Kind, Project
from annotation.store.data_sources import FinishedImport, KnownModel
from annotation.store.project_store import Guidelines
from annotation.translation import ENGLISH, speaking
from annotation.ui.formatting import number_with_interval, percent_with_interval
from annotation.workbench.comparison_filter import ComparisonFilter


# ------------------------------------------------------------------------------------------------------------- figures
@dataclass
class CardStatistics:
    """What the card states, counted while the rows pass by."""

    rows: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    comparisons: int = 0
    prompts: set[int] = field(default_factory=set)
    judgements: Counter[str] = field(default_factory=Counter)
    annotators: dict[str, set[str]] = field(default_factory=dict)
    guidelines: Counter[int | None] = field(default_factory=Counter)
    written_by: Counter[str] = field(default_factory=Counter)
    unknown_chances: int = 0
    """Comparisons of which it is unknown with what chance they were made, or given to people."""
    first_day: str = ""
    last_day: str = ""
    votes: list[Vote] = field(default_factory=list)
    """The judgements that were not left out, as `annotation.metrics.intervals_and_bias` reads them."""

    def see(self, split: str, aggregated: AggregatedComparison, made: ExportedRows) -> None:
        """Count one comparison. What gives no row still counts for agreement and biases, which it would distort."""
        self.left_out.update(made.left_out)
        for judgement in aggregated.judgements:
            if judgement.outcome != "skip":
                self.see_judgement(judgement)
        if made.rows:
            self.rows[split] += len(made.rows)
            self.comparisons += 1
            first = aggregated.judgements[0]
            self.unknown_chances += first.formed_chance is None or first.people_chance is None
            self.prompts.add(first.prompt_id)
            self.written_by.update(map(written_by, first.responses))

    def see_judgement(self, judgement: Judgement) -> None:
        source = SOURCE_OF_KIND[judgement.annotator_kind]
        self.judgements[source] += 1
        self.annotators.setdefault(source, set()).add(judgement.annotator)
        if judgement.purpose != "import":
            self.guidelines[judgement.guidelines_version] += 1
        self.see_day(judgement.created)
        self.votes.append(vote_of(judgement))

    def see_day(self, moment: str) -> None:
        day = moment[:10]
        self.first_day = min(self.first_day or day, day)
        self.last_day = max(self.last_day, day)

    def see_demonstration(self, shown: Demonstration, split: str) -> None:
        self.rows[split] += 1
        self.prompts.add(shown.prompt_id)
        self.see_day(shown.created)

    @property
    def total(self) -> int:
        return sum(self.rows.values())


def vote_of(judgement: Judgement) -> Vote:
    return Vote(
        id=judgement.id,
        comparison_id=judgement.comparison_id,
        annotator=judgement.annotator,
        purpose=judgement.purpose,
        kind=judgement.kind,
        outcome=judgement.outcome,
        ranking=judgement.ranking,
        strength=judgement.strength,
        shown_order=judgement.shown_order,
        seconds=judgement.seconds,
        early=judgement.early,
        created=judgement.created,
        first_ranking=None,
        lengths=tuple(len(response.text) for response in judgement.responses),
        revisions=tuple(response.revision for response in judgement.responses),
        by_heads=judgement.answers_by == "heads",
    )


# --------------------------------------------------------------------------------------------------------- front matter
@dataclass(frozen=True)
class Provenance:
    project: Project
    models: Sequence[KnownModel] = ()
    samplings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """In which ways each policy's answers were drawn, as JSON, by revision."""
    guidelines: Sequence[Guidelines] = ()
    """All versions."""
    imports: Sequence[FinishedImport] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """What each annotator is called in the export."""


def dataset_head(
    title: str,
    licence: str,
    tags: Sequence[str],
    mark: Mapping[str, str],
    rows: int,
    features: Sequence[Mapping[str, Any]],
    files: Mapping[str, str],
) -> str:
    """The YAML between the dashes, by which `datasets` and the Hub know files (by split), splits and types.

    `mark` is what Prefloop knows the repository by, so that no other format takes its place.
    """
    parts = [{"split": split, "path": path} for split, path in files.items()]
    return to_front_matter(
        {
            "pretty_name": title,
            **({"license": licence} if licence else {}),
            "task_categories": ["text-generation"],
            "tags": list(tags),
            MARK: dict(mark),
            "size_categories": [size_category(rows)],
            "dataset_info": {"features": list(features)},
            "configs": [{"config_name": "default", "data_files": parts}],
        }
    )


MARK: Final = "prefloop"


TYPES: Final[Mapping[Column, str]] = {"text": "string", "number": "float64", "whole": "int64", "truth": "bool"}
LISTS: Final[Mapping[Column, str]] = {"texts": "string", "numbers": "float64"}


def feature(name: str, kind: Column) -> dict[str, Any]:
    if kind == "messages":
        return {"name": name, "list": [{"name": part, "dtype": "string"} for part in ("role", "content")]}
    if kind in LISTS:
        return {"name": name, "list": LISTS[kind]}
    return {"name": name, "dtype": TYPES[kind]}


def size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "n>1M"


# ---------------------------------------------------------------------------------------------------------------- card
@speaking(ENGLISH)
def card(request: ExportRequest, figures: CardStatistics, provenance: Provenance, files: Mapping[str, str]) -> str:
    notes = {**NOTES, **(WHOLE_CONVERSATIONS if request.format == "reward" else {})}
    what = FORMATS[request.format].title
    parts = [
        dataset_head(
            f"Prefloop {request.format} export",
            request.licence,
            ("preference", "human-feedback", "trl", "prefloop"),
            {"format": request.format},
            figures.total,
            [feature(name, kind) for name, kind in FORMATS[request.format].columns.items()],
            files,
        ),
        f"# Prefloop {request.format} export",
        f"{what}. {figures.total:,} rows on {len(figures.prompts):,} prompts, exported from Prefloop, where people "
        "compare answers of a language model blind and in a drawn order.",
        "## How to load it",
        loading(request, files),
        "## What is in it",
        counts(figures),
        "## What was left out",
        left_out(figures),
        "## Agreement",
        agreement(figures),
        "## Biases",
        biases(figures),
        "## Columns",
        table(["column", "meaning"], [[f"`{name}`", notes[name]] for name in FORMATS[request.format].columns]),
        "## Where it comes from",
        origin(request, figures, provenance),
        "## Guidelines",
        guidelines_part(figures, provenance),
        "## Licence",
        licence_text(request.licence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def licence_text(name: str) -> str:
    if name:
        return f"{code(name)}, as chosen by whoever published it."
    return (
        "*To be filled in by whoever publishes this data: the licence, and for what the people who judged gave their "
        "consent.*"
    )


def loading(request: ExportRequest, files: Mapping[str, str]) -> str:
    address = request.address or "PATH_OF_THIS_DIRECTORY"
    code = ["from datasets import load_dataset", "", f'data = load_dataset("{address}")']
    if "train" in files:
        code.append('print(data["train"][0])')
    text = "\n".join(["```python", *code, "```"])
    command = TRAINING.get(request.format)
    if command is None or "train" not in files:
        return text
    return "\n".join([text, "", "```sh", f"trl {command} --model_name_or_path MODEL --dataset_name {address}", "```"])


TRAINING: Final[Mapping[str, str]] = {
    "preference": "dpo",
    "preference-plain": "dpo",
    "kto": "kto",
    "reward": "reward",
    "sft": "sft",
}


def counts(figures: CardStatistics) -> str:
    rows = [[split, f"{number:,}"] for split, number in sorted(figures.rows.items(), reverse=True)]
    people = [
        [source, f"{number:,}", f"{len(figures.annotators[source]):,}"]
        for source, number in sorted(figures.judgements.items())
    ]
    behind = (
        f"The rows come from {figures.comparisons:,} comparisons. "
        "`test` holds the prompts that Prefloop keeps out of all training."
    )
    heads = ["judged by", "judgements that counted", "annotators"]
    return "\n\n".join(part for part in (table(["split", "rows"], rows), behind, table(heads, people)) if part)


def left_out(figures: CardStatistics) -> str:
    if not figures.left_out:
        return "Nothing."
    rows = [[LEFT_OUT[reason], f"{number:,}"] for reason, number in figures.left_out.most_common()]
    return "Judgements, or pairs of answers, that give no row:\n\n" + table(["reason", "number"], rows)


AGREEMENT_UNKNOWN: Final = "No two annotators judged the same comparison, so agreement is not known."
ALL_COUNTED: Final = "Over all judgements that passed the filters and were not left out, also those that gave no row."


def random_ones(votes: Iterable[Vote]) -> list[Vote]:
    """Those of comparisons whose answers no heads chose: what agreement and biases can be measured on."""
    return [vote for vote in votes if not vote.by_heads]


def agreement(figures: CardStatistics) -> str:
    found = agreement_table(figures.votes)
    return f"{ALL_COUNTED}\n\n{found}" if found else AGREEMENT_UNKNOWN


@speaking(ENGLISH)
def agreement_table(votes: Sequence[Vote]) -> str:
    """How far annotators agree, by question; nothing where no two judged the same comparison."""
    rows = [
        [
            found.question.format(size=found.size),
            f"{found.comparisons:,}",
            percent_with_interval(found.percent),
            "not defined" if found.alpha is None else number_with_interval(found.alpha),
            found.level,
        ]
        for found in agreements(random_ones(votes))
    ]
    heads = ["question", "comparisons", "same answer (95% interval)", "Krippendorff's alpha (95% interval)", "level"]
    return table(heads, rows)


def biases(figures: CardStatistics) -> str:
    votes = random_ones(figures.votes)
    rows = [
        [bias.name, f"{bias.share.n:,}", percent_with_interval(bias.share), f"{bias.fair:.0%}"]
        for bias in (*position_biases(votes), *length_biases(votes))
    ]
    if not rows:
        return "There are no choices to measure them on."
    return ALL_COUNTED + "\n\n" + table(["bias", "choices", "share (95% interval)", "without bias"], rows)


NOTES: Final[Mapping[str, str]] = {
    "prompt": "the conversation up to the answer",
    "chosen": "the preferred answer",
    "rejected": "the other answer",
    "completion": "the answer",
    "label": "whether the answer is good",
    "margin": "strength / 3, for the loss of a reward model; 0 where no strength is known",
    "strength": "mean strength of those who preferred it: 1 slightly, 2 clearly, 3 much better",
    "agreement": "share of the annotators who preferred one of the two that preferred this one",
    "flip": "estimated chance that the preference is the wrong way round, by the reliability of those who judged",
    "annotators": "who said so",
    "source": "human, ai, imported, or edited (the answer is a person's edited version)",
    "chosen_by": "who wrote the chosen answer: a policy's revision, person or import",
    "rejected_by": "who wrote the rejected answer",
    "written_by": "who wrote the answer: a policy's revision, person or import",
    "iteration": "of the policy that wrote the answers: 0 is the base model, 1 an adapter trained on it, …",
    "prompt_id": "rows with the same number share their prompt",
    "comparison_id": "rows with the same number come from one comparison: keep them on one side of a split",
    "judged": "when (UTC)",
    "written": "when (UTC)",
    "formed_chance": "with what chance its prompt was taken for a comparison; none is unknown",
    "people_chance": "with what chance people were to judge the comparison; none is unknown",
    "shown_chances": "of each judgement, with what chance its annotator was shown this comparison; none is unknown",
    "answers_by": "what chose the answers to compare: random, heads (that disagree on them) or person; none is unknown",
    "answers_chance": "with what chance these of the answers drawn were compared; none is unknown",
}
WHOLE_CONVERSATIONS: Final[Mapping[str, str]] = {
    "chosen": "the conversation with the preferred answer",
    "rejected": "the conversation with the other answer",
}


def origin(request: ExportRequest, figures: CardStatistics, provenance: Provenance) -> str:
    """Dates, settings, filters and base model, then a row for each that has written answers."""
    lines = [
        f"- Judged from {figures.first_day} to {figures.last_day} (UTC).",
        f"- Annotators are {'named' if request.names else 'pseudonyms'}.",
        f"- Filters: {filters_text(called(request, provenance.names))}.",
        f"- Project: {project_text(provenance.project)}.",
    ]
    used = [model for model in provenance.models if figures.written_by[model.revision]]
    if used:
        bases = ", ".join(dict.fromkeys(code(base_name(model.base)) for model in used))
        lines.append(f"- Base model: {bases}.")
    if figures.written_by["import"] or figures.judgements["imported"]:
        lines += [
            f"- Imported {entry.created[:10]}: {code(entry.name)}, format {code(entry.format)}."
            for entry in provenance.imports
        ]
    if figures.unknown_chances:
        lines.append(
            "- With what chance comparisons were made and given to people is unknown of "
            f"{figures.unknown_chances:,} of {figures.comparisons:,}."
        )
    writers = writers_table(figures, provenance, used)
    return "\n".join(lines) + (f"\n\n{writers}" if writers else "")


def writers_table(figures: CardStatistics, provenance: Provenance, used: Sequence[KnownModel]) -> str:
    """A row for each that has written answers: the policies in use, then imports and people."""
    revisions = {model.id: model.revision for model in provenance.models}
    rows = [
        [
            code(model.revision),
            model.algorithm,
            code(revisions[model.parent_id]) if model.parent_id in revisions else "",
            model.created[:10],
            f"{figures.written_by[model.revision]:,}",
            "; ".join(map(sampling_text, provenance.samplings.get(model.revision, ()))),
        ]
        for model in used
    ]
    others = [word for word in ("import", "person") if figures.written_by[word]]
    rows += [[word, "", "", "", f"{figures.written_by[word]:,}", ""] for word in others]
    return table(["answers by", "algorithm", "parent", "made", "answers", "sampling"], rows)


def base_name(base: str) -> str:
    """A base model's name; of one in a directory of this machine only the directory's own."""
    path = PurePath(base)
    return path.name if path.is_absolute() else base


def called(request: ExportRequest, names: Mapping[str, str]) -> Filters:
    """The filters of an export with annotators as it calls them; of a list by people or groups what it is by."""
    if request.names:
        return request.filters
    annotators = tuple(names[name] for name in request.filters.annotators)
    wanted = ComparisonFilter.of(request.filters.comparisons)
    by_people = bool(wanted.person or wanted.assigned)
    comparisons = f"by {' and '.join(wanted.query)} (not shown)" if by_people else request.filters.comparisons
    return replace(request.filters, annotators=annotators, comparisons=comparisons)


def filters_text(filters: Filters) -> str:
    asked = {name: value for name, value in vars(filters).items() if value != getattr(Filters(), name)}
    texts = {name: ", ".join(map(str, one)) if isinstance(one, tuple) else str(one) for name, one in asked.items()}
    return ", ".join(f"{name} {code(text)}" for name, text in texts.items()) or "none"


def project_text(project: Project) -> str:
    tags = ", ".join(code(tag.label) for tag in project.tags) or "none"
    annotators = "1 annotator" if project.overlap == 1 else f"{project.overlap} annotators"
    return (
        f"comparisons of kind {project.kind} with {project.answers} answers, {annotators} each, "
        f"{project.gold_share:.0%} gold, {project.re_ask_share:.0%} asked again, reasons {tags}"
    )


def sampling_text(sampling: str) -> str:
    return ", ".join(f"{code(name)} {code(str(value))}" for name, value in json.loads(sampling).items())


def guidelines_part(figures: CardStatistics, provenance: Provenance) -> str:
    """Which versions held, and the text of each."""
    by_version = {version: number for version, number in figures.guidelines.items() if version is not None}
    without = figures.guidelines[None]
    lines = [f"- version {version}: {number:,} judgements" for version, number in sorted(by_version.items())]
    lines += [f"- no guidelines: {without:,} judgements"] if without else []
    asked = provenance.project.kind
    texts = [
        guidelines_text(entry, asked)
        for entry in sorted(provenance.guidelines, key=attrgetter("version"))
        if entry.version in by_version
    ]
    return "\n\n".join(["\n".join(lines) or "No judgement was made here, so no guidelines held.", *texts])


def guidelines_text(entry: Guidelines, asked: Kind) -> str:
    """A version in the words that annotators read now, which others may have been while something else was asked."""
    follow = follows(entry.text, asked)
    words = f". Its words follow what is asked of annotators, which now is {asked}" if follow else ""
    return f"Version {entry.version}, written {entry.created[:10]}{words}:\n\n{fenced(as_read(entry.text, asked))}"


# ------------------------------------------------------------------------------------------------------------ Markdown
def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """Text from anywhere as inline code, in one line."""
    flat = " ".join(text.split())
    ticks = "`" * (longest_run(flat) + 1)
    space = " " if flat.startswith("`") or flat.endswith("`") or not flat else ""
    return f"{ticks}{space}{flat}{space}{ticks}"


def fenced(text: str) -> str:
    fence = "`" * max(3, longest_run(text) + 1)
    return f"{fence}text\n{text}\n{fence}"


def longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
