"""What a family of Hugging Face models is to archc: a table from config keys to an arch's parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from archc.interop.config import MAX_SIZE, Config, shown
from archc.interop.inert import FIXED, INERT
from archc.ir.op import Op
from archc.ir.records import Record, Symbol

# What an arch's parameter may be set to; a `Symbol` is a bare word of the language, such as `silu`.
Value: TypeAlias = int | float | bool | Symbol | Record | tuple[bool, ...] | None

# The parameters read so far, by name, for those that follow from them.
Known: TypeAlias = Mapping[str, Any]

# Reads a parameter from the keys that it depends on.
Reader: TypeAlias = Callable[[Config, Known], Value]

# The other way: the keys that say a parameter's value, which is one of a lowered model.
Writer: TypeAlias = Callable[[Any, Known], Mapping[str, Any]]


@dataclass(frozen=True)
class Setting:
    """A reader that knows the way back."""

    read: Reader
    write: Writer

    def __call__(self, config: Config, known: Known) -> Value:
        return self.read(config, known)


# The language's names for the functions that configs name.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}

MAX_LAYERS = 10_000


@dataclass(frozen=True)
class Family:
    """A model type that can be imported.

    spec, arch:     the standard spec to import and the arch in it
    architectures:  the classes whose checkpoints the arch's paths name
    parameters:     for each parameter of the arch, in its order, how it is read; each reader states the
                    default of the config's class for a key that is missing
    fixed:          keys that must have one of some values, and why
    inert:          keys that change nothing of what is computed
    quantised:      how published checkpoints may be quantised: "fp8" in blocks of 128 x 128, or "mxfp4"
    """

    model_type: str
    spec: str
    arch: str
    architectures: tuple[str, ...]
    parameters: Mapping[str, Reader]
    fixed: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    quantised: str = ""

    def read(self, config: Config) -> dict[str, Value]:
        """The arch's parameters; what is wrong with the config is noted in it, unknown keys included."""
        values: dict[str, Value] = {}
        for name, reader in self.parameters.items():
            values[name] = reader(config, values)
        config.end_of_meaning()
        self._check_architectures(config)
        self._check_quantisation(config)
        for key, (supported, why) in {**FIXED, **self.fixed}.items():
            if key not in self.inert:
                self._check_fixed(config, key, supported, why)
        for key in (*self.inert, *(key for keys in INERT.values() for key in keys)):
            config.get(key)
        config.check_all_read(f"type {self.model_type}")
        return values

    def write(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A config that says the parameters.

        What a reader without a way back reads is left to the class's default: read the config to be sure.
        """
        config: dict[str, Any] = {"model_type": self.model_type, "architectures": [self.architectures[0]]}
        for name, reader in self.parameters.items():
            if isinstance(reader, Setting):
                config.update(reader.write(values[name], values))
        return config

    def _check_architectures(self, config: Config) -> None:
        given = config.get("architectures") or list(self.architectures)
        if not isinstance(given, list) or any(name not in self.architectures for name in given):
            config.complain("architectures", f"supported is {' or '.join(self.architectures)}")

    def _check_quantisation(self, config: Config) -> None:
        key = "quantization_config"
        given = config.get(key)
        if given is None:
            return
        known = isinstance(given, dict) and given.get("quant_method") == self.quantised
        if not known or given.get("weight_block_size", [128, 128]) != [128, 128]:
            read = {"fp8": "fp8 weights in blocks of 128 x 128", "mxfp4": "mxfp4 weights"}
            also = f" or {read[self.quantised]}" if self.quantised else ""
            instead = "save the weights as bfloat16, and a config without this key, first"
            config.complain(key, f"supported is only null{also}, since no others are read: {instead}")

    def _check_fixed(self, config: Config, key: str, supported: tuple[Any, ...], why: str) -> None:
        value = config.get(key, supported[0])
        if not any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in supported):
            values = " or ".join(shown(each) for each in supported if each is not None or len(supported) == 1)
            config.complain(key, f"supported is only {values}, {why}")


def whole(key: str, missing: int) -> Reader:
    """A whole number from 1."""
    return Setting(lambda config, _known: config.whole(key, missing), lambda value, _known: {key: int(value)})


def layers(key: str, missing: int) -> Reader:
    """How many layers there are."""

    def read(config: Config, _known: Known) -> int:
        return config.whole(key, missing, most=MAX_LAYERS)

    return Setting(read, lambda value, _known: {key: int(value)})


def either(key: str, other: str, missing: int, most: int = MAX_SIZE) -> Reader:
    """A whole number from 1 that two keys may say; both must say the same."""

    def read(config: Config, _known: Known) -> int:
        if config.get(other) is None:
            return config.whole(key, missing, most=most)
        value = config.whole(other, missing, most=most)
        if config.get(key, value) != value:
            config.complain(key, f'must be what "{other}" says, {value}')
        return value

    return Setting(read, lambda value, _known: {key: int(value)})


def key_value_heads(missing: int | None = None) -> Reader:
    """As many as there are heads where the key holds null, or is missing and the class states no number."""

    def read(config: Config, known: Known) -> int:
        heads: int = known["heads"]
        return config.whole("num_key_value_heads", missing or heads, null=heads)

    return Setting(read, lambda value, _known: {"num_key_value_heads": int(value)})


def _read_head_dim(config: Config, known: Known) -> int:
    default: int = max(1, known["d"] // known["heads"])
    return config.whole("head_dim", default, null=default)


# The width divided among the heads, rounded down, unless the key says otherwise.
head_dim = Setting(_read_head_dim, lambda value, _known: {"head_dim": int(value)})


def wide_head_dim(missing: int) -> Reader:
    """The class's default where the key is missing; the width divided among the heads where it holds null."""

    def read(config: Config, known: Known) -> int:
        return _read_head_dim(config, known) if config.has("head_dim") else missing

    return Setting(read, head_dim.write)


def number(key: str, missing: float) -> Reader:
    """A number above 0."""
    return Setting(
        lambda config, _known: config.number(key, missing), lambda value, _known: {key: float(value)}
    )


def number_or_none(key: str, missing: float | None) -> Reader:
    """A number above 0, or null for none."""

    def read(config: Config, _known: Known) -> float | None:
        return None if config.get(key, missing) is None else config.number(key, missing)

    return Setting(read, lambda value, _known: {key: None if value is None else float(value)})


def query_scale(key: str, missing: int) -> Reader:
    """The factor of the scores, of which the key holds the inverse square."""
    return Setting(
        lambda config, _known: config.whole(key, missing) ** -0.5,
        lambda value, _known: {key: round(float(value) ** -2)},
    )


def constant(value: Value) -> Reader:
    """What the config's class has always, and no key says."""
    return Setting(lambda _config, _known: value, lambda _value, _known: {})


def token(key: str, missing: int) -> Reader:
    """The number of a token."""
    return Setting(
        lambda config, _known: config.whole(key, missing, least=0), lambda value, _known: {key: int(value)}
    )


def flag(key: str, missing: bool) -> Reader:
    """True or false."""
    return Setting(lambda config, _known: config.flag(key, missing), lambda value, _known: {key: value})


def activation(key: str, missing: str) -> Setting:
    """An activation, as the language calls it."""

    def read(config: Config, _known: Known) -> Symbol:
        return Symbol(ACTIVATIONS[config.choice(key, missing, ACTIVATIONS)])

    def write(value: Op, _known: Known) -> dict[str, Any]:
        return {key: next(theirs for theirs, ours in ACTIVATIONS.items() if ours == value.name)}

    return Setting(read, write)
