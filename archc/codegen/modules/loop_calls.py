"""How a model is written where it loops over layers: the list of their modules, and the calls of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.code import Argument, Line
from archc.codegen.literals import size_code
from archc.codegen.modules import schedule
from archc.codegen.modules.kept import trains
from archc.codegen.modules.spans import with_spans
from archc.codegen.native.native_plan import NativeLayers
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.structure import APPEND, BRANCH, KEEP


@dataclass(frozen=True)
class LoopCall:
    """How the layers of a loop are called.

    name:    the list of their modules
    options: what they take besides the operands of the loop
    stack:   the native code for all of them
    """

    name: str
    options: list[str]
    stack: NativeLayers | None

    def lines(self, targets: list[str], operands: list[str]) -> list[Line]:
        """Statements that call the layers one after another, or their native code instead."""
        arguments = ", ".join([*with_spans(operands), *self.options])
        lines = [
            Line(f"for layer in self.{self.name}:"),
            Line(f"    {', '.join(targets)} = layer({arguments})"),
        ]
        if self.stack is None:
            return lines
        return [
            Line(f"decoded = {self.stack.call(f'self.{self.name}', operands)}"),
            Line("if decoded is not None:"),
            Line(f"    {', '.join(targets)} = decoded"),
            Line("else:"),
            *(line.indented() for line in lines),
        ]


def layer_options(loop: Node) -> list[Argument]:
    """What all layers of a loop take besides its operands."""
    options = [Argument("cache", "Cache | None")] if any(map(_remembers, loop.bodies)) else []
    return options + ([Argument("losses", "Losses | None")] if any(map(trains, loop.bodies)) else [])


def _remembers(body: Graph) -> bool:
    return any(node.op in (APPEND, KEEP, BRANCH, CARRIED) for part in body.walk() for node in part.nodes())


def layer_modules(loop: Node, classes: Sequence[str], indices: tuple[str, ...]) -> str:
    """The generator expression that makes a loop's modules."""
    variable = indices[-1]
    chosen = schedule.choose(classes, loop.attributes["schedule"], loop.attributes["indices"], variable)
    return f"{chosen}({', '.join(indices)}, **factory) for {variable} in {_steps_code(loop)}"


def _steps_code(loop: Node) -> str:
    """What a loop's variable runs over, as Python: a range where the numbers follow one another."""
    steps: tuple[int, ...] = loop.attributes["indices"]
    if steps == tuple(range(len(steps))):
        return f"range({size_code(loop.attributes['count'])})"
    first, end = steps[0], steps[-1] + 1
    return f"range({first}, {end})" if steps == tuple(range(first, end)) else str(steps)
