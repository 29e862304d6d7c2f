"""The Accounts tab: what its fields show is of the account that is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from annotation.database import Database
from annotation.tabs import accounts
from annotation.tabs.guard import Context
from annotation.web import access
from annotation.workbench import annotator_groups
from tests.conftest import BASE_NAME
from tests.handlers import asked_by


def test_groups_and_judgements_are_those_of_the_account_that_is_chosen(db: Database, data_dir: Path) -> None:
    """Adding somebody chooses them: what stood in the fields of whoever was chosen before is not to be saved there."""
    for name, role in (("olga", "admin"), ("mira", "annotator")):
        access.add_account(db, name, role, "long enough words")
    with db.transaction():
        mira = access.existing(db, "mira")["id"]
        annotator_groups.set_groups(db, mira, ("red",))
        annotator_groups.set_quota(db, mira, 50)
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Accounts"):
        accounts.build(demo, Context(db, data_dir, BASE_NAME))
    listeners: dict[Any, Any] = {block.api_name: block.fn for block in demo.fns.values()}
    olga = gr.Request(username="olga")
    groups, quota, _language, told = listeners["account-choose"](olga, "mira")
    assert '"/mira"' in told
    assert (groups, quota["value"]) == ("red", 50)
    groups, quota = listeners["account-add"](olga, "zoe", "annotator", "")[4:6]
    assert (groups, quota["value"]) == ("", None)
    groups, quota = listeners["account-reset"](olga, "mira")[4:6]
    assert (groups, quota["value"]) == ("red", 50)
    visit = listeners["account-visit"]
    account, said, _secret, groups, quota = visit(*asked_by("olga", visit, part="/mira"))[:5]
    assert (account["value"], said, groups, quota["value"]) == ("mira", "", "red", 50)
    account, said, _secret, groups, quota = visit(*asked_by("olga", visit, part="/nobody%3Cb%3E"))[:5]
    assert (account["value"], groups, quota["value"]) == (None, "", None)
    assert "There is no account nobody&lt;b&gt;." in said
