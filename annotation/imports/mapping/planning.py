"""A plan made by the first rows of a file and by what a person has said of its columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from annotation.imports.mapping import unclear_columns
from annotation.imports.mapping.columns import (
    ROLES,
    at_path,
    columns_of,
    columns_within,
    filled_columns,
    propose,
    with_paths,
)
from annotation.imports.mapping.import_plan import VERDICT_ROLES, ImportPlan, Target, VerdictUse, likely_target
from annotation.imports.mapping.labels import SIGNED, AskedColumn, Columns, UnclearColumn, UnusableRow, plain_name
from annotation.imports.mapping.mapped_rows import RowReader
from annotation.imports.mapping.row_readers import reader_of
from annotation.imports.printable import display_name, listed
from annotation.imports.sources.raw_rows import SourceRow
from annotation.records import UserError
from annotation.translation import _


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
    read = checked_reader(plan, rows, said)
    for row in rows:
        with suppress(UnusableRow):
            read(row.values)
    unclear_columns.check_meaning(plan, rows)
    unclear_columns.refuse_turned_scores(plan, rows)
    unclear_columns.refuse_unsigned(plan, said, rows)
    if "prompt" not in said:
        unclear_columns.refuse_without_prompt(plan, rows)
    unclear_columns.refuse_unread(plan, said, filled_columns(rows))
    return plan


def checked_reader(plan: ImportPlan, rows: Sequence[SourceRow], said: Columns) -> RowReader:
    """What reads rows by a plan. Raises UserError, with the columns, where these tell too little."""
    try:
        if not said.get("a") or not said.get("b"):
            unclear_columns.refuse_third_answer(plan, rows)
        read = reader_of(plan)
        unclear_columns.refuse_unranked(plan, rows)
    except UnclearColumn:
        raise
    except UserError as error:
        said_too = _("{error} The columns are: {listed}.").format(error=error, listed=listed(columns_within(rows)))
        raise AskedColumn(said_too, *roles_asked(error)) from error
    return read


def roles_asked(error: UserError) -> tuple[str, ...]:
    """What a refusal asks for under “Columns”."""
    return error.roles if isinstance(error, AskedColumn) else ()


def paths_in(rows: Sequence[SourceRow], known: Sequence[str], said: Columns) -> list[str]:
    """Those of the columns that a person has named which are paths. Raises UserError for unknown roles and columns."""
    paths = []
    for role, column in said.items():
        if role not in ROLES:
            told = _("'{display_name}' is no role of a column. There are: {roles}.")
            raise UserError(told.format(display_name=display_name(role), roles=", ".join(ROLES)))
        if column and column not in known:
            if all(at_path(row.values, column) is None for row in rows):
                told = _("There is no column '{display_name}'. There are: {listed}.")
                raise UserError(told.format(display_name=display_name(column), listed=listed(columns_within(rows))))
            paths.append(column)
    return paths


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
