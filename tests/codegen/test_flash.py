"""Attention by tiles in Triton's interpreter: every mask and what is done to scores, forward and backward."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archc.codegen.kernels.attention.attention_plan import AttentionKernel
from archc.codegen.package import plan_package
from archc.ir.node import Node
from archc.ir.ops.attention import attend
from archc.ir.ops.attention_bias import alibi_bias, distance_bias, relative_bias
from archc.verification.packages import import_package
from tests.codegen.fused_ops import changed_module
from tests.codegen.interpreter import interpreted
from tests.support import SPECS, compile_model, distance, few

FLOAT32 = 3e-6
BFLOAT16 = 1.01  # times the error of the unfused form: where both round once, ties fall either way

# heads, key heads, width of keys, width of values, and the arguments of `attention`
CASES: dict[str, tuple[int, int, int, int, str]] = {
    "window": (6, 2, 12, 12, "mask = sliding(7)"),
    "window of one tile": (2, 1, 16, 16, "mask = sliding(32)"),
    "window longer than all": (3, 3, 8, 8, "mask = sliding(100)"),
    "chunk": (6, 2, 12, 12, "mask = chunked(11)"),
    "chunk of one tile": (4, 4, 16, 16, "mask = chunked(32)"),
    "softcap": (2, 2, 12, 12, "mask = causal, softcap = 2.0"),
    "sinks": (6, 3, 16, 16, "mask = causal, sinks = parameter([HEADS]) as sinks"),
    "all of it": (
        9,
        1,
        20,
        12,
        "mask = sliding(9), softcap = 3.0, scale = 0.4, sinks = parameter([HEADS]) as sinks",
    ),
    "wider keys than values": (3, 1, 24, 16, "mask = causal"),
    "wider values than keys, all keys": (3, 1, 8, 24, "mask = full"),
    "softcap over all keys": (2, 1, 8, 8, "mask = full, softcap = 1.5"),
    "slopes": (6, 2, 12, 12, "mask = causal, bias = SLOPES"),
    "slopes of all keys": (3, 1, 8, 16, "mask = full, bias = SLOPES"),
    "distances": (4, 2, 12, 12, "mask = causal, bias = DISTANCES"),
    "distances of all keys": (3, 3, 16, 16, "mask = full, bias = BOTH_WAYS"),
    "chosen keys": (4, 2, 12, 12, "mask = causal, among = CHOSEN"),
    "chosen of all keys": (2, 2, 16, 8, "mask = full, among = CHOSEN"),
    "keys that heads have chosen": (6, 2, 12, 12, "mask = causal, among = BY_HEADS"),
    "chosen keys and all of it": (
        3,
        1,
        20,
        12,
        "mask = causal, softcap = 3.0, sinks = parameter([HEADS]) as sinks, among = CHOSEN",
    ),
    "distances and all of it": (
        6,
        2,
        8,
        12,
        "mask = sliding(20), softcap = 3.0, bias = DISTANCES, sinks = parameter([HEADS]) as sinks",
    ),
    "what keys have": (6, 2, 12, 12, "mask = causal, bias = KEYS"),
    "what keys have and all of it": (
        6,
        2,
        8,
        12,
        "mask = sliding(20), softcap = 3.0, bias = KEYS, sinks = parameter([HEADS]) as sinks",
    ),
    "what pairs have": (6, 2, 12, 12, "mask = causal, bias = PAIRS"),
    "what pairs have for all heads": (4, 1, 16, 8, "mask = full, bias = OF_ALL"),
    "what pairs have and all of it": (
        3,
        1,
        20,
        12,
        "mask = sliding(9), softcap = 3.0, bias = OF_ALL, sinks = parameter([HEADS]) as sinks",
    ),
    "what pairs have where keys are chosen": (
        6,
        2,
        12,
        12,
        "mask = causal, softcap = 3.0, bias = PAIRS, sinks = parameter([HEADS]) as sinks, among = CHOSEN",
    ),
    "what pairs have for all heads that choose": (
        4,
        2,
        16,
        8,
        "mask = full, bias = OF_ALL, among = BY_HEADS",
    ),
    "what keys have that are chosen": (6, 2, 12, 12, "mask = causal, bias = KEYS, among = CHOSEN"),
    "what queries have for distances": (6, 2, 12, 12, "mask = causal, bias = BY_QUERY"),
    "what queries have for distances, the nearest": (3, 1, 8, 16, "mask = full, bias = NEAREST"),
    "what heads have for distances and all of it": (
        6,
        2,
        8,
        12,
        "mask = sliding(20), softcap = 3.0, bias = OF_HEADS, sinks = parameter([HEADS]) as sinks",
    ),
    "what pairs of one head have": (1, 1, 8, 8, "mask = chunked(32), bias = PAIRS"),
}
_PLACES = "positions(x), key_positions(x)"
# What options stand for; a table of 8 rows, whose last is for distances from 11 on.
MADE = {
    "SLOPES": f"alibi_bias({_PLACES}, heads = HEADS, scale = 0.5)",
    "DISTANCES": f"relative_bias({_PLACES}, parameter([8, HEADS]) as table, false, 11)",
    "KEYS": "key_bias(linear(x, HEADS) as b)",
    "PAIRS": "pair_bias(linear(about, HEADS) as b)",
    "OF_ALL": "pair_bias(linear(about, 1) as b)",
    "BY_QUERY": f"distance_bias({_PLACES}, split_heads(linear(x, HEADS * 9) as b, HEADS))",
    "OF_HEADS": f"distance_bias({_PLACES}, parameter([HEADS, 9]) as values, first = 1)",
    "NEAREST": f"""distance_bias(
        {_PLACES}, split_heads(linear(x, HEADS * 9) as b, HEADS), first = -4, beyond = nearest
    )""",
    "CHOSEN": "chosen_keys(q, split_heads(linear(x, WIDTH) as key, 1), linear(x, HEADS) as weights, 9)",
    "BY_HEADS": "best_keys(attention_scores(k, k, wide = true), k, 9)",
    "BOTH_WAYS": f"relative_bias({_PLACES}, parameter([8, HEADS]) as table, true, 11)",
}
PADDING = torch.ones(2, 45, dtype=torch.bool)
PADDING[0, :6] = PADDING[1, 33:] = False


def _spec(name: str) -> str:
    heads, kv_heads, width, value_width, options = CASES[name]
    for word, made in MADE.items():
        options = options.replace(word, made)
    for word, size in {"KEY_HEADS": kv_heads, "HEADS": heads, "WIDTH": width}.items():
        options = options.replace(word, str(size))
    return f"""
        arch A(heads = {heads}) {{
          forward(x: float[B, T, 160]{", about: float[B, T, T, 5]" * ("about" in options)}) {{
            q = split_heads(linear(x, {heads * width}) as q, {heads})
            k = split_heads(linear(x, {kv_heads * width}) as k, {kv_heads})
            v = split_heads(linear(x, {kv_heads * value_width}) as v, {kv_heads})
            return merge_heads(attention(q, k, v, {options}))
          }}
        }}
        model a = A()
    """


class Flash:
    """The kernel of one attention, and its op's meaning."""

    def __init__(self, name: str, folder: Path):
        compilation = compile_model(_spec(name), "a")
        package = import_package(compilation, folder)
        self.kernels = package.kernels
        self.node: Node = next(
            node for node in compilation.fused.nodes() if node.op.name.endswith("attention")
        )
        self.sizes = CASES[name][:4]
        given = self.node.named
        self.further = [each for each in ("sinks", "table", "bias", "values") if each in given]
        among = given.get("among")
        bias = given.get("bias")
        self.bias_type = (1, 1, 1, 1) if bias is None else compilation.fused.type(bias).shape
        self.choosers = None if among is None else compilation.fused.type(among).shape[2:-1]

    def operands(self, queries: int, keys: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        heads, kv_heads, width, value_width = self.sizes
        shapes = [(2, queries, heads, width), (2, keys, kv_heads, width), (2, keys, kv_heads, value_width)]
        sizes = {"sinks": (heads,), "table": (8, heads), "bias": self.bias_shape(queries, keys)}
        sizes["values"] = (2, queries, heads, 9)
        shapes += [sizes[each] for each in self.further]
        return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]

    def bias_shape(self, queries: int, keys: int) -> tuple[int, ...]:
        """Of what keys or pairs have for each head; that for all heads is one for all sequences here."""
        _, heads, of_queries, _ = self.bias_type
        return 1 if heads < self.sizes[0] else 2, heads, 1 if of_queries == 1 else queries, keys

    def places(self, operands: list[Tensor]) -> Tensor | None:
        """Of the keys that queries have chosen: their own, others, some of them later, and none."""
        if self.choosers is None:
            return None
        queries, keys = (each.shape[1] for each in operands[:2])
        shape = 2, queries, *map(int, self.choosers)
        random = torch.Generator().manual_seed(queries)
        own = torch.arange(keys - queries, keys).view(1, -1, *[1] * len(shape[2:]), 1).expand(*shape, 1)
        chosen = [torch.randperm(keys + 3, generator=random)[:9] for _ in range(math.prod(shape))]
        among = torch.stack(chosen).view(*shape, -1)
        return torch.cat([among.masked_fill((among == own) | (among >= keys), -1), own], -1)

    def run(self, operands: list[Tensor], span: tuple[Tensor, Tensor], kernels: Any = None) -> Tensor:
        kernels = kernels or self.kernels
        sight = bool((span[1] >= 0).all())
        among = self.places(operands)
        if among is not None:
            sight = kernels._chosen_keys(among, span[1].shape[1])
        found: Tensor = getattr(kernels, f"_{self.node.op.name}_flash")(*operands, *span, sight)[0]
        return found

    def exact(self, operands: list[Tensor], span: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v, *further = operands
        named = dict(zip(self.further, further, strict=True))
        given = {
            name: self.node.attributes.get(name)
            for name in ("bidirectional", "distance", "slope_scale", "first", "beyond")
        }
        bias = named.get("bias")
        if "table" in named:
            table = named["table"]
            bias = relative_bias(
                *span, table, bidirectional=given["bidirectional"], distance=given["distance"]
            )
        elif "values" in named:
            bias = distance_bias(*span, named["values"], first=given["first"], beyond=given["beyond"])
        elif given["slope_scale"]:
            bias = alibi_bias(*span, heads=self.sizes[0], scale=given["slope_scale"])
        attributes = {name: self.node.attributes[name] for name in ("mask", "scale", "softcap")}
        sinks, among = named.get("sinks"), self.places(operands)
        found: Tensor = attend(q, k, v, *span, bias, sinks, among, **attributes)
        return found

    def compare(self, queries: int, keys: int, padding: Tensor | None = None, kernels: Any = None) -> None:
        """Values and gradients of what belongs to real tokens, against float64."""
        span = _span(queries, keys, padding)
        real = torch.ones(2, queries, dtype=torch.bool) if padding is None else padding[:, keys - queries :]
        operands = self.operands(queries, keys)
        wide = [t.detach().double().requires_grad_() for t in operands]
        value, truth = self.run(operands, span, kernels), self.exact(wide, span)
        incoming = torch.randn_like(truth) * real[..., None, None]
        gradients = torch.autograd.grad(value, operands, incoming.float())
        truths = torch.autograd.grad(truth, wide, incoming)
        assert bool(value.isfinite().all())
        assert distance(value[real], truth[real]) <= FLOAT32
        for found, expected in zip(gradients, truths, strict=True):
            # With one key the weights are 1 whatever the scores are: the truth is nothing but rounding.
            assert float((found - expected).norm()) <= FLOAT32 * max(
                float(expected.norm()), float(incoming.norm())
            )


def _span(queries: int, keys: int, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions of the last `queries` of `keys` tokens, and of all of them."""
    if padding is None:
        places = torch.arange(keys)[None]
        return places[:, keys - queries :], places
    places = (padding.cumsum(1) - 1).clamp(min=0)
    return places[:, keys - queries :], torch.where(padding, places, -1)


@functools.cache
def _flash(name: str, folder: Path) -> Flash:
    return Flash(name, folder)


@pytest.mark.parametrize("name", few(CASES, 9))
@interpreted
def test_whole_sequences(name: str, tmp_path: Path) -> None:
    _flash(name, tmp_path).compare(45, 45)


@pytest.mark.parametrize("name", few(CASES, 8))
@interpreted
def test_padded_sequences(name: str, tmp_path: Path) -> None:
    _flash(name, tmp_path).compare(45, 45, PADDING)


@pytest.mark.parametrize(
    "name", ["window", "chunk", "all of it", "wider keys than values", "distances", "chosen keys"]
)
@pytest.mark.parametrize(("queries", "keys"), few([(1, 1), (1, 45), (5, 45), (3, 80)], 2))
@interpreted
def test_some_tokens_after_others(name: str, queries: int, keys: int, tmp_path: Path) -> None:
    _flash(name, tmp_path).compare(queries, keys)


@pytest.mark.parametrize(
    "name",
    [
        "all of it",
        "chunk",
        "distances",
        "slopes",
        "chosen keys",
        "what pairs have",
        "what queries have for distances",
    ],
)
@interpreted
def test_bfloat16_is_no_less_accurate_than_the_unfused_form(name: str, tmp_path: Path) -> None:
    flash, span = _flash(name, tmp_path), _span(45, 45, None)
    operands = flash.operands(45, 45, torch.bfloat16)
    wide = [t.detach().double().requires_grad_() for t in operands]
    truth = flash.exact(wide, span)
    incoming = torch.randn_like(truth).bfloat16()
    truths = (truth, *torch.autograd.grad(truth, wide, incoming.double()))
    errors = []
    for run in (flash.run, flash.exact):
        value = run(operands, span)
        found = (value, *torch.autograd.grad(value, operands, incoming))
        errors.append([distance(each, exact) for each, exact in zip(found, truths, strict=True)])
    assert all(fused <= BFLOAT16 * unfused for fused, unfused in zip(*errors, strict=True)), errors


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("what pairs have", torch.arange(45)[:, None] % 3 == 0),
        ("what keys have", torch.arange(45) < 5),  # all that the first five queries see
    ],
)
@interpreted
def test_rows_that_a_bias_hides_whole(name: str, hidden: Tensor, tmp_path: Path) -> None:
    """Sums with -1e9 are rounded: as in PyTorch, all keys have one weight, and gradients follow."""
    flash, span = _flash(name, tmp_path), _span(45, 45, None)
    operands = flash.operands(45, 45)
    *heads, bias = operands
    operands = [*heads, bias.detach().masked_fill(hidden, -1e9).requires_grad_()]
    incoming = torch.randn(2, 45, 6, 12)
    found, expected = (
        torch.autograd.grad(run(operands, span), operands, incoming) for run in (flash.run, flash.exact)
    )
    for each, truth in zip(found, expected, strict=True):
        assert distance(each, truth) <= FLOAT32


@interpreted
def test_what_is_given_of_pairs_has_no_gradient_unless_one_is_asked_for(tmp_path: Path) -> None:
    """It is as large as all scores."""
    flash, shapes = _flash("what pairs have", tmp_path), []
    *heads, bias = flash.operands(45, 45)
    backward = flash.kernels._attention_flash_backward

    def watched(*given: Any) -> Any:
        gradients = backward(*given)
        shapes.append(gradients[-1].shape)
        return gradients

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash.kernels, "_attention_flash_backward", watched)
        for given in (bias.detach(), bias):
            flash.run([*heads, given], _span(45, 45, None)).sum().backward()
    assert shapes == [(0,), bias.shape]


@interpreted
def test_one_tensor_given_twice_is_compiled_for_training(tmp_path: Path) -> None:
    """Without padding, keys are at the positions of queries; queries may be keys, too."""
    op, places = _flash("softcap", tmp_path).kernels._attention_flash, torch.arange(20)[None]
    compiled = torch.compile(
        lambda x: op(x, x, x, places, places, True)[0], fullgraph=True, backend="aot_eager"
    )
    heads = torch.randn(2, 20, 2, 12, requires_grad=True)
    values = compiled(heads), op(heads, heads, heads, places, places, True)[0]
    gradients = [torch.autograd.grad(value.square().sum(), heads) for value in values]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


@interpreted
def test_keys_of_any_strides(tmp_path: Path) -> None:
    """As a cache gives them: the first tokens of a longer store, heads beside one another in wider rows."""
    flash, span = _flash("window", tmp_path), _span(9, 45, None)
    q, k, v = flash.operands(9, 45)
    store = torch.full((2, 60, *k.shape[2:]), torch.nan)
    store[:, :45] = k.detach()
    wide = torch.cat([v.detach(), torch.full_like(v, torch.nan)], -1)[..., : v.shape[-1]]
    found = flash.run([q, store[:, :45], wide], span)
    assert distance(found, flash.exact([t.double() for t in (q, k, v)], span)) <= FLOAT32


@interpreted
def test_more_sequences_than_a_grid_has_beside_its_first_dimension(tmp_path: Path) -> None:
    """Forward and backward of 80,000 heads of sequences, in which no program is run."""
    flash, grids = _flash("softcap", tmp_path), []

    class Launcher:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            grids.append(grid)
            return lambda *_, **__: None

    batch = 40_000
    operands = [torch.zeros(batch, 1, 2, 12, requires_grad=True) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        for part in ("", "_query_gradient", "_key_gradient"):
            patch.setattr(flash.kernels, f"_{flash.node.op.name}{part}_kernel", Launcher())
        flash.run(operands, _span(1, 1, None)).sum().backward()
    assert grids == [(2 * batch,)] * 3


CONTROLS = [
    ("window", "(key > query - 7)", "(key >= query - 7)"),
    ("window", "tl.maximum(first - 6, 0) // KEYS", "tl.maximum(first + 6, 0) // KEYS"),
    ("window", "last + 7 - (keys - queries)", "last - 7 - (keys - queries)"),
    ("chunk", "key // 11 == query // 11", "key // 11 == query // 10"),
    ("softcap", "* tanh(tl.dot(", "* (tl.dot("),
    ("softcap", "dscore *= 1.0 - ", "dscore *= 1.0 + "),
    ("sinks", "total = tl.full([QUERIES], 1.0, tl.float32)", "total = tl.full([QUERIES], 2.0, tl.float32)"),
    ("sinks", "dsinks = -(", "dsinks = ("),
    (
        "wider keys than values",
        'weight * (tl.dot(v, tl.trans(do), input_precision="ieee") - delta',
        'weight * (tl.dot(v, tl.trans(do), input_precision="ieee") + delta',
    ),
    ("wider keys than values", ".sum(3).to(q.dtype)", ".amax(3).to(q.dtype)"),
    (
        "distances",
        "tl.minimum(tl.maximum(query - key, -11), 11)",
        "tl.minimum(tl.maximum(query - key, -11), 8)",
    ),
    ("distances", "tl.sum(dscore)", "tl.max(dscore)"),
    ("distances", "rows == each, dscore", "rows <= each, dscore"),
    ("distances of all keys", "torch.arange(11, -12, -1", "torch.arange(-11, 12, 1"),
    ("chosen keys", "ones_like(place) << place % 32", "ones_like(place) << place % 16"),
    ("chosen keys", "(word >> (place % 32)) & 1", "(word >> (place % 32)) & 3"),
    ("what pairs have", "own % 6", "(own + 1) % 6"),
    ("what pairs have", "tl.where(tile < first + QUERIES", "tl.where(tile + KEYS < first + QUERIES"),
    ("what pairs have for all heads", "sequences=batch // bias.shape[0]", "sequences=1"),
    ("what pairs have and all of it", "tile + KEYS > first - 8", "tile > first - 8"),
    ("what pairs have and all of it", "- peak - level) * delta", "- level) * delta"),
    ("what queries have for distances", "& (nearest == back)", "& (nearest <= back)"),
    ("what queries have for distances, the nearest", "(back < 8)", "(back < 7)"),
    ("what queries have for distances, the nearest", "own_dvalues_ptr + back", "own_dvalues_ptr + back - 1"),
    ("slopes", "(key - query).to(tl.float32)", "(query - key).to(tl.float32)"),
]


@pytest.mark.parametrize(("name", "old", "new"), few(CONTROLS, 3))
@interpreted
def test_a_wrong_kernel_is_found(name: str, old: str, new: str, tmp_path: Path) -> None:
    flash = _flash(name, tmp_path)
    changed = changed_module(flash.kernels, old, new)
    with pytest.raises(AssertionError):
        flash.compare(70, 70, kernels=changed)


def test_biases_of_each_head_and_of_all_heads_have_kernels_of_their_own() -> None:
    """Both in one model: the kernels of one token, too, would read one beside the other."""
    compilation = compile_model(
        """arch A() {
          forward(x: float[B, T, 32]) {
            h = split_heads(x, 4)
            query, key = pairs(x)
            far = -absolute(upcast(query - key))
            a = attention(h, h, 2 * h, mask = causal, bias = far * [[[h]] for h in 0..4])
            return merge_heads(attention(h, a, a + h, mask = causal, bias = far))
          }
        }
        model a = A()""",
        "a",
    )
    package = plan_package(compilation.program, compilation.fused, compilation.reference)
    flash = [kernel.flash for kernel in package.kernels if isinstance(kernel, AttentionKernel)]
    assert [kernel.bias.shared for kernel in flash if kernel and kernel.bias] == [False, True]


def test_pytorchs_own_is_kept_where_it_is_as_fast() -> None:
    """All keys, or all up to the query's own, with nothing done to scores and keys as wide as values."""
    for spec, model, kernels in (("llama3", "llama3_8b", 0), ("mistral", "mistral_7b", 1)):
        compilation = compile_model(SPECS / f"{spec}.arch", model)
        package = plan_package(compilation.program, compilation.fused, compilation.reference)
        assert sum(getattr(kernel, "flash", None) is not None for kernel in package.kernels) == kernels
