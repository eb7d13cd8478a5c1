"""Which layers see a sliding window only, and which do not rotate: patterns over the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from archc.interop.config import Config
from archc.interop.family import Known, Reader, Setting

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Windows:
    """The window, None where no layer has one, and for each layer whether it has it."""

    window: int | None
    windowed: tuple[bool, ...]


def window(missing: int | None) -> Reader:
    """One window for all layers: the key `sliding_window`, where null means none."""
    return Setting(lambda config, _known: _window(config, missing), _write_window)


def _write_window(value: int | None, _known: Known) -> dict[str, Any]:
    return {"sliding_window": None if value is None else int(value)}


def _window(config: Config, missing: int | None) -> int | None:
    if config.get("sliding_window", missing) is None:
        return None
    return config.whole("sliding_window", missing or 1)


def windowed(usual: Callable[[int, Known], bool]) -> Reader:
    """For each layer whether it has the window, None where `layer_types` says no other than is usual."""

    def read(config: Config, known: Known) -> tuple[bool, ...] | None:
        count, wanted = known["layers"], f'"{FULL}" or "{SLIDING}"'
        types = config.items("layer_types", count, (SLIDING, FULL).__contains__, wanted)
        found = None if types is None else tuple(each == SLIDING for each in types)
        return None if found == tuple(usual(layer, known) for layer in range(count)) else found

    def write(value: tuple[bool, ...] | None, known: Known) -> dict[str, Any]:
        return _write_types(value or [usual(layer, known) for layer in range(known["layers"])])

    return Setting(read, write)


def _write_types(windowed: Sequence[bool]) -> dict[str, Any]:
    """For each layer whether it has the window."""
    return {"layer_types": [SLIDING if each else FULL for each in windowed]}


def write_rotated(value: tuple[bool, ...] | None, _known: Known) -> dict[str, Any]:
    """For each layer whether it rotates, where a model says it."""
    return {} if value is None else {"no_rope_layers": [int(each) for each in value]}


def every_other(layer: int, _known: Known) -> bool:
    """Windows on every other layer, from the first."""
    return layer % 2 == 0


def read_windows(config: Config, missing: int | None, usual: Sequence[bool]) -> Windows:
    """The windows of a family whose layers differ.

    `missing` is the class's default window, `usual` which layers have it where `layer_types` does not say.
    """
    if not config.flag("use_sliding_window", False):
        config.get("sliding_window")  # which some classes write as 0 then
        return _read_listed(config, None, usual)
    return _read_listed(config, _window(config, missing), usual)


def used_windows(missing: int | None, usual: Callable[[Config, Known], Sequence[bool]]) -> dict[str, Reader]:
    """The window, where one is in use, and for each layer whether it has it; both None where no layer has.

    `missing` is the class's default window, `usual` which layers have it where `layer_types` does not say.
    """

    def both(config: Config, known: Known) -> Windows:
        return read_windows(config, missing, usual(config, known))

    def write(value: int | None, known: Known) -> dict[str, Any]:
        return _write_used(value, known["windowed"] or (False,) * known["layers"])

    return {
        "window": Setting(lambda config, known: both(config, known).window, write),
        "windowed": _of_each(both),
    }


def _of_each(both: Callable[[Config, Known], Windows]) -> Reader:
    """For each layer whether it has the window, None where there is none; the list is read either way."""

    def read(config: Config, known: Known) -> tuple[bool, ...] | None:
        windowed = both(config, known).windowed
        return windowed if known["window"] is not None else None

    return read


def _write_used(window: int | None, windowed: Sequence[bool]) -> dict[str, Any]:
    """The window, if one is in use, and which layers have it."""
    if window is None:
        return {"use_sliding_window": False, "sliding_window": None}
    return {"use_sliding_window": True, "sliding_window": int(window), **_write_types(windowed)}


def _read_listed(config: Config, size: int | None, usual: Sequence[bool]) -> Windows:
    """Which layers have a window of a size, by `layer_types` or as is usual; none where there is no size."""
    types = config.items("layer_types", len(usual), (SLIDING, FULL).__contains__, f'"{FULL}" or "{SLIDING}"')
    if types is None:
        windowed = tuple(size is not None and each for each in usual)
    else:
        windowed = tuple(each == SLIDING for each in types)
    if any(windowed) and size is None:
        config.complain("layer_types", "it has sliding layers, but there is no sliding_window in use")
    return Windows(size if any(windowed) else None, windowed)


def listed_windows(missing: int, usual: Callable[[int, Config], bool]) -> dict[str, Setting]:
    """The window, and for each layer whether it has it; both None where no layer has.

    `missing` is the class's default window, `usual` which layers have it where `layer_types` does not say.
    """

    def both(config: Config, known: Known) -> Windows:
        pattern = [usual(layer, config) for layer in range(known["layers"])]
        return _read_listed(config, _window(config, missing), pattern)

    def write(value: tuple[bool, ...] | None, known: Known) -> dict[str, Any]:
        return _write_types(value or (False,) * known["layers"])

    return {
        "window": Setting(lambda config, known: both(config, known).window, _write_window),
        "windowed": Setting(_of_each(both), write),
    }


def by_period(layer: int, config: Config) -> bool:
    """Windows on all layers but the last of each period, which a key says."""
    return (layer + 1) % config.whole("sliding_window_pattern", 4) != 0


def qwen_windows(first: int = 28) -> dict[str, Reader]:
    """Windows of the layers from `max_window_layers` on, by default from the `first`, in Qwen's arches.

    `full_layers` says which layers have no window, or, where that is not enough, `windowed` layer by layer.
    """

    def last_layers(config: Config, known: Known) -> Windows:
        start = config.whole("max_window_layers", first, least=0)
        return read_windows(config, 4096, [layer >= start for layer in range(known["layers"])])

    return {
        "window": Setting(lambda config, known: last_layers(config, known).window, _write_last_layers),
        "full_layers": lambda config, known: _full_layers(last_layers(config, known).windowed),
        "windowed": lambda config, known: _listed(last_layers(config, known).windowed),
    }


def _starts_full(windowed: Sequence[bool]) -> bool:
    """Whether layers with a window come after all those without."""
    return list(windowed) == sorted(windowed)


def _write_last_layers(value: int | None, known: Known) -> dict[str, Any]:
    """The window, and the layers that have it, one by one."""
    usual = [layer >= known["full_layers"] for layer in range(known["layers"])]
    return _write_used(value, known["windowed"] or usual)


def _full_layers(windowed: tuple[bool, ...]) -> int:
    return windowed.count(False) if _starts_full(windowed) else len(windowed)


def _listed(windowed: tuple[bool, ...]) -> tuple[bool, ...] | None:
    return None if _starts_full(windowed) else windowed
