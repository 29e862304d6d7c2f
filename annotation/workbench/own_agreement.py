"""How often others found the same answers best as one annotator, for that annotator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from annotation.database import Database

SHARED_LOOKED_AT: Final = 500
# Of so many together it is said how many are the same: of one more it would be what another chose there.
TOLD_TOGETHER: Final = 10


@dataclass(frozen=True)
class OwnAgreement:
    """How often an annotator finds the same answer best as others who judged the same comparison."""

    shared: int
    """Comparisons of the latest ones that somebody else has judged as well, in tens."""
    same: int


def own_agreement(db: Database, annotator_id: int) -> OwnAgreement:
    """Over the latest comparisons that this annotator shares with others, each with one of these others, the first.

    Opinions alone, as everywhere: neither gold nor re-asks nor what was settled; of people who are not left out. One's
    own is the first that was given, so that nobody finds out what others chose, or can change a judgement to match it.
    """
    rows = db.rows(
        f"""SELECT f.ranking AS mine, (SELECT o.ranking FROM opinion o WHERE o.comparison_id = mine.comparison_id
                AND o.annotator_id != mine.annotator_id ORDER BY o.annotator_id LIMIT 1) AS other
            FROM (SELECT comparison_id, annotator_id FROM current_judgement WHERE annotator_id = ?
                AND purpose = 'own' AND ranking NOT NULL AND NOT early
                AND comparison_id IN (SELECT id FROM comparison WHERE judged > 1)
                ORDER BY id DESC LIMIT {SHARED_LOOKED_AT}) mine
            JOIN judgement f ON f.id = (SELECT min(j.id) FROM judgement j WHERE j.comparison_id = mine.comparison_id
                AND j.annotator_id = mine.annotator_id AND j.ranking NOT NULL)
            ORDER BY f.id DESC""",
        (annotator_id,),
    )
    pairs = [(best(row["mine"]), best(row["other"])) for row in rows if row["other"] is not None]
    pairs = pairs[len(pairs) % TOLD_TOGETHER :]
    return OwnAgreement(len(pairs), sum(own == other for own, other in pairs))


def best(ranking: str) -> tuple[int, ...]:
    """The positions that a stored ranking has first."""
    return tuple(position for position, rank in enumerate(json.loads(ranking)) if rank == 1)
