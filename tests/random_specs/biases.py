"""Biases of scores, at random: by distance, by what queries or keys are, by what the caller says of pairs."""

from __future__ import annotations

from tests.random_specs.writer import Writer


def some_bias(w: Writer, x: str, heads: int, both_ways: bool = False) -> str:
    """A bias [B, heads, T, S] or with some of these dims 1; `both_ways`: queries see later keys, too."""
    if w.about and w.chance(0.7):
        return _given(w, x, heads)
    kinds = (
        _alibi,
        _alibi,
        _by_buckets,
        _by_buckets,
        _by_pairs,
        _by_content,
        _by_content,
        _by_key,
        _by_key,
        _grid,
    )
    return w.choose(*kinds)(w, x, heads, both_ways)


def _alibi(w: Writer, x: str, heads: int, _: bool) -> str:
    return f"alibi_bias(positions({x}), key_positions({x}), heads = {heads}, scale = {w.choose('1', '0.5')})"


def _by_buckets(w: Writer, x: str, heads: int, both_ways: bool) -> str:
    ways, table = (
        str(both_ways).lower(),
        f"parameter([8, {heads}], init = normal(std = 1)) as {w.new('table')}",
    )
    return (
        f"relative_bias(positions({x}), key_positions({x}), {table}, bidirectional = {ways}, distance = 20)"
    )


def _by_pairs(w: Writer, x: str, heads: int, _: bool) -> str:
    """Arithmetic on a query's position and a key's."""
    query, key = _pair(w, x)
    slopes = f"[[[-0.2 * h]] for h in 0..{heads}]"
    far = f"absolute(upcast({query} - {key}))"
    return w.let(w.choose(f"{far} * {slopes}", f"-9 * step({far} - 2.5) * step({far} - 4)"), "bias")


def _by_content(w: Writer, x: str, heads: int, both_ways: bool) -> str:
    """A value for each distance: learned, or made by each query or each key."""
    values = f"split_heads({w.linear(x, heads * 4, 'distances')}, {heads})"
    op = w.choose("distance_bias", "key_distance_bias")
    if op == "distance_bias" and w.chance(0.4):
        values = f"parameter([{heads}, {w.choose(3, 9)}], init = normal(std = 1)) as {w.new('distances')}"
    first = w.choose(-2, 0, 1) if both_ways else w.choose(0, 0, 1)
    beyond = w.choose("", ", beyond = nearest")
    return f"{op}(positions({x}), key_positions({x}), {values}, first = {first}{beyond})"


def _grid(w: Writer, x: str, heads: int, _: bool) -> str:
    """A row of a table for where a key is from a query, in rows of three, which each query may weigh."""
    query, key = _pair(w, x)
    down = w.let(f"whole_quotient({query}, 3) - whole_quotient({key}, 3)", "down")
    place = f"minimum(maximum({down}, 0), 3) * 5 + minimum(maximum({query} - {key} - 3 * {down} + 2, 0), 4)"
    table = f"parameter([20, {w.choose(1, heads)}], init = normal(std = 1)) as {w.new('grid')}"
    factor = f"query_bias(sigmoid({w.linear(x, heads, 'weigh')})) * " if w.chance(0.3) else ""
    return w.let(f"{factor}table_bias({place}, {table})", "bias")


def _pair(w: Writer, x: str) -> tuple[str, str]:
    query, key = w.new("query"), w.new("key")
    w.write(f"{query}, {key} = pairs({x})")
    return query, key


def _by_key(w: Writer, x: str, heads: int, _: bool) -> str:
    """A number of each key, by itself or where arithmetic on pairs lets it count."""
    count = w.choose(1, heads)
    own = w.let(w.linear(x, count, "keys"), "own")
    of_key = f"key_bias({w.choose(own, f'-softplus(upcast({own}))', f'linear_recurrence(upcast({own}))')})"
    kind = w.choose("alone", "alone", "near", "both", "equal")
    if kind == "alone":
        return of_key
    if kind == "both":
        return w.let(f"{of_key} + query_bias({w.linear(x, count, 'queries')})", "bias")
    if kind == "equal":
        return w.let(f"-3 * step(absolute(query_bias({own}) - {of_key}) - 0.5)", "bias")
    query, key = _pair(w, x)
    return w.let(f"{of_key} * step(absolute(upcast({query} - {key})) - 1.5)", "bias")


def _given(w: Writer, x: str, heads: int) -> str:
    """What a map makes of the caller's numbers of each pair."""
    count = w.choose(1, heads)
    numbers = f"pair_bias({w.linear(w.about or '', count, 'about')})"
    kind = w.choose("alone", "hidden", "and slopes")
    if kind == "hidden":
        return w.let(f"-9 * step(upcast({numbers}) - 0.5)", "bias")
    if kind == "and slopes":
        slopes = f"alibi_bias(positions({x}), key_positions({x}), heads = {heads}, scale = 1)"
        return w.let(f"{numbers} + {slopes}", "bias")
    return numbers
