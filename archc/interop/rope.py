"""Rotary positions of a config, in both dialects, as the language's `rope(...)`.

transformers 5 holds all in `rope_parameters`; before, `rope_theta` stood beside an optional `rope_scaling`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from archc.interop.config import Config
from archc.interop.family import Known, Reader, Setting
from archc.interop.windows import FULL, SLIDING
from archc.ir.attributes import Width
from archc.ir.ops.position import Rope
from archc.ir.ops.scaling import Dynamic, LinearScaling, Llama3, Longrope, Scaling, Yarn

# What share of each head's values is rotated.
_SHARE = "partial_rotary_factor"
# How axes share out the frequencies, where there are several.
_SECTIONS = "mrope_section"

Pairing: TypeAlias = Literal["half", "interleaved"]


@dataclass(frozen=True)
class Rotated:
    """What a scaling depends on besides its own keys.

    context:  max_position_embeddings
    original: the context before the frequencies were scaled, where the config says it outside of them
    width:    how many values of a head are rotated
    """

    context: int
    original: int | None
    width: int

    def original_of(self, given: Config) -> Width:
        """The context before scaling: what stands outside of the object with the scaling goes first."""
        inner = given.whole("original_max_position_embeddings", self.context, null=self.context)
        return Width(self.original or inner)

    def factor_of(self, given: Config) -> float:
        """The factor, which may follow from both contexts."""
        if given.get("factor") is not None:
            return given.number("factor")
        return self.context / self.original_of(given)


def rotary(theta: float, context: int, pairing: Pairing = "half", width: str = "head_dim") -> Setting:
    """Rotary positions; the class's defaults are `theta`, and `context` of max_position_embeddings.

    `pairing` is the class's own; `width` the parameter that says how many values of a head are rotated.
    """

    def read(config: Config, known: Known) -> Rope:
        outer = config.number("rope_theta", theta, null=theta)
        given = rope_section(config)
        for section in (config, given):
            _check_whole_head(section)
        return _read(config, given, outer, context, pairing, known[width])

    return Setting(read, _write)


def partly_rotary(
    theta: float,
    context: int,
    share: float,
    pairing: Pairing = "half",
    width: str = "",
    base_key: str = "rope_theta",
    share_key: str = _SHARE,
) -> Setting:
    """The same where a share of each head's values is rotated, the first; `share` is the class's default.

    `width`: a key of older configs that says how many values those are, where no share is given.
    `base_key`, `share_key`: what older configs call theta and the share.
    """

    def read(config: Config, known: Known) -> Rope:
        outer = config.number(base_key, theta, null=theta)
        given, head_dim = rope_section(config), known["head_dim"]
        usual = int(head_dim * share)
        usual = config.whole(width, usual, null=usual) if width else usual
        older = config.number(share_key, usual / head_dim, null=usual / head_dim)
        rotated = int(head_dim * given.number(_SHARE, older, null=older))
        if rotated < 2 or rotated % 2 or rotated > head_dim:
            section, key = (given, _SHARE) if given.has(_SHARE) else (config, share_key)
            section.complain(
                width if width and not section.has(key) else key,
                f"must leave an even part of a head's {head_dim} values",
            )
        rope = _read(config, given, outer, context, pairing, rotated)
        return replace(rope, width=None if rotated == head_dim else Width(rotated))

    def write(rope: Rope, known: Known) -> dict[str, Any]:
        written, share = _write(rope, known), (rope.width or known["head_dim"]) / known["head_dim"]
        parameters = {**written["rope_parameters"], _SHARE: float(share)}
        return {**written, "rope_parameters": parameters}

    return Setting(read, write)


def along_axes(rotary: Setting) -> Setting:
    """The same along three axes of images and films, which share out the frequencies.

    A token of text stands at one place along all three, so that its rotation does not depend on their shares.
    """

    def read(config: Config, known: Known) -> Any:
        given = rope_section(config)
        for key in (_SECTIONS, "mrope_interleaved"):
            given.get(key)
        return rotary.read(config, known)

    return Setting(read, rotary.write)


def scaled(rotary: Setting, usual: Scaling) -> Setting:
    """The same, with the scaling of the class's defaults where the config does not speak of them."""

    def read(config: Config, known: Known) -> Rope:
        rope = rotary.read(config, known)
        assert isinstance(rope, Rope)
        return rope if tells_rope(config) else replace(rope, scaling=usual)

    return Setting(read, rotary.write)


def tells_rope(config: Config) -> bool:
    """Whether a config has parameters of rotary positions, in either dialect."""
    return any(config.get(key) is not None for key in ("rope_parameters", "rope_scaling"))


def rotary_by_layers(
    theta: float, local_theta: float, context: int, local_key: str | None = "rope_local_base_freq"
) -> dict[str, Reader]:
    """Rotary positions of layers with a window, `local_rope`, and of the others, `rope`.

    The older dialect scales the frequencies of the latter only; `local_key` is its theta of the former.
    """

    def read_local(config: Config, known: Known) -> Rope:
        given = config.section("rope_parameters").section(SLIDING)
        outer = config.number(local_key, local_theta, null=local_theta) if local_key else local_theta
        _check_whole_head(given)
        return _read(config, given, outer, context, "half", known["head_dim"])

    def read(config: Config, known: Known) -> Rope:
        outer = config.number("rope_theta", theta, null=theta)
        given = rope_section(config, FULL)
        for section in (config, given):
            _check_whole_head(section)
        return _read(config, given, outer, context, "half", known["head_dim"])

    return {"local_rope": read_local, "rope": Setting(read, _write_by_layers)}


def _read(config: Config, given: Config, theta: float, context: int, pairing: Pairing, width: int) -> Rope:
    """What an object says; `theta` and `context` where it and the config do not."""
    length = config.whole("max_position_embeddings", context)
    key = "original_max_position_embeddings"
    original = None if config.get(key) is None else config.whole(key, length)
    base = given.number("rope_theta", theta, null=theta)
    scaling = _scaling(given, Rotated(length, original, width))
    return Rope(theta=base, pairing=pairing, scaling=scaling)


def rope_section(config: Config, layers: str = "") -> Config:
    """The object that holds the parameters, in either dialect: in the newer that of a type of layers."""
    newer, older = config.section("rope_parameters"), config.section("rope_scaling")
    newer = newer.section(layers) if layers else newer
    if config.get("rope_parameters") and config.get("rope_scaling"):
        config.complain("rope_scaling", "rope_parameters is there too, and it is unclear which holds")
        newer.read_all()
    return older if config.get("rope_scaling") else newer


def _check_whole_head(section: Config) -> None:
    if section.get(_SHARE) not in (None, 1):
        section.complain(_SHARE, "supported is only 1.0, since the arch rotates whole heads")


def _scaling(given: Config, rotated: Rotated) -> Scaling | None:
    """How frequencies are stretched; some files give the type by its older name, or by both."""
    before = len(given.problems)
    kinds = {**SCALINGS, "mrope": _unscaled} if given.has(_SECTIONS) else SCALINGS
    kind = given.choice("rope_type", given.choice("type", "default", kinds), kinds)
    if len(given.problems) > before:
        given.read_all()  # what belongs to another type need not be told key by key
    return kinds[kind](given, rotated)


def _unscaled(_given: Config, _rotated: Rotated) -> None:
    return None


def _linear(given: Config, _rotated: Rotated) -> Scaling:
    return LinearScaling(factor=given.number("factor"))


def _dynamic(given: Config, rotated: Rotated) -> Scaling:
    """Its original context is max_position_embeddings, whatever else the config says."""
    return Dynamic(factor=given.number("factor"), original=Width(rotated.context))


def _llama3(given: Config, rotated: Rotated) -> Scaling:
    low, high = given.number("low_freq_factor"), given.number("high_freq_factor")
    if low > high:
        given.complain("high_freq_factor", f"must not be below low_freq_factor, which is {low:g}")
    return Llama3(factor=given.number("factor"), low=low, high=high, original=rotated.original_of(given))


def _yarn(given: Config, rotated: Rotated) -> Scaling:
    fast, slow = (_given(given, key) for key in ("beta_fast", "beta_slow"))
    given.get("finetuned")  # where the scaling comes from, of which nothing follows
    scaling = Yarn(
        factor=rotated.factor_of(given),
        original=rotated.original_of(given),
        fast=fast or Yarn.fast,
        slow=slow or Yarn.slow,
        truncate=given.flag("truncate", True),
        attention_factor=_given(given, "attention_factor"),
        mscale=_given(given, "mscale"),
        mscale_all_dim=_given(given, "mscale_all_dim"),
    )
    if scaling.fast < scaling.slow:
        given.complain("beta_fast", f"must not be below beta_slow, which is {scaling.slow:g}")
    return scaling


def _longrope(given: Config, rotated: Rotated) -> Scaling:
    return Longrope(
        short=_factors(given, "short_factor", rotated.width // 2),
        long=_factors(given, "long_factor", rotated.width // 2),
        original=rotated.original_of(given),
        factor=rotated.factor_of(given),
        attention_factor=_given(given, "attention_factor"),
    )


def _given(given: Config, key: str) -> float | None:
    """A number above 0, or None where there is none; 0 stands for none, too."""
    return given.number(key) if given.get(key) else None


def _factors(given: Config, key: str, pairs: int) -> tuple[float, ...]:
    """A list with a number for each pair of a head's values."""
    values = given.get(key)
    numbers = [v for v in values if type(v) in (int, float) and v > 0] if isinstance(values, list) else []
    if len(numbers) == pairs and numbers == values:
        return tuple(map(float, numbers))
    given.complain(
        key, f"must be a list with a number above 0 for each of the {pairs} pairs of a head's values"
    )
    return (1.0,) * pairs


# What each type of rope reads.  Those of transformers that are not here are refused by name.
SCALINGS: dict[str, Callable[[Config, Rotated], Scaling | None]] = {
    "default": _unscaled,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


_FACTOR = {"factor": "factor"}
_ORIGINAL = {"original": "original_max_position_embeddings"}
_MAGNITUDE = {"attention_factor": "attention_factor"}

# The type of each scaling, and the keys that hold its fields.
WRITTEN: dict[type[Scaling], tuple[str, dict[str, str]]] = {
    LinearScaling: ("linear", _FACTOR),
    Dynamic: ("dynamic", _FACTOR),
    Llama3: ("llama3", {**_FACTOR, "low": "low_freq_factor", "high": "high_freq_factor", **_ORIGINAL}),
    Yarn: (
        "yarn",
        {
            **_FACTOR,
            **_ORIGINAL,
            "fast": "beta_fast",
            "slow": "beta_slow",
            "truncate": "truncate",
            **_MAGNITUDE,
            "mscale": "mscale",
            "mscale_all_dim": "mscale_all_dim",
        },
    ),
    Longrope: (
        "longrope",
        {"short": "short_factor", "long": "long_factor", **_ORIGINAL, **_FACTOR, **_MAGNITUDE},
    ),
}


def _write(rope: Rope, _known: Known) -> dict[str, Any]:
    """The object of transformers 5 that says the same; beside it the context, which is dynamic NTK's own."""
    outside = (
        {"max_position_embeddings": int(rope.scaling.original)} if isinstance(rope.scaling, Dynamic) else {}
    )
    return {"rope_parameters": _written(rope), **outside}


def _write_by_layers(rope: Rope, known: Known) -> dict[str, Any]:
    """The same, with an object for each type of layers."""
    both = {FULL: _written(rope), SLIDING: _written(known["local_rope"])}
    return {**_write(rope, known), "rope_parameters": both}


def _written(rope: Rope) -> dict[str, Any]:
    parameters: dict[str, Any] = {"rope_theta": float(rope.theta), "rope_type": "default"}
    if rope.scaling is not None:
        parameters["rope_type"], keys = WRITTEN[type(rope.scaling)]
        values = {key: getattr(rope.scaling, name) for name, key in keys.items()}
        parameters.update((key, _plain(value)) for key, value in values.items() if value is not None)
    return parameters


def _plain(value: Any) -> Any:
    """A value without what the language knows of its origin."""
    if isinstance(value, tuple):
        return [float(each) for each in value]
    return value if isinstance(value, bool) else int(value) if isinstance(value, int) else float(value)
