"""The laws by the names that commands take."""

from __future__ import annotations

from collections.abc import Callable

from archc.analysis.laws.chinchilla import EPOCH, HOFFMANN_ROUNDED, HOFFMANN_TEX
from archc.analysis.laws.kaplan import KAPLAN
from archc.analysis.laws.law import Law
from archc.analysis.laws.routed import KRAJEWSKI_DENSE, clark, krajewski, ludziejewski
from archc.errors import ArchcError, did_you_mean

DEFAULT = EPOCH.name

DENSE: dict[str, Law] = {
    law.name: law for law in (EPOCH, HOFFMANN_TEX, HOFFMANN_ROUNDED, KAPLAN, KRAJEWSKI_DENSE)
}
GRANULAR: dict[str, Callable[[float], Law]] = {"krajewski": krajewski}
ROUTED: dict[str, Callable[[float], Law]] = {"clark": clark, "ludziejewski": ludziejewski}
NAMES = (*DENSE, *GRANULAR, *ROUTED)


def law_named(name: str, experts: float | None = None, granularity: float | None = None) -> Law:
    """The law of a name, for a number of experts or a granularity where it depends on one.

    Raises `ArchcError` for a name that is none, and for a number that is missing or not at least 1.
    """
    if name in DENSE:
        return DENSE[name]
    if name in GRANULAR:
        return GRANULAR[name](_given(name, "granularity", granularity))
    if name in ROUTED:
        return ROUTED[name](_given(name, "experts", experts))
    hint = did_you_mean(name, NAMES) or f"the fits are {', '.join(NAMES)}"
    raise ArchcError(f"no fit `{name}`; {hint}")


def _given(name: str, what: str, value: float | None) -> float:
    if value is None:
        raise ArchcError(f"the law `{name}` depends on the {what}: give --{what}")
    if value < 1:
        raise ArchcError(f"--{what} must be at least 1, not {value:g}")
    return value
