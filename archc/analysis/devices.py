"""Devices: the limits that a roofline needs.  Some come with archc, others from a file of the same form."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archc.analysis.host import host
from archc.errors import ArchcError, did_you_mean

HOST = "cpu"
_KNOWN = Path(__file__).with_name("devices.toml")
_NUMBERS = ("memory", "bandwidth", "vector", "launch", "tile")


@dataclass(frozen=True)
class Device:
    """What bounds a kernel.

    memory:    bytes
    bandwidth: bytes a second
    matrix:    FLOP/s of matrix products, by dtype
    vector:    FLOP/s of everything else
    launch:    seconds that a kernel costs besides its work
    tile:      rows and columns that a matrix product's parts should be multiples of
    source:    where the figures are from
    """

    key: str
    name: str
    memory: float
    bandwidth: float
    matrix: Mapping[str, float]
    vector: float
    launch: float
    tile: int
    source: str

    def matrix_peak(self, dtype: str) -> float:
        """FLOP/s of matrix products in a dtype; raises `ArchcError` where it is not known."""
        if dtype not in self.matrix:
            known = ", ".join(self.matrix)
            raise ArchcError(f"{self.name} has no figure for matrix products in {dtype}, only for {known}")
        return self.matrix[dtype]


def find_device(key: str, file: Path | None = None) -> Device:
    """A device by its key, from a file or from those that come with archc; raises `ArchcError`."""
    tables = {**_read(_KNOWN), **(_read(file) if file else {})}
    if key in tables:
        return _device(key, tables[key], file or _KNOWN)
    if key == HOST:
        return Device(key=HOST, **host())
    known = [*tables, HOST]
    raise ArchcError(f"no device `{key}`; {did_you_mean(key, known) or 'known are ' + ', '.join(known)}")


def _read(path: Path) -> dict[str, Any]:
    """The tables of a TOML or JSON file."""
    try:
        text = path.read_text(encoding="utf-8")
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ArchcError(f"cannot read the device file {path}: {reason}") from None
    except (ValueError, RecursionError) as error:
        raise ArchcError(f"the device file {path} is broken: {error}") from None
    if not isinstance(tables, dict):
        raise ArchcError(f"the device file {path} must hold a table for each device")
    return tables


def _device(key: str, table: Any, path: Path) -> Device:
    def fault(reason: str) -> ArchcError:
        return ArchcError(f"device `{key}` in {path}: {reason}")

    if not isinstance(table, dict):
        raise fault("must be a table")
    fields = {"name", "source", "matrix", *_NUMBERS}
    if missing := sorted(fields - {"launch", "tile", "name", "source"} - set(table)):
        raise fault(f"{', '.join(missing)} missing")
    if unknown := sorted(set(table) - fields):
        raise fault(f"unknown `{unknown[0]}`; {did_you_mean(unknown[0], fields)}".rstrip("; "))
    given = {"name": key, "source": str(path), "launch": 0.0, "tile": 1, **table}
    matrix = given["matrix"]
    if not isinstance(matrix, dict) or not matrix:
        raise fault("matrix must be a table of FLOP/s by dtype")
    for name, value in [*((n, given[n]) for n in _NUMBERS), *((f"matrix.{n}", v) for n, v in matrix.items())]:
        if not _is_number(value) or value < 0 or (value == 0 and name != "launch"):
            raise fault(f"{name} must be a positive number, not {value!r}")
    if not all(isinstance(given[name], str) for name in ("name", "source")):
        raise fault("name and source must be strings")
    return Device(key=key, **{**given, "tile": int(given["tile"])})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < float("inf")
