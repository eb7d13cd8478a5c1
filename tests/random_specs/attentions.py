"""Attention of every kind, at random: what queries, keys and values are made of, and taken over from."""

from __future__ import annotations

from dataclasses import dataclass

from tests.random_specs.biases import some_bias
from tests.random_specs.choices import best_of_heads, some_choice
from tests.random_specs.heads import (
    Heads,
    attend,
    behind,
    head_norm,
    keys_and_values,
    positioned,
    some_heads,
    some_rope,
    turned,
)
from tests.random_specs.joined import joined
from tests.random_specs.recurrences import group_conv
from tests.random_specs.writer import Writer


@dataclass
class Shared:
    """What layers take over from earlier ones: the names of what a loop carries.

    `made` says in which iterations of a loop keys and values, or the choice of keys, are made anew.
    """

    heads: Heads
    made: str | None = None
    keys: str = "keys"
    values: str = "values"
    first_values: str | None = None
    choice: str | None = None


def attention(w: Writer, x: str, d: int, variable: str | None, shared: Shared | None = None) -> str:
    """Causal attention of tokens to their own sequence, from [B, T, d] to [B, T, d]."""
    mask = masks_of_layers(w, variable)
    if shared is not None and shared.choice is not None:
        return _takes_choice(w, x, d, shared)
    if shared is not None and shared.made is not None:
        return _takes_over(w, x, d, mask, shared)
    if shared is not None and shared.first_values is not None:
        return _mixes_values(w, x, d, mask, variable or "0", shared)
    kinds = (
        _usual,
        _usual,
        _usual,
        _usual,
        _latent,
        _latent,
        _differential,
        _taken_apart,
        _twice_chosen,
        joined,
    )
    return w.choose(*kinds)(w, x, d, mask, variable)


def bidirectional(w: Writer, x: str, memory: str, d: int) -> str:
    """Attention to all tokens of a sequence, which may be another one."""
    heads = some_heads(w)
    q = w.let(f"split_heads({w.linear(x, heads.queries * heads.width, 'q')}, {heads.queries})", "q")
    k, v = keys_and_values(w, memory, heads)
    return attend(w, x, d, heads, q, k, v, "full", biased=x == memory)


def some_mask(w: Writer) -> str:
    return w.choose("causal", "causal", f"sliding({w.choose(1, 3, 4)})", f"chunked({w.choose(2, 5)})")


def masks_of_layers(w: Writer, variable: str | None) -> str:
    """A mask, or one for each of a loop's iterations in turn."""
    if variable is None or w.chance(0.6):
        return some_mask(w)
    return f"[{some_mask(w)}, {some_mask(w)}][{variable} % 2]"


def _usual(w: Writer, x: str, d: int, mask: str, variable: str | None) -> str:
    heads = some_heads(w)
    q, k, v = w.choose(_apart, _apart, _packed, _packed_by_head, _mixed)(w, x, heads)
    q, k = positioned(w, q, k, variable)
    if w.chance(0.1):
        v = w.let(head_norm(w, v), "v")
    return attend(w, x, d, heads, q, k, v, mask)


def _apart(w: Writer, x: str, heads: Heads) -> tuple[str, str, str]:
    """Queries, keys and values by maps of their own, the whole rows of q and k normed now and then."""
    bias = w.chance(0.2)
    q = w.linear(w.content(x), heads.queries * heads.width, "q", bias)
    k = w.linear(w.content(x), heads.keys * heads.width, "k", bias)
    v = w.linear(w.content(x), heads.keys * heads.value_width, "v", bias)
    if w.chance(0.1):
        q, k = (
            f"rms_norm({w.let(q, 'q')}, 1e-5) as {w.new('norm')}",
            f"rms_norm({k}, 1e-5) as {w.new('norm')}",
        )
    q, k = w.let(f"split_heads({q}, {heads.queries})", "q"), w.let(f"split_heads({k}, {heads.keys})", "k")
    return q, k, w.let(f"split_heads({v}, {heads.keys})", "v")


def _packed(w: Writer, x: str, heads: Heads) -> tuple[str, str, str]:
    """One map for all three."""
    widths = [heads.queries * heads.width, heads.keys * heads.width, heads.keys * heads.value_width]
    q, k, v = w.new("q"), w.new("k"), w.new("v")
    w.write(f"{q}, {k}, {v} = split({w.linear(x, sum(widths), 'qkv')}, {widths})")
    counts = heads.queries, heads.keys, heads.keys
    return tuple(w.let(f"split_heads({n}, {c})", n[0]) for n, c in zip((q, k, v), counts, strict=True))


def _packed_by_head(w: Writer, x: str, heads: Heads) -> tuple[str, str, str]:
    """One map, in which each key head lies beside its queries and its values."""
    group = heads.queries // heads.keys
    widths = [group * heads.width, heads.width, heads.value_width]
    q, k, v = w.new("q"), w.new("k"), w.new("v")
    packed = w.linear(x, heads.keys * sum(widths), "qkv")
    w.write(f"{q}, {k}, {v} = split(split_heads({packed}, {heads.keys}), {widths})")
    return w.let(f"split_heads(merge_heads({q}), {heads.queries})", "q"), k, v


def _mixed(w: Writer, x: str, heads: Heads) -> tuple[str, str, str]:
    """Queries and keys that a convolution within heads mixes with those of earlier tokens."""
    q, k, v = _apart(w, x, heads)
    count = heads.queries + heads.keys
    both = w.let(f"concat(merge_heads({q}), merge_heads({k}))", "both")
    both = f"merge_heads({group_conv(w, f'split_heads({both}, {count})', count, heads.width, heads.width)})"
    q, k = w.new("q"), w.new("k")
    w.write(f"{q}, {k} = split({both}, {[heads.queries * heads.width, heads.keys * heads.width]})")
    return w.let(f"split_heads({q}, {heads.queries})", "q"), w.let(f"split_heads({k}, {heads.keys})", "k"), v


def _latent(w: Writer, x: str, d: int, mask: str, _variable: str | None) -> str:
    """Keys and values of all heads from one latent, beside a rotary key that they share."""
    count, plain, turned, value_width, rank = (
        w.choose(2, 3),
        w.choose(4, 6),
        4,
        w.choose(4, 6),
        w.choose(8, 10),
    )
    turn = some_rope(w)
    q, q_turned, c, key = (w.new(name) for name in ("q", "q_turned", "c", "key"))
    source = x if w.chance(0.6) else w.let(f"rms_norm({w.linear(x, 12, 'q_down')}, 1e-6) as {w.new('norm')}")
    heads = f"split_heads({w.linear(source, count * (plain + turned), 'q')}, {count})"
    w.write(f"{q}, {q_turned} = split({heads}, {[plain, turned]})")
    w.write(f"{c}, {key} = split({w.linear(x, rank + turned, 'down')}, {[rank, turned]})")
    if w.chance(0.7):
        c = w.let(f"rms_norm({c}, 1e-6) as {w.new('norm')}", "c")
    k, v = _from_latent(w, c, count, plain, value_width)
    key = f"expand_heads(rotate(split_heads({key}, 1), {turn}), {count})"
    k, q = w.let(f"concat({k}, {key})", "k"), w.let(f"concat({q}, rotate({q_turned}, {turn}))", "q")
    heads_of_it = Heads(count, count, plain + turned, value_width)
    return attend(w, x, d, heads_of_it, q, k, v, mask)


def _from_latent(w: Writer, c: str, heads: int, width: int, value_width: int) -> tuple[str, str]:
    k, v = w.new("k"), w.new("v")
    if w.chance(0.6):
        up = w.linear(c, heads * (width + value_width), "up", bias=False)
        w.write(f"{k}, {v} = split(split_heads({up}, {heads}), {[width, value_width]})")
    else:
        w.write(f"{k} = split_heads({w.linear(c, heads * width, 'k_up')}, {heads})")
        w.write(f"{v} = split_heads({w.linear(c, heads * value_width, 'v_up')}, {heads})")
    return k, v


def _differential(w: Writer, x: str, d: int, mask: str, _variable: str | None) -> str:
    """The difference of two attentions, which have their values in common."""
    heads = some_heads(w)
    v = w.let(f"split_heads({w.linear(x, heads.keys * heads.value_width, 'v')}, {heads.keys})", "v")
    found = []
    for _ in range(2):
        q = w.let(f"split_heads({w.linear(x, heads.queries * heads.width, 'q')}, {heads.queries})", "q")
        k = w.let(f"split_heads({w.linear(x, heads.keys * heads.width, 'k')}, {heads.keys})", "k")
        q, k = positioned(w, q, k)
        found.append(w.let(f"attention({q}, {k}, {v}, mask = {mask})", "o"))
    factor = w.choose("0.3", f"sum({w.parameter('4', 0.5, 'one')} * {w.parameter('4', 0.5, 'other')})")
    return behind(w, x, d, heads, w.let(f"{found[0]} - {factor} * {found[1]}", "o"))


def _twice_chosen(w: Writer, x: str, d: int, _mask: str, variable: str | None) -> str:
    """Two attentions with one choice of keys between them, which may be each head's or each group's."""
    heads = some_heads(w)
    q, k, v = _apart(w, x, heads)
    choosers = w.choose(heads.queries, heads.keys)
    chosen = w.let(best_of_heads(w, x, q if choosers == heads.queries else k, k, choosers), "chosen")
    q, k = positioned(w, q, k, variable)
    o = w.let(f"attention({q}, {k}, {v}, mask = causal, among = {chosen})", "o")
    if w.chance(0.4):
        other = w.let(f"split_heads({w.linear(x, heads.queries * heads.width, 'q')}, {heads.queries})", "q")
        o = w.let(f"{o} - 0.3 * attention({other}, {k}, {v}, mask = causal, among = {chosen})", "o")
    return behind(w, x, d, heads, o)


def _taken_apart(w: Writer, x: str, d: int, mask: str, variable: str | None) -> str:
    """Weights of keys by arithmetic on scores: heads mixed, sigmoids, shares of what later keys leave."""
    heads = some_heads(w)
    q, k, v = _apart(w, x, heads)
    q, k = positioned(w, q, k, variable)
    count = heads.queries
    scores = w.let(f"attention_scores({q}, {k})", "scores")
    if w.chance(0.4):
        scores = w.let(f"matmul(parameter([{count}, {count}]) as {w.new('before')}, {scores})", "scores")
    if w.chance(0.3):
        bias = w.let(f"by_query({some_bias(w, x, heads.queries)})", "bias")
        scores = w.let(f"upcast({scores}) + {bias}", "scores")
    kind = w.choose("softmax", "sigmoid", "shares")
    if kind == "sigmoid" and w.chance(0.4):  # no key of the token itself
        own = f"positions({x}) - 1, key_positions({x}), mask = {mask}"
        scores = w.let(f"hide_keys({scores}, {own})", "scores")
    else:
        scores = w.let(f"masked({scores}, {k}, {mask})", "scores")
    if kind == "shares":
        left = w.let(f"-softplus({scores})", "left")
        weights = w.let(f"sigmoid({scores}) * exp(sum({left}) - sum_so_far({left}))", "weights")
    else:
        weights = w.let(f"{kind}({scores})", "weights")
    return behind(w, x, d, heads, w.let(f"weighted_values(cast_like({weights}, {v}), {v})", "o"))


def _takes_choice(w: Writer, x: str, d: int, shared: Shared) -> str:
    """Keys are chosen in some iterations; those that follow see the same places."""
    heads = shared.heads
    q = w.let(f"split_heads({w.linear(x, heads.queries * heads.width, 'q')}, {heads.queries})", "q")
    k, v = keys_and_values(w, x, heads)
    with w.inside(f"if {shared.made}"):
        w.write(f"{shared.choice} = {some_choice(w, x, k, 'causal')}")
    q, k = positioned(w, q, k)
    return attend(w, x, d, heads, q, k, v, "causal", among=shared.choice)


def _takes_over(w: Writer, x: str, d: int, mask: str, shared: Shared) -> str:
    """Keys and values are made in some iterations and kept for those that follow."""
    heads = shared.heads
    with w.inside(f"if {shared.made}"):
        k, v = keys_and_values(w, x, heads)
        k = turned(w, k)
        w.write(f"{shared.keys}, {shared.values} = {k}, {v}")
    q = w.let(f"split_heads({w.linear(x, heads.queries * heads.width, 'q')}, {heads.queries})", "q")
    return attend(w, x, d, heads, turned(w, q), shared.keys, shared.values, mask)


def _mixes_values(w: Writer, x: str, d: int, mask: str, variable: str, shared: Shared) -> str:
    """Values of the first iteration are a part of those of later ones."""
    heads, first = shared.heads, shared.first_values
    q = w.let(f"split_heads({w.linear(x, heads.queries * heads.width, 'q')}, {heads.queries})", "q")
    k, v = keys_and_values(w, x, heads)
    q, k = positioned(w, q, k)
    with w.inside(f"if {variable} == 0"):
        w.write(f"{first} = {v}")
    share = w.choose("0.5", f"sigmoid({w.parameter('1', 0, 'share')})")
    mixed = w.let(f"{v} + {share} * {first}" if w.chance(0.5) else f"{v} * {share} + {first}", "v")
    return attend(w, x, d, heads, q, k, mixed, mask)
