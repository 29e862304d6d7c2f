"""The Accounts tab: an admin lists, adds, invites and shuts out people, and says in which groups they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from annotation.database import SQLITE_PROBLEM, Database
from annotation.records import ROLES, Annotator, UserError
from annotation.tabs.address import place_bar, told, visits
from annotation.tabs.components import (
    COPYING,
    QUEUED,
    QUIET,
    Question,
    acting_box,
    asking,
    button,
    copy_button,
    html_box,
    open_choice,
    opening_of,
    pressed,
    row_number,
    text_in,
    unasked,
    whole_number,
)
from annotation.tabs.guard import Context, guarded, guarded_event
from annotation.tabs.polling import poll, pulse
from annotation.translation import N_, _, codes, language_of, numeral, of_server
from annotation.ui.formatting import NOTHING, moment
from annotation.ui.markup import Button, Chip, Row, Way, done, escape, status, table
from annotation.ui.tab_addresses import Place, link
from annotation.validation import from_form, whole
from annotation.web import access, invitations
from annotation.web.access import Account
from annotation.web.invitations import Invitation
from annotation.workbench import annotator_groups

FOLLOW_SECONDS = 5
HEADERS = [
    *(N_("Name"), N_("Role"), N_("Groups"), N_("Judged"), N_("State"), N_("Signs in with"), N_("Language")),
    N_("Since"),
]
INVITATION_HEADERS = (
    *(N_("Used"), N_("Until (UTC)"), N_("Group"), N_("Judgements each"), N_("Made by"), N_("State"), N_("Act")),
)
STATES = {"open": N_("open"), "used": N_("used up"), "expired": N_("expired"), "withdrawn": N_("withdrawn")}
# The whole address, which only the browser knows, in place of the path that the server knows.
LINK = (
    """
const fill = () => {
  for (const link of element.querySelectorAll("a[data-path]")) {
    if (link.textContent !== link.href) link.textContent = link.href;
  }
  const here = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
  for (const warning of element.querySelectorAll("[data-loopback]")) warning.hidden = !here;
};
new MutationObserver(fill).observe(element, { childList: true, characterData: true, subtree: true });
fill();
"""
    + COPYING
)


class AccountsPage:
    """The tab's components. `given` is whose password is shown."""

    def __init__(self) -> None:
        self.problem = gr.Markdown(visible=False)
        self.listed = html_box()
        self.outcome = html_box()
        self.secret = gr.Textbox(
            label=_("Password, shown once"), interactive=False, buttons=["copy"], visible=False, elem_id="new-password"
        )
        gr.Markdown(_("## Add someone"))
        with gr.Row():
            self.name = gr.Textbox(
                label=_("Name"),
                placeholder=_("a to z, 0 to 9, . - _"),
                max_length=access.LONGEST_NAME,
            )
            self.role = gr.Radio([(_(role), role) for role in ROLES], value="annotator", label=_("Role"))
            self.password = gr.Textbox(
                label=_("Password"),
                type="password",
                placeholder=_("Leave empty to have one made"),
                max_length=access.MAXIMUM_PASSWORD,
            )
        self.add = button(_("Add account"), "account-add", "primary")
        with gr.Accordion(_("Invite someone"), open=False):
            self.invited = InvitationForm()
            self.made = acting_box(elem_id="invitations")
        with gr.Accordion(_("Change an account"), open=False) as self.changing:
            self.account = open_choice(_("Account"))
            with gr.Row():
                self.reset = button(_("Reset password"), interactive=False)
                self.make_admin = button(_("Make admin"), interactive=False)
                self.make_annotator = button(_("Make annotator"), interactive=False)
                self.shut_out = button(_("Deactivate"), variant="stop", interactive=False)
                self.let_in = button(_("Reactivate"), interactive=False)
            self.question = Question(_("Yes"), "account")
            self.given = gr.State(None)
            self.language = gr.Dropdown([], label=_("Language"))
            with gr.Row():
                self.groups = gr.Textbox(label=_("Groups"), info=_("Separated by commas."))
                self.quota = whole_number(_("Judgements in all"), placeholder=_("no end"))
            self.save = button(_("Save groups and judgements"), interactive=False)

    @property
    def fields(self) -> list[Any]:
        return [self.groups, self.quota, self.language, *self.acts]

    @property
    def acts(self) -> list[gr.Button]:
        return [self.reset, self.make_admin, self.make_annotator, self.shut_out, self.let_in, self.save]


def build(demo: gr.Blocks, context: Context) -> None:
    page, opening = AccountsPage(), opening_of(demo)
    wire_invitations(page.invited, page.made, context, opening)
    wire(page, context, opening)


def wire(page: AccountsPage, context: Context, opening: Any) -> None:
    db, account, bar, admin = context.db, page.account, place_bar(), guarded(context, "admin")
    question = page.question
    looked_at = [account, page.outcome, *page.fields, *question.parts, page.changing]
    visits(bar, context, partial(visit_account, db), [], looked_at, api_name="account-visit")
    chosen = [*page.fields, bar, *question.parts]
    account.input(admin(partial(choose_account, db)), account, chosen, api_name="account-choose", **QUIET)
    shown = [page.listed, account, page.outcome, page.secret, *page.fields, bar, page.given, *question.parts]
    for listen, handler, given, name in (
        (page.language.input, change_language, [account, page.language], "account-language"),
        (page.save.click, save_groups, [account, page.groups, page.quota], "account-groups"),
        (page.add.click, add_account, [page.name, page.role, page.password], "account-add"),
        (question.yes.click, do_it, [account, question.about], "account-really"),
        (page.let_in.click, activate, account, "account-activate"),
    ):
        answered = listen(admin(partial(handler, db)), given, shown, api_name=name, **QUEUED)
        # Not at once: it could take away the password that the act brings.
        answered.then(admin(partial(mind_password, db)), page.given, [page.secret, page.given], **QUIET)
    # Not when the page is loaded: everybody's page would ask, and Gradio keeps a queue for each that did.
    listed = [page.listed, account, page.problem]
    opening(admin(partial(open_accounts, db)), outputs=listed, api_name="accounts", **QUIET)
    for act, asks in (
        *(("reset", page.reset), ("make-admin", page.make_admin), ("make-annotator", page.make_annotator)),
        ("deactivate", page.shut_out),
    ):
        asks.click(admin(partial(ask_whether, db, act)), account, question.parts, api_name=f"account-{act}", **QUEUED)
    question.no.click(admin(unasked), None, question.parts, api_name="account-not", **QUEUED)
    follow, followed = partial(follow_accounts, db), [page.listed, account, page.made, *page.acts]
    poll(pulse(FOLLOW_SECONDS), context, follow, [account], followed, api_name="accounts-follow")


def page_of(
    db: Database, outcome: str = "", account: str | None = None, secret: tuple[str, str] | None = None
) -> tuple[Any, ...]:
    """The table, the choice of accounts, what was done, and a new password, alone so that it can be copied.

    Then `fields_of` the account that is chosen now, its address, and whose password it is; last that nothing is asked
    any more. `secret`: the name and the new password, which nobody can be told again.
    """
    shown, names = accounts_table(db)
    box, given = gr.skip(), gr.skip()  # one that is there may not be written down yet
    if secret is not None:
        name, password = secret
        box = gr.Textbox(value=password, label=_("Password of {name}, shown once").format(name=name), visible=True)
        given = (name, access.password_hash(db, name))
    chosen = gr.Dropdown(names, value=account)
    fields = fields_of(db, entry_of(db, account))
    return (shown, chosen, done(outcome), box, *fields, told(place_of(account)), given, *unasked())


def mind_password(db: Database, given: tuple[str, str] | None) -> list[Any]:
    """The handler that follows each act: a password that was shown goes once nobody can sign in with it any more."""
    if given is None or access.password_hash(db, given[0]) == given[1]:
        return [gr.skip(), gr.skip()]
    return [gr.Textbox(value="", visible=False), None]


def accounts_table(db: Database) -> tuple[str, list[str]]:
    everyone, groups = access.accounts(db), annotator_groups.groups_of_each(db)
    rows = [
        (
            Way(link("accounts", place_of(entry.name)), entry.name),
            _(entry.role),
            ", ".join(groups.get(entry.id, ())) or NOTHING,
            numeral(entry.judged) if entry.quota is None else f"{numeral(entry.judged)} / {numeral(entry.quota)}",
            Chip(_("active"), "good") if entry.active else Chip(_("deactivated")),
            signs_in_with(entry),
            language_of(entry.language).name,
            entry.created[:10],
        )
        for entry in everyone
    ]
    headers = [*map(_, HEADERS)]
    shown = table(headers, rows, numbers=(headers[3],), caption=_("Accounts"))
    return shown, [entry.name for entry in everyone]


def entry_of(db: Database, account: str | None) -> Account | None:
    return next((entry for entry in access.accounts(db) if entry.name == account), None)


def place_of(account: str | None) -> Place:
    return Place((account,)) if account else Place()


def fields_of(db: Database, entry: Account | None) -> tuple[Any, ...]:
    """The groups, the quota and the language of the chosen account, and which of its buttons would change it.

    Nothing where none is chosen.
    """
    if entry is None:  # Gradio draws a number without a value as 0
        return "", gr.update(value=None), gr.Dropdown([], value=None), *acts_on(None)
    names = ", ".join(annotator_groups.groups_of_each(db).get(entry.id, ()))
    return names, gr.update(value=entry.quota), gr.Dropdown(languages(), value=entry.language or ""), *acts_on(entry)


def acts_on(entry: Account | None) -> list[Any]:
    """Which of the buttons would change the chosen account, if one is chosen."""
    if entry is None:
        return [gr.update(interactive=False)] * 6
    changes = (True, entry.role != "admin", entry.role != "annotator", entry.active, not entry.active, True)
    return [gr.update(interactive=one) for one in changes]


def signs_in_with(entry: Account) -> str:
    ways = [word for word, there in (("Hugging Face", entry.on_hub), (_("password"), entry.has_password)) if there]
    return ", ".join(ways) or _("link in the terminal")


def open_accounts(db: Database) -> Any:
    """List the accounts, and say so where what holds them may lose something."""
    problem = gr.Markdown(f"**{SQLITE_PROBLEM}**", visible=bool(SQLITE_PROBLEM))
    shown, names = accounts_table(db)
    return shown, gr.update(choices=names), problem


def follow_accounts(db: Database, account: Any) -> list[Any]:
    """The handler of polls: somebody may have taken an invitation, or another admin changed an account."""
    shown, names = accounts_table(db)
    invited = invitations_table(invitations.invitations(db))
    return [shown, gr.update(choices=names), invited, *acts_on(entry_of(db, text_in(account)))]


def visit_account(db: Database, place: Place) -> Any:
    """Choose that account, and unfold what can be changed; with none of that name, say so."""
    entry = entry_of(db, place.first)
    unknown = _("There is no account {name}.").format(name=place.first) if place.first and entry is None else ""
    chosen = gr.update(value=None if entry is None else entry.name)
    unfolded = gr.skip() if entry is None else gr.update(open=True)
    return [chosen, status(unknown, "warning"), *fields_of(db, entry), *unasked(), unfolded]


def add_account(db: Database, name: Any, role: Any, password: Any) -> Any:
    called, typed = text_in(name).strip(), text_in(password)
    chosen = typed or access.generate_password()
    access.add_account(db, called, text_in(role), chosen)
    secret = None if typed else (called, chosen)
    return page_of(db, _("Added {name}.").format(name=called), secret=secret)


QUESTIONS = {
    "reset": N_("Give {account} a new password? {account} is signed out, the old password and open invitations end."),
    "make-admin": N_("Make {account} an admin, who may do everything here? {account} has to sign in again."),
    "make-annotator": N_(
        "Make {account} an annotator, who can only judge? {account} has to sign in again; open invitations end."
    ),
    "deactivate": N_("Deactivate {account}, who can't sign in then? Judgements stay, open invitations end."),
}


def chosen(db: Database, account: Any) -> str:
    """The name of the account that is chosen. Raises UserError where there is none."""
    name = text_in(account)
    if not name:
        raise UserError(_("Choose an account first."))
    if not any(entry.name == name for entry in access.accounts(db)):
        raise UserError(_("There is no account '{name}'. Choose one of the list.").format(name=name))
    return name


def ask_whether(db: Database, act: str, account: str | None) -> list[Any]:
    """The handler of a button that changes what somebody may do: it asks before."""
    name = chosen(db, account)
    return asking(_(QUESTIONS[act]).format(account=name), {"act": act, "account": name})


def do_it(db: Database, account: str | None, asked: Any) -> Any:
    """Do what the question asked, if it is still about the account that is chosen."""
    acts = {
        "reset": partial(reset_password, db),
        "make-admin": partial(change_role, db, "admin"),
        "make-annotator": partial(change_role, db, "annotator"),
        "deactivate": partial(deactivate, db),
    }
    named = asked if isinstance(asked, dict) else {}
    if named.get("act") not in acts or named.get("account") != chosen(db, account):
        raise UserError(_("Press the button again: another account is chosen now."))
    return acts[named["act"]](account)


def reset_password(db: Database, account: str | None) -> Any:
    password = access.generate_password()
    access.set_password(db, account or "", password)
    said = _("{account} was signed out and has a new password.").format(account=account)
    return page_of(db, said, account, (account or "", password))


CHANGED_ROLES = {
    "admin": N_("{account} is an admin now and has to sign in again."),
    "annotator": N_("{account} is an annotator now and has to sign in again."),
}


def change_role(db: Database, role: str, account: str | None) -> Any:
    access.set_role(db, account or "", role)
    said = _(CHANGED_ROLES[role]).format(account=account)
    on_hub = any(entry.name == account and entry.on_hub for entry in access.accounts(db))
    rules = _("With Hugging Face the Space's rules decide the role anew, at each sign-in.")
    return page_of(db, f"{said} {rules}" if on_hub else said, account)


def deactivate(db: Database, account: str | None) -> Any:
    access.deactivate(db, account or "")
    return page_of(db, _("{account} can't sign in any more. Judgements stay.").format(account=account), account)


def activate(db: Database, account: str | None) -> Any:
    access.activate(db, chosen(db, account))
    return page_of(db, _("{account} can sign in again.").format(account=account), account)


def choose_account(db: Database, account: str | None) -> Any:
    """What the chosen one's fields show; nothing while no whole name is typed."""
    entry = entry_of(db, account)
    return [*fields_of(db, entry), gr.skip() if entry is None else told(place_of(account)), *unasked()]


def languages() -> list[tuple[str, str]]:
    """The choice of a language, each in its own words."""
    own = _("Their browser's at the next sign-in ({language} until then)").format(language=of_server().name)
    named = [(language_of(code), code) for code in codes()]
    # One that can't be read is answered in the server's, whose name would stand there twice.
    return [(own, ""), *((language.name if language.code == code else code, code) for language, code in named)]


def change_language(db: Database, account: str | None, code: str | None) -> Any:
    access.set_language(db, chosen(db, account), text_in(code) or None)
    said = _("{account} sees the page in {language}.").format(
        account=account, language=language_of(text_in(code) or None).name
    )
    return page_of(db, said, account)


def save_groups(db: Database, account: str | None, groups: Any, quota: Any) -> Any:
    whose = access.existing(db, chosen(db, account))
    names = annotator_groups.group_names(text_in(groups))
    number = None if quota in (None, "", 0) else whole(quota, _("Judgements in all"), 1, invitations.MOST_JUDGEMENTS)
    with db.transaction():
        annotator_groups.set_groups(db, whose.id, names)
        annotator_groups.set_quota(db, whose.id, number)
    return page_of(db, _("Saved for {name}.").format(name=whose.name), whose.name)


# --------------------------------------------------------------------------------------------------------- invitations
class InvitationForm:
    def __init__(self) -> None:
        with gr.Row():
            self.uses = whole_number(_("Accounts"), 1, min_width=100)
            self.days = whole_number(_("Days"), 7, min_width=100)
            self.group = gr.Textbox(label=_("Group"), placeholder=_("none"), max_length=40, min_width=100)
            self.quota = whole_number(_("Judgements each"), placeholder=_("no end"), min_width=100)
        self.make = button(_("Make a link"), "invitation-add", "primary")
        self.link = html_box(js_on_load=LINK, elem_id="invitation-link")


def wire_invitations(form: InvitationForm, listed: gr.HTML, context: Context, opening: Any) -> None:
    db = context.db

    @guarded(context, "admin")
    def make_invitation(annotator: Annotator, uses: Any, days: Any, group: Any, quota: Any) -> list[Any]:
        asked = {"uses": uses, "days": days, "group": text_in(group), "quota": 0 if quota in (None, "") else quota}
        path = invitations.invite(db, from_form(asked), annotator.name)
        return [link_card(path), invitations_table(invitations.invitations(db))]

    @guarded_event(context, "admin")
    def withdraw_invitation(event: Any, link: Any) -> list[Any]:
        _act, subject = pressed(event, {"withdraw": "withdraw"})
        invitations.withdraw(db, row_number(subject) or 0)
        token = re.search(r"token=([\w-]+)", text_in(link))
        other = token is not None and invitations.is_open(db, token[1])
        return [gr.skip() if other else "", invitations_table(invitations.invitations(db))]

    shown = [form.link, listed]
    open_invitations = guarded(context, "admin")(lambda: invitations_table(invitations.invitations(db)))
    opening(open_invitations, None, listed, api_name="invitations", **QUIET)
    asked = [form.uses, form.days, form.group, form.quota]
    form.make.click(make_invitation, asked, shown, api_name="invitation-make", **QUEUED)
    listed.act(withdraw_invitation, form.link, shown, api_name="invitation-withdraw", **QUEUED)


def link_card(path: str) -> str:
    said = _("Send this link. Whoever opens it makes an account of their own. It is shown once.")
    link = f'<a data-path href="{escape(path)}" target="_blank" rel="noopener">{escape(path)}</a>'
    only_here = _(
        "It opens on this machine only. For others start Prefloop with --host, and make the link at the address that "
        "they reach."
    )
    return f"{done(said)}<p>{link} {copy_button()}</p><p data-loopback hidden>{escape(only_here)}</p>"


def invitations_table(found: Sequence[Invitation]) -> str:
    """The invitations, those that are open with a way to withdraw them; nothing where there are none."""
    rows: list[Row] = [
        (
            f"{numeral(one.used)} / {numeral(one.uses)}",
            moment(one.expires),
            one.group_name or NOTHING,
            NOTHING if one.quota is None else numeral(one.quota),
            one.invited_by,
            Chip(_(STATES[one.state]), "open" if one.state == "open" else ""),
            Button(_("Withdraw"), "withdraw", str(one.id)) if one.state == "open" else "",
        )
        for one in found
    ]
    return table([*map(_, INVITATION_HEADERS)], rows, caption=_("Invitations")) if rows else ""
