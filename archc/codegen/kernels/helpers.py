"""Functions that kernels call and Triton lacks, or has less accurate: each has a template of its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

MATH = ("log1p", "tanh")


def helpers_in(lines: Iterable[str]) -> tuple[str, ...]:
    """Those of the functions that some statements call."""
    text = "\n".join(lines)
    return tuple(name for name in MATH if re.search(rf"\b{name}\(", text))
