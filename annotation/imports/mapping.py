"""Raw rows to records, or the reason why not: every shape of data that can be imported. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from annotation.exports.formats import UNKNOWN
from annotation.exports.transcripts import is_transcript
from annotation.imports.columns import (
    CHANCES,
    EMPTY,
    ROLES,
    at_path,
    columns_of,
    find_question,
    is_turned_round,
    last_part,
    may_ask,
    may_say_bad,
    propose,
)
from annotation.imports.conversations import (
    SPEAKERS,
    as_turns,
    checked,
    earlier_turns,
    has_thoughts,
    holds_something,
    list_of,
    message_of,
    refuse_beginning_mark,
    refuse_turns_within,
    refuse_unlearned,
    text_lists,
    text_of,
)
from annotation.imports.labels import (
    BAD,
    FIRST,
    SECOND,
    SIGNED,
    TIED,
    TIES,
    AskedColumn,
    Columns,
    UnclearColumn,
    UnusableRow,
    best_of,
    compared,
    dense,
    index_of,
    is_bare,
    known_preference,
    label_reader,
    number_of,
    numbers,
    part_of,
    plain_name,
    preference_reader,
    says_good,
    score_of,
    shown,
    strength_of,
    winner_reader,
    word_of,
)
from annotation.imports.labels import ParsedVerdict as Said
from annotation.imports.printable import display_name, listed
from annotation.imports.reading import PICTURES, SourceRow
from annotation.records import MAXIMUM_ANSWERS, Message, UserError
from annotation.translation import N_, _, joined, numeral
from annotation.ui.formatting import cut

Target = Literal["prompts", "demonstrations", "preferences"]
VerdictUse = Literal["judged", "gold", "open"]
TARGETS: tuple[Target, ...] = get_args(Target)

TEXT_KEYS = (
    *("text", "response", "content", "answer", "completion", "output", "generated_text", "value", "generation"),
)
SCORE_KEYS = ("score", "overall_score", "rating", "reward", "pm_score")
RANK_KEYS = ("rank", "ranking")
SYSTEM_KEY: Final = "custom_system_prompt"
# Where a prompt can end that stands before its answer in one text.
ENDS: Final = re.compile(r"""\n|[.?!:…]["'”’)\]]*\s|[。？！]""")
PICTURE_MARK: Final = re.compile(r"<(image|video|audio)>")

EQUAL_SCORES: Final = N_("equal scores: imported as a tie")
SAID_TIE: Final = N_("chosen and rejected are called a tie: imported as one")
OTHER_SYSTEMS: Final = N_("answers given under different system messages, which are left out")
PICTURES_LEFT: Final = N_("a text with a mark for a picture or sound, which is not there")
THOUGHTS_LEFT: Final = N_("a message with what was thought before it, which is left out")

VERDICT_ROLES: Final = ("winner", "preference", "winner_from_0", "winner_from_1")
QUESTION: Final = ("prompt", "context", "history", "system", "messages")


@dataclass(frozen=True)
class MappedRow:
    """What a row says: a prompt, and maybe answers, a verdict on them by position, or a good/bad label of the one."""

    messages: tuple[Message, ...]
    answers: tuple[str, ...] = ()
    outcome: Literal["ranked", "all-bad"] | None = None
    ranking: tuple[int, ...] | None = None
    strength: int | None = None
    label: bool | None = None
    remark: str = ""
    formed_chance: float | None = None
    """The chances of `annotation.selection` that came with a verdict; None is unknown."""
    people_chance: float | None = None
    shown_chance: float | None = None


RowReader = Callable[[Mapping[str, Any]], MappedRow]
VerdictReader = Callable[[Mapping[str, Any]], tuple[Said | None, int | None, str]]
"""What a row says of two answers, with the strength and a remark."""


@dataclass(frozen=True)
class ImportPlan:
    """What is made of the rows: the target, the columns by role, and what becomes of verdicts."""

    target: Target
    columns: Columns
    verdict: VerdictUse = "judged"
    good_from: float | None = None
    """The rating from which on an answer is good."""
    paths: tuple[str, ...] = ()
    """Those of the columns that are paths into objects, as 'question.full_text'."""
    ranks_said: bool = False
    """Whether a person has named the column with ranks."""
    prompt_within: bool = False
    """Whether a person has said that no column has the prompt, so that answers begin with it."""

    @property
    def reader(self) -> RowReader:
        """A function that makes a record of a row's values, or raises UnusableRow.

        It raises UnclearColumn where the rows that it has read so far can't mean what the plan takes them for.
        """
        form, used = form_of(self), self.used
        read = FORMS[form](self)

        def of(values: Mapping[str, Any]) -> MappedRow:
            values = with_paths(values, self.paths) if self.paths else values
            record = without_pictures(with_chances(read(values), values, self), values)
            for column in used if form in LEARNED_FORMS else ():
                refuse_unlearned(values.get(column), column)
            return remarked(record, _(THOUGHTS_LEFT)) if any(has_thoughts(values.get(one)) for one in used) else record

        return of

    @property
    def used(self) -> list[str]:
        """The columns that something is made of."""
        roles = ROLES_OF_FORMS[form_of(self)]
        if "prompt" in self.columns and "prompt" in roles:
            roles = tuple(role for role in roles if role != "messages")
        if self.verdict == "open":
            roles = tuple(role for role in roles if role not in (*VERDICT_ROLES, *RANKING_ROLES))
        if self.verdict != "judged":
            roles = tuple(role for role in roles if role not in CHANCES)
        return [self.columns[role] for role in roles if role in self.columns]


# --------------------------------------------------------------------------------------------------------------- plans
def make_plan(
    rows: Sequence[SourceRow],
    target: Target | Literal["auto"] = "auto",
    overrides: Columns | None = None,
    verdict: VerdictUse = "judged",
    good_from: float | None = None,
) -> ImportPlan:
    """The plan for a file by its first rows. `overrides` gives columns to roles, or '' to leave a role out.

    Raises UserError that names an unknown role or column, or says what is missing or can't be told.
    """
    known, said = columns_of(rows), overrides or {}
    paths = paths_in(rows, known, said)
    rows = [SourceRow(row.number, with_paths(row.values, paths)) for row in rows]
    columns = proposed_or_said(rows, said)
    plan = ImportPlan(
        target=target if target != "auto" else likely_target(rows, columns),
        columns=columns,
        verdict=verdict,
        good_from=good_from,
        paths=tuple(paths),
        ranks_said=bool(said.get("ranks")),
        prompt_within=said.get("prompt") == "",
    )
    if plan.target != "preferences" and verdict != "judged":
        raise UserError(_("Only preference data (several answers to a prompt) can be gold or be judged by people."))
    try:
        read = plan.reader
        if not said.get("a") or not said.get("b"):
            refuse_third_answer(plan, rows)
    except UnclearColumn:
        raise
    except UserError as error:
        said_too = _("{error} The columns are: {listed}.").format(error=error, listed=listed(known))
        raise AskedColumn(said_too, *roles_asked(error)) from error
    for row in rows:
        with suppress(UnusableRow):
            read(row.values)
    check_meaning(plan, rows)
    refuse_unsigned(plan, said, rows)
    if "prompt" not in said:
        refuse_without_prompt(plan, rows)
    refuse_unread(plan, said, filled_columns(rows))
    return plan


def roles_asked(error: UserError) -> tuple[str, ...]:
    """What a refusal asks for under “Columns”."""
    return error.roles if isinstance(error, AskedColumn) else ()


def filled_columns(rows: Sequence[SourceRow]) -> list[str]:
    """The columns that hold anything in these rows."""
    return [column for column in columns_of(rows) if any(row.values.get(column) not in EMPTY for row in rows)]


def check_meaning(plan: ImportPlan, rows: Sequence[SourceRow]) -> None:
    """Raises UnclearColumn where the first rows' labels are none that can be read."""
    label = plan.columns.get("label", "")
    quality = label or plan.columns.get("rating", "")
    held = [row.values[quality] for row in rows if row.values.get(quality) not in EMPTY]
    name = last_part((one for one in columns_of(rows) if one not in plan.paths), quality)
    if quality in plan.used and is_turned_round(name) and (not held or any(map(is_bare, held))):
        raise UnclearColumn(
            _(
                "By its name, '{display_name}' is true or high for bad answers; a label or rating is so for "
                "good ones. Turn it round in the file and give it another name. Nothing was imported."
            ).format(display_name=display_name(quality))
        )
    if label in plan.used and held and all(says_good(value) is None and number_of(value) is None for value in held):
        part = part_of(held[0])
        if part:
            raise UnclearColumn(
                _(
                    "The column '{display_name}' holds no label; choose the part of it that is one under “Columns”, "
                    "as '{path}'. Nothing was imported."
                ).format(display_name=display_name(label), path=display_name(label + part)),
                "label",
            )
        raise UnclearColumn(
            _(
                "The column '{display_name}' holds {shown}, which says neither good nor bad, and bad answers "
                "must not be learned. Write true and false into it, or, where all of them are good, choose no "
                "label under “Columns”. Nothing was imported."
            ).format(display_name=display_name(label), shown=shown(held[0])),
            "label",
        )


def is_unsigned(column: str, rows: Sequence[SourceRow]) -> bool:
    """Whether numbers that are to say by their sign which answer is better are never below 0."""
    given = [number for row in rows if (number := known_preference(row.values.get(column), column)) is not None]
    return bool(given) and min(given) >= 0


def refuse_unsigned(plan: ImportPlan, said: Columns, rows: Sequence[SourceRow]) -> None:
    """Raises UnclearColumn for preferences of which 0 may not be the middle, unless a person has named them."""
    column = plan.columns.get("preference", "")
    if column in plan.used and not said.get("preference") and is_unsigned(column, rows):
        raise UnclearColumn(
            _(
                "The column '{display_name}' holds nothing below 0, so which answer its numbers prefer can't be told. "
                "Subtract the middle, or let a row below 0 stand among the first 100; or, where numbers above 0 prefer "
                "the second answer, choose it under “Columns” as preference. Nothing was imported."
            ).format(display_name=display_name(column)),
            "preference",
        )


def refuse_without_prompt(plan: ImportPlan, rows: Sequence[SourceRow]) -> None:
    """Raises UnclearColumn for answers of mere text without a prompt beside them that may not begin with it.

    So it is where another column may hold it, or where half of them or more don't begin alike, each pair differently.
    """
    columns, texts, conversations = plan.columns, [], 0
    sides = [columns[role] for role in ("chosen", "rejected", "a", "b") if columns.get(role) in plan.used]
    if len(sides) != 2 or columns.keys() & {"prompt", "messages"}:
        return
    for row in rows:
        with suppress(UnusableRow):
            if any(answer_turns(row.values, columns, side) is not None for side in sides):
                conversations += 1
            else:
                texts.append((str(row.values[sides[0]]), str(row.values[sides[1]])))
    likely = [name for name in columns_of(rows) if name not in plan.used and may_ask(rows, name)]
    alike = len({shared_prompt(one, other) for one, other in texts} - {""})
    if len(texts) > conversations and (likely or 2 * alike <= len(texts)):
        raise UnclearColumn(
            joined(
                _("There is no column with the prompt.")
                if not likely
                else _("No column is known to hold the prompt; it may be {likely}.").format(likely=listed(likely)),
                _(
                    "Say under “Columns” which one holds it, or, where both answers begin with the prompt, that none "
                    "does. Nothing was imported."
                ),
            ),
            "prompt",
        )


def third_answer(columns: Columns, rows: Sequence[SourceRow]) -> str:
    """The column with a third answer beside two, numbered on from theirs; empty for none.

    None is one where the winner is always one of the two, and none where letters alone are their names.
    """
    second = plain_name(columns.get("b", ""))
    if len(second) < 2 or not second[-1].isalnum() or names_two(columns, rows):
        return ""
    third = second[:-1] + chr(ord(second[-1]) + 1)
    more = [name for name in filled_columns(rows) if plain_name(name) == third and name not in columns.values()]
    return more[0] if more and any(isinstance(row.values.get(more[0]), str | list) for row in rows) else ""


def names_two(columns: Columns, rows: Sequence[SourceRow]) -> bool:
    """Whether all that the first rows say of a winner is said of two answers."""
    if not columns.keys() >= {"a", "b", "winner"}:
        return False
    read, said = winner_reader(columns), [row.values.get(columns["winner"]) for row in rows]
    with suppress(UserError):
        return any([read(value) for value in said if value not in EMPTY])
    return False


def refuse_third_answer(plan: ImportPlan, rows: Sequence[SourceRow]) -> None:
    """Raises UnclearColumn for two answers beside which there are more, in columns that are numbered on."""
    third = third_answer(plan.columns, rows) if form_of(plan) == "pair" else ""
    if third:
        raise UnclearColumn(
            _(
                "There are more than two answers, in columns of their own: {answers}. Put them into one list "
                "('responses', with 'scores' or 'ranks'), or choose under “Columns” which two are meant, as a and "
                "as b. Nothing was imported."
            ).format(answers=listed([plan.columns["a"], plan.columns["b"], third])),
            *("a", "b"),
        )


def refuse_unread(plan: ImportPlan, said: Columns, columns: Sequence[str]) -> None:
    """Raises UnclearColumn where answers would be learned beside columns, unused, that may say that they are bad.

    Not where a person has said which column does, or that none does.
    """
    if plan.target != "demonstrations" or {*plan.columns, *said} & {"label", "rating"}:
        return
    doubtful = [name for name in columns if name not in plan.used and may_say_bad(name)]
    if doubtful:
        raise UnclearColumn(
            _(
                "By its name, {listed} may say which answers are bad, and bad ones must not be learned. Choose "
                "under “Columns” which column does, as label or as rating, or, where all of them are good, none "
                "as label. Nothing was imported."
            ).format(listed=listed(doubtful[:1])),
            *("label", "rating"),
        )


def paths_in(rows: Sequence[SourceRow], known: Sequence[str], said: Columns) -> list[str]:
    """Those of the columns that a person has named which are paths. Raises UserError for unknown roles and columns."""
    paths = []
    for role, column in said.items():
        if role not in ROLES:
            raise UserError(
                _("'{display_name}' is no role of a column. There are: {roles}.").format(
                    display_name=display_name(role), roles=", ".join(ROLES)
                )
            )
        if column and column not in known:
            if all(at_path(row.values, column) is None for row in rows):
                raise UserError(
                    _("There is no column '{display_name}'. There are: {listed}.").format(
                        display_name=display_name(column), listed=listed(known)
                    )
                )
            paths.append(column)
    return paths


def with_paths(values: Mapping[str, Any], paths: Iterable[str]) -> Mapping[str, Any]:
    """A row's values, and what lies at paths into them as columns of their own."""
    return {**values, **{path: at_path(values, path) for path in paths}}


def proposed_or_said(rows: Sequence[SourceRow], said: Columns) -> dict[str, str]:
    """The columns by role as they are proposed beside those that a person has named. Raises UserError."""
    columns = propose(rows, said)
    for alternatives in (VERDICT_ROLES, ("ranks", "order")):
        if any(map(said.get, alternatives)):  # so another that was proposed is not meant
            columns = {role: one for role, one in columns.items() if role not in alternatives or said.get(role)}
    if "label" in columns and "rating" in columns:
        columns.pop("rating" if said.get("label") else "label")
    if plain_name(columns.get("winner", "")) in SIGNED:
        name = display_name(columns["winner"])
        raise AskedColumn(
            _(
                "The numbers in '{name}' say by their sign which answer is better, and name none: choose it as "
                "preference under “Columns”, not as winner."
            ).format(name=name),
            *("preference", "winner"),
        )
    return columns


def likely_target(rows: Sequence[SourceRow], columns: Columns) -> Target:
    """What data with these columns is there for."""
    roles = columns.keys()
    if {"chosen", "rejected"} <= roles or {"a", "b"} <= roles or "responses" in roles:
        return "preferences"
    messages = {"messages": columns["messages"]} if "messages" in roles else {}
    if "completion" in roles or (messages and not find_question(rows, messages)):
        return "preferences" if roles & {"label", "rating"} else "demonstrations"
    return "prompts"


def form_of(plan: ImportPlan) -> str:
    """Which form of data the columns are. Raises UserError where some are missing."""
    roles = plan.columns.keys()
    answered = "completion" in roles and bool(roles & {"prompt", "messages"})
    if plan.target == "prompts":
        if "prompt" in roles:
            return "prompt"
        if "messages" in roles:
            return "conversation"
        if {"chosen", "rejected"} <= roles:
            return "shared prompt"
        raise AskedColumn(
            _("No column with prompts was found: name one as 'prompt' or 'messages'."), "prompt", "messages"
        )
    if plan.target == "demonstrations":
        if answered or "messages" in roles:
            return "answer" if answered else "last turn"
        raise AskedColumn(
            _("Demonstrations need the columns 'prompt' and 'completion', or 'messages'."),
            *("prompt", "completion", "messages"),
        )
    return form_of_preferences(plan, answered)


def form_of_preferences(plan: ImportPlan, answered: bool) -> str:
    """Which form of preferences the columns are. Raises UserError where they are of none."""
    roles = plan.columns.keys()
    if {"chosen", "rejected"} <= roles:
        return "chosen"
    if {"a", "b"} <= roles:
        if plan.verdict != "open" and not roles & set(VERDICT_ROLES) and not {"score_a", "score_b"} <= roles:
            raise AskedColumn(
                _(
                    "There are two answers but no column that says which is better: name it as 'winner' (or "
                    "'preference', 'winner_from_0', 'winner_from_1', or 'score_a' and 'score_b'), or have "
                    "people judge them."
                ),
                *("winner", "preference", "winner_from_0", "winner_from_1", "score_a", "score_b"),
            )
        return "pair"
    if "responses" in roles:
        return "responses"
    if roles & {"label", "rating"} and (answered or "messages" in roles):
        if plan.verdict != "judged":
            raise UserError(
                _("Single answers with a label are no comparisons: they can't be gold or judged by people.")
            )
        return "labelled answer" if answered else "labelled last turn"
    raise AskedColumn(
        _(
            "No preferences in these columns. They need 'chosen' and 'rejected'; or 'a', 'b' and 'winner'; or "
            "'responses' with 'scores' or 'ranks'; or 'prompt', 'completion' and 'label'."
        ),
        *("prompt", "chosen", "rejected", "a", "b", "winner", "responses", "scores", "ranks", "completion", "label"),
    )


# ------------------------------------------------------------------------------------------------------------- prompts
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
    """A conversation up to its last question."""
    columns = plan.columns
    return lambda values: MappedRow(until_user(with_system(turns_of(values, columns), values, columns), columns))


def read_shared_prompt(plan: ImportPlan) -> RowReader:
    """What a better and a worse conversation have in common."""
    read = read_chosen(plan)
    return lambda values: MappedRow(read(values).messages)


# ---------------------------------------------------------------------------------------------------------- one answer
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
    return label_reader(plan.columns, plan.good_from) if plan.columns.keys() & {"label", "rating"} else lambda _: True


def refuse_bad(plan: ImportPlan, good: bool) -> None:
    """Raises UnusableRow for a bad answer."""
    if not good:
        raise UnusableRow(
            plan.columns.get("label") or plan.columns["rating"], _("column '{column}' says that the answer is bad")
        )


def last_answer(values: Mapping[str, Any], columns: Columns) -> tuple[tuple[Message, ...], str]:
    """A conversation up to its last answer, and that. Raises UnusableRow if it ends with the user."""
    column = columns["messages"]
    turns = with_system(turns_of(values, columns), values, columns)
    if turns[-1]["role"] != "assistant":
        raise UnusableRow(column, _("column '{column}' does not end with the assistant's turn"))
    refuse_beginning_mark(turns[-1]["content"], column)
    return checked(turns[:-1], column), turns[-1]["content"]


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


# --------------------------------------------------------------------------------------------------------- two answers
def read_chosen(plan: ImportPlan) -> RowReader:
    """A better and a worse answer, with the prompt beside them or at the beginning of both."""
    columns = plan.columns
    scored = {"score_a", "score_b"} <= columns.keys()

    def read(values: Mapping[str, Any]) -> MappedRow:
        messages, answers = two_answers(values, columns, columns["chosen"], columns["rejected"], plan.prompt_within)
        status = cell(values, columns, "status")
        if isinstance(status, str) and word_of(status) in TIES:
            return MappedRow(messages, answers, *TIED, 0, remark=_(SAID_TIE))
        verdict = compared(values, columns) if scored else None
        if verdict == TIED:
            return MappedRow(messages, answers, *TIED, 0, remark=_(EQUAL_SCORES))
        if verdict == SECOND:
            raise UnusableRow(
                columns["score_a"],
                _("column '{column}' is lower than '{display_name}': which is better?"),
                display_name=display_name(columns["score_b"]),
            )
        strength, remark = strength_of(values, columns)
        return MappedRow(messages, answers, *FIRST, strength, remark=remark)

    return read


def read_pair(plan: ImportPlan) -> RowReader:
    """Two answers and which of them is better."""
    columns = plan.columns
    judge: VerdictReader = (lambda _: (None, None, "")) if plan.verdict == "open" else pair_verdict(plan)

    def read(values: Mapping[str, Any]) -> MappedRow:
        messages, answers = two_answers(values, columns, columns["a"], columns["b"], plan.prompt_within)
        verdict, strength, remark = judge(values)
        outcome, ranking = verdict or (None, None)
        return MappedRow(
            messages=messages, answers=answers, outcome=outcome, ranking=ranking, strength=strength, remark=remark
        )

    return read


def pair_verdict(plan: ImportPlan) -> VerdictReader:
    """What a row's columns say of two answers, with strength and remark, in whichever way they say it."""
    columns = plan.columns
    if "preference" in columns:
        signed = preference_reader(columns["preference"])
        return lambda values: signed(values.get(columns["preference"]))
    if "winner" in columns:
        words = winner_reader(columns)
        return lambda values: with_strength(words(values.get(columns["winner"])), values, columns)
    role = next((role for role in ("winner_from_0", "winner_from_1") if role in columns), "")
    if role:
        return lambda values: with_strength(
            (FIRST, SECOND)[index_of(values.get(columns[role]), columns[role], int(role[-1]), 2)], values, columns
        )

    def by_scores(values: Mapping[str, Any]) -> tuple[Said | None, int | None, str]:
        verdict = compared(values, columns)
        if verdict is None:
            raise UnusableRow(
                columns["score_a"],
                _("column '{column}' or '{display_name}' is empty"),
                display_name=display_name(columns["score_b"]),
            )
        return with_strength(verdict, values, columns, _(EQUAL_SCORES) if verdict == TIED else "")

    return by_scores


def with_strength(
    verdict: Said, values: Mapping[str, Any], columns: Columns, remark: str = ""
) -> tuple[Said | None, int | None, str]:
    """A verdict with how much better the better answer is, and what is to be remarked."""
    if verdict == TIED:
        return verdict, 0, remark
    return (verdict, None, remark) if verdict == BAD else (verdict, *strength_of(values, columns))


# ----------------------------------------------------------------------------------------------------- several answers
def read_responses(plan: ImportPlan) -> RowReader:
    """Several answers with scores or ranks, beside them or within them, or the number of the best."""
    columns = plan.columns

    def read(values: Mapping[str, Any]) -> MappedRow:
        column = columns["responses"]
        entries = list_of(values.get(column), column)
        if not 2 <= len(entries) <= MAXIMUM_ANSWERS:
            raise UnusableRow(
                column,
                _("column '{column}' holds {count} answers, not 2 to {maximum_answers}"),
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
            outcome, ranking = best_of(values.get(columns["winner"]), columns["winner"], len(answers))
            if ranking is None:
                return MappedRow(messages, answers, outcome, remark=remark)
        else:
            ranking = ranking_of(values, plan, entries)
        strength, other = strength_of(values, columns) if len(answers) == 2 else (None, "")
        if len(answers) == 2 and len(set(ranking)) == 1:
            strength, other = 0, ""
        return MappedRow(
            messages=messages,
            answers=answers,
            outcome="ranked",
            ranking=ranking,
            strength=strength,
            remark=remark or other,
        )

    return read


def ranking_of(values: Mapping[str, Any], plan: ImportPlan, entries: Sequence[Any]) -> tuple[int, ...]:
    """The dense ranks of several answers: from ranks, or from scores of which the highest is the best."""
    columns, size = plan.columns, len(entries)
    for role in ("winner_from_0", "winner_from_1"):
        if role in columns:
            best = index_of(values.get(columns[role]), columns[role], int(role[-1]), size)
            return tuple(1 if place == best else 2 for place in range(size))
    if "order" in columns:
        return ranks_by_order(list_of(values.get(columns["order"]), columns["order"]), columns["order"], size)
    if "ranks" in columns:
        ranks = numbers(list_of(values.get(columns["ranks"]), columns["ranks"]), columns["ranks"], size)
        if not plan.ranks_said:
            refuse_order(ranks, columns["ranks"])
        return dense(ranks)
    if "scores" in columns:
        scores = numbers(list_of(values.get(columns["scores"]), columns["scores"]), columns["scores"], size, score_of)
        return dense([-score for score in scores])
    column = columns["responses"]
    for keys, sign, read in ((RANK_KEYS, 1, number_of), (SCORE_KEYS, -1, score_of)):
        for key in keys:
            if all(isinstance(entry, dict) and key in entry for entry in entries):
                found = numbers([entry[key] for entry in entries], column, size, read)
                return dense([sign * number for number in found])
    raise UnusableRow(column, _("column '{column}' has answers without scores or ranks"))


def perhaps_order(ranks: Sequence[Any], column: str) -> bool:
    """Whether numbers that are called a ranking count from 0, as those of answers do and ranks hardly."""
    if plain_name(column) not in ("ranking", "rankings") or not all(isinstance(rank, int | float) for rank in ranks):
        return False
    return {*ranks} == {*range(len(ranks))}


def unsaid(columns: Columns, rows: Sequence[SourceRow], said: Columns) -> list[str]:
    """The roles that a person has to say of columns, though the rows that were read suggest one."""
    pair = [] if (said.get("a") and said.get("b")) or not third_answer(columns, rows) else ["a", "b"]
    if "preference" in columns and not said.get("preference") and is_unsigned(columns["preference"], rows):
        pair.append("preference")
    column = columns.get("ranks", "")
    for row in rows if column and not said.get("ranks") else ():
        with suppress(UnusableRow):
            if perhaps_order(list_of(row.values.get(column), column), column):
                return [*pair, "ranks"]
    return pair


def refuse_order(ranks: Sequence[float], column: str) -> None:
    """Raises UnclearColumn where what is called a ranking may as well name the answers by their numbers, best first."""
    places = range(len(ranks))
    if perhaps_order(ranks, column) and [ranks.index(place) for place in places] != ranks:
        raise UnclearColumn(
            _(
                "The column '{name}' holds {numbers}: ranks of the answers, or the answers' numbers with the best "
                "one's first? Choose it under “Columns” as ranks or as order. Nothing was imported."
            ).format(name=display_name(column), numbers=", ".join(numeral(rank, "g") for rank in ranks)),
            *("ranks", "order"),
        )


def ranks_by_order(found: Sequence[Any], column: str, size: int) -> tuple[int, ...]:
    """The ranks of answers whose numbers stand in an order, the best one's first. Raises UnusableRow."""
    order = numbers(found, column, size)
    first = min(order)
    if first not in (0, 1) or sorted(order) != [first + place for place in range(size)]:
        raise UnusableRow(column, _("column '{column}' must hold the number of each answer once, from 0 or from 1"))
    return tuple(order.index(first + place) + 1 for place in range(size))


# Those whose answers are learned where they are good, and with them the earlier ones of their conversation.
LEARNED_FORMS: Final = ("answer", "last turn", "labelled answer", "labelled last turn")
RANKING_ROLES: Final = ("scores", "ranks", "order", "outcome", "strength", "score_a", "score_b")
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
# The roles whose columns each form reads.
ROLES_OF_FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": (*QUESTION, "speaker", "parent"),
    "conversation": ("messages", "system"),
    "shared prompt": ("chosen", "rejected", "system"),
    "answer": (*QUESTION, "completion", "label", "rating"),
    "last turn": ("messages", "system", "label", "rating"),
    "chosen": (*QUESTION, "chosen", "rejected", "strength", "score_a", "score_b", "status", *CHANCES),
    "pair": (*QUESTION, "a", "b", *VERDICT_ROLES, "score_a", "score_b", "strength", *CHANCES),
    "responses": (
        *(*QUESTION, "responses", "winner", "winner_from_0", "winner_from_1", "ranks", "order", "scores"),
        *("outcome", "strength"),
        *CHANCES,
    ),
    "labelled answer": (*QUESTION, "completion", "label", "rating"),
    "labelled last turn": ("messages", "system", "label", "rating"),
}


# ------------------------------------------------------------------------------------------------------ texts of a row
def cell(values: Mapping[str, Any], columns: Columns, role: str) -> Any:
    """What a row holds for a role; None where no column has it."""
    return values.get(columns[role]) if role in columns else None


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
    chance = number_of(noted[0])
    if chance is None or not 0 <= chance <= 1 or (chance == 0 and role != "people_chance"):
        raise UnusableRow(
            columns[role], _("column '{column}' holds {value}, which is no chance from 0 to 1"), value=shown(noted[0])
        )
    return chance


def without_pictures(record: MappedRow, values: Mapping[str, Any]) -> MappedRow:
    """The record. Raises UnusableRow where pictures or sound come with its texts; a mere mark of one is remarked."""
    for column, value in values.items():
        if plain_name(str(column)) in PICTURES and holds_something(value):
            raise UnusableRow(
                column, _("column '{column}' holds pictures or sound that the text is about; only text can be imported")
            )
    texts = (*(turn["content"] for turn in record.messages), *record.answers)
    return remarked(record, _(PICTURES_LEFT)) if any(PICTURE_MARK.search(text) for text in texts) else record


def remarked(record: MappedRow, remark: str) -> MappedRow:
    """A record with a remark more."""
    return replace(record, remark="; ".join(filter(None, (record.remark, remark))))


def until_user(turns: Sequence[Message], columns: Columns) -> tuple[Message, ...]:
    """A conversation up to its last question."""
    ends = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    return checked(ends, columns["messages"])


def turns_of(values: Mapping[str, Any], columns: Columns) -> list[Message]:
    """The conversation in the column 'messages'."""
    turns = as_turns(values.get(columns["messages"]), columns["messages"])
    if turns is None:
        raise UnusableRow(columns["messages"], _("column '{column}' is plain text, not a conversation"))
    return turns


def prompt_of(values: Mapping[str, Any], columns: Columns) -> tuple[Message, ...]:
    """The prompt of a row: what its column says, with the context below and the system message above."""
    column = columns["prompt"]
    turns = as_turns(values.get(column), column, asked=True)
    if turns is None:
        text = str(values[column])
        if text_lists([text]) is not None:
            raise UnusableRow(
                column,
                _("column '{column}' is a list of texts in JSON, maybe several turns: it is unclear who says them"),
            )
        refuse_turns_within(text, column)
        extra = values.get(columns["context"]) if "context" in columns else None
        if extra not in (None, ""):
            text = text_of(f"{text}\n\n{text_of(extra, columns['context'])}", column, asked=True)
        turns = [{"role": "user", "content": text}]
    if "history" in columns:
        turns = [*earlier_turns(values.get(columns["history"]), columns["history"]), *turns]
    return checked(with_system(turns, values, columns), column)


def with_system(turns: Sequence[Message], values: Mapping[str, Any], columns: Columns) -> list[Message]:
    """A conversation under the system message of its row, if there is one and it has none of its own."""
    return under_system(turns, cell(values, columns, "system"), columns.get("system", ""))


def under_system(turns: Sequence[Message], system: Any, column: str) -> list[Message]:
    """A conversation under a system message, if there is one and it has none of its own."""
    empty = system is None or (isinstance(system, str) and not system.strip())
    if empty or turns[0]["role"] == "system":
        return list(turns)
    return [{"role": "system", "content": text_of(system, column)}, *turns]


def context_of(values: Mapping[str, Any], columns: Columns) -> tuple[Message, ...]:
    """The prompt of a row from the column 'prompt' or 'messages'. Raises UserError if there is neither."""
    if "prompt" in columns:
        return prompt_of(values, columns)
    if "messages" in columns:
        return checked(with_system(turns_of(values, columns), values, columns), columns["messages"])
    raise UnusableRow("", _("there is no column with the prompt"))


def with_answers(
    values: Mapping[str, Any], columns: Columns, role: str, entries: Sequence[Any]
) -> tuple[tuple[Message, ...], tuple[str, ...], str]:
    """The prompt of a row and the answers to it, under the system message that all were given under.

    A remark where that is not one. Raises UnusableRow, also for conversations that go on from something else.
    """
    messages, column = context_of(values, columns), columns[role]
    told = [told_answer(entry, column) for entry in entries]
    if any(len(turns) > 1 and turns[:-1] != without_system(messages) for _, turns in told):
        raise UnusableRow(column, _("column '{column}' does not go on from the prompt"))
    answers = tuple(turns[-1]["content"] for _, turns in told)
    for answer in answers:
        refuse_beginning_mark(answer, column)
    systems = {system for system, _ in told}
    if messages[0]["role"] == "system":
        systems = {messages[0]["content"], *(systems - {""})}
    if len(systems) > 1:
        return messages, answers, _(OTHER_SYSTEMS)
    return tuple(under_system(messages, systems.pop(), column)), answers, ""


def told_answer(value: Any, column: str) -> tuple[str, list[Message]]:
    """The system message that came with an answer, or '', and the turns that it ends: often itself alone.

    An answer is text, an object with text, or messages that end with it, maybe after the whole prompt.
    """
    system: Any = ""
    if isinstance(value, dict):
        key = next((key for key in TEXT_KEYS if key in value), None)
        if key is None:
            raise UnusableRow(
                column,
                _("column '{column}' holds an object without a text ({text_keys})"),
                text_keys=", ".join(TEXT_KEYS),
            )
        system, value = value.get(SYSTEM_KEY) or "", value[key]
    turns = as_turns(value, column)
    if turns is None:
        turns = [{"role": "assistant", "content": str(value)}]
    if turns[-1]["role"] != "assistant":
        raise UnusableRow(column, _("column '{column}' does not end with the assistant's turn"))
    if turns[0]["role"] == "system":
        system = turns[0]["content"]
    return (text_of(system, SYSTEM_KEY) if system else ""), without_system(turns)


def without_system(turns: Sequence[Message]) -> list[Message]:
    """A conversation without its system message."""
    return [turn for turn in turns if turn["role"] != "system"]


# ---------------------------------------------------------------------------------------------------- two answers
def two_answers(
    values: Mapping[str, Any], columns: Columns, first: str, second: str, prompt_within: bool = False
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """The prompt and two answers to it. Raises UnusableRow, also if the answers are the same."""
    values = without_lists_of_turns(values, columns, first, second)
    one, other = answer_turns(values, columns, first), answer_turns(values, columns, second)
    if (one is None) != (other is None):
        unlike = (
            _("column '{column}' is plain text, unlike '{first}'")
            if other is None
            else _("column '{column}' is a conversation, unlike '{first}'")
        )
        raise UnusableRow(second, unlike, first=display_name(first))
    if one is None or other is None:
        messages, answers = plain_answers(values, columns, first, second, prompt_within)
    else:
        messages, answers = answers_of_conversations(values, columns, (one, first), (other, second))
    for answer, column in zip(answers, (first, second), strict=True):
        refuse_beginning_mark(answer, column)
    if answers[0].strip() == answers[1].strip():
        raise UnusableRow(
            second, _("column '{column}' says the same as '{display_name}'"), display_name=display_name(first)
        )
    return messages, answers


def without_lists_of_turns(values: Mapping[str, Any], columns: Columns, first: str, second: str) -> Mapping[str, Any]:
    """The row with messages for what are lists of texts in JSON, a turn each: of the prompt and of both answers."""
    prompt = columns.get("prompt", "")
    lists = text_lists([values.get(prompt), values.get(first), values.get(second)])
    if lists is None:
        return values
    asked, *answers = lists
    both = [
        [
            {"role": role, "content": text}
            for turn in zip(asked, answer, strict=True)
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        for answer in answers
    ]
    return {**values, prompt: None, first: both[0], second: both[1]}


def answer_turns(values: Mapping[str, Any], columns: Columns, column: str) -> list[Message] | None:
    """The turns of an answer; None for plain text, as is one that goes on after a blank where a transcript ends."""
    value, prompt = values.get(column), cell(values, columns, "prompt")
    if isinstance(value, str) and value.startswith(" ") and isinstance(prompt, str) and is_transcript(prompt):
        text_of(value, column)
        return None
    if isinstance(value, dict) and not value.keys().isdisjoint(("role", "from")):
        return [message_of(value, column)]
    return as_turns(value, column)


def plain_answers(
    values: Mapping[str, Any], columns: Columns, first: str, second: str, prompt_within: bool
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """Two texts. Without a prompt beside them it is what both begin with, up to the end of a line or sentence.

    Where somebody has said that it is there, and no line or sentence is, up to the last blank, as TRL takes it.
    """
    one, other = str(values[first]), str(values[second])
    if "prompt" in columns or "messages" in columns:
        prompt_value = cell(values, columns, "prompt")
        if isinstance(prompt_value, str) and is_transcript(prompt_value):
            one, other = one.removeprefix(" "), other.removeprefix(" ")  # the space after "Assistant:"
        return context_of(values, columns), (one, other)
    refuse_turns_within(one, first)  # before they are cut
    shared = shared_prompt(one, other, prompt_within)
    if not shared:
        raise UnusableRow(first, _("column '{column}' has no prompt beside it, and the two answers don't begin alike"))
    prompt: list[Message] = [{"role": "user", "content": shared}]
    rest = text_of(one[len(shared) :].strip(), first), text_of(other[len(shared) :].strip(), second)
    return checked(with_system(prompt, values, columns), first), rest


def answers_of_conversations(
    values: Mapping[str, Any], columns: Columns, one: tuple[list[Message], str], other: tuple[list[Message], str]
) -> tuple[tuple[Message, ...], tuple[str, str]]:
    """Two conversations: only an answer each, after the prompt beside them, or whole ones that share all but that."""
    for turns, column in (one, other):
        if turns[-1]["role"] != "assistant":
            raise UnusableRow(column, _("column '{column}' does not end with the assistant's turn"))
    answers = one[0][-1]["content"], other[0][-1]["content"]
    before, other_before = one[0][:-1], other[0][:-1]
    if before != other_before:
        raise UnusableRow(
            other[1],
            _("column '{column}' parts from '{display_name}' before the last answer"),
            display_name=display_name(one[1]),
        )
    if not before:
        return context_of(values, columns), answers
    return checked(with_system(with_prompt(before, one[1], values, columns), values, columns), one[1]), answers


def with_prompt(turns: list[Message], column: str, values: Mapping[str, Any], columns: Columns) -> list[Message]:
    """A whole conversation, under the system message of the prompt beside it. Raises UnusableRow for another's prompt.

    Its own is the same turns, or one of the user's; what belongs to the prompt stands in the conversation, too.
    """
    prompt = cell(values, columns, "prompt")
    asked = None if prompt in (None, "") else as_turns(prompt, columns["prompt"], asked=True)
    said = [turn["content"].strip() for turn in turns if turn["role"] == "user"]
    found = {"prompt": prompt in (None, "") or str(prompt).strip() in said}
    if asked is not None:
        system = asked[0]["content"] if asked[0]["role"] == "system" else ""
        turns = under_system(turns, system, columns["prompt"])
        found["prompt"] = without_system(asked) == without_system(turns) and system in ("", turns[0]["content"])
    earlier = earlier_turns(cell(values, columns, "history"), columns.get("history", ""))
    found["history"] = all(turn in turns for turn in earlier)
    context = cell(values, columns, "context")
    found["context"] = context in (None, "") or any(text_of(context, columns["context"]).strip() in one for one in said)
    missing = next((role for role, is_there in found.items() if not is_there), None)
    if missing is not None:
        raise UnusableRow(
            columns[missing],
            _("column '{column}' is not the question in '{display_name}'")
            if missing == "prompt"
            else _("column '{column}' is not part of the conversation in '{display_name}'"),
            display_name=display_name(column),
        )
    return turns


def shared_prompt(one: str, other: str, words: bool = False) -> str:
    """The lines and sentences that two texts begin with alike, or else, if these count, the words; empty for none."""
    pairs = enumerate(zip(one, other, strict=False))
    shared = one[: next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))]
    ends = [found.end() for found in ENDS.finditer(shared)]
    return shared[: max(ends, default=shared.rfind(" ") + 1 if words else 0)].rstrip()


def with_texts(record: MappedRow, shorten: int) -> MappedRow:
    """A record to look at: long texts cut."""
    messages = tuple({"role": turn["role"], "content": cut(turn["content"], shorten)} for turn in record.messages)
    return replace(record, messages=messages, answers=tuple(cut(answer, shorten) for answer in record.answers))
