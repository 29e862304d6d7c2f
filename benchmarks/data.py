"""How long do data take to come in and to go out, how much memory, and how long do others wait meanwhile?

Writes a file of preference pairs, imports it with `python -m annotation import` into a fresh data directory, and
meanwhile makes small write transactions on the same database every few milliseconds, as annotators do. A second
import of the same file measures the comparison with what is there. Then every format is exported from it.

How to read it. The promises are 100,000 rows in under 60 s and 50,000 judgements out in under 20 s, both in bounded
memory. `longest_wait_s` is the longest that one of the small transactions had to wait; others give up after 5 s.
`locked_s` is what the import itself says. Run by hand: `python -m benchmarks.data --rows 50000`.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from annotation.database import open_database
from annotation.store import setting_store

ROOT = Path(__file__).resolve().parent.parent
LETTERS = "etaoinshrdlucmfw    "


def rows(count: int, characters: int) -> Iterator[dict[str, str]]:
    """Preference pairs with about so many characters each, always the same ones."""
    source = random.Random(1)
    for number in range(count):
        letters = "".join(source.choices(LETTERS, k=3 * characters))
        texts = [letters[place * characters : (place + 1) * characters] for place in range(3)]
        yield {"prompt": f"{number} {texts[0]}?", "chosen": f"{texts[1]}.", "rejected": f"{texts[2]}!"}


def write_file(directory: Path, kind: str, count: int, characters: int) -> Path:
    """The file to import."""
    path = directory / f"pairs.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows(count, characters))), str(path), row_group_size=10_000)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(rows(count, characters))
        elif kind == "json":
            json.dump(list(rows(count, characters)), file)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows(count, characters))
    return path


class SmallWrites:
    """Somebody who writes a setting every few milliseconds, and notes the longest wait."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.waits: list[float] = []
        self.errors: list[str] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        """Write until told to stop."""
        db = open_database(self.data_dir)
        while not self.ended.is_set():
            began = time.monotonic()
            try:
                setting_store.set_setting(db, "benchmark", began)
            except Exception as error:  # an error here is a finding, to be reported with the others
                self.errors.append(str(error))
            self.waits.append(time.monotonic() - began)
            time.sleep(0.005)
        db.close()

    def __enter__(self) -> SmallWrites:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self.thread.join()


def timed(*arguments: str) -> tuple[float, int, str]:
    """Run `python -m annotation`: seconds, peak resident bytes, and the last line that it printed."""
    began, peak, last = time.monotonic(), 0, ""
    command = [sys.executable, "-m", "annotation", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        watched = psutil.Process(process.pid)
        assert process.stdout is not None
        for line in process.stdout:
            last = line
            peak = max(peak, watched.memory_info().rss)
    seconds = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {last}")
    return seconds, peak, last


def measure_import(path: Path, data_dir: Path) -> dict[str, Any]:
    """Import the file and report seconds, memory and waits."""
    with SmallWrites(data_dir) as others:
        seconds, peak, last = timed("import", f"--data={data_dir}", "--json-progress", str(path))
    outcome = json.loads(last)["outcome"]
    return {
        "seconds": round(seconds, 2),
        "locked_s": round(outcome["locked_seconds"], 2),
        "longest_wait_s": round(max(others.waits), 2),
        "failed_writes": others.errors,
        "peak_rss_mb": round(peak / 2**20),
        "counts": {name: value for name, value in outcome["counts"].items() if value},
    }


def measure_exports(data_dir: Path, target: Path) -> dict[str, Any]:
    """Seconds and size of each export of all that there is."""
    sizes = {}
    for name, container in (
        *(("preference", container) for container in ("jsonl", "parquet", "dataset")),
        *(("kto", "dataset"), ("reward", "dataset"), ("csv", ""), ("raw", "")),
    ):
        to = target / f"{name}-{container}"
        chosen = (f"--as={container}",) if container else ()
        seconds, _, _ = timed("export", f"--data={data_dir}", f"--format={name}", *chosen, f"--to={to}")
        files = [to] if to.is_file() else [file for file in to.rglob("*") if file.is_file()]
        megabytes = round(sum(file.stat().st_size for file in files) / 2**20)
        sizes[f"{name} {container}".strip()] = {"seconds": round(seconds, 1), "mb": megabytes}
    return sizes


def main() -> None:
    """Make the file, import it twice, export it in every format, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--characters", type=int, default=400, help="of each text (default: %(default)s)")
    parser.add_argument("--format", choices=("jsonl", "json", "csv", "parquet"), default="jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory) / "data"
        open_database(data_dir).close()
        path = write_file(Path(directory), options.format, options.rows, options.characters)
        found = {
            "file_mb": round(path.stat().st_size / 2**20),
            "format": options.format,
            "import": measure_import(path, data_dir),
            "import again": measure_import(path, data_dir),
            "export": measure_exports(data_dir, Path(directory)),
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
