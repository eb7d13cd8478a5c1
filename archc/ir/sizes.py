"""Numbers that remember how they were computed from a spec's parameters.

A `Size` is an int; beside its value it carries a polynomial over parameter names, so that generated code can
say `HEADS * HEAD_DIM` where the value alone would say 4096.  Arithmetic that keeps to polynomials (sums,
products, exact division by one term, of a single term also by parameters that are not in it) carries it on;
anything else yields a plain int, and the number is written out.  The polynomial never takes part in
comparison or hashing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any, SupportsIndex, TypeAlias

Factor: TypeAlias = tuple[int, str, int]  # a parameter's place among the arch's, its name, -1 if it divides
Monomial: TypeAlias = tuple[Factor, ...]  # in order, repeated for powers; () is the constant term
Terms: TypeAlias = dict[Monomial, int]


class Size(int):
    """An int with its origin.  `Size.named("d", 4096)` makes one; `text` writes it."""

    terms: Terms

    @staticmethod
    def named(name: str, value: int, rank: int = 0) -> Size:
        """A parameter's value; products are written in the order of `rank`."""
        return _size(value, {((rank, name, 1),): 1})

    @property
    def text(self) -> str:
        return _write(self.terms)

    def __add__(self, other: int) -> int:
        right = _terms_of(other)
        return NotImplemented if right is None else _size(int(self) + int(other), _add(self.terms, right, 1))

    __radd__ = __add__

    def __sub__(self, other: int) -> int:
        right = _terms_of(other)
        return NotImplemented if right is None else _size(int(self) - int(other), _add(self.terms, right, -1))

    def __rsub__(self, other: int) -> int:
        left = _terms_of(other)
        return NotImplemented if left is None else _size(int(other) - int(self), _add(left, self.terms, -1))

    def __mul__(self, other: int) -> int:
        right = _terms_of(other)
        return (
            NotImplemented if right is None else _size(int(self) * int(other), _multiply(self.terms, right))
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> int:
        right = _terms_of(other)
        if right is None:
            return NotImplemented
        value = int(self) // int(other)
        quotient = _divide(self.terms, right) if value * int(other) == int(self) else None
        return _size(value, quotient) if quotient is not None else value

    def __deepcopy__(self, _memo: object) -> Size:
        return self

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[object, ...]:
        return (_size, (int(self), self.terms))


class NamedFloat(float):
    """A float that is one of the spec's parameters, such as `eps`."""

    name: str

    @staticmethod
    def named(name: str, value: float) -> NamedFloat:
        number = NamedFloat(value)
        number.name = name
        return number

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[object, ...]:
        return (NamedFloat.named, (self.name, float(self)))


def plain(value: Any) -> Any:
    """A number without its origin, and so those in a tuple or a mapping."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if type(value) is tuple:
        return tuple(map(plain, value))
    return int(value) if isinstance(value, Size) else float(value) if isinstance(value, NamedFloat) else value


def _size(value: int, terms: Terms) -> Size:
    size = Size(value)
    size.terms = terms
    return size


def _terms_of(value: object) -> Terms | None:
    if isinstance(value, Size):
        return value.terms
    if isinstance(value, int) and not isinstance(value, bool):
        return {(): value} if value else {}
    return None


def _add(left: Terms, right: Terms, sign: int) -> Terms:
    total = dict(left)
    for names, factor in right.items():
        total[names] = total.get(names, 0) + sign * factor
    return {names: factor for names, factor in total.items() if factor}


def _multiply(left: Terms, right: Terms) -> Terms:
    product: Terms = {}
    for names, factor in left.items():
        for others, other in right.items():
            product = _add(product, {_cancelled(names + others): factor * other}, 1)
    return product


def _cancelled(names: Monomial) -> Monomial:
    """In order, and without parameters that multiply as well as divide."""
    kept: list[Factor] = []
    for rank, name, power in names:
        if (rank, name, -power) in kept:
            kept.remove((rank, name, -power))
        else:
            kept.append((rank, name, power))
    return tuple(sorted(kept))


def _divide(terms: Terms, divisor: Terms) -> Terms | None:
    """The quotient by a single term, where that divides each term or there is a single one; else None."""
    if len(divisor) != 1:
        return None
    ((names, factor),) = divisor.items()
    quotient: Terms = {}
    for left, value in terms.items():
        rest = _cancelled((*left, *((rank, name, -power) for rank, name, power in names)))
        if value % factor or (len(terms) > 1 and _is_divided(rest)):
            return None
        quotient[rest] = value // factor
    return quotient


def _is_divided(names: Monomial) -> bool:
    return any(power < 0 for _, _, power in names)


def _write(terms: Terms) -> str:
    """Terms as Python, where each is a whole number, and so must be all that is written."""
    if not terms:
        return "0"
    common = _common_names(list(terms))
    factor = 0
    for value in terms.values():
        factor = gcd(factor, value)
    inner = {_without(names, common): value for names, value in terms.items()}
    if len(inner) == 1 or (not common and factor == 1) or any(map(_is_divided, inner)):
        return _sum(terms)
    scaled = {names: value // factor for names, value in inner.items()}
    return _fraction([*([str(factor)] if factor != 1 else []), f"({_sum(scaled)})"], common)


def _sum(terms: Terms) -> str:
    text = ""
    for names, factor in terms.items():
        sign = " - " if factor < 0 else " + "
        text += (sign if text else sign.strip().replace("+", "")) + _product(names, abs(factor))
    return text


def _product(names: Monomial, factor: int) -> str:
    alone = all(power < 0 for _, _, power in names)
    return _fraction([str(factor)] if factor != 1 or alone else [], names)


def _fraction(first: list[str], names: Monomial) -> str:
    """What comes first times the parameters, which may divide: `A * B // C`, `A // (B * C)`."""
    over = " * ".join(first + [name for _, name, power in names if power > 0])
    under = [name for _, name, power in names if power < 0]
    if not under:
        return over
    return f"{over} // {under[0] if len(under) == 1 else '(' + ' * '.join(under) + ')'}"


def _common_names(monomials: list[Monomial]) -> Monomial:
    common: list[Factor] = []
    for name in monomials[0]:
        count = common.count(name) + 1
        if all(names.count(name) >= count for names in monomials):
            common.append(name)
    return tuple(common)


def _without(names: Monomial, removed: Monomial) -> Monomial:
    rest = list(names)
    for name in removed:
        rest.remove(name)
    return tuple(rest)
