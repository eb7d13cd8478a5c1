"""Numbers that remember how they were computed from a spec's parameters.

A `Size` is an int; beside its value it carries a polynomial over parameter names, so that generated code can
say `HEADS * HEAD_DIM` where the value alone would say 4096.  Arithmetic that keeps to polynomials (sums,
products, exact division by one term) carries it on; anything else yields a plain int, and the number is
written out.  The polynomial never takes part in comparison or hashing.
"""

from __future__ import annotations

from math import gcd
from typing import SupportsIndex, TypeAlias

Factor: TypeAlias = tuple[int, str]  # a parameter's place among the arch's, and its name
Monomial: TypeAlias = tuple[Factor, ...]  # in order, repeated for powers; () is the constant term
Terms: TypeAlias = dict[Monomial, int]


class Size(int):
    """An int with its origin.  `Size.named("d", 4096)` makes one; `text` writes it."""

    terms: Terms

    @staticmethod
    def named(name: str, value: int, rank: int = 0) -> Size:
        """A parameter's value; products are written in the order of `rank`."""
        return _size(value, {((rank, name),): 1})

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
            product = _add(product, {tuple(sorted(names + others)): factor * other}, 1)
    return product


def _divide(terms: Terms, divisor: Terms) -> Terms | None:
    """The quotient where the divisor is a single term that divides each term, else None."""
    if len(divisor) != 1:
        return None
    ((names, factor),) = divisor.items()
    quotient: Terms = {}
    for left, value in terms.items():
        rest = list(left)
        for name in names:
            if name not in rest:
                return None
            rest.remove(name)
        if value % factor:
            return None
        quotient[tuple(rest)] = value // factor
    return quotient


def _write(terms: Terms) -> str:
    if not terms:
        return "0"
    common = _common_names(list(terms))
    factor = 0
    for value in terms.values():
        factor = gcd(factor, value)
    inner = {_without(names, common): value for names, value in terms.items()}
    if len(inner) == 1 or not common:
        return _sum(terms)
    scaled = {names: value // factor for names, value in inner.items()}
    outer = ([str(factor)] if factor != 1 else []) + [name for _, name in common]
    return f"({_sum(scaled)}) * {' * '.join(outer)}"


def _sum(terms: Terms) -> str:
    text = ""
    for names, factor in terms.items():
        sign = " - " if factor < 0 else " + "
        text += (sign if text else sign.strip().replace("+", "")) + _product(names, abs(factor))
    return text


def _product(names: Monomial, factor: int) -> str:
    return " * ".join(([str(factor)] if factor != 1 or not names else []) + [name for _, name in names])


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
