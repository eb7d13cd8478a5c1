"""Heads that are rotated or normed: where they lie, in which groups a kernel has them, and in which lanes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from archc.codegen.kernels.fused import Fused, power_of_two, width_of
from archc.codegen.kernels.masks import joined
from archc.codegen.kernels.rope.heads_plan import Heads, Lane
from archc.ir.rule import Rule

_MOST_VALUES = 8192  # of normed heads in work at a time, beside their gradients


@dataclass(frozen=True)
class Part:
    """Heads as the rule has them: where they lie and how many they are."""

    name: str
    source: str
    heads: int
    head_dim: int
    offset: int
    out: str
    first: int = 0


def parts_of(fused: Fused) -> list[Part]:
    """Queries, keys where they are rotated too and, where all come out of one product, values."""
    return _packed_parts(fused) if fused.rule.operands[0] == "qkv" else _separate_parts(fused)


def _packed_parts(fused: Fused) -> list[Part]:
    sizes = fused.node.attributes["sizes"]
    if isinstance(sizes, int):
        sizes = (fused.width("qkv") // sizes,) * sizes
    offsets = [0, int(sizes[0]), int(sizes[0]) + int(sizes[1])]
    return [
        Part(name, "qkv", int(type_.shape[2]), width_of(type_), offset, f"{name}_out")
        for name, type_, offset in zip("qkv", fused.node.types, offsets, strict=True)
    ]


def _separate_parts(fused: Fused) -> list[Part]:
    types = {name: fused.types[name] for name in ("q", "k") if name in fused.types}
    return [
        Part(name, name, int(type_.shape[2]), width_of(type_), 0, f"{name}_out")
        for name, type_ in types.items()
    ]


def heads_of(
    fused: Fused, parts: list[Part], widths: dict[str, int], pairing: tuple[int, bool], over_heads: bool
) -> list[Heads]:
    """All heads, in groups where each is normed by itself.

    widths:  of a token's values in each source
    pairing: how many pairs are rotated, and whether each is side by side
    """
    return [
        _heads(fused, part, group, widths[part.source], ops, pairing)
        for part, ops in zip(parts, _ops_of_outputs(fused.rule), strict=True)
        for group in (_groups(part, pairing[0]) if "rms_norm" in ops and not over_heads else [part])
    ]


def _ops_of_outputs(rule: Rule) -> list[set[str]]:
    """The ops that each result comes of."""
    return [{rule.steps[step].op.name for step in rule.reach(output.step)} for output in rule.outputs]


def _groups(part: Part, pairs: int) -> list[Part]:
    """A part's heads in groups, each of as many as registers hold beside their gradients.

    Heads that are rotated in part take more of them.
    """
    values = _MOST_VALUES if 2 * pairs in (0, part.head_dim) else _MOST_VALUES // 2
    most = max(values // power_of_two(part.head_dim), 1)
    return [
        replace(
            part,
            name=f"{part.name}_{first // most + 1}" if first else part.name,
            heads=min(most, part.heads - first),
            offset=part.offset + first * part.head_dim,
            first=first,
        )
        for first in range(0, part.heads, most)
    ]


def _heads(
    fused: Fused, part: Part, group: Part, source_width: int, ops: set[str], pairing: tuple[int, bool]
) -> Heads:
    """A group of a part's heads, to which some ops are done; of those that are rotated so many pairs."""
    block, norm = power_of_two(group.heads), f"{part.name}_norm"
    pairs, interleaved = pairing if "rotate_by" in ops else (0, False)
    rest, width = part.head_dim - 2 * pairs, width_of(fused.node.types[0])
    rest_name = "rest" if pairs else "value" if part.head_dim == width else f"{part.name}_value"
    present = f"head < {group.heads}" if block != group.heads else ""

    def mask(column: str, count: int) -> str:
        return f"{column} < {count}" if power_of_two(count) != count else ""

    def lane(name: str, place: str, column: str, count: int) -> Lane:
        inside = mask(column, count)
        return Lane(name, place, power_of_two(count), inside, joined(present, inside))

    places = ("2 * pair", "2 * pair + 1") if interleaved else ("pair", f"{pairs} + pair")
    lanes = [lane(name, place, "pair", pairs) for name, place in zip("ab", places, strict=True) if pairs]
    place = f"{2 * pairs} + {rest_name}" if pairs else rest_name
    return Heads(
        name=group.name,
        source=part.source,
        source_width=source_width,
        offset=group.offset,
        heads=group.heads,
        block=block,
        mask=joined(present, mask("pair", pairs)),
        lane_mask=joined(present, mask("lane", 2 * pairs)),
        out=part.out,
        first=group.first,
        head_dim=part.head_dim,
        width=part.heads * part.head_dim,
        normed="rms_norm" in ops,
        weight=norm if norm in fused.types else "",
        rest=rest,
        rest_block=power_of_two(rest) if rest else 0,
        rest_name=rest_name,
        lanes=(*lanes, *([lane("c", place, rest_name, rest)] if rest else [])),
    )
