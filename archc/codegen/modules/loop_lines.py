"""A loop's statements: the variables that its layers assign to, and the call of the layers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from archc.codegen.code import Line
from archc.ir.node import Node

if TYPE_CHECKING:
    from archc.codegen.modules.lines import Emitter


def write_loop(emitter: Emitter, node: Node) -> None:
    """The loop, and before it assignments to its variables where they start as values that are read later."""
    operands = emitter.operands(node)
    carried, entering = node.attributes["carried"], node.attributes["entering"]
    targets = _targets(emitter, node, dict(zip(entering, operands, strict=False)))
    inner = [
        targets[carried.index(n)] if n in carried else t for n, t in zip(entering, operands, strict=False)
    ]
    emitter.lines += emitter.style.loop(node, targets, [*inner, *operands[len(entering) :]])


def _targets(emitter: Emitter, node: Node, texts: dict[str, str]) -> list[str]:
    """Names for what a loop carries; `texts` are those of what enters it.

    A loop assigns to what it reads: each carried value keeps one name from before the loop to after it.
    """
    carried, entering = node.attributes["carried"], node.attributes["entering"]
    start = dict(zip(entering, node.inputs, strict=False))
    kept = [value for name, value in start.items() if name not in carried]
    kept += node.inputs[len(entering) :]  # what iterations read as it was before the loop
    variables = emitter.variables
    read = {word for text in texts.values() for word in re.findall(r"[A-Za-z_]\w*", text)}
    targets: list[str] = []
    for name, value in zip(carried, node.outputs, strict=True):
        before = start.get(name)
        text = texts[name] if before is not None else ""
        read_later = before is not None and (before in kept or variables.is_read_after(before, node))
        if before is not None and before in kept:
            variables.hold(before)
        if not text.isidentifier() or text in targets or read_later:
            # The loop reads its other operands after this, also those whose names stand for what it carries.
            target = variables.bind(value, taken=[*read, *targets], inside=True)
            if before is not None:
                emitter.lines.append(Line(f"{target} = {text}"))
        else:
            target = text
            variables.take(value, target)
        targets.append(target)
    return targets
