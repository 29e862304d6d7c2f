"""Shares, intervals and times in words, the same on every page and in the card of an export. Pure."""

from __future__ import annotations

import math
import re
from typing import Final

from annotation.metrics.intervals_and_bias import Estimate
from annotation.translation import N_, _, figures, ngettext, numeral

NOTHING = "–"
# Scripts of which each sign is counted, since no spaces stand between words.
SIGNS: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
NOT_MEASURED = N_("not measured")


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} …"


def percent(share: float) -> str:
    """A measured share in whole percent: '83%'."""
    return figures("{share:.0f}%", share=100 * share)


def percent_of(part: int, whole: int) -> str:
    """A count's share of another in whole percent; what there is is not nothing, and not all: '<1%', '>99%'."""
    share = part / whole if whole else 0.0
    if 0 < share < 0.005:
        return "<" + percent(0.01)
    return ">" + percent(0.99) if 0.995 <= share < 1 else percent(share)


def percent_with_interval(share: Estimate) -> str:
    """A share with its interval: '83% (74–90%)'."""
    said = {"share": 100 * share.value, "low": 100 * share.low, "high": 100 * share.high}
    return figures("{share:.0f}% ({low:.0f}–{high:.0f}%)", **said)


def percent_span(low: float, high: float) -> str:
    """From one share to another: '74–90%'."""
    return figures("{low:.0f}–{high:.0f}%", low=100 * low, high=100 * high)


def number_with_interval(figure: Estimate) -> str:
    """A number with its interval: '0.48 (0.43 to 0.54)'; nothing is '-0.00'."""
    return _("{value} ({low} to {high})").format(
        value=numeral(figure.value, "z.2f"), low=numeral(figure.low, "z.2f"), high=numeral(figure.high, "z.2f")
    )


def moment(text: str | None) -> str:
    """A `records.now()` text to the minute; a dash where there is none."""
    return text[:16].replace("T", " ") if text else NOTHING


def clock(text: str) -> str:
    """The time of day of a `records.now()` text: '18:42'."""
    return text[11:16]


def short_number(value: float, digits: int = 4) -> str:
    """A number in a few digits: '0.1234', '12.3', '1,235', '7e-5', '5e29'."""
    text = numeral(value, ",.0f") if 1000 <= abs(value) < 1e6 else numeral(value, f".{digits}g")
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e") if "e" in text else text


def with_power(value: float, digits: int) -> str:
    """A number with its power of ten: '1.5e-4'; 0 as it is."""
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    return f"{numeral(float(mantissa), f'.{digits}g')}e{int(power)}" if value else "0"


def figure(value: float | None, digits: int = 2) -> str:
    """A measured number, or that it was not measured."""
    return _(NOT_MEASURED) if value is None or math.isnan(value) else numeral(value, f",.{digits}f")


def share(value: float | None) -> str:
    """A share as a percentage, or that it was not measured."""
    return _(NOT_MEASURED) if value is None or math.isnan(value) else percent(value)


def duration(seconds: float) -> str:
    """A span of time as people say it: '45 s', '3 min 20 s', '1 h 5 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return _("{seconds} s").format(seconds=whole)
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        if not rest:
            return _("{minutes} min").format(minutes=minutes)
        return _("{minutes} min {seconds} s").format(minutes=minutes, seconds=rest)
    return _("{hours} h {minutes} min").format(hours=whole // 3600, minutes=whole % 3600 // 60)


def size(count: float) -> str:
    """The size of files in words: '812 bytes', '19.6 MB', '0.54 GB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor / (2 if unit == "GB" else 1):
            return figures(f"{{count:.{2 if unit == 'GB' else 1}f}} {unit}", count=count / factor)
    return ngettext("{count:.0f} byte", "{count:.0f} bytes", round(count)).format(count=count)


def count_words(text: str) -> int:
    """How many words a text has, and signs of Chinese and Japanese; `counted` in annotate.js counts the same."""
    spaced = SIGNS.sub(" ", text).split()
    return len(SIGNS.findall(text)) + sum(any(map(str.isalnum, piece)) for piece in spaced)


def dollars(amount: float) -> str:
    """A price or what was spent, in cents and as far below as it matters."""
    digits = len(f"{amount:.4f}".rstrip("0").partition(".")[2])
    return figures(f"${{amount:.{max(2, digits)}f}}", amount=amount)


def most_dollars(amount: float) -> str:
    """A limit, in whole cents and never below what it is."""
    return figures("${amount:.2f}", amount=math.ceil(round(100 * amount, 4)) / 100)


def money(cost: float | None) -> str:
    """A cost in the currency of the prices, whichever it is; a dash without prices."""
    return NOTHING if cost is None else numeral(cost, ",.2f") if cost >= 1 else numeral(cost, ".4f")
