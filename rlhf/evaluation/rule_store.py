"""The gate's rule, as the project has set it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from annotation.database import Database
from annotation.store import setting_store
from rlhf.evaluation.gate import (
    Rule,
)
from rlhf.models import registry


def rule(db: Database) -> Rule:
    return Rule.stored(setting_store.setting(db, registry.RULE_SETTING, {}))


def set_rule(db: Database, values: Mapping[str, Any]) -> Rule:
    """Store a rule; what is left out has its default. Raises UserError for values that make no sense."""
    new = Rule.from_setting(values)
    registry.require_answering(registry.by_revision(db, new.anchor))
    setting_store.set_setting(db, registry.RULE_SETTING, new.to_setting())
    return new
