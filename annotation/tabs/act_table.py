"""What each kind of act takes and teaches, as a table for whoever decides which one to ask for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from annotation.metrics.act_times import FEW, MEASURED_ANSWERS, PAIRS_AN_ACT, ActTime
from annotation.records import Kind
from annotation.translation import N_, _, numeral
from annotation.ui.formatting import NOTHING
from annotation.ui.markup import Row, paragraph, table, unfold

NAMES: dict[Kind, str] = {
    "pair": N_("Two answers"),
    "best": N_("Best of {answers}"),
    "rank": N_("Ranking of {answers}"),
}
TITLE = N_("How long each way to judge takes, and how much it teaches")
HEADERS = (
    *(N_("Way to judge"), N_("Judgements here"), N_("Seconds here")),
    *(N_("A judgement teaches"), N_("A minute teaches, here")),
)
NOTE = N_(
    "One is what two answers, chosen at random, teach, measured with simulated people. Seconds: "
    "the median here with its quartiles, without skips and answers judged before they were written."
)
Asked = tuple[Kind, int]


def acts_table(times: Sequence[ActTime]) -> str:
    """A row for each act that a project can begin with, and for what was done here besides."""
    known = {(one.kind, one.answers): one for one in times}
    begins: list[Asked] = [(kind, 2 if kind == "pair" else MEASURED_ANSWERS) for kind in PAIRS_AN_ACT]
    rows = [act_row(asked, known.get(asked)) for asked in (*begins, *(asked for asked in known if asked not in begins))]
    headers = [*map(_, HEADERS)]
    shown = table(headers, rows, numbers=headers[1:], caption=_(TITLE))
    return shown + unfold(_("How this is measured"), paragraph(_(NOTE)))


def act_row(asked: Asked, found: ActTime | None) -> Row:
    """One kind of act; what was not measured says so."""
    kind, answers = asked
    name = _(NAMES[kind]).format(answers=answers)
    if found is None:
        return name, "0", NOTHING, teaches(PAIRS_AN_ACT[kind]), NOTHING
    seconds = _("{median:.1f} s\n{low:.1f} to {high:.1f} s").format(median=found.median, low=found.low, high=found.high)
    few = _("\nfew judgements: hardly to be relied on") if found.judgements < FEW else ""
    hasty = found.pairs_an_act is not None and found.pairs_a_minute is None
    a_minute = _("too fast to have been read") if hasty else teaches(found.pairs_a_minute)
    return name, numeral(found.judgements), f"{seconds}{few}", teaches(found.pairs_an_act), a_minute


def teaches(pairs: float | None) -> str:
    """So many times what two answers do."""
    return _("not measured") if pairs is None else numeral(pairs, ".1f")
