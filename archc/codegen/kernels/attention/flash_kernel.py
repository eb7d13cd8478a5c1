"""When attention over whole sequences has a kernel of its own, and with which tiles."""

from __future__ import annotations

from dataclasses import replace

from archc.codegen.kernels.attention.attention import (
    Attention,
    choosers_of,
    form_of,
    further_operands,
    is_bare,
    makes_bias,
)
from archc.codegen.kernels.attention.flash_bias import FlashBias, plan_flash_bias
from archc.codegen.kernels.attention.flash_plan import FlashKernel
from archc.codegen.kernels.attention.flash_tiles import Tile, Tiles
from archc.codegen.kernels.fused import Fused, power_of_two
from archc.ir.ops.attention import Causal, Chunked, Full, Mask, Sliding

_LEAST = 16  # rows and columns of a tensor core's tile

# By the width of a key and its value together, each a power of two: tiles whose registers and shared memory
# all chips have, from compiling for them.
_TILES = {
    128: Tiles(Tile(128, 64, 8), Tile(64, 64, 4), Tile(32, 64, 4, stages=2)),
    256: Tiles(Tile(128, 32, 8), Tile(64, 32, 4), Tile(32, 32, 4)),
    384: Tiles(Tile(64, 32, 4), Tile(32, 32, 4), Tile(16, 32, 4)),
    512: Tiles(Tile(64, 32, 8), Tile(32, 32, 4), Tile(16, 16, 4), Tile(16, 32, 4, stages=1)),
}
# Warps of the keys' gradient where a window or a chunk ends what a query sees, which takes registers.
_BOUNDED_WARPS = {384: 8}
# Queries in float32 where heads are narrower than their tiles: the masks of their loads take registers.
_MASKED_QUERIES = {256: 32}


def plan_flash(fused: Fused, attention: Attention) -> FlashKernel | None:
    """The kernel for an attention over whole sequences; None if PyTorch's is as fast, or no kernel fits.

    PyTorch's is as fast for all keys, or all up to the query's own, if nothing is done to scores and keys are
    as wide as values.
    """
    mask: Mask = fused.node.attributes["mask"]
    head_block, value_block = (
        max(power_of_two(n), _LEAST) for n in (attention.head_dim, attention.value_dim)
    )
    bias = plan_flash_bias(fused)
    padded = (head_block, value_block) != (attention.head_dim, attention.value_dim)
    tiles = _tiles(head_block + value_block, bias, isinstance(mask, Sliding | Chunked), padded)
    if tiles is None or not _is_known(fused, bias) or (is_bare(fused) and _suits_pytorch(mask, attention)):
        return None
    return FlashKernel(
        **vars(attention),
        sees=_sees(mask),
        causal=mask.causal,
        window=int(mask.window) if isinstance(mask, Sliding) else 0,
        chunk=int(mask.chunk) if isinstance(mask, Chunked) else 0,
        head_block=head_block,
        value_block=value_block,
        choosers=choosers_of(fused),
        sinks="sinks" in fused.types,
        bias=bias,
        tiles=tiles,
    )


def _is_known(fused: Fused, bias: FlashBias | None) -> bool:
    """Whether the kernel knows the mask, and all that is done to scores."""
    biased = bias is not None or not (makes_bias(fused) or "bias" in fused.types)
    further = set(further_operands(fused)) <= {"sinks", "table", "bias", "values", "among"} and biased
    masked = isinstance(fused.node.attributes["mask"], Causal | Full | Sliding | Chunked)
    return further and masked and not form_of(fused).one_slot


def _suits_pytorch(mask: Mask, attention: Attention) -> bool:
    """Whether PyTorch has a fast kernel for a mask, and for scores and widths of an attention."""
    as_wide = attention.head_dim == attention.value_dim
    return isinstance(mask, Causal | Full) and attention.softcap is None and as_wide


def _tiles(width: int, bias: FlashBias | None, bounded: bool, padded: bool) -> Tiles | None:
    """The tiles for keys and values of a width together; None where none are small enough.

    What is added to scores lies beside them in registers: slopes and what keys have leave room for 32 keys,
    or in float32 for 32 queries; with what pairs have tiles of the next width do, the widest of 16 keys,
    and with a table or values by distance by more warps and of 16 keys; where the latter have gradients, too.
    """
    fitting = [_fitted(most, bounded, padded) for most in _TILES if width <= most]
    if bias is None or not fitting:
        return fitting[0] if fitting else None
    if not (bias.table or bias.pairs or bias.distances):
        forward = fitting[0].forward
        forward = replace(forward, keys=min(forward.keys, 32), wide_queries=min(forward.queries // 2, 32))
        return replace(fitting[0], forward=forward)
    if len(fitting) == 1:
        return None
    if bias.pairs:
        wider = _with_warps(fitting[1], 8 if bounded else None)
        return wider if len(fitting) > 2 else replace(wider, forward=replace(wider.forward, keys=16))
    wider = replace(fitting[1], forward=replace(fitting[1].forward, keys=16, warps=8))
    return wider if bias.table else replace(wider, query_gradient=replace(wider.query_gradient, keys=16))


def _fitted(most: int, bounded: bool, padded: bool) -> Tiles:
    """The tiles of a width for a mask that is bounded or not, and for heads that are padded or not."""
    tiles = _with_warps(_TILES[most], _BOUNDED_WARPS.get(most) if bounded else None)
    wide_queries = _MASKED_QUERIES.get(most) if padded else None
    return replace(tiles, forward=replace(tiles.forward, wide_queries=wide_queries))


def _with_warps(tiles: Tiles, warps: int | None) -> Tiles:
    """Tiles with so many warps for the keys' gradient, where a number is given."""
    return tiles if warps is None else replace(tiles, key_gradient=replace(tiles.key_gradient, warps=warps))


def _sees(mask: Mask) -> str:
    """Whether a query sees a key, both positions, as a Triton expression."""
    conditions = ["(key >= 0)"]
    if mask.causal:
        conditions.append("(key <= query)")
    if isinstance(mask, Sliding):
        conditions.append(f"(key > query - {int(mask.window)})")
    if isinstance(mask, Chunked):
        conditions.append(f"(key // {int(mask.chunk)} == query // {int(mask.chunk)})")
    return " & ".join(conditions) if len(conditions) > 1 else conditions[0].strip("()")
