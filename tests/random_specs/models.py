"""Whole models at random: what goes in, and what comes out."""

from __future__ import annotations

from tests.random_specs.attentions import bidirectional
from tests.random_specs.inputs import ABOUT, inputs, take_in
from tests.random_specs.layers import residual, stack
from tests.random_specs.mixers import mixer
from tests.random_specs.rows import experts, mlp, norm
from tests.random_specs.writer import VOCABULARY, Writer


def random_spec(seed: int) -> str:
    """A valid spec with one model, `random`; the same for the same seed."""
    w = Writer(seed)
    d = w.choose(12, 16, 24)
    w.choose(*[_decoder] * 13, _codes, *[_encoder] * 2, *[_translator] * 2)(w, d)
    return w.text("random")


def _decoder(w: Writer, d: int) -> None:
    """Tokens to logits, now and then with another input or other results."""
    given, also = inputs(w, d)
    with w.inside(f"forward({given})"):
        _embed(w, d, "x", "tokens")
        take_in(w, d, also)
        if w.about is None and w.chance(0.1):  # which says nothing of learned tokens
            w.write(f"x = preceded(x, parameter([{w.choose(1, 3)}, {d}]) as {w.new('front')})")
        stack(w, d)
        if w.chance(0.1):
            _look_ahead(w, d)
        _finish(w, d)


def _look_ahead(w: Writer, d: int) -> None:
    """A term of the loss for the token after the next, by a layer of its own."""
    both = w.let(f"concat({norm(w, 'x')}, later(x))", "both")
    h = w.let(w.linear(both, d, "both"))
    ahead = w.let(w.linear(w.let(f"{h} + {mixer(w, h, d, None)}"), VOCABULARY, "ahead"), "ahead")
    known = w.let("later(ones(upcast(slice(x, 0, 1))), 2)", "known")
    missed = f"{known} * (logsumexp({ahead}) - upcast(gather({ahead}, later(unsqueeze(tokens), 2))))"
    w.write(f"loss ahead = 0.3 * token_mean({missed}) / maximum(token_mean({known}), 0.1)")


def _codes(w: Writer, d: int) -> None:
    """Tokens of two numbers each, of which the next token's are said at once."""
    with w.inside("forward(codes: [B, T, 2])"):
        w.write("tokens = squeeze(slice(codes, 0, 1))")
        _embed(w, d, "x", "tokens")
        w.write(f"x = x + embedding(squeeze(slice(codes, 1, 2)), {VOCABULARY}, {d}) as {w.new('second')}")
        stack(w, d)
        h = w.let(norm(w, "x"))
        w.write(f"return logits = split_heads({w.linear(h, 2 * VOCABULARY, 'heads')}, 2)")


def _embed(w: Writer, d: int, x: str, tokens: str, tied: bool = False) -> None:
    """Tokens to rows, with their positions or without."""
    tie = ", tied_to = embed" if tied else ""
    path = "embed_again" if tied else "embed"
    w.write(f"{x} = embedding({tokens}, {VOCABULARY}, {d}{tie}) as {path}")
    scale = w.choose(*["none"] * 4, "scaled", "times")
    if scale == "scaled":
        w.write(f"{x} = scaled({x}, by = {d} ** 0.5)")
    if scale == "times":
        w.write(f"{x} = {x} * 3.5")
    positions = w.choose(*["none"] * 4, "table", "sinusoid")
    if positions == "table":
        w.write(f"{x} = {x} + embedding(positions({x}) + 2, 99, {d}) as {w.new('position')}")
    if positions == "sinusoid":
        w.write(f"{x} = {x} + sinusoid({x}, positions({x}), layout = {w.choose('interleaved', 'halves')})")
    if w.chance(0.15):
        w.write(f"{x} = {norm(w, x)}")


def _finish(w: Writer, d: int) -> None:
    """A last norm, the head, and what is returned."""
    for count in sorted(w.noted):
        w.write(f"loss even_{count} = 0.1 * sum(noted(load_{count}) * noted(likely_{count}))")
    h = w.let(norm(w, "x"))
    if w.chance(0.1):
        h = w.let(f"{h} * {w.choose('0.25', f'{d} ** -0.5')}")
    tie = w.choose("", "", ", tied_to = embed", ", bias = true")
    logits = w.let(f"linear({h}, {VOCABULARY}{tie}) as head", "logits")
    logits = w.choose(*[logits] * 5, f"7 * tanh({logits} / 7)", f"{logits} * 0.3", f"upcast({logits})")
    others = w.choose(*[""] * 14, ", hidden = x", f", hidden = {h}")
    w.write(f"return logits = {logits}{others}")


def _encoder(w: Writer, d: int) -> None:
    """Every token sees every other; hidden states come out."""
    w.about = w.choose("about", None)
    with w.inside(f"forward(tokens: [B, T]{f', {ABOUT}' if w.about else ''})"):
        _embed(w, d, "x", "tokens")
        with w.inside(f"for i in 0..2 as {w.new('layers')}"):
            residual(w, d, "x", lambda h: bidirectional(w, h, h, d))
            residual(w, d, "x", lambda h: (experts if w.chance(0.3) else mlp)(w, h, d))
            if w.chance(0.4):
                w.choose(_backwards, _around, _of_all)(w, d)
        h = w.let(norm(w, "x"))
        end = f"score = linear({_pooled(w, h)}, 3) as score" if w.chance(0.3) else f"states = {h}"
        w.write(f"return {end}")


def _pooled(w: Writer, x: str) -> str:
    """A row of each sequence."""
    mean = f"cast_like(token_mean({x}, over = sequence), {x})"
    return w.choose(f"first_token({x})", f"last_token({x})", mean)


def _of_all(w: Writer, d: int) -> None:
    """What a row of the whole sequence says to each of its tokens."""
    told = w.linear(w.let(_pooled(w, "x"), "whole"), d, "told")
    w.write(f"x = x + transpose(unsqueeze({told}))")


def _around(w: Writer, d: int) -> None:
    """A convolution over tokens on both sides."""
    conv = f"Conv({norm(w, 'x')}, taps = {w.choose(3, 5)}{w.choose('', ', bias = true')}) as {w.new('conv')}"
    w.write(f"x = x + {w.linear(w.let(conv, 'y'), d, 'out')}")


def _backwards(w: Writer, d: int) -> None:
    """What later tokens say: of the next one, or of all by a layer that runs from the last to the first."""
    if w.chance(0.5):
        w.write(f"x = x + later(x, {w.choose(1, 2)}) * {w.parameter(str(d), 0.5, 'after')}")
    else:
        h = w.let(f"reversed({w.let(norm(w, 'x'))})")
        w.write(f"x = x + reversed({w.let(mixer(w, h, d, None), 'y')})")


def _translator(w: Writer, d: int) -> None:
    """An encoder, and a decoder that looks at its result in some or all layers."""
    frames = w.chance(0.3)
    first = f"frames: float[B, T, {d}]" if frames else "tokens: [B, T]"
    with w.inside(f"forward({first}, decoder_tokens: [B, U] = 1)"):
        if frames:
            w.write(f"m = {w.linear('frames', d, 'frames')} + sinusoid(frames, positions(frames))")
        else:
            _embed(w, d, "m", "tokens")
        with w.inside(f"for i in 0..2 as {w.new('encoder')}"):
            residual(w, d, "m", lambda h: mixer(w, h, d, "i") if w.chance(0.3) else bidirectional(w, h, h, d))
            residual(w, d, "m", lambda h: (experts if w.chance(0.2) else mlp)(w, h, d))
        if w.chance(0.6):
            w.write(f"m = {norm(w, 'm')}")
        _embed(w, d, "x", "decoder_tokens", tied=not frames)
        with w.inside(f"for i in 0..2 as {w.new('decoder')}"):
            residual(w, d, "x", lambda h: mixer(w, h, d, "i"))
            with w.inside(f"if {w.choose('true', 'true', 'i == 0', 'i == 1')}"):
                residual(w, d, "x", lambda h: bidirectional(w, h, "m", d))
            residual(w, d, "x", lambda h: (experts if w.chance(0.3) else mlp)(w, h, d))
        _finish(w, d)
