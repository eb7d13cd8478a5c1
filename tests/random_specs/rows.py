"""What a layer does to each token by itself, at random: norms, activations, MLPs and experts."""

from __future__ import annotations

from tests.random_specs.writer import Writer


def norm(w: Writer, x: str) -> str:
    """A norm of rows or, now and then, a bound alone: without any, attention is all or nothing."""
    eps = w.choose("1e-6", "1e-5", "0.01")
    path = w.new("norm")
    return w.choose(
        f"rms_norm({x}, {eps}) as {path}",
        f"rms_norm({x}, {eps}) as {path}",
        f"rms_norm({x}, {eps}, offset = 1, cast = after) as {path}",
        f"rms_norm({x}, {eps}, cast = after) as {path}",
        f"rms_norm({x}, {eps}, weight = false)",
        f"layer_norm({x}, {eps}) as {path}",
        f"layer_norm({x}, {eps}, bias = false) as {path}",
        f"layer_norm({x}, {eps}, offset = 1) as {path}",
        f"layer_norm({x}, {eps}, weight = false, bias = false)",
        bounded(x),
    )


def bounded(x: str) -> str:
    """x as it is where it is small: squares of squares would leave the range of float64."""
    return f"20 * tanh({x} / 20)"


def activation(w: Writer, x: str) -> str:
    return w.choose(
        f"silu({x})",
        f"silu({x})",
        f"gelu({x})",
        f"gelu_tanh({x})",
        f"relu({x})",
        f"relu({x}) ** 2",
        f"tanh({x})",
        f"{x} * sigmoid(1.7 * {x})",
        f"sigmoid({x})",
        f"softplus({x})",
        f"{x} * (1 + erf({x}))",
        f"{x} / sqrt(1 + {x} ** 2)",
        f"{x} + 0.5 * sin(2 * {x}) * cos({x})",
        f"minimum(maximum({x}, -2), 2)",
        f"clamp({x}, -1.5, 2)",
        f"{x} * stop_gradient(sigmoid({x}))",
        x,
    )


def mlp(w: Writer, x: str, d: int) -> str:
    """An MLP of one of the usual kinds, at any width."""
    kinds = (
        *[_gated] * 2,
        _packed_gate,
        _plain,
        _standard,
        _narrow,
        _fused,
        _island,
        _by_heads,
        _by_matrix,
        _by_slices,
    )
    return w.choose(*kinds)(w, x, d)


def _gated(w: Writer, x: str, d: int) -> str:
    width = w.choose(20, 32)
    gate, up = w.let(w.linear(x, width, "gate"), "gate"), w.let(w.linear(x, width, "up"), "up")
    if w.chance(0.15):
        up = f"({up} + 1)"
    product = w.let(f"{activation(w, gate)} * {up}", "a")
    return w.linear(norm(w, product) if w.chance(0.1) else product, d, "down")


def _packed_gate(w: Writer, x: str, d: int) -> str:
    width = w.choose(20, 32)
    gate, up = w.new("gate"), w.new("up")
    parts = f"{w.choose('split', 'split_interleaved')}({w.linear('x', 2 * width, 'gate_up')}, 2)"
    if w.chance(0.2):
        with w.block("Halves", "x") as name:
            w.write(f"return {parts}")
        parts = f"{name}(x) as {w.new('halves')}"
    w.write(f"{gate}, {up} = {parts.replace('(x', f'({x}')}")
    return w.linear(w.let(f"{activation(w, gate)} * {up}", "a"), d, "down")


def _plain(w: Writer, x: str, d: int) -> str:
    return w.linear(activation(w, w.let(w.linear(x, w.choose(20, 32), "up"), "up")), d, "down")


def _standard(w: Writer, x: str, _d: int) -> str:
    """The block of std."""
    act = w.choose("silu", "gelu", "gelu_tanh", "relu")
    bias = w.choose("", ", bias = true")
    return f"GatedMLP({x}, {w.choose(20, 32)}, {act}{bias}) as {w.new('mlp')}"


def _by_heads(w: Writer, x: str, d: int) -> str:
    """Parts of a row that maps of their own widen and narrow."""
    heads, width = w.choose(2, 4), w.choose(5, 8)
    layout = w.choose("", ", layout = in_out")
    names = w.choose("", ", names = joined")
    up = w.let(f"head_linear(split_heads({x}, {heads}), {width}, bias = true{names}) as {w.new('up')}", "up")
    y = w.let(activation(w, up), "y")
    down = f"merge_heads(head_linear({y}, {d // heads}{layout}) as {w.new('down')})"
    return w.let(down, "y") if w.chance(0.5) else w.linear(w.let(down, "y"), d, "down")


def _by_matrix(w: Writer, x: str, d: int) -> str:
    """Parts of a row, mixed by a matrix that each token makes."""
    parts = w.choose(2, 4)
    matrix = f"split_heads({w.linear(x, parts * parts, 'matrix')}, {parts})"
    matrix = w.let(
        w.choose(f"softmax({matrix})", f"transpose(softmax({matrix}))", f"tanh({matrix})"), "matrix"
    )
    y = w.let(f"merge_heads(matmul({matrix}, split_heads({x}, {parts})))", "y")
    scaled = f"{y} * [1 + c / 20 for c in 0..{d}]"
    return w.linear(w.choose(y, scaled, f"{y} - mean({y})"), d, "out")


def _by_slices(w: Writer, x: str, d: int) -> str:
    """Parts of a row that go ways of their own: normed, activated, gated by one another, left alone."""
    width, cut = w.choose(20, 32), w.choose(4, 8)
    y = w.let(w.linear(x, width, "up"), "up")
    first, rest = w.let(f"slice({y}, 0, {cut})", "first"), w.let(f"slice({y}, {cut}, {width})", "rest")
    first = w.let(w.choose(norm(w, first), activation(w, first), f"softmax({first})"), "first")
    if w.chance(0.4):
        rest = w.let(f"{rest} * sigmoid(slice({y}, {cut - 1}, {cut}))", "rest")
    else:
        rest = w.let(w.choose(norm(w, rest), activation(w, rest), f"{rest} - mean({y})"), "rest")
    return w.linear(w.let(f"concat({first}, {rest})", "both"), d, "down")


def _joined(w: Writer, x: str, d: int) -> str:
    """With the tensors of all experts in one, called and laid out in the ways of some checkpoints."""
    rows = w.choose("", ", stacking = rows")
    bias = "" if rows else w.choose("", ", bias = true")
    layout = w.choose("", ", layout = in_out")
    up = w.let(f"linear({x}, {w.choose(20, 32)}, names = joined{rows}{bias}{layout}) as {w.new('up')}", "up")
    return f"linear({activation(w, up)}, {d}, names = joined{rows}{bias}) as {w.new('down')}"


def _fused(w: Writer, x: str, d: int) -> str:
    """Elementwise ops that a fusion of the spec's own names."""
    ops = w.choose("square(relu({0})) * {1}", "tanh({0}) + {1} * {0}", "{1} * exp(-absolute({0}))")
    name, width = w.new("own"), w.choose(20, 32)
    if w.chance(0.5):
        w.define(
            f"fuse {name}(x) {{", "  a, b = split(x, 2)", f"  y = {ops.format('a', 'b')}", "  return y", "}"
        )
        a, b = w.new("a"), w.new("b")
        w.write(f"{a}, {b} = split({w.linear(x, 2 * width, 'both')}, 2)")
    else:
        w.define(f"fuse {name}(a, b) {{", f"  y = {ops.format('a', 'b')}", "  return y", "}")
        a, b = w.let(w.linear(x, width, "a"), "a"), w.let(w.linear(x, width, "b"), "b")
    return w.linear(w.let(ops.format(a, b), "y"), d, "down")


def _island(w: Writer, x: str, d: int) -> str:
    """Ops in float32 between those in the model's dtype."""
    gate, up = w.let(w.linear(x, 20, "gate"), "gate"), w.let(w.linear(x, 20, "up"), "up")
    wide = w.let(f"upcast({gate})", "wide")
    made = w.let(w.choose(activation(w, wide), f"softmax({wide})", norm(w, wide)), "made")
    product = w.choose(
        f"cast_like({made}, {x}) * {up}",
        f"cast_like({made} * {up}, {x})",
        f"cast_like({made} + rms_norm({up}, 1e-5) as {w.new('norm')}, {x})",
    )
    return w.linear(w.let(product, "product"), d, "down")


def _narrow(w: Writer, x: str, d: int) -> str:
    """A branch of low rank."""
    return w.linear(w.let(w.linear(x, 6, "left"), "low"), d, "right")


# What leaves choices out, in training alone.
_SPARING = (
    "drop_crowded({}, {}, {}, factor = 1.25)",
    "sampled({}, surely = 1, factor = 2)",
    "drop_crowded(sampled({}, surely = 1, factor = 2), {}, {}, factor = 2)",
)


def experts(w: Writer, x: str, d: int) -> str:
    """Experts behind a router, now and then beside one that all tokens share."""
    count, choices = w.choose((4, 2), (6, 2), (6, 3), (4, 1))
    weights, chosen, scores = route(w, x, count, choices)
    if w.chance(0.25):
        limit = w.choose(f"within_capacity({{}}, {chosen}, {count}, {w.choose(3, 6)})", *_SPARING)
        weights = w.let(limit.format(weights, chosen, count), "weights")
        if w.chance(0.5):
            chosen = w.let(f"unless_zero({chosen}, {weights})", "chosen")
    _terms(w, chosen, scores, count)
    y = _mixture(w, x, d, count, weights, chosen)
    y = w.let(f"cast_like({y}, {x})", "y")
    if w.chance(0.3):
        shared = w.let(mlp(w, x, d), "shared")
        if w.chance(0.5):
            shared = f"sigmoid({w.linear(x, 1, 'shared_gate')}) * {shared}"
        y = w.let(f"{y} + {shared}", "y")
    return y


def route(w: Writer, x: str, count: int, choices: int, usual: bool = False) -> tuple[str, str, str]:
    """The weights of choices, the choices themselves, and what they were chosen by, all scores.

    `usual`: a softmax, so that there are as many choices as asked for.
    """
    if not usual and w.chance(0.1):
        return _by_positions(w, x, count, choices)
    wide = ", wide = true" if w.chance(0.3) else ""
    seen = f"jitter({x}, 0.1)" if w.chance(0.1) else w.content(x)
    bias = ", bias = true" if w.chance(0.2) else ""
    logits = w.let(f"linear({seen}, {count}{bias}{wide}) as {w.new('router')}", "logits")
    weights, chosen = w.new("weights"), w.new("chosen")
    kind = w.choose("softmax", "softmax", *[] if usual else ["after", "sigmoid", "biased", "grouped"])
    if kind == "after":
        w.write(f"{weights}, {chosen} = top_k({logits}, {choices})")
        return w.let(f"{w.choose('softmax', 'sigmoid')}(upcast({weights}))", "weights"), chosen, logits
    scores = w.let(
        f"{'sigmoid' if kind == 'sigmoid' else w.choose('softmax', 'sigmoid')}({logits})", "scores"
    )
    if kind in ("biased", "grouped"):
        weights = _choose_apart(w, scores, chosen, count, choices, grouped=kind == "grouped")
    else:
        w.write(f"{weights}, {chosen} = top_k({scores}, {choices})")
    if w.chance(0.5):
        weights = w.let(f"{weights} / (sum({weights}) + {w.choose('1e-20', '0.01')})", "weights")
    return w.let(f"{weights} * {w.choose('1', '2.5')}", "weights"), chosen, scores


def _by_positions(w: Writer, x: str, count: int, choices: int) -> tuple[str, str, str]:
    """Experts in turn, whatever the tokens are, with weights by tokens or by positions alone."""
    place = w.let(f"unsqueeze(positions({x}))", "place")
    places = w.let(f"concat({', '.join(f'{place} + {n}' for n in range(choices))})", "places")
    chosen = w.let(f"{places} - {count} * whole_quotient({places}, {count})", "chosen")
    read = w.let(f"sinusoid({x}, positions({x}))", "read") if w.chance(0.5) else x
    scores = w.let(f"softmax(upcast({w.linear(read, count, 'router')}))", "scores")
    return w.let(f"gather({scores}, {chosen})", "weights"), chosen, scores


def _choose_apart(w: Writer, scores: str, chosen: str, count: int, choices: int, grouped: bool) -> str:
    """Choose by something else than what the weights are taken from; the weights."""
    choice = scores
    if not grouped or w.chance(0.5):
        bias = f"parameter([{count}], init = fill(0), trained = false, wide = true) as {w.new('bias')}"
        choice = w.let(f"{scores} + {bias}", "choice")
    if grouped:
        score, fill = w.choose("largest", "sum_top_two"), w.choose("zero", "minus_infinity")
        choice = w.let(f"group_mask({choice}, 2, {w.choose(1, 2)}, score = {score}, fill = {fill})", "choice")
    w.write(f"_, {chosen} = top_k({choice}, {min(choices, count // 2)})")
    factors = f" * {w.parameter(str(count), 1, 'factors')}" if w.chance(0.2) else ""
    return w.let(f"gather({scores}{factors}, {chosen})", "weights")


def _terms(w: Writer, chosen: str, scores: str, count: int) -> None:
    """Terms of the loss, and notes for one that follows the layers."""
    over = w.choose("batch", "sequence")
    if w.chance(0.2):
        w.write(f"loss z = 0.01 * token_mean(logsumexp({scores}) ** 2)")
    if w.chance(0.2):
        loads = f"token_mean(loads({chosen}, {scores}), over = {over})"
        w.write(f"loss balance = 0.1 * sum({loads} * token_mean({scores}, over = {over}))")
    if w.chance(0.2):
        w.write(f"note load_{count} = token_mean(loads({chosen}, {scores}))")
        w.write(f"note likely_{count} = token_mean({scores})")
        w.noted.add(count)


def _mixture(w: Writer, x: str, d: int, count: int, weights: str, chosen: str) -> str:
    """The weighted sum of experts: tensors apart or stacked, weights before or after each."""
    path = w.choose("", "", f" as {w.new('experts')}", f' as "{w.new("set")}.expert_{{e}}"')
    apart = w.chance(0.1)
    y = w.new("y")
    with w.inside(f"{y} = experts e in {chosen} of {count}{path}{' apart' if apart else ''}"):
        before = w.chance(0.2)
        row = w.let(f"cast_like({weights}[e], {x}) * {x}", "row") if before else x
        made = w.choose(_gated, _packed_gate, _plain, _standard, *[] if path else [_joined])(w, row, d)
        w.write(f"return {made}" if before else f"return {weights}[e] * ({made})")
    if not apart:
        return y
    rows = w.let(f"cast_like(merge_heads({y}), {x})", "rows")
    return w.let(f"{w.choose('tanh', 'silu')}(linear({rows}, {d}) as {w.new('merged')})")
