"""Everything that `archc analyze` tells of a model, each number from its graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from archc.analysis.activations import activations
from archc.analysis.advice import advice
from archc.analysis.cache import CacheSize, cache_size
from archc.analysis.devices import Device
from archc.analysis.flops import Flops, count_flops
from archc.analysis.kernels import Kernel, Shape, Work, kernels
from archc.analysis.memory import ELEMENT_BYTES, TrainingMemory, training_memory, weight_bytes
from archc.analysis.parameters import Parameters, count_parameters, roles_by_path
from archc.analysis.roofline import Phase, phase
from archc.ir.decoding import decodes
from archc.ir.graph import Graph


@dataclass(frozen=True)
class Setting:
    """What a model is analysed for: `batch` sequences of `context` tokens, in a dtype, on a device."""

    batch: int
    context: int
    dtype: str
    device: Device

    @property
    def text(self) -> str:
        return f"batch {self.batch:,}, context {self.context:,}, {self.dtype}, one {self.device.name}"

    @property
    def element(self) -> int:
        """Bytes of a value in the model's dtype."""
        return int(ELEMENT_BYTES[self.dtype])


@dataclass(frozen=True)
class Memory:
    """Bytes of weights by dtype, and of what training holds."""

    weights: Mapping[str, int]
    training: TrainingMemory


@dataclass(frozen=True)
class Roofline:
    """Times on one device, at least.

    prefill:       the prompts of a batch, with logits of each one's last token
    decode:        one more token after the context, for each sequence of the batch; none without a cache
    training_step: forward, backward and Adam over a batch of whole sequences
    """

    prefill: Phase
    decode: Phase | None
    training_step: Phase


@dataclass(frozen=True)
class Analysis:
    """A model's numbers.  docs/analyze.md describes each."""

    model: str
    arch: str
    setting: Setting
    parameters: Parameters
    flops: Flops
    kv_cache: CacheSize
    memory: Memory
    roofline: Roofline
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self)


def analyse(model: str, arch: str, reference: Graph, fused: Graph, setting: Setting) -> Analysis:
    """The analysis of a model from its unfused graph, with its cache planned, and its fused one."""
    parameters = count_parameters(reference)
    batch = Shape(setting.batch, setting.context, setting.context, setting.context)
    kept = activations(fused, batch, setting.element)
    memory = Memory(weight_bytes(parameters.total), training_memory(parameters.total, setting.dtype, kept))
    cache = cache_size(reference, setting.batch, setting.context, setting.element)
    notes = [*advice(reference, setting.device), *_fit(memory, cache, setting)]
    return Analysis(
        model=model,
        arch=arch,
        setting=setting,
        parameters=parameters,
        flops=count_flops(reference, setting.context),
        kv_cache=cache,
        memory=memory,
        roofline=_roofline(reference, fused, parameters, setting),
        notes=tuple(notes),
    )


def _roofline(reference: Graph, fused: Graph, parameters: Parameters, setting: Setting) -> Roofline:
    roles = roles_by_path(reference)
    batch, context = setting.batch, setting.context

    def run(shape: Shape) -> list[Kernel]:
        return list(kernels(fused, shape, setting.element, roles))

    def timed(work: Iterable[Kernel], tokens: int) -> Phase:
        return phase(work, setting.device, setting.dtype, tokens)

    forward = run(Shape(batch, context, context, context))
    step = [*forward, *_backward(forward), _adam(parameters.total, setting.element)]
    return Roofline(
        prefill=timed(run(Shape(batch, context, context, 1)), batch * context),
        decode=timed(run(Shape(batch, 1, context + 1, 1)), batch) if decodes(reference) else None,
        training_step=timed(step, batch * context),
    )


def _backward(forward: Iterable[Kernel]) -> Iterator[Kernel]:
    """Gradients: a product of matrices has two more of its size, and all else moves about twice as much."""
    for kernel in forward:
        yield Kernel(f"{kernel.op} gradient", kernel.role, kernel.times, kernel.work * 2)


def _adam(parameters: int, element: int) -> Kernel:
    """One step of Adam: it reads gradients, reads and writes moments and a float32 copy, writes weights."""
    moved = 2 * element + 2 * 4 * (2 if element == 4 else 3)
    return Kernel("adam", "", 1, Work(vector=12 * parameters, bytes=moved * parameters))


def _fit(memory: Memory, cache: CacheSize, setting: Setting) -> Iterator[str]:
    """Whether weights and cache, and training, fit into the device."""
    device = setting.device
    for what, needed in (
        ("weights and cache", memory.weights[setting.dtype] + cache.bytes + cache.fixed_bytes),
        ("weights, gradients, optimizer and activations computed again", memory.training.least),
    ):
        if needed > device.memory:
            least = -(-needed // int(device.memory))
            yield (
                f"{what} take {needed / 1e9:,.0f} GB, more than the {device.memory / 1e9:,.0f} GB of one "
                f"{device.name}: {least} of them at least; times are those of one"
            )
