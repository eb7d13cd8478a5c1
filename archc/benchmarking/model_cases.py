"""Whole models: prefill, decode and a training step, each against each peer, as tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from archc.analysis.cache import cache_size
from archc.analysis.parameters import count_parameters
from archc.benchmarking.contenders import Contender
from archc.benchmarking.costs import Costs
from archc.benchmarking.models import COMPILED, LIGER, PEERS, REFERENCE, Models
from archc.benchmarking.plan import Priority, SkippedError, Task
from archc.benchmarking.results import OURS, Case, Findings
from archc.benchmarking.scale import Scale, free_memory
from archc.benchmarking.timing import LEAST_ROUNDS, LONG, WARM_UP, Run
from archc.benchmarking.turn import Bench
from archc.quantities import with_unit

STEPS = 200  # tokens that a decode case writes at the most
LEAST_CONTEXT = 16
TRAINING = 10  # how many times the weights two contenders hold: once, gradients and moments each, activations
_SLACK = 2.0  # how many times its least a contender is expected to take
_OVERHEAD = 0.02  # seconds of a call beside its work
_COMPILING = 15.0  # seconds that TorchDynamo takes for a model's kernels
_TRACING = 1.0  # seconds that it takes for each layer


@dataclass(frozen=True)
class Phase:
    """A case of a model, and how a contender is made ready for it.

    needs: bytes that a contender needs beside the weights
    """

    case: Case
    priority: Priority
    needs: int
    prepare: Callable[[Contender], Run]
    most_calls: int | None = None


def inference(models: Models, scale: Scale, bench: Bench) -> Iterator[Phase]:
    """Decode at several batches, where the model does so, and prefill."""
    costs = Costs(models.compilation, bench.dtype, bench.rates)
    for batch in scale.batches if models.decodes else ():
        context = fitting_context(models, batch, scale, bench)
        needs = batch * _kept_bytes(models, bench) * (context + STEPS)
        yield Phase(
            costs.decode(Case("model", "decode", {"B": batch, "S": context}, batch), batch, context),
            Priority.DECODE_ONE if batch == 1 else Priority.DECODE_MANY,
            needs,
            partial(_decode, models, batch, context),
            STEPS,
        )
    prompt = models.fits(scale.prompt)
    yield Phase(
        costs.prefill(Case("model", "prefill", {"B": 1, "T": prompt}, prompt), 1, prompt),
        Priority.PREFILL,
        prompt * _kept_bytes(models, bench),
        lambda contender: contender.prefill(models.tokens(1, prompt)),
    )


def training(models: Models, scale: Scale, bench: Bench) -> Iterator[Phase]:
    """A training step; its case tells the layers, where they are fewer than elsewhere."""
    batch, length = scale.rows[0], models.fits(scale.rows[1])
    costs = Costs(models.compilation, bench.dtype, bench.rates)
    shown = {"B": batch, "T": length, **({} if models.layers is None else {"layers": models.layers})}
    parameters = count_parameters(models.compilation.reference).total
    yield Phase(
        costs.training(Case("model", "training step", shown, batch * length), batch, length),
        Priority.TRAINING,
        3 * parameters * bench.dtype.itemsize,
        lambda contender: contender.train(models.tokens(batch, length)),
    )


def model_tasks(models: Models, phases: Iterator[Phase], bench: Bench) -> Iterator[Task]:
    """A task for each case and each peer."""
    for phase in phases:
        for place, peer in enumerate(PEERS):
            yield Task(
                phase.case.title,
                peer,
                (_LATER.get(peer, phase.priority), place),
                _estimate(phase, bench) + (_compiling(models) if peer == COMPILED else 0.0),
                partial(_run, phase, peer, models, bench),
            )


_LATER = {
    REFERENCE: Priority.FURTHER_PEER,
    LIGER: Priority.FURTHER_PEER,
    COMPILED: Priority.COMPILED_MODEL,
}


def _run(phase: Phase, peer: str, models: Models, bench: Bench, number: int) -> Findings:
    free = free_memory(bench.device)
    if 2 * phase.needs > free:
        raise SkippedError(f"it needs {with_unit(2 * phase.needs, 'B')}, {with_unit(free, 'B')} are free")
    made = {name: models.get(name) for name in (OURS, peer)}  # their weights are not the call's memory
    contenders = {name: partial(phase.prepare, contender) for name, contender in made.items()}
    # On a CPU ops are watched to see what memory they hold, and TorchDynamo compiles nothing meanwhile.
    memory = peer != COMPILED or bench.device.type == "cuda"
    return bench.turn(phase.case, contenders, number, most_calls=phase.most_calls, memory=memory)


def _decode(models: Models, batch: int, context: int, contender: Contender) -> Run:
    return contender.decode(models.tokens(batch, context), STEPS)


def fitting_context(models: Models, batch: int, scale: Scale, bench: Bench) -> int:
    """A context of which two contenders' caches fit into memory."""
    context = models.fits(scale.context + STEPS) - STEPS
    token = 2 * batch * _kept_bytes(models, bench)
    while context > LEAST_CONTEXT and token * (context + STEPS) > scale.share * free_memory(bench.device):
        context //= 2
    return context


def _kept_bytes(models: Models, bench: Bench) -> int:
    """What a token leaves in the cache."""
    return cache_size(models.compilation.reference, 1, 1, bench.dtype.itemsize).bytes_per_token


def _estimate(phase: Phase, bench: Bench) -> float:
    single = _SLACK * (phase.case.least or 0.0) + _OVERHEAD
    return 2 * single * (2 + (WARM_UP + 1 if single < LONG else 0) + LEAST_ROUNDS) + bench.seconds


def _compiling(models: Models) -> float:
    """TorchDynamo goes through all layers of a model, whose kernels it compiles once."""
    return _COMPILING + _TRACING * sum(
        len(loop.attributes["schedule"]) for loop in models.compilation.fused.loops()
    )
