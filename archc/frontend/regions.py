"""The `experts` region: its body is traced once, for all experts.

Inside of it a tensor of the tokens [B, T, ...] is the rows [N, ...] of those that have chosen an expert, and
`x[e]` is, of a value for each choice [B, T, choices], the one of the choice that led there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archc.errors import Note
from archc.frontend import mistakes, syntax
from archc.frontend.limits import MAX_REGION_DEPTH
from archc.frontend.loop_variable import fresh_variable, loop_value
from archc.frontend.losses import Losses
from archc.frontend.lowerer import Frame, Region
from archc.frontend.values import POISON, Env, Handle, Poison, counted, describe
from archc.ir.attributes import Width, kind_of
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import OPS, Trait
from archc.ir.ops.structure import CONSTANT, EXPERTS, INPUT, WEIGHT
from archc.ir.paths import Index, Path
from archc.ir.types import ROWS, DType, TensorType

TOP_K = OPS["top_k"]


class Regions(Losses):
    """Evaluation of `experts`."""

    def experts(self, expr: syntax.Experts, env: Env) -> Any:
        chosen = self.evaluate(expr.chosen, env)
        count = self.known(self.evaluate(expr.count, env))
        count = self.convert(count, kind_of(Width), "the number of experts", expr.count.span)
        if isinstance(chosen, Poison) or isinstance(count, Poison):
            return POISON
        if not isinstance(chosen, Handle):
            what = "what tokens have chosen"
            return self.report(mistakes.NotATensor(expr.chosen.span, what=what, found=describe(chosen)))
        if len(chosen.type.shape) != 3 or chosen.type.dtype is not DType.I64:
            reason = f"needs the numbers of experts [B, T, choices], not {chosen.type}"
            return self.report(mistakes.WrongShape(expr.chosen.span, op="experts", reason=reason))
        if mistake := _too_many_choices(expr, chosen, count):
            return self.report(mistake)
        if self.region is not None:
            return self.report(mistakes.TooDeep(expr.span, limit=f"{MAX_REGION_DEPTH} `experts`"))
        return _Tracer(self, expr, env, chosen, count).run()

    def body_result(
        self, expr: syntax.Experts | syntax.Scan, env: Env, what: str, fits: Callable[[TensorType], bool]
    ) -> Value | None:
        """The one tensor that a body returns, in its graph, if it `fits` the tokens; None after a mistake."""
        name = "scan" if isinstance(expr, syntax.Scan) else "experts"
        results = self.run(expr.body, env)
        if results is None:
            self.report(mistakes.MissingReturn(expr.span, name=name))
            return None
        if len(results) != 1:
            if results:
                found = counted(len(results), "value")
                self.report(mistakes.NotSingle(results[1].span, found=found))
            return None
        span, value = results[0].span, self.evaluate(results[0].value, env)
        if isinstance(value, Handle):
            result = self.resolve(value)
            type_ = self.frame.graph.type(result)
            if type_.dtype.is_floating and fits(type_):
                return result
            reason = f"must return a floating-point value for each token, not {type_}"
            self.report(mistakes.WrongShape(span, op=name, reason=reason))
        elif not isinstance(value, Poison):
            self.report(mistakes.NotATensor(span, what=what, found=describe(value)))
        return None


class _Tracer:
    """One region."""

    def __init__(self, lowerer: Regions, expr: syntax.Experts, env: Env, chosen: Handle, count: int):
        self.lowerer = lowerer
        self.expr = expr
        self.env = env
        self.chosen = chosen
        batch, tokens, choices = chosen.type.shape
        self.region = Region(fresh_variable(expr.variable, lowerer.steps), count, (batch, tokens), choices)
        self.expert = loop_value(self.region.variable, range(count), 0)

    def run(self) -> Any:
        lowerer, variable = self.lowerer, self.region.variable
        lowerer.count_node(self.expr.span)
        lowerer.steps[variable], lowerer.now[variable] = range(self.region.count), 0
        inner = Env(self.env, {self.expr.variable: self.expert})
        path = lowerer.path_of(self.expr.path, inner) if self.expr.path is not None else ()
        if path and not any(isinstance(segment, Index) and segment.variable == variable for segment in path):
            path = (*path, Index(variable))
        outer = lowerer.frame
        frame = Frame(Graph(f"{outer.graph.name}.{variable}"), outer, variable, region=self.region)
        lowerer.frame = frame
        with lowerer.within(path):
            result = lowerer.body_result(self.expr, inner, "what experts return", _is_of_rows)
        lowerer.frame = outer
        del lowerer.steps[variable], lowerer.now[variable]
        if result is None or not self._is_sound(frame):
            return POISON
        return self._build(frame, result, path)

    def _is_sound(self, frame: Frame) -> bool:
        """All experts compute alike, and each token by itself."""
        if frame.observed:
            variable = self.expr.variable
            self.lowerer.report(mistakes.ExpertsDiffer(self.expr.span, variable=variable))
            return False
        odd = next((node for node in frame.graph.nodes() if not is_per_token(node)), None)
        if odd is not None:
            self.lowerer.report(mistakes.NotInExperts(odd.span or self.expr.span, what=f"`{odd.op.name}`"))
        return odd is None

    def _build(self, frame: Frame, result: Value, path: Path) -> Handle:
        lowerer, region = self.lowerer, self.region
        outer = lowerer.frame.graph
        taken = {value: region.kind(outer.type(value)) for value in frame.captured}
        captured = [*taken, *region.at_choice]
        body = frame.graph
        body.inputs = [*frame.captured.values(), *region.at_choice.values()]
        body.outputs = [("y", result)]
        type_ = body.type(result)
        apart = (region.choices,) if self.expr.apart else ()
        node = outer.add(
            EXPERTS,
            [lowerer.resolve(self.chosen), *captured],
            {
                "types": (TensorType((*region.tokens, *apart, *type_.shape[1:]), type_.dtype),),
                "bodies": (body,),
                "variable": region.variable,
                "count": region.count,
                "apart": self.expr.apart,
                "taken": (*taken.values(), *("choice" for _ in region.at_choice)),
            },
            span=lowerer.place(self.expr.span),
            scope=lowerer.scope,
            path=lowerer.prefix + path,
        )
        return Handle(outer, node.outputs[0])


def _too_many_choices(expr: syntax.Experts, chosen: Handle, count: int) -> mistakes.MissingExperts | None:
    """A router with more scores than there are experts, where it is seen what it chooses among."""
    graph, value = chosen.graph, chosen.value
    node = graph.node(value)
    while node.op.has(Trait.SHAPE) and len(node.inputs) == 1 and (source := node.inputs[0]) is not None:
        node = graph.node(source)
    scores = node.inputs[0] if node.op is TOP_K else None
    if scores is None or not isinstance(width := graph.type(scores).width, int) or width <= count:
        return None
    notes = [Note(f"`top_k` chooses here, of {graph.type(scores)}", node.span)]
    return mistakes.MissingExperts(expr.count.span, choices=width, count=count, notes=notes)


def _is_of_rows(type_: TensorType) -> bool:
    return type_.shape[:1] == (ROWS,)


def is_per_token(node: Node) -> bool:
    """Whether a node computes of each token by itself."""
    return node.op in (INPUT, WEIGHT, CONSTANT) or (node.op.has(Trait.PER_TOKEN) and not node.op.past)
