"""Runs a graph, at any stage, by the reference semantics of its ops: the oracle of every test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from archc.errors import ArchcError
from archc.ir.graph import Graph
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.node import Node, Value, shared_in, stored_in
from archc.ir.ops.recurrence import CARRIED
from archc.ir.ops.structure import (
    APPEND,
    BRANCH,
    EXPERTS,
    INPUT,
    LOOP,
    LOSSES,
    NOTED,
    OF_ITERATION,
    SCAN,
    WEIGHT,
)
from archc.ir.paths import Stored, concrete
from archc.ir.scan_form import is_of_token
from archc.ir.types import DType
from archc.ir.weights import experts_of

Observer = Callable[[Graph, Node, Mapping[str, int], tuple[Any, ...]], None]


class Interpreter:
    """Runs graphs with given weights.

    weights:  the checkpoint's tensors by name, in the dtype to run in
    state:    what `append` and `carried` nodes hold, by node and loop indices; None runs whole sequences
    observe:  called after every node with its values

    After a run over whole sequences, `losses` are the terms of the loss by name, and `notes` what was noted.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        state: dict[Any, Tensor] | None = None,
        observe: Observer | None = None,
    ):
        self.weights = weights
        self.state = state
        self.observe = observe
        self.losses: dict[str, Tensor] = {}
        self.notes: dict[str, list[Tensor]] = {}

    def run(self, graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of a graph by name, for inputs by name."""
        self.losses, self.notes = {}, {}
        operands = [inputs[graph.node(value).attributes["name"]] for value in graph.inputs]
        values = self._run(graph, operands, {})
        return {name: value for (name, _), value in zip(graph.outputs, values, strict=True)}

    def _run(self, graph: Graph, operands: list[Any], indices: Mapping[str, int]) -> list[Any]:
        values: dict[Value, Any] = dict(zip(graph.inputs, operands, strict=True))
        for node in graph.nodes():
            if node.op is INPUT:
                continue
            inputs = [values[value] if value is not None else None for value in node.inputs]
            outputs = self._node(node, inputs, indices)
            values.update(zip(node.outputs, outputs, strict=True))
            if self.observe:
                self.observe(graph, node, indices, outputs)
        return [values[value] for _, value in graph.outputs]

    def _node(self, node: Node, inputs: list[Any], indices: Mapping[str, int]) -> tuple[Any, ...]:
        if node.op is WEIGHT:
            return (self._weight(node, indices),)
        if node.op is LOOP:
            return tuple(self._loop(node, inputs, indices))
        if node.op is EXPERTS:
            return (self._experts(node, inputs, indices),)
        if node.op is SCAN:
            return (self._scan(node, inputs, indices),)
        if node.op is BRANCH:
            few = self.state is not None and inputs[0].shape[1] <= node.attributes["few"]
            return tuple(self._run(node.bodies[few], inputs, indices))
        if node.op is APPEND:
            return (self._append(node, inputs[0], indices),)
        if node.op is CARRIED:
            return (self._carried(node, inputs[0], indices),)
        if node.op is LOSSES:
            return self._losses(node, inputs, indices)
        if node.op is OF_ITERATION:
            return (inputs[0][indices[node.attributes["variable"]] - node.attributes["first"]],)
        if node.op is NOTED:
            return (torch.stack(self.notes[node.attributes["name"]]).mean(0),)
        try:
            result = node.op.reference(*inputs, **node.attributes)
        except (IndexError, RuntimeError) as error:
            if (told := _told(error, inputs)) is None:
                raise
            raise ArchcError(f"{node.span}: error: `{node.op.name}`: {told}") from None
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    def _weight(self, node: Node, indices: Mapping[str, int]) -> Tensor:
        experts = experts_of(node)
        if experts is None:
            weight = self._rows(node, indices)
        else:
            variable, _ = experts
            count = int(node.types[0].shape[0])
            weight = torch.stack([self._rows(node, {**indices, variable: expert}) for expert in range(count)])
        wide = node.types[0].dtype is DType.F32
        return weight.to(torch.promote_types(weight.dtype, torch.float32)) if wide else weight

    def _rows(self, node: Node, indices: Mapping[str, int]) -> Tensor:
        shared = shared_in(node)
        sources = (shared.of(indices) if shared else None) or stored_in(node)
        parts = [self._stored(stored, indices) for stored in sources]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 0)

    def _stored(self, stored: Stored, indices: Mapping[str, int]) -> Tensor:
        tensor = self.weights[concrete(stored.path, indices)]
        if stored.joined is not None:
            tensor = torch.stack(tensor.chunk(stored.planes, stored.joined))
        if stored.plane is not None:
            tensor = tensor[stored.plane.at(indices)]
        held = tensor.t() if stored.transposed else tensor
        return _by_parts(held, stored) if stored.heads else held

    def _loop(self, node: Node, operands: list[Any], indices: Mapping[str, int]) -> list[Any]:
        """Runs the bodies by their schedule.  What a body leaves enters the next one by its name."""
        names = loop_entries(node)
        values = list(operands)
        results: list[Any] = []
        for step, number in zip(node.attributes["indices"], node.attributes["schedule"], strict=True):
            body = node.bodies[number]
            results = self._run(body, values, {**indices, node.attributes["variable"]: step})
            left = dict(zip(node.attributes["carried"], results, strict=True))
            values = [left.get(name, value) for name, value in zip(names, values, strict=True)]
        return results

    def _experts(self, node: Node, operands: list[Any], indices: Mapping[str, int]) -> Tensor:
        """Runs the body for one expert after the other, on the rows of the tokens that have chosen it."""
        chosen, *captured = operands
        results: Tensor | None = None
        for expert in range(node.attributes["count"]):
            places = (chosen == expert).nonzero(as_tuple=True)
            kinds = node.attributes["taken"]
            rows = [_taken(x, kind, places, expert) for x, kind in zip(captured, kinds, strict=True)]
            (result,) = self._run(node.bodies[0], rows, {**indices, node.attributes["variable"]: expert})
            if results is None:
                results = result.new_zeros(*chosen.shape, *result.shape[1:])
            results[places] = result
        assert results is not None
        return results if node.attributes["apart"] else results.sum(2)

    def _scan(self, node: Node, operands: list[Any], indices: Mapping[str, int]) -> Tensor:
        """Runs the body for one token after the other; padding leaves the states as they are."""
        count = len(node.attributes["states"])
        _, positions, *rest = operands
        kept, taken = rest[count : 2 * count], rest[2 * count :]
        body, tokens = node.bodies[0], node.types[0].shape[:2]
        begins = (positions == 0).any(1)
        of_token = [is_of_token(body.type(value), tokens) for value in body.inputs[count:]]
        batch = max((len(x) for x, own in zip(taken, of_token, strict=True) if own), default=1)
        states = [
            start.expand(batch, 1, *start.shape) if held is None else _choose(begins, start, held[:, None])
            for start, held in zip(rest[:count], kept, strict=True)
        ]
        results: list[Tensor] = []
        for t in range(positions.shape[1]):
            rows = [x[:, t : t + 1] if own else x for x, own in zip(taken, of_token, strict=True)]
            result, *after = self._run(body, [*states, *rows], indices)
            padding = positions[:, t] < 0
            states = [_choose(padding, old, new) for old, new in zip(states, after, strict=True)]
            results.append(result)
        for held, state in zip(kept, states, strict=True):
            if held is not None:
                held.copy_(state[:, 0])
        return torch.cat(results, 1)

    def _losses(self, node: Node, inputs: list[Any], indices: Mapping[str, int]) -> tuple[()]:
        """Terms add up over the layers; one that is not a single number counts as the mean of its own."""
        body: Graph = node.attributes["body"]
        results = self._run(body, inputs, indices) if self.state is None else []
        for kind, (name, _), result in zip(node.attributes["kinds"], body.outputs, results, strict=False):
            if kind == "note":
                self.notes.setdefault(name, []).append(result)
            else:
                self.losses[name] = self.losses.get(name, 0.0) + result.mean()
        return ()

    def _append(self, node: Node, value: Tensor, indices: Mapping[str, int]) -> Tensor:
        if self.state is None:
            return value
        key = _slot(node, indices)
        past = self.state.get(key)
        self.state[key] = value if past is None else torch.cat([past, value], 1)
        return self.state[key]

    def _carried(self, node: Node, like: Tensor, indices: Mapping[str, int]) -> Tensor | None:
        if self.state is None:  # an op starts as it does at position 0, wherever its tokens are
            return None
        key = _slot(node, indices)
        if key not in self.state:
            self.state[key] = node.op.reference(like, **node.attributes)
        return self.state[key]


def _told(error: Exception, inputs: list[Any]) -> str | None:
    """What to say of an error that follows from a spec's arithmetic; None of any other."""
    if isinstance(error, IndexError) or "out of bounds" in str(error):
        return str(error)
    if len({x.dtype for x in inputs if isinstance(x, torch.Tensor) and x.is_floating_point()}) > 1:
        return (
            "in float64, whole numbers that `upcast` has made float32 stay float32; "
            "`cast_like` takes them to the dtype of another tensor"
        )
    return None


def _slot(node: Node, indices: Mapping[str, int]) -> Any:
    """Where the state holds what a node keeps."""
    return node.attributes["slot"], node.path, tuple(indices.items())


def _by_parts(rows: Tensor, stored: Stored) -> Tensor:
    """Rows that lie head by head, part by part: the first part of all heads, then the next."""
    by_heads = rows.reshape(stored.heads, -1, *rows.shape[1:])
    ends = zip(stored.parts, accumulate(stored.parts), strict=True)
    return torch.cat([by_heads[:, end - size : end].flatten(0, 1) for size, end in ends])


def _taken(x: Any, kind: str, places: tuple[Tensor, ...], expert: int) -> Any:
    """What an expert's body takes of a value, for the choices at places (batch, token, choice)."""
    batch, token, choice = places
    if kind == "expert":
        return x[expert]
    if kind == "choice":
        return x[batch, token, choice] if x.dim() > 3 else x[batch, token, choice, None]
    return x[batch if len(x) > 1 else 0, token] if kind == "token" else x


def _choose(which: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """A state [B, 1, ...]: the chosen one for sequences that `which` [1 or B] tells, else the other."""
    return torch.where(which.view(-1, 1, *[1] * (other.dim() - 2)), chosen.to(other.dtype), other)


def loop_entries(loop: Node) -> list[str | None]:
    """For each operand of a loop the carried name it starts, None for what stays the same."""
    carried: tuple[str, ...] = loop.attributes["carried"]
    entering: tuple[str, ...] = loop.attributes["entering"]
    return [name if name in carried else None for name in entering] + [None] * (
        len(loop.inputs) - len(entering)
    )
