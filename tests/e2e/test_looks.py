"""What the stylesheet promises of a page that is zoomed, printed, or drawn in the system's own colours; without the
program, on a few elements as it draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from annotation.ui import stylesheet

pytestmark = pytest.mark.browser

# Gradio's own, as far as they matter here.
GROUND = """:root { --text-sm: 12px; --neutral-600: #475569; --body-background-fill: #fff; --body-text-color: #000;
  --button-primary-background-fill: #4f46e5; --button-primary-text-color: #fff; --icon-data: none;
  font-family: system-ui; }
  body { margin: 0 14px; } input { appearance: none; }"""
OF = "(one, [name, pseudo]) => getComputedStyle(one, pseudo)[name]"


@contextmanager
def drawn(browser: Any, html: str, **options: Any) -> Iterator[Any]:
    """A page of these elements under the stylesheet."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_content(f'<style>{GROUND}{stylesheet.FOR_GRADIO}</style><main class="gradio-container">{html}</main>')
    yield page
    context.close()


def test_what_is_chosen_is_seen_in_the_systems_own_colours(browser: Any) -> None:
    """The tab, the reason, the choice and the bar differ from what is not chosen; icons are there."""
    html = """<button role=tab aria-selected=true data-tab-id=data>Data</button><button role=tab>Train</button>
      <div class=judging><button aria-pressed=true>clear</button><button aria-pressed=false>accurate</button></div>
      <input type=radio checked><div class=kit><div class=bar><div style="width: 40%"></div></div></div>"""
    with drawn(browser, html, forced_colors="active") as page:

        def of(where: str, name: str = "backgroundColor", pseudo: str | None = None) -> str:
            return str(page.locator(where).evaluate(OF, [name, pseudo]))

        assert of("[aria-selected=true]") != of("[role=tab]:not([aria-selected])")
        assert of("[aria-pressed=true]") != of("[aria-pressed=false]")
        assert of(".bar > div") != of(".bar")
        assert of("input", "appearance") == "auto"
        assert of("[data-tab-id]", pseudo="::before") != of("[data-tab-id]")


def test_a_page_on_paper_has_no_buttons_and_shows_what_scrolls(browser: Any) -> None:
    html = """<div class=masthead><form><button>Sign out</button></form></div><button class=lg>Refresh</button>
      <div class=kit><div class="scroll captioned"><table><tr><td style="height: 2000px">Long</td></tr></table></div>
      </div>"""
    with drawn(browser, html) as page:
        page.emulate_media(media="print")
        assert page.locator("button >> visible=true").count() == 0
        assert page.locator(".scroll").evaluate("(one) => one.scrollHeight - one.clientHeight") == 0


def test_a_page_zoomed_four_times_breaks_no_word_and_is_as_wide_as_the_window(browser: Any) -> None:
    """How many are judged has a line of its own, the scale has two, and the name of the account stays."""
    degrees = ("Left much", "Left clearly", "Left slightly", "Tie", "Right slightly", "Right clearly", "Right much")
    scale = "".join(f"<button><kbd>1</kbd> {one} better</button>" for one in degrees)
    html = f"""<div class=masthead><h1><svg></svg>Prefloop</h1><form><button data-theme>◐</button></form>
      <form><span>owner · admin</span><select><option>English</select><button>Sign out</button></form></div>
      <div class=judging><div class=bar><div class=progress>0 of 30 judged today · 0 by you in all</div>
      <div class=tools><button><kbd>R</kbd> Rendered</button><button><kbd>M</kbd> My judgements</button>
      <button><kbd>?</kbd> Keys</button></div></div>
      <div class=verdicts><div class=scale>{scale}</div></div></div>"""
    with drawn(browser, html, viewport={"width": 320, "height": 256}) as page:
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert page.locator(".progress").bounding_box()["height"] < 45
        assert page.locator("span").evaluate("(one) => one.scrollWidth - one.clientWidth") <= 0
        before = [one.bounding_box()["width"] for one in page.locator(".scale button").all()]
        page.add_style_tag(content=".judging .scale.scale.scale button { overflow-wrap: normal; hyphens: manual; }")
        after = [one.bounding_box()["width"] for one in page.locator(".scale button").all()]
        assert before == after


def test_acts_on_comparisons_are_one_row_on_a_phone(browser: Any) -> None:
    """Not three above the first comparison; the row scrolls, and the page does not."""
    acts = "".join(
        f"<button>{one}</button>" for one in ("Give back", "Settle", "Skip", "Withdraw", "Statistics", "Export")
    )
    html = f"<div class=kit><div class=bulk><label class=tick>Choose this page</label>{acts}</div></div>"
    with drawn(browser, html, viewport={"width": 390, "height": 844}) as page:
        assert len({round(one.bounding_box()["y"]) for one in page.locator("button").all()}) == 1
        assert page.locator(".bulk").evaluate("(one) => one.scrollWidth > one.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_step_above_the_tabs_is_not_drawn_as_the_tabs_own_button(browser: Any) -> None:
    html = """<div class=kit><div class=standing><a class=button href="/train">Train</a></div>
      <div class=acts><a class=button href="/train">Train</a></div></div>"""
    with drawn(browser, html) as page:
        grounds = [one.evaluate(OF, ["backgroundColor", None]) for one in page.locator("a.button").all()]
        assert grounds == ["rgb(255, 255, 255)", "rgb(79, 70, 229)"]


def test_a_fact_is_as_wide_as_what_it_says(browser: Any) -> None:
    """Where there is room it takes one line."""
    values = ("2026-12-03", "starter", "nobody else: it has been judged by as many as it is to be", "unknown", "100%")
    facts = "".join(f"<div><dt>What</dt><dd>{one}</dd></div>" for one in values)
    with drawn(browser, f"<div class=kit><dl class=facts>{facts}</dl></div>") as page:
        heights = {round(one.bounding_box()["height"]) for one in page.locator("dd").all()}
        assert len(heights) == 1, heights
        assert heights.pop() < 30
