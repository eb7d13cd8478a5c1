"""The expression for the class of each layer, evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from archc.codegen.modules.schedule import choose
from archc.verification.packages import import_package
from tests.support import compile_model

NAMES = ("A", "B", "C")
# schedule, what is written for layers that start at 0 and at 3
SCHEDULES = [
    ((0, 0, 0), "A", "A"),
    ((0, 0, 1, 1), "(A if i < 2 else B)", "(A if i < 5 else B)"),
    ((0, 0, 1, 0, 0, 1), "(B if i % 3 == 2 else A)", "(B if i % 3 == 2 else A)"),
    ((0, 1, 0, 2) * 3, "(A, B, A, C)[i % 4]", "(A, B, A, C)[(i - 3) % 4]"),
    ((0, 1, 0, 2) * 3 + (0, 1), "(A, B, A, C)[i % 4]", "(A, B, A, C)[(i - 3) % 4]"),
    (
        (0, 1, 1, 1, 1, 2) + (1, 1, 1, 1, 1, 2) * 2,
        "(A if i < 1 else C if i % 6 == 5 else B)",
        "(A if i < 4 else C if i % 6 == 2 else B)",
    ),
    ((0, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1), "(A if i in (0, 4, 6) else B)", "(A if i in (3, 7, 9) else B)"),
    ((0, 1, 2, 2, 1), "(A, B, C, C, B)[i]", "(A, B, C, C, B)[i - 3]"),
]


@pytest.mark.parametrize(("schedule", "expression", "later"), SCHEDULES)
def test_the_class_of_each_layer(schedule: tuple[int, ...], expression: str, later: str) -> None:
    for start, expected in ((0, expression), (3, later)):
        indices = range(start, start + len(schedule))
        found = choose(NAMES, schedule, indices, "i")
        assert found == expected
        classes = [eval(found, {name: name for name in NAMES}, {"i": i}) for i in indices]
        assert classes == [NAMES[number] for number in schedule]


def test_what_layers_say_of_themselves(tmp_path: Path) -> None:
    """Those of a loop without a path of its own name none."""
    spec = """
arch A(d = 8) {
  forward(x: float[B, T, d]) {
    for i in 0..3 as layers { x = x + linear(x, d) as up }
    for again in 0..2 { x = x + linear(tanh(x), d) as more.{again} }
    return x
  }
}
model a = A()
"""
    package = import_package(compile_model(spec, "a"), tmp_path)
    layers, more = package.Model().children()
    told = [str(layer[0].__doc__).partition(".  ")[0] for layer in (layers, more)]
    assert told == ["One of 3 identical layers, layers.{i}", "One of 2 identical layers"]


def test_layers_with_the_same_parameters_share_what_holds_them(tmp_path: Path) -> None:
    """The last kind of layer has one more, so a class of its own."""
    spec = """
arch A(d = 8, masks = [sliding(2), causal, causal]) {
  block Mixed(x, mask) {
    h = split_heads(x, 2)
    return merge_heads(attention(h, h, h, mask))
  }

  forward(x: float[B, T, d]) {
    for i in 0..3 as layers {
      x = x + Mixed(linear(x, d) as up, masks[i]) * (parameter([d]) as by if i == 2 else 1)
    }
    return x
  }
}
model a = A()
"""
    model = import_package(compile_model(spec, "a"), tmp_path).Model()
    first, second, third = (type(layer) for layer in model.layers)
    assert second.__bases__ == (first,)
    assert not issubclass(third, first)
    assert (first.stored, first.__init__) == (second.stored, second.__init__)
    assert first.CACHED != second.CACHED
    assert "Its parameters are those of Layer0." in str(second.__doc__)
