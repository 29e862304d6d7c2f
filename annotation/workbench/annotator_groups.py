"""Groups of annotators, to whom comparisons can be assigned, and how many each annotator shall judge. All SQL of it."""

from __future__ import annotations

from typing import Final

from annotation.claims import assignments
from annotation.database import Database
from annotation.records import UserError
from annotation.translation import _

GROUP_LENGTH: Final = 40


def group_names(text: str) -> tuple[str, ...]:
    """Names of groups between commas, each once. Raises UserError for one that is too long."""
    names = tuple(dict.fromkeys(name for part in text.split(",") if (name := " ".join(part.split()))))
    if any(len(name) > GROUP_LENGTH for name in names):
        raise UserError(_("The name of a group has {limit} characters at most.").format(limit=GROUP_LENGTH))
    return names


def set_groups(db: Database, annotator_id: int, names: tuple[str, ...]) -> None:
    """Put somebody into these groups and no others; what is assigned to a group goes to whoever is in it."""
    with db.transaction() as connection:
        connection.execute("DELETE FROM annotator_group WHERE annotator_id = ?", (annotator_id,))
        connection.conn.executemany(
            """INSERT OR IGNORE INTO annotator_group (name, annotator_id)
               VALUES (coalesce((SELECT name FROM annotator_group WHERE name = :name LIMIT 1), :name), :annotator)""",
            [{"name": name, "annotator": annotator_id} for name in names],
        )
        assignments.follow_assignments(db)


def groups_of_each(db: Database) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for row in db.rows("SELECT annotator_id, name FROM annotator_group ORDER BY name"):
        found[row["annotator_id"]] = (*found.get(row["annotator_id"], ()), row["name"])
    return found


def set_quota(db: Database, annotator_id: int, quota: int | None) -> None:
    """How many comparisons somebody shall judge in all; None for no end."""
    with db.transaction() as connection:
        connection.execute("UPDATE annotator SET quota = ? WHERE id = ?", (quota, annotator_id))
        assignments.follow_assignments(db)
