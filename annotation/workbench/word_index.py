"""The words of imported prompts and answers, put into the index a little at a time; triggers see to all others.

An import in one transaction would keep everybody from judging for as long as its words take.
"""

from __future__ import annotations

import time
from typing import Final

from annotation.database import Database
from annotation.schema import PROMPT_WORDS
from annotation.store import setting_store

INDEXED: Final = "words_of_imports"
"""The setting that says up to which import all words are there."""
AT_ONCE: Final = 500
PAUSE_SECONDS: Final = 0.005
# By table: the index, what its words are, and which rows have any.
INDEXES: Final = (
    ("prompt", "prompt_words", PROMPT_WORDS.format("r"), "1"),
    ("response", "answer_words", "r.text", "r.state = 'done'"),
)


def index_imports(db: Database) -> None:
    """Index the words of imports that have none yet, each some hundred texts in a transaction of their own.

    Nothing within a transaction of the caller's: others would wait for all of it.
    """
    if db.connection.conn.in_transaction:
        return
    # An unfinished one is indexed as a whole, once all of it is there.
    end = setting_store.setting(db, setting_store.UNFINISHED, None)
    newest = int(db.value("SELECT coalesce(max(id), 0) FROM import WHERE :end IS NULL OR id < :end", {"end": end}))
    done = int(setting_store.setting(db, INDEXED, 0))
    if newest <= done:
        return
    for table, index, words, there in INDEXES:
        after = 0
        while True:
            ids = [
                row["id"]
                for row in db.rows(
                    f"""SELECT r.id FROM {table} r WHERE r.id > :after AND r.import_id > :done
                          AND r.import_id <= :newest AND {there} ORDER BY r.id LIMIT {AT_ONCE}""",
                    {"after": after, "done": done, "newest": newest},
                )
            ]
            if not ids:
                break
            db.write(
                f"""INSERT INTO {index} (rowid, text) SELECT r.id, {words} FROM {table} r
                    WHERE r.id BETWEEN :first AND :last AND r.import_id > :done AND r.import_id <= :newest
                      AND {there} AND NOT EXISTS (SELECT 1 FROM {index}_docsize d WHERE d.id = r.id)""",
                {"first": ids[0], "last": ids[-1], "done": done, "newest": newest},
            )
            after = ids[-1]
            time.sleep(PAUSE_SECONDS)
    with db.transaction():
        setting_store.set_setting(db, INDEXED, max(newest, int(setting_store.setting(db, INDEXED, 0))))


def index_prompts(db: Database, import_id: int) -> None:
    """Index the prompts of an import that are to stay without it, inside the caller's transaction."""
    db.connection.execute(
        f"""INSERT INTO prompt_words (rowid, text) SELECT r.id, {PROMPT_WORDS.format("r")} FROM prompt r
            WHERE r.import_id = ? AND NOT EXISTS (SELECT 1 FROM prompt_words_docsize d WHERE d.id = r.id)""",
        (import_id,),
    )
