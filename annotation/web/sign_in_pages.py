"""What people see before the pages: signing in, what is recorded, and while the program starts. Plain HTML."""

from __future__ import annotations

from typing import Final

from annotation.translation import N_, _, spoken
from annotation.ui import stylesheet
from annotation.ui.markup import escape
from annotation.web.destinations import BEGINNING, with_destination

PASSWORD_FORM: Final = """<form method="post" action="{action}">
<label for="name">{name}</label>
<input id="name" name="name" autocomplete="username" required maxlength="40" value="{given}"{on_name}>
<label for="password">{password}</label>
<input id="password" name="password" type="password" autocomplete="current-password" required{on_password}>
<button>{button}</button>
</form>"""
TITLE: Final = N_("What is recorded")
RECORDED: Final = (
    N_("your name; your number on Hugging Face or a hash of your password; your language; no e-mail address"),
    N_("your groups, how many judgements you are asked for, and comparisons that you saw and did not judge"),
    N_("each of your judgements: what you chose, reasons, flags, notes, edited answers and prompts that you write"),
    N_("with each: when it was, the seconds it took, and in which order the answers were shown"),
)
WHAT_FOR: Final = N_(
    "A judgement that you undo or change stays in the record, marked as such. Your judgements train language models. "
    "The admins see them under your name; exported or published, they carry a pseudonym instead, unless an admin "
    "decides otherwise; the raw archive always has your name. One cookie keeps you signed in for a day. If you sign in "
    "with a password, another one tells your browser from those of people who guess at it, for half a year."
)

# The request that it makes is answered when the pages are there, and before that only where the line is dead.
GO_ON: Final = """<script>
async function goOn() {
  const answer = await fetch(location.href, { method: "HEAD", cache: "no-store" }).catch(() => null);
  if (answer && answer.status !== 503) location.reload();
  else setTimeout(goOn, 1000);
}
goOn();
</script>"""

# What was being written goes with whoever signs out: others may use this browser next. The keys are annotate.js's.
FORGET: Final = """<script data-name="{name}">
try {{
  const drafts = `prefloop.${{encodeURIComponent(document.currentScript.dataset.name)}}/draft.`;
  Object.keys(localStorage).filter((key) => key.startsWith(drafts)).forEach((key) => localStorage.removeItem(key));
}} catch {{ /* no storage */ }}
location.replace("/login");
</script>"""


def login_page(
    problem: str = "",
    author: str | None = None,
    hub: bool = False,
    passwords: bool = True,
    wanted: str = BEGINNING,
    given: str = "",
    owners_link: bool = False,
) -> str:
    """The sign-in page: with a password, or on a Space (whose author is named) with Hugging Face, or both; it leads to
    the `wanted` address. Whoever tried before gave a name. In the terminal may stand a link for the owner.
    """
    parts = ["<h1>Prefloop</h1>", *([alert(problem)] if problem else [])]
    if hub:
        parts.append(button(with_destination("/oauth/login", wanted), _("Sign in with Hugging Face")))
    if passwords:
        parts.append(password_form(focused=not hub, wanted=wanted, given=given))
    parts.append(hint(owners_link) if author is None else recorded(author))
    return page(_("Sign in"), *parts)


def password_form(focused: bool, wanted: str, given: str) -> str:
    return PASSWORD_FORM.format(
        action=escape(with_destination("/login", wanted)),
        name=escape(_("Name")),
        password=escape(_("Password")),
        button=escape(_("Sign in")),
        given=escape(given),
        on_name=" autofocus" if focused and not given else "",
        on_password=" autofocus" if given else "",
    )


JOIN_FORM: Final = """<form method="post" action="/join">
<input type="hidden" name="token" value="{token}">
<label for="name">{name}</label>
<input id="name" name="name" autocomplete="username" required maxlength="40" value="{given}">
<label for="password">{password}</label>
<input id="password" name="password" type="password" autocomplete="new-password" required minlength="10">
<p class="hint">{hint}</p>
<button>{button}</button>
</form>"""


def join_page(token: str, problem: str, given: str, author: str | None) -> str:
    """Where somebody who was invited makes an account; without a token the problem alone."""
    parts = ["<h1>Prefloop</h1>", *([alert(problem)] if problem else [])]
    if token:
        said = _("You are invited to compare answers of a language model. Choose a name and a password of your own.")
        hint = _(
            "The name need not be your real one; the letters a to z, digits, dots, dashes and underscores can be in "
            "it. Ten characters or more in the password."
        )
        form = JOIN_FORM.format(
            token=escape(token),
            name=escape(_("Name")),
            given=escape(given),
            password=escape(_("Password")),
            hint=escape(hint),
            button=escape(_("Make my account")),
        )
        parts += [f"<p>{escape(said)}</p>", form]
        parts += [] if author is None else [recorded(author)]
    return page(_("Invitation"), *parts)


def hint(owners_link: bool) -> str:
    """What somebody does who started the program themself, or has no password that they know."""
    said = (
        _("Is this your own machine? Open the link that Prefloop printed in the terminal when it started.")
        if owners_link
        else _(
            "No password, or forgotten? An admin can give you one on Accounts. Whoever runs Prefloop can give an admin "
            "one: python -m annotation accounts password NAME"
        )
    )
    return f'<p class="hint">{escape(said)}</p>'


def alert(problem: str) -> str:
    return f'<p role="alert">{escape(problem)}</p>'


def button(address: str, label: str, attributes: str = "") -> str:
    return f'<p><a class="button" href="{escape(address)}"{attributes}>{escape(label)}</a></p>'


def recorded(author: str) -> str:
    items = "\n".join(f"<li>{escape(_(item))}</li>" for item in RECORDED)
    runs = _(
        "{author} runs this Space and answers questions about it. Don't write anything here that is to stay private."
    ).format(author=author)
    return (
        f'<section class="notice"><h2>{escape(_(TITLE))}</h2>\n<ul>\n{items}\n</ul>\n'
        f"<p>{escape(_(WHAT_FOR))}</p>\n<p>{escape(runs)}</p></section>"
    )


def dead_end(said: str) -> str:
    return page("Prefloop", "<h1>Prefloop</h1>", alert(said), way_back())


def signed_out_page(name: str) -> str:
    """What makes the browser of who has signed out forget their drafts, and leads to the sign-in."""
    return page(_("Sign out"), button("/login", _("Sign in")), FORGET.format(name=escape(name)))


def notice_page(author: str) -> str:
    return page(_(TITLE), "<h1>Prefloop</h1>", recorded(author), way_back())


def way_back() -> str:
    back = _("Back to the program")
    return f'<p><a href="/">{escape(back)}</a></p>'


def starting_page() -> str:
    """What stands where the pages will be while they are built."""
    starts = _("Prefloop gets its pages ready. They open here by themselves in a few seconds.")
    hint = _("In a tab that is open already you can go on judging.")
    said = f'<div role="status"><p>{escape(starts)}</p>\n<p class="hint">{escape(hint)}</p></div>'
    return page(_("Starting"), "<h1>Prefloop</h1>", said, button("", _("Try again")), GO_ON)


def frame_page(address: str) -> str:
    """What the Space's page on the Hub shows in its frame, where browsers would keep the session's cookie away."""
    why = _(
        "People compare answers of a language model here, and their judgements train it. It opens in a tab of its own, "
        "because browsers keep sign-ins out of frames."
    )
    opened = button(address, _("Open Prefloop"), ' target="_blank" rel="noopener"')
    return page("Prefloop", "<h1>Prefloop</h1>", f"<p>{escape(why)}</p>", opened)


def page(title: str, *parts: str) -> str:
    shown = title if title == "Prefloop" else f"{title} · Prefloop"
    head = PAGE.replace("<!--language-->", spoken().attributes)
    styled = head.replace("<!--style-->", stylesheet.FOR_PLAIN_PAGES).replace("<!--icon-->", stylesheet.ICON)
    return styled.replace("<!--title-->", escape(shown)).replace("<!--parts-->", "\n".join(parts))


PAGE: Final = """<!doctype html>
<html <!--language-->>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title><!--title--></title>
<link rel="icon" href="<!--icon-->">
<style>
<!--style--></style>
</head>
<body>
<main>
<!--parts-->
</main>
</body>
</html>
"""
