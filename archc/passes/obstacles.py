"""Why a target has no kernel for what a rule has matched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from archc.ir.graph import Graph
from archc.ir.node import Value
from archc.ir.op import Trait
from archc.ir.origins import Origins, flat_in, mixes_sequences, once_in
from archc.ir.program import (
    KEY_POSITIONS,
    POSITIONS,
    Places,
    positions_in,
)
from archc.ir.row_form import clashing_name, fits_row, row_form
from archc.ir.rule import Rule
from archc.ir.types import Dim, TensorType
from archc.passes.matcher import Match
from archc.target import Target


@dataclass(frozen=True)
class Known:
    """What is known of values in all parts of a graph.

    positions: those that are positions of tokens
    flat:      those that have no gradient
    once:      those that stand for all sequences
    """

    positions: Places
    flat: set[tuple[int, Value]]
    once: Origins

    @staticmethod
    def of(graph: Graph) -> Known:
        return Known(positions_in(graph), flat_in(graph), once_in(graph))

    def replace(self, graph: Graph, old: Value, new: Value) -> None:
        """Know of a value of a graph what is known of the one whose place it takes."""
        before, after = (id(graph), old), (id(graph), new)
        if before in self.flat:
            self.flat.add(after)
        if before in self.once:
            self.once[after] = self.once[before]


def obstacle_to(rule: Rule, graph: Graph, match: Match, target: Target, known: Known) -> str:
    """Why the target has no kernel for a match; "" if it has one."""
    return _Candidate(rule, graph, match, target, known).obstacle()


# Families whose kernels go through rows of all operands side by side, and operands for which that is not so.
_APART: Mapping[str, tuple[str, ...]] = {
    "norm": (),
    "pointwise": (),
    "row": (),
    "rope": ("cos", "sin"),
    "latent_rope": ("cos", "sin"),
    "attention": (POSITIONS, KEY_POSITIONS, "bias", "among", "sinks"),
}


@dataclass(frozen=True)
class _Candidate:
    """A match, which one op would replace."""

    rule: Rule
    graph: Graph
    match: Match
    target: Target
    known: Known

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """The types of the operands and weights that are there."""
        operands = self.match.operands.items()
        return {name: self.graph.type(value) for name, value in operands if value is not None}

    def obstacle(self) -> str:
        family = self.rule.family
        if family not in self.target.families:
            kind = f"{family} kernels" if family else "kernel for such a decomposition"
            return f"target `{self.target.name}` has no {kind}"
        if any(len(self.types[name].shape) != 1 for name in self.rule.weights if name in self.types):
            return "a weight differs from row to row"
        if self._mixes_sequences():
            return "one of its operands stands for all sequences"
        of_family = _OBSTACLES.get(family)
        return of_family(self) if of_family else ""

    def _mixes_sequences(self) -> bool:
        """Whether some operands have rows for all sequences, and some the rows of a single one."""
        apart = _APART.get(self.rule.family)
        if apart is None:
            return False
        values = [self.match.operands.get(name) for name in self.rule.operands if name not in apart]
        rows = [value for value in values if value is not None and len(self.graph.type(value).shape) > 1]
        return mixes_sequences(self.graph, rows, self.known.once)

    def norm(self) -> str:
        """What a norm and the sums before it read must be rows of one shape that a kernel holds."""
        nodes = map(self.graph.node, self.match.nodes.values())
        result = next(node.types[0] for node in nodes if node.op.has(Trait.NORM))
        width, longest = result.width, self.target.max_row
        if not isinstance(width, int) or width > longest:
            return f"rows of {width} are longer than a kernel holds ({longest})"
        shapes = {self.types[name].shape for name in self.rule.operands if name in self.types}
        return "" if shapes == {result.shape} else "its operands differ in shape"

    def row(self) -> str:
        """Operands must be rows of one width that a program holds, or broadcast to them."""
        rule = self.rule
        if name := clashing_name((*rule.inputs, *rule.output_names)):
            return f"its kernel needs the name `{name}` for something else"
        form = row_form(rule.decompose(self.types, self.match.attributes))
        if form is None:
            return "it is not made of rows of one width, and of what is broadcast to them"
        return "" if fits_row(form) else "its rows are more than a kernel holds"

    def pointwise(self) -> str:
        """Operands must be whole tensors of one shape, or vectors along their last dim."""
        shapes = set()
        for name, type_ in self.types.items():
            if not isinstance(type_.width, int):
                return f"the width of `{name}` is not known"
            if len(type_.shape) > 1:
                shapes.add((*type_.shape[:-1], type_.width // self.rule.parts.get(name, 1)))
        if len(shapes) != 1:
            return "its operands differ in shape"
        results = (self.graph.node(self.match.nodes[out.step]).types[out.output] for out in self.rule.outputs)
        dtypes = {type_.dtype for type_ in (*self.types.values(), *results)}
        return "some of it is float32, whatever the model is run in" if len(dtypes) != 1 else ""

    def rope(self) -> str:
        """Queries and keys, the first two results, must have heads of one width."""
        widths = {self.graph.node(self.match.nodes[out.step]).types[0].width for out in self.rule.outputs[:2]}
        return "its queries and keys are not of one width" if len(widths) > 1 else self._learned_rotation()

    def latent_rope(self) -> str:
        """What is rotated must be so whole, and all heads of a token must fit in a program's registers."""
        if reason := self._partial_rotation() or self._learned_rotation():
            return reason
        joined = (self.graph.node(self.match.nodes[output.step]).types[0] for output in self.rule.outputs)
        values = sum(type_.bind(defaultdict(lambda: 1)).numel() for type_ in joined)
        most = self.target.max_row
        return f"a token's {values} values are more than a kernel holds ({most})" if values > most else ""

    def _partial_rotation(self) -> str:
        """What kernels hold as its two halves must be rotated whole."""
        width = self.types["cos"].width if "cos" in self.types else None
        partial = not isinstance(width, int) or self._rotated_widths != {2 * width}
        return "heads are rotated in part only" if partial else ""

    def _learned_rotation(self) -> str:
        """Kernels give cosines and sines no gradient."""
        tables = [self.match.operands.get(name) for name in ("cos", "sin")]
        learned = any(value and (id(self.graph), value) not in self.known.flat for value in tables)
        return "what it rotates by has a gradient" if learned else ""

    @property
    def _rotated_widths(self) -> set[Dim]:
        nodes = map(self.graph.node, self.match.nodes.values())
        return {node.types[0].width for node in nodes if node.op.name == "rotate_by"}

    def position_scale(self) -> str:
        """What tokens are multiplied by must be one number for each, which has no gradient."""
        form = self.rule.scale_form
        assert form is not None
        x, factor = (self.match.operands[name] for name in (form.x, form.factor))
        if x is None or factor is None or (id(self.graph), factor) not in self.known.flat:
            return "what it multiplies by has a gradient"
        shape = self.graph.type(x).shape
        one_each = self.graph.type(factor).shape == (*shape[:2], *(1 for _ in shape[2:]))
        return "" if one_each else "what it multiplies by is not one number for each token"

    def attention(self) -> str:
        """Kernels are given where the tokens of a call stand, and take nothing else for it."""
        form = self.rule.attention_form
        if form is not None and form.values_in_keys:
            queries = self.types.get(form.queries[0])
            values = self.graph.node(self.match.nodes[self.rule.root]).types[0]
            if queries is None or queries.width != values.width:
                return "its queries and its keys lie in other parts"
        owners = set()
        for name in (POSITIONS, KEY_POSITIONS):
            value = self.match.operands.get(name)
            known = None if value is None else self.known.positions.get((id(self.graph), value))
            if known is None or known[1] != name:
                return f"its {name} are not those of the tokens"
            owners.add(known[0])
        crossing = len(owners) > 1 and self.match.attributes["mask"].causal
        return "its mask compares positions in two sequences" if crossing else ""


_OBSTACLES: Mapping[str, Callable[[_Candidate], str]] = {
    "norm": _Candidate.norm,
    "row": _Candidate.row,
    "pointwise": _Candidate.pointwise,
    "rope": _Candidate.rope,
    "latent_rope": _Candidate.latent_rope,
    "position_scale": _Candidate.position_scale,
    "attention": _Candidate.attention,
}
