"""Each kernel of a model as the model calls it: for a token, a prompt and a training step, there and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from archc.benchmarking.kernel_peers import BY_DYNAMO, PEERS, Call, Function, has_peer
from archc.benchmarking.kernel_places import Place, places
from archc.benchmarking.model_cases import fitting_context
from archc.benchmarking.models import Models
from archc.benchmarking.plan import Priority, Task
from archc.benchmarking.recording import Arguments, tensor_bytes
from archc.benchmarking.recordings import Kind, Recordings
from archc.benchmarking.results import OURS, Case, Findings
from archc.benchmarking.scale import Scale
from archc.benchmarking.timing import Run
from archc.benchmarking.turn import Bench
from archc.codegen.kernels.convolution.convolution_plan import ConvolutionKernel
from archc.codegen.kernels.experts.router_plan import RouterKernel
from archc.codegen.kernels.kernel_plan import CapacityKernel, EmbeddingKernel, ExpertsKernel, OpKernel
from archc.codegen.kernels.linear.after_plan import LinearAfterKernel
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.kernels.recurrence.recurrence_kernel import CarryingKernel

FORWARD, BACKWARD, BOTH = "forward", "backward", "forward and backward"
_COMPILING = 15.0  # seconds that TorchDynamo takes for a kernel
_CALLS = 20  # of each contender, with what recording takes
_SETS = 16  # of tensors that calls take turns with, where a model has fewer layers


@dataclass(frozen=True)
class KernelCase:
    """A kernel, how it is called, and which way."""

    place: Place
    kind: Kind
    way: str
    priority: Priority


def kernel_tasks(models: Models, scale: Scale, bench: Bench) -> Iterator[Task]:
    """A task for each case and each peer that has such a kernel."""
    found = places(models.compilation)
    recordings = Recordings(models, found)
    for case in kernel_cases(found, models, scale, bench):
        priced = _priced(case, bench)
        for number, peer in enumerate(name for name in PEERS if has_peer(case.place, name)):
            late = peer == BY_DYNAMO
            estimate = 2 * _CALLS * (priced.least or 0.0) + bench.seconds
            yield Task(
                priced.title,
                peer,
                (Priority.COMPILED_KERNEL if late else case.priority, number),
                estimate + (_COMPILING if late else 0.0),
                partial(_run, case, priced, peer, recordings, bench),
            )


def kernel_cases(found: list[Place], models: Models, scale: Scale, bench: Bench) -> Iterator[KernelCase]:
    """Every kernel with every kind of call; gradients belong to a training step, losses to nothing else.

    Linear maps in kernels of other ops are for one row alone.
    """
    batch, length = scale.rows[0], models.fits(scale.rows[1])
    trains = Kind(batch, length, trains=True)
    kinds = [
        (Kind(1, models.fits(scale.prompt)), (FORWARD,), Priority.KERNEL_PREFILL),
        (trains, (FORWARD, BACKWARD), Priority.KERNEL_TRAINING),
    ]
    for count in (1, scale.batches[-1]) if models.decodes else ():
        context = fitting_context(models, count, scale, bench)
        kinds.append((Kind(count, 1, context), (FORWARD,), Priority.KERNEL_DECODE))
    for kind, ways, priority in kinds:
        for place in found:
            if place.linear is not None and kind.batch * kind.tokens > 1:
                continue
            if not isinstance(place.plan, LossKernel):
                possible = (
                    way for way in ways if (place.has_forward if way == FORWARD else place.has_gradient)
                )
                yield from (KernelCase(place, kind, way, priority) for way in possible)
            elif kind is trains:
                yield KernelCase(place, kind, BOTH, priority)


def _priced(case: KernelCase, bench: Bench) -> Case:
    cost = Place.backward if case.way == BACKWARD else Place.forward
    work = cost(case.place, case.kind.shape, bench.dtype.itemsize)
    least = max(work.matrix / bench.rates.flops, work.bytes / bench.rates.bandwidth)
    tokens = case.kind.batch * case.kind.tokens
    name = f"{case.place.name} {case.way}"
    return Case("kernel", name, case.kind.shown, tokens, work.bytes, work.matrix + work.vector, least)


def _run(
    case: KernelCase, priced: Case, peer: str, recordings: Recordings, bench: Bench, number: int
) -> Findings:
    contenders = {name: partial(_prepare, case, name, recordings) for name in (OURS, peer)}
    return bench.turn(priced, contenders, number, together=True)


def _prepare(case: KernelCase, name: str, recordings: Recordings) -> Run:
    """Calls on several sets of tensors, one after another, so that no cache holds them."""
    runs = []
    for call in _several(case.place, recordings.of(case.place, case.kind)):
        marked = Call(
            call.function,
            _marked(case.place, call.arguments),
            call.plain,
            _marked(case.place, call.plain_arguments),
        )
        function, arguments = (
            (call.function, marked.arguments) if name == OURS else PEERS[name](case.place, marked)
        )
        runs.append(_WAYS[case.way](function, arguments))
    turns = itertools.cycle(runs)
    return lambda: next(turns)()


def _several(place: Place, calls: list[Call]) -> list[Call]:
    """Calls on tensors of their own, up to `_SETS`: copies where the model does not make as many."""
    copied = isinstance(place.plan, OpKernel | ExpertsKernel | CarryingKernel | LinearAfterKernel)
    if not copied or tensor_bytes(calls[0].arguments) > _LARGE:
        return calls
    copies = [
        Call(call.function, given, call.plain, given)
        for call in itertools.islice(itertools.cycle(calls), max(_SETS - len(calls), 0))
        for given in (tuple(a.clone() if isinstance(a, Tensor) else a for a in call.arguments),)
    ]
    return [*calls, *copies]


_LARGE = 1 << 28  # bytes of a call whose tensors no cache holds


def _marked(place: Place, arguments: Arguments) -> Arguments:
    """Arguments of which those that have gradients require them."""
    if isinstance(place.plan, OpKernel | RouterKernel):
        wanted = {number for number, gradient in enumerate(place.plan.op.returned) if gradient != "None"}
    elif isinstance(place.plan, ExpertsKernel | EmbeddingKernel | ConvolutionKernel | CarryingKernel):
        wanted = {n for n, a in enumerate(arguments) if isinstance(a, Tensor) and a.is_floating_point()}
    elif isinstance(place.plan, LinearAfterKernel):
        wanted = set()
    elif isinstance(place.plan, CapacityKernel):
        wanted = {0}
    else:
        wanted = set(range(2 if isinstance(place.plan, LossKernel) else 3))
    return tuple(
        _leaf(argument) if number in wanted and isinstance(argument, Tensor) else argument
        for number, argument in enumerate(arguments)
    )


def _leaf(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, nn.Parameter) else tensor.detach().requires_grad_()


def _forward(function: Function, arguments: Arguments) -> Run:
    given = tuple(a.detach() if isinstance(a, Tensor) else a for a in arguments)

    def run() -> Any:
        with torch.no_grad():
            return function(*given)

    return run


def _backward(function: Function, arguments: Arguments) -> Run:
    """The gradient alone, of an output that is kept."""
    given, leaves = _leaves(arguments)
    outputs = [o for o in _tensors(function(*given)) if o.requires_grad]
    gradients = [torch.randn(o.shape, dtype=o.dtype, device=o.device) for o in outputs]
    return lambda: torch.autograd.grad(outputs, leaves, gradients, retain_graph=True, allow_unused=True)


def _both(function: Function, arguments: Arguments) -> Run:
    given, leaves = _leaves(arguments)
    return lambda: torch.autograd.grad(function(*given), leaves)


_WAYS = {FORWARD: _forward, BACKWARD: _backward, BOTH: _both}


def _leaves(arguments: Arguments) -> tuple[Arguments, list[Tensor]]:
    """The arguments, and those that require gradients, none of which is computed from others."""
    given = tuple(
        _leaf(a) if isinstance(a, Tensor) and a.requires_grad and not a.is_leaf else a for a in arguments
    )
    return given, [a for a in given if isinstance(a, Tensor) and a.requires_grad]


def _tensors(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
