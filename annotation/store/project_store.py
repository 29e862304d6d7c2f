"""What is asked of annotators: the project, its guidelines, and whether people or judges answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from annotation.database import Database, Params
from annotation.records import Feedback, Project, Tag, now
from annotation.store.setting_store import set_setting, setting


def project(db: Database) -> Project:
    """What is asked of annotators, and of how many."""
    values = setting(db, "project", {})
    if "tags" in values:
        values = {**values, "tags": tuple(Tag(**tag) for tag in values["tags"])}
    return Project(**values)


def set_project(db: Database, project: Project) -> None:
    """Store what is asked of annotators; `annotation.project.check` has found it sound."""
    set_setting(db, "project", asdict(project))


@dataclass(frozen=True)
class Guidelines:
    """A version of what annotators are asked to go by, in Markdown; version 0 without any."""

    version: int
    text: str
    written_by: str
    created: str


def guidelines(db: Database) -> Guidelines:
    """The latest guidelines."""
    row = db.row("SELECT * FROM guidelines ORDER BY version DESC LIMIT 1")
    return Guidelines(0, "", "", "") if row is None else Guidelines(**row)


def guidelines_versions(db: Database) -> list[Guidelines]:
    """Every version of the guidelines, the latest first."""
    return [Guidelines(**row) for row in db.rows("SELECT * FROM guidelines ORDER BY version DESC")]


def write_guidelines(db: Database, text: str, written_by: str) -> int:
    """Add a version of the guidelines unless the text is that of the latest; returns the version that holds now."""
    with db.transaction():
        latest = guidelines(db)
        if latest.text == text.strip():
            return latest.version
        row = {"version": latest.version + 1, "text": text.strip(), "written_by": written_by, "created": now()}
        return db.insert("guidelines", row)


def feedback(db: Database) -> Feedback:
    return Feedback(**setting(db, "feedback", {}))


def set_feedback(db: Database, feedback: Feedback) -> None:
    """Store who judges, and hand what nobody has judged yet to them. Later comparisons are handed out by a trigger."""
    with db.transaction():
        set_setting(db, "feedback", asdict(feedback))
        hand_to_judging(db)


# Neither asked by an annotator, who waits for it, nor there to measure a candidate.
ORDINARY = "asked_by IS NULL AND candidate_id IS NULL"


def hand_to_judging(db: Database, among: str = "SELECT id FROM comparison", values: Params = ()) -> None:
    """Hand those of some comparisons that nobody has judged yet to whoever judges now, in the caller's transaction."""
    if feedback(db).mode == "people":  # what some of several judges have judged too: nobody else would get it
        db.connection.execute(
            f"""UPDATE comparison SET asks = 'people', asks_why = NULL, people_chance = 1, people_drawn = 1
                WHERE asks = 'judges' AND id IN ({among})""",
            values,
        )
        return
    db.connection.execute(
        f"""UPDATE comparison SET asks = 'judges', people_chance = NULL, people_drawn = NULL
            WHERE purpose = 'preference' AND asks = 'people' AND {ORDINARY} AND id IN ({among})
              AND taken = 0 AND NOT EXISTS (SELECT 1 FROM judgement j WHERE j.comparison_id = comparison.id)""",
        values,
    )
