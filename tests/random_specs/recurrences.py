"""Recurrences at random: what a state takes up and forgets, what is read of it, and what follows."""

from __future__ import annotations

from tests.random_specs.heads import Heads, behind, head_norm, some_rope
from tests.random_specs.writer import Writer


def recurrence(w: Writer, x: str, d: int) -> str:
    """A state of each head in place of keys and values, from [B, T, d] to [B, T, d]."""
    keys, width = w.choose(1, 2, 3), w.choose(4, 5, 8)
    heads = Heads(keys * w.choose(1, 1, 2, 3), keys, width, w.choose(width, 1, 6, 10))
    q, k, v = _operands(w, x, heads)
    changes = w.choose(*["adds"] * 3, "delta", "delta", "erases", "both")
    settings = []
    twice = changes in ("adds", "delta") and w.chance(0.2)
    if changes != "adds":
        k = w.let(_unit(w, k), "k")  # longer ones would let the state grow without bound
    if w.chance(0.8):
        settings.append(f"log_decay = {_of_tokens(w, x, heads) if twice else _log_decay(w, x, heads)}")
    if changes in ("delta", "both"):
        settings.append(f"beta = {w.let(f'sigmoid({_wide(w, w.linear(x, heads.queries))})', 'beta')}")
    if changes in ("erases", "both"):
        settings += _erases(w, x, heads)
    if w.chance(0.5):
        settings.append(f"scale = {w.choose(f'{width} ** -0.5', '0.3')}")
    if w.chance(0.25):
        settings.append("reads = before")
    if twice:
        o = w.let(f"linear_attention({', '.join(_twice(w, x, heads, q, k, v, settings))})", "o")
    else:
        o = w.let(f"linear_attention({', '.join([q, k, v, *settings])})", "o")
    o = _with_token(w, o, q, k, v, heads)
    return behind(w, x, d, heads, w.let(f"cast_like({o}, {x})", "o"))


def _twice(w: Writer, x: str, heads: Heads, q: str, k: str, v: str, settings: list[str]) -> list[str]:
    """The operands of a recurrence whose state every token changes two times."""
    k_2 = w.let(f"split_heads({w.linear(x, heads.keys * heads.width, 'k')}, {heads.keys})", "k")
    k_2 = w.let(f"cast_like({_unit(w, k_2)}, {k})", "k")
    v_2 = w.let(f"0.5 * {v}", "v")
    betas = [f"beta = [{each[7:]}, 0.5 * {each[7:]}]" for each in settings if each.startswith("beta = ")]
    others = [each for each in settings if not each.startswith("beta = ")]
    return [q, f"[{k}, {k_2}]", f"[{v}, {v_2}]", *betas, *others, "steps = 2"]


def _of_tokens(w: Writer, x: str, heads: Heads) -> str:
    """A decay for each token, even where it is the same for all of them."""
    if w.chance(0.3):
        same = f"[-0.1 * (1 + h) for h in 0..{heads.queries}]"
        return w.let(f"{same} * upcast(ones(slice({x}, 0, {heads.queries})))", "decay")
    return w.let(f"-softplus(upcast({w.linear(x, heads.queries, 'decay')}))", "decay")


def convolution(w: Writer, x: str, d: int) -> str:
    """A convolution between two gates, from [B, T, d] to [B, T, d]."""
    before, after, y = w.new("before"), w.new("after"), w.new("y")
    w.write(f"{before}, {after}, {y} = split({w.linear(x, 3 * d, 'in')}, 3)")
    if w.chance(0.4):
        groups = w.choose(2, 4)
        y = w.let(f"split_heads({before} * {y}, {groups})", "y")
        y = w.let(f"merge_heads({group_conv(w, y, groups, d // groups, d // groups)})", "y")
    else:
        y = w.let(_convolved(w, f"{before} * {y}"), "y")
    return w.linear(f"{after} * {y}", d, "out")


def group_conv(w: Writer, x: str, groups: int, inner: int, width: int) -> str:
    """A convolution of groups [B, T, groups, inner], with something before the first token or nothing."""
    settings = w.choose("", ", bias = true")
    if w.chance(0.4):
        settings += f", first = {w.parameter(f'{groups}, {inner}', 0.5, 'first')}"
    return f"GroupConv({x}, {width}, taps = {w.choose(1, 2, 3)}{settings}) as {w.new('group_conv')}"


def gated_sum(w: Writer, x: str, d: int) -> str:
    """A number kept for each value by itself, which fades as the data say, or the sum so far."""
    fade = f", log_decay = -softplus(upcast({w.linear(x, d, 'fade')}))" if w.chance(0.7) else ""
    h = w.let(f"linear_recurrence(upcast({w.linear(x, d, 'value')}){fade})", "h")
    if not fade:
        h = w.let(f"{h} / unsqueeze(upcast(positions({x})) + 1)", "h")
    return w.linear(w.let(f"cast_like({h}, {x})", "h"), d, "out")


def exponential(w: Writer, x: str, d: int) -> str:
    """A recurrence with gates that are exponentials, kept within range by their maximum."""
    count, width = w.choose(1, 2, 3), w.choose(1, 4, 6)
    q, k, v = (w.let(f"split_heads({w.linear(x, count * width, word)}, {count})", word) for word in "qkv")
    gate = w.let(f"upcast({w.choose('{}', '4 * tanh({})').format(w.linear(x, count, 'gate'))})", "gate")
    decay = w.choose(
        f"-exp(parameter([{count}], wide = true) as {w.new('decay')})",
        f"-softplus(upcast({w.linear(w.content(x), count, 'forget')}))",
    )
    m, change, sums, weights = (w.new(name) for name in ("m", "change", "sums", "weights"))
    first = w.choose("", "", ", first = 0", ", first = -2")
    w.write(f"{m}, {change} = running_maximum({gate}, log_decay = {decay}{first})")
    k = w.let(f"upcast({k}) * unsqueeze(exp({gate} - {m}))", "k")
    v = w.let(f"concat(upcast({v}), ones(unsqueeze({m})))", "v")
    o = w.let(f"linear_attention(upcast({q}), {k}, {v}, log_decay = {change})", "o")
    w.write(f"{sums}, {weights} = split({o}, [{width}, 1])")
    o = w.let(f"{sums} / (maximum(absolute({weights}), unsqueeze(exp(-{m}))) + 0.1)", "o")
    return behind(w, x, d, Heads(count, count, width, width), w.let(f"cast_like({o}, {x})", "o"))


def _operands(w: Writer, x: str, heads: Heads) -> tuple[str, str, str]:
    """Queries, keys and values, by one map or several, convolved or not."""
    sizes = (heads.keys, heads.width), (heads.keys, heads.width), (heads.queries, heads.value_width)
    widths = [count * width for count, width in sizes]
    if w.chance(0.5):
        packed = w.let(w.linear(x, sum(widths), "qkv"), "qkv")
        if w.chance(0.5):
            packed = w.let(f"silu({_convolved(w, packed)})", "qkv")
        names = [w.new("q"), w.new("k"), w.new("v")]
        w.write(f"{', '.join(names)} = split({packed}, {widths})")
    else:
        names = [w.let(w.linear(x, width, word), word) for width, word in zip(widths, "qkv", strict=True)]
        if w.chance(0.3):
            names = [w.let(f"silu({_convolved(w, name)})", name[0]) for name in names]
    q, k, v = (
        w.let(f"split_heads({name}, {count})", name[0]) for name, (count, _) in zip(names, sizes, strict=True)
    )
    if w.chance(0.2):
        v = w.let(f"upcast({v})", "v")
    kind = w.choose("none", "none", "rotate", "unit", "norm", "feature")
    if kind == "rotate":
        turn = some_rope(w) if heads.width % 2 == 0 else "rope(theta = 100, width = 4)"
        q, k = w.let(f"rotate({q}, {turn})", "q"), w.let(f"rotate({k}, {turn})", "k")
    if kind == "unit":
        q, k = w.let(_unit(w, q), "q"), w.let(_unit(w, k), "k")
    if kind == "norm":
        q, k = w.let(head_norm(w, q), "q"), w.let(head_norm(w, k), "k")
    if kind == "feature":
        q, k = w.let(f"softmax({q})", "q"), w.let(f"softmax({k})", "k")
    return q, k, v


def _convolved(w: Writer, x: str) -> str:
    bias = w.choose("", ", bias = true")
    return f"CausalConv({x}, taps = {w.choose(2, 3, 4)}{bias}) as {w.new('conv')}"


def _unit(w: Writer, x: str) -> str:
    """Keys of length 1."""
    h = w.let(w.choose(x, f"upcast({x})"), "h")
    unit = f"{h} * rsqrt(sum({h} ** 2) + 1e-6)"
    return w.choose(unit, f"cast_like({unit}, {x})")


def _wide(w: Writer, x: str) -> str:
    return w.choose(x, f"upcast({x})")


def _log_decay(w: Writer, x: str, heads: Heads) -> str:
    """The logarithm of what is left of a head's state or of each of its rows, for all tokens or each."""
    count, width = heads.queries, heads.width
    by_row = w.chance(0.5)
    wide = w.choose("", ", wide = true")
    shape = f"{count}, {width}" if by_row else str(count)
    rates = f"exp(parameter([{shape}], init = fill(0){wide}) as {w.new('rate')})"
    if not by_row and w.chance(0.2):
        return w.let(f"[log(1 - 2 ** (-1 - h)) for h in 0..{count}]", "decay")
    kind = w.choose("constant", "step", "step", "rows") if by_row else w.choose("constant", "step", "step")
    if kind == "constant":
        return w.let(f"-{rates}", "decay")
    if kind == "step":
        step = w.let(f"softplus({_wide(w, w.linear(w.content(x), count, 'step', bias=True))})", "step")
        return w.let(f"-{rates} * {f'unsqueeze({step})' if by_row else step}", "decay")
    rows = w.let(f"split_heads({w.linear(x, count * width, 'decay')}, {count})", "rows")
    return w.let(w.choose(f"-softplus({_wide(w, rows)})", f"-{rates} * sigmoid({rows})"), "decay")


def _erases(w: Writer, x: str, heads: Heads) -> list[str]:
    """What is read of the state and taken out of it, with a strength for each row."""
    count = heads.queries
    along = w.let(f"split_heads({w.linear(x, count * heads.width, 'erase')}, {count})", "along")
    along = w.let(_unit(w, along), "along")
    share = w.let(f"sigmoid(split_heads({w.linear(x, count * heads.width, 'share')}, {count}))", "share")
    return [f"erase = -{along}", f"renew = {w.let(f'{along} * {share}', 'renew')}"]


def _with_token(w: Writer, o: str, q: str, k: str, v: str, heads: Heads) -> str:
    """What was read, now and then with something of the token itself."""
    kind = w.choose("none", "none", "skip", "bonus")
    if kind == "skip":
        factors = w.parameter(str(heads.queries), 1, "skip")
        return w.let(f"{o} + unsqueeze({factors}) * {v}", "o")
    if kind == "bonus" and heads.queries == heads.keys:
        bonus = w.parameter(f"{heads.keys}, {heads.width}", 1, "bonus")
        return w.let(f"{o} + sum({q} * {bonus} * {k}) * {v}", "o")
    return o
