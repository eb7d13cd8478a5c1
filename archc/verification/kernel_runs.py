"""Kernels run by themselves, forward and backward, in each way in which a package launches them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.kernels.attention.flash_plan import FlashKernel
from archc.codegen.kernels.attention.step_plan import StepKernel
from archc.codegen.kernels.convolution.convolution_plan import ConvolutionKernel
from archc.codegen.kernels.custom_op import Operand
from archc.codegen.kernels.experts.router_plan import RouterKernel
from archc.codegen.kernels.kernel_plan import CapacityKernel, Kernel, OpKernel
from archc.codegen.kernels.key_choice.key_choice_plan import KeyChoiceKernel
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.linear_plan import LinearChoice, LinearKernel
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.kernels.recurrence.recurrence_plan import RecurrenceKernel
from archc.codegen.kernels.recurrence.running_maximum_plan import RunningMaximumKernel
from archc.verification.chips import CHIPS

_SHARES = 32  # programs among which the keys of one sequence and head are shared
_PROCESSORS = 1 << 16  # of a chip that no sequence fills


@dataclass(frozen=True)
class Sizes:
    """What kernels are run on.

    `length`: tokens of the one sequence that most ops are given; `flash`: those that attention is;
    `keys`: tokens that a cache holds; `many`: sequences and tokens with which all experts have many.
    """

    length: int = 2
    flash: int = 32
    keys: int = 4096
    many: tuple[int, int] = (16, 512)


def run_plan(plan: Kernel, kernels: Any, dtype: torch.dtype, sizes: Sizes) -> None:
    """Run what can be run without the model around it."""
    if isinstance(plan, OpKernel | RouterKernel):
        for operands in _operands(plan.op.operands, dtype, sizes.length):
            run_backward(getattr(kernels, f"_{plan.name}")(*operands))
    elif isinstance(plan, LinearKernel):
        for choice in plan.choices:
            _run_linear(getattr(kernels, f"_{plan.name}"), choice)
    elif isinstance(plan, LinearAfterKernel):
        for operands in _operands(plan.op.operands, dtype, 1):
            _run_linear_after(getattr(kernels, f"_{plan.name}"), plan, operands)
    elif isinstance(plan, LossKernel) and plan.triton:
        _run_loss(getattr(kernels, f"_{plan.name}"), plan.vocabulary, dtype, sizes.length)
    elif isinstance(plan, CapacityKernel):
        for choices in plan.choices:
            _run_capacity(kernels, plan, choices, dtype, sizes.keys)
    elif isinstance(plan, RecurrenceKernel):
        for tokens in (sizes.length, 1, *([plan.tiles.tokens + sizes.length] if plan.tiles else [])):
            _run_recurrence(kernels, plan, dtype, tokens)
    elif isinstance(plan, RunningMaximumKernel):
        for tokens in (sizes.length, 1):
            _run_maximum(getattr(kernels, f"_{plan.name}"), plan, tokens)
    elif isinstance(plan, ConvolutionKernel):
        _run_convolution(kernels, plan, dtype, sizes.length)
    elif isinstance(plan, KeyChoiceKernel):
        _run_key_choice(getattr(kernels, f"_{plan.name}_step"), plan, dtype, sizes.keys)
    elif isinstance(plan, AttentionKernel):
        if plan.flash:
            _run_flash(kernels, plan.flash, dtype, sizes.flash)
        if plan.step:
            _run_steps(kernels, plan.step, dtype, sizes.keys)


def _operands(
    operands: Sequence[Operand], dtype: torch.dtype, length: int
) -> Iterator[tuple[Tensor | None, ...]]:
    """Tensors for a fused op: all of them, then all but those that may be None."""
    tensors = [make_operand(torch.zeros, operand, dtype, length).requires_grad_() for operand in operands]
    yield tuple(tensors)
    if any(operand.optional for operand in operands):
        yield tuple(None if o.optional else t for o, t in zip(operands, tensors, strict=True))


def make_operand(make: Callable[..., Tensor], operand: Operand, dtype: torch.dtype, length: int) -> Tensor:
    """A tensor for an operand of a fused op, of one sequence of `length` tokens; `make`: as torch.zeros."""
    sizes = defaultdict(lambda: length, B=1)
    shape = [sizes[dim] if isinstance(dim, str) else dim for dim in operand.shape]
    return make(shape, dtype=torch.float32 if operand.dtype == "f32" else dtype)


def run_backward(outputs: Tensor | tuple[Tensor, ...]) -> None:
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    ends = [output for output in several if output.requires_grad]
    if ends:
        torch.autograd.backward(ends, [torch.zeros_like(end) for end in ends])


def _run_linear(function: Callable[..., Any], choice: LinearChoice) -> None:
    dtype = getattr(torch, choice.dtype)
    weight = torch.zeros(choice.outputs, choice.inputs, dtype=dtype)
    for biased in choice.biased:
        bias = torch.zeros(choice.outputs, dtype=dtype) if biased else None
        function(torch.zeros(choice.rows, 1, choice.inputs, dtype=dtype), weight, bias, *choice.tile)


def _run_linear_after(
    function: Callable[..., Any], plan: LinearAfterKernel, operands: tuple[Tensor | None, ...]
) -> None:
    dtype = next(operand.dtype for operand in operands if operand is not None)
    for shape, biased in plan.maps:
        bias = torch.zeros(shape[0], dtype=dtype) if biased else None
        weights = {"linear_weight": torch.zeros(shape, dtype=dtype), "linear_bias": bias}
        with torch.no_grad():
            function(*operands, *(weights[name] for name in plan.weights))


def _run_loss(function: Callable[..., Any], vocabulary: int, dtype: torch.dtype, length: int) -> None:
    targets, shares = torch.zeros(length, dtype=torch.int64), torch.zeros(length)
    for gradient in (False, True):
        function(torch.zeros(length, vocabulary, dtype=dtype), targets, shares, 1e-4, gradient)


def _run_capacity(kernels: Any, plan: CapacityKernel, choices: int, dtype: torch.dtype, many: int) -> None:
    """For many tokens of a sequence, and for one after a cache."""
    so_far, keys = torch.zeros(1, many, choices, dtype=torch.int64), torch.zeros(1, many, dtype=torch.int64)
    for tokens in (many, 1):
        chosen, places = so_far[:, :tokens], keys[:, :tokens]
        weights = torch.zeros(chosen.shape, dtype=dtype)
        if plan.name == "drop_crowded":
            kernels.drop_crowded(weights, chosen, places, 1.0)
        else:
            kernels._within_capacity(weights, chosen, so_far, places, keys, 2)
    if plan.keeps:
        filled = torch.zeros(1, dtype=torch.int64)
        kernels._within_capacity_step(weights, chosen, so_far, filled, places, keys, 2)


def _run_recurrence(kernels: Any, plan: RecurrenceKernel, dtype: torch.dtype, tokens: int) -> None:
    """For tokens of a sequence: few, one after a cache, or more than a chunk; backward too where kernels can.

    Nothing is learned from single tokens.
    """
    shared, own = (1, tokens, plan.kv_heads), (1, tokens, plan.heads)
    shapes = {"q": (*shared, plan.keys), "k": (*shared, plan.keys), "v": (*own, plan.values), "beta": own}
    shapes |= dict.fromkeys(("erase", "renew"), (*own, plan.keys))
    decay = (*own, plan.keys) if plan.decay == "row" else own
    shapes["log_decay"] = decay[2:] if plan.fixed else decay
    given = {
        name: torch.zeros(shapes[name], dtype=torch.float32 if name in plan.wide else dtype)
        for name in ("q", "k", "v", *plan.optional)
    }
    q, k, v, *others = given.values()
    positions = torch.zeros(1, tokens, dtype=torch.int64)
    state = torch.zeros(1, plan.heads, plan.keys, plan.values)
    getattr(kernels, f"_{plan.name}")(q, k, v, positions, *others, state)
    if plan.trains and tokens > 1:
        leaves = [x.requires_grad_() for x in (q, k, v)]
        run_backward(getattr(kernels, f"_{plan.name}_of_all")(*leaves, positions, *others))


def _run_maximum(function: Callable[..., Any], plan: RunningMaximumKernel, tokens: int) -> None:
    """For some tokens of a sequence, or for one after a cache."""
    x, state = torch.zeros(1, tokens, plan.width), torch.zeros(1, plan.width)
    function(x, torch.zeros(1, tokens, dtype=torch.int64), state[0] if plan.fixed else x, state)


def _run_convolution(kernels: Any, plan: ConvolutionKernel, dtype: torch.dtype, tokens: int) -> None:
    """Forward and backward, with tokens in order and with padding, and for one after a cache."""
    inner = (plan.width // plan.channels, plan.channels)[plan.dims == 3 :]

    def operands(count: int) -> list[Tensor]:
        rows = dict.fromkeys(plan.with_rows, (1, count, *inner))
        shapes = {"weight": (plan.channels, 1, plan.taps), **rows}
        wanted = [shapes.get(name, (plan.channels,)) for name in ("x", *plan.operands)]
        return [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in wanted]

    for table in (None, torch.zeros(1, tokens, plan.taps, dtype=torch.int64)):
        run_backward(getattr(kernels, f"_{plan.name}")(*operands(tokens), tokens, table, table))
    if plan.keeps:
        length = plan.first + plan.taps
        places = torch.zeros(1, length, dtype=torch.int64)
        ring = torch.zeros(1, length, *inner, dtype=dtype)
        getattr(kernels, f"_{plan.name}_step")(*operands(1), ring, places[:, :1], places)


def _run_key_choice(
    function: Callable[..., Any], plan: KeyChoiceKernel, dtype: torch.dtype, keys: int
) -> None:
    """For one new token of a sequence."""
    q, k = (torch.zeros(1, n, heads, plan.width, dtype=dtype) for n, heads in ((1, plan.heads), (keys, 1)))
    weights = torch.zeros(1, 1, plan.heads, dtype=torch.float32 if plan.weights_are_wide else dtype)
    places = torch.zeros(1, keys, dtype=torch.int64)
    function(q, k, weights, places[:, :1], places)


def _run_flash(kernels: Any, plan: FlashKernel, dtype: torch.dtype, tokens: int) -> None:
    """Forward and backward, with keys in order and with padding, or with chosen keys."""
    function, positions = getattr(kernels, f"_{plan.name}_flash"), torch.zeros(1, tokens, dtype=torch.int64)
    among = torch.zeros(1, tokens, max(plan.choosers, 1), 1, dtype=torch.int64)
    for sight in [kernels._chosen_keys(among, tokens)] if plan.chooses else [True, False]:
        operands = [
            torch.zeros(1, tokens, heads, width, dtype=dtype, requires_grad=True)
            for heads, width in (
                (plan.heads, plan.head_dim),
                (plan.kv_heads, plan.head_dim),
                (plan.kv_heads, plan.value_dim),
            )
        ]
        sizes = {"sinks": [plan.heads], "bias": [1, plan.heads, tokens if plan.of_pairs else 1, tokens]}
        sizes["table"] = [plan.bias.buckets, plan.heads] if plan.bias else []
        sizes["values"] = [1, tokens, plan.heads, plan.bias.distances] if plan.bias else []
        further = [torch.zeros(sizes[name], dtype=dtype, requires_grad=True) for name in plan.tensors]
        o, *_ = function(*operands, *further, positions, positions, sight)
        o.backward(torch.zeros_like(o))


def _run_steps(kernels: Any, plan: StepKernel, dtype: torch.dtype, keys: int) -> None:
    """With few keys, which one program reads, and with many that are shared; padded or not, and in a ring.

    All of that for each chip's room where tiles depend on it, and with as many sequences as the widest need
    and fewer.
    """
    replaced = kernels._shares, kernels._room, kernels._processors
    rings = [(_SHARES, False, keys // 2)] if plan.oldest else []
    alone = [(1, False, keys)] if plan.wide else []
    ways = ((1, True, keys), (_SHARES, False, keys), *rings, *alone)
    rooms = {chip.shared: None for chip in CHIPS.values()} if plan.large or plan.wide else (0,)
    chips = (1, _PROCESSORS) if plan.wide else (1,)  # that one sequence fills, and does not
    for (count, padded, length), free, processors in itertools.product(ways, rooms, chips):
        kernels._shares = lambda *_, count=count: count
        kernels._room = lambda _, free=free: free
        kernels._processors = lambda _, processors=processors: processors
        kept = [plan.head_dim] if plan.form.one_slot else [plan.head_dim, plan.value_dim]
        asked = [plan.value_dim, plan.rest] if plan.form.values_in_keys else [plan.head_dim]
        queries = [torch.zeros(1, 1, plan.heads, width, dtype=dtype) for width in asked]
        stores = [torch.zeros(1, length, plan.kv_heads, width, dtype=dtype) for width in kept]
        filled, positions, places = (torch.zeros(1, size, dtype=torch.int64) for size in (1, 1, keys))
        step = getattr(kernels, f"_{plan.name}_step")
        if plan.fixed:
            step(*queries, *stores, places, padded)
            continue
        new = [store[:, :1].contiguous() for store in stores] if plan.keeps else []
        extra = [_extra(kernels, plan, name, dtype, length) for name in plan.signature.rest]
        told = [padded] if plan.signature.tells_padding else []
        own = [positions] if plan.signature.reads_position else []
        step(*queries, *new, *stores, filled, *own, places, *told, *extra)
    kernels._shares, kernels._room, kernels._processors = replaced


def _extra(kernels: Any, plan: StepKernel, name: str, dtype: torch.dtype, keys: int) -> Tensor:
    """What a step is given besides: choices, sinks, a bias or the table of one, or what is made of that."""
    if name == "among":
        return torch.zeros(1, 1, plan.chosen, dtype=torch.int64)
    shapes = {"sinks": (plan.heads,), "bias": (1, plan.heads, 1, keys), "table": (1, plan.heads)}
    if name in shapes:
        return torch.zeros(shapes[name], dtype=dtype)
    made: Tensor = getattr(kernels, f"_{plan.name}_{name}")(torch.device("meta"))
    return made
