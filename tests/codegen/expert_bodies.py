"""What an expert may be: blocks of all kinds, and what a checkpoint holds of them."""

from __future__ import annotations

# What an expert may be, and what the checkpoint holds of it.
BODIES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "gated": (
        """y = experts e in chosen of 5 as experts {
             return weights[e] * GatedMLP(x, 20, silu)
           }""",
        {"experts.4.gate_proj.weight": (20, 12), "experts.0.down_proj.weight": (12, 20)},
    ),
    "plain with biases, sums in float32, a number after them": (
        """wide = upcast(weights)
           y = 1.7 * cast_like(experts e in chosen of 5 as experts {
             return wide[e] * linear(relu(linear(x, 20, bias = true) as up), 12, bias = true) as down
           }, x)""",
        {"experts.3.up.bias": (20,), "experts.3.down.bias": (12,)},
    ),
    "stacked, products rounded": (
        """wide = upcast(weights)
           y = experts e in chosen of 5 {
             gate, up = split(linear(x, 40, bias = true) as gate_up, 2)
             return cast_like(wide[e] * linear(gelu(gate) * up, 12) as down, x)
           }""",
        {"gate_up.weight": (5, 40, 12), "gate_up.bias": (5, 40), "down.weight": (5, 12, 20)},
    ),
    "weights rounded before the product": (
        """wide = upcast(weights)
           y = experts e in chosen of 5 as experts {
             return cast_like(0.7 * wide[e] + wide[e], x) * GatedMLP(x, 20, silu)
           }""",
        {"experts.4.gate_proj.weight": (20, 12)},
    ),
    "stacked the other way, clamped, interleaved": (
        """y = experts e in chosen of 5 {
             gate, up = split_interleaved(linear(x, 40, bias = true, layout = in_out) as gate_up, 2)
             gate, up = minimum(gate, 1.5), maximum(minimum(up, 1.5), -1.5)
             h = (up + 1) * gate * sigmoid(1.702 * gate)
             return weights[e] * linear(h, 12, bias = true, layout = in_out) as down
           }""",
        {"gate_up.weight": (5, 12, 40), "gate_up.bias": (5, 40), "down.weight": (5, 20, 12)},
    ),
    "gate and up stacked apart, some one below the other": (
        """y = experts e in chosen of 5 {
             h = silu(linear(x, 20) as gate) * linear(x, 20, stacking = rows) as up
             return weights[e] * linear(h, 12, bias = true, layout = in_out, stacking = rows) as down
           }""",
        {"gate.weight": (5, 20, 12), "up.weight": (100, 12), "down.weight": (100, 12), "down.bias": (60,)},
    ),
    "each choice's own result, taken again by its expert, a region without weights, one after another": (
        """parts = experts e in chosen of 5 apart {
             return linear(x, 12) as first
           }
           gates = experts e in chosen of 5 apart {
             return sigmoid(linear(x, 1) as gate)
           }
           sums = experts e in chosen of 5 {
             return gates[e] * (weights[e] * parts[e])
           }
           y = experts e in chosen of 5 {
             return weights[e] * (gates[e] * linear(parts[e] * linear(sums, 12) as second, 12) as third)
           }""",
        {"first.weight": (5, 12, 12), "gate.weight": (5, 1, 12), "second.weight": (5, 12, 12)},
    ),
    "a table of each, read where the token says, and where the choice does": (
        """values, places = top_k(x, 2)
           at = squeeze(whole_table(places, 12, 1, below = 7) as rows)
           parts = experts e in chosen of 5 apart {
             return embedding(squeeze(at[e]), 7, 12) as table
           }
           y = experts e in chosen of 5 as experts {
             own = merge_heads(embedding(places, 12, 6) as places."of-{e}")
             return weights[e] * (parts[e] + linear(own, 12) as out)
           }""",
        {"table.weight": (5, 7, 12), "experts.4.places.of-4.weight": (12, 6)},
    ),
    "an activation of several ops": (
        """y = experts e in chosen of 5 as experts {
             gate, up = split(linear(x, 40) as gate_up, 2)
             return weights[e] * linear(0.5 * tanh(silu(gate) * up), 12) as down
           }""",
        {"experts.2.gate_up.weight": (40, 12)},
    ),
    "weight on the input": (
        """y = experts e in chosen of 5 as experts {
             return GatedMLP(weights[e] * x, 20, silu)
           }""",
        {"experts.1.up_proj.weight": (20, 12)},
    ),
    "weight on the input, beside a shared expert": (
        """routed = experts e in chosen of 5 as experts {
             return GatedMLP(weights[e] * x, 20, silu)
           }
           y = x + (GatedMLP(x, 16, silu) as shared + routed)""",
        {"shared.up_proj.weight": (16, 12)},
    ),
    "normed, with a factor of its own": (
        """y = experts e in chosen of 5 as experts {
             h = linear(rms_norm(x, 1e-6) as norm, 12) as up
             return h * parameter([12]) as factor + weights[e]
           }""",
        {"experts.2.norm.weight": (12,), "experts.2.factor": (12,)},
    ),
    "heads, with norms, vectors and a matrix of each expert": (
        """y = experts e in chosen of 5 as experts {
             h = rms_norm(split_heads(linear(x, 12) as up, 3), 1e-6) as norm
             h = h * softmax(parameter([4]) as factor) + parameter([3, 4]) as offset
             h = matmul(layer_norm(h, 1e-5) as layer_norm, parameter([4, 4]) as turn) + parameter([1]) as more
             return weights[e] * linear(merge_heads(h), 12) as down
           }""",
        {"experts.2.norm.weight": (4,), "experts.2.offset": (3, 4), "experts.4.turn": (4, 4)},
    ),
    "a value from outside, a weight that all share": (
        """scale = parameter([12]) as scale
           h = linear(x, 12) as first
           y = experts e in chosen of 5 as experts {
             return linear(scale * x + h, 12, tied_to = first) + weights[e] * linear(h, 12) as own
           }""",
        {"experts.2.own.weight": (12, 12), "first.weight": (12, 12)},
    ),
    "part of an expression, a weight right under each expert's path": (
        """y = 0.5 * experts e in chosen of 5 as experts {
             return weights[e] * linear(silu(linear(x, 20) as up), 12) as {none}
           } + x""",
        {"experts.3.weight": (12, 20), "experts.3.up.weight": (20, 12)},
    ),
    "beside a shared expert with a gate": (
        """routed = experts e in chosen of 5 as experts {
             return weights[e] * GatedMLP(x, 20, silu)
           }
           y = routed + sigmoid(linear(x, 1) as shared_gate) * GatedMLP(x, 16, silu) as shared""",
        {"shared_gate.weight": (1, 12), "shared.up_proj.weight": (16, 12)},
    ),
}


def spec_of(body: str, before: str = "") -> str:
    """A model of two experts in five, of which `body` makes y; `before` may change weights and choices."""
    return f"""
        import std
        arch A() {{
          forward(x: float[B, T, 12]) {{
            weights, chosen = top_k(softmax(linear(x, 5) as router), 2)
            {before}
            {body}
            return y
          }}
        }}
        model a = A()
    """
