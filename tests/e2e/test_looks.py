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
