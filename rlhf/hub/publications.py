"""What was put on the Hub from here: models, judgements and frozen data, each with its repository and commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from annotation.database import Database
from annotation.hub_client import Hub, RepoKind, ensure_repo
from annotation.records import now


@dataclass(frozen=True)
class Publication:
    id: int
    kind: Literal["model", "dataset"]
    model_id: int | None
    repo: str
    tag: str
    commit_sha: str
    private: bool
    published_by: str
    created: str


def record(
    db: Database, kind: RepoKind, model_id: int | None, repo: str, tag: str, commit_sha: str, private: bool, by: str
) -> None:
    """Append to the record of what is on the Hub; nothing where the newest entry says the same already."""
    with db.transaction():
        known = db.row("SELECT * FROM publication WHERE repo = ? AND tag = ? ORDER BY id DESC", (repo, tag))
        if known is None or (known["model_id"], known["commit_sha"]) != (model_id, commit_sha):
            put = {"kind": kind, "model_id": model_id, "repo": repo, "tag": tag, "commit_sha": commit_sha}
            db.insert("publication", {**put, "private": private, "published_by": by, "created": now()})


def all_of(db: Database) -> list[Publication]:
    """What was put on the Hub, newest first."""
    rows = db.rows("SELECT * FROM publication ORDER BY id DESC")
    return [Publication(**{**row, "private": bool(row["private"])}) for row in rows]


def repo_for(hub: Hub, db: Database, kind: RepoKind, repo: str, private: bool) -> bool:
    """See that the repository to publish to is there; returns whether it is private. Raises UserError.

    It may be public, whatever is asked for, where it was when something was last put there from here.
    """
    last = next((one for one in all_of(db) if (one.kind, one.repo) == (kind, repo)), None)
    return ensure_repo(hub, repo, kind, private, public_before=last is not None and not last.private)
