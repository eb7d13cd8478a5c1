"""Activations: what the graph says that training keeps is what autograd keeps of the generated module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from archc.analysis.activations import activations
from archc.analysis.kernels import Shape
from archc.ir.graph import Graph
from archc.ir.node import Node
from archc.ir.program import given_inputs
from tests.analysis.models import TINY, built, compiled
from tests.support import compile_model, few

LENGTH = 24
ZEROS = "olmo2_tiny"  # whose first layer is given zeros, as no norm before its blocks can do without


class _Attention(torch.autograd.Function):
    """What attention kernels keep, but for one number for each head and token; o lies as they leave it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, tokens = q.shape[:3]
        o = v.new_empty(batch, tokens, heads, v.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, o)
        return o


def _flash(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, None]:
    return _Attention.apply(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2), None


def kept_by_autograd(model: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of the tensors that the fused module keeps on its way to what the head reads."""
    package = built(model)
    module = package.Model(device="meta", dtype=torch.bfloat16)
    kernels = package.kernels
    monkeypatch.setattr(kernels, "_runs_triton", lambda _x: True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: _Attention.apply(q, k, v))
    for name in [name for name in vars(kernels) if name.endswith("_flash")]:
        monkeypatch.setattr(kernels, name, _flash)
    stores: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        store = tensor.untyped_storage()
        # Tokens, positions and numbers are there anyway, as are weights, or zeros in their place.
        if tensor.is_floating_point() and tensor.dim() > 1:
            stores[store._cdata] = store
        return tensor

    sequences = len(given_inputs(compiled(model).fused))
    tokens = [torch.zeros(1, LENGTH, dtype=torch.int64, device="meta")] * sequences
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = module.head(module.hidden(*tokens))
    assert result.requires_grad
    given = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    return sum(store.nbytes() for key, store in stores.items() if key not in given)


def _not_chosen(reference: Graph) -> int:
    """Bytes of the float32 scores that `top_k` did not choose: what it gives is a view of all, sorted."""
    return sum(
        4 * times * LENGTH * (int(graph.type(node.inputs[0]).width) - node.attributes["k"])
        for graph, times in reference.runs()
        for node in graph.nodes()
        if node.op.name == "top_k"
    )


def _has(model: str, wanted: Callable[[Node], bool]) -> bool:
    return any(wanted(node) for graph in compiled(model).reference.walk() for node in graph.nodes())


@pytest.mark.parametrize("model", [*few([model for model in TINY if model != ZEROS], 12), ZEROS])
def test_activations_are_what_autograd_keeps(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = activations(compiled(model).fused, Shape(1, LENGTH, LENGTH, LENGTH), element=2)
    measured = kept_by_autograd(model, monkeypatch)
    if _has(model, lambda node: "sinks" in node.named):
        assert kept.all < measured  # PyTorch's attention has no sinks: it keeps all scores
    elif _has(model, lambda node: node.op.name == "top_k"):
        # Routers in float32 keep copies of what they cast.
        assert kept.all + _not_chosen(compiled(model).reference) == pytest.approx(measured, rel=0.1)
    else:
        assert kept.all == measured
    assert 0 < kept.recomputed < kept.all
    more = activations(compiled(model).fused, Shape(3, 2 * LENGTH, 2 * LENGTH, 2 * LENGTH), element=2)
    assert (more.all, more.recomputed) == (6 * kept.all, 6 * kept.recomputed)


def test_a_bias_of_pairs_is_kept() -> None:
    """That of each head, or one for all; in bfloat16."""
    spec = """
arch A(heads) {
  forward(x: float[B, T, 32], about: float[B, T, T, 3]) {
    h = split_heads(x, 4)
    o = attention(h, h, h, mask = full, bias = pair_bias(linear(about, heads) as pairs))
    return linear(merge_heads(o), 8) as out
  }
}
model a = A(heads = 1)
"""
    of_all, of_each = (
        activations(compile_model(spec, "a", {"heads": heads}).fused, Shape(2, 7, 7, 7), 2).all
        for heads in ("1", "4")
    )
    assert of_each - of_all == 3 * 2 * 7 * 7 * 2


def test_experts_that_run_one_by_one_keep_their_rows() -> None:
    """Each choice of a token keeps the row that an expert multiplies, its float32 result, and its weight."""
    spec = """
arch A(d = 8, choices, vocab = 20) {
  forward(tokens: [B, T]) {
    x = embedding(tokens, vocab, d) as embed
    weights, chosen = top_k(softmax(upcast(linear(x, 4) as gate)), choices)
    y = experts e in chosen of 4 as experts {
      return weights[e] * linear(upcast(x), d, wide = true) as w
    }
    return linear(cast_like(y, x), vocab) as head
  }
}
model a = A(choices = 1)
"""
    kept = []
    for choices in (1, 2, 3):
        fused = compile_model(spec, "a", {"choices": str(choices)}).fused
        assert fused.experts()
        kept.append(activations(fused, Shape(1, LENGTH, LENGTH, LENGTH), element=2).all)
    assert kept[2] - kept[1] == kept[1] - kept[0] == LENGTH * (2 * 8 + 4 * 8 + 4)
