"""Functions in which tokens look at others: of documents that share rows each is computed by itself."""

from __future__ import annotations

from collections.abc import Sequence

from archc.codegen.layout import LINE_LENGTH

_MOST = LINE_LENGTH - 8  # columns of a statement in a branch


def by_document(name: str, given: Sequence[str], rows: Sequence[str], documents: str) -> list[str]:
    """The statements of a function that call it for documents that share rows.

    given:     what it takes for documents in rows of their own, whose span is `span`
    rows:      its operands that have a row for each token
    documents: where those are found that share rows
    """
    parameters = ", ".join([*rows, "span"])
    call = f"{name}({', '.join(given)})"
    compute = name if ", ".join(given) == parameters else f"lambda {parameters}: {call}"
    lines = [f"return {documents}.apart({', '.join([compute, *rows])})"]
    if len(lines[0]) > _MOST:
        alone = ["", f"def alone({parameters}):", f"    return {call}", ""]
        lines = [*alone, f"return {documents}.apart({', '.join(['alone', *rows])})"]
    return [f"if {documents} is not None:", *(f"    {line}" for line in lines)]
