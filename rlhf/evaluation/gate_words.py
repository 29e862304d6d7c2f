"""How the gate's figures are written. Pure."""

from __future__ import annotations

from annotation.translation import numeral


def percentage(share: float, digits: int) -> str:
    """A share in percent with so many significant digits."""
    return f"{number(100 * share, digits)}%"


def number(value: float, digits: int) -> str:
    """A number with so many significant digits."""
    rounded = float(f"{value:.{digits}g}")
    return numeral(int(rounded) if rounded.is_integer() else rounded, "")  # never as 1e+02
