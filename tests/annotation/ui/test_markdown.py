"""A stranger's text as HTML: nothing in it runs, loads, submits or hides, and none of its letters goes missing."""

from __future__ import annotations

import html
import time
import unicodedata
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annotation.ui import invisible, markdown
from annotation.ui.invisible import visible
from annotation.ui.markdown import to_html

FORBIDDEN_TAGS = {"script", "style", "img", "a", "form", "input", "button", "iframe", "svg", "object", "link", "base"}
SAFE_ATTRIBUTES = {"class", "value", "display", "notation", *markdown.KEPT_ATTRIBUTES}
VOID = {"br", "hr"}


class Reader(HTMLParser):
    """An independent reading of a page: its tags, attributes and text, and whether every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        """What a person reads."""
        return "".join(self.words)


def read(text: str) -> Reader:
    """The page made of a text, checked against the allowlist."""
    page = to_html(text)
    reader = Reader(page)
    assert reader.open == []
    assert reader.tags <= markdown.TAGS | markdown.MATH_TAGS
    assert not reader.tags & FORBIDDEN_TAGS
    assert {name for name, _ in reader.attributes} <= SAFE_ATTRIBUTES
    assert all(":" not in (value or "") for _, value in reader.attributes)
    assert markdown.CLEANER.clean(page) == page, "the sanitiser finds more to take out the second time"
    return reader


# ------------------------------------------------------------------------------------------------------------- hostile
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><style>*{display:none}</style></svg>",
    "<form action=/logout method=post><button>Sign out</button></form>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a> <base href=//evil.test> <link rel=stylesheet href=//evil.test>",
    "[x](javascript:alert(1)) [y](data:text/html;base64,PHNjcmlwdD4) [z](//evil.test 'hidden title')",
    "![x](http://evil.test/p.png 'pixel') ![y](x\" onerror=\"alert(1))",
    "<http://evil.test/?q=<script>> <javascript:alert(1)> <x@evil.test>",
    "[a]: http://evil.test 'a definition that would vanish'\n\n[a]",
    "<!-- hidden --> <think>secret</think> <details><summary>s</summary>inside</details>",
    "```html\n<script>alert(1)</script>\n```",
    "```<img src=x onerror=alert(1)>\n```",
    '```js" onmouseover="alert(1)\nx\n```',
    "$\\href{javascript:alert(1)}{x}$ $\\style{position:fixed;inset:0}{x}$ $\\class{answers}{x}$",
    "$\\text{<script>alert(1)</script>}$ $\\text{&lt;img src=x onerror=alert(1)&gt;}$",
    "$\\unicode{x3c}script\\unicode{x3e}$ $&lt;script&gt;$ $\\verb|<img src=x onerror=alert(1)>|$",
    '$\\color{red}{x}$ $\\rule{100em}{100em}$ $\\fcolorbox{a}{b" onload="alert(1)}{c}$',
    "$$\\newcommand{\\x}{\\x\\x}\\x$$ $\\def\\a{\\a\\a}\\a$",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
    "</div></section></main><h1>Signed out</h1><p style='position:fixed'>",
    "${window.ran = 1} {{value}} {{#each}} <%= 1 %>",
    "a\u202egnp.exe\u202c b\u200bc\ufeffd \U000e0041\U000e0042 \x00\x1b[2J\x07",
    "| a |\n|---|\n| 1 | <script>alert(2)</script> | surplus |",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#x202e;evil &#0; &nbsp;",
    "<" * 3000 + "script>",
    "> " * 400 + "deep",
    "- " * 400 + "deep",
    "$" + "{" * 600 + "x" + "}" * 600 + "$",
    "$" + "\\sqrt{" * 200 + "x" + "}" * 200 + "$",
    "\ud800 lone surrogate",
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_becomes_harmless_html_that_shows_it_all(text: str) -> None:
    reader = read(text)
    assert missing_letters(text, reader) == []


def missing_letters(text: str, reader: Reader) -> list[str]:
    """Words of the text without LaTeX commands and entities that the page does not show."""
    shown = unicodedata.normalize("NFKC", visible(reader.text))
    words = unicodedata.normalize("NFKC", visible(html.unescape(markdown.COMMAND.sub(" ", text))))
    plain = "".join(letter if letter.isalnum() else " " for letter in words)
    squeezed = "".join(letter for letter in shown if letter.isalnum())
    return [word for word in plain.split() if word not in squeezed]


def test_every_word_of_the_second_half_of_the_corpus_is_text_and_no_markup() -> None:
    assert "<script>alert(1)</script>" in read(HOSTILE[0]).text
    assert "http://evil.test/p.png" in read(HOSTILE[7]).text
    assert "hidden title" in read(HOSTILE[6]).text
    assert "a definition that would vanish" in read(HOSTILE[9]).text
    assert "<!-- hidden -->" in read(HOSTILE[10]).text
    assert "<think>secret</think>" in read(HOSTILE[10]).text
    assert "surplus" in read(HOSTILE[23]).text
    assert "⟨U+202E⟩gnp.exe" in read(HOSTILE[22]).text


# --------------------------------------------------------------------------------------------------------- what it does
def test_markdown_is_rendered() -> None:
    page = to_html("# Title\n\nSome *soft* and **loud** `code`.\n\n- one\n- two\n\n> said\n\n~~gone~~\nnext line")
    for piece in ("<h3>Title</h3>", "<em>soft</em>", "<strong>loud</strong>", "<code>code</code>", "<blockquote>"):
        assert piece in page
    assert page.count("<li>") == 2
    assert "<s>gone</s><br>" in page


def test_numbers_of_a_list_are_those_that_were_written() -> None:
    page = to_html("3. three\n3. again\n9. nine")
    assert [piece[:1] for piece in page.split('<li value="')[1:]] == ["3", "3", "9"]


def test_a_table_with_surplus_cells_is_shown_literally_and_another_as_a_table() -> None:
    assert '<th class="right">b</th>' in to_html("| a | b |\n|---|--:|\n| 1 | 2 |")
    assert to_html("| a |\n|---|\n| 1 | 2 |").startswith('<pre class="literal">| a |')


def test_code_is_highlighted_without_losing_a_letter() -> None:
    code = 'def f(x):\n    return "<b>" + x  # why\n'
    page = to_html(f"```python and more\n{code}```")
    assert '<span class="k">def</span>' in page
    assert '<div class="language">python and more</div>' in page
    assert code in Reader(page).text
    assert "<span" not in to_html("```brainfudge\n+-\n```")


@pytest.mark.parametrize("language", sorted(markdown.LANGUAGES))
def test_each_language_keeps_the_code_as_it_is(language: str) -> None:
    code = "\n\n  <a href='x'>&amp; $x = \"é\u00a0中\" // # {} `b` \\\n\tend\n\n"
    reader = read(f"~~~~{language}\n{code}~~~~")
    assert code.strip("\n") in reader.text


@pytest.mark.parametrize("language", sorted(markdown.LANGUAGES))
def test_code_beyond_what_is_highlighted_is_shown_plain(language: str) -> None:
    code = ("if x = 1 { return 'a' }\n" * markdown.MAXIMUM_TEXT)[: markdown.MAXIMUM_TEXT - 100]
    page = to_html(f"```{language}\n{code}\n```")
    assert "<span" not in page
    assert code in Reader(page).text


def test_all_blocks_of_a_text_share_what_is_highlighted() -> None:
    line = "return 1\n"
    small = line * (markdown.MAXIMUM_CODE // 4 // len(line))
    pages = to_html(f"```python\n{small}```\n\n" * 8).split("</pre>")
    assert ['<span class="k">return</span>' in page for page in pages] == [True] * 4 + [False] * 5
    assert sum(page.count(">return</span>") for page in pages) * len(line) <= markdown.MAXIMUM_CODE


@pytest.mark.parametrize("language", ["make", "makefile", "csharp", "c#", "cs"])
def test_code_of_languages_that_take_long_is_shown_plain(language: str) -> None:
    assert "<span" not in to_html(f"```{language}\nreturn 1\n```")


def test_links_show_their_address_and_lead_nowhere() -> None:
    page = to_html('[here](http://a.test/x?y=1&z "title") and <http://b.test>')
    assert "href" not in page
    assert Reader(page).text.strip() == 'here (http://a.test/x?y=1&z "title") and http://b.test'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$x^2$", "<msup><mi>x</mi><mn>2</mn></msup>"),
        (r"\(x_i\)", "<msub><mi>x</mi><mi>i</mi></msub>"),
        ("$$\na\n= b\n- c\n$$", '<math display="block">'),
        (r"\[ \frac{a}{b} \]", "<mfrac>"),
        ("\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}", '<mtd class="right">'),
        (r"So $\boxed{42}$.", '<menclose notation="box">'),
        (r"$\mathbb{R}$", "<mi>ℝ</mi>"),
        ("- $$\n  y\n  $$", "<mi>y</mi>"),
        (r"$\phantom{seen} y$", "<mi>s</mi><mi>e</mi><mi>e</mi><mi>n</mi>"),
    ],
)
def test_formulas_become_mathml(text: str, shown: str) -> None:
    assert shown in to_html(text)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.",
        "from $5-$10",
        "US$5, then A$6",
        "costs $5, or A$ 6",
        "a $ b $ c",
        "$x$5",
        "`$x$`",
        "```\n$x$\n```",
        r"\$x\$",
        "$$",
        "$\n\nx$",
    ],
)
def test_dollars_that_are_no_formula_stay(text: str) -> None:
    assert "<math" not in to_html(text)


@pytest.mark.parametrize(
    "formula",
    [
        r"\frac{1}{",
        r"x^",
        r"\left( x",
        r"\begin{matrix} a",
        r"a % hidden_comment",
        r"\color{white}{hidden}",
        r"\hspace{9em} x_1",
        r"\unicode{x202e} x_1",
        r"\newcommand{\a}{b} \a",
        r"x^{x^{x^{x^{x^x}}}}",
        r"\tiny x_1",
        "x_1" + "+ y" * 800,
    ],
)
def test_a_broken_or_hiding_formula_is_shown_as_it_was_written(formula: str) -> None:
    page = to_html(f"${formula}$")
    assert "<math" not in page
    assert formula in Reader(page).text


def test_a_text_that_is_too_long_is_shown_literally() -> None:
    text = "*a* " * (markdown.MAXIMUM_TEXT // 4 + 1)
    assert to_html(text) == f'<pre class="literal">{text}</pre>'


# ------------------------------------------------------------------------------------------------------- what is unseen
def test_characters_without_a_glyph_are_spelt_out() -> None:
    assert visible("a\u202eb\u200bc\xadd") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+00AD⟩d"
    assert visible("x\U000e0061\U000e0062") == "x⟨U+E0061⟩⟨U+E0062⟩"
    assert visible("a\r\nb\tc\rd\x1b") == "a\nb\tc⟨U+000D⟩d⟨U+001B⟩"
    assert visible("a\ufe0f\u200d") == "a⟨U+FE0F⟩⟨U+200D⟩"


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧‍👦 ❤️ 👍🏽 🏳️‍🌈 1️⃣ ©️ ↔️",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "می‌خواهم",
        "क्‍ष",
        "葛\U000e0100",
        "naïve 中文 עברית العربية\n\ttab",
    ],
)
def test_writing_that_needs_joiners_stays_whole(text: str) -> None:
    assert visible(text) == text


def test_the_ranges_cover_every_control_and_format_character() -> None:
    # These format characters have a glyph: signs written around Arabic, Syriac and Kaithi numbers, and shorthand.
    with_glyph = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13456)}
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in with_glyph:
            assert character in "\n\t" or invisible.INVISIBLE.match(character), hex(code)


# -------------------------------------------------------------------------------------------------------------- fuzzing
PIECES = (
    r"* ** _ ` ``` ~~~ ~~ # > - 1. | [ ] ( ) ![ ]( <a <!-- --> &amp; &#x202e; $ $$ \( \) \[ \] \frac { } ^ _ \\ & %"
    r" \begin{align} \end{align} \text{ \left( \right) \sqrt[ \phantom{ \color{ \sum \bar = <script> </script> http://x.y"
)
MARKUP = st.sampled_from([*PIECES.split(), "|--|\n", "python", "12. ", "words "])
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(st.one_of(MARKUP, st.text(max_size=6), st.sampled_from(["\n", " ", "\n\n", "    "])), max_size=40).map(
        "".join
    ),
)


@settings(max_examples=250)
@given(TEXTS)
@example("$\\frac{1}{2}$")
def test_any_text_becomes_safe_html(text: str) -> None:
    read(text)


@settings(max_examples=200)
@given(st.lists(st.text("abcdefg123 éß中.,!?'\"-*_`#>\n", min_size=1, max_size=30), max_size=20))
def test_no_word_of_a_text_goes_missing(lines: list[str]) -> None:
    text = "\n".join(lines)
    shown = "".join(letter for letter in Numbered(to_html(text)).text if letter.isalnum())
    letters = [letter for letter in text if letter.isalnum()]
    position = 0
    for letter in letters:
        position = shown.index(letter, position) + 1


class Numbered(Reader):
    """A reading that also sees the numbers that the browser draws before the items of a list."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        self.words += [value for name, value in attrs if name == "value" and value]


@settings(max_examples=200)
@given(st.text())
def test_spelling_out_is_done_once_and_leaves_nothing_unseen(text: str) -> None:
    once = visible(text)
    assert visible(once) == once
    kept: list[Any] = [found[0] for found in invisible.INVISIBLE.finditer(once)]
    assert set(kept) <= set("\u200c\u200d\ufe0e\ufe0f") | {chr(code) for code in range(0xE0020, 0xE01F0)}


SLOW = (
    *(
        "[",
        "![",
        "*a ",
        "**a*",
        "`",
        "<",
        "$",
        "$a$ ",
        "\\(",
        "\\[\n",
        "> ",
        "- ",
        "a|b\n-|-\n",
        "~~a",
        "[a](",
        "\\frac{",
    ),
    *("\\begin{align}\n", "```python\n", "> - 1. ", "*_", "[[a]", "\u200d", "a\u202e", "$x^{x^{x}}$ "),
)


def cost(piece: str) -> float:
    """Of reading the longest text of such pieces, in seconds of this thread's processor time."""
    text = (piece * markdown.MAXIMUM_TEXT)[: markdown.MAXIMUM_TEXT]
    began = time.thread_time()
    read(text)
    return time.thread_time() - began


@pytest.fixture(scope="module")
def usual() -> float:
    """What an ordinary text of that length costs on this machine."""
    cost("*one* `two` three. ")
    return cost("*one* `two` three. ")


@pytest.mark.parametrize("piece", SLOW)
def test_a_text_made_to_be_slow_takes_no_long_time(usual: float, piece: str) -> None:
    assert cost(piece) < 30 * usual
