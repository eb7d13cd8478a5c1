"""What a compiled kernel takes and how it moves its data, read from what the compiler wrote."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

_WIDEST = 16  # bytes of the widest access that every chip has
_OF_PRODUCT = 4  # values side by side that a thread of AMD's has of a matrix product
_TENSOR_ROWS = 64  # a dot of so many rows and more belongs on the tensor cores

_TILE = re.compile(r"\btt\.(?:load|store)\b.*: *tensor<([\dx]+)x!tt\.ptr<(\w+)>")
_NAME, _MADE = re.compile(r"%[\w-]+"), re.compile(r'\s*%\w+(?::\d+)? = "?([\w.]+)')
_CONSTANT = re.compile(r"\s*(%[\w-]+) = arith\.constant (?:dense<)?(-?\d+)>? : (?:tensor<[\dx]+x)?i\d+\b")
_MOVES = re.compile(r"tt\.(?:addptr|splat|expand_dims|broadcast)|arith\.(?:addi|subi|extsi)")
_ALIKE = re.compile(r"tt\.splat|tt\.expand_dims .*\{axis = 1 ")  # one number along all columns
_STORE_OF_DOT = re.compile(
    r"(?:tt\.store|buffer_store)\b.*\btensor<([\dx]+)x(?:!tt\.ptr<)?[a-z]+(\d+)\b.*, #mma\d*>"
)
_DOT = re.compile(r"\btt\.dot(?:_scaled)?\b.*: *tensor<[\dx]+x(\w+)> *\*.*-> *tensor<(\d+)x")
_PTX_ACCESS = re.compile(r"\b(?:ld|st)\.global(?:\.\w+|::\w+)*?(?:\.v(\d))?\.[bufs](\d+)\b")
_PTX_COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global.*?, *(?:0x)?([0-9a-f]+)")
_GCN_ACCESS = re.compile(r"\b(?:global|buffer|flat)_(?:load|store)_(?:lds_)?([a-z0-9]+)")
_GCN_BYTES = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "short": 2, "ushort": 2, "sshort": 2}
_GCN_BYTES |= {"byte": 1, "ubyte": 1, "sbyte": 1, "b32": 4, "b64": 8, "b96": 12, "b128": 16}
_TENSOR_CORES = {"cuda": ("wgmma.mma_async", "mma.sync", "tcgen05.mma"), "hip": ("v_mfma", "v_smfma")}


@dataclass(frozen=True)
class Tile:
    """What one load or store of a kernel's source moves: so many values of so many bytes.

    One that moves a single value is none: a chip may have registers and instructions of their own for it.
    `beside`: values that a thread has side by side at most.
    """

    values: int
    size: int
    beside: int = _WIDEST

    def width(self, threads: int, adjacent: int) -> int:
        """Bytes that a thread moves at once, where `adjacent` values lie side by side and aligned.

        16, or fewer where a thread has fewer values, or where a row's length is no multiple of 16 bytes.
        """
        share = max(1, self.values // threads)
        return self.size * min(_power(share), _power(adjacent), self.beside, max(1, _WIDEST // self.size))


@dataclass(frozen=True)
class MachineCode:
    """What a compiled kernel has.

    registers, spilled:  of a thread; the spilled ones in bytes
    shared:              bytes of shared memory of a program
    tiles:               the loads and stores of its source
    accesses:            those of its machine code, by their width in bytes
    dots:                rows of each matrix product of its source, but for those of float32, which NVIDIA's
                         tensor cores would round
    """

    registers: int
    spilled: int
    shared: int
    threads: int
    tiles: tuple[Tile, ...]
    accesses: Counter[int]
    dots: tuple[int, ...]
    tensor_cores: bool

    def narrow_accesses(self, adjacent: int) -> str:
        """What is narrower than rows of `adjacent` values allow, or "" where nothing is."""
        for width in (_WIDEST, 8, 4):
            wide = [tile for tile in self.tiles if tile.width(self.threads, adjacent) >= width]
            expected = sum(max(1, tile.values // self.threads) * tile.size for tile in wide)
            found = sum(size * count for size, count in self.accesses.items() if size >= width)
            if found < expected:
                return f"{found} bytes a thread move in accesses of {width} and more, {expected} could"
        return ""

    def missing_tensor_cores(self) -> str:
        """The dot that tensor cores should compute, or "" where there is none or they do."""
        tall = [rows for rows in self.dots if rows >= _TENSOR_ROWS]
        return f"a dot of {tall[0]} rows without tensor cores" if tall and not self.tensor_cores else ""


def read_machine_code(compiled: Any, backend: str, threads: int) -> MachineCode:
    """What Triton compiled for a "cuda" or "hip" chip."""
    source = compiled.asm["ttir"]
    assembly = compiled.asm["ptx" if backend == "cuda" else "amdgcn"]
    registers, spilled = read_cubin(compiled.asm["cubin"]) if backend == "cuda" else _of_hsaco(assembly)
    return MachineCode(
        registers=registers,
        spilled=spilled,
        shared=int(compiled.metadata.shared),
        threads=threads,
        tiles=tuple(_as_stored(_tiles(source), compiled.asm["ttgir"] if backend == "hip" else "")),
        accesses=Counter(_ptx_widths(assembly) if backend == "cuda" else _gcn_widths(assembly)),
        dots=tuple(int(rows) for kind, rows in _DOT.findall(source) if kind != "f32"),
        tensor_cores=any(name in assembly for name in _TENSOR_CORES[backend]),
    )


def read_cubin(cubin: bytes) -> tuple[int, int]:
    """Registers, and the stack that spilled ones lie in, by the disassembler that Triton brings."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return _number(r"REG:(\d+)", text), _number(r"STACK:(\d+)", text)


def _of_hsaco(assembly: str) -> tuple[int, int]:
    """The same as the assembly says it."""
    return _number(r"\.vgpr_count: *(\d+)", assembly), _number(
        r"\.private_segment_fixed_size: *(\d+)", assembly
    )


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return int(match[1])


def _tiles(source: str) -> Iterable[Tile]:
    """The loads and stores of a source, but for those at columns that were loaded, which have no neighbours.

    Those of rows at loaded places have, and of all that is at one loaded place.

    Nor have columns neighbours where a mask follows from what was loaded for each.  Those moved by a
    constant, as an expert's start is the end of the one before, have as many as divide it.
    """
    loaded: set[str] = set()
    moved: dict[str, int] = {}
    for line in source.splitlines():
        names = _NAME.findall(line)
        match, made = _TILE.search(line), _MADE.match(line)
        pointer, mask = (names[1 if made else 0], names[2:3]) if match else ("", [])
        if match and not loaded.intersection([pointer, *mask]):
            size = max(1, _number(r"(\d+)", match[2]) // 8)
            yield Tile(_values(match[1]), size, _power(moved.get(pointer, 0)) or _WIDEST)
        if constant := _CONSTANT.match(line):
            moved[constant[1]] = int(constant[2])
        elif made and _MOVES.match(made[1]):
            moved[names[0]] = math.gcd(*(moved.get(name, 0) for name in names[1:]))
        apart = made and (made[1] == "tt.load" or loaded.intersection(names[1:]))
        if apart and not _ALIKE.search(line):
            loaded.add(names[0])


def _as_stored(tiles: Iterable[Tile], layouts: str) -> Iterable[Tile]:
    """Tiles, those of products that are stored as AMD's matrix instructions leave them: four to a thread.

    The compiler does so in place of a way through shared memory; its `layouts` tell.  Tiles of one size are
    alike, so any of them stands for the one that is stored.
    """
    stored = Counter((_values(dims), int(bits) // 8) for dims, bits in _STORE_OF_DOT.findall(layouts))
    for tile in tiles:
        found = stored[tile.values, tile.size] > 0
        stored[tile.values, tile.size] -= found
        yield replace(tile, beside=min(tile.beside, _OF_PRODUCT)) if found else tile


def _values(dims: str) -> int:
    return math.prod(int(dim) for dim in dims.split("x"))


def _ptx_widths(assembly: str) -> Iterable[int]:
    moves = "\n".join(line for line in assembly.splitlines() if ".global" in line)  # far fewer to match
    for match in _PTX_ACCESS.finditer(moves):
        yield int(match[1] or 1) * int(match[2]) // 8
    for match in _PTX_COPY.finditer(moves):
        yield int(match[1], 16)


def _gcn_widths(assembly: str) -> Iterable[int]:
    for match in _GCN_ACCESS.finditer(assembly):
        yield _GCN_BYTES[match[1]]


def _power(number: int) -> int:
    """The largest power of two that divides a number."""
    return number & -number
