"""What reads a row, for each form of data: prompts, one answer, two answers, several. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from annotation.exports.formats import UNKNOWN
from annotation.imports.mapping import labels
from annotation.imports.mapping.answer_ranks import ranking_of
from annotation.imports.mapping.columns import EMPTY, pass_over, with_paths
from annotation.imports.mapping.conversations import (
    SPEAKERS,
    has_thoughts,
    has_weights,
    holds_something,
    list_of,
    refuse_unlearned,
)
from annotation.imports.mapping.import_plan import ImportPlan, form_of
from annotation.imports.mapping.labels import BAD, FIRST, SECOND, TIED, TIES, Columns, UnusableRow
from annotation.imports.mapping.labels import ParsedVerdict as Said
from annotation.imports.mapping.mapped_rows import MappedRow, RowReader, remarked
from annotation.imports.mapping.prompt_and_answers import (
    cell,
    last_answer,
    prompt_of,
    turns_of,
    until_user,
    with_answers,
    with_system,
)
from annotation.imports.mapping.two_answers import two_answers
from annotation.imports.printable import display_name
from annotation.imports.sources.raw_rows import PICTURES
from annotation.records import MAXIMUM_ANSWERS
from annotation.translation import N_, _

EQUAL_SCORES: Final = N_("equal scores: imported as a tie")
SAID_TIE: Final = N_("chosen and rejected are called a tie: imported as one")
WEIGHT_LEFT: Final = N_("an answer with a weight of its own, which counts like any other")
PICTURES_LEFT: Final = N_("a text with a mark for a picture or sound, which is not there")
SYSTEM_LEFT: Final = N_("another system message beside the conversation's own, which is left out")
THOUGHTS_LEFT: Final = N_("a message with what was thought before it, which is left out")
NOT_ALL_READ: Final = N_("a list with more entries than those that are named, which alone are read")
PICTURE_MARK: Final = re.compile(r"<(image|video|audio)>")

VerdictReader = Callable[[Mapping[str, Any]], tuple[Said | None, int | None, str]]
"""What a row says of two answers, with the strength and a remark."""


# ----------------------------------------------------------------------------------------------------------- prompts
def read_prompt(plan: ImportPlan) -> RowReader:
    """Prompts only, whatever else there is; of a table of messages those that begin a conversation."""
    columns = plan.columns

    def read(values: Mapping[str, Any]) -> MappedRow:
        said = cell(values, columns, "speaker")
        if isinstance(said, str) and SPEAKERS.get(said.strip().casefold(), said) != "user":
            raise UnusableRow(
                columns["speaker"],
                _("column '{column}' says that this is a message of the {display_name}, no prompt"),
                display_name=display_name(said[:40]),
            )
        if cell(values, columns, "parent") not in (None, ""):
            raise UnusableRow(
                columns["parent"], _("column '{column}' names a message before this one, without which it is no prompt")
            )
        return MappedRow(prompt_of(values, columns))

    return read


def read_conversation(plan: ImportPlan) -> RowReader:
    columns = plan.columns
    return lambda values: MappedRow(until_user(with_system(turns_of(values, columns), values, columns), columns))


def read_shared_prompt(plan: ImportPlan) -> RowReader:
    read = read_chosen(plan)
    return lambda values: MappedRow(read(values).messages)


# -------------------------------------------------------------------------------------------------------- one answer
def read_answer(plan: ImportPlan) -> RowReader:
    """A prompt and the answer to it; with a label, good answers only."""
    columns, is_good = plan.columns, label_of(plan)

    def read(values: Mapping[str, Any]) -> MappedRow:
        refuse_bad(plan, is_good(values))
        messages, answers, remark = with_answers(values, columns, "completion", [values.get(columns["completion"])])
        return MappedRow(messages, answers, remark=remark)

    return read


def read_last_turn(plan: ImportPlan) -> RowReader:
    """A whole conversation: its last turn is the demonstration, what is before it the prompt.

    The answers within the prompt become demonstrations too, in the same split, where data is frozen
    (`rlhf.data.snapshots`).
    """
    columns, is_good = plan.columns, label_of(plan)

    def read(values: Mapping[str, Any]) -> MappedRow:
        refuse_bad(plan, is_good(values))
        messages, answer = last_answer(values, columns)
        return MappedRow(messages, (answer,))

    return read


def label_of(plan: ImportPlan) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row's answer is good; all are where nothing says so. Raises UnclearColumn for ratings alone."""
    return (
        labels.label_reader(plan.columns, plan.good_from)
        if plan.columns.keys() & {"label", "rating"}
        else lambda _: True
    )


def refuse_bad(plan: ImportPlan, good: bool) -> None:
    if not good:
        raise UnusableRow(
            plan.columns.get("label") or plan.columns["rating"], _("column '{column}' says that the answer is bad")
        )


def read_labelled(plan: ImportPlan) -> RowReader:
    """KTO's form: one answer that is good or bad."""
    columns, is_good = plan.columns, label_of(plan)

    def read(values: Mapping[str, Any]) -> MappedRow:
        if "completion" not in columns:
            messages, answer = last_answer(values, columns)
            return MappedRow(messages, (answer,), label=is_good(values))
        messages, answers, remark = with_answers(values, columns, "completion", [values.get(columns["completion"])])
        return MappedRow(messages, answers, label=is_good(values), remark=remark)

    return read


# ------------------------------------------------------------------------------------------------------- two answers
def read_chosen(plan: ImportPlan) -> RowReader:
    """A better and a worse answer, with the prompt beside them or at the beginning of both."""
    columns = plan.columns
    scored = {"score_a", "score_b"} <= columns.keys()

    def read(values: Mapping[str, Any]) -> MappedRow:
        messages, answers = two_answers(values, columns, columns["chosen"], columns["rejected"], plan.prompt_within)
        status = cell(values, columns, "status")
        if isinstance(status, str) and labels.word_of(status) in TIES:
            return MappedRow(messages, answers, *TIED, 0, remark=SAID_TIE)
        verdict = labels.compared(values, columns) if scored else None
        if verdict == TIED:
            return MappedRow(messages, answers, *TIED, 0, remark=EQUAL_SCORES)
        if verdict == SECOND:
            raise UnusableRow(
                columns["score_a"],
                _("column '{column}' is lower than '{display_name}': which is better?"),
                display_name=display_name(columns["score_b"]),
            )
        strength, remark = labels.strength_of(values, columns)
        return MappedRow(messages, answers, *FIRST, strength, remark=remark)

    return read


def read_pair(plan: ImportPlan) -> RowReader:
    columns = plan.columns
    judge: VerdictReader = (lambda _: (None, None, "")) if plan.verdict == "open" else pair_verdict(plan)

    def read(values: Mapping[str, Any]) -> MappedRow:
        messages, answers = two_answers(values, columns, columns["a"], columns["b"], plan.prompt_within)
        verdict, strength, remark = judge(values)
        outcome, ranking = verdict or (None, None)
        return MappedRow(messages, answers, outcome, ranking, strength=strength, remark=remark)

    return read


def pair_verdict(plan: ImportPlan) -> VerdictReader:
    """What a row's columns say of two answers, with strength and remark, in whichever way they say it."""
    columns = plan.columns
    if "preference" in columns:
        signed = labels.preference_reader(columns["preference"])
        return lambda values: signed(values.get(columns["preference"]))
    if "winner" in columns:
        words = labels.winner_reader(columns)
        return lambda values: with_strength(words(values.get(columns["winner"])), values, columns)
    role = next((role for role in ("winner_from_0", "winner_from_1") if role in columns), "")
    if role:
        return lambda values: with_strength(
            (FIRST, SECOND)[labels.index_of(values.get(columns[role]), columns[role], int(role[-1]), 2)],
            values,
            columns,
        )

    def by_scores(values: Mapping[str, Any]) -> tuple[Said | None, int | None, str]:
        verdict = labels.compared(values, columns)
        if verdict is None:
            raise UnusableRow(
                columns["score_a"],
                _("column '{column}' or '{display_name}' is empty"),
                display_name=display_name(columns["score_b"]),
            )
        return with_strength(verdict, values, columns, EQUAL_SCORES if verdict == TIED else "")

    return by_scores


def with_strength(
    verdict: Said, values: Mapping[str, Any], columns: Columns, remark: str = ""
) -> tuple[Said | None, int | None, str]:
    """A verdict with how much better the better answer is, and what is to be remarked."""
    if verdict == TIED:
        return verdict, 0, remark
    return (verdict, None, remark) if verdict == BAD else (verdict, *labels.strength_of(values, columns))


# --------------------------------------------------------------------------------------------------- several answers
def read_responses(plan: ImportPlan) -> RowReader:
    """Several answers with scores or ranks, beside them or within them, or the number of the best."""
    columns = plan.columns

    def read(values: Mapping[str, Any]) -> MappedRow:
        column = columns["responses"]
        entries = list_of(values.get(column), column)
        if not 2 <= len(entries) <= MAXIMUM_ANSWERS:
            raise UnusableRow(
                column,
                _("column '{column}' must hold 2 to {maximum_answers} answers; found: {count}"),
                count=len(entries),
                maximum_answers=MAXIMUM_ANSWERS,
            )
        messages, answers, remark = with_answers(values, columns, "responses", entries)
        if len(set(answers)) < len(answers):
            raise UnusableRow(column, _("column '{column}' holds the same answer twice"))
        if plan.verdict == "open":
            return MappedRow(messages, answers, remark=remark)
        if cell(values, columns, "outcome") == "all-bad":
            return MappedRow(messages, answers, *BAD, remark=remark)
        if "winner" in columns:
            outcome, ranking = labels.best_of(values.get(columns["winner"]), columns["winner"], len(answers))
            if ranking is None:
                return MappedRow(messages, answers, outcome, remark=remark)
        else:
            ranking = ranking_of(values, plan, entries)
        strength, other = labels.strength_of(values, columns) if len(answers) == 2 else (None, "")
        if len(answers) == 2 and len(set(ranking)) == 1:
            strength, other = 0, ""
        remark = remark or other
        return MappedRow(messages, answers, "ranked", ranking, strength=strength, remark=remark)

    return read


# -------------------------------------------------------------------------------------------------------- every form
# Those whose answers are learned where they are good, and with them the earlier ones of their conversation.
LEARNED_FORMS: Final = ("answer", "last turn", "labelled answer", "labelled last turn")

FORMS: Final[Mapping[str, Callable[[ImportPlan], RowReader]]] = {
    "prompt": read_prompt,
    "conversation": read_conversation,
    "shared prompt": read_shared_prompt,
    "answer": read_answer,
    "last turn": read_last_turn,
    "chosen": read_chosen,
    "pair": read_pair,
    "responses": read_responses,
    "labelled answer": read_labelled,
    "labelled last turn": read_labelled,
}


def reader_of(plan: ImportPlan) -> RowReader:
    """A function that makes a record of a row's values, or raises UnusableRow.

    It raises UnclearColumn where the rows that it has read so far can't mean what the plan takes them for.
    """
    form, used = form_of(plan), plan.used
    paths = [path for path in plan.paths if path in used]
    read = FORMS[form](plan)

    def of(given: Mapping[str, Any]) -> MappedRow:
        values = with_paths(given, plan.paths) if plan.paths else given
        record = without_pictures(with_chances(read(values), values, plan), values)
        learned = used if form in LEARNED_FORMS else ()
        for column in learned:
            refuse_unlearned(values.get(column), column)
        if any(has_weights(values.get(column)) for column in learned):
            record = remarked(record, WEIGHT_LEFT)
        if paths and pass_over(given, paths):
            record = remarked(record, NOT_ALL_READ)
        if "system" in plan.columns and has_other_system(record, cell(values, plan.columns, "system")):
            record = remarked(record, SYSTEM_LEFT)
        return remarked(record, THOUGHTS_LEFT) if any(has_thoughts(values.get(one)) for one in used) else record

    return of


def has_other_system(record: MappedRow, system: Any) -> bool:
    """Whether a record has another system message than the one that stands beside its conversation."""
    first = record.messages[0]
    if not isinstance(system, str) or first["role"] != "system":
        return False
    return system.strip() not in ("", first["content"].strip())


def with_chances(record: MappedRow, values: Mapping[str, Any], plan: ImportPlan) -> MappedRow:
    """The record with the chances that its row notes; those of a verdict that is not taken over mean nothing here."""
    if plan.verdict != "judged" or record.outcome is None:
        return record
    return replace(
        record,
        formed_chance=chance_of(values, plan.columns, "formed_chance"),
        people_chance=chance_of(values, plan.columns, "people_chance"),
        shown_chance=chance_of(values, plan.columns, "shown_chance"),
    )


def chance_of(values: Mapping[str, Any], columns: Columns, role: str) -> float | None:
    """A chance from 0 to 1; None where it is unknown, or of several judgements, which are one here.

    Raises UnusableRow for anything else.
    """
    value = cell(values, columns, role)
    noted = value if isinstance(value, list) else [value]
    if len(noted) != 1 or noted[0] in (*EMPTY, UNKNOWN):
        return None
    chance = labels.number_of(noted[0])
    if chance is None or not 0 <= chance <= 1 or (chance == 0 and role != "people_chance"):
        raise UnusableRow(
            columns[role],
            _("column '{column}' holds {value}, which is no chance from 0 to 1"),
            value=labels.shown(noted[0]),
        )
    return chance


def without_pictures(record: MappedRow, values: Mapping[str, Any]) -> MappedRow:
    """The record. Raises UnusableRow where pictures or sound come with its texts; a mere mark of one is remarked."""
    for column, value in values.items():
        if labels.plain_name(str(column)) in PICTURES and holds_something(value):
            raise UnusableRow(
                column, _("column '{column}' holds pictures or sound that the text is about; only text can be imported")
            )
    texts = (*(turn["content"] for turn in record.messages), *record.answers)
    return remarked(record, PICTURES_LEFT) if any(PICTURE_MARK.search(text) for text in texts) else record
