"""A language model's head: its last linear map, cut off so that a loss need not hold all tokens' logits."""

from __future__ import annotations

from dataclasses import dataclass

from archc.codegen.kernels.linear.loss_plan import LossKernel
from archc.codegen.modules.class_plan import Head, Line
from archc.codegen.modules.lines import Emitter
from archc.codegen.modules.style import Style
from archc.ir.graph import Graph
from archc.ir.head import last_linear
from archc.ir.node import Node
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import WEIGHT
from archc.ir.program import vocabulary_of


@dataclass(frozen=True)
class Cut:
    """A graph in three parts, whose nodes keep their numbers.

    body:   up to what the head reads, its only output
    weight: of the linear map to raw logits
    bias:   of the same, if it has one
    tail:   from raw logits to logits, such as a soft cap; None where they are the same
    """

    body: Graph
    weight: Node
    bias: Node | None
    tail: Graph | None

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
    if not vocabulary_of(graph):
        return None
    name, logits = graph.outputs[0]
    linear = last_linear(graph, logits)
    if linear is None or not _is_plain(graph, linear):
        return None
    hidden, weight, bias = linear.inputs
    assert hidden is not None
    assert weight is not None
    raw = linear.outputs[0]
    return Cut(
        body=graph.part([(graph.name_of(hidden) or "h", hidden)], losses=True),
        weight=graph.node(weight),
        bias=None if bias is None else graph.node(bias),
        tail=None if raw == logits else graph.part([(name, logits)], [("logits", raw)]),
    )


def _is_plain(graph: Graph, linear: Node) -> bool:
    """Whether it is x W^T + b with W and b as the model holds them."""
    weights = [value for value in linear.inputs[1:] if value is not None]
    held = all(graph.node(value).op is WEIGHT for value in weights)
    plain = linear.op is LINEAR and linear.attributes["layout"] == "out_in"
    return held and plain and not linear.attributes["wide"]


def write_head(cut: Cut, loss: LossKernel, hidden: str, style: Style, linear: str) -> Head:
    """The head's statements; `hidden` is the name of what it reads, `linear` the function that it calls."""
    lines: tuple[Line, ...] = ()
    logits = "logits"
    shape = cut.body.type(cut.body.outputs[0][1])
    if cut.tail is not None:
        emitter = Emitter(cut.tail, style)
        emitter.arguments()
        (logits,) = emitter.run()
        lines = tuple(emitter.lines)
    return Head(
        hidden=hidden,
        hidden_shape=shape.shape_code,
        logits_shape=shape.with_width(cut.weight_shape[0]).shape_code,
        weight=style.weights[cut.weight.id],
        bias=style.weights[cut.bias.id] if cut.bias else "",
        linear=linear,
        loss=loss,
        tail=lines,
        result=logits,
    )
