"""Fitted laws as JSON files, which `archc fit` writes, and `archc scale` and `archc search` read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from archc.analysis.laws.chinchilla import Chinchilla
from archc.analysis.laws.conditional import Conditional, Curve
from archc.analysis.laws.law import Count, Range
from archc.errors import ArchcError

_COEFFICIENTS = ("E", "A", "B", "alpha", "beta")


def law_json(law: Chinchilla | Conditional) -> dict[str, Any]:
    """What a file holds of a law."""
    if isinstance(law, Conditional):
        return {
            "law": "conditional",
            "source": law.source,
            "width": [law.width.c0, law.width.c1, law.width.c2],
            "ratio": [law.ratio.c0, law.ratio.c1, law.ratio.c2],
            "ratios": [law.ratios.low, law.ratios.high],
        }
    assert law.tokens is not None
    return {
        "law": "chinchilla",
        "source": law.source,
        **{name: getattr(law, name) for name in _COEFFICIENTS},
        "covariance": law.covariance,
        "parameters": [law.sizes.low, law.sizes.high],
        "tokens": [law.tokens.low, law.tokens.high],
    }


def read_chinchilla(path: Path) -> Chinchilla:
    """A fit of Chinchilla's law; raises `ArchcError`."""
    held = _read(path, "chinchilla")
    sizes, tokens = _numbers(path, held, "parameters", 2), _numbers(path, held, "tokens", 2)
    rows = held.get("covariance")
    if rows is not None and not (isinstance(rows, list) and len(rows) == 5):
        raise _broken(path, "covariance")
    named = [{"covariance": row} for row in rows or ()]
    covariance = tuple(tuple(_numbers(path, row, "covariance", 5)) for row in named)
    return Chinchilla(
        path.stem,
        str(held.get("source", path)),
        Count.TOTAL,
        Range(*sizes),
        Range(*tokens),
        "N is what the runs' column of parameters counts",
        **{name: _numbers(path, {name: [held.get(name)]}, name, 1)[0] for name in _COEFFICIENTS},
        covariance=covariance or None,
    )


def read_conditional(path: Path) -> Conditional:
    """A fit of the conditional law; raises `ArchcError`."""
    held = _read(path, "conditional")
    width, ratio = (Curve(*_numbers(path, held, name, 3)) for name in ("width", "ratio"))
    if not all(curve.c1 > 0 and curve.c2 > 0 for curve in (width, ratio)):
        raise ArchcError(f"{path}: a curve of the law has no least value")
    return Conditional(
        path.stem, str(held.get("source", path)), width, ratio, Range(*_numbers(path, held, "ratios", 2))
    )


def _read(path: Path, law: str) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArchcError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArchcError(f"{path} is no JSON file: {error}") from None
    if not isinstance(held, dict) or held.get("law") != law:
        raise ArchcError(f"{path} holds no fit of the {law} law, as `archc fit --law {law} -o` writes")
    return held


def _numbers(path: Path, held: dict[str, Any], name: str, count: int) -> list[float]:
    values = held.get(name)
    if not isinstance(values, list) or len(values) != count or not all(_is_number(v) for v in values):
        raise _broken(path, name)
    return [float(value) for value in values]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _broken(path: Path, name: str) -> ArchcError:
    return ArchcError(f"{path}: `{name}` is missing or holds something else than its numbers")
