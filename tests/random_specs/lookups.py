"""What is looked up by whole numbers, at random: hashes of tokens, experts of a token, steps of positions."""

from __future__ import annotations

from tests.random_specs.rows import activation
from tests.random_specs.writer import VOCABULARY, Writer


def looked_up(w: Writer, d: int, _variable: str) -> None:
    """x with what such numbers say."""
    w.choose(_grams, _hashed_experts, _steps)(w, d)


def _grams(w: Writer, d: int) -> None:
    """Rows of a hash of each token and the one before it."""
    rows = w.choose(7, 61)
    mixed = w.let(
        f"exclusive_or(1000003 * tokens, 90000000059 * (shifted(tokens - 39, {w.choose(1, 2)}) + 39))",
        "mixed",
    )
    row = f"{mixed} - {rows} * whole_quotient({mixed}, {rows})"
    w.write(f"x = x + embedding({row}, {rows}, {d}) as {w.new('grams')}")


def _hashed_experts(w: Writer, d: int) -> None:
    """Experts that follow from the token alone, with weights of their own."""
    count, y = w.choose(3, 5), w.new("y")
    chosen = w.let(f"whole_table(tokens, {VOCABULARY}, 2, below = {count}) as {w.new('choices')}", "chosen")
    weights = w.let(f"gather(sigmoid({w.linear('x', count, 'router')}), {chosen})", "weights")
    with w.inside(f"{y} = experts e in {chosen} of {count}"):
        up = w.let(activation(w, w.let(w.linear("x", 10, "up"), "up")), "up")
        w.write(f"return {weights}[e] * {w.linear(up, d, 'down')}")
    w.write(f"x = x + tanh({y})")


def _steps(w: Writer, d: int) -> None:
    """A row for several positions that follow one another."""
    place = f"whole(upcast(positions(x)) / {w.choose(2, 4)})"
    w.write(f"x = x + embedding({place}, 60, {d}) as {w.new('step')}")
