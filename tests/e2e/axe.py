"""axe on a page: what it finds there, in a sixth of the time that its own way of looking at contrast takes.

Contrast is most of what axe costs, and a form's labels, say, are drawn alike: of texts that are, it looks at the first
and the last, and at none once it has found nothing there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT

# Of all axe can ask, what a theme changes; and of what it finds, only what is wrong.
VIOLATIONS_ALONE: dict[str, Any] = {"resultTypes": ["violations"]}
CONTRAST_ALONE: dict[str, Any] = {**VIOLATIONS_ALONE, "runOnly": ["color-contrast"]}
TEXTS_TO_LOOK_AT = """axe.configure({ rules: [{ id: "color-contrast", selector: "[data-look]" }] });"""
# Drawn alike are texts of one class and colour and size, in elements of which the same is true, up to the page's.
# Tabs that are hidden are emptied meanwhile: nothing is found there, and axe would walk through all of them each time.
LOOK = """async (options) => {
  const hidden = [...document.querySelectorAll("[role=tabpanel]")].filter((one) => !one.checkVisibility());
  const put = hidden.map((one) => {
    const kept = document.createDocumentFragment();
    kept.append(...one.childNodes);
    return () => one.append(kept);
  });
  const numbers = (window.looks ??= new Map());
  const found = new Map();
  const look = (one) => {
    if (!one) return 0;
    if (!found.has(one)) {
      const drawn = getComputedStyle(one);
      const key = [
        look(one.parentElement), one.tagName, one.getAttribute("class"), drawn.color, drawn.opacity,
        drawn.backgroundColor, drawn.backgroundImage, drawn.fontSize, drawn.fontWeight, drawn.textShadow,
        one.matches(":disabled, [aria-disabled=true]") || !!one.control?.disabled,
      ].join("|");
      if (!numbers.has(key)) numbers.set(key, numbers.size + 1);
      found.set(one, numbers.get(key));
    }
    return found.get(one);
  };
  const isText = (one) => one.matches("input, select, textarea")
    || [...one.childNodes].some((part) => part.nodeType === Node.TEXT_NODE && part.data.trim());
  const passed = (window.passed ??= new Set());
  const alike = new Map();
  for (const one of document.body.querySelectorAll("*")) {
    if (!isText(one) || !one.checkVisibility()) continue;
    const number = look(one);
    if (!passed.has(number)) alike.set(number, [alike.get(number)?.[0] ?? one, one]);
  }
  const texts = [...alike.values()].flat();
  for (const one of texts) one.setAttribute("data-look", "");
  try {
    const { violations } = texts.length || !options.runOnly ? await axe.run(document, options) : { violations: [] };
    if (!violations.length) for (const number of alike.keys()) passed.add(number);
    return violations.flatMap(({ id, impact, nodes }) =>
      nodes.map((node) => ({ rule: id, impact, where: node.html.slice(0, 200) })));
  } finally {
    for (const one of texts) one.removeAttribute("data-look");
    for (const back of put.reverse()) back();
  }
}"""


@dataclass(frozen=True)
class Violation:
    """A rule that an element breaks."""

    rule: str
    impact: str
    where: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}"


def violations(page: Any, options: dict[str, Any] = VIOLATIONS_ALONE) -> list[Violation]:
    """What axe finds on the page as it is."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
        page.evaluate(TEXTS_TO_LOOK_AT)
    return [Violation(**one) for one in page.evaluate(LOOK, options)]
