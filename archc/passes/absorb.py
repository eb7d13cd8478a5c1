"""Attention absorbs the linear maps of its keys and values where few new tokens follow many.

Linear maps of what is kept would have to be applied to every earlier token again.  Moved to the queries
and to the weighted sum, they are applied to the new tokens only, at the price of wider heads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from archc.ir.absorption import absorbed_form
from archc.ir.flops import node_flops
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Trait
from archc.ir.ops.structure import APPEND, BRANCH, INPUT, LOOP
from archc.ir.types import DType, TensorType
from archc.passes.context import Context, place_of
from archc.passes.report import Fired
from archc.passes.sink import sink_into_branch
from archc.quantities import with_unit
from archc.target import Target

RELAXATION = "reassociation"
_ALWAYS = 1 << 40  # tokens: more than any call has
_ONE_TOKEN: Mapping[str, int] = defaultdict(lambda: 1)  # every dim that is open


def bytes_of(type_: TensorType) -> int:
    """What one token's value takes, in bfloat16 where it is of the model's dtype."""
    return type_.bind(_ONE_TOKEN).numel() * {DType.F32: 4, DType.I64: 8}.get(type_.dtype, 2)


@dataclass(frozen=True)
class Cost:
    """What attention of one new token does for each token of its context."""

    bytes: int
    flops: int

    def seconds(self, target: Target) -> float:
        """By the roofline: the longer of moving the bytes and multiplying."""
        return max(self.bytes / target.bandwidth, self.flops / target.matmul_rate)


@dataclass(frozen=True)
class Absorption:
    """A reader of the past in two forms: `whole` makes keys and values of what is kept, `absorbed` does not.

    inputs:     the values of the reader's graph that both forms take, queries first
    kept_bytes: of one token, in all that is kept
    absorbed:   None where what the reader reads has no such form
    """

    inputs: tuple[Value, ...]
    kept_bytes: int
    whole: Graph
    absorbed: Graph | None

    @staticmethod
    def of(graph: Graph, reader: Node, kept: Iterable[Value]) -> Absorption | None:
        """The two forms of a reader for what is kept; None where no linear map lies between."""
        kept = set(kept)
        region = graph.between(kept, reader.past)
        if not any(node.op.has(Trait.LINEAR) for node in region):
            return None
        read = {value for node in (*region, reader) for value in node.operands}
        made = {value for node in region for value in node.outputs}
        queries = reader.inputs[0]
        inputs = tuple(sorted(read - made, key=lambda v: (v != queries, graph.node(v).order, v)))
        names = [graph.name_of(value) or graph.node(value).op.name for value in inputs]
        whole = graph.part([("o", reader.outputs[0])], list(zip(names, inputs, strict=True)))
        kept_bytes = sum(bytes_of(graph.type(value)) for value in inputs if value in kept)
        return Absorption(inputs, kept_bytes, whole, absorbed_form(whole))

    @property
    def whole_cost(self) -> Cost:
        """The cost where all keys and values are kept."""
        reader = _reader(self.whole)
        return Cost(
            sum(bytes_of(self.whole.type(value)) for value in set(reader.past)),
            node_flops(self.whole, reader, _ONE_TOKEN),
        )

    @property
    def absorbed_cost(self) -> Cost:
        """The cost where only what the cache keeps is read."""
        assert self.absorbed is not None
        return Cost(self.kept_bytes, node_flops(self.absorbed, _reader(self.absorbed), _ONE_TOKEN))

    @property
    def few(self) -> int:
        """Up to how many new tokens multiply less in the absorbed form, after a context of any length."""
        maps = [node for node in self.whole.nodes() if node.op.has(Trait.LINEAR)]
        again = sum(node_flops(self.whole, node, _ONE_TOKEN) for node in maps)
        wider = self.absorbed_cost.flops - self.whole_cost.flops
        return max(again // wider, 1) if wider > 0 else _ALWAYS

    def obstacle(self, target: Target) -> str:
        """Why keeping keys and values is better on the target; "" if it is not."""
        if self.absorbed is None:
            reader = _reader(self.whole).op
            if reader.name != "attend":
                return f"what `{reader.name}` reads would be made of it again with each token"
            return "keys and values are made of it in a way that attention cannot take over"
        width = self.absorbed.type(_reader(self.absorbed).first).width
        if isinstance(width, int) and width > target.max_head:
            return f"heads would be {width} wide, and `{target.name}` attends over {target.max_head} at most"
        now, then = self.whole_cost.seconds(target), self.absorbed_cost.seconds(target)
        if then < now:
            return ""
        return f"a token of context would take {with_unit(then, 's')}, not {with_unit(now, 's')}"

    def gain(self, target: Target) -> str:
        """What the absorbed form saves, for the report."""
        now, then = self.whole_cost, self.absorbed_cost
        seconds = [with_unit(cost.seconds(target), "s") for cost in (then, now)]
        times = " in place of ".join(seconds)
        return (
            f"{then.bytes:,} bytes in place of {now.bytes:,}, by the roofline of `{target.name}` {times}"
            " for each token of context"
        )


def _reader(form: Graph) -> Node:
    """The op of a form that reads the past."""
    return next(node for node in form.nodes() if node.op.past)


def absorb_maps(graph: Graph, context: Context) -> None:
    """Give attention a second form, for few new tokens, where it reads linear maps of what is kept."""
    for part, times in list(graph.runs()):
        kept = [value for node in part.nodes() for value in node.outputs if _is_kept(node, value)]
        for reader in [node for node in part.nodes() if node.op.past] if kept else ():
            absorption = Absorption.of(part, reader, kept)
            if absorption is not None and absorption.absorbed is not None:
                _branch(part, reader, absorption)
                context.report.fired.append(
                    Fired("absorb", place_of(reader), times, (RELAXATION,), reader.span)
                )


def _is_kept(node: Node, value: Value) -> bool:
    """Whether a value is kept of all tokens so far, here or by an earlier layer."""
    shape = node.types[value.output].shape
    return node.op in (APPEND, INPUT, LOOP) and len(shape) > 2 and shape[1] == "S"


def _branch(graph: Graph, reader: Node, absorption: Absorption) -> None:
    """Replace a reader, and what makes its keys and values, by a choice between its two forms."""
    made = graph.between(absorption.inputs, reader.past)
    attributes = {
        "types": reader.types,
        "bodies": (absorption.whole, absorption.absorbed),
        "few": absorption.few,
    }
    branch = graph.add_like(reader, BRANCH, absorption.inputs, attributes, names=reader.names)
    graph.replace_uses(reader.outputs[0], branch.outputs[0])
    graph.remove(reader)
    graph.remove_unread(made)
    sink_into_branch(graph, branch.id)
    for place in range(len(graph.node(branch.id).inputs)):
        _keep_within(graph, branch.id, place)


def _keep_within(graph: Graph, number: int, place: int) -> None:
    """Move an `append` that only the branch reads into both forms, where a kernel may carry it out."""
    branch = graph.node(number)
    value = branch.operands[place]
    kept = graph.node(value)
    if kept.op is not APPEND or graph.only_user(value) is None:
        return
    new = kept.first
    for body in branch.bodies:
        _append_input(body, body.inputs[place], graph.type(new), kept)
    made = graph.node(new)
    if len(made.types) == 1 and not graph.name_of(new):
        graph.update(made, names=kept.names)
    graph.update(branch, inputs=(*branch.inputs[:place], new, *branch.inputs[place + 1 :]))
    graph.remove(kept)


def _append_input(form: Graph, given: Value, type_: TensorType, kept: Node) -> None:
    """Let a form take the values of new tokens, and append them to the cache itself."""
    node = form.node(given)
    form.update(node, types=(type_,), attributes={**node.attributes, "type": type_})
    append = form.add_like(kept, APPEND, [given], kept.attributes, names=kept.names)
    form.replace_uses(given, append.outputs[0], but=[append.id])
