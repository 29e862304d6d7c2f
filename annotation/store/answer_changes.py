"""When policies began to answer otherwise: told not to think or not any more, or on other weights."""

from __future__ import annotations

from typing import Final, Literal

from annotation.database import Database
from annotation.records import now
from annotation.store.setting_store import set_setting, setting

# Of the rows that are of a time in which policies thought or did not, the column that says when they began.
BEGAN: Final = {"response": "created", "job": "started"}


def note_change_of_answers(db: Database, told_before: bool | None) -> None:
    """Note that from now on policies answer otherwise; `told_before`: whether they were told not to think until now.

    None: they lie on other weights from now on.
    """
    newest = {table: db.value(f"SELECT coalesce(max(id), 0) FROM {table}") for table in (*BEGAN, "verdict")}
    change = {"told": told_before, "until": now(), "newest": newest}
    set_setting(db, "thinking_changes", [*setting(db, "thinking_changes", []), change])


def as_told_now(db: Database, table: Literal["response", "job"], row: str) -> str:
    """SQL: whether a row, of this name there, is of a time in which policies answered as now.

    That is, on the same weights, and thinking or not as now.

    One that was made after the last change is, whatever the clock says, which may have been set back.
    """
    now_told = bool(db.value("SELECT thinking = 'off' FROM model WHERE revision = 'base'"))
    began, since, when = f"{row}.{BEGAN[table]}", "", list[str]()
    changes = setting(db, "thinking_changes", [])
    for change in changes:
        if change["told"] is None:
            when.clear()
        elif change["told"] == now_told:
            when.append(f"{began} BETWEEN '{since}' AND '{change['until']}'")
        since = change["until"]
    when.append(f"{began} > '{since}'")
    if changes and "newest" in changes[-1]:
        when.append(f"{row}.id > {changes[-1]['newest'][table]}")
    return f"({' OR '.join(when)})"


def weights_since(db: Database) -> str:
    """When other weights last took the name of the base; empty where none ever did."""
    changes = setting(db, "thinking_changes", [])
    return max((str(change["until"]) for change in changes if change["told"] is None), default="")
