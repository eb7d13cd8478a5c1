"""Which result of a fusion of rows the kernel of a linear map may compute, for one row."""

from __future__ import annotations

from collections.abc import Iterable

from archc.codegen.kernels.rows.pointwise import OF_LINEARS
from archc.ir.row_form import RowForm


def last_row(form: RowForm, names: Iterable[str]) -> int | None:
    """The number of the last result, which a norm mostly is; None where there is no such kernel.

    There is one if all results are rows alike, made of an operand that is like them too or, where there is a
    single result, that has as many rows; of no vectors of other lengths; and if no operand or result, by
    `names`, is called as something of that kernel.
    """
    anchor, last = form.anchors[0], len(form.results) - 1
    alike = all(result.dims == (form.width,) and not result.wide for result in form.results)
    whole = anchor.columns == form.width and (anchor.parts == 1 or last == 0)
    known = all(operand.columns in (1, form.width) for operand in form.operands)
    fits = alike and whole and known and form.heads == 1 and not OF_LINEARS.intersection(names)
    return last if fits else None
