"""The gate's rule as the project has set it; who changed it last, and how that is taken back. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from annotation.database import Database
from annotation.records import UserError, now, who
from annotation.store import setting_store
from annotation.translation import _
from rlhf.evaluation.gate import Rule
from rlhf.models import registry

CHANGE_SETTING = "gate_change"


def rule(db: Database) -> Rule:
    return Rule.stored(setting_store.setting(db, registry.RULE_SETTING, {}))


def set_rule(db: Database, values: Mapping[str, Any]) -> Rule:
    """Store a rule; what is left out has its default. Raises UserError for values that make no sense."""
    new = Rule.from_setting(values)
    registry.require_answering(registry.by_revision(db, new.anchor))
    setting_store.set_setting(db, registry.RULE_SETTING, new.to_setting())
    return new


@dataclass(frozen=True)
class RuleChange:
    """A change of the rule, kept until the next one."""

    number: int
    changed_by: str
    created: str
    before: Mapping[str, Any]
    """The rule that it is put back to."""


def newest_change(db: Database) -> RuleChange | None:
    """The newest change of the rule; None where it is as it always was."""
    kept = setting_store.setting(db, CHANGE_SETTING, None)
    return None if kept is None else RuleChange(**kept)


def change_rule(db: Database, values: Mapping[str, Any], changed_by: str) -> Rule:
    """Store a rule, and what it was until now. Raises UserError for values that make no sense."""
    with db.transaction():
        before, last = rule(db), newest_change(db)
        new = set_rule(db, values)
        if new != before:
            made = RuleChange(last.number + 1 if last else 1, changed_by, now(), before.to_setting())
            setting_store.set_setting(db, CHANGE_SETTING, asdict(made))
    return new


def undo_change(db: Database, number: int, changed_by: str) -> Rule:
    """Put the rule back to what it was before the change of this number; that is a change as well.

    Raises UserError where it is not the newest one: of the same button two people may have seen.
    """
    with db.transaction():
        last = newest_change(db)
        if last is None or last.number < number:
            raise UserError(_("That can't be done here; reload the page."))
        if last.number != number:
            said = _("Nothing was undone: {who} has changed the rule since. Look at what it asks now.")
            raise UserError(said.format(who=who(last.changed_by)))
        return change_rule(db, Rule.stored(last.before).to_setting(), changed_by)
