"""What strangers wrote, made safe to look at: Markdown, code and LaTeX as HTML that can't run, load, hide or submit.

`to_html` is the one function whose output a page may set as HTML. It shows every letter of the text: where Markdown
would drop something (a link's title, the words after a fence's language, surplus table cells), the text is shown as it
is instead. Pages call it through `annotation.ui.markdown_process`, which bounds its time.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import nh3
from latex2mathml import converter as latex
from latex2mathml import exceptions as latex_errors
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

from annotation.ui.invisible import visible

MAXIMUM_TEXT = 30_000
MAXIMUM_CODE = 4_000
"""The code of a text that is highlighted: with some languages the time grows with the square of the length."""
MAXIMUM_FORMULA = 2_000
MAXIMUM_FORMULAS = 300
MAXIMUM_LINES = 100
MAXIMUM_SCRIPTS = 3
"""Superscripts of superscripts: each level is smaller, and text too small to see is hidden."""


# ------------------------------------------------------------------------------------------------------------ the whole
def to_html(text: str, coloured: bool = True) -> str:
    """A stranger's text as safe HTML: Markdown with code (`coloured` or plain) and LaTeX, or letter for letter where
    that would hide some."""
    shown = visible(text)
    if len(shown) > MAXIMUM_TEXT:
        return literal(shown)
    leaves: list[str] = []
    page = MARKDOWN.render(shown, {"leaves": leaves, "coloured": coloured})
    if not shows_all(shown, leaves):
        return literal(shown)
    return CLEANER.clean(page)


def literal(shown: str) -> str:
    return f'<pre class="literal">{html.escape(shown, quote=False)}</pre>'


def shows_all(source: str, leaves: Iterable[str]) -> bool:
    """Whether every letter and digit of the source is, in its order, in what is shown.

    Entities count as what they stand for.
    """
    there = letters(html.unescape("".join(leaves)))
    return all(letter in there for letter in letters(html.unescape(source)))


def letters(text: str) -> Iterator[str]:
    return (character for character in text if character.isalnum())


# ------------------------------------------------------------------------------------------------------------- Markdown
class MarkdownRenderer(RendererHTML):
    """Tokens to HTML; every text that is shown is also noted in `env["leaves"]`, in order."""

    def leaf(self, env: MutableMapping[str, Any], text: str) -> str:
        """A text as HTML, noted as shown."""
        shown = visible(text)
        env["leaves"].append(shown)
        return html.escape(shown, quote=False)

    def text(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return self.leaf(env, tokens[idx].content)

    text_special = text

    def code_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<code>{self.leaf(env, tokens[idx].content)}</code>"

    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<pre><code>{self.leaf(env, tokens[idx].content)}</code></pre>\n"

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Fenced code with the words after the fence above it."""
        token = tokens[idx]
        info = token.info.strip()
        caption = f'<div class="language">{self.leaf(env, info)}</div>' if info else ""
        code = self.leaf(env, token.content)
        env["code"] = env.get("code", 0) + len(code)
        short = env["coloured"] and env["code"] <= MAXIMUM_CODE
        coloured = highlight(visible(token.content), info) if short else None
        return f"{caption}<pre><code>{coloured or code}</code></pre>\n"

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Headings lie below those of the page."""
        return f"<{lowered(tokens[idx].tag)}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"</{lowered(tokens[idx].tag)}>\n"

    def list_item_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """An item with the number that was written, which Markdown would only count up from the first."""
        number = tokens[idx].info
        if not number:
            return "<li>"
        env["leaves"].append(f"{number} ")
        return f'<li value="{int(number)}">'

    def ordered_list_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "<ol>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return cell(tokens[idx])

    td_open = th_open

    def softbreak(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A line's end stays one: verses and addresses are written that way."""
        return "<br>\n"

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A link's text is no link: following what a stranger wrote is a choice to be made outside of here."""
        return '<span class="link">'

    def link_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """The address of a link, after its text, unless the text is the address."""
        opening = opening_of(tokens, idx)
        if opening.info == "auto":
            return "</span>"
        return f"{self.address(env, opening, 'href')}</span>"

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """An image is not loaded; its text and address are shown."""
        token = tokens[idx]
        described = self.leaf(env, token.content)
        return f'<span class="image">![{described}]{self.address(env, token, "src")}</span>'

    def address(self, env: MutableMapping[str, Any], token: Token, attribute: str) -> str:
        """Where a link or image points to, with its title."""
        title = token.attrGet("title")
        pointed = self.leaf(env, str(token.attrGet(attribute) or ""))
        quoted = f' "{self.leaf(env, str(title))}"' if title else ""
        return f' <span class="address">({pointed}{quoted})</span>'

    def math_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return self.formula(env, tokens[idx])

    def math_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<div class="formula">{self.formula(env, tokens[idx])}</div>\n'

    def formula(self, env: MutableMapping[str, Any], token: Token) -> str:
        """A formula as MathML, or as it was written if it can't be shown whole."""
        env["formulas"] = env.get("formulas", 0) + 1
        written = self.leaf(env, token.markup)
        shown = to_mathml(token.content, token.block) if env["formulas"] <= MAXIMUM_FORMULAS else None
        return shown or f'<code class="formula">{written}</code>'


def lowered(tag: str) -> str:
    """The tag of a heading two levels down, below the answers' own headings."""
    return f"h{min(6, int(tag[1]) + 2)}"


def cell(token: Token) -> str:
    """The opening tag of a table's cell; its alignment as a class."""
    aligned = re.search("left|right|center", str(token.attrGet("style") or ""))
    return f'<{token.tag} class="{aligned[0]}">' if aligned else f"<{token.tag}>"


def opening_of(tokens: Sequence[Token], closing: int) -> Token:
    """The token that opens what the one at `closing` closes."""
    return next(
        token
        for token in reversed(tokens[:closing])
        if token.type == "link_open" and token.level == tokens[closing].level
    )


# ------------------------------------------------------------------------------------------------- formulas in Markdown
# Not mdit-py-plugins: its rules for \( and \begin take time with the square of the length (texmath needs 5 s for
# 30,000 characters of "\(", amsmath 2 s for as many of "\begin{align}"), dollarmath makes a formula of "From $the shop
# to A$", and amsmath knows no cases, split or aligned.
ENVIRONMENT = re.compile(r"\\begin\{((?:equation|align|aligned|alignat|gather|gathered|multline|split|cases)\*?)\}")
DISPLAY_PAIRS = {"$$": "$$", r"\[": r"\]"}
INLINE_PAIRS = {**DISPLAY_PAIRS, r"\(": r"\)", "$": "$"}
# "It costs $5 and A$ 6": words between the signs, and nothing that only a formula has.
PROSE = re.compile(r"\s[A-Za-z]{2,}")
FORMULA_ONLY = re.compile(r"[\\^_={}]")


def math_inline(state: StateInline, silent: bool) -> bool:
    r"""Rule for $…$, $$…$$, \(…\) and \[…\] within a paragraph."""
    opener = next((mark for mark in INLINE_PAIRS if state.src.startswith(mark, state.pos)), None)
    if opener is None:
        return False
    start = state.pos + len(opener)
    end = closing_mark(state.src, start, state.posMax, INLINE_PAIRS[opener])
    if end is None or (opener == "$" and not is_dollar_formula(state.src, state.pos, end)):
        return False
    if not silent:
        token = state.push("math_inline", "math", 0)
        token.content = state.src[start:end]
        token.block = opener in DISPLAY_PAIRS
        token.markup = state.src[state.pos : end + len(opener)]
    state.pos = end + len(opener)
    return True


def closing_mark(source: str, start: int, limit: int, mark: str) -> int | None:
    """Where a formula that begins at `start` ends, if it does so before `limit` and is not empty or too long."""
    end = source.find(mark, start, min(limit, start + MAXIMUM_FORMULA))
    while end > start and mark.startswith("$") and source[end - 1] == "\\":
        end = source.find(mark, end + 1, min(limit, start + MAXIMUM_FORMULA))
    return end if end > start and source[start:end].strip() else None


def is_dollar_formula(source: str, opener: int, end: int) -> bool:
    """Whether single dollar signs hold a formula rather than two amounts of money."""
    content = source[opener + 1 : end]
    glued = source[opener - 1 : opener].isalnum() or source[end + 1 : end + 2].isdigit()
    prose = PROSE.search(content) and not FORMULA_ONLY.search(content)
    return not (glued or prose or content[0].isspace() or content[-1].isspace() or "\n\n" in content)


def math_block(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    r"""Rule for formulas that begin a line: $$…$$, \[…\] and environments such as \begin{align}…\end{align}."""
    if state.is_code_block(start_line):
        return False
    start = state.bMarks[start_line] + state.tShift[start_line]
    opener, closer = block_marks(state.src[start : state.eMarks[start_line]])
    if not closer or state.src.find(closer, start + len(opener), start + MAXIMUM_FORMULA) < 0:
        return False
    lines: list[str] = []
    for line in range(start_line, min(end_line, start_line + MAXIMUM_LINES)):
        lines.append(state.getLines(line, line + 1, state.blkIndent, False).strip())
        rest = lines[-1].removeprefix(opener) if line == start_line else lines[-1]
        if not lines[-1] or (closer in rest and rest.index(closer) + len(closer) < len(rest)):
            return False
        if rest.endswith(closer):
            break
    else:
        return False
    written = "\n".join(lines)
    if not silent:
        token = state.push("math_block", "math", 0)
        token.content = written[len(opener) : -len(closer)] if opener else written
        token.markup, token.map, token.block = written, [start_line, line + 1], True
        state.line = line + 1
    return True


def block_marks(line: str) -> tuple[str, str]:
    """What opens (if it is no part of the formula) and what closes the formula that a line begins; else empty texts."""
    for opener, closer in DISPLAY_PAIRS.items():
        if line.startswith(opener):
            return opener, closer
    environment = ENVIRONMENT.match(line)
    return ("", rf"\end{{{environment[1]}}}") if environment else ("", "")


class Markdown(MarkdownIt):
    """CommonMark with tables, strikethrough and formulas; without HTML and without definitions that would vanish.

    Addresses are only shown, so they stay as they were written, whatever they point to.
    """

    def __init__(self) -> None:
        super().__init__("commonmark", {"html": False, "maxNesting": 20}, renderer_cls=MarkdownRenderer)
        self.enable(["table", "strikethrough"]).disable(["reference", "html_block", "html_inline"])
        self.inline.ruler.before("escape", "math_inline", math_inline)
        self.block.ruler.before("fence", "math_block", math_block, {"alt": ["paragraph", "blockquote", "list"]})

    def normalizeLink(self, url: str) -> str:
        return url

    def normalizeLinkText(self, link: str) -> str:
        return link

    def validateLink(self, url: str) -> bool:
        """Any address may be shown."""
        return True


# ----------------------------------------------------------------------------------------------------------------- code
def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Not among them, for lexers that take seconds for a few thousand characters made for it: C#, make. What others take for
# such code is bounded by `annotation.ui.markdown_process`.
LANGUAGES = names(
    "bash sh shell console c cpp c++ css diff docker dockerfile go golang haskell html ini java javascript"
    " js json json5 jsx julia kotlin latex tex lua markdown md matlab objective-c perl php powershell"
    " python py python3 pycon r ruby rb rust rs scala sql swift toml ts tsx typescript xml yaml yml"
)


def highlight(code: str, info: str) -> str | None:
    """Code with a span for each kind of word; None for an unknown language, or where the letters would not be kept."""
    language = info.split(maxsplit=1)[0].casefold() if info else ""
    if language not in LANGUAGES:
        return None
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    words = list(lexer.get_tokens(code))
    if "".join(value for _, value in words) != code:
        return None
    return "".join(
        f'<span class="{STANDARD_TYPES[kind]}">{html.escape(value, quote=False)}</span>'
        if STANDARD_TYPES.get(kind)
        else html.escape(value, quote=False)
        for kind, value in words
    )


# --------------------------------------------------------------------------------------------------------------- MathML
# What the converter may raise on a formula that is broken (its own errors share no base class).
BROKEN_FORMULA: tuple[type[Exception], ...] = (
    *(error for error in vars(latex_errors).values() if isinstance(error, type)),
    *(LookupError, ValueError, TypeError, AttributeError, RuntimeError, StopIteration),
)
# Definitions may grow without bound; the others would hide, colour, shrink or move parts of a formula out of sight.
REFUSED = re.compile(
    r"\\(?:def|gdef|let|newcommand|renewcommand|providecommand|newenvironment|renewenvironment|DeclareMathOperator"
    r"|rule|unicode|tiny|scriptsize|scriptscriptstyle)(?![a-zA-Z])|(?<!\\)%"
)
COMMAND = re.compile(r"\\(?:begin|end)\s*\{[a-zA-Z]+\*?\}(?:\{[clr|\s]*\})?|\\[a-zA-Z]+")
# An answer has no equation numbers to refer to.
NUMBERED = re.compile(r"(\\(?:begin|end)\{(?:align|gather|equation|multline))\}")
KEPT_ATTRIBUTES: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys(names("stretchy fence accent accentunder movablelimits displaystyle"), re.compile("true|false")),
    "form": re.compile("prefix|infix|postfix"),
    "mathvariant": re.compile("normal|bold|italic|bold-italic|double-struck|monospace|sans-serif"),
    "linethickness": re.compile("0|1|2"),
    **dict.fromkeys(("minsize", "maxsize"), re.compile(r"[0-3](\.\d+)?em")),
    "width": re.compile(r"[0-2](\.\d+)?em"),
}
MATH_TAGS = names(
    "math mrow mi mn mo mtext mspace ms mfrac msqrt mroot mstyle msub msup msubsup munder mover munderover"
    " mmultiscripts mprescripts mtable mtr mtd menclose"
)
SCRIPTS = frozenset(("msub", "msup", "msubsup", "mmultiscripts"))


def to_mathml(formula: str, display: bool) -> str | None:
    """A formula as MathML; None if it is broken, could grow, or would show fewer letters than were written."""
    if len(formula) > MAXIMUM_FORMULA or REFUSED.search(formula):
        return None
    try:
        tree = latex.convert_to_element(NUMBERED.sub(r"\1*}", formula), display="block" if display else "inline")
    except BROKEN_FORMULA:
        return None
    shown: list[str] = []
    try:
        page = "".join(serialise(tree, shown))
    except FormulaTooDeep:
        return None
    wanted = Counter(letters(unicodedata.normalize("NFKC", COMMAND.sub(" ", formula))))
    there = Counter(letters(unicodedata.normalize("NFKC", "".join(shown))))
    return page if wanted <= there else None


class FormulaTooDeep(Exception):
    """A formula is nested so deeply that its parts can't be read."""


def serialise(element: Element, shown: list[str], depth: int = 0, scripts: int = 0) -> Iterator[str]:
    """The markup of a formula's tree, with allowed tags and attributes only; its texts go into `shown`.

    Tags that hide or move their content give way to plain groups. Raises FormulaTooDeep.
    """
    tag = element.tag if element.tag in MATH_TAGS else "mrow"
    scripts += tag in SCRIPTS
    if scripts > MAXIMUM_SCRIPTS or depth > 60:
        raise FormulaTooDeep
    yield f"<{tag}{attributes_of(element, tag)}>"
    if element.text:
        text = visible(html.unescape(element.text))  # the converter writes many characters as entities
        shown.append(text)
        yield html.escape(text, quote=False)
    for child in element:
        yield from serialise(child, shown, depth + 1, scripts)
    yield f"</{tag}>"


def attributes_of(element: Element, tag: str) -> str:
    """The allowed attributes of a formula's element, as markup."""
    kept = {name: value for name, value in element.attrib.items() if name in KEPT_ATTRIBUTES}
    sound = {name: value for name, value in kept.items() if KEPT_ATTRIBUTES[name].fullmatch(value)}
    if tag != "mspace":
        sound.pop("width", None)
    if tag == "math" and element.get("display") == "block":
        sound["display"] = "block"
    if tag == "mtd" and element.get("columnalign") in ("left", "right", "center"):
        sound["class"] = element.attrib["columnalign"]
    if tag == "menclose":
        sound["notation"] = "box"
    return "".join(f' {name}="{value}"' for name, value in sound.items())


# -------------------------------------------------------------------------------------------------------- the last word
ALIGNMENTS = names("left right center")
TAGS = names("p br hr h3 h4 h5 h6 em strong s code pre blockquote ul ol li table thead tbody tr th td span div")
CLASSES: Mapping[str, set[str]] = {
    "span": {name for name in STANDARD_TYPES.values() if name} | {"link", "image", "address"},
    "div": {"language", "formula"},
    "code": {"formula"},
    "pre": {"literal"},
    **{name: set(ALIGNMENTS) for name in ("th", "td", "mtd")},
}
CLEANER = nh3.Cleaner(
    tags=set(TAGS | MATH_TAGS),
    clean_content_tags=set(),
    attributes={
        "li": {"value"},
        "math": {"display"},
        "menclose": {"notation"},
        "mspace": {"width"},
        **{name: set(KEPT_ATTRIBUTES) - {"width"} for name in MATH_TAGS - {"math", "menclose", "mspace"}},
    },
    allowed_classes=dict(CLASSES),
    url_schemes=set(),
    link_rel=None,
)
MARKDOWN = Markdown()
