"""Native code in the classes of a loop's layers: each calls its own, and the loop that of all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from archc.codegen.code import Argument
from archc.codegen.modules.class_plan import Class
from archc.codegen.native.native_layers import plan_native_layers
from archc.codegen.native.native_plan import NativeLayer, NativeLayers
from archc.ir.names import unique


def join_native_layers(classes: Sequence[Class], taken: Collection[str]) -> list[Class] | None:
    """A loop's classes with calls of their native code; None where they have none.

    The last one holds the code of all layers, which is written after it.  `taken`: names of classes
    """
    kinds = [each.native for each in classes if each.native]
    if not kinds:
        return None
    first = next(each for each in classes if each.native)
    operands = [_argument(first, name) for name in kinds[0].operands]
    span = next(each for each in first.arguments if each.annotation == "Span")
    name = unique("decode_layers", {*taken, *(kind.function.name for kind in kinds)})
    stack = plan_native_layers(name, kinds, operands, span)
    if stack is None:
        return None
    called = [_with_call(each, stack, kinds) for each in classes]
    return [*called[:-1], replace(called[-1], stack=stack)]


def _argument(layer: Class, name: str) -> Argument:
    """An argument of a layer's `forward`; without annotation where it has none of that name."""
    return next((each for each in layer.arguments if each.name == name), Argument(name))


def _with_call(layer: Class, stack: NativeLayers, kinds: Sequence[NativeLayer]) -> Class:
    """A layer that calls its native code, if it has some: one of the `kinds` of its loop."""
    if layer.native is None:
        return layer
    declaration = layer.native.declaration(kinds.index(layer.native))
    return replace(layer, native_inputs=declaration, native_call=stack.call("[self]", layer.native.operands))
