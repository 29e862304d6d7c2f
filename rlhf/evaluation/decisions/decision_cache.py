"""What a decision came to, kept until a row changes that it depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from annotation.database import Database

_cache: WeakKeyDictionary[Database, tuple[Any, dict[tuple[str, ...], Any]]] = WeakKeyDictionary()
Cached = TypeVar("Cached")


def cached(db: Database, name: tuple[str, ...], work: Callable[[], Cached]) -> Cached:
    """What this work comes to, kept until a row changes that a decision depends on.

    The loop and the pages ask every few seconds. What else than judgements, decisions, checks and the rule it depends
    on the name holds, and the language where it comes to words.
    """
    stamp = db.row(
        """SELECT (SELECT max(id) FROM judgement) AS judgement, (SELECT max(id) FROM exclusion) AS exclusion,
               (SELECT max(id) FROM decision) AS decision, (SELECT max(finished) FROM job WHERE kind = 'check')
               AS checked, (SELECT count(*) FROM job WHERE kind = 'check' AND status = 'finished') AS checks,
               (SELECT count(*) FROM comparison WHERE candidate_id IS NOT NULL AND asks = 'people'
                   AND taken = 0) AS open,
               (SELECT json_group_array(json_array(id, quota)) FROM annotator WHERE active) AS annotators,
               (SELECT value FROM setting WHERE key = 'gate') AS rule,
               (SELECT max(version) FROM rubric) AS rubric,
               (SELECT count(*) FROM prompt WHERE split = 'held-out') AS held_out,
               (SELECT precision || coalesce(thinking, '') FROM model WHERE algorithm = 'base') AS answers,
               (SELECT value FROM setting WHERE key = 'thinking_changes') AS changes"""
    )
    found = _cache.get(db)
    if found is None or found[0] != stamp:
        found = _cache[db] = stamp, {}
    if name not in found[1]:
        found[1][name] = work()
    return cast(Cached, found[1][name])
