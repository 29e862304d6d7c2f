"""The icons: one small set of our own, lines on a square of 24, which style.css puts before words. Pure.

They are masks, so they have the colour of the words beside them, and whoever listens to the page hears nothing of them.
Gradio lets no address into its style sheet, so that they stand in the head of the page as tokens, --icon-NAME.

Not here: which word has which icon (style.css).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

# The path of each; a circle is two arcs.
PATHS: Final[Mapping[str, str]] = {
    # The tabs, and what leads to them.
    "overview": "M4 4h7v8H4zM13 4h7v5h-7zM13 12h7v8h-7zM4 15h7v5H4z",
    "annotate": "M4 5h7v14H4zM13 5h7v14h-7zM6 12l1.5 1.5L9.5 10.5",
    "data": "M4 6a8 3 0 0 0 16 0 8 3 0 0 0-16 0zM4 6v12a8 3 0 0 0 16 0V6M4 12a8 3 0 0 0 16 0",
    "train": "M13 3 5 13.5h6L10 21l8-10.5h-6z",
    "runs": "M4 4v16h16M7.5 15l3.5-5 3 3 5-7",
    "iterations": "M20 12a8 8 0 1 1-2.5-5.8M20 3.5v4h-4",
    "quality": "M12 3l7 2.5V11c0 5-3 8-7 10-4-2-7-5-7-10V5.5zM9 11.5l2.2 2.2 3.8-4.2",
    "judges": "M5 9h14v11H5zM12 9V5M10 5h4M9.5 13v2.5M14.5 13v2.5M2.5 13v3M21.5 13v3",
    "playground": "M4 5h16v11H10l-5 4v-4H4zM8 9.5h8M8 12.5h5",
    "project": "M4 7h9M17 7h3M15 4.5v5M4 17h3M11 17h9M9 14.5v5",
    "hub": "M7 18a4.3 4.3 0 0 1 0-8.5 5.5 5.5 0 0 1 10.5 0 4.3 4.3 0 0 1-.5 8.5M12 20.5V12M9 15l3-3 3 3",
    "accounts": (
        "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM3 20a6 6 0 0 1 12 0"
        "M16 4.5a3.5 3.5 0 0 1 0 6.5M18 14.5a6 6 0 0 1 3 5.5"
    ),
    # States.
    "good": "M4 12.5l5 5L20 6.5",
    "bad": "M12 4 3 20h18zM12 10v4M12 17v.5",
    "open": "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM12 7v5l3.5 2",
    # What buttons do.
    "add": "M12 5v14M5 12h14",
    "close": "M6 6l12 12M18 6 6 18",
    "delete": "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
    "download": "M12 4v11M7 10.5l5 5 5-5M5 20h14",
    "left": "M19 12H5M11 6l-6 6 6 6",
    "look": "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5 20 20",
    "play": "M7 4.5 19 12 7 19.5z",
    "right": "M5 12h14M13 6l6 6-6 6",
    "save": "M5 4h11l3 3v13H5zM8.5 4v5H15V4M8.5 20v-6h7v6",
    "send": "M4 11.5 20 4l-6 16-3-7zM11 13l4-4",
    "stop": "M6 6h12v12H6z",
    "undo": "M9 5 4 10l5 5M4 10h9.5a5.5 5.5 0 0 1 0 11H9",
    "upload": "M12 15.5v-11M7 9l5-5 5 5M5 20h14",
}
DRAWN: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="black" stroke-width="2" '
    'stroke-linecap="round" stroke-linejoin="round"><path d="{path}"/></svg>'
)


def head() -> str:
    drawn = (
        f'--icon-{name}:url("data:image/svg+xml,{quote(DRAWN.format(path=path))}")' for name, path in PATHS.items()
    )
    return f"<style>:root{{{';'.join(drawn)}}}</style>"
