"""Recurrences by their step, at random: what a state is, how a token changes it, and what is read of it."""

from __future__ import annotations

from tests.random_specs.heads import head_map
from tests.random_specs.writer import Writer


def scanned(w: Writer, x: str, d: int) -> str:
    """A loop over the tokens, from [B, T, d] to [B, T, d]."""
    return w.choose(_gated, _gated, _by_heads, _matrix)(w, x, d)


def _start(w: Writer, shape: str) -> str:
    """What a state is before the first token."""
    return w.choose("0", "0", "0.5", f"parameter([{shape}]) as {w.new('start')}")


def _state(w: Writer, shape: str) -> tuple[str, str]:
    """The name of a state and its declaration."""
    name, start = w.new("h"), _start(w, shape)
    wide = "f32" if start in ("0", "0.5") and w.chance(0.3) else ""
    return name, f"{name}: {wide}[{shape}] = {start}"


def _gated(w: Writer, x: str, d: int) -> str:
    """A row that is kept or replaced, as in a GRU, besides a second one or not."""
    width = w.choose(6, 8)
    given = w.let(w.linear(x, 2 * width, "given", bias=True), "given")
    h, state = _state(w, str(width))
    n, count = _state(w, str(w.choose(1, width)))
    two, y = w.chance(0.4), w.new("y")
    with w.inside(f"{y} = scan {given} from ({state}{f', {count}' if two else ''})"):
        gate, new = w.new("gate"), w.new("new")
        seen = f"cast_like({h}, {given})"
        if w.chance(0.3):
            seen = f"rms_norm({seen}, 1e-5) as {w.new('norm')}"
        both = f"{given} + {w.linear(w.let(seen, 'seen'), 2 * width, 'recurrent', bias=False)}"
        w.write(f"{gate}, {new} = split({both}, 2)")
        keep = w.let(f"sigmoid({gate})", "keep")
        changed = w.let(f"{keep} * {h} + (1 - {keep}) * tanh({new})", "changed")
        if two:
            w.write(f"{n} = cast_like(0.9 * {n} + mean({keep}), {n})")
            changed = w.let(f"{changed} / (1 + {n} ** 2)", "changed")
        w.write(f"{h} = cast_like({changed}, {h})")
        w.write(f"return {w.choose(h, changed, f'{h} + slice({given}, 0, {width})')}")
    return w.linear(f"cast_like({y}, {x})", d, "out")


def _by_heads(w: Writer, x: str, d: int) -> str:
    """A row of each head, mixed within heads and faded by numbers of heads."""
    heads, width = w.choose(1, 2, 3), w.choose(4, 5)
    given = w.let(f"split_heads({w.linear(x, heads * width, 'given')}, {heads})", "given")
    fades = f"[[1 / (2 + h)] for h in 0..{heads}]"
    if w.chance(0.6):
        fades = w.let(f"unsqueeze(sigmoid({w.linear(x, heads, 'fading', bias=True)}))", "fades")
    h, state = _state(w, f"{heads}, {width}")
    y = w.new("y")
    with w.inside(f"{y} = scan {given} from ({state})"):
        mixed = head_map(w, w.let(f"cast_like({h}, {given})", "seen"), width)
        if w.chance(0.4):
            mixed = f"rms_norm({w.let(mixed, 'mixed')}, 1e-5, weight = false)"
        w.write(f"{h} = cast_like({fades} * {h} + tanh({given} + {mixed}), {h})")
        w.write(f"return {w.choose(h, f'silu({h})')}")
    return w.linear(f"merge_heads(cast_like({y}, {x}))", d, "out")


def _matrix(w: Writer, x: str, d: int) -> str:
    """A matrix of each head, to which each token adds a product, and which a row reads."""
    heads, keys, values = w.choose(1, 2), w.choose(3, 4), w.choose(4, 5)
    q, k = (w.let(f"split_heads({w.linear(x, heads * keys, word)}, {heads})", word) for word in "qk")
    v = w.let(f"split_heads({w.linear(x, heads * values, 'v')}, {heads})", "v")
    s, state = _state(w, f"{heads}, {keys}, {values}")
    q, k = w.let(f"transpose(unsqueeze(softmax({q})))", "q"), w.let(f"unsqueeze(softmax({k}))", "k")
    v = w.let(f"transpose(unsqueeze({v}))", "v")
    y = w.new("y")
    with w.inside(f"{y} = scan {x} from ({state})"):
        if w.chance(0.5):
            v = w.let(f"{v} - matmul(transpose({k}), cast_like({s}, {v}))", "change")
        w.write(f"{s} = cast_like({w.choose('0.9', '1')} * {s} + matmul({k}, {v}), {s})")
        w.write(f"return squeeze(transpose(matmul({q}, cast_like({s}, {q}))))")
    return w.linear(f"merge_heads(cast_like({y}, {x}))", d, "out")
