"""Names for the values of a graph: the spec's own, reused once nothing reads the old value any more."""

from __future__ import annotations

from collections.abc import Sequence

from archc.codegen.modules.kept import KeptPart, kept_by
from archc.codegen.modules.style import Style
from archc.codegen.names import identifier, mentions
from archc.ir.graph import Graph
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.op import Op, Trait
from archc.ir.rule import FusedOp, Rule, rule_of

_SHORT = {
    "embedding": "x",
    "rms_norm": "h",
    "layer_norm": "h",
    "attend": "o",
    "recur": "o",
    "softmax": "weights",
    "score_keys": "scores",
    "weighted_values": "o",
    "distance_bias": "bias",
    "key_distance_bias": "bias",
    "add": "x",
    "mul": "h",
    "dispatch": "rows",
    "experts": "y",
    "combine": "y",
}
_CASTS = ("upcast", "upcast_like", "cast_like")


class Variables:
    """The variables of a graph whose statements are written one after the other.

    names:   of the values that have one so far
    pending: texts of values that are still to be written in place of their only use
    step:    which of the graph's nodes is being written
    """

    def __init__(self, graph: Graph, style: Style, kept: KeptPart):
        self.graph = graph
        self.style = style
        self.nodes = graph.nodes()
        self.names: dict[Value, str] = {}
        self.pending: dict[Value, str] = {}
        self.step = 0
        self._owners: dict[str, Value] = {}
        self._last_use = self._last_uses(kept)

    def bind(self, value: Value, wanted: str = "", taken: Sequence[str] = (), inside: bool = False) -> str:
        """Give a value its name: the wanted one unless that is `taken` or stands for a value read later.

        `inside`: the value is an operand of the present statement, and so are others that keep their names.
        """
        name = identifier(wanted or self._wanted(value))
        mentioned = {other for other in self._owners if self._is_mentioned(other)}
        name = unique(name, mentioned.union(self._read_after(self.step - inside), taken, self.style.reserved))
        self.take(value, name)
        return name

    def take(self, value: Value, name: str) -> None:
        """Give a value exactly this name."""
        self.names[value] = name
        self._owners[name] = value

    @property
    def owned(self) -> set[str]:
        """All names that have stood for a value."""
        return {*self._owners}

    @property
    def busy(self) -> set[str]:
        """Names that stand for values which are read later."""
        return self._read_after(self.step)

    def is_read_after(self, value: Value, node: Node) -> bool:
        """Whether anything after a node reads a value."""
        return self._last_use.get(value, -1) > self.nodes.index(node)

    def end(self, value: Value) -> None:
        """The present statement is the last that reads a value, earlier than its reader in the graph."""
        self._last_use[value] = self.step

    def hold(self, value: Value) -> None:
        """The present statement reads a value again and again: no other takes its name in it."""
        self._last_use[value] = max(self._last_use.get(value, -1), self.step + 1)

    def _read_after(self, step: int) -> set[str]:
        return {name for name, owner in self._owners.items() if self._last_use.get(owner, -1) > step}

    def _is_mentioned(self, name: str) -> bool:
        """Whether a text that is still to be written in place reads a name."""
        return any(mentions(text, name) for text in self.pending.values())

    def _wanted(self, value: Value) -> str:
        """The name a value would like to have."""
        node = self.graph.node(value)
        results = [name for name, result in self.graph.outputs if result == value]
        name = self.graph.name_of(value) or (results[0] if results and self.style.comments else "")
        rule = rule_of(node)
        name = name or self._as_operand(value)
        if not name and rule:
            inner = _maker(rule, value.output).name
            name = _SHORT.get(inner, rule.output_names[value.output].removesuffix("_out"))
        if not name and node.op.has(Trait.LINEAR):
            weight = self.style.weights.get(node.operands[1].node, "x")
            name = weight.removeprefix("self.").removesuffix("_proj")
        same = node.op.has(Trait.VIEW) or node.op.name in _CASTS
        if not name and same:
            return self._wanted(node.first)
        own = "h" if node.op.name in self.style.reserved else node.op.name  # that of a function
        return name or _SHORT.get(node.op.name, own)

    def _as_operand(self, value: Value) -> str:
        """The word that an op of the language has for a value that only it reads; "" for a mere letter."""
        users = self.graph.users(value)
        if len(users) != 1 or rule_of(users[0][0]):
            return ""
        user, place = users[0]
        operands = [operand.name for operand in user.op.operands]
        return operands[place] if len(user.inputs) == len(operands) and len(operands[place]) > 1 else ""

    def _last_uses(self, kept: KeptPart) -> dict[Value, int]:
        last: dict[Value, int] = {}
        for step, node in enumerate(self.nodes):
            for value in (*node.inputs, *(append.inputs[0] for append in kept_by(self.graph, node))):
                if value is not None:
                    last[value] = step
        for value in kept.inputs:  # all of it is read where the first is kept
            last[value] = max(last[value], self.nodes.index(kept.keeps[0]))
        for _, value in self.graph.outputs:
            last[value] = len(self.nodes) + 1
        return last


def _maker(rule: Rule, output: int) -> Op:
    """The op that makes an output of a fusion, which may be one of a fusion inside of it."""
    ref = rule.outputs[output]
    op = rule.steps[ref.step].op
    return _maker(op.rule, ref.output) if isinstance(op, FusedOp) else op
