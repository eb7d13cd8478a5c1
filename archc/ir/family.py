"""The family of a fusion: which kind of kernel computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archc.ir.convolution_form import is_convolution
from archc.ir.decomposition import OperandRef, Step
from archc.ir.latent_form import is_latent_rope
from archc.ir.op import Trait
from archc.ir.ops.linear import LINEAR
from archc.ir.row_form import is_row_op

if TYPE_CHECKING:
    from archc.ir.rule import Rule

# Ops besides elementwise ones that work on the few scores of one token.
_CHOOSING = ("top_k", "group_mask", "gather", "concat", "loads", "with_shared", "with_ones", "unless_zero")
ROUTING = frozenset({*_CHOOSING, "softmax", "sum", "cast_like", "upcast_like"})

# Ops that take an operand apart, and their attribute that says into how many parts of equal width.
SPLITS = {"split": "sizes", "split_interleaved": "parts"}


def family_of(rule: Rule) -> str:
    """The family of a fusion, such as "norm" or "pointwise", or "" where no kind of kernel computes it."""
    names = {step.op.name for step in rule.steps}
    if any(step.op.module == "experts" for step in rule.steps):
        return "experts"
    if "top_k" in names:
        return "router" if all(map(_is_routing, rule.steps)) else ""
    if "select_keys" in names:
        return "key_choice" if len(rule.steps) == 1 else ""
    if "attend" in names:
        return "attention" if rule.attention_form else ""
    if is_convolution(rule.steps, rule.outputs):
        return "convolution"
    if is_latent_rope(rule.steps, rule.outputs, rule.weights):
        return "latent_rope"
    if names & {"rotate_by", "split_heads"}:
        return "rope" if names <= {"rotate_by", "split", "split_heads", "rms_norm"} else ""
    if rule.scale_form:
        return "position_scale"
    if not rule.whole_rows and any(step.op.has(Trait.NORM) for step in rule.steps) and rule.norm_form:
        return "norm"
    if rule.whole_rows or any(is_row_op(step.op) and not _is_pointwise(step) for step in rule.steps):
        return "row" if all(is_row_op(step.op) or step.op is LINEAR for step in rule.steps) else ""
    return "pointwise" if all(map(_is_pointwise, rule.steps)) and _splits_operands_evenly(rule) else ""


def _splits_operands_evenly(rule: Rule) -> bool:
    """Whether splits are of operands that nothing else reads; parts that take turns must be two."""
    splits = [step for step in rule.steps if step.op.name in SPLITS]
    read = [ref.name for step in rule.steps for ref in step.inputs if isinstance(ref, OperandRef)]
    return (
        len(rule.parts) == len(splits)
        and all(read.count(name) == 1 and isinstance(parts, int) for name, parts in rule.parts.items())
        and all(step.attributes["parts"] == 2 for step in splits if step.op.name == "split_interleaved")
    )


def _is_pointwise(step: Step) -> bool:
    return step.op.name in SPLITS or _is_elementwise(step)


def _is_routing(step: Step) -> bool:
    return step.op.name in ROUTING or _is_elementwise(step)


def _is_elementwise(step: Step) -> bool:
    """Whether a step is an elementwise op that kernels can compute."""
    return step.op.has(Trait.ELEMENTWISE) and bool(step.op.triton)
