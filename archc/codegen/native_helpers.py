"""Which helpers native code has: the functions that its kernels and layers call, and what those call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_COMMENT = re.compile(r"//.*")
_CALL = re.compile(r"(?:\w+::)?\w+(?=[(<])")
# What helpers call themselves: each before those that it calls.
_CALLS = {
    "layer_norm": {"rms_norm", "sum_of"},
    "rms_norm": {"sum_of_squares", "std::sqrt"},
    "softmax": {"math::exp", "std::max"},
    "math::sigmoid": {"math::exp"},
}
# The templates of helpers, in templates/native, by functions that they hold.
_TEMPLATES = {
    "sum_of": "sums",
    "sum_of_squares": "sums",
    "rms_norm": "rows",
    "softmax": "softmax",
    "part_rows": "part",
}
# What headers of the standard library are for; all of `math` is for <cmath>.
_HEADERS = {
    "cmath": {"std::sqrt", "std::tanh"},
    "initializer_list": {"math::exp"},
}


@dataclass(frozen=True)
class Helpers:
    """calls: the functions that are called, with their namespaces; math: those of `math`, without it."""

    calls: frozenset[str]

    @property
    def math(self) -> frozenset[str]:
        return frozenset(name.removeprefix("math::") for name in self.calls if name.startswith("math::"))

    @property
    def templates(self) -> tuple[str, ...]:
        """Those with a function that is called, in an order in which each stands behind what it calls."""
        found = [template for name, template in _TEMPLATES.items() if name in self.calls]
        return (*(["math"] if self.math else []), *dict.fromkeys(found))

    @property
    def headers(self) -> frozenset[str]:
        """Those of the standard library that some functions need, beside what all do."""
        found = {header for header, names in _HEADERS.items() if names & self.calls}
        return frozenset(found | ({"cmath"} if self.math else set()))


def plan_native_helpers(texts: Iterable[str]) -> Helpers:
    """The helpers of functions in C++, given their texts."""
    calls = set(_CALL.findall(_COMMENT.sub("", "\n".join(texts))))
    for name, others in _CALLS.items():
        calls |= others if name in calls else set()
    return Helpers(frozenset(calls))
