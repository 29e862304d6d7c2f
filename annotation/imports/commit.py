"""Staged records into the database, all or nothing, without keeping others from writing for long.

Up to ONE_PIECE of text goes in one transaction. More would keep annotators waiting, so then prompts and answers go
ahead in small transactions: nothing refers to these answers yet, and the last transaction makes them count by writing
comparisons and judgements. An import that dies in between is cleared away: at once where it can, else when the
program or the next import starts (`clear_unfinished`); only prompts that somebody has answered meanwhile stay.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from annotation.database import Database
from annotation.imports.staging import FIND_KNOWN, POINT_TO_KNOWN, Staging
from annotation.records import now
from annotation.store import project_store, setting_store
from annotation.workbench.word_index import index_imports, index_prompts

ONE_PIECE = 64 * 1024 * 1024
ONE_PIECE_ROWS = 800_000
PIECE = 8 * 1024 * 1024
CACHE_KIB = 32 * 1024
# A writer that waits looks again after up to 0.1 s: it gets its turn in a pause of this length.
PAUSE_SECONDS = 0.12
CLEARED_AT_ONCE = 2_000


@dataclass
class ImportCommit:
    """One import on its way from the staging file into the database."""

    db: Database
    staging: Staging
    about: Mapping[str, str]
    """Its name, sha256, format and requested_by."""
    progress: Callable[[float], None]
    """Called with the share that is written."""
    created: str = field(default_factory=now)
    import_id: int = 0
    longest_lock: float = 0.0
    prompt_offset: int = 0
    """What is added to the ids of staged prompts that went in one piece."""
    pieces: list[tuple[int, int, int]] = field(default_factory=list)
    """First and last staged answer that went together, and what is added to their ids."""

    @property
    def sql(self) -> Any:
        """The connection, with the staging file beside the database."""
        return self.db.connection.conn

    def run(self) -> None:
        """Move everything over, or leave nothing and raise what went wrong."""
        with self.db.attached(self.staging.path, "staged"), references_unguarded(self.db):
            self.sql.execute(f"PRAGMA main.cache_size=-{CACHE_KIB}")
            rows = self.staging.text_rows + self.staging.verdict_rows
            if self.staging.text <= ONE_PIECE and rows <= ONE_PIECE_ROWS:
                with self.locked():
                    self.insert_import()
                    self.find_late_prompts()
                    self.insert_prompts(1, self.highest("staged.prompt"))
                    self.insert_answers(1, self.highest("staged.answer"))
                    self.insert_verdicts()
            else:
                try:
                    self.run_in_pieces()
                except BaseException:
                    clear_unfinished(self.db)
                    raise
        index_imports(self.db)

    def run_in_pieces(self) -> None:
        """Texts first, a little at a time; what makes them count at the end, at once."""
        with self.locked():
            self.insert_import()
            setting_store.set_setting(self.db, setting_store.UNFINISHED, self.import_id)
        prompts, answers = self.highest("staged.prompt"), self.highest("staged.answer")
        size = max(1, round((prompts + answers) * PIECE / self.staging.text))
        for first in range(1, prompts + 1, size):
            self.insert_piece(self.insert_prompts, first, min(first + size - 1, prompts), first / (prompts + answers))
        self.sql.execute(FIND_KNOWN)
        self.sql.execute(POINT_TO_KNOWN)
        for first in range(1, answers + 1, size):
            share = (prompts + first) / (prompts + answers)
            self.insert_piece(self.insert_answers, first, min(first + size - 1, answers), share)
        with self.locked():
            self.insert_verdicts()
            self.sql.execute("DELETE FROM main.setting WHERE key = ?", (setting_store.UNFINISHED,))

    def insert_piece(self, insert: Callable[[int, int], None], first: int, last: int, share: float) -> None:
        """One small transaction, and time for others after it."""
        with self.locked():
            insert(first, last)
        self.progress(share)
        time.sleep(PAUSE_SECONDS)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A transaction, timed: others who want to write wait for it."""
        with self.db.transaction():
            began = time.monotonic()
            yield
        self.longest_lock = max(self.longest_lock, time.monotonic() - began)

    def highest(self, table: str) -> int:
        """The highest id of a table; 0 if it is empty."""
        return int(self.db.value(f"SELECT coalesce(max(id), 0) FROM {table}"))

    # ---------------------------------------------------------------------------------------------------- statements
    def insert_import(self) -> None:
        counts = {name: value for name, value in vars(self.staging.counts).items() if value}
        row = {**self.about, "counts": json.dumps(counts), "created": self.created}
        self.import_id = self.db.insert("main.import", row)

    def find_late_prompts(self) -> None:
        """Prompts that others have added since the comparison with the database."""
        late = self.sql.execute(
            f"{FIND_KNOWN} WHERE known IS NULL AND fingerprint IN (SELECT fingerprint FROM main.prompt WHERE id > ?)",
            (self.staging.newest_seen,),
        )
        if late.rowcount:
            self.sql.execute(POINT_TO_KNOWN)

    def insert_prompts(self, first: int, last: int) -> None:
        source = f"import {self.import_id}: {self.about['name']}"
        self.prompt_offset = self.highest("main.prompt") - first + 1
        self.sql.execute(
            """INSERT OR IGNORE INTO main.prompt (id, fingerprint, messages, source, split, import_id, created)
               SELECT :prompt + id, fingerprint, messages, :source, split, :import, :created FROM staged.prompt
               WHERE known IS NULL AND id BETWEEN :first AND :last ORDER BY id""",
            self.values(source=source, first=first, last=last),
        )

    def insert_answers(self, first: int, last: int) -> None:
        offset = self.highest("main.response") - first + 1
        self.sql.execute(
            """INSERT INTO main.response (id, prompt_id, origin, import_id, purpose, text, finish_reason, created)
               SELECT :offset + a.id, iif(i.prompt < 0, -i.prompt, :prompt + i.prompt), 'import', :import,
                   iif(i.form = 'demonstration', 'demonstrate', 'compare'), a.text, 'stop', :created
               FROM staged.answer a CROSS JOIN staged.item i ON i.id = a.item
               WHERE a.id BETWEEN :first AND :last ORDER BY a.id""",
            self.values(offset=offset, first=first, last=last),
        )
        self.pieces.append((first, last, offset))

    def insert_verdicts(self) -> None:
        comparison, judgement = self.highest("main.comparison"), self.highest("main.judgement")
        people = project_store.feedback(self.db).mode == "people"
        self.sql.execute(INSERT_COMPARISONS, self.values(comparison=comparison, people=people))
        for first, last, offset in self.pieces:
            self.sql.execute(PLACE_ANSWERS, self.values(comparison=comparison, first=first, last=last, offset=offset))
        if self.staging.counts.judged:
            named = {"name": self.annotator_name(), "role": "annotator", "kind": "import", "active": 0}
            annotator = self.db.insert("main.annotator", {**named, "created": self.created})
            self.sql.execute(
                INSERT_JUDGEMENTS,  # of now: ids and times of judgements grow together
                self.values(comparison=comparison, judgement=judgement, annotator=annotator, created=now()),
            )

    def annotator_name(self) -> str:
        """Under whose name the judgements stand: the import's, even if somebody has called themselves so."""
        name, number = f"import-{self.import_id}", 1
        while self.db.value("SELECT 1 FROM annotator WHERE name = ?", (name,)):
            number += 1
            name = f"import-{self.import_id}-{number}"
        return name

    def values(self, **more: Any) -> dict[str, Any]:
        return {"import": self.import_id, "created": self.created, "prompt": self.prompt_offset, **more}


INSERT_COMPARISONS = """
    INSERT INTO main.comparison (id, prompt_id, purpose, state, expected, import_id, created, people_chance,
        people_drawn, formed_chance, judged, last_judged, opinion)
    SELECT :comparison + id, iif(prompt < 0, -prompt, :prompt + prompt), iif(form = 'gold', 'gold', 'preference'),
        iif(form = 'judged', 'closed', 'ready'), iif(form = 'gold', ranking, NULL), :import, :created,
        iif(form = 'open' AND :people, 1.0, people_chance), iif(form = 'open' AND :people, 1, NULL), formed_chance,
        form = 'judged' AND outcome != 'skip', iif(form = 'judged' AND outcome != 'skip', :created, NULL),
        iif(form = 'judged' AND outcome = 'ranked', 'agreed', 'none')
    FROM staged.item WHERE form != 'demonstration' ORDER BY id"""
PLACE_ANSWERS = """
    INSERT INTO main.comparison_response (comparison_id, position, response_id)
    SELECT :comparison + a.item, a.position, :offset + a.id
    FROM staged.answer a CROSS JOIN staged.item i ON i.id = a.item
    WHERE i.form != 'demonstration' AND a.id BETWEEN :first AND :last ORDER BY a.id"""
INSERT_JUDGEMENTS = """
    INSERT INTO main.judgement (id, comparison_id, annotator_id, purpose, kind, outcome, ranking, strength, shown_order,
        import_id, created, imported_chance)
    SELECT :judgement + id, :comparison + id, :annotator, 'import', iif(size = 2, 'pair', 'rank'), outcome, ranking,
        strength, substr('[0, 1, 2, 3, 4, 5, 6, 7', 1, 3 * size - 1) || ']', :import, :created, shown_chance
    FROM staged.item WHERE form = 'judged' ORDER BY id"""


@contextmanager
def references_unguarded(db: Database) -> Iterator[None]:
    """Don't look up every reference: each is to a row that is moved with it, or was found. It takes a third longer."""
    sql = db.connection.conn
    sql.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        sql.execute("PRAGMA foreign_keys=ON")


# ----------------------------------------------------------------------------------------------------------- clearing
def clear_unfinished(db: Database) -> None:
    """Delete what an import left that died between its pieces. No import may be at work."""
    import_id = setting_store.setting(db, setting_store.UNFINISHED, None)
    if import_id is None:
        return
    with references_unguarded(db):
        answers = [row["id"] for row in db.rows("SELECT id FROM response WHERE import_id = ?", (import_id,))]
        delete_slowly(db, "DELETE FROM response WHERE id = ?", answers)
        prompts = [row["id"] for row in db.rows("SELECT id FROM prompt WHERE import_id = ?", (import_id,))]
        delete_slowly(
            db,
            """DELETE FROM prompt WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM response WHERE prompt_id = ?1)
                   AND NOT EXISTS (SELECT 1 FROM comparison WHERE prompt_id = ?1)""",
            prompts,
        )
    with db.transaction() as connection:
        index_prompts(db, import_id)
        connection.execute("UPDATE prompt SET import_id = NULL WHERE import_id = ?", (import_id,))
        connection.execute("DELETE FROM import WHERE id = ?", (import_id,))
        connection.execute("DELETE FROM setting WHERE key = ?", (setting_store.UNFINISHED,))


def has_imported_since(db: Database, moment: str) -> bool:
    """Whether an import is there as a whole that was begun after this moment."""
    unfinished = setting_store.setting(db, setting_store.UNFINISHED, None)
    return db.value("SELECT 1 FROM import WHERE created > ? AND id IS NOT ?", (moment, unfinished)) is not None


def delete_slowly(db: Database, statement: str, ids: list[int]) -> None:
    """Delete rows in small transactions, with time for others in between."""
    for start in range(0, len(ids), CLEARED_AT_ONCE):
        with db.transaction() as connection:
            connection.conn.executemany(statement, [(row_id,) for row_id in ids[start : start + CLEARED_AT_ONCE]])
        time.sleep(PAUSE_SECONDS)
