"""`loss` and `note`: what is computed for training alone.

Their expressions are traced into graphs of their own, so that nothing of them is computed without a loss.  A
`loss` after the layers can read what they note, as the mean over all of them; in a model whose layers note
nothing there is no such loss.
"""

from __future__ import annotations

from typing import Any

from archc.frontend import mistakes, syntax
from archc.frontend.loops import Loops
from archc.frontend.lowerer import Frame
from archc.frontend.values import POISON, Env, Handle, Poison, describe
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.ops.structure import LOSSES, NOTED
from archc.ir.types import TensorType

CROSS_ENTROPY = "cross_entropy"


class Losses(Loops):
    """Evaluation of `loss`, `note` and `noted`."""

    notes: dict[str, TensorType | None]  # by name; None after a mistake

    def leave(self, statement: syntax.Leave, env: Env) -> None:
        what = f"`{statement.kind} {statement.name}`"
        if (statement.kind, statement.name) == ("loss", CROSS_ENTROPY):
            reason = "it is the loss of a model's output against its labels"
            self.report(
                mistakes.ReservedName(statement.span, name=statement.name, kind="a `loss`", reason=reason)
            )
        elif self.region is not None:
            self.report(mistakes.NotInExperts(statement.span, what=what))
        elif self.in_step:
            self.report(mistakes.NotInStep(statement.span, what=what))
        elif self.frame.training:
            self.report(mistakes.NotInLoss(statement.span, what=what))
        else:
            self._leave(statement, env, what)

    def _leave(self, statement: syntax.Leave, env: Env, what: str) -> None:
        outer = self.frame
        frame = Frame(Graph(f"{outer.graph.name}.{statement.kind}"), outer, training=True)
        self.frame = frame
        value = self.evaluate(statement.value, env)
        if not isinstance(value, Handle) or frame.lacks_notes:
            self.frame = outer
            self._refuse(statement, value, what)
            return
        result = self.resolve(value)
        self.frame = outer
        type_ = frame.graph.type(result)
        if self._is_sound(statement, frame, type_):
            frame.graph.inputs = list(frame.captured.values())
            frame.graph.outputs = [(statement.name, result)]
            outer.graph.add(
                LOSSES,
                list(frame.captured),
                {"kinds": (statement.kind,), "body": frame.graph},
                span=self.place(statement.span),
                scope=self.scope,
                path=self.prefix,
            )
            if statement.kind == "note":
                self._remember(statement, type_)

    def _refuse(self, statement: syntax.Leave, value: Any, what: str) -> None:
        if statement.kind == "note":
            self.notes[statement.name] = None
        if not isinstance(value, Poison):
            self.report(mistakes.NotATensor(statement.value.span, what=what, found=describe(value)))

    def _is_sound(self, statement: syntax.Leave, frame: Frame, type_: TensorType) -> bool:
        odd = next((node for node in frame.graph.nodes() if _has_no_place(node)), None)
        if odd is not None:
            self.report(mistakes.NotInLoss(odd.span or statement.span, what=f"`{odd.op.name}`"))
        if not type_.dtype.is_floating:
            reason = f"needs a floating-point tensor, not {type_}"
            self.report(mistakes.WrongShape(statement.value.span, op=statement.kind, reason=reason))
        return odd is None and type_.dtype.is_floating

    def _remember(self, statement: syntax.Leave, type_: TensorType) -> None:
        """All that is noted under one name must be alike, for a mean to be taken of it."""
        known = self.notes.setdefault(statement.name, type_)
        if known is not None and known != type_:
            self.report(
                mistakes.NotesDiffer(statement.span, name=statement.name, first=str(known), second=str(type_))
            )

    def noted(self, call: syntax.Call, argument: syntax.Argument) -> Any:
        """The mean of what was noted under a name so far; where nothing was, no loss can be made of it."""
        if not isinstance(argument.value, syntax.Name):
            return self.report(mistakes.NotANote(argument.span))
        name = argument.value.name
        if not self.frame.training:
            return self.report(mistakes.OnlyInLoss(call.span, what="`noted`"))
        type_ = self.notes.get(name)
        if type_ is None:
            self.frame.lacks_notes = True
            return POISON
        graph = self.frame.graph
        node = graph.add(NOTED, (), {"name": name, "type": type_}, span=call.span, scope=self.scope)
        return Handle(graph, node.outputs[0])


def _has_no_place(node: Node) -> bool:
    return bool(node.bodies) or bool(node.op.past)
