"""Changes of the gate's rule by people: who made the newest one, and how it is taken back. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from annotation.database import Database
from annotation.records import UserError, now, who
from annotation.store import setting_store
from annotation.translation import _
from rlhf.evaluation import rule_store
from rlhf.evaluation.gate import Rule

CHANGE_SETTING = "gate_change"


@dataclass(frozen=True)
class RuleChange:
    """A change of the rule, kept until the next one."""

    number: int
    changed_by: str
    created: str
    before: Mapping[str, Any]
    """The rule that it is put back to."""


def newest(db: Database) -> RuleChange | None:
    """The newest change of the rule; None where it is as it always was."""
    kept = setting_store.setting(db, CHANGE_SETTING, None)
    return None if kept is None else RuleChange(**kept)


def change(db: Database, values: Mapping[str, Any], changed_by: str) -> Rule:
    """Store a rule, and what it was until now. Raises UserError for values that make no sense."""
    with db.transaction():
        before, last = rule_store.rule(db), newest(db)
        rule = rule_store.set_rule(db, values)
        if rule != before:
            made = RuleChange(last.number + 1 if last else 1, changed_by, now(), before.to_setting())
            setting_store.set_setting(db, CHANGE_SETTING, asdict(made))
    return rule


def undo(db: Database, number: int, changed_by: str) -> Rule:
    """Put the rule back to what it was before the change of this number; that is a change as well.

    Raises UserError where it is not the newest one: of the same button two people may have seen.
    """
    with db.transaction():
        last = newest(db)
        if last is None or last.number < number:
            raise UserError(_("That can't be done here; reload the page."))
        if last.number != number:
            said = _("Nothing was undone: {who} has changed the rule since. Look at what it asks now.")
            raise UserError(said.format(who=who(last.changed_by)))
        return change(db, Rule.stored(last.before).to_setting(), changed_by)
