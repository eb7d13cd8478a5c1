"""What the template of convolutions and shifts over tokens may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archc.codegen.code import Argument, Line
from archc.codegen.kernels.by_document import by_document
from archc.codegen.kernels.fused import power_of_two
from archc.codegen.kernels.signature import Signature, as_named, contiguous, in_rows, row_strides
from archc.codegen.literals import result_type

_VALUES = 4096  # of a program: so many columns of so many tokens
_MOST_COLUMNS = 128
_MOST_TOKENS = 64
_OF_STEP = 2048  # values of a program of one token, those of earlier tokens included
_WARPS = 4
# Where other tokens stand, unless all are in order.
_TABLES = (Argument("back", "Tensor | None"), Argument("ahead", "Tensor | None"))


@dataclass(frozen=True)
class ConvolutionKernel:
    """One look at earlier tokens, and what is computed of it element by element.

    look:       what that look finds: a sum over several tokens, or a value of one
    taps:       how many tokens it looks at, the first of them `first` positions earlier
    weights:    the convolution's weight, and its offset if any; none for a shift
    others:     what is read besides, of which `rows` have values for each token
    width:      values of a token, `channels` of them have weights of their own
    forward, backward: the lines from `look` to the result, and from its gradient to all others
    again:      of `look` and others, those that `backward` reads
    reference:  the look in PyTorch for tokens in any order; `plain` is what follows
    keeps:      whether some call of it keeps its own x
    """

    name: str
    equation: tuple[str, ...]
    layout: str
    look: str
    taps: int
    first: int
    weights: tuple[str, ...]
    others: tuple[str, ...]
    rows: tuple[str, ...]
    result: str
    width: int
    channels: int
    dims: int
    forward: tuple[str, ...]
    backward: tuple[str, ...]
    again: frozenset[str]
    reference: str
    plain: tuple[Line, ...]
    keeps: bool
    template: str = "convolution"

    @property
    def operands(self) -> tuple[str, ...]:
        """All tensors but x, in the order of the op."""
        return (*self.weights, *self.others)

    @property
    def vectors(self) -> tuple[str, ...]:
        """What is read besides, for each channel."""
        return tuple(name for name in self.others if name not in self.rows)

    @property
    def with_rows(self) -> tuple[str, ...]:
        """The tensors that have rows of tokens."""
        return ("x", *self.rows)

    @property
    def summed(self) -> tuple[str, ...]:
        """Vectors whose gradient is a sum over tokens."""
        return (*self.weights[1:], *self.vectors)

    @property
    def hands_on(self) -> bool:
        """Whether the gradient of the look has to be computed first, and with it those of all but x."""
        return bool(self.operands or self.forward)

    @property
    def parameters(self) -> tuple[Argument, ...]:
        tensors = tuple(Argument(name) for name in ("x", *self.operands))
        return (*tensors, Argument("tokens", "int"), *_TABLES)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def saved(self) -> tuple[str, ...]:
        return ("x", *self.operands, "back", "ahead")

    @property
    def public(self) -> tuple[Argument, ...]:
        """The parameters of the function that models call."""
        return (Argument("x"), Argument("span", "Span"), *(Argument(name) for name in self.operands))

    @property
    def by_document(self) -> list[str]:
        """What that function does with documents that share rows."""
        given = [parameter.name for parameter in self.public]
        return by_document(self.name, given, self.with_rows, "span.documents")

    @property
    def backward_parameters(self) -> tuple[Argument, ...]:
        return tuple(Argument(name) for name in (f"d{self.result}", "x", *self.operands)) + _TABLES

    @property
    def backward_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.backward_parameters)

    @property
    def step_parameters(self) -> tuple[Argument, ...]:
        return tuple(Argument(name) for name in self.step_names)

    @property
    def step_names(self) -> tuple[str, ...]:
        return ("x", *self.operands, "ring", "positions", "key_positions")

    @property
    def gradients(self) -> tuple[str, ...]:
        return tuple(f"d{name}" for name in ("x", *self.operands))

    @property
    def gradient_fakes(self) -> tuple[str, ...]:
        return tuple(f"_like({name})" for name in ("x", *self.operands))

    @property
    def gradient_type(self) -> str:
        return result_type(len(self.gradients))

    @property
    def signature(self) -> Signature:
        """Of the kernel, and what it is given."""
        return self._signature(("x", *self.operands), self.result)

    @property
    def backward_signature(self) -> Signature:
        return self._signature(self.read_again, f"d{self.result}", *self._written)

    def _signature(self, read: Sequence[str], *others: str) -> Signature:
        """Of a kernel that reads some of the operands; with x goes what tells where its tokens are."""
        rows = [name for name in read if name in self.with_rows]
        given = contiguous(read) | in_rows(rows)
        if "x" not in read:
            return Signature.of(given | as_named(others), {"tokens": "tokens"} | row_strides(rows))
        back = f"0 if back is None else tokens * (len(back) > 1) * {self.taps}"
        sizes = {"tokens": "tokens", "keys": "keys"} | row_strides(rows) | {"back_stride": back}
        return Signature.of(given | as_named(("back", *others)), sizes)

    @property
    def looks_again(self) -> bool:
        """Whether the kernel of gradients reads x: for those of weights, or to find `look` once more."""
        return bool(self.weights) or self.look in self.again

    @property
    def read_again(self) -> tuple[str, ...]:
        """The operands that the kernel of gradients reads."""
        x, weights = ("x",) * self.looks_again, self.weights if self.look in self.again else ()
        return (*x, *weights, *(name for name in self.others if name in self.again))

    @property
    def reads_channels_again(self) -> bool:
        """Whether it reads what there is for each channel."""
        return any(name not in self.with_rows for name in self.read_again)

    @property
    def _written(self) -> tuple[str, ...]:
        """What the kernel of gradients writes."""
        rows = (f"d{name}" for name in (self.look, *self.rows)) if self.forward else ()
        return (*rows, *(f"{name}_parts" for name in (*self.weights[:1], *self.summed)))

    @property
    def earlier_arguments(self) -> str:
        """What the function that loads x is given, but for how many positions earlier."""
        return "x_ptr, back_ptr, sequence, token, column, here, tokens, keys, x_stride, back_stride"

    @property
    def looks_at(self) -> str:
        """From how many tokens back to how many it looks, as `Span.tokens_back` takes it."""
        return f"{self.first}, {self.first + self.taps}"

    @property
    def columns(self) -> int:
        """Columns of a program: as many as it has threads, so that each loads one weight."""
        return min(_MOST_COLUMNS, power_of_two(self.width))

    @property
    def tokens(self) -> int:
        return min(_VALUES // self.columns, _MOST_TOKENS)

    @property
    def run(self) -> int:
        """Tokens whose part of the weights' gradient one program sums."""
        return 8 * self.tokens

    @property
    def warps(self) -> int:
        return max(1, _WARPS * self.columns * self.tokens // _VALUES)

    @property
    def blocks(self) -> int:
        """Programs that share a token."""
        return -(-self.width // self.columns)

    @property
    def masked(self) -> bool:
        return self.width % self.columns != 0

    @property
    def column_mask(self) -> str:
        return ", mask=inside, other=0.0" if self.masked else ""

    @property
    def channel(self) -> str:
        """The variable that has the channel of a column."""
        return "column" if self.width == self.channels else "channel"

    @property
    def slots(self) -> int:
        """A power of two that holds the tokens of a ring."""
        return power_of_two(self.first + self.taps)

    @property
    def step_columns(self) -> int:
        return min(self.columns, max(16, _OF_STEP // self.slots))

    @property
    def step_blocks(self) -> int:
        return -(-self.width // self.step_columns)

    @property
    def step_masked(self) -> bool:
        return self.width % self.step_columns != 0

    @property
    def step_mask(self) -> str:
        return ", mask=inside, other=0.0" if self.step_masked else ""

    @property
    def step_mask_alone(self) -> str:
        return ", mask=inside" if self.step_masked else ""

    @property
    def step_inside(self) -> str:
        return " & inside[:, None]" if self.step_masked else ""

    @property
    def places(self) -> int:
        """A power of two that holds the taps."""
        return power_of_two(self.taps)

    @property
    def pad(self) -> str:
        """What zeros are put before the first token, as PyTorch takes it."""
        return ", ".join(["0, 0"] * (self.dims - 2) + [f"{self.first + self.taps - 1}, 0"])
