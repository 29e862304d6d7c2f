"""The Accounts tab: what its fields show is of the account that is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from annotation.database import Database
from annotation.tabs import accounts
from annotation.tabs.guard import Context
from annotation.web import access
from annotation.workbench import annotator_groups
from tests.conftest import BASE_NAME
from tests.handlers import asked_by

Listeners = dict[Any, Any]
OLGA = gr.Request(username="olga")


@pytest.fixture
def listeners(db: Database, data_dir: Path) -> Listeners:
    """The tab's handlers, with an admin and an annotator."""
    for name, role in (("olga", "admin"), ("mira", "annotator")):
        access.add_account(db, name, role, "long enough words")
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Accounts"):
        accounts.build(demo, Context(db, data_dir, BASE_NAME))
    return {block.api_name: block.fn for block in demo.fns.values()}


def test_groups_and_judgements_are_those_of_the_account_that_is_chosen(db: Database, listeners: Listeners) -> None:
    """What stood in the fields of whoever was chosen before is not to be saved for another."""
    with db.transaction():
        mira = access.existing(db, "mira").id
        annotator_groups.set_groups(db, mira, ("red",))
        annotator_groups.set_quota(db, mira, 50)
    groups, quota, _language, *_acts, told, _confirm, _question, _asked = listeners["account-choose"](OLGA, "mira")
    assert '"/mira"' in told
    assert (groups, quota["value"]) == ("red", 50)
    _table, account, _said, _password, groups, quota, *_rest = listeners["account-add"](OLGA, "zoe", "annotator", "")
    assert (account.value, groups, quota["value"]) == (None, "", None), "nobody is chosen to be shut out"
    groups, quota = listeners["account-activate"](OLGA, "mira")[4:6]
    assert (groups, quota["value"]) == ("red", 50)
    visit = listeners["account-visit"]
    account, said, groups, quota = visit(*asked_by("olga", visit, part="/mira"))[:4]
    assert (account["value"], said, groups, quota["value"]) == ("mira", "", "red", 50)
    account, said, groups, quota = visit(*asked_by("olga", visit, part="/nobody%3Cb%3E"))[:4]
    assert (account["value"], groups, quota["value"]) == (None, "", None)
    assert "There is no account nobody&lt;b&gt;." in said


@pytest.mark.parametrize(("name", "role"), [(None, "annotator"), ("", "annotator"), (" ", "annotator"), ("zoe", None)])
def test_what_is_left_empty_makes_no_account(db: Database, listeners: Listeners, name: Any, role: Any) -> None:
    before = access.accounts(db)
    with pytest.raises(gr.Error, match=r"can't be a name|is not a role"):
        listeners["account-add"](OLGA, name, role, None)
    assert access.accounts(db) == before


def test_an_account_can_be_changed_once_one_is_chosen(db: Database, data_dir: Path, listeners: Listeners) -> None:
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Accounts"):
        accounts.build(demo, Context(db, data_dir, BASE_NAME))
    words = {"Reset password", "Make admin", "Make annotator", "Deactivate", "Reactivate", "Save groups and judgements"}
    buttons = [one for one in demo.blocks.values() if isinstance(one, gr.Button) and one.value in words]
    assert [one.interactive for one in buttons] == [False] * len(words)
    none, of_mira = [False] * len(words), [True, True, False, True, False, True]
    visit = listeners["account-visit"]
    for name, there in (("", False), ("/mira", True), ("/nobody", False)):
        sent = visit(*asked_by("olga", visit, part=name))
        assert [one["interactive"] for one in sent[5:11]] == (of_mira if there else none), "what she is, none makes her"
        assert sent[-2].get("open", False) == there, "what can be changed is unfolded"
    for name, there in (("mi", False), ("mira", True)):
        acts = listeners["account-choose"](OLGA, name)[3:9]
        assert [one["interactive"] for one in acts] == (of_mira if there else none)


def test_an_opening_that_is_answered_late_takes_nothing_away(db: Database, data_dir: Path) -> None:
    """Neither a question, nor the link of an invitation, which is shown once, nor what was typed for one."""
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Accounts"):
        accounts.build(demo, Context(db, data_dir, BASE_NAME))
    events = {block.api_name: block for block in demo.fns.values()}
    drawn = [*events["accounts"].outputs, *events["invitations"].outputs]
    make, ask = events["invitation-make"], events["account-deactivate"]
    assert not [one for one in (*make.inputs, make.outputs[0], *ask.outputs) if one in drawn]
    (password,) = [one for one in events["account-add"].outputs if one.elem_id == "new-password"]
    assert password not in [*drawn, *events["account-visit"].outputs]


def test_a_password_that_is_shown_once_stays_until_another_is(db: Database, listeners: Listeners) -> None:
    made = listeners["account-add"](OLGA, "zoe", "annotator", "")[3]
    assert (made.label, made.visible) == ("Password of zoe, shown once", True)
    assert access.check_password(db, "zoe", made.value)
    for name, sent in (
        ("account-add", ("eve", "annotator", "long enough words")),
        ("account-activate", ("mira",)),
        ("account-groups", ("mira", "red", None)),
        ("account-language", ("mira", "de")),
    ):
        assert listeners[name](OLGA, *sent)[3] == gr.skip()
    asked = listeners["account-reset"](OLGA, "mira")[2]
    anew = listeners["account-really"](OLGA, "mira", asked)[3]
    assert (anew.label, anew.visible) == ("Password of mira, shown once", True)


def test_a_password_that_was_shown_goes_once_nobody_can_sign_in_with_it(db: Database, listeners: Listeners) -> None:
    *_page, given, _confirm, _question, _asked = listeners["account-add"](OLGA, "zoe", "annotator", "")
    minds = [handler for name, handler in listeners.items() if str(name).startswith("mind_password")]
    assert len(minds) == len(("add", "really", "activate", "groups", "language"))
    kept = [gr.skip(), gr.skip()]
    for change in (
        lambda: access.deactivate(db, "mira"),
        lambda: access.set_role(db, "zoe", "admin"),
        lambda: access.set_language(db, "zoe", "de"),
    ):
        change()
        assert [mind(OLGA, given) for mind in minds] == [kept] * len(minds)
    assert minds[0](OLGA, None) == kept
    for change in (lambda: access.deactivate(db, "zoe"), lambda: access.set_password(db, "zoe", "other long words")):
        access.activate(db, "zoe")
        change()
        box, left = minds[0](OLGA, given)
        assert (box.visible, box.value, left) == (False, "", None)


def test_withdrawing_an_invitation_leaves_the_link_of_another(listeners: Listeners) -> None:
    make, withdraw = listeners["invitation-make"], listeners["invitation-withdraw"]
    make(OLGA, 1, 7, "", None)
    link = make(OLGA, 1, 7, "", None)[0]
    for subject, left in (("1", gr.skip()), ("2", "")):
        shown, _table = withdraw(*asked_by("olga", withdraw, act="withdraw", subject=subject), link)
        assert shown == left


@pytest.mark.parametrize("act", accounts.QUESTIONS)
def test_what_somebody_may_do_is_changed_after_a_question(db: Database, listeners: Listeners, act: str) -> None:
    def rows() -> list[dict[str, Any]]:
        return db.rows("SELECT name, role, active, password_hash FROM annotator WHERE name = 'mira' OR name = 'olga'")

    before = rows()
    shown, said, asked = listeners[f"account-{act}"](OLGA, "mira")
    assert shown["visible"]
    assert "mira" in said
    with pytest.raises(gr.Error, match="another account is chosen"):
        listeners["account-really"](OLGA, "olga", asked)
    with pytest.raises(gr.Error, match="another account is chosen"):
        listeners["account-really"](OLGA, "mira", listeners["account-not"](OLGA)[-1])
    assert rows() == before
    for name, sent in (("account-add", ("zoe", "annotator", "")), ("account-activate", ("mira",))):
        *_page, hidden, question, left = listeners[name](OLGA, *sent)
        assert (hidden["visible"], question, left) == (False, "", None), (
            "the account that it was about may be another now"
        )
    visit = listeners["account-visit"]
    *_fields, hidden, _question, left, _unfolded, _told = visit(*asked_by("olga", visit, part="/olga"))
    assert (hidden["visible"], left) == (False, None)
    *page, hidden, _said, left = listeners["account-really"](OLGA, "mira", asked)
    assert (hidden["visible"], left) == (False, None)
    assert (rows() == before) == (act == "make-annotator"), "she is one already"
    assert "mira" in page[2]


def test_without_an_account_that_is_there_a_page_speaks_of_its_list(listeners: Listeners) -> None:
    for name in ("account-reset", "account-activate", "account-groups", "account-language"):
        for account, said in ((None, "Choose an account first."), ("eve", "Choose one of the list.")):
            sent = [account, *{"account-groups": ["", None], "account-language": ["de"]}.get(name, [])]
            with pytest.raises(gr.Error, match=said) as refused:
                listeners[name](OLGA, *sent)
            assert "python" not in str(refused.value)
            assert refused.value.title == "Error"


def test_a_refusal_is_titled_in_the_readers_language(db: Database, listeners: Listeners) -> None:
    access.set_language(db, "olga", "de")
    with pytest.raises(gr.Error, match="Wähle zuerst ein Konto") as refused:
        listeners["account-reset"](OLGA, None)
    assert refused.value.title == "Fehler"


def test_an_account_that_somebody_made_meanwhile_is_listed(db: Database, listeners: Listeners) -> None:
    follow = listeners["accounts-follow"]
    access.add_account(db, "zoe", "annotator", "long enough words")
    table, account, _invited, *acts, _pulse = follow(*asked_by("olga", follow), None)
    assert "zoe" in table
    assert account["choices"] == ["mira", "olga", "zoe"]
    assert "value" not in account, "the one that is chosen stays"
    assert not any(act["interactive"] for act in acts)


def test_buttons_follow_what_another_admin_does_to_the_chosen_account(db: Database, listeners: Listeners) -> None:
    follow = listeners["accounts-follow"]

    def acts() -> list[bool]:
        """To reset, make an admin, make an annotator, deactivate, reactivate, save."""
        return [act["interactive"] for act in follow(*asked_by("olga", follow), "mira")[3:9]]

    assert acts() == [True, True, False, True, False, True]
    access.set_role(db, "mira", "admin")
    access.deactivate(db, "mira")
    assert acts() == [True, False, True, False, True, True]
