"""What attention of one token is given: the parameters of its op, the arguments of its kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archc.codegen.kernels.attention.attention import Attention
from archc.codegen.kernels.attention.step_bias import StepBias


@dataclass(frozen=True)
class StepSignature:
    """Its operands, in order: queries, keys and values, the cache, where tokens stand, the rest.

    keeps:   whether it is given the new token's key and value, besides the cache that they join
    fixed:   whether its keys are those of another sequence, for which there is no cache
    oldest:  whether its mask bounds how old keys may be
    further: operands of the attention besides queries, keys, values and positions
    """

    attention: Attention
    keeps: bool
    fixed: bool
    oldest: bool
    further: tuple[str, ...]
    bias: StepBias | None

    @property
    def tells_padding(self) -> bool:
        """Whether it is told of padding; with a bias by distance it reads where keys stand anyway."""
        return not self._vector

    @property
    def reads_position(self) -> bool:
        """Whether it needs its tokens' positions: not where they see all before them, however far."""
        return self.oldest or bool(self._vector)

    @property
    def stores(self) -> tuple[str, ...]:
        """What the cache holds."""
        if self.fixed:
            return ()
        return ("keys",) if self.attention.form.one_slot else ("keys", "values")

    @property
    def rest(self) -> tuple[str, ...]:
        """Operands besides the token, what is kept, and where it stands."""
        return (*self.further, *self._vector)

    @property
    def written(self) -> str:
        """What the op changes, as a decorator takes it."""
        return ", ".join(f'"{name}"' for name in self.stores) if self.keeps else ""

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """The op's parameters, and their types."""
        told = (("padded", "bool"),) if self.tells_padding else ()
        before = (*self._given, *self.stores, *self._places)
        return (*((name, "Tensor") for name in before), *told, *((name, "Tensor") for name in self.rest))

    @property
    def arguments(self) -> str:
        """What attention calls the op with; the cache's keys and values are its own where it keeps them."""
        told = [*self._places, *(["padded"] if self.tells_padding else [])]
        return ", ".join(
            (
                *self.attention.form.queries,
                *self._keys,
                *(["*past.stores()"] if self.keeps else []),
                *(f"span.{name}" if self.fixed else f"span.steps.{name}" for name in told),
                *self.further,
                *(f"_{self.attention.name}_{name}(q.device)" for name in self._vector),
            )
        )

    @property
    def pointers(self) -> tuple[str, ...]:
        """The kernel's tensors: operands, results and parts of them, the rest."""
        results = ("o", "partial", "highest", "total")
        return (*self._given, *self.stores, *self._places, *results, *self.rest)

    @property
    def strides(self) -> tuple[tuple[str, str], ...]:
        """How far apart sequences, heads or tokens of tensors lie: the parameters, and their values."""
        bias = self.bias.strides if self.bias else ()
        return (*self._query_strides(), *self._key_strides(), *self._place_strides(), *bias)

    @property
    def room(self) -> str:
        """For how many keys of a sequence there is room, as the kernel calls it."""
        return "length" if self.fixed else "max_length"

    @property
    def _keys(self) -> tuple[str, ...]:
        return ("k",) if self.attention.form.one_slot else ("k", "v")

    @property
    def _given(self) -> tuple[str, ...]:
        """Queries; keys and values that are the new token's, or fixed."""
        return (*self.attention.form.queries, *(self._keys if self.keeps or self.fixed else ()))

    @property
    def _places(self) -> tuple[str, ...]:
        """How many tokens the cache holds, and the positions of the new token and of keys."""
        own = () if self.fixed else ("filled", "positions") if self.reads_position else ("filled",)
        return (*own, "key_positions")

    @property
    def _vector(self) -> tuple[str, ...]:
        """The constant tensor that a bias is computed from."""
        return (self.bias.vector.name,) if self.bias and self.bias.vector else ()

    def _query_strides(self) -> Iterator[tuple[str, str]]:
        for name in self.attention.form.queries:
            yield f"{name}_batch_stride", f"{name}.stride(0)"
            yield f"{name}_head_stride", f"{name}.stride(2)"

    def _key_strides(self) -> Iterator[tuple[str, str]]:
        """Fixed keys lie in evenly spaced rows; heads of a token's one key for both are adjacent."""
        for name in self._given[len(self.attention.form.queries) :]:
            if self.fixed:
                yield f"{name}_stride", f"{name}.stride(1)"
            else:
                yield f"{name}_batch_stride", f"{name}.stride(0)"
            if self.attention.kv_heads > 1 and not self.fixed and not self.attention.form.one_slot:
                yield f"{name}_head_stride", f"{name}.stride(2)"

    def _place_strides(self) -> Iterator[tuple[str, str]]:
        for name in self._places:
            if name != "filled":
                yield f"{name}_batch_stride", f"_batch_stride({name})"
