"""Chosen keys are named once each, so that what reads those that are named counts none of them twice.

A mask does not tell how often a key was chosen; a kernel that goes through the choices does.
"""

from __future__ import annotations

from archc.ir.graph import Graph
from archc.ir.op import OPS
from archc.ir.ops.key_choice import EACH_ONCE
from archc.ir.origins import chosen_in
from archc.passes.context import Context, place_of, remaining

ATTEND = OPS["attend"]


def name_keys_once(graph: Graph, context: Context) -> None:
    """Take doubles out of places of keys that arithmetic has made, before attention reads them."""
    chosen = chosen_in(graph)
    for part in graph.walk():
        for node in remaining(part, ATTEND):
            among = node.named.get("among")
            if among is None or (id(part), among) in chosen:
                continue
            once = part.add_like(node, EACH_ONCE, [among], names=(part.name_of(among) or "among",))
            inputs = tuple(once.outputs[0] if value == among else value for value in node.inputs)
            part.update(node, inputs=inputs)
            context.report.remark("distinct", f"attention ({place_of(node)}): chosen keys are sorted")
