"""What is made of the rows of a file: the columns by role, what they are for, and the form that they have. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from annotation.imports.mapping.columns import CHANCES, find_question
from annotation.imports.mapping.labels import AskedColumn, Columns
from annotation.imports.sources.raw_rows import SourceRow
from annotation.records import UserError
from annotation.translation import _

Target = Literal["prompts", "demonstrations", "preferences"]
VerdictUse = Literal["judged", "gold", "open"]
TARGETS: tuple[Target, ...] = get_args(Target)

VERDICT_ROLES: Final = ("winner", "preference", "winner_from_0", "winner_from_1")
RANKING_ROLES: Final = ("scores", "ranks", "order", "outcome", "strength", "score_a", "score_b")
QUESTION: Final = ("prompt", "context", "history", "system", "messages")


@dataclass(frozen=True)
class ImportPlan:
    """What is made of the rows: the target, the columns by role, and what becomes of verdicts."""

    target: Target
    columns: Columns
    verdict: VerdictUse = "judged"
    good_from: float | None = None
    """The rating from which on an answer is good."""
    paths: tuple[str, ...] = ()
    """Those of the columns that are paths into objects, as 'question.full_text'."""
    ranks_said: bool = False
    """Whether a person has named the column with ranks."""
    prompt_within: bool = False
    """Whether a person has said that no column has the prompt, so that answers begin with it."""

    @property
    def used(self) -> list[str]:
        roles = ROLES_OF_FORMS[form_of(self)]
        if "prompt" in self.columns and "prompt" in roles:
            roles = tuple(role for role in roles if role != "messages")
        if self.verdict == "open":
            roles = tuple(role for role in roles if role not in (*VERDICT_ROLES, *RANKING_ROLES))
        if self.verdict != "judged":
            roles = tuple(role for role in roles if role not in CHANCES)
        return [self.columns[role] for role in roles if role in self.columns]


def likely_target(rows: Sequence[SourceRow], columns: Columns) -> Target:
    roles = columns.keys()
    if {"chosen", "rejected"} <= roles or {"a", "b"} <= roles or "responses" in roles:
        return "preferences"
    messages = {"messages": columns["messages"]} if "messages" in roles else {}
    if "completion" in roles or (messages and not find_question(rows, messages)):
        return "preferences" if roles & {"label", "rating"} else "demonstrations"
    return "prompts"


def form_of(plan: ImportPlan) -> str:
    """Which form of data the columns are. Raises UserError where some are missing."""
    roles = plan.columns.keys()
    answered = "completion" in roles and bool(roles & {"prompt", "messages"})
    if plan.target == "prompts":
        if "prompt" in roles:
            return "prompt"
        if "messages" in roles:
            return "conversation"
        if {"chosen", "rejected"} <= roles:
            return "shared prompt"
        raise AskedColumn(
            _("No column with prompts was found: name one as 'prompt' or 'messages'."), "prompt", "messages"
        )
    if plan.target == "demonstrations":
        if answered or "messages" in roles:
            return "answer" if answered else "last turn"
        raise AskedColumn(
            _("Demonstrations need the columns 'prompt' and 'completion', or 'messages'."),
            *("prompt", "completion", "messages"),
        )
    return form_of_preferences(plan, answered)


def form_of_preferences(plan: ImportPlan, answered: bool) -> str:
    """Which form of preferences the columns are. Raises UserError where they are of none."""
    roles = plan.columns.keys()
    if {"chosen", "rejected"} <= roles:
        return "chosen"
    if {"a", "b"} <= roles:
        if plan.verdict != "open" and not roles & set(VERDICT_ROLES) and not {"score_a", "score_b"} <= roles:
            raise AskedColumn(
                _(
                    "There are two answers but no column that says which is better: name it as 'winner' (or "
                    "'preference', 'winner_from_0', 'winner_from_1', or 'score_a' and 'score_b'), or leave "
                    "verdicts out: people judge them then."
                ),
                *("winner", "preference", "winner_from_0", "winner_from_1", "score_a", "score_b"),
            )
        return "pair"
    if "responses" in roles:
        return "responses"
    if roles & {"label", "rating"} and (answered or "messages" in roles):
        if plan.verdict != "judged":
            raise UserError(
                _("Single answers with a label are no comparisons: they can't be gold or judged by people.")
            )
        return "labelled answer" if answered else "labelled last turn"
    raise AskedColumn(
        _(
            "No preferences in these columns. They need 'chosen' and 'rejected'; or 'a', 'b' and 'winner'; or "
            "'responses' with 'scores' or 'ranks'; or 'prompt', 'completion' and 'label'."
        ),
        *("prompt", "chosen", "rejected", "a", "b", "winner", "responses", "scores", "ranks", "completion", "label"),
    )


# The roles whose columns each form reads.
ROLES_OF_FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": (*QUESTION, "speaker", "parent"),
    "conversation": ("messages", "system"),
    "shared prompt": ("chosen", "rejected", "system"),
    "answer": (*QUESTION, "completion", "label", "rating"),
    "last turn": ("messages", "system", "label", "rating"),
    "chosen": (*QUESTION, "chosen", "rejected", "strength", "score_a", "score_b", "status", *CHANCES),
    "pair": (*QUESTION, "a", "b", *VERDICT_ROLES, "score_a", "score_b", "strength", *CHANCES),
    "responses": (
        *(*QUESTION, "responses", "winner", "winner_from_0", "winner_from_1", "ranks", "order", "scores"),
        *("outcome", "strength"),
        *CHANCES,
    ),
    "labelled answer": (*QUESTION, "completion", "label", "rating"),
    "labelled last turn": ("messages", "system", "label", "rating"),
}
