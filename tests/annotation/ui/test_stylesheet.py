"""One stylesheet: values are chosen in its tokens only, no module has a style of its own, Gradio keeps all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from annotation.ui import icons, stylesheet
from tests.machine_fixtures import ROOT

PYTHON = [path for package in ("annotation", "rlhf") for path in sorted((ROOT / package).rglob("*.py"))]
PAGES = [*PYTHON, *sorted((ROOT / "annotation").rglob("*.js")), ROOT / "app.py"]
COMMENT = re.compile(r"/\*.*?\*/", re.S)
DECLARATION = re.compile(r"([a-z-]+):\s*([^;{}]+)(?=[;}])")
SPACING = re.compile(r"(?:margin|padding)(?:-[a-z-]+)?|(?:row-|column-)?gap|border(?:-[a-z]+)*-radius|font-size")
# Lengths that stand for themselves: of the text (em), of the window, of the parent. Charts' margins hold their numbers.
FIXED_LENGTH = re.compile(r"(?<![\w.-])\d*\.?\d+(?:px|rem)\b")
CHART_MARGINS = ("1.25rem var(--space-l) 0 3.25rem", "3.25rem")


def declarations(css: str) -> list[tuple[str, str]]:
    """Every property with its value."""
    return [(name, value.strip()) for name, value in DECLARATION.findall(COMMENT.sub("", css))]


def test_colours_are_chosen_in_the_tokens_only() -> None:
    rules = COMMENT.sub("", stylesheet.RULES)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[^{}]*[;}])|(?:rgb|hsl)a?\([^)]*\)", rules) == []


def test_spaces_corners_and_sizes_of_type_are_tokens() -> None:
    found = [
        f"{name}: {value}"
        for name, value in declarations(stylesheet.RULES)
        if SPACING.fullmatch(name) and value not in CHART_MARGINS and FIXED_LENGTH.search(value)
    ]
    assert [one for one in found if one != "font-size: 1rem"] == []


def test_every_token_is_used_and_every_used_one_is_there() -> None:
    defined = {name for name in re.findall(r"(--[\w-]+):", stylesheet.TOKENS)}
    used = set(re.findall(r"var\((--[\w-]+)", stylesheet.SHEET))
    assert defined - used == set()
    ours = {name for name in used if re.match(r"--(space|round|type|hue)-", name)}
    assert ours - defined == set()


def test_every_icon_is_used_and_every_used_one_is_drawn() -> None:
    drawn = set(re.findall(r"(--icon-[a-z]+):url\(", icons.head()))
    assert drawn == set(re.findall(r"var\((--icon-[a-z]+)\)", stylesheet.GRADIO_RULES))
    assert len(drawn) == len(icons.PATHS)
    assert "<" not in icons.head().removeprefix("<style>").removesuffix("</style>")


def test_icons_are_of_the_page_not_of_its_words() -> None:
    """So that nobody hears them, nor has them in a copied text; none says something without words beside it."""
    before = [rule for rule in re.findall(r"([^{}]+)\{[^{}]*mask: var\(--icon\)", stylesheet.GRADIO_RULES)]
    (selectors,) = before
    assert all(one.strip().endswith("::before") for one in COMMENT.sub("", selectors).split(","))
    named = re.findall(r"([^{}]+)\{ --icon: ", COMMENT.sub("", stylesheet.GRADIO_RULES))
    everywhere = [one.strip() for rule in named for one in rule.split(",") if ":dir(" not in one]
    assert {f"{one}::before" for one in everywhere} == {one.strip() for one in COMMENT.sub("", selectors).split(",")}


def test_the_icons_of_a_mirrored_row_point_to_the_same_answers() -> None:
    rules = dict(
        re.findall(
            r"^\.judging \.scale button(\S*:nth-child\([^)]*\)) \{ --icon: var\((.*?)\); \}", stylesheet.SHEET, re.M
        )
    )
    first, last = ":nth-child(-n + 3)", ":nth-child(n + 5)"
    assert (rules[first], rules[last]) == ("--icon-left", "--icon-right")
    assert (rules[f":dir(rtl){first}"], rules[f":dir(rtl){last}"]) == ("--icon-right", "--icon-left")


def test_dark_pages_have_each_colour_of_text_anew() -> None:
    light, dark = (
        set(re.findall(r"(--[\w-]+):", block)) for block in COMMENT.sub("", stylesheet.TOKENS).split(".dark {")
    )
    assert dark < light
    assert {"--bad", "--chosen", "--on-chosen", "--quiet", "--accent", "--good", "--open", "--keyword"} <= dark


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_has_a_style_of_its_own(path: Path) -> None:
    """But the width of what is as long as a figure says, and what a script measures, as a property for the sheet."""
    text = path.read_text(encoding="utf-8")
    own = r"css_template=|\.style\.(?!width|height|setProperty\(\"--)\w+|^[.#]?[\w-]+ \{ [\w-]+: [^}]*; \}"
    assert re.findall(own, text, re.M) == []
    inline = re.findall(r"<[^<>\n]*(style=\"[^\"]*\")", text)
    assert [one for one in inline if not one.startswith('style="width: {')] == []
    hexes = re.findall(r"[\"'#]#?([0-9a-f]{6})[\"']", text)
    assert hexes == []


def test_gradio_keeps_the_whole_sheet() -> None:
    """It splits selectors at commas and drops @rules but @media and @keyframes."""
    css = COMMENT.sub("", stylesheet.FOR_GRADIO)
    assert set(re.findall(r"@([a-z-]+)", css)) <= {"media", "keyframes"}
    conditional = re.findall(r"@media [^{]+\{((?:[^{}]*\{[^{}]*\})*)", css)
    assert len(conditional) == css.count("@media")
    assert not any(".gradio-container" in rules for rules in conditional), "there it puts its own before each selector"
    assert re.findall(r":(?:is|where|not|has)\([^()]*,", css) == []
    assert "url(" not in css
    assert css.count("{") == css.count("}")
    assert "&" not in css, "Gradio prefixes rules, which nested ones don't survive"


def test_pages_without_gradio_use_no_theme() -> None:
    used = set(re.findall(r"var\((--[\w-]+)", stylesheet.PLAIN_RULES))
    assert used <= set(re.findall(r"(--[\w-]+):", stylesheet.FOR_PLAIN_PAGES))


def test_a_password_that_is_shown_once_has_no_letters_that_look_alike_or_are_joined() -> None:
    assert 'elem_id="new-password"' in (ROOT / "annotation/tabs/accounts.py").read_text("utf-8")
    assert re.search(r"#new-password input[^{}]*\{ font-family: var\(--font-mono\)", stylesheet.FOR_GRADIO)
