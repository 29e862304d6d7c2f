"""A queue of jobs: some kinds in one lane, each kind a frozen record of what is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from annotation.database import Database, marks
from annotation.jobs import job_table
from annotation.jobs.job_table import OPEN, PLACE, Job, Lane, Status


@dataclass(frozen=True)
class JobRequest:
    """What a person asks for, to be done by the runner of a lane: the spec of such a job."""

    kind: ClassVar[str] = ""

    def check(self) -> None:
        """Raises UserError for what can't be meant."""


AnyRequest = TypeVar("AnyRequest", bound=JobRequest)


def named(*kinds: type[AnyRequest]) -> dict[str, type[AnyRequest]]:
    return {kind.kind: kind for kind in kinds}


@dataclass(frozen=True)
class JobQueue(Generic[AnyRequest]):
    """The jobs of these kinds in a lane, by the kind's name."""

    lane: Lane
    kinds: Mapping[str, type[AnyRequest]]

    def enqueue(self, db: Database, spec: AnyRequest, by: str) -> int:
        """Record what somebody wants done; the job's id. Raises UserError for what can't be meant."""
        spec.check()
        return job_table.enqueue(db, self.lane, spec.kind, json.dumps({"kind": spec.kind, **asdict(spec)}), by)

    @cached_property
    def readers(self) -> Mapping[str, Any]:
        """What makes a record of its JSON, for each kind; building them takes milliseconds."""
        from pydantic import TypeAdapter  # not at the top: it is slow to load, and a web server starts without jobs

        return {name: TypeAdapter(kind) for name, kind in self.kinds.items()}

    def read(self, row: Mapping[str, Any]) -> Job[AnyRequest]:
        spec: AnyRequest = self.readers[row["kind"]].validate_json(row["spec"])
        return job_table.as_job(row, spec)

    def select(self, db: Database, more: str, *values: Any, kinds: tuple[str, ...] = ()) -> list[Job[AnyRequest]]:
        """The jobs of these kinds, or of all of the queue, that the rest of a query picks."""
        wanted = kinds or tuple(self.kinds)
        query = f"SELECT * FROM job WHERE lane = ? AND kind IN ({marks(wanted)}) {more}"
        rows = db.rows(query, (self.lane, *wanted, *values))
        return [self.read(row) for row in rows]

    def get(self, db: Database, job_id: int) -> Job[AnyRequest]:
        """The job of an id that is known to be in this queue."""
        (job,) = self.select(db, "AND id = ?", job_id)
        return job

    def recent(self, db: Database, limit: int) -> list[Job[AnyRequest]]:
        """The latest jobs, newest first."""
        return self.select(db, "ORDER BY id DESC LIMIT ?", limit)

    def newest(self, db: Database, *kinds: str, status: Status | None = None) -> Job[AnyRequest] | None:
        """The newest job, of these kinds and in this state where such are named."""
        latest = self.select(db, "AND status = coalesce(?, status) ORDER BY id DESC LIMIT 1", status, kinds=kinds)
        return next(iter(latest), None)

    def open(self, db: Database) -> list[Job[AnyRequest]]:
        """What waits or is at work, oldest first."""
        return self.select(db, f"AND status IN {OPEN} ORDER BY id")

    def claim_next(self, db: Database, worker: str) -> Job[AnyRequest] | None:
        """Take the job that has waited longest for this worker; None where none waits."""
        for waiting in self.select(db, f"AND status = 'queued' ORDER BY {PLACE}, id"):
            row = job_table.claim(db, waiting.id, worker)
            if row is not None:
                return self.read(row)
        return None
