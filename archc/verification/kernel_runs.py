"""Kernels run by themselves, forward and backward, in each way in which a package launches them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatchmethod
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
from archc.codegen.kernels.linear.linear_plan import LinearKernel
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


@dataclass(frozen=True)
class KernelRuns:
    """Runs what can be run of a package's kernels without the model around them."""

    kernels: Any
    dtype: torch.dtype
    sizes: Sizes

    def _function(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self.kernels, f"_{name}")
        return function

    def _zeros(self, *shape: int) -> Tensor:
        """A tensor of the model's dtype."""
        return torch.zeros(shape, dtype=self.dtype)

    @singledispatchmethod
    def run(self, plan: Kernel) -> None:
        """Run one kernel; of kinds that are not below, nothing."""

    @run.register
    def _op(self, plan: OpKernel | RouterKernel) -> None:
        for operands in self._operands(plan.op.operands, self.sizes.length):
            run_backward(self._function(plan.name)(*operands))

    def _operands(self, operands: Sequence[Operand], length: int) -> Iterator[tuple[Tensor | None, ...]]:
        """Tensors for a fused op: all of them, then all but those that may be None."""
        tensors = [make_operand(torch.zeros, each, self.dtype, length).requires_grad_() for each in operands]
        yield tuple(tensors)
        if any(operand.optional for operand in operands):
            yield tuple(None if o.optional else t for o, t in zip(operands, tensors, strict=True))

    @run.register
    def _linear(self, plan: LinearKernel) -> None:
        for choice in plan.choices:
            dtype = getattr(torch, choice.dtype)
            x = torch.zeros(choice.rows, 1, choice.inputs, dtype=dtype)
            weight = torch.zeros(choice.outputs, choice.inputs, dtype=dtype)
            for biased in choice.biased:
                bias = torch.zeros(choice.outputs, dtype=dtype) if biased else None
                self._function(plan.name)(x, weight, bias, *choice.tile)

    @run.register
    def _linear_after(self, plan: LinearAfterKernel) -> None:
        for operands, (shape, biased) in itertools.product(self._operands(plan.op.operands, 1), plan.maps):
            bias = self._zeros(shape[0]) if biased else None
            weights = {"linear_weight": self._zeros(*shape), "linear_bias": bias}
            with torch.no_grad():
                self._function(plan.name)(*operands, *(weights[name] for name in plan.weights))

    @run.register
    def _loss(self, plan: LossKernel) -> None:
        length = self.sizes.length
        targets, shares = torch.zeros(length, dtype=torch.int64), torch.zeros(length)
        for gradient in (False, True) if plan.triton else ():
            self._function(plan.name)(self._zeros(length, plan.vocabulary), targets, shares, 1e-4, gradient)

    @run.register
    def _capacity(self, plan: CapacityKernel) -> None:
        """For many tokens of a sequence, and for one after a cache."""
        many, kernels = self.sizes.keys, self.kernels
        keys = torch.zeros(1, many, dtype=torch.int64)
        for choices in plan.choices:
            so_far = torch.zeros(1, many, choices, dtype=torch.int64)
            for tokens in (many, 1):
                chosen, places = so_far[:, :tokens], keys[:, :tokens]
                weights = self._zeros(*chosen.shape)
                if plan.name == "drop_crowded":
                    kernels.drop_crowded(weights, chosen, places, 1.0)
                else:
                    kernels._within_capacity(weights, chosen, so_far, places, keys, 2)
            if plan.keeps:
                filled = torch.zeros(1, dtype=torch.int64)
                kernels._within_capacity_step(weights, chosen, so_far, filled, places, keys, 2)

    @run.register
    def _recurrence(self, plan: RecurrenceKernel) -> None:
        """For few tokens of a sequence, one after a cache, or more than a chunk; backward too if kernels can.

        Nothing is learned from single tokens.
        """
        length = self.sizes.length
        for tokens in (length, 1, *([plan.tiles.tokens + length] if plan.tiles else [])):
            given = self._of_recurrence(plan, tokens)
            q, k, v, *others = given.values()
            positions = torch.zeros(1, tokens, dtype=torch.int64)
            state = torch.zeros(1, plan.heads, plan.keys, plan.values)
            self._function(plan.name)(q, k, v, positions, *others, state)
            if plan.trains and tokens > 1:
                leaves = [x.requires_grad_() for x in (q, k, v)]
                run_backward(self._function(f"{plan.name}_of_all")(*leaves, positions, *others))

    def _of_recurrence(self, plan: RecurrenceKernel, tokens: int) -> dict[str, Tensor]:
        """What a recurrence is given, by name."""
        shared, own = (1, tokens, plan.kv_heads), (1, tokens, plan.heads)
        shapes = {"q": (*shared, plan.keys), "k": (*shared, plan.keys), "v": (*own, plan.values), "beta": own}
        shapes |= dict.fromkeys(("erase", "renew"), (*own, plan.keys))
        decay = (*own, plan.keys) if plan.decay == "row" else own
        shapes["log_decay"] = decay[2:] if plan.fixed else decay
        return {
            name: torch.zeros(shapes[name], dtype=torch.float32 if name in plan.wide else self.dtype)
            for name in ("q", "k", "v", *plan.optional)
        }

    @run.register
    def _maximum(self, plan: RunningMaximumKernel) -> None:
        """For some tokens of a sequence, and for one after a cache."""
        for tokens in (self.sizes.length, 1):
            x, state = torch.zeros(1, tokens, plan.width), torch.zeros(1, plan.width)
            positions = torch.zeros(1, tokens, dtype=torch.int64)
            self._function(plan.name)(x, positions, state[0] if plan.fixed else x, state)

    @run.register
    def _convolution(self, plan: ConvolutionKernel) -> None:
        """Forward and backward, with tokens in order and with padding, and for one after a cache."""
        inner, tokens = (plan.width // plan.channels, plan.channels)[plan.dims == 3 :], self.sizes.length

        def operands(count: int) -> list[Tensor]:
            rows = dict.fromkeys(plan.with_rows, (1, count, *inner))
            shapes = {"weight": (plan.channels, 1, plan.taps), **rows}
            wanted = [shapes.get(name, (plan.channels,)) for name in ("x", *plan.operands)]
            return [self._zeros(*shape).requires_grad_() for shape in wanted]

        for table in (None, torch.zeros(1, tokens, plan.taps, dtype=torch.int64)):
            run_backward(self._function(plan.name)(*operands(tokens), tokens, table, table))
        if plan.keeps:
            length = plan.first + plan.taps
            places = torch.zeros(1, length, dtype=torch.int64)
            ring = self._zeros(1, length, *inner)
            self._function(f"{plan.name}_step")(*operands(1), ring, places[:, :1], places)

    @run.register
    def _key_choice(self, plan: KeyChoiceKernel) -> None:
        """For one new token of a sequence."""
        keys = self.sizes.keys
        q, k = self._zeros(1, 1, plan.heads, plan.width), self._zeros(1, keys, 1, plan.width)
        weights = torch.zeros(1, 1, plan.heads, dtype=torch.float32 if plan.weights_are_wide else self.dtype)
        places = torch.zeros(1, keys, dtype=torch.int64)
        self._function(f"{plan.name}_step")(q, k, weights, places[:, :1], places)

    @run.register
    def _attention(self, plan: AttentionKernel) -> None:
        if plan.flash:
            self._flash(plan.flash)
        if plan.step:
            self._steps(plan.step)

    def _flash(self, plan: FlashKernel) -> None:
        """Forward and backward, with keys in order and with padding, or with chosen keys."""
        tokens = self.sizes.flash
        positions = torch.zeros(1, tokens, dtype=torch.int64)
        among = torch.zeros(1, tokens, max(plan.choosers, 1), 1, dtype=torch.int64)
        for sight in [self.kernels._chosen_keys(among, tokens)] if plan.chooses else [True, False]:
            shapes = {
                "q": [1, tokens, plan.heads, plan.head_dim],
                "k": [1, tokens, plan.kv_heads, plan.head_dim],
                "v": [1, tokens, plan.kv_heads, plan.value_dim],
                "sinks": [plan.heads],
                "bias": [1, plan.heads, tokens if plan.of_pairs else 1, tokens],
                "table": [plan.bias.buckets, plan.heads] if plan.bias else [],
                "values": [1, tokens, plan.heads, plan.bias.distances] if plan.bias else [],
            }
            operands = [self._zeros(*shapes[n]).requires_grad_() for n in ("q", "k", "v", *plan.tensors)]
            o, *_ = self._function(f"{plan.name}_flash")(*operands, positions, positions, sight)
            o.backward(torch.zeros_like(o))

    def _steps(self, plan: StepKernel) -> None:
        """With few keys, which one program reads, with many that are shared, and in a ring; padded or not.

        All of that for each chip's room where tiles depend on it, and with as many sequences as the widest
        need and fewer.
        """
        kernels, keys = self.kernels, self.sizes.keys
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
            self._step(plan, padded, length)
        kernels._shares, kernels._room, kernels._processors = replaced

    def _step(self, plan: StepKernel, padded: bool, length: int) -> None:
        kept = [plan.head_dim] if plan.form.one_slot else [plan.head_dim, plan.value_dim]
        asked = [plan.value_dim, plan.rest] if plan.form.values_in_keys else [plan.head_dim]
        queries = [self._zeros(1, 1, plan.heads, width) for width in asked]
        stores = [self._zeros(1, length, plan.kv_heads, width) for width in kept]
        filled, positions, places = (torch.zeros(1, n, dtype=torch.int64) for n in (1, 1, self.sizes.keys))
        step = self._function(f"{plan.name}_step")
        if plan.fixed:
            step(*queries, *stores, places, padded)
            return
        new = [store[:, :1].contiguous() for store in stores] if plan.keeps else []
        extra = [self._extra(plan, name, length) for name in plan.signature.rest]
        told = [padded] if plan.signature.tells_padding else []
        own = [positions] if plan.signature.reads_position else []
        step(*queries, *new, *stores, filled, *own, places, *told, *extra)

    def _extra(self, plan: StepKernel, name: str, keys: int) -> Tensor:
        """What a step is given besides: choices, sinks, a bias or its table, or what is made of that."""
        if name == "among":
            return torch.zeros(1, 1, plan.chosen, dtype=torch.int64)
        shapes = {"sinks": (plan.heads,), "bias": (1, plan.heads, 1, keys), "table": (1, plan.heads)}
        if name in shapes:
            return self._zeros(*shapes[name])
        made: Tensor = self._function(f"{plan.name}_{name}")(torch.device("meta"))
        return made


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
