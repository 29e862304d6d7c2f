"""Records on their way in: staged in a file of their own, and compared with what the database has already."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b, sha256
from itertools import groupby
from pathlib import Path

from annotation.database import Database, explain_disk_errors, scratch_database
from annotation.imports.mapping.columns import CHANCES
from annotation.imports.mapping.import_plan import Target, VerdictUse
from annotation.imports.mapping.labels import UnusableRow
from annotation.imports.mapping.mapped_rows import MappedRow
from annotation.imports.printable import display_name
from annotation.records import MAXIMUM_ANSWERS, Message, Split, UserError
from annotation.store import prompt_store
from annotation.translation import N_, _, kept, retold

# Comparisons, their places and judgements have to be written at once: that many rows take well under the time for which
# others wait without failing (5 s); see benchmarks/data.py.
MAXIMUM_VERDICT_ROWS = 1_500_000
# SQLite's own cache of 2 MB would make it read its indices again and again.
CACHE_KIB = 32 * 1024
# From so many new prompts on one is held out, where a share is and chance would take none.
ENOUGH_TO_HOLD_OUT = 10
REASONS_AT_HAND = 64
UNKNOWN_CHANCES: Mapping[str, float | None] = dict.fromkeys(CHANCES)

TABLES = (
    """CREATE TABLE prompt (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, messages TEXT NOT NULL,
        split TEXT NOT NULL, known INTEGER)""",
    # A comparison with or without its verdict, or a demonstration.
    """CREATE TABLE item (id INTEGER PRIMARY KEY, content BLOB NOT NULL UNIQUE, prompt INTEGER NOT NULL,
        form TEXT NOT NULL, answers BLOB NOT NULL, outcome TEXT, ranking TEXT, strength INTEGER, size INTEGER NOT NULL,
        formed_chance REAL, people_chance REAL, shown_chance REAL)""",
    """CREATE TABLE answer (id INTEGER PRIMARY KEY, item INTEGER NOT NULL, position INTEGER NOT NULL,
        text TEXT NOT NULL)""",
    """CREATE TABLE labelled (id INTEGER PRIMARY KEY, content BLOB NOT NULL UNIQUE, prompt INTEGER NOT NULL,
        row INTEGER NOT NULL, good INTEGER NOT NULL, text TEXT NOT NULL)""",
    """CREATE TABLE skipped (row INTEGER NOT NULL, column_name TEXT NOT NULL, reason TEXT NOT NULL)""",
)


@dataclass
class Counts:
    rows: int = 0
    prompts: int = 0
    held_out: int = 0
    """Of these, held out."""
    judged: int = 0
    """New comparisons with their verdict."""
    gold: int = 0
    """New gold comparisons, to measure annotators."""
    open: int = 0
    """New comparisons to be judged by people."""
    demonstrations: int = 0
    repeated: int = 0
    """Rows that say the same as an earlier row."""
    known: int = 0
    """Prompts, comparisons or demonstrations that are in the database already."""
    skipped: int = 0
    remarks: dict[str, int] = field(default_factory=dict)
    """What else is to be known, as `MappedRow.remark`, with the number of rows that it is about."""

    @property
    def new(self) -> int:
        """How much there is to write."""
        return self.prompts + self.judged + self.gold + self.open + self.demonstrations


@dataclass(frozen=True)
class Skipped:
    row: int
    column: str
    reason: str


class Staging:
    def __init__(self, directory: Path, target: Target, verdict: VerdictUse, split: Split | float) -> None:
        self.path = directory / "staging.db"
        self.target = target
        self.verdict = verdict
        self.split = split
        self.counts = Counts()
        self.skipped: list[Skipped] = []
        self.reasons: list[tuple[str, int]] = []
        self.remarks: Counter[str] = Counter()
        # Many rows are left out for few reasons. A text that happens to read as something said stays another one.
        self.kept = lru_cache(REASONS_AT_HAND, typed=True)(kept)
        self.newest_seen = 0
        self.text = 0
        self.text_rows = 0
        self.verdict_rows = 0
        self.database = scratch_database(self.path)
        self.sql = self.database.connection.conn
        with explain_disk_errors(self.path):
            self.sql.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self.sql.execute("BEGIN")
            for statement in TABLES:
                self.sql.execute(statement)

    # ------------------------------------------------------------------------------------------------------ gathering
    def add(self, number: int, record: MappedRow) -> None:
        """Gather what a row says. Raises UnusableRow if it can't be gold; UserError if there is too much."""
        if self.verdict == "gold" and (record.ranking is None or len(set(record.ranking)) == 1):
            raise UnusableRow("", _("the row has no better answer, so it can't be gold"))
        if record.remark:
            self.remarks[record.remark] += 1
        prompt, fingerprint, new = self.prompt_id(record)
        if self.target == "prompts":
            self.counts.repeated += not new
        elif record.label is not None:
            self.add_labelled(number, prompt, fingerprint, record.answers[0], record.label)
        elif self.target == "demonstrations":
            self.counts.repeated += not self.add_item("demonstration", prompt, fingerprint, record.answers)
        else:
            # A verdict that is left out makes no other content.
            given = (None, None, None) if self.verdict == "open" else (record.outcome, record.ranking, record.strength)
            said, chances = (record.answers, *given), {role: getattr(record, role) for role in CHANCES}
            self.counts.repeated += not self.add_item(self.verdict, prompt, fingerprint, *said, chances)

    def skip(self, row: int, column: str, reason: str) -> None:
        self.counts.skipped += 1
        self.sql.execute(
            "INSERT INTO skipped (row, column_name, reason) VALUES (?, ?, ?)",
            (row, display_name(column), self.kept(reason)),
        )

    def prompt_id(self, record: MappedRow) -> tuple[int, str, bool]:
        """The staged prompt's id and fingerprint, and whether it is new in this file."""
        fingerprint, messages = prompt_store.fingerprint_of(record.messages)
        added = self.sql.execute(
            "INSERT OR IGNORE INTO prompt (fingerprint, messages, split) VALUES (?, ?, ?) RETURNING id",
            (fingerprint, messages, split_of(record.messages, self.split)),
        ).fetchone()
        if added is not None:
            self.count_size(0, messages)
            return int(added[0]), fingerprint, True
        row = self.sql.execute("SELECT id FROM prompt WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return int(row[0]), fingerprint, False

    def add_item(
        self,
        form: str,
        prompt: int,
        fingerprint: str,
        answers: Sequence[str],
        outcome: str | None = None,
        ranking: Sequence[int] | None = None,
        strength: int | None = None,
        chances: Mapping[str, float | None] = UNKNOWN_CHANCES,
    ) -> bool:
        """Gather a comparison or a demonstration; False if the same one has been gathered."""
        added = self.sql.execute(
            """INSERT OR IGNORE INTO item (content, prompt, form, answers, outcome, ranking, strength, size,
                   formed_chance, people_chance, shown_chance)
               VALUES (:content, :prompt, :form, :answers, :outcome, :ranking, :strength, :size,
                   :formed_chance, :people_chance, :shown_chance)""",
            {
                "content": content_key(form, fingerprint, answers, outcome, ranking),
                "prompt": prompt,
                "form": form,
                "answers": content_key(form, fingerprint, answers),
                "outcome": outcome,
                "ranking": None if ranking is None else json.dumps(list(ranking)),
                "strength": strength,
                "size": len(answers),
                **chances,
            },
        )
        if not added.rowcount:
            return False
        self.sql.executemany(
            "INSERT INTO answer (item, position, text) VALUES (?, ?, ?)",
            [(added.lastrowid, position, text) for position, text in enumerate(answers)],
        )
        self.count_size(0 if form == "demonstration" else 2 + len(answers), *answers)
        return True

    def add_labelled(self, row: int, prompt: int, fingerprint: str, text: str, good: bool) -> None:
        """Gather a good or bad answer, to be put beside others to its prompt at the end."""
        content = content_key("label", fingerprint, [text], str(good))
        added = self.sql.execute(
            """INSERT OR IGNORE INTO labelled (content, prompt, row, good, text)
               VALUES (:content, :prompt, :row, :good, :text)""",
            {"content": content, "prompt": prompt, "row": row, "good": good, "text": text},
        )
        self.counts.repeated += not added.rowcount
        self.count_size(0, text)

    def count_size(self, verdict_rows: int, *texts: str) -> None:
        """Keep count of what is to be written. Raises UserError where it gets too much for one import."""
        self.verdict_rows += verdict_rows
        self.text_rows += len(texts)
        self.text += sum(len(text.encode()) for text in texts)
        if self.verdict_rows > MAXIMUM_VERDICT_ROWS:
            said = _(
                "This is too much for one import: the first {rows:,} rows come to {verdict_rows:,} rows of "
                "tables, and annotators would have to wait too long while they are written. Import it in "
                "parts (a range at a time, under “Rows”). Nothing was imported."
            )
            raise UserError(said.format(rows=self.counts.rows, verdict_rows=self.verdict_rows))

    def checksum(self) -> str:
        """The sha256 of everything gathered, in its order: for a source that is no file."""
        digest = sha256()
        for (fingerprint,) in self.sql.execute("SELECT fingerprint FROM prompt ORDER BY id"):
            digest.update(fingerprint.encode())
        for table in ("item", "labelled"):
            for (content,) in self.sql.execute(f"SELECT content FROM {table} ORDER BY id"):
                digest.update(content)
        return digest.hexdigest()

    # ------------------------------------------------------------------------------------------------------ finishing
    def pair_labelled(self) -> None:
        """Good and bad answers to one prompt become comparisons; what is left over, demonstrations or nothing."""
        rows = self.sql.execute(
            """SELECT l.prompt, p.fingerprint, l.row, l.good, l.text FROM labelled l JOIN prompt p ON p.id = l.prompt
               ORDER BY l.prompt, l.id"""
        )
        for (prompt, fingerprint), group in groupby(rows, key=lambda row: (row[0], row[1])):
            self.pair_answers(prompt, fingerprint, [(row[2], bool(row[3]), row[4]) for row in group])

    def pair_answers(self, prompt: int, fingerprint: str, singles: Sequence[tuple[int, bool, str]]) -> None:
        """Comparisons of the good and bad answers to one prompt, each of up to the largest size."""
        both = {text for _, good, text in singles if good} & {text for _, good, text in singles if not good}
        for row, _good, text in singles:
            if text in both:
                self.skip(row, "", _("the same answer is labelled good and bad"))
        sound = [single for single in singles if single[2] not in both]
        goods, bads = [single for single in sound if single[1]], [single for single in sound if not single[1]]
        groups = min(len(goods), len(bads), -(-len(sound) // MAXIMUM_ANSWERS))
        for number in range(groups):
            chosen = [*goods[number::groups], *bads[number::groups]]
            answers = spread(chosen)[:MAXIMUM_ANSWERS]
            ranking = [1 if good else 2 for _, good, _ in answers]
            self.add_item("judged", prompt, fingerprint, [text for _, _, text in answers], "ranked", ranking)
            for row, _good, _text in spread(chosen)[MAXIMUM_ANSWERS:]:
                said = _("one of more than {maximum_answers} answers to the prompt that fit no comparison")
                self.skip(row, "", said.format(maximum_answers=MAXIMUM_ANSWERS))
        if not groups:
            for _row, _good, text in goods:
                remark = N_("good answer without a bad one to the same prompt: kept as a demonstration")
                self.remarks[remark] += 1
                self.add_item("demonstration", prompt, fingerprint, [text])
            for row, _good, _text in bads:
                self.skip(row, "", _("a bad answer without a good one to the same prompt to compare it with"))

    def finish(self, db: Database, keep: int) -> None:
        """Pair what is left to pair, and drop what the database has already; it is read, not written.

        `keep` rows that are not imported are kept to be shown.
        """
        with explain_disk_errors(self.path):
            self.pair_labelled()
            judged_twice = int(self.sql.execute(COUNT_JUDGED_TWICE).fetchone()[0])
            if judged_twice:
                self.remarks[JUDGED_TWICE] += judged_twice
            self.sql.execute("CREATE INDEX answer_by_item ON answer (item)")
            self.sql.execute("COMMIT")
            self.database.close()
            with db.attached(self.path, "staged") as connection:
                self.newest_seen = int(db.value("SELECT coalesce(max(id), 0) FROM main.prompt"))
                connection.conn.execute("BEGIN")
                try:
                    gone = self.drop_known(db)
                except BaseException:
                    connection.rollback()
                    raise
                connection.conn.execute("COMMIT")
                self.count(db, gone)
                self.report(db, keep)

    def drop_known(self, db: Database) -> int:
        """Note which prompts are known, and drop comparisons and demonstrations that are; returns how many."""
        sql = db.connection.conn
        sql.execute(FIND_KNOWN)
        known = [(key,) for key in known_contents(db)]
        gone = sql.executemany("DELETE FROM staged.item WHERE content = ?", known).rowcount if known else 0
        if waiting := set(waiting_answers(db)):
            waiting &= {row["answers"] for row in db.rows("SELECT answers FROM staged.item WHERE form = 'judged'")}
            self.remarks[WAITS_ALREADY] += len(waiting)
        sql.execute("DELETE FROM staged.answer WHERE item NOT IN (SELECT id FROM staged.item)")
        if self.target != "prompts":
            sql.execute("DELETE FROM staged.prompt WHERE id NOT IN (SELECT prompt FROM staged.item)")
        if isinstance(self.split, float) and self.split > 0:
            sql.execute(HOLD_ONE_OUT, (ENOUGH_TO_HOLD_OUT,))
        sql.execute(POINT_TO_KNOWN)
        return gone

    def count(self, db: Database, gone: int) -> None:
        """The counts as they stand once duplicates are known."""
        counts = self.counts
        forms = {row["form"]: row["n"] for row in db.rows("SELECT form, count(*) AS n FROM staged.item GROUP BY form")}
        new = db.rows("SELECT split, count(*) AS n FROM staged.prompt WHERE known IS NULL GROUP BY split")
        splits = {row["split"]: row["n"] for row in new}
        counts.prompts, counts.held_out = sum(splits.values()), splits.get("held-out", 0)
        counts.judged, counts.gold, counts.open = (forms.get(form, 0) for form in ("judged", "gold", "open"))
        counts.demonstrations = forms.get("demonstration", 0)
        known_prompts = int(db.value("SELECT count(*) FROM staged.prompt WHERE known IS NOT NULL"))
        counts.known = known_prompts if self.target == "prompts" else gone
        counts.remarks = dict(+self.remarks)

    def report(self, db: Database, keep: int) -> None:
        """The first rows that are not imported, in the order of the file, and how many there are for each reason."""
        rows = db.rows("SELECT row, column_name AS column, reason FROM staged.skipped ORDER BY row LIMIT ?", (keep,))
        self.skipped = [Skipped(row["row"], row["column"], retold(row["reason"])) for row in rows]
        counted = db.rows(
            "SELECT reason, count(*) AS n FROM staged.skipped GROUP BY reason ORDER BY n DESC, reason LIMIT 50"
        )
        self.reasons = [(retold(row["reason"]), row["n"]) for row in counted]


JUDGED_TWICE = N_("the same answers judged in several ways: each verdict comes in once, however many gave it")
COUNT_JUDGED_TWICE = """SELECT count(*) FROM (SELECT 1 FROM item WHERE outcome IS NOT NULL GROUP BY answers
    HAVING count(*) > 1)"""

WAITS_ALREADY = N_(
    "the same answers wait for people already: they go on waiting, and come in once more with the verdict"
)

FIND_KNOWN = """UPDATE staged.prompt SET known =
    (SELECT id FROM main.prompt p WHERE p.fingerprint = staged.prompt.fingerprint)"""
# Of an item's prompt: a staged one's id, or below zero a known one's.
POINT_TO_KNOWN = """UPDATE staged.item SET prompt = -(SELECT known FROM staged.prompt p WHERE p.id = staged.item.prompt)
    WHERE prompt IN (SELECT id FROM staged.prompt WHERE known IS NOT NULL)"""

# Where chance takes none; a database that has held-out prompts needs no more.
HOLD_ONE_OUT = """UPDATE staged.prompt SET split = 'held-out'
    WHERE id = (SELECT id FROM staged.prompt WHERE known IS NULL ORDER BY fingerprint LIMIT 1)
      AND (SELECT count(*) FROM staged.prompt WHERE known IS NULL) >= ?
      AND NOT EXISTS (SELECT 1 FROM staged.prompt WHERE split = 'held-out' AND known IS NULL)
      AND NOT EXISTS (SELECT 1 FROM main.prompt WHERE split = 'held-out')"""


def split_of(messages: Sequence[Message], wanted: Split | float) -> Split:
    """A prompt's split: the one that is wanted, or held-out for that share of all prompts, always the same ones.

    By its letters and digits, so that of nearly the same prompts none is trained on and another measured with.
    """
    if isinstance(wanted, str):
        return wanted
    said = sha256(prompt_store.letters_of(messages).encode()).hexdigest()
    return "held-out" if int(said[:12], 16) < wanted * 16**12 else "train"


def spread(singles: Sequence[tuple[int, bool, str]]) -> list[tuple[int, bool, str]]:
    """Good and bad ones in turn, so that a cut leaves some of both."""
    goods, bads = [single for single in singles if single[1]], [single for single in singles if not single[1]]
    pairs = [single for pair in zip(goods, bads, strict=False) for single in pair]
    rest = goods[len(bads) :] + bads[len(goods) :]
    return [*pairs, *rest]


def content_key(
    form: str,
    fingerprint: str,
    answers: Sequence[str],
    outcome: str | None = None,
    ranking: Sequence[int] | None = None,
) -> bytes:
    """What makes two imports the same: form, prompt, answers in any order, and what the verdict says of each."""
    ranks = [0] * len(answers) if ranking is None else ranking
    said = json.dumps([form, fingerprint, outcome, sorted(zip(answers, ranks, strict=True))])
    return blake2b(said.encode(), digest_size=16).digest()


# Of a comparison `c`.
ANSWERS = """(SELECT json_group_array(text) FROM (SELECT r.text FROM main.comparison_response cr
    JOIN main.response r ON r.id = cr.response_id WHERE cr.comparison_id = c.id ORDER BY cr.position)) AS answers"""


def waiting_answers(db: Database) -> Iterator[bytes]:
    """What comparisons on the staged prompts that wait to be judged would have in common with staged verdicts."""
    rows = db.connection.query(
        f"""SELECT s.fingerprint, {ANSWERS} FROM staged.prompt s JOIN main.comparison c ON c.prompt_id = s.known
           WHERE c.purpose = 'preference' AND c.state = 'ready'"""
    )
    for row in rows:
        yield content_key("judged", row["fingerprint"], json.loads(row["answers"]))


def known_contents(db: Database) -> Iterator[bytes]:
    """The keys of everything that the database holds on the staged prompts, as an import would have made them."""
    rows = db.connection.query(
        f"""SELECT s.fingerprint, c.expected, {ANSWERS},
               (SELECT json_group_array(json_array(j.outcome, json(j.ranking)))
                    FROM main.current_judgement j WHERE j.comparison_id = c.id) AS verdicts
           FROM staged.prompt s JOIN main.comparison c ON c.prompt_id = s.known WHERE s.known IS NOT NULL"""
    )
    for row in rows:
        answers = json.loads(row["answers"])
        yield content_key("open", row["fingerprint"], answers)
        if row["expected"] is not None:
            yield content_key("gold", row["fingerprint"], answers, "ranked", json.loads(row["expected"]))
        for outcome, ranking in json.loads(row["verdicts"]):
            if outcome in ("ranked", "all-bad"):
                yield content_key("judged", row["fingerprint"], answers, outcome, ranking)
    shown = db.connection.query(
        """SELECT s.fingerprint, r.text FROM staged.prompt s JOIN main.response r ON r.prompt_id = s.known
           WHERE s.known IS NOT NULL AND r.purpose = 'demonstrate'"""
    )
    for row in shown:
        yield content_key("demonstration", row["fingerprint"], [row["text"]])
