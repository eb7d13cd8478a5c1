"""Configurations that were measured on a GPU, and where: what `archc tune` writes and a build reads.

The table is data: archc/tuned.json, or a file of one's own, whose entries come first.  A linear map that no
entry is about is PyTorch's; how one in the kernel of the op before it is divided follows from its sizes then.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from archc.errors import ArchcError
from archc.files import write_whole

DTYPES = ("bfloat16", "float16", "float32")
SHIPPED = Path(__file__).with_suffix(".json")
MOST_ROWS = 16  # of a linear map that the kernels are for: those of one tile of a tensor core
ROWS = (1, MOST_ROWS)  # what is measured: one row, and a whole tile, which fewer rows cost as much as
_TEXT = re.compile(
    r"[\w .,+:()/-]{1,200}"
)  # names of GPUs, releases and ops: they become part of generated comments
LAUNCH = 2.0  # microseconds that a kernel of a few KB takes, in a row of others
MARGIN = 0.98  # of the library's time: what is nearer to it is noise
_MOST_VALUES = 1 << 20  # of a tile, in Triton
_MOST_WARPS, _MOST_STAGES = 16, 16
_DOT = 16  # outputs and inputs that a tile has at least where tensor cores compute it


@dataclass(frozen=True)
class Tile:
    """How a linear map is divided: outputs of a program, inputs at a time, warps, stages of the loads."""

    outputs: int
    inputs: int
    warps: int
    stages: int

    def __str__(self) -> str:
        return f"{self.outputs} x {self.inputs}, {self.warps} warps, {self.stages} stages"

    def fault(self, rows: int) -> str:
        """Why no kernel can have this tile for so many rows; nothing for one that can be."""
        if any(size & (size - 1) for size in (self.outputs, self.inputs, self.warps)):
            return "outputs, inputs and warps must be powers of two"
        if self.outputs * self.inputs > _MOST_VALUES:
            return f"a tile has at most {_MOST_VALUES:,} values"
        if self.warps > _MOST_WARPS or self.stages > _MOST_STAGES:
            return f"there are at most {_MOST_WARPS} warps and {_MOST_STAGES} stages"
        if rows > 1 and min(self.outputs, self.inputs) < _DOT:
            return f"for {rows} rows it needs at least {_DOT} outputs and inputs"
        return ""


@dataclass(frozen=True)
class Problem:
    """A linear map of `rows` rows by a weight [outputs, inputs] of a dtype.

    after: the fused op that makes what it reads, where one kernel computes both; then `kept` where others
        read that too, and `wide` where the product is float32
    """

    rows: int
    outputs: int
    inputs: int
    dtype: str = "bfloat16"
    after: str = ""

    @property
    def elements(self) -> int:
        return self.outputs * self.inputs

    def __str__(self) -> str:
        after = f", after {self.after}" if self.after else ""
        return f"{self.rows} x {self.inputs} by {self.outputs} x {self.inputs}, {self.dtype}{after}"


@dataclass(frozen=True)
class Provenance:
    """Where and when something was measured."""

    gpu: str
    triton: str
    torch: str
    date: str

    def __str__(self) -> str:
        return f"{self.gpu}, Triton {self.triton}, torch {self.torch}, {self.date}"

    def doubts(self, gpu: str | None, triton: str | None) -> str:
        """Why a measurement may not hold for a GPU and a release of Triton; None where one is unknown."""
        found = []
        if gpu is not None and gpu != self.gpu:
            found.append(f"here is {gpu}")
        if triton is not None and triton != self.triton:
            found.append(f"here is Triton {triton}")
        return "; ".join(found)


@dataclass(frozen=True)
class Entry:
    """A measurement: the best tile and its microseconds, and those of PyTorch's own linear map.

    After a fused op `library` is what both take one after the other, each by its own kernel or PyTorch's.
    """

    problem: Problem
    tile: Tile
    microseconds: float
    library: float
    provenance: Provenance

    @property
    def is_chosen(self) -> bool:
        """Whether the kernel was faster than what it stands for."""
        return self.microseconds < MARGIN * self.library

    @property
    def shared(self) -> int:
        """Bytes of shared memory that a program needs at least: all loads under way but the one in use."""
        if self.problem.rows == 1:
            return 0  # what it loads goes to registers
        size = 4 if self.problem.dtype == "float32" else 2
        return (self.tile.stages - 1) * self.tile.inputs * (self.tile.outputs + MOST_ROWS) * size

    def as_json(self) -> dict[str, Any]:
        parts = (self.problem, self.tile, self.provenance)
        return {
            **{key: value for part in parts for key, value in _own(part).items() if value != ""},
            "microseconds": self.microseconds,
            "library": self.library,
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> Entry:
        """The entry that an object of the table is; raises `KeyError`, `TypeError` or `ValueError`."""
        found = Entry(
            _read(Problem, entry),
            _read(Tile, entry),
            float(entry["microseconds"]),
            float(entry["library"]),
            _read(Provenance, entry),
        )
        for name in entry.keys() - found.as_json().keys():
            raise ValueError(f"an entry has no `{name}`")
        if found.problem.rows not in ROWS:
            raise ValueError(f"`rows` is none of {', '.join(map(str, ROWS))}")
        if found.problem.after and found.problem.rows > 1:
            raise ValueError("after a fused op there are kernels for one row only")
        if not all(0 <= time < math.inf for time in (found.microseconds, found.library)):
            raise ValueError("`microseconds` and `library` must be times")
        if fault := found.tile.fault(found.problem.rows):
            raise ValueError(f"tile {found.tile}: {fault}")
        return found


# A tile and a problem both have outputs and inputs.
_RENAMED = {(Tile, "outputs"): "tile_outputs", (Tile, "inputs"): "tile_inputs"}


def _own(part: Any) -> dict[str, Any]:
    return {_RENAMED.get((type(part), name), name): value for name, value in asdict(part).items()}


def _read(kind: Any, entry: Mapping[str, Any]) -> Any:
    values = {}
    for field in fields(kind):
        key = _RENAMED.get((kind, field.name), field.name)
        if key in entry or field.default is MISSING:
            value = values[field.name] = entry[key]
            if field.type == "str" and not (isinstance(value, str) and _TEXT.fullmatch(value)):
                raise TypeError(f"`{field.name}` is no short text")
            if field.name == "dtype" and value not in DTYPES:
                raise TypeError(f"`dtype` is none of {', '.join(DTYPES)}")
            if field.type == "int" and (type(value) is not int or value < 1):
                raise TypeError(f"`{field.name}` is no positive whole number")
    return kind(**values)


@dataclass(frozen=True)
class Tuned:
    """A table of measurements; of several of one problem the first counts."""

    entries: tuple[Entry, ...] = ()

    @cached_property
    def _by_problem(self) -> dict[Problem, Entry]:
        return {entry.problem: entry for entry in reversed(self.entries)}

    def find(self, problem: Problem) -> Entry | None:
        return self._by_problem.get(problem)

    def choices(self, outputs: int, inputs: int) -> Iterator[Entry]:
        """The entries by which a weight has a kernel of its own."""
        dtypes = dict.fromkeys(entry.problem.dtype for entry in self.entries)
        for dtype in dtypes:
            for rows in ROWS:
                entry = self.find(Problem(rows, outputs, inputs, dtype))
                if entry is not None and entry.is_chosen:
                    yield entry

    def after(self, op: str, outputs: int, inputs: int) -> list[Entry]:
        """What is known of one row's map in the kernel of a fused op, the likeliest dtype first."""
        asked = (Problem(1, outputs, inputs, dtype, op) for dtype in DTYPES)
        return [entry for problem in asked if (entry := self.find(problem))]

    def updated(self, entries: Iterable[Entry]) -> Tuned:
        """The table with new measurements, which replace those of the same problems on the same GPU."""
        new = tuple(entries)
        replaced = {(entry.problem, entry.provenance.gpu) for entry in new}
        kept = [each for each in self.entries if (each.problem, each.provenance.gpu) not in replaced]
        return Tuned((*new, *kept))


NOTHING = Tuned()


def read_tables(own: Path | None = None) -> Tuned:
    """One's own table, if there is one, then the one that archc brings; raises `ArchcError`."""
    paths = [SHIPPED] if own is None else [own, SHIPPED]
    return Tuned(tuple(entry for path in paths for entry in read_table(path).entries))


def read_table(path: Path) -> Tuned:
    """The table in a file; raises `ArchcError` where it is none."""
    try:
        return _table(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArchcError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArchcError(f"{path} is no table of `archc tune`: {reason}") from None


@lru_cache(maxsize=4)
def _table(text: str) -> Tuned:
    return Tuned(tuple(Entry.from_json(entry) for entry in json.loads(text)["entries"]))


def write_table(path: Path, table: Tuned) -> None:
    """Write a table, an entry a line; raises `ArchcError`."""
    lines = ",\n".join(f"    {json.dumps(entry.as_json())}" for entry in table.entries)
    write_whole(path, f'{{\n  "entries": [\n{lines}\n  ]\n}}\n' if lines else '{\n  "entries": []\n}\n')
