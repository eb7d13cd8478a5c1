"""Kernels compiled ahead of time, for chips that need not be there: whether each compiles, and what it takes.

Every fused op of a package is run forward and backward on small tensors of its real widths, with launches
recorded in place of being made.  A launch is specialised as Triton does at run time: arguments that are 1 or
None become constants, pointers and numbers divisible by 16 are known to be.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archc.codegen.attention_plan import AttentionKernel
from archc.codegen.class_plan import Operand
from archc.codegen.flash_plan import FlashKernel
from archc.codegen.kernel_plan import CapacityKernel, GroupedKernel, OpKernel, WideLinearKernel
from archc.codegen.linear_plan import LinearChoice, LinearKernel
from archc.codegen.loss_plan import LossKernel
from archc.codegen.package import plan_package
from archc.codegen.router_plan import RouterKernel
from archc.compiler import Compilation
from archc.errors import ArchcError
from archc.ir.graph import Graph, Node
from archc.ir.ops.experts import DISPATCHED_LINEAR, GROUPED_LINEAR
from archc.verification.machine_code import MachineCode, read_machine_code
from archc.verification.packages import import_package

_MAX_THREADS = 1024  # of a program, on every chip
_ALIGNED = 16  # bytes that addresses are known to be divisible by, or not
_KEYS = 4096  # tokens that a cache holds
_CHOICES = 2  # experts that a token has
_ROWS_EACH = 64  # rows of an expert where there are many
_FLASH_TOKENS = 32
_SHARES = 32  # programs among which the keys of one sequence and head are shared


@dataclass(frozen=True)
class Chip:
    """A chip that Triton compiles for.  `shared` is how many bytes of shared memory a program may have."""

    name: str
    backend: str
    arch: int | str
    warp: int
    shared: int

    @property
    def target(self) -> Any:
        """The chip as Triton names it."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self.backend, self.arch, self.warp)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", "cuda", 80, 32, 163 * 1024),
        Chip("sm_90", "cuda", 90, 32, 227 * 1024),
        Chip("sm_100", "cuda", 100, 32, 227 * 1024),
        Chip("gfx942", "hip", "gfx942", 64, 64 * 1024),
    )
}


class KernelError(ArchcError):
    """A kernel that a chip cannot run."""


@dataclass(frozen=True, eq=False)
class Launch:
    """A launch that was recorded: a jitted kernel, its arguments, how many warps, constants by name.

    `stages`: how many loads of a loop are under way at a time; Triton's own choice without it.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    warps: int
    constants: tuple[tuple[str, Any], ...] = ()
    stages: int | None = None

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def adjacent(self) -> int:
        """Values that lie side by side, and aligned, in the rows of every tensor.

        They are the common divisor of the rows' widths.  How far rows lie from each other is an argument: the
        compiler knows of it that it is divisible by 16, or nothing.
        """
        tensors = [argument for argument in self.arguments if isinstance(argument, Tensor)]
        apart = [tensor.stride(0) for tensor in tensors if tensor.dim() == 2]
        widths = [tensor.shape[-1] for tensor in tensors if tensor.dim() > 1]
        return 1 if any(stride % 16 for stride in apart) else math.gcd(*widths)

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options."""
        stages = {} if self.stages is None else {"num_stages": self.stages}
        return {"num_warps": self.warps, **stages}

    def specialise(self, chip: Chip) -> tuple[dict[str, str], dict[tuple[int], Any], dict[tuple[int], Any]]:
        """Types by name; constants and known facts by place."""
        from triton.compiler.compiler import make_backend
        from triton.runtime.jit import create_function_from_signature

        backend = make_backend(chip.target)
        bind = create_function_from_signature(self.kernel.signature, self.kernel.params, backend)
        bound, kinds, _ = bind(*self.arguments, **dict(self.constants))
        signature = {name: kind for name, (kind, _) in zip(bound, kinds, strict=True)}
        values = enumerate(zip(bound.values(), kinds, strict=True))
        constants = {(n,): value for n, (value, (kind, _)) in values if kind == "constexpr"}
        facts = {(n,): backend.parse_attr(fact) for n, (_, fact) in enumerate(kinds) if isinstance(fact, str)}
        return signature, constants, facts

    def key(self, chip: Chip) -> str:
        """Equal for launches that compile to the same code, whatever the kernel is called."""
        text = self.kernel.src.partition("(")[2]
        return repr((chip.name, text, _called(self.kernel), self.specialise(chip), self.options))


def _called(kernel: Any) -> list[str]:
    """The texts of the jitted functions that a kernel calls."""
    scope = kernel.fn.__globals__
    return [scope[name].src for name in kernel.fn.__code__.co_names if hasattr(scope.get(name), "src")]


@dataclass(frozen=True)
class Usage:
    """What a kernel takes on a chip.  `adjacent`: values that lie side by side in all rows it moves."""

    name: str
    chip: str
    adjacent: int
    code: MachineCode

    def breaches(self) -> list[str]:
        """What a kernel must not have: spilled registers, narrow accesses, dots beside the tensor cores."""
        spilled = f"{self.code.spilled} bytes of registers spilled" if self.code.spilled else ""
        found = (spilled, self.code.narrow_accesses(self.adjacent), self.code.missing_tensor_cores())
        return [f"{self.name} on {self.chip}: {text}" for text in found if text]


def launches(compilation: Compilation, folder: Path, dtype: torch.dtype, length: int = 2) -> list[Launch]:
    """The launches of all fused ops of a package, forward and backward, for one sequence of a length.

    Triton must compile in this process, not interpret.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ArchcError(
            "TRITON_INTERPRET=1 is set: Triton would interpret kernels in place of compiling them"
        )
    kernels = importlib.import_module(f"{import_package(compilation, folder).__name__}.kernels")
    found: list[Launch] = []
    _record(kernels, found)
    package = plan_package(
        compilation.program, compilation.fused, compilation.reference, tuned=compilation.tuned
    )
    for plan in package.kernels:
        if isinstance(plan, OpKernel):
            for operands in _operands(plan.op.operands, dtype, length):
                _run(getattr(kernels, f"_{plan.name}"), operands)
        elif isinstance(plan, LinearKernel):
            for choice in plan.choices:
                _run_linear(getattr(kernels, f"_{plan.name}"), choice)
        elif isinstance(plan, WideLinearKernel):
            for shape in plan.shapes:
                for kind in dict.fromkeys((dtype, torch.float32)) if plan.noisy else (dtype,):
                    _run_wide(getattr(kernels, f"_{plan.name}"), shape, kind, dtype)
        elif isinstance(plan, LossKernel) and plan.triton:
            _run_loss(getattr(kernels, f"_{plan.name}"), plan.vocabulary, dtype, length)
        elif isinstance(plan, RouterKernel):
            for operands in _operands(plan.operands, dtype, length):
                getattr(kernels, f"_{plan.name}")(*operands)
        elif isinstance(plan, GroupedKernel):
            _run_experts(kernels, compilation.fused, dtype)
        elif isinstance(plan, CapacityKernel):
            for choices in plan.choices:
                _run_capacity(kernels, plan, choices, dtype)
        elif isinstance(plan, AttentionKernel):
            if plan.flash:
                _run_flash(getattr(kernels, f"_{plan.name}_flash"), plan.flash, dtype)
            if hasattr(kernels, f"_{plan.name}_step"):
                _run_steps(kernels, plan, dtype)
    return found


def _record(kernels: Any, found: list[Launch]) -> None:
    """Let the kernels of a module join the list when they are launched, and do nothing."""
    from triton.runtime.jit import JITFunction

    def record(
        kernel: Any, *arguments: Any, num_warps: int, num_stages: int | None = None, **named: Any
    ) -> None:
        constants = tuple((name, value) for name, value in named.items() if name in kernel.arg_names)
        found.append(Launch(kernel, tuple(map(_weightless, arguments)), num_warps, constants, num_stages))

    for value in vars(kernels).values():
        if isinstance(value, JITFunction):
            value.run = partial(record, value)


def _weightless(argument: Any) -> Any:
    """A tensor as a launch is specialised for it, without its memory."""
    if not isinstance(argument, Tensor) or argument.data_ptr() % _ALIGNED:
        return argument
    return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device="meta")


def _operands(
    operands: Sequence[Operand], dtype: torch.dtype, length: int
) -> Iterator[tuple[Tensor | None, ...]]:
    """Tensors for a fused op: all of them, then all but those that may be None."""
    sizes = defaultdict(lambda: length, B=1)
    tensors = []
    for operand in operands:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in operand.shape]
        kind = torch.float32 if operand.dtype == "f32" else dtype
        tensors.append(torch.zeros(shape, dtype=kind).requires_grad_(operand.dtype != "f32"))
    yield tuple(tensors)
    if any(operand.optional for operand in operands):
        yield tuple(None if o.optional else t for o, t in zip(operands, tensors, strict=True))


def _run(function: Callable[..., Any], operands: tuple[Tensor | None, ...]) -> None:
    outputs = function(*operands)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.autograd.backward(outputs, [torch.zeros_like(output) for output in outputs])


def _run_linear(function: Callable[..., Any], choice: LinearChoice) -> None:
    dtype = getattr(torch, choice.dtype)
    weight = torch.zeros(choice.outputs, choice.inputs, dtype=dtype)
    for bias in (None, torch.zeros(choice.outputs, dtype=dtype)):
        function(torch.zeros(choice.rows, 1, choice.inputs, dtype=dtype), weight, bias, *choice.tile)


def _run_wide(
    function: Callable[..., Any], shape: tuple[int, int], kind: torch.dtype, dtype: torch.dtype
) -> None:
    """For one row and for many of some kind, with a bias and without."""
    weight, offset = torch.zeros(shape, dtype=dtype), torch.zeros(shape[0], dtype=dtype)
    for rows in (1, 128):
        x = torch.zeros(1, rows, shape[1], dtype=kind)
        function(x, weight, None)
        function(x, weight, offset)


def _run_loss(function: Callable[..., Any], vocabulary: int, dtype: torch.dtype, length: int) -> None:
    targets, shares = torch.zeros(length, dtype=torch.int64), torch.zeros(length)
    for gradient in (False, True):
        function(torch.zeros(length, vocabulary, dtype=dtype), targets, shares, 1e-4, gradient)


def _run_experts(kernels: Any, graph: Graph, dtype: torch.dtype) -> None:
    """The linears of experts, forward and backward, for few rows and for many; without their memory."""
    for weight, offset in sorted({_experts(part, node) for part in graph.walk() for node in _linears(part)}):
        count, out, width = weight
        with torch.device("meta"):
            ends, matrices = torch.empty(count, dtype=torch.int64), torch.empty(weight, dtype=dtype)
            vectors = torch.empty(count, out, dtype=dtype) if offset else None
            for rows in (count, _ROWS_EACH * count):
                x, y = torch.empty(rows, width, dtype=dtype), torch.empty(rows, out, dtype=dtype)
                order = torch.empty(_CHOICES * rows, dtype=torch.int64)
                kernels.grouped_linear(x, matrices, ends, vectors, order, _CHOICES)
                kernels.grouped_linear(x, matrices, ends, vectors)
                kernels.grouped_linear(y, matrices.mT, ends)
                kernels.grouped_outer(y, x, ends, order[:rows], _CHOICES)
                kernels.grouped_outer(y, x, ends)
                places = torch.empty(rows // _CHOICES, 1, _CHOICES, dtype=torch.int64)
                beside, weights = torch.empty(*places.shape[:2], out, dtype=dtype), places.to(dtype)
                for given in itertools.product((None, weights), (None, beside)):
                    kernels.sum_of_choices(y, places, *given)
            kernels.sort_choices._init_fn(places, count)


def _run_capacity(kernels: Any, plan: CapacityKernel, choices: int, dtype: torch.dtype) -> None:
    """For many tokens of a sequence, and for one behind a cache."""
    for tokens in (_KEYS, 1):
        chosen, places = torch.zeros(1, tokens, choices, dtype=torch.int64), torch.zeros(
            1, tokens, dtype=torch.int64
        )
        weights = torch.zeros(chosen.shape, dtype=dtype)
        if plan.name == "drop_crowded":
            kernels.drop_crowded(weights, chosen, places, 1.0)
        else:
            kernels._within_capacity(weights, chosen, chosen, places, places, 2)
    if plan.keeps:
        so_far, keys = torch.zeros(1, _KEYS, choices, dtype=torch.int64), torch.zeros(
            1, _KEYS, dtype=torch.int64
        )
        filled = torch.zeros(1, dtype=torch.int64)
        kernels._within_capacity_step(weights, chosen, so_far, filled, places, keys, 2)


def _linears(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes() if node.op in (GROUPED_LINEAR, DISPATCHED_LINEAR)]


def _experts(graph: Graph, linear: Node) -> tuple[tuple[int, ...], bool]:
    """The sizes of all experts' weights, and whether they have biases."""
    weight = linear.operand("weight")
    assert weight is not None
    return tuple(map(int, graph.type(weight).shape)), linear.operand("offset") is not None


def _run_flash(function: Callable[..., Any], plan: FlashKernel, dtype: torch.dtype) -> None:
    """Forward and backward, with keys in order and with padding."""
    for ordered in (True, False):
        operands = [
            torch.zeros(1, _FLASH_TOKENS, heads, width, dtype=dtype, requires_grad=True)
            for heads, width in (
                (plan.heads, plan.head_dim),
                (plan.kv_heads, plan.head_dim),
                (plan.kv_heads, plan.value_dim),
            )
        ]
        sizes = {"sinks": [plan.heads], "table": [plan.bias.buckets, plan.heads] if plan.bias else []}
        further = [torch.zeros(sizes[name], dtype=dtype, requires_grad=True) for name in plan.tensors]
        positions = torch.zeros(1, _FLASH_TOKENS, dtype=torch.int64)
        o, _ = function(*operands, *further, positions, positions, ordered)
        o.backward(torch.zeros_like(o))


def _run_steps(kernels: Any, plan: AttentionKernel, dtype: torch.dtype) -> None:
    """With few keys, which one program reads, and with many that are shared; padded or not, and in a ring."""
    shares = kernels._shares
    rings = [(_SHARES, False, _KEYS // 2)] if plan.oldest else []
    for count, padded, length in ((1, True, _KEYS), (_SHARES, False, _KEYS), *rings):
        kernels._shares = lambda *_, count=count: count
        kept = [plan.head_dim] if plan.one_slot else [plan.head_dim, plan.value_dim]
        asked = [plan.value_dim, plan.behind] if plan.values_in_keys else [plan.head_dim]
        queries = [torch.zeros(1, 1, plan.heads, width, dtype=dtype) for width in asked]
        stores = [torch.zeros(1, length, plan.kv_heads, width, dtype=dtype) for width in kept]
        filled, positions, places = (torch.zeros(1, size, dtype=torch.int64) for size in (1, 1, _KEYS))
        arrived = torch.zeros(plan.programs, dtype=torch.int32)
        step = getattr(kernels, f"_{plan.name}_step")
        if plan.fixed:
            step(*queries, *stores, places, arrived, padded)
            continue
        new = [store[:, :1].contiguous() for store in stores]
        extra = [_extra(kernels, plan, name, dtype, length) for name in plan.step_extra]
        step(*queries, *new, *stores, filled, positions, places, arrived, padded, *extra)
    kernels._shares = shares


def _extra(kernels: Any, plan: AttentionKernel, name: str, dtype: torch.dtype, keys: int) -> Tensor:
    """What a step is given besides: sinks, a bias or the table of one, or what is made of that."""
    shapes = {"sinks": (plan.heads,), "bias": (1, plan.heads, 1, keys), "table": (1, plan.heads)}
    if name in shapes:
        return torch.zeros(shapes[name], dtype=dtype)
    made: Tensor = getattr(kernels, f"_{plan.name}_{name}")(torch.device("cpu"))
    return made


# --------------------------------------------------------------------- compiled


def compile_launch(launch: Launch, chip: Chip) -> Usage:
    """Compile a kernel to the chip's machine code; raises `KernelError` where that fails or does not fit."""
    import triton
    from triton.compiler import ASTSource
    from triton.errors import TritonError

    threads = launch.warps * chip.warp
    if threads > _MAX_THREADS:
        raise _error(launch, chip, f"{threads} threads, a program has {_MAX_THREADS} at most")
    signature, constants, facts = launch.specialise(chip)
    source = ASTSource(launch.kernel, signature, constants, facts)
    try:
        compiled = triton.compile(source, target=chip.target, options=launch.options)
    except (TritonError, RuntimeError) as error:
        raise _error(launch, chip, str(error)) from error
    code = read_machine_code(compiled, chip.backend, threads)
    if code.shared > chip.shared:
        raise _error(launch, chip, f"{code.shared:,} bytes of shared memory, there are {chip.shared:,}")
    return Usage(launch.name, chip.name, launch.adjacent, code)


def _error(launch: Launch, chip: Chip, text: str) -> KernelError:
    return KernelError(f"{launch.name} for {chip.name}: {text}")
