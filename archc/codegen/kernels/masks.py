"""The mask arguments of loads and stores in Triton kernels."""

from __future__ import annotations


def load_where(mask: str) -> str:
    """The arguments of a load where a mask holds; an empty one holds everywhere."""
    return f", mask={mask}, other=0.0" if mask else ""


def store_where(mask: str) -> str:
    """The same of a store."""
    return f", mask={mask}" if mask else ""


def joined(*masks: str) -> str:
    """Masks that all hold, as one; empty ones hold everywhere."""
    tests = [mask for mask in masks if mask]
    return " & ".join(f"({test})" for test in tests) if len(tests) > 1 else "".join(tests)


def outer(masks: tuple[str, ...]) -> str:
    """Masks of single dims as one of all of them."""
    texts = []
    for place, mask in enumerate(masks):
        index = ", ".join(":" if dim == place else "None" for dim in range(len(masks)))
        last = place == len(masks) - 1
        if mask:
            bracketed = mask if mask.isidentifier() else f"({mask})"
            texts.append(bracketed if last else f"{bracketed}[{index}]")
    return texts[0].strip("()") if len(masks) == 1 and texts else " & ".join(texts)
