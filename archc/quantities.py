"""Large numbers as people write them: 8B parameters, 15T tokens, 1e24 FLOPs.

The suffixes are powers of 1000, as papers count; those of specs, `128K`, are powers of 1024.  With a unit,
measures have the prefixes of the SI: 16.1 GB, 3.71 ms.
"""

from __future__ import annotations

import math
import re

from archc.errors import ArchcError

_SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "Q": 1e15}
_PREFIXES = dict(zip(range(18, -15, -3), [*"EPTGMk", "", *"munp"], strict=True))  # by powers of ten
_FORM = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)([KMBTQ]?)", re.IGNORECASE | re.ASCII)


def parse_quantity(text: str) -> float:
    """`8B`, `1.5T`, `1e24`, `128_000`; raises `ArchcError` for all else, and for what is not above 0."""
    match = _FORM.fullmatch(text.strip())
    value = float(match[1].replace("_", "")) * _SUFFIXES[match[2].upper()] if match else 0.0
    if not 0 < value < math.inf:
        raise ArchcError(f"`{text}` is no amount: write 8B, 1.5T or 1e24 (K, M, B, T are powers of 1000)")
    return value


def quantity_text(value: float) -> str:
    """Three digits and a suffix, 8.03B, or beyond these a power of ten, 4.82e16."""
    if not math.isfinite(value):
        return str(value)
    for suffix, unit in reversed(_SUFFIXES.items()):
        if abs(value) >= 0.9995 * unit:
            return _beyond(value) if unit > _SUFFIXES["T"] else f"{_digits(value / unit)}{suffix}"
    return f"{value:.3g}"


def _digits(value: float) -> str:
    """Three significant digits, and all before the point."""
    places = max(0, 2 - math.floor(math.log10(abs(value) * 1.0005)))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _beyond(value: float) -> str:
    return f"{value:.3g}".replace("e+", "e")


def with_unit(number: float, unit: str) -> str:
    """Three digits and a decimal prefix: `1.23 GB`."""
    for power, prefix in _PREFIXES.items():
        size = 10.0**power
        if abs(number) >= 0.9995 * size:
            return f"{number / size:,.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}"
