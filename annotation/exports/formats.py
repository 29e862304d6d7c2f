"""Judgements to rows of the formats that others train on: TRL preference, KTO, reward, SFT, and flat CSV. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from statistics import fmean
from typing import Any, Final, Literal, get_args

from annotation.exports.transcripts import can_be_told, transcript
from annotation.metrics.aggregation import REASONS, Pair, edit_pairs, pairs_of, usable, vote
from annotation.records import (
    MAXIMUM_ANSWERS,
    AnnotatorKind,
    Demonstration,
    JudgedAnswer,
    Judgement,
    Message,
    Split,
    UserError,
    ancestors_of,
)
from annotation.store.data_sources import KnownAnnotator, KnownModel
from annotation.translation import N_, _, joined
from annotation.workbench.comparison_filter import ComparisonFilter, check_day

Source = Literal["human", "ai", "edited", "imported"]
Column = Literal["text", "number", "whole", "truth", "texts", "numbers", "messages"]
ExportRow = dict[str, Any]

SOURCES: Final[tuple[Source, ...]] = get_args(Source)
SOURCE_OF_KIND: Final[Mapping[str, Source]] = {"person": "human", "ai": "ai", "import": "imported"}
SPLIT_NAMES: Final[Mapping[Split, str]] = {"train": "train", "held-out": "test"}
# The smaller of the two margins that Touvron et al. (2023, table 27) trained reward models with: much 1, clearly 2/3,
# slightly 1/3. An unknown strength has none: with 0 the loss is the one without margins.
STRONGEST: Final = 3

# Why an export has no row of something, in the words of the card; `REASONS` has the others.
LEFT_OUT: Final[Mapping[str, str]] = {
    **REASONS,
    "other-annotator": N_("by another annotator than asked for"),
    "other-date": N_("made at another time than asked for"),
    "other-source": N_("from another source than asked for"),
    "other-policy": N_("on answers of another policy than asked for"),
    "low-agreement": N_("agreement below the minimum"),
    "middle": N_("answers better than some and worse than others"),
    "no-edit": N_("without an edited answer"),
    "transcript": N_("with a text that holds the marks of a transcript, whose turns nobody could tell apart"),
}
NUMBERED: Final = N_("{what} {count:,}")


def reasons_of(left_out: Mapping[str, int]) -> str:
    """Why something is left out, each reason with how much it is, the most first."""
    counted = [(_(LEFT_OUT[why]), count) for why, count in sorted(left_out.items(), key=lambda entry: -entry[1])]
    return joined(*(_(NUMBERED).format(what=what, count=count) for what, count in counted), by=", ")


# ----------------------------------------------------------------------------------------------------------- filters
@dataclass(frozen=True)
class Filters:
    """What is wanted; an empty tuple or text asks for everything."""

    iterations: tuple[int, ...] = ()
    """How many trainings lie behind the policies that wrote the answers; 0 for the base model."""
    policies: tuple[str, ...] = ()
    """Revisions of the policies that wrote the answers."""
    annotators: tuple[str, ...] = ()
    since: str = ""
    """First day, as 2026-01-31 (UTC)."""
    until: str = ""
    """Last day, as 2026-01-31 (UTC)."""
    agreement: float = 0.0
    """Least share of the annotators who preferred one of two answers that must agree."""
    sources: tuple[Source, ...] = SOURCES
    """Judgements by people, by AI judges, or imported; and edited answers."""
    comparisons: str = ""
    """Only these comparisons: a filter of their list, as its address says it (`status=judged`)."""

    def covers(self, moment: str) -> bool:
        """Whether a time (as `records.now` writes it) is in the asked days."""
        after = (date.fromisoformat(self.until) + timedelta(days=1)).isoformat() if self.until else ""
        return moment >= self.since and (not after or moment < after)


@dataclass(frozen=True)
class ExportRequest:
    format: str = "preference"
    container: str = "dataset"
    filters: Filters = Filters()
    names: bool = False
    """Whether annotators are named; otherwise each has a pseudonym."""
    licence: str = ""
    """The Hub's word for a licence, say 'cc-by-4.0'; empty where whoever publishes it has not chosen."""
    address: str = ""
    """Where on the Hub it goes, if it does."""


CONTAINERS: Final[Mapping[str, str]] = {
    "jsonl": N_("JSON lines: a file for each split"),
    "parquet": N_("Parquet: a file for each split"),
    "dataset": N_("datasets directory, as load_dataset reads it"),
}
ONE_FILE: Final[Mapping[str, str]] = {"csv": ".csv", "raw": ".jsonl"}
"""Formats that come as one file, whatever the container, with its ending."""


@dataclass(frozen=True)
class ExportContext:
    """What rows are made with beside the judgements: policies, people, and who is left out."""

    iterations: Mapping[str, int] = field(default_factory=dict)
    """How many ancestors each policy has, by revision."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What each annotator is called in the export."""
    excluded: frozenset[str] = frozenset()
    reliability: Mapping[str, float] | None = None
    """How often each annotator is estimated to be right: what their votes weigh, as in training."""


def check_request(request: ExportRequest, known: ExportContext) -> None:
    """Raises UserError that names what was asked for and can't be had."""
    filters = request.filters
    if request.format not in (*FORMATS, "raw"):
        said = _("There is no format '{format}'. Choose one of: {formats}, raw.")
        raise UserError(said.format(format=request.format, formats=", ".join(FORMATS)))
    if request.container not in CONTAINERS:
        said = _("There is no container '{container}'. Choose one of: {containers}.")
        raise UserError(said.format(container=request.container, containers=", ".join(CONTAINERS)))
    if request.format == "raw" and filters != Filters():
        raise UserError(_("The raw archive takes no filters. Remove them or choose a format."))
    refuse_unknown(_("There is no policy '{value}' here. There is: {listed}."), filters.policies, known.iterations)
    refuse_unknown(_("There is no annotator '{value}' here. There is: {listed}."), filters.annotators, known.names)
    untrained = _("No policy here has this many trainings behind it: {value}. There is: {listed}.")
    refuse_unknown(untrained, filters.iterations, set(known.iterations.values()))
    refuse_unknown(_("There is no source '{value}' here. There is: {listed}."), filters.sources, SOURCES)
    for day in (filters.since, filters.until):
        check_day(day)
    if filters.since and filters.until and filters.since > filters.until:
        said = _("The first day, {since}, is after the last day, {until}. Swap them.")
        raise UserError(said.format(since=filters.since, until=filters.until))
    check_licence(request.licence)
    ComparisonFilter.of(filters.comparisons)
    if not filters.sources:
        raise UserError(_("Choose at least one source: {sources}.").format(sources=", ".join(SOURCES)))
    if not 0 <= filters.agreement <= 1:
        said = _("The minimum agreement is a share from 0 to 1, not {agreement}.")
        raise UserError(said.format(agreement=filters.agreement))


# The Hub's words for the licences that data and models often have; it knows more.
LICENCES: Final = (*("cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "odc-by", "apache-2.0", "mit", "other"),)


def check_licence(name: str) -> None:
    """Raises UserError for what can't be the Hub's word for a licence; none is none."""
    if name and not is_licence(name):
        said = _("'{name}' is no licence as the Hub names them. Say for example cc-by-4.0 or mit.")
        raise UserError(said.format(name=name[:80]))


def is_licence(name: str) -> bool:
    return re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name) is not None


def refuse_unknown(sentence: str, asked: Sequence[Any], there: Any) -> None:
    """Raises UserError for the first of the asked that is not there."""
    for value in asked:
        if value not in there:
            listed = ", ".join(str(entry) for entry in sorted(there)[:20]) or _("none")
            raise UserError(sentence.format(value=value, listed=listed))


def iterations_of(models: Sequence[KnownModel]) -> dict[str, int]:
    """How many ancestors each policy has, by revision."""
    parents = {one.id: one.parent_id for one in models}
    return {one.revision: len(ancestors_of(parents, one.id)) for one in models}


def pseudonyms(annotators: Sequence[KnownAnnotator]) -> dict[str, str]:
    """A name for each annotator that says nothing but what kind it is."""
    words: Mapping[AnnotatorKind, str] = {"person": "annotator", "ai": "ai", "import": "import"}
    return {one.name: f"{words[one.kind]}-{one.id}" for one in annotators}


# --------------------------------------------------------------------------------- one comparison, filtered, aggregated
@dataclass(frozen=True)
class AggregatedComparison:
    """What one comparison's judgements give under the filters, and why the rest gives nothing."""

    judgements: tuple[Judgement, ...]
    """Those that count: with a voice on the answers, or with an edit."""
    pairs: tuple[Pair, ...]
    reasons: tuple[str, ...]
    """A reason for each judgement that does not count."""
    pair_reasons: tuple[str, ...]
    """A reason for each pair of answers without a row; for judgements without a ranking, their outcome."""


def aggregate(group: Sequence[Judgement], filters: Filters, known: ExportContext) -> AggregatedComparison:
    """The judgements and preference pairs of one comparison that are wanted, left out as in training first."""
    counted, left_out = usable(group, known.excluded)
    reasons = list(left_out)
    voices: list[Judgement] = []
    kept: list[Judgement] = []
    for judgement in counted:
        reason = why_unwanted(judgement, filters)
        has_voice = SOURCE_OF_KIND[judgement.annotator_kind] in filters.sources
        has_edit = judgement.edited is not None and "edited" in filters.sources
        if reason is None and not (has_voice or has_edit):
            reason = "other-source"
        if reason is not None:
            reasons.append(reason)
            continue
        unedited = judgement if judgement.edited is None else replace(judgement, edited=None)
        kept.append(judgement if has_edit else unedited)
        if has_voice:
            voices.append(unedited)
    edits = [pair for judgement in kept for pair in edit_pairs(judgement, known.reliability)]
    decided, undecided = pairs_of(voices, known.reliability)
    pairs, pair_reasons = [], list(undecided)
    for pair in [*edits, *decided]:
        reason = why_no_pair(pair, kept, filters, known)
        if reason is None:
            pairs.append(pair)
        else:
            pair_reasons.append(reason)
    return AggregatedComparison(tuple(kept), tuple(pairs), tuple(reasons), tuple(pair_reasons))


def why_unwanted(judgement: Judgement, filters: Filters) -> str | None:
    if filters.annotators and judgement.annotator not in filters.annotators:
        return "other-annotator"
    return None if filters.covers(judgement.created) else "other-date"


def why_no_pair(pair: Pair, judgements: Sequence[Judgement], filters: Filters, known: ExportContext) -> str | None:
    if pair.identical:
        return "identical"
    if not is_by(writers(judgements[0], [pair.better, pair.worse]), filters, known):
        return "other-policy"
    return "low-agreement" if pair.agreement < filters.agreement else None


def writers(judgement: Judgement, responses: Sequence[JudgedAnswer]) -> set[str]:
    """Revisions of the policies that wrote answers of a comparison; an edit counts for its original."""
    by_id = {response.id: response.revision for response in judgement.responses}
    revisions = {
        response.revision if response.edited_from is None else by_id.get(response.edited_from) for response in responses
    }
    return {revision for revision in revisions if revision is not None}


def is_by(revisions: set[str], filters: Filters, known: ExportContext) -> bool:
    """Whether answers by these policies are wanted: all of them, and at least one."""
    if not filters.policies and not filters.iterations:
        return True
    return bool(revisions) and all(
        (not filters.policies or revision in filters.policies)
        and (not filters.iterations or known.iterations[revision] in filters.iterations)
        for revision in revisions
    )


def ranking_judgements(aggregated: AggregatedComparison, filters: Filters) -> list[Judgement]:
    """The judgements that are here for what they say of the answers, not only for their edit."""
    return [one for one in aggregated.judgements if SOURCE_OF_KIND[one.annotator_kind] in filters.sources]


def written_by(response: JudgedAnswer) -> str:
    """Who wrote an answer: a policy's revision, 'person' or 'import'."""
    return response.revision or ("import" if response.origin == "import" else "person")


# -------------------------------------------------------------------------------------------------------- parts of rows
def conversation(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages with role and content, and nothing else."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def margin(strength: float | None) -> float:
    return 0.0 if strength is None else strength / STRONGEST


def source_of(pair: Pair, judgements: Mapping[int, Judgement]) -> str:
    """Where a preference comes from; more than one source is joined by a plus sign."""
    if pair.better.edited_from is not None:
        return "edited"
    found = {SOURCE_OF_KIND[judgements[number].annotator_kind] for number in pair.judgements}
    return "+".join(source for source in SOURCES if source in found)


def annotator_names(names: Sequence[str], known: ExportContext) -> list[str]:
    return [known.names[name] for name in dict.fromkeys(names)]


def iteration_of(revisions: set[str], known: ExportContext) -> int | None:
    """The latest iteration among policies."""
    return max((known.iterations[revision] for revision in revisions), default=None)


# Chances as `annotation.selection` defines them; none is unknown. `shown_chances` is a list, one for each judgement.
CHANCE_FACTS: Final[Mapping[str, Column]] = {
    "formed_chance": "number",
    "people_chance": "number",
    "shown_chances": "numbers",
    "answers_by": "text",
    "answers_chance": "number",
}
PAIR_FACTS: Final[Mapping[str, Column]] = {
    "margin": "number",
    "strength": "number",
    "agreement": "number",
    "flip": "number",
    "annotators": "texts",
    "source": "text",
    "chosen_by": "text",
    "rejected_by": "text",
    "iteration": "whole",
    "prompt_id": "whole",
    "comparison_id": "whole",
    "judged": "text",
    **CHANCE_FACTS,
}


def chance_facts(first: Judgement, judgements: Sequence[Judgement]) -> ExportRow:
    """The chances of a comparison, and of each judgement that a row rests on."""
    return {
        "formed_chance": first.formed_chance,
        "people_chance": first.people_chance,
        "shown_chances": [judgement.shown_chance for judgement in judgements],
        "answers_by": first.answers_by,
        "answers_chance": first.answers_chance,
    }


def pair_facts(aggregated: AggregatedComparison, pair: Pair, known: ExportContext) -> ExportRow:
    judgements = {judgement.id: judgement for judgement in aggregated.judgements}
    first = aggregated.judgements[0]
    return {
        "margin": margin(pair.strength),
        "strength": pair.strength,
        "agreement": pair.agreement,
        "flip": round(pair.flip, 6),
        "annotators": annotator_names(pair.annotators, known),
        "source": source_of(pair, judgements),
        "chosen_by": written_by(pair.better),
        "rejected_by": written_by(pair.worse),
        "iteration": iteration_of(writers(first, [pair.better, pair.worse]), known),
        "prompt_id": first.prompt_id,
        "comparison_id": first.comparison_id,
        "judged": max(judgements[number].created for number in pair.judgements),
        **chance_facts(first, [judgements[number] for number in pair.judgements]),
    }


# ------------------------------------------------------------------------------------------------------------- formats
@dataclass(frozen=True)
class ExportedRows:
    rows: list[ExportRow]
    left_out: list[str]


def pair_rows(aggregated: AggregatedComparison, known: ExportContext, texts: Sequence[ExportRow]) -> ExportedRows:
    """A row for each preference: its texts, and the columns beside them."""
    rows = [{**own, **pair_facts(aggregated, pair, known)} for pair, own in zip(aggregated.pairs, texts, strict=True)]
    return ExportedRows(rows, [*aggregated.reasons, *aggregated.pair_reasons])


def preference(aggregated: AggregatedComparison, filters: Filters, known: ExportContext) -> ExportedRows:
    """TRL's explicit-prompt preference format, conversational."""
    prompt = conversation(aggregated.judgements[0].messages)
    sides = [{"chosen": answer(pair.better.text), "rejected": answer(pair.worse.text)} for pair in aggregated.pairs]
    return pair_rows(aggregated, known, [{"prompt": prompt, **texts} for texts in sides])


def preference_plain(aggregated: AggregatedComparison, filters: Filters, known: ExportContext) -> ExportedRows:
    """The same with strings: the prompt as a transcript, each answer after a space."""
    if aggregated.pairs and not can_be_told(aggregated.judgements[0].messages):
        unclear = ["transcript" for _ in aggregated.pairs]
        return ExportedRows([], [*aggregated.reasons, *aggregated.pair_reasons, *unclear])
    prompt = transcript(aggregated.judgements[0].messages) if aggregated.pairs else ""
    sides = [{"chosen": f" {pair.better.text}", "rejected": f" {pair.worse.text}"} for pair in aggregated.pairs]
    return pair_rows(aggregated, known, [{"prompt": prompt, **texts} for texts in sides])


def reward(aggregated: AggregatedComparison, filters: Filters, known: ExportContext) -> ExportedRows:
    """TRL's implicit-prompt preference format: two whole conversations and the margin of the loss."""
    turns = conversation(aggregated.judgements[0].messages)
    sides = [(answer(pair.better.text), answer(pair.worse.text)) for pair in aggregated.pairs]
    texts = [{"chosen": [*turns, *better], "rejected": [*turns, *worse]} for better, worse in sides]
    return pair_rows(aggregated, known, texts)


ANSWER_FACTS: Final[Mapping[str, Column]] = {
    "agreement": "number",
    "annotators": "texts",
    "source": "text",
    "written_by": "text",
    "iteration": "whole",
    "prompt_id": "whole",
    "comparison_id": "whole",
    "judged": "text",
    **CHANCE_FACTS,
}


def kto(aggregated: AggregatedComparison, filters: Filters, known: ExportContext) -> ExportedRows:
    """TRL's unpaired preference format: good is what was better and never worse, bad what was worse and never better.

    Where most annotators found all answers bad, all are bad.
    """
    voices = [judgement for judgement in ranking_judgements(aggregated, filters) if judgement.outcome != "skip"]
    bad = [judgement for judgement in voices if judgement.outcome == "all-bad"]
    if 2 * len(bad) > len(voices):
        return kto_all_bad(aggregated, bad, len(bad) / len(voices), filters, known)
    rows, left_out = [], [*aggregated.reasons, *aggregated.pair_reasons]
    texts = {side.id: side for pair in aggregated.pairs for side in (pair.better, pair.worse)}
    for response in texts.values():
        better = [pair for pair in aggregated.pairs if pair.better.id == response.id]
        worse = [pair for pair in aggregated.pairs if pair.worse.id == response.id]
        if better and worse:
            left_out.append("middle")
            continue
        facts = [pair_facts(aggregated, pair, known) for pair in (better or worse)]
        numbers = dict.fromkeys(number for pair in (better or worse) for number in pair.judgements)
        behind = [judgement for judgement in aggregated.judgements if judgement.id in numbers]
        rows.append(
            {
                **kto_parts(aggregated, response, bool(better), known),
                "agreement": fmean(fact["agreement"] for fact in facts),
                "annotators": list(dict.fromkeys(name for fact in facts for name in fact["annotators"])),
                "source": "+".join(dict.fromkeys(fact["source"] for fact in facts)),
                "judged": max(fact["judged"] for fact in facts),
                **chance_facts(aggregated.judgements[0], behind),
            }
        )
    return ExportedRows(rows, left_out)


def kto_all_bad(
    aggregated: AggregatedComparison, bad: Sequence[Judgement], share: float, filters: Filters, known: ExportContext
) -> ExportedRows:
    """Every answer of a comparison as a bad one, unless agreement or policy is not as asked for."""
    responses = bad[0].responses
    left_out = [*aggregated.reasons, *(reason for reason in aggregated.pair_reasons if reason == "skip")]
    if share < filters.agreement or not is_by(writers(bad[0], responses), filters, known):
        reason = "low-agreement" if share < filters.agreement else "other-policy"
        return ExportedRows([], [*left_out, *(reason for _ in responses)])
    shared = {
        "agreement": share,
        "annotators": annotator_names([judgement.annotator for judgement in bad], known),
        "source": "+".join(dict.fromkeys(SOURCE_OF_KIND[judgement.annotator_kind] for judgement in bad)),
        "judged": max(judgement.created for judgement in bad),
        **chance_facts(aggregated.judgements[0], bad),
    }
    rows = [{**kto_parts(aggregated, response, False, known), **shared} for response in responses]
    return ExportedRows(rows, left_out)


def kto_parts(aggregated: AggregatedComparison, response: JudgedAnswer, label: bool, known: ExportContext) -> ExportRow:
    first = aggregated.judgements[0]
    return {
        "prompt": conversation(first.messages),
        "completion": answer(response.text),
        "label": label,
        "written_by": written_by(response),
        "iteration": iteration_of(writers(first, [response]), known),
        "prompt_id": first.prompt_id,
        "comparison_id": first.comparison_id,
    }


def sft(aggregated: AggregatedComparison, filters: Filters, known: ExportContext) -> ExportedRows:
    """TRL's prompt-completion format: what annotators made of the best answer."""
    rows, left_out = [], list(aggregated.reasons)
    for judgement in aggregated.judgements:
        if judgement.edited is None:
            left_out.append("no-edit")
        elif not is_by(writers(judgement, [judgement.edited]), filters, known):
            left_out.append("other-policy")
        else:
            facts = {
                "annotators": annotator_names([judgement.annotator], known),
                "source": "edited",
                "iteration": iteration_of(writers(judgement, [judgement.edited]), known),
                "comparison_id": judgement.comparison_id,
                "written": judgement.created,
            }
            rows.append(sft_row(judgement, judgement.edited.text, facts))
    return ExportedRows(rows, left_out)


def demonstration(shown: Demonstration, filters: Filters, known: ExportContext) -> ExportRow | str:
    """A demonstration as an SFT row, or the reason why it is none."""
    source: Source = "human" if shown.origin == "person" else "imported"
    reason = (
        "excluded" if shown.annotator in known.excluded
        else "other-source" if source not in filters.sources
        else "other-annotator" if filters.annotators and shown.annotator not in filters.annotators
        else "other-date" if not filters.covers(shown.created)
        else "other-policy" if filters.policies or filters.iterations
        else None
    )  # fmt: skip
    if reason is not None:
        return reason
    by = [] if shown.annotator is None else annotator_names([shown.annotator], known)
    facts = {"annotators": by, "source": source, "iteration": None, "comparison_id": None, "written": shown.created}
    return sft_row(shown, shown.text, facts)


def sft_row(shown: Judgement | Demonstration, text: str, facts: ExportRow) -> ExportRow:
    return {"prompt": conversation(shown.messages), "completion": answer(text), "prompt_id": shown.prompt_id, **facts}


# ---------------------------------------------------------------------------------------------------------- flat CSV
def judgement_rows(aggregated: AggregatedComparison, filters: Filters, known: ExportContext) -> ExportedRows:
    """A flat row for each judgement that is no skip, ties and 'all bad' included, with its answers by position."""
    agreement = lowest_agreement(ranking_judgements(aggregated, filters))
    rows, left_out = [], list(aggregated.reasons)
    for judgement in aggregated.judgements:
        reason = (
            "skip" if judgement.outcome == "skip"
            else "other-policy" if not is_by(writers(judgement, judgement.responses), filters, known)
            else "low-agreement" if agreement < filters.agreement
            else None
        )  # fmt: skip
        if reason is None:
            rows.append(flat_row(judgement, agreement, known))
        else:
            left_out.append(reason)
    return ExportedRows(rows, left_out)


def flat_row(judgement: Judgement, agreement: float, known: ExportContext) -> ExportRow:
    texts = [response.text for response in judgement.responses]
    ranks = judgement.ranking
    decided = ranks is not None and len(ranks) == 2 and ranks[0] != ranks[1]
    best = ranks.index(1) if ranks is not None and decided else None
    return {
        "judgement_id": judgement.id,
        "comparison_id": judgement.comparison_id,
        "prompt_id": judgement.prompt_id,
        "split": SPLIT_NAMES[judgement.split],
        "judged": judgement.created,
        "annotator": known.names[judgement.annotator],
        "source": SOURCE_OF_KIND[judgement.annotator_kind],
        "kind": judgement.kind,
        "outcome": judgement.outcome,
        "prompt": judgement.messages[-1]["content"],
        "conversation": as_json(conversation(judgement.messages)),
        "chosen": None if best is None else texts[best],
        "rejected": None if best is None else texts[1 - best],
        "strength": judgement.strength,
        "ranking": None if ranks is None else as_json(ranks),
        "edited": None if judgement.edited is None else judgement.edited.text,
        "tags": as_json(judgement.tags),
        "note": judgement.note,
        "agreement": agreement,
        "seconds": judgement.seconds,
        "shown_order": as_json(judgement.shown_order),
        "guidelines_version": judgement.guidelines_version,
        "formed_chance": chance_text(judgement.formed_chance),
        "people_chance": chance_text(judgement.people_chance),
        "shown_chance": "" if judgement.annotator_kind == "ai" else chance_text(judgement.shown_chance),
        "answers_by": judgement.answers_by or UNKNOWN,
        "answers_chance": chance_text(judgement.answers_chance),
        "iteration": iteration_of(writers(judgement, judgement.responses), known),
        "written_by": as_json([written_by(response) for response in judgement.responses]),
        **{f"answer_{place}": text for place, text in enumerate(texts, 1)},
    }


def chance_text(chance: float | None) -> str:
    return UNKNOWN if chance is None else str(chance)


UNKNOWN: Final = "unknown"


def unflattened(row: Mapping[str, str]) -> ExportRow:
    """What an import reads in a flat row: conversation, answers and verdict as lists, the rest as it is.

    Raises ValueError or KeyError for a row that somebody has changed so that it is none any more.
    """
    size = len(json.loads(row["shown_order"]))
    texts = [row[f"answer_{place}"] for place in range(1, size + 1)]
    told = {"conversation": json.loads(row["conversation"]), "answers": [answer(text) for text in texts]}
    ranking = json.loads(row["ranking"]) if row["ranking"] else None
    said = {*told, "ranking", "prompt", "chosen", "rejected"}
    rest = {name: text for name, text in row.items() if name not in said and not name.startswith("answer_")}
    return {**told, "ranking": ranking, **rest}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def lowest_agreement(voices: Sequence[Judgement]) -> float:
    """The smallest majority among those who preferred one of two answers, over all pairs of answers; 1 without any."""
    ranked = [judgement for judgement in voices if judgement.ranking is not None]
    size = len(ranked[0].responses) if ranked else 0
    lowest = 1.0
    for first in range(size):
        for second in range(first + 1, size):
            votes = [sign for judgement in ranked if (sign := vote(judgement, first, second))]
            if votes:
                lowest = min(lowest, max(votes.count(1), votes.count(-1)) / len(votes))
    return lowest


# The first visible sign of a cell that a spreadsheet takes for a formula, in full width too (OWASP, CSV injection).
FORMULA_SIGNS: Final = "=+-@＝＋－＠"
ESCAPE: Final = "'"


# Where a spreadsheet may begin another cell: some take a file of ours as one that `;` separates, or tabs. An apostrophe
# that stands there already gets another one, so that each goes again.
WITHIN: Final = rf"(?=(?:['\"]|[^\S\t\r\n])*[{re.escape(FORMULA_SIGNS)}])"
INNER_FORMULA: Final = re.compile(rf"(?<=[;\t\r\n]){WITHIN}")
INNER_ESCAPED: Final = re.compile(rf"(?<=[;\t\r\n]){ESCAPE}{WITHIN}")


def escape_cell(cell: str) -> str:
    """A cell that no spreadsheet runs: an apostrophe goes before a formula, a tab, a line break and an apostrophe."""
    inside = INNER_FORMULA.sub(ESCAPE, cell)
    first = inside.lstrip()[:1]
    dangerous = first != "" and first in FORMULA_SIGNS
    return ESCAPE + inside if dangerous or cell[:1] in ("\t", "\r", "\n", "\0", ESCAPE) else inside


def unescape_cell(cell: str) -> str:
    """What `escape_cell` was given: the apostrophes that it has put there are taken away."""
    return INNER_ESCAPED.sub("", cell[1:] if cell[:1] == ESCAPE else cell)


# ------------------------------------------------------------------------------------------------------------ registry
@dataclass(frozen=True)
class Format:
    """A format: what it is for, its columns with their types, and the function that makes its rows."""

    title: str
    columns: Mapping[str, Column]
    rows: Callable[[AggregatedComparison, Filters, ExportContext], ExportedRows]


# A CSV file knows no types.
CSV_COLUMNS: Final[Mapping[str, Column]] = dict.fromkeys(
    (
        *("judgement_id", "comparison_id", "prompt_id", "split", "judged", "annotator", "source", "kind", "outcome"),
        *("prompt", "conversation", "chosen", "rejected", "strength", "ranking", "edited", "tags", "note", "agreement"),
        *("seconds", "shown_order", "guidelines_version", "formed_chance", "people_chance", "shown_chance"),
        *("answers_by", "answers_chance", "iteration", "written_by"),
        *(f"answer_{place}" for place in range(1, MAXIMUM_ANSWERS + 1)),
    ),
    "text",
)
FORMATS: Final[Mapping[str, Format]] = {
    "preference": Format(
        N_("TRL preference, conversational (DPO and others)"),
        {"prompt": "messages", "chosen": "messages", "rejected": "messages", **PAIR_FACTS},
        preference,
    ),
    "preference-plain": Format(
        N_("TRL preference, plain strings"),
        {"prompt": "text", "chosen": "text", "rejected": "text", **PAIR_FACTS},
        preference_plain,
    ),
    "kto": Format(
        N_("TRL unpaired preference (KTO)"),
        {"prompt": "messages", "completion": "messages", "label": "truth", **ANSWER_FACTS},
        kto,
    ),
    "reward": Format(
        N_("TRL reward model: whole conversations with a margin"),
        {"chosen": "messages", "rejected": "messages", **PAIR_FACTS},
        reward,
    ),
    "sft": Format(
        N_("TRL supervised fine-tuning: edited and imported answers"),
        {
            **{"prompt": "messages", "completion": "messages", "prompt_id": "whole", "annotators": "texts"},
            **{"source": "text", "iteration": "whole", "comparison_id": "whole", "written": "text"},
        },
        sft,
    ),
    "csv": Format(N_("CSV for a spreadsheet: a row for each judgement"), CSV_COLUMNS, judgement_rows),
}


def export_rows(aggregated: AggregatedComparison, request: ExportRequest, known: ExportContext) -> ExportedRows:
    if not aggregated.judgements:
        return ExportedRows([], [*aggregated.reasons, *aggregated.pair_reasons])
    return FORMATS[request.format].rows(aggregated, request.filters, known)
