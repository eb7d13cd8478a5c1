"""A language model's head: its last linear map, cut off so that a loss need not hold all tokens' logits."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.code import Line
from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.modules.class_plan import Head
from archc.codegen.modules.lines import Emitter
from archc.codegen.modules.style import Style
from archc.ir.graph import Graph
from archc.ir.head import last_linear
from archc.ir.logits import logits_of
from archc.ir.node import Node, Value
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import WEIGHT


@dataclass(frozen=True)
class Cut:
    """A graph in three parts, whose nodes keep their numbers.

    body:   up to what the head reads, which takes the place of logits among its outputs
    place:  which of the outputs that is
    weight: of the linear map to raw logits
    bias:   of the same, if it has one
    tail:   from raw logits to logits, such as a soft cap; None where they are the same
    """

    body: Graph
    place: int
    weight: Node
    bias: Node | None
    tail: Graph | None

    @property
    def hidden(self) -> Value:
        """What the head reads."""
        return self.body.outputs[self.place][1]

    @property
    def weight_shape(self) -> tuple[int, int]:
        """The vocabulary, and the width that the linear map reads."""
        rows, columns = self.weight.types[0].shape
        return int(rows), int(columns)

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The parts besides the linear map."""
        return (self.body,) if self.tail is None else (self.body, self.tail)


def cut_head(graph: Graph) -> Cut | None:
    """The cut of a language model; None where its logits come from more than a linear map."""
    found = logits_of(graph)
    if found is None or found.books:  # those of several codebooks are few
        return None
    name, logits = graph.outputs[found.place]
    linear = last_linear(graph, logits)
    if linear is None or not _is_plain(graph, linear):
        return None
    hidden, weight, *bias = linear.operands
    raw = linear.outputs[0]
    outputs = list(graph.outputs)
    outputs[found.place] = (graph.name_of(hidden) or "h", hidden)
    return Cut(
        body=graph.part(outputs, losses=True),
        place=found.place,
        weight=graph.node(weight),
        bias=graph.node(bias[0]) if bias else None,
        tail=None if raw == logits else graph.part([(name, logits)], [("logits", raw)]),
    )


def _is_plain(graph: Graph, linear: Node) -> bool:
    """Whether it is x W^T + b with W and b as the model holds them."""
    held = all(graph.node(value).op is WEIGHT for value in linear.operands[1:])
    plain = linear.op is LINEAR and linear.attributes["layout"] == "out_in"
    return held and plain and not linear.attributes["wide"]


def write_head(cut: Cut, loss: LossKernel, results: list[str], style: Style, linear: str) -> Head:
    """The head's statements; `results` are the body's, by name, `linear` is the function that it calls."""
    lines: tuple[Line, ...] = ()
    logits = "logits"
    shape = cut.body.type(cut.hidden)
    if cut.tail is not None:
        emitter = Emitter(cut.tail, style)
        emitter.arguments()
        (logits,) = emitter.run()
        lines = tuple(emitter.lines)
    return Head(
        hidden=results[cut.place],
        hidden_shape=shape.shape_code,
        logits_shape=shape.with_width(cut.weight_shape[0]).shape_code,
        weight=style.weights[cut.weight.id],
        bias=style.weights[cut.bias.id] if cut.bias else "",
        linear=linear,
        loss=loss,
        tail=lines,
        result=logits,
        place=cut.place,
        results=_returned(len(results), cut.place),
    )


def _returned(count: int, place: int) -> tuple[str, ...]:
    """The texts of all results, logits at their place; none where these are alone."""
    if count == 1:
        return ()
    return tuple(f"self.head(before[{n}])" if n == place else f"before[{n}]" for n in range(count))
