"""What the gradient of a fused op must read and write, worked out from the op's decomposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from archc.ir.decomposition import AttributeVar, OperandRef, StepRef
from archc.ir.op import Op
from archc.ir.rule import Rule, on_tensors

Tensors = Mapping[str, Tensor | None]


@dataclass(frozen=True)
class Needs:
    """Names of values.

    read:     operands and outputs whose values the gradient depends on, with the share of them that it does
    written:  gradients that are neither equal to another one nor to one that came in
    """

    read: Mapping[str, float]
    written: frozenset[str]


def gradient_needs(
    rule: Rule, operands: Tensors, attributes: Mapping[str, Any], wanted: Sequence[str]
) -> Needs:
    """What the gradients of the operands `wanted` take; operands are random, in float64.

    An output that later steps read is taken as it was saved, not computed again from the operands; so is what
    was chosen.
    """
    return Needs(_read(rule, operands, attributes, wanted), _written(rule, operands, attributes, wanted))


def _read(
    rule: Rule, operands: Tensors, attributes: Mapping[str, Any], wanted: Sequence[str]
) -> dict[str, float]:
    leaves = {name: t.detach().clone() for name, t in operands.items() if t is not None}
    saved = _saved(rule, leaves, attributes)
    leaves |= saved
    ends = (*wanted, *(name for name, value in saved.items() if value.is_floating_point()))
    before = _pieces(rule, leaves, attributes, ends)
    needed: dict[str, float] = {}
    for name, value in leaves.items():
        if not value.is_floating_point():
            needed[name] = 1.0
            continue
        for columns in _parts(rule, name, value.shape[-1], attributes):
            other = value.clone()
            other[..., columns] = torch.randn_like(value[..., columns])
            after = _pieces(rule, {**leaves, name: other}, attributes, ends)
            if any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)):
                share = (columns.stop - columns.start) / value.shape[-1]
                needed[name] = needed.get(name, 0.0) + share
    return needed


def _parts(rule: Rule, name: str, width: int, attributes: Mapping[str, Any]) -> list[slice]:
    """The columns of an operand that the rule reads apart."""
    readers = [step for step in rule.steps if OperandRef(name) in step.inputs]
    if len(readers) != 1 or readers[0].op.name != "split":
        return [slice(0, width)]
    sizes = readers[0].attributes["sizes"]
    sizes = attributes[sizes.name] if isinstance(sizes, AttributeVar) else sizes
    sizes = (width // sizes,) * sizes if isinstance(sizes, int) else sizes
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _saved(rule: Rule, leaves: Mapping[str, Tensor], attributes: Mapping[str, Any]) -> dict[str, Tensor]:
    """The outputs that later steps read, and what was chosen."""
    inner = {ref for step in rule.steps for ref in step.inputs if isinstance(ref, StepRef)}
    outputs = rule.run(leaves, attributes, on_tensors)
    named = zip(rule.outputs, rule.output_names, outputs, strict=True)
    return {
        name: value.detach() for ref, name, value in named if ref in inner or not value.is_floating_point()
    }


def _pieces(
    rule: Rule, leaves: Mapping[str, Tensor], attributes: Mapping[str, Any], wanted: Sequence[str]
) -> list[Tensor]:
    """Gradients of leaves, each step that makes a saved output cut off from those after it."""
    inputs = {
        name: value.detach().requires_grad_(value.is_floating_point()) for name, value in leaves.items()
    }
    names = {ref: name for ref, name in zip(rule.outputs, rule.output_names, strict=True) if name in inputs}
    numbers = iter(range(len(rule.steps)))
    ends: list[Tensor] = []

    def apply(op: Op, values: list[Any], given: dict[str, Any]) -> Sequence[Any]:
        number = next(numbers)
        made = list(on_tensors(op, values, given))
        for place, value in enumerate(made):
            if (ref := StepRef(number, place)) in names:
                ends.extend([value] if value.is_floating_point() else [])
                made[place] = inputs[names[ref]]
        return made

    results = rule.run(inputs, attributes, apply)
    ends += [value for value in results if value.grad_fn is not None]
    leaves_wanted = [inputs[name] for name in wanted]
    return list(
        torch.autograd.grad(ends, leaves_wanted, _incoming(ends), allow_unused=True, materialize_grads=True)
    )


def _written(
    rule: Rule, operands: Tensors, attributes: Mapping[str, Any], wanted: Sequence[str]
) -> frozenset[str]:
    inputs = {name: t.detach().clone().requires_grad_() for name, t in operands.items() if t is not None}
    outputs = [value for value in rule.run(inputs, attributes, on_tensors) if value.requires_grad]
    known = _incoming(outputs)
    leaves = [inputs[name] for name in wanted]
    grads = torch.autograd.grad(outputs, leaves, known, allow_unused=True, materialize_grads=True)
    written = set()
    for name, gradient in zip(wanted, grads, strict=True):
        if not any(_equal(gradient, other) for other in known):
            written.add(name)
            known.append(gradient)
    return frozenset(written)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b)


def _incoming(values: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in values]
