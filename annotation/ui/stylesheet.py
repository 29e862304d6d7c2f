"""The one stylesheet, style.css, and the logo, as Gradio's pages and the small pages without Gradio take it. Pure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import quote

# What begins the part of pages without Gradio.
PLAIN_MARK: Final = "/* ==== pages without Gradio ==== */\n"
# What ends the tokens, which all pages share.
TOKENS_MARK: Final = "/* ==== end of the tokens ==== */\n"

LOGO: Final = Path(__file__).with_name("logo.svg")
# The logo as an address, for whoever may not ask for files yet.
ICON: Final = f"data:image/svg+xml,{quote(LOGO.read_text(encoding='utf-8').strip())}"
SHEET: Final = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
TOKENS, RULES = SHEET.split(TOKENS_MARK)
WRITTEN_RULES, PLAIN_RULES = RULES.split(PLAIN_MARK)
# Whatever sets --icon, which is drawn before its words. Without what not every browser reads, for which one drops all.
BARE: Final = re.sub(r"/\*.*?\*/\s*", "", WRITTEN_RULES, flags=re.DOTALL)
ICONED: Final = ", ".join(re.findall(r"^([^{}]*?) \{ --icon:", BARE, re.MULTILINE)).split(", ")
BEFORE: Final = ", ".join(f"{one}::before" for one in ICONED if ":dir(" not in one)
GRADIO_RULES: Final = WRITTEN_RULES.replace("[has-icon]::before", BEFORE)
FOR_GRADIO: Final = TOKENS + GRADIO_RULES
FOR_PLAIN_PAGES: Final = f'{TOKENS}:root {{ --logo: url("{ICON}"); }}\n{PLAIN_RULES}'
