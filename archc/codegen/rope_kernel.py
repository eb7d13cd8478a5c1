"""Plans for rotary positions: queries and keys are rotated, and normed before or after; values are copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from archc.codegen.class_plan import Argument
from archc.codegen.custom_op import CustomOp
from archc.codegen.fused import Fused, power_of_two, width_of
from archc.codegen.masks import joined
from archc.codegen.native_kernel import plan_native_rope
from archc.codegen.rope_plan import Heads, RopeKernel
from archc.codegen.signature import Signature
from archc.ir.decomposition import StepRef
from archc.ir.rule import Rule

# What a launch of any rotation is given.
TABLES = ("cos.contiguous()", "sin.contiguous()")
TABLE_TOKENS = "cos.shape[0] * cos.shape[1]"

_SUMS = 40 * 32  # of norms' weights, that a warp's registers hold beside all else
_MAX_WARPS = 16
_MAX_STAGED = 12288  # values of a token, of which two are under way


@dataclass(frozen=True)
class _Part:
    """Heads as the rule has them: where they lie and how many they are."""

    name: str
    source: str
    heads: int
    head_dim: int
    offset: int


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
    def parts(self) -> list[_Part]:
        return _packed_parts(self.fused) if self.packed else _separate_parts(self.fused)

    @cached_property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """Operands with heads, and the width of a token in each."""
        if self.packed:
            return (("qkv", self.fused.width("qkv")),)
        return tuple((part.name, part.heads * part.head_dim) for part in self.parts)

    @cached_property
    def source_shapes(self) -> dict[str, str]:
        """Their dims behind [B, T]."""
        if self.packed:
            return {name: str(width) for name, width in self.sources}
        return {part.source: f"{part.heads}, {part.head_dim}" for part in self.parts}

    @cached_property
    def results(self) -> dict[str, str]:
        """The dims of results behind [B, T]."""
        return {f"{part.name}_out": f"{part.heads}, {part.head_dim}" for part in self.parts}

    @cached_property
    def head_dim(self) -> int:
        return width_of(self.fused.node.types[0])

    @cached_property
    def pairs(self) -> int:
        return self.fused.width("cos")

    @cached_property
    def heads(self) -> list[Heads]:
        widths = dict(self.sources)
        return [_heads(self.fused, part, widths[part.source], self.pairs) for part in self.parts]

    @cached_property
    def rotated(self) -> tuple[Heads, ...]:
        return tuple(part for part in self.heads if part.name != "v")

    @cached_property
    def weights(self) -> tuple[str, ...]:
        return tuple(part.weight for part in self.rotated if part.weight)

    @cached_property
    def normed(self) -> bool:
        return any(step.op.name == "rms_norm" for step in self.fused.rule.steps)

    def kernel(self) -> RopeKernel:
        fused, attributes = self.fused, self.fused.node.attributes
        names, rest = [name for name, _ in self.sources], self.head_dim - 2 * self.pairs
        forward = forward_of(names, self.weights, list(self.results))
        backward = _backward_of(names, self.weights, list(self.results), self.normed)
        over_heads, op = _is_over_heads(fused.rule), self._custom_op(names)
        warps, backward_warps, stages = _sizes(self.heads, self.head_dim, over_heads)
        weight_widths = {
            part.weight: part.width if over_heads else self.head_dim for part in self.rotated if part.weight
        }
        return RopeKernel(
            name=fused.name,
            equation=fused.equation,
            layout=fused.layout,
            op=op,
            sources=self.sources,
            source_shapes=self.source_shapes,
            rotated=self.rotated,
            copied=tuple(part for part in self.heads if part.name == "v"),
            head_dim=self.head_dim,
            pairs=self.pairs,
            pair_block=power_of_two(self.pairs),
            rest=rest,
            rest_block=power_of_two(rest) if rest else 0,
            interleaved=attributes["pairing"] == "interleaved",
            over_heads=over_heads,
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
            native=plan_native_rope(fused, op, self.sources[0][1], self.heads[0].width, weight_widths),
            template="qk_norm_rope" if self.normed else "rope",
        )

    def _custom_op(self, names: list[str]) -> CustomOp:
        """With norms the gradient reads the operands again."""
        saved = ("cos", "sin", *((*names, *self.weights) if self.normed else ()))
        return rotation_op(self.fused, self.source_shapes, self.results, saved, self.weights)


def forward_of(names: Sequence[str], weights: Sequence[str], outs: Sequence[str]) -> Signature:
    """How a rotation reads its sources, tables and norms' weights, and writes what comes of them."""
    return Signature(
        (
            *(f"{name}_ptr" for name in (*names, "cos", "sin", *weights, *outs)),
            *(f"{name}_stride" for name in names),
            "table_tokens",
        ),
        (
            *(f"{name}_rows" for name in names),
            *TABLES,
            *weights,
            *outs,
            *(f"{name}_rows.stride(0)" for name in names),
            TABLE_TOKENS,
        ),
    )


def _backward_of(
    names: Sequence[str], weights: Sequence[str], outs: Sequence[str], normed: bool
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
            *(f"{name}_ptr" for name in (*incoming, "cos", "sin", *again, *gradients)),
            *strides,
            "table_tokens",
        ),
        (*incoming, *TABLES, *rows, *gradients, *row_strides, TABLE_TOKENS),
    )


def _sizes(heads: Sequence[Heads], head_dim: int, over_heads: bool) -> tuple[int, int, int]:
    """Warps there and back, by what is in registers at once, and the tokens under way in the gradient."""
    blocks = {part: part.block * power_of_two(head_dim) for part in heads}
    rotated = [part for part in heads if part.name != "v"]
    lanes = [blocks[part] for part in rotated]
    sums = sum(blocks[part] for part in rotated if part.weight)
    warps = warps_for(sum(lanes) if over_heads else max(lanes))
    return warps, warps if over_heads else _backward_warps(warps, sums), _stages(sum(blocks.values()))


def warps_for(elements: int) -> int:
    """Warps of a program that has so many values in registers at once, a power of two."""
    return max(1, power_of_two(elements) // 1024) if elements <= 4096 else 8 if elements <= 16384 else 16


def _backward_warps(warps: int, sums: int) -> int:
    """Warps of the gradient, of so many or more: beside what is in work they keep sums for the weights."""
    return max(warps, min(power_of_two(ceil(sums / _SUMS)), _MAX_WARPS))


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


def _packed_parts(fused: Fused) -> list[_Part]:
    sizes = fused.node.attributes["sizes"]
    if isinstance(sizes, int):
        sizes = (fused.width("qkv") // sizes,) * sizes
    offsets = [0, int(sizes[0]), int(sizes[0]) + int(sizes[1])]
    return [
        _Part(name, "qkv", int(type_.shape[2]), width_of(type_), offset)
        for name, type_, offset in zip("qkv", fused.node.types, offsets, strict=True)
    ]


def _separate_parts(fused: Fused) -> list[_Part]:
    types = {name: fused.types[name] for name in ("q", "k")}
    return [_Part(name, name, int(type_.shape[2]), width_of(type_), 0) for name, type_ in types.items()]


def _heads(fused: Fused, part: _Part, source_width: int, pairs: int) -> Heads:
    block = power_of_two(part.heads)
    rest = part.head_dim - 2 * pairs

    def mask(column: str, count: int) -> str:
        present = f"head < {part.heads}" if block != part.heads else ""
        return joined(present, f"{column} < {count}" if power_of_two(count) != count else "")

    norm = f"{part.name}_norm"
    return Heads(
        name=part.name,
        source=part.source,
        source_width=source_width,
        offset=part.offset,
        heads=part.heads,
        block=block,
        head_dim=part.head_dim,
        head_block=power_of_two(part.head_dim),
        width=part.heads * part.head_dim,
        weight=norm if norm in fused.types else "",
        mask=mask("pair", pairs),
        lane_mask=mask("lane", 2 * pairs),
        rest_mask=mask("rest", rest) if rest else "",
        copy_mask=mask("value", part.head_dim),
    )


def rotation_op(
    fused: Fused,
    inputs: dict[str, str],
    outputs: dict[str, str],
    saved: tuple[str, ...],
    weights: tuple[str, ...],
) -> CustomOp:
    """The op of a rotation: inputs and outputs are names with their dims behind [B, T]."""
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
        returned=(*(f"d{name}" for name in inputs), "None", "None", *(f"d{name}" for name in weights)),
        remembered=(),
        anchor=anchor,
        plain=fused.plain,
    )
