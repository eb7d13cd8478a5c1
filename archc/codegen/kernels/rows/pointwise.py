"""Elementwise decompositions -> the lines of a Triton kernel, forward and backward.

The backward pass is derived from the ops' derivatives, by the chain rule over the decomposition.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from keyword import kwlist
from typing import TypeVar

from archc.codegen.kernels.helpers import MATH
from archc.ir.expr import INFIX, Expr, Formula, leaf
from archc.ir.family import SPLITS
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.op import OPS
from archc.ir.ops.structure import CONSTANT, INPUT

K = TypeVar("K")

_STRENGTH = {"add": 1, "sub": 1, "mul": 2, "div": 2}  # how tightly they bind
_CALL = re.compile(r"[\w.]+\([^()]*\)")
# Those of linear maps that begin with a function.
OF_LINEARS = frozenset({"apart", "following", "output", "outputs", "place", "rows", "start", "total"})
# Names of a kernels module and of every kernel, which a variable must not hide.
KERNEL_NAMES = (*MATH, "tl", "row", "column", "inside", "lane", "lane_inside", *OF_LINEARS)


@dataclass
class Writer:
    """Writes formulas as Triton: arithmetic in place, each function's result once, under a name.

    `names` are those that functions' results shall have where they are free; arithmetic that is in it has a
    name, too.  `_calls` are the calls whose results have names: another function's template may repeat one.
    """

    lines: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    names: Mapping[Expr, str] = field(default_factory=dict)
    _written: dict[Expr, str] = field(default_factory=dict)
    _calls: dict[str, str] = field(default_factory=dict)

    def text(self, formula: Formula, binding: int = 0) -> str:
        """A formula as an expression that binds at least as tightly as asked."""
        if not isinstance(formula, Expr):
            text = repr(float(formula))
            return f"({text})" if formula < 0 and binding else text
        if formula.op == "leaf":
            name = str(formula.args[0])
            return f"({name})" if name.startswith("-") and binding else name
        if formula in self._written:
            return self._written[formula]
        if formula.op in INFIX and formula in self.names:
            return self._hold(formula, self._infix(formula))
        if formula.op in INFIX:
            return self._infix(formula, binding)
        if formula.op == "neg":
            inner = f"-{self.text(_formula(formula.args[0]), 2)}"
            return f"({inner})" if binding > 1 else inner
        return self._function(formula)

    def assign(self, name: str, formula: Formula) -> None:
        """Compute a formula under a name."""
        text = self.text(formula)
        if text != name:
            self.lines.append(f"{name} = {text}")
        self.taken.add(name)
        if isinstance(formula, Expr) and formula.op != "leaf":
            self._written[formula] = name

    def know(self, formula: Expr, name: str) -> None:
        """What has been computed under a name already."""
        self._written[formula] = name

    def _infix(self, formula: Expr, binding: int = 0) -> str:
        symbol, strength = INFIX[formula.op], _STRENGTH[formula.op]
        left, right = (_formula(arg) for arg in formula.args)
        tighter = strength + (formula.op in ("sub", "div"))
        text = f"{self.text(left, strength)} {symbol} {self.text(right, tighter)}"
        return f"({text})" if binding > strength else text

    def _function(self, formula: Expr) -> str:
        op = OPS[formula.op]
        template, names = op.triton, [operand.name for operand in op.operands]
        assert template is not None
        arguments = {
            n: self._argument(_formula(a), template, n) for n, a in zip(names, formula.args, strict=False)
        }
        text = template.format(**arguments)
        for call, known in self._calls.items():
            text = text.replace(call, known)
        name = self._hold(formula, text)
        if _CALL.fullmatch(template):
            self._calls[text] = name
        return name

    def _hold(self, formula: Expr, text: str) -> str:
        """A name for a formula, which is computed by a text."""
        name = self._fresh(self.names.get(formula, formula.op))
        self.lines.append(f"{name} = {text}")
        self._written[formula] = name
        return name

    def _argument(self, formula: Formula, template: str, name: str) -> str:
        """An argument as its template needs it: by name where it is used twice or inside of arithmetic."""
        text = self.text(formula)
        once = template.count(f"{{{name}}}") == 1
        alone = re.search(rf"[(,] ?{{{name}}}(?:[,)]| >)", template) is not None
        if text.isidentifier() or (once and alone):
            return text
        held = self._fresh("t")
        self.lines.append(f"{held} = {text}")
        return held

    def _fresh(self, name: str) -> str:
        name = unique(name, {*self.taken, *KERNEL_NAMES, *kwlist})
        self.taken.add(name)
        return name


def _formula(argument: Expr | float | str) -> Formula:
    assert not isinstance(argument, str)
    return argument


@dataclass(frozen=True)
class Pointwise:
    """An elementwise decomposition as formulas over its loaded values.

    leaves:         value of the decomposition -> the name it is loaded under
    names:          formula -> the name that the decomposition gives its value
    outputs:        formula of each output, by name
    gradients:      formula of each leaf's gradient, over the leaves and `d` + output names
    gradient_names: `names`, and "t" for arithmetic of the decomposition that gradients repeat
    """

    leaves: dict[Value, str]
    names: dict[Expr, str]
    outputs: dict[str, Expr]
    gradients: dict[str, Formula]
    gradient_names: dict[Expr, str]


def analyse(graph: Graph, taken: Iterable[str] = KERNEL_NAMES) -> Pointwise:
    """The formulas of a decomposition: inputs, splits of inputs and elementwise ops.

    The parts of a split get other names than those that are `taken`, whatever a spec calls them.
    """
    leaves: dict[Value, str] = {}
    formulas: dict[Value, Formula] = {}
    for node in graph.nodes():
        if node.op is INPUT:
            value = node.outputs[0]
            if not all(user.op.name in SPLITS for user, _ in graph.users(value)):
                leaves[value] = graph.name_of(value)
        elif node.op.name in SPLITS:
            for value in node.outputs:
                name = graph.name_of(value) or f"part{value.output}"
                leaves[value] = unique(name, [*taken, *leaves.values()])
        elif node.op is CONSTANT:
            formulas[node.outputs[0]] = node.attributes["value"]
        else:
            formulas[node.outputs[0]] = _apply(node, formulas, leaves)
    outputs = {name: _as_expr(_lookup(value, formulas, leaves)) for name, value in graph.outputs}
    gradients = _gradients(graph, formulas, leaves)
    names = _names(graph, formulas, outputs)
    repeated = _repeated(gradients.values())
    arithmetic = (f for f in formulas.values() if isinstance(f, Expr) and f.op in INFIX)
    shared = {f: "t" for f in arithmetic if f in repeated}
    return Pointwise(leaves, names, outputs, gradients, shared | names)


def _repeated(formulas: Iterable[Formula]) -> set[Formula]:
    """What some formulas have in several places, other than where a whole that they repeat has it."""
    places: Counter[Formula] = Counter()
    waiting = [*formulas]
    while waiting:
        formula = waiting.pop()
        places[formula] += 1
        if places[formula] == 1 and isinstance(formula, Expr) and formula.op != "leaf":
            waiting += map(_formula, formula.args)
    return {formula for formula, count in places.items() if count > 1}


def _names(graph: Graph, formulas: Mapping[Value, Formula], outputs: Mapping[str, Expr]) -> dict[Expr, str]:
    """The decomposition's own names, but for those that an output has later."""
    named = {f: graph.name_of(value) for value, f in formulas.items() if isinstance(f, Expr)}
    return {f: name for f, name in named.items() if name and outputs.get(name, f) == f}


def _lookup(value: Value, formulas: Mapping[Value, Formula], leaves: Mapping[Value, str]) -> Formula:
    return leaf(leaves[value]) if value in leaves else formulas[value]


def _as_expr(formula: Formula) -> Expr:
    return formula if isinstance(formula, Expr) else Expr("add", (formula, 0.0))


def _apply(node: Node, formulas: Mapping[Value, Formula], leaves: Mapping[Value, str]) -> Expr:
    operands = [_lookup(value, formulas, leaves) for value in node.operands]
    if node.op.name == "upcast":
        return _as_expr(operands[0])
    return Expr(node.op.name, tuple(operands))


def _gradients(
    graph: Graph, formulas: Mapping[Value, Formula], leaves: Mapping[Value, str]
) -> dict[str, Formula]:
    """Reverse mode over the decomposition: the gradient of every leaf."""
    gradient: dict[Value, Formula] = {}
    for name, value in graph.outputs:
        accumulate(gradient, value, leaf(f"d{name}"))
    for node in reversed(graph.nodes()):
        if node.op in (INPUT, CONSTANT) or node.op.name in SPLITS or node.outputs[0] not in gradient:
            continue
        incoming = _as_expr(gradient[node.outputs[0]])
        operands = [_lookup(value, formulas, leaves) for value in node.operands]
        is_cast = node.op.name == "upcast"
        for place, part in [(0, incoming)] if is_cast else node.op.gradients(incoming, operands):
            operand = node.inputs[place]
            if operand is not None and graph.node(operand).op is not CONSTANT:
                accumulate(gradient, operand, part)
    return {name: gradient.get(value, 0.0) for value, name in leaves.items()}


def accumulate(gradients: dict[K, Formula], key: K, part: Formula) -> None:
    """Add a part to a gradient."""
    gradients[key] = gradients[key] + part if key in gradients else part
