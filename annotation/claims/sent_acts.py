"""What a browser sends of a judgement, checked against what was asked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from annotation.records import MAXIMUM_EDIT, MAXIMUM_NOTE, Act, Edit, Flag, Kind, UserError, storable
from annotation.translation import _
from annotation.validation import FromMapping, NonNegativeInt, PositiveInt, read


@dataclass(frozen=True)
class SentEdit:
    place: NonNegativeInt
    text: str


@dataclass(frozen=True)
class SentAct:
    """What a browser sends of a judgement; whether it fits the comparison, `parse_act` says."""

    outcome: Literal["ranked", "all-bad", "skip"]
    ranks: list[PositiveInt] | None = None
    strength: Annotated[int, Interval(ge=0, le=3)] | None = None
    tags: list[str] = field(default_factory=list)
    note: str = ""
    flag: Flag | None = None
    edit: Annotated[SentEdit, FromMapping()] | None = None


def parse_act(value: Any, kind: Kind, size: int, tags: Sequence[str]) -> Act:
    """What a browser sent, checked against the comparison's kind and number of answers and the project's tags.

    Raises UserError that names the field at fault; ranks are made dense (1, 3, 3 becomes 1, 2, 2).
    """
    sent = read(SentAct, value, _("The judgement"))
    ranks, strength = None, None
    if sent.outcome == "ranked":
        ranks = dense(sent.ranks or (), size)
        strength = fitting_strength(sent.strength, ranks) if kind == "pair" else None
        if kind == "best" and len(set(ranks)) > 2:
            raise UserError(_("Only the best is asked for here, not a ranking. Nothing was recorded."))
    if any(tag not in tags for tag in sent.tags):
        raise UserError(_("A reason was given that this project does not have. Reload the page to see today's list."))
    if len(sent.note) > MAXIMUM_NOTE:
        said = _("A note can have up to {maximum_note:,} characters. Shorten it; nothing was recorded.")
        raise UserError(said.format(maximum_note=MAXIMUM_NOTE))
    return Act(
        outcome=sent.outcome,
        ranks=ranks,
        strength=strength,
        tags=tuple(tag for tag in tags if tag in sent.tags),
        note=storable(sent.note).strip(),
        flag=sent.flag,
        edit=None if sent.edit is None else fitting_edit(sent.edit, ranks),
    )


def dense(ranks: Sequence[int], size: int) -> tuple[int, ...]:
    """One rank for each place, without gaps."""
    if len(ranks) != size:
        said = _("A ranking needs one whole number from 1 up for each of the {size} answers.")
        raise UserError(said.format(size=size))
    levels = sorted(set(ranks))
    return tuple(levels.index(rank) + 1 for rank in ranks)


def fitting_strength(strength: int | None, ranks: Sequence[int]) -> int:
    """How much better the better of two is: 0 for a tie, else 1 slightly, 2 clearly, 3 much."""
    tied = len(set(ranks)) == 1
    if strength is None or (strength == 0) != tied:
        raise UserError(_("The strength of a preference is 1 slightly, 2 clearly or 3 much, and 0 for a tie."))
    return strength


def fitting_edit(edit: SentEdit, ranks: Sequence[int] | None) -> Edit:
    """An edited answer; it must be the (or a) best one, because it counts as better than all."""
    if not edit.text.strip() or len(edit.text) > MAXIMUM_EDIT:
        said = _("An edited answer has 1 to {maximum_edit:,} characters. Nothing was recorded.")
        raise UserError(said.format(maximum_edit=MAXIMUM_EDIT))
    if ranks is None or edit.place >= len(ranks) or ranks[edit.place] != 1:
        raise UserError(
            _("Edit the answer that you find best: the edit counts as better than it. Nothing was recorded.")
        )
    return Edit(edit.place, storable(edit.text).strip())
