"""Plans for the inputs of attention over a latent: queries and keys partly rotated, the latent normed."""

from __future__ import annotations

from collections.abc import Sequence

from archc.codegen.kernels.fused import Fused, power_of_two, width_of
from archc.codegen.kernels.masks import joined
from archc.codegen.kernels.rope.latent_rope_plan import LatentRopeKernel, LedHeads
from archc.codegen.kernels.rope.rope_op import TABLE_TOKENS, TABLES, forward_of, rotation_op
from archc.codegen.kernels.rope.rope_sizes import warps_for
from archc.codegen.kernels.signature import Signature, as_named, contiguous, in_rows, row_strides
from archc.ir.types import TensorType

_OUTPUTS = ("q_out", "latent_out")


def plan_latent_rope(fused: Fused) -> LatentRopeKernel:
    """The kernel of a rule of the family `latent_rope`."""
    packed = fused.rule.operands[0] == "qkv"
    sources = tuple((name, fused.width(name)) for name in (("qkv",) if packed else ("q", "kv")))
    pairs = fused.width("cos")
    of_queries, of_latent = fused.node.types
    queries = _led_heads("q", sources[0], 0, of_queries, pairs)
    latent = _led_heads("latent", sources[-1], queries.width if packed else 0, of_latent, pairs)
    (weight,) = fused.rule.weights
    weights = tuple(name for name in (weight,) if name in fused.types)
    names = [name for name, _ in sources]
    shapes = {name: str(width) for name, width in sources}
    dims = (f"{part.heads}, {part.head_dim}" for part in (queries, latent))
    outputs = dict(zip(_OUTPUTS, dims, strict=True))
    return LatentRopeKernel(
        name=fused.name,
        equation=fused.equation,
        layout=fused.layout,
        op=rotation_op(fused, shapes, outputs, ("cos", "sin", names[-1], *weights), weights),
        sources=sources,
        queries=queries,
        latent=latent,
        weight="".join(weights),
        pairs=pairs,
        pair_block=power_of_two(pairs),
        interleaved=fused.node.attributes["pairing"] == "interleaved",
        eps=float(fused.node.attributes["eps"]),
        offset=float(fused.node.attributes["offset"]),
        warps=warps_for(queries.elements + latent.elements),
        signature=forward_of(names, weights, _OUTPUTS),
        backward_signature=_backward_of(names, weights),
    )


def _backward_of(names: Sequence[str], weights: Sequence[str]) -> Signature:
    """How the gradient reads results' gradients, tables and, for the norm, the latent again."""
    kept = names[-1]
    incoming = [f"d{name}" for name in _OUTPUTS]
    gradients = [f"d{name}" for name in (*names, *weights)]
    given = as_named(incoming) | in_rows([kept]) | contiguous(TABLES) | as_named((*weights, *gradients))
    return Signature.of(given, {"tokens": "tokens"} | row_strides([kept]) | TABLE_TOKENS)


def _led_heads(name: str, source: tuple[str, int], offset: int, type_: TensorType, pairs: int) -> LedHeads:
    heads, head_dim = map(int, (type_.shape[2], width_of(type_)))
    block, lead = power_of_two(heads), head_dim - 2 * pairs
    present = f"{name}_head < {heads}" if block != heads else ""

    def mask(column: str, count: int) -> str:
        return joined(present, f"{column} < {count}" if power_of_two(count) != count else "")

    return LedHeads(
        name=name,
        source=source[0],
        source_width=source[1],
        offset=offset,
        heads=heads,
        block=block,
        mask=mask("pair", pairs),
        lane_mask=mask("lane", 2 * pairs),
        head_dim=head_dim,
        lead=lead,
        lead_block=power_of_two(lead),
        lead_mask=mask(f"{name}_column", lead),
        normed=name == "latent",
    )
