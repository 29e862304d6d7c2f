"""What workers have made, sent to admins only: policies as zip files, answers, metrics, reports."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from annotation.database import Database
from annotation.exports.formats import escape_cell
from annotation.records import UserError
from annotation.translation import _
from annotation.web.middleware import admins_route
from rlhf.generation import prompt_sets
from rlhf.jobs import job_store
from rlhf.tabs.downloads import METRICS, MODELS, REPORTS, directory_of, files_of

REPORT_NAME: Final = re.compile(r"run-(\d{1,15})\.md", re.ASCII)
METRICS_NAME: Final = re.compile(r"(\d{1,15})\.csv", re.ASCII)
# No separators, and no dot in front.
NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})\.zip")
CHUNK: Final = 1 << 20


class ZipChunks:
    """A file to write to that can't be read or rewound; what was written is taken away piece by piece."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing: it is kept in memory."""

    def take(self) -> bytes:
        taken = b"".join(self.written)
        self.written.clear()
        return taken


def zip_chunks(folder: str, files: Sequence[Path]) -> Iterator[bytes]:
    """A zip file of these files within a folder, piece by piece, stored as they are: weights don't compress."""
    chunks = ZipChunks()
    with zipfile.ZipFile(chunks, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for path in files:
            # The entry's size tells whether zip64 is needed.
            entry = zipfile.ZipInfo.from_file(path, f"{folder}/{path.name}", strict_timestamps=False)
            with path.open("rb") as source, archive.open(entry, "w") as target:
                while data := source.read(CHUNK):
                    target.write(data)
                    yield chunks.take()
            yield chunks.take()
    yield chunks.take()


@dataclass(frozen=True)
class DownloadEndpoint:
    """The routes by which an admin, and nobody else, fetches a policy, a job's answers, its metrics or its report."""

    db: Database
    data_dir: Path

    def routes(self) -> Sequence[Route]:
        served = {MODELS: self.model, prompt_sets.DIRECTORY: self.answers, METRICS: self.metrics, REPORTS: self.report}
        return [admins_route(where, find) for where, find in served.items()]

    def model(self, name: str) -> Response:
        named = NAME.fullmatch(name)
        if named is None:
            raise UserError(_("There is no such model."))
        files = files_of(directory_of(self.db, self.data_dir, named[1]))
        return StreamingResponse(zip_chunks(named[1], files), media_type="application/zip", headers=saved_as(name))

    def answers(self, name: str) -> Response:
        path = prompt_sets.find(self.data_dir, name)
        return FileResponse(path, media_type="application/jsonl", filename=path.name)

    def metrics(self, name: str) -> Response:
        """What a job has reported at each step, as a table."""
        named = METRICS_NAME.fullmatch(name)
        found = [] if named is None else job_store.metrics(self.db, int(named[1]))
        if named is None or not found:
            raise UserError(_("This job has reported nothing."))
        return Response(metrics_table(found), media_type="text/csv", headers=saved_as(f"job-{named[1]}.csv"))

    def report(self, name: str) -> Response:
        named = REPORT_NAME.fullmatch(name)
        found = [] if named is None else job_store.with_ids(self.db, [int(named[1])])
        if not found or not found[0].spec.waits:
            raise UserError(_("There is no such run."))
        # Not at the top: it loads Gradio, which takes seconds, and whoever judges does not need it.
        from rlhf.tabs.runs import run_report

        text = run_report.report_of(self.db, found[0])
        return Response(text, media_type="text/markdown", headers=saved_as(name))


def saved_as(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def metrics_table(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Metrics as CSV: a row a step, a column a metric, whose name may be a rented machine's."""
    names = dict.fromkeys(["step", *(name for entry in metrics for name in entry)])
    text = io.StringIO()
    writer = csv.DictWriter(text, [*names])
    writer.writerow({name: escape_cell(name) for name in names})
    writer.writerows(metrics)
    return text.getvalue()
