"""Plans for heads: queries and keys are rotated, and normed before or after; values are normed or copied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from archc.codegen.kernels.custom_op import CustomOp
from archc.codegen.kernels.fused import Fused, power_of_two, width_of
from archc.codegen.kernels.rope.heads_plan import Heads
from archc.codegen.kernels.rope.rope_heads import Part, heads_of, parts_of
from archc.codegen.kernels.rope.rope_op import TABLES, backward_of, forward_of, rotation_op
from archc.codegen.kernels.rope.rope_plan import RopeKernel
from archc.codegen.kernels.rope.rope_sizes import sizes_of
from archc.codegen.native.native_kernel import plan_native_rope
from archc.ir.decomposition import StepRef
from archc.ir.rule import Rule


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
        op = self._custom_op(names)
        warps, backward_warps, stages = sizes_of(self.heads, self.head_dim, self.over_heads)
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
            signature=forward_of(names, weights, results, self.tables),
            backward_signature=backward_of(names, weights, results, self.normed, self.tables),
            native=plan_native_rope(fused, op, self.sources[0][1], self.heads[0].width, self.weights),
            template="qk_norm_rope" if self.normed else "rope",
        )

    def _custom_op(self, names: list[str]) -> CustomOp:
        """With norms the gradient reads the operands again."""
        saved = (*self.tables, *((*names, *self.weights) if self.normed else ()))
        return rotation_op(self.fused, self.source_shapes, self.results, saved, tuple(self.weights))


def _is_over_heads(rule: Rule) -> bool:
    """Whether queries and keys are normed before they are split into heads."""
    return "split" in _normed_ops(rule)


def _normed_ops(rule: Rule) -> set[str]:
    """The ops whose results are normed."""
    sources = [step.inputs[0] for step in rule.steps if step.op.name == "rms_norm"]
    return {rule.steps[ref.step].op.name for ref in sources if isinstance(ref, StepRef)}
