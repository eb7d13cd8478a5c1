"""Views of all of a value are the value: no op stands for them, in a package or before."""

from __future__ import annotations

from archc import compiler

SPEC = """
    arch Parts(d = 8, parts = 1) {
      forward(tokens: [B, T]) {
        x = embedding(tokens, 20, d) as embed
        a, b, c = split(x, parts), split(x, [d]), split_interleaved(x, 1)
        xs = [split(x, 1)]
        return linear(a + b + c + slice(x, 0, d) + xs[0], 20) as head
      }
    }
    model parts = Parts()
"""


def test_one_part_is_the_value_itself() -> None:
    (program,) = compiler.lower_models(compiler.read_spec_text(SPEC), ["parts"])
    names = [node.op.name for node in program.graph.nodes()]
    assert {name for name in names if name not in ("input", "weight")} == {"embedding", "add", "linear"}
