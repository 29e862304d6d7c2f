"""What people see before the pages: signing in, what is recorded, and while the program starts. Plain HTML."""

from __future__ import annotations

from typing import Final

from annotation.ui import stylesheet
from annotation.ui.markup import escape

PASSWORD_FORM: Final = """<form method="post" action="/login">
<label for="name">Name</label>
<input id="name" name="name" autocomplete="username" required maxlength="40"{focus}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Sign in</button>
</form>"""
OWNERS_HINT: Final = (
    '<p class="hint">Is this your own machine? Open the link that Prefloop printed in the terminal when it started.</p>'
)
HUB_LINK: Final = '<p><a class="button" href="/oauth/login">Sign in with Hugging Face</a></p>'
RECORDED: Final = """<h2>What is recorded</h2>
<ul>
<li>your name and number on Hugging Face; no password, no e-mail address</li>
<li>each of your judgements: what you chose, reasons, flags, notes, edited answers and prompts that you write</li>
<li>with each: when it was, the seconds it took, and in which order the answers were shown</li>
</ul>
<p>A judgement that you undo or change stays in the record, marked as such. Your judgements train language models. The
admins see them under your name; exported or published, they carry a pseudonym instead, unless an admin decides
otherwise. One cookie keeps you signed in for a day. If you sign in with a password, another one tells your browser from
those of people who guess at it, for half a year.</p>
<p>{author} runs this Space and answers questions about it. Don't write anything here that is to stay private.</p>"""

# The request that it makes is answered when the pages are there, and before that only where the line is dead.
STARTING: Final = """<div role="status"><p>Prefloop is starting. Its pages open here by themselves in a few seconds.</p>
<p class="hint">In a tab that is open already you can go on judging.</p></div>
<p><a class="button" href="">Try again</a></p>
<script>
async function goOn() {
  const answer = await fetch(location.href, { method: "HEAD", cache: "no-store" }).catch(() => null);
  if (answer && answer.status !== 503) location.reload();
  else setTimeout(goOn, 1000);
}
goOn();
</script>"""


def login_page(problem: str = "", author: str | None = None, hub: bool = False, passwords: bool = True) -> str:
    """The sign-in page: with a password, or on a Space (whose author is named) with Hugging Face, or both."""
    parts = ["<h1>Prefloop</h1>"]
    if problem:
        parts.append(f'<p role="alert">{escape(problem)}</p>')
    if hub:
        parts.append(HUB_LINK)
    if passwords:
        parts.append(PASSWORD_FORM.format(focus="" if hub else " autofocus"))
    parts.append(OWNERS_HINT if author is None else recorded(author))
    return page("Sign in", *parts)


def recorded(author: str) -> str:
    """The notice to annotators."""
    return f'<section class="notice">{RECORDED.format(author=escape(author))}</section>'


def notice_page(author: str) -> str:
    """The notice by itself, for those who are signed in."""
    return page("What is recorded", "<h1>Prefloop</h1>", recorded(author), '<p><a href="/">Back to the program</a></p>')


def starting_page() -> str:
    """What stands where the pages will be while they are built."""
    return page("Starting", "<h1>Prefloop</h1>", STARTING)


def frame_page(address: str) -> str:
    """What the Space's page on the Hub shows in its frame, where browsers would keep the session's cookie away."""
    return page(
        "Prefloop",
        "<h1>Prefloop</h1>",
        "<p>People compare answers of a language model here, and their judgements train it. It opens in a tab of its "
        "own, because browsers keep sign-ins out of frames.</p>",
        f'<p><a class="button" href="{escape(address)}" target="_blank" rel="noopener">Open Prefloop</a></p>',
    )


def page(title: str, *parts: str) -> str:
    """A small page around these parts."""
    shown = title if title == "Prefloop" else f"{title} · Prefloop"
    styled = PAGE.replace("<!--style-->", stylesheet.FOR_PLAIN_PAGES)
    return styled.replace("<!--title-->", escape(shown)).replace("<!--parts-->", "\n".join(parts))


PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title><!--title--></title>
<link rel="icon" href="data:,">
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
