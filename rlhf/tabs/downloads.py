"""What workers have made, for admins only: policies as zip files, answers, metrics, reports."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from annotation.database import Database
from annotation.exports.formats import escape_cell
from annotation.records import Annotator, UserError
from annotation.translation import _
from annotation.web.middleware import ANNOTATOR_KEY
from rlhf.generation import prompt_sets
from rlhf.jobs import job_store
from rlhf.jobs.artifacts import bytes_within
from rlhf.models import registry
from rlhf.models.registry import Policy

ADDRESS: Final = "models"
METRICS: Final = "metrics"
REPORTS: Final = "reports"
REPORT_NAME: Final = re.compile(r"run-(\d{1,15})\.md", re.ASCII)
METRICS_NAME: Final = re.compile(r"(\d{1,15})\.csv", re.ASCII)
# No separators, and no dot in front.
NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})\.zip")
# Weights, configuration, tokenizer and card. Not training_args.bin, which may hold a token, nor an optimiser's state.
ALLOWED: Final = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md")
CHUNK: Final = 1 << 20


def address(revision: str) -> str:
    """Where a browser fetches a policy, relative to the page."""
    return f"{ADDRESS}/{revision}.zip"


def metrics_address(job_id: int) -> str:
    """Where a browser fetches what a job has reported, relative to the page."""
    return f"{METRICS}/{job_id}.csv"


def report_address(job_id: int) -> str:
    """Where a browser fetches the report of a run, relative to the page."""
    return f"{REPORTS}/run-{job_id}.md"


def directory_of(db: Database, data_dir: Path, revision: str) -> Path:
    """Where a policy's files lie. Raises UserError where it has none (any more)."""
    policy = registry.by_revision(db, revision)
    if policy.path is None:
        raise UserError(_("'{revision}' has no files of its own here.").format(revision=revision))
    directory = data_dir / policy.path
    if policy.deleted or not directory.is_dir():
        raise UserError(_("The files of '{revision}' are gone.").format(revision=revision))
    return directory


def files_of(directory: Path) -> list[Path]:
    """What of a policy's directory may be handed out, by name; nothing hidden, never what a link points to."""
    found = {path for pattern in ALLOWED for path in directory.glob(pattern) if not path.name.startswith(".")}
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def bytes_on_disk(data_dir: Path, policy: Policy) -> int:
    return 0 if policy.path is None else bytes_within(data_dir / policy.path)


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
class ModelDownloads:
    """The routes by which an admin, and nobody else, fetches a policy, a job's answers, its metrics or its report."""

    db: Database
    data_dir: Path

    def routes(self) -> Sequence[Route]:
        return [
            Route(f"/{ADDRESS}/{{name}}", self.download, methods=["GET"]),
            Route(f"/{prompt_sets.DIRECTORY}/{{name}}", self.download_answers, methods=["GET"]),
            Route(f"/{METRICS}/{{name}}", self.download_metrics, methods=["GET"]),
            Route(f"/{REPORTS}/{{name}}", self.download_report, methods=["GET"]),
        ]

    async def download(self, request: Request) -> Response:
        """The zip file, to be saved and not shown. Who asks comes from the session, as everywhere."""
        if not by_admin(request):
            return PlainTextResponse(_("Only an admin may fetch models."), 403)
        name: Any = request.path_params["name"]
        named = NAME.fullmatch(name)
        if named is None:
            return PlainTextResponse(_("There is no such model."), 404)
        try:
            directory = await asyncio.to_thread(directory_of, self.db, self.data_dir, named[1])
        except UserError as error:
            return PlainTextResponse(str(error), 404)
        files = await asyncio.to_thread(files_of, directory)
        headers = {"Content-Disposition": f'attachment; filename="{named[0]}"', "Cache-Control": "no-store"}
        return StreamingResponse(zip_chunks(named[1], files), media_type="application/zip", headers=headers)

    async def download_answers(self, request: Request) -> Response:
        """The file of a job that answered a prompt set, to be saved and not shown."""
        if not by_admin(request):
            return PlainTextResponse(_("Only an admin may fetch answers."), 403)
        name: Any = request.path_params["name"]
        try:
            path = await asyncio.to_thread(prompt_sets.find, self.data_dir, name)
        except UserError as error:
            return PlainTextResponse(str(error), 404)
        headers = {"Cache-Control": "no-store"}
        return FileResponse(path, media_type="application/jsonl", filename=path.name, headers=headers)

    async def download_metrics(self, request: Request) -> Response:
        """What a job has reported at each step, as a table, to be saved and not shown."""
        if not by_admin(request):
            return PlainTextResponse(_("Only an admin may fetch curves."), 403)
        named = METRICS_NAME.fullmatch(request.path_params["name"])
        found = [] if named is None else await asyncio.to_thread(job_store.metrics, self.db, int(named[1]))
        if named is None or not found:
            return PlainTextResponse(_("This job has reported nothing."), 404)
        headers = {"Content-Disposition": f'attachment; filename="job-{named[1]}.csv"', "Cache-Control": "no-store"}
        return Response(metrics_table(found), media_type="text/csv", headers=headers)

    async def download_report(self, request: Request) -> Response:
        if not by_admin(request):
            return PlainTextResponse(_("Only an admin may fetch reports."), 403)
        named = REPORT_NAME.fullmatch(request.path_params["name"])
        found = [] if named is None else await asyncio.to_thread(job_store.with_ids, self.db, [int(named[1])])
        if named is None or not found or not found[0].spec.waits:
            return PlainTextResponse(_("There is no such run."), 404)
        # Not at the top: it loads Gradio, which takes seconds, and whoever judges does not need it.
        from rlhf.tabs.runs import run_report

        text = await asyncio.to_thread(run_report.report_of, self.db, self.data_dir, found[0])
        headers = {"Content-Disposition": f'attachment; filename="{named[0]}"', "Cache-Control": "no-store"}
        return Response(text, media_type="text/markdown", headers=headers)


def metrics_table(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Metrics as CSV: a row a step, a column a metric, whose name may be a rented machine's."""
    names = dict.fromkeys(["step", *(name for entry in metrics for name in entry)])
    text = io.StringIO()
    writer = csv.DictWriter(text, [*names])
    writer.writerow({name: escape_cell(name) for name in names})
    writer.writerows(metrics)
    return text.getvalue()


def by_admin(request: Request) -> bool:
    annotator: Annotator | None = request.scope.get(ANNOTATOR_KEY)
    return annotator is not None and annotator.role == "admin"
