"""The bytes that kernels move, counted in Triton's interpreter, against the least that their ops demand.

Of the kernels of some specs' first models, at their real widths, those that differ in more than numbers; the
slow suite has all of every model of every spec.  One of each fusion at awkward widths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
import torch

from archc.codegen.kernels.experts.router_plan import RouterKernel
from archc.codegen.kernels.norms.norm_plan import NormKernel
from archc.codegen.kernels.rope.rope_plan import RopeKernel
from archc.codegen.kernels.rows.pointwise_plan import PointwiseKernel
from archc.codegen.kernels.rows.row_plan import RowKernel
from archc.codegen.kernels.table import KernelTable, fused_nodes
from archc.codegen.package import plan_package
from archc.compiler import Compilation, standard_rules
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.verification.packages import import_package
from tests.codegen.fused_ops import changed
from tests.codegen.interpreter import interpreted
from tests.codegen.kernel_cases import FIRST, RULES, spec_of_case
from tests.gpu import is_on
from tests.instruments.cost import Cost, op_costs
from tests.support import SPECS, compile_model, few, read_spec

pytestmark = pytest.mark.skipif(is_on(), reason="Triton's interpreter is what counts bytes")

STANDARD = {rule.name for rule in standard_rules()}
BFLOAT16 = torch.bfloat16.itemsize

# Kernels move the least there is, but for what counting itself rounds.
TOLERANCE = 1.001
# A row that does not fit in registers is read again: twice itself, once its gradient, twice the weight.
WIDE_ROWS_AGAIN = 5
# Operations for each byte of memory that the slowest of the chips has time for, beside its tensor cores.
BALANCE = 9.5

_checked: set[str] = set()  # kernels that models share, by their keys and kinds


@dataclass(frozen=True)
class Priced:
    """A fused op of a built package, where it stands in the graph, and its kernels."""

    plan: NormKernel | RopeKernel | PointwiseKernel | RouterKernel | RowKernel
    graph: Graph
    node: Node
    kernels: ModuleType

    @property
    def key(self) -> str:
        return repr((self.plan.name, self.plan.equation, self.plan.op.operands))

    @property
    def kind(self) -> str:
        """Equal for kernels whose texts differ in numbers alone, such as widths."""
        functions = Path(str(self.kernels.__file__)).read_text().split("\n\n\n")
        own = re.compile(rf"^def _{self.plan.name}(_backward)?(_kernel)?\(", re.MULTILINE)
        return re.sub(r"\b[0-9.]+\b", "0", "\n\n\n".join(filter(own.search, functions)))

    def costs(self) -> tuple[Cost, Cost]:
        return op_costs(self.kernels, self.plan.name, self.plan.op, self.graph, self.node, torch.bfloat16)


def _priced(compilation: Compilation, folder: Path) -> Iterator[Priced]:
    kernels = import_package(compilation, folder).kernels
    graph = compilation.fused
    parts = list(graph.walk())
    table = KernelTable(parts)
    called = {table.name(*place): place for place in reversed(fused_nodes(parts))}
    for plan in plan_package(compilation.program, graph, compilation.reference).kernels:
        if plan.name in called and hasattr(plan, "op"):
            yield Priced(plan, *called[plan.name], kernels)


def _waste(op: Priced) -> list[str]:
    """What an op and its gradient move beyond the least, in words."""
    forward, backward = op.costs()
    sums = _vector_sums(op) + _of_heads(op) * 2 * torch.float32.itemsize
    return [
        *_beyond(forward, 0, _read_by_groups(op)),
        *_beyond(backward, sums + _handed_over(op), _read_again(op)),
    ]


def _handed_over(op: Priced) -> int:
    """Gradients of rows that kernels of one gradient hand to each other, where registers do not hold them."""
    between = len(op.plan.gradients) - 1 if isinstance(op.plan, NormKernel) else 0
    return between * op.plan.width * BFLOAT16 if isinstance(op.plan, NormKernel) else 0


def _read_by_groups(op: Priced) -> int:
    """A norm's weight, which each further group of a token's heads reads from a cache."""
    if not isinstance(op.plan, RopeKernel):
        return 0
    return sum(part.head_dim * BFLOAT16 for part in op.plan.worked if part.first and part.weight)


def _read_again(op: Priced) -> int:
    """What gradients of long rows read once more, from a cache: registers hold the weights' gradients."""
    if isinstance(op.plan, NormKernel):
        return WIDE_ROWS_AGAIN * op.plan.width * BFLOAT16 * sum(bool(g.wide) for g in op.plan.gradients)
    if isinstance(op.plan, RopeKernel) and op.plan.over_heads:
        return sum(part.width * BFLOAT16 for part in op.plan.worked)  # the norms' weights
    wide = any(operand.dtype == "f32" for operand in op.plan.op.operands)
    return _of_heads(op) * (torch.float32.itemsize if wide else BFLOAT16)


def _vector_sums(op: Priced) -> int:
    """The gradient of a vector is PyTorch's sum over rows that a pointwise kernel has just written."""
    vectors = [operand for operand in op.plan.op.operands if len(operand.shape) == 1]
    return len(vectors) * op.plan.width * BFLOAT16 if isinstance(op.plan, PointwiseKernel) else 0


def _of_heads(op: Priced) -> int:
    """Numbers or vectors of heads, which the rows of each token read; their gradient is a sum over tokens."""
    if not isinstance(op.plan, RowKernel):
        return 0
    held = {name.removesuffix("_rows") for name, _ in op.plan.gradient_tensors if name.endswith("_rows")}
    shapes = [operand.shape for operand in op.plan.op.operands if f"d{operand.name}" in held]
    return sum(math.prod(int(dim) for dim in shape if not isinstance(dim, str)) for shape in shapes)


def _beyond(cost: Cost, more: int, again: int) -> list[str]:
    found = []
    if cost.moved > TOLERANCE * cost.least + more:
        found.append(f"{cost.name} moves {cost.moved:,} bytes a token, {cost.least:,} are needed")
    if cost.again > again:
        found.append(f"{cost.name} reads {cost.again:,} bytes of a token again, {again:,} are allowed")
    return found


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spec", few(sorted(p.stem for p in SPECS.glob("*.arch") if read_spec(p).models), 12))
@interpreted
def test_kernels_of_every_model_move_no_more_than_their_ops_demand(spec: str, every: bool) -> None:
    path = SPECS / f"{spec}.arch"
    models = [*read_spec(path).models]
    for model in models if every else models[:1]:
        with TemporaryDirectory() as folder:
            for op in _priced(compile_model(path, model), Path(folder)):
                name = op.key if every else op.kind
                if name not in _checked:
                    _checked.add(name)
                    assert not _waste(op), model


@pytest.mark.parametrize(
    "name", few([name for name in FIRST if name in STANDARD or RULES[name] == "row"], 16)
)
@interpreted
def test_kernels_of_every_fusion_move_no_more_than_their_ops_demand(name: str) -> None:
    with TemporaryDirectory() as folder:
        for op in _priced(compile_model(spec_of_case(name), "a"), Path(folder)):
            assert not _waste(op)
            assert all(cost.moved > 0.8 * cost.least for cost in op.costs()), "what is least is less"


@interpreted
def test_memory_bounds_the_kernels() -> None:
    """So bytes are what their time is made of: operations are fewer than a chip has time for."""
    for name in ("rms_norm", "layer_norm", "rope_qkv", "qk_norm_rope_qkv", "swiglu", "bias_gelu_tanh"):
        with TemporaryDirectory() as folder:
            for op in _priced(compile_model(spec_of_case(name), "a"), Path(folder)):
                assert all(cost.flops < BALANCE * cost.moved for cost in op.costs())


# case, a text in its kernels, a wasteful one that computes the same, and what is found
WASTE = [
    ("add_rms_norm", "normed = s * rstd", "normed = s * rstd + 0 * tl.load(weight_ptr + column)", "again"),
    ("add_rms_norm", "_rows(residual, 60)", "_rows(residual, 60).clone()", "moves"),
    ("add_rms_norm", "dx = _like(s)", "dx = torch.empty_like(s, dtype=torch.float32)", "moves"),
    ("swiglu", "dy.contiguous()", "(dy * 1)", "moves"),
    ("swiglu", "gate_up_rows = _rows(gate_up, 66)", "gate_up_rows = _rows(gate_up + 0, 66)", "moves"),
    ("rope_qkv", "cos.contiguous()", "cos.clone()", "moves"),
]


@pytest.mark.parametrize(("name", "old", "new", "found"), WASTE)
@interpreted
def test_a_wasteful_kernel_is_found(name: str, old: str, new: str, found: str) -> None:
    with TemporaryDirectory() as folder:
        ops = _priced(compile_model(spec_of_case(name), "a"), Path(folder))
        op = next(op for op in ops if op.plan.name == name)
        assert not _waste(op)
        assert found in str(_waste(changed(op, old, new)))
