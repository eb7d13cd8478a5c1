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
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
import triton
from _pytest.mark import ParameterSet

from archc import compiler
from archc.errors import ArchcError
from archc.tuned import ROWS, Entry, Provenance, Tuned
from archc.tuning.choice import problems
from archc.tuning.search import tiles
from archc.verification import compiling, machine_code
from archc.verification.chips import CHIPS
from archc.verification.compiling import Usage, compile_launch
from archc.verification.launch import Launch
from archc.verification.launches import launches
from tests.codegen.kernel_cases import FIRST, RULES, spec_of_case
from tests.codegen.test_compiling import crowded_kernel, sum_kernel
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


def test_a_process_that_interprets_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ArchcError, match="would interpret"):
        launches(compile_model(MODELS["gpt2"], "gpt2"), tmp_path, torch.bfloat16)


def test_kinds_differ_in_more_than_numbers() -> None:
    def launch(size: int, warps: int, dtype: torch.dtype = torch.float32) -> Launch:
        return Launch(crowded_kernel, (torch.zeros(1, size, dtype=dtype), torch.zeros(1, size), size), warps)

    narrow, wide = launch(1024, 4), launch(2048, 4)
    assert _kind(wide) == _kind(narrow)
    assert _width(wide) > _width(narrow)
    others = [launch(1024, 8), launch(1024, 4, torch.bfloat16)]
    others.append(Launch(sum_kernel, (torch.zeros(1024), torch.zeros(1)), 4))
    assert _kind(narrow) not in map(_kind, others)
