"""Whether an op of a package is registered as PyTorch wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# What opcheck looks at besides AOT dispatch, which is compared below with gradients.
_ALONE = ("test_schema", "test_autograd_registration", "test_faketensor")


def check_op(op: Any, operands: Sequence[Any]) -> None:
    """Schema and fake tensors; results and gradients under AOT dispatch with symbolic shapes as without."""
    given = [_copy(operand, grad=False) for operand in operands]
    torch.library.opcheck(op.overload, given, test_utils=_ALONE)
    torch._dynamo.reset()  # each op is a function of its own, of which Dynamo keeps only so many
    compiled = torch.compile(lambda *given: op(*given), backend="aot_eager", dynamic=True, fullgraph=True)
    found, expected = (_results(each, operands) for each in (compiled, op))
    assert len(found) == len(expected)
    for mine, its in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, its, equal_nan=True)


def _results(op: Any, operands: Sequence[Any]) -> list[Tensor | None]:
    given = [_copy(operand, grad=True) for operand in operands]
    outputs = op(*given)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    differentiable = [output for output in outputs if output.requires_grad and output.grad_fn is not None]
    wanted = [each for each in given if isinstance(each, Tensor) and each.requires_grad]
    if not wanted:
        return outputs
    ones = [torch.ones_like(output) for output in differentiable]
    return [*outputs, *torch.autograd.grad(differentiable, wanted, ones, allow_unused=True)]


def _copy(operand: Any, grad: bool) -> Any:
    if not isinstance(operand, Tensor):
        return operand
    return operand.detach().clone().requires_grad_(grad and operand.requires_grad)
