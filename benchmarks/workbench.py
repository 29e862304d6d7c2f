"""The table of comparisons over a made-up database: milliseconds for a page, a search, a count, a bulk change, as JSON.

`python -m benchmarks.workbench --comparisons 100000` makes a data directory, asks each question several times and
prints the median of each.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from annotation.database import Database, open_database
from annotation.environment import keep_private
from annotation.records import Annotator, TokenIds, now, write_token_ids
from annotation.store.prompt_store import fingerprint_of
from annotation.workbench import bulk_changes, comparison_list
from annotation.workbench.bulk_changes import BulkRequest
from annotation.workbench.comparison_filter import ComparisonFilter
from annotation.workbench.comparison_history import history
from annotation.workbench.data_statistics import statistics
from rlhf.models import registry

WORDS = (
    *("rice", "water", "plant", "window", "receipt", "refund", "list", "loop", "cook", "covered", "minutes", "light"),
    *("air", "near", "week", "keep", "ask", "clear"),
)
FILTERS = {
    "all": "",
    "open": "status=open",
    "disputed": "status=disputed",
    "in_hand": "status=in-hand",
    "person": "person=person-3",
    "prompt_set": "source=set 4",
    "policy": "policy=base",
    "ties": "said=tie",
    "days": "since=2026-01-03&until=2026-01-05",
    "common_word": "q=rice",
    "rare_word": "q=answer77777",
    "two_words": "q=refund prompt4242",
    "unspaced": "q=米",
    "everything": "status=judged&person=person-3&source=set 4&q=rice",
}


def fill(db: Database, comparisons: int, seed: int) -> None:
    """A prompt, two answers and a comparison each; half of them judged, a tenth twice."""
    source = random.Random(seed)
    with db.transaction():
        base = registry.ensure_base(db, "b").id
        for number in range(1, 9):
            db.insert("annotator", {"id": number, "name": f"person-{number}", "role": "admin", "created": now()})
        for number in range(1, comparisons + 1):
            made = f"2026-01-{1 + number * 28 // (comparisons + 1):02}T00:00:00.{number % 10**6:06}+00:00"
            compare(db, number, base, made, source)
        for number in source.sample(range(1, comparisons + 1), comparisons // 2):
            for annotator in source.sample(range(1, 9), 2 if number % 5 == 0 else 1):
                judge(db, number, annotator, source)


def compare(db: Database, number: int, model: int, made: str, source: random.Random) -> None:
    """One prompt, two answers to it, and their comparison."""

    def sentence(count: int) -> str:
        return " ".join(source.choices(WORDS, k=count))

    fingerprint, messages = fingerprint_of([{"role": "user", "content": f"prompt{number} {sentence(12)}"}])
    asked = {"fingerprint": fingerprint, "messages": messages, "source": f"set {number % 12}", "split": "train"}
    db.insert("prompt", {"id": number, **asked, "created": made})
    comparison = {"id": number, "prompt_id": number, "model_id": model, "purpose": "preference", "created": made}
    db.insert("comparison", comparison)
    for place in (0, 1):
        answer = {
            "id": 2 * number + place,
            "prompt_id": number,
            "origin": "policy",
            "model_id": model,
            "purpose": "compare",
            "text": f"answer{number} {sentence(60)}",
            "rendered_prompt": messages,
            "token_ids": write_token_ids(TokenIds("made up", (1, 2) * 50)),
            "sampling": "{}",
            "created": made,
        }
        db.insert("response", answer)
        db.insert("comparison_response", {"comparison_id": number, "position": place, "response_id": answer["id"]})


def judge(db: Database, comparison: int, annotator: int, source: random.Random) -> None:
    """One judgement with its claim."""
    claim = db.insert(
        "claim",
        {
            "nonce": f"{comparison}-{annotator}",
            "comparison_id": comparison,
            "annotator_id": annotator,
            "purpose": "own",
            "kind": "pair",
            "slot": annotator,
            "shown_order": "[0, 1]",
            "state": "judged",
            "created": now(),
            "expires": now(),
        },
    )
    ranking = source.choice(["[1, 2]", "[2, 1]", "[1, 1]"])
    db.insert(
        "judgement",
        {
            "claim_id": claim,
            "comparison_id": comparison,
            "annotator_id": annotator,
            "purpose": "own",
            "kind": "pair",
            "outcome": "ranked",
            "ranking": ranking,
            "strength": 0 if ranking == "[1, 1]" else 2,
            "shown_order": "[0, 1]",
            "seconds": source.uniform(2, 60),
            "created": now(),
        },
    )


def milliseconds(work: Callable[[], object], times: int) -> float:
    """The median of several runs."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - begun))
    return round(median(taken), 1)


def measure(db: Database, times: int) -> dict[str, float]:
    """Milliseconds by what was asked."""
    found: dict[str, float] = {}
    for name, text in FILTERS.items():
        wanted = ComparisonFilter.of(text)
        found[f"page_{name}"] = milliseconds(lambda wanted=wanted: comparison_list.list_page(db, wanted), times)  # type: ignore[misc]
    for sort in comparison_list.SORTS:
        found[f"sort_{sort}"] = milliseconds(
            lambda sort=sort: comparison_list.list_page(db, ComparisonFilter(), sort),
            times,  # type: ignore[misc]
        )
    found["last_page"] = milliseconds(lambda: comparison_list.list_page(db, ComparisonFilter(), "latest", 10**6), times)
    found["history"] = milliseconds(lambda: history(db, 1), times)
    found["statistics"] = milliseconds(lambda: statistics(db, ComparisonFilter()), 1)
    return found | bulk(db)


def bulk(db: Database) -> dict[str, float]:
    """Everything that is open, assigned and taken back."""
    admin = Annotator(1, "person-1", "admin")
    asked = BulkRequest("assign", ComparisonFilter(status=("open",)), "person:person-2")
    made: list[int] = []

    def assign() -> None:
        made.append(bulk_changes.make(db, asked, admin, bulk_changes.plan(db, asked, admin).changed))

    return {
        "plan": milliseconds(lambda: bulk_changes.plan(db, asked, admin), 1),
        "assign": milliseconds(assign, 1),
        "undo": milliseconds(lambda: bulk_changes.undo(db, made[0], "person-1"), 1),
    }


def main() -> None:
    """Make the database, measure, print."""
    keep_private()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--data", type=Path, help="a directory to keep, and to measure again without filling it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data_dir = options.data or Path(directory) / "data"
        filled = (data_dir / "prefloop.db").exists()
        db = open_database(data_dir)
        begun = time.perf_counter()
        if not filled:
            fill(db, options.comparisons, options.seed)
        seconds = round(time.perf_counter() - begun, 1)
        print(json.dumps({"comparisons": options.comparisons, "fill_s": seconds, "ms": measure(db, options.times)}))
        db.close()


if __name__ == "__main__":
    main()
