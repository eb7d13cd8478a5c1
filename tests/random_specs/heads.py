"""Heads of attention, at random: how many, what tells positions, what is done to scores and to results."""

from __future__ import annotations

from dataclasses import dataclass

from tests.random_specs.biases import some_bias
from tests.random_specs.choices import some_choice
from tests.random_specs.writer import Writer


@dataclass(frozen=True)
class Heads:
    """How many heads queries have, how many keys and values have, and how wide those of each are."""

    queries: int
    keys: int
    width: int
    value_width: int


def some_heads(w: Writer) -> Heads:
    keys, width = w.choose(1, 2, 3), w.choose(4, 6, 8)
    return Heads(keys * w.choose(1, 2, 3), keys, width, w.choose(width, width, 5, 10))


def keys_and_values(w: Writer, x: str, heads: Heads) -> tuple[str, str]:
    k = w.let(f"split_heads({w.linear(x, heads.keys * heads.width, 'k')}, {heads.keys})", "k")
    if heads.width == heads.value_width and w.chance(0.1):
        return k, k
    return k, w.let(f"split_heads({w.linear(x, heads.keys * heads.value_width, 'v')}, {heads.keys})", "v")


def head_norm(w: Writer, x: str) -> str:
    path = w.new("norm")
    return w.choose(
        f"rms_norm({x}, 1e-5) as {path}",
        f"rms_norm({x}, 1e-5, offset = 1, cast = after) as {path}",
        f"rms_norm({x}, 1e-5, weight = false)",
        f"layer_norm({x}, 1e-5) as {path}",
    )


def head_map(w: Writer, x: str, width: int | str) -> str:
    """A linear map of each head's own."""
    bias, layout = w.choose("", ", bias = true"), w.choose("", ", layout = in_out", ", layout = rows")
    return f"head_linear({x}, {width}{bias}{layout}) as {w.new('heads')}"


def some_rope(w: Writer) -> str:
    width = ", width = 4" if w.chance(0.3) else ""
    pairing = ", pairing = interleaved" if w.chance(0.3) else ""
    scaling = w.choose(
        *[""] * 6,
        "linear_scaling(factor = 2)",
        "llama3(factor = 4, low = 1, high = 4, original = 16)",
        "yarn(factor = 4, original = 16)",
        "dynamic(factor = 3, original = 8)",
        "longrope",
    )
    if scaling == "longrope":
        width, scaling = (
            ", width = 4",
            "longrope(short = [1, 1.5], long = [2, 3.5], original = 8, factor = 4)",
        )
    scaling = f", scaling = {scaling}" if scaling else ""
    return f"rope(theta = {w.choose(100, 10000)}{width}{pairing}{scaling})"


def positioned(w: Writer, q: str, k: str, variable: str | None = None) -> tuple[str, str]:
    """Queries and keys with what tells their positions, in all layers or some, normed before or after."""
    kind = w.choose("rotate", "rotate", "norm rotate", "rotate norm", "norm", "none", "warm", "head map")
    turn = some_rope(w)
    if w.place and w.chance(0.6):
        return _placed(w, q, k, w.place)
    if kind.startswith("norm"):
        q, k = w.let(head_norm(w, q), "q"), w.let(head_norm(w, k), "k")
    if "rotate" in kind:
        some = f" if {variable} % 2 == 0 else {{0}}" if variable and w.chance(0.3) else ""
        q = w.let(f"rotate({q}, {turn})" + some.format(q), "q")
        k = w.let(f"rotate({k}, {turn})" + some.format(k), "k")
    if kind == "rotate norm":
        q, k = w.let(head_norm(w, q), "q"), w.let(head_norm(w, k), "k")
    if kind == "head map":
        width = f"width({q})"
        q, k = w.let(head_map(w, q, width), "q"), w.let(head_map(w, k, width), "k")
    if kind == "warm":
        warmth = w.let(f"1 + 0.1 * log(floor((upcast(positions({q})) + 1) / 4) + 1)", "warmth")
        q = w.let(f"cast_like({q} * unsqueeze(unsqueeze({warmth})), {q})", "q")
    if w.chance(0.1):
        q = w.let(f"{q} * {w.choose('0.5', '3')}", "q")
    return q, k


def _placed(w: Writer, q: str, k: str, place: str) -> tuple[str, str]:
    """Queries and keys, turned by where the caller says that tokens are."""
    cos, sin = w.new("cos"), w.new("sin")
    w.write(f"{cos}, {sin} = rope_table({place}, rope_frequencies({place}, rope = rope(100), width = 4))")
    pairing = w.choose("half", "interleaved")
    return tuple(w.let(f"rotate_by({x}, {cos}, {sin}, pairing = {pairing})", x[0]) for x in (q, k))


def turned(w: Writer, x: str) -> str:
    """Queries or keys by themselves, normed and rotated, one of it or neither."""
    if w.chance(0.3):
        x = w.let(head_norm(w, x), x[0])
    return w.let(f"rotate({x}, {some_rope(w)})", x[0]) if w.chance(0.6) else x


def attend(
    w: Writer,
    x: str,
    d: int,
    heads: Heads,
    q: str,
    k: str,
    v: str,
    mask: str,
    biased: bool = True,
    among: str | None = None,
) -> str:
    """Scores and what changes them, the heads' results, a gate or a norm, and the map after them.

    `among` are places of keys that were chosen before; now and then some are chosen here.
    """
    around = mask == "full" and biased and w.chance(0.2)  # keys on both sides, two of each
    settings = f"mask = {'sliding(5)' if around else mask}"
    if among or (mask in ("causal", "full") and not around and w.chance(0.1)):
        settings += f", among = {among or some_choice(w, x, k, mask, same_tokens=biased)}"
    scale = f", scale = {w.choose('1', '0.3')}" if w.chance(0.2) else ""
    if w.chance(0.15):
        settings += f", softcap = {w.choose('2.5', '30')}"
    if biased and w.chance(0.2):
        settings += f", bias = {some_bias(w, x, heads.queries, both_ways=mask == 'full')}"
    if w.chance(0.15):
        settings += f", sinks = {w.parameter(str(heads.queries), 0.5, 'sinks')}"
    seen = f"positions({x}) + 2" if around else _sight(w, x, mask, settings)
    if seen and biased:
        scale = scale or f", scale = {heads.width} ** -0.5"
        o = w.let(f"attend({q}, {k}, {v}, {seen}, key_positions({k}), {settings}{scale})", "o")
    else:
        o = w.let(f"attention({q}, {k}, {v}, {settings}{scale})", "o")
    return behind(w, x, d, heads, o)


def _sight(w: Writer, x: str, mask: str, settings: str) -> str | None:
    """Up to which position queries see, where that is not their own."""
    if "among" in settings:
        return None
    if mask == "full" and w.chance(0.3):
        return f"positions({x}) + 2"
    if mask == "causal" and w.sight:
        return w.sight
    return f"maximum(positions({x}) - 2, 0)" if mask == "causal" and w.chance(0.05) else None


def behind(w: Writer, x: str, d: int, heads: Heads, o: str) -> str:
    """What follows the heads' results."""
    width = heads.queries * heads.value_width
    kind = w.choose(*["plain"] * 5, "gate", "head gate", "head norm", "norm", "factor", "head map")
    if kind == "head gate":
        o = w.let(f"{o} * sigmoid(unsqueeze({w.linear(x, heads.queries, 'gate')}))", "o")
    if kind == "head norm":
        o = w.let(head_norm(w, o), "o")
    if kind == "head map":
        o = w.let(f"{o} + {head_map(w, o, heads.value_width)}", "o")
    if kind == "factor":
        o = w.let(f"{o} * 0.5", "o")
    o = w.let(f"merge_heads({o})", "o")
    if kind == "gate":
        o = w.let(f"{o} * sigmoid({w.linear(w.content(x), width, 'gate')})", "o")
    if kind == "norm":
        o = w.let(f"rms_norm({o}, 1e-5) as {w.new('norm')}", "o")
    return w.linear(o, d, "o")
