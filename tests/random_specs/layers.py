"""Layers at random: where norms and residuals stand, how layers follow each other, what they carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.random_specs.attentions import Shared
from tests.random_specs.biases import some_bias
from tests.random_specs.heads import some_heads
from tests.random_specs.lookups import looked_up
from tests.random_specs.mixers import mixer
from tests.random_specs.rows import activation, bounded, experts, mlp, norm
from tests.random_specs.writer import VOCABULARY, Writer

Sublayer = Callable[[str], str]  # the name of its input [B, T, d] -> an expression for its result [B, T, d]


def stack(w: Writer, d: int) -> None:
    """One or two series of layers."""
    for _ in range(w.choose(1, 1, 1, 2)):
        w.choose(*[_loop] * 6, _nested, _nested, _shared_layers, _again, _streams, _twins, _dense, _unrolled)(
            w, d
        )


def _loop(w: Writer, d: int) -> None:
    shared, count = _carried(w), w.choose(2, 3, 4)
    inputs = _inputs(w, count) if w.chance(0.1) else None
    with w.inside(f"for i in 0..{count} as {w.new('layers')}"):
        _layers(w, d, "i", shared)
        if inputs:
            part = w.let(f"slice({inputs}, i * 6, (i + 1) * 6)", "part")
            gate = activation(w, w.let(w.linear("x", 6, "gate"), "gate"))
            w.write(f"x = x + {w.linear(f'{gate} * {part}', d, 'input')}")


def _inputs(w: Writer, layers: int) -> str:
    """A small embedding of each token for each layer, all in one."""
    return w.let(f"embedding(tokens, {VOCABULARY}, {layers * 6}) as {w.new('inputs')}", "inputs")


def _carried(w: Writer) -> Shared | None:
    """What is carried through a loop besides x, written before it."""
    shared = Shared(some_heads(w))
    kind = w.choose(*["nothing"] * 5, "keys", "keys", "first values", "choice")
    if kind == "choice":
        name = w.new("among")
        w.write(f"{name} = none")
        return replace(shared, made=w.choose("{0} % 2 == 0", "{0} < 1"), choice=name)
    if kind == "keys":
        names = w.new("keys"), w.new("values")
        w.write(f"{names[0]}, {names[1]} = none, none")
        made = w.choose("{0} % 2 == 0", "{0} < 1", "{0} < 2", "not {0} in [1]")
        return replace(shared, made=made, keys=names[0], values=names[1])
    if kind == "first values":
        first = w.new("first")
        w.write(f"{first} = none")
        heads = replace(shared.heads, value_width=shared.heads.width)
        return replace(shared, heads=heads, first_values=first)
    return None


def _layers(w: Writer, d: int, variable: str, shared: Shared | None) -> None:
    """The body of a loop: one layer, or one of two kinds."""
    if shared is not None and shared.made is not None:
        shared = replace(shared, made=shared.made.format(variable))
    if shared is None and w.chance(0.3):
        condition = w.choose("{0} % 2 == 0", "{0} == 0", "{0} > 0", "{0} in [1, 3]").format(variable)
        with w.inside(f"if {condition}"):
            _layer(w, d, variable, None)
        if w.chance(0.7):
            with w.inside("else"):
                _layer(w, d, variable, None)
    else:
        _layer(w, d, variable, shared)
    if w.chance(0.15):
        _aside(w, d, variable)


def _layer(w: Writer, d: int, variable: str | None, shared: Shared | None, sparse: float = 0.3) -> None:
    """Attention and an MLP or experts around the stream x, in one of the usual arrangements."""

    def attend(h: str) -> str:
        return mixer(w, h, d, variable, shared)

    def feed(h: str) -> str:
        return (experts if w.chance(sparse) else mlp)(w, h, d)

    kind = w.choose(*["sequential"] * 5, "parallel", "parallel", "attention", "feed")
    if kind == "parallel":
        _parallel(w, attend, feed)
        return
    if kind != "feed":
        residual(w, d, "x", attend)
    if kind != "attention":
        residual(w, d, "x", feed)


def _parallel(w: Writer, attend: Sublayer, feed: Sublayer) -> None:
    h = w.let(norm(w, "x"))
    g = h if w.chance(0.6) else w.let(norm(w, "x"))
    a, m = w.let(attend(h), "a"), w.let(feed(g), "m")
    w.write(f"x = {w.choose(f'x + {a} + {m}', f'{m} + {a} + x', f'x + 0.5 * ({a} + {m})')}")


def residual(w: Writer, d: int, x: str, sublayer: Sublayer) -> None:
    """x with what a sublayer makes of it, with norms in one of the usual places."""
    kind = w.choose(*["pre"] * 5, "post", "sandwich", "behind", "deep", "gated", "scaled", "lerp", "bare")
    before = kind in ("pre", "sandwich", "gated", "scaled", "lerp")
    h = w.let(norm(w, x)) if before else x
    y = w.let(sublayer(h), "y")
    if kind in ("sandwich", "behind"):
        y = w.let(norm(w, y), "y")
    if kind == "gated":
        y = w.let(f"{y} * sigmoid({w.linear(h, w.choose(1, d), 'gate')})", "y")
    if kind == "scaled":
        scale = w.choose("0.4", "2", w.parameter(str(d), 1, "scale"), w.parameter("1", 1, "scale"))
        y = w.let(f"{y} * {scale}", "y")
    total = w.choose(f"{x} + {y}", f"{x} + {y}", f"{y} + {x}")
    if kind == "deep":
        total = f"{w.choose('1.5', '0.7')} * {x} + {y}"
    if kind == "lerp":
        rate = w.let(f"absolute({w.parameter(str(d), 0.3, 'rate')})", "rate")
        total = f"{x} + {rate} * ({y} - {x})"
    if kind in ("post", "deep"):
        total = norm(w, w.let(total, "s"))
    if kind == "bare":
        total = bounded(f"({total})")
    w.write(f"{x} = {total}")


def _aside(w: Writer, d: int, variable: str) -> None:
    """What few models have between their layers."""
    w.choose(_token_again, _shift, _convolve, _last_only, _factor, _by_positions, looked_up, looked_up)(
        w, d, variable
    )


def _token_again(w: Writer, d: int, _variable: str) -> None:
    w.write(f"x = x + embedding(tokens, {VOCABULARY}, {d}) as {w.new('again')}")


def _shift(w: Writer, d: int, _variable: str) -> None:
    share = w.choose("0.5", w.parameter(str(d), 0.5, "share"))
    share = w.let(share, "share")
    mixed = w.let(f"{share} * x + (1 - {share}) * shifted(x, {w.choose(1, 2)})", "mixed")
    w.write(f"x = x + {w.linear(mixed, d, 'mix')}")


def _by_positions(w: Writer, d: int, _variable: str) -> None:
    """What positions alone say: a term, or a factor of each token."""
    if w.chance(0.5):
        places = w.let(f"sinusoid(x, positions(x), theta = {w.choose(100, 10000)})", "places")
        w.write(f"x = x + {w.linear(activation(w, w.let(w.linear(places, 10, 'in'))), d, 'out')}")
    else:
        fading = w.let(f"sigmoid(upcast(positions(x)) / {w.choose(-8, 4)})", "fading")
        w.write(f"x = x * cast_like(unsqueeze({fading}), x)")


def _convolve(w: Writer, d: int, _variable: str) -> None:
    h = w.let(norm(w, "x"))
    conv = (
        f"CausalConv({w.let(w.linear(h, d, 'in'))}, taps = {w.choose(2, 4)}, bias = true) as {w.new('conv')}"
    )
    w.write(f"x = x + {w.linear(activation(w, w.let(conv, 'y')), d, 'out')}")


def _last_only(w: Writer, _d: int, variable: str) -> None:
    with w.inside(f"if {variable} == 1"):
        w.write("x = tanh(x)")


def _factor(w: Writer, d: int, variable: str) -> None:
    of_columns = f"[max(0.5, 1 - ({variable} - n / 4) ** 2) for n in 0..{d}]"
    w.write(
        f"x = x * {w.choose('0.5', f'[0.5, 2][{variable} % 2]', f'({variable} + 1) ** -0.5', of_columns)}"
    )


def _nested(w: Writer, d: int) -> None:
    """Loops in loops, with a layer of the inner one and something around it."""
    shared = _carried(w) if w.chance(0.4) else None
    with w.inside(f"for i in 0..2 as {w.new('groups')}"):
        if w.chance(0.4):
            residual(w, d, "x", lambda h: mlp(w, h, d))
        with w.inside(f"for j in 0..{w.choose(2, 3)} as {w.new('layers')}"):
            _layers(w, d, w.choose("i", "j"), shared)
        if w.chance(0.4):
            residual(w, d, "x", lambda h: mixer(w, h, d, "i"))


def _shared_layers(w: Writer, d: int) -> None:
    """One layer's weights for several layers, each with keys of its own."""
    with w.block("Layer", "x, i") as name:
        _layer(w, d, None, None, sparse=0)
        w.write("return x")
    path, times = w.new("shared"), w.choose(2, 3)
    with w.inside(f"for i in 0..{times}"):
        w.write(f'x = {name}(x, i, tied_to = "{path}" if i > 0) as {path}')
        if w.chance(0.3):
            w.write(f"x = x * {w.parameter(str(d), 1, 'step')}.{{i}}")


def _again(w: Writer, d: int) -> None:
    """Several layers that run again in their order, each time between weights of that time's own."""
    with w.block("Layer", "x, i") as name:
        _layer(w, d, None, None)
        w.write("return x")
    path = w.new("again")
    with w.inside("for time in 0..2"):
        with w.inside("for i in 0..2"):
            w.write(f'name = "{path}." + i')
            w.write(f"x = {name}(x, i, tied_to = name if time > 0) as {{name}}")
        w.write(f"x = x * {w.parameter(str(d), 1, 'step')}.{{time}}")


def _streams(w: Writer, d: int) -> None:
    """Several residual streams, which each layer reads as one and writes to with weights of its own."""
    count = w.choose(2, 3)
    xs = w.let(f"[x] * {count}", "xs")
    with w.inside(f"for i in 0..{w.choose(2, 3)} as {w.new('layers')}"):
        mix = f"tanh({w.linear(f'{xs}[0]', 2 * count, 'mix')})"  # else streams would grow without bound
        shares = w.let(f"[split({mix}, {2 * count})]", "shares")
        h = w.let(" + ".join(f"{shares}[{n}] * {xs}[{n}]" for n in range(count)))
        h = w.let(norm(w, h))
        y = w.let((mixer(w, h, d, "i") if w.chance(0.5) else mlp(w, h, d)), "y")
        w.write(f"{xs} = [{', '.join(f'{xs}[{n}] + {shares}[{count + n}] * {y}' for n in range(count))}]")
    w.write(f"x = {' + '.join(f'{xs}[{n}]' for n in range(count))}")


def _twins(w: Writer, d: int) -> None:
    """Values that a loop carries from layer to layer, all of which start as the same one."""
    old, older = w.let("x", "old"), w.let(w.choose("x", "tanh(x)"), "older")
    with w.inside(f"for i in 0..{w.choose(2, 3, 4)} as {w.new('layers')}"):
        h = w.let(norm(w, "x"))
        y = w.let(mixer(w, h, d, "i") if w.chance(0.5) else mlp(w, h, d), "y")
        shift = f"{older}, {old}, x = {old}, x, x + {y} + 0.1 * {older}"
        turn = f"{old}, {older}, x = tanh({old}), {older}, {older} + {old} * {y}"
        w.write(w.choose(shift, turn))
    if w.chance(0.3):
        w.write(f"x = x - 0.3 * {old}")


def _dense(w: Writer, d: int) -> None:
    """Each layer reads the results of all before it."""
    xs = w.let("[x]", "xs")
    with w.inside(f"for i in 0..3 as {w.new('layers')}"):
        h = w.let(f"linear(concat({xs}), {d}) as {w.new('read')}")
        h = w.let(norm(w, h))
        y = w.let(mixer(w, h, d, "i") if w.chance(0.5) else mlp(w, h, d), "y")
        w.write(f"{xs} = {xs} + [{y}]")
    w.write(f"x = {w.choose(f'{xs}[-1] + x', f'{xs}[-1]', f'linear(concat({xs}), {d}) as ' + w.new('read'))}")


def _unrolled(w: Writer, d: int) -> None:
    """No loop; what comes first is read again at the end."""
    first = w.let("x", "first")
    bias = some_bias(w, "x", 2) if w.chance(0.3) else None
    _layer(w, d, None, None)
    if bias:
        q, k, v = w.new("q"), w.new("k"), w.new("v")
        w.write(f"{q}, {k}, {v} = split({w.linear('x', 24, 'qkv')}, 3)")
        heads = ", ".join(f"split_heads({each}, 2)" for each in (q, k, v))
        o = w.let(f"attention({heads}, mask = causal, bias = {bias})", "o")
        w.write(f"x = x + {w.linear(f'merge_heads({o})', d, 'o')}")
    w.write(f"x = x * {w.parameter(str(d), 1, 'old')} + {first} * {w.parameter(str(d), 0, 'new')}")
