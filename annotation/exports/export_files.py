"""Exports that the page makes: written by a process of their own, kept in the data directory, for admins only."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request as WebRequest
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from annotation.environment import child_environment
from annotation.exports.export_command import PROGRAM, arguments_of
from annotation.exports.formats import ONE_FILE, ExportRequest
from annotation.records import Annotator, UserError
from annotation.web.middleware import ANNOTATOR_KEY

DIRECTORY: Final = "exports"
# No separators, and no dot in front: such a name can't lead out of the directory or to what is being written.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
COUNT_SECONDS: Final = 300.0
LEFTOVER_SECONDS: Final = 24 * 3600.0
LOG_BYTES: Final = 4_096
PROGRESS: Final = re.compile(r"([\d,]+) of ([\d,]+) \w+")
ROOT: Final = Path(__file__).resolve().parent.parent.parent
REFUSED: Final = 2
"""The exit status of a command that a person can mend."""


# --------------------------------------------------------------------------------------------------------------- files
@dataclass(frozen=True)
class ExportFile:
    """A finished export."""

    name: str
    size: int
    made: str


def files(data_dir: Path) -> list[ExportFile]:
    """The finished exports, newest first."""
    found = []
    for path in sorted((data_dir / DIRECTORY).glob("*"), key=lambda path: path.name):
        if NAME.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            facts = path.stat()
            made = datetime.fromtimestamp(facts.st_mtime, UTC).isoformat(timespec="seconds")
            found.append(ExportFile(path.name, facts.st_size, made))
    return sorted(found, key=lambda entry: entry.made, reverse=True)


def find(data_dir: Path, name: str) -> Path:
    """The path of a finished export. Raises UserError for a name that none has."""
    path = data_dir / DIRECTORY / name if NAME.fullmatch(name) else None
    if path is None or not path.is_file() or path.is_symlink():
        raise UserError("There is no such export any more. Reload the page to see those that are there.")
    return path


def remove(data_dir: Path, name: str) -> None:
    """Delete a finished export. Raises UserError for a name that none has."""
    find(data_dir, name).unlink()


# ---------------------------------------------------------------------------------------------------------- the writer
@dataclass(frozen=True)
class Progress:
    """How the latest export stands: what its process said last, and how far it is, from 0 to 1."""

    name: str
    state: str
    """'running', 'finished' or 'failed'."""
    said: str
    share: float


@dataclass
class Exporter:
    """Runs `python -m annotation export` for the page, one at a time. What is finished is a file."""

    data_dir: Path
    process: subprocess.Popen[bytes] | None = None
    name: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, request: ExportRequest) -> str:
        """Begin an export and return the name of the file it will have. Raises UserError while one is being written."""
        with self.lock:
            if self.process is not None and self.process.poll() is None:
                raise UserError("An export is being written already. Wait until it is there.")
            directory = self.data_dir / DIRECTORY
            directory.mkdir(exist_ok=True)
            remove_leftovers(directory)
            self.name = file_name(request)
            command = command_of(self.data_dir, request, f"--to={directory / self.name}")
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=child_environment(),
                )
            return self.name

    @property
    def log(self) -> Path:
        """Where the process prints."""
        return self.data_dir / DIRECTORY / f".{self.name}.log"

    def progress(self) -> Progress | None:
        """How the latest export stands; None before the first one since the program started."""
        with self.lock:
            if self.process is None:
                return None
            status = self.process.poll()
            said = last_line(self.log)
            if status is None:
                return Progress(self.name, "running", said or "Starting", share_done(said))
            if status == 0:
                return Progress(self.name, "finished", said.replace(str(self.data_dir / DIRECTORY) + os.sep, ""), 1.0)
            told = said if status == REFUSED else f"The export ended without finishing (status {status}). {said}"
            return Progress(self.name, "failed", told, 0.0)


def file_name(request: ExportRequest) -> str:
    moment = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    return f"{request.format}-{moment}{ONE_FILE.get(request.format, '.zip')}"


def command_of(data_dir: Path, request: ExportRequest, *more: str) -> list[str]:
    """The command line of an export; the machine's other work goes first."""
    nice = ["nice", "-n", "10"] if sys.platform != "win32" else []
    return [*nice, sys.executable, *PROGRAM, *arguments_of(request), f"--data={data_dir}", *more]


def remove_leftovers(directory: Path) -> None:
    """Delete what earlier exports printed, and what killed ones left half written a day ago or more."""
    for path in directory.glob(".*"):
        old = time.time() - path.stat().st_mtime > LEFTOVER_SECONDS
        if path.is_dir() and old:
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".log" or old:
            path.unlink(missing_ok=True)


def last_line(log: Path) -> str:
    """The last line that a process has printed; empty before the first."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def share_done(said: str) -> float:
    """How far an export is, from what it said."""
    found = PROGRESS.fullmatch(said)
    if found is None:
        return 0.0
    done, total = (int(number.replace(",", "")) for number in found.groups())
    return min(1.0, done / total) if total else 0.0


def count(data_dir: Path, request: ExportRequest) -> Mapping[str, Mapping[str, int]]:
    """What an export would hold (`rows` by split) and leave out (`left_out` by reason), counted in another process.

    Raises UserError with what that process says where it refuses, and where it takes too long.
    """
    try:
        done = subprocess.run(
            command_of(data_dir, request, "--count"),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COUNT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"Counting takes more than {COUNT_SECONDS:.0f} s. The export itself can still be made."
        ) from error
    if done.returncode == REFUSED:
        raise UserError(done.stderr.strip().splitlines()[-1])
    done.check_returncode()
    counted: Mapping[str, Mapping[str, int]] = json.loads(done.stdout)
    return counted


# --------------------------------------------------------------------------------------------------------------- route
@dataclass(frozen=True)
class Downloads:
    """The route by which an admin, and nobody else, fetches a finished export."""

    data_dir: Path

    def routes(self) -> Sequence[Route]:
        """What the server adds beside the pages."""
        return [Route(f"/{DIRECTORY}/{{name}}", self.download, methods=["GET"])]

    async def download(self, request: WebRequest) -> Response:
        """The file, to be saved and not shown. Who asks comes from the session, as everywhere."""
        annotator: Annotator | None = request.scope.get(ANNOTATOR_KEY)
        if annotator is None or annotator.role != "admin":
            return PlainTextResponse("Only an admin may fetch exports.", 403)
        name: Any = request.path_params["name"]
        try:
            path = await asyncio.to_thread(find, self.data_dir, name)
        except UserError as error:
            return PlainTextResponse(str(error), 404)
        return FileResponse(
            path, filename=path.name, media_type="application/octet-stream", headers={"Cache-Control": "no-store"}
        )
