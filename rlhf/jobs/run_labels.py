"""What people call a run and write down about it: a name, tags, notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from annotation.database import Database
from annotation.records import UserError, now
from annotation.translation import _
from rlhf.jobs import job_store

LONGEST_NAME: Final = 80
MOST_TAGS: Final = 20
LONGEST_TAG: Final = 40
LONGEST_NOTES: Final = 10_000


@dataclass(frozen=True)
class RunLabel:
    name: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""


NONE: Final = RunLabel()


def written(name: str, tags: str, notes: str) -> RunLabel:
    """A label as it is typed, tags with commas between. Raises UserError naming what is too long."""
    words = [" ".join(tag.split()) for tag in tags.split(",")]
    label = RunLabel(" ".join(name.split()), tuple(dict.fromkeys(filter(None, words))), notes.strip())
    if len(label.name) > LONGEST_NAME:
        raise UserError(_("A name has at most {most} characters.").format(most=LONGEST_NAME))
    if len(label.tags) > MOST_TAGS or any(len(tag) > LONGEST_TAG for tag in label.tags):
        said = _("At most {most} tags, with commas between, of at most {longest} characters each.")
        raise UserError(said.format(most=MOST_TAGS, longest=LONGEST_TAG))
    if len(label.notes) > LONGEST_NOTES:
        raise UserError(_("Notes have at most {most} characters.").format(most=LONGEST_NOTES))
    return label


def labels(db: Database) -> Mapping[int, RunLabel]:
    rows = db.rows("SELECT job_id, name, tags, notes FROM run_label")
    return {row["job_id"]: RunLabel(row["name"], read_tags(row["tags"]), row["notes"]) for row in rows}


def label_of(db: Database, job_id: int) -> RunLabel:
    """The label of a run; an empty one where nobody has written any."""
    row = db.row("SELECT name, tags, notes FROM run_label WHERE job_id = ?", (job_id,))
    return NONE if row is None else RunLabel(row["name"], read_tags(row["tags"]), row["notes"])


def read_tags(stored: str) -> tuple[str, ...]:
    return tuple(tag for tag in stored.split(",") if tag)


def set_label(db: Database, job_id: int, label: RunLabel, changed_by: str) -> None:
    """Write a run's label in place of the one that it has. Raises UserError where there is no such job."""
    job_store.get(db, job_id)
    row = {"job_id": job_id, "name": label.name, "tags": ",".join(label.tags), "notes": label.notes}
    db.write(
        """INSERT INTO run_label (job_id, name, tags, notes, changed_by, changed)
           VALUES (:job_id, :name, :tags, :notes, :changed_by, :changed)
           ON CONFLICT (job_id) DO UPDATE SET name = excluded.name, tags = excluded.tags, notes = excluded.notes,
               changed_by = excluded.changed_by, changed = excluded.changed""",
        {**row, "changed_by": changed_by, "changed": now()},
    )
