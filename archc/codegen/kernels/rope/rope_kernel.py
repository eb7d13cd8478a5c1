"""Plans for heads: queries and keys are rotated, and normed before or after; values are normed or copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused, power_of_two, width_of
from archc.codegen.kernels.rope.rope_heads import Part, heads_of, parts_of
from archc.codegen.kernels.rope.rope_plan import Heads, RopeKernel
from archc.codegen.kernels.signature import Signature
from archc.codegen.modules.class_plan import Argument
from archc.codegen.native.native_kernel import plan_native_rope
from archc.ir.decomposition import StepRef
from archc.ir.rule import Rule

TABLES = ("cos", "sin")
TABLE_TOKENS = "cos.shape[0] * cos.shape[1]"  # what a launch of any rotation is given

_SUMS = 40 * 32  # of norms' weights, that a warp's registers hold beside all else
_THIRD_LANE = 4 * 32  # fewer of them, where a lane beside the pairs has places and masks of its own
_MAX_WARPS = 16
_MAX_STAGED = 12288  # values of a token, of which two are under way


def plan_rope(fused: Fused) -> RopeKernel:
    """The kernel of a rule of the rope family."""
    return _Planner(fused).kernel()


@dataclass(frozen=True)
class _Planner:
    """What the parts of a plan have in common."""

    fused: Fused

    @cached_property
    def packed(self) -> bool:
        """Whether queries, keys and values are parts of one operand."""
        return self.fused.rule.operands[0] == "qkv"

    @cached_property
    def parts(self) -> list[Part]:
        return parts_of(self.fused)

    @cached_property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """Operands with heads, and the width of a token in each."""
        if self.packed:
            return (("qkv", self.fused.width("qkv")),)
        return tuple((part.name, part.heads * part.head_dim) for part in self.parts)

    @cached_property
    def source_shapes(self) -> dict[str, str]:
        """Their dims after [B, T]."""
        if self.packed:
            return {name: str(width) for name, width in self.sources}
        return {part.source: f"{part.heads}, {part.head_dim}" for part in self.parts}

    @cached_property
    def results(self) -> dict[str, str]:
        """The dims of results after [B, T]."""
        return {part.out: f"{part.heads}, {part.head_dim}" for part in self.parts}

    @cached_property
    def head_dim(self) -> int:
        return width_of(self.fused.node.types[0])

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Those that it rotates by; none where it only norms."""
        return tuple(name for name in TABLES if name in self.fused.types)

    @cached_property
    def pairs(self) -> int:
        return self.fused.width("cos") if self.tables else 0

    @cached_property
    def interleaved(self) -> bool:
        return bool(self.fused.node.attributes.get("pairing") == "interleaved")

    @cached_property
    def over_heads(self) -> bool:
        return _is_over_heads(self.fused.rule)

    @cached_property
    def heads(self) -> list[Heads]:
        pairing = (self.pairs, self.interleaved)
        return heads_of(self.fused, self.parts, dict(self.sources), pairing, self.over_heads)

    @cached_property
    def worked(self) -> tuple[Heads, ...]:
        return tuple(part for part in self.heads if part.turned or part.normed)

    @cached_property
    def weights(self) -> dict[str, int]:
        """The norms' weights, and how wide each is."""
        whole = self.over_heads
        return {part.weight: part.width if whole else part.head_dim for part in self.worked if part.weight}

    @cached_property
    def normed(self) -> bool:
        return any(part.normed for part in self.worked)

    def kernel(self) -> RopeKernel:
        fused, attributes = self.fused, self.fused.node.attributes
        names, weights, results = [name for name, _ in self.sources], list(self.weights), list(self.results)
        forward = forward_of(names, weights, results, self.tables)
        backward = _backward_of(names, weights, results, self.normed, self.tables)
        op = self._custom_op(names)
        warps, backward_warps, stages = _sizes(self.heads, self.head_dim, self.over_heads)
        return RopeKernel(
            name=fused.name,
            equation=fused.equation,
            layout=fused.layout,
            op=op,
            sources=self.sources,
            source_shapes=self.source_shapes,
            result_shapes=self.results,
            worked=self.worked,
            copied=tuple(part for part in self.heads if part not in self.worked),
            head_dim=self.head_dim,
            pairs=self.pairs,
            pair_block=power_of_two(self.pairs),
            interleaved=self.interleaved,
            over_heads=self.over_heads,
            turns_first="rotate_by" in _normed_ops(fused.rule),
            eps=float(attributes.get("eps", 0.0)),
            offset=float(attributes.get("offset", 0.0)),
            warps=warps,
            backward_warps=backward_warps,
            stages=stages,
            forward_parameters=forward.parameters,
            forward_arguments=forward.arguments,
            backward_parameters=backward.parameters,
            backward_arguments=backward.arguments,
            native=plan_native_rope(fused, op, self.sources[0][1], self.heads[0].width, self.weights),
            template="qk_norm_rope" if self.normed else "rope",
        )

    def _custom_op(self, names: list[str]) -> CustomOp:
        """With norms the gradient reads the operands again."""
        saved = (*self.tables, *((*names, *self.weights) if self.normed else ()))
        return rotation_op(self.fused, self.source_shapes, self.results, saved, tuple(self.weights))


def forward_of(
    names: Sequence[str], weights: Sequence[str], outs: Sequence[str], tables: Sequence[str] = TABLES
) -> Signature:
    """How a rotation reads its sources, tables and norms' weights, and writes what comes of them."""
    return Signature(
        (
            *(f"{name}_ptr" for name in (*names, *tables, *weights, *outs)),
            *(f"{name}_stride" for name in names),
            *(["table_tokens"] if tables else []),
        ),
        (
            *(f"{name}_rows" for name in names),
            *contiguous(tables),
            *weights,
            *outs,
            *(f"{name}_rows.stride(0)" for name in names),
            *([TABLE_TOKENS] if tables else []),
        ),
    )


def contiguous(names: Sequence[str]) -> tuple[str, ...]:
    """Tensors as a launch gives them that are read row by row."""
    return tuple(f"{name}.contiguous()" for name in names)


def _backward_of(
    names: Sequence[str], weights: Sequence[str], outs: Sequence[str], normed: bool, tables: Sequence[str]
) -> Signature:
    """How the gradient does: with norms it reads the sources again."""
    incoming = [f"d{out}" for out in outs]
    gradients = [f"d{name}" for name in (*names, *weights)]
    again = (*names, *weights) if normed else ()
    rows = (*(f"{name}_rows" for name in names), *weights) if normed else ()
    strides = ("tokens", *(f"{name}_stride" for name in names)) if normed else ()
    row_strides = ("tokens", *(f"{name}_rows.stride(0)" for name in names)) if normed else ()
    return Signature(
        (
            *(f"{name}_ptr" for name in (*incoming, *tables, *again, *gradients)),
            *strides,
            *(["table_tokens"] if tables else []),
        ),
        (
            *incoming,
            *contiguous(tables),
            *rows,
            *gradients,
            *row_strides,
            *([TABLE_TOKENS] if tables else []),
        ),
    )


def _sizes(heads: Sequence[Heads], head_dim: int, over_heads: bool) -> tuple[int, int, int]:
    """Warps there and back, by what is in registers at once, and the tokens under way in the gradient."""
    blocks = {part: part.block * power_of_two(head_dim) for part in heads}
    lanes = [blocks[part] for part in heads if part.turned or part.normed]
    sums = sum(part.block * lane.block for part in heads if part.weight for lane in part.lanes)
    room = _SUMS - _THIRD_LANE * any(len(part.lanes) > 2 for part in heads)
    warps = warps_for(sum(lanes) if over_heads else max(lanes))
    return warps, warps if over_heads else _backward_warps(warps, sums, room), _stages(sum(blocks.values()))


def warps_for(elements: int) -> int:
    """Warps of a program that has so many values in registers at once, a power of two."""
    return max(1, power_of_two(elements) // 1024) if elements <= 4096 else 8 if elements <= 16384 else 16


def _backward_warps(warps: int, sums: int, room: int) -> int:
    """Warps of the gradient, of so many or more: each has room for so many sums for the weights."""
    return max(warps, min(power_of_two(ceil(sums / room)), _MAX_WARPS))


def _stages(values: int) -> int:
    """Two tokens of so many values, or one where shared memory of all chips, or registers, hold no more."""
    return 2 if values <= _MAX_STAGED else 1


def _is_over_heads(rule: Rule) -> bool:
    """Whether queries and keys are normed before they are split into heads."""
    return "split" in _normed_ops(rule)


def _normed_ops(rule: Rule) -> set[str]:
    """The ops whose results are normed."""
    sources = [step.inputs[0] for step in rule.steps if step.op.name == "rms_norm"]
    return {rule.steps[ref.step].op.name for ref in sources if isinstance(ref, StepRef)}


def rotation_op(
    fused: Fused,
    inputs: dict[str, str],
    outputs: dict[str, str],
    saved: tuple[str, ...],
    weights: tuple[str, ...],
) -> CustomOp:
    """The op of a rotation: inputs and outputs are names with their dims after [B, T]."""
    anchor, incoming = next(iter(inputs)), [f"d{name}" for name in outputs]
    gradients = tuple(f"d{name}" for name in (*inputs, *weights))
    return CustomOp(
        operands=fused.operands,
        outputs=tuple(outputs),
        fakes=tuple(f"_like({anchor}, *{anchor}.shape[:2], {dims})" for dims in outputs.values()),
        saved=saved,
        incoming=tuple(Argument(name) for name in (*incoming, *saved)),
        gradients=gradients,
        gradient_fakes=(
            *(f"_like({incoming[0]}, *{incoming[0]}.shape[:2], {dims})" for dims in inputs.values()),
            *(f"_like({name})" for name in weights),
        ),
        returned=(
            *(f"d{name}" for name in inputs),
            *("None" for name in TABLES if name in fused.types),
            *(f"d{name}" for name in weights),
        ),
        remembered=(),
        anchor=anchor,
        plain=fused.plain,
    )
