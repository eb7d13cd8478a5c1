"""What stands beside a kernel: PyTorch op by op, the same compiled, PyTorch's fused op, Liger's kernel.

Beside a linear map in the kernel of the op before it: the two kernels that it stands for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from archc.benchmarking.kernel_places import Place
from archc.benchmarking.liger_ops import ADAPTERS
from archc.benchmarking.plan import SkippedError
from archc.benchmarking.recording import Arguments
from archc.codegen.kernels.convolution.convolution_plan import ConvolutionKernel
from archc.codegen.kernels.experts.dispatched_plan import DispatchedKernel
from archc.codegen.kernels.experts.router_plan import RouterKernel
from archc.codegen.kernels.kernel_plan import (
    AbsorptionKernel,
    EmbeddingKernel,
    ExpertsKernel,
    GroupedKernel,
    OpKernel,
    WideLinearKernel,
)
from archc.codegen.kernels.key_choice.key_choice_plan import KeyChoiceKernel
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.recurrence.recurrence_kernel import CarryingKernel
from archc.ir.lazy_torch import import_now
from archc.ir.node import Node
from archc.ir.ops.linear import WIDE_LINEAR
from archc.ir.rule import fused_by, rule_of
from archc.ir.sizes import plain

OP_BY_OP, BY_DYNAMO, FUSED, LIGER = "PyTorch op by op", "PyTorch compiled", "PyTorch's own", "Liger"
APART = "archc, two kernels"

Function = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """A call of a kernel, and of what the unfused model does in its place."""

    function: Function
    arguments: Arguments
    plain: Function
    plain_arguments: Arguments


Peer = Callable[[Place, Call], tuple[Function, Arguments]]


def plain_function(place: Place) -> Function:
    """A kernel's decomposition, op by op, on the kernel's own operands."""
    node, plan = _without_names(place.node), place.plan
    if isinstance(plan, WideLinearKernel):
        return WIDE_LINEAR.reference
    if isinstance(plan, GroupedKernel | AbsorptionKernel | EmbeddingKernel):
        count = max(n for n, value in enumerate(node.inputs, 1) if value is not None)  # attributes follow
        return lambda *operands: node.op.reference(*operands[:count], **node.attributes)
    if isinstance(plan, CarryingKernel):
        return partial(_recurrence, node)
    if isinstance(plan, DispatchedKernel | KeyChoiceKernel):
        absent = [None] * len(node.op.operands)
        return lambda *operands: node.op.reference(*[*operands, *absent][: len(absent)], **node.attributes)[0]
    if isinstance(plan, ConvolutionKernel):
        return partial(_convolution, node, plan)
    if isinstance(plan, LinearAfterKernel):
        linear = WIDE_LINEAR.reference if plan.reading.wide else F.linear
        return _then_linear(plan, _by_name(node, plan.op.names), linear)
    assert isinstance(plan, OpKernel | RouterKernel)
    return _by_name(node, plan.op.names)


def _without_names(node: Node) -> Node:
    """A node whose numbers are plain ones, which are all that torch.compile of torch 2.11 knows."""
    op, rule = node.op, rule_of(node)
    if rule is not None:
        steps = (replace(step, attributes=plain(step.attributes)) for step in rule.steps)
        op = replace(rule, steps=tuple(steps)).op
    return replace(node, op=op, attributes=plain(node.attributes))


def _by_name(node: Node, names: Sequence[str]) -> Function:
    """A decomposition on operands in the order of `names`."""

    def run(*operands: Any) -> Any:
        given = dict(zip(names, operands, strict=True))
        return node.op.reference(
            *(given.get(operand.name) for operand in node.op.operands), **node.attributes
        )

    return run


def _then_linear(plan: LinearAfterKernel, before: Function, linear: Function) -> Function:
    """A fused op, then the linear map of one of its results, in whose place or after which the product is."""
    count, row = len(plan.op.names), plan.op.outputs.index(plan.row.result)

    def run(*operands: Any) -> Any:
        made = before(*operands[:count])
        results = list(made) if isinstance(made, tuple) else [made]
        product = linear(results[row], *operands[count:])
        if plan.reading.kept:
            results.append(product)
        else:
            results[row] = product
        return tuple(results) if len(results) > 1 else results[0]

    return run


def _recurrence(node: Node, *operands: Any) -> Any:
    """What carries a state, token by token."""
    return node.op.reference(**dict(zip(node.named, operands, strict=True)), **node.attributes)


def _convolution(node: Node, plan: ConvolutionKernel, x: Tensor, span: Any, *given: Any) -> Any:
    """A look at earlier tokens op by op, those in a cache included."""
    others, past = given[: len(plan.operands)], given[len(plan.operands) :]
    if past and past[0] is not None:
        (x,) = past[0].append(x)
    known = {"x": x, "positions": span.positions, "key_positions": span.key_positions}
    known |= dict(zip(plan.operands, others, strict=True))
    return node.op.reference(*(known[operand.name] for operand in node.op.operands), **node.attributes)[0]


def _op_by_op(_place: Place, call: Call) -> tuple[Function, Arguments]:
    return call.plain, call.plain_arguments


def _by_dynamo(_place: Place, call: Call) -> tuple[Function, Arguments]:
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False  # a gradient is taken again and again
    torch._dynamo.reset()  # what was compiled for other kernels counts against a limit
    import_now()
    return torch.compile(call.plain, dynamic=False, fullgraph=True), call.plain_arguments


def _apart(place: Place, call: Call) -> tuple[Function, Arguments]:
    """By the functions of the package that are called for several rows."""
    assert isinstance(place.plan, LinearAfterKernel)
    kernels = sys.modules[call.function.__module__]
    return two_kernels(place.plan, kernels, place.plan.linear), call.arguments


def two_kernels(plan: LinearAfterKernel, kernels: Any, linear: str) -> Function:
    """A fused op, then the linear map after it, by functions of a package's kernels.py."""
    return _then_linear(plan, *attrgetter(plan.before, linear)(kernels))


def _fused(place: Place, call: Call) -> tuple[Function, Arguments]:
    if isinstance(place.plan, DispatchedKernel):
        return _gathered_activated_mm(place, call)
    return _OWN[place.feature](place.node.attributes, call)


def _liger(place: Place, call: Call) -> tuple[Function, Arguments]:
    if not any(a.is_cuda for a in call.arguments if isinstance(a, Tensor)):
        raise SkippedError("Liger's kernels run on a GPU only")
    try:
        found: tuple[Function, Arguments] = ADAPTERS[place.feature](place.node.attributes, call.arguments)
    except ImportError as error:
        raise SkippedError(f"liger-kernel cannot be imported: {error}") from None
    return found


def _rms_norm(attributes: Mapping[str, Any], call: Call) -> tuple[Function, Arguments]:
    if attributes["offset"]:
        raise SkippedError("F.rms_norm adds no offset to its weight")
    eps = float(attributes["eps"])
    return (lambda x, w=None: F.rms_norm(x, (x.shape[-1],), w, eps)), call.arguments


def _layer_norm(attributes: Mapping[str, Any], call: Call) -> tuple[Function, Arguments]:
    eps = float(attributes["eps"])
    return (lambda x, w, b=None: F.layer_norm(x, (x.shape[-1],), w, b, eps)), call.arguments


def _attention(attributes: Mapping[str, Any], call: Call) -> tuple[Function, Arguments]:
    """With keys and values where they lie, and no mask but the causal one."""
    mask = attributes["mask"]
    q, k, v = (heads.transpose(1, 2) for heads in call.plain_arguments[:3])
    if mask.kind != "causal":
        raise SkippedError(f"it knows no {mask.kind} mask")
    if attributes["softcap"] is not None or len(call.plain_arguments) > _ATTENDED:
        raise SkippedError("it knows no softcap, bias or sinks")
    scale, whole = float(attributes["scale"]), q.shape[2] == k.shape[2]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=whole, scale=scale, enable_gqa=True)

    return run, (q, k, v)


_ATTENDED = 5  # operands of attention alone: queries, keys, values, and where both stand


def _grouped_mm(_attributes: Mapping[str, Any], call: Call) -> tuple[Function, Arguments]:
    x, weight, ends, *offset = call.arguments
    _check_grouped_mm(x, offset)
    return (lambda x, w, ends: F.grouped_mm(x, w.mT, offs=ends)), (x, weight, ends.int())


def _gathered_mm(_attributes: Mapping[str, Any], call: Call) -> tuple[Function, Arguments]:
    """With the rows gathered before."""
    x, order, places, weight, ends, *offset = call.arguments
    _check_grouped_mm(x, offset)
    choices = places.shape[-1]

    def run(x: Tensor, order: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        return F.grouped_mm(x.flatten(0, 1)[order // choices], weight.mT, offs=ends)

    return run, (x, order, weight, ends.int())


def _gathered_activated_mm(place: Place, call: Call) -> tuple[Function, Arguments]:
    """And with the activation after it, op by op."""
    product, arguments = _gathered_mm(place.node.attributes, call)
    activation = partial(fused_by(place.node).steps[-1].op.reference, **place.node.attributes)
    return (lambda *given: activation(product(*given))[0]), arguments


def _check_grouped_mm(x: Tensor, offset: Sequence[Tensor | None]) -> None:
    if any(each is not None for each in offset):
        raise SkippedError("F.grouped_mm adds no offsets")
    if x.dtype == torch.float64:
        raise SkippedError("F.grouped_mm takes no float64")


def _bags(_attributes: Mapping[str, Any], call: Call) -> tuple[Function, Arguments]:
    def run(y: Tensor, weights: Tensor, places: Tensor, beside: Tensor | None = None) -> Tensor:
        bags, factors = places.flatten(0, 1), weights.flatten(0, 1)
        sums = F.embedding_bag(bags, y, mode="sum", per_sample_weights=factors).view(*places.shape[:2], -1)
        return sums if beside is None else sums.to(beside.dtype) + beside

    return run, call.arguments


# PyTorch's own, by the fusion or the op that it is.
_OWN: dict[str, Callable[[Mapping[str, Any], Call], tuple[Function, Arguments]]] = {
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "attention": _attention,
    "grouped_linear": _grouped_mm,
    "dispatched_linear": _gathered_mm,
    "weighted_combine": _bags,
}

PEERS: dict[str, Peer] = {
    APART: _apart,
    OP_BY_OP: _op_by_op,
    FUSED: _fused,
    LIGER: _liger,
    BY_DYNAMO: _by_dynamo,
}


def has_peer(place: Place, peer: str) -> bool:
    """Whether a peer has something like the kernel."""
    if peer == APART:
        return place.linear is not None
    if peer == FUSED:
        return place.feature in _OWN or isinstance(place.plan, DispatchedKernel)
    if peer == BY_DYNAMO and isinstance(place.plan, ExpertsKernel):
        return False  # the loop over experts asks the device how many rows each has
    return peer != LIGER or place.feature in ADAPTERS
