"""The Accounts tab: an admin lists, adds and shuts out people, resets passwords and changes roles."""

from __future__ import annotations

from typing import Any

import gradio as gr

from annotation.database import SQLITE_PROBLEM, Database
from annotation.records import ROLES, Annotator
from annotation.tabs.components import QUEUED, QUIET, html_box, opening_of
from annotation.tabs.guard import Context, guarded
from annotation.translation import _
from annotation.ui.markup import Chip, done, table
from annotation.web import access
from annotation.web.access import Account

HEADERS = [_("Name"), _("Role"), _("State"), _("Signs in with"), _("Since")]


def build(demo: gr.Blocks, context: Context) -> None:
    """Lay out the tab inside the caller's `with gr.Tab(...)`."""
    db = context.db
    problem = gr.Markdown(visible=False)
    listed = html_box()
    outcome = html_box()
    secret = gr.Textbox(
        label=_("Password, shown once"), interactive=False, buttons=["copy"], visible=False, elem_id="new-password"
    )
    with gr.Row():
        with gr.Column(min_width=320):
            gr.Markdown(_("## Add someone"))
            name = gr.Textbox(label=_("Name"), max_length=40)
            role = gr.Radio(list(ROLES), value="annotator", label=_("Role"))
            password = gr.Textbox(
                label=_("Password"),
                type="password",
                placeholder=_("Leave empty to have one made"),
                max_length=access.MAXIMUM_PASSWORD,
            )
            add = gr.Button(_("Add account"), variant="primary")
        with gr.Column(min_width=320):
            gr.Markdown(_("## Change an account"))
            account = gr.Dropdown([], label=_("Account"), allow_custom_value=True)
            with gr.Row():
                reset = gr.Button(_("Reset password"), size="md", min_width=130)
                make_admin = gr.Button(_("Make admin"), size="md", min_width=130)
                make_annotator = gr.Button(_("Make annotator"), size="md", min_width=130)
                shut_out = gr.Button(_("Deactivate"), variant="stop", size="md", min_width=130)
                let_in = gr.Button(_("Reactivate"), size="md", min_width=130)
    page, admin = [listed, account, outcome, secret], guarded(context, "admin")
    common: dict[str, Any] = {"outputs": page, **QUEUED}
    # Not when the page is loaded: everybody's page would ask, and Gradio keeps a queue for each that did.
    opening_of(demo)(admin(opening(db)), outputs=[*page, problem], api_name="accounts", **QUIET)
    add.click(admin(adding(db)), [name, role, password], api_name="account-add", **common)
    reset.click(admin(resetting(db)), account, api_name="account-reset", **common)
    make_admin.click(admin(changing_role(db, "admin")), account, api_name="account-make-admin", **common)
    make_annotator.click(admin(changing_role(db, "annotator")), account, api_name="account-make-annotator", **common)
    shut_out.click(admin(deactivating(db)), account, api_name="account-deactivate", **common)
    let_in.click(admin(activating(db)), account, api_name="account-activate", **common)


def page_of(db: Database, outcome: str = "", account: str | None = None, password: str = "") -> tuple[Any, ...]:
    """The table, the choice of accounts, what was done, and a new password, alone so that it can be copied."""
    everyone = access.accounts(db)
    rows = [
        (
            *(entry.name, entry.role, state_of(entry)),
            *(signs_in_with(entry), entry.created[:10]),
        )
        for entry in everyone
    ]
    shown = table(HEADERS, rows, caption=_("Accounts"))
    chosen = gr.Dropdown([entry.name for entry in everyone], value=account)
    return shown, chosen, done(outcome), gr.Textbox(value=password, visible=bool(password))


def state_of(entry: Account) -> Chip:
    """Whether an account can sign in."""
    return Chip(_("active"), "good") if entry.active else Chip(_("deactivated"))


def signs_in_with(entry: Account) -> str:
    """How the owner of an account proves to be that."""
    ways = [word for word, there in (("Hugging Face", entry.on_hub), (_("password"), entry.has_password)) if there]
    return ", ".join(ways) or _("link in the terminal")


def opening(db: Database) -> Any:
    """The handler of the opened tab."""

    def open_page(annotator: Annotator) -> Any:
        """List the accounts, and say so where what holds them may lose something."""
        return (*page_of(db), gr.Markdown(f"**{SQLITE_PROBLEM}**", visible=bool(SQLITE_PROBLEM)))

    return open_page


def adding(db: Database) -> Any:
    """The handler of "Add account"."""

    def add(annotator: Annotator, name: str, role: str, password: str) -> Any:
        chosen = password or access.generate_password()
        access.add_account(db, name.strip(), role, chosen)
        said = _("Added {name}.").format(name=name.strip())
        return page_of(db, said, name.strip(), "" if password else chosen)

    return add


def resetting(db: Database) -> Any:
    """The handler of "Reset password"."""

    def reset(annotator: Annotator, account: str | None) -> Any:
        """Give an account a new password and sign it out everywhere."""
        password = access.generate_password()
        access.set_password(db, account or "", password)
        said = _("{account} was signed out and has a new password.").format(account=account)
        return page_of(db, said, account, password)

    return reset


def changing_role(db: Database, role: str) -> Any:
    """The handler of "Make admin" and "Make annotator"."""

    def change_role(annotator: Annotator, account: str | None) -> Any:
        access.set_role(db, account or "", role)
        said = _("{account} is {role} now and has to sign in again.").format(account=account, role=role)
        on_hub = any(entry.name == account and entry.on_hub for entry in access.accounts(db))
        rules = _("With Hugging Face the Space's rules decide the role anew, at each sign-in.")
        return page_of(db, f"{said} {rules}" if on_hub else said, account)

    return change_role


def deactivating(db: Database) -> Any:
    """The handler of "Deactivate"."""

    def shut_out(annotator: Annotator, account: str | None) -> Any:
        access.deactivate(db, account or "")
        return page_of(db, _("{account} can't sign in any more. Judgements stay.").format(account=account), account)

    return shut_out


def activating(db: Database) -> Any:
    """The handler of "Reactivate"."""

    def let_in(annotator: Annotator, account: str | None) -> Any:
        access.activate(db, account or "")
        return page_of(db, _("{account} can sign in again.").format(account=account), account)

    return let_in
