"""The helpers that native code includes: functions that its kernels and layers call, directly or not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_COMMENT = re.compile(r"//.*")
_CALL = re.compile(r"(?<![.\w])(?:\w++::)?\w++(?=[(<])")
# Functions that helpers call; a helper stands before those that it calls.
_CALLS = {
    "layer_norm_gradient": {"rms_norm_gradient", "sum_of"},
    "rms_norm_gradient": {"sum_of_products", "sum_of_squares", "std::sqrt"},
    "layer_norm": {"rms_norm", "sum_of"},
    "rms_norm": {"sum_of_squares", "std::sqrt"},
    "softmax": {"math::exp", "std::max"},
    "math::sigmoid": {"math::exp"},
}
# The templates of helpers, in templates/native, by the functions in them.
_TEMPLATES = {
    "sum_of": "sums",
    "sum_of_squares": "sums",
    "sum_of_products": "sums",
    "add": "rows",
    "rms_norm": "row_norms",
    "rms_norm_gradient": "row_gradients",
    "RowSums": "row_sums",
    "softmax": "softmax",
    "turn": "turn",
    "copy_columns_kernel": "copy_columns",
}
# Standard headers and the functions that need them; all of `math` needs <cmath>.
_HEADERS = {
    "cmath": {"std::sqrt", "std::tanh"},
    "initializer_list": {"math::exp"},
}


@dataclass(frozen=True)
class Helpers:
    """calls: the functions that are called, with their namespaces; math: the names of those in `math`."""

    calls: frozenset[str]

    @property
    def math(self) -> frozenset[str]:
        return frozenset(name.removeprefix("math::") for name in self.calls if name.startswith("math::"))

    @property
    def templates(self) -> tuple[str, ...]:
        """Those that are needed, each after those that it calls."""
        found = [template for name, template in _TEMPLATES.items() if name in self.calls]
        return (*(["math"] if self.math else []), *dict.fromkeys(found))

    @property
    def headers(self) -> frozenset[str]:
        """The standard headers needed besides those that are always included."""
        found = {header for header, names in _HEADERS.items() if names & self.calls}
        return frozenset(found | ({"cmath"} if self.math else set()))


def plan_native_helpers(texts: Iterable[str]) -> Helpers:
    """The helpers that C++ functions need, given their texts."""
    calls = set(_CALL.findall(_COMMENT.sub("", "\n".join(texts))))
    for name, others in _CALLS.items():
        calls |= others if name in calls else set()
    return Helpers(frozenset(calls))
