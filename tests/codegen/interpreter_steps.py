"""What operators and casts come to in Triton's interpreter, found once for all operands alike.

Mostly that is one step of the interpreter's builder, which the operands' types tell: it alone is done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def keep_steps() -> None:
    """Those of operators and casts."""
    import triton.language as tl
    from triton.language.semantic import TritonSemantic

    both = ("add", "sub", "mul", "truediv", "and", "or")
    for name in (*both, *(f"r{each}" for each in both), "lt", "le", "gt", "ge", "eq", "ne"):
        setattr(tl.tensor, f"__{name}__", _in_one_step(getattr(tl.tensor, f"__{name}__")))
    TritonSemantic.cast = _cast_in_one_step(TritonSemantic.cast)


def _in_one_step(operator: Any) -> Any:
    """The operator, but where Triton is to look for overflow."""
    import triton.language as tl
    from triton.runtime.interpreter import interpreter_builder as builder

    known: dict[tuple[str, str], Callable[[Any, Any], Any] | None] = {}

    def operated(self: Any, other: Any) -> Any:
        if builder.options.debug:
            return operator(self, other)
        key = (self.type.name, kind_of(other))
        if key in known:
            step = known[key]
            return operator(self, other) if step is None else step(self, other)
        with _steps() as steps:
            result = operator(self, other)
        known[key] = _repeated(steps, self, other, result.type) if isinstance(result, tl.tensor) else None
        return result

    return operated


def _cast_in_one_step(cast: Any) -> Any:
    """The cast, without a search for how it is done where it is plain, and none of what has the type."""
    import triton.language as tl
    from triton.runtime.interpreter import interpreter_builder as builder

    known: dict[tuple[str, str], Any] = {}

    def done(self: Any, value: Any, dtype: Any, rounding: str | None = None) -> Any:
        scalar = dtype.scalar
        key = (value.type.name, scalar.name)
        if key not in known:
            source = value.type.scalar.name
            plain = source in _PLAIN_CASTS.get(scalar.name, ()) or source == scalar.name
            known[key] = cast(self, value, dtype).type if plain else None
        if known[key] is None or rounding is not None:
            return cast(self, value, dtype, rounding)
        if known[key].name == key[0]:
            return value
        return tl.tensor(builder.cast_impl(value.handle, scalar), known[key])

    return done


# A type -> those that the builder casts to it in one step.
_PLAIN_CASTS = {
    "fp32": {"bf16", "fp16", "int1", "int32", "int64"},
    "bf16": {"fp32"},
    "fp16": {"fp32"},
    "int32": {"int1", "int64"},
    "int64": {"int1", "int32"},
}


@contextmanager
def _steps() -> Iterator[list[tuple[Any, tuple[Any, ...]]]]:
    """What the builder is asked for meanwhile that leaves operands as they are."""
    from triton.runtime.interpreter import interpreter_builder as builder

    steps = []

    def noted(step: Any, *arguments: Any) -> Any:
        steps.append((step, arguments))
        return step(*arguments)

    names = ("binary_op", "create_addptr")
    vars(builder).update({name: functools.partial(noted, getattr(builder, name)) for name in names})
    try:
        yield steps
    finally:
        for name in names:
            delattr(builder, name)


def _repeated(steps: list[Any], left: Any, right: Any, type: Any) -> Callable[[Any, Any], Any] | None:
    """The only step, of other operands; none if there were more, or one of the operands was converted."""
    import triton.language as tl

    given = [left.handle, getattr(right, "handle", None)]
    if len(steps) != 1 or given[0] is given[1]:
        return None
    ((step, (first, second, *others)),) = steps
    if first is given[0] and second is given[1]:
        return lambda a, b: tl.tensor(step(a.handle, b.handle, *others), type)
    if first is given[1] and second is given[0]:
        return lambda a, b: tl.tensor(step(b.handle, a.handle, *others), type)
    if given[1] is not None:
        return None
    if first is given[0]:
        return lambda a, _: tl.tensor(step(a.handle, second, *others), type)
    if second is given[0]:
        return lambda a, _: tl.tensor(step(first, a.handle, *others), type)
    return None


def kind_of(operand: Any) -> str:
    """Equal for tensors of a type, and for numbers that are the same."""
    return str(operand.type.name) if hasattr(operand, "handle") else repr(operand)
