"""The jobs that the web server does itself, in processes of their own: exports, and imports of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from annotation.exports import export_files
from annotation.imports import import_process
from annotation.jobs.lane_runner import LaneRunner


def runners(data_dir: Path) -> list[LaneRunner[Any]]:
    """What does them; neither waits for the other."""
    return [
        LaneRunner(data_dir, export_files.EXPORTS, export_files.perform),
        LaneRunner(data_dir, import_process.HERE, import_process.perform),
    ]
