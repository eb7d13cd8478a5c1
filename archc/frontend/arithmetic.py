"""Compile-time arithmetic and functions: exact where it can be, bounded in size and time."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from archc.frontend.limits import MAX_INTEGER, MAX_LIST, MAX_NAME, MAX_PATH
from archc.frontend.values import ArithmeticMistake, Builtin, List, Quotient


def binary(symbol: str, left: Any, right: Any) -> Any:
    """`left symbol right` for plain values; raises `ArithmeticMistake`."""
    if symbol in ("==", "!="):
        return (left == right) is (symbol == "==")
    if symbol in ("in", "not in"):
        return _contains(left, right) is (symbol == "in")
    if symbol == "..":
        return _range(left, right)
    if symbol == "+" and isinstance(left, tuple) and isinstance(right, tuple):
        return List.of(*left, *right)
    if symbol == "+" and type(left) is str:
        return _joined(left, right)
    if symbol == "*" and isinstance(left, tuple):
        return _repeat(left, right)
    for value in (left, right):
        if isinstance(value, tuple):
            raise ArithmeticMistake(f"a list's items are computed one by one: `[2 {symbol} x for x in xs]`")
        if not is_number(value):
            raise ArithmeticMistake("both sides must be numbers")
    return _numbers(symbol, left, right)


def item(items: Any, index: Any) -> Any:
    """`items[index]`; raises `ArithmeticMistake`."""
    if not isinstance(items, tuple | range):
        raise ArithmeticMistake("only a list can be indexed")
    place = _whole(index, "an index")
    if not -len(items) <= place < len(items):
        raise ArithmeticMistake(f"index {place} is outside of a list of {len(items)}")
    return items[place]


def negative(value: Any) -> Any:
    """-value; raises `ArithmeticMistake` unless it is a number."""
    if not is_number(value):
        raise ArithmeticMistake("only a number has a negative")
    return -value


def _numbers(symbol: str, left: Any, right: Any) -> Any:
    try:
        result = _OPERATORS[symbol](left, right)
    except ZeroDivisionError:
        raise ArithmeticMistake("division by zero") from None
    except (OverflowError, ValueError):
        raise ArithmeticMistake("the result is too large") from None
    return _bounded(result)


def _bounded(result: Any) -> Any:
    if isinstance(result, complex) or (isinstance(result, float) and not math.isfinite(result)):
        raise ArithmeticMistake("the result is not a finite number")
    if isinstance(result, int) and abs(result) > MAX_INTEGER:
        raise ArithmeticMistake("the result is too large")
    return result


def _joined(text: str, end: Any) -> str:
    """A string followed by another, or by a whole number."""
    joined = text + (end if type(end) is str else str(int(_whole(end, "what follows a string"))))
    if len(joined) > MAX_NAME * MAX_PATH:
        raise ArithmeticMistake("the string is too long")
    return joined


def _repeat(items: tuple[Any, ...], times: Any) -> List:
    count = max(0, _whole(times, "how often a list is repeated"))
    if len(items) * count > MAX_LIST:
        raise ArithmeticMistake(f"a list may hold at most {MAX_LIST} items")
    return List.of(*(items * count))


def _divide(left: Any, right: Any) -> Any:
    """Exact for whole numbers that divide evenly."""
    if isinstance(left, int) and isinstance(right, int):
        return left // right if left % right == 0 else Quotient.of(left, right)
    return left / right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and right >= 0:
        if abs(left) > 1 and left.bit_length() * right > 128:
            raise OverflowError
        return int(left) ** int(right)
    return float(left) ** float(right)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": _power,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def is_number(value: Any) -> bool:
    """Whether a value of a spec is a number, which a condition is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_table(value: Any) -> bool:
    """Whether it is a list of numbers, or of such lists of equal length: what can stand for a tensor."""
    if not isinstance(value, tuple | range) or not value:
        return False
    if all(is_number(item) for item in value):
        return True
    return all(map(is_table, value)) and len({_lengths(item) for item in value}) == 1


def _lengths(table: Any) -> tuple[int, ...]:
    return (len(table), *_lengths(table[0])) if isinstance(table, tuple | range) else ()


def width_of(table: Any) -> int:
    """The size of the last dim of the tensor that a table stands for."""
    return _lengths(table)[-1]


def floats(table: Any) -> Any:
    """A table's numbers as floats, in tuples."""
    return tuple(map(floats, table)) if isinstance(table, tuple | range) else float(table)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(value: Any, what: str) -> int:
    """A whole number, which may have come about as a float."""
    if _is_whole(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ArithmeticMistake(
        f"{what} must be a whole number" + (f", not {value:g}" if is_number(value) else "")
    )


def _contains(item: Any, items: Any) -> bool:
    if not isinstance(items, tuple | range):
        raise ArithmeticMistake("the right side of `in` must be a list")
    return item in items


def _range(start: Any, end: Any) -> range:
    first, last = _whole(start, "the start of a range"), _whole(end, "the end of a range")
    if last - first > MAX_LIST:
        raise ArithmeticMistake(f"a range may have at most {MAX_LIST} steps")
    return range(first, max(first, last))


def _need_numbers(*values: Any) -> None:
    if not all(is_number(value) for value in values):
        raise ArithmeticMistake("the arguments must be numbers")


def _round_up(value: Any, multiple: Any) -> Any:
    return _ceil_div(value, multiple) * multiple


def _round_down(value: Any, multiple: Any) -> Any:
    _need_numbers(value, multiple)
    return value // multiple * multiple


def _ceil_div(value: Any, divisor: Any) -> Any:
    _need_numbers(value, divisor)
    if _is_whole(value) and _is_whole(divisor):
        return -(-value // divisor)
    return math.ceil(value / divisor)


def _rounding(function: Callable[[float], int]) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        _need_numbers(value)
        return value if _is_whole(value) else function(value)

    return apply


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*values: Any) -> Any:
        items = tuple(values[0]) if len(values) == 1 and isinstance(values[0], tuple | range) else values
        if not items:
            raise ArithmeticMistake("the list is empty")
        _need_numbers(*items)
        return function(items)

    return apply


def _length(value: Any) -> int:
    if not isinstance(value, tuple | range | str):
        raise ArithmeticMistake("only a list has a length")
    return len(value)


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its failures, and results out of bounds, turned into `ArithmeticMistake`."""

    def apply(*values: Any) -> Any:
        try:
            return _bounded(function(*values))
        except ZeroDivisionError:
            raise ArithmeticMistake("division by zero") from None
        except (OverflowError, ValueError, TypeError):
            raise ArithmeticMistake("there is no such value") from None

    return apply


def _builtin(name: str, function: Callable[..., Any], parameters: str, doc: str) -> Builtin:
    variadic = parameters == "..."
    return Builtin(name, guarded(function), () if variadic else tuple(parameters.split(", ")), doc, variadic)


BUILTINS = {
    builtin.name: builtin
    for builtin in (
        _builtin("min", _extreme(min), "...", "The smallest of its arguments, or of a list."),
        _builtin("max", _extreme(max), "...", "The largest of its arguments, or of a list."),
        _builtin("round_up", _round_up, "x, multiple", "The next multiple that is not below x."),
        _builtin("round_down", _round_down, "x, multiple", "The last multiple that is not above x."),
        _builtin("ceil_div", _ceil_div, "x, y", "x / y rounded up."),
        _builtin("ceil", _rounding(math.ceil), "x", "The whole number above x, or x itself."),
        _builtin("round", _rounding(round), "x", "The nearest whole number; halves go to the even one."),
        _builtin("len", _length, "x", "The number of items of a list."),
    )
}
