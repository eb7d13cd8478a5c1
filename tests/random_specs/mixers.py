"""What mixes tokens in a layer, at random: attention, with experts or not, a recurrence, a convolution."""

from __future__ import annotations

from tests.random_specs.attentions import Shared, attention, some_mask
from tests.random_specs.recurrences import convolution, exponential, gated_sum, recurrence
from tests.random_specs.rows import route
from tests.random_specs.scans import scanned
from tests.random_specs.writer import Writer


def mixer(w: Writer, x: str, d: int, variable: str | None, shared: Shared | None = None) -> str:
    """Tokens mixed with earlier ones of their sequence, from [B, T, d] to [B, T, d]."""
    kind = (
        w.choose(
            *["attention"] * 8,
            *["recurrence"] * 3,
            *["exponential"] * 2,
            "sum",
            "convolution",
            "experts",
            "scan",
        )
        if shared is None
        else ""
    )
    if kind == "recurrence":
        return recurrence(w, x, d)
    if kind == "scan":
        return scanned(w, x, d)
    if kind == "exponential":
        return exponential(w, x, d)
    if kind == "sum":
        return gated_sum(w, x, d)
    if kind == "convolution":
        return convolution(w, x, d)
    if kind == "experts" and variable is not None:  # layers that run again cannot share what experts hold
        return _with_experts(w, x, d)
    return attention(w, x, d, variable, shared)


def _with_experts(w: Writer, x: str, d: int) -> str:
    """Attention with queries and outputs of experts, which have keys and values in common."""
    choices, count, heads, width = 2, w.choose(3, 4), w.choose(1, 2), w.choose(4, 6)
    weights, chosen, _ = route(w, x, count, choices, usual=True)
    q, y = w.new("q"), w.new("y")
    with w.inside(f"{q} = experts e in {chosen} of {count} apart"):
        w.write(f"return {w.linear(x, heads * width, 'q')}")
    q = w.let(f"rms_norm({q}, 1e-5, weight = false)", "q")
    k, v = w.new("k"), w.new("v")
    w.write(f"{k}, {v} = split({w.linear(x, 2 * heads * width, 'kv')}, 2)")
    k, v = (w.let(f"split_heads(concat({each}, {each}), {choices * heads})", each[0]) for each in (k, v))
    q = w.let(f"split_heads(merge_heads({q}), {choices * heads})", "q")
    if w.chance(0.5):
        q, k = w.let(f"rotate({q}, rope(theta = 100, width = 4))", "q"), w.let(
            f"rotate({k}, rope(theta = 100, width = 4))", "k"
        )
    o = f"attention({q}, {k}, {v}, mask = {some_mask(w)})"
    if w.chance(0.3):
        fading = w.let(f"-softplus(upcast({w.linear(x, choices * heads, 'fading')}))", "fading")
        o = f"cast_like(linear_attention({q}, {k}, {v}, log_decay = {fading}), {x})"
    o = w.let(f"split_heads(merge_heads({o}), {choices})", "o")
    with w.inside(f"{y} = experts e in {chosen} of {count}"):
        w.write(f"return cast_like({weights}[e], {x}) * {w.linear(f'{o}[e]', d, 'out')}")
    return f"cast_like({y}, {x})"
