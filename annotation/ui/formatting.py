"""Shares, intervals and times in words, the same on every page and in the card of an export. Pure."""

from __future__ import annotations

from annotation.metrics.intervals_and_bias import Estimate

NOTHING = "–"


def percent(share: float) -> str:
    """A measured share in whole percent: '83%'."""
    return f"{100 * share:.0f}%"


def percent_with_interval(share: Estimate) -> str:
    """A share with its interval: '83% (74% to 90%)'."""
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"


def number_with_interval(figure: Estimate) -> str:
    """A number with its interval: '0.48 (0.43 to 0.54)'."""
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"


def moment(text: str | None) -> str:
    """A `records.now()` text to the minute; a dash where there is none."""
    return text[:16].replace("T", " ") if text else NOTHING
