"""What an import's process tells the page of what it has found: written as JSON, and read into records again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from annotation.imports.importing import ImportPreview, ImportResult
from annotation.imports.mapping import mapped_rows
from annotation.imports.mapping.mapped_rows import MappedRow
from annotation.imports.sources.raw_rows import BadRow, SourceRow
from annotation.imports.staging import Counts, Skipped
from annotation.ui.formatting import cut
from annotation.validation import known

SHOWN_TEXT: Final = 400


@dataclass(frozen=True)
class ImportOutcome:
    result: ImportResult
    dry_run: bool


def look_told(found: ImportPreview) -> dict[str, Any]:
    """What the first rows are, with long values cut."""
    cells = [
        {"number": row.number, "cells": {str(key): shortened(value) for key, value in row.values.items()}}
        for row in found.rows
    ]
    records = [
        one if isinstance(one, str) else asdict(mapped_rows.with_texts(one, SHOWN_TEXT)) for one in found.records
    ]
    told = {**vars(found), "rows": cells, "records": records, "bad": [asdict(bad) for bad in found.bad]}
    return {**told, "proposed": dict(found.proposed)}


def look_read(told: Mapping[str, Any]) -> ImportPreview:
    """What `look_told` gave; the values of rows are texts."""
    parts = {
        "problem": told["problem"] or "",
        "rows": tuple(SourceRow(row["number"], row["cells"]) for row in told["rows"]),
        "records": tuple(one if isinstance(one, str) else record_read(one) for one in told["records"]),
        "bad": tuple(known(BadRow, row) for row in told["bad"]),
        **{name: tuple(told.get(name, ())) for name in ("columns", "asked", "notes")},
    }
    return known(ImportPreview, {"counted": "", "usable": True, **told, **parts})


def record_read(told: Mapping[str, Any]) -> MappedRow:
    ranking = told.get("ranking")
    parts = {
        "messages": tuple(told["messages"]),
        "answers": tuple(told.get("answers", ())),
        "ranking": None if ranking is None else tuple(ranking),
    }
    return known(MappedRow, {**told, **parts})


def outcome_told(outcome: ImportOutcome) -> dict[str, Any]:
    """What was imported, or would be."""
    result = outcome.result
    told = {**asdict(result), "columns": dict(result.columns), "skipped": [asdict(row) for row in result.skipped]}
    return {**told, "dry_run": outcome.dry_run}


def outcome_read(told: Mapping[str, Any]) -> ImportOutcome:
    """What `outcome_told` gave, of an earlier version too."""
    # Then the column stood beside what was said of it; now that names it.
    apart = any(len(entry) == 3 for entry in told["reasons"])
    skipped = [
        known(Skipped, {**row, "reason": f"{row['column']} {row['reason']}".strip()} if apart else row)
        for row in told.get("skipped", ())
    ]
    parts = {
        "counts": known(Counts, told.get("counts", {})),
        "reasons": [(" ".join(filter(None, said)), count) for *said, count in told["reasons"]],
        "skipped": skipped,
    }
    result = known(ImportResult, {"counted": "", "locked_seconds": 0.0, "notes": (), **told, **parts})
    return ImportOutcome(result, told["dry_run"])


def shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return cut(text.encode("utf-8", "replace").decode(), SHOWN_TEXT)
