"""A launch of a kernel, and what Triton would compile for it.

It is specialised as at run time: arguments that are 1 or None become constants, pointers and numbers that
16 divides are known to be such.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from archc.verification.chips import Chip


@dataclass(frozen=True, eq=False)
class Launch:
    """A launch that was recorded: a jitted kernel, its arguments, how many warps, constants by name.

    `stages`: how many loads of a loop are under way at a time; Triton's own choice without it.
    `room`: bytes of shared memory of the chips that it is for, as a package launches something else on
    others; 0 where it is for any.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    warps: int
    constants: tuple[tuple[str, Any], ...] = ()
    stages: int | None = None
    room: int = 0

    def belongs_to(self, chip: Chip) -> bool:
        """Whether a package launches it there."""
        return self.room in (0, chip.shared)

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def adjacent(self) -> int:
        """Values that lie side by side, and aligned, in the rows of every tensor.

        They are the common divisor of the rows' widths.  How far rows of a matrix, and heads, tokens or
        sequences, lie from each other is an argument: the compiler knows of it that it is divisible by 16, or
        nothing.
        """
        tensors = [argument for argument in self.arguments if isinstance(argument, Tensor)]
        given = {argument for argument in self.arguments if type(argument) is int}
        apart = {tensor.stride(0) for tensor in tensors if tensor.dim() == 2}
        apart |= given.intersection(stride for tensor in tensors for stride in tensor.stride()[:-1])
        widths = [tensor.shape[-1] for tensor in tensors if tensor.dim() > 1]
        return 1 if any(stride % 16 for stride in apart) else math.gcd(*widths)

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options."""
        stages = {} if self.stages is None else {"num_stages": self.stages}
        return {"num_warps": self.warps, **stages}

    def specialise(self, chip: Chip) -> tuple[dict[str, str], dict[tuple[int], Any], dict[tuple[int], Any]]:
        """Types by name; constants and known facts by place."""
        from triton.compiler.compiler import make_backend
        from triton.runtime.jit import create_function_from_signature

        backend = make_backend(chip.target)
        bind = create_function_from_signature(self.kernel.signature, self.kernel.params, backend)
        bound, kinds, _ = bind(*self.arguments, **dict(self.constants))
        signature = {name: kind for name, (kind, _) in zip(bound, kinds, strict=True)}
        values = enumerate(zip(bound.values(), kinds, strict=True))
        constants = {(n,): value for n, (value, (kind, _)) in values if kind == "constexpr"}
        facts = {(n,): backend.parse_attr(fact) for n, (_, fact) in enumerate(kinds) if isinstance(fact, str)}
        return signature, constants, facts

    def key(self, chip: Chip) -> str:
        """Equal for launches that compile to the same code, whatever the kernel is called."""
        text = self.kernel.src.partition("(")[2]
        called = [function.src for function in _called(self.kernel)]
        return repr((chip.name, text, called, self.specialise(chip), self.options))


def _called(kernel: Any) -> Iterator[Any]:
    """The jitted functions that a kernel calls, and those that they call."""
    scope = kernel.fn.__globals__
    for name in kernel.fn.__code__.co_names:
        if hasattr(scope.get(name), "src"):
            yield scope[name]
            yield from _called(scope[name])
