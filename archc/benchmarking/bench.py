"""`archc bench`: a spec's models against their peers, within a budget of time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from archc import compiler
from archc.analysis.parameters import count_parameters
from archc.benchmarking.kernel_cases import kernel_tasks
from archc.benchmarking.kernel_peers import PEERS as KERNEL_PEERS
from archc.benchmarking.model_cases import TRAINING, inference, model_tasks, training
from archc.benchmarking.models import PEERS, Models
from archc.benchmarking.plan import Task, run_tasks
from archc.benchmarking.probes import measure_rates
from archc.benchmarking.results import Result, Skip, Subject, describe_device, environment
from archc.benchmarking.scale import Scale, choose_device, free_memory, scale_for
from archc.benchmarking.timing import Clock, Timer, own_stream, timer_for
from archc.benchmarking.turn import Bench
from archc.compiler import Compilation, Spec
from archc.errors import ArchcError, did_you_mean
from archc.ir.logits import vocabulary_of
from archc.ir.program import Program, given_inputs, most_tokens, sequences
from archc.ir.types import DType
from archc.peer import read_peer_config, with_layers
from archc.settings import parse_settings

LEAST_BUDGET = 5.0  # seconds, of which the probes take one
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LAYERS = "layers"  # the parameter by which archs say how many there are
_TIMING = 0.01  # of the budget, for the timing of one turn
_PROBES = 0.02


@dataclass(frozen=True)
class Options:
    """What a user asks for; None leaves a choice to the device."""

    settings: Mapping[str, str]
    budget: float
    layers: int | None = None
    dtype: str | None = None
    device: str | None = None
    peers: tuple[str, ...] = ()  # parts of the names of those that are wanted; all where there are none
    config: Mapping[str, Any] | None = None  # of the model's class in transformers; else it is looked for

    def wants(self, peer: str) -> bool:
        return not self.peers or any(part.lower() in peer.lower() for part in self.peers)


def read_options(
    settings: tuple[str, ...],
    budget: float,
    layers: int | None,
    dtype: str | None,
    device: str | None,
    peers: tuple[str, ...] = (),
    config: Path | None = None,
) -> Options:
    """Options from the command line; raises `ArchcError`."""
    if budget < LEAST_BUDGET:
        raise ArchcError(f"--budget {budget:g} is too small: the first figures need {LEAST_BUDGET:g} s")
    if layers is not None and layers < 1:
        raise ArchcError("--layers takes a whole number from 1")
    if dtype is not None and dtype not in DTYPES:
        hint = did_you_mean(dtype, DTYPES) or f"there are {', '.join(DTYPES)}"
        raise ArchcError(f"no dtype `{dtype}`; {hint}")
    known = (*PEERS, *KERNEL_PEERS)
    for part in peers:
        if not any(part.lower() in peer.lower() for peer in known):
            raise ArchcError(f"no peer `{part}`; there are {', '.join(f'`{peer}`' for peer in known)}")
    given = read_peer_config(config) if config else None
    return Options(parse_settings(settings), budget, layers, dtype, device, peers, given)


def bench(
    path: Path, model: str | None, options: Options, tell: Callable[[str], None] = lambda _line: None
) -> Iterator[Result]:
    """A result for each model of a spec, or for the one that is named; raises `ArchcError`."""
    device = choose_device(options.device)
    spec = compiler.read_spec_file(path)
    names = compiler.choose_models(spec, model)
    for program in compiler.lower_models(spec, names, options.settings):
        _check_layers(program, options.layers)  # mistakes come before anything that takes time
    for name in names:
        yield bench_model(spec, name, options, device, scale_for(device), tell)


def bench_model(
    spec: Spec,
    name: str,
    options: Options,
    device: torch.device,
    scale: Scale,
    tell: Callable[[str], None] = lambda _line: None,
    clock: Clock = time.perf_counter,
    timer: Timer | None = None,
) -> Result:
    """Everything about one model; the budget counts from the call."""
    start = clock()
    dtype = DTYPES[options.dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    timer = timer or timer_for(device)
    tell(f"{name}: what the device can do")
    with tempfile.TemporaryDirectory() as folder, own_stream(device):
        rates = measure_rates(device, dtype, timer, clock, _PROBES * options.budget)
        bench = Bench(device, dtype, timer, clock, rates, _TIMING * options.budget)
        run = ModelRun(spec, name, options, scale, bench, Path(folder))
        tell(f"{name}: {run.subject.title}")
        tasks, skipped = run.tasks()
        findings = run_tasks(
            tasks,
            options.budget - (clock() - start),
            clock,
            lambda task: tell(f"{name}: {task.case}, against {task.peer}"),
        )
    findings.skipped[:0] = skipped
    return Result(run.subject, describe_device(device), rates, options.budget, findings, environment())


class ModelRun:
    """One model's compilations, in as many layers as fit, and its tasks."""

    def __init__(self, spec: Spec, name: str, options: Options, scale: Scale, bench: Bench, folder: Path):
        self.spec, self.name, self.options = spec, name, options
        self.scale, self.bench, self.folder = scale, bench, folder
        self.whole = self._compile(None)
        self.all_layers = _layers(self.whole.program)
        self.layers = options.layers or self._layers_that_fit(1)
        self.compilation = self._compile(self.layers)
        self.subject = Subject(
            self.compilation.program.source,
            name,
            dict(options.settings),
            str(bench.dtype).removeprefix("torch."),
            self.layers,
            self.all_layers,
            _parameters(self.compilation),
        )

    def tasks(self) -> tuple[list[Task], list[Skip]]:
        """All tasks, and what cannot be one."""
        graph = self.compilation.reference
        types = [graph.type(value) for value in given_inputs(graph)]
        tokens = all(type_.dtype is DType.I64 and len(type_.shape) == 2 for type_ in types)
        if not (tokens and vocabulary_of(graph) and len(types) == len(sequences(graph))):
            reason = "it does not turn tokens alone into logits over their vocabulary"
            return [], [Skip("prefill, decode and training step", "", reason)]
        models = self._models(self.layers)
        tasks = list(model_tasks(models, inference(models, self.scale, self.bench), self.bench))
        fewer = self.options.layers or self._layers_that_fit(TRAINING)
        trained = models if fewer == self.layers else self._models(fewer)
        tasks += model_tasks(trained, training(trained, self.scale, self.bench), self.bench)
        tasks += kernel_tasks(models, self.scale, self.bench)
        reason = "its tokens look at later ones: it does not write one after the other"
        skipped = [] if models.decodes else [Skip("decode", "", reason)]
        return [task for task in tasks if self.options.wants(task.peer)], skipped

    def _models(self, layers: int | None) -> Models:
        compilation = self.compilation if layers == self.layers else self._compile(layers)
        context = most_tokens(compilation.reference) or None
        told = None if layers == self.layers else layers
        config = self.options.config
        if config is not None and layers is not None:
            config = with_layers(config, layers)
        return Models(compilation, self.folder, self.bench.device, self.bench.dtype, context, told, config)

    def _compile(self, layers: int | None) -> Compilation:
        settings = dict(self.options.settings)
        if layers is not None:
            settings[_LAYERS] = str(layers)
        (program,) = compiler.lower_models(self.spec, [self.name], settings)
        return compiler.compile_program(program, self.spec.rules)

    def _layers_that_fit(self, times: int) -> int | None:
        """How many layers may be so that `times` the weights fit into memory; None where all have to be."""
        whole, element = _parameters(self.whole), self.bench.dtype.itemsize
        most = self.scale.share * free_memory(self.bench.device) / (times * element)
        if self.all_layers is None or whole <= most:
            return self.all_layers
        least = least_layers(self.whole)
        least_parameters = _parameters(self._compile(least))
        if least == self.all_layers or least_parameters >= most:
            return least
        of_layer = (whole - least_parameters) / (self.all_layers - least)
        return least + int((most - least_parameters) / of_layer)


def _check_layers(program: Program, layers: int | None) -> None:
    """Raise `ArchcError` where a model has fewer layers than are asked for, or no number of them."""
    if layers is None:
        return
    most = _layers(program)
    if most is None:
        raise ArchcError(
            f"--layers: the arch of `{program.name}` has no number of layers as a parameter `{_LAYERS}`"
        )
    if layers > most:
        raise ArchcError(
            f"--layers {layers}: `{program.name}` has {most}; for more of them give --set {_LAYERS}={layers}"
        )


def _layers(program: Program) -> int | None:
    value = program.parameters.get(_LAYERS)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _parameters(compilation: Compilation) -> int:
    return count_parameters(compilation.reference).total


def least_layers(compilation: Compilation) -> int:
    """The layers from the first on among which every different one is."""
    schedules = [loop.attributes["schedule"] for loop in compilation.fused.loops()]
    return max((1 + max(map(schedule.index, set(schedule))) for schedule in schedules), default=1)
