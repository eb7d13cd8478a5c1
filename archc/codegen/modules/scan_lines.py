"""A scan as statements: its step as a function, and the call that runs it for one token after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from archc.codegen.code import Line
from archc.codegen.literals import tuple_text
from archc.codegen.modules.spans import span_of
from archc.ir.names import unique
from archc.ir.node import Node, Value
from archc.ir.ops.structure import SCAN
from archc.ir.scan_form import is_of_token, scan_form

if TYPE_CHECKING:
    from archc.codegen.modules.lines import Emitter


def write_scan(emitter: Emitter, node: Node) -> None:
    """The step, and its scan; what is not of a token are variables of the code around the step."""
    emitter.enter(node)
    (body,), form = node.bodies, scan_form(node)
    span, starts = span_of(emitter.use(form.positions)), [emitter.use(value) for value in form.starts]
    slots = [_slot(emitter, value) for value in form.states if value is not None]
    texts = [emitter.use(value) for value in form.taken]
    pairs = list(zip(body.inputs[len(form.states) :], texts, strict=True))
    of_token = [(v, text) for v, text in pairs if is_of_token(body.type(v), node.types[0].shape[:2])]
    whole = {value: text for value, text in pairs if value not in dict(of_token)}
    name = unique("step", {*emitter.variables.owned, *emitter.style.reserved})
    inner = emitter.inner(body, reserved=emitter.style.reserved | {*whole.values()})
    wanted = {value: text for value, text in of_token if text.isidentifier()}
    parameters = ", ".join(f"{argument}: Tensor" for argument in inner.arguments(whole, wanted))
    results = ", ".join(inner.run())
    emitter.lines += [Line(""), Line(f"def {name}({parameters}) -> tuple[Tensor, ...]:")]
    emitter.lines += [_of_one_token(line, node).indented() for line in inner.lines]
    emitter.lines += [Line(f"    return {results}"), Line("")]
    groups = [tuple_text(starts), tuple_text([text for _, text in of_token])]
    groups += [f"states(cache, self, {', '.join(slots)})"] if slots else []
    given = ", ".join([name, span, *groups])
    target = emitter.variables.bind(node.outputs[0])
    emitter.lines.append(Line(f"{target} = scan({given})", emitter.comment_of(node)))


def _slot(emitter: Emitter, state: Value) -> str:
    """The name of a state's slot in the cache."""
    emitter.variables.pending.pop(state)  # scans take all of them at once
    return f'"{emitter.graph.node(state).attributes["slot"]}"'


def _of_one_token(line: Line, scan: Node) -> Line:
    """A line of a step, whose shapes are those of one token."""
    batch, tokens = scan.types[0].shape[:2]
    return replace(line, comment=line.comment.replace(f"[{batch}, {tokens}", f"[{batch}, 1"))


def starts_state(user: Node, place: int) -> bool:
    """Whether an operand of a node is what a state is before the first token."""
    return user.op is SCAN and 2 <= place < 2 + len(user.attributes["states"])
