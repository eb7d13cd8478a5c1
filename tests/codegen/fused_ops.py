"""Fused ops of small specs: kernel, plain form and float64 truth side by side, forward and backward."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from archc.codegen.kernels.custom_op import Operand
from archc.codegen.kernels.kernel_plan import OpKernel
from archc.codegen.kernels.table import KernelTable, fused_nodes
from archc.codegen.package import plan_package
from archc.verification.packages import import_package
from tests.codegen import hazards
from tests.support import compile_model

Tensors = dict[str, Tensor | None]

# Float32 sums of up to 1,000 terms in another order.
FLOAT32 = 3e-6
# Where both sides round once, which of two neighbours a value becomes is decided by float32's last bits.
TIES = 1.01
DRAWS = 4

_numbers = itertools.count()


@dataclass(frozen=True)
class FusedOp:
    """One fused op of a built package.  `reference` is its decomposition: tensors -> outputs."""

    name: str
    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]
    kernels: ModuleType
    reference: Callable[..., tuple[Tensor, ...]]

    def fused(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """The kernel."""
        return _as_tuple(getattr(self.kernels, f"_{self.name}")(*tensors))

    def plain(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """The same function of the package where there is no GPU."""
        with _by_pytorch(self.kernels):
            return _as_tuple(getattr(self.kernels, self.name)(*tensors))

    def exact(self, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """The decomposition, where None stands for zeros."""
        shape = next(t for t in tensors if t is not None).shape
        given = zip(self.operands, tensors, strict=True)
        zeros = torch.zeros(shape, dtype=torch.float64)
        return self.reference(*(zeros if t is None and o.optional else t for o, t in given))


def _as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@contextmanager
def _by_pytorch(kernels: ModuleType) -> Iterator[None]:
    runs = kernels._runs_triton
    kernels._runs_triton = lambda _x: False
    try:
        yield
    finally:
        kernels._runs_triton = runs


def fused_ops(spec: Path | str, model: str, folder: Path) -> dict[str, FusedOp]:
    """Build a model's package; its fused ops by name, those of PyTorch's own attention left out."""
    compilation = compile_model(spec, model)
    kernels = import_package(compilation, folder).kernels
    _share_rows(kernels)
    graph = compilation.fused
    parts = list(graph.walk())
    table = KernelTable(parts)
    called = {table.name(*place): place[1] for place in reversed(fused_nodes(parts))}
    plans = plan_package(compilation.program, graph, compilation.reference).kernels
    found = {}
    for plan in plans:
        if isinstance(plan, OpKernel):
            node = called[plan.name]
            present = _filled(node.inputs)
            reference = partial(_decompose, partial(node.op.reference, **node.attributes), present)
            found[plan.name] = FusedOp(plan.name, plan.op.operands, plan.op.outputs, kernels, reference)
    return found


def _filled(inputs: tuple[Any, ...]) -> tuple[bool, ...]:
    return tuple(value is not None for value in inputs)


def _decompose(reference: Any, present: tuple[bool, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
    """The reference takes None for weights that this op has not."""
    given = iter(tensors)
    results: tuple[Tensor, ...] = reference(*(next(given) if there else None for there in present))
    return results


def changed(op: FusedOp, old: str, new: str) -> FusedOp:
    """The op with another text in its kernels."""
    return replace(op, kernels=changed_module(op.kernels, old, new))


def changed_module(kernels: ModuleType, old: str, new: str) -> ModuleType:
    """A package's kernels with another text in them, that of a mistake."""
    hazards.rest()
    source = Path(str(kernels.__file__)).read_text()
    assert old in source, old
    name = f"kernels_{next(_numbers)}"
    path = Path(str(kernels.__file__)).with_name(f"{name}.py")
    path.write_text(source.replace(old, new))
    description = importlib.util.spec_from_file_location(f"{kernels.__package__}.{name}", path)
    assert description is not None
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    sys.modules[description.name] = module  # where PyTorch looks for the file of each op
    description.loader.exec_module(module)
    _share_rows(module)
    return module


def _share_rows(kernels: ModuleType) -> None:
    """Let programs that add up rows have several, also on a GPU, where each of few rows has its own."""
    kernels._programs = lambda _x, rows, _each=2: min(rows, 4)  # type: ignore[attr-defined]


def inputs(op: FusedOp, dtype: torch.dtype, batch: int = 2, length: int = 5, tables: int = 1) -> Tensors:
    """Random operands that require gradients, and angles for tables that are shared or one a sequence."""
    tensors: Tensors = {}
    for operand in op.operands:
        if operand.dtype == "f32" and "T" in operand.shape:
            shape = (tables, length, *map(int, operand.shape[2:]))
            angles = torch.linspace(0, 7, math.prod(shape)).reshape(shape)
            tensors[operand.name] = angles.cos() if operand.name == "cos" else angles.sin()
        else:
            dims = [{"B": batch, "T": length}.get(d, d) if isinstance(d, str) else d for d in operand.shape]
            kind = torch.float32 if operand.dtype == "f32" else dtype
            tensors[operand.name] = torch.randn(dims).to(kind).requires_grad_()
    return tensors


def check_float32(op: FusedOp, tensors: Tensors | None = None) -> None:
    """Outputs and gradients of the kernel are the decomposition's, but for float32's rounding."""
    tensors = tensors or inputs(op, torch.float32)
    values, truths = results(op, op.fused, tensors), results(op, op.exact, widened(tensors))
    _check_kinds(op, values, tensors)
    for name, truth in truths.items():
        error = distance(values[name], truth)
        assert error <= FLOAT32, f"{op.name}: {name} is off by {error:.2e}"


def check_bfloat16(op: FusedOp, draws: Sequence[Tensors] = ()) -> None:
    """The kernel is as near to float64 as the unfused form in the same dtype, in outputs and gradients.

    What is float32 in either has that dtype's rounding, in another order.

    Short vectors of gradients are near or far by chance, so errors are taken together over several draws.
    """
    errors: dict[str, float] = {}
    limits: dict[str, float] = {}
    for tensors in draws or [inputs(op, torch.bfloat16, batch=1) for _ in range(DRAWS)]:
        values, truths = results(op, op.fused, tensors), results(op, op.exact, widened(tensors))
        plain = results(op, op.plain, tensors)
        _check_kinds(op, values, tensors)
        for name, truth in truths.items():
            errors[name] = math.hypot(errors.get(name, 0.0), distance(values[name], truth))
            rounding = FLOAT32 * (values[name].dtype is torch.float32)
            limits[name] = math.hypot(limits.get(name, 0.0), distance(plain[name], truth), rounding)
    for name, error in errors.items():
        limit = limits[name]
        assert error <= TIES * limit, f"{op.name}: {name} is off by {error:.2e}, unfused by {limit:.2e}"


def results(op: FusedOp, function: Callable[..., tuple[Tensor, ...]], tensors: Tensors) -> dict[str, Tensor]:
    """A function's outputs, and the gradients of all operands for random gradients of the outputs."""
    outputs = function(*tensors.values())
    generator = torch.Generator().manual_seed(1)
    incoming = [torch.randn(o.shape, generator=generator).to(torch.bfloat16).to(o.dtype) for o in outputs]
    wanted = {name: t for name, t in tensors.items() if t is not None and t.requires_grad}
    gradients = torch.autograd.grad(outputs, list(wanted.values()), incoming)
    named = dict(zip(op.outputs, (output.detach() for output in outputs), strict=True))
    return named | {f"d{name}": g for name, g in zip(wanted, gradients, strict=True)}


def widened(tensors: Mapping[str, Tensor | None]) -> Tensors:
    """The same values in float64, with gradients of their own."""
    return {
        name: t if t is None else t.detach().double().requires_grad_(t.requires_grad)
        for name, t in tensors.items()
    }


def _check_kinds(op: FusedOp, values: Mapping[str, Tensor], tensors: Tensors) -> None:
    """Gradients look like their operands."""
    for name, tensor in tensors.items():
        if tensor is not None and f"d{name}" in values:
            gradient = values[f"d{name}"]
            assert (gradient.shape, gradient.dtype) == (tensor.shape, tensor.dtype), f"{op.name}: d{name}"


def distance(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth|, or |value| where the truth is zero; NaN where a value is NaN."""
    scale = float(truth.norm()) or 1.0
    return float((value.double() - truth).norm()) / scale
