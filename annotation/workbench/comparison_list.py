"""A page of the table of comparisons, how many there are, and what can be filtered by. All SQL of it.

100,000 comparisons keep nobody waiting: a page is found by its ids alone, along an index, and only its own rows are
read whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from annotation.database import Database
from annotation.records import UserError, counted_up, now
from annotation.store import data_sources, project_store, prompt_store
from annotation.translation import N_, _
from annotation.workbench.comparison_filter import STATUS, ComparisonFilter
from annotation.workbench.word_index import index_imports

PAGE_ROWS: Final = 50
SHOWN_PROMPT: Final = 300
SORTS: Final[Mapping[str, tuple[str, str]]] = {
    "newest": (N_("Newest first"), "c.id DESC"),
    "oldest": (N_("Oldest first"), "c.id"),
    "latest": (N_("Latest judged first"), "c.last_judged DESC, c.id DESC"),
    "earliest": (N_("Earliest judged first"), "c.last_judged, c.id"),
    "most": (N_("Most judgements first"), "c.judged DESC, c.id DESC"),
    "fewest": (N_("Fewest judgements first"), "c.judged, c.id"),
}


@dataclass(frozen=True)
class ListedComparison:
    id: int
    status: str
    prompt: str
    """The beginning of its last turn."""
    source: str
    split: str
    answers: int
    judged: int
    """Annotators whose judgements stand."""
    wanted: int
    """Annotators that it is to have; closed it gets no more."""
    last_judged: str | None
    judges: str
    writers: str
    """Who wrote the answers, by revision."""
    assigned: str
    """To whom, while the assignment stands."""
    flagged: bool


@dataclass(frozen=True)
class ListPage:
    """A page of a list, and how many comparisons the whole list has."""

    rows: tuple[ListedComparison, ...]
    total: int
    number: int
    """From 1 on."""

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE_ROWS))


ROWS: Final = f"""SELECT c.id, {STATUS} AS status, p.source, p.split, c.judged, c.last_judged, c.flagged,
        substr(json_extract(p.messages, '$[#-1].content'), 1, {SHOWN_PROMPT + 1}) AS prompt,
        iif(c.state = 'closed', c.judged, iif(c.candidate_id IS NULL, :overlap, 1)) AS wanted,
        (SELECT count(*) FROM comparison_response cr WHERE cr.comparison_id = c.id) AS answers,
        (SELECT group_concat(name, ', ') FROM (SELECT DISTINCT a.name FROM current_judgement j
            JOIN annotator a ON a.id = j.annotator_id WHERE j.comparison_id = c.id AND j.outcome != 'skip'
            ORDER BY a.name)) AS judges,
        (SELECT group_concat(name, ', ') FROM (SELECT DISTINCT coalesce(m.revision, r.origin) AS name
            FROM comparison_response cr JOIN response r ON r.id = cr.response_id LEFT JOIN model m ON m.id = r.model_id
            WHERE cr.comparison_id = c.id ORDER BY name)) AS writers,
        iif(c.assigned, (SELECT group_concat(coalesce(a.name, x.group_name), ', ') FROM bulk_change_comparison i
            JOIN bulk_change x ON x.id = i.change_id LEFT JOIN annotator a ON a.id = x.annotator_id
            WHERE i.comparison_id = c.id AND i.state = 'stands' AND x.kind = 'assign'), NULL) AS assigned
    FROM comparison c JOIN prompt p ON p.id = c.prompt_id WHERE c.id IN ({{ids}}) ORDER BY {{order}}"""


def terms(db: Database) -> dict[str, Any]:
    return {"overlap": project_store.project(db).overlap, "now": now()}


def condition_of(db: Database, wanted: ComparisonFilter) -> tuple[str, dict[str, Any]]:
    """What a filter says in SQL, once all words are there that it may look for (`prepare`)."""
    prepare(db, wanted)
    return wanted.where()


def prepare(db: Database, wanted: ComparisonFilter) -> None:
    """See that all words are there that a filter may look for. To be called before the caller's transaction."""
    if wanted.q:
        index_imports(db)


def list_page(db: Database, wanted: ComparisonFilter, sort: str = "newest", number: int = 1) -> ListPage:
    """A page of what a filter finds; the last one for a number beyond it. Raises UserError for an unknown order."""
    if sort not in SORTS:
        raise UserError(_("There is no order '{sort}'. There is: {known}.").format(sort=sort, known=", ".join(SORTS)))
    order = SORTS[sort][1]
    condition, values = condition_of(db, wanted)
    with db.reading():
        asked = {**terms(db), **values}
        query = f"SELECT c.id FROM comparison c WHERE {condition} ORDER BY {order}"
        if wanted.q or wanted.said or wanted.person or wanted.source:  # found as a whole, so once is enough
            found = [str(row["id"]) for row in db.rows(query, asked)]
            total, number = len(found), last_of(len(found), number)
            ids = found[(number - 1) * PAGE_ROWS : number * PAGE_ROWS]
        else:
            total = int(db.value(f"SELECT count(*) FROM comparison c WHERE {condition}", asked))
            number = last_of(total, number)
            offset = {"offset": (number - 1) * PAGE_ROWS}
            ids = [str(row["id"]) for row in db.rows(f"{query} LIMIT {PAGE_ROWS} OFFSET :offset", asked | offset)]
        rows = db.rows(ROWS.format(ids=", ".join(ids), order=order), terms(db))
    return ListPage(tuple(read_row(row) for row in rows), total, number)


def last_of(total: int, number: int) -> int:
    """A page's number, or that of the last page where it is beyond that."""
    return min(max(number, 1), max(1, -(-total // PAGE_ROWS)))


def read_row(row: Mapping[str, Any]) -> ListedComparison:
    words = {name: row[name] or "" for name in ("prompt", "judges", "writers", "assigned")}
    return ListedComparison(**{**row, **words, "flagged": bool(row["flagged"])})


def matching(db: Database, wanted: ComparisonFilter) -> set[int]:
    """The ids of all that a filter finds."""
    condition, values = condition_of(db, wanted)
    found = db.connection.conn.execute(f"SELECT c.id FROM comparison c WHERE {condition}", {**terms(db), **values})
    return {row[0] for row in found}


@dataclass(frozen=True)
class FilterChoices:
    people: tuple[str, ...]
    policies: tuple[str, ...]
    sources: tuple[str, ...]
    active: tuple[str, ...]
    """People who can sign in."""
    groups: tuple[str, ...]


def choices(db: Database) -> FilterChoices:
    active = db.rows("SELECT name FROM annotator WHERE kind = 'person' AND active")
    groups = db.rows("SELECT DISTINCT name FROM annotator_group")
    policies = db.rows("SELECT revision FROM model WHERE kind = 'policy' ORDER BY id")
    return FilterChoices(
        people=tuple(one.name for one in data_sources.annotators(db)),
        policies=tuple(row["revision"] for row in policies),
        sources=tuple(sorted(prompt_store.prompt_sources(db))),
        active=tuple(sorted((row["name"] for row in active), key=counted_up)),
        groups=tuple(sorted((row["name"] for row in groups), key=counted_up)),
    )
