"""Which comparisons are meant: one filter for the table, bulk changes, statistics and exports; as text and SQL. Pure.

As text it is the query of an address, `status=disputed&person=mira&q=rice`, which the page, the command line and the
frozen request of an export share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from annotation.records import UserError
from annotation.schema import PROMPT_WORDS
from annotation.store.policy_comparisons import SKIPPED_FOR_GOOD
from annotation.translation import N_, _

LONGEST_SEARCH: Final = 200
LONGEST_FILTER: Final = 20_000

STATUSES: Final[Mapping[str, str]] = {
    "open": N_("open"),
    "begun": N_("begun"),
    "in-hand": N_("in hand"),
    "assigned": N_("assigned"),
    "judged": N_("judged"),
    "disputed": N_("disputed"),
    "settled": N_("settled"),
    "judges": N_("with AI judges"),
    "unasked": N_("nobody asked"),
    "gold": N_("gold"),
    "writing": N_("being answered"),
    "unfit": N_("unfit"),
    "withdrawn": N_("withdrawn"),
}
# Of a comparison `c`, in one word; the parameters are `overlap`, how many annotators one has, and `now`.
STATUS: Final = f"""CASE
    WHEN c.purpose = 'gold' THEN 'gold'
    WHEN c.state IN ('asked', 'writing') THEN 'writing'
    WHEN c.state = 'withdrawn' THEN 'withdrawn'
    WHEN c.state IN ('failed', 'dropped') THEN 'unfit'
    WHEN c.opinion = 'settled' THEN 'settled'
    WHEN c.opinion = 'disputed' THEN 'disputed'
    WHEN c.id IN (SELECT comparison_id FROM claim WHERE state = 'held' AND expires > :now) THEN 'in-hand'
    WHEN c.assigned THEN 'assigned'
    WHEN c.judged >= iif(c.candidate_id IS NULL, :overlap, 1) OR (c.state = 'closed' AND c.judged > 0) THEN 'judged'
    WHEN c.judged > 0 THEN 'begun'
    WHEN c.asks = 'judges' THEN 'judges'
    WHEN c.asks = 'nobody' OR c.id IN (SELECT c.id FROM comparison c WHERE {SKIPPED_FOR_GOOD}) THEN 'unasked'
    ELSE 'open' END"""

# What can be read off an index and holds of every comparison of a status: so that no other is looked at.
NECESSARY: Final[Mapping[str, str]] = {
    "open": "c.purpose = 'preference' AND c.judged = 0 AND c.opinion = 'none' AND c.assigned = 0",
    "begun": "c.purpose = 'preference' AND c.judged > 0 AND c.assigned = 0",
    "in-hand": "c.id IN (SELECT comparison_id FROM claim WHERE state = 'held' AND expires > :now)",
    "assigned": "c.assigned = 1",
    "judged": "c.purpose = 'preference' AND c.judged > 0",
    "disputed": "c.purpose = 'preference' AND c.opinion = 'disputed'",
    "settled": "c.purpose = 'preference' AND c.opinion = 'settled'",
    "judges": "c.purpose = 'preference' AND c.judged = 0 AND c.asks = 'judges'",
    "unasked": "c.purpose = 'preference' AND c.judged = 0 AND (c.asks = 'nobody' OR c.candidate_id NOT NULL)",
    "gold": "c.purpose = 'gold'",
    "writing": "c.purpose = 'preference' AND c.state IN ('asked', 'writing')",
    "unfit": "c.purpose = 'preference' AND c.state IN ('failed', 'dropped')",
    "withdrawn": "c.purpose = 'preference' AND c.state = 'withdrawn'",
}

# Of a judgement `j`: that it ranks all answers alike.
TIE: Final = "j.outcome = 'ranked' AND j.ranking NOT LIKE '%2%'"
# What somebody said of a comparison, as a condition on a judgement `j` that stands.
SAID: Final[Mapping[str, tuple[str, str]]] = {
    "tie": (N_("a tie"), TIE),
    "all-bad": (N_("all bad"), "j.outcome = 'all-bad'"),
    "skip": (N_("skipped"), "j.outcome = 'skip'"),
    "flag": (N_("flagged"), "j.flag NOT NULL"),
    "note": (N_("a note"), "j.note != ''"),
    "edit": (N_("an edited answer"), "j.edited_response_id NOT NULL"),
}
SPLITS: Final[Mapping[str, str]] = {"train": N_("to train on"), "held-out": N_("held out")}
# Scripts that are written without spaces: the index of words has whole sentences of them, so the texts are read.
UNSPACED: Final = re.compile(
    "[\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)
WORD: Final = re.compile(r"\w")


@dataclass(frozen=True)
class ComparisonFilter:
    """Comparisons that have all that is asked for; of several values of one field, any. Empty asks for nothing."""

    ids: tuple[int, ...] = ()
    status: tuple[str, ...] = ()
    person: tuple[str, ...] = ()
    """Who has judged it: people, AI judges or imports, by name."""
    assigned: tuple[str, ...] = ()
    """To which people or groups it is assigned, by name."""
    policy: tuple[str, ...] = ()
    """Who wrote an answer, by revision."""
    source: tuple[str, ...] = ()
    """The set that the prompt is from, or the import that brought the comparison."""
    said: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    since: str = ""
    """First day on which it was made, as 2026-01-31 (UTC)."""
    until: str = ""
    q: str = ""
    """Words of the prompt or of an answer, as they begin; or a comparison's number."""

    def __post_init__(self) -> None:
        for name, known in (("status", STATUSES), ("said", SAID), ("split", SPLITS)):
            for value in getattr(self, name):
                if value not in known:
                    said = _("There is no {name} '{value}'. There is: {known}.")
                    raise UserError(said.format(name=name, value=value[:40], known=", ".join(known)))
        for day in (self.since, self.until):
            check_day(day)
        if len(self.q) > LONGEST_SEARCH:
            raise UserError(_("Search for {limit} characters at most.").format(limit=LONGEST_SEARCH))

    @classmethod
    def of(cls, text: str) -> ComparisonFilter:
        """A filter from its text. Raises UserError that says what of it means nothing."""
        if len(text) > LONGEST_FILTER:
            raise UserError(_("This filter is too long."))
        query = dict(parse_qsl(text.strip().removeprefix("?"), keep_blank_values=True))
        if text.strip() and not query:  # an empty filter would mean all
            raise UserError(_("'{text}' is no filter. Write one as status=disputed.").format(text=text[:40]))
        return cls.of_query(query)

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> ComparisonFilter:
        """A filter from the fields of an address. Raises UserError that says what of it means nothing."""
        found: dict[str, Any] = {}
        known = {field.name: field.type for field in fields(cls)}
        for name, value in query.items():
            if name not in known:
                said = _("There is no filter '{name}'. There is: {known}.")
                raise UserError(said.format(name=name[:40], known=", ".join(known)))
            if name == "ids":
                found[name] = numbers(value)
            elif known[name] == "str":
                found[name] = value.strip()
            else:
                found[name] = tuple(unescaped(part) for part in value.split(",") if part)
            if not found[name]:
                raise UserError(_("The filter '{name}' is empty. Leave it out, or say what to find.").format(name=name))
        return cls(**found)

    @property
    def query(self) -> dict[str, str]:
        """The fields of its address: values of one beside each other, with commas between them."""
        found: dict[str, str] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value:
                found[field.name] = value if isinstance(value, str) else ",".join(escaped(str(one)) for one in value)
        return found

    @property
    def text(self) -> str:
        """What `of` reads; empty for all comparisons."""
        return urlencode(self.query, safe=",:")

    def where(self) -> tuple[str, dict[str, Any]]:
        """A condition on a comparison `c`, and its parameters beside those of STATUS."""
        conditions: list[str] = []
        values: dict[str, Any] = {}
        for name, condition in CONDITIONS.items():
            asked = getattr(self, name)
            if asked:
                conditions.append(condition)
                values[name] = asked if isinstance(asked, str) else json.dumps(asked)
        if self.status:
            any_of = " OR ".join(f"({NECESSARY[one]} AND ({STATUS}) = '{one}')" for one in self.status)
            conditions.append(f"({any_of})")
        if self.said:
            any_of = " OR ".join(f"({SAID[one][1]})" for one in self.said)
            conditions.append(f"c.id IN (SELECT j.comparison_id FROM current_judgement j WHERE {any_of})")
        if self.until:
            values["until"] = (date.fromisoformat(self.until) + timedelta(days=1)).isoformat()
        if self.q:
            condition, values["q"] = search(self.q)
            conditions.append(condition)
        return " AND ".join(conditions) or "1", values


AMONG: Final = "(SELECT value FROM json_each(:{}))"
OF_POLICY: Final = f"SELECT id FROM model WHERE revision IN {AMONG.format('policy')}"
CONDITIONS: Final[Mapping[str, str]] = {
    "ids": f"c.id IN {AMONG.format('ids')}",
    "person": f"""c.id IN (SELECT j.comparison_id FROM current_judgement j WHERE j.annotator_id IN
        (SELECT id FROM annotator WHERE name IN {AMONG.format("person")}))""",
    "assigned": f"""c.id IN (SELECT i.comparison_id FROM bulk_change x JOIN bulk_change_comparison i
            ON i.change_id = x.id AND i.state = 'stands'
        WHERE x.kind = 'assign' AND (x.group_name COLLATE NOCASE IN {AMONG.format("assigned")} OR x.annotator_id IN
            (SELECT id FROM annotator WHERE name IN {AMONG.format("assigned")})))""",
    "policy": f"""(c.model_id IN ({OF_POLICY}) OR c.model_id IS NULL AND EXISTS (SELECT 1 FROM comparison_response cr
        JOIN response r ON r.id = cr.response_id WHERE cr.comparison_id = c.id AND r.model_id IN ({OF_POLICY})))""",
    # Or of the import that brought the comparison of a prompt that was there already.
    "source": f"""(c.prompt_id IN (SELECT id FROM prompt WHERE source IN {AMONG.format("source")}) OR c.import_id IN
        (SELECT id FROM import WHERE 'import ' || id || ': ' || name IN {AMONG.format("source")}))""",
    "split": f"c.prompt_id IN (SELECT id FROM prompt WHERE split IN {AMONG.format('split')})",
    "since": "c.created >= :since",
    "until": "c.created < :until",
}
OF_ANSWERS: Final = "c.id IN (SELECT comparison_id FROM comparison_response WHERE response_id IN ({}))"
BY_WORDS: Final = f"""(c.prompt_id IN (SELECT rowid FROM prompt_words WHERE prompt_words MATCH :q)
    OR {OF_ANSWERS.format("SELECT rowid FROM answer_words WHERE answer_words MATCH :q")})"""
BY_READING: Final = f"""(c.prompt_id IN (SELECT p.id FROM prompt p WHERE instr({PROMPT_WORDS.format("p")}, :q))
    OR {OF_ANSWERS.format("SELECT id FROM response WHERE instr(text, :q)")})"""


def search(asked: str) -> tuple[str, str | int]:
    """The condition that a search comes to, and its parameter `q`."""
    plain = asked.strip()
    if re.fullmatch(r"#?\d{1,15}", plain, re.ASCII):
        return "c.id = :q", int(plain.removeprefix("#"))
    if UNSPACED.search(plain):
        return BY_READING, plain
    # Each in quotation marks, in which the index's own language has no signs but these.
    words = [word.replace('"', '""') for word in plain.replace("\0", " ").split() if WORD.search(word)]
    return (BY_WORDS, " ".join(f'"{word}"*' for word in words)) if words else (BY_READING, plain)


def escaped(name: str) -> str:
    """A name as one of several between commas."""
    return name.replace("%", "%25").replace(",", "%2C")


def unescaped(part: str) -> str:
    """The name that `escaped` was given."""
    return part.replace("%2C", ",").replace("%25", "%")


def numbers(text: str) -> tuple[int, ...]:
    """Numbers of comparisons between commas. Raises UserError for anything else."""
    parts: Sequence[str] = [part for part in text.split(",") if part]
    if any(not re.fullmatch(r"\d{1,15}", part, re.ASCII) for part in parts):
        raise UserError(_("Comparisons are given by their numbers, with commas between them."))
    return tuple(dict.fromkeys(map(int, parts)))


def check_day(text: str) -> None:
    """Raises UserError for a text that is no day and not empty."""
    try:
        sound = not text or (date.fromisoformat(text).isoformat() == text and date.fromisoformat(text) < date.max)
    except ValueError:
        sound = False
    if not sound:
        said = _("'{text}' is no day. Write days as 2026-01-31, or leave the field empty.")
        raise UserError(said.format(text=text[:40]))
