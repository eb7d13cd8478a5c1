"""How a kernel's op is registered with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.code import Argument, Line
from archc.codegen.layout import LINE_LENGTH
from archc.codegen.literals import result_type

_MOST = LINE_LENGTH - 4  # columns of a statement in a function


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel's op takes.

    Dims are numbers, or names such as "B" and "T".  `dtype` is "float", the model's own, or "f32".
    An optional operand may be None.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    optional: bool


@dataclass(frozen=True)
class CustomOp:
    """How a kernel's op is registered with PyTorch: forward, gradient, and what passes between them.

    Every tuple of strings holds names or expressions in the order of the signature.
    """

    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]
    fakes: tuple[str, ...]  # empty tensors like the outputs
    saved: tuple[str, ...]  # kept for the gradient
    incoming: tuple[Argument, ...]  # what the gradient op takes: gradients of outputs, then what was saved
    gradients: tuple[str, ...]
    gradient_fakes: tuple[str, ...]
    returned: tuple[str, ...]  # the gradient of each parameter
    remembered: tuple[str, ...]  # further statements of the set-up
    anchor: str  # the parameter whose device and dtype decide
    plain: tuple[Line, ...]  # the op in plain PyTorch

    @property
    def parameters(self) -> tuple[Argument, ...]:
        return tuple(Argument(o.name, "Tensor | None" if o.optional else "Tensor") for o in self.operands)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(operand.name for operand in self.operands)

    @property
    def incoming_names(self) -> tuple[str, ...]:
        return tuple(argument.name for argument in self.incoming)

    @property
    def passed(self) -> tuple[str, ...]:
        """What the gradient op is called with: gradients, and all that was saved."""
        gradients = self.incoming_names[: len(self.incoming) - len(self.saved)]
        return (*gradients, *(("*ctx.saved_tensors",) if self.saved else ()))

    @property
    def output_gradients(self) -> tuple[str, ...]:
        return tuple(f"d{name}" for name in self.outputs)

    @property
    def saves_output(self) -> bool:
        return any(name in self.outputs for name in self.saved)

    @property
    def result_type(self) -> str:
        return result_type(len(self.outputs))

    @property
    def gradient_type(self) -> str:
        return result_type(len(self.gradients))

    @property
    def fake_lines(self) -> list[str]:
        """The body of the op for tensors without data."""
        return _returning(self.outputs, self.fakes)

    @property
    def gradient_fake_lines(self) -> list[str]:
        return _returning(self.gradients, self.gradient_fakes)


def _returning(names: Sequence[str], values: Sequence[str]) -> list[str]:
    """The statements that return some values, by their names where that would not fit on a line."""
    line = f"return {', '.join(values)}"
    if len(values) == 1 or len(line) <= _MOST:
        return [line]
    return [
        *(f"{name} = {value}" for name, value in zip(names, values, strict=True)),
        f"return {', '.join(names)}",
    ]
