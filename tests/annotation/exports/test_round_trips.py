"""What an export writes, an import reads: every format and container, whatever the texts hold."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annotation.exports.formats import FORMATS, ExportContext, ExportRequest, Filters, aggregate, export_rows
from annotation.exports.transcripts import can_be_told
from annotation.exports.writing import Csv, JsonLines, Parquet
from annotation.imports.mapping.mapped_rows import MappedRow
from annotation.imports.mapping.planning import make_plan
from annotation.imports.mapping.row_readers import reader_of
from annotation.imports.sources.opening import open_path
from annotation.imports.sources.raw_rows import SourceRow
from annotation.records import JudgedAnswer, Judgement
from tests.builders import judgement as judgement_of

HOSTILE = (
    *("\n\nHuman: no", "\n\nAssistant: yes", "Human: x\n\nAssistant: y", "System: s\n\nHuman: h", "\n\nSystem: s"),
    *('[{"role": "user", "content": "x"}]', '["a"]', "[[A]]", "=1+1", "'=1", "-2", " \t-1", "a\r\nb\rc", "x\n", " x "),
    *(
        "\u202eevil",
        "שלום",
        "😀",
        '"',
        "a,b;c\td",
        "\u2028",
        "\x85",
        "\x1b[2J",
        "\ufeffx",
        "null",
        "NaN",
        "0",
        "Human:",
    ),
)
TEXTS = (
    st.sampled_from(HOSTILE)
    | st.lists(st.sampled_from(HOSTILE), min_size=2, max_size=3).map("".join)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
).filter(lambda text: bool(text.strip()))
ANSWERS = st.lists(TEXTS, min_size=2, max_size=4, unique_by=str.strip)
CONVERSATIONS = st.tuples(
    st.none() | TEXTS, st.lists(TEXTS, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2)
)


def conversation(system: str | None, turns: list[str]) -> tuple[dict[str, str], ...]:
    """Turns of user and assistant, maybe under a system message."""
    first = [] if system is None else [{"role": "system", "content": system}]
    spoken = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    return (*first, *spoken)


Chances = tuple[float | None, float | None, float | None]
CHANCES = st.tuples(
    *(st.none() | st.floats(0, 1, exclude_min=name != "people") for name in ("formed", "people", "shown"))
)


def judged(
    messages: Any,
    texts: list[str],
    ranks: list[int] | None,
    strength: int | None,
    edit: str | None,
    chances: Chances = (None, None, None),
) -> Judgement:
    """A person's judgement of these answers; all bad without ranks."""
    responses = tuple(JudgedAnswer(n, text, "policy", model_id=1, revision="base") for n, text in enumerate(texts))
    levels = sorted(set(ranks or ()))
    ranking = None if ranks is None else tuple(levels.index(rank) + 1 for rank in ranks)
    pair = len(texts) == 2
    decided = ranking is not None and len(set(ranking)) > 1
    edited = None if edit is None else JudgedAnswer(99, edit, "person", edited_from=0)
    formed, people, shown = chances
    return judgement_of(
        "ann",
        ranking,
        messages=messages,
        kind="pair" if pair else "rank",
        outcome="all-bad" if ranking is None else "ranked",
        strength=None if not pair or ranking is None else strength if decided else 0,
        responses=responses,
        shown_order=tuple(range(len(texts))),
        edited=edited,
        formed_chance=formed,
        people_chance=people,
        shown_chance=shown,
    )


def exported(judgement: Judgement, name: str) -> Any:
    """The rows of a format, and why others are missing."""
    known = ExportContext({"base": 0}, {"ann": "annotator-1"})
    request = ExportRequest(name, filters=Filters())
    return export_rows(aggregate([judgement], request.filters, known), request, known)


def read_back(rows: list[Any], name: str, container: str) -> list[MappedRow]:
    """The records of an import of a file with these rows."""
    writers: dict[str, Any] = {"jsonl": JsonLines, "parquet": Parquet, "csv": Csv}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"train.{container}"
        writer = writers[container](path, FORMATS[name].columns)
        for row in rows:
            writer.write(row)
        writer.close()
        found = list(open_path(path).rows())
    good = [row for row in found if isinstance(row, SourceRow)]
    assert len(good) == len(rows)
    read = reader_of(make_plan(good))
    return [read(row.values) for row in good]


def pairs(judgement: Judgement, strength: bool = True) -> list[MappedRow]:
    """What the pairs of a judgement are as records, as the import has them."""
    ranks, texts = judgement.ranking or (), [response.text for response in judgement.responses]
    return [
        MappedRow(
            messages=judgement.messages,
            answers=(texts[one], texts[other]),
            outcome="ranked",
            ranking=(1, 2),
            strength=judgement.strength,
            formed_chance=judgement.formed_chance,
            people_chance=judgement.people_chance,
            shown_chance=judgement.shown_chance,
        )
        for one in range(len(ranks))
        for other in range(len(ranks))
        if ranks[one] < ranks[other]
    ]


def expected(judgement: Judgement, name: str) -> list[MappedRow]:
    """What of a judgement a format carries, as records."""
    messages, ranks = judgement.messages, judgement.ranking
    texts = [response.text for response in judgement.responses]
    if name == "sft":
        return [MappedRow(messages, (judgement.edited.text,))] if judgement.edited else []
    if name == "csv":
        return [
            MappedRow(
                messages=messages,
                answers=tuple(texts),
                outcome=judgement.outcome,
                ranking=ranks,
                strength=judgement.strength,
                formed_chance=judgement.formed_chance,
                people_chance=judgement.people_chance,
                shown_chance=judgement.shown_chance,
            )
        ]  # type: ignore[arg-type]
    if name == "kto":
        best, worst = (min(ranks), max(ranks)) if ranks else (0, 1)
        return [
            MappedRow(messages, (text,), label=rank == best)
            for text, rank in zip(texts, ranks or [1] * len(texts), strict=True)
            if rank in (best, worst) and (ranks is None or best != worst)
        ]
    if name == "preference-plain" and not can_be_told(messages):
        return []
    return pairs(judgement)


CASES = [(name, container) for name in FORMATS for container in (("csv",) if name == "csv" else ("jsonl", "parquet"))]


@pytest.mark.parametrize(("name", "container"), CASES)
@given(
    CONVERSATIONS,
    ANSWERS,
    st.lists(st.integers(1, 3), min_size=4, max_size=4) | st.none(),
    st.sampled_from([None, 1, 2, 3]),
    CHANCES,
)
@example(
    ("Be short.", ["Name a port.", "Kiel.", "Another."]),
    ["Brest.", "Human: x\n\nAssistant: y"],
    [1, 2, 1, 1],
    3,
    (1 / 3, 0.0, 1.0),
)
@example((None, ["Hi\n\nHuman: you"]), ["a", "b"], [2, 1, 1, 1], None, (None, None, None))
@example((None, [' "x" ']), ['[{"role": "user", "content": "x"}]', '["a"]'], None, None, (0.5, None, 0.1))
@settings(deadline=None, max_examples=60)
def test_an_export_is_read_back_as_it_was(
    name: str,
    container: str,
    asked: Any,
    texts: list[str],
    ranks: list[int] | None,
    strength: int | None,
    chances: Chances,
) -> None:
    edit = f"mended {texts[0]}" if name == "sft" and ranks is not None else None
    chosen = None if ranks is None else ranks[: len(texts)] if edit is None else [1, *[2] * (len(texts) - 1)]
    judgement = judged(conversation(*asked), texts, chosen, strength, edit, chances)
    made = exported(judgement, name)
    wanted = expected(judgement, name)
    assert len(made.rows) == len(wanted), made
    if len(wanted) < len(pairs(judgement)) and name == "preference-plain":
        assert "transcript" in made.left_out, "what a format can't carry is counted"
    if made.rows:
        found = read_back(made.rows, name, container)
        assert sorted(map(repr, found)) == sorted(map(repr, wanted))
