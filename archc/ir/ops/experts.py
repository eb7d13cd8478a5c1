"""What `experts` becomes: choices sorted by expert, one matrix product a group, the sum of each token's.

N is the number of all choices, B * T * choices.  Row n belongs to choice `order[n]`, counted over
[B, T, choices]; `places` says where a choice's row is; the rows of expert e end before `ends[e]`.  A choice
that is no expert's has the number -1.  Its row comes after those of all experts, its place is ~row, below 0,
and no sum reads it; what ops on rows make of it is any finite number, so that gradients of 0 stay 0.  These
references are the plain meaning; a package has functions of these names in its module `experts`, where no
shape depends on what was chosen.
"""

from itertools import pairwise
from typing import Any

from archc.ir.attributes import Width
from archc.ir.lazy_torch import F, Tensor, torch
from archc.ir.op import OPS, Trait, declare
from archc.ir.ops.router import unless_zero
from archc.ir.types import ROWS, DType, TensorType, TypeMistake, broadcast, shape_text, taken_type

_TRAITS = (Trait.PER_TOKEN,)


@declare(
    infer=lambda call: call.chosen.with_width(call.chosen.width + call.count), traits=_TRAITS, internal=True
)
def with_shared(chosen: Tensor, *, first: Width, count: Width) -> Tensor:
    """Choices [..., choices] and, after them, `count` experts that all tokens have, from `first` on."""
    shared = torch.arange(first, first + count, device=chosen.device)
    return torch.cat([chosen, shared.expand(*chosen.shape[:-1], count)], -1)


@declare(
    infer=lambda call: call.weights.with_width(call.weights.width + call.count), traits=_TRAITS, internal=True
)
def with_ones(weights: Tensor, *, count: Width) -> Tensor:
    """Weights of choices [..., choices] and, after them, `count` ones."""
    return F.pad(weights, (0, count), value=1.0)


def _sorted_types(call: Any) -> tuple[TensorType, ...]:
    return TensorType((ROWS,), DType.I64), call.chosen, TensorType((call.count,), DType.I64)


@declare(infer=_sorted_types, traits=_TRAITS, internal=True, module="experts")
def sort_choices(
    chosen: Tensor, weights: Tensor | None = None, *, count: Width, shared: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Choices [B, T, choices] by expert, each expert's in their order: order [N], places, ends [count].

    With `weights`, choices of weight 0 are no expert's.
    `shared`: how many of the experts, the last ones, were not chosen: every token goes through them.
    """
    chosen = chosen if weights is None else unless_zero(chosen, weights)
    by_expert, order = torch.sort(chosen.flatten() % (count + 1), stable=True)
    rows = torch.arange(len(order), device=chosen.device)
    places = torch.empty_like(order).index_copy(0, order, rows).view(chosen.shape)
    places = torch.where(chosen < 0, ~places, places)
    return order, places, torch.searchsorted(by_expert, rows.new_tensor(range(count)), right=True)


@declare(infer=lambda call: taken_type(call.x, "token"), traits=_TRAITS, internal=True, module="experts")
def dispatch(x: Tensor, order: Tensor, places: Tensor) -> Tensor:
    """The values of tokens [B, T, ...], one row for each of their choices: [N, ...]."""
    return x.expand(len(places), *x.shape[1:]).flatten(0, 1)[order // places.shape[-1]]


@declare(infer=lambda call: taken_type(call.x, "choice"), traits=_TRAITS, internal=True, module="experts")
def at_choice(x: Tensor, order: Tensor) -> Tensor:
    """The values of choices [B, T, choices, ...] by row: [N, ...], or [N, 1] where each has one number."""
    rows = x.flatten(0, 2)[order]
    return rows if rows.dim() > 1 else rows[:, None]


@declare(
    infer=lambda call: call.table.with_shape(ROWS, *call.table.shape[1:]),
    traits=_TRAITS,
    internal=True,
    module="experts",
)
def of_expert(table: Tensor, ends: Tensor, order: Tensor) -> Tensor:
    """The values of each row's expert: [count, ...] -> [N, ...]."""
    return table[_experts_of_rows(ends, order)]


def _looked_up_type(call: Any) -> TensorType:
    type_: TensorType = call.table.with_shape(*call.index.shape, call.table.width)
    return type_


@declare(
    infer=_looked_up_type,
    traits=_TRAITS,
    reads=lambda call: {"table": int(call.index.numel()) * int(call.table.width)},
    internal=True,
    module="experts",
)
def row_of_expert(index: Tensor, table: Tensor, ends: Tensor, order: Tensor) -> Tensor:
    """Row `index` of the table of each row's expert: [N, ...] -> [N, ..., width].

    table: [count, rows, width].
    """
    experts = _experts_of_rows(ends, order)
    return table[experts.view(-1, *[1] * (index.dim() - 1)), index]


def _experts_of_rows(ends: Tensor, order: Tensor) -> Tensor:
    """The expert of each sorted row, the last one for those of none: [N]."""
    experts = torch.searchsorted(ends, torch.arange(len(order), device=ends.device), right=True)
    return experts.clamp(max=len(ends) - 1)


def _grouped_type(call: Any) -> TensorType:
    if call.x.width != call.weight.shape[2]:
        weights = shape_text(call.weight.shape)
        raise TypeMistake(f"weights {weights} do not take a width of {call.x.width}", "x")
    type_: TensorType = call.x.with_width(call.weight.shape[1])
    return type_


def _matrix(call: Any) -> int:
    """Elements of one expert's matrix."""
    return int(call.weight.shape[1]) * int(call.weight.shape[2])


@declare(
    infer=_grouped_type,
    traits=(*_TRAITS, Trait.LINEAR, Trait.MATRIX),
    reads=lambda call: {"weight": min(call.x.shape[0], call.weight.shape[0]) * _matrix(call)},
    flops=lambda call: 2 * int(call.x.numel()) * int(call.weight.shape[1]),
    saves=("x",),
    internal=True,
    module="experts",
)
def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor, offset: Tensor | None = None) -> Tensor:
    """Each expert's own x W^T + b on its rows, 0 for those of none: [N, in] -> [N, out].

    weight: [count, out, in]; offset: [count, out].
    """
    rows = [x[start:end] for start, end in pairwise([0, *ends.tolist()])]
    offsets = [None] * len(rows) if offset is None else offset.unbind()
    results = torch.cat([F.linear(*each) for each in zip(rows, weight.unbind(), offsets, strict=True)])
    return F.pad(results, (0, 0, 0, len(x) - len(results)))


def _dispatched_type(call: Any) -> TensorType:
    taken = taken_type(call.x, "token")
    call.x = taken.with_shape(*call.order.shape, *taken.shape[1:])
    return _grouped_type(call)


@declare(
    infer=_dispatched_type,
    traits=(*_TRAITS, Trait.LINEAR, Trait.MATRIX),
    reads=lambda call: {"weight": min(call.order.shape[0], call.weight.shape[0]) * _matrix(call)},
    flops=lambda call: 2 * int(call.order.shape[0]) * _matrix(call),
    saves=("x", "factors"),
    internal=True,
    module="experts",
)
def dispatched_linear(
    x: Tensor,
    order: Tensor,
    places: Tensor,
    weight: Tensor,
    ends: Tensor,
    offset: Tensor | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Each expert's own x W^T + b on the tokens that have chosen it: x [B, T, in] -> [N, out].

    `factors` [B, T, choices]: what a token is multiplied by before, for each of its choices.
    """
    rows = dispatch(x, order, places)
    rows = rows if factors is None else at_choice(factors, order) * rows
    result: Tensor = grouped_linear(rows, weight, ends, offset)
    return result


@declare(
    infer=lambda call: call.y.with_shape(*call.places.shape, *call.y.shape[1:]),
    traits=_TRAITS,
    internal=True,
    module="experts",
)
def by_choice(y: Tensor, places: Tensor) -> Tensor:
    """Each choice's row, 0 where it is no expert's: [N, ...] -> [B, T, choices, ...]."""
    return y[places].masked_fill((places < 0).view(*places.shape, *[1] * (y.dim() - 1)), 0.0)


@declare(
    infer=lambda call: call.y.with_shape(*call.places.shape[:2], *call.y.shape[1:]),
    traits=_TRAITS,
    internal=True,
    module="experts",
)
def combine(y: Tensor, places: Tensor, beside: Tensor | None = None) -> Tensor:
    """The sum of each token's rows, in the order of its choices, and `beside`: [N, ...] -> [B, T, ...]."""
    sums: Tensor = by_choice(y, places).sum(2)
    return sums if beside is None else sums + beside


def _weighted_type(call: Any) -> TensorType:
    if call.beside is not None:
        beside: TensorType = call.beside
        return beside
    rows = call.y if call.narrow else broadcast(taken_type(call.weights, "choice"), call.y)
    return rows.with_shape(*call.places.shape[:2], *rows.shape[1:])


@declare(
    infer=_weighted_type,
    traits=_TRAITS,
    flops=lambda call: 2 * int(call.y.numel()),
    saves=("y", "weights"),
    internal=True,
    module="experts",
)
def weighted_combine(
    y: Tensor, weights: Tensor, places: Tensor, beside: Tensor | None = None, *, narrow: bool = False
) -> Tensor:
    """The sum of each token's rows, each times its weight: y [N, D], weights [B, T, choices] -> [B, T, D].

    `narrow`: in the dtype of y, whatever that of the weights.  `beside` [B, T, D] is added, in its own dtype.
    """
    sums: Tensor = (weights[..., None] * by_choice(y, places)).sum(2)
    sums = sums.to(y.dtype) if narrow else sums
    return sums if beside is None else sums.to(beside.dtype) + beside


SORT_CHOICES, DISPATCH, AT_CHOICE, OF_EXPERT, ROW_OF_EXPERT = (
    OPS[name] for name in ("sort_choices", "dispatch", "at_choice", "of_expert", "row_of_expert")
)
WITH_SHARED, WITH_ONES = OPS["with_shared"], OPS["with_ones"]
GROUPED_LINEAR, DISPATCHED_LINEAR, COMBINE, WEIGHTED_COMBINE, BY_CHOICE = (
    OPS[name] for name in ("grouped_linear", "dispatched_linear", "combine", "weighted_combine", "by_choice")
)
