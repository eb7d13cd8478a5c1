"""What a cache keeps, as statements: values of each token, and values that stay the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from archc.codegen.code import Line
from archc.codegen.modules.spans import with_spans
from archc.ir.node import Node, Value
from archc.ir.ops.structure import APPEND, KEEP

if TYPE_CHECKING:
    from archc.codegen.modules.lines import Emitter


def write_append(emitter: Emitter, node: Node) -> None:
    """All values kept for one op, in one statement, once the last of them is there.

    An op that appends them itself has no such statement.
    """
    if node.id in emitter.kept_by:
        return
    readers = {user.id: user for user, _ in emitter.graph.users(node.outputs[0])}
    kept = [other for other in emitter.nodes if other.op is APPEND]
    groups = [[other for other in kept if other.outputs[0] in r.inputs] for r in readers.values()]
    for group in groups or [[node]]:
        known = _known(emitter)
        _append_together(emitter, [other for other in group if other.outputs[0] not in known])


def _append_together(emitter: Emitter, group: Sequence[Node]) -> None:
    kept = [other.first for other in group]
    if not kept or not _known(emitter).issuperset(kept):
        return
    slots = [other.attributes["slot"] for other in group]
    given = [f"{slot}={emitter.use(value)}" for slot, value in zip(slots, kept, strict=True)]
    for value in kept:
        if emitter.graph.only_user(value) is not None:
            emitter.variables.end(value)
    results = [other.outputs[0] for other in group]
    targets = [emitter.variables.bind(value) for value in results]
    left = f"({targets[0]},)" if len(targets) == 1 else ", ".join(targets)
    code = f"{left} = remember(cache, self, {', '.join(given)})"
    emitter.lines.append(Line(code, emitter.shape_comment(results)))


def _known(emitter: Emitter) -> set[Value]:
    """The values that have a text by now."""
    return {*emitter.variables.names, *emitter.variables.pending}


def write_kept(emitter: Emitter, _node: Node) -> None:
    """All that is kept while tokens are added, in one statement for its first node."""
    part = emitter.kept_part
    if part.values[0] in emitter.variables.names:
        return
    arguments = with_spans([emitter.variables.names[value] for value in part.inputs])
    arguments += ["losses"] if part.trains else []
    for value in part.inputs:
        if all(user in part or user.op is KEEP for user, _ in emitter.graph.users(value)):
            emitter.variables.end(value)
    targets = [emitter.variables.bind(value) for value in part.values]
    code = f"{', '.join(targets)} = kept({', '.join(['cache', 'self', *arguments])})"
    emitter.lines.append(Line(code, emitter.shape_comment(part.values)))
