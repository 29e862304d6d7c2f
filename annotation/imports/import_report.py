"""What an import's process tells the page of what it has found: written as JSON, and read into records again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from annotation.imports.importing import ImportPreview, ImportResult
from annotation.imports.mapping import mapped_rows
from annotation.imports.sources.raw_rows import SourceRow
from annotation.ui.formatting import cut

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SHOWN_TEXT: Final = 400


@dataclass(frozen=True)
class ImportReport:
    """What a look at the first rows has found, or what came of an import."""

    look: ImportPreview | None = None
    outcome: ImportResult | None = None

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> ImportReport:
        """Empty where there is nothing, or what an earlier version told in other words; what it imported is there."""
        try:
            report: ImportReport = reader().validate_python(told)
        except ValueError:
            return cls()
        return report


@cache
def reader() -> TypeAdapter[ImportReport]:
    from pydantic import TypeAdapter  # not at the top: the process that tells reads nothing

    return TypeAdapter(ImportReport)


def shortened(found: ImportPreview) -> ImportPreview:
    """The same with long texts cut; the values of rows are texts."""
    rows = [
        SourceRow(row.number, {str(key): as_text(value) for key, value in row.values.items()}) for row in found.rows
    ]
    records = [one if isinstance(one, str) else mapped_rows.with_texts(one, SHOWN_TEXT) for one in found.records]
    return replace(found, rows=tuple(rows), records=tuple(records))


def as_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return cut(text.encode("utf-8", "replace").decode(), SHOWN_TEXT)
