"""The form of fusions that make the inputs of attention over a latent: queries, a latent and a rotary key."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from archc.ir.decomposition import OperandRef, Ref, Step, StepRef


def is_latent_rope(steps: Sequence[Step], outputs: Sequence[StepRef], weights: Collection[str]) -> bool:
    """Whether the last parts of queries and of a latent are rotated, and the latent's first part is normed.

    They come from operands of their own, or from one.
    """
    found = tuple(_text(steps, output, weights) for output in outputs)
    return found in (_joined("q", "kv"), _joined("split(qkv)[0]", "split(qkv)[1]"))


def _joined(q: str, kv: str) -> tuple[str, str]:
    q, turned = f"split(split_heads({q}))[0]", f"rotate_by(split(split_heads({q}))[1], cos, sin)"
    c, key = f"rms_norm(split({kv})[0])", f"rotate_by(split_heads(split({kv})[1], 1), cos, sin)"
    return f"concat({q}, {turned})", f"concat(split_heads({c}, 1), {key})"


def _text(steps: Sequence[Step], ref: Ref, weights: Collection[str]) -> str:
    """How a value is computed: ops, operands but weights, numbers that are not the fusion's attributes."""
    if not isinstance(ref, StepRef):
        return ref.name if isinstance(ref, OperandRef) else str(ref)
    step = steps[ref.step]
    operands = [each for each in step.inputs if not (isinstance(each, OperandRef) and each.name in weights)]
    numbers = [str(value) for value in step.attributes.values() if isinstance(value, int)]
    text = f"{step.op.name}({', '.join([*(_text(steps, each, weights) for each in operands), *numbers])})"
    return f"{text}[{ref.output}]" if step.op.name == "split" else text
