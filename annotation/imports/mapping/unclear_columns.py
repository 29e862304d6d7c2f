"""What can't be told of columns, or would be learned wrongly, and who has to say it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from annotation.imports.mapping import labels
from annotation.imports.mapping.answer_ranks import RANK_KEYS, SCORE_KEYS, perhaps_order
from annotation.imports.mapping.columns import (
    EMPTY,
    columns_of,
    filled_columns,
    is_turned_round,
    last_part,
    may_ask,
    may_say_bad,
)
from annotation.imports.mapping.conversations import list_of
from annotation.imports.mapping.import_plan import ImportPlan, form_of
from annotation.imports.mapping.labels import AskedColumn, Columns, UnclearColumn, UnusableRow
from annotation.imports.mapping.two_answers import answer_turns, shared_prompt
from annotation.imports.printable import display_name, listed
from annotation.imports.sources.raw_rows import SourceRow
from annotation.records import UserError
from annotation.translation import _, joined

# By which keys answers have their scores or ranks with them.
GIVEN: Final = {*RANK_KEYS, *SCORE_KEYS}


def check_meaning(plan: ImportPlan, rows: Sequence[SourceRow]) -> None:
    """Raises UnclearColumn where the first rows' labels are none that can be read."""
    label = plan.columns.get("label", "")
    quality = label or plan.columns.get("rating", "")
    held = [row.values[quality] for row in rows if row.values.get(quality) not in EMPTY]
    name = last_part((one for one in columns_of(rows) if one not in plan.paths), quality)
    if quality in plan.used and is_turned_round(name) and (not held or any(map(labels.is_bare, held))):
        said = _(
            "By its name, '{display_name}' is true or high for bad answers; a label or rating is so for "
            "good ones. Turn it round in the file and give it another name. Nothing was imported."
        )
        raise UnclearColumn(said.format(display_name=display_name(quality)))
    if (
        label in plan.used
        and held
        and all(labels.says_good(value) is None and labels.number_of(value) is None for value in held)
    ):
        part = labels.part_of(held[0])
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
            ).format(display_name=display_name(label), shown=labels.shown(held[0])),
            "label",
        )


def refuse_turned_scores(plan: ImportPlan, rows: Sequence[SourceRow]) -> None:
    """Raises UnclearColumn for scores that are, by their names, the higher the worse, as ranks are."""
    known = [one for one in columns_of(rows) if one not in plan.paths]
    for roles in (("scores",), ("score_a", "score_b")):
        columns = [plan.columns[role] for role in roles if plan.columns.get(role) in plan.used]
        if columns and all(is_turned_round(last_part(known, column)) for column in columns):
            raise UnclearColumn(
                _(
                    "By its name, '{display_name}' is high for worse answers; a score is the higher the better. Choose "
                    "a list of ranks as ranks under “Columns”, or turn the numbers round in the file and give them "
                    "another name. Nothing was imported."
                ).format(display_name=display_name(columns[0])),
                *(("ranks", "scores") if roles == ("scores",) else roles),
            )


def is_unsigned(column: str, rows: Sequence[SourceRow]) -> bool:
    """Whether numbers that are to say by their sign which answer is better are never below 0."""
    given = [number for row in rows if (number := labels.known_preference(row.values.get(column), column)) is not None]
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
    second = labels.plain_name(columns.get("b", ""))
    if len(second) < 2 or not second[-1].isalnum() or names_two(columns, rows):
        return ""
    third = second[:-1] + chr(ord(second[-1]) + 1)
    more = [name for name in filled_columns(rows) if labels.plain_name(name) == third and name not in columns.values()]
    return more[0] if more and any(isinstance(row.values.get(more[0]), str | list) for row in rows) else ""


def names_two(columns: Columns, rows: Sequence[SourceRow]) -> bool:
    """Whether all that the first rows say of a winner is said of two answers."""
    if not columns.keys() >= {"a", "b", "winner"}:
        return False
    read, said = labels.winner_reader(columns), [row.values.get(columns["winner"]) for row in rows]
    with suppress(UserError):
        return any([read(value) for value in said if value not in EMPTY])
    return False


def refuse_third_answer(plan: ImportPlan, rows: Sequence[SourceRow]) -> None:
    """Raises UnclearColumn for two answers beside which there are more, in columns that are numbered on."""
    third = third_answer(plan.columns, rows) if plan.target == "preferences" and "a" in plan.columns else ""
    if third:
        raise UnclearColumn(
            _(
                "There are more than two answers, in columns of their own: {answers}. Put them into one list "
                "('responses', with 'scores' or 'ranks'), or choose under “Columns” which two are meant, as a and "
                "as b. Nothing was imported."
            ).format(answers=listed([plan.columns["a"], plan.columns["b"], third])),
            *("a", "b"),
        )


def refuse_unranked(plan: ImportPlan, rows: Sequence[SourceRow]) -> None:
    """Raises AskedColumn for lists of answers of which nothing says which is better, beside them or within."""
    roles = ("scores", "ranks", "order", "winner", "winner_from_0", "winner_from_1")
    if form_of(plan) != "responses" or plan.verdict == "open" or plan.columns.keys() & {*roles, "outcome"}:
        return
    column = plan.columns["responses"]
    for row in rows:
        with suppress(UnusableRow):
            if any(isinstance(one, dict) and one.keys() & GIVEN for one in list_of(row.values.get(column), column)):
                return
    raise AskedColumn(
        _(
            "There are several answers but no column that says which is better: name it as 'scores' (or 'ranks', "
            "'order', 'winner', 'winner_from_0', 'winner_from_1'), or leave verdicts out: people judge them then."
        ),
        *roles,
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
