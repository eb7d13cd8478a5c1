"""The form of row fusions: elementwise ops, norms and sums along rows of one width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from archc.ir.expr import leaf, leaves
from archc.ir.graph import Graph
from archc.ir.node import Node, Value
from archc.ir.op import Op, Trait
from archc.ir.ops.linear import LINEAR
from archc.ir.ops.structure import CONSTANT, INPUT
from archc.ir.types import Dim, DType

_DTYPES = (DType.FLOAT, DType.F32)
SUMS = frozenset({"sum", "mean"})
_LONGEST = 8192  # columns of a row whose gradient fits in registers
_HELD = 49152  # values that a program has in registers at once
RENAMED = frozenset({"upcast", "cast_like", "unsqueeze"})  # the same numbers, in registers
# Names of the Python around a kernel, and of its own, which no operand or result may have.
HOST = frozenset("""
    F backward ctx float inputs len linear max min native output range reference sum torch triton tuple
    """.split())  # noqa: SIM905 - a list of this length is easier to read as words
EACH = "rows_each"  # how many rows a sequence has, which only the running model knows
_PLACES = ("row", "rows", EACH, "column", "inside", "shared_row", "programs", "STAGES")
RESERVED = HOST | {*_PLACES, "tl", "tanh", "log1p"}


@dataclass(frozen=True)
class RowOperand:
    """A tensor as rows read it.

    columns: how many values a row reads: as wide as the row, another number of a vector, or 1
    place:   which row of it, by the number of a `row`; "" where it has but one
    parts:   into how many parts of so many columns it is split
    wide:    whether it is float32, whatever the model is run in
    """

    name: str
    shape: tuple[Dim, ...]
    columns: int
    place: str
    parts: int
    wide: bool

    @property
    def is_common(self) -> bool:
        """Whether all rows read the same values."""
        return not self.place

    @property
    def is_own(self) -> bool:
        """Whether each row has its own values in it."""
        return self.place == "row"

    @property
    def is_of_sequence(self) -> bool:
        """Whether all rows of a sequence read the same values."""
        return self.place.endswith(EACH)


@dataclass(frozen=True)
class RowResult:
    """A tensor as a program writes it: a row, or one number of it.

    columns: how many values a program writes
    dims:    those after the leading ones; a number may have none
    wide:    whether it is float32, whatever the model is run in
    """

    columns: int
    dims: tuple[int, ...]
    wide: bool


@dataclass(frozen=True)
class RowForm:
    """Rows [leading..., width] of results, and what is read for them.

    held: how many rows a program has in registers at once
    """

    leading: tuple[Dim, ...]
    width: int
    operands: tuple[RowOperand, ...]
    held: int
    results: tuple[RowResult, ...]

    @property
    def whole(self) -> int:
        """The number of the first result that is rows."""
        return next(number for number, result in enumerate(self.results) if result.columns == self.width)

    @property
    def anchors(self) -> list[RowOperand]:
        """The operands that have the leading dims of the results, and their dtype unless that is float32.

        Rows, or where there are none numbers that rows have.
        """
        wide = all(result.wide for result in self.results)
        own = [each for each in self.operands if each.is_own and (wide or not each.wide)]
        rows = [each for each in own if each.columns == self.width and self.has_columns(each)]
        return rows or [each for each in own if each.columns == each.parts == 1]

    def has_columns(self, operand: RowOperand) -> bool:
        """Whether an operand has a dim beyond the leading ones; a number of each row may have none."""
        return len(operand.shape) > len(self.leading)

    @property
    def block(self) -> int:
        """The power of two that holds a row."""
        return 1 << (self.width - 1).bit_length()

    @property
    def heads(self) -> int:
        """How many rows a token has."""
        return int(self.leading[-1]) if len(self.leading) > 2 else 1


def fits_row(form: RowForm) -> bool:
    """Whether everything that a row and its gradient are computed from fits in a program's registers."""
    return form.block <= _LONGEST and form.held * form.block <= _HELD


def clashing_name(names: Sequence[str]) -> str:
    """The name of an operand or a result that a kernel needs for something else; "" if there is none."""
    gradients = {f"d{name}" for name in names}
    return next((name for name in names if name in RESERVED | gradients), "")


def is_row_op(op: Op) -> bool:
    """Whether a kernel that holds a row can do an op."""
    elementwise = op.has(Trait.ELEMENTWISE) and op.triton and (op.derivative or op.name in RENAMED)
    return bool(elementwise) or op.has(Trait.NORM) or op.name in SUMS | RENAMED | {"split"}


def is_dot(node: Node) -> bool:
    """Whether a node is a linear map to one number: the sum of a row's products with a vector."""
    narrow = node.op is LINEAR and node.types[0].width == 1 and not node.attributes["wide"]
    return narrow and node.attributes["layout"] == "out_in"


def row_form(form: Graph) -> RowForm | None:
    """The form of a decomposition for the types of its operands; None where it has another."""
    ranks = _ranks(form)
    shape = max((_shape(form, value, ranks) for _, value in form.outputs), key=lambda each: _size(each))
    width = shape[-1] if shape else None
    if len(shape) < 2 or not isinstance(width, int):
        return None
    leading = shape[:-1]
    if len(leading) > 2 and not isinstance(leading[-1], int):
        return None
    results = [_result(form, value, ranks, leading, int(width)) for _, value in form.outputs]
    if None in results:
        return None
    operands: list[RowOperand] = []
    for node in form.nodes():
        if node.op is INPUT:
            operand = _operand(form, node, ranks, leading, int(width))
            if operand is None or (operand.is_own and len(operand.shape) < len(leading)):
                return None  # that of fewer dims than its rows have, as a number of each sequence
            operands.append(operand)
        elif node.op is not CONSTANT and not _fits(form, node, ranks, leading, int(width)):
            return None
    held = max(_held_forward(form, operands, int(width)), _held_back(form, operands, int(width)))
    found = RowForm(leading, int(width), tuple(operands), held, tuple(filter(None, results)))
    return found if found.anchors else None


def _shape(form: Graph, value: Value, ranks: dict[Value, int]) -> tuple[Dim, ...]:
    """A value's dims, and those of length 1 that it gets before it meets a row."""
    return (*form.type(value).shape, *(1 for _ in range(ranks.get(value, 0))))


def _size(shape: tuple[Dim, ...]) -> tuple[int, int]:
    """The more dims, then the longer a row, the more other values are numbers of it."""
    return len(shape), int(shape[-1]) if shape and isinstance(shape[-1], int) else 0


def _result(
    form: Graph, value: Value, ranks: dict[Value, int], leading: tuple[Dim, ...], width: int
) -> RowResult | None:
    """What a program writes of a result; None where that is neither a row nor a number of each."""
    type_, (*outer, columns) = form.type(value), _shape(form, value, ranks)
    if tuple(outer) != leading or columns not in (1, width) or type_.dtype not in _DTYPES:
        return None
    own = tuple(int(dim) for dim in type_.shape[len(leading) :])
    return RowResult(int(columns), own, type_.dtype is DType.F32)


def _held_forward(form: Graph, operands: Sequence[RowOperand], width: int) -> int:
    """Rows of operands and results together, and of the sums of vectors' gradients."""
    whole = [operand for operand in operands if operand.columns == width]
    return len(form.outputs) + sum(2 if operand.is_common else operand.parts for operand in whole)


def _held_back(form: Graph, operands: Sequence[RowOperand], width: int) -> int:
    """Rows of what comes in, of all that derivatives read, and of the sums of vectors' gradients."""
    same: dict[Value, Value] = {}
    read: set[Value] = set()
    for node in form.nodes():
        values = [same.get(value, value) for value in node.operands]
        if node.op.name in RENAMED:
            same[node.outputs[0]] = values[0]
        elif node.op.has(Trait.NORM) or node.op is LINEAR:
            read.update(values[:2])
        elif node.op.derivative is not None:
            read.update(_read_by_derivative(form, node, values))
    rows = [value for value in read if form.type(value).width == width]
    sums = [operand for operand in operands if operand.is_common and operand.columns == width]
    return len(form.outputs) + len(rows) + len(sums)


def _read_by_derivative(form: Graph, node: Node, values: Sequence[Value]) -> set[Value]:
    """The operands that an op's derivatives read, of those that are no constants."""
    named = {str(place): value for place, value in enumerate(values)}
    parts = node.op.gradients(leaf(""), list(map(leaf, named)))
    read = [leaves(part) for place, part in parts if not _is_number(form, values[place])]
    return {named[name] for name in set().union(*read) - {""} if not _is_number(form, named[name])}


def _is_number(form: Graph, value: Value) -> bool:
    return form.node(value).op is CONSTANT


def _ranks(form: Graph) -> dict[Value, int]:
    """How many dims of length 1 are added after each value's own before it meets a row.

    What an elementwise op makes of a number of each row is one, too, whether or not it meets a row itself.
    """
    ranks: dict[Value, int] = {}
    nodes, before = form.nodes(), None
    while ranks != before:
        before = dict(ranks)
        for node in reversed(nodes):
            read = [value for value in node.computed_with if form.type(value).shape]
            own = [ranks.get(value, 0) for value in node.outputs]
            if node.op.has(Trait.ELEMENTWISE):
                own += [ranks.get(value, 0) for value in read]
                ranks |= dict.fromkeys(node.outputs, max(own))
            more = node.op.name == "unsqueeze"
            ranks |= {value: max(ranks.get(value, 0), max(own, default=0) + more) for value in read}
    return ranks


def _operand(
    form: Graph, node: Node, ranks: dict[Value, int], leading: tuple[Dim, ...], width: int
) -> RowOperand | None:
    (value,) = node.outputs
    type_ = form.type(value)
    users = form.users(value)
    if type_.dtype not in _DTYPES or not type_.shape:
        return None
    parts = users[0][0].attributes["sizes"] if users and users[0][0].op.name == "split" else 1
    shape = _shape(form, value, ranks)
    place, columns = _place(shape[:-1], leading), shape[-1]
    if place is None or not isinstance(columns, int) or not isinstance(parts, int):
        return None
    if parts > 1 and (len(users) > 1 or place != "row" or columns != parts * width):
        return None
    columns = int(columns) // parts
    whole = columns in (1, width) or len(shape) == 1
    wide = type_.dtype is DType.F32
    return RowOperand(form.name_of(value), type_.shape, columns, place, parts, wide) if whole else None


def _fits(form: Graph, node: Node, ranks: dict[Value, int], leading: tuple[Dim, ...], width: int) -> bool:
    """Whether an op's results are rows, numbers of rows, or vectors."""
    if not (is_row_op(node.op) or is_dot(node)) or (node.op.has(Trait.ELEMENTWISE) and node.attributes):
        return False
    if node.op.name == "split" and (node.inputs[0] not in form.inputs):
        return False
    along = node.op.has(Trait.NORM) or node.op.name in SUMS or node.op is LINEAR
    if along and _shape(form, node.first, ranks)[-1] == 1:
        return False  # of numbers of other rows, or of one number
    for value in node.outputs:
        type_ = form.type(value)
        shape = _shape(form, value, ranks)
        if type_.dtype not in _DTYPES or not shape or _place(shape[:-1], leading) is None:
            return False
        if shape[-1] not in (1, width) and len(shape) > 1:
            return False
    return True


def _place(shape: Sequence[Dim], leading: Sequence[Dim]) -> str | None:
    """Which row of a tensor with leading dims `shape` a row reads; None where it is no broadcast of rows."""
    if len(shape) > len(leading):
        return None
    shape = (*(1 for _ in range(len(leading) - len(shape))), *shape)
    if tuple(shape) == tuple(leading):
        return "row"
    first = next((place for place, dim in enumerate(shape) if dim != 1), None)
    if first is None:
        return ""
    last = len(shape) - next(place for place, dim in enumerate(reversed(shape)) if dim != 1)
    if (first, last) == (0, 1) and shape[0] == leading[0]:
        return f"row // {EACH}"
    inner = leading[last:] if first == 0 else leading[first:]
    alike = tuple(shape[first:last]) == tuple(leading[first:last])
    if not alike or (first > 0 and last < len(shape)) or not all(isinstance(dim, int) for dim in inner):
        return None
    return f"row {'//' if first == 0 else '%'} {prod(int(dim) for dim in inner)}"
