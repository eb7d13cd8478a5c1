"""Names that two tensors have are found, although those of experts are not listed one by one."""

from __future__ import annotations

import pytest

from archc import compiler
from archc.errors import SpecError
from tests.support import compile_model

SPEC = """
    arch Mixture(d = 8, count = 12) {
      forward(tokens: [B, T]) {
        x = embedding(tokens, 20, d) as embed
        weights, chosen = top_k(softmax(linear(x, count) as router), 2)
        for i in 0..3 as layers {
          a = experts e in chosen of count as EXPERTS { return weights[e] * linear(x, d) as PROJ }
          x = x + a + linear(x, d) as OTHER
        }
        return linear(x, 20) as head
      }
    }
    model mixture = Mixture()
"""


@pytest.mark.parametrize(
    ("experts", "proj", "other", "twice"),
    [
        ("experts", "up", "shared", None),
        ("experts", "up", "experts.11.up", "layers.0.experts.11.up.weight"),
        ("experts", "up", "experts.12.up", None),  # the first that there is not
        ("experts", "up", '"experts.e1.up"', None),
        ('"e1{e}"', "up", "e17.up", "layers.0.e17.up.weight"),
        ('"e-{e}"', "up", '"e-7.up"', "layers.0.e-7.up.weight"),
        ("{e}.{1}", "up", "{i}.{1}.up", "layers.0.0.1.up.weight"),
        ("{e}.{1}", "up", "{1}.{i}.up", "layers.1.1.1.up.weight"),
        ("{e}.{1}", "up", "{12}.{i}.up", None),
        ("{e}.{i}", "up", "{4}.{i}.down", None),
        ("{e - e}.{e}", "up", "shared", None),
        ("{e * 0}", "up", "shared", "layers.0.0.up.weight"),
    ],
)
def test_names_that_are_used_twice(experts: str, proj: str, other: str, twice: str | None) -> None:
    text = SPEC.replace("EXPERTS", experts).replace("PROJ", proj).replace("OTHER", other)
    spec = compiler.read_spec_text(text)
    if twice is None:
        compiler.lower_models(spec, ["mixture"])
        return
    with pytest.raises(SpecError) as error:
        compiler.lower_models(spec, ["mixture"])
    assert [mistake.text for mistake in error.value.mistakes] == [f"parameter path `{twice}` is used twice"]


def test_two_experts_are_told_apart_by_what_is_around_their_numbers() -> None:
    body = "{ return weights[f] * linear(x, d) as up }"
    more = f"          a = a + experts f in chosen of count as {{i}}.{{f}} {body}\n"
    for path, twice in (("{e}.{i}", True), ("all.{i}.{e}", False), ("{i}", True)):
        text = SPEC.replace("EXPERTS", path).replace("PROJ", "up").replace("OTHER", "shared")
        spec = compiler.read_spec_text(text.replace("          x = x + a", f"{more}          x = x + a"))
        if not twice:
            compiler.lower_models(spec, ["mixture"])
            continue
        with pytest.raises(SpecError, match="is used twice"):
            compiler.lower_models(spec, ["mixture"])


def test_what_is_ignored_may_be_computed() -> None:
    """Patterns follow the arch's parameters and constants; where one is `none`, nothing is ignored."""
    text = """
    arch A(d = 8, layers = 3, extra = false) {
      last = layers + 1
      forward(x: float[B, T, d]) { return linear(x, d) as a }
      ignore "layers." + layers + ".*"
      ignore "layers." + last
      ignore "extra.*" if extra
    }
    model a = A(layers = 5) as part
    """
    assert compile_model(text, "a").program.ignored == ("part.layers.5.*", "part.layers.6")
