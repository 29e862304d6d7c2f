"""What states, purposes and bulk changes are called on the pages about comparisons. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from annotation.translation import N_, _, ngettext
from annotation.ui.formatting import cut
from annotation.ui.markup import Chip
from annotation.workbench.bulk_changes import LEFT_OUT, ChangeKind
from annotation.workbench.comparison_filter import SAID, SPLITS, STATUSES

# The colour of a status; the others have none.
COLOURS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("judged", "settled"), "good"),
    **dict.fromkeys(("disputed", "unfit"), "bad"),
    **dict.fromkeys(("open", "begun", "in-hand", "assigned"), "open"),
}
CLAIM_STATES: Final[Mapping[str, str]] = {
    "held": N_("in hand"),
    "judged": N_("judged"),
    "skipped": N_("skipped"),
    "released": N_("went back unjudged"),
    "undone": N_("taken back"),
}
SHOWN_VALUE: Final = 80
FIELD_LABELS: Final[Mapping[str, str]] = {
    "ids": N_("Comparisons"),
    "q": N_("Search"),
    "status": N_("Status"),
    "person": N_("Judged by"),
    "source": N_("Prompt set"),
    "assigned": N_("Assigned to"),
    "policy": N_("Answers by"),
    "said": N_("What was said"),
    "split": N_("Split"),
    "since": N_("Made since"),
    "until": N_("Made until"),
}
KINDS: Final[Mapping[str, str]] = {
    "release": N_("Given back to all"),
    "settle": N_("Put aside to settle"),
    "skip": N_("Skipped"),
    "withdraw": N_("Withdrawn"),
    "gold-make": N_("Made gold"),
    "gold-retire": N_("Gold retired"),
    "gold-reinstate": N_("Gold handed out again"),
    "gold-release": N_("No longer gold"),
}
ASKS: Final[Mapping[str, str]] = {"people": N_("people"), "judges": N_("AI judges"), "nobody": N_("nobody")}
ASKED_WHY: Final[Mapping[str, str]] = {
    "audit": N_("drawn to check the judges"),
    "flip": N_("a judge changed its mind with the order"),
    "disagreement": N_("judges disagree"),
    "unsure": N_("judges are unsure"),
}


def status_chip(status: str) -> Chip:
    return Chip(_(STATUSES[status]), COLOURS.get(status, ""))


def field_value(name: str, value: str | Sequence[Any]) -> str:
    if isinstance(value, str):
        return value
    said = {one: word for one, (word, _sql) in SAID.items()}
    known = {**STATUSES, **said, **SPLITS} if name in ("status", "said", "split") else {}
    return cut(", ".join(_(known[one]) if one in known else str(one) for one in value), SHOWN_VALUE)


def question(kind: ChangeKind, count: int, whom: str) -> str:
    questions = {
        "assign": ngettext("Assign {count:,} comparison to {whom}?", "Assign {count:,} comparisons to {whom}?", count),
        "release": ngettext("Give {count:,} comparison back to all?", "Give {count:,} comparisons back to all?", count),
        "settle": ngettext(
            "Put {count:,} comparison aside, to settle?", "Put {count:,} comparisons aside, to settle?", count
        ),
        "skip": ngettext("Skip {count:,} comparison?", "Skip {count:,} comparisons?", count),
        "withdraw": ngettext("Withdraw {count:,} comparison?", "Withdraw {count:,} comparisons?", count),
    }
    return questions[kind].format(count=count, whom=whom)


MEANINGS: Final[Mapping[ChangeKind, str]] = {
    "assign": N_("First in the queue, and in nobody else's while the assignment stands."),
    "release": N_("Open to all again. What was judged stays."),
    "settle": N_("You are asked on the Annotate tab, blind; your judgement then stands."),
    "skip": N_("You are not asked any more; whoever else judges is."),
    "withdraw": N_("Nobody else is asked; what is in hand can still be judged. Judgements stay, and are trained on."),
}
BUTTONS: Final[Mapping[ChangeKind, str]] = {
    "assign": N_("Assign"),
    "release": N_("Give back"),
    "settle": N_("Settle"),
    "skip": N_("Skip"),
    "withdraw": N_("Withdraw"),
}


def left_out(kind: ChangeKind, count: int) -> str:
    """What a change leaves out and why; nothing for none."""
    if not count:
        return ""
    said = ngettext("{count:,} is left out. {why}", "{count:,} are left out. {why}", count)
    return said.format(count=count, why=_(LEFT_OUT[kind]))


def outcome(kind: str, count: int, whom: str) -> str:
    outcomes = {
        "assign": ngettext(
            "Assigned: {count:,} comparison, to {whom}.", "Assigned: {count:,} comparisons, to {whom}.", count
        ),
        "release": ngettext(
            "Given back to all: {count:,} comparison.", "Given back to all: {count:,} comparisons.", count
        ),
        "settle": ngettext(
            "Put aside to settle: {count:,} comparison.", "Put aside to settle: {count:,} comparisons.", count
        ),
        "skip": ngettext("Skipped: {count:,} comparison.", "Skipped: {count:,} comparisons.", count),
        "withdraw": ngettext("Withdrawn: {count:,} comparison.", "Withdrawn: {count:,} comparisons.", count),
    }
    return outcomes[kind].format(count=count, whom=whom)
