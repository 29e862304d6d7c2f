"""What states, purposes and bulk changes are called on the pages about comparisons. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from annotation.tabs.quality_report import DEGREES, OUTCOME_NAMES
from annotation.translation import _, ngettext
from annotation.ui.markup import Chip
from annotation.workbench.bulk_changes import LEFT_OUT, ChangeKind
from annotation.workbench.comparison_filter import STATUSES

# The colour of a status; the others have none.
COLOURS: Final[Mapping[str, str]] = {
    "judged": "good",
    "settled": "good",
    "disputed": "bad",
    "unfit": "bad",
    "open": "open",
    "begun": "open",
    "in-hand": "open",
    "assigned": "open",
}
PURPOSES: Final[Mapping[str, str]] = {
    "own": _("to learn from"),
    "gold": _("gold"),
    "re-ask": _("asked again"),
    "adjudication": _("to settle"),
    "import": _("imported"),
    "judge": _("AI judge"),
}
CLAIM_STATES: Final[Mapping[str, str]] = {
    "held": _("in hand"),
    "judged": _("judged"),
    "skipped": _("skipped"),
    "released": _("went back unjudged"),
}
KINDS: Final[Mapping[str, str]] = {
    "assign": _("Assigned"),
    "release": _("Given back to all"),
    "settle": _("Put aside to settle"),
    "skip": _("Skipped"),
    "withdraw": _("Withdrawn"),
    "gold-make": _("Made gold"),
    "gold-retire": _("Gold retired"),
    "gold-reinstate": _("Gold handed out again"),
    "gold-release": _("No longer gold"),
}
ASKS: Final[Mapping[str, str]] = {"people": _("people"), "judges": _("AI judges"), "nobody": _("nobody")}
ASKED_WHY: Final[Mapping[str, str]] = {
    "audit": _("drawn to check the judges"),
    "flip": _("a judge changed its mind with the order"),
    "disagreement": _("judges disagree"),
    "unsure": _("judges are unsure"),
}


def status_chip(status: str) -> Chip:
    """A comparison's status in a word and a colour."""
    return Chip(_(STATUSES[status]), COLOURS.get(status, ""))


def verdict(outcome: str, ranking: Sequence[int] | None, strength: int | None) -> str:
    """A judgement in words, by the answers' numbers: '1 > 2, clearly', '1 = 2', 'all bad'."""
    if ranking is None:
        return OUTCOME_NAMES[outcome]
    levels: dict[int, list[str]] = {rank: [] for rank in sorted(set(ranking))}
    for number, rank in enumerate(ranking, 1):
        levels[rank].append(str(number))
    order = " > ".join(" = ".join(level) for level in levels.values())
    return f"{order}, {DEGREES[strength]}" if strength else order


def question(kind: ChangeKind, count: int, whom: str) -> str:
    """What is asked before a change of so many comparisons."""
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
    "assign": _("Whoever it is gets these first, and nobody else does while the assignment stands."),
    "release": _("They go back to the pool. What was judged stays."),
    "settle": _("You get them one after the other on the Annotate tab, blind; your judgement then stands for each."),
    "skip": _("You are not shown them any more; others are."),
    "withdraw": _("Nobody is asked about them any more. Judgements that there are stay, and are trained on."),
}
BUTTONS: Final[Mapping[ChangeKind, str]] = {
    "assign": _("Assign"),
    "release": _("Give back"),
    "settle": _("Settle"),
    "skip": _("Skip"),
    "withdraw": _("Withdraw"),
}


def left_out(kind: ChangeKind, count: int) -> str:
    """What a change leaves out and why; nothing for none."""
    if not count:
        return ""
    said = ngettext("{count:,} is left out: {why}.", "{count:,} are left out: {why}.", count)
    return said.format(count=count, why=_(LEFT_OUT[kind]))


def outcome(kind: str, count: int, whom: str) -> str:
    """What a bulk change was, in a line."""
    said = ngettext("{what}: {count:,} comparison", "{what}: {count:,} comparisons", count)
    line = said.format(what=KINDS[kind], count=count)
    return _("{line}, to {whom}").format(line=line, whom=whom) if whom and kind == "assign" else line
