"""Ops that the compiler itself puts into graphs: inputs, weights, constants, state, regions."""

from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import Tensor, torch
from archc.ir.op import OPS, Op, Trait, declare
from archc.ir.types import DType, TensorType

EXACT_WHOLE = 2**53  # float64, which holds the numbers of a spec, has every whole one below


@declare(
    infer=lambda call: TensorType((), DType.SCALAR),
    traits=(Trait.ELEMENTWISE, Trait.PER_TOKEN),
    internal=True,
)
def constant(*, value: float) -> float:
    """A number known when the spec is compiled; a whole one leaves whole numbers that it meets whole."""
    return int(value) if value.is_integer() and abs(value) < EXACT_WHOLE else value


def _filled_type(call: Any) -> TensorType:
    like: TensorType = call.like
    return like if call.shape is None else like.with_shape(*call.shape)


@declare(infer=_filled_type, traits=(Trait.PER_TOKEN,), internal=True)
def zeros(like: Tensor, *, shape: tuple[Width, ...] | None = None) -> Tensor:
    """Zeros of a shape, or of that of another value, in its dtype."""
    return torch.zeros_like(like) if shape is None else like.new_zeros(shape)


@declare(infer=_filled_type, traits=(Trait.PER_TOKEN,))
def ones(like: Tensor, *, shape: tuple[Width, ...] | None = None) -> Tensor:
    """Ones of a shape, or of that of another value, in its dtype."""
    return torch.ones_like(like) if shape is None else like.new_ones(shape)


# What an op reads of earlier tokens goes through here: over a whole sequence it is the identity, with a cache
# it stores the values of the new tokens and gives those of all tokens so far.
@declare(infer=lambda call: call.x.with_shape(call.x.shape[0], "S", *call.x.shape[2:]), internal=True)
def append(x: Tensor, *, slot: str, length: Width | None = None) -> Tensor:
    """The values of all tokens so far: [B, T, ...] -> [B, S, ...].

    `length`: how many tokens back a query sees, its own included; those before need not be kept (None: any).
    """
    return x


# What follows from an encoder's tokens alone goes through here to where a decoder reads it: with a cache it
# is computed at the first call, and the same from then on.
@declare(infer=lambda call: call.x, traits=(Trait.PER_TOKEN,), internal=True)
def keep(x: Tensor) -> Tensor:
    """A value that stays the same while tokens are added."""
    return x


@declare(infer=lambda call: call.key_positions, traits=(Trait.PER_TOKEN, Trait.VIEW), internal=True)
def recent(key_positions: Tensor, *, length: Width) -> Tensor:
    """The positions of the keys that an `append` of that length returns."""
    return key_positions


def _graph_only(*_args: Any, **_attributes: Any) -> Any:
    raise AssertionError("these ops have a meaning only inside of a graph")


def _structural(name: str, doc: str, infer: Any, traits: frozenset[Trait] = frozenset()) -> Op:
    return Op(
        name=name,
        operands=(),
        attributes={},
        infer=infer,
        reference=_graph_only,
        doc=doc,
        traits=traits,
        variadic=True,
        internal=True,
    )


CONSTANT, ZEROS, ONES, APPEND, KEEP, RECENT = (
    OPS[name] for name in ("constant", "zeros", "ones", "append", "keep", "recent")
)
INPUT = _structural("input", "A value given from outside.", lambda call: call.type)
WEIGHT = _structural("weight", "A parameter, by its sources in the checkpoint.", lambda call: call.type)
LOOP = _structural("loop", "Bodies run one after another, by a schedule.", lambda call: call.types)
EXPERTS = _structural(
    "experts",
    "Each token through the bodies of its chosen experts, summed or apart.",
    lambda call: call.types,
)
# Operands and body: `archc.ir.scan_form`.
SCAN = _structural("scan", "A body for one token after the other, with states.", lambda call: call.types)
# Two bodies that compute the same: the second where at most `few` new tokens follow a cache.
BRANCH = _structural("branch", "Another way for a few tokens after many.", lambda call: call.types)
# What `loss` and `note` say: a body whose outputs are terms of the loss, or are noted for them.  It is
# computed where a loss is asked for, and nowhere else.
LOSSES = _structural("losses", "What training alone computes.", lambda _call: (), frozenset({Trait.EFFECT}))
OF_ITERATION = _structural(
    "of_iteration",
    "The part of a table that belongs to an iteration of the loop: `first` is that of its first part.",
    lambda call: call.xs[0].with_shape(*call.xs[0].shape[1:]),
)
NOTED = _structural("noted", "The mean of what was noted under a name.", lambda call: call.type)
