"""What comes beside a decoder's tokens, at random: something of each token, each sequence or each pair."""

from __future__ import annotations

from tests.random_specs.writer import Writer

ABOUT = "about: float[B, T, T, 3]"  # what the caller says of each pair of tokens


def inputs(w: Writer, d: int) -> tuple[str, str]:
    """The inputs of `forward`, and the name of the one that comes beside `tokens`, or ""."""
    extra, places = f"extra: float[B, T, {d}]", "places: [B, T, 2] = places + 1"
    others = extra, "prefix: [B]", "style: float[B, 5]", "kinds: [B, T] = kinds", places, ABOUT
    also = w.choose(*[""] * 10, *others)
    tokens = "tokens: [B, T]"
    if not also:
        return tokens, ""
    return f"{also}, {tokens}" if also == extra else f"{tokens}, {also}", also.partition(":")[0]


def take_in(w: Writer, d: int, name: str) -> None:
    """x with what comes beside tokens, or what layers are told of it."""
    if name == "extra":
        w.write("x = x + extra")
    if name == "kinds":
        w.write(f"x = x + embedding(kinds, 7, {d}) as {w.new('kind')}")
    if name == "style":
        scale = w.let(f"tanh({w.linear('style', d, 'style')})", "scale")
        w.write(f"x = x * (1 + transpose(unsqueeze({scale})))")
    if name == "places":
        w.place = w.let("squeeze(slice(places, 1, 2))", "place")
        w.write("x = x + sinusoid(x, squeeze(slice(places, 0, 1)))")
    if name == "about":
        w.about = name
    if name == "prefix" and w.chance(0.5):
        w.write("x = x * cast_like(sigmoid(unsqueeze(unsqueeze(upcast(prefix) / 40))), x)")
    elif name == "prefix":
        w.sight = w.let("maximum(positions(x), unsqueeze(prefix) - 1)", "sight")
