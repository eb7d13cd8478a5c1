"""Every kernel of every model of every spec, compiled for chips that need not be there.

At their real widths, forward and backward: bfloat16 for every chip, float32 for one.  Kernels that compile
to the same code are compiled once, by whichever test process comes first.  None spills for want of
registers; shared memory fits; loads and stores are of 16 bytes where the rows allow it; tensor cores compute
the dots that are large enough.  Small, masked blocks of every fusion are compiled too.

All of that is some 1,200 kernels a chip, an hour of one core in all, and most of it is slow.  With
ARCHC_USAGES=FOLDER results are kept there by what they follow from: a later run compiles what has changed.
The default suite has, of the kernels of every spec's and every architecture's first model, the widest of
those that differ in numbers alone, each for sm_90 and, in turn, for one of the others; the small blocks for
sm_90.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
import pickle
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from _pytest.mark import ParameterSet

from archc import compiler
from archc.errors import ArchcError
from archc.tuned import ROWS, Entry, Provenance, Tuned
from archc.tuning.choice import problems
from archc.tuning.search import tiles
from archc.verification import compiling, machine_code
from archc.verification.chips import CHIPS
from archc.verification.compiling import (
    Compiling,
    KernelError,
    Usage,
    compile_launch,
    lacking_registers,
)
from archc.verification.launch import Launch
from archc.verification.launches import launches
from archc.verification.machine_code import MachineCode, Tile
from tests.codegen.kernel_cases import FIRST, RULES, spec_of_case
from tests.codegen.test_router import router_spec
from tests.support import ROOT, SPECS, compile_model, shared_folder

MODULES = {path: compiler.read_spec_file(path).module for path in sorted(SPECS.glob("*.arch"))}
MODELS = {model: path for path, module in MODULES.items() for model in module.models}
FIRST_MODELS = [next(iter(module.models)) for module in MODULES.values() if module.models]
DECLARED = [model for module in MODULES.values() for model in module.models.values()]
FIRST_OF_ARCHITECTURES = {model.arch: model.name for model in reversed(DECLARED)}.values()
SOME_MODELS = dict.fromkeys([*FIRST_MODELS, *FIRST_OF_ARCHITECTURES])
MAIN = (torch.bfloat16, "sm_90")
OTHERS = [*((torch.bfloat16, chip) for chip in CHIPS if chip != MAIN[1]), (torch.float32, MAIN[1])]
_NUMBER = re.compile(r"\b\d+\b")
Compiled = Callable[[Iterable[Launch], str], Iterator[Usage]]


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile every kernel anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compiles launches for a chip, each once for all test processes of a run."""
    folder = shared_folder(tmp_path_factory, "usages")
    if kept := os.environ.get("ARCHC_USAGES"):
        folder = Path(kept).resolve() / _toolchain()
        folder.mkdir(parents=True, exist_ok=True)

    def compile_all(found: Iterable[Launch], chip: str) -> Iterator[Usage]:
        for launch in found:
            if not launch.belongs_to(CHIPS[chip]):
                continue
            name = hashlib.sha256(launch.key(CHIPS[chip]).encode()).hexdigest()
            path = folder / name
            if not path.exists():
                draft = folder / f"{name}.{os.getpid()}"
                draft.write_bytes(pickle.dumps(compile_launch(launch, CHIPS[chip])))
                draft.replace(path)
            usage = pickle.loads(path.read_bytes())
            yield dataclasses.replace(usage, name=launch.name, adjacent=launch.adjacent)

    return compile_all


def _toolchain() -> str:
    """What a kept result depends on besides its launch: Triton, and how its output is read."""
    digest = hashlib.sha256(triton.__version__.encode())
    for module in (compiling, machine_code):
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _launches(model: str, dtype: torch.dtype, length: int = 2) -> list[Launch]:
    with tempfile.TemporaryDirectory() as folder:
        found = launches(compile_model(MODELS[model], model), Path(folder), dtype, length)
    assert found
    return found


def _kind(launch: Launch) -> str:
    """Equal for launches that differ in numbers alone, such as widths; not in their warps or their chips."""
    chips = [name for name, chip in CHIPS.items() if launch.belongs_to(chip)]
    return _NUMBER.sub("0", launch.key(CHIPS[MAIN[1]])) + str((launch.options, chips))


def _width(launch: Launch) -> float:
    """Greater for launches of the same kind with greater numbers."""
    return sum(math.log1p(int(number)) for number in _NUMBER.findall(launch.key(CHIPS[MAIN[1]])))


@functools.cache
def _widest(dtype: torch.dtype) -> list[Launch]:
    """The widest launch of each kind that some models have."""
    kinds: dict[str, list[Launch]] = defaultdict(list)
    for launch in (each for model in SOME_MODELS for each in _launches(model, dtype)):
        kinds[_kind(launch)].append(launch)
    return [max(alike, key=_width) for alike in kinds.values()]


def _case(quick: bool, *values: object) -> ParameterSet:
    name = "-".join(str(value).removeprefix("torch.") for value in values)
    return pytest.param(*values, marks=() if quick else pytest.mark.slow, id=name)


RULE_CASES = [_case(chip == MAIN[1], name, chip) for name in FIRST for chip in CHIPS]
MODEL_CASES = [_case(False, model, dtype, chip) for model in MODELS for dtype, chip in (MAIN, *OTHERS)]
PARTS = len(OTHERS)
PART_CASES = [
    *(_case(True, *MAIN, part) for part in range(PARTS)),
    *(_case(True, *other, part) for part, other in enumerate(OTHERS)),
]
LENGTH_CASES = [
    _case(model == FIRST_MODELS[0], model, length)
    for model in sorted(path.name for path in (ROOT / "generated").iterdir())
    for length in (1, 16)
]


@pytest.mark.parametrize(("name", "chip"), RULE_CASES)
def test_kernels_of_every_rule(name: str, chip: str, tmp_path: Path, compiled: Compiled) -> None:
    found = launches(compile_model(spec_of_case(name), "a"), tmp_path, torch.bfloat16)
    backward = "" if RULES[name] == "position_scale" else "_backward"  # whose gradient is the same kernel
    assert {launch.name for launch in found} >= {f"_{name}_kernel", f"_{name}{backward}_kernel"}
    assert not [text for usage in compiled(found, chip) for text in usage.breaches()]


@pytest.mark.parametrize(("model", "dtype", "chip"), MODEL_CASES)
def test_kernels_of_every_model(model: str, dtype: torch.dtype, chip: str, compiled: Compiled) -> None:
    found = _launches(model, dtype)
    assert not [text for usage in compiled(found, chip) for text in usage.breaches()]


@pytest.mark.parametrize(("dtype", "chip", "part"), PART_CASES)
def test_kernels_that_differ_in_more_than_numbers(
    dtype: torch.dtype, chip: str, part: int, compiled: Compiled
) -> None:
    found = _widest(dtype)[part::PARTS]
    assert not [text for usage in compiled(found, chip) for text in usage.breaches()]


_WINDOW = """
arch A(heads = 4, keys = 192, values = 128) {
  forward(x: float[B, T, 64]) {
    q, k = split_heads(linear(x, heads * keys) as q, heads), split_heads(linear(x, 2 * keys) as k, 2)
    o = attention(q, k, split_heads(linear(x, 2 * values) as v, 2), mask = sliding(129))
    return linear(merge_heads(o), 64) as o
  }
}
model a = A()
"""


def test_windows_of_keys_wider_than_values(tmp_path: Path, compiled: Compiled) -> None:
    """Where keys of 192 and values of 128 meet a window, their gradient needs most registers."""
    found = launches(compile_model(_WINDOW, "a"), tmp_path, MAIN[0])
    gradient = next(launch for launch in found if launch.name.endswith("_key_gradient_kernel"))
    assert not [text for usage in compiled([gradient], MAIN[1]) for text in usage.breaches()]


@pytest.mark.parametrize("chip", [_case(chip == MAIN[1], chip) for chip in CHIPS])
@pytest.mark.parametrize(
    ("router", "count"), [("a bias for the choice", 512), ("the two largest of groups", 510)]
)
def test_choices_among_many_experts(
    router: str, count: int, chip: str, tmp_path: Path, compiled: Compiled
) -> None:
    found = launches(compile_model(router_spec(router, count), "a"), tmp_path, torch.bfloat16)
    choices = [launch for launch in found if launch.name in ("_route_kernel", "_route_backward_kernel")]
    assert len(choices) == 2
    assert not [text for usage in compiled(choices, chip) for text in usage.breaches()]


@pytest.mark.parametrize(("model", "length"), LENGTH_CASES)
def test_lengths_that_launches_are_specialised_for(model: str, length: int, compiled: Compiled) -> None:
    """One token, which is a constant for the compiler, and a number of them that is divisible by 16."""
    found = _launches(model, torch.bfloat16, length)
    assert not [text for usage in compiled(found, MAIN[1]) for text in usage.breaches()]


TILE_CASES = [
    _case(chip == MAIN[1] and not every, rows, every, chip)
    for rows in ROWS
    for every, chip in (*((False, chip) for chip in CHIPS), (True, MAIN[1]))
]


@pytest.mark.parametrize(("rows", "every", "chip"), TILE_CASES)
def test_tiles_that_are_tried_for_linear_maps(
    rows: int, every: bool, chip: str, tmp_path: Path, compiled: Compiled
) -> None:
    """The likeliest one for all chips, every one for one: other chips may have too little shared memory."""
    compilation = compile_model(MODELS["gpt2_medium"], "gpt2_medium")
    problem = dataclasses.replace(problems(compilation, "bfloat16")[0], rows=rows)
    source = Provenance("a GPU", "3.9.0", "2.13.0", "2026-11-25")
    for tile in tiles(problem)[: None if every else 1]:
        tuned = Tuned((Entry(problem, tile, 1.0, 2.0, source),))
        found = launches(dataclasses.replace(compilation, tuned=tuned), tmp_path, torch.bfloat16)
        own = [launch for launch in found if launch.name.startswith("_linear_row")]
        assert len(own) == 2, "with a bias and without"
        assert not [text for usage in compiled(own, chip) for text in usage.breaches()]


@triton.jit
def _broken_kernel(x_ptr):
    tl.store(x_ptr + tl.arange(0, 3), 1.0)


@triton.jit
def _sum_kernel(x_ptr, y_ptr):
    tl.store(y_ptr, tl.sum(tl.load(x_ptr + tl.arange(0, 1024)), 0))


@pytest.mark.parametrize("chip", CHIPS)
def test_a_kernel_that_does_not_compile_is_named(chip: str) -> None:
    launch = Launch(_broken_kernel, (torch.zeros(4),), 4)
    with pytest.raises(KernelError, match=f"_broken_kernel for {chip}"):
        compile_launch(launch, CHIPS[chip])


def test_too_much_shared_memory_is_found() -> None:
    launch = Launch(_sum_kernel, (torch.zeros(1024), torch.zeros(1)), 4)
    chip = CHIPS["sm_90"]
    usage = compile_launch(launch, chip)
    assert usage.code.shared
    with pytest.raises(KernelError, match="bytes of shared memory"):
        compile_launch(launch, dataclasses.replace(chip, shared=usage.code.shared - 1))


def test_kernels_are_compiled_at_once_in_their_order() -> None:
    """Two that are the same code are one; one that does not compile does not keep others from it."""
    found = [
        Launch(_sum_kernel, (torch.zeros(1024), torch.zeros(1)), 4),
        Launch(_sum_kernel, (torch.ones(1024), torch.zeros(1)), 4),
        Launch(_broken_kernel, (torch.zeros(4),), 4),
        Launch(_crowded_kernel, (torch.zeros(1, 512), torch.zeros(1, 512), 512), 4),
    ]
    chip = CHIPS["sm_90"]
    with Compiling([chip], threads=2) as compiling:
        for launch in found:
            compiling.add(launch)
    chosen, (summed, broken, crowded) = zip(*compiling.results(chip), strict=True)
    assert chosen == (found[0], *found[2:])
    assert isinstance(broken, KernelError)
    assert [usage.name for usage in (summed, crowded) if isinstance(usage, Usage)] == [
        "_sum_kernel",
        "_crowded_kernel",
    ]


def test_experts_are_launched_as_the_model_does() -> None:
    """Tokens are gathered for the first product alone; by as many choices as there are; few and many rows."""
    found = [dict(launch.constants) for launch in _launches("mixtral_8x7b", torch.bfloat16)]
    products = [each for each in found if {"CHOICES", "COUNT", "IN"} <= each.keys()]
    assert {(each["CHOICES"], each["IN"]) for each in products} == {
        (2, 4096),  # tokens times gates and what is gated
        (0, 14336),  # what came of it
        (0, 4096),  # and the gradients of both
        (0, 2 * 14336),
    }
    assert {each["ROWS"] for each in products} == {16, 128}


def test_a_chip_has_the_tiles_that_a_package_chooses_there() -> None:
    steps = [
        each for each in _launches("deepseek_v3", MAIN[0]) if each.name.endswith("_attention_step_kernel")
    ]
    found = {
        name: {
            (own["HEADS"], own["TILE"])
            for step in steps
            if step.belongs_to(chip) and not (own := dict(step.constants))["PADDED"]
        }
        for name, chip in CHIPS.items()
    }
    few, many = (32, 64), (64, 32)  # query heads and keys of a program, for few sequences and many
    assert found == {"sm_80": {few}, "sm_90": {few, many}, "sm_100": {few, many}, "gfx942": {(32, 16)}}


def test_too_many_threads_are_found() -> None:
    launch = Launch(_sum_kernel, (torch.zeros(1024), torch.zeros(1)), 32)
    assert compile_launch(launch, CHIPS["sm_90"]).code.registers
    with pytest.raises(KernelError, match="2048 threads"):
        compile_launch(launch, CHIPS["gfx942"])


@triton.jit
def _crowded_kernel(x_ptr, y_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    x = tl.load(x_ptr + place)
    tl.store(y_ptr + place, x / tl.sum(x, 0))


@pytest.mark.parametrize("chip", CHIPS)
def test_spilled_registers_are_found(chip: str) -> None:
    registers = 512 if CHIPS[chip].backend == "hip" else 256  # of a thread, and a value more would not fit
    size = registers * CHIPS[chip].warp
    launch = Launch(_crowded_kernel, (torch.zeros(1, size), torch.zeros(1, size), size), 1)
    assert "bytes of registers spilled" in str(compile_launch(launch, CHIPS[chip]).breaches())


def test_registers_spilled_by_choice_do_not_lack() -> None:
    """With fewer registers than there are, what matters is what spills with all of them."""
    chip = CHIPS["sm_90"]
    fits = Launch(_sum_kernel, (torch.zeros(1024), torch.zeros(1)), 1)
    crowded = Launch(_crowded_kernel, (torch.zeros(1, 8192), torch.zeros(1, 8192), 8192), 1)
    for launch, lacks in ((fits, False), (crowded, True)):
        code = compile_launch(launch, chip).code
        chosen = dataclasses.replace(code, registers=64, spilled=8)
        assert bool(lacking_registers(launch, chip, chosen)) == lacks
        for spilling in ({"registers": 255, "spilled": 8}, {"registers": 64, "spilled": 40}):
            code = dataclasses.replace(code, **spilling)
            assert lacking_registers(launch, chip, code) == code.spilled


@triton.jit
def _strided_kernel(x_ptr, y_ptr):
    place = tl.arange(0, 1024)
    tl.store(y_ptr + place, tl.load(x_ptr + 2 * place))


@pytest.mark.parametrize("chip", CHIPS)
def test_narrow_accesses_are_found(chip: str) -> None:
    launch = Launch(_strided_kernel, (torch.zeros(1, 2048), torch.zeros(1, 1024)), 1)
    assert "in accesses of 16 and more" in str(compile_launch(launch, CHIPS[chip]).breaches())


@triton.jit
def _gather_kernel(x_ptr, places_ptr, y_ptr, STEP: tl.constexpr):
    """One value of x at each loaded place, or every second one of a row there."""
    place = tl.arange(0, 1024)
    if STEP == 0:
        found = tl.load(x_ptr + tl.load(places_ptr + place))
        tl.store(y_ptr + place, found)
    else:
        rows = tl.load(places_ptr + tl.arange(0, 16))[:, None]
        column = tl.arange(0, 64)[None, :]
        found = tl.load(x_ptr + rows * 128 + STEP * column)
        tl.store(y_ptr + tl.arange(0, 16)[:, None] * 64 + column, found)


@pytest.mark.parametrize("chip", CHIPS)
def test_only_rows_at_loaded_places_have_neighbours(chip: str) -> None:
    given = (torch.zeros(1, 2048), torch.zeros(1024, dtype=torch.int32), torch.zeros(1, 1024))
    breaches = [
        str(compile_launch(Launch(_gather_kernel, (*given, step), 1), CHIPS[chip]).breaches())
        for step in (0, 1, 2)
    ]
    assert ["in accesses of 16 and more" in each for each in breaches] == [False, False, True]


@triton.jit
def _moved_kernel(x_ptr, y_ptr, BY: tl.constexpr):
    place = tl.arange(0, 1024)
    tl.store(y_ptr + place, tl.load(x_ptr + (place + BY)))


@pytest.mark.parametrize("chip", ["sm_90", "gfx942"])
def test_values_moved_by_a_constant_have_as_many_neighbours_as_divide_it(chip: str) -> None:
    for by, most in ((-1, 1), (6, 2), (8, 8)):
        launch = Launch(_moved_kernel, (torch.zeros(1, 2048), torch.zeros(1, 1024), by), 1)
        usage = compile_launch(launch, CHIPS[chip])
        assert sorted(tile.beside for tile in usage.code.tiles) == [most, 16]
        assert not usage.breaches()


def test_rows_say_how_wide_accesses_may_be() -> None:
    row, few, odd = Tile(1024, 2), Tile(256, 2), Tile(1024, 4)
    assert [tile.width(128, 4096) for tile in (row, few, odd)] == [16, 4, 16]
    assert [row.width(128, adjacent) for adjacent in (64, 12, 50257)] == [16, 8, 2]
    assert dataclasses.replace(row, beside=4).width(128, 4096) == 8
    code = MachineCode(32, 0, 0, 128, (row, few), Counter({16: 1, 4: 1}), (), False)
    assert not code.narrow_accesses(4096)
    halves = dataclasses.replace(code, accesses=Counter({8: 2, 4: 1}))
    assert halves.narrow_accesses(4096)
    assert not halves.narrow_accesses(12)


def test_rows_apart_by_an_argument_have_its_neighbours() -> None:
    """Heads of 12 lie one after the other, but of a token's 2 the compiler knows nothing."""
    x, y = torch.zeros(1, 32, 2, 12), torch.zeros(1, 32, 4, 12)
    assert Launch(_sum_kernel, (x, x, 24), 4).adjacent == 1
    assert Launch(_sum_kernel, (y, y, 48), 4).adjacent == Launch(_sum_kernel, (x, x), 4).adjacent == 12


@triton.jit
def _dot_kernel(a_ptr, b_ptr, c_ptr):
    row, column = tl.arange(0, 64)[:, None], tl.arange(0, 64)[None, :]
    place = row * 64 + column
    product = tl.dot(tl.load(a_ptr + place), tl.load(b_ptr + place), input_precision="ieee")
    tl.store(c_ptr + place, product)


@pytest.mark.parametrize("chip", CHIPS)
def test_dots_beside_the_tensor_cores_are_found(chip: str) -> None:
    """In float32 none is wanted: NVIDIA's would round."""
    for dtype, dots in ((torch.bfloat16, (64,)), (torch.float32, ())):
        matrix = torch.zeros(64, 64, dtype=dtype)
        launch = Launch(_dot_kernel, (matrix, matrix, matrix.float()), 4)
        code = compile_launch(launch, CHIPS[chip]).code
        assert code.dots == dots
        assert not code.missing_tensor_cores()
        without = dataclasses.replace(code, tensor_cores=False)
        assert bool(without.missing_tensor_cores()) == bool(dots)


def test_products_may_be_stored_as_matrix_instructions_leave_them() -> None:
    """On AMD's chips four values beside one another, 8 bytes in half precision."""
    matrix = torch.zeros(64, 64, dtype=torch.bfloat16)
    launch = Launch(_dot_kernel, (matrix, matrix, matrix), 1)
    for chip, most in (("sm_90", 16), ("gfx942", 4)):
        usage = compile_launch(launch, CHIPS[chip])
        assert sorted(tile.beside for tile in usage.code.tiles) == sorted((most, 16, 16))
        assert not usage.breaches()


def test_a_process_that_interprets_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ArchcError, match="would interpret"):
        launches(compile_model(MODELS["gpt2"], "gpt2"), tmp_path, torch.bfloat16)


def test_launches_differ_by_what_they_are_specialised_for() -> None:
    chip = CHIPS["sm_90"]
    x, y = torch.zeros(1024), torch.zeros(2)
    keys = {
        Launch(_sum_kernel, (x, y), 4).key(chip),
        Launch(_sum_kernel, (x, y), 8).key(chip),
        Launch(_sum_kernel, (x, y[1:]), 4).key(chip),  # not at a multiple of 16 bytes
        Launch(_sum_kernel, (x.bfloat16(), y), 4).key(chip),
        Launch(_sum_kernel, (x, y), 4).key(CHIPS["sm_80"]),
    }
    assert len(keys) == 5


def test_kinds_differ_in_more_than_numbers() -> None:
    def launch(size: int, warps: int, dtype: torch.dtype = torch.float32) -> Launch:
        return Launch(_crowded_kernel, (torch.zeros(1, size, dtype=dtype), torch.zeros(1, size), size), warps)

    narrow, wide = launch(1024, 4), launch(2048, 4)
    assert _kind(wide) == _kind(narrow)
    assert _width(wide) > _width(narrow)
    others = [launch(1024, 8), launch(1024, 4, torch.bfloat16)]
    others.append(Launch(_sum_kernel, (torch.zeros(1024), torch.zeros(1)), 4))
    assert _kind(narrow) not in map(_kind, others)
