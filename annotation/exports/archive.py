"""Every judgement and what it refers to, as one file of JSON lines, and back: the raw archive. SQL over whole tables.

The file holds every judgement (superseded and undone ones too) with all that it refers to, and the project's settings.
It holds no weights, and nothing of jobs, decisions, passwords, sessions and links: `NOT_ARCHIVED` in its test says what
is left out and why. The first line says what it is, each further line is a row of a table, the last line has the number
of rows and the sha256 of all lines before it. The same database always gives the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, get_args

from annotation import project
from annotation.claims import assignments
from annotation.database import Database, explain_bad_rows
from annotation.records import MAXIMUM_ANSWERS, ComparisonState, Sampling, Tag, UserError, explain_errors, is_time
from annotation.schema import GOLD_OF_WITHDRAWN, STANDING, STATE_SINCE, WITHDRAWN_BY_THINKING
from annotation.store import prompt_store, setting_store
from annotation.translation import N_, _, joined, numeral
from annotation.validation import read
from annotation.web.access import NAME

HEADER: Final = {"format": "prefloop archive", "version": 2}
# Archives of which the states of comparisons are to be read as they were meant then.
EARLIER_HEADER: Final = {**HEADER, "version": 1}
MAXIMUM_LINE: Final = 64 * 2**20
REPORT_ROWS: Final = 5_000
Report = Callable[[int, int], None]
TableRow = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of the archive: its columns, which rows it takes, in which order."""

    columns: tuple[str, ...]
    where: str = "1"
    order: str = "id"


# In an order in which most rows follow what they refer to.
TABLES: Final[Mapping[str, Table]] = {
    "import": Table(("id", "name", "sha256", "format", "counts", "requested_by", "created")),
    "guidelines": Table(("version", "text", "written_by", "created"), order="version"),
    "annotator": Table(("id", "name", "role", "kind", "active", "quota", "created")),
    "annotator_group": Table(("name", "annotator_id"), order="name, annotator_id"),
    "exclusion": Table(("id", "annotator_id", "excluded", "reason", "decided_by", "created")),
    "model": Table(
        (
            *("id", "revision", "algorithm", "base", "parent_id", "path", "sha256", "kind", "form", "precision"),
            *("ground_id", "deleted", "source", "thinking", "created"),
        )
    ),
    "prompt": Table(("id", "fingerprint", "messages", "source", "split", "import_id", "created")),
    "response": Table(
        (
            *("id", "prompt_id", "origin", "model_id", "annotator_id", "edited_from", "import_id", "purpose", "text"),
            *("state", "sampling", "seed", "rendered_prompt", "prompt_tokens", "tokens", "finish_reason", "dropped"),
            *("precision", "created"),
        )
    ),
    "comparison": Table(
        (
            *("id", "prompt_id", "model_id", "purpose", "state", "expected", "asked_by", "import_id", "created"),
            *("asks", "asks_why", "candidate_id", "against_id", "formed_chance", "people_chance", "people_drawn"),
            *("answers_by", "answers_chance", "people_given"),
        )
    ),
    "comparison_response": Table(("comparison_id", "position", "response_id"), order="comparison_id, position"),
    "gold_decision": Table(("id", "comparison_id", "action", "expected", "previous_state", "decided_by", "created")),
    "bulk_change": Table(
        (*("id", "kind", "annotator_id", "group_name", "decided_by", "created", "undone_by", "undone"), "undone_for")
    ),
    "bulk_change_comparison": Table(
        ("change_id", "comparison_id", "before", "state"), order="change_id, comparison_id"
    ),
    # A claim without a judgement is in somebody's hands, or was: nothing that is worth keeping.
    "claim": Table(
        (
            *("id", "comparison_id", "annotator_id", "purpose", "kind", "slot", "re_ask_of", "guidelines_version"),
            *("shown_order", "state", "created", "expires", "chance", "assigned_by"),
        ),
        where="id IN (SELECT claim_id FROM judgement)",
    ),
    "judgement": Table(
        (
            *("id", "claim_id", "comparison_id", "annotator_id", "purpose", "kind", "outcome", "ranking", "strength"),
            *("tags", "note", "flag", "edited_response_id", "early", "guidelines_version", "re_ask_of", "shown_order"),
            *("seconds", "import_id", "supersedes", "created", "imported_chance"),
        )
    ),
    "judge": Table(("annotator_id", "backend", "settings", "created_by", "created"), order="annotator_id"),
    "rubric": Table(("version", "instruction", "principles", "drawn", "written_by", "created"), order="version"),
    "verdict": Table(
        (
            *("id", "annotator_id", "comparison_id", "first", "second", "rubric_version", "principles", "choice"),
            *("chance", "reply", "prompt_tokens", "completion_tokens", "seconds", "created"),
        )
    ),
    "score": Table(("response_id", "scorer", "value"), order="response_id, scorer"),
    "setting": Table(("key", "value"), where="key = 'project'", order="key"),
}
# What an import has brought that is still at it, or was killed, is not in the archive: half of it would count as all.
# A prompt of it that somebody has used stays.
ARRIVED: Final[Mapping[str, str]] = {
    "import": f"id IS NOT (SELECT value FROM setting WHERE key = '{setting_store.UNFINISHED}')",
    "response": f"NOT {setting_store.arriving('response')}",
    "prompt": f"""(NOT {setting_store.arriving("prompt")}
        OR EXISTS (SELECT 1 FROM comparison c WHERE c.prompt_id = prompt.id)
        OR EXISTS (SELECT 1 FROM response r WHERE r.prompt_id = prompt.id AND NOT {setting_store.arriving("r")}))""",
}


# ------------------------------------------------------------------------------------------------------------- writing
def count(db: Database) -> dict[str, int]:
    return {name: int(db.value(f'SELECT count(*) FROM "{name}" WHERE {wanted(name)}')) for name in TABLES}


def wanted(name: str) -> str:
    return f"{TABLES[name].where} AND {ARRIVED.get(name, '1')}"


def write(db: Database, path: Path, report: Report) -> dict[str, int]:
    with path.open("wb") as file, db.reading():
        counts = count(db)
        total, digest = sum(counts.values()), sha256()
        for done, line in enumerate(lines(db)):
            digest.update(line)
            file.write(line)
            if done % REPORT_ROWS == 0:
                report(done, total)
        file.write(encode({"end": True, "rows": total, "sha256": digest.hexdigest()}))
        file.flush()
        os.fsync(file.fileno())
    report(total, total)
    return counts


def lines(db: Database) -> Iterator[bytes]:
    """The header and every row, a line each."""
    yield encode(HEADER)
    arriving = setting_store.setting(db, setting_store.UNFINISHED, None)
    for name, table in TABLES.items():
        columns = ", ".join(f'"{column}"' for column in table.columns)
        for row in db.connection.query(f'SELECT {columns} FROM "{name}" WHERE {wanted(name)} ORDER BY {table.order}'):
            if arriving is not None and row.get("import_id") == arriving:
                row["import_id"] = None
            yield encode({"table": name, **row})


def encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# ----------------------------------------------------------------------------------------------------------- restoring
def restore(db: Database, path: Path) -> dict[str, int]:
    """Fill a fresh database from an archive; returns how many rows each table got.

    People keep their names and roles, without passwords; the base model serves; AI judges are switched off. Raises
    UserError for a database in use, for a file that is no archive, and for a damaged one; then nothing has changed.
    """
    unread = explain_errors(_("{path} can't be read ({strerror}). Give the path of an archive."), path=path)
    with unread, path.open("rb") as file, db.transaction():
        refuse_used(db)
        counts = fill(db, file, path.name)
        check_whole(db, path.name)
        db.connection.execute(
            f"""UPDATE comparison SET {STANDING}
                WHERE id IN (SELECT comparison_id FROM judgement WHERE purpose = 'import')"""
        )
        assignments.follow_assignments(db)
    return counts


def refuse_used(db: Database) -> None:
    """Raises UserError for a database in which anything is that an archive could bring."""
    counts = {name: int(db.value(f'SELECT count(*) FROM "{name}" WHERE {TABLES[name].where}')) for name in TABLES}
    used = [f"{name} {numeral(rows)}" for name, rows in counts.items() if rows]
    if used:
        said = _(
            "The data directory {parent} is in use already ({used}). An archive goes into a fresh one: "
            "choose another with --data DIR. Nothing was changed."
        )
        raise UserError(said.format(parent=db.path.parent, used=", ".join(used)))


@dataclass
class Reader:
    """The lines of an archive one after the other, counted and hashed on the way."""

    file: IO[bytes]
    name: str
    number: int = 0
    digest: Any = field(default_factory=sha256)

    def next(self) -> tuple[bytes, dict[str, Any]]:
        """The next line and what it says. Raises UserError where there is none, or one that can't be read."""
        raw = self.file.readline(MAXIMUM_LINE)
        self.number += 1
        if not raw:
            self.refuse(_("the end is missing"))
        if not raw.endswith(b"\n"):
            self.refuse(_("the line is cut off or too long"))
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            self.refuse(_("it is no JSON"))
        if not isinstance(value, dict):
            self.refuse(_("it is no JSON object"))
        return raw, value

    def refuse(self, why: str) -> None:
        """Raise the error that says where the archive is wrong."""
        said = _("{name}, line {number}: {why}. {advice}")
        raise UserError(said.format(name=self.name, number=self.number, why=why, advice=_(ADVICE)))


ADVICE: Final = N_(
    "An archive is made by `python -m annotation export --format raw`; this one is damaged or something else. "
    "Nothing was changed."
)


def fill(db: Database, file: IO[bytes], name: str) -> dict[str, int]:
    """Insert every row of an archive, inside the caller's transaction."""
    reader = Reader(file, name)
    raw, value = reader.next()
    earlier = value == EARLIER_HEADER
    if not (earlier or value == HEADER):
        reader.refuse(_("it is no archive of this version"))
    insert = {table: insert_statement(table) for table in TABLES}
    types = {table: {row["name"]: row["type"] for row in db.rows(f'PRAGMA table_info("{table}")')} for table in TABLES}
    counts: Counter[str] = Counter(dict.fromkeys(TABLES, 0))
    # References are checked as a whole at the end: a claim may refer to a judgement of a later line.
    db.connection.execute("PRAGMA defer_foreign_keys=ON")
    while True:
        reader.digest.update(raw)
        raw, value = reader.next()
        if "table" not in value:
            break
        table = value.pop("table")
        if not isinstance(table, str) or table not in TABLES:
            reader.refuse(_("it is no row of this version's tables"))
        value = whole_row(table, in_present_words(table, value))
        if set(value) != set(TABLES[table].columns):
            reader.refuse(_("it is no row of this version's tables"))
        check_row(reader, table, value, types[table])
        with explain_bad_rows(_("{name}, line {number}").format(name=name, number=reader.number)):
            db.connection.execute(insert[table], {**value, **recomputed_columns(table, value)})
        counts[table] += 1
    # Archives that do not say it are of a time in which each policy answered in its own precision only.
    db.connection.execute(
        """UPDATE response SET precision = (SELECT precision FROM model m WHERE m.id = response.model_id)
           WHERE precision IS NULL AND model_id IS NOT NULL"""
    )
    end = {"end": True, "rows": sum(counts.values()), "sha256": reader.digest.hexdigest()}
    if value != end or file.read(1):
        reader.refuse(_("the end does not fit what stands before it"))
    if earlier:
        for statement in (WITHDRAWN_BY_THINKING, f"UPDATE comparison SET state = {STATE_SINCE}", GOLD_OF_WITHDRAWN):
            db.connection.execute(statement)
    return dict(counts)


def insert_statement(table: str) -> str:
    columns = (*TABLES[table].columns, *(name for name in recomputed_columns(table, {"algorithm": ""})))
    names = ", ".join(f'"{name}"' for name in columns)
    return f'INSERT INTO "{table}" ({names}) VALUES ({", ".join(f":{name}" for name in columns)})'


def recomputed_columns(table: str, row: TableRow) -> dict[str, Any]:
    if table == "claim":
        return {"nonce": secrets.token_urlsafe(16)}
    if table == "model":
        return {"status": "serving" if row["algorithm"] == "base" else "retired"}
    if table == "judge":
        return {"active": 0}
    return {}


# Columns of earlier archives, and what they are called since.
CALLED_SINCE: Final[Mapping[str, Mapping[str, str]]] = {
    "model": {"method": "algorithm", "weights": "precision"},
    "response": {"weights": "precision"},
}


def in_present_words(table: str, row: dict[str, Any]) -> dict[str, Any]:
    renamed = CALLED_SINCE.get(table, {})
    row = {renamed.get(name, name): value for name, value in row.items()}
    if table == "response" and row.get("purpose") == "evaluate":
        return {**row, "purpose": "check"}
    if table in ("claim", "judgement") and row.get("purpose") == "adjudication":
        return {**row, "purpose": "settle"}
    if table == "model" and row.get("kind") == "reward":
        return {**row, "kind": "reward-model"}
    if table == "judge":
        row.pop("active", None)
    settings = parsed(row["settings"]) if table == "judge" and isinstance(row.get("settings"), str) else None
    if isinstance(settings, dict) and "weights" in settings:
        settings["precision"] = settings.pop("weights")
        return {**row, "settings": json.dumps(settings, sort_keys=True)}
    return row


# Columns that archives have since they were added to the tables, with what all rows were until then.
ADDED_SINCE: Final[Mapping[str, Mapping[str, Any]]] = {
    "comparison": {
        **dict.fromkeys(("asks_why", "candidate_id", "against_id", "formed_chance", "people_chance", "people_drawn")),
        **dict.fromkeys(("answers_by", "answers_chance", "people_given")),
        "asks": "people",
    },
    "claim": dict.fromkeys(("chance", "assigned_by")),
    "annotator": {"quota": None},
    "bulk_change": {"undone_for": None},
    "judgement": {"imported_chance": None},
    "response": {"precision": None},
    "model": {"kind": "policy", "precision": "nf4", **dict.fromkeys(("ground_id", "deleted", "source", "thinking"))},
}


def whole_row(table: str, row: TableRow) -> dict[str, Any]:
    form = {"form": "base" if row.get("algorithm") == "base" else "lora"} if table == "model" else {}
    return {**ADDED_SINCE.get(table, {}), **form, **row}


# ----------------------------------------------------------------------------------------------------- checks of a row
def check_row(reader: Reader, table: str, row: TableRow, types: Mapping[str, str]) -> None:
    """Raises UserError for a value that no database of ours could have held."""
    for column, value in row.items():
        if value is None:
            continue
        fits = TYPES[types[column]]
        if isinstance(value, bool) or not isinstance(value, fits):
            reader.refuse(_("the value of {column} has the wrong type").format(column=column))
        if column == "id" and value < 1:
            reader.refuse(_("the value of id is malformed"))
        check = CHECKS.get(f"{table}.{column}")
        misplaced = column == "path" and value != f"adapters/{row['revision']}"  # what is there is deleted with it
        if misplaced or (check is not None and not check(value)):
            reader.refuse(_("the value of {column} is malformed").format(column=column))
    if table == "prompt" and row["messages"] is not None:
        fingerprint, messages = prompt_store.fingerprint_of(json.loads(row["messages"]))
        if (row["fingerprint"], row["messages"]) != (fingerprint, messages):
            reader.refuse(_("the fingerprint does not fit the messages"))
    if table == "annotator" and row["kind"] == "person" and not NAME.fullmatch(row["name"] or ""):
        reader.refuse(_("the name can't be a person's"))


TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {"TEXT": str, "INTEGER": int, "REAL": (int, float)}


def parsed(text: str) -> Any:
    """JSON, or None where it is none, or holds a text that can't be written (half a surrogate pair)."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value


def is_messages(text: str) -> bool:
    """Whether it is a conversation: messages of texts, each with role and content."""
    value = parsed(text)
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and {"role", "content"} <= set(message)
            and all(isinstance(part, str) for part in message.values())
            for message in value
        )
    )


def is_list(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is kind for one in value)


def is_ranking(text: str) -> bool:
    value = parsed(text)
    return is_list(int, value) and all(1 <= rank <= len(value) for rank in value)


def is_order(text: str) -> bool:
    value = parsed(text)
    return is_list(int, value) and sorted(value) == list(range(len(value)))


def is_sampling(text: str) -> bool:
    """Whether it can say how an answer was drawn."""
    try:
        return read(Sampling, parsed(text), "") is not None
    except UserError:
        return False


# What can be a policy's name, and what can say where on the Hub a model comes from.
REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
SOURCE: Final = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}@[0-9a-f]{40}", re.ASCII)


def is_project(text: str) -> bool:
    """Whether it describes a project that could be set."""
    value = parsed(text)
    if not isinstance(value, dict) or not isinstance(value.get("tags", []), list):
        return False
    try:
        tags = [Tag(**tag) for tag in value.get("tags", [])]
        project.check({**value, "tags": tags}, annotators=10**6)
    except (TypeError, UserError):
        return False
    return True


STATES: Final = get_args(ComparisonState)
CHECKS: Final[Mapping[str, Callable[[Any], object]]] = {
    "prompt.messages": is_messages,
    "judgement.ranking": is_ranking,
    "comparison.expected": is_ranking,
    "gold_decision.expected": is_ranking,
    "gold_decision.previous_state": lambda state: state in STATES,
    "judgement.shown_order": is_order,
    "claim.shown_order": is_order,
    "judgement.tags": lambda text: is_list(str, parsed(text)),
    "response.sampling": is_sampling,
    "import.counts": lambda text: isinstance(parsed(text), dict),
    "judge.settings": lambda text: isinstance(parsed(text), dict),
    "rubric.principles": lambda text: is_list(str, parsed(text)),
    "verdict.principles": lambda text: is_list(int, places := parsed(text)) and min(places, default=0) >= 0,
    "model.revision": REVISION.fullmatch,
    **{f"{name}.created": is_time for name, table in TABLES.items() if "created" in table.columns},
    "model.deleted": is_time,
    "model.source": SOURCE.fullmatch,
    "bulk_change.undone": is_time,
    "bulk_change_comparison.before": lambda text: parsed(text) is not None,
    "claim.expires": is_time,
    "setting.value": is_project,
    "setting.key": lambda key: key == "project",
}


# -------------------------------------------------------------------------------------------------- checks of the whole
def check_whole(db: Database, name: str) -> None:
    """Raises UserError where rows that were read do not fit each other, inside the caller's transaction."""
    if db.rows("PRAGMA foreign_key_check"):
        said = _("{name}: some rows refer to others that are not there. {advice}")
        raise UserError(said.format(name=name, advice=_(ADVICE)))
    for what, query in MISFITS:
        row = db.row(query)
        if row is not None:
            raise UserError(joined(f"{name}:", _(what).format(**row), _(ADVICE)))


MISFITS: Final[Sequence[tuple[str, str]]] = (
    (
        N_("comparison {id} has gaps between its answers, or too many."),
        f"""SELECT comparison_id AS id FROM comparison_response GROUP BY comparison_id
            HAVING min(position) != 0 OR max(position) != count(*) - 1 OR count(*) > {MAXIMUM_ANSWERS}""",
    ),
    (
        N_("judgement {id} does not fit its comparison's answers."),
        """SELECT j.id FROM judgement j
           WHERE json_array_length(j.shown_order)
                   != (SELECT count(*) FROM comparison_response r WHERE r.comparison_id = j.comparison_id)
               OR json_array_length(j.ranking) != json_array_length(j.shown_order)
               OR (j.outcome = 'ranked') != (j.ranking IS NOT NULL)""",
    ),
    (
        N_("claim {id} does not fit its comparison's answers."),
        """SELECT k.id FROM claim k WHERE json_array_length(k.shown_order)
               != (SELECT count(*) FROM comparison_response r WHERE r.comparison_id = k.comparison_id)""",
    ),
    (
        N_("comparison {id} has an expected ranking that does not fit its answers."),
        """SELECT c.id FROM comparison c WHERE json_array_length(c.expected)
               != (SELECT count(*) FROM comparison_response r WHERE r.comparison_id = c.id)""",
    ),
    (
        N_("judgement {id} names an edit of an answer that its comparison does not have."),
        """SELECT j.id FROM judgement j LEFT JOIN response e ON e.id = j.edited_response_id
           WHERE j.edited_response_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM comparison_response r
               WHERE r.comparison_id = j.comparison_id AND r.response_id = e.edited_from)""",
    ),
    (
        N_("judgement {id} supersedes one of another comparison or annotator."),
        """SELECT j.id FROM judgement j JOIN judgement s ON s.id = j.supersedes
           WHERE s.comparison_id != j.comparison_id OR s.annotator_id != j.annotator_id OR s.id >= j.id""",
    ),
    (
        N_("verdict {id} is on answers that its comparison does not have."),
        """SELECT v.id FROM verdict v WHERE v.first = v.second OR min(v.first, v.second) < 0
               OR max(v.first, v.second)
                   >= (SELECT count(*) FROM comparison_response r WHERE r.comparison_id = v.comparison_id)""",
    ),
    (
        N_("judge {id} does not say what it is."),
        """SELECT annotator_id AS id FROM judge WHERE CASE backend
               WHEN 'endpoint' THEN json_type(settings, '$.address') IS NOT 'text'
                   OR json_type(settings, '$.model') IS NOT 'text'
               WHEN 'local' THEN coalesce(json_type(settings, '$.directory'), json_type(settings, '$.model'), 'text')
                   != 'text'
               ELSE json_type(settings, '$.model') IS NOT 'text' END""",
    ),
    (N_("there is more than one base model."), "SELECT 1 AS id FROM model WHERE algorithm = 'base' LIMIT 1 OFFSET 1"),
)
