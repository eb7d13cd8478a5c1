"""Graphs: changes, printing, verification, running with and without what was kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from archc.ir.graph import Graph
from archc.ir.interpreter import Interpreter
from archc.ir.node import Node
from archc.ir.op import OPS
from archc.ir.printer import print_graph
from archc.ir.types import DType, TensorType
from archc.ir.verifier import MalformedGraphError, verify_graph
from archc.verification.cases import random_weights
from tests.support import SPECS, compile_model, distance

TYPE = TensorType(("B", 4), DType.FLOAT)


def small() -> tuple[Graph, Node, Node]:
    """y = silu(x) + x."""
    graph = Graph("small")
    x = graph.add_input("x", TYPE)
    silu = graph.add(OPS["silu"], [x], names=("s",))
    total = graph.add(OPS["add"], [silu.outputs[0], x], names=("y",))
    graph.outputs = [("y", total.outputs[0])]
    return graph, silu, total


def test_printing() -> None:
    graph, _, _ = small()
    assert print_graph(graph) == (
        "graph small(%x: float[B, 4]) {\n"
        "  %s = silu(%x) : float[B, 4]\n"
        "  %y = add(%s, %x) : float[B, 4]\n"
        "  return y = %y\n"
        "}\n"
    )


def test_users_and_replacement() -> None:
    graph, silu, total = small()
    (x,) = graph.inputs
    assert [(node.op.name, place) for node, place in graph.users(x)] == [("silu", 0), ("add", 1)]
    gelu = graph.add_like(silu, OPS["gelu"], [x])
    graph.replace_uses(silu.outputs[0], gelu.outputs[0])
    assert graph.node(total.id).inputs == (gelu.outputs[0], x)
    assert [node.op.name for node in graph.nodes()] == ["input", "silu", "gelu", "add"]
    graph.remove(silu)
    verify_graph(graph)


def test_a_copy_is_independent() -> None:
    compilation = compile_model(SPECS / "llama3.arch", "llama3_tiny")
    before = print_graph(compilation.program.graph)
    twin = compilation.program.graph.copy()
    (loop,) = twin.loops()
    body = loop.bodies[0]
    body.update(body.nodes()[-1], names=("changed",))
    assert print_graph(compilation.program.graph) == before
    assert print_graph(twin) != before


def _wrong_type(graph: Graph, silu: Node, _total: Node) -> None:
    graph.update(silu, types=(TYPE.with_width(5),))


def _cycle(graph: Graph, silu: Node, total: Node) -> None:
    graph.update(silu, inputs=(total.outputs[0],))


def _missing(graph: Graph, silu: Node, _total: Node) -> None:
    graph.update(silu, inputs=(silu.outputs[0]._replace(output=3),))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(_wrong_type, "its op infers"), (_cycle, "has a cycle"), (_missing, "cycle|does not exist")],
)
def test_broken_graphs_are_found(damage: Callable[[Graph, Node, Node], None], reason: str) -> None:
    graph, silu, total = small()
    verify_graph(graph)
    damage(graph, silu, total)
    with pytest.raises(MalformedGraphError, match=reason):
        verify_graph(graph)


def test_readers_of_what_has_changed_are_verified_again() -> None:
    graph, silu, total = small()
    other = graph.add_input("z", TYPE.with_width(5))
    verify_graph(graph)
    widened = graph.update(silu, inputs=(other,), types=(TYPE.with_width(5),))
    assert graph.nodes() == [graph.node(number) for number in (0, other.node, silu.id, total.id)]
    with pytest.raises(MalformedGraphError, match=rf"add {total.id}: .*do not match"):
        verify_graph(graph)
    graph.update(widened, inputs=silu.inputs, types=silu.types)
    verify_graph(graph)


def test_a_weight_must_be_made_up_of_its_sources() -> None:
    graph = compile_model(SPECS / "llama3.arch", "llama3_tiny").fused.copy()
    body = graph.loops()[0].bodies[0]
    packed = next(node for node in body.weights() if len(node.attributes["sources"]) == 3)
    sources = packed.attributes["sources"][:2]
    body.update(packed, attributes={**packed.attributes, "sources": sources})
    with pytest.raises(MalformedGraphError, match="not made up of"):
        verify_graph(graph)


def test_a_loop_must_leave_what_it_carries() -> None:
    graph = compile_model(SPECS / "llama3.arch", "llama3_tiny").fused.copy()
    body = graph.loops()[0].bodies[0]
    body.outputs = body.outputs[::-1]
    with pytest.raises(MalformedGraphError, match="not what the loop carries"):
        verify_graph(graph)


@pytest.mark.parametrize("family", ["llama3", "mistral", "smollm3", "gpt2"])
def test_decoding_with_what_was_kept_equals_the_whole(family: str) -> None:
    """The interpreter, token by token and in pieces, on the graph before and after all fusions."""
    compilation = compile_model(SPECS / f"{family}.arch", f"{family}_tiny")
    weights = random_weights(compilation.program.graph)
    tokens = torch.randint(0, 160, (2, 13))
    positions = torch.arange(13).expand(2, -1)
    whole = Interpreter(weights).run(
        compilation.program.graph, {"tokens": tokens, "positions": positions, "key_positions": positions}
    )["logits"]
    for graph in (compilation.reference, compilation.fused):
        state: dict[object, torch.Tensor] = {}
        parts, start = [], 0
        for size in (5, 1, 1, 4, 2):
            end = start + size
            inputs = {
                "tokens": tokens[:, start:end],
                "positions": positions[:, start:end],
                "key_positions": positions[:, :end],
            }
            parts.append(Interpreter(weights, state).run(graph, inputs)["logits"])
            start = end
        assert distance(torch.cat(parts, 1), whole) < 1e-12
