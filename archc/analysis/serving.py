"""How fast a device answers requests, at best."""

from __future__ import annotations

from dataclasses import dataclass

from archc.analysis.devices import Device
from archc.analysis.kernels import Shape, kernels
from archc.analysis.memory import ELEMENT_BYTES
from archc.analysis.parameters import roles_by_path
from archc.analysis.roofline import phase
from archc.ir.graph import Graph


@dataclass(frozen=True)
class Workload:
    """`batch` requests at a time, each a prompt and an answer, in tokens."""

    batch: int
    prompt: int
    answer: int
    dtype: str
    device: Device

    @property
    def element(self) -> int:
        return int(ELEMENT_BYTES[self.dtype])

    @property
    def context(self) -> int:
        """How many tokens precede a new one, in the mean over an answer."""
        return self.prompt + self.answer // 2


def serving_rate(reference: Graph, fused: Graph, load: Workload) -> float:
    """Tokens of answers a second, by the roofline: prompts are read, then answers made token by token."""
    roles = roles_by_path(reference)

    def seconds(shape: Shape) -> float:
        found = kernels(fused, shape, load.element, roles)
        return phase(found, load.device, load.dtype, load.batch).seconds

    prompts = seconds(Shape(load.batch, load.prompt, load.prompt, 1))
    token = seconds(Shape(load.batch, 1, load.context + 1, 1))
    return load.batch * load.answer / (prompts + load.answer * token)


def best_rate(
    weights_read: float, cache_read: float, launches: int, products: float, load: Workload
) -> float:
    """No model of such bytes and products is faster: a bound that needs no graph.

    weights_read: bytes of weights that each step reads
    cache_read:   bytes of cache that each step reads, over the batch
    launches:     kernels of a step
    products:     FLOPs of products with weights, for a token
    """
    device = load.device
    prompts = products * load.batch * load.prompt / device.matrix_peak(load.dtype)
    token = (weights_read + cache_read) / device.bandwidth + launches * device.launch
    return load.batch * load.answer / (prompts + load.answer * token)
