"""Functions that kernels and their launches call: each has a template of its name."""

from __future__ import annotations

from archc.codegen.names import mentions

MATH = ("log1p", "tanh")  # which Triton lacks, or has less accurate
_HELPERS = (
    *MATH,
    "batch_stride",
    "flash_strides",
    "take_keys",
    "chosen_keys",
    "wide_dot",
    "inverse_of_one_plus",
)


def helpers_in(text: str) -> list[str]:
    """Those that a text calls."""
    return [name for name in _HELPERS if any(mentions(text, x, r"\(") for x in (name, f"_{name}"))]
