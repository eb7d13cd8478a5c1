"""Rotary positions of a config, in both dialects, as the language's `rope(...)`.

transformers 5 holds all in `rope_parameters`; before, `rope_theta` stood beside an optional `rope_scaling`.
"""

from __future__ import annotations

from collections.abc import Callable

from archc.interop.config import Config
from archc.interop.family import Known, Reader
from archc.ir.attributes import Width
from archc.ir.ops.position import LinearScaling, Llama3, Rope, Scaling


def rotary(theta: float, context: int) -> Reader:
    """Rotary positions; the class's defaults are `theta`, and `context` of max_position_embeddings."""

    def read(config: Config, _known: Known) -> Rope:
        length = config.whole("max_position_embeddings", context)
        outer = config.number("rope_theta", theta, null=theta)
        given = _parameters(config)
        base = given.number("rope_theta", outer, null=outer)
        for section in (config, given):
            _check_whole_head(section)
        return Rope(theta=base, scaling=_scaling(given, length))

    return read


def _parameters(config: Config) -> Config:
    """The object that holds the parameters, in either dialect."""
    newer, older = config.section("rope_parameters"), config.section("rope_scaling")
    if config.get("rope_parameters") and config.get("rope_scaling"):
        config.complain("rope_scaling", "rope_parameters is there too, and it is unclear which holds")
        newer.read_all()
    return older if config.get("rope_scaling") else newer


def _check_whole_head(section: Config) -> None:
    if section.get("partial_rotary_factor") not in (None, 1):
        section.complain("partial_rotary_factor", "supported is only 1.0, since the arch rotates whole heads")


def _scaling(given: Config, length: int) -> Scaling | None:
    """How frequencies are stretched; some files give the type by its older name, or by both."""
    before = len(given.problems)
    kind = given.choice("rope_type", given.choice("type", "default", SCALINGS), SCALINGS)
    if len(given.problems) > before:
        given.read_all()  # what belongs to another type need not be told key by key
    return SCALINGS[kind](given, length)


def _unscaled(_given: Config, _length: int) -> None:
    return None


def _linear(given: Config, _length: int) -> Scaling:
    return LinearScaling(factor=given.number("factor"))


def _llama3(given: Config, length: int) -> Scaling:
    low, high = given.number("low_freq_factor"), given.number("high_freq_factor")
    if low >= high:
        given.complain("high_freq_factor", f"must be above low_freq_factor, which is {low:g}")
    original = given.whole("original_max_position_embeddings", length)
    return Llama3(factor=given.number("factor"), low=low, high=high, original=Width(original))


# What each type of rope reads.  Those of transformers that are not here are refused by name.
SCALINGS: dict[str, Callable[[Config, int], Scaling | None]] = {
    "default": _unscaled,
    "linear": _linear,
    "llama3": _llama3,
}
